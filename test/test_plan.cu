/*
 * test_plan.cu: the plan of a pass, built for thousands of random passes and read back.
 *
 * Needs nvcc and no card: plan.cu is compiled into the test with its own ends (memory that is the
 * host's, a runtime whose errors are ignored), together with the planners of the attention kernels.
 * Every plan must stay within its bounds, cover each new token once, leave no gap in the keys of a
 * split segment, and name the place of each token's keys; tokens beyond the real ones go nowhere.
 */
#include <stdio.h>
#include <vector>

#include "../kernels/plan.cu"
#include "test.h"

#define N_PASSES 20000

static std::vector<uint8_t> host;   /* what stands for pinned memory */
static std::vector<uint8_t> device; /* only its addresses count */
static uint64_t seed = 42;

/* Keeps the message. */
pp_result
cuda_fail(pp_cuda *cu, pp_result result, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(cu->base.message, sizeof(cu->base.message), fmt, args);
	va_end(args);
	return result;
}

/* There is no card, so every call of the runtime fails; none of them matters here. */
pp_result
cuda_check(pp_cuda *, cudaError_t, const char *)
{
	return PP_OK;
}

/* Scratch that grows, and drops the recordings when it does. */
void *
cuda_scratch(pp_cuda *cu, cuda_slot, size_t bytes)
{
	if (device.size() < bytes)
	{
		cuda_graphs_drop(cu);
		device.resize(2 * bytes);
	}
	return device.data();
}

/* Host memory that grows. */
bool
cuda_pinned(pp_cuda *, cuda_buffer *b, size_t bytes)
{
	if (host.size() < bytes)
		host.resize(2 * bytes);
	b->data = host.data();
	b->bytes = host.size();
	return true;
}

/* A number below n. */
static uint32_t
below(uint32_t n)
{
	return (uint32_t) (test_random(&seed) % n);
}

/* A pass and all it points to. */
struct random_pass
{
	pp_attn attn[2];
	std::vector<pp_segment> segs;
	std::vector<std::vector<uint32_t>> pages;
	std::vector<std::vector<int32_t>> parents;
	std::vector<int32_t> tokens;
	std::vector<uint32_t> pos;
	std::vector<uint32_t> rows;
	pp_pass pass;
};

/* One segment: a decode step, a few tokens or a prompt; behind a history or not; a tree at times.
 */
static void
add_segment(random_pass *p, bool causal, uint32_t s)
{
	uint32_t first = (uint32_t) p->tokens.size();
	uint32_t n_new = below(3) == 0   ? 1
	                 : below(2) == 0 ? 1 + below(9)
	                                 : below(below(4) == 0 ? 1500 : 140);
	uint32_t n_past = !causal || below(3) == 0 ? 0 : below(below(3) == 0 ? 9000 : 700);
	pp_segment seg = {first, n_new, n_past, NULL, NULL};

	for (uint32_t i = 0; causal && i * PP_CUDA_PAGE < n_past + n_new; i++)
		p->pages[s].push_back(below(1000));
	for (uint32_t i = 0; i < n_new; i++)
	{
		p->tokens.push_back((int32_t) below(1000));
		p->pos.push_back(n_past + i);
		if (below(4) == 0)
			p->rows.push_back(first + i);
		p->parents[s].push_back((int32_t) below(i + 1) - 1);
	}
	seg.pages = p->pages[s].data();
	if (causal && n_new > 0 && n_new < 64 && below(4) == 0)
		seg.parent = p->parents[s].data();
	p->segs.push_back(seg);
}

/* A label trie behind the chain before it, as the engine lays them; of one job or of its own. */
static void
add_trie(random_pass *p, uint32_t s)
{
	const pp_segment chain = p->segs.back();
	const uint32_t n = 1 + below(below(3) == 0 ? 70 : 9);
	const int32_t *shared = s >= 2 && below(2) == 0 ? p->segs[s - 2].parent : NULL;
	pp_segment seg = {chain.first_token + chain.n_new, n, chain.n_past + chain.n_new, NULL, NULL};

	if (shared != NULL)
		seg.n_new = p->segs[s - 2].n_new;
	for (uint32_t i = 0; i < seg.n_new; i++)
	{
		p->tokens.push_back(1);
		p->pos.push_back(seg.n_past + i);
		p->parents[s].push_back((int32_t) below(i + 1) - 1);
	}
	for (uint32_t i = 0; i * PP_CUDA_PAGE < seg.n_past + seg.n_new; i++)
		if (i >= p->pages[s - 1].size())
			p->pages[s - 1].push_back(below(1000));
	p->segs[s - 1].pages = seg.pages = p->pages[s - 1].data();
	seg.parent = shared != NULL ? shared : p->parents[s].data();
	p->segs.push_back(seg);
}

/* Draws a pass of a model of two layers, whose heads may differ. */
static void
draw(random_pass *p)
{
	const uint32_t d_head[] = {64, 128, 96, 80, 32, 256};
	uint32_t n_segs = 1 + below(below(4) == 0 ? 40 : 4);
	bool causal = below(5) > 0;
	uint32_t least;

	*p = random_pass();
	p->pages.resize(n_segs);
	p->parents.resize(n_segs);
	for (int i = 0; i < 2; i++)
		p->attn[i] = pp_attn{32, 8, d_head[below(6)], 0.1f, 0.0f, 0, causal};
	if (below(2) == 0)
		p->attn[1].d_head = p->attn[0].d_head;
	for (uint32_t s = 0; s < n_segs; s++)
		if (causal && s > 0 && p->segs[s - 1].parent == NULL && below(2) == 0)
			add_trie(p, s);
		else
			add_segment(p, causal, s);
	least = (uint32_t) p->tokens.size() + 1;
	p->pass = pp_pass();
	p->pass.owner = below(3) == 0 ? NULL : p->attn;
	p->pass.max_tokens = p->pass.max_rows = below(3) == 0 ? least : 65536;
	p->pass.attn = p->attn;
	p->pass.n_layers = 2;
	p->pass.n_tokens = (uint32_t) p->tokens.size();
	p->pass.n_segs = n_segs;
	p->pass.n_rows = (uint32_t) p->rows.size();
	p->pass.tokens = p->tokens.data();
	p->pass.pos = p->pos.data();
	p->pass.segs = p->segs.data();
	p->pass.rows = p->rows.data();
}

/* A list of the plan as the host wrote it. */
template <typename T>
static const T *
written(const T *at)
{
	return (const T *) (host.data() + ((const uint8_t *) at - device.data()));
}

/* Every list within its bound. */
static bool
is_bounded(const random_pass *p, const cuda_plan *plan, const cuda_counts *c)
{
	return p->pass.n_tokens <= plan->max_tokens && p->pass.n_rows <= plan->max_rows &&
	       c->n_prefill <= plan->max_prefill && c->n_decode <= plan->max_decode &&
	       c->n_simple <= plan->max_simple && c->n_merge <= plan->max_merge &&
	       plan->max_tokens <= p->pass.max_tokens && plan->max_rows <= p->pass.max_rows;
}

/* Counts an item's queries. */
static void
cover(std::vector<uint32_t> *seen, const cuda_plan *plan, const cuda_item *item)
{
	for (uint32_t q = 0; q < item->n_q; q++)
		seen->at(written(plan->segs)[item->seg].first_token + item->q0 + q)++;
}

/*
 * Whether an item's queries see what their tokens may: the kin of a token of a tree are those that
 * its parents lead to, and the segment's pages are those of the pass.
 */
static bool
is_kin(const random_pass *p, const cuda_plan *plan, const cuda_item *item)
{
	const cuda_seg seg = written(plan->segs)[item->seg];
	const uint32_t n_words = cuda_kin_words(seg.n_new - seg.n_chain);

	for (uint32_t q = item->q0; q < item->q0 + item->n_q; q++)
	{
		const pp_segment *own = &p->segs.at(written(plan->token_seg)[seg.first_token + q]);
		uint32_t j = q - seg.n_chain;
		std::vector<uint32_t> want(n_words, 0);

		if ((own->parent != NULL) != (q >= seg.n_chain) ||
		    memcmp(own->pages, written(plan->words) + seg.page0,
		           (own->n_past + own->n_new + 63) / 64 * 4) != 0)
			return false;
		if (own->parent == NULL)
			continue;
		for (int32_t up = (int32_t) j; up >= 0; up = own->parent[up])
			want[up / 32] |= 1u << (up % 32);
		if (memcmp(want.data(), written(plan->words) + seg.kin0 + (size_t) j * n_words,
		           n_words * 4) != 0)
			return false;
	}
	return true;
}

/* Every token once, every key of a split segment in some part, every part folded. */
static bool
is_covered(const random_pass *p, const cuda_plan *plan, const cuda_counts *c)
{
	std::vector<uint32_t> seen(p->pass.n_tokens, 0);
	std::vector<uint32_t> reached(p->pass.n_segs, 0);
	uint32_t n_parts = 0;
	uint32_t n_folded = 0;

	for (uint32_t i = 0; i < c->n_prefill + c->n_simple; i++)
	{
		const cuda_item *item = i < c->n_prefill ? &written(plan->prefill)[i]
		                                         : &written(plan->simple)[i - c->n_prefill];

		cover(&seen, plan, item);
		if (p->attn[0].causal && !is_kin(p, plan, item))
			return false;
	}
	for (uint32_t i = 0; i < c->n_decode; i++)
	{
		const cuda_item *item = &written(plan->decode)[i];

		if (item->k0 == 0)
			cover(&seen, plan, item);
		if (!is_kin(p, plan, item) || item->k0 != reached.at(item->seg) ||
		    (item->partial != PP_CUDA_NONE && item->partial >= plan->max_decode))
			return false;
		reached.at(item->seg) = item->k1;
		n_parts += item->partial != PP_CUDA_NONE;
	}
	for (uint32_t i = 0; i < c->n_merge; i++)
		n_folded += written(plan->merge)[i].k1 - written(plan->merge)[i].k0;
	for (uint32_t s = 0; s < p->pass.n_segs; s++)
		if (reached[s] != 0 && reached[s] != p->segs[s].n_past + p->segs[s].n_new)
			return false;
	for (uint32_t n : seen)
		if (n != 1)
			return false;
	return n_parts == n_folded;
}

/* Keys and values go to the slot behind the history; what is beyond the pass goes nowhere. */
static bool
is_placed(const random_pass *p, const cuda_plan *plan)
{
	for (uint32_t t = 0; t < plan->max_tokens; t++)
	{
		uint32_t s = written(plan->token_seg)[t];
		uint32_t at = written(plan->token_kv)[t];

		if (t >= p->pass.n_tokens || !p->attn[0].causal)
		{
			if (at != PP_CUDA_NONE || (s == PP_CUDA_NONE) != (t >= p->pass.n_tokens))
				return false;
			continue;
		}
		const pp_segment *seg = &p->segs.at(s);
		uint32_t slot = seg->n_past + t - seg->first_token;

		if (at != seg->pages[slot / PP_CUDA_PAGE] * PP_CUDA_PAGE + slot % PP_CUDA_PAGE)
			return false;
	}
	return true;
}

static void
test_random_passes(void)
{
	static pp_cuda cu;
	static random_pass p;
	uint32_t n_recorded = 0;
	uint32_t n_joined = 0;

	cu.arch = 90;
	cu.n_sms = 132;
	for (uint32_t i = 0; i < N_PASSES && !test_this_failed; i++)
	{
		const cuda_counts *c;
		bool replayed;

		draw(&p);
		CHECK_MSG(cuda_pass_begin(&cu.base, &p.pass, &replayed) == PP_OK, "pass %u: %s", i,
		          cu.base.message);
		c = written(cu.plan.counts);
		CHECK_MSG(is_bounded(&p, &cu.plan, c), "pass %u of %u tokens", i, p.pass.n_tokens);
		CHECK_MSG(is_covered(&p, &cu.plan, c), "pass %u of %u tokens", i, p.pass.n_tokens);
		CHECK_MSG(is_placed(&p, &cu.plan), "pass %u of %u tokens", i, p.pass.n_tokens);
		n_recorded += cu.recording;
		for (uint32_t k = 0; k < c->n_prefill; k++)
			n_joined += written(cu.plan.prefill)[k].seg >= p.pass.n_segs;
		cuda_pass_end(&cu.base);
	}
	CHECK_MSG(n_recorded > N_PASSES / 100, "%u passes were recorded", n_recorded);
	CHECK_MSG(n_joined > N_PASSES / 100, "%u trees were joined to their chains", n_joined);
}

/* Passes of one shape have their plans in the same places, whatever their histories' lengths are:
 * pages and kin too. */
static void
test_same_places(void)
{
	static pp_cuda cu;
	static random_pass p;
	static const int32_t parents[4] = {-1, 0, 0, 2};
	cuda_plan first = cuda_plan();
	bool replayed;

	cu.arch = 90;
	cu.n_sms = 132;
	cuda_scratch(&cu, CUDA_SCRATCH_PLAN, 1 << 20);
	for (uint32_t n_past = 520; n_past < 1000; n_past += 37)
	{
		p = random_pass();
		p.attn[0] = p.attn[1] = pp_attn{32, 8, 128, 0.1f, 0.0f, 0, true};
		p.pages.resize(3);
		for (uint32_t s = 0; s < 3; s++)
		{
			p.pages[s].assign(16 + s, s);
			p.segs.push_back(pp_segment{s, 1, n_past + s, p.pages[s].data(), NULL});
			p.rows.push_back(s);
		}
		p.segs[2].n_new = 4;
		p.segs[2].parent = parents;
		p.tokens.assign(6, 1);
		p.pos.assign(6, n_past);
		p.pass = pp_pass{
		    &cu,           64,           64, p.attn, 2, 6, 3, 3, p.tokens.data(), p.pos.data(),
		    p.segs.data(), p.rows.data()};
		CHECK(cuda_pass_begin(&cu.base, &p.pass, &replayed) == PP_OK);
		cuda_pass_end(&cu.base);
		if (n_past == 520)
			first = cu.plan;
		CHECK(memcmp(&first, &cu.plan, sizeof(first)) == 0 && cu.n_graphs == 1);
	}
}

int
main(void)
{
	RUN(random_passes);
	RUN(same_places);
	return test_summary("plan");
}
