/*
 * fuzz_weights.h: what the fuzz targets of the two weight formats share.
 *
 * An input is refused with a message and no object, or opened; what is opened must be readable to
 * its ends, and found by its name.
 */
#ifndef FUZZ_WEIGHTS_H
#define FUZZ_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "../src/llm/llm_weights_impl.h"

/* Reads a byte of either end of a tensor's data; volatile, so that the reads are made. */
static inline void
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

/* Opens one input; NULL when it was refused. */
static inline llm_weights *
open_input(llm_weights_format format, const uint8_t *data, size_t bytes)
{
	llm_weights *w;
	llm_error err = {LLM_OK, ""};
	llm_status status = llm_weights_open_memory(format, data, bytes, &w, &err);

	if ((status == LLM_OK) != (w != NULL) || (status != LLM_OK && err.message[0] == '\0'))
		abort();
	return w;
}

#endif /* FUZZ_WEIGHTS_H */
