/*
 * llm_grammar_schema.c: a JSON schema becomes a grammar.
 *
 * A list of schemas that wait takes the place of recursion: each is read once, gets its node filled
 * in, and appends its children, so children stand behind their parents. Every key of a schema is
 * either understood, or known to say nothing about validity, or refused by name: an output that
 * does not validate is never the result of a key that was overlooked.
 */
#include <string.h>

#include "llm_buffer.h"
#include "llm_grammar_internal.h"

typedef struct waiting
{
	const llm_json *schema;
	const char *type; /* one of a list of types; NULL: what the schema says */
	uint32_t depth;
} waiting;

typedef struct compiler
{
	llm_grammar *g;
	waiting *queue; /* of node i: its schema */
	llm_error *err;
} compiler;

/* A growing JSON text. */
typedef struct writer
{
	llm_buffer text;
	bool too_long; /* beyond GRAMMAR_TEXT_MAX */
	bool nul;      /* a string has U+0000, which neither text nor jsonb can hold */
} writer;

/* Says that memory is out. */
static llm_status
no_memory(const compiler *c)
{
	return llm_fail(c->err, LLM_E_NOMEM, "out of memory for a grammar");
}

/* Appends bytes to a text. */
static void
put(writer *w, const char *bytes, size_t n)
{
	w->too_long = w->too_long || n > GRAMMAR_TEXT_MAX - w->text.n;
	if (!w->too_long)
		llm_buffer_put(&w->text, bytes, n);
}

/* Appends a string with quotes and the escapes that JSON asks for. */
static void
put_string(writer *w, const char *text, size_t n)
{
	static const char hex[] = "0123456789abcdef";
	char escape[] = "\\u0000";

	put(w, "\"", 1);
	for (size_t i = 0; i < n; i++)
	{
		unsigned char byte = (unsigned char) text[i];

		escape[4] = hex[byte >> 4];
		escape[5] = hex[byte & 15];
		if (byte == '"' || byte == '\\')
			put(w, "\\", 1);
		w->nul = w->nul || byte == 0;
		if (byte < 0x20)
			put(w, escape, 6);
		else
			put(w, text + i, 1);
	}
	put(w, "\"", 1);
}

/* Appends a value that has no parts, or the opening bracket of one that has. */
static void
put_head(writer *w, const llm_json *value)
{
	const char *text;
	size_t n;
	bool truth;

	if (llm_json_string(value, &text, &n))
		put_string(w, text, n);
	else if (llm_json_number_text(value, &text, &n))
		put(w, text, n);
	else if (llm_json_bool(value, &truth))
		put(w, truth ? "true" : "false", truth ? 4 : 5);
	else if (llm_json_get_kind(value) == LLM_JSON_NULL)
		put(w, "null", 4);
	else
		put(w, llm_json_get_kind(value) == LLM_JSON_ARRAY ? "[" : "{", 1);
}

/* Appends a whole value in compact form; open containers wait on a stack. */
static void
put_value(writer *w, const llm_json *value)
{
	struct
	{
		const llm_json *node;
		uint64_t next;
	} open[LLM_JSON_DEPTH_MAX + 1];
	uint32_t depth = 0;

	for (;;)
	{
		put_head(w, value);
		if (llm_json_get_kind(value) >= LLM_JSON_ARRAY)
		{
			open[depth].node = value;
			open[depth++].next = 0;
		}
		while (depth > 0 && open[depth - 1].next == llm_json_size(open[depth - 1].node))
		{
			bool array = llm_json_get_kind(open[--depth].node) == LLM_JSON_ARRAY;

			put(w, array ? "]" : "}", 1);
		}
		if (depth == 0 || w->text.failed || w->too_long)
			return;
		if (open[depth - 1].next > 0)
			put(w, ",", 1);
		if (llm_json_get_kind(open[depth - 1].node) == LLM_JSON_OBJECT)
		{
			const char *key;
			size_t n;

			value = llm_json_member_at(open[depth - 1].node, open[depth - 1].next++, &key, &n);
			put_string(w, key, n);
			put(w, ":", 1);
		}
		else
			value = llm_json_item(open[depth - 1].node, open[depth - 1].next++);
	}
}

/* Moves a finished text into the arena of the grammar. */
static llm_status
take_text(compiler *c, writer *w, grammar_text *out)
{
	out->n = (uint32_t) w->text.n;
	out->bytes = w->text.failed || w->too_long
	                 ? NULL
	                 : llm_arena_strndup(c->g->arena, w->text.bytes, w->text.n);
	llm_buffer_free(&w->text);
	if (w->too_long)
		return llm_fail(c->err, LLM_E_RANGE, "schema has a constant longer than %d bytes",
		                GRAMMAR_TEXT_MAX);
	if (w->nul)
		return llm_fail(c->err, LLM_E_UNSUPPORTED,
		                "schema has a constant or a property with the character U+0000");
	return out->bytes == NULL ? no_memory(c) : LLM_OK;
}

/* Appends a schema that waits; its node's number goes to *node. */
static llm_status
add_child(compiler *c, const llm_json *schema, const char *type, uint32_t depth, uint32_t *node)
{
	if (depth > GRAMMAR_DEPTH_MAX)
		return llm_fail(c->err, LLM_E_RANGE, "schema is nested deeper than %d levels",
		                GRAMMAR_DEPTH_MAX);
	if (c->g->n_nodes == GRAMMAR_NODES_MAX)
		return llm_fail(c->err, LLM_E_RANGE, "schema has more than %d parts", GRAMMAR_NODES_MAX);
	*node = c->g->n_nodes;
	c->queue[c->g->n_nodes++] = (waiting){schema, type, depth};
	return LLM_OK;
}

/* True when a list of names, ended by NULL, holds a key. */
static bool
is_one_of(const char *const *names, const char *key)
{
	while (*names != NULL && strcmp(*names, key) != 0)
		names++;
	return *names != NULL;
}

/* Refuses keys that are not understood, and those that would narrow an enum or a union further. */
static llm_status
check_keys(const compiler *c, const llm_json *schema)
{
	static const char *const remarks[] = {"description", "title",    "$schema",  "$id",
	                                      "default",     "examples", "$comment", NULL};
	static const char *const known[] = {"type",      "properties",
	                                    "required",  "additionalProperties",
	                                    "items",     "minItems",
	                                    "maxItems",  "enum",
	                                    "const",     "anyOf",
	                                    "oneOf",     "minLength",
	                                    "maxLength", NULL};
	static const char *const choices[] = {"enum", "const", "anyOf", "oneOf", NULL};
	const char *choice = NULL, *other = NULL, *key;
	size_t n;

	for (uint64_t i = 0; i < llm_json_size(schema); i++)
	{
		llm_json_member_at(schema, i, &key, &n);
		if (is_one_of(remarks, key))
			continue;
		if (!is_one_of(known, key) || strlen(key) != n)
			return llm_fail(c->err, LLM_E_UNSUPPORTED, "schema key \"%.64s\" is not supported",
			                key);
		if (choice == NULL && is_one_of(choices, key))
			choice = key;
		else if (strcmp(key, "type") != 0 || other == NULL)
			other = key;
	}
	if (choice != NULL && other != NULL && (strcmp(other, "type") != 0 || strstr(choice, "Of")))
		return llm_fail(c->err, LLM_E_UNSUPPORTED,
		                "schema key \"%s\" beside \"%s\" is not supported", other, choice);
	return LLM_OK;
}

/* Reads an optional bound; value is what it is when absent. */
static llm_status
read_bound(const compiler *c, const llm_json *schema, const char *key, uint32_t limit,
           uint32_t *value)
{
	const llm_json *member = llm_json_member(schema, key);
	uint64_t number;

	if (member == NULL)
		return LLM_OK;
	if (!llm_json_u64(member, &number) || number > limit)
		return llm_fail(c->err, LLM_E_RANGE, "schema key \"%s\" must be a whole number up to %u",
		                key, limit);
	*value = (uint32_t) number;
	return LLM_OK;
}

/* Reads a pair of bounds into a node. */
static llm_status
read_bounds(const compiler *c, const llm_json *schema, const char *min_key, const char *max_key,
            uint32_t limit, grammar_node *node)
{
	llm_status status;

	node->max = limit;
	status = read_bound(c, schema, min_key, limit, &node->min);
	if (status == LLM_OK)
		status = read_bound(c, schema, max_key, limit, &node->max);
	if (status == LLM_OK && node->min > node->max)
		return llm_fail(c->err, LLM_E_RANGE, "schema key \"%s\" is above \"%s\"", min_key, max_key);
	return status;
}

/* True when a value has a type of JSON schema. */
static bool
value_is(const llm_json *value, const char *type)
{
	static const char *const names[] = {"null", "boolean", "number", "string", "array", "object"};
	const char *text;
	size_t n;

	if (strcmp(type, "integer") == 0)
		return llm_json_number_text(value, &text, &n) && strpbrk(text, ".eE") == NULL;
	return strcmp(type, names[llm_json_get_kind(value)]) == 0;
}

/* True when a value has the type, or one of the types, that a schema asks for. */
static bool
fits_type(const llm_json *value, const llm_json *type)
{
	const char *name;
	size_t n;
	bool fits = type == NULL;

	if (llm_json_string(type, &name, &n))
		return value_is(value, name);
	for (uint64_t i = 0; !fits && i < llm_json_size(type); i++)
		fits = llm_json_string(llm_json_item(type, i), &name, &n) && value_is(value, name);
	return fits;
}

/* enum or const: a literal of those values that have the type. */
static llm_status
compile_values(compiler *c, const waiting *w, grammar_node *node)
{
	const llm_json *list = llm_json_member(w->schema, "enum");
	const llm_json *one = llm_json_member(w->schema, "const");
	uint64_t n = one != NULL ? 1 : llm_json_size(list);
	uint32_t n_texts = 0;
	grammar_text *texts;

	if ((one == NULL && llm_json_get_kind(list) != LLM_JSON_ARRAY) || n > GRAMMAR_TEXTS_MAX)
		return llm_fail(c->err, LLM_E_RANGE,
		                "schema key \"enum\" must be a list of up to %d values", GRAMMAR_TEXTS_MAX);
	if ((texts = llm_arena_alloc(c->g->arena, n > 0 ? n : 1, sizeof(*texts))) == NULL)
		return no_memory(c);
	for (uint64_t i = 0; i < n; i++)
	{
		const llm_json *value = one != NULL ? one : llm_json_item(list, i);
		writer text = {0};
		llm_status status;

		if (!fits_type(value, llm_json_member(w->schema, "type")))
			continue;
		put_value(&text, value);
		if ((status = take_text(c, &text, &texts[n_texts++])) != LLM_OK)
			return status;
	}
	if (n_texts == 0)
		return llm_fail(c->err, LLM_E_RANGE, "schema has an enum that no value fits");
	grammar_set_literal(node, texts, n_texts);
	return LLM_OK;
}

/* A union of n schemas of a list (types == false), or of n types of one schema. */
static llm_status
compile_union(compiler *c, const waiting *w, const llm_json *list, bool types, grammar_node *node)
{
	uint64_t n = llm_json_size(list);
	llm_status status = LLM_OK;

	if (llm_json_get_kind(list) != LLM_JSON_ARRAY || n == 0 || n > GRAMMAR_THREADS_MAX)
		return llm_fail(c->err, LLM_E_RANGE, "schema needs a list of 1 to %d %s",
		                GRAMMAR_THREADS_MAX, types ? "types" : "alternatives");
	node->kind = G_UNION;
	node->alternatives = llm_arena_alloc(c->g->arena, n, sizeof(*node->alternatives));
	if (node->alternatives == NULL)
		return no_memory(c);
	for (uint64_t i = 0; status == LLM_OK && i < n; i++, node->n++)
	{
		const llm_json *item = llm_json_item(list, i);
		const char *type = NULL;
		size_t bytes;

		if (types && !llm_json_string(item, &type, &bytes))
			return llm_fail(c->err, LLM_E_FORMAT, "schema has a type that is no string");
		status =
		    add_child(c, types ? w->schema : item, type, w->depth + !types, &node->alternatives[i]);
	}
	return status;
}

/* Marks the properties that a schema requires. */
static llm_status
mark_required(const compiler *c, const llm_json *schema, grammar_node *node)
{
	const llm_json *required = llm_json_member(schema, "required");
	const llm_json *properties = llm_json_member(schema, "properties");
	const char *key;
	size_t n;

	if (required != NULL && llm_json_get_kind(required) != LLM_JSON_ARRAY)
		return llm_fail(c->err, LLM_E_FORMAT, "schema key \"required\" must be a list");
	for (uint64_t i = 0; i < llm_json_size(required); i++)
	{
		const char *name;
		size_t n_name;
		uint32_t k = 0;

		if (!llm_json_string(llm_json_item(required, i), &name, &n_name))
			return llm_fail(c->err, LLM_E_FORMAT, "schema key \"required\" must list strings");
		for (; k < node->n; k++)
		{
			llm_json_member_at(properties, k, &key, &n);
			if (n == n_name && memcmp(key, name, n) == 0)
				break;
		}
		if (k == node->n)
			return llm_fail(c->err, LLM_E_RANGE, "schema requires \"%.64s\", which is no property",
			                name);
		node->properties[k].required = true;
	}
	return LLM_OK;
}

/* An object: keys as they will be written, and their schemas as children. */
static llm_status
compile_object(compiler *c, const waiting *w, grammar_node *node)
{
	const llm_json *properties = llm_json_member(w->schema, "properties");
	const llm_json *more = llm_json_member(w->schema, "additionalProperties");
	uint64_t n = llm_json_size(properties);
	llm_status status = LLM_OK;
	bool truth;

	if (more != NULL && (!llm_json_bool(more, &truth) || truth))
		return llm_fail(c->err, LLM_E_UNSUPPORTED,
		                "schema key \"additionalProperties\" other than false is not supported");
	if ((properties != NULL && llm_json_get_kind(properties) != LLM_JSON_OBJECT) ||
	    n > GRAMMAR_PROPERTIES_MAX)
		return llm_fail(c->err, LLM_E_RANGE,
		                "schema key \"properties\" must be an object of up to %d members",
		                GRAMMAR_PROPERTIES_MAX);
	node->kind = G_OBJECT;
	node->properties = llm_arena_alloc(c->g->arena, n + 1, sizeof(*node->properties));
	if (node->properties == NULL)
		return no_memory(c);
	for (; status == LLM_OK && node->n < n; node->n++)
	{
		grammar_property *p = &node->properties[node->n];
		writer text = {0};
		const char *key;
		size_t n_key;
		const llm_json *schema = llm_json_member_at(properties, node->n, &key, &n_key);

		put_string(&text, key, n_key);
		status = take_text(c, &text, &p->key);
		if (status == LLM_OK)
			status = add_child(c, schema, NULL, w->depth + 1, &p->node);
	}
	return status == LLM_OK ? mark_required(c, w->schema, node) : status;
}

/* An array: its bounds, and the schema of its items as a child. */
static llm_status
compile_array(compiler *c, const waiting *w, grammar_node *node)
{
	const llm_json *items = llm_json_member(w->schema, "items");
	llm_status status = read_bounds(c, w->schema, "minItems", "maxItems", GRAMMAR_ITEMS_MAX, node);

	node->kind = G_ARRAY;
	if (status != LLM_OK)
		return status;
	if (items == NULL)
		return llm_fail(c->err, LLM_E_UNSUPPORTED, "schema has an array without \"items\"");
	return add_child(c, items, NULL, w->depth + 1, &node->item);
}

/* true and false, or null. */
static llm_status
compile_words(compiler *c, bool boolean, grammar_node *node)
{
	grammar_text *texts = llm_arena_alloc(c->g->arena, 2, sizeof(*texts));

	if (texts == NULL)
		return no_memory(c);
	texts[0] = boolean ? (grammar_text){"false", 5} : (grammar_text){"null", 4};
	texts[1] = (grammar_text){"true", 4};
	grammar_set_literal(node, texts, boolean ? 2 : 1);
	return LLM_OK;
}

/* A value of one type. */
static llm_status
compile_type(compiler *c, const waiting *w, const char *type, grammar_node *node)
{
	if (strcmp(type, "object") == 0)
		return compile_object(c, w, node);
	if (strcmp(type, "array") == 0)
		return compile_array(c, w, node);
	if (strcmp(type, "boolean") == 0 || strcmp(type, "null") == 0)
		return compile_words(c, type[0] == 'b', node);
	if (strcmp(type, "string") == 0)
	{
		node->kind = G_STRING;
		return read_bounds(c, w->schema, "minLength", "maxLength", GRAMMAR_STRING_MAX, node);
	}
	if (strcmp(type, "number") != 0 && strcmp(type, "integer") != 0)
		return llm_fail(c->err, LLM_E_UNSUPPORTED, "schema type \"%.64s\" is not known", type);
	node->kind = type[0] == 'n' ? G_NUMBER : G_INTEGER;
	return LLM_OK;
}

/* Fills in the node of one waiting schema. */
static llm_status
compile_node(compiler *c, uint32_t i)
{
	waiting w = c->queue[i];
	grammar_node *node = &c->g->nodes[i];
	const llm_json *type = llm_json_member(w.schema, "type");
	const llm_json *any = llm_json_member(w.schema, "anyOf");
	const llm_json *one = llm_json_member(w.schema, "oneOf");
	const char *name;
	size_t n;
	llm_status status;

	if (llm_json_get_kind(w.schema) != LLM_JSON_OBJECT)
		return llm_fail(c->err, LLM_E_UNSUPPORTED, "a schema must be an object");
	if (w.type != NULL)
		return compile_type(c, &w, w.type, node);
	if ((status = check_keys(c, w.schema)) != LLM_OK)
		return status;
	node->exclusive = one != NULL;
	if (any != NULL || one != NULL)
		return compile_union(c, &w, any != NULL ? any : one, false, node);
	if (llm_json_member(w.schema, "enum") != NULL || llm_json_member(w.schema, "const") != NULL)
		return compile_values(c, &w, node);
	if (llm_json_get_kind(type) == LLM_JSON_ARRAY)
		return compile_union(c, &w, type, true, node);
	if (llm_json_string(type, &name, &n))
		return compile_type(c, &w, name, node);
	if (type == NULL && llm_json_member(w.schema, "properties") != NULL)
		return compile_object(c, &w, node);
	return llm_fail(c->err, LLM_E_UNSUPPORTED,
	                "a schema must have a type, enum, const, anyOf or oneOf");
}

/* Compiles a schema. */
llm_status
llm_grammar_from_schema(const llm_json *schema, llm_grammar **out, llm_error *err)
{
	compiler c = {.err = err};
	uint32_t root;
	llm_status status = grammar_create(out, err);

	if (status != LLM_OK)
		return status;
	c.g = *out;
	c.queue = llm_malloc_array(GRAMMAR_NODES_MAX, sizeof(*c.queue));
	status = c.queue == NULL ? no_memory(&c) : add_child(&c, schema, NULL, 1, &root);
	for (uint32_t i = 0; status == LLM_OK && i < c.g->n_nodes; i++)
		status = compile_node(&c, i);
	if (status == LLM_OK)
		status = grammar_finish(c.g, err);
	llm_free(c.queue);
	if (status != LLM_OK)
	{
		llm_grammar_free(*out);
		*out = NULL;
	}
	return status;
}
