/*
 * speql_match.h: can a table, defined by a query, answer a block of another query?
 *
 * After Goldstein and Larson, "Optimizing Queries Using Materialized Views" (SIGMOD 2001), on
 * analysed trees, one block (SELECT) at a time:
 *
 *		SpeqlForm *v = speql_form(definition, …)		canonical form		speql_form.c
 *		SpeqlForm *q = speql_form(block, …)
 *		speql_match(q, v, table, &m)					tables, conditions	speql_match.c
 *			→ m.query: the block again, over the table	outputs, groups		speql_rewrite.c
 *														aggregates			speql_rollup.c
 *
 * The definition reads: SELECT outputs FROM items WHERE conjuncts [GROUP BY …]; output i is column
 * i of the table. Everything is allocated in the current context; no locks are taken.
 */
#ifndef SPEQL_MATCH_H
#define SPEQL_MATCH_H

#include "postgres.h"

#include "nodes/params.h"
#include "nodes/parsenodes.h"

#include "speql_shared.h"

/* A block in canonical form. */
typedef struct SpeqlForm
{
	const Query *source; /* the block as it came, with the names that people gave */
	Query *query;        /* a copy: names blanked, join aliases resolved, CTEs put in place */
	List *items;         /* of FROM: RangeTblRef, or JoinExpr for an outer join with all below it */
	List *conjuncts;     /* of WHERE and of inner joins' ON; constants folded */
	List *classes;       /* List of Lists of Vars that the conjuncts make identical */
	List *groups;        /* expressions of GROUP BY */
	bool aggregated;     /* yields groups, or one row */
} SpeqlForm;

/*
 * The canonical form of a block, or NULL with a reason when no table may ever stand for it.
 * ancestors: the queries around it, innermost first (whose WITH it may read). params: values of
 * external parameters that the plan may depend on, or NULL.
 */
extern SpeqlForm *speql_form(const Query *block, List *ancestors, ParamListInfo params,
                             SpeqlReason *reason);

/* The same with names and permissions kept, for definitions that will be run. */
extern SpeqlForm *speql_named_form(const Query *block, SpeqlReason *reason);

/*
 * The relations that a query reads anywhere, views resolved; NULL list and a reason if one may not.
 */
extern List *speql_relations(const Query *query, SpeqlReason *reason);

/* True when the rows of a relation are what its writers' locks tell about. */
extern bool speql_relation_allowed(Oid relid);

/* The table that a match may use: what the registry knows of it. */
typedef struct SpeqlCandidate
{
	uint64 id;
	Oid relid;
	double rows;
	bool keys_hold;  /* joins along foreign keys neither dropped nor multiplied rows */
	SpeqlForm *form; /* of its definition */
	List *relids;    /* that it reads */
} SpeqlCandidate;

typedef struct SpeqlMatch
{
	Query *query;       /* the block over the table; NULL: no match */
	SpeqlReason reason; /* SPEQL_OK_…, or why not */
	List *compensation; /* conditions on top of the table, for people */
	int n_items;        /* of FROM that the table stands for */
} SpeqlMatch;

/* Tries one table on one block. */
extern void speql_match(const SpeqlForm *q, const SpeqlCandidate *c, SpeqlMatch *m);

/* ---- between the files of the matcher ---------------------------------------------------- */

/* One attempt: a block, a definition, and which of the block's tables stands for which. */
typedef struct SpeqlMapping
{
	const SpeqlForm *q;
	const SpeqlForm *v;
	/* [1 … length of v's range table]: range table index in q; 0: not mapped yet */
	int *map;
	List *outputs;      /* v's outputs in q's numbering */
	List *groups;       /* v's groups in q's numbering */
	List *classes;      /* v's classes in q's numbering */
	Bitmapset *covered; /* q's range table indexes that the table stands for */
	List *compensation; /* q's conjuncts that are still to be tested on top */
	List *joins;        /* those of them that make columns identical, with v's classes only */
	List *others;       /* q's items that the table does not stand for */
	/* v's conjuncts that hold because of keys: of tables that q does not read */
	List *implied;
	SpeqlReason reason; /* the furthest that any attempt got */
} SpeqlMapping;

/* ---- keys (speql_keys.c) ---- */

/*
 * True when items of a definition neither drop nor multiply its rows. *implied: the conditions that
 * hold for every row because of that.
 */
extern bool speql_keys_take_off(const SpeqlForm *v, List *items, List **implied);

/*
 * The queries that give a row when a foreign key that a definition joins along does not hold: of
 * tables that were written without triggers, for one. List of Query.
 */
extern List *speql_keys_orphans(const SpeqlForm *v);

/* The columns of a relation's primary key, as integers; NIL when it has none. */
extern List *speql_keys_primary(Oid relid);

/* True when a column is declared never to be null. */
extern bool speql_keys_never_null(Oid relid, AttrNumber column);

/* v's expression in q's numbering; the mapping must be complete for what it reads. */
extern Node *speql_remap(Node *expr, const SpeqlMapping *m);

/* An expression with every Var replaced by the first of its class. */
extern Node *speql_represent(Node *expr, List *classes);

/* True when two lists hold the same expressions, in any order. */
extern bool speql_same_set(List *a, List *b);

/* True when values of a type that are equal are also identical. */
extern bool speql_equal_is_identical(Oid type, Oid collation);

/* ---- one value for several equal ones (speql_equal.c) ---- */

/*
 * True when a definition groups, or makes distinct, by another equality than a type has by now:
 * since it was built, the type got an operator class, or another one.
 */
extern bool speql_equality_changed(const Query *definition);

/*
 * True when the table has one row for values that are equal but not identical (1.0 and 1.00), and
 * the block asks of them what equality does not tell (their text, their scale).
 */
extern bool speql_asks_beyond_equality(const SpeqlMapping *m);

/* Builds the block over the table; NULL with m->reason. */
extern Query *speql_rewrite(SpeqlMapping *m, const SpeqlCandidate *c, SpeqlReason *kind);

/* The column of an expression in the table (from 1), or 0. */
extern int speql_output_column(const SpeqlMapping *m, Node *expr, List *classes);

/*
 * An aggregate over finer groups that gives the value of one over coarser ones. column: makes a Var
 * of an output of the table. NULL: it cannot be derived.
 */
extern Expr *speql_rollup(Aggref *agg, const SpeqlMapping *m, Expr *(*column)(int, void *),
                          void *arg);

/* The aggregates that finer groups must have so that a coarser one can be derived; NIL: none do. */
extern List *speql_rollup_parts(Aggref *agg);

/* count(*). */
extern Aggref *speql_count_star(void);

/* ---- definitions (speql_define.c) -------------------------------------------------------- */

/*
 * The query whose rows a table should hold to answer a block without the `dropped` conjuncts, in
 * finer groups if it is grouped (dropped NIL: the block itself). NULL with a reason when there is
 * no such table. The form is a named one.
 */
extern Query *speql_define(const SpeqlForm *form, List *dropped, SpeqlReason *reason);

/*
 * The conjuncts that the n-th superset of a block leaves out, of those that compare one column with
 * constants, as people edit: for n = 1 all of them; then those on one column, the column typed last
 * first. NIL: there is no such superset (or n is 0: the block itself).
 */
extern List *speql_superset_conjuncts(const SpeqlForm *form, int n);

/* The columns (Vars) that such conjuncts compare, those of the last conjunct first. */
extern List *speql_compared_columns(List *conjuncts);

#endif /* SPEQL_MATCH_H */
