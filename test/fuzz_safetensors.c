/*
 * fuzz_safetensors.c: fuzz target of the safetensors reader.
 *
 * What must hold of every input is in fuzz_weights.h.
 */
#include "fuzz_weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Parses one input and reads all that came out of it. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	llm_weights *w = open_input(LLM_FORMAT_HF, data, bytes);

	if (w != NULL)
	{
		touch_tensors(w);
		llm_weights_close(w);
	}
	return 0;
}
