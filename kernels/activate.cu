/*
 * activate.cu: the activations, gated or not, and the softcap.
 *
 *	activate  out[T, F] = act(x[T, 0:F]) · x[T, F:2F], or act(x[T, F])    bf16, float between
 *	softcap   x = cap · tanh(x / cap)                                      float, in place
 *
 * A thread makes eight neighbours where F is a multiple of eight, else one.
 */
#include "activate.cuh"

#define THREADS 256

/* WIDTH neighbours, loaded and stored at once. */
template <int WIDTH> struct __align__(WIDTH * sizeof(bf16)) group
{
	bf16 v[WIDTH];
};

/* n groups in all; gated rows are twice as long. */
template <int WIDTH, pp_act_kind ACT>
static __global__ void
__launch_bounds__(THREADS)
    activate_kernel(bf16 *out, const bf16 *x, size_t n, uint32_t f, bool gated)
{
	cuda_begin();
	size_t i = (size_t) blockIdx.x * blockDim.x + threadIdx.x;
	group<WIDTH> gate, up;

	if (i >= n)
		return;
	size_t t = i * WIDTH / f;
	const bf16 *from = x + (gated ? t * f : 0) + i * WIDTH;

	gate = *(const group<WIDTH> *) from;
	if (gated)
		up = *(const group<WIDTH> *) (from + f);
	for (int j = 0; j < WIDTH; j++)
		gate.v[j] = gated ? activation_gated(gate.v[j], up.v[j], ACT)
		                  : __float2bfloat16_rn(activation(__bfloat162float(gate.v[j]), ACT));
	*(group<WIDTH> *) (out + i * WIDTH) = gate;
}

/* n values. */
static __global__ void
softcap_kernel(float *x, size_t n, float cap)
{
	cuda_begin();
	size_t i = (size_t) blockIdx.x * blockDim.x + threadIdx.x;

	if (i >= n)
		return;
	x[i] = cap * tanhf(x[i] / cap);
}

/* Launches one activation. */
template <pp_act_kind ACT>
static void
launch(pp_cuda *cu, bf16 *out, const bf16 *x, size_t n, uint32_t f, bool gated)
{
	size_t n_groups = f % 8 == 0 ? n / 8 : n;
	uint32_t grid = (uint32_t) ((n_groups + THREADS - 1) / THREADS);

	if (f % 8 == 0)
		cuda_launch(cu, activate_kernel<8, ACT>, grid, THREADS, 0, out, x, n_groups, f, gated);
	else
		cuda_launch(cu, activate_kernel<1, ACT>, grid, THREADS, 0, out, x, n_groups, f, gated);
}

/* Activation, gated or not. */
pp_result
cuda_activate(pp_backend *be, pp_act *dev_out, const pp_act *dev_x, uint32_t n_tokens, uint32_t f,
              pp_act_kind act, bool gated)
{
	pp_cuda *cu = cuda_of(be);
	size_t n = (size_t) cuda_bound_tokens(cu, n_tokens) * f;
	bf16 *out = cuda_act(dev_out);
	const bf16 *x = cuda_act(dev_x);

	if (n == 0)
		return PP_OK;
	switch (act)
	{
		case PP_ACT_SILU:
			launch<PP_ACT_SILU>(cu, out, x, n, f, gated);
			break;
		case PP_ACT_GELU_TANH:
			launch<PP_ACT_GELU_TANH>(cu, out, x, n, f, gated);
			break;
		case PP_ACT_GELU_ERF:
			launch<PP_ACT_GELU_ERF>(cu, out, x, n, f, gated);
			break;
		case PP_ACT_RELU:
			launch<PP_ACT_RELU>(cu, out, x, n, f, gated);
			break;
		default:
			launch<PP_ACT_TANH>(cu, out, x, n, f, gated);
			break;
	}
	return cuda_launched(cu, "activate");
}

/* x = cap · tanh(x / cap). */
pp_result
cuda_softcap(pp_backend *be, float *dev_x, size_t n, float cap)
{
	pp_cuda *cu = cuda_of(be);

	if (n == 0)
		return PP_OK;
	cuda_launch(cu, softcap_kernel, (uint32_t) ((n + THREADS - 1) / THREADS), THREADS, 0, dev_x, n,
	            cap);
	return cuda_launched(cu, "softcap");
}
