/*
 * llm_stop.c: matching of stop strings, and the cut into whole characters. See llm_stop.h.
 *
 * One Knuth–Morris–Pratt automaton a string: requests have a handful of them, so a set of small
 * tables beats the transition table of Aho–Corasick. The longest of the partial matches is what has
 * to be held back. Bytes wait in held until they are released through the UTF-8 filter into out,
 * whose room is made beforehand, so that flushing cannot fail.
 */
#include "llm_stop.h"

#include <string.h>

#include "llm_alloc.h"
#include "llm_check.h"

#define REPLACEMENT       "\xef\xbf\xbd"
#define REPLACEMENT_BYTES 3

typedef struct pattern
{
	const unsigned char *text;
	uint16_t *border; /* [i]: the longest proper border of the first i + 1 bytes */
	uint16_t n;
} pattern;

struct llm_stop
{
	llm_arena *arena;
	uint32_t n;
	pattern patterns[LLM_STOP_STRINGS_MAX];
};

struct llm_stop_state
{
	const llm_stop *stop;
	unsigned char *held;
	char *out; /* REPLACEMENT_BYTES times the capacity of held */
	size_t n;
	size_t capacity;
	bool stopped;
	uint16_t matched[LLM_STOP_STRINGS_MAX]; /* bytes of each pattern that the text ends with */
};

/* How many bytes of a pattern the text ends with, after one more byte. */
static uint16_t
advance(const pattern *p, uint16_t matched, unsigned char byte)
{
	while (matched > 0 && (matched == p->n || p->text[matched] != byte))
		matched = p->border[matched - 1];
	return matched + (p->text[matched] == byte);
}

/* Copies one string and computes its borders (Knuth, Morris, Pratt 1977, §2). */
static llm_status
add_pattern(llm_stop *stop, const char *text, size_t bytes, llm_error *err)
{
	pattern *p = &stop->patterns[stop->n];

	if (bytes == 0 || bytes > LLM_STOP_BYTES_MAX)
		return llm_fail(err, LLM_E_RANGE, "a stop string must have 1 to %d bytes",
		                LLM_STOP_BYTES_MAX);
	p->text = (const unsigned char *) llm_arena_strndup(stop->arena, text, bytes);
	p->border = llm_arena_alloc(stop->arena, bytes, sizeof(*p->border));
	if (p->text == NULL || p->border == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for stop strings");
	p->n = (uint16_t) bytes;
	for (uint16_t i = 1; i < p->n; i++)
		p->border[i] = advance(p, p->border[i - 1], p->text[i]);
	stop->n++;
	return LLM_OK;
}

/* Compiles the stop strings of a request. */
llm_status
llm_stop_create(const char *const *strings, const size_t *bytes, uint32_t n, llm_stop **out,
                llm_error *err)
{
	llm_stop *stop;
	llm_status status = LLM_OK;

	*out = NULL;
	if (n > LLM_STOP_STRINGS_MAX)
		return llm_fail(err, LLM_E_RANGE, "more than %d stop strings", LLM_STOP_STRINGS_MAX);
	stop = llm_calloc(1, sizeof(*stop));
	if (stop == NULL || (stop->arena = llm_arena_create()) == NULL)
		status = llm_fail(err, LLM_E_NOMEM, "out of memory for stop strings");
	for (uint32_t i = 0; status == LLM_OK && i < n; i++)
		status = add_pattern(stop, strings[i], bytes[i], err);
	if (status != LLM_OK)
	{
		llm_stop_free(stop);
		return status;
	}
	*out = stop;
	return LLM_OK;
}

/* Frees the strings; NULL is fine. */
void
llm_stop_free(llm_stop *stop)
{
	if (stop == NULL)
		return;
	llm_arena_destroy(stop->arena);
	llm_free(stop);
}

/* Starts a row. */
llm_status
llm_stop_state_create(const llm_stop *stop, llm_stop_state **out, llm_error *err)
{
	*out = llm_calloc(1, sizeof(**out));
	if (*out == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for stop strings");
	(*out)->stop = stop;
	return LLM_OK;
}

/* Ends a row; NULL is fine. */
void
llm_stop_state_free(llm_stop_state *s)
{
	if (s == NULL)
		return;
	llm_free(s->held);
	llm_free(s->out);
	llm_free(s);
}

/* Makes room for n more held bytes, and for what they may become. */
static llm_status
reserve(llm_stop_state *s, size_t n, llm_error *err)
{
	uint64_t need, capacity;
	unsigned char *held;
	char *out;

	if (!pp_add_ok(s->n, n, &need) || !pp_mul_ok(need, 2, &capacity))
		return llm_fail(err, LLM_E_TOO_LONG, "a piece of %zu bytes is too long", n);
	if (need <= s->capacity)
		return LLM_OK;
	if ((held = llm_realloc_array(s->held, capacity, 1)) != NULL)
		s->held = held;
	if ((out = llm_realloc_array(s->out, capacity, REPLACEMENT_BYTES)) != NULL)
		s->out = out;
	if (held == NULL || out == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for streamed text");
	s->capacity = capacity;
	return LLM_OK;
}

/*
 * The length of the character, or of the maximal ill-formed part, at p (table 3-7 of Unicode 15).
 * *whole says which of the two it is; 0 when more bytes may complete a character.
 */
static size_t
character(const unsigned char *p, size_t n, bool *whole)
{
	unsigned char low = 0x80, high = 0xbf;
	size_t need = p[0] < 0x80 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;

	*whole = p[0] < 0x80 || (p[0] >= 0xc2 && p[0] <= 0xf4);
	if (need == 1 || !*whole)
		return 1;
	low = p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : low;
	high = p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : high;
	for (size_t i = 1; i < need; i++, low = 0x80, high = 0xbf)
	{
		if (i == n)
			return 0;
		if (p[i] < low || p[i] > high)
		{
			*whole = false;
			return i;
		}
	}
	return need;
}

/* Moves held bytes before end to out, as far as they are decided; returns how many bytes came out.
 */
static size_t
release(llm_stop_state *s, size_t end)
{
	size_t used = 0, n_out = 0, step;
	bool whole;

	while (used < end && (step = character(s->held + used, end - used, &whole)) > 0)
	{
		size_t n = whole ? step : REPLACEMENT_BYTES;

		memcpy(s->out + n_out, whole ? (const char *) s->held + used : REPLACEMENT, n);
		n_out += n;
		used += step;
	}
	s->n -= used;
	if (used > 0)
		memmove(s->held, s->held + used, s->n);
	return n_out;
}

/* Moves all patterns on by one byte. Returns the length of the longest that is complete, else 0. */
static size_t
match_byte(llm_stop_state *s, unsigned char byte, size_t *longest)
{
	size_t complete = 0;

	*longest = 0;
	for (uint32_t i = 0; s->stop != NULL && i < s->stop->n; i++)
	{
		const pattern *p = &s->stop->patterns[i];

		s->matched[i] = advance(p, s->matched[i], byte);
		if (s->matched[i] > *longest)
			*longest = s->matched[i];
		if (s->matched[i] == p->n && p->n > complete)
			complete = p->n;
	}
	return complete;
}

/* Takes the bytes of a token; see the header. */
llm_status
llm_stop_feed(llm_stop_state *s, const char *bytes, size_t n, const char **safe, size_t *n_safe,
              bool *stopped, llm_error *err)
{
	size_t partial = 0, complete = 0;
	llm_status status;

	*safe = "";
	*n_safe = 0;
	*stopped = s->stopped;
	if (s->stopped || n == 0)
		return LLM_OK;
	if ((status = reserve(s, n, err)) != LLM_OK)
		return status;
	for (size_t i = 0; i < n && complete == 0; i++)
	{
		s->held[s->n++] = (unsigned char) bytes[i];
		complete = match_byte(s, (unsigned char) bytes[i], &partial);
	}
	*stopped = s->stopped = complete > 0;
	*n_safe = release(s, s->n - (complete > 0 ? complete : partial));
	*safe = s->out;
	return LLM_OK;
}

/* Gives what is held, less a character that the end cuts. */
void
llm_stop_flush(llm_stop_state *s, const char **rest, size_t *n_rest)
{
	*n_rest = s->stopped ? 0 : release(s, s->n);
	*rest = *n_rest > 0 ? s->out : "";
	s->n = 0;
	memset(s->matched, 0, sizeof(s->matched));
}
