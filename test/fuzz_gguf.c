/*
 * fuzz_gguf.c: fuzz target of the GGUF reader.
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

/* Reads the last item of every value. */
static void
touch_metadata(const llm_weights *w)
{
	for (uint32_t i = 0; i < llm_weights_n_meta(w); i++)
	{
		const llm_meta *m = llm_weights_meta_at(w, i);
		uint64_t last = m->n_items - 1; /* wraps for an empty array, where no item exists */
		uint64_t u;
		int64_t s;
		double d;
		bool b;
		const char *text;

		llm_meta_uint(m, last, &u);
		llm_meta_int(m, last, &s);
		llm_meta_float(m, last, &d);
		llm_meta_bool(m, last, &b);
		if (llm_meta_string(m, last, &text, &u) && u > 0)
		{
			volatile char sink = (char) (text[0] ^ text[u - 1]);

			(void) sink;
		}
		if (llm_weights_meta(w, m->key) != m)
			abort();
	}
}

/* Parses one input and reads all that came out of it. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	llm_weights *w;
	llm_error err = {LLM_OK, ""};
	llm_status status = llm_weights_open_memory(LLM_FORMAT_GGUF, data, bytes, &w, &err);

	/* A refusal has a message and no object. */
	if ((status == LLM_OK) != (w != NULL) || (status != LLM_OK && err.message[0] == '\0'))
		abort();
	if (w != NULL)
	{
		touch_tensors(w);
		touch_metadata(w);
		llm_weights_close(w);
	}
	return 0;
}
