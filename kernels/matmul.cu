/*
 * matmul.cu: matrix products: which kernel, and the algorithms of cuBLASLt.
 *
 *	out[T, N] = x[T, K] W[N, K]ᵀ + bias, bf16 with float sums
 *
 * Batch invariance. A row's bits must not depend on T. cuBLASLt chooses its kernel by the shape,
 * splits K when that fills the card better, and so would change bits; here an algorithm is chosen
 * once for each (N, K), for a pass of ALGO_TOKENS tokens, among those that do not split K, and then
 * serves every T. Products of few tokens, where such a tile leaves most of the card idle, go to
 * matmul_skinny.cu; for each (N, K) it is compared with the algorithm on random data, bit for bit,
 * and is used only where they agree and for as many tokens as it is the faster. Both walk K in
 * steps of 16 into one float sum.
 *
 * Weights in tiles (quant.cuh) have matmul_quant.cu in the place of matmul_skinny.cu; for more
 * tokens they are expanded to bf16 in scratch, which the time that decides between both includes.
 * The algorithm, and so the bits, are those of the same weights in bf16.
 *
 * Weights in e4m3 (PP_PREC_FP8) are multiplied by cuBLASLt for any T, by one algorithm as above;
 * the activations are quantised before it, a row by itself (fp8.cu).
 *
 * Logits (matmul_float, matmul_columns) are always made by the skinny kernel, in blocks of tokens,
 * so the columns of a list equal those of the whole.
 *
 * any_bits gives that up: cuBLASLt chooses for each power of two of T.
 */
#include <cublasLt.h>

#include "cuda.cuh"

#define ALGO_TOKENS    2048u
#define N_ALGOS        256u
#define N_HEURISTICS   16
#define WORKSPACE      ((size_t) 32 << 20)
#define CHECKED_TOKENS CUDA_SKINNY_MAX
#define TIMED_RUNS     4

/* What is known of a shape. */
struct blas_algo
{
	uint32_t n_rows;
	uint32_t n_cols;
	uint32_t bits; /* of the weights: the algorithm is the same, skinny_max is not */
	bool fp8;
	uint32_t n_tokens; /* that it was chosen for */
	bool bias;
	uint32_t skinny_max; /* up to so many tokens the skinny kernel serves; 0: other bits */
	cublasLtMatmulAlgo_t algo;
};

struct cuda_blas
{
	cublasLtHandle_t handle;
	void *workspace;
	blas_algo algos[N_ALGOS];
	uint32_t n_algos;
};

/* The layouts of one product, in cuBLAS's column order: outᵀ = W xᵀ. */
struct blas_product
{
	cublasLtMatmulDesc_t op;
	cublasLtMatrixLayout_t w;
	cublasLtMatrixLayout_t x;
	cublasLtMatrixLayout_t out;
};

/* Makes the handle and its workspace. */
pp_result
cuda_blas_create(pp_cuda *cu)
{
	cublasStatus_t status;

	if ((cu->blas = new (std::nothrow) cuda_blas()) == NULL)
		return cuda_fail(cu, PP_E_NOMEM, "out of memory");
	if ((status = cublasLtCreate(&cu->blas->handle)) != CUBLAS_STATUS_SUCCESS)
		return cuda_fail(cu, status == CUBLAS_STATUS_ALLOC_FAILED ? PP_E_NOMEM : PP_E_DEVICE,
		                 "cuBLASLt says %d", (int) status);
	return cuda_check(cu, cudaMalloc(&cu->blas->workspace, WORKSPACE), "cuBLASLt");
}

/* Frees both. */
void
cuda_blas_destroy(pp_cuda *cu)
{
	if (cu->blas == NULL)
		return;
	cudaFree(cu->blas->workspace);
	if (cu->blas->handle != NULL)
		cublasLtDestroy(cu->blas->handle);
	delete cu->blas;
	cu->blas = NULL;
}

/* Frees what describe made. */
static void
forget(blas_product *p)
{
	if (p->op != NULL)
		cublasLtMatmulDescDestroy(p->op);
	if (p->w != NULL)
		cublasLtMatrixLayoutDestroy(p->w);
	if (p->x != NULL)
		cublasLtMatrixLayoutDestroy(p->x);
	if (p->out != NULL)
		cublasLtMatrixLayoutDestroy(p->out);
}

/* Tells of the scales: one a row of W, one a token. */
static bool
describe_scales(blas_product *p, const float *w_scale, const float *x_scale)
{
	const int32_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
	const struct
	{
		cublasLtMatmulDescAttributes_t what;
		const void *value;
		size_t bytes;
	} scales[] = {
	    {CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode, sizeof(mode)},
	    {CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &mode, sizeof(mode)},
	    {CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &w_scale, sizeof(w_scale)},
	    {CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &x_scale, sizeof(x_scale)},
	};

	for (const auto &s : scales)
		if (cublasLtMatmulDescSetAttribute(p->op, s.what, s.value, s.bytes) !=
		    CUBLAS_STATUS_SUCCESS)
			return false;
	return true;
}

/* Describes a product; bias16 may be NULL, x_scale where the matrix is not e4m3. */
static bool
describe(blas_product *p, const pp_matrix *w, uint32_t n_tokens, const bf16 *bias16,
         const float *x_scale)
{
	const cublasOperation_t transposed = CUBLAS_OP_T;
	const cudaDataType_t type = w->fp8 != NULL ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
	const uint32_t n_rows = w->n_rows;
	const uint32_t n_cols = w->n_cols;
	const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;

	*p = blas_product();
	if (cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F) != CUBLAS_STATUS_SUCCESS ||
	    cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
	                                   sizeof(transposed)) != CUBLAS_STATUS_SUCCESS ||
	    cublasLtMatrixLayoutCreate(&p->w, type, n_cols, n_rows, n_cols) != CUBLAS_STATUS_SUCCESS ||
	    cublasLtMatrixLayoutCreate(&p->x, type, n_cols, n_tokens, n_cols) !=
	        CUBLAS_STATUS_SUCCESS ||
	    cublasLtMatrixLayoutCreate(&p->out, CUDA_R_16BF, n_rows, n_tokens, n_rows) !=
	        CUBLAS_STATUS_SUCCESS)
		return false;
	if (w->fp8 != NULL && !describe_scales(p, w->scale, x_scale))
		return false;
	return bias16 == NULL ||
	       (cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
	                                       sizeof(epilogue)) == CUBLAS_STATUS_SUCCESS &&
	        cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias16,
	                                       sizeof(bias16)) == CUBLAS_STATUS_SUCCESS);
}

/* Whether an algorithm sums over all of K in one piece. */
static bool
is_whole(const cublasLtMatmulAlgo_t *algo)
{
	int32_t split = 0;
	uint32_t scheme = 0;
	size_t written;

	return cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &split,
	                                            sizeof(split), &written) == CUBLAS_STATUS_SUCCESS &&
	       cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
	                                            &scheme, sizeof(scheme),
	                                            &written) == CUBLAS_STATUS_SUCCESS &&
	       split <= 1 && scheme == CUBLASLT_REDUCTION_SCHEME_NONE;
}

/* The bytes that rows of n elements are aligned to, at most 16. */
static uint32_t
alignment(uint32_t n)
{
	return n % 8 == 0 ? 16 : n % 4 == 0 ? 8 : n % 2 == 0 ? 4 : 2;
}

/* Asks the library for its favourite that may serve. */
static bool
choose(cuda_blas *blas, const blas_product *p, blas_algo *algo, bool any)
{
	cublasLtMatmulHeuristicResult_t found[N_HEURISTICS];
	cublasLtMatmulPreference_t preference = NULL;
	const uint32_t align_in = alignment(algo->n_cols);
	const uint32_t align_out = alignment(algo->n_rows);
	const size_t workspace = WORKSPACE;
	int n_found = 0;
	bool ok = cublasLtMatmulPreferenceCreate(&preference) == CUBLAS_STATUS_SUCCESS;

	const struct
	{
		cublasLtMatmulPreferenceAttributes_t what;
		const void *value;
		size_t bytes;
	} wishes[] = {
	    {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof(workspace)},
	    {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align_in, sizeof(align_in)},
	    {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align_in, sizeof(align_in)},
	    {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align_out, sizeof(align_out)},
	    {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align_out, sizeof(align_out)},
	};

	for (const auto &w : wishes)
		ok = ok && cublasLtMatmulPreferenceSetAttribute(preference, w.what, w.value, w.bytes) ==
		               CUBLAS_STATUS_SUCCESS;
	ok = ok &&
	     cublasLtMatmulAlgoGetHeuristic(blas->handle, p->op, p->w, p->x, p->out, p->out, preference,
	                                    N_HEURISTICS, found, &n_found) == CUBLAS_STATUS_SUCCESS;
	if (preference != NULL)
		cublasLtMatmulPreferenceDestroy(preference);
	for (int i = 0; ok && i < n_found; i++)
		if (found[i].state == CUBLAS_STATUS_SUCCESS && (any || is_whole(&found[i].algo)))
		{
			algo->algo = found[i].algo;
			return true;
		}
	return false;
}

/* The weights for cuBLASLt; those in tiles are expanded to scratch. NULL with a message. */
static const void *
weights_of(pp_cuda *cu, const pp_matrix *w)
{
	bf16 *data;

	if (w->tiles == NULL)
		return w->fp8 != NULL ? (const void *) w->fp8 : w->data;
	data = (bf16 *) cuda_scratch(cu, CUDA_SCRATCH_EXPAND,
	                             (size_t) w->n_rows * w->n_cols * sizeof(bf16));
	if (data == NULL || cuda_check(cu, cuda_quant_expand(cu, data, w), "expand") != PP_OK)
		return NULL;
	return data;
}

/* Few tokens: weights in tiles as they are, or, for more tokens than that is made for, expanded. */
static cudaError_t
skinny(pp_cuda *cu, bf16 *out, const bf16 *x, const pp_matrix *w, const bf16 *bias16,
       uint32_t n_tokens)
{
	pp_matrix expanded = *w;

	if (w->tiles != NULL && n_tokens <= cuda_quant_max(cu, false))
		return cuda_quant_skinny(cu, out, x, w, bias16, n_tokens);
	if (w->tiles != NULL && (expanded.data = (bf16 *) weights_of(cu, w)) == NULL)
		return cudaErrorMemoryAllocation;
	return cuda_skinny(cu, out, x, &expanded, bias16, n_tokens);
}

/* The activations for cuBLASLt: as they are, or in e4m3 with scales. NULL with a message. */
static const void *
inputs_of(pp_cuda *cu, const bf16 *x, const pp_matrix *w, uint32_t n_tokens, const float **scale)
{
	const size_t bytes = (size_t) n_tokens * w->n_cols; /* columns are a multiple of 16 */
	uint8_t *x8;

	*scale = NULL;
	if (w->fp8 == NULL)
		return x;
	/* a recording computes less than twice the tokens of the pass before it, and may not grow it */
	x8 = (uint8_t *) cuda_scratch(cu, CUDA_SCRATCH_FP8, 2 * (bytes + n_tokens * sizeof(float)));
	if (x8 == NULL ||
	    cuda_check(cu, cuda_fp8_rows(cu, x8, (float *) (x8 + bytes), x, n_tokens, w->n_cols),
	               "fp8") != PP_OK)
		return NULL;
	*scale = (float *) (x8 + bytes);
	return x8;
}

/* Runs a product by an algorithm. */
static pp_result
multiply(pp_cuda *cu, const blas_algo *algo, bf16 *out, const bf16 *x, const pp_matrix *w,
         const bf16 *bias16, uint32_t n_tokens)
{
	const float one = 1.0f;
	const float zero = 0.0f;
	const float *x_scale;
	const void *data = weights_of(cu, w);
	const void *from = inputs_of(cu, x, w, n_tokens, &x_scale);
	blas_product p;
	cublasStatus_t status = CUBLAS_STATUS_INTERNAL_ERROR;

	if (data == NULL || from == NULL)
		return cu->failed ? PP_E_DEVICE : PP_E_NOMEM;
	if (describe(&p, w, n_tokens, bias16, x_scale))
		status =
		    cublasLtMatmul(cu->blas->handle, p.op, &one, data, p.w, from, p.x, &zero, out, p.out,
		                   out, p.out, &algo->algo, cu->blas->workspace, WORKSPACE, cu->stream);
	forget(&p);
	if (status == CUBLAS_STATUS_SUCCESS)
		return cuda_launched(cu, "matmul");
	if (cuda_launched(cu, "matmul") != PP_OK)
		return PP_E_DEVICE;
	return cuda_fail(cu, PP_E_UNSUPPORTED, "matmul of %u x %u by %u: cuBLASLt says %d", n_tokens,
	                 w->n_cols, w->n_rows, (int) status);
}

/* Numbers that look random, for the comparison. */
static __global__ void
fill_random(bf16 *x, uint32_t n)
{
	uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
	uint32_t h = (i + 1) * 2654435761u;

	if (i >= n)
		return;
	h ^= h >> 15;
	h *= 2246822519u;
	h ^= h >> 13;
	x[i] = __float2bfloat16_rn((float) h / 2147483648.0f - 1.0f);
}

/* Counts the elements that differ. */
static __global__ void
count_different(uint32_t *n_different, const bf16 *a, const bf16 *b, uint32_t n)
{
	uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;

	if (i < n && __bfloat16_as_ushort(a[i]) != __bfloat16_as_ushort(b[i]))
		atomicAdd(n_different, 1u);
}

/* What the comparison of two kernels works in. */
struct trial
{
	const blas_algo *algo;
	const pp_matrix *w;
	const bf16 *bias16;
	bf16 *x;
	bf16 *out1;
	bf16 *out2;
	uint32_t *counter;
};

/* Takes the buffers, 16-byte boundaries for all, and makes x random. */
static bool
begin_trial(pp_cuda *cu, trial *t)
{
	const uint32_t n_in = CHECKED_TOKENS * t->w->n_cols;
	const size_t n_out = ((size_t) CHECKED_TOKENS * t->w->n_rows + 7) / 8 * 8;

	t->x = (bf16 *) cuda_scratch(cu, CUDA_SCRATCH_BLAS, (n_in + 2 * n_out + 128) * sizeof(bf16));
	if (t->x == NULL)
		return false;
	t->out1 = t->x + (n_in + 7) / 8 * 8;
	t->out2 = t->out1 + n_out;
	t->counter = (uint32_t *) (t->out2 + n_out);
	fill_random<<<(n_in + 255) / 256, 256, 0, cu->stream>>>(t->x, n_in);
	return cuda_launched(cu, "trial") == PP_OK;
}

/* Runs one of the two. */
static bool
run_trial(pp_cuda *cu, const trial *t, bool few, uint32_t n_tokens)
{
	return few ? skinny(cu, t->out2, t->x, t->w, t->bias16, n_tokens) == cudaSuccess
	           : multiply(cu, t->algo, t->out1, t->x, t->w, t->bias16, n_tokens) == PP_OK;
}

/* Whether both give the same bits on this very matrix. */
static bool
same_bits(pp_cuda *cu, const trial *t)
{
	const uint32_t n_out = CHECKED_TOKENS * t->w->n_rows;
	uint32_t n_different = 1;

	if (cudaMemsetAsync(t->counter, 0, sizeof(*t->counter), cu->stream) != cudaSuccess ||
	    !run_trial(cu, t, false, CHECKED_TOKENS) || !run_trial(cu, t, true, CHECKED_TOKENS))
		return false;
	count_different<<<(n_out + 255) / 256, 256, 0, cu->stream>>>(t->counter, t->out1, t->out2,
	                                                             n_out);
	return cudaMemcpyAsync(&n_different, t->counter, sizeof(n_different), cudaMemcpyDeviceToHost,
	                       cu->stream) == cudaSuccess &&
	       cudaStreamSynchronize(cu->stream) == cudaSuccess && n_different == 0;
}

/* Milliseconds of some runs after one that warms up; infinite when it fails. */
static float
time_trial(pp_cuda *cu, const trial *t, bool few, uint32_t n_tokens)
{
	cudaEvent_t begin = NULL;
	cudaEvent_t end = NULL;
	float ms = INFINITY;
	bool ok = cudaEventCreate(&begin) == cudaSuccess && cudaEventCreate(&end) == cudaSuccess &&
	          run_trial(cu, t, few, n_tokens) && cudaEventRecord(begin, cu->stream) == cudaSuccess;

	for (int i = 0; ok && i < TIMED_RUNS; i++)
		ok = run_trial(cu, t, few, n_tokens);
	ok = ok && cudaEventRecord(end, cu->stream) == cudaSuccess &&
	     cudaEventSynchronize(end) == cudaSuccess &&
	     cudaEventElapsedTime(&ms, begin, end) == cudaSuccess;
	if (begin != NULL)
		cudaEventDestroy(begin);
	if (end != NULL)
		cudaEventDestroy(end);
	return ok ? ms : INFINITY;
}

/* For how many tokens the skinny kernel serves: always for one tile, beyond while it is faster. */
static uint32_t
skinny_tokens(pp_cuda *cu, const blas_algo *algo, const pp_matrix *w, const bf16 *bias16)
{
	trial t = {algo, w, bias16, NULL, NULL, NULL, NULL};
	uint32_t n = 8;

	if (w->fp8 != NULL || !cuda_skinny_takes(w) || cu->recording || !begin_trial(cu, &t) ||
	    (!same_bits(cu, &t) && !cu->base.any_bits))
		return 0;
	while (2 * n <= CUDA_SKINNY_MAX &&
	       time_trial(cu, &t, true, 2 * n) < time_trial(cu, &t, false, 2 * n))
		n *= 2;
	return n;
}

/* The algorithm of a shape; chosen at its first use. NULL with a message. */
static const blas_algo *
algo_of(pp_cuda *cu, const pp_matrix *w, uint32_t n_tokens, const bf16 *bias16)
{
	cuda_blas *blas = cu->blas;
	blas_algo *a;
	blas_product p;
	uint32_t chosen_for = ALGO_TOKENS;
	bool found;

	while (cu->base.any_bits && chosen_for > 8 && chosen_for / 2 >= n_tokens)
		chosen_for /= 2;
	for (uint32_t i = 0; i < blas->n_algos; i++)
	{
		a = &blas->algos[i];
		if (a->n_rows == w->n_rows && a->n_cols == w->n_cols && a->bits == w->bits &&
		    a->fp8 == (w->fp8 != NULL) && a->n_tokens == chosen_for && a->bias == (bias16 != NULL))
			return a;
	}
	if (blas->n_algos == N_ALGOS)
	{
		cuda_fail(cu, PP_E_UNSUPPORTED, "more than %u shapes of matrices", N_ALGOS);
		return NULL;
	}
	a = &blas->algos[blas->n_algos];
	*a = blas_algo();
	a->n_rows = w->n_rows;
	a->n_cols = w->n_cols;
	a->bits = w->bits;
	a->fp8 = w->fp8 != NULL;
	a->n_tokens = chosen_for;
	a->bias = bias16 != NULL;
	found = describe(&p, w, chosen_for, bias16, w->scale) && /* any pointer will do here */
	        choose(blas, &p, a, cu->base.any_bits);
	forget(&p);
	if (!found)
	{
		cuda_fail(cu, PP_E_UNSUPPORTED, "no algorithm for a matrix of %u x %u", w->n_rows,
		          w->n_cols);
		return NULL;
	}
	blas->n_algos++;
	a->skinny_max = skinny_tokens(cu, a, w, bias16);
	return a;
}

/* See cuda.cuh. */
pp_result
cuda_matmul_takes(pp_cuda *cu, const pp_matrix *w)
{
	if (algo_of(cu, w, 1, NULL) != NULL)
		return PP_OK;
	return cu->failed ? PP_E_DEVICE : PP_E_UNSUPPORTED;
}

/* Floats to bf16. */
static __global__ void
narrow_bias(bf16 *out, const float *bias, uint32_t n)
{
	uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;

	if (i >= n)
		return;
	out[i] = __float2bfloat16_rn(bias[i]);
}

/* The matrix's copy of its bias; made at the first use, which no pass records. */
static pp_result
bias_of(pp_cuda *cu, pp_matrix *w, const float *dev_bias, const bf16 **bias16)
{
	pp_result result = PP_OK;

	*bias16 = NULL;
	if (dev_bias == NULL)
		return PP_OK;
	if (w->bias16 == NULL)
		result =
		    cuda_check(cu, cudaMalloc((void **) &w->bias16, w->n_rows * sizeof(bf16) + 16), "bias");
	if (result == PP_OK && w->bias != dev_bias)
	{
		narrow_bias<<<(w->n_rows + 255) / 256, 256, 0, cu->stream>>>(w->bias16, dev_bias,
		                                                             w->n_rows);
		result = cuda_launched(cu, "bias");
		w->bias = dev_bias;
	}
	*bias16 = w->bias16;
	return result;
}

/* bf16 out: the skinny kernel where it gives the bits of the algorithm. */
pp_result
cuda_matmul(pp_backend *be, pp_act *dev_out, const pp_act *dev_x, const pp_matrix *w,
            const float *dev_bias, uint32_t n_tokens)
{
	pp_cuda *cu = cuda_of(be);
	uint32_t n = cuda_bound_tokens(cu, n_tokens);
	const blas_algo *algo;
	const bf16 *bias16;
	pp_result result;

	if (n == 0 || w->n_rows == 0)
		return PP_OK;
	if ((result = bias_of(cu, (pp_matrix *) w, dev_bias, &bias16)) != PP_OK)
		return result;
	if ((algo = algo_of(cu, w, n, bias16)) == NULL)
		return cu->failed ? PP_E_DEVICE : PP_E_UNSUPPORTED;
	if (n <= algo->skinny_max)
		return cuda_check(cu, skinny(cu, cuda_act(dev_out), cuda_act(dev_x), w, bias16, n),
		                  "matmul");
	return multiply(cu, algo, cuda_act(dev_out), cuda_act(dev_x), w, bias16, n);
}

/* hidden = act(gate) · up by one kernel where the one for few tokens serves; else by two. */
static pp_result
run_gated(pp_backend *be, const pp_act *dev_x, const pp_mlp *mlp, uint32_t n_tokens)
{
	pp_cuda *cu = cuda_of(be);
	const uint32_t n = cuda_bound_tokens(cu, n_tokens);
	const blas_algo *algo;
	pp_result result;

	if (mlp->gated && mlp->dev_in_bias == NULL && mlp->in->data != NULL && mlp->in->fp8 == NULL &&
	    cuda_stream_takes(cu))
	{
		if ((algo = algo_of(cu, mlp->in, n, NULL)) == NULL)
			return cu->failed ? PP_E_DEVICE : PP_E_UNSUPPORTED;
		if (n <= algo->skinny_max)
			return cuda_check(cu,
			                  cuda_stream_gated(cu, cuda_act(mlp->dev_hidden), cuda_act(dev_x),
			                                    mlp->in, mlp->act, n),
			                  "mlp");
	}
	result = cuda_matmul(be, mlp->dev_wide, dev_x, mlp->in, mlp->dev_in_bias, n_tokens);
	if (result != PP_OK)
		return result;
	return cuda_activate(be, mlp->dev_hidden, mlp->dev_wide, n_tokens, mlp->f, mlp->act,
	                     mlp->gated);
}

/* See kernels.h. */
pp_result
cuda_mlp(pp_backend *be, pp_act *dev_out, const pp_act *dev_x, const pp_mlp *mlp, uint32_t n_tokens)
{
	pp_result result = n_tokens == 0 ? PP_OK : run_gated(be, dev_x, mlp, n_tokens);

	if (result != PP_OK)
		return result;
	return cuda_matmul(be, dev_out, mlp->dev_hidden, mlp->out, mlp->dev_out_bias, n_tokens);
}

/* Blocks of tokens by the skinny kernel, whole rows or a list of columns. */
static pp_result
skinny_blocks(pp_cuda *cu, float *out, const bf16 *x, const pp_matrix *w, const float *bias,
              const uint32_t *cols, uint32_t n_cols, uint32_t n_tokens)
{
	if (w->fp8 != NULL || !cuda_skinny_takes(w))
		return cuda_fail(cu, PP_E_UNSUPPORTED, "a head of %u columns%s", w->n_cols,
		                 w->fp8 != NULL ? " in fp8" : "");
	const uint32_t most = w->tiles == NULL ? CUDA_SKINNY_MAX : cuda_quant_max(cu, cols != NULL);
	auto product = w->tiles == NULL ? cuda_skinny_float : cuda_quant_skinny_float;

	for (uint32_t t = 0; t < n_tokens; t += most)
	{
		uint32_t n = n_tokens - t < most ? n_tokens - t : most;
		pp_result result = cuda_check(cu,
		                              product(cu, out + (size_t) t * n_cols,
		                                      x + (size_t) t * w->n_cols, w, bias, cols, n_cols, n),
		                              "matmul");

		if (result != PP_OK)
			return result;
	}
	return PP_OK;
}

/* Float out. */
pp_result
cuda_matmul_float(pp_backend *be, float *dev_out, const pp_act *dev_x, const pp_matrix *w,
                  const float *dev_bias, uint32_t n_tokens)
{
	if (w->n_rows == 0)
		return PP_OK;
	return skinny_blocks(cuda_of(be), dev_out, cuda_act(dev_x), w, dev_bias, NULL, w->n_rows,
	                     n_tokens);
}

/* Listed columns. */
pp_result
cuda_matmul_columns(pp_backend *be, float *dev_out, const pp_act *dev_x, const pp_matrix *w,
                    const uint32_t *cols, uint32_t n_cols, uint32_t n_rows)
{
	pp_cuda *cu = cuda_of(be);
	const uint32_t *dev_cols;

	if (n_cols == 0 || n_rows == 0)
		return PP_OK;
	if ((dev_cols = cuda_index(cu, cols, n_cols)) == NULL)
		return cu->failed ? PP_E_DEVICE : PP_E_NOMEM;
	return skinny_blocks(cu, dev_out, cuda_act(dev_x), w, NULL, dev_cols, n_cols, n_rows);
}
