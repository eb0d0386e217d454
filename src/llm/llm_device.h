/*
 * llm_device.h: from the setting "device" to a backend: the CPU's, or one from a shared object.
 */
#ifndef LLM_DEVICE_H
#define LLM_DEVICE_H

#include "../../kernels/kernels.h"
#include "llm_status.h"

#define LLM_DEVICE_NAME 32 /* holds PP_RANKS_MAX cards of two digits */

/*
 * Resolves "cpu", "cuda", "cuda:N", "cuda:N+M+…", "auto" or NULL to "cpu", "cuda:N" or the list.
 * Cards of a list share each model (llm_ranks.h); one card may stand for all of them, for tests.
 * auto takes the first CUDA device when prepack_cuda.so lies beside the program and a driver with a
 * device is there, else the CPU; a device that was named and is not there is an error that says
 * why.
 */
llm_status llm_device_find(const char *device, char name[LLM_DEVICE_NAME], llm_error *err);
/* How many devices a setting stands for: "cuda" all there are, every other one. */
uint32_t llm_device_count(const char *device);
/* A backend on a device that llm_device_find named; the caller ends it with ops->destroy. */
llm_status llm_device_open(const char *name, uint32_t n_threads, pp_backend **out, llm_error *err);

#endif /* LLM_DEVICE_H */
