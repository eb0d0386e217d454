/*
 * backend.cu: the CUDA backend: its table, its memory, its errors.
 *
 * All device memory is taken while a model is loaded: weights, the workspace, the KV pool, and
 * scratch that grows during the calibration passes and then stays. What is taken is zeroed, so that
 * rows that a recorded pass computes beyond those asked for are finite.
 *
 * A failure of the runtime is sticky here too: after one, every op fails with the first message,
 * because a context that saw an illegal address gives nothing right any more. Out of memory is the
 * exception.
 */
#include <stdio.h>
#include <string.h>
#include <new>

#include "cuda.cuh"

/* Keeps the message of a failure; see the header. */
pp_result
cuda_fail(pp_cuda *cu, pp_result result, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(cu->base.message, sizeof(cu->base.message), fmt, args);
	va_end(args);
	cu->record_failed = true;
	return result;
}

/* Sorts a runtime error into a result; see the header. */
pp_result
cuda_check(pp_cuda *cu, cudaError_t error, const char *what)
{
	if (cu->failed)
		return PP_E_DEVICE;
	if (error == cudaSuccess)
		return PP_OK;
	(void) cudaGetLastError();
	if (error == cudaErrorMemoryAllocation)
		return cuda_fail(cu, PP_E_NOMEM, "%s: the device has no memory left", what);
	cu->failed = true;
	return cuda_fail(cu, PP_E_DEVICE, "%s: %s (%d)", what, cudaGetErrorString(error), (int) error);
}

/* What the launches left; see the header. */
pp_result
cuda_launched(pp_cuda *cu, const char *what)
{
	return cuda_check(cu, cudaGetLastError(), what);
}

/* A scratch buffer; the old one may still be read by what runs, so it is freed after that. */
void *
cuda_scratch(pp_cuda *cu, cuda_slot slot, size_t bytes)
{
	cuda_buffer *b = &cu->scratch[slot];
	size_t grown = bytes > 2 * b->bytes ? bytes : 2 * b->bytes;

	if (bytes <= b->bytes && b->data != NULL)
		return b->data;
	if (cu->recording)
	{
		cuda_fail(cu, PP_E_NOMEM, "scratch would grow while a pass is recorded");
		return NULL;
	}
	cuda_graphs_drop(cu);
	if (cuda_check(cu, cudaStreamSynchronize(cu->stream), "scratch") != PP_OK)
		return NULL;
	cudaFree(b->data);
	*b = cuda_buffer();
	grown = grown > 256 ? grown : 256;
	if (cuda_check(cu, cudaMalloc(&b->data, grown), "scratch") != PP_OK ||
	    cuda_check(cu, cudaMemsetAsync(b->data, 0, grown, cu->stream), "scratch") != PP_OK)
		return NULL;
	b->bytes = grown;
	return b->data;
}

/* Pinned host memory; see the header. */
bool
cuda_pinned(pp_cuda *cu, cuda_buffer *b, size_t bytes)
{
	size_t grown = bytes > 2 * b->bytes ? bytes : 2 * b->bytes;

	if (bytes <= b->bytes && b->data != NULL)
		return true;
	if (cuda_check(cu, cudaStreamSynchronize(cu->stream), "pinned memory") != PP_OK)
		return false;
	cudaFreeHost(b->data);
	*b = cuda_buffer();
	if (cuda_check(cu, cudaMallocHost(&b->data, grown), "pinned memory") != PP_OK)
		return false;
	b->bytes = grown;
	return true;
}

/* Allocates zeroed device memory; the size is asked of the runtime at release. */
static void *
cuda_alloc(pp_backend *be, size_t bytes)
{
	pp_cuda *cu = cuda_of(be);
	uint8_t *block;

	/* 256 bytes in front keep the size, and the alignment that cudaMalloc promises */
	if (bytes > SIZE_MAX / 2 ||
	    cuda_check(cu, cudaMalloc((void **) &block, bytes + 256), "alloc") != PP_OK)
		return NULL;
	if (cuda_check(cu, cudaMemset(block, 0, bytes + 256), "alloc") != PP_OK ||
	    cuda_check(cu, cudaMemcpy(block, &bytes, sizeof(bytes), cudaMemcpyHostToDevice), "alloc") !=
	        PP_OK)
	{
		cudaFree(block);
		return NULL;
	}
	cu->bytes_alloc += bytes;
	return block + 256;
}

/* Frees device memory; NULL is fine. */
static void
cuda_release(pp_backend *be, void *dev)
{
	pp_cuda *cu = cuda_of(be);
	size_t bytes = 0;

	if (dev == NULL)
		return;
	cuda_graphs_drop(cu); /* a recording may hold its address */
	if (cudaMemcpy(&bytes, (uint8_t *) dev - 256, sizeof(bytes), cudaMemcpyDeviceToHost) ==
	    cudaSuccess)
		cu->bytes_alloc -= bytes;
	cudaFree((uint8_t *) dev - 256);
	(void) cudaGetLastError();
}

/* Host to device; the source may change when it returns. */
static pp_result
cuda_upload(pp_backend *be, void *dev_dst, const void *src, size_t bytes)
{
	pp_cuda *cu = cuda_of(be);

	if (bytes == 0)
		return PP_OK;
	return cuda_check(cu, cudaMemcpyAsync(dev_dst, src, bytes, cudaMemcpyHostToDevice, cu->stream),
	                  "upload");
}

/* Waits for everything. */
static pp_result
cuda_sync(pp_backend *be)
{
	pp_cuda *cu = cuda_of(be);

	return cuda_check(cu, cudaStreamSynchronize(cu->stream), "sync");
}

/* Downloads of up to this many bytes go by pinned memory, which is one copy more but no stall. */
#define PINNED_OUT ((size_t) 4 << 20)

/* Device to host; waits. */
static pp_result
cuda_download(pp_backend *be, void *dst, const void *dev_src, size_t bytes)
{
	pp_cuda *cu = cuda_of(be);
	bool pinned = bytes <= PINNED_OUT && cuda_pinned(cu, &cu->pinned_out, PINNED_OUT);
	void *to = pinned ? cu->pinned_out.data : dst;
	pp_result result;

	if (bytes == 0)
		return cuda_sync(be);
	result = cuda_check(cu, cudaMemcpyAsync(to, dev_src, bytes, cudaMemcpyDeviceToHost, cu->stream),
	                    "download");
	if (result == PP_OK)
		result = cuda_sync(be);
	if (result == PP_OK && pinned)
		memcpy(dst, to, bytes);
	return result;
}

/* Activations to host floats: the upper half of a float is a bf16. */
static pp_result
cuda_download_act(pp_backend *be, float *dst, const pp_act *dev_src, size_t n)
{
	uint16_t *halves = (uint16_t *) dst + n; /* the end of dst: widened from the front */
	pp_result result = cuda_download(be, halves, dev_src, n * sizeof(bf16));

	for (size_t i = 0; result == PP_OK && i < n; i++)
	{
		uint32_t bits = (uint32_t) halves[i] << 16;

		memcpy(dst + i, &bits, sizeof(bits));
	}
	return result;
}

/* What is in use, and what the device has left. */
static void
cuda_memory_info(pp_backend *be, pp_memory_info *info)
{
	const pp_cuda *cu = cuda_of(be);
	size_t bytes_free = 0;
	size_t bytes_total = 0;

	if (cudaMemGetInfo(&bytes_free, &bytes_total) != cudaSuccess)
		bytes_free = 0;
	*info = pp_memory_info();
	info->bytes_weights = cu->bytes_weights;
	info->bytes_kv = cu->kv.bytes;
	info->bytes_scratch = cu->bytes_alloc;
	info->bytes_free = bytes_free;
	for (int i = 0; i < CUDA_N_SCRATCH; i++)
		info->bytes_scratch += cu->scratch[i].bytes;
}

/* Frees the backend; matrices and memory must have been freed before. */
static void
cuda_destroy(pp_backend *be)
{
	pp_cuda *cu;

	if (be == NULL)
		return;
	cu = cuda_of(be);
	cudaStreamSynchronize(cu->stream);
	cuda_graphs_drop(cu);
	cuda_kv_destroy(be);
	cuda_blas_destroy(cu);
	for (int i = 0; i < CUDA_N_SCRATCH; i++)
		cudaFree(cu->scratch[i].data);
	for (uint32_t i = 0; i < cu->n_ropes; i++)
		cudaFree(cu->ropes[i].dev);
	cudaFreeHost(cu->pinned.data);
	cudaFreeHost(cu->pinned_out.data);
	for (int i = 0; i < 2; i++)
	{
		cudaFreeHost(cu->pinned_load[i].data);
		if (cu->load_sent[i] != NULL)
			cudaEventDestroy(cu->load_sent[i]);
	}
	if (cu->planned != NULL)
		cudaEventDestroy(cu->planned);
	if (cu->stream != NULL)
		cudaStreamDestroy(cu->stream);
	(void) cudaGetLastError();
	delete cu;
}

/* The table, in the order of the struct: C++ wants designators in order. */
static const pp_ops cuda_ops = {
    .alloc = cuda_alloc,
    .release = cuda_release,
    .upload = cuda_upload,
    .download = cuda_download,
    .sync = cuda_sync,
    .memory_info = cuda_memory_info,
    .destroy = cuda_destroy,
    .download_act = cuda_download_act,
    .narrow = cuda_narrow,
    .pass_begin = cuda_pass_begin,
    .pass_end = cuda_pass_end,
    .matrix_create = cuda_matrix_create,
    .matrix_destroy = cuda_matrix_destroy,
    .embed = cuda_embed,
    .add_rows = cuda_add_rows,
    .norm = cuda_norm,
    .norm_post = cuda_norm_post,
    .norm_rows = cuda_norm_rows,
    .add = cuda_add,
    .matmul = cuda_matmul,
    .matmul_float = cuda_matmul_float,
    .matmul_columns = cuda_matmul_columns,
    .gather = cuda_gather,
    .activate = cuda_activate,
    .mlp = cuda_mlp,
    .softcap = cuda_softcap,
    .qkv_prepare = cuda_qkv_prepare,
    .attention = cuda_attention_op,
    .kv_page_tokens = cuda_kv_page_tokens,
    .kv_page_bytes = cuda_kv_page_bytes,
    .kv_create = cuda_kv_create,
    .kv_destroy = cuda_kv_destroy,
    .kv_copy = cuda_kv_copy,
    .kv_move = cuda_kv_move,
    .kv_clear = cuda_kv_clear,
    .pool = cuda_pool,
    .logsumexp = cuda_logsumexp,
    .top = cuda_top,
    .sum = cuda_sum,
};

/* Fills what the device says of itself, makes stream and handles. */
static pp_result
open_device(pp_cuda *cu, uint32_t device)
{
	cudaDeviceProp prop;
	int n_devices = 0;
	pp_result result = cuda_check(cu, cudaGetDeviceCount(&n_devices), "devices");

	if (result == PP_OK && (n_devices < 0 || device >= (uint32_t) n_devices))
		return cuda_fail(cu, PP_E_UNSUPPORTED, "device %u of %d", device, n_devices);
	if (result == PP_OK)
		result = cuda_check(cu, cudaSetDevice((int) device), "device");
	if (result == PP_OK)
		result = cuda_check(cu, cudaGetDeviceProperties(&prop, (int) device), "device");
	if (result != PP_OK)
		return result;
	if (prop.major < 8)
		return cuda_fail(cu, PP_E_UNSUPPORTED, "%.100s is too old: compute capability %d.%d",
		                 prop.name, prop.major, prop.minor);
	cu->device = (int) device;
	cu->n_sms = prop.multiProcessorCount;
	cu->arch = 10 * prop.major + prop.minor;
	snprintf(cu->name, sizeof(cu->name), "cuda:%u", device);
	result =
	    cuda_check(cu, cudaStreamCreateWithFlags(&cu->stream, cudaStreamNonBlocking), "stream");
	if (result == PP_OK)
		result =
		    cuda_check(cu, cudaEventCreateWithFlags(&cu->planned, cudaEventDisableTiming), "event");
	return result == PP_OK ? cuda_blas_create(cu) : result;
}

/* By which a loader sees that it was built for the same table. */
extern "C" __attribute__((visibility("default"))) uint32_t
pp_cuda_abi(void)
{
	return PP_ABI;
}

/* Makes a backend on a device; see kernels.h. */
extern "C" __attribute__((visibility("default"))) pp_result
pp_cuda_create(uint32_t device, pp_backend **out, char *message, size_t bytes)
{
	pp_cuda *cu = new (std::nothrow) pp_cuda();
	pp_result result;

	*out = NULL;
	if (cu == NULL)
	{
		snprintf(message, bytes, "out of memory");
		return PP_E_NOMEM;
	}
	cu->base.ops = &cuda_ops;
	cu->base.name = cu->name;
	cu->base.act_bytes = sizeof(bf16);
	cu->base.pass_tokens_max = 16384;
	if ((result = open_device(cu, device)) != PP_OK)
	{
		snprintf(message, bytes, "%s", cu->base.message);
		cuda_destroy(&cu->base);
		return result;
	}
	*out = &cu->base;
	return PP_OK;
}
