/*
 * llm_hash.c: SipHash-1-3 and the index of names. See llm_hash.h.
 *
 * SipHash is by Aumasson and Bernstein (eprint 2012/351); one round a word and three at the end are
 * what hash tables of several languages use. The key is the 16 random bytes that the kernel hands
 * to every process, so there is no call that could fail.
 */
#include "llm_hash.h"

#include <pthread.h>
#include <string.h>
#include <sys/auxv.h>

static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static uint64_t key[2];

/* Takes over the process's random bytes. */
static void
key_init(void)
{
	const void *random = (const void *) getauxval(AT_RANDOM); /* NOLINT: an address by contract */

	if (random != NULL)
		memcpy(key, random, sizeof(key));
}

/* Rotates left. */
static inline uint64_t
rotate(uint64_t x, int n)
{
	return x << n | x >> (64 - n);
}

/* One round of the permutation (figure 2.1). */
static inline void
sip_round(uint64_t v[4])
{
	v[0] += v[1];
	v[2] += v[3];
	v[1] = rotate(v[1], 13) ^ v[0];
	v[3] = rotate(v[3], 16) ^ v[2];
	v[0] = rotate(v[0], 32) + v[3];
	v[2] += v[1];
	v[3] = rotate(v[3], 21) ^ v[0];
	v[1] = rotate(v[1], 17) ^ v[2];
	v[2] = rotate(v[2], 32);
}

/* Hashes n bytes: words of eight, the last one topped by the length. */
uint64_t
llm_hash(const void *bytes, size_t n)
{
	const unsigned char *p = bytes;
	uint64_t v[4] = {0x736f6d6570736575u, 0x646f72616e646f6du, 0x6c7967656e657261u,
	                 0x7465646279746573u};
	uint64_t word;
	size_t left = n;

	pthread_once(&key_once, key_init);
	for (int i = 0; i < 4; i++)
		v[i] ^= key[i & 1];
	for (; left >= 8; left -= 8, p += 8)
	{
		memcpy(&word, p, 8);
		v[3] ^= word;
		sip_round(v);
		v[0] ^= word;
	}
	word = 0;
	memcpy(&word, p, left);
	word |= (uint64_t) n << 56;
	v[3] ^= word;
	sip_round(v);
	v[0] ^= word;
	v[2] ^= 0xff;
	for (int i = 0; i < 3; i++)
		sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* The name of item i. */
static const char *
name_of(const llm_names *names, uint32_t i)
{
	return *(const char *const *) ((const char *) names->items + i * names->stride);
}

/* The slot that holds name, or the free slot where it belongs. */
static uint32_t
slot_of(const llm_names *names, const char *name)
{
	uint32_t mask = names->n_slots - 1;
	uint32_t slot = (uint32_t) llm_hash(name, strlen(name)) & mask;

	while (names->slots[slot] != 0 && strcmp(name_of(names, names->slots[slot] - 1), name) != 0)
		slot = (slot + 1) & mask;
	return slot;
}

/* Adds an item whose name is new. */
uint32_t
llm_names_add(llm_names *names, uint32_t i)
{
	uint32_t *slot = &names->slots[slot_of(names, name_of(names, i))];

	if (*slot == 0)
		*slot = i + 1;
	return *slot - 1;
}

/* Looks a name up. */
uint32_t
llm_names_find(const llm_names *names, const char *name)
{
	return names->slots[slot_of(names, name)] - 1; /* a free slot's 0 wraps to ABSENT */
}
