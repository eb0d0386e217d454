/*
 * fault_kernels.cu: kernels that do what no kernel of the backend may: for test_fault.c.
 *
 * They run in the process's one context of the device, beside the backend's: what they break is
 * broken for it too.
 */
#undef NDEBUG
#include <assert.h>
#include <cuda_runtime.h>
#include <stdint.h>

/* Writes where nothing is. */
static __global__ void
illegal_kernel(uint32_t *nowhere)
{
	nowhere[threadIdx.x] = 1;
}

/* Fails an assertion. */
static __global__ void
assert_kernel(int x)
{
	assert(x == 0);
}

/* Stops in an illegal way. */
static __global__ void
trap_kernel()
{
	__trap();
}

/* Keeps its place on the card until the device's clock says otherwise. */
static __global__ void __launch_bounds__(1024) spin_kernel(uint64_t nanoseconds)
{
	uint64_t start, now;

	asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
	do
		asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
	while (now - start < nanoseconds);
}

/* Provokes a fault and waits for it; returns the runtime's code. */
extern "C" int
fault_provoke(const char *kind)
{
	cudaSetDevice(0);
	if (kind[0] == 'i')
		illegal_kernel<<<1, 32>>>((uint32_t *) 16);
	else if (kind[0] == 'a')
		assert_kernel<<<1, 32>>>(1);
	else
		trap_kernel<<<1, 1>>>();
	return (int) cudaDeviceSynchronize();
}

/* Fills every place of the card for so many seconds; does not wait. False: it did not start. */
extern "C" int
fault_spin(int seconds)
{
	cudaDeviceProp prop;

	if (cudaGetDeviceProperties(&prop, 0) != cudaSuccess || cudaSetDevice(0) != cudaSuccess)
		return 0;
	spin_kernel<<<prop.multiProcessorCount *(prop.maxThreadsPerMultiProcessor / 1024), 1024>>>(
	    (uint64_t) seconds * 1000000000u);
	return cudaGetLastError() == cudaSuccess;
}
