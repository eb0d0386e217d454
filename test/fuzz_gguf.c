/*
 * fuzz_gguf.c: fuzz target of the GGUF reader.
 *
 * What must hold of every input is in fuzz_weights.h; here also every value is read.
 */
#include "fuzz_weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

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
	llm_weights *w = open_input(LLM_FORMAT_GGUF, data, bytes);

	if (w != NULL)
	{
		touch_tensors(w);
		touch_metadata(w);
		llm_weights_close(w);
	}
	return 0;
}
