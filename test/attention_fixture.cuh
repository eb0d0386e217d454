/*
 * attention_fixture.cuh: a pass of attention on the card, made by hand: random q, keys and values
 * in shuffled pages, plan and lists as the backend makes them. Shared by test_attention.cu and
 * bench_attention.cu.
 *
 * Pages that belong to no segment are NaN, slots behind a segment's last one hold large finite
 * numbers, and the output lies between guard bands: whoever reads or writes where it must not is
 * seen.
 */
#ifndef ATTENTION_FIXTURE_CUH
#define ATTENTION_FIXTURE_CUH

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <algorithm>
#include <vector>

#include "cuda.cuh"

#define GUARD 4096u /* elements before and behind the output */

/* A failed call of the runtime ends the program: nothing can be tested after it. */
#define CUDA_REQUIRE(call) \
	do \
	{ \
		cudaError_t error_ = (call); \
\
		if (error_ != cudaSuccess) \
		{ \
			printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error_)); \
			exit(1); \
		} \
	} while (0)

/* New tokens of a sequence, what came before, and how many of the new ones are a tree. */
struct fixture_seg
{
	uint32_t n_new;
	uint32_t n_past;
	uint32_t n_tree = 0;
};

static uint64_t fixture_random_state = 0x9e3779b97f4a7c15ull;

/* xorshift64*; good enough for inputs, and the same everywhere. */
static inline uint64_t
fixture_random()
{
	uint64_t x = fixture_random_state;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	fixture_random_state = x;
	return x * 0x2545f4914f6cdd1dull;
}

/* About normal: the sum of four uniform numbers. */
static inline float
fixture_normal()
{
	uint64_t x = fixture_random();
	float sum = 0.0f;

	for (int i = 0; i < 4; i++)
		sum += (float) (x >> (16 * i) & 0xffff) / 65536.0f - 0.5f;
	return sum * 1.7320508f;
}

/* Device memory with a copy of host memory. */
template <typename T>
static T *
fixture_upload(const std::vector<T> &from)
{
	T *to;

	CUDA_REQUIRE(cudaMalloc(&to, (from.size() + 1) * sizeof(T)));
	CUDA_REQUIRE(cudaMemcpy(to, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice));
	return to;
}

/* Inputs on the card and their host copies: tokens of all segments, all their slots. */
struct fixture_data
{
	pp_attn attn;
	std::vector<fixture_seg> segs;
	std::vector<uint32_t> first; /* token of each segment, in q */
	std::vector<std::vector<uint32_t>> pages;
	std::vector<std::vector<int32_t>> parents; /* of the trees */
	std::vector<uint32_t> pos;
	uint32_t n_tokens;
	uint32_t n_pages;
	std::vector<bf16> q, k, v;      /* host: [T, H, Dh]; all slots, [Σ slots, Hkv, Dh] */
	std::vector<size_t> first_slot; /* of each segment in k and v */
	bf16 *dev_q, *dev_kv, *dev_k, *dev_v;
};

/* Lays the host's k and v into shuffled pages. */
static inline void
fixture_fill_pages(fixture_data *x)
{
	const uint32_t dh = x->attn.d_head, n_kv = x->attn.n_kv_heads;
	const size_t page_elements = (size_t) 2 * n_kv * PP_CUDA_PAGE * dh;
	std::vector<uint32_t> order;
	uint32_t next = 0;

	x->n_pages = 3;
	for (auto s : x->segs)
		x->n_pages += (s.n_past + s.n_new + PP_CUDA_PAGE - 1) / PP_CUDA_PAGE;
	for (uint32_t p = 0; p < x->n_pages; p++)
		order.push_back(p);
	for (uint32_t p = x->n_pages; p > 1; p--)
		std::swap(order[p - 1], order[fixture_random() % p]);
	std::vector<bf16> pool(x->n_pages * page_elements, __float2bfloat16(NAN));

	for (size_t i = 0; i < x->segs.size(); i++)
	{
		uint32_t n = x->segs[i].n_past + x->segs[i].n_new;
		uint32_t n_pages = (n + PP_CUDA_PAGE - 1) / PP_CUDA_PAGE;

		x->pages.push_back(std::vector<uint32_t>());
		for (uint32_t p = 0; p < n_pages; p++)
			x->pages[i].push_back(order[next++]);
		for (uint32_t s = 0; s < n_pages * PP_CUDA_PAGE; s++)
			for (uint32_t v = 0; v < 2; v++)
				for (uint32_t h = 0; h < n_kv; h++)
				{
					bf16 *to = &pool[cuda_kv_at(n_kv, dh, x->pages[i][s / PP_CUDA_PAGE], v, h) +
					                 s % PP_CUDA_PAGE * dh];
					const bf16 *from =
					    (v ? x->v : x->k).data() + ((x->first_slot[i] + s) * n_kv + h) * dh;

					for (uint32_t c = 0; c < dh; c++)
						to[c] = s < n ? from[c] : __float2bfloat16(999.0f);
				}
	}
	x->dev_kv = fixture_upload(pool);
}

/* Random parents, and the positions of all tokens. Every fourth tree is a chain. */
static inline void
fixture_fill_trees(fixture_data *x)
{
	for (size_t i = 0; i < x->segs.size(); i++)
	{
		const fixture_seg &s = x->segs[i];
		const uint32_t n_chain = s.n_new - s.n_tree;

		x->parents.push_back(std::vector<int32_t>());
		for (uint32_t t = 0; t < s.n_new; t++)
		{
			int32_t j = (int32_t) (t - n_chain);

			x->pos.push_back(s.n_past + t);
			if (t < n_chain)
				continue;
			j = i % 4 == 0 ? j - 1 : (int32_t) (fixture_random() % (uint64_t) (j + 1)) - 1;
			x->parents[i].push_back(j);
			x->pos.back() =
			    j < 0 ? s.n_past + n_chain : x->pos[x->first[i] + n_chain + (uint32_t) j] + 1;
		}
	}
}

/* Random inputs for segments. */
static inline fixture_data
fixture_make(const pp_attn &attn, const std::vector<fixture_seg> &segs)
{
	fixture_data x = fixture_data();
	const size_t dh = attn.d_head;
	size_t n_slots = 0;

	x.attn = attn;
	x.segs = segs;
	for (auto s : segs)
	{
		x.first.push_back(x.n_tokens);
		x.first_slot.push_back(n_slots);
		x.n_tokens += s.n_new;
		n_slots += s.n_past + s.n_new;
	}
	x.q.resize(x.n_tokens * attn.n_heads * dh);
	x.k.resize(n_slots * attn.n_kv_heads * dh);
	x.v.resize(n_slots * attn.n_kv_heads * dh);
	for (auto *to : {&x.q, &x.k, &x.v})
		for (auto &e : *to)
			e = __float2bfloat16(fixture_normal());
	x.dev_q = fixture_upload(x.q);
	fixture_fill_trees(&x);
	if (attn.causal)
		fixture_fill_pages(&x);
	else
	{
		x.dev_k = fixture_upload(x.k);
		x.dev_v = fixture_upload(x.v);
	}
	return x;
}

/* Gives the card's memory back. */
static inline void
fixture_free(fixture_data *x)
{
	for (bf16 *p : {x->dev_q, x->dev_kv, x->dev_k, x->dev_v})
		CUDA_REQUIRE(cudaFree(p));
}

/* The plan of some of the segments, on the card. */
struct fixture_plan
{
	cuda_plan plan;
	cuda_counts counts;
	std::vector<void *> owned;
	float *partial;
};

/* Uploads a list and remembers it. */
template <typename T>
static const T *
fixture_list(fixture_plan *p, const std::vector<T> &list)
{
	T *dev = fixture_upload(list);

	p->owned.push_back(dev);
	return dev;
}

/* Plans the chosen segments, each by the decode list if decode says so; longest first. */
static inline fixture_plan
fixture_plan_make(const pp_cuda *cu, const fixture_data &x, const std::vector<uint32_t> &chosen,
                  bool decode)
{
	fixture_plan p = fixture_plan();
	std::vector<cuda_seg> segs;
	std::vector<uint32_t> words;
	std::vector<cuda_item> prefill, short_ones, merge;
	uint32_t n_partial = 0, n_ctx = 0;

	for (uint32_t i : chosen)
	{
		const fixture_seg &f = x.segs[i];
		uint32_t *page_list = x.attn.causal ? (uint32_t *) x.pages[i].data() : NULL;
		pp_segment s = {x.first[i], f.n_new, f.n_past, page_list, NULL};
		uint32_t at = (uint32_t) segs.size();
		std::vector<cuda_item> made(1 + (f.n_past + f.n_new) / 64 + 1);

		segs.push_back(cuda_seg{s.first_token, s.n_new, s.n_past, (uint32_t) words.size(),
		                        s.n_new - f.n_tree, 0});
		if (x.attn.causal)
			words.insert(words.end(), x.pages[i].begin(), x.pages[i].end());
		segs.back().kin0 = (uint32_t) words.size();
		words.resize(words.size() + f.n_tree * cuda_kin_words(f.n_tree));
		cuda_kin_fill(words.data() + segs.back().kin0, x.parents[i].data(), f.n_tree);
		if (!decode || f.n_new > PP_CUDA_DECODE_MAX)
		{
			made.resize(
			    cuda_prefill_plan(made.data(), (uint32_t) made.size(), at, &s, x.attn.causal));
			prefill.insert(prefill.end(), made.begin(), made.end());
			continue;
		}
		made.resize(cuda_decode_plan(made.data(), (uint32_t) made.size(), at, &s));
		for (auto &item : made)
			item.partial = made.size() > 1 ? n_partial++ : PP_CUDA_NONE;
		if (made.size() > 1)
			merge.push_back(cuda_item{at, 0, s.n_new, n_partial - (uint32_t) made.size(), n_partial,
			                          PP_CUDA_NONE});
		short_ones.insert(short_ones.end(), made.begin(), made.end());
		n_ctx = std::max(n_ctx, f.n_past + f.n_new);
	}
	std::stable_sort(prefill.begin(), prefill.end(),
	                 [](const cuda_item &a, const cuda_item &b)
	                 { return (uint64_t) a.k1 * a.n_q > (uint64_t) b.k1 * b.n_q; });
	p.counts.n_tokens = x.n_tokens;
	p.counts.n_segs = (uint32_t) segs.size();
	p.counts.n_prefill = (uint32_t) prefill.size();
	p.counts.n_decode = (uint32_t) short_ones.size();
	p.counts.n_merge = (uint32_t) merge.size();
	p.plan.counts = fixture_list(&p, std::vector<cuda_counts>(1, p.counts));
	p.plan.segs = fixture_list(&p, segs);
	p.plan.words = fixture_list(&p, words);
	p.plan.pos = fixture_list(&p, x.pos);
	p.plan.prefill = fixture_list(&p, prefill);
	p.plan.decode = fixture_list(&p, short_ones);
	p.plan.merge = fixture_list(&p, merge);
	p.plan.max_tokens = x.n_tokens;
	p.plan.max_prefill = (uint32_t) prefill.size();
	p.plan.max_merge = (uint32_t) chosen.size();
	p.plan.max_decode =
	    short_ones.empty() ? 0 : cuda_decode_items_max((uint32_t) chosen.size(), n_ctx);
	size_t floats =
	    std::max(cuda_prefill_partial_floats(cu, &x.attn),
	             cuda_decode_partial_floats(p.plan.max_decode, x.attn.n_heads, x.attn.d_head));
	p.partial = (float *) fixture_list(&p, std::vector<float>(floats, NAN));
	return p;
}

/* Gives its memory back. */
static inline void
fixture_plan_free(fixture_plan *p)
{
	for (void *dev : p->owned)
		CUDA_REQUIRE(cudaFree(dev));
}

/* What the launchers get. */
static inline cuda_attention
fixture_attention(const fixture_data &x, const fixture_plan &p, bf16 *out)
{
	cuda_attention a = cuda_attention();

	a.out = out;
	a.q = x.dev_q;
	a.kv = x.dev_kv;
	a.n_pages = x.n_pages;
	a.k = x.dev_k;
	a.v = x.dev_v;
	a.attn = x.attn;
	a.partial = p.partial;
	return a;
}

/* Launches both lists. */
static inline cudaError_t
fixture_launch(pp_cuda *cu, const fixture_plan &p, const cuda_attention &a)
{
	cudaError_t error = cudaSuccess;

	if (p.plan.max_decode > 0)
		error = cuda_attention_decode(cu, &p.plan, &a);
	if (error == cudaSuccess && p.plan.max_prefill > 0)
		error = cuda_attention_prefill(cu, &p.plan, &a);
	return error;
}

/* The card, as far as attention looks at it. */
static inline void
fixture_card(pp_cuda *cu)
{
	cudaDeviceProp prop;

	CUDA_REQUIRE(cudaSetDevice(0));
	CUDA_REQUIRE(cudaGetDeviceProperties(&prop, 0));
	cu->n_sms = prop.multiProcessorCount;
	cu->arch = prop.major * 10 + prop.minor;
	CUDA_REQUIRE(cudaStreamCreate(&cu->stream));
	printf("%s, sm_%d, %d multiprocessors\n", prop.name, cu->arch, cu->n_sms);
}

#endif /* ATTENTION_FIXTURE_CUH */
