/*
 * llm_cpu_simd_blocks.h: the inner loops of products and attention: rotation and quantising of
 * rows, RoPE, blocks of products, steps of attention; and the table of all loops of a level.
 *
 * The second half of the template that llm_cpu_simd.h begins, included right after it.
 *
 * No include guard: it is a template.
 */
/*
 * One stage inside a vector: lanes are paired with partner, and the upper one of a pair subtracts.
 */
#define HADAMARD_STAGE(v, upper, ...) \
	((v16f) ((v16i) (v) ^ (upper)) + __builtin_shufflevector(v, v, __VA_ARGS__))

/* The four stages inside a vector. */
INLINE v16f
V(hadamard_lanes)(v16f v)
{
	const int m = INT32_MIN;
	const v16i upper1 = {0, m, 0, m, 0, m, 0, m, 0, m, 0, m, 0, m, 0, m};
	const v16i upper2 = {0, 0, m, m, 0, 0, m, m, 0, 0, m, m, 0, 0, m, m};
	const v16i upper4 = {0, 0, 0, 0, m, m, m, m, 0, 0, 0, 0, m, m, m, m};
	const v16i upper8 = {0, 0, 0, 0, 0, 0, 0, 0, m, m, m, m, m, m, m, m};

	v = HADAMARD_STAGE(v, upper1, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
	v = HADAMARD_STAGE(v, upper2, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
	v = HADAMARD_STAGE(v, upper4, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
	return HADAMARD_STAGE(v, upper8, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
}

/* A block of 64; out may be x. */
INLINE void
V(hadamard_64)(float *out, const float *x)
{
	v16f a = V(load)(x);
	v16f b = V(load)(x + 16);
	v16f c = V(load)(x + 32);
	v16f d = V(load)(x + 48);
	v16f ab = a + b;
	v16f cd = c + d;

	a = a - b;
	c = c - d;
	V(store)(out, V(hadamard_lanes)(ab + cd));
	V(store)(out + 16, V(hadamard_lanes)(a + c));
	V(store)(out + 32, V(hadamard_lanes)(ab - cd));
	V(store)(out + 48, V(hadamard_lanes)(a - c));
}

/* All blocks of a row, by the fast Walsh-Hadamard transform; out may be x. */
static TARGET void
V(k_hadamard)(float *out, const float *x, size_t n, uint32_t block)
{
	if (block == 64)
	{
		for (size_t at = 0; at < n; at += 64)
			V(hadamard_64)(out + at, x + at);
		return;
	}
	if (out != x && n > 0)
		memcpy(out, x, n * sizeof(*out));
	for (size_t h = 1; h < block; h *= 2)
		for (size_t i = 0; i < n; i++)
			if ((i & h) == 0)
			{
				float a = out[i];

				out[i] = a + out[i + h];
				out[i + h] = a - out[i + h];
			}
}

/* The larger magnitude of each lane as integers, which order as the magnitudes do, NaN on top. */
INLINE v16i
V(larger)(v16i m, v16f x)
{
	v16i a = (v16i) x & INT32_MAX;
	v16i greater = a > m;

	return (greater & a) | (~greater & m);
}

/* The largest magnitude of a row; infinity or NaN anywhere gives a value that is not finite. */
INLINE float
V(max_abs)(const float *x, size_t n)
{
	v16i m = {0};
	v16i m4[4] = {m, m, m, m}; /* a maximum waits for the one before it: four at once */
	int32_t t[16];
	size_t i = 0;
	float max;

	for (; i + 64 <= n; i += 64)
#pragma GCC unroll 4
		for (size_t j = 0; j < 4; j++)
			m4[j] = V(larger)(m4[j], V(load)(x + i + 16 * j));
	for (; i + 16 <= n; i += 16)
		m = V(larger)(m, V(load)(x + i));
	if (i < n)
		m = V(larger)(m, V(load_tail)(x + i, n - i, 0.0f));
	for (size_t j = 0; j < 4; j++)
		m = V(larger)(m, (v16f) m4[j]);
	memcpy(t, &m, sizeof(t));
	for (size_t half = 8; half > 0; half /= 2)
		for (size_t lane = 0; lane < half; lane++)
			t[lane] = t[lane] > t[lane + half] ? t[lane] : t[lane + half];
	memcpy(&max, t, sizeof(max));
	return max;
}

/* The u8 of 16 values: adding 1.5 · 2^23 rounds to integers and leaves them in the low bits. */
INLINE v16u8
V(to_u8)(v16f x, v16f inv)
{
	return __builtin_convertvector((v16i) (x * inv + V(splat)(12582912.0f)) + 128, v16u8);
}

/*
 * Quantises a row symmetrically to −127 … 127, plus 128. A row that holds a NaN or an infinity gets
 * the scale NaN, so that every product of it is NaN, as in float; one so small that 127 / max would
 * overflow counts as zero.
 */
static TARGET float
V(k_quantise)(uint8_t *q, const float *x, size_t n, size_t bytes_row)
{
	const float max = V(max_abs)(x, n);
	const v16f inv = V(splat)(127.0f / max);
	size_t i = 0;

	if (!(max <= 3.0e38f) || max < 1.0e-30f)
	{
		memset(q, 128, bytes_row);
		return max < 1.0e-30f ? 0.0f : __builtin_nanf("");
	}
	for (; i + 16 <= n; i += 16)
	{
		v16u8 b = V(to_u8)(V(load)(x + i), inv);

		memcpy(q + i, &b, sizeof(b));
	}
	if (i < n)
	{
		v16u8 b = V(to_u8)(V(load_tail)(x + i, n - i, 0.0f), inv);

		memcpy(q + i, &b, n - i);
	}
	memset(q + n, 128, bytes_row - n);
	return max / 127.0f;
}

/*
 * Rounds to bf16: half of the last bit that stays, less one where that bit is 0, carries into it.
 */
static TARGET void
V(k_narrow)(uint16_t *out, const float *x, size_t n)
{
	for (size_t i = 0; i < n; i += 16)
	{
		v16u bits = (v16u) V(load)(x + i);
		v16u rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
		v16u quiet = bits >> 16 | 0x40;
		v16u nan = (v16u) ((v16i) (bits & INT32_MAX) > 0x7f800000);
		v16u16 b = __builtin_convertvector((nan & quiet) | (~nan & rounded), v16u16);

		memcpy(out + i, &b, sizeof(b));
	}
}

/* Rotates pairs (2i, 2i + 1): 16 pairs are drawn apart, rotated and put together again. */
INLINE void
V(rotate_interleaved)(float *head, const float *cos, const float *sin, size_t half)
{
	size_t i = 0;

	for (; i + 16 <= half; i += 16)
	{
		v16f low = V(load)(head + 2 * i);
		v16f high = V(load)(head + 2 * i + 16);
		v16f a = __builtin_shufflevector(low, high, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24,
		                                 26, 28, 30);
		v16f b = __builtin_shufflevector(low, high, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25,
		                                 27, 29, 31);
		v16f c = V(load)(cos + i);
		v16f s = V(load)(sin + i);
		v16f x = a * c - b * s;
		v16f y = b * c + a * s;

		V(store)
		(head + 2 * i,
		 __builtin_shufflevector(x, y, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
		V(store)
		(head + 2 * i + 16, __builtin_shufflevector(x, y, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13,
		                                            29, 14, 30, 15, 31));
	}
	for (; i < half; i++)
	{
		float a = head[2 * i];
		float b = head[2 * i + 1];

		head[2 * i] = a * cos[i] - b * sin[i];
		head[2 * i + 1] = b * cos[i] + a * sin[i];
	}
}

/* Rotates pairs (i, i + half). */
INLINE void
V(rotate_halves)(float *head, const float *cos, const float *sin, size_t half)
{
	size_t i = 0;

	for (; i + 16 <= half; i += 16)
	{
		v16f a = V(load)(head + i);
		v16f b = V(load)(head + half + i);
		v16f c = V(load)(cos + i);
		v16f s = V(load)(sin + i);

		V(store)(head + i, a * c - b * s);
		V(store)(head + half + i, b * c + a * s);
	}
	for (; i < half; i++)
	{
		float a = head[i];
		float b = head[half + i];

		head[i] = a * cos[i] - b * sin[i];
		head[half + i] = b * cos[i] + a * sin[i];
	}
}

/* Rotates the pairs of one head. */
static TARGET void
V(k_rotate)(float *head, const float *cos, const float *sin, size_t n_dims, bool interleaved)
{
	if (interleaved)
		V(rotate_interleaved)(head, cos, sin, n_dims / 2);
	else
		V(rotate_halves)(head, cos, sin, n_dims / 2);
}

/*
 * Up to 4 rows by one panel; n_rows is a constant in each caller. Sums run over k in order. They
 * are kept in vectors of the machine's own width, which the compiler holds in registers.
 */
INLINE void
V(panel_f32)(const llm_f32_block *b, const float *w, uint32_t row, uint32_t col, uint32_t n_rows)
{
	const uint32_t n_cols = b->n_cols - col < LLM_PANEL ? b->n_cols - col : LLM_PANEL;
	const float *x = b->x + row * b->k;
	V(native) acc[4][LLM_PANEL / LANES] = {0};
	float sums[LLM_PANEL];

	for (size_t k = 0; k < b->k; k++)
	{
#pragma GCC unroll 4
		for (uint32_t r = 0; r < n_rows; r++)
#pragma GCC unroll 4
			for (uint32_t i = 0; i < LLM_PANEL / LANES; i++)
				acc[r][i] += x[r * b->k + k] * V(load_native)(w + k * LLM_PANEL + i * LANES);
	}
#pragma GCC unroll 4
	for (uint32_t r = 0; r < n_rows; r++)
	{
#pragma GCC unroll 4
		for (uint32_t i = 0; i < LLM_PANEL / LANES; i++)
			V(store_native)(sums + i * LANES, acc[r][i]);
		for (uint32_t i = 0; i < n_cols; i++)
			b->out[(row + r) * b->ld_out + col + i] =
			    b->bias != NULL ? sums[i] + b->bias[col + i] : sums[i];
	}
}

/* A block of a float product. */
static TARGET void
V(k_matmul_f32)(const llm_f32_block *b)
{
	for (uint32_t col = 0; col < b->n_cols; col += LLM_PANEL)
	{
		const float *w = b->w + col * b->k;
		uint32_t row = 0;

		for (; row + 4 <= b->n_rows; row += 4)
			V(panel_f32)(b, w, row, col, 4);
		for (; row < b->n_rows; row++)
			V(panel_f32)(b, w, row, col, 1);
	}
}

/* One row by one panel in exact integers. */
INLINE v16i
V(dot_i8)(const uint8_t *q, const int8_t *w, size_t bytes_row)
{
	v16i acc = (v16i) V(splat)(0.0f);

	for (size_t k = 0; k < bytes_row; k += 4, w += 64)
		for (size_t i = 0; i < 16; i++)
			acc[i] += q[k] * w[4 * i] + q[k + 1] * w[4 * i + 1] + q[k + 2] * w[4 * i + 2] +
			          q[k + 3] * w[4 * i + 3];
	return acc;
}

/* A block of an int8 product, where the machine has no instruction for it. */
static TARGET void
V(k_matmul_i8)(const llm_i8_block *b)
{
	for (uint32_t col = 0; col < b->n_cols; col += LLM_PANEL)
	{
		const uint32_t n_cols = b->n_cols - col < LLM_PANEL ? b->n_cols - col : LLM_PANEL;

		for (uint32_t row = 0; row < b->n_rows; row++)
		{
			v16i acc =
			    V(dot_i8)(b->q + row * b->bytes_row, b->w + col * b->bytes_row, b->bytes_row);
			float *out = b->out + row * b->ld_out + col;

			for (uint32_t i = 0; i < n_cols; i++)
				out[i] = llm_i8_value(b, acc[i], row, col + i);
		}
	}
}

/* q · k of one row against the 32 slots of a page. */
INLINE void
V(dot_page)(const llm_attn_step *s, float score[32])
{
	V(native) acc[32 / LANES] = {0};

	for (size_t i = 0; i < s->d; i++)
	{
#pragma GCC unroll 8
		for (uint32_t j = 0; j < 32 / LANES; j++)
			acc[j] += s->q[i] * V(load_native)(s->k + 32 * i + j * LANES);
	}
#pragma GCC unroll 8
	for (uint32_t j = 0; j < 32 / LANES; j++)
		V(store_native)(score + j * LANES, acc[j]);
}

/* The 32 scores of one row against a page, hidden slots −infinity, in two vectors. */
INLINE void
V(scores)(const llm_attn_step *s, v16f score[2])
{
	const v16i lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
	const v16i zero = {0};
	float dots[32];

	V(dot_page)(s, dots);
	for (int h = 0; h < 2; h++)
	{
		v16i bits = (zero + (int) ((s->visible >> (16 * h)) & 0xffff)) >> lane;
		v16i seen = (bits & 1) != zero;

		score[h] = V(load)(dots + 16 * h) * V(splat)(s->scale);
		if (s->softcap > 0.0f)
			score[h] = V(splat)(s->softcap) * V(tanh)(score[h] / V(splat)(s->softcap));
		score[h] = V(choose)(seen, score[h], V(splat)(-__builtin_inff()));
	}
}

/* out = out · alpha + Σ weight · v over the visible slots, for 16 columns of V from column i on. */
INLINE void
V(weigh_columns)(const llm_attn_step *s, const float weight[32], float alpha, size_t i)
{
	V(native) acc[16 / LANES];

#pragma GCC unroll 4
	for (uint32_t j = 0; j < 16 / LANES; j++)
		acc[j] = alpha * V(load_native)(s->out + i + j * LANES);
	for (uint32_t left = s->visible; left != 0; left &= left - 1)
	{
		const uint32_t t = (uint32_t) __builtin_ctz(left);

#pragma GCC unroll 4
		for (uint32_t j = 0; j < 16 / LANES; j++)
			acc[j] += weight[t] * V(load_native)(s->v + t * s->d + i + j * LANES);
	}
#pragma GCC unroll 4
	for (uint32_t j = 0; j < 16 / LANES; j++)
		V(store_native)(s->out + i + j * LANES, acc[j]);
}

/* One step of online softmax; a page without a visible slot changes nothing. */
static TARGET void
V(k_attn_step)(const llm_attn_step *s)
{
	v16f p[2];
	float max;
	float alpha;
	float weight[32];

	if (s->visible == 0)
		return;
	V(scores)(s, p);
	max = V(max_lane)(V(max)(p[0], p[1]));
	max = max > *s->max ? max : *s->max;
	p[0] = V(exp)(p[0] - V(splat)(max));
	p[1] = V(exp)(p[1] - V(splat)(max));
	alpha = *s->sum > 0.0f ? V(exp)(V(splat)(*s->max - max))[0] : 0.0f;
	*s->max = max;
	*s->sum = *s->sum * alpha + V(sum)(p[0] + p[1]);
	V(store)(weight, p[0]);
	V(store)(weight + 16, p[1]);
	for (size_t i = 0; i < s->d; i += 16)
		V(weigh_columns)(s, weight, alpha, i);
}

static const llm_cpu_kernels V(kernels) = {
    .add = V(k_add),
    .norm = V(k_norm),
    .activate = V(k_activate),
    .softcap = V(k_softcap),
    .scale = V(k_scale),
    .sum_squares = V(k_sum_squares),
    .logsumexp = V(k_logsumexp),
    .hadamard = V(k_hadamard),
    .quantise = V(k_quantise),
    .narrow = V(k_narrow),
    .rotate = V(k_rotate),
    .matmul_f32 = V(k_matmul_f32),
    .matmul_i8 = V(k_matmul_i8),
    .attn_step = V(k_attn_step),
};
#undef HADAMARD_STAGE
