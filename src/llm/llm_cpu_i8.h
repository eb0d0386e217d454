/*
 * llm_cpu_i8.h: int8 products for processors with integer dot products or tiles. Present on x86-64
 * only; the caller has made sure that the machine has the level.
 */
#ifndef LLM_CPU_I8_H
#define LLM_CPU_I8_H

#include "llm_cpu_kernels.h"

void llm_cpu_i8_avx2(const llm_i8_block *b);
void llm_cpu_i8_vnni(const llm_i8_block *b);
void llm_cpu_i8_amx(const llm_i8_block *b);

#endif /* LLM_CPU_I8_H */
