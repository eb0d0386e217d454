/*
 * activate.cuh: one value through an activation, in float: for activate.cu, and for products that
 * gate what they write (matmul_stream.cu).
 *
 * SiLU: arXiv 1702.03118, GELU: arXiv 1606.08415, the gated forms: arXiv 2002.05202.
 */
#ifndef PP_ACTIVATE_CUH
#define PP_ACTIVATE_CUH

#include "cuda.cuh"

/* act(x). */
static __device__ __forceinline__ float
activation(float x, pp_act_kind act)
{
	switch (act)
	{
		case PP_ACT_SILU:
			return x / (1.0f + __expf(-x));
		case PP_ACT_GELU_TANH:
			return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
		case PP_ACT_GELU_ERF:
			return 0.5f * x * erfcf(-0.7071067812f * x);
		case PP_ACT_RELU:
			return fmaxf(x, 0.0f);
		default: /* PP_ACT_TANH */
			return tanhf(x);
	}
}

/* act(gate) · up, both as bf16 has them. */
static __device__ __forceinline__ bf16
activation_gated(bf16 gate, bf16 up, pp_act_kind act)
{
	return __float2bfloat16_rn(activation(__bfloat162float(gate), act) * __bfloat162float(up));
}

#endif /* PP_ACTIVATE_CUH */
