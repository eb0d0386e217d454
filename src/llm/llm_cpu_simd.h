/*
 * llm_cpu_simd.h: the inner loops in vector types of the compiler, included once for each level:
 * sums, norms, activations.
 *
 * The includer defines TARGET (a target attribute, or nothing), LANES (floats of the machine's own
 * vectors) and V(name) (appends the level's suffix) and gets static functions and one static const
 * table V(kernels). No multiply and add is ever fused (the pragma and -std=c11 see to it),
 * divisions and square roots are IEEE's, and sums run in 16 lanes that are added up in one fixed
 * tree: so all levels give the same bits.
 *
 * No include guard: it is a template.
 */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

typedef float V(native) __attribute__((vector_size(4 * LANES)));

/* Loads 16 elements from any address. */
INLINE v16f
V(load)(const float *p)
{
	v16f v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/* Loads a vector of the machine's own width: the loops that matter run on those. */
INLINE
V(native) V(load_native)(const float *p)
{
	V(native) v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/* Stores a vector of the machine's own width. */
INLINE void
V(store_native)(float *p, V(native) v)
{
	memcpy(p, &v, sizeof(v));
}

/* Stores 16 elements to any address. */
INLINE void
V(store)(float *p, v16f v)
{
	memcpy(p, &v, sizeof(v));
}

/* Loads the n < 16 elements of a tail; the other lanes are fill. */
INLINE v16f
V(load_tail)(const float *p, size_t n, float fill)
{
	float t[16];

	for (size_t i = 0; i < 16; i++)
		t[i] = i < n ? p[i] : fill;
	return V(load)(t);
}

/* Stores the n < 16 elements of a tail. */
INLINE void
V(store_tail)(float *p, v16f v, size_t n)
{
	memcpy(p, &v, n * sizeof(float));
}

/* All lanes alike. */
INLINE v16f
V(splat)(float x)
{
	return (v16f){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}

/* a where the mask is set, else b. */
INLINE v16f
V(choose)(v16i mask, v16f a, v16f b)
{
	return (v16f) ((mask & (v16i) a) | (~mask & (v16i) b));
}

/* The larger one of each lane; b where a is NaN. */
INLINE v16f
V(max)(v16f a, v16f b)
{
	return V(choose)(a > b, a, b);
}

/* The sum of the lanes, as a tree. */
INLINE float
V(sum)(v16f v)
{
	float t[16];

	V(store)(t, v);
	for (size_t n = 8; n > 0; n /= 2)
		for (size_t i = 0; i < n; i++)
			t[i] += t[i + n];
	return t[0];
}

/* The largest lane. */
INLINE float
V(max_lane)(v16f v)
{
	float t[16];

	V(store)(t, v);
	for (size_t n = 8; n > 0; n /= 2)
		for (size_t i = 0; i < n; i++)
			t[i] = t[i] > t[i + n] ? t[i] : t[i + n];
	return t[0];
}

/*
 * e^x: x = n ln 2 + r, |r| <= ln 2 / 2, a polynomial of degree 6 for e^r (minimax, 1.9e-9), and n
 * into the exponent. Below −87.3 the result is 0, above 88.7 infinity; NaN stays NaN.
 */
INLINE v16f
V(exp)(v16f x)
{
	const v16f shift = V(splat)(12582912.0f); /* 1.5 · 2^23: adding it rounds to an integer */
	v16f t = x * V(splat)(1.44269504f) + shift;
	v16f n = t - shift;
	v16f r = x - n * V(splat)(0.693359375f) + n * V(splat)(2.12194440e-4f);
	v16f p = V(splat)(1.3836845e-3f);

	p = p * r + V(splat)(8.3748403e-3f);
	p = p * r + V(splat)(4.1668226e-2f);
	p = p * r + V(splat)(1.6666420e-1f);
	p = p * r + V(splat)(4.9999992e-1f);
	p = p * r + V(splat)(1.0f);
	p = p * r + V(splat)(1.0f);
	/* the low bits of t are n and the constant's own leave by the shift; the limits below keep the
	 * exponent in range */
	p = (v16f) ((v16u) p + ((v16u) t << 23));
	p = V(choose)(x < V(splat)(-87.3f), V(splat)(0.0f), p);
	p = V(choose)(x > V(splat)(88.722f), V(splat)(__builtin_inff()), p);
	return V(choose)(x != x, x, p);
}

/* tanh: a polynomial near 0 (minimax, 1.3e-7 of the small term), else 1 − 2 / (e^2x + 1). */
INLINE v16f
V(tanh)(v16f x)
{
	v16f z = x * x;
	v16f p = V(splat)(-6.0969398e-3f);
	v16f far = V(splat)(1.0f) - V(splat)(2.0f) / (V(exp)(x + x) + V(splat)(1.0f));
	v16i near = (z < V(splat)(0.390625f));

	p = p * z + V(splat)(2.0997360e-2f);
	p = p * z + V(splat)(-5.3850954e-2f);
	p = p * z + V(splat)(1.3332770e-1f);
	p = p * z + V(splat)(-3.3333329e-1f);
	return V(choose)(near, x + x * z * p, far);
}

/* erfc(z) / 2 for z >= 1: e^−z² t Q(t) / 2 with t = 1 / (1 + 0.4 z), Q a minimax polynomial. */
INLINE v16f
V(half_erfc)(v16f z)
{
	v16f t = V(splat)(1.0f) / (V(splat)(1.0f) + V(splat)(0.4f) * z);
	v16f q = V(splat)(-2.0886779e-3f);

	q = q * t + V(splat)(-1.1096094e-1f);
	q = q * t + V(splat)(2.3841878e-1f);
	q = q * t + V(splat)(1.0607540e-2f);
	q = q * t + V(splat)(2.1266527e-1f);
	q = q * t + V(splat)(1.9872695e-1f);
	q = q * t + V(splat)(2.2671985e-1f);
	q = q * t + V(splat)(2.2562443e-1f);
	return V(splat)(0.5f) * V(exp)(-z * z) * t * q;
}

/* x Φ(x), Φ(x) = (1 + erf(x / √2)) / 2: an odd polynomial for |x| < √2, erfc in the tails. */
INLINE v16f
V(gelu_erf)(v16f x)
{
	v16f z = x * V(splat)(0.707106781f);
	v16f a = V(choose)(z < V(splat)(0.0f), -z, z);
	v16f s = z * z;
	v16f p = V(splat)(7.8538612e-5f);
	v16f tail = V(half_erfc)(a);

	p = p * s + V(splat)(-8.0101936e-4f);
	p = p * s + V(splat)(5.1883277e-3f);
	p = p * s + V(splat)(-2.6853812e-2f);
	p = p * s + V(splat)(1.1283585e-1f);
	p = p * s + V(splat)(-3.7612626e-1f);
	p = p * s + V(splat)(1.1283792f);
	tail = V(choose)(z < V(splat)(0.0f), tail, V(splat)(1.0f) - tail);
	p = V(choose)(a < V(splat)(1.0f), V(splat)(0.5f) + V(splat)(0.5f) * z * p, tail);
	return x * p;
}

/* x / (1 + e^−x), also named swish. */
INLINE v16f
V(silu)(v16f x)
{
	return x / (V(splat)(1.0f) + V(exp)(-x));
}

/* x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2, which is x / (1 + e^−2y): no cancellation. */
INLINE v16f
V(gelu_tanh)(v16f x)
{
	v16f y = V(splat)(1.59576912f) * (x + V(splat)(0.044715f) * x * x * x);

	return x / (V(splat)(1.0f) + V(exp)(-y));
}

/* One activation of 16 values. */
INLINE v16f
V(act)(v16f x, pp_act_kind act)
{
	switch (act)
	{
		case PP_ACT_SILU:
			return V(silu)(x);
		case PP_ACT_GELU_TANH:
			return V(gelu_tanh)(x);
		case PP_ACT_GELU_ERF:
			return V(gelu_erf)(x);
		case PP_ACT_RELU:
			return V(choose)(x < V(splat)(0.0f), V(splat)(0.0f), x);
		case PP_ACT_TANH:
			return V(tanh)(x);
	}
	return x;
}

/* x += y. */
static TARGET void
V(k_add)(float *x, const float *y, size_t n)
{
	size_t i = 0;

	for (; i + 16 <= n; i += 16)
		V(store)(x + i, V(load)(x + i) + V(load)(y + i));
	for (; i < n; i++)
		x[i] += y[i];
}

/* Applies an activation; act is a constant in each caller, so the loop has no branch. */
INLINE void
V(activate_as)(float *out, const float *x, const float *up, size_t n, pp_act_kind act)
{
	size_t i = 0;
	v16f v;

	for (; i + 16 <= n; i += 16)
	{
		v = V(act)(V(load)(x + i), act);
		V(store)(out + i, up != NULL ? v * V(load)(up + i) : v);
	}
	if (i == n)
		return;
	v = V(act)(V(load_tail)(x + i, n - i, 0.0f), act);
	if (up != NULL)
		v *= V(load_tail)(up + i, n - i, 0.0f);
	V(store_tail)(out + i, v, n - i);
}

/* out = act(x) · up. */
static TARGET void
V(k_activate)(float *out, const float *x, const float *up, size_t n, pp_act_kind act)
{
	switch (act)
	{
		case PP_ACT_SILU:
			V(activate_as)(out, x, up, n, PP_ACT_SILU);
			break;
		case PP_ACT_GELU_TANH:
			V(activate_as)(out, x, up, n, PP_ACT_GELU_TANH);
			break;
		case PP_ACT_GELU_ERF:
			V(activate_as)(out, x, up, n, PP_ACT_GELU_ERF);
			break;
		case PP_ACT_RELU:
			V(activate_as)(out, x, up, n, PP_ACT_RELU);
			break;
		case PP_ACT_TANH:
			V(activate_as)(out, x, up, n, PP_ACT_TANH);
			break;
	}
}

/* x = cap · tanh(x / cap). */
static TARGET void
V(k_softcap)(float *x, size_t n, float cap)
{
	size_t i = 0;
	v16f c = V(splat)(cap);

	for (; i + 16 <= n; i += 16)
		V(store)(x + i, c * V(tanh)(V(load)(x + i) / c));
	if (i < n)
		V(store_tail)(x + i, c * V(tanh)(V(load_tail)(x + i, n - i, 0.0f) / c), n - i);
}

/* x = x · scale. */
static TARGET void
V(k_scale)(float *x, size_t n, float scale)
{
	size_t i = 0;

	for (; i + 16 <= n; i += 16)
		V(store)(x + i, V(load)(x + i) * V(splat)(scale));
	for (; i < n; i++)
		x[i] *= scale;
}

/* Σ (x − mean)². */
INLINE float
V(sum_deviations)(const float *x, size_t n, float mean)
{
	v16f s = V(splat)(0.0f);
	size_t i = 0;

	for (; i + 16 <= n; i += 16)
	{
		v16f v = V(load)(x + i) - V(splat)(mean);

		s += v * v;
	}
	if (i < n)
	{
		v16f v = V(load_tail)(x + i, n - i, mean) - V(splat)(mean);

		s += v * v;
	}
	return V(sum)(s);
}

/* Σ x². */
static TARGET float
V(k_sum_squares)(const float *x, size_t n)
{
	return V(sum_deviations)(x, n, 0.0f);
}

/* Σ x. */
INLINE float
V(sum_row)(const float *x, size_t n)
{
	v16f s = V(splat)(0.0f);
	size_t i = 0;

	for (; i + 16 <= n; i += 16)
		s += V(load)(x + i);
	if (i < n)
		s += V(load_tail)(x + i, n - i, 0.0f);
	return V(sum)(s);
}

/* out = (x − mean) · inv · (w + offset) + b for 16 values. */
INLINE v16f
V(norm_lanes)(v16f x, v16f w, v16f b, float mean, float inv)
{
	return (x - V(splat)(mean)) * V(splat)(inv) * w + b;
}

/* One row of a norm; the residual is added first. */
static TARGET void
V(k_norm)(float *out, float *x, const float *add, const llm_norm_row *p)
{
	const size_t d = p->d;
	const v16f zero = V(splat)(0.0f);
	const v16f offset = V(splat)(p->offset);
	float mean = 0.0f;
	float inv;
	size_t i = 0;

	if (add != NULL)
		V(k_add)(x, add, d);
	if (p->kind == PP_NORM_LAYER)
		mean = V(sum_row)(x, d) / (float) d;
	inv = 1.0f / __builtin_sqrtf(V(sum_deviations)(x, d, mean) / (float) d + p->eps);
	for (; i + 16 <= d; i += 16)
	{
		v16f b = p->b != NULL ? V(load)(p->b + i) : zero;

		V(store)(out + i, V(norm_lanes)(V(load)(x + i), V(load)(p->w + i) + offset, b, mean, inv));
	}
	if (i < d)
	{
		v16f w = V(load_tail)(p->w + i, d - i, 0.0f) + offset;
		v16f b = p->b != NULL ? V(load_tail)(p->b + i, d - i, 0.0f) : zero;

		V(store_tail)
		(out + i, V(norm_lanes)(V(load_tail)(x + i, d - i, 0.0f), w, b, mean, inv), d - i);
	}
}

/* The largest element; −infinity for none. */
INLINE float
V(max_row)(const float *x, size_t n)
{
	const float low = -__builtin_inff();
	v16f m = V(splat)(low);
	size_t i = 0;

	for (; i + 16 <= n; i += 16)
		m = V(max)(V(load)(x + i), m);
	if (i < n)
		m = V(max)(V(load_tail)(x + i, n - i, low), m);
	return V(max_lane)(m);
}

/* ln Σ e^x, by the maximum; the sum of 16 lanes is carried in double over blocks of 4096. */
static TARGET float
V(k_logsumexp)(const float *x, size_t n)
{
	const float max = V(max_row)(x, n);
	double sum = 0.0;

	if (max == -__builtin_inff() || max == __builtin_inff())
		return max;
	for (size_t block = 0; block < n; block += 4096)
	{
		size_t end = n - block < 4096 ? n : block + 4096;
		v16f s = V(splat)(0.0f);
		size_t i = block;

		for (; i + 16 <= end; i += 16)
			s += V(exp)(V(load)(x + i) - V(splat)(max));
		if (i < end)
			s += V(exp)(V(load_tail)(x + i, end - i, -__builtin_inff()) - V(splat)(max));
		sum += (double) V(sum)(s);
	}
	return (float) ((double) max + __builtin_log(sum));
}
