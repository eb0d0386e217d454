/*
 * llm_arch_pool.c: how a folder made by sentence-transformers turns hidden states into one vector.
 *
 * modules.json lists the steps. Transformer, Pooling and Normalize are implemented, in that order;
 * any other (a Dense projection, say) changes the vector and is refused by name. Without the file
 * the library takes the mean of the tokens and does not normalise, and so does prepack.
 * max_seq_length of sentence_bert_config.json bounds the context, as the library cuts texts there.
 * A decoder's folder with that file is an embedder, too: then the last token's state is the vector.
 */
#include <stdio.h>
#include <string.h>

#include "llm_arch_internal.h"

/* The last part of a dotted class name, without case of the package it lives in. */
static const char *
class_name(const char *dotted)
{
	const char *dot = strrchr(dotted, '.');

	return dot != NULL ? dot + 1 : dotted;
}

/* A pooling of its new spelling, one word. */
static bool
pooling_of_word(const llm_json *mode, int *out)
{
	static const struct
	{
		const char *word;
		int pooling;
	} words[] = {{"cls", PP_POOL_CLS}, {"mean", PP_POOL_MEAN}, {"lasttoken", PP_POOL_LAST}};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
	{
		if (llm_json_is(mode, words[i].word))
		{
			*out = words[i].pooling;
			return true;
		}
	}
	return false;
}

/* A pooling of its old spelling, one flag a mode of which exactly one may be set. */
static bool
pooling_of_flags(const llm_json *config, int *out)
{
	static const struct
	{
		const char *key;
		int pooling;
	} flags[] = {{"pooling_mode_cls_token", PP_POOL_CLS},
	             {"pooling_mode_mean_tokens", PP_POOL_MEAN},
	             {"pooling_mode_lasttoken", PP_POOL_LAST},
	             {"pooling_mode_max_tokens", -1},
	             {"pooling_mode_mean_sqrt_len_tokens", -1},
	             {"pooling_mode_weightedmean_tokens", -1}};
	uint32_t n_set = 0;
	bool set;

	*out = -1;
	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
	{
		if (!llm_json_bool(llm_json_member(config, flags[i].key), &set) || !set)
			continue;
		*out = flags[i].pooling;
		n_set++;
	}
	return n_set == 1 && *out >= 0;
}

/*
 * Reads the configuration of the Pooling step. Its folder is named by modules.json; a path that
 * leaves the model's folder is llm_weights_json's to refuse.
 */
static void
read_pooling_step(arch_reader *r, const llm_json *module)
{
	const llm_json *config = NULL;
	const llm_json *mode;
	const char *path;
	size_t bytes;
	char file[256];
	bool ok;

	if (!llm_json_string(llm_json_member(module, "path"), &path, &bytes) || bytes > 200)
	{
		arch_fail(r, LLM_E_FORMAT, "modules.json: a path is missing or too long");
		return;
	}
	snprintf(file, sizeof(file), "%s/config.json", path);
	if ((r->status = llm_weights_json(r->w, file, &config, r->err)) != LLM_OK)
		return;
	mode = llm_json_member(config, "pooling_mode");
	ok = mode != NULL ? pooling_of_word(mode, &r->arch->pooling)
	                  : pooling_of_flags(config, &r->arch->pooling);
	if (!ok)
		arch_fail(r, LLM_E_UNSUPPORTED, "%s: this pooling is not implemented", file);
}

/* Reads one step. */
static void
read_module(arch_reader *r, const llm_json *module)
{
	const char *type = "";
	size_t bytes;

	llm_json_string(llm_json_member(module, "type"), &type, &bytes);
	type = class_name(type);
	if (strcmp(type, "Pooling") == 0)
		read_pooling_step(r, module);
	else if (strcmp(type, "Normalize") == 0)
		r->arch->l2_normalise = true;
	else if (strcmp(type, "Transformer") != 0)
		arch_fail(r, LLM_E_UNSUPPORTED, "modules.json: the step \"%.80s\" is not implemented",
		          type);
}

/* Goes through the steps in order. */
static void
read_modules(arch_reader *r, const llm_json *file)
{
	uint64_t max;

	r->arch->pooling = PP_POOL_MEAN;
	for (uint64_t i = 0; r->status == LLM_OK && i < llm_json_size(file); i++)
		read_module(r, llm_json_item(file, i));
	if (r->status != LLM_OK)
		return;
	r->status = llm_weights_json(r->w, "sentence_bert_config.json", &file, r->err);
	if (r->status == LLM_OK && llm_json_u64(llm_json_member(file, "max_seq_length"), &max) &&
	    max > 0 && max < r->arch->n_ctx)
		r->arch->n_ctx = (uint32_t) max;
}

/* An encoder's steps; without the file, the library's defaults. */
void
arch_read_hf_pooling(arch_reader *r)
{
	const llm_json *file = NULL;

	if ((r->status = llm_weights_json(r->w, "modules.json", &file, r->err)) == LLM_OK)
		read_modules(r, file);
}

/* A decoder's steps, which make it an embedder. */
void
arch_read_hf_embedder(arch_reader *r)
{
	const llm_json *file = NULL;

	if (r->status != LLM_OK ||
	    (r->status = llm_weights_json(r->w, "modules.json", &file, r->err)) != LLM_OK ||
	    file == NULL)
		return;
	r->arch->kind = LLM_KIND_EMBED;
	read_modules(r, file);
	if (r->arch->pooling != PP_POOL_LAST)
		arch_fail(r, LLM_E_UNSUPPORTED,
		          "modules.json: a decoder's pooling other than \"lasttoken\" is not implemented");
}
