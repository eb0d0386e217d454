/*
 * speql_block.c: the query blocks of an unfinished statement, from its tokens alone.
 *
 * A block is what can be shown and built on its own: the statement, the body of a WITH item, a
 * SELECT in brackets, an operand of a set operation. A block's text is its tokens with the WITH
 * items before it that it may read. What an unfinished text leaves open ends at the text's end, so
 * that the block that is being typed is found too.
 */
#include "speql.h"

#include "miscadmin.h"

static void add_query(SpeqlBlocks *b, SpeqlBlock block);

/* The keyword of a token, KW_NONE beyond a range. */
static SpeqlKeyword
keyword_at(const SpeqlTokens *t, int k, int last)
{
	return k >= 0 && k < last ? t->tok[k].keyword : KW_NONE;
}

/* Adds a block; returns its index. */
static int
add_block(SpeqlBlocks *b, SpeqlBlock block)
{
	if (b->n == b->capacity)
	{
		b->capacity *= 2;
		b->block = repalloc(b->block, mul_size(b->capacity, sizeof(SpeqlBlock)));
	}
	b->block[b->n] = block;
	return b->n++;
}

/* The token after the last one inside a bracket. */
static int
inside_end(const SpeqlTokens *t, int opener, int last)
{
	return t->tok[opener].match >= 0 ? t->tok[opener].match : last;
}

/* True if a bracket at a token holds a query. */
static bool
holds_query(const SpeqlTokens *t, int k, int last)
{
	SpeqlKeyword next = keyword_at(t, k + 1, last);

	return t->tok[k].punct == '(' &&
	       (next == KW_SELECT || next == KW_WITH || next == KW_VALUES || next == KW_TABLE);
}

/* Adds the bodies of the items of the WITH that a block begins with; returns the token after. */
static int
add_with(SpeqlBlocks *b, int parent)
{
	const SpeqlTokens *t = b->tokens;
	SpeqlBlock outer = b->block[parent];
	int k = outer.first + 1, name;
	bool recursive = keyword_at(t, k, outer.last) == KW_RECURSIVE;

	for (k += recursive; k < outer.last; k++)
	{
		SpeqlBlock item = {.kind = SPEQL_CTE,
		                   .parent = parent,
		                   .with = outer.first,
		                   .recursive = recursive};

		name = k;
		while (k < outer.last && !(t->tok[k].punct == '(' && keyword_at(t, k - 1, k) != KW_NONE))
			k++; /* over the name, its columns, AS and MATERIALIZED */
		if (k >= outer.last)
			return k;
		item.name = pnstrdup(t->text + t->tok[name].start, t->tok[name].end - t->tok[name].start);
		item.with_to = name;
		item.first = k + 1;
		item.last = inside_end(t, k, outer.last);
		k = item.last + 1;
		add_query(b, item);
		if (k >= outer.last || t->tok[k].punct != ',')
			break;
	}
	return Min(k, outer.last);
}

/* Adds the operands of the set operations of a block, if it has any. */
static void
add_arms(SpeqlBlocks *b, int parent, int from)
{
	const SpeqlTokens *t = b->tokens;
	SpeqlBlock outer = b->block[parent];
	int depth = from < outer.last ? t->tok[from].depth : 0, start = from, arm = 0;

	for (int k = from; k <= outer.last; k++)
	{
		SpeqlKeyword keyword = keyword_at(t, k, outer.last);
		bool here = k < outer.last && t->tok[k].depth == depth;
		bool split =
		    here && (keyword == KW_UNION || keyword == KW_EXCEPT || keyword == KW_INTERSECT);
		/* The order and limit after the last operand are the whole's. */
		bool tail = here && arm > 0 &&
		            (keyword == KW_ORDER || keyword == KW_LIMIT || keyword == KW_OFFSET ||
		             keyword == KW_FETCH);
		SpeqlBlock block = {.kind = outer.kind,
		                    .parent = parent,
		                    .with = outer.with,
		                    .with_to = outer.with_to,
		                    .recursive = outer.recursive,
		                    .arm = true};

		if (!split && !tail && !(k == outer.last && arm > 0))
			continue;
		block.name = psprintf("%s arm %d", outer.name, ++arm);
		block.first = start;
		block.last = k;
		if (from > outer.first)
		{
			block.with = outer.first;
			block.with_to = from;
		}
		if (block.last > block.first && b->n < SPEQL_MAX_BLOCKS)
			add_block(b, block);
		if (!split)
			return;
		start = keyword_at(t, k + 1, outer.last) == KW_ALL ||
		                keyword_at(t, k + 1, outer.last) == KW_DISTINCT
		            ? k + 2
		            : k + 1;
	}
}

/* Adds a query and what is inside it. */
static void
add_query(SpeqlBlocks *b, SpeqlBlock block)
{
	const SpeqlTokens *t = b->tokens;
	int self, from = block.first;

	if (b->n >= SPEQL_MAX_BLOCKS)
		return;
	check_stack_depth();
	self = add_block(b, block);
	if (keyword_at(t, from, block.last) == KW_WITH)
		from = add_with(b, self);
	add_arms(b, self, from);
	for (int k = from; k < block.last; k++)
	{
		SpeqlBlock inner = {.kind = SPEQL_SUBQUERY, .parent = self, .with = -1};

		if (!holds_query(t, k, block.last))
			continue;
		inner.name = psprintf("subquery %d", b->n);
		inner.first = k + 1;
		inner.last = inside_end(t, k, block.last);
		if (from > block.first)
		{
			inner.with = block.first;
			inner.with_to = from;
		}
		k = inner.last;
		add_query(b, inner);
	}
}

/* True if a cursor stands in a block, its brackets' inner edges included. */
static bool
holds_cursor(const SpeqlBlocks *b, const SpeqlBlock *block, int cursor)
{
	const SpeqlTokens *t = b->tokens;
	int start = block->first > 0 ? t->tok[block->first - 1].end : 0;
	int end = block->last < t->n ? t->tok[block->last].start : t->len;

	return cursor >= start && cursor <= end;
}

/* Cuts a statement into its query blocks, the outermost first. */
SpeqlBlocks *
speql_blocks(const SpeqlTokens *t, int cursor)
{
	SpeqlBlocks *b = palloc0(sizeof(SpeqlBlocks));
	SpeqlBlock main = {.kind = SPEQL_MAIN, .name = "main", .parent = -1, .with = -1};
	int best = PG_INT32_MAX;

	b->tokens = t;
	b->capacity = 8;
	b->block = palloc(b->capacity * sizeof(SpeqlBlock));
	b->cursor = -1;
	main.last = t->n;
	if (t->n > 0)
		add_query(b, main);
	for (int i = 0; i < b->n; i++)
	{
		int width = b->block[i].last - b->block[i].first;

		if (holds_cursor(b, &b->block[i], cursor) && width <= best)
		{
			best = width;
			b->cursor = i;
		}
	}
	return b;
}

/* Appends the text of a token range. */
static void
append_range(const SpeqlTokens *t, int first, int last, StringInfo out)
{
	int end = last < t->n ? t->tok[last].start : t->len;

	if (first < last)
		appendBinaryStringInfo(out, t->text + t->tok[first].start, end - t->tok[first].start);
}

/* Appends the WITH items that a block may read, the outermost first; tells if there are any. */
static bool
append_with(const SpeqlBlocks *b, int i, bool recursive, StringInfo out)
{
	const SpeqlTokens *t = b->tokens;
	const SpeqlBlock *block = &b->block[i];
	bool any = block->parent >= 0 && append_with(b, block->parent, recursive, out);
	int first, last = block->with_to;

	if (block->with < 0)
		return any;
	first = block->with + 1;
	if (t->tok[first].keyword == KW_RECURSIVE)
		first++;
	if (last > first && t->tok[last - 1].punct == ',')
		last--;
	if (first >= last)
		return any;
	appendStringInfoString(out, any ? ", " : recursive ? "WITH RECURSIVE " : "WITH ");
	append_range(t, first, last, out);
	appendStringInfoChar(out, ' ');
	return true;
}

/* Writes a block's text with what it needs from the outside. */
char *
speql_block_text(const SpeqlBlocks *b, int i)
{
	const SpeqlTokens *t = b->tokens;
	const SpeqlBlock *block = &b->block[i];
	bool nested, with;
	StringInfoData out;

	initStringInfo(&out);
	with = append_with(b, i, block->recursive, &out);
	if (block->kind == SPEQL_CTE && block->recursive && !block->arm &&
	    block->first > block->with_to)
	{
		/* It may read itself: only its own WITH item gives it its name. */
		appendStringInfoString(&out, with ? ", " : "WITH RECURSIVE ");
		append_range(t, block->with_to, block->last, &out);
		appendStringInfo(&out, ") SELECT * FROM %s", block->name);
		return out.data;
	}
	nested = with && keyword_at(t, block->first, block->last) == KW_WITH;
	if (nested)
		appendStringInfoChar(&out, '(');
	append_range(t, block->first, block->last, &out);
	if (nested)
		appendStringInfoChar(&out, ')');
	return out.data;
}

/* The statement under a cursor: what stands between two semicolons outside of quotes. */
void
speql_statement_at(const char *text, int cursor, int *start, int *len)
{
	SpeqlTokens *t = speql_lex(text, strlen(text));

	*start = 0;
	*len = t->len;
	for (int i = 0; i < t->n; i++)
	{
		if (t->tok[i].punct != ';')
			continue;
		/* Right behind a semicolon and nothing after it: still that statement. */
		if (t->tok[i].end < cursor || (t->tok[i].end == cursor && i < t->n - 1))
			*start = i < t->n - 1 ? t->tok[i].end : *start;
		else
		{
			*len = t->tok[i].start - *start;
			return;
		}
	}
	*len = t->len - *start;
}
