/*
 * bench_attention.cu: the attention kernels alone: TFLOP/s of prefill, bytes/s of decode.
 *
 *	bench_attention
 *
 * Medians of 30 launches by events, after 5 that warm up. Operations are those of visible pairs: 4
 * Dh for each of them and head. bench/peers/attention_bench.py measures the peers on the same
 * shapes.
 */
#include <math.h>

#include "attention_fixture.cuh"

#define WARM_UPS 5
#define LAUNCHES 30

static pp_cuda cu;

/* Microseconds of the median launch. */
static double
median_us(const fixture_plan &p, const cuda_attention &a)
{
	std::vector<float> ms(LAUNCHES);
	cudaEvent_t before, after;

	CUDA_REQUIRE(cudaEventCreate(&before));
	CUDA_REQUIRE(cudaEventCreate(&after));
	for (int i = -WARM_UPS; i < LAUNCHES; i++)
	{
		CUDA_REQUIRE(cudaEventRecord(before, cu.stream));
		CUDA_REQUIRE(fixture_launch(&cu, p, a));
		CUDA_REQUIRE(cudaEventRecord(after, cu.stream));
		CUDA_REQUIRE(cudaEventSynchronize(after));
		if (i >= 0)
			CUDA_REQUIRE(cudaEventElapsedTime(&ms[i], before, after));
	}
	CUDA_REQUIRE(cudaEventDestroy(before));
	CUDA_REQUIRE(cudaEventDestroy(after));
	std::sort(ms.begin(), ms.end());
	return ms[LAUNCHES / 2] * 1e3;
}

/* Times a batch and prints a line. */
static void
bench(const char *name, uint32_t n_heads, uint32_t n_kv, uint32_t dh, bool causal, int arch,
      const std::vector<fixture_seg> &segs)
{
	pp_attn attn = pp_attn();
	fixture_data x;
	fixture_plan p;
	std::vector<uint32_t> all;
	bf16 *out;
	double pairs = 0, slots = 0, us;

	attn.n_heads = n_heads;
	attn.n_kv_heads = n_kv;
	attn.d_head = dh;
	attn.scale = 1.0f / sqrtf((float) dh);
	attn.causal = causal;
	x = fixture_make(attn, segs);
	for (uint32_t i = 0; i < segs.size(); i++)
	{
		double n = segs[i].n_new, past = segs[i].n_past;

		all.push_back(i);
		pairs += causal ? n * past + n * (n + 1) / 2 : n * n;
		slots += n + past;
	}
	cu.arch = arch;
	p = fixture_plan_make(&cu, x, all, true);
	CUDA_REQUIRE(cudaMalloc(&out, x.q.size() * sizeof(bf16)));
	us = median_us(p, fixture_attention(x, p, out));
	printf("%-34s %-5s H %2u/%u Dh %3u: %9.1f us %7.1f TFLOP/s %7.1f GB/s\n", name,
	       arch == 90 ? "wgmma" : "mma", n_heads, n_kv, dh, us,
	       pairs * 4 * dh * n_heads / us * 1e-6,
	       (slots * 2 * n_kv + 2.0 * x.n_tokens * n_heads) * dh * 2 / us * 1e-3);
	fflush(stdout);
	CUDA_REQUIRE(cudaFree(out));
	fixture_plan_free(&p);
	fixture_free(&x);
}

/* The skewed mix of the issue: lognormal lengths, median and sigma 1, cut at 8 and 4096. */
static std::vector<fixture_seg>
skewed(uint32_t n, double median)
{
	std::vector<fixture_seg> segs;

	fixture_random_state = 42;
	for (uint32_t i = 0; i < n; i++)
	{
		double u = ((double) (fixture_random() >> 11) + 0.5) / 9007199254740992.0;
		double w = ((double) (fixture_random() >> 11) + 0.5) / 9007199254740992.0;
		double length = median * exp(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * w));

		segs.push_back(fixture_seg{(uint32_t) fmin(4096, fmax(8, length)), 0});
	}
	return segs;
}

/* Prefill, encoders, decoding; a line each. */
int
main()
{
	typedef std::vector<fixture_seg> list;
	int n_devices = 0;

	if (cudaGetDeviceCount(&n_devices) != cudaSuccess || n_devices == 0)
	{
		printf("no card: nothing is measured\n");
		return 0;
	}
	fixture_card(&cu);
	int arch = cu.arch;

	bench("causal 1 x 8192", 16, 16, 128, true, arch, list(1, {8192, 0}));
	bench("causal 1 x 8192", 32, 8, 128, true, arch, list(1, {8192, 0}));
	bench("causal 2 x 8192", 32, 8, 128, true, arch, list(2, {8192, 0}));
	bench("causal 1 x 8192", 32, 8, 128, true, 80, list(1, {8192, 0}));
	bench("causal 1 x 8192", 32, 8, 64, true, arch, list(1, {8192, 0}));
	bench("causal 1 x 8192", 16, 8, 256, true, arch, list(1, {8192, 0}));
	bench("causal 8 x 1024", 32, 8, 128, true, arch, list(8, {1024, 0}));
	bench("causal 64 x 128", 32, 8, 128, true, arch, list(64, {128, 0}));
	bench("causal 64 x 128", 32, 8, 128, true, 80, list(64, {128, 0}));
	bench("causal 64 x 128", 32, 32, 128, true, arch, list(64, {128, 0}));
	bench("skewed 64, median 128", 32, 8, 128, true, arch, skewed(64, 128));
	bench("skewed 64, median 128", 32, 8, 128, true, 80, skewed(64, 128));
	bench("skewed 32, median 160", 32, 8, 128, true, arch, skewed(32, 160));
	bench("causal 64 x 60 behind 240", 16, 8, 128, true, arch, list(64, {60, 240}));
	bench("64 x 60 and a trie behind 240", 16, 8, 128, true, arch, list(64, {64, 240, 4}));
	bench("64 tries of 4 behind 300", 16, 8, 128, true, arch, list(64, {4, 300, 4}));
	bench("64 tries of 40 behind 300", 16, 8, 128, true, arch, list(64, {40, 300, 40}));
	bench("encoder 256 x 60", 12, 12, 32, false, arch, list(256, {60, 0}));
	bench("encoder 1 x 8192", 16, 16, 128, false, arch, list(1, {8192, 0}));
	bench("decode 64 behind 1023", 32, 8, 128, true, arch, list(64, {1, 1023}));
	bench("decode 64 behind 4095", 32, 8, 128, true, arch, list(64, {1, 4095}));
	bench("decode 1 behind 255", 32, 8, 128, true, arch, list(1, {1, 255}));
	bench("decode 1 behind 1023", 32, 8, 128, true, arch, list(1, {1, 1023}));
	bench("decode 1 behind 8191", 32, 8, 128, true, arch, list(1, {1, 8191}));
	bench("decode 64 behind 1023", 16, 8, 128, true, arch, list(64, {1, 1023}));
	bench("decode 64 behind 1023", 12, 2, 128, true, arch, list(64, {1, 1023}));
	bench("draft 16 x 5 behind 1023", 32, 8, 128, true, arch, list(16, {5, 1023}));
	return 0;
}
