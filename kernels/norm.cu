/*
 * norm.cu: RMSNorm (arXiv 1910.07467) and LayerNorm (arXiv 1607.06450), the residual added first.
 *
 *	s = x + add                      x float [T, d], add bf16 [T, d] or absent
 *	out = (s − mean) / sqrt(var + eps) · w + b     bf16 [T, d]; RMS: mean = 0, var = mean of s²
 *	x = s, or x = the norm in float (norm_post), or x is absent and s = add
 *
 * Grid: a block a row, whatever T is. Rows of a multiple of four elements, up to 8,192, stay in
 * registers (norm_held), which has w and b there before the kernel in front ends; others stay in
 * shared memory, d floats (d <= 49,152 on the cards this runs on). The order of additions follows
 * from d alone. Rows may be taken from a list (norm_rows).
 */
#include "cuda.cuh"

#define THREADS 256

struct norm_args
{
	bf16 *out;
	float *x;
	const bf16 *add;
	const float *w;
	const float *b;
	const uint32_t *rows;
	uint32_t d;
	float eps;
	float offset; /* added to w */
	bool layer;
	bool post;
};

/* Four elements of a row, or one, behind one interface. */
template <int WIDTH> struct piece
{
	float v[WIDTH];
};

/* Loads floats. */
template <int WIDTH>
static __device__ piece<WIDTH>
load(const float *p)
{
	piece<WIDTH> r;

	if (WIDTH == 4)
		*(float4 *) r.v = *(const float4 *) p;
	else
		r.v[0] = *p;
	return r;
}

/* Loads bf16. */
template <int WIDTH>
static __device__ piece<WIDTH>
load(const bf16 *p)
{
	piece<WIDTH> r;

	if (WIDTH == 4)
	{
		uint2 raw = *(const uint2 *) p;
		const __nv_bfloat162 *pairs = (const __nv_bfloat162 *) &raw;

		*(float2 *) r.v = __bfloat1622float2(pairs[0]);
		*(float2 *) (r.v + WIDTH / 2) = __bfloat1622float2(pairs[1]);
	}
	else
		r.v[0] = __bfloat162float(*p);
	return r;
}

/* Stores floats. */
template <int WIDTH>
static __device__ void
store(float *p, const piece<WIDTH> &r)
{
	if (WIDTH == 4)
		*(float4 *) p = *(const float4 *) r.v;
	else
		*p = r.v[0];
}

/* Stores bf16. */
template <int WIDTH>
static __device__ void
store(bf16 *p, const piece<WIDTH> &r)
{
	if (WIDTH == 4)
	{
		__nv_bfloat162 pairs[2] = {__floats2bfloat162_rn(r.v[0], r.v[1]),
		                           __floats2bfloat162_rn(r.v[WIDTH / 2], r.v[WIDTH - 1])};

		*(uint2 *) p = *(const uint2 *) pairs;
	}
	else
		*p = __float2bfloat16_rn(r.v[0]);
}

/* s = x + add into shared memory and back to x; returns this thread's part of Σ s. */
template <int WIDTH>
static __device__ float
gather_row(const norm_args &a, float *s, size_t at)
{
	float sum = 0.0f;

	for (uint32_t i = threadIdx.x * WIDTH; i < a.d; i += THREADS * WIDTH)
	{
		piece<WIDTH> v = a.x != NULL ? load<WIDTH>(a.x + at + i) : load<WIDTH>(a.add + at + i);

		if (a.x != NULL && a.add != NULL)
		{
			piece<WIDTH> y = load<WIDTH>(a.add + at + i);

			for (int j = 0; j < WIDTH; j++)
				v.v[j] += y.v[j];
			/* a list may name a row twice: rows beyond the wanted ones of a recorded pass do */
			if (!a.post && a.rows == NULL)
				store<WIDTH>(a.x + at + i, v);
		}
		store<WIDTH>(s + i, v);
		for (int j = 0; j < WIDTH; j++)
			sum += v.v[j];
	}
	return sum;
}

/* One row. */
template <int WIDTH>
static __global__ void
__launch_bounds__(THREADS) norm_kernel(norm_args a)
{
	cuda_begin();
	extern __shared__ float4 row[];
	__shared__ float sums[33];
	float *s = (float *) row;
	const size_t at = (size_t) (a.rows != NULL ? a.rows[blockIdx.x] : blockIdx.x) * a.d;
	const size_t to = (size_t) blockIdx.x * a.d;
	float part = gather_row<WIDTH>(a, s, at);
	float mean = a.layer ? cuda_block_sum(part, sums) / (float) a.d : 0.0f;
	float squares = 0.0f;
	float inverse;

	/* each thread reads what it wrote itself */
	for (uint32_t i = threadIdx.x * WIDTH; i < a.d; i += THREADS * WIDTH)
		for (int j = 0; j < WIDTH; j++)
			squares += (s[i + j] - mean) * (s[i + j] - mean);
	inverse = rsqrtf(cuda_block_sum(squares, sums) / (float) a.d + a.eps);
	for (uint32_t i = threadIdx.x * WIDTH; i < a.d; i += THREADS * WIDTH)
	{
		piece<WIDTH> w = load<WIDTH>(a.w + i);
		piece<WIDTH> v = load<WIDTH>(s + i);

		for (int j = 0; j < WIDTH; j++)
			v.v[j] =
			    (v.v[j] - mean) * inverse * (w.v[j] + a.offset) + (a.b != NULL ? a.b[i + j] : 0.0f);
		if (a.post)
			store<WIDTH>(a.x + at + i, v);
		store<WIDTH>(a.out + to + i, v);
	}
}

/* One row of up to N · COUNT · 4 elements in the registers of N threads. */
template <int N, int COUNT>
static __global__ void
__launch_bounds__(N) norm_held(norm_args a)
{
	cuda_let_next();
	__shared__ float sums[33];
	const size_t to = (size_t) blockIdx.x * a.d;
	piece<4> w[COUNT], b[COUNT], v[COUNT];
	float sum = 0.0f;
	float squares = 0.0f;

#pragma unroll
	for (int k = 0; k < COUNT; k++)
	{
		const uint32_t i = (k * N + threadIdx.x) * 4;

		w[k] = b[k] = v[k] = piece<4>{};
		if (i < a.d)
			w[k] = load<4>(a.w + i);
		if (i < a.d && a.b != NULL)
			b[k] = load<4>(a.b + i);
	}
	cuda_wait_before();
	const size_t at = (size_t) (a.rows != NULL ? a.rows[blockIdx.x] : blockIdx.x) * a.d;
#pragma unroll
	for (int k = 0; k < COUNT; k++)
	{
		const uint32_t i = (k * N + threadIdx.x) * 4;

		if (i < a.d)
			v[k] = a.x != NULL ? load<4>(a.x + at + i) : load<4>(a.add + at + i);
		if (i < a.d && a.x != NULL && a.add != NULL)
		{
			piece<4> y = load<4>(a.add + at + i);

			for (int j = 0; j < 4; j++)
				v[k].v[j] += y.v[j];
			if (!a.post && a.rows == NULL) /* as in gather_row */
				store<4>(a.x + at + i, v[k]);
		}
		sum += (v[k].v[0] + v[k].v[1]) + (v[k].v[2] + v[k].v[3]);
	}
	const float mean = a.layer ? cuda_block_sum(sum, sums) / (float) a.d : 0.0f;
#pragma unroll
	for (int k = 0; k < COUNT; k++)
		for (int j = 0; j < 4 && (k * N + threadIdx.x) * 4 < a.d; j++)
			squares += (v[k].v[j] - mean) * (v[k].v[j] - mean);
	const float inverse = rsqrtf(cuda_block_sum(squares, sums) / (float) a.d + a.eps);
#pragma unroll
	for (int k = 0; k < COUNT; k++)
	{
		const uint32_t i = (k * N + threadIdx.x) * 4;

		for (int j = 0; j < 4; j++)
			v[k].v[j] = (v[k].v[j] - mean) * inverse * (w[k].v[j] + a.offset) + b[k].v[j];
		if (i < a.d && a.post)
			store<4>(a.x + at + i, v[k]);
		if (i < a.d)
			store<4>(a.out + to + i, v[k]);
	}
}

/* Launches the kernel that holds rows of d in registers; false: there is none. */
static bool
run_held(pp_cuda *cu, const norm_args *a, uint32_t n_rows)
{
	if (a->d % 4 != 0 || a->d > 8192)
		return false;
	if (a->d <= 512)
		cuda_launch(cu, norm_held<128, 1>, n_rows, 128, 0, *a);
	else if (a->d <= 1024)
		cuda_launch(cu, norm_held<256, 1>, n_rows, 256, 0, *a);
	else if (a->d <= 2048)
		cuda_launch(cu, norm_held<256, 2>, n_rows, 256, 0, *a);
	else if (a->d <= 4096)
		cuda_launch(cu, norm_held<512, 2>, n_rows, 512, 0, *a);
	else
		cuda_launch(cu, norm_held<512, 4>, n_rows, 512, 0, *a);
	return true;
}

/* Launches a row a block. */
static pp_result
run(pp_cuda *cu, const norm_args *a, uint32_t n_rows)
{
	size_t bytes = (a->d + 3) / 4 * 16;
	auto kernel = a->d % 4 == 0 ? norm_kernel<4> : norm_kernel<1>;

	if (n_rows == 0 || a->d == 0)
		return PP_OK;
	if (run_held(cu, a, n_rows))
		return cuda_launched(cu, "norm");
	if (bytes > 48 * 1024 - 256 &&
	    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int) bytes) !=
	        cudaSuccess)
	{
		(void) cudaGetLastError();
		return cuda_fail(cu, PP_E_UNSUPPORTED, "a norm of %u columns", a->d);
	}
	cuda_launch(cu, kernel, n_rows, THREADS, bytes, *a);
	return cuda_launched(cu, "norm");
}

/* What all three ops fill alike. */
static norm_args
args_of(pp_act *out, float *x, const pp_act *add, const float *w, const float *b, uint32_t d,
        float eps, pp_norm_kind kind, bool plus_one)
{
	norm_args a = norm_args();

	a.out = cuda_act(out);
	a.x = x;
	a.add = cuda_act(add);
	a.w = w;
	a.b = b;
	a.d = d;
	a.eps = eps;
	a.offset = plus_one ? 1.0f : 0.0f;
	a.layer = kind == PP_NORM_LAYER;
	return a;
}

/* Norm with the residual added first. */
pp_result
cuda_norm(pp_backend *be, pp_act *dev_out, float *dev_x, const pp_act *dev_add, const float *dev_w,
          const float *dev_b, uint32_t n_tokens, uint32_t d, float eps, pp_norm_kind kind,
          bool plus_one)
{
	pp_cuda *cu = cuda_of(be);
	norm_args a = args_of(dev_out, dev_x, dev_add, dev_w, dev_b, d, eps, kind, plus_one);

	return run(cu, &a, cuda_bound_tokens(cu, n_tokens));
}

/* The same; the norm replaces the stream. */
pp_result
cuda_norm_post(pp_backend *be, pp_act *dev_out, float *dev_x, const pp_act *dev_add,
               const float *dev_w, const float *dev_b, uint32_t n_tokens, uint32_t d, float eps,
               pp_norm_kind kind, bool plus_one)
{
	pp_cuda *cu = cuda_of(be);
	norm_args a = args_of(dev_out, dev_x, dev_add, dev_w, dev_b, d, eps, kind, plus_one);

	a.post = true;
	return run(cu, &a, cuda_bound_tokens(cu, n_tokens));
}

/* The same of the listed rows. */
pp_result
cuda_norm_rows(pp_backend *be, pp_act *dev_out, float *dev_x, const pp_act *dev_add,
               const float *dev_w, const float *dev_b, const uint32_t *rows, uint32_t n_rows,
               uint32_t d, float eps, pp_norm_kind kind, bool plus_one)
{
	pp_cuda *cu = cuda_of(be);
	norm_args a = args_of(dev_out, dev_x, dev_add, dev_w, dev_b, d, eps, kind, plus_one);

	if (n_rows == 0)
		return PP_OK;
	if ((a.rows = cuda_index(cu, rows, n_rows)) == NULL)
		return cu->failed ? PP_E_DEVICE : PP_E_NOMEM;
	return run(cu, &a, cuda_bound_rows(cu, n_rows));
}
