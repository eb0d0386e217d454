/*
 * fuzz_safetensors.c: fuzz target of the safetensors reader.
 *
 * What loads must be readable to its ends, and found by its name.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "../src/llm/llm_weights_impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Reads a byte of either end of a tensor's data; volatile, so that the reads are made. */
static void
touch_tensors(const llm_weights *w)
{
	volatile uint8_t sink = 0;

	for (uint32_t i = 0; i < llm_weights_n_tensors(w); i++)
	{
		const llm_tensor *t = llm_weights_tensor_at(w, i);
		const uint8_t *p = t->data;

		sink ^= p[0] ^ p[t->bytes - 1];
		if (llm_weights_find(w, t->name) != t)
			abort();
	}
	(void) sink;
}

/* Parses one input and reads all that came out of it. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	llm_weights *w;
	llm_error err = {LLM_OK, ""};
	llm_status status = llm_weights_open_memory(LLM_FORMAT_HF, data, bytes, &w, &err);

	/* A refusal has a message and no object. */
	if ((status == LLM_OK) != (w != NULL) || (status != LLM_OK && err.message[0] == '\0'))
		abort();
	if (w != NULL)
	{
		touch_tensors(w);
		llm_weights_close(w);
	}
	return 0;
}
