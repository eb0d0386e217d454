/*
 * bench_gpu.c: speed of passes on a device, with random weights of the shapes of known models.
 *
 *     bench_gpu [--device cuda:0] [--model NAME] [--form FORM] [--work NAME] [--ops] [--any-bits]
 *
 * Nothing is loaded from files: every matrix of a model is made from one block of random bf16, so
 * that a shape of 8 billion parameters is there in seconds. A line is work, figure and unit with
 * tabs between. A figure is the median of five runs after two that warm up (algorithms,
 * recordings); each ends with a download, so nothing is left running when the clock stops.
 *
 * Works: "mix" prefills 32 prompts of lognormal lengths (median 160, sigma 1, 8 to 4,096) in one
 * pass and computes the logits of each last token; "padded", "sorted" the same with every prompt as
 * long as the longest (of its group of eight); "decode1", "decode64" are streams behind 128 and
 * 1,024 tokens that fetch their best token, "top64" and "logits64" the same and what sampling
 * fetches: the 64 best, all logits; "label" scores rows of 300 tokens by four columns; "shared"
 * rows of 60 tokens behind 240 in common; "trie" the same rows with a label trie of four nodes;
 * "embed" encodes rows of 60 tokens. "mmlu" is the prepacking paper's table: 512 questions
 * (lognormal lengths, median 48, sigma 0.9) in batches of 64, packed; "mmlu-padded", "mmlu-sorted"
 * as the paper's baselines. "load" makes matrices out of a mapped file for a second time. --ops
 * times single products instead; --any-bits lets a row's bits depend on its batch, which is what
 * batch invariance is measured against.
 *
 * Forms of the weights: bf16; q8_0, q4_0 and q4_k, which stay in their blocks; fp8. Without --form
 * all works are run in bf16, and mix, decode1 and decode64 of two shapes in the others as well.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "gpu_model.h"

#define N_RUNS     7
#define N_WARM     2
#define N_LABELS   4u
#define N_TRIE     4u
#define N_MIX      32u
#define N_MMLU     512u
#define MMLU_BATCH 64u
#define LOAD_PARTS 32u /* of 128 MiB */

/* Empties the batch and gives all pages back. */
static void
begin_batch(bench *b)
{
	b->batch = (llm_batch){.tokens = b->tokens, .pos = b->pos, .segs = b->segs, .rows = b->rows};
	b->next_page = 0;
	b->n_page_list = 0;
}

/* Adds a sequence: n_past tokens are there, n_new are computed; the last one's row is wanted. The
 * first n_shared pages are those of sequence 0. */
static void
add_segment(bench *b, uint32_t n_past, uint32_t n_new, uint32_t n_shared)
{
	llm_batch *batch = &b->batch;
	uint32_t n_pages = (n_past + n_new + b->page_tokens - 1) / b->page_tokens;
	uint32_t *pages = b->pages + b->n_page_list;

	if (batch->n_tokens + n_new > MAX_TOKENS || batch->n_segs == MAX_SEGS ||
	    (b->m->arch.decoder && b->next_page + n_pages > b->n_pages))
		fail("batch", "too large");
	for (uint32_t i = 0; i < n_pages; i++)
		pages[i] = i < n_shared ? i : b->next_page++;
	b->n_page_list += n_pages;
	b->segs[batch->n_segs++] = (pp_segment){.first_token = batch->n_tokens,
	                                        .n_new = n_new,
	                                        .n_past = n_past,
	                                        .pages = pages};
	for (uint32_t i = 0; i < n_new; i++)
	{
		b->tokens[batch->n_tokens + i] = (int32_t) (random_u32() % b->m->arch.n_vocab);
		b->pos[batch->n_tokens + i] = n_past + i;
	}
	batch->n_tokens += n_new;
	b->rows[batch->n_rows++] = batch->n_tokens - 1;
}

/*
 * Adds a trie behind the segment before, on its pages: two chains of a root; all rows are wanted.
 */
static void
add_trie(bench *b)
{
	static const int32_t parents[N_TRIE] = {-1, 0, 0, 1};
	static const uint32_t depths[N_TRIE] = {0, 1, 1, 2};
	llm_batch *batch = &b->batch;
	const pp_segment *chain = &b->segs[batch->n_segs - 1];
	pp_segment trie = {.first_token = batch->n_tokens,
	                   .n_new = N_TRIE,
	                   .n_past = chain->n_past + chain->n_new,
	                   .pages = chain->pages,
	                   .parent = parents};

	if (batch->n_tokens + N_TRIE > MAX_TOKENS || batch->n_segs == MAX_SEGS ||
	    batch->n_rows + N_TRIE > MAX_ROWS || trie.n_past % b->page_tokens + N_TRIE > b->page_tokens)
		fail("trie", "too large");
	b->segs[batch->n_segs++] = trie;
	for (uint32_t i = 0; i < N_TRIE; i++)
	{
		b->tokens[batch->n_tokens] = (int32_t) i;
		b->pos[batch->n_tokens] = trie.n_past + depths[i];
		b->rows[batch->n_rows++] = batch->n_tokens++;
	}
}

/* What is fetched of a pass. */
typedef enum head
{
	HEAD_COLUMNS, /* some columns */
	HEAD_LSE,     /* the same, and the log-sum-exp of all */
	HEAD_BEST,    /* the best token of each row */
	HEAD_TOP,     /* the 64 best and the sum of weights, as top-p wants them */
	HEAD_LOGITS   /* all logits */
} head;

/* One pass and its head. */
static void
run_pass(bench *b, head what)
{
	static const uint32_t cols[N_LABELS] = {17, 1009, 5003, 29989};
	static pp_top top[MAX_ROWS];
	uint32_t rows[MAX_ROWS];
	llm_status status;

	for (uint32_t i = 0; i < b->batch.n_rows; i++)
		rows[i] = i;
	if (!b->m->arch.decoder)
		status = llm_forward_encode(b->ws, &b->batch, b->out, &b->err);
	else if ((status = llm_forward_decode(b->ws, &b->batch, &b->err)) != LLM_OK)
		fail("pass", b->err.message);
	else if (what == HEAD_LOGITS)
		status = llm_forward_logits(b->ws, 0, b->batch.n_rows, b->out, &b->err);
	else if (what == HEAD_BEST || what == HEAD_TOP)
		status = llm_forward_top(b->ws, 0, b->batch.n_rows, what == HEAD_TOP ? PP_TOP_MAX : 1,
		                         what == HEAD_TOP ? 1.0f : 0.0f, top, &b->err);
	else
		status = llm_forward_columns(b->ws, rows, b->batch.n_rows, cols, N_LABELS, b->out,
		                             what == HEAD_LSE ? b->lse : NULL, &b->err);
	if (status != LLM_OK)
		fail("pass", b->err.message);
}

/* Orders doubles. */
static int
by_value(const void *a, const void *b)
{
	double x = *(const double *) a;
	double y = *(const double *) b;

	return (x > y) - (x < y);
}

/* The median seconds of the batch; n_steps passes a run, positions going on. */
static double
measure(bench *b, head what, uint32_t n_steps)
{
	double seconds[N_RUNS];

	for (int r = 0; r < N_RUNS; r++)
	{
		double start = now();

		for (uint32_t i = 0; i < n_steps; i++)
		{
			run_pass(b, what);
			for (uint32_t s = 0; n_steps > 1 && s < b->batch.n_segs; s++)
				b->pos[s] = ++b->segs[s].n_past;
		}
		seconds[r] = (now() - start) / n_steps;
		for (uint32_t s = 0; n_steps > 1 && s < b->batch.n_segs; s++)
			b->pos[s] = b->segs[s].n_past -= n_steps;
	}
	qsort(seconds + N_WARM, N_RUNS - N_WARM, sizeof(double), by_value);
	return seconds[N_WARM + (N_RUNS - N_WARM) / 2];
}

/* Where the normal distribution reaches p, by bisection. */
static double
normal_quantile(double p)
{
	double low = -8.0;
	double high = 8.0;

	for (int i = 0; i < 60; i++)
	{
		double mid = (low + high) / 2;

		if (0.5 * erfc(-mid / sqrt(2.0)) < p)
			low = mid;
		else
			high = mid;
	}
	return low;
}

/* The lengths of the mix, the same in every run: quantiles of the distribution, shuffled. */
static void
mix_lengths(uint32_t length[N_MIX])
{
	for (uint32_t i = 0; i < N_MIX; i++)
	{
		double z = normal_quantile(0.5 + (i / 2 + 0.5) / N_MIX);
		double n = 160.0 * exp(i % 2 == 0 ? z : -z);

		length[i] = (uint32_t) (n < 8 ? 8 : n > 4096 ? 4096 : n);
	}
	length[N_MIX - 2] = 1020; /* the tail that quantiles cut off */
}

/* The lengths of the questions; a step that shares no factor with their number shuffles them. */
static void
mmlu_lengths(uint32_t length[N_MMLU])
{
	for (uint32_t i = 0; i < N_MMLU; i++)
		length[i] =
		    (uint32_t) (48.0 * exp(0.9 * normal_quantile((i * 197u % N_MMLU + 0.5) / N_MMLU)));
}

/* Orders lengths. */
static int
by_length(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *) a;
	uint32_t y = *(const uint32_t *) b;

	return (x > y) - (x < y);
}

/* Prefills prompts in batches, packed or each padded to the longest of its batch. */
static void
work_prefill(bench *b, const char *name, const uint32_t *length, uint32_t n, uint32_t batch,
             bool padded)
{
	uint32_t n_real = 0;
	uint32_t n_computed = 0;
	double seconds = 0.0;

	for (uint32_t first = 0; first < n; first += batch)
	{
		uint32_t longest = 0;

		begin_batch(b);
		for (uint32_t i = first; i < first + batch; i++)
			longest = length[i] > longest ? length[i] : longest;
		for (uint32_t i = first; i < first + batch; i++)
		{
			add_segment(b, 0, padded ? longest : length[i], 0);
			n_real += length[i];
		}
		n_computed += b->batch.n_tokens;
		seconds += measure(b, HEAD_LSE, 1);
	}
	printf("%s/%s\t%.0f\treal tok/s\t%u real, %u computed, %.2f ms\n", b->m->arch.name, name,
	       n_real / seconds, n_real, n_computed, seconds * 1e3);
}

/* The mix: packed in one pass, padded to the longest, sorted and padded in groups of eight. */
static void
work_mix(bench *b, const char *name)
{
	uint32_t length[N_MIX];
	bool sorted = strcmp(name, "sorted") == 0;

	mix_lengths(length);
	if (sorted)
		qsort(length, N_MIX, sizeof(length[0]), by_length);
	work_prefill(b, name, length, N_MIX, sorted ? N_MIX / 4 : N_MIX, strcmp(name, "mix") != 0);
}

/* The prepacking paper's table. */
static void
work_mmlu(bench *b, const char *name)
{
	uint32_t length[N_MMLU];

	mmlu_lengths(length);
	if (strcmp(name, "mmlu-sorted") == 0)
		qsort(length, N_MMLU, sizeof(length[0]), by_length);
	work_prefill(b, name, length, N_MMLU, MMLU_BATCH, strcmp(name, "mmlu") != 0);
}

/* Makes matrices out of a mapped file whose pages are in memory, twice; the second time counts. */
static void
work_load(bench *b)
{
	const size_t part_bytes = b->n_block * sizeof(uint16_t);
	const uint32_t n_cols = 4096;
	pp_matrix *m[LOAD_PARTS];
	FILE *f = tmpfile();
	const uint8_t *map;
	double seconds = 0.0;

	for (uint32_t i = 0; f != NULL && i < LOAD_PARTS; i++)
		if (fwrite(b->block, 1, part_bytes, f) != part_bytes)
			fail("load", "cannot write the file");
	if (f == NULL || fflush(f) != 0 ||
	    (map = mmap(NULL, LOAD_PARTS * part_bytes, PROT_READ, MAP_PRIVATE, fileno(f), 0)) ==
	        MAP_FAILED)
		fail("load", "cannot map a file");
	for (int r = 0; r < 2; r++)
	{
		double start = now();

		for (uint32_t i = 0; i < LOAD_PARTS; i++)
		{
			pp_matrix_part part = {map + i * part_bytes, PP_BF16, (uint32_t) (b->n_block / n_cols),
			                       n_cols * sizeof(uint16_t), PP_SPLIT_NONE};

			m[i] = b->be->ops->matrix_create(b->be, &part, 1, n_cols, PP_PREC_NATIVE);
			if (m[i] == NULL)
				fail("load", b->be->message);
		}
		b->be->ops->sync(b->be);
		seconds = now() - start;
		for (uint32_t i = 0; i < LOAD_PARTS; i++)
			b->be->ops->matrix_destroy(b->be, m[i]);
	}
	munmap((void *) map, LOAD_PARTS * part_bytes);
	fclose(f);
	printf("load\t%.2f\tGB/s\t%.1f GB from the page cache, %.2f s\n",
	       1e-9 * (double) (LOAD_PARTS * part_bytes) / seconds,
	       1e-9 * (double) (LOAD_PARTS * part_bytes), seconds);
}

/* Bytes that a step must read: weights but for an embedding of its own, keys and values. */
static double
step_bytes(bench *b, uint32_t n_streams, uint32_t n_past)
{
	const llm_arch *a = &b->m->arch;
	const pp_attn *attn = &a->attn[0];
	pp_memory_info info;

	b->be->ops->memory_info(b->be, &info);
	return (double) info.bytes_weights -
	       (a->tied ? 0.0 : b->form->bytes_table * a->n_vocab * a->d_model) +
	       4.0 * n_streams * n_past * a->n_layers * attn->n_kv_heads * attn->d_head;
}

/* Streams that decode behind a context. */
static void
work_decode(bench *b, const char *name, uint32_t n_streams, uint32_t n_past, head what)
{
	double seconds;

	begin_batch(b);
	for (uint32_t i = 0; i < n_streams; i++)
		add_segment(b, n_past, 64, 0); /* room for the steps */
	for (uint32_t i = 0; i < n_streams; i++)
	{
		b->segs[i].first_token = b->rows[i] = i;
		b->segs[i].n_new = 1;
		b->pos[i] = n_past;
	}
	b->batch.n_tokens = n_streams;
	seconds = measure(b, what, 32);
	printf("%s/%s\t%.1f\ttok/s\t%u streams behind %u tokens, %.3f ms a step\n", b->m->arch.name,
	       name, n_streams / seconds, n_streams, n_past, seconds * 1e3);
	printf("%s/%s-bandwidth\t%.2f\tTB/s\tweights, keys and values once a step\n", b->m->arch.name,
	       name, 1e-12 * step_bytes(b, n_streams, n_past + 16) / seconds);
}

/* Rows scored by a few columns; n_shared tokens of them in common. */
static void
work_label(bench *b, const char *name, uint32_t n_shared, uint32_t n_own, uint32_t n_rows,
           bool trie)
{
	uint32_t n_whole = n_shared / b->page_tokens;
	double seconds[N_RUNS];

	if (n_shared > 0)
	{
		begin_batch(b);
		add_segment(b, 0, n_shared, 0);
		run_pass(b, HEAD_COLUMNS);
	}
	for (int r = 0; r < N_RUNS; r++)
	{
		double start = now();

		begin_batch(b);
		b->next_page = n_shared > 0 ? n_whole + 1 : 0;
		for (uint32_t i = 0; i < n_rows; i++)
		{
			add_segment(b, n_shared, n_own, n_whole);
			if (n_shared % b->page_tokens > 0 &&
			    b->be->ops->kv_copy(b->be, b->segs[b->batch.n_segs - 1].pages[n_whole], n_whole,
			                        n_shared % b->page_tokens) != PP_OK)
				fail("copy", b->be->message);
			if (trie)
				add_trie(b);
		}
		run_pass(b, HEAD_COLUMNS);
		seconds[r] = now() - start;
	}
	qsort(seconds + N_WARM, N_RUNS - N_WARM, sizeof(double), by_value);
	printf("%s/%s\t%.0f\trows/s\t%u rows of %u + %u tokens, %.2f ms\n", b->m->arch.name, name,
	       n_rows / seconds[4], n_rows, n_shared, n_own, seconds[4] * 1e3);
}

/* Rows embedded. */
static void
work_embed(bench *b, uint32_t n_own, uint32_t n_rows)
{
	double seconds;

	begin_batch(b);
	for (uint32_t i = 0; i < n_rows; i++)
		add_segment(b, 0, n_own, 0);
	seconds = measure(b, HEAD_COLUMNS, 1);
	printf("%s/embed\t%.0f\trows/s\t%u rows of %u tokens, %.3f ms\n", b->m->arch.name,
	       n_rows / seconds, n_rows, n_own, seconds * 1e3);
}

/* Seconds of one product, from 20 in a row. */
static void
time_product(bench *b, const shape *s, const char *name, uint32_t n, uint32_t k, uint32_t t)
{
	pp_matrix *w = make_matrix(b, n, k, b->form->precision);
	pp_act *x = b->be->ops->alloc(b->be, (size_t) t * k * b->be->act_bytes);
	pp_act *y = b->be->ops->alloc(b->be, (size_t) t * n * b->be->act_bytes);
	double start = 0;

	/* random numbers: zeros would run faster */
	for (size_t at = 0; at < (size_t) t * k; at += b->n_block)
	{
		size_t n_left = (size_t) t * k - at;

		b->be->ops->upload(b->be, (uint8_t *) x + at * b->be->act_bytes, b->block,
		                   (n_left < b->n_block ? n_left : b->n_block) * b->be->act_bytes);
	}
	for (int i = -3; i < 20; i++)
	{
		if (i == 0)
		{
			b->be->ops->sync(b->be);
			start = now();
		}
		if (b->be->ops->matmul(b->be, y, x, w, NULL, t) != PP_OK)
			fail("product", b->be->message);
	}
	b->be->ops->sync(b->be);
	start = (now() - start) / 20;
	printf("%s.%s/%s\t%.1f\tTFLOP/s\t%u x %u x %u, %.1f us, %.2f TB/s of weights\n", s->name,
	       b->form->name, name, 2e-12 * t * n * k / start, t, n, k, start * 1e6,
	       1e-12 * b->form->bytes_matrix * n * k / start);
	b->be->ops->release(b->be, x);
	b->be->ops->release(b->be, y);
	b->be->ops->matrix_destroy(b->be, w);
}

/* The four products of a layer at many sizes. */
static void
run_ops(bench *b, const shape *s)
{
	const uint32_t tokens[] = {1, 8, 32, 64, 128, 512, 2048, 8192};

	for (size_t i = 0; i < sizeof(tokens) / sizeof(tokens[0]); i++)
	{
		time_product(b, s, "qkv", (s->n_heads + 2 * s->n_kv) * s->d_head, s->d, tokens[i]);
		time_product(b, s, "out", s->d, s->n_heads * s->d_head, tokens[i]);
		time_product(b, s, "ffn_in", s->d_ff * (s->encoder ? 1 : 2), s->d, tokens[i]);
		time_product(b, s, "ffn_out", s->d, s->d_ff, tokens[i]);
	}
}

/* Whether a work was asked for. */
static bool
wanted(const char *asked, const char *name)
{
	return asked == NULL || strcmp(asked, name) == 0;
}

/* All works of a shape in a form. */
static void
run_shape(bench *b, const shape *s, const char *work)
{
	static const char *const paddings[] = {"padded", "sorted"};
	static const char *const tables[] = {"mmlu", "mmlu-padded", "mmlu-sorted"};
	const bool brief = b->form != forms;

	open_model(b, s);
	if (!s->encoder && wanted(work, "mix"))
		work_mix(b, "mix");
	for (int i = 0; i < 2; i++)
		if (!s->encoder && !brief && s->d <= 1536 && wanted(work, paddings[i]))
			work_mix(b, paddings[i]);
	for (int i = 0; i < 3; i++)
		if (!brief && s->d == 2048 && wanted(work, tables[i]))
			work_mmlu(b, tables[i]);
	if (!s->encoder && wanted(work, "decode1"))
		work_decode(b, "decode1", 1, 128, HEAD_BEST);
	if (!s->encoder && wanted(work, "decode64"))
		work_decode(b, "decode64", 64, 1024, HEAD_BEST);
	if (!s->encoder && !brief && wanted(work, "top64"))
		work_decode(b, "top64", 64, 1024, HEAD_TOP);
	if (!s->encoder && !brief && wanted(work, "logits64"))
		work_decode(b, "logits64", 64, 1024, HEAD_LOGITS);
	if (!s->encoder && !brief && s->d <= 1536 && wanted(work, "label"))
		work_label(b, "label", 0, 300, 54, false);
	if (!s->encoder && !brief && s->d <= 1536 && wanted(work, "shared"))
		work_label(b, "shared", 240, 60, 272, false);
	if (!s->encoder && !brief && s->d <= 1536 && wanted(work, "trie"))
		work_label(b, "trie", 240, 60, 204, true);
	if (s->encoder && wanted(work, "embed"))
		work_embed(b, 60, 512);
	fflush(stdout);
	close_model(b);
}

/* Whether the device takes a form; says why not. */
static bool
form_taken(bench *b)
{
	const uint64_t row_bytes = 256 / b->form->weights * b->form->bytes;
	const pp_matrix_part part = {b->block, b->form->type, 64, row_bytes, PP_SPLIT_NONE};
	pp_matrix *m = b->be->ops->matrix_create(b->be, &part, 1, 256, b->form->precision);

	if (m == NULL)
		fprintf(stderr, "bench_gpu: no %s: %s\n", b->form->name, b->be->message);
	else
		b->be->ops->matrix_destroy(b->be, m);
	return m != NULL;
}

/*
 * A shape in a form, if it is wanted: in forms other than bf16 two shapes are, unless one is named.
 */
static void
run_form(bench *b, const shape *s, const char *asked, const char *work, bool ops)
{
	const bool usual = b->form == forms || (!ops && (s == &shapes[0] || s == &shapes[3]));

	if (asked == NULL ? !usual : strcmp(asked, b->form->name) != 0)
		return;
	if (!form_taken(b))
		return;
	make_quants(b);
	if (ops)
		run_ops(b, s);
	else
		run_shape(b, s, work);
}

/* Reads the command line, runs what it names. */
int
main(int argc, char **argv)
{
	static bench b;
	const char *device = "cuda:0";
	const char *model = NULL;
	const char *work = NULL;
	const char *form_name = NULL;
	bool ops = false;
	bool any_bits = false;

	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], "--ops") == 0)
			ops = true;
		else if (strcmp(argv[i], "--any-bits") == 0)
			any_bits = true;
		else if (i + 1 < argc && strcmp(argv[i], "--device") == 0)
			device = argv[++i];
		else if (i + 1 < argc && strcmp(argv[i], "--model") == 0)
			model = argv[++i];
		else if (i + 1 < argc && strcmp(argv[i], "--form") == 0)
			form_name = argv[++i];
		else if (i + 1 < argc && strcmp(argv[i], "--work") == 0)
			work = argv[++i];
		else
			fail(argv[i], "unknown argument");
	if (llm_device_open(device, 0, &b.be, &b.err) != LLM_OK)
		fail(device, b.err.message);
	b.be->any_bits = any_bits;
	b.n_block = (size_t) 64 << 20;
	b.block = malloc(b.n_block * sizeof(*b.block));
	b.out = malloc((size_t) 64 * 151936 * sizeof(float));
	b.lse = malloc(MAX_ROWS * sizeof(float));
	if (b.block == NULL || b.out == NULL || b.lse == NULL)
		fail("start", "out of memory");
	/* ± 2^-6 … 2^-5: what a layer gives stays of the size of what it gets */
	for (size_t i = 0; i < b.n_block; i++)
		b.block[i] = (uint16_t) (0x3c80u | (random_u32() & 0x807fu));
	if (model == NULL && !ops && wanted(work, "load"))
		work_load(&b);
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
		for (size_t f = 0; f < sizeof(forms) / sizeof(forms[0]); f++)
			if (model == NULL || strcmp(model, shapes[i].name) == 0)
			{
				b.form = &forms[f];
				run_form(&b, &shapes[i], form_name, work, ops);
			}
	return 0;
}
