/*
 * test_attention.cu: the attention kernels against the reference in double, and their bits against
 * those of the same query by another way: alone, by the other kernels, in other chunks.
 *
 * The error may be twice that of plain code of the same precision (float scores and sums, weights
 * and output rounded to bf16). Without a card the program skips, and says so.
 *
 * test_attention_host is this file and the kernels compiled for the CPU (cuda_host.cuh): a brief
 * part of it, for machines without a card.
 */
#include <math.h>
#include <atomic>
#include <thread>

#include "attention_fixture.cuh"
#include "test.h"

extern "C"
{
#include "ref/ref.h"
}

static pp_cuda cu;
static int real_arch;

/* Floats of a stretch of bf16. */
static std::vector<float>
widen(const bf16 *from, size_t n)
{
	std::vector<float> to(n);

	for (size_t i = 0; i < n; i++)
		to[i] = __bfloat162float(from[i]);
	return to;
}

/* A segment as the plain code sees it: trees by their parents. */
struct plain_seg
{
	const int32_t *parent; /* of the tree's tokens, or NULL */
	uint32_t root;         /* slot of the tree's first token */
	const uint32_t *pos;   /* of the tree's tokens */
};

/* What the query in slot self sees. */
static bool
plain_sees(const pp_attn &a, const plain_seg &seg, int64_t self, int64_t other)
{
	int64_t distance = self - other;

	if (seg.parent != NULL && self >= seg.root)
	{
		int64_t at = seg.pos[self - seg.root];
		int64_t j = self - seg.root;

		while (j >= 0 && other >= seg.root && j + seg.root != other)
			j = seg.parent[j];
		distance = j < 0 ? -1 : at - (other >= seg.root ? (int64_t) seg.pos[j] : other);
	}
	if (!a.causal)
		return a.window == 0 || llabs(distance) <= a.window / 2;
	return distance >= 0 && (a.window == 0 || distance < a.window);
}

/* One head of one query by plain code in float, with weights and output in bf16. */
static void
plain_head(float *out, const float *q, const float *k, const float *v, size_t stride, uint32_t n,
           int64_t self, const pp_attn &a, const plain_seg &seg)
{
	std::vector<float> p(n, 0.0f), sums(a.d_head, 0.0f);
	float max = -INFINITY, total = 0.0f;

	for (int pass = 0; pass < 2; pass++)
		for (uint32_t s = 0; s < n; s++)
		{
			if (!plain_sees(a, seg, self, s))
				continue;
			if (pass == 1)
			{
				total += p[s] = expf(p[s] - max);
				continue;
			}
			for (uint32_t c = 0; c < a.d_head; c++)
				p[s] += q[c] * k[s * stride + c];
			p[s] *= a.scale;
			if (a.softcap > 0.0f)
				p[s] = a.softcap * tanhf(p[s] / a.softcap);
			max = fmaxf(max, p[s]);
		}
	for (uint32_t s = 0; s < n; s++)
		if (plain_sees(a, seg, self, s))
		{
			float weight = __bfloat162float(__float2bfloat16(p[s] / total));

			for (uint32_t c = 0; c < a.d_head; c++)
				sums[c] += weight * v[s * stride + c];
		}
	for (uint32_t c = 0; c < a.d_head; c++)
		out[c] = __bfloat162float(__float2bfloat16(sums[c]));
}

/* The worst errors of a case. */
struct errors
{
	double kernel, plain;
};

/* Of a causal segment the first and last tokens, those at edges of tiles, and every seventh. */
static bool
is_sample(const pp_attn &a, uint32_t t, uint32_t n)
{
	return !a.causal || t < 2 || t + 1 == n || t % 64 == 0 || t % 64 == 63 || t % 7 == 3;
}

/* Compares a segment's output; the largest error of the kernel and of plain code. */
static errors
compare_segment(const fixture_data &x, uint32_t i, const std::vector<bf16> &out)
{
	const pp_attn &a = x.attn;
	const fixture_seg &seg = x.segs[i];
	const uint32_t n = seg.n_past + seg.n_new;
	const size_t row = (size_t) a.n_heads * a.d_head;
	const size_t stride = (size_t) a.n_kv_heads * a.d_head;
	std::vector<float> q = widen(&x.q[x.first[i] * row], seg.n_new * row);
	std::vector<float> k = widen(&x.k[x.first_slot[i] * stride], n * stride);
	std::vector<float> v = widen(&x.v[x.first_slot[i] * stride], n * stride);
	std::vector<double> want(seg.n_new * row);
	std::vector<float> plain(a.d_head);
	const uint32_t n_chain = seg.n_new - seg.n_tree;
	const plain_seg as = {seg.n_tree > 0 ? x.parents[i].data() : NULL, seg.n_past + n_chain,
	                      x.pos.data() + x.first[i] + n_chain};
	errors e = {0.0, 0.0};

	if (seg.n_tree > 0)
		attention_ref(&want[n_chain * row], &q[n_chain * row], k.data(), v.data(), seg.n_tree,
		              seg.n_past + n_chain, x.parents[i].data(), &a);
	if (!a.causal)
		attention_ref(want.data(), q.data(), k.data(), v.data(), seg.n_new, 0, NULL, &a);
	for (uint32_t t = 0; t < seg.n_new; t++)
	{
		if (!is_sample(a, t, seg.n_new))
			continue;
		if (a.causal && t < n_chain)
			attention_ref(&want[t * row], &q[t * row], k.data(), v.data(), 1, seg.n_past + t, NULL,
			              &a);
		for (uint32_t h = 0; h < a.n_heads; h++)
		{
			size_t at = t * row + h * a.d_head;
			size_t head = h / (a.n_heads / a.n_kv_heads) * a.d_head;

			plain_head(plain.data(), &q[at], &k[head], &v[head], stride, n, seg.n_past + t, a, as);
			for (uint32_t c = 0; c < a.d_head; c++)
			{
				double got = __bfloat162float(out[x.first[i] * row + at + c]);
				double error = fabs(got - want[at + c]);

				e.kernel = error <= e.kernel ? e.kernel : isnan(error) ? INFINITY : error;
				e.plain = fmax(e.plain, fabs(plain[c] - want[at + c]));
			}
		}
	}
	return e;
}

/* Compares all segments, on all cores. */
static errors
compare(const fixture_data &x, const std::vector<bf16> &out)
{
	std::atomic<uint32_t> next(0);
	std::vector<std::thread> threads;
	std::vector<errors> each(x.segs.size());
	errors worst = {0.0, 0.0};

	for (unsigned n = 0; n < std::max(1u, std::thread::hardware_concurrency()); n++)
		threads.emplace_back(
		    [&]
		    {
			    for (uint32_t i; (i = next++) < x.segs.size();)
				    each[i] = compare_segment(x, i, out);
		    });
	for (auto &t : threads)
		t.join();
	for (auto e : each)
	{
		worst.kernel = fmax(worst.kernel, e.kernel);
		worst.plain = fmax(worst.plain, e.plain);
	}
	return worst;
}

/* Runs chosen segments with a poisoned output between guard bands; returns the output. */
static std::vector<bf16>
run(const fixture_data &x, const std::vector<uint32_t> &chosen, int arch, bool decode)
{
	const size_t n = (size_t) x.n_tokens * x.attn.n_heads * x.attn.d_head;
	std::vector<bf16> host(n + 2 * GUARD, __float2bfloat16(NAN));
	bf16 *out = fixture_upload(host);
	fixture_plan p;

	cu.arch = arch;
	p = fixture_plan_make(&cu, x, chosen, decode);
	CHECK(fixture_launch(&cu, p, fixture_attention(x, p, out + GUARD)) == cudaSuccess);
	CUDA_REQUIRE(cudaStreamSynchronize(cu.stream));
	CUDA_REQUIRE(cudaMemcpy(host.data(), out, host.size() * sizeof(bf16), cudaMemcpyDeviceToHost));
	CUDA_REQUIRE(cudaFree(out));
	fixture_plan_free(&p);
	for (size_t i = 0; i < GUARD; i++)
		CHECK(isnan(__bfloat162float(host[i])) && isnan(__bfloat162float(host[GUARD + n + i])));
	cu.arch = real_arch;
	return std::vector<bf16>(host.begin() + GUARD, host.end() - GUARD);
}

/* Whether rows of a segment have the same bits in two outputs. */
static bool
same(const fixture_data &x, uint32_t i, const std::vector<bf16> &a, const std::vector<bf16> &b)
{
	const size_t row = (size_t) x.attn.n_heads * x.attn.d_head;

	return memcmp(&a[x.first[i] * row], &b[x.first[i] * row],
	              x.segs[i].n_new * row * sizeof(bf16)) == 0;
}

/* All that must hold of a batch. */
static void
check_batch(const pp_attn &attn, const std::vector<fixture_seg> &segs, const char *name)
{
	fixture_data x = fixture_make(attn, segs);
	std::vector<uint32_t> all;

	for (uint32_t i = 0; i < segs.size(); i++)
		all.push_back(i);
	std::vector<bf16> out = run(x, all, real_arch, false);
	std::vector<bf16> again = run(x, all, real_arch, false);
	std::vector<bf16> mma = real_arch == 80 ? out : run(x, all, 80, false);
	std::vector<bf16> decode = attn.causal ? run(x, all, real_arch, true) : out;
	errors e = compare(x, out);
	uint32_t n_mma = 0, n_decode = 0, n_alone = 0;

	CHECK_MSG(e.kernel <= 2.0 * e.plain + 1e-6, "%s: error %g, plain code %g", name, e.kernel,
	          e.plain);
	CHECK_MSG(memcmp(out.data(), again.data(), out.size() * 2) == 0, "%s: twice", name);
	for (uint32_t i : all)
	{
		n_mma += !same(x, i, out, mma);
		n_decode += !same(x, i, out, decode);
		if (i % 3 == 0)
			n_alone += !same(x, i, out, run(x, std::vector<uint32_t>(1, i), real_arch, true));
	}
	CHECK_MSG(n_mma == 0, "%s: %u segments differ from mma.sync's, whose error is %g", name, n_mma,
	          compare(x, mma).kernel);
	CHECK_MSG(n_decode == 0, "%s: %u segments differ from decode's", name, n_decode);
	CHECK_MSG(n_alone == 0, "%s: %u segments differ from what they are alone", name, n_alone);
	fixture_free(&x);
}

/* A shape. */
static pp_attn
shape(uint32_t n_heads, uint32_t n_kv_heads, uint32_t d_head, bool causal, uint32_t window,
      float softcap)
{
	pp_attn a = pp_attn();

	a.n_heads = n_heads;
	a.n_kv_heads = n_kv_heads;
	a.d_head = d_head;
	a.scale = 1.0f / sqrtf((float) d_head);
	a.causal = causal;
	a.window = window;
	a.softcap = softcap;
	return a;
}

/* Sizes around the tile, the page and the part. */
static const std::vector<fixture_seg> mixed = {
    {1, 0},    {2, 0},    {63, 0},    {64, 0},   {65, 0},     {127, 0},  {128, 0},
    {129, 0},  {257, 0},  {1, 63},    {1, 64},   {1, 127},    {1, 128},  {1, 1023},
    {1, 1024}, {8, 1020}, {3, 2100},  {5, 3071}, {130, 1000}, {17, 41},  {64, 64},
    {7, 0},    {100, 29}, {31, 2040}, {1, 0},    {8, 500},    {193, 61},
};

/* For encoders, which have no past. */
static const std::vector<fixture_seg> rows = {
    {1, 0},   {2, 0},   {63, 0},  {64, 0}, {65, 0}, {127, 0}, {128, 0},
    {129, 0}, {257, 0}, {383, 0}, {60, 0}, {19, 0}, {530, 0},
};

/* Trees alone and behind chains: words and tiles that they end in, parts that they begin behind. */
static const std::vector<fixture_seg> trees = {
    {1, 0, 1},    {4, 0, 4},      {8, 64, 8},      {33, 0, 33},   {64, 100, 64},
    {65, 63, 65}, {131, 0, 131},  {300, 10, 300},  {64, 240, 4},  {63, 1, 3},
    {128, 0, 28}, {129, 5, 1},    {5, 0, 4},       {8, 1020, 5},  {7, 1024, 7},
    {5, 2047, 5}, {3, 3071, 2},   {200, 1000, 40}, {40, 990, 39}, {66, 0, 0},
    {2, 300, 1},  {1000, 30, 32}, {1030, 0, 20},   {257, 7, 129}, {6, 500, 3},
};

/* Some of them. */
static const std::vector<fixture_seg> few_trees = {{4, 0, 4},    {7, 125, 5}, {70, 60, 33},
                                                   {6, 1022, 6}, {130, 1, 3}, {40, 0, 40},
                                                   {1, 70, 0}};

/* A little of everything, for runs under compute-sanitizer, where launches take seconds. */
static void
test_brief()
{
	const std::vector<fixture_seg> few = {{1, 0}, {65, 0}, {130, 70}, {3, 200}, {5, 1030}};

	check_batch(shape(4, 2, 128, true, 0, 0), few, "brief 128");
	check_batch(shape(3, 1, 64, true, 90, 0), few, "brief 64");
	check_batch(shape(4, 2, 80, true, 0, 3.0f), few, "brief 80");
	check_batch(shape(2, 1, 256, true, 0, 0), few, "brief 256");
	check_batch(shape(4, 2, 64, true, 0, 0), few_trees, "brief trees of 64");
	check_batch(shape(3, 1, 128, true, 41, 0), few_trees, "brief trees in a window");
	check_batch(shape(2, 2, 64, false, 0, 0), {{1, 0}, {65, 0}, {130, 0}}, "brief encoder");
	check_batch(shape(2, 2, 32, false, 50, 0), {{1, 0}, {65, 0}, {130, 0}}, "brief window");
}

static void
test_heads()
{
	for (uint32_t d : {32u, 64u, 80u, 96u, 128u, 256u})
	{
		char name[32];

		snprintf(name, sizeof(name), "d_head %u", d);
		check_batch(shape(4, 2, d, true, 0, 0), mixed, name);
		check_batch(shape(2, 2, d, false, 0, 0), rows, name);
	}
}

static void
test_groups()
{
	for (uint32_t g : {1u, 3u, 6u, 7u, 8u, 20u})
	{
		char name[32];

		snprintf(name, sizeof(name), "group of %u", g);
		check_batch(shape(g, 1, 128, true, 0, 0), mixed, name);
		check_batch(shape(2 * g, 2, 64, false, 0, 0), rows, name);
	}
}

static void
test_windows()
{
	for (uint32_t w : {1u, 2u, 64u, 100u, 129u, 1024u, 1500u})
	{
		char name[32];

		snprintf(name, sizeof(name), "window %u", w);
		check_batch(shape(4, 2, 128, true, w, 0), mixed, name);
		check_batch(shape(2, 1, 80, true, w, 0), mixed, name);
		check_batch(shape(2, 2, 64, false, w, 0), rows, name);
	}
}

static void
test_softcap()
{
	check_batch(shape(4, 2, 256, true, 0, 5.0f), mixed, "softcap 5");
	check_batch(shape(4, 2, 128, true, 300, 2.0f), mixed, "softcap 2 and a window");
	check_batch(shape(4, 4, 64, false, 0, 2.0f), rows, "softcap 2 of an encoder");
}

static void
test_trees()
{
	for (uint32_t d : {32u, 64u, 80u, 96u, 128u, 256u})
	{
		char name[32];

		snprintf(name, sizeof(name), "trees, d_head %u", d);
		check_batch(shape(4, 2, d, true, 0, 0), trees, name);
	}
	for (uint32_t g : {1u, 3u, 7u, 20u})
		check_batch(shape(g, 1, 128, true, 0, 0), trees, "trees, groups");
	check_batch(shape(4, 2, 128, true, 300, 0), trees, "trees in a window");
	check_batch(shape(2, 2, 64, true, 1100, 2.0f), trees, "trees in a window, softcap");
}

/* Scores of a few hundred: weights of 0 and 1, and maxima that rise step by step. */
static void
test_sharp()
{
	pp_attn a = shape(4, 2, 128, true, 0, 0);

	a.scale = 8.0f;
	check_batch(a, mixed, "sharp");
}

static void
test_empty()
{
	fixture_data x = fixture_make(shape(4, 2, 128, true, 0, 0), {{5, 0}});
	std::vector<bf16> out = run(x, std::vector<uint32_t>(), real_arch, true);

	for (bf16 e : out)
		REQUIRE(isnan(__bfloat162float(e)));
	fixture_free(&x);
}

/* Random mixes: whatever the fixed sizes above do not meet. */
static void
test_random()
{
	for (int n = 0; n < 6; n++)
	{
		std::vector<fixture_seg> segs;
		uint32_t group = 1 + fixture_random() % 9;

		for (int i = 0; i < 24; i++)
		{
			uint32_t n_new = 1 + fixture_random() % (i % 3 == 0 ? 300 : 9);

			segs.push_back(
			    fixture_seg{n_new, (uint32_t) (fixture_random() % (i % 5 ? 300 : 2500))});
		}
		check_batch(shape(2 * group, 2, n % 2 ? 64 : 128, true, n % 3 == 0 ? 777 : 0, 0), segs,
		            "random");
	}
}

/* The same keys, one token a time, in chunks, and at once. */
static void
test_chunks()
{
	const uint32_t n = 1400;
	pp_attn attn = shape(8, 2, 128, true, 0, 0);
	fixture_data x = fixture_make(attn, {{n, 0}});
	const size_t row = (size_t) attn.n_heads * attn.d_head;
	std::vector<bf16> whole = run(x, {0}, real_arch, false);
	std::vector<bf16> parts(whole.size());

	for (uint32_t at = 0; at < n;)
	{
		uint32_t left = n - at;
		uint32_t n_new = std::min(left, (uint32_t) (at % 5 == 0 ? 211 : 1 + at % 8));
		fixture_data y = x;

		y.segs[0] = fixture_seg{n_new, at};
		y.dev_q = x.dev_q + at * row;
		y.n_tokens = n_new;
		std::vector<bf16> got = run(y, {0}, real_arch, true);

		memcpy(&parts[at * row], got.data(), n_new * row * sizeof(bf16));
		at += n_new;
	}
	CHECK(memcmp(whole.data(), parts.data(), whole.size() * sizeof(bf16)) == 0);
	fixture_free(&x);
}

int
main(int argc, char **argv)
{
	int n_devices = 0;

	if (cudaGetDeviceCount(&n_devices) != cudaSuccess || n_devices == 0)
	{
		printf("no card: test_attention is skipped\ntest_attention: 0 passed, 0 failed, 1 "
		       "skipped\n");
		return 0;
	}
	fixture_card(&cu);
	real_arch = cu.arch;
	RUN(empty);
	RUN(brief);
#ifdef CUDA_HOST_CUH
	return test_summary("attention_host"); /* the rest takes minutes there */
#endif
	if (argc > 1 && strcmp(argv[1], "--brief") == 0)
		return test_summary("attention");
	RUN(chunks);
	RUN(heads);
	RUN(groups);
	RUN(windows);
	RUN(softcap);
	RUN(trees);
	RUN(sharp);
	RUN(random);
	return test_summary("attention");
}
