/*
 * test_hash.c: SipHash against a reference of its own that is checked against the published vector,
 * the index of names, the mixer of numbers, SHA-256.
 */
#include <sys/auxv.h>

#include "test.h"

#include "../src/llm/llm_hash.h"
#include "../src/llm/llm_sha256.h"

/* Rotates left. */
static uint64_t
left(uint64_t x, unsigned n)
{
	return x << n | x >> (64 - n);
}

/* n rounds of SipHash (eprint 2012/351, section 2.1). */
static void
rounds(uint64_t v[4], int n)
{
	for (int i = 0; i < n; i++)
	{
		v[0] += v[1];
		v[1] = left(v[1], 13) ^ v[0];
		v[0] = left(v[0], 32);
		v[2] += v[3];
		v[3] = left(v[3], 16) ^ v[2];
		v[0] += v[3];
		v[3] = left(v[3], 21) ^ v[0];
		v[2] += v[1];
		v[1] = left(v[1], 17) ^ v[2];
		v[2] = left(v[2], 32);
	}
}

/* SipHash-c-d of n bytes, byte by byte. */
static uint64_t
reference(int c, int d, const unsigned char key[16], const unsigned char *bytes, size_t n)
{
	uint64_t k[2] = {0};
	uint64_t v[4];

	for (int i = 0; i < 16; i++)
		k[i / 8] |= (uint64_t) key[i] << i % 8 * 8;
	v[0] = k[0] ^ 0x736f6d6570736575u;
	v[1] = k[1] ^ 0x646f72616e646f6du;
	v[2] = k[0] ^ 0x6c7967656e657261u;
	v[3] = k[1] ^ 0x7465646279746573u;
	for (size_t word = 0; word <= n / 8; word++)
	{
		uint64_t m = word == n / 8 ? (uint64_t) n << 56 : 0;

		for (size_t i = word * 8; i < n && i < word * 8 + 8; i++)
			m |= (uint64_t) bytes[i] << i % 8 * 8;
		v[3] ^= m;
		rounds(v, c);
		v[0] ^= m;
	}
	v[2] ^= 0xff;
	rounds(v, d);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* Appendix A of the paper; then every length and alignment, under the key of this process. */
static void
test_siphash(void)
{
	const unsigned char *random = (const unsigned char *) getauxval(AT_RANDOM);
	unsigned char key[16];
	unsigned char bytes[80];

	for (unsigned char i = 0; i < 16; i++)
		key[i] = i;
	for (unsigned char i = 0; i < 80; i++)
		bytes[i] = i;
	CHECK(reference(2, 4, key, bytes, 15) == 0xa129ca6149be45e5u);
	REQUIRE(random != NULL);
	for (size_t first = 0; first < 8; first++)
		for (size_t n = 0; n <= 64; n++)
			CHECK_MSG(llm_hash(bytes + first, n) == reference(1, 3, random, bytes + first, n),
			          "%zu bytes from %zu", n, first);
}

/* The first numbers of splitmix64 from seed 0, which its author prints. */
static void
test_mix(void)
{
	static const uint64_t wanted[] = {0xe220a8397b1dcdafu, 0x6e789e6aa1b965f4u,
	                                  0x06c45d188009454fu};

	for (uint64_t i = 0; i < 3; i++)
		CHECK(llm_mix64((i + 1) * 0x9e3779b97f4a7c15u) == wanted[i]);
	CHECK(llm_mix64(0) == 0);
}

typedef struct item
{
	const char *name;
	int payload;
} item;

/* A table that is full but for one slot finds every name, and none that is not there. */
static void
test_names(void)
{
	static char text[1023][8];
	static item items[1023];
	static uint32_t slots[1024];
	llm_names names = {.items = items, .stride = sizeof(item), .slots = slots, .n_slots = 1024};

	for (uint32_t i = 0; i < 1023; i++)
	{
		snprintf(text[i], sizeof(text[i]), "n%u", i);
		items[i].name = text[i];
		CHECK(llm_names_find(&names, text[i]) == LLM_NAMES_ABSENT);
		CHECK(llm_names_add(&names, i) == i);
	}
	for (uint32_t i = 0; i < 1023; i++)
		CHECK(llm_names_find(&names, text[i]) == i);
	CHECK(llm_names_find(&names, "") == LLM_NAMES_ABSENT);
	CHECK(llm_names_find(&names, "n") == LLM_NAMES_ABSENT);
	CHECK(llm_names_find(&names, "n1023") == LLM_NAMES_ABSENT);
}

/* Of two items with one name the first stays. */
static void
test_same_name(void)
{
	static const item items[] = {{"a", 0}, {"b", 1}, {"a", 2}};
	uint32_t slots[4] = {0};
	llm_names names = {.items = items, .stride = sizeof(item), .slots = slots, .n_slots = 4};

	CHECK(llm_names_add(&names, 0) == 0 && llm_names_add(&names, 1) == 1);
	CHECK(llm_names_add(&names, 2) == 0);
	CHECK(llm_names_find(&names, "a") == 0 && llm_names_find(&names, "b") == 1);
}

static bool sha_plain;

/* Hashes n bytes in pieces of the given size. */
static void
sha_hex(const char *data, size_t n, size_t piece, char hex[65])
{
	llm_sha256 h;

	if (sha_plain)
		llm_sha256_init_plain(&h);
	else
		llm_sha256_init(&h);
	for (size_t i = 0; i < n; i += piece)
		llm_sha256_update(&h, data + i, n - i < piece ? n - i : piece);
	llm_sha256_final_hex(&h, hex);
}

/* The examples of FIPS 180-4, and pieces of every size give the same digest. */
static void
test_sha256(void)
{
	static const char two_blocks[] = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
	char *million = malloc(1000000);
	char hex[65];
	char whole[65];

	sha_hex("", 0, 1, hex);
	CHECK(!strcmp(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"));
	sha_hex("abc", 3, 3, hex);
	CHECK(!strcmp(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
	sha_hex(two_blocks, 56, 56, hex);
	CHECK(!strcmp(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"));
	memset(million, 'a', 1000000);
	sha_hex(million, 1000000, 1000000, hex);
	CHECK(!strcmp(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"));
	for (size_t n = 0; n < 200; n++)
	{
		sha_hex(million, n, 1000, whole);
		for (size_t piece = 1; piece <= n; piece++)
		{
			sha_hex(million, n, piece, hex);
			CHECK_MSG(strcmp(hex, whole) == 0, "%zu bytes in pieces of %zu", n, piece);
		}
	}
	free(million);
}

/* The same in plain C. */
static void
test_sha256_plain(void)
{
	sha_plain = true;
	test_sha256();
}

int
main(void)
{
	RUN(siphash);
	RUN(mix);
	RUN(names);
	RUN(same_name);
	RUN(sha256);
	RUN(sha256_plain);
	return test_summary("hash");
}
