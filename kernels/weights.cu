/*
 * weights.cu: weight matrices: from the blocks of a file to bf16 on the device.
 *
 *	in    parts of any block type, rows of whole blocks, host memory (the mapped file)
 *	out   [Σ n_rows, n_cols] bf16, nearest even of the value that the block type defines
 *	grid  a thread a weight; a part goes in pieces of STAGE_BYTES through one staging buffer
 *
 * The file's bytes cross the bus, not their expansion. Each value is computed in float in the order
 * of the block formats' reference (d · scale first, no fused multiply-add), so that it is the value
 * of the CPU backend to the bit before it is narrowed.
 */
#include <cuda_fp16.h>

#include "cuda.cuh"

#define STAGE_BYTES ((size_t) 64 << 20)

/* Two bytes as a float of half precision. */
static __device__ float
half_at(const uint8_t *p)
{
	return __half2float(__ushort_as_half((uint16_t) (p[0] | p[1] << 8)));
}

/* q · d + m without fusing. */
static __device__ float
affine(int q, float d, float m)
{
	return __fadd_rn(__fmul_rn((float) q, d), m);
}

/* Nibble j (0 … 31) of 16 bytes: low nibbles first. */
static __device__ int
nibble(const uint8_t *q, uint32_t j)
{
	return j < 16 ? q[j] & 15 : q[j - 16] >> 4;
}

/* Bit j of four bytes, as the fifth bit of a nibble. */
static __device__ int
fifth(const uint8_t *qh, uint32_t j)
{
	return (qh[j / 8] >> (j % 8) & 1) << 4;
}

/* Weight j of a block of 32. */
static __device__ float
weight_32(const uint8_t *b, pp_dtype type, uint32_t j)
{
	const int8_t table[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
	                          1,    13,   25,  38,  53,  69,  89,  113};
	float d = half_at(b);

	switch (type)
	{
		case PP_Q4_0:
			return __fmul_rn((float) (nibble(b + 2, j) - 8), d);
		case PP_Q4_1:
			return affine(nibble(b + 4, j), d, half_at(b + 2));
		case PP_Q5_0:
			return __fmul_rn((float) ((nibble(b + 6, j) | fifth(b + 2, j)) - 16), d);
		case PP_Q5_1:
			return affine(nibble(b + 8, j) | fifth(b + 4, j), d, half_at(b + 2));
		case PP_Q8_0:
			return __fmul_rn((float) (int8_t) b[2 + j], d);
		default: /* PP_IQ4_NL */
			return __fmul_rn(d, (float) table[nibble(b + 2, j)]);
	}
}

/* Weight j of a Q4_K or Q5_K block: sub-block j / 32 has a 6-bit scale and minimum. */
static __device__ float
weight_k45(const uint8_t *b, bool fifths, uint32_t j)
{
	const uint8_t *s = b + 4;
	uint32_t sub = j / 32;
	uint32_t l = j % 32;
	int sc = sub < 4 ? s[sub] & 63 : (s[sub + 4] & 15) | (s[sub - 4] >> 6) << 4;
	int mn = sub < 4 ? s[sub + 4] & 63 : s[sub + 4] >> 4 | (s[sub] >> 6) << 4;
	uint8_t byte = b[(fifths ? 48 : 16) + sub / 2 * 32 + l];
	int q = sub % 2 == 0 ? byte & 15 : byte >> 4;

	if (fifths)
		q |= (b[16 + l] >> sub & 1) << 4;
	return __fsub_rn(__fmul_rn(__fmul_rn(half_at(b), (float) sc), (float) q),
	                 __fmul_rn(half_at(b + 2), (float) mn));
}

/* Weight j of a Q6_K block: halves of 128, quarters of 32 in them. */
static __device__ float
weight_k6(const uint8_t *b, uint32_t j)
{
	uint32_t part = j / 128;
	uint32_t quarter = j % 128 / 32;
	uint32_t l = j % 32;
	uint8_t low = b[part * 64 + l + quarter % 2 * 32];
	uint8_t high = b[128 + part * 32 + l];
	int q = (quarter < 2 ? low & 15 : low >> 4) | (high >> (2 * quarter) & 3) << 4;
	int sc = (int8_t) b[192 + part * 8 + quarter * 2 + l / 16];

	return __fmul_rn(__fmul_rn(half_at(b + 208), (float) sc), (float) (q - 32));
}

/* Weight i of a row. */
static __device__ float
weight_at(const uint8_t *row, pp_dtype type, uint32_t block, uint32_t bytes, uint32_t i)
{
	const uint8_t *b = row + (size_t) (i / block) * bytes;

	switch (type)
	{
		case PP_F32:
			return __uint_as_float(b[0] | b[1] << 8 | b[2] << 16 | (uint32_t) b[3] << 24);
		case PP_F16:
			return half_at(b);
		case PP_BF16:
			return __uint_as_float((uint32_t) b[0] << 16 | (uint32_t) b[1] << 24);
		case PP_Q4_K:
			return weight_k45(b, false, i % 256);
		case PP_Q5_K:
			return weight_k45(b, true, i % 256);
		case PP_Q6_K:
			return weight_k6(b, i % 256);
		default:
			return weight_32(b, type, i % 32);
	}
}

/* out[n_rows, n_cols]; rows of the source are row_bytes apart. */
static __global__ void
dequantise(bf16 *out, const uint8_t *src, pp_dtype type, uint32_t block, uint32_t bytes,
           size_t n_weights, uint32_t n_cols, size_t row_bytes)
{
	size_t i = (size_t) blockIdx.x * blockDim.x + threadIdx.x;

	if (i >= n_weights)
		return;
	out[i] = __float2bfloat16_rn(
	    weight_at(src + i / n_cols * row_bytes, type, block, bytes, (uint32_t) (i % n_cols)));
}

/* Weights and bytes of a block; false: no such type. */
static bool
block_of(pp_dtype type, uint32_t *block, uint32_t *bytes)
{
	static const struct
	{
		pp_dtype type;
		uint32_t block;
		uint32_t bytes;
	} types[] = {{PP_F32, 1, 4},      {PP_F16, 1, 2},      {PP_BF16, 1, 2},
	             {PP_Q4_0, 32, 18},   {PP_Q4_1, 32, 20},   {PP_Q5_0, 32, 22},
	             {PP_Q5_1, 32, 24},   {PP_Q8_0, 32, 34},   {PP_Q4_K, 256, 144},
	             {PP_Q5_K, 256, 176}, {PP_Q6_K, 256, 210}, {PP_IQ4_NL, 32, 18}};

	for (const auto &t : types)
		if (t.type == type)
		{
			*block = t.block;
			*bytes = t.bytes;
			return true;
		}
	return false;
}

/* One part, in pieces of whole rows. */
static pp_result
load_part(pp_cuda *cu, bf16 *out, const pp_matrix_part *p, uint32_t n_cols, uint8_t *stage)
{
	size_t rows_piece = STAGE_BYTES / p->row_bytes > 0 ? STAGE_BYTES / p->row_bytes : 1;
	uint32_t block;
	uint32_t bytes;
	pp_result result = PP_OK;

	if (!block_of(p->dtype, &block, &bytes) || n_cols % block != 0)
		return cuda_fail(cu, PP_E_UNSUPPORTED, "weights of type %d", (int) p->dtype);
	for (size_t r = 0; result == PP_OK && r < p->n_rows; r += rows_piece)
	{
		size_t n = p->n_rows - r < rows_piece ? p->n_rows - r : rows_piece;
		size_t n_weights = n * n_cols;

		result = cuda_check(cu,
		                    cudaMemcpyAsync(stage, (const uint8_t *) p->data + r * p->row_bytes,
		                                    n * p->row_bytes, cudaMemcpyHostToDevice, cu->stream),
		                    "weights");
		if (result == PP_OK && n_weights > 0)
		{
			dequantise<<<(uint32_t) ((n_weights + 255) / 256), 256, 0, cu->stream>>>(
			    out + r * n_cols, stage, p->dtype, block, bytes, n_weights, n_cols, p->row_bytes);
			result = cuda_launched(cu, "weights");
		}
	}
	return result;
}

/* Allocates, then loads part after part. */
pp_matrix *
cuda_matrix_create(pp_backend *be, const pp_matrix_part *parts, uint32_t n_parts, uint32_t n_cols,
                   pp_precision precision)
{
	pp_cuda *cu = cuda_of(be);
	pp_matrix *m = new (std::nothrow) pp_matrix();
	size_t stage_bytes = 0;
	size_t bytes;
	size_t row = 0;
	uint8_t *stage;
	pp_result result;

	if (m == NULL || precision != PP_PREC_NATIVE)
	{
		cuda_fail(cu, PP_E_UNSUPPORTED, "this device multiplies in bf16 only");
		delete m;
		return NULL;
	}
	cudaSetDevice(cu->device);
	m->n_cols = n_cols;
	for (uint32_t i = 0; i < n_parts; i++)
	{
		m->n_rows += parts[i].n_rows;
		stage_bytes = parts[i].row_bytes > stage_bytes ? parts[i].row_bytes : stage_bytes;
	}
	stage_bytes = stage_bytes > STAGE_BYTES ? stage_bytes : STAGE_BYTES;
	bytes = (size_t) m->n_rows * n_cols * sizeof(bf16);
	stage = (uint8_t *) cuda_scratch(cu, CUDA_SCRATCH_BLAS, stage_bytes);
	result = stage != NULL ? cuda_check(cu, cudaMalloc((void **) &m->data, bytes + 16), "weights")
	                       : PP_E_NOMEM;
	if (result == PP_OK)
		cu->bytes_weights += bytes;
	for (uint32_t i = 0; result == PP_OK && i < n_parts; i++)
	{
		result = load_part(cu, m->data + row * n_cols, &parts[i], n_cols, stage);
		row += parts[i].n_rows;
	}
	if (result == PP_OK)
		return m;
	cuda_matrix_destroy(be, m);
	return NULL;
}

/* Frees a matrix. */
void
cuda_matrix_destroy(pp_backend *be, pp_matrix *m)
{
	pp_cuda *cu = cuda_of(be);

	if (m->data != NULL)
		cu->bytes_weights -= (size_t) m->n_rows * m->n_cols * sizeof(bf16);
	cudaFree(m->data);
	cudaFree(m->bias16);
	(void) cudaGetLastError();
	delete m;
}
