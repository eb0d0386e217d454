/*
 * llm_remote_schema.c: whether a JSON value fits a schema.
 *
 * The keywords are those of llm_grammar.h, which constrains local models; of a server we can only
 * check what it gave. Recursion is bounded by the depth that llm_json.h allows.
 */
#include <string.h>

#include "llm_remote_impl.h"
#include "llm_unicode.h"

/* Whether two values are equal; numbers by their text. */
static bool
equal(const llm_json *a, const llm_json *b)
{
	const char *x = NULL;
	const char *y = NULL;
	size_t n = 0;
	size_t m = 0;
	bool p = false;
	bool q = false;

	if (llm_json_get_kind(a) != llm_json_get_kind(b) || llm_json_size(a) != llm_json_size(b))
		return false;
	if (llm_json_bool(a, &p) && llm_json_bool(b, &q))
		return p == q;
	if ((llm_json_string(a, &x, &n) && llm_json_string(b, &y, &m)) ||
	    (llm_json_number_text(a, &x, &n) && llm_json_number_text(b, &y, &m)))
		return n == m && memcmp(x, y, n) == 0;
	for (uint64_t i = 0; i < llm_json_size(a); i++)
	{
		const llm_json *va = llm_json_item(a, i);
		const llm_json *vb = llm_json_item(b, i);

		if (llm_json_get_kind(a) == LLM_JSON_OBJECT)
		{
			va = llm_json_member_at(a, i, &x, &n);
			vb = strlen(x) == n ? llm_json_member(b, x) : NULL;
			if (vb == NULL)
				return false;
		}
		if (!equal(va, vb))
			return false;
	}
	return true;
}

/* Whether a number is written without fraction and exponent. */
static bool
is_integer(const llm_json *value)
{
	const char *text;
	size_t n;

	return llm_json_number_text(value, &text, &n) && memchr(text, '.', n) == NULL &&
	       memchr(text, 'e', n) == NULL && memchr(text, 'E', n) == NULL;
}

/* Whether a value is of the type with this name. */
static bool
is_type(const llm_json *type, const llm_json *value)
{
	static const char *const names[] = {
	    [LLM_JSON_NULL] = "null",     [LLM_JSON_BOOL] = "boolean", [LLM_JSON_NUMBER] = "number",
	    [LLM_JSON_STRING] = "string", [LLM_JSON_ARRAY] = "array",  [LLM_JSON_OBJECT] = "object"};

	return llm_json_is(type, names[llm_json_get_kind(value)]) ||
	       (llm_json_is(type, "integer") && is_integer(value));
}

/* Whether a value is of the type, or one of the types, of a schema. */
static bool
fits_type(const llm_json *type, const llm_json *value)
{
	if (type == NULL || llm_json_get_kind(type) == LLM_JSON_STRING)
		return type == NULL || is_type(type, value);
	for (uint64_t i = 0; i < llm_json_size(type); i++)
		if (is_type(llm_json_item(type, i), value))
			return true;
	return false;
}

/* Whether a size lies within two optional bounds of a schema. */
static bool
fits_bounds(const llm_json *schema, const char *min_key, const char *max_key, uint64_t size)
{
	uint64_t min = 0;
	uint64_t max = UINT64_MAX;

	(void) llm_json_u64(llm_json_member(schema, min_key), &min);
	(void) llm_json_u64(llm_json_member(schema, max_key), &max);
	return size >= min && size <= max;
}

/* Counts the characters of a string. */
static uint64_t
count_characters(const char *text, size_t n)
{
	uint64_t count = 0;

	for (size_t i = 0; i < n; i++)
		count += ((unsigned char) text[i] & 0xc0) != 0x80;
	return count;
}

/* Whether an object has what it must, and no more than it may. */
static bool
fits_object(const llm_json *schema, const llm_json *value)
{
	const llm_json *properties = llm_json_member(schema, "properties");
	const llm_json *required = llm_json_member(schema, "required");
	const char *key;
	size_t n;

	for (uint64_t i = 0; i < llm_json_size(required); i++)
		if (llm_json_string(llm_json_item(required, i), &key, &n) &&
		    llm_json_member(value, key) == NULL)
			return false;
	for (uint64_t i = 0; properties != NULL && i < llm_json_size(value); i++)
	{
		const llm_json *member = llm_json_member_at(value, i, &key, &n);
		const llm_json *property = strlen(key) == n ? llm_json_member(properties, key) : NULL;

		if (property == NULL || !remote_fits_schema(property, member))
			return false;
	}
	return true;
}

/* Whether every item of an array fits. */
static bool
fits_array(const llm_json *schema, const llm_json *value)
{
	const llm_json *items = llm_json_member(schema, "items");

	for (uint64_t i = 0; items != NULL && i < llm_json_size(value); i++)
		if (!remote_fits_schema(items, llm_json_item(value, i)))
			return false;
	return fits_bounds(schema, "minItems", "maxItems", llm_json_size(value));
}

/* Whether a value is one of those listed. */
static bool
fits_enum(const llm_json *list, const llm_json *value)
{
	for (uint64_t i = 0; i < llm_json_size(list); i++)
		if (equal(llm_json_item(list, i), value))
			return true;
	return list == NULL;
}

/* Whether a value fits one of several schemas. */
static bool
fits_any(const llm_json *list, const llm_json *value)
{
	for (uint64_t i = 0; i < llm_json_size(list); i++)
		if (remote_fits_schema(llm_json_item(list, i), value))
			return true;
	return list == NULL;
}

/* Whether a value fits. */
bool
remote_fits_schema(const llm_json *schema, const llm_json *value)
{
	const llm_json *constant = llm_json_member(schema, "const");
	const char *text;
	size_t n;

	if (!fits_type(llm_json_member(schema, "type"), value) ||
	    !fits_enum(llm_json_member(schema, "enum"), value) ||
	    (constant != NULL && !equal(constant, value)) ||
	    !fits_any(llm_json_member(schema, "anyOf"), value) ||
	    !fits_any(llm_json_member(schema, "oneOf"), value))
		return false;
	if (llm_json_string(value, &text, &n))
		return fits_bounds(schema, "minLength", "maxLength", count_characters(text, n));
	if (llm_json_get_kind(value) == LLM_JSON_OBJECT)
		return fits_object(schema, value);
	return llm_json_get_kind(value) != LLM_JSON_ARRAY || fits_array(schema, value);
}
