/*
 * rows.cu: ops that move or add rows: embedding, tables, gathers, the residual, narrowing.
 *
 *	embed     x[T, d] = table[ids[t]] · scale     bf16 table (tiles: quant.cu), float out
 *	add_rows  x[T, d] += table[idx[t]]            float
 *	gather    out[r] = x[rows[r]]                 bf16
 *	add       x += y                              float += bf16
 *	narrow    out = x                             float to bf16, nearest even
 *	sum       out = p0 + p1 + … + bias            bf16, added in float from left to right
 *
 * A block a row (a thread an element where there are no rows), any d; each element is one
 * operation, so nothing depends on the shape of the grid.
 */
#include "cuda.cuh"

#define THREADS 256

/* One row of the table. */
static __global__ void
embed_rows(float *out, const bf16 *table, const int32_t *ids, uint32_t d, float scale)
{
	cuda_begin();
	const bf16 *row = table + (size_t) ids[blockIdx.x] * d;
	float *to = out + (size_t) blockIdx.x * d;

	for (uint32_t i = threadIdx.x; i < d; i += blockDim.x)
		to[i] = __bfloat162float(row[i]) * scale;
}

/* One row added. */
static __global__ void
add_table_rows(float *x, const float *table, const uint32_t *idx, uint32_t d)
{
	cuda_begin();
	const float *row = table + (size_t) idx[blockIdx.x] * d;
	float *to = x + (size_t) blockIdx.x * d;

	for (uint32_t i = threadIdx.x; i < d; i += blockDim.x)
		to[i] += row[i];
}

/* One row copied. */
static __global__ void
gather_rows(bf16 *out, const bf16 *x, const uint32_t *rows, uint32_t d)
{
	cuda_begin();
	const bf16 *row = x + (size_t) rows[blockIdx.x] * d;
	bf16 *to = out + (size_t) blockIdx.x * d;

	for (uint32_t i = threadIdx.x; i < d; i += blockDim.x)
		to[i] = row[i];
}

/* Elements added. */
static __global__ void
add_elements(float *x, const bf16 *y, size_t n)
{
	cuda_begin();
	size_t i = (size_t) blockIdx.x * blockDim.x + threadIdx.x;

	if (i >= n)
		return;
	x[i] += __bfloat162float(y[i]);
}

/* What is summed. */
struct sum_args
{
	const bf16 *parts[PP_RANKS_MAX];
	uint32_t n_parts;
};

/* Elements summed in the order of the parts. */
static __global__ void
sum_elements(bf16 *out, sum_args a, const float *bias, size_t n, uint32_t d)
{
	cuda_begin();
	const size_t i = (size_t) blockIdx.x * blockDim.x + threadIdx.x;

	if (i >= n)
		return;
	float sum = __bfloat162float(a.parts[0][i]);

	for (uint32_t p = 1; p < a.n_parts; p++)
		sum += __bfloat162float(a.parts[p][i]);
	out[i] = __float2bfloat16_rn(bias != NULL ? sum + bias[i % d] : sum);
}

/* Elements narrowed. */
static __global__ void
narrow_elements(bf16 *out, const float *x, size_t n)
{
	cuda_begin();
	size_t i = (size_t) blockIdx.x * blockDim.x + threadIdx.x;

	if (i >= n)
		return;
	out[i] = __float2bfloat16_rn(x[i]);
}

/* Blocks that cover n elements. */
static uint32_t
blocks(size_t n)
{
	return (uint32_t) ((n + THREADS - 1) / THREADS);
}

/* out[t] = table[ids[t]] · scale. */
pp_result
cuda_embed(pp_backend *be, float *dev_out, const pp_matrix *table, const int32_t *ids,
           uint32_t n_tokens, float scale)
{
	pp_cuda *cu = cuda_of(be);
	uint32_t n = cuda_bound_tokens(cu, n_tokens);
	const uint32_t *dev_ids;

	if (n == 0)
		return PP_OK;
	if ((dev_ids = cuda_index(cu, (const uint32_t *) ids, n_tokens)) == NULL)
		return cu->failed ? PP_E_DEVICE : PP_E_NOMEM;
	if (table->bits < 16)
		return cuda_check(cu,
		                  cuda_quant_embed(cu, dev_out, table, (const int32_t *) dev_ids, n, scale),
		                  "embed");
	cuda_launch(cu, embed_rows, n, THREADS, 0, dev_out, table->data, (const int32_t *) dev_ids,
	            table->n_cols, scale);
	return cuda_launched(cu, "embed");
}

/* x[t] += table[idx[t]]. */
pp_result
cuda_add_rows(pp_backend *be, float *dev_x, const float *dev_table, const uint32_t *idx,
              uint32_t n_tokens, uint32_t d)
{
	pp_cuda *cu = cuda_of(be);
	const uint32_t *dev_idx;

	if (n_tokens == 0)
		return PP_OK;
	if ((dev_idx = cuda_index(cu, idx, n_tokens)) == NULL)
		return cu->failed ? PP_E_DEVICE : PP_E_NOMEM;
	cuda_launch(cu, add_table_rows, n_tokens, THREADS, 0, dev_x, dev_table, dev_idx, d);
	return cuda_launched(cu, "add_rows");
}

/* out[r] = x[rows[r]]. */
pp_result
cuda_gather(pp_backend *be, pp_act *dev_out, const pp_act *dev_x, const uint32_t *rows,
            uint32_t n_rows, uint32_t d)
{
	pp_cuda *cu = cuda_of(be);
	const uint32_t *dev_rows;

	if (n_rows == 0)
		return PP_OK;
	if ((dev_rows = cuda_index(cu, rows, n_rows)) == NULL)
		return cu->failed ? PP_E_DEVICE : PP_E_NOMEM;
	cuda_launch(cu, gather_rows, n_rows, THREADS, 0, cuda_act(dev_out), cuda_act(dev_x), dev_rows,
	            d);
	return cuda_launched(cu, "gather");
}

/* x += y. */
pp_result
cuda_add(pp_backend *be, float *dev_x, const pp_act *dev_y, uint32_t n_tokens, uint32_t d)
{
	pp_cuda *cu = cuda_of(be);
	size_t n = (size_t) cuda_bound_tokens(cu, n_tokens) * d;

	if (n == 0)
		return PP_OK;
	cuda_launch(cu, add_elements, blocks(n), THREADS, 0, dev_x, cuda_act(dev_y), n);
	return cuda_launched(cu, "add");
}

/* out = the sum of parts, and a bias. */
pp_result
cuda_sum(pp_backend *be, pp_act *dev_out, const pp_act *const *dev_parts, uint32_t n_parts,
         const float *dev_bias, uint32_t n_tokens, uint32_t d)
{
	pp_cuda *cu = cuda_of(be);
	const size_t n = (size_t) cuda_bound_tokens(cu, n_tokens) * d;
	sum_args a = sum_args();

	if (n_parts == 0 || n_parts > PP_RANKS_MAX)
		return cuda_fail(cu, PP_E_UNSUPPORTED, "a sum of %u parts", n_parts);
	if (n == 0)
		return PP_OK;
	for (uint32_t i = 0; i < n_parts; i++)
		a.parts[i] = cuda_act(dev_parts[i]);
	a.n_parts = n_parts;
	cuda_launch(cu, sum_elements, blocks(n), THREADS, 0, cuda_act(dev_out), a, dev_bias, n, d);
	return cuda_launched(cu, "sum");
}

/* out = x. */
pp_result
cuda_narrow(pp_backend *be, pp_act *dev_out, const float *dev_x, size_t n)
{
	pp_cuda *cu = cuda_of(be);

	if (n == 0)
		return PP_OK;
	cuda_launch(cu, narrow_elements, blocks(n), THREADS, 0, cuda_act(dev_out), dev_x, n);
	return cuda_launched(cu, "narrow");
}
