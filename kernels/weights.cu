/*
 * weights.cu: weight matrices: from the blocks of a file to the device.
 *
 *	in    parts of any block type, rows of whole blocks, host memory (the mapped file)
 *	out   parts of blocks: tiles of 4 or 8 bits (quant.cu). Other types, and PP_PREC_BF16:
 *	      [Σ n_rows, n_cols] bf16, nearest even of the value that the block type defines; and
 *	      PP_PREC_FP8: from there to e4m3 with a scale a row (fp8.cu)
 *	grid  bf16: a thread a weight; a part goes in pieces of STAGE_BYTES through staging buffers:
 *	      two in pinned host memory, which several threads fill in turns, since one alone does not
 *	      keep up with the bus, and one on the device. Rows that are bf16 already go to their place
 *
 * The file's bytes cross the bus, not their expansion. Each value is computed in float as the block
 * formats' reference does, so that it is the value of the CPU backend to the bit before it is
 * narrowed; quant.cuh says why one fused operation does.
 */
#include <string.h>
#include <system_error>
#include <thread>

#include "blocks.cuh"

#define STAGE_BYTES ((size_t) 16 << 20)
#define COPIERS     6u

/* Weight i of a row. */
static __device__ float
weight_at(const uint8_t *row, const block_type &type, uint32_t n_cols, uint32_t i)
{
	const uint8_t *b = row + (size_t) (i / type.weights) * type.bytes;
	float scale;
	float shift;
	uint2 scales;

	switch (type.type)
	{
		case PP_F32:
			return __uint_as_float(block_u16(b) | block_u16(b + 2) << 16);
		case PP_F16:
			return quant_half(block_u16(b));
		case PP_BF16:
			return __uint_as_float(block_u16(b) << 16);
		default:
			scales = block_scales(row, type, n_cols, i / QUANT_COLS * QUANT_COLS);
			quant_scale(type.form, scales.x, scales.y, i % QUANT_COLS / 16, &scale, &shift);
			return fmaf((float) block_quant(b, type.type, i % type.weights), scale, shift);
	}
}

/* out[n_rows, n_cols]; rows of the source are row_bytes apart. */
static __global__ void
dequantise(bf16 *out, const uint8_t *src, block_type type, size_t n_weights, uint32_t n_cols,
           size_t row_bytes)
{
	size_t i = (size_t) blockIdx.x * blockDim.x + threadIdx.x;

	if (i >= n_weights)
		return;
	out[i] = __float2bfloat16_rn(
	    weight_at(src + i / n_cols * row_bytes, type, n_cols, (uint32_t) (i % n_cols)));
}

/* Rows of a part that are in the staging buffer, to their place in the matrix. */
static pp_result
convert(pp_cuda *cu, pp_matrix *m, size_t row, const uint8_t *stage, const block_type *type,
        size_t n_rows, size_t row_bytes)
{
	const size_t n_weights = n_rows * m->n_cols;

	if (n_weights == 0)
		return PP_OK;
	if (m->tiles != NULL)
		return cuda_check(cu,
		                  cuda_quant_pack(cu, m, (uint32_t) row, stage, type->type,
		                                  (uint32_t) n_rows, row_bytes),
		                  "weights");
	dequantise<<<(uint32_t) ((n_weights + 255) / 256), 256, 0, cu->stream>>>(
	    m->data + row * m->n_cols, stage, *type, n_weights, m->n_cols, row_bytes);
	return cuda_launched(cu, "weights");
}

/* Copies by several threads. */
static void
copy_wide(uint8_t *to, const uint8_t *from, size_t bytes)
{
	const size_t share = bytes / COPIERS;
	std::thread others[COPIERS - 1];
	size_t done = 0;

	try
	{
		for (std::thread &t : others)
		{
			t = std::thread(memcpy, to + done, from + done, share);
			done += share;
		}
	}
	catch (const std::system_error &)
	{
		/* no more threads: the rest is copied here */
	}
	memcpy(to + done, from + done, bytes - done);
	for (std::thread &t : others)
		if (t.joinable())
			t.join();
}

/* Sends a piece of the file, while the one before may still be under way. */
static pp_result
send_piece(pp_cuda *cu, void *dev_to, const void *from, size_t bytes)
{
	cuda_buffer *b = &cu->pinned_load[cu->i_load];
	cudaEvent_t *sent = &cu->load_sent[cu->i_load];
	pp_result result = PP_OK;

	cu->i_load ^= 1;
	if (*sent == NULL)
		result = cuda_check(cu, cudaEventCreateWithFlags(sent, cudaEventDisableTiming), "weights");
	else
		result = cuda_check(cu, cudaEventSynchronize(*sent), "weights");
	if (result != PP_OK)
		return result;
	if (!cuda_pinned(cu, b, bytes > STAGE_BYTES ? bytes : STAGE_BYTES))
		return cu->failed ? PP_E_DEVICE : PP_E_NOMEM;
	copy_wide((uint8_t *) b->data, (const uint8_t *) from, bytes);
	result =
	    cuda_check(cu, cudaMemcpyAsync(dev_to, b->data, bytes, cudaMemcpyHostToDevice, cu->stream),
	               "weights");
	return result == PP_OK ? cuda_check(cu, cudaEventRecord(*sent, cu->stream), "weights") : result;
}

/* One part, in pieces of whole rows. */
static pp_result
load_part(pp_cuda *cu, pp_matrix *m, size_t row, const pp_matrix_part *p, uint8_t *stage)
{
	const size_t rows_piece = STAGE_BYTES / p->row_bytes > 0 ? STAGE_BYTES / p->row_bytes : 1;
	const block_type *type = block_find(p->dtype);
	const bool as_is = p->dtype == PP_BF16 && m->tiles == NULL &&
	                   p->row_bytes == (size_t) m->n_cols * sizeof(bf16);
	pp_result result = PP_OK;

	for (size_t r = 0; result == PP_OK && r < p->n_rows; r += rows_piece)
	{
		size_t n = p->n_rows - r < rows_piece ? p->n_rows - r : rows_piece;
		void *to = as_is ? (void *) (m->data + (row + r) * m->n_cols) : stage;

		result = send_piece(cu, to, (const uint8_t *) p->data + r * p->row_bytes, n * p->row_bytes);
		if (result == PP_OK && !as_is)
			result = convert(cu, m, row + r, stage, type, n, p->row_bytes);
	}
	return result;
}

/*
 * Sums up the parts: rows, and the bits of a weight on the device, which are those of the widest
 * part; 16 where one is of plain numbers or blocks are not wanted.
 */
static pp_result
survey(pp_cuda *cu, pp_matrix *m, const pp_matrix_part *parts, uint32_t n_parts, bool blocks)
{
	m->bits = blocks ? 4 : 16;
	for (uint32_t i = 0; i < n_parts; i++)
	{
		const block_type *type = block_find(parts[i].dtype);
		uint32_t bits;

		if (type == NULL || m->n_cols % type->weights != 0)
			return cuda_fail(cu, PP_E_UNSUPPORTED, "weights of type %d", (int) parts[i].dtype);
		bits = type->bits == 0 ? 16 : type->bits;
		m->bits = bits > m->bits ? bits : m->bits;
		m->n_rows += parts[i].n_rows;
	}
	return PP_OK;
}

/* Memory for the weights; tiles begin as zeros, which is what they are padded with. */
static pp_result
allocate(pp_cuda *cu, pp_matrix *m)
{
	void **to = m->bits < 16 ? (void **) &m->tiles : (void **) &m->data;
	pp_result result;

	m->bytes = m->bits < 16 ? cuda_quant_bytes(m->n_rows, m->n_cols, m->bits)
	                        : (size_t) m->n_rows * m->n_cols * sizeof(bf16);
	result = cuda_check(cu, cudaMalloc(to, m->bytes + 16), "weights");
	if (result != PP_OK)
		return result;
	cu->bytes_weights += m->bytes;
	if (m->bits == 16)
		return PP_OK;
	result = cuda_check(cu, cudaMalloc((void **) &m->forms, m->n_rows + 16), "weights");
	return result != PP_OK
	           ? result
	           : cuda_check(cu, cudaMemsetAsync(m->tiles, 0, m->bytes, cu->stream), "weights");
}

/* Memory for e4m3 and scales, or bf16 where the shape is not for its tensor cores. */
static pp_result
allocate_fp8(pp_cuda *cu, pp_matrix *m)
{
	const size_t n_weights = (size_t) m->n_rows * m->n_cols;
	pp_result result;

	if (cu->arch < 89)
		return cuda_fail(cu, PP_E_UNSUPPORTED,
		                 "fp8 needs compute capability 8.9 or later, this card has %d.%d",
		                 cu->arch / 10, cu->arch % 10);
	if (m->n_cols % 16 != 0 || m->n_rows % 16 != 0)
		return allocate(cu, m);
	result = cuda_check(cu, cudaMalloc((void **) &m->fp8, n_weights + 16), "weights");
	if (result != PP_OK)
		return result;
	m->bits = 8;
	m->bytes = n_weights + m->n_rows * sizeof(float);
	cu->bytes_weights += m->bytes;
	result =
	    cuda_check(cu, cudaMalloc((void **) &m->scale, m->n_rows * sizeof(float) + 16), "weights");
	if (result == PP_OK && (result = cuda_matmul_takes(cu, m)) == PP_E_UNSUPPORTED)
		cuda_fail(cu, result,
		          "fp8: cuBLASLt has no product of %u x %u with a scale a row for compute "
		          "capability %d.%d",
		          m->n_rows, m->n_cols, cu->arch / 10, cu->arch % 10);
	if (result == PP_OK) /* the parts are expanded to scratch first */
		m->data = (bf16 *) cuda_scratch(cu, CUDA_SCRATCH_EXPAND, n_weights * sizeof(bf16));
	return result == PP_OK && m->data == NULL ? PP_E_NOMEM : result;
}

/* From the expanded weights in scratch to e4m3, unless expanding failed. */
static pp_result
narrow_fp8(pp_cuda *cu, pp_matrix *m, pp_result result)
{
	if (result == PP_OK)
		result = cuda_check(cu, cuda_fp8_rows(cu, m->fp8, m->scale, m->data, m->n_rows, m->n_cols),
		                    "fp8");
	m->data = NULL;
	return result;
}

/* Allocates, then loads part after part. */
pp_matrix *
cuda_matrix_create(pp_backend *be, const pp_matrix_part *parts, uint32_t n_parts, uint32_t n_cols,
                   pp_precision precision)
{
	pp_cuda *cu = cuda_of(be);
	pp_matrix *m = new (std::nothrow) pp_matrix();
	size_t stage_bytes = STAGE_BYTES;
	size_t row = 0;
	uint8_t *stage;
	pp_result result;

	if (m == NULL || precision < PP_PREC_NATIVE)
	{
		cuda_fail(cu, PP_E_UNSUPPORTED, "this device multiplies in bf16 and fp8 only");
		delete m;
		return NULL;
	}
	m->n_cols = n_cols;
	for (uint32_t i = 0; i < n_parts; i++)
		stage_bytes = parts[i].row_bytes > stage_bytes ? parts[i].row_bytes : stage_bytes;
	result = survey(cu, m, parts, n_parts, precision == PP_PREC_NATIVE);
	if (result == PP_OK)
		result = precision == PP_PREC_FP8 ? allocate_fp8(cu, m) : allocate(cu, m);
	stage = (uint8_t *) cuda_scratch(cu, CUDA_SCRATCH_BLAS, stage_bytes);
	if (result == PP_OK && stage == NULL)
		result = PP_E_NOMEM;
	for (uint32_t i = 0; result == PP_OK && i < n_parts; i++)
	{
		result = load_part(cu, m, row, &parts[i], stage);
		row += parts[i].n_rows;
	}
	if (m->fp8 != NULL)
		result = narrow_fp8(cu, m, result);
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

	if (m->data != NULL || m->tiles != NULL || m->fp8 != NULL)
		cu->bytes_weights -= m->bytes;
	cudaFree(m->data);
	cudaFree(m->fp8);
	cudaFree(m->scale);
	cudaFree(m->tiles);
	cudaFree(m->forms);
	cudaFree(m->bias16);
	(void) cudaGetLastError();
	delete m;
}
