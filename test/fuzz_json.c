/*
 * fuzz_json.c: fuzz target of the JSON reader.
 *
 * Every node that is read is visited; its members must be found by their keys.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "../src/llm/llm_json.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Visits a node with all its readers and goes on with what it holds; depth is bounded. */
static void
visit(const llm_json *node)
{
	const char *text;
	size_t n;
	uint64_t u;
	int64_t s;
	double d;
	bool b;

	llm_json_bool(node, &b);
	llm_json_u64(node, &u);
	llm_json_i64(node, &s);
	llm_json_double(node, &d);
	if (llm_json_string(node, &text, &n) && text[n] != '\0')
		abort();
	for (uint64_t i = 0; i < llm_json_size(node); i++)
	{
		const llm_json *child = llm_json_item(node, i);

		if (child == NULL)
		{
			child = llm_json_member_at(node, i, &text, &n);
			if (strlen(text) == n && llm_json_member(node, text) != child)
				abort();
		}
		visit(child);
	}
}

/* Parses one input and reads all that came out of it. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	llm_json_doc *doc;
	llm_error err = {LLM_OK, ""};
	llm_status status = llm_json_parse((const char *) data, bytes, &doc, &err);

	if ((status == LLM_OK) != (doc != NULL) || (status != LLM_OK && err.message[0] == '\0'))
		abort();
	if (doc != NULL)
		visit(llm_json_root(doc));
	llm_json_free(doc);
	return 0;
}
