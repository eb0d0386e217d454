/*
 * quant.cu: weights that stay quantised: from the blocks of a file to tiles, from tiles to bf16.
 *
 *	pack     tiles[row0 + r, :] = blocks of row r       quants and scales as they are, no rounding
 *	expand   out[N, K] = bf16 of every weight           for products of many tokens
 *	embed    out[T, d] = bf16(row ids[t]) · scale       float out
 *	grid     pack, expand: a thread a chunk of 16 weights (quant.cuh), 64 threads a tile; embed: a
 *	         block a token
 *	shared   none
 *
 * The layout is in quant.cuh, what the blocks mean in blocks.cuh. pack and expand are bound by
 * memory: expand reads 5 or 9 bits and writes 16 a weight.
 */
#include "blocks.cuh"

#define THREADS 256u

/* One chunk, and by one thread of a row its scales. */
static __global__ void
pack_chunks(uint8_t *tiles, uint8_t *forms, const uint8_t *src, block_type type, uint32_t bits,
            uint32_t row0, uint32_t n_rows, uint32_t n_cols, size_t row_bytes)
{
	const size_t i = (size_t) blockIdx.x * blockDim.x + threadIdx.x;
	const uint32_t quad = (uint32_t) (i % 4);
	const uint32_t n_tiles = quant_tiles(n_cols);
	const uint32_t tile = (uint32_t) (i / 4 % n_tiles);
	const size_t r = i / 4 / n_tiles;
	const uint32_t row = row0 + (uint32_t) r;
	const int zero = bits == 8 ? 128 : type.form == QUANT_PLAIN ? 8 : 0;
	uint32_t chunk[4] = {};

	if (r >= n_rows)
		return;
	src += r * row_bytes;
	tiles += ((size_t) (row / QUANT_ROWS) * n_tiles + tile) * quant_tile_bytes(bits);
	for (uint32_t j = 0; j < 16; j++)
	{
		const uint32_t s = j / 4;
		const uint32_t e = j % 4;
		const uint32_t col = tile * QUANT_COLS + s * 16 + quad * 2 + e % 2 + e / 2 * 8;
		const uint8_t *block = src + (size_t) (col / type.weights) * type.bytes;
		const int q = col < n_cols ? block_quant(block, type.type, col % type.weights) + zero : 0;

		if (bits == 8)
			chunk[s] |= (uint32_t) q << 8 * e;
		else
			chunk[s / 2] |= (uint32_t) q << (8 * e + s % 2 * 4);
	}
	for (uint32_t w = 0; w < bits / 2; w++)
		((uint32_t *) (tiles + quant_chunk(bits, row, quad)))[w] = chunk[w];
	if (quad == 0)
		*(uint2 *) (tiles + quant_bytes(bits) + row % QUANT_ROWS * QUANT_SCALE) =
		    block_scales(src, type, n_cols, tile * QUANT_COLS);
	if (quad == 0 && tile == 0)
		forms[row] = (uint8_t) type.form;
}

/* One chunk: eight pairs. */
template <uint32_t BITS>
static __global__ void
expand_chunks(bf16 *out, const uint8_t *tiles, const uint8_t *forms, uint32_t n_rows,
              uint32_t n_cols)
{
	const size_t i = (size_t) blockIdx.x * blockDim.x + threadIdx.x;
	const uint32_t n_tiles = quant_tiles(n_cols);
	const size_t tile = i / 64;
	const uint32_t row = (uint32_t) (tile / n_tiles) * QUANT_ROWS + (uint32_t) (i % 64 / 4);
	const uint32_t col = (uint32_t) (tile % n_tiles) * QUANT_COLS + (uint32_t) (i % 4) * 2;
	uint32_t chunk[BITS / 2];
	uint32_t form;
	uint2 scale;

	cuda_begin();
	if (row >= n_rows)
		return;
	form = forms[row];
	tiles += tile * quant_tile_bytes(BITS);
	scale = *(const uint2 *) (tiles + quant_bytes(BITS) + row % QUANT_ROWS * QUANT_SCALE);
#pragma unroll
	for (uint32_t w = 0; w < BITS / 4; w++)
	{
		const uint2 q = ((const uint2 *) (tiles + quant_chunk(BITS, row, (uint32_t) i)))[w];

		chunk[2 * w] = q.x;
		chunk[2 * w + 1] = q.y;
	}
#pragma unroll
	for (uint32_t s = 0; s < 4; s++)
	{
		if (col + s * 16 >= n_cols)
			break;
		uint32_t *to = (uint32_t *) (out + (size_t) row * n_cols + col + s * 16);
		const uint32_t bytes = quant_step<BITS>(chunk, s);
		const float zero = quant_zero(BITS, form);
		float a;
		float b;

		quant_scale(form, scale.x, scale.y, s, &a, &b);
		to[0] = quant_pair(bytes, 0, zero, a, b);
		to[4] = quant_pair(bytes, 2, zero, a, b);
	}
}

/* One row of a table. */
static __global__ void
embed_rows(float *out, const uint8_t *tiles, const uint8_t *forms, uint32_t bits,
           const int32_t *ids, uint32_t d, float scale)
{
	cuda_begin();
	const uint32_t row = (uint32_t) ids[blockIdx.x];
	float *to = out + (size_t) blockIdx.x * d;

	for (uint32_t i = threadIdx.x; i < d; i += blockDim.x)
		to[i] =
		    __bfloat162float(__float2bfloat16_rn(quant_at(tiles, bits, forms[row], d, row, i))) *
		    scale;
}

/* Launches for rows of blocks that are on the device. */
cudaError_t
cuda_quant_pack(pp_cuda *cu, pp_matrix *m, uint32_t row0, const uint8_t *src, pp_dtype type,
                uint32_t n_rows, size_t row_bytes)
{
	const size_t n = (size_t) n_rows * quant_tiles(m->n_cols) * 4;

	return attn_launch(cu, pack_chunks, dim3((uint32_t) ((n + THREADS - 1) / THREADS)),
	                   (int) THREADS, 0, m->tiles, m->forms, src, *block_find(type), m->bits, row0,
	                   n_rows, m->n_cols, row_bytes);
}

/* All weights. */
cudaError_t
cuda_quant_expand(pp_cuda *cu, bf16 *out, const pp_matrix *m)
{
	const size_t n_groups = (m->n_rows + QUANT_ROWS - 1) / QUANT_ROWS;
	const dim3 grid((uint32_t) ((n_groups * quant_tiles(m->n_cols) * 64 + THREADS - 1) / THREADS));
	auto kernel = m->bits == 8 ? expand_chunks<8> : expand_chunks<4>;

	return attn_launch_early(cu, kernel, grid, (int) THREADS, 0, out, (const uint8_t *) m->tiles,
	                         (const uint8_t *) m->forms, m->n_rows, m->n_cols);
}

/* Rows of a table. */
cudaError_t
cuda_quant_embed(pp_cuda *cu, float *out, const pp_matrix *m, const int32_t *ids, uint32_t n_tokens,
                 float scale)
{
	return attn_launch_early(cu, embed_rows, dim3(n_tokens), (int) THREADS, 0, out,
	                         (const uint8_t *) m->tiles, (const uint8_t *) m->forms, m->bits, ids,
	                         m->n_cols, scale);
}

/* The bytes of a matrix in tiles; rows are padded. */
size_t
cuda_quant_bytes(uint32_t n_rows, uint32_t n_cols, uint32_t bits)
{
	return (size_t) ((n_rows + QUANT_ROWS - 1) / QUANT_ROWS) * quant_tiles(n_cols) *
	       quant_tile_bytes(bits);
}
