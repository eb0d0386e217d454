/*
 * speql_spell.c: words that are nearly right.
 */
#include "speql.h"

/* The nearest a word of some length may be to another one that it is taken for. */
int
speql_slips(int len)
{
	return len < 4 ? 0 : len < 8 ? 1 : 2;
}

/* True when two words have the same digits in the same order: addr1 is no slip of addr2. */
static bool
same_digits(const char *a, const char *b)
{
	for (;;)
	{
		a += strcspn(a, "0123456789");
		b += strcspn(b, "0123456789");
		if (*a != *b || *a == '\0')
			return *a == *b;
		a++;
		b++;
	}
}

/*
 * Letters that were left out, put in, mistaken or swapped with their neighbour between two words
 * (optimal string alignment: Damerau 1964 without editing a swapped pair again).
 */
int
speql_distance(const char *a, const char *b)
{
	int n = (int) strlen(a), m = (int) strlen(b);
	int rows[3][NAMEDATALEN + 1];

	if (n > NAMEDATALEN || m > NAMEDATALEN || !same_digits(a, b))
		return Max(Max(n, m), NAMEDATALEN);
	for (int j = 0; j <= m; j++)
		rows[0][j] = j;
	for (int i = 1; i <= n; i++)
	{
		int *now = rows[i % 3], *last = rows[(i + 2) % 3], *before = rows[(i + 1) % 3];

		now[0] = i;
		for (int j = 1; j <= m; j++)
		{
			now[j] = Min(last[j - 1] + (a[i - 1] != b[j - 1]), Min(last[j], now[j - 1]) + 1);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				now[j] = Min(now[j], before[j - 2] + 1);
		}
	}
	return rows[n % 3][m];
}

/* The next keyword after `last` that the word at a token is one slip away from, or KW_NONE. */
SpeqlKeyword
speql_near_keyword(const SpeqlTokens *t, int k, SpeqlKeyword last)
{
	const SpeqlToken *tok = &t->tok[k];
	int len = tok->end - tok->start;
	char word[NAMEDATALEN];

	if (tok->kind != TOK_WORD || tok->keyword != KW_NONE || len < 3 || len >= NAMEDATALEN)
		return KW_NONE;
	for (int i = 0; i < len; i++)
		word[i] = (char) pg_ascii_toupper((unsigned char) t->text[tok->start + i]);
	word[len] = '\0';
	for (SpeqlKeyword next = last + 1; next < KW_N; next++)
		if (strlen(speql_keyword_name(next)) > 3 &&
		    speql_distance(word, speql_keyword_name(next)) == 1)
			return next;
	return KW_NONE;
}
