/*
 * plan.cu: the plan of a pass, and the recordings of passes.
 *
 * pass_begin lays everything that the kernels of the pass read besides activations end to end in
 * pinned memory and sends it in one copy: positions, where each token's keys go, segments, pages,
 * kin of trees, the work lists of attention. A list's place depends on the bounds of the lists
 * before it; pages and kin, whose lengths have no bound, share the last one. So two passes with
 * equal bounds have their plans at the same addresses.
 *
 * Small passes of decoders (a decode step, a chain of drafts) are recorded: bounds are rounded up
 * to powers of two, the first pass with a set of bounds runs plainly (which grows all scratch), the
 * second is captured in a graph, later ones upload their plan and launch that graph. Rows beyond
 * the real counts are computed on token 0 and written nowhere that is read.
 *
 * A label trie behind its prompt is two segments of the pass. Where the prompt's last tile has room
 * attention gets one more, which is both (joined below): its tree then costs nothing.
 *
 * Which bounds a pass had shows in no bit: kernels treat rows and items one by one.
 */
#include <string.h>

#include "cuda.cuh"

#define RECORD_TOKENS 128u /* the largest pass that is recorded */
#define RECORD_ITEMS  4096u

/* Where a list begins, in bytes, as the plan is laid out. */
struct layout
{
	size_t counts, tokens, pos, token_seg, token_kv, rows, segs, prefill, decode, simple, merge;
	size_t words, end;
};

/* What the pass needs, exact or as bounds. */
struct sizes
{
	uint32_t tokens, rows, segs, prefill, decode, simple, merge;
	uint32_t words;
};

/* Takes n elements at an aligned offset. */
static size_t
take(size_t *end, size_t n, size_t element)
{
	size_t at = (*end + 255) / 256 * 256;

	*end = at + n * element;
	return at;
}

/* Lays out a plan. */
static layout
lay_out(const sizes *n)
{
	layout l;
	size_t end = 0;

	l.counts = take(&end, 1, sizeof(cuda_counts));
	l.tokens = take(&end, n->tokens, 4);
	l.pos = take(&end, n->tokens, 4);
	l.token_seg = take(&end, n->tokens, 4);
	l.token_kv = take(&end, n->tokens, 4);
	l.rows = take(&end, n->rows, 4);
	l.segs = take(&end, n->segs, sizeof(cuda_seg));
	l.prefill = take(&end, n->prefill, sizeof(cuda_item));
	l.decode = take(&end, n->decode, sizeof(cuda_item));
	l.simple = take(&end, n->simple, sizeof(cuda_item));
	l.merge = take(&end, n->merge, sizeof(cuda_item));
	l.words = take(&end, n->words, 4);
	l.end = end;
	return l;
}

/* The smallest power of two that is at least n; 0 stays 0. */
static uint32_t
power_of_two(uint32_t n)
{
	uint32_t p = 1;

	while (p < n)
		p *= 2;
	return n == 0 ? 0 : p;
}

/* Whether keys and values go to pages. */
static bool
is_causal(const pp_pass *pass)
{
	return pass->n_layers > 0 && pass->attn[0].causal;
}

/* Which list a segment's attention goes by. */
enum route
{
	ROUTE_PREFILL,
	ROUTE_DECODE,
	ROUTE_SIMPLE
};

/* A route that every layer takes: what no fast kernel has goes the simple way. */
static route
route_of(const pp_cuda *cu, const pp_pass *pass, const pp_segment *s)
{
	bool prefill = true;
	bool decode = is_causal(pass) && s->n_new <= PP_CUDA_DECODE_MAX;

	for (uint32_t i = 0; i < pass->n_layers; i++)
	{
		if (s->parent != NULL && !cuda_tree_takes(&pass->attn[i], s->n_new))
			return ROUTE_SIMPLE;
		prefill = prefill && cuda_prefill_takes(cu, &pass->attn[i]);
		decode = decode && cuda_decode_takes(cu, &pass->attn[i]);
	}
	if (decode)
		return ROUTE_DECODE;
	return prefill ? ROUTE_PREFILL : ROUTE_SIMPLE;
}

/*
 * Whether segment s + 1 is a tree behind the chain s, best computed in the tiles of it. The first
 * layer decides for all: bits do not hang on it.
 */
static bool
joins(const pp_cuda *cu, const pp_pass *pass, uint32_t s)
{
	const pp_segment *chain = &pass->segs[s];
	const pp_segment *tree = chain + 1;

	return s + 1 < pass->n_segs && chain->parent == NULL && tree->parent != NULL &&
	       tree->n_new > 0 && tree->pages == chain->pages &&
	       tree->n_past == chain->n_past + chain->n_new &&
	       tree->first_token == chain->first_token + chain->n_new &&
	       route_of(cu, pass, chain) == ROUTE_PREFILL && route_of(cu, pass, tree) != ROUTE_SIMPLE &&
	       cuda_prefill_joins(&pass->attn[0], chain->n_new, tree->n_new);
}

/* A chain and the tree behind it as one. */
static pp_segment
joined(const pp_segment *chain)
{
	return pp_segment{chain->first_token, chain->n_new + chain[1].n_new, chain->n_past,
	                  chain->pages, NULL};
}

/* Rows of one job share their trie: its kin stands in the plan once for neighbours. */
static bool
has_own_kin(const pp_segment *seg, const pp_segment *before)
{
	return seg->parent != NULL && seg->n_new > 0 &&
	       (before == NULL || before->parent != seg->parent || before->n_new != seg->n_new);
}

/* Bounds of the lists: from counts of tokens and segments alone. */
static void
count(const pp_cuda *cu, const pp_pass *pass, sizes *n)
{
	uint32_t n_ctx = 0;
	uint32_t prefill_tokens = 0, prefill_segs = 0, decode_segs = 0;
	const pp_segment *tree = NULL;

	*n = sizes();
	n->tokens = pass->n_tokens;
	n->rows = pass->n_rows;
	n->segs = pass->n_segs;
	for (uint32_t s = 0; s < pass->n_segs; s++)
	{
		const pp_segment *seg = &pass->segs[s];
		uint32_t slots = seg->n_past + seg->n_new;
		route way = route_of(cu, pass, seg);

		if (is_causal(pass))
			n->words += (slots + PP_CUDA_PAGE - 1) / PP_CUDA_PAGE;
		if (has_own_kin(seg, tree))
			n->words += seg->n_new * cuda_kin_words(seg->n_new);
		tree = seg->parent != NULL ? seg : tree;
		if (joins(cu, pass, s))
			n->segs++;
		else if (s > 0 && joins(cu, pass, s - 1))
			way = ROUTE_PREFILL; /* its tokens, in the items of the chain */
		switch (way)
		{
			case ROUTE_PREFILL:
				prefill_tokens += seg->n_new;
				prefill_segs++;
				break;
			case ROUTE_DECODE:
				decode_segs++;
				n_ctx = slots > n_ctx ? slots : n_ctx;
				break;
			case ROUTE_SIMPLE:
				n->simple += seg->n_new;
				break;
		}
	}
	n->prefill = prefill_segs > 0 ? cuda_prefill_items_max(prefill_tokens, prefill_segs) : 0;
	n->decode = decode_segs > 0 ? cuda_decode_items_max(decode_segs, power_of_two(n_ctx)) : 0;
	n->merge = decode_segs;
}

/* Rounds the bounds up and says whether the pass may be recorded. */
static bool
round_up(const pp_pass *pass, sizes *n)
{
	sizes r = *n;

	if (pass->owner == NULL || !is_causal(pass) || pass->n_tokens == 0 ||
	    pass->n_tokens > RECORD_TOKENS)
		return false;
	r.tokens = power_of_two(n->tokens);
	r.rows = power_of_two(n->rows);
	r.segs = power_of_two(n->segs);
	r.prefill = power_of_two(n->prefill);
	r.decode = power_of_two(n->decode);
	r.simple = power_of_two(n->simple);
	r.merge = power_of_two(n->merge);
	if (r.tokens > pass->max_tokens || r.rows > pass->max_rows || r.prefill > RECORD_ITEMS ||
	    r.decode > RECORD_ITEMS)
		return false;
	*n = r;
	return true;
}

/* Writes what is told of single tokens. */
static void
write_tokens(const pp_pass *pass, const sizes *n, const layout *l, uint8_t *to)
{
	int32_t *tokens = (int32_t *) (to + l->tokens);
	uint32_t *pos = (uint32_t *) (to + l->pos);
	uint32_t *token_seg = (uint32_t *) (to + l->token_seg);
	uint32_t *token_kv = (uint32_t *) (to + l->token_kv);
	uint32_t *rows = (uint32_t *) (to + l->rows);

	for (uint32_t t = 0; t < n->tokens; t++)
	{
		tokens[t] = t < pass->n_tokens && pass->tokens != NULL ? pass->tokens[t] : 0;
		pos[t] = t < pass->n_tokens ? pass->pos[t] : 0;
		token_seg[t] = token_kv[t] = PP_CUDA_NONE;
	}
	for (uint32_t r = 0; r < n->rows; r++)
		rows[r] = r < pass->n_rows ? pass->rows[r] : 0;
	for (uint32_t s = 0; s < pass->n_segs; s++)
	{
		const pp_segment *seg = &pass->segs[s];

		for (uint32_t i = 0; i < seg->n_new; i++)
		{
			uint32_t slot = seg->n_past + i;

			token_seg[seg->first_token + i] = s;
			if (is_causal(pass))
				token_kv[seg->first_token + i] =
				    seg->pages[slot / PP_CUDA_PAGE] * PP_CUDA_PAGE + slot % PP_CUDA_PAGE;
		}
	}
}

/* Writes segments, pages, kin; behind the segments of the pass those that are two of them. */
static void
write_segments(const pp_cuda *cu, const pp_pass *pass, const layout *l, uint8_t *to)
{
	cuda_seg *segs = (cuda_seg *) (to + l->segs);
	uint32_t *words = (uint32_t *) (to + l->words);
	const pp_segment *tree = NULL;
	uint32_t n_words = 0;
	uint32_t n_joined = 0;
	uint32_t kin0 = 0;

	for (uint32_t s = 0; s < pass->n_segs; s++)
	{
		const pp_segment *seg = &pass->segs[s];
		uint32_t n =
		    is_causal(pass) ? (seg->n_past + seg->n_new + PP_CUDA_PAGE - 1) / PP_CUDA_PAGE : 0;

		segs[s] = cuda_seg{seg->first_token, seg->n_new, seg->n_past, n_words, seg->n_new, 0};
		if (n > 0)
			memcpy(words + n_words, seg->pages, n * sizeof(*words));
		n_words += n;
		if (has_own_kin(seg, tree))
		{
			kin0 = n_words;
			cuda_kin_fill(words + kin0, seg->parent, seg->n_new);
			n_words += seg->n_new * cuda_kin_words(seg->n_new);
		}
		if (seg->parent == NULL)
			continue;
		tree = seg;
		segs[s].n_chain = 0;
		segs[s].kin0 = kin0;
		if (s == 0 || !joins(cu, pass, s - 1))
			continue;
		cuda_seg *both = &segs[pass->n_segs + n_joined++];

		*both = segs[s];
		both->first_token = seg[-1].first_token;
		both->n_new += seg[-1].n_new;
		both->n_past = seg[-1].n_past;
		both->n_chain = seg[-1].n_new;
	}
}

/* Puts the items with the most keys first, so that none of them begins when all others are done. */
static void
sort_by_cost(cuda_item *items, uint32_t n)
{
	/* counting sort by the logarithm of the work: exact order does not matter */
	uint32_t starts[65] = {0};
	cuda_item *sorted = n > 1 ? new (std::nothrow) cuda_item[n] : NULL;

	if (sorted == NULL)
		return;
	for (int place = 0; place < 2; place++)
	{
		for (uint32_t i = 0; i < n; i++)
		{
			uint64_t work = (uint64_t) (items[i].k1 - items[i].k0) * (items[i].n_q + 1) + 1;
			uint32_t bucket = (uint32_t) __builtin_clzll(work);

			if (place == 0)
				starts[bucket + 1]++;
			else
				sorted[starts[bucket]++] = items[i];
		}
		for (int b = 0; place == 0 && b < 64; b++)
			starts[b + 1] += starts[b];
	}
	memcpy(items, sorted, n * sizeof(*items));
	delete[] sorted;
}

/* Writes the work lists of attention and the counts; false: a list is longer than its bound. */
static bool
write_items(pp_cuda *cu, const pp_pass *pass, const sizes *n, const layout *l, uint8_t *to)
{
	cuda_counts *c = (cuda_counts *) (to + l->counts);
	cuda_item *prefill = (cuda_item *) (to + l->prefill);
	cuda_item *decode = (cuda_item *) (to + l->decode);
	cuda_item *simple = (cuda_item *) (to + l->simple);
	cuda_item *merge = (cuda_item *) (to + l->merge);
	uint32_t n_partial = 0;
	uint32_t n_joined = 0;

	*c = cuda_counts();
	c->n_tokens = pass->n_tokens;
	c->n_segs = pass->n_segs;
	c->n_rows = pass->n_rows;
	for (uint32_t s = 0; s < pass->n_segs; s++)
	{
		const pp_segment *seg = &pass->segs[s];
		route way = seg->n_new > 0 ? route_of(cu, pass, seg) : ROUTE_SIMPLE;
		uint32_t k1 = seg->n_past + seg->n_new;

		if (joins(cu, pass, s))
		{
			pp_segment both = joined(seg);

			c->n_prefill += cuda_prefill_plan(prefill + c->n_prefill, n->prefill - c->n_prefill,
			                                  pass->n_segs + n_joined++, &both, true);
			s++;
		}
		else if (way == ROUTE_PREFILL)
			c->n_prefill += cuda_prefill_plan(prefill + c->n_prefill, n->prefill - c->n_prefill, s,
			                                  seg, is_causal(pass));
		else if (way == ROUTE_DECODE)
		{
			uint32_t made = cuda_decode_plan(decode + c->n_decode, n->decode - c->n_decode, s, seg);

			for (uint32_t i = 0; i < made; i++)
				decode[c->n_decode + i].partial = made > 1 ? n_partial + i : PP_CUDA_NONE;
			if (made > 1)
			{
				merge[c->n_merge++] =
				    cuda_item{s, 0, seg->n_new, n_partial, n_partial + made, PP_CUDA_NONE};
				n_partial += made;
			}
			c->n_decode += made;
		}
		else
			for (uint32_t i = 0; i < seg->n_new; i++)
				simple[c->n_simple++] = cuda_item{s, i, 1, 0, k1, PP_CUDA_NONE};
	}
	if (c->n_prefill > n->prefill || c->n_decode > n->decode || c->n_simple > n->simple ||
	    c->n_merge > n->merge)
		return false;
	sort_by_cost(prefill, c->n_prefill);
	return true;
}

/* Points the plan into the device's copy. */
static void
point(cuda_plan *p, const uint8_t *at, const layout *l, const sizes *n)
{
	p->counts = (const cuda_counts *) (at + l->counts);
	p->tokens = (const int32_t *) (at + l->tokens);
	p->pos = (const uint32_t *) (at + l->pos);
	p->token_seg = (const uint32_t *) (at + l->token_seg);
	p->token_kv = (const uint32_t *) (at + l->token_kv);
	p->rows = (const uint32_t *) (at + l->rows);
	p->segs = (const cuda_seg *) (at + l->segs);
	p->words = (const uint32_t *) (at + l->words);
	p->prefill = (const cuda_item *) (at + l->prefill);
	p->decode = (const cuda_item *) (at + l->decode);
	p->simple = (const cuda_item *) (at + l->simple);
	p->merge = (const cuda_item *) (at + l->merge);
	p->max_tokens = n->tokens;
	p->max_rows = n->rows;
	p->max_prefill = n->prefill;
	p->max_decode = n->decode;
	p->max_simple = n->simple;
	p->max_merge = n->merge;
}

/* Builds the plan and sends it. */
static pp_result
send_plan(pp_cuda *cu, const pp_pass *pass, const sizes *n)
{
	layout l = lay_out(n);
	uint8_t *device = (uint8_t *) cuda_scratch(cu, CUDA_SCRATCH_PLAN, l.end);
	uint8_t *host;

	/* the copy of the plan before must have left the buffer */
	if (device == NULL || cuda_check(cu, cudaEventSynchronize(cu->planned), "plan") != PP_OK ||
	    !cuda_pinned(cu, &cu->pinned, l.end))
		return cu->failed ? PP_E_DEVICE : PP_E_NOMEM;
	host = (uint8_t *) cu->pinned.data;
	write_tokens(pass, n, &l, host);
	write_segments(cu, pass, &l, host);
	if (!write_items(cu, pass, n, &l, host))
		return cuda_fail(cu, PP_E_UNSUPPORTED, "the work of a pass is beyond its bounds");
	point(&cu->plan, device, &l, n);
	if (cuda_check(cu, cudaMemcpyAsync(device, host, l.end, cudaMemcpyHostToDevice, cu->stream),
	               "plan") != PP_OK)
		return PP_E_DEVICE;
	return cuda_check(cu, cudaEventRecord(cu->planned, cu->stream), "plan");
}

/* The recording of a pass with these bounds; a new entry when there is none, NULL when full. */
static cuda_graph *
find_graph(pp_cuda *cu, const pp_pass *pass, const sizes *n)
{
	cuda_graph_key key = cuda_graph_key();

	key.owner = pass->owner;
	key.max_tokens = n->tokens;
	key.max_rows = n->rows;
	key.max_segs = n->segs;
	key.max_prefill = n->prefill;
	key.max_decode = n->decode;
	key.max_simple = n->simple;
	key.max_merge = n->merge;
	for (uint32_t i = 0; i < cu->n_graphs; i++)
		if (memcmp(&cu->graphs[i].key, &key, sizeof(key)) == 0)
			return &cu->graphs[i];
	if (cu->n_graphs == CUDA_N_GRAPHS)
		cuda_graphs_drop(cu);
	cu->graphs[cu->n_graphs] = cuda_graph();
	cu->graphs[cu->n_graphs].key = key;
	return &cu->graphs[cu->n_graphs++];
}

/* Forgets all recordings. */
void
cuda_graphs_drop(pp_cuda *cu)
{
	for (uint32_t i = 0; i < cu->n_graphs; i++)
		if (cu->graphs[i].exec != NULL)
			cudaGraphExecDestroy(cu->graphs[i].exec);
	cu->n_graphs = 0;
}

/* Sends the plan; replays the pass, or begins to record it; see kernels.h. */
pp_result
cuda_pass_begin(pp_backend *be, const pp_pass *pass, bool *replayed)
{
	pp_cuda *cu = cuda_of(be);
	sizes n;
	bool small;
	cuda_graph *graph;
	pp_result result;

	*replayed = false;
	if (cu->failed)
		return PP_E_DEVICE;
	cu->pass = *pass;
	cu->recording = false;
	for (uint32_t s = 0; s < pass->n_segs; s++)
		if (pass->segs[s].parent != NULL && pass->segs[s].n_new > PP_CUDA_TREE_MAX)
			return cuda_fail(cu, PP_E_UNSUPPORTED, "a tree of %u tokens", pass->segs[s].n_new);
	count(cu, pass, &n);
	small = round_up(pass, &n);
	if ((result = send_plan(cu, pass, &n)) != PP_OK)
		return result;
	cu->in_pass = true;
	if (!small || cu->no_graphs)
		return PP_OK;
	graph = find_graph(cu, pass, &n);
	if (graph->exec != NULL)
	{
		*replayed = true;
		return cuda_check(cu, cudaGraphLaunch(graph->exec, cu->stream), "graph");
	}
	if (!graph->seen)
	{
		graph->seen = true;
		return PP_OK;
	}
	cu->i_graph = (uint32_t) (graph - cu->graphs);
	cu->recording = true;
	cu->record_failed = false;
	return cuda_check(cu, cudaStreamBeginCapture(cu->stream, cudaStreamCaptureModeThreadLocal),
	                  "capture");
}

/* Ends the recording, if there is one, and runs it. */
pp_result
cuda_pass_end(pp_backend *be)
{
	pp_cuda *cu = cuda_of(be);
	cudaGraph_t graph = NULL;
	cuda_graph *entry = &cu->graphs[cu->i_graph];
	pp_result result;

	cu->in_pass = false;
	if (!cu->recording)
		return cu->failed ? PP_E_DEVICE : PP_OK;
	cu->recording = false;
	result = cuda_check(cu, cudaStreamEndCapture(cu->stream, &graph), "capture");
	if (result == PP_OK && !cu->record_failed)
		result = cuda_check(cu, cudaGraphInstantiate(&entry->exec, graph, 0), "graph");
	if (graph != NULL)
		cudaGraphDestroy(graph);
	if (result == PP_OK && !cu->record_failed)
		result = cuda_check(cu, cudaGraphLaunch(entry->exec, cu->stream), "graph");
	return result;
}

/* While a pass is recorded an op on all its tokens runs on the bound. */
uint32_t
cuda_bound_tokens(const pp_cuda *cu, uint32_t n)
{
	return cu->recording && n == cu->pass.n_tokens ? cu->plan.max_tokens : n;
}

/* The same for the rows asked for. */
uint32_t
cuda_bound_rows(const pp_cuda *cu, uint32_t n)
{
	return cu->recording && n == cu->pass.n_rows ? cu->plan.max_rows : n;
}

/* Sends an index list that is not in the plan; it has left the host when this returns. */
const uint32_t *
cuda_index(pp_cuda *cu, const uint32_t *index, uint32_t n)
{
	uint32_t *dev;

	if (cu->in_pass && index == cu->pass.rows && n == cu->pass.n_rows)
		return cu->plan.rows;
	if (cu->in_pass && (index == cu->pass.pos || index == (const uint32_t *) cu->pass.tokens) &&
	    n == cu->pass.n_tokens)
		return index == cu->pass.pos ? cu->plan.pos : (const uint32_t *) cu->plan.tokens;
	dev = (uint32_t *) cuda_scratch(cu, CUDA_SCRATCH_INDEX, n * sizeof(*dev));
	if (dev == NULL || cuda_check(cu,
	                              cudaMemcpyAsync(dev, index, n * sizeof(*dev),
	                                              cudaMemcpyHostToDevice, cu->stream),
	                              "index") != PP_OK)
		return NULL;
	return dev;
}
