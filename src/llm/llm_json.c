/*
 * llm_json.c: the parser and the accessors. See llm_json.h.
 *
 * Finished values wait on one stack until their container closes; then they are copied, side by
 * side, into the arena, so that an item is found by its number. An object's values come in pairs,
 * key and value; behind the pairs of a large one stands a hash table of member numbers, which the
 * check for duplicates fills. Strings and numbers go into one buffer as long as the text: unescaped
 * and closed by NUL they never are longer than they were with quotes or with the byte that ended
 * them.
 *
 * Ownership: the document owns the buffer and the arena; the stack dies with the parser.
 */
#include "llm_json.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "llm_alloc.h"
#include "llm_hash.h"

struct llm_json
{
	const void *data; /* string, number: text; array: items; object: pairs, then the table */
	uint32_t n;       /* bytes of a text, items, members */
	uint8_t kind;     /* llm_json_kind */
	bool truth;
};

struct llm_json_doc
{
	llm_arena *arena;
	char *text;
	llm_json root;
};

/* Objects up to this size are searched; larger ones have a table. */
#define SEARCHED_MAX 8

typedef struct parser
{
	const unsigned char *start;
	const unsigned char *p;
	const unsigned char *end;
	char *text; /* the next free byte of doc->text */
	llm_json_doc *doc;
	llm_json *stack;
	size_t n_stack;
	size_t n_stack_max;
	struct
	{
		size_t first; /* its values on the stack begin here */
		bool object;
	} open[LLM_JSON_DEPTH_MAX];
	uint32_t depth;
	bool any_bytes; /* strings need not be UTF-8 */
	llm_error *err;
} parser;

/* Refuses the text at the current byte. */
static llm_status
bad(parser *s, const char *what)
{
	return llm_fail(s->err, LLM_E_FORMAT, "invalid JSON at byte %zu: %s",
	                (size_t) (s->p - s->start), what);
}

/* Reports that memory is exhausted. */
static llm_status
no_memory(parser *s)
{
	return llm_fail(s->err, LLM_E_NOMEM, "out of memory while reading JSON");
}

/* Puts a finished value on the stack. */
static llm_status
push(parser *s, llm_json node)
{
	if (s->n_stack == s->n_stack_max)
	{
		size_t n = s->n_stack_max > 0 ? 2 * s->n_stack_max : 64;
		llm_json *grown = llm_realloc_array(s->stack, n, sizeof(*grown));

		if (grown == NULL)
			return no_memory(s);
		s->stack = grown;
		s->n_stack_max = n;
	}
	s->stack[s->n_stack++] = node;
	return LLM_OK;
}

/* Passes over white space and returns the byte behind it, or -1 at the end. */
static int
peek(parser *s)
{
	while (s->p < s->end && (*s->p == ' ' || *s->p == '\n' || *s->p == '\t' || *s->p == '\r'))
		s->p++;
	return s->p < s->end ? *s->p : -1;
}

/* Passes over digits and tells whether there was one. */
static bool
digits(parser *s)
{
	const unsigned char *first = s->p;

	while (s->p < s->end && *s->p >= '0' && *s->p <= '9')
		s->p++;
	return s->p > first;
}

/* Passes over one of two bytes. */
static bool
take(parser *s, char a, char b)
{
	if (s->p == s->end || (*s->p != a && *s->p != b))
		return false;
	s->p++;
	return true;
}

/* Reads a number (RFC 8259 section 6) and keeps its text. */
static llm_status
parse_number(parser *s)
{
	const unsigned char *first = s->p;
	llm_json node = {.data = s->text, .kind = LLM_JSON_NUMBER};

	take(s, '-', '-');
	if (!take(s, '0', '0') && !digits(s))
		return bad(s, "expected a value");
	if (take(s, '.', '.') && !digits(s))
		return bad(s, "expected a digit after the decimal point");
	if (take(s, 'e', 'E'))
	{
		take(s, '+', '-');
		if (!digits(s))
			return bad(s, "expected a digit in the exponent");
	}
	node.n = (uint32_t) (s->p - first);
	memcpy(s->text, first, node.n);
	s->text[node.n] = '\0';
	s->text += node.n + 1;
	return push(s, node);
}

/* Reads one of the three words. */
static llm_status
parse_word(parser *s, const char *word, llm_json node)
{
	size_t n = strlen(word);

	if ((size_t) (s->end - s->p) < n || memcmp(s->p, word, n) != 0)
		return bad(s, "expected a value");
	s->p += n;
	return push(s, node);
}

/* The bytes of the UTF-8 character at p, or 0 when it is none (Unicode table 3-7). */
static size_t
utf8_length(const unsigned char *p, const unsigned char *end)
{
	size_t n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;

	if (p[0] < 0xc2 || p[0] > 0xf4 || (size_t) (end - p) < n)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	/* No overlong form, no surrogate, nothing past U+10FFFF. */
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
	    (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
		return 0;
	return n;
}

/* Appends a code point to the text as UTF-8. */
static void
put_utf8(parser *s, uint32_t c)
{
	static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
	int n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;

	for (int i = n - 1; i > 0; i--, c >>= 6)
		s->text[i] = (char) (0x80 | (c & 0x3f));
	s->text[0] = (char) (n == 1 ? c : lead[n] | c);
	s->text += n;
}

/* Reads the four hex digits of an escape. */
static bool
hex4(parser *s, uint32_t *out)
{
	uint32_t value = 0;

	if (s->end - s->p < 4)
		return false;
	for (int i = 0; i < 4; i++)
	{
		unsigned c = s->p[i];
		unsigned letter = (c | 0x20) - 'a';

		if (c >= '0' && c <= '9')
			value = value << 4 | (c - '0');
		else if (letter < 6)
			value = value << 4 | (letter + 10);
		else
			return false;
	}
	s->p += 4;
	*out = value;
	return true;
}

/* Reads the second half of a surrogate pair; false, and nothing is read, when there is none. */
static bool
low_surrogate(parser *s, uint32_t *out)
{
	const unsigned char *first = s->p;

	if (s->end - s->p >= 2 && s->p[0] == '\\' && s->p[1] == 'u')
	{
		s->p += 2;
		if (hex4(s, out) && *out >= 0xdc00 && *out <= 0xdfff)
			return true;
	}
	s->p = first;
	return false;
}

/*
 * Reads what follows \u, with its second half when it is a surrogate. Where strings need not be
 * UTF-8 a half alone becomes its three bytes: the text that follows may have the other.
 */
static llm_status
parse_unicode_escape(parser *s)
{
	uint32_t c;
	uint32_t low;

	if (!hex4(s, &c))
		return bad(s, "expected four hex digits");
	if (c >= 0xd800 && c <= 0xdbff && low_surrogate(s, &low))
		c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
	else if (c >= 0xd800 && c <= 0xdfff && !s->any_bytes)
		return bad(s, "lone surrogate");
	put_utf8(s, c);
	return LLM_OK;
}

/* Reads an escape, from its backslash. */
static llm_status
parse_escape(parser *s)
{
	static const char from[] = "\"\\/bfnrt";
	static const char to[] = "\"\\/\b\f\n\r\t";
	const char *found;

	s->p++;
	if (s->p == s->end)
		return bad(s, "unterminated string");
	if (*s->p == 'u')
	{
		s->p++;
		return parse_unicode_escape(s);
	}
	if ((found = memchr(from, *s->p, sizeof(from) - 1)) == NULL)
		return bad(s, "unknown escape");
	s->p++;
	*s->text++ = to[found - from];
	return LLM_OK;
}

/* Copies bytes up to the next quote, escape, control character or bad UTF-8. */
static void
copy_plain(parser *s)
{
	for (;;)
	{
		const unsigned char *first = s->p;
		size_t n = 0;

		while (s->p < s->end && *s->p >= 0x20 && *s->p < 0x80 && *s->p != '"' && *s->p != '\\')
			s->p++;
		if (s->p < s->end && *s->p >= 0x80)
			n = s->any_bytes ? 1 : utf8_length(s->p, s->end);
		s->p += n;
		memcpy(s->text, first, (size_t) (s->p - first));
		s->text += s->p - first;
		if (n == 0)
			return;
	}
}

/* Reads a string, a value or a key. */
static llm_status
parse_string(parser *s)
{
	llm_json node = {.data = s->text, .kind = LLM_JSON_STRING};

	s->p++;
	for (;;)
	{
		llm_status status;

		copy_plain(s);
		if (s->p == s->end)
			return bad(s, "unterminated string");
		if (*s->p == '"')
			break;
		if (*s->p != '\\')
			return bad(s, *s->p < 0x20 ? "control character in a string" : "invalid UTF-8");
		if ((status = parse_escape(s)) != LLM_OK)
			return status;
	}
	s->p++;
	node.n = (uint32_t) (s->text - (const char *) node.data);
	*s->text++ = '\0';
	return push(s, node);
}

/* Reads a key and its colon. */
static llm_status
parse_key(parser *s)
{
	llm_status status;

	if (peek(s) != '"')
		return bad(s, "expected a key");
	if ((status = parse_string(s)) != LLM_OK)
		return status;
	if (peek(s) != ':')
		return bad(s, "expected a colon");
	s->p++;
	return LLM_OK;
}

/* Slots of the table of an object of n members: a power of two, at least twice as many. */
static uint32_t
table_slots(uint32_t n)
{
	return n <= SEARCHED_MAX ? 0 : (uint32_t) 1 << (33 - __builtin_clz(n));
}

/* Finds key among the first n members: by the table when there is one, else one by one. */
static uint32_t
find_member(const llm_json *object, uint32_t n, const char *key, size_t bytes, uint32_t **slot)
{
	const llm_json *pairs = object->data;
	uint32_t n_slots = table_slots(object->n);
	uint32_t *table = (uint32_t *) (pairs + 2 * (size_t) object->n);

	if (n_slots == 0)
	{
		for (uint32_t i = 0; i < n; i++)
			if (pairs[2 * i].n == bytes && memcmp(pairs[2 * i].data, key, bytes) == 0)
				return i;
		return UINT32_MAX;
	}
	for (uint32_t at = (uint32_t) llm_hash(key, bytes);; at++)
	{
		const llm_json *found;

		*slot = &table[at & (n_slots - 1)];
		if (**slot == 0)
			return UINT32_MAX;
		found = &pairs[2 * (size_t) (**slot - 1)];
		if (found->n == bytes && memcmp(found->data, key, bytes) == 0)
			return **slot - 1;
	}
}

/* Fills the table of an object and finds two members of one key. */
static bool
keys_differ(const llm_json *object)
{
	const llm_json *pairs = object->data;
	uint32_t *slot = NULL;

	for (uint32_t i = 0; i < object->n; i++)
	{
		const llm_json *key = &pairs[2 * (size_t) i];

		if (find_member(object, i, key->data, key->n, &slot) != UINT32_MAX)
			return false;
		if (slot != NULL)
			*slot = i + 1;
	}
	return true;
}

/* Turns the values since the innermost open container began into that container. */
static llm_status
close_container(parser *s)
{
	size_t first = s->open[--s->depth].first;
	bool object = s->open[s->depth].object;
	size_t n = s->n_stack - first;
	llm_json node = {.kind = object ? LLM_JSON_OBJECT : LLM_JSON_ARRAY};
	llm_json *values;

	s->p++;
	node.n = (uint32_t) (object ? n / 2 : n);
	values =
	    llm_arena_alloc(s->doc->arena,
	                    n * sizeof(*values) + (object ? table_slots(node.n) : 0) * sizeof(uint32_t),
	                    1);
	if (values == NULL)
		return no_memory(s);
	if (n > 0)
		memcpy(values, s->stack + first, n * sizeof(*values));
	node.data = values;
	s->n_stack = first;
	if (object && !keys_differ(&node))
		return bad(s, "the object that ends here has the same key twice");
	return push(s, node);
}

/* Opens a container; an empty one is closed at once, else its first value comes next. */
static llm_status
open_container(parser *s, bool object, bool *opened)
{
	if (s->depth == LLM_JSON_DEPTH_MAX)
		return bad(s, "nested too deep");
	s->open[s->depth].first = s->n_stack;
	s->open[s->depth++].object = object;
	s->p++;
	if (peek(s) == (object ? '}' : ']'))
		return close_container(s);
	*opened = true;
	return object ? parse_key(s) : LLM_OK;
}

/* Reads a value; opened tells that it was the start of a container with values to come. */
static llm_status
parse_value(parser *s, bool *opened)
{
	int c = peek(s);

	*opened = false;
	switch (c)
	{
		case '{':
		case '[':
			return open_container(s, c == '{', opened);
		case '"':
			return parse_string(s);
		case 't':
			return parse_word(s, "true", (llm_json){.kind = LLM_JSON_BOOL, .truth = true});
		case 'f':
			return parse_word(s, "false", (llm_json){.kind = LLM_JSON_BOOL});
		case 'n':
			return parse_word(s, "null", (llm_json){.kind = LLM_JSON_NULL});
		default:
			return parse_number(s);
	}
}

/* Reads what stands between two values: closes what ends here, up to a comma or the root's end. */
static llm_status
parse_between(parser *s)
{
	llm_status status = LLM_OK;

	while (status == LLM_OK && s->depth > 0)
	{
		bool object = s->open[s->depth - 1].object;
		int c = peek(s);

		if (c == ',')
		{
			s->p++;
			return object ? parse_key(s) : LLM_OK;
		}
		if (c != (object ? '}' : ']'))
			return bad(s, object ? "expected a comma or }" : "expected a comma or ]");
		status = close_container(s);
	}
	return status;
}

/* Reads the whole text. */
static llm_status
parse_text(parser *s)
{
	llm_status status;

	do
	{
		bool opened;

		status = parse_value(s, &opened);
		if (status == LLM_OK && !opened)
			status = parse_between(s);
	} while (status == LLM_OK && s->depth > 0);
	if (status == LLM_OK && peek(s) != -1)
		status = bad(s, "text after the end");
	return status;
}

/* Parses a text into a document. */
static llm_status
parse_document(const char *text, size_t bytes, bool any_bytes, llm_json_doc **out, llm_error *err)
{
	parser s = {.start = (const unsigned char *) text, .any_bytes = any_bytes, .err = err};
	llm_status status;

	*out = NULL;
	if (bytes > LLM_JSON_BYTES_MAX)
		return llm_fail(err, LLM_E_LIMIT, "JSON text of %zu bytes exceeds the limit of %zu", bytes,
		                LLM_JSON_BYTES_MAX);
	if ((s.doc = llm_calloc(1, sizeof(*s.doc))) == NULL)
		return no_memory(&s);
	s.doc->arena = llm_arena_create();
	s.doc->text = llm_malloc(bytes + 1);
	s.p = s.start;
	s.end = s.start + bytes;
	s.text = s.doc->text;
	status = s.doc->arena == NULL || s.text == NULL ? no_memory(&s) : parse_text(&s);
	if (status == LLM_OK)
		s.doc->root = s.stack[0];
	llm_free(s.stack);
	if (status == LLM_OK)
		*out = s.doc;
	else
		llm_json_free(s.doc);
	return status;
}

/* Parses a text. */
llm_status
llm_json_parse(const char *text, size_t bytes, llm_json_doc **out, llm_error *err)
{
	return parse_document(text, bytes, false, out, err);
}

/* Parses a text whose strings may hold parts of characters. */
llm_status
llm_json_parse_bytes(const char *text, size_t bytes, llm_json_doc **out, llm_error *err)
{
	return parse_document(text, bytes, true, out, err);
}

/* Frees a document and all its nodes. */
void
llm_json_free(llm_json_doc *doc)
{
	if (doc == NULL)
		return;
	llm_arena_destroy(doc->arena);
	llm_free(doc->text);
	llm_free(doc);
}

/* The outermost value. */
const llm_json *
llm_json_root(const llm_json_doc *doc)
{
	return &doc->root;
}

/* Tells what a node is. */
llm_json_kind
llm_json_get_kind(const llm_json *node)
{
	return node == NULL ? LLM_JSON_NULL : (llm_json_kind) node->kind;
}

/* Tells whether a node is there and of a kind. */
static bool
is_kind(const llm_json *node, llm_json_kind kind)
{
	return node != NULL && node->kind == kind;
}

/* Counts what a container holds. */
uint64_t
llm_json_size(const llm_json *node)
{
	return is_kind(node, LLM_JSON_ARRAY) || is_kind(node, LLM_JSON_OBJECT) ? node->n : 0;
}

/* The i-th item of an array. */
const llm_json *
llm_json_item(const llm_json *array, uint64_t i)
{
	return is_kind(array, LLM_JSON_ARRAY) && i < array->n ? (const llm_json *) array->data + i
	                                                      : NULL;
}

/* Looks a member up. */
const llm_json *
llm_json_member(const llm_json *object, const char *key)
{
	uint32_t *slot;
	uint32_t i;

	if (!is_kind(object, LLM_JSON_OBJECT))
		return NULL;
	i = find_member(object, object->n, key, strlen(key), &slot);
	return i == UINT32_MAX ? NULL : (const llm_json *) object->data + 2 * (size_t) i + 1;
}

/* The i-th member of an object and its key. */
const llm_json *
llm_json_member_at(const llm_json *object, uint64_t i, const char **key, size_t *key_bytes)
{
	const llm_json *pair;

	if (!is_kind(object, LLM_JSON_OBJECT) || i >= object->n)
		return NULL;
	pair = (const llm_json *) object->data + 2 * i;
	*key = pair[0].data;
	*key_bytes = pair[0].n;
	return &pair[1];
}

/* Reads true or false. */
bool
llm_json_bool(const llm_json *node, bool *out)
{
	if (!is_kind(node, LLM_JSON_BOOL))
		return false;
	*out = node->truth;
	return true;
}

/* Reads digits up to the NUL as a number of at most max. */
static bool
read_digits(const char *text, uint64_t max, uint64_t *out)
{
	uint64_t value = 0;

	for (; *text != '\0'; text++)
	{
		uint64_t digit = (uint64_t) (unsigned char) *text - '0';

		if (digit > 9 || value > (max - digit) / 10)
			return false;
		value = value * 10 + digit;
	}
	*out = value;
	return true;
}

/* Reads an integer of 0 or more. */
bool
llm_json_u64(const llm_json *node, uint64_t *out)
{
	return is_kind(node, LLM_JSON_NUMBER) && read_digits(node->data, UINT64_MAX, out);
}

/* Reads an integer. */
bool
llm_json_i64(const llm_json *node, int64_t *out)
{
	const char *text;
	uint64_t value;
	bool negative;

	if (!is_kind(node, LLM_JSON_NUMBER))
		return false;
	text = node->data;
	negative = text[0] == '-';
	if (!read_digits(text + negative, (uint64_t) INT64_MAX + negative, &value))
		return false;
	*out = negative ? (int64_t) (0 - value) : (int64_t) value;
	return true;
}

/* Reads a number that a double can hold, in the C locale whatever the process runs in. */
bool
llm_json_double(const llm_json *node, double *out)
{
	locale_t c_locale;
	double value;

	if (!is_kind(node, LLM_JSON_NUMBER))
		return false;
	c_locale = newlocale(LC_ALL_MASK, "C", (locale_t) 0);
	if (c_locale == (locale_t) 0)
		return false;
	value = strtod_l(node->data, NULL, c_locale);
	freelocale(c_locale);
	if (!isfinite(value))
		return false;
	*out = value;
	return true;
}

/* Reads a string. */
bool
llm_json_string(const llm_json *node, const char **text, size_t *bytes)
{
	if (!is_kind(node, LLM_JSON_STRING))
		return false;
	*text = node->data;
	*bytes = node->n;
	return true;
}

/* Compares a string. */
bool
llm_json_is(const llm_json *node, const char *text)
{
	return is_kind(node, LLM_JSON_STRING) && node->n == strlen(text) &&
	       memcmp(node->data, text, node->n) == 0;
}

/* Reads a number as it was written. */
bool
llm_json_number_text(const llm_json *node, const char **text, size_t *bytes)
{
	if (!is_kind(node, LLM_JSON_NUMBER))
		return false;
	*text = node->data;
	*bytes = node->n;
	return true;
}
