/*
 * llm_model_internal.h: the names that tensors have in files, as data.
 *
 * The loader asks for slots ("the query matrix of layer 3"); a scheme, one per file format and
 * group of families, says what the tensor of a slot is called.
 */
#ifndef LLM_MODEL_INTERNAL_H
#define LLM_MODEL_INTERNAL_H

#include "llm_model.h"

#define MODEL_NAME_MAX 128

typedef enum model_slot
{
	SLOT_EMBED,
	SLOT_POS,
	SLOT_TYPES,
	SLOT_EMBED_NORM,
	SLOT_FINAL_NORM,
	SLOT_HEAD,
	SLOT_CLS_DENSE,
	SLOT_CLS_NORM,
	SLOT_CLS_OUT,
	/* of a layer */
	SLOT_ATTN_NORM,
	SLOT_ATTN_POST_NORM,
	SLOT_FFN_NORM,
	SLOT_FFN_POST_NORM,
	SLOT_Q,
	SLOT_K,
	SLOT_V,
	SLOT_QKV,
	SLOT_Q_NORM,
	SLOT_K_NORM,
	SLOT_ATTN_OUT,
	SLOT_GATE,
	SLOT_UP,
	SLOT_GATE_UP,
	SLOT_FFN_OUT,
	SLOT_COUNT
} model_slot;

/* The names of a group of families in one format, and the prefix found in the file at hand. */
typedef struct model_names model_names;

/* The scheme of a model; *prefix gets what its weights file puts before the names marked so. */
const model_names *model_names_of(const llm_weights *w, const llm_arch *arch, const char **prefix);
/* The name of a slot's tensor, suffix (".weight") included; false when the scheme has none. */
bool model_name(const model_names *names, const char *prefix, model_slot slot, uint32_t layer,
                const char *suffix, char out[MODEL_NAME_MAX]);
/* May a tensor that no slot asked for be left aside? */
bool model_name_is_inert(const llm_arch *arch, const char *name);

/* The chat template that the files carry; *text is for llm_free, NULL when there is none. */
llm_status model_chat_template(llm_weights *w, char **text, size_t *bytes, llm_error *err);

#endif /* LLM_MODEL_INTERNAL_H */
