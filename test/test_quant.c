/*
 * test_quant.c: dequantisation against the values of an independent reader, bit for bit.
 *
 * The vectors in test/data/weights/quant-*.bin come from scripts/make-weights-fixtures.py; the
 * halves are compared one by one with their definition in IEEE 754.
 */
#include "test.h"

#include <math.h>

#include "../src/llm/llm_alloc.h"
#include "../src/llm/llm_weights.h"

static const struct
{
	pp_dtype dtype;
	const char *name;
	uint32_t n_block;
	uint32_t bytes_block;
} types[] = {{PP_F32, "F32", 1, 4},       {PP_F16, "F16", 1, 2},
             {PP_BF16, "BF16", 1, 2},     {PP_Q4_0, "Q4_0", 32, 18},
             {PP_Q4_1, "Q4_1", 32, 20},   {PP_Q5_0, "Q5_0", 32, 22},
             {PP_Q5_1, "Q5_1", 32, 24},   {PP_Q8_0, "Q8_0", 32, 34},
             {PP_Q4_K, "Q4_K", 256, 144}, {PP_Q5_K, "Q5_K", 256, 176},
             {PP_Q6_K, "Q6_K", 256, 210}, {PP_IQ4_NL, "IQ4_NL", 32, 18}};

#define N_TYPES (sizeof(types) / sizeof(types[0]))

/* Reads a fixture whole; NULL when it is missing or cut. */
static uint8_t *
read_fixture(const char *name, size_t *bytes)
{
	char path[128];
	FILE *f;
	uint8_t *data = malloc(1 << 16);

	snprintf(path, sizeof(path), "test/data/weights/quant-%s.bin", name);
	f = fopen(path, "rb");
	*bytes = f != NULL && data != NULL ? fread(data, 1, 1 << 16, f) : 0;
	if (f != NULL)
		fclose(f);
	return data;
}

/* Compares one type's blocks, from an odd address, with the values that stand behind them. */
static void
check_vector(size_t type)
{
	size_t bytes;
	uint8_t *file = read_fixture(types[type].name, &bytes);
	uint32_t head[2] = {0, 0};
	uint64_t bytes_blocks = 0;
	llm_error err;

	CHECK_MSG(bytes > sizeof(head), "no fixture of %s", types[type].name);
	memcpy(head, file, bytes > sizeof(head) ? sizeof(head) : 0);
	CHECK(head[0] == (uint32_t) types[type].dtype && head[1] >= 2048);
	CHECK(llm_dtype_bytes(types[type].dtype, head[1], &bytes_blocks));
	if (bytes == sizeof(head) + bytes_blocks + head[1] * sizeof(float) && head[1] > 0)
	{
		uint8_t *odd = malloc(bytes_blocks + 1);
		float *values = malloc((head[1] + 1) * sizeof(float));

		memcpy(odd + 1, file + sizeof(head), bytes_blocks);
		values[head[1]] = 42;
		CHECK(llm_dequantise(types[type].dtype, odd + 1, values, head[1], &err) == LLM_OK);
		CHECK_MSG(memcmp(values, file + sizeof(head) + bytes_blocks, head[1] * sizeof(float)) == 0,
		          "type %s", types[type].name);
		CHECK(values[head[1]] == 42);
		free(odd);
		free(values);
	}
	else
		CHECK_MSG(false, "size of the fixture of %s", types[type].name);
	free(file);
}

/* Every type gives the reference's bits. */
static void
test_vectors(void)
{
	for (size_t i = 0; i < N_TYPES; i++)
		check_vector(i);
}

/* All 65,536 halves, by sign, exponent and mantissa. */
static void
test_halves(void)
{
	for (uint32_t h = 0; h < 0x10000; h++)
	{
		uint16_t bits = (uint16_t) h;
		int exponent = h >> 10 & 31;
		double mantissa = h & 1023;
		double expected;
		float value;

		CHECK(llm_dequantise(PP_F16, &bits, &value, 1, NULL) == LLM_OK);
		if (exponent == 31 && mantissa > 0)
		{
			CHECK(isnan(value));
			continue;
		}
		if (exponent == 31)
			expected = INFINITY;
		else if (exponent == 0)
			expected = ldexp(mantissa, -24);
		else
			expected = ldexp(1024 + mantissa, exponent - 25);
		CHECK_MSG((double) value == (h & 0x8000 ? -expected : expected), "half %04x", h);
		CHECK(!signbit(value) == !(h & 0x8000));
	}
}

/* Sizes of all types; what is no whole number of blocks, no type, or does not fit is refused. */
static void
test_sizes(void)
{
	uint64_t bytes = 7;

	for (size_t i = 0; i < N_TYPES; i++)
	{
		pp_dtype t = types[i].dtype;

		CHECK(strcmp(llm_dtype_name(t), types[i].name) == 0);
		CHECK(llm_dtype_bytes(t, 0, &bytes) && bytes == 0);
		CHECK(llm_dtype_bytes(t, 3 * types[i].n_block, &bytes) &&
		      bytes == 3 * types[i].bytes_block);
		CHECK(types[i].n_block == 1 || !llm_dtype_bytes(t, types[i].n_block - 1, &bytes));
		CHECK(types[i].n_block == 1 || !llm_dtype_bytes(t, types[i].n_block + 1, &bytes));
	}
	CHECK(!llm_dtype_bytes(PP_F32, UINT64_MAX / 2, &bytes));
	CHECK(!llm_dtype_bytes((pp_dtype) 4, 0, &bytes) && !llm_dtype_bytes((pp_dtype) 10, 0, &bytes));
	CHECK(strcmp(llm_dtype_name((pp_dtype) 10), "unknown") == 0);
}

/* Bad calls fail with a message and touch nothing; no weights at all are fine. */
static void
test_refusals(void)
{
	uint8_t block[18] = {0};
	float out = 42;
	llm_error err;

	CHECK(llm_dequantise((pp_dtype) 10, block, &out, 32, &err) == LLM_E_UNSUPPORTED);
	CHECK(strstr(err.message, "type 10") != NULL);
	CHECK(llm_dequantise(PP_Q4_0, block, &out, 31, &err) == LLM_E_RANGE);
	CHECK(strstr(err.message, "Q4_0") != NULL);
	CHECK(llm_dequantise(PP_Q4_0, block, &out, 0, &err) == LLM_OK);
	CHECK(out == 42);
}

int
main(void)
{
	RUN(vectors);
	RUN(halves);
	RUN(sizes);
	RUN(refusals);
	return test_summary("quant");
}
