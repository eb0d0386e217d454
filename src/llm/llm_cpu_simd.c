/*
 * llm_cpu_simd.c: compiles the inner loops for each instruction set.
 *
 * One source (llm_cpu_simd.h, llm_cpu_simd_blocks.h) for three levels instead of three sources: the
 * levels cannot drift apart, and a test compares their bits. On other processors there is only the
 * base level.
 */
#include <string.h>

#include "llm_cpu_kernels.h"

/* Everything that takes or returns a vector is inlined, so no ABI for wide vectors is at stake. */
#define INLINE static inline __attribute__((always_inline)) TARGET
#pragma GCC diagnostic ignored "-Wpsabi"
#if !defined(__clang__)
#define WIDE ",prefer-vector-width=512"
#else
#define WIDE
#endif

typedef float v16f __attribute__((vector_size(64)));
typedef int32_t v16i __attribute__((vector_size(64)));
typedef uint32_t v16u __attribute__((vector_size(64)));
typedef uint16_t v16u16 __attribute__((vector_size(32)));
typedef uint8_t v16u8 __attribute__((vector_size(16)));

#define JOIN_(a, b) a##_##b
#define JOIN(a, b)  JOIN_(a, b)
#define V(name)     JOIN(name, LEVEL)

#define TARGET
#define LEVEL base
#define LANES 4
#include "llm_cpu_simd.h"
#include "llm_cpu_simd_blocks.h"
#undef TARGET
#undef LEVEL
#undef LANES

#if defined(__x86_64__)
#define TARGET __attribute__((target("avx2")))
#define LEVEL  avx2
#define LANES  8
#include "llm_cpu_simd.h"
#include "llm_cpu_simd_blocks.h"
#undef TARGET
#undef LEVEL
#undef LANES

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl" WIDE)))
#define LEVEL  avx512
#define LANES  16
#include "llm_cpu_simd.h"
#include "llm_cpu_simd_blocks.h"
#undef TARGET
#undef LEVEL
#undef LANES
#endif

/* The loops for a level; those of levels above AVX-512 are its own but for the products. */
const llm_cpu_kernels *
llm_cpu_kernels_of(llm_cpu_isa isa)
{
#if defined(__x86_64__)
	if (isa >= LLM_ISA_AVX512)
		return &kernels_avx512;
	if (isa >= LLM_ISA_AVX2)
		return &kernels_avx2;
#endif
	(void) isa;
	return &kernels_base;
}
