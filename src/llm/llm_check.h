/*
 * llm_check.h: checked arithmetic. Every size that comes from a file, a frame or a caller is
 * computed here.
 *
 * Each function returns false, and leaves *out alone, when the exact result does not fit. Lengths
 * are compared in subtract form (need <= have - used, with used <= have known), never by adding
 * first.
 */
#ifndef LLM_CHECK_H
#define LLM_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* a + b. */
static inline bool
pp_add_ok(uint64_t a, uint64_t b, uint64_t *out)
{
	return !__builtin_add_overflow(a, b, out);
}

/* a · b. */
static inline bool
pp_mul_ok(uint64_t a, uint64_t b, uint64_t *out)
{
	return !__builtin_mul_overflow(a, b, out);
}

/* True when [offset, offset + bytes) lies inside a buffer of have bytes. */
static inline bool
pp_range_ok(uint64_t offset, uint64_t bytes, uint64_t have)
{
	return offset <= have && bytes <= have - offset;
}

#endif /* LLM_CHECK_H */
