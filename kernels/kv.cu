/*
 * kv.cu: the pool of KV pages, and the copies that its owner asks for.
 *
 * [layer][page][K, V][kv head][slot][d_head] bf16, one allocation, zeroed. A page is dense in a
 * layer, so clearing is one fill a layer; slots of all layers are copied in one launch, a block
 * for each head of keys and of values, a run of n_slots · d_head elements.
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
	cuda_kv_layer *layers;
	pp_result result;

	cuda_kv_destroy(be);
	kv->offset = new (std::nothrow) size_t[n_layers + 1];
	kv->attn = new (std::nothrow) pp_attn[n_layers + 1];
	layers = new (std::nothrow) cuda_kv_layer[n_layers + 1];
	result = kv->offset == NULL || kv->attn == NULL || layers == NULL
	             ? cuda_fail(cu, PP_E_NOMEM, "out of memory")
	             : cuda_check(cu, cudaMalloc((void **) &kv->data, bytes + 16), "KV pool");
	for (uint32_t i = 0; result == PP_OK && i < n_layers; i++)
	{
		size_t page = cuda_page_elems(attn[i].n_kv_heads, attn[i].d_head);

		kv->offset[i] = offset;
		kv->attn[i] = attn[i];
		kv->max_heads = attn[i].n_kv_heads > kv->max_heads ? attn[i].n_kv_heads : kv->max_heads;
		layers[i] = cuda_kv_layer{offset, page, attn[i].n_kv_heads, attn[i].d_head};
		offset += page * n_pages;
	}
	if (result == PP_OK)
		result = cuda_check(cu, cudaMemsetAsync(kv->data, 0, bytes, cu->stream), "KV pool");
	if (result == PP_OK)
		result = cuda_check(cu, cudaMalloc((void **) &kv->layers, (n_layers + 1) * sizeof(*layers)),
		                    "KV pool");
	if (result == PP_OK)
		result = cuda_check(cu,
		                    cudaMemcpy(kv->layers, layers, n_layers * sizeof(*layers),
		                               cudaMemcpyHostToDevice),
		                    "KV pool");
	delete[] layers;
	if (result != PP_OK)
	{
		cuda_kv_destroy(be);
		return result;
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
	cudaFree(cu->kv.layers);
	(void) cudaGetLastError();
	delete[] cu->kv.offset;
	delete[] cu->kv.attn;
	cu->kv = cuda_kv();
}

/* Copies n slots of one head of one layer, keys or values: blocks of (head, layer). */
static __global__ void
copy_kernel(bf16 *data, const cuda_kv_layer *layers, uint32_t dst_page, uint32_t dst_slot,
            uint32_t src_page, uint32_t src_slot, uint32_t n)
{
	const cuda_kv_layer layer = layers[blockIdx.y];
	const size_t head = (size_t) blockIdx.x * PP_CUDA_PAGE * layer.d_head;

	if (blockIdx.x >= 2 * layer.n_kv_heads)
		return;
	const bf16 *from =
	    data + layer.offset + src_page * layer.page + head + (size_t) src_slot * layer.d_head;
	bf16 *to =
	    data + layer.offset + dst_page * layer.page + head + (size_t) dst_slot * layer.d_head;

	/* a head has a multiple of eight columns: 16 bytes at a time */
	for (uint32_t i = threadIdx.x; i < n * layer.d_head / 8; i += blockDim.x)
		((uint4 *) to)[i] = ((const uint4 *) from)[i];
}

/* Copies n slots in every layer and head. */
static pp_result
copy_slots(pp_cuda *cu, uint32_t dst_page, uint32_t dst_slot, uint32_t src_page, uint32_t src_slot,
           uint32_t n)
{
	const cuda_kv *kv = &cu->kv;

	if (n == 0 || kv->n_layers == 0)
		return PP_OK;
	copy_kernel<<<dim3(2 * kv->max_heads, kv->n_layers), 256, 0, cu->stream>>>(kv->data, kv->layers,
	                                                                           dst_page, dst_slot,
	                                                                           src_page, src_slot,
	                                                                           n);
	return cuda_launched(cu, "KV copy");
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
