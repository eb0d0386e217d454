/*
 * top_fixture.h: the highest logits of a device against the reference: ids and bits exactly, the
 * sum within what top() promises. Shared by test_cpu_ops.c, test_kernels.c and
 * test_top_host.cu.
 */
#ifndef TOP_FIXTURE_H
#define TOP_FIXTURE_H

#include <math.h>

#ifdef __cplusplus
extern "C"
{
#endif
#include "../kernels/ref/ref.h"
#ifdef __cplusplus
}
#endif
#include "test.h"

#define TOP_ROWS 7u

/* Rows of logits: spread, many ties, all alike, none, rare ones, infinities and NaN, two zeros. */
static inline void
top_fill(float *x, uint32_t row, uint32_t n, uint64_t *seed)
{
	static const float odd[] = {NAN, INFINITY, -INFINITY, 3.0f, -3.0f, 0.0f, -0.0f, 1e-42f};

	for (uint32_t i = 0; i < n; i++)
	{
		uint64_t r = test_random(seed);
		float spread = (float) ((double) (r >> 40) / (1 << 22) - 2.0) * 7.0f;
		const float kinds[TOP_ROWS] = {
		    spread,     (float) (r % 5),          1.0f, -INFINITY, r % 97 == 0 ? spread : -INFINITY,
		    odd[r % 8], r % 2 == 0 ? 0.0f : -0.0f};

		x[i] = kinds[row];
	}
}

/* One row of what a device found. */
static inline void
top_check_row(const pp_top *top, const float *x, uint32_t n_vocab, uint32_t k, float scale)
{
	int32_t ids[PP_TOP_MAX];
	double sum;
	uint32_t n = (uint32_t) top_ref(ids, &sum, x, n_vocab, k, (double) scale);

	CHECK_MSG(top->n == n, "%u of %u: %u found, %u there", k, n_vocab, top->n, n);
	for (uint32_t i = 0; i < n && i < top->n; i++)
		CHECK_MSG(top->id[i] == ids[i] && memcmp(&top->logit[i], &x[ids[i]], 4) == 0,
		          "%u of %u: number %u is %d, not %d", k, n_vocab, i, top->id[i], ids[i]);
	if (scale == 0.0f)
		CHECK(top->sum == 0.0f);
	else if (!isnan(sum)) /* an infinite logit has no weight */
		CHECK_MSG(fabs((double) top->sum - sum) <= 3e-5 * sum, "a sum of %g, not %g",
		          (double) top->sum, sum);
}

/* Every kind of row, at sizes around a block and a digit. */
static inline void
top_check(pp_backend *be, uint64_t *seed)
{
	static const uint32_t sizes[] = {1, 2, 63, 64, 65, 257, 1023, 1024, 1025, 20011};
	static const uint32_t ks[] = {1, 2, 40, PP_TOP_MAX};

	for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++)
	{
		const size_t n = (size_t) TOP_ROWS * sizes[s];
		float *x = (float *) malloc(n * sizeof(*x));
		float *logits = (float *) be->ops->alloc(be, n * sizeof(*x));
		pp_top *dev = (pp_top *) be->ops->alloc(be, TOP_ROWS * sizeof(*dev));
		pp_top found[TOP_ROWS];

		REQUIRE(x != NULL && logits != NULL && dev != NULL);
		for (uint32_t r = 0; r < TOP_ROWS; r++)
			top_fill(x + (size_t) r * sizes[s], r, sizes[s], seed);
		CHECK(be->ops->upload(be, logits, x, n * sizeof(*x)) == PP_OK);
		for (size_t i = 0; i < 2 * sizeof(ks) / sizeof(ks[0]); i++)
		{
			const uint32_t k = ks[i / 2];
			const float scale = i % 2 == 0 ? 0.0f : 0.7f;

			CHECK(be->ops->top(be, dev, logits, TOP_ROWS, sizes[s], k, scale) == PP_OK);
			CHECK(be->ops->download(be, found, dev, sizeof(found)) == PP_OK);
			for (uint32_t r = 0; r < TOP_ROWS; r++)
				top_check_row(&found[r], x + (size_t) r * sizes[s], sizes[s], k, scale);
		}
		CHECK(be->ops->top(be, dev, logits, 0, sizes[s], 1, 0.0f) == PP_OK);
		CHECK(be->ops->top(be, dev, logits, 1, sizes[s], 0, 0.0f) == PP_E_UNSUPPORTED);
		CHECK(be->ops->top(be, dev, logits, 1, sizes[s], PP_TOP_MAX + 1, 0.0f) == PP_E_UNSUPPORTED);
		be->ops->release(be, logits);
		be->ops->release(be, dev);
		free(x);
	}
}

#endif /* TOP_FIXTURE_H */
