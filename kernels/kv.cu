/*
 * kv.cu: the pool of KV pages, and the copies that its owner asks for.
 *
 * [layer][page][K, V][kv head][slot][d_head] bf16, one allocation, zeroed. A page is dense in a
 * layer, so clearing is one fill a layer, and copying slots moves runs of n_slots · d_head
 * elements, one for each of the 2 · n_kv_heads blocks of a page.
 */
#include <string.h>

#include "cuda.cuh"

/* Slots of a page. */
uint32_t
cuda_kv_page_tokens(pp_backend *be)
{
	(void) be;
	return PP_CUDA_PAGE;
}

/* Bytes of a page in all layers; bf16 whatever the precision. */
uint64_t
cuda_kv_page_bytes(pp_backend *be, const pp_attn *attn, uint32_t n_layers, pp_precision precision)
{
	uint64_t bytes = 0;

	(void) be;
	(void) precision;
	for (uint32_t i = 0; i < n_layers; i++)
		bytes += cuda_page_elems(attn[i].n_kv_heads, attn[i].d_head) * sizeof(bf16);
	return bytes;
}

/* Makes the pool; an old one is dropped. */
pp_result
cuda_kv_create(pp_backend *be, const pp_attn *attn, uint32_t n_layers, uint32_t n_pages,
               pp_precision precision)
{
	pp_cuda *cu = cuda_of(be);
	cuda_kv *kv = &cu->kv;
	uint64_t bytes = cuda_kv_page_bytes(be, attn, n_layers, precision) * n_pages;
	size_t offset = 0;
	pp_result result;

	cuda_kv_destroy(be);
	cudaSetDevice(cu->device);
	kv->offset = new (std::nothrow) size_t[n_layers + 1];
	kv->attn = new (std::nothrow) pp_attn[n_layers + 1];
	result = kv->offset == NULL || kv->attn == NULL
	             ? cuda_fail(cu, PP_E_NOMEM, "out of memory")
	             : cuda_check(cu, cudaMalloc((void **) &kv->data, bytes + 16), "KV pool");
	if (result == PP_OK)
		result = cuda_check(cu, cudaMemsetAsync(kv->data, 0, bytes, cu->stream), "KV pool");
	if (result != PP_OK)
	{
		cuda_kv_destroy(be);
		return result;
	}
	for (uint32_t i = 0; i < n_layers; i++)
	{
		kv->offset[i] = offset;
		kv->attn[i] = attn[i];
		offset += cuda_page_elems(attn[i].n_kv_heads, attn[i].d_head) * n_pages;
	}
	kv->n_layers = n_layers;
	kv->n_pages = n_pages;
	kv->bytes = bytes;
	return PP_OK;
}

/* Frees the pool, if there is one. */
void
cuda_kv_destroy(pp_backend *be)
{
	pp_cuda *cu = cuda_of(be);

	cuda_graphs_drop(cu);
	cudaStreamSynchronize(cu->stream);
	cudaFree(cu->kv.data);
	(void) cudaGetLastError();
	delete[] cu->kv.offset;
	delete[] cu->kv.attn;
	cu->kv = cuda_kv();
}

/* Copies n slots in every layer and head: rows of n · d_head elements, one for each block. */
static pp_result
copy_slots(pp_cuda *cu, uint32_t dst_page, uint32_t dst_slot, uint32_t src_page, uint32_t src_slot,
           uint32_t n)
{
	const cuda_kv *kv = &cu->kv;
	pp_result result = PP_OK;

	for (uint32_t i = 0; result == PP_OK && i < kv->n_layers && n > 0; i++)
	{
		const pp_attn *attn = &kv->attn[i];
		size_t page = cuda_page_elems(attn->n_kv_heads, attn->d_head);
		size_t pitch = (size_t) PP_CUDA_PAGE * attn->d_head * sizeof(bf16);
		bf16 *base = kv->data + kv->offset[i];

		result = cuda_check(
		    cu,
		    cudaMemcpy2DAsync(base + dst_page * page + (size_t) dst_slot * attn->d_head, pitch,
		                      base + src_page * page + (size_t) src_slot * attn->d_head, pitch,
		                      (size_t) n * attn->d_head * sizeof(bf16), 2 * attn->n_kv_heads,
		                      cudaMemcpyDeviceToDevice, cu->stream),
		    "KV copy");
	}
	return result;
}

/* Copies the first slots of a page. */
pp_result
cuda_kv_copy(pp_backend *be, uint32_t dst_page, uint32_t src_page, uint32_t n_slots)
{
	pp_cuda *cu = cuda_of(be);

	if (dst_page == src_page)
		return PP_OK;
	return copy_slots(cu, dst_page, 0, src_page, 0,
	                  n_slots < PP_CUDA_PAGE ? n_slots : PP_CUDA_PAGE);
}

/* Moves the content of a slot of a sequence to another one. */
pp_result
cuda_kv_move(pp_backend *be, const uint32_t *pages, uint32_t dst_slot, uint32_t src_slot)
{
	if (dst_slot == src_slot)
		return PP_OK;
	return copy_slots(cuda_of(be), pages[dst_slot / PP_CUDA_PAGE], dst_slot % PP_CUDA_PAGE,
	                  pages[src_slot / PP_CUDA_PAGE], src_slot % PP_CUDA_PAGE, 1);
}

/* Zeroes a page in all layers. */
pp_result
cuda_kv_clear(pp_backend *be, uint32_t page)
{
	pp_cuda *cu = cuda_of(be);
	const cuda_kv *kv = &cu->kv;
	pp_result result = PP_OK;

	for (uint32_t i = 0; result == PP_OK && i < kv->n_layers; i++)
	{
		size_t n = cuda_page_elems(kv->attn[i].n_kv_heads, kv->attn[i].d_head);

		result = cuda_check(cu,
		                    cudaMemsetAsync(kv->data + kv->offset[i] + page * n, 0,
		                                    n * sizeof(bf16), cu->stream),
		                    "KV clear");
	}
	return result;
}
