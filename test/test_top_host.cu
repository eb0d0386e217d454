/*
 * test_top_host.cu: top.cu on the CPU (cuda_host.cuh): the highest logits against the reference,
 * with the barriers that the card would see. test_kernels asks the same of a card.
 */
#include "top_fixture.h"

static pp_cuda cu;
static pp_ops ops;

/* What the backend would do with a failure. */
pp_result
cuda_fail(pp_cuda *, pp_result result, const char *, ...)
{
	return result;
}

/* Every launch succeeds. */
pp_result
cuda_launched(pp_cuda *, const char *)
{
	return PP_OK;
}

/* Device memory is the host's. */
static void *
host_alloc(pp_backend *, size_t bytes)
{
	return calloc(1, bytes);
}

/* The same. */
static void
host_release(pp_backend *, void *dev)
{
	free(dev);
}

/* There. */
static pp_result
host_upload(pp_backend *, void *dev, const void *from, size_t bytes)
{
	memcpy(dev, from, bytes);
	return PP_OK;
}

static void
test_top(void)
{
	uint64_t seed = 9;

	top_check(&cu.base, &seed);
}

int
main(void)
{
	ops.alloc = host_alloc;
	ops.release = host_release;
	ops.upload = ops.download = host_upload;
	ops.top = cuda_top;
	cu.base.ops = &ops;
	RUN(top);
	return test_summary("top_host");
}
