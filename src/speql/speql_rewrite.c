/*
 * speql_rewrite.c: builds a block over a table that stands for some or all of its FROM items.
 *
 * What the user wrote stays: result names, order, DISTINCT, LIMIT, windows. Only the range table,
 * the conditions and the columns that expressions read change (steps 5, 6 and 8 of the algorithm).
 *
 *	flat		the table has the block's rows one for one: no grouping above it
 *	above		the table is not grouped: the block groups over it as it did
 *	regroup		the table has finer groups: aggregates are rolled up
 */
#include "speql_match.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "storage/lockdefs.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "compat.h"

typedef enum Mode
{
	MODE_FLAT,
	MODE_ABOVE,
	MODE_REGROUP
} Mode;

typedef struct Rewrite
{
	const SpeqlMapping *m;
	Mode mode;
	List *classes;      /* those that may be used for the expression at hand */
	List *outputs;      /* the table's outputs, with classes represented; parallel to m->outputs */
	int *renumber;      /* q's range table index → the new block's; 0: stands in the table */
	Bitmapset *back;    /* tables that are joined back for columns that the table lacks */
	int missing;        /* the first table of which a column was missing */
	int depth;          /* of subqueries */
	SpeqlReason reason; /* of the first thing that could not be had */
} Rewrite;

/* The table is entry 1 of every block that it is put in. */
#define TABLE_INDEX 1

/* ---- the table's columns ----------------------------------------------------------------- */

/* A Var of the table's i-th output (from 1). */
static Var *
table_column(const Rewrite *r, int i)
{
	Node *output = list_nth(r->m->outputs, i - 1);

	return makeVar(TABLE_INDEX, i, exprType(output), exprTypmod(output), exprCollation(output),
	               r->depth);
}

/* The same for speql_rollup. */
static Expr *
rollup_column(int i, void *arg)
{
	return (Expr *) table_column(arg, i);
}

/* The column that holds an expression. */
int
speql_output_column(const SpeqlMapping *m, Node *expr, List *classes)
{
	ListCell *lc;
	Node *wanted = speql_represent(expr, classes);

	foreach (lc, m->outputs)
		if (equal(speql_represent(lfirst(lc), classes), wanted))
			return foreach_current_index(lc) + 1;
	return 0;
}

/*
 * The same, with the outputs represented once. Aggregates' columns count when rows map one to one.
 */
static int
find_output(const Rewrite *r, Node *expr)
{
	Node *wanted = speql_represent(expr, r->classes);
	ListCell *lc;

	foreach (lc, r->outputs)
		if (equal(lfirst(lc), wanted) &&
		    (r->mode != MODE_REGROUP || !contain_agg_clause(lfirst(lc))))
			return foreach_current_index(lc) + 1;
	return 0;
}

/* Chooses the classes that the next expressions may use. */
static void
use_classes(Rewrite *r, List *classes)
{
	r->classes = classes;
	r->outputs = (List *) speql_represent((Node *) r->m->outputs, classes);
}

/* ---- expressions ------------------------------------------------------------------------- */

/* Notes why the block cannot be built; the mutator then just ends. */
static Node *
fail(Rewrite *r, SpeqlReason reason)
{
	if (r->reason == SPEQL_OK_EXACT)
		r->reason = reason;
	return (Node *) makeNullConst(BOOLOID, -1, InvalidOid);
}

/* A column of the block: of the table, or of an item that is joined to it. */
static Node *
rewrite_var(Rewrite *r, Var *var)
{
	Var *own = copyObject(var);
	int column;

	own->varlevelsup = 0;
	column = bms_is_member(var->varno, r->m->covered) ? find_output(r, (Node *) own) : 0;
	if (column != 0)
		return (Node *) table_column(r, column);
	own->varlevelsup = var->varlevelsup;
	if (r->renumber[var->varno] != 0)
	{
		Bitmapset **nulling = PP_VAR_NULLING_RELS(own);
		Bitmapset *mapped = NULL;
		int i = -1;

		own->varno = r->renumber[var->varno];
		own->varnosyn = own->varno;
		while (nulling != NULL && (i = bms_next_member(*nulling, i)) >= 0)
			mapped = bms_add_member(mapped, r->renumber[i]);
		if (nulling != NULL)
			*nulling = mapped;
		return (Node *) own;
	}
	if (r->missing == 0)
		r->missing = var->varno;
	return fail(r, SPEQL_R_COLUMN);
}

/* An aggregate of the block over a grouped table. */
static Node *
rewrite_aggregate(Rewrite *r, Aggref *agg)
{
	Expr *rolled;

	if (r->mode == MODE_FLAT)
		return fail(r, SPEQL_R_AGGREGATE);
	rolled = speql_rollup(agg, r->m, rollup_column, r);
	return rolled ? (Node *) rolled : NULL;
}

/* Rewrites an expression: what the table has as a whole first, then what it is made of. */
static Node *
rewrite_mutator(Node *node, void *arg)
{
	Rewrite *r = arg;
	Node *copy;
	int column;

	if (node == NULL || r->reason != SPEQL_OK_EXACT)
		return node;
	if (IsA(node, Query))
	{
		r->depth++;
		copy = (Node *) query_tree_mutator(castNode(Query, node), rewrite_mutator, arg, 0);
		r->depth--;
		return copy;
	}
	if (IsA(node, Var))
		return (int) castNode(Var, node)->varlevelsup == r->depth
		           ? rewrite_var(r, castNode(Var, node))
		           : copyObject(node);
	/* An aggregate of this block inside a subquery of it. */
	if (IsA(node, Aggref) && r->depth > 0 && (int) castNode(Aggref, node)->agglevelsup == r->depth)
		return fail(r, SPEQL_R_AGGREGATE);
	if (r->depth > 0 || IsA(node, TargetEntry) || IsA(node, List) || IsA(node, Const))
		return expression_tree_mutator(node, rewrite_mutator, arg);
	column = find_output(r, node);
	if (column != 0)
		return (Node *) table_column(r, column);
	if (IsA(node, WindowFunc) && r->mode == MODE_FLAT && r->m->v->query->hasWindowFuncs)
		return fail(r, SPEQL_R_WINDOW);
	if (IsA(node, GroupingFunc) && r->mode == MODE_FLAT)
		return fail(r, SPEQL_R_GROUPING);
	if (IsA(node, Aggref) && r->mode != MODE_ABOVE)
	{
		copy = rewrite_aggregate(r, castNode(Aggref, node));
		if (copy != NULL)
			return copy;
		/* Over what groups are made of, an aggregate that ignores duplicates stays as it is. */
		if (castNode(Aggref, node)->aggdistinct == NIL)
			return fail(r, SPEQL_R_AGGREGATE);
	}
	return expression_tree_mutator(node, rewrite_mutator, arg);
}

/* Rewrites an expression or a list with some classes. */
static Node *
rewrite(Rewrite *r, Node *node, List *classes)
{
	if (r->classes != classes || r->outputs == NIL)
		use_classes(r, classes);
	return rewrite_mutator(node, r);
}

/* ---- which way (step 6, and what blocks may have besides) -------------------------------- */

/* True for a definition whose rows are only good for the very block. */
static bool
only_itself(const Query *v)
{
	return v->hasWindowFuncs || v->hasTargetSRFs || v->groupingSets;
}

/* The result columns that make rows of one row. */
static List *
row_makers(const Query *q)
{
	List *makers = NIL;
	ListCell *lc;

	foreach (lc, q->targetList)
		if (expression_returns_set((Node *) lfirst_node(TargetEntry, lc)->expr))
			makers = lappend(makers, lfirst_node(TargetEntry, lc)->expr);
	return makers;
}

/* Set-returning functions side by side make as many rows as the longest of them: all must agree. */
static bool
same_row_makers(const SpeqlMapping *m)
{
	return speql_same_set(row_makers(m->q->query),
	                      (List *) speql_remap((Node *) row_makers(m->v->query), m));
}

/* True when two blocks have the same windows, grouping sets and groups. */
static bool
same_shape(const SpeqlMapping *m)
{
	const Query *q = m->q->query, *v = m->v->query;
	List *windows = (List *) speql_remap((Node *) v->windowClause, m);
	ListCell *a, *b;

	if (m->others || m->joins || m->compensation || m->q->aggregated != m->v->aggregated)
		return false;
	if (!equal(q->groupingSets, v->groupingSets) || q->groupDistinct != v->groupDistinct ||
	    !same_row_makers(m) || list_length(windows) != list_length(q->windowClause))
		return false;
	forboth(a, windows, b, q->windowClause)
	{
		WindowClause *w = copyObject(lfirst_node(WindowClause, b));

		w->name = lfirst_node(WindowClause, a)->name;
		w->refname = lfirst_node(WindowClause, a)->refname;
		if (!equal(lfirst(a), w))
			return false;
	}
	/* Windows name their columns by number. */
	return !q->windowClause || equal(q->groupClause, v->groupClause);
}

/* The target entry that a number in a sort or group clause means, or NULL. */
static TargetEntry *
entry_of_reference(Index reference, List *target_list)
{
	ListCell *lc;

	foreach (lc, target_list)
		if (lfirst_node(TargetEntry, lc)->ressortgroupref == reference)
			return lfirst(lc);
	return NULL;
}

/* What the numbers in windows and grouping sets stand for must be the same, too. */
static bool
same_references(const SpeqlMapping *m)
{
	ListCell *lc;

	foreach (lc, m->v->query->targetList)
	{
		TargetEntry *v = lfirst_node(TargetEntry, lc);
		TargetEntry *q;

		if (v->ressortgroupref == 0)
			continue;
		q = entry_of_reference(v->ressortgroupref, m->q->query->targetList);
		if (q == NULL || !equal(speql_remap((Node *) v->expr, m), q->expr))
			return false;
	}
	return true;
}

/* The groups are the same when each is among the others', identical columns counting as one. */
static bool
same_groups(const SpeqlMapping *m)
{
	List *q = (List *) speql_represent((Node *) m->q->groups, m->q->classes);
	List *v = (List *) speql_represent((Node *) m->groups, m->q->classes);

	return speql_same_set(q, v);
}

/* HAVING of the definition must follow from that of the query, group for group. */
static bool
having_allows(const SpeqlMapping *m, bool same)
{
	List *v = make_ands_implicit((Expr *) speql_remap(m->v->query->havingQual, m));
	List *q = make_ands_implicit((Expr *) m->q->query->havingQual);
	ListCell *lc;

	if (v == NIL)
		return true;
	foreach (lc, v)
		if (!list_member(q, lfirst(lc)) &&
		    (contain_mutable_functions(lfirst(lc)) ||
		     !predicate_implied_by(list_make1(lfirst(lc)), q, false)))
			return false;
	return same;
}

/* How a grouped table can serve. */
static SpeqlReason
choose_grouped(const SpeqlMapping *m, Mode *mode)
{
	bool same = !m->q->query->groupingSets && same_groups(m);

	if (!m->q->aggregated || m->others)
		return SPEQL_R_GROUPING;
	/* One row over everything says nothing about parts of it. */
	if (m->groups == NIL && (m->q->groups || m->compensation || m->joins))
		return SPEQL_R_GROUPING;
	if (!having_allows(m, same))
		return SPEQL_R_HAVING;
	*mode = same ? MODE_FLAT : MODE_REGROUP;
	return SPEQL_OK_EXACT;
}

/* Decides which way to go. */
static SpeqlReason
choose_mode(const SpeqlMapping *m, Mode *mode)
{
	const Query *v = m->v->query, *q = m->q->query;

	*mode = MODE_FLAT;
	if (v->setOperations)
		return SPEQL_OK_EXACT;
	if (v->distinctClause && (!q->distinctClause || q->hasDistinctOn || m->q->aggregated ||
	                          q->hasWindowFuncs || m->others))
		return SPEQL_R_DISTINCT;
	if (only_itself(v))
		return same_shape(m) && same_references(m) && having_allows(m, true) ? SPEQL_OK_EXACT
		       : v->hasWindowFuncs                                           ? SPEQL_R_WINDOW
		                                                                     : SPEQL_R_GROUPING;
	if (speql_asks_beyond_equality(m))
		return SPEQL_R_GROUPING;
	if (m->v->aggregated)
		return choose_grouped(m, mode);
	*mode = MODE_ABOVE;
	return SPEQL_OK_EXACT;
}

/* ---- the new block ----------------------------------------------------------------------- */

/*
 * The entry of the table. Its owner is the extension's; who may read it was decided by the match.
 */
static RangeTblEntry *
table_entry(const SpeqlMapping *m, const SpeqlCandidate *c)
{
	RangeTblEntry *rte = makeNode(RangeTblEntry);

	rte->rtekind = RTE_RELATION;
	rte->relid = c->relid;
	rte->relkind = RELKIND_RELATION;
	rte->rellockmode = AccessShareLock;
	rte->inFromCl = true;
	rte->eref = makeAlias(psprintf("speculation_" UINT64_FORMAT, c->id), NIL);
	for (int i = 1; i <= list_length(m->outputs); i++)
		rte->eref->colnames = lappend(rte->eref->colnames, makeString(psprintf("c%d", i)));
	return rte;
}

/* Who owns a table. */
static Oid
owner_of(Oid relid)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid owner = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
		ReleaseSysCache(tuple);
	}
	return owner;
}

/* Gives the entries of the other items their new numbers. */
static void
number_item(Rewrite *r, Node *item, int *next)
{
	if (IsA(item, RangeTblRef))
		r->renumber[castNode(RangeTblRef, item)->rtindex] = (*next)++;
	else
	{
		r->renumber[castNode(JoinExpr, item)->rtindex] = (*next)++;
		number_item(r, castNode(JoinExpr, item)->larg, next);
		number_item(r, castNode(JoinExpr, item)->rarg, next);
	}
}

/* An item with its new numbers, its conditions rewritten. */
static Node *
renumber_item(Rewrite *r, Node *item)
{
	JoinExpr *join;
	RangeTblRef *ref;

	if (IsA(item, RangeTblRef))
	{
		ref = makeNode(RangeTblRef);
		ref->rtindex = r->renumber[castNode(RangeTblRef, item)->rtindex];
		return (Node *) ref;
	}
	join = makeNode(JoinExpr);
	memcpy(join, item, sizeof(JoinExpr));
	join->rtindex = r->renumber[join->rtindex];
	join->larg = renumber_item(r, join->larg);
	join->rarg = renumber_item(r, join->rarg);
	join->quals = rewrite(r, join->quals, NIL);
	return (Node *) join;
}

/* The range table: the table, then the other items' entries under the names that people gave. */
static List *
new_range_table(Rewrite *r, const SpeqlCandidate *c)
{
	const SpeqlForm *q = r->m->q;
	List *entries = list_make1(table_entry(r->m, c));
	int n = list_length(q->query->rtable);

	for (int i = TABLE_INDEX + 1; i <= n + TABLE_INDEX; i++)
		for (int old = 1; old <= n; old++)
			if (r->renumber[old] == i)
				entries = lappend(entries, rt_fetch(old, q->source->rtable));
	return (List *) range_table_mutator(entries, rewrite_mutator, r, 0);
}

/* The conditions on top of the table and between it and the other items. */
static List *
new_conditions(Rewrite *r)
{
	List *joins = (List *) rewrite(r, (Node *) r->m->joins, r->m->classes);
	List *others = (List *) rewrite(r, (Node *) r->m->compensation, r->m->q->classes);

	return list_concat(joins, others);
}

/* Puts back the names of the result columns. */
static void
restore_names(Query *block, const Query *source)
{
	ListCell *a, *b;

	forboth(a, block->targetList, b, source->targetList)
	{
		lfirst_node(TargetEntry, a)->resname = lfirst_node(TargetEntry, b)->resname;
		lfirst_node(TargetEntry, a)->resorigtbl = lfirst_node(TargetEntry, b)->resorigtbl;
		lfirst_node(TargetEntry, a)->resorigcol = lfirst_node(TargetEntry, b)->resorigcol;
	}
}

/* Takes the grouping off a block whose table has its groups. */
static void
flatten_block(Query *block, List **conditions)
{
	if (block->havingQual)
		*conditions = list_concat(*conditions, make_ands_implicit((Expr *) block->havingQual));
	block->havingQual = NULL;
	block->groupClause = block->groupingSets = NIL;
	block->groupDistinct = false;
	block->hasAggs = false;
}

/* Reads column i of the table as result column i, which is what a set operation's are. */
static void
read_positions(Rewrite *r, Query *block)
{
	ListCell *lc;

	block->setOperations = NULL;
	foreach (lc, block->targetList)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);

		if (tle->resno <= list_length(r->m->outputs))
			tle->expr = (Expr *) table_column(r, tle->resno);
		else
			r->reason = SPEQL_R_COLUMN;
	}
}

/* Rewrites what stands above FROM and WHERE. */
static void
rewrite_upper(Rewrite *r, Query *block)
{
	/* A column that grouping sets make null is not the one that WHERE made equal to it. */
	List *classes = block->groupingSets ? NIL : r->m->q->classes;

	block->targetList = (List *) rewrite(r, (Node *) block->targetList, classes);
	block->havingQual = rewrite(r, block->havingQual, classes);
	block->windowClause = (List *) rewrite(r, (Node *) block->windowClause, classes);
	if (r->mode == MODE_FLAT && r->m->v->query->hasWindowFuncs)
	{
		block->windowClause = NIL;
		block->hasWindowFuncs = false;
	}
	if (r->mode == MODE_FLAT && r->m->v->query->hasTargetSRFs)
		block->hasTargetSRFs = false;
}

/* A condition that ties a table that is joined back to its row, for one column of the key. */
static Node *
key_condition(Rewrite *r, int index, AttrNumber column)
{
	Oid relid = rt_fetch(index, r->m->q->query->rtable)->relid;
	Oid type, collation, equality;
	int32 typmod, output;
	Var *own, *back;

	get_atttypetypmodcoll(relid, column, &type, &typmod, &collation);
	own = makeVar(index, column, type, typmod, collation, 0);
	output = find_output(r, (Node *) own);
	equality = lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr;
	if (output == 0 || !OidIsValid(equality))
		return fail(r, SPEQL_R_COLUMN);
	back = makeVar(r->renumber[index], column, type, typmod, collation, 0);
	return (Node *) make_opclause(equality, BOOLOID, false, (Expr *) table_column(r, output),
	                              (Expr *) back, InvalidOid, collation);
}

/* Joins tables back by their primary keys; adds to FROM and to the conditions. */
static List *
join_back(Rewrite *r, List **from)
{
	List *conditions = NIL;
	ListCell *lc;
	int i = -1;

	use_classes(r, r->m->q->classes);
	while ((i = bms_next_member(r->back, i)) >= 0)
	{
		RangeTblRef *ref = makeNode(RangeTblRef);

		ref->rtindex = r->renumber[i];
		*from = lappend(*from, ref);
		foreach (lc, speql_keys_primary(rt_fetch(i, r->m->q->query->rtable)->relid))
			conditions = lappend(conditions, key_condition(r, i, lfirst_int(lc)));
	}
	return conditions;
}

/* Builds the block one way. *missing: a table that lacked a column, if that was what failed. */
static Query *
build(SpeqlMapping *m, const SpeqlCandidate *c, Mode mode, Bitmapset *back, int *missing)
{
	Rewrite r = {.m = m, .mode = mode, .back = back, .reason = SPEQL_OK_EXACT};
	int i = -1;
	Query *block = copyObject(m->q->query);
	List *from, *conditions = NIL;
	RangeTblRef *table = makeNode(RangeTblRef);
	ListCell *lc;
	int next = TABLE_INDEX + 1;

	r.renumber = palloc0(sizeof(int) * (list_length(block->rtable) + 1));
	foreach (lc, m->others)
		number_item(&r, lfirst(lc), &next);
	while ((i = bms_next_member(back, i)) >= 0)
		r.renumber[i] = next++;
	table->rtindex = TABLE_INDEX;
	from = list_make1(table);
	foreach (lc, m->others)
		from = lappend(from, renumber_item(&r, lfirst(lc)));
	if (block->setOperations)
		read_positions(&r, block);
	else
	{
		conditions = list_concat(join_back(&r, &from), new_conditions(&r));
		rewrite_upper(&r, block);
		if (mode == MODE_FLAT)
			flatten_block(block, &conditions);
	}
	block->rtable = new_range_table(&r, c);
	block->jointree =
	    makeFromExpr(from, (Node *) (conditions ? make_ands_explicit(conditions) : NULL));
	block->cteList = copyObject(m->q->source->cteList);
	PP_COPY_PERMISSION_LIST(block, m->q->source);
	PP_LET_OWNER_READ(block, linitial_node(RangeTblEntry, block->rtable), owner_of(c->relid));
	restore_names(block, m->q->source);
	m->reason = r.reason;
	*missing = r.missing;
	return r.reason == SPEQL_OK_EXACT ? block : NULL;
}

/* True when a column that the table lacks can be had from its own table, by the primary key. */
static bool
can_join_back(const SpeqlMapping *m, Mode mode, int index, const Bitmapset *back)
{
	ListCell *lc;
	RangeTblEntry *rte;

	if (mode != MODE_ABOVE || index == 0 || m->v->query->distinctClause ||
	    bms_is_member(index, back))
		return false;
	rte = rt_fetch(index, m->q->query->rtable);
	if (rte->rtekind != RTE_RELATION || speql_keys_primary(rte->relid) == NIL ||
	    has_subclass(rte->relid))
		return false;
	/* Below an outer join there may be no row to join back to. */
	foreach (lc, m->q->items)
		if (IsA(lfirst(lc), RangeTblRef) && lfirst_node(RangeTblRef, lc)->rtindex == index)
			return true;
	return false;
}

/* Builds the block, with tables joined back where that gives what is missing. */
static Query *
build_with_back(SpeqlMapping *m, const SpeqlCandidate *c, Mode mode, Bitmapset **back)
{
	int missing;
	Query *block = build(m, c, mode, NULL, &missing);

	*back = NULL;
	while (block == NULL && m->reason == SPEQL_R_COLUMN && can_join_back(m, mode, missing, *back))
	{
		*back = bms_add_member(*back, missing);
		block = build(m, c, mode, *back, &missing);
	}
	return block;
}

/* Builds the block over the table. */
Query *
speql_rewrite(SpeqlMapping *m, const SpeqlCandidate *c, SpeqlReason *kind)
{
	Mode mode;
	Query *block;
	Bitmapset *back;

	m->reason = choose_mode(m, &mode);
	if (m->reason != SPEQL_OK_EXACT)
		return NULL;
	block = build_with_back(m, c, mode, &back);
	/* The same groups, but an aggregate is only there in parts. */
	if (block == NULL && mode == MODE_FLAT && m->reason == SPEQL_R_AGGREGATE && m->groups &&
	    !m->v->query->havingQual && !only_itself(m->v->query))
	{
		mode = MODE_REGROUP;
		block = build_with_back(m, c, mode, &back);
	}
	*kind = mode == MODE_REGROUP                               ? SPEQL_OK_ROLLUP
	        : m->joins || m->compensation || m->others || back ? SPEQL_OK_RANGE
	                                                           : SPEQL_OK_EXACT;
	return block;
}
