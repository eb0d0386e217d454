/*
 * model_fixture.h: what the tests of models share: the reference files and running sequences alone.
 *
 * reference.bin is written by scripts/make-model-fixtures.py, which describes it. Sequences run in
 * pages of a pool that the fixture creates: sequence i owns pages i * pages_per_seq and following.
 *
 * With PREPACK_TEST_DEVICE=cuda:0 the same tests run on that device in its own precision, where the
 * test asks for one of the CPU's: bits must agree there as well, values up to the rounding of bf16.
 */
#ifndef MODEL_FIXTURE_H
#define MODEL_FIXTURE_H

#include <math.h>

#include "../src/llm/llm_alloc.h"
#include "../src/llm/llm_device.h"
#include "../src/llm/llm_forward.h"
#include "test.h"

#define REFERENCE_MAGIC   0x46525050u
#define REFERENCE_SEQ_MAX 8

typedef struct reference_seq
{
	uint32_t n;
	const int32_t *tokens;
	const uint32_t *types;
	const float *hidden; /* [n_layers + 1, n, d] */
	const float *out;    /* decoders [n, n_out], encoders [n_out] */
} reference_seq;

typedef struct reference
{
	void *bytes;
	uint32_t n_seqs, n_layers, d, n_out;
	reference_seq seqs[REFERENCE_SEQ_MAX];
} reference;

/* Reads a whole file into malloc'd memory; NULL when there is none. */
static inline void *
fixture_read_file(const char *path, size_t *bytes)
{
	FILE *file = fopen(path, "rb");
	char *data;

	if (file == NULL)
		return NULL;
	fseek(file, 0, SEEK_END);
	*bytes = (size_t) ftell(file);
	rewind(file);
	data = malloc(*bytes + 1);
	if (data != NULL && fread(data, 1, *bytes, file) != *bytes)
	{
		free(data);
		data = NULL;
	}
	fclose(file);
	if (data != NULL)
		data[*bytes] = '\0';
	return data;
}

/* Reads reference.bin of a model's folder. */
static inline bool
reference_read(const char *folder, bool decoder, reference *ref)
{
	char path[256];
	size_t bytes;
	uint32_t *head;
	uint32_t *at;

	snprintf(path, sizeof(path), "%s/reference.bin", folder);
	if ((ref->bytes = fixture_read_file(path, &bytes)) == NULL)
		return false;
	head = ref->bytes;
	if (bytes < 20 || head[0] != REFERENCE_MAGIC || head[1] > REFERENCE_SEQ_MAX)
		return false;
	ref->n_seqs = head[1];
	ref->n_layers = head[2];
	ref->d = head[3];
	ref->n_out = head[4];
	at = head + 5;
	for (uint32_t i = 0; i < ref->n_seqs; i++)
	{
		reference_seq *seq = &ref->seqs[i];

		seq->n = *at++;
		seq->tokens = (const int32_t *) at;
		seq->types = at + seq->n;
		seq->hidden = (const float *) (at + 2 * seq->n);
		seq->out = seq->hidden + (size_t) (ref->n_layers + 1) * seq->n * ref->d;
		at = (uint32_t *) (uintptr_t) (seq->out + (size_t) (decoder ? seq->n : 1) * ref->n_out);
	}
	return (char *) at == (char *) ref->bytes + bytes;
}

/* A model ready to run: backend, workspace, pages. */
typedef struct fixture
{
	pp_backend *be;
	llm_model *m;
	llm_workspace *ws;
	bool has_kv;
	uint32_t pages_per_seq;
	uint32_t *pages; /* [n_seqs * pages_per_seq], the identity */
} fixture;

/* Frees what is there. */
static inline void
fixture_close(fixture *f)
{
	llm_workspace_free(f->ws);
	if (f->has_kv)
		f->be->ops->kv_destroy(f->be);
	llm_model_free(f->m);
	if (f->be != NULL)
		f->be->ops->destroy(f->be);
	free(f->pages);
	memset(f, 0, sizeof(*f));
}

/* The device that is tested: NULL is the CPU. */
static inline const char *
fixture_device(void)
{
	return getenv("PREPACK_TEST_DEVICE");
}

/* Loads a model onto f->be, which is there, for a context (0: its own) and makes room for n_seqs
 * sequences of n_ctx tokens. */
static inline bool
fixture_load(fixture *f, const char *path, pp_precision precision, uint32_t context,
             uint32_t n_seqs, uint32_t n_ctx, uint32_t max_tokens, llm_error *err)
{
	uint32_t n_pages;

	if (llm_model_load(path, f->be, precision, context, &f->m, err) != LLM_OK ||
	    llm_workspace_create(f->m, max_tokens, max_tokens, &f->ws, err) != LLM_OK)
		return false;
	f->pages_per_seq =
	    (n_ctx + f->be->ops->kv_page_tokens(f->be) - 1) / f->be->ops->kv_page_tokens(f->be);
	n_pages = f->pages_per_seq * n_seqs;
	if ((f->pages = malloc(n_pages * sizeof(uint32_t))) == NULL)
		return false;
	for (uint32_t i = 0; i < n_pages; i++)
		f->pages[i] = i;
	if (!f->m->arch.decoder)
		return true;
	f->has_kv = f->be->ops->kv_create(f->be, f->m->arch.attn, f->m->arch.n_layers, n_pages,
	                                  precision) == PP_OK;
	return f->has_kv;
}

/* The same on the device that is tested. */
static inline bool
fixture_open_for(fixture *f, const char *path, pp_precision precision, uint32_t context,
                 uint32_t n_seqs, uint32_t n_ctx, uint32_t max_tokens, llm_error *err)
{
	memset(f, 0, sizeof(*f));
	if (fixture_device() != NULL && precision < PP_PREC_NATIVE)
		precision = PP_PREC_NATIVE;
	return llm_device_open(fixture_device() != NULL ? fixture_device() : "cpu", 0, &f->be, err) ==
	           LLM_OK &&
	       fixture_load(f, path, precision, context, n_seqs, n_ctx, max_tokens, err);
}

/* The same with the model's own context. */
static inline bool
fixture_open(fixture *f, const char *path, pp_precision precision, uint32_t n_seqs, uint32_t n_ctx,
             uint32_t max_tokens, llm_error *err)
{
	return fixture_open_for(f, path, precision, 0, n_seqs, n_ctx, max_tokens, err);
}

/* Runs n tokens of sequence seq after n_past others; logits of all of them (of an
 * embedder: the last one's state) into out (NULL: not wanted). */
static inline llm_status
fixture_decode(fixture *f, uint32_t seq, uint32_t n_past, const int32_t *tokens, uint32_t n,
               float *out, llm_error *err)
{
	uint32_t *pos = malloc(n * sizeof(uint32_t));
	uint32_t *rows = malloc(n * sizeof(uint32_t));
	pp_segment seg = {.n_new = n, .n_past = n_past, .pages = f->pages + seq * f->pages_per_seq};
	llm_batch batch = {.n_tokens = n, .tokens = tokens, .pos = pos, .n_segs = 1, .segs = &seg};
	llm_status status;

	for (uint32_t i = 0; i < n; i++)
	{
		pos[i] = n_past + i;
		rows[i] = i;
	}
	batch.n_rows = out != NULL ? n : 0;
	batch.rows = rows;
	status = llm_forward_decode(f->ws, &batch, err);
	if (status == LLM_OK && out != NULL && f->m->arch.kind == LLM_KIND_EMBED)
		status = llm_forward_states(f->ws, &rows[n - 1], 1, out, err);
	else if (status == LLM_OK && out != NULL)
		status = llm_forward_logits(f->ws, 0, n, out, err);
	free(pos);
	free(rows);
	return status;
}

/* Runs one text through an encoder. */
static inline llm_status
fixture_encode(fixture *f, const int32_t *tokens, const uint32_t *types, uint32_t n, float *out,
               llm_error *err)
{
	uint32_t *pos = malloc(n * sizeof(uint32_t));
	pp_segment seg = {.n_new = n};
	llm_batch batch = {
	    .n_tokens = n, .tokens = tokens, .pos = pos, .types = types, .n_segs = 1, .segs = &seg};
	llm_status status;

	for (uint32_t i = 0; i < n; i++)
		pos[i] = i;
	status = llm_forward_encode(f->ws, &batch, out, err);
	free(pos);
	return status;
}

/* Normalised mean squared error. */
static inline double
fixture_nmse(const float *got, const float *want, size_t n)
{
	double error = 0.0;
	double power = 0.0;

	for (size_t i = 0; i < n; i++)
	{
		error += ((double) got[i] - want[i]) * ((double) got[i] - want[i]);
		power += (double) want[i] * want[i];
	}
	return power > 0.0 ? error / power : error;
}

/* The index of the largest of n; the first of equals. */
static inline uint32_t
fixture_argmax(const float *x, uint32_t n)
{
	uint32_t best = 0;

	for (uint32_t i = 1; i < n; i++)
		if (x[i] > x[best])
			best = i;
	return best;
}

/* The path of a real model: $PREPACK_MODELS/name or models/name. NULL when it is not there. */
static inline const char *
fixture_model(const char *name)
{
	static char path[512];
	const char *root = getenv("PREPACK_MODELS");
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", root != NULL ? root : "models", name);
	if ((file = fopen(path, "rb")) == NULL)
		return NULL;
	fclose(file);
	return path;
}

#endif /* MODEL_FIXTURE_H */
