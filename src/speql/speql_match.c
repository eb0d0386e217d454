/*
 * speql_match.c: tables and conditions of the matching; see speql_match.h.
 *
 * The numbers in comments are the steps of Goldstein and Larson's algorithm.
 */
#include "speql_match.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "utils/lsyscache.h"

#include "compat.h"

#define MAX_MAPPINGS 24 /* complete ones that are tried for one pair, as self-joins have many */

typedef struct Search
{
	SpeqlMapping m;
	const SpeqlCandidate *candidate;
	SpeqlMatch *result;
	bool *used; /* of q's items */
	int n_tried;
	int n_best;         /* most items that an attempt mapped */
	SpeqlReason reason; /* why that one failed */
} Search;

/* ---- renumbering ------------------------------------------------------------------------- */

typedef struct RemapContext
{
	const SpeqlMapping *m;
	int depth; /* of subqueries */
} RemapContext;

/* Renumbers the joins that may have made a Var null. */
static void
remap_nulling(Var *var, const int *map)
{
	Bitmapset **relids = PP_VAR_NULLING_RELS(var);
	Bitmapset *mapped = NULL;
	int i = -1;

	if (relids == NULL)
		return;
	while ((i = bms_next_member(*relids, i)) >= 0)
		mapped = bms_add_member(mapped, map[i]);
	*relids = mapped;
}

/* Mutator of speql_remap. */
static Node *
remap_mutator(Node *node, void *arg)
{
	RemapContext *context = arg;
	Node *copy;

	if (node == NULL)
		return NULL;
	if (IsA(node, Var) && (int) castNode(Var, node)->varlevelsup == context->depth)
	{
		Var *var = copyObject(castNode(Var, node));

		var->varno = context->m->map[var->varno];
		remap_nulling(var, context->m->map);
		return (Node *) var;
	}
	if (!IsA(node, Query))
		return expression_tree_mutator(node, remap_mutator, arg);
	context->depth++;
	copy = (Node *) query_tree_mutator(castNode(Query, node), remap_mutator, arg, 0);
	context->depth--;
	return copy;
}

/* Renumbers an expression of v's level. */
Node *
speql_remap(Node *expr, const SpeqlMapping *m)
{
	RemapContext context = {.m = m};

	return remap_mutator(expr, &context);
}

typedef struct RepresentContext
{
	List *classes;
	int depth;
} RepresentContext;

/* The first of a column's class; NULL when it has none. */
static Var *
representative(List *classes, const Var *var)
{
	ListCell *lc;

	foreach (lc, classes)
		if (list_member(lfirst(lc), var))
			return linitial_node(Var, lfirst(lc));
	return NULL;
}

/* Mutator of speql_represent. */
static Node *
represent_mutator(Node *node, void *arg)
{
	RepresentContext *context = arg;
	Node *copy;

	if (node == NULL)
		return NULL;
	if (IsA(node, Var) && (int) castNode(Var, node)->varlevelsup == context->depth)
	{
		Var *own = copyObject(castNode(Var, node)), *first;

		own->varlevelsup = 0;
		first = representative(context->classes, own);
		if (first)
			own = copyObject(first);
		own->varlevelsup = context->depth;
		return (Node *) own;
	}
	if (!IsA(node, Query))
		return expression_tree_mutator(node, represent_mutator, arg);
	context->depth++;
	copy = (Node *) query_tree_mutator(castNode(Query, node), represent_mutator, arg, 0);
	context->depth--;
	return copy;
}

/* Replaces columns by the first of their class. */
Node *
speql_represent(Node *expr, List *classes)
{
	RepresentContext context = {.classes = classes};

	return classes ? represent_mutator(expr, &context) : expr;
}

/* Compares lists as sets. */
bool
speql_same_set(List *a, List *b)
{
	return list_difference(a, b) == NIL && list_difference(b, a) == NIL;
}

/* ---- conditions (steps 2 to 4) ----------------------------------------------------------- */

/* True for column = column of one class, written with two columns. */
static bool
within_class(Node *node, List *classes)
{
	OpExpr *op = (OpExpr *) node;
	Var *a, *b, *first;

	if (!IsA(node, OpExpr) || list_length(op->args) != 2 || !IsA(linitial(op->args), Var) ||
	    !IsA(lsecond(op->args), Var))
		return false;
	a = linitial(op->args);
	b = lsecond(op->args);
	first = representative(classes, a);
	return !equal(a, b) && first != NULL && first == representative(classes, b) &&
	       op_mergejoinable(op->opno, a->vartype);
}

/* True when a condition follows from others. given_classes are those of the others. */
static bool
implied(Node *condition, List *given, List *given_classes)
{
	Node *c = speql_represent(condition, given_classes);

	if (within_class(condition, given_classes) || list_member(given, c))
		return true;
	return !contain_mutable_functions(c) && predicate_implied_by(list_make1(c), given, false);
}

/* Replaces columns in a list of conditions. */
static List *
represent_all(List *conditions, List *classes)
{
	return (List *) speql_represent((Node *) conditions, classes);
}

/* Step 2 to 4: the definition keeps every row that the query wants? What is still to be tested? */
static bool
match_conditions(SpeqlMapping *m)
{
	List *v = (List *) speql_remap((Node *) list_difference_ptr(m->v->conjuncts, m->implied), m);
	List *by_q = represent_all(m->q->conjuncts, m->q->classes);
	List *by_v = represent_all(v, m->classes);
	ListCell *lc;

	foreach (lc, v)
		if (!implied(lfirst(lc), by_q, m->q->classes))
		{
			bool join = bms_membership(pull_varnos(NULL, lfirst(lc))) == BMS_MULTIPLE;

			m->reason = join ? SPEQL_R_EQUALITY : SPEQL_R_RANGE;
			return false;
		}
	m->compensation = m->joins = NIL;
	foreach (lc, m->q->conjuncts)
	{
		Node *condition = lfirst(lc);

		if (implied(condition, by_v, m->classes))
			continue;
		if (within_class(condition, m->q->classes))
			m->joins = lappend(m->joins, condition);
		else
			m->compensation = lappend(m->compensation, condition);
	}
	return true;
}

/* ---- tables (steps 0 and 1) -------------------------------------------------------------- */

/* True when two range table entries may be the same; what depends on the mapping comes later. */
static bool
same_kind(const RangeTblEntry *v, const RangeTblEntry *q)
{
	if (v->rtekind != q->rtekind || v->lateral != q->lateral || v->inh != q->inh)
		return false;
	return v->rtekind != RTE_RELATION || v->relid == q->relid;
}

/* Maps the entries of one item onto those of another; false when their shapes differ. */
static bool
map_tree(SpeqlMapping *m, Node *v, Node *q)
{
	JoinExpr *vj = (JoinExpr *) v, *qj = (JoinExpr *) q;

	if (nodeTag(v) != nodeTag(q))
		return false;
	if (IsA(v, RangeTblRef))
	{
		int vi = castNode(RangeTblRef, v)->rtindex, qi = castNode(RangeTblRef, q)->rtindex;

		m->map[vi] = qi;
		return same_kind(rt_fetch(vi, m->v->query->rtable), rt_fetch(qi, m->q->query->rtable));
	}
	if (!IsA(v, JoinExpr) || vj->jointype != qj->jointype)
		return false;
	m->map[vj->rtindex] = qj->rtindex;
	return map_tree(m, vj->larg, qj->larg) && map_tree(m, vj->rarg, qj->rarg);
}

/* True when what the entries and joins of an item contain is the same, given the whole mapping. */
static bool
same_tree(const SpeqlMapping *m, Node *v, Node *q)
{
	JoinExpr *vj = (JoinExpr *) v, *qj = (JoinExpr *) q;

	if (IsA(v, RangeTblRef))
	{
		RangeTblEntry *vr = rt_fetch(castNode(RangeTblRef, v)->rtindex, m->v->query->rtable);
		RangeTblEntry *qr = rt_fetch(castNode(RangeTblRef, q)->rtindex, m->q->query->rtable);

		if (vr->rtekind == RTE_RELATION)
			return true;
		return equal(speql_remap((Node *) vr->subquery, m), qr->subquery) &&
		       equal(speql_remap((Node *) vr->functions, m), qr->functions) &&
		       equal(speql_remap((Node *) vr->values_lists, m), qr->values_lists) &&
		       vr->funcordinality == qr->funcordinality;
	}
	return equal(speql_remap(vj->quals, m), qj->quals) && same_tree(m, vj->larg, qj->larg) &&
	       same_tree(m, vj->rarg, qj->rarg);
}

/* The range table indexes in an item. */
static Bitmapset *
indexes_of(Node *item)
{
	if (IsA(item, RangeTblRef))
		return bms_make_singleton(castNode(RangeTblRef, item)->rtindex);
	return bms_add_member(bms_union(indexes_of(castNode(JoinExpr, item)->larg),
	                                indexes_of(castNode(JoinExpr, item)->rarg)),
	                      castNode(JoinExpr, item)->rtindex);
}

/* Puts v's lists into q's numbering. */
static void
remap_lists(SpeqlMapping *m)
{
	ListCell *lc;

	m->outputs = NIL;
	foreach (lc, m->v->query->targetList)
		m->outputs =
		    lappend(m->outputs, speql_remap((Node *) lfirst_node(TargetEntry, lc)->expr, m));
	m->groups = (List *) speql_remap((Node *) m->v->groups, m);
	m->classes = NIL;
	foreach (lc, m->v->classes)
		m->classes = lappend(m->classes, speql_remap(lfirst(lc), m));
}

/* Tries a complete mapping; true ends the search. */
static bool
try_mapping(Search *s, Node **chosen)
{
	SpeqlMapping *m = &s->m;
	Bitmapset *covered = NULL;
	List *extra = NIL;
	ListCell *lc;
	int i = 0;

	s->n_tried++;
	foreach (lc, m->v->items)
	{
		if (chosen[i] == NULL)
		{
			extra = lappend(extra, lfirst(lc));
			i++;
			continue;
		}
		if (!same_tree(m, lfirst(lc), chosen[i]))
		{
			m->reason = IsA(lfirst(lc), JoinExpr) ? SPEQL_R_OUTER_JOIN : SPEQL_R_SUBQUERY;
			return false;
		}
		covered = bms_union(covered, indexes_of(chosen[i++]));
	}
	m->reason = SPEQL_R_TABLES;
	if (list_length(extra) == i || (extra != NIL && !s->candidate->keys_hold) ||
	    !speql_keys_take_off(m->v, extra, &m->implied))
		return false;
	m->covered = covered;
	m->others = NIL;
	i = 0;
	foreach (lc, m->q->items)
		if (!s->used[i++])
			m->others = lappend(m->others, lfirst(lc));
	remap_lists(m);
	if (!match_conditions(m))
		return false;
	s->result->query = speql_rewrite(m, s->candidate, &s->result->reason);
	if (s->result->query == NULL)
		return false;
	s->result->compensation = list_concat_copy(m->joins, m->compensation);
	s->result->n_items = list_length(m->v->items) - list_length(extra);
	return true;
}

/* Tries a complete mapping, and keeps the reason of the one that came furthest. */
static bool
attempt(Search *s, Node **chosen)
{
	int n = 0;

	for (int i = 0; i < list_length(s->m.v->items); i++)
		n += chosen[i] != NULL;
	if (try_mapping(s, chosen))
		return true;
	if (n > s->n_best)
	{
		s->n_best = n;
		s->reason = s->m.reason;
	}
	return false;
}

/* Chooses an item of q for the i-th item of v and those after it. */
static bool
search(Search *s, int i, Node **chosen)
{
	ListCell *lc;
	int k = -1;

	check_stack_depth();
	if (i == list_length(s->m.v->items))
		return attempt(s, chosen);
	foreach (lc, s->m.q->items)
	{
		bool found;

		if (s->used[++k] || !map_tree(&s->m, list_nth(s->m.v->items, i), lfirst(lc)))
			continue;
		s->used[k] = true;
		chosen[i] = lfirst(lc);
		found = search(s, i + 1, chosen);
		s->used[k] = false;
		if (found || s->n_tried >= MAX_MAPPINGS)
			return found;
	}
	/* Or it is a table that the query does not read. */
	if (!IsA(list_nth(s->m.v->items, i), RangeTblRef))
		return false;
	s->m.map[list_nth_node(RangeTblRef, s->m.v->items, i)->rtindex] = 0;
	chosen[i] = NULL;
	return search(s, i + 1, chosen);
}

/* ---- set operations ---------------------------------------------------------------------- */

/* A set operation without what comes on top of it. */
static Query *
bare_set_operation(const Query *query)
{
	Query *bare = copyObject(unconstify(Query *, query));
	ListCell *lc;

	bare->sortClause = NIL;
	bare->limitCount = bare->limitOffset = NULL;
	bare->limitOption = LIMIT_OPTION_COUNT;
	foreach (lc, bare->targetList)
		lfirst_node(TargetEntry, lc)->ressortgroupref = 0;
	return bare;
}

/* Matches a set operation: only with itself, but for ORDER BY and LIMIT. */
static void
match_set_operation(const SpeqlForm *q, const SpeqlCandidate *c, SpeqlMatch *m)
{
	const SpeqlForm *v = c->form;
	SpeqlMapping mapping = {.q = q, .v = v, .reason = SPEQL_R_SET_OPERATION};
	ListCell *lc;

	m->reason = SPEQL_R_SET_OPERATION;
	if (q->query->setOperations == NULL || v->query->setOperations == NULL ||
	    !equal(bare_set_operation(q->query), bare_set_operation(v->query)))
		return;
	/* Equal trees number their tables alike. */
	foreach (lc, v->query->targetList)
		mapping.outputs = lappend(mapping.outputs, lfirst_node(TargetEntry, lc)->expr);
	m->query = speql_rewrite(&mapping, c, &m->reason);
	m->n_items = list_length(q->query->rtable);
}

/* Tries one table on one block. */
void
speql_match(const SpeqlForm *q, const SpeqlCandidate *c, SpeqlMatch *result)
{
	Search s = {.m = {.q = q, .v = c->form, .reason = SPEQL_R_TABLES},
	            .candidate = c,
	            .result = result,
	            .reason = SPEQL_R_TABLES};
	Node **chosen;

	memset(result, 0, sizeof(*result));
	if (q->query->setOperations || c->form->query->setOperations)
	{
		match_set_operation(q, c, result);
		return;
	}
	result->reason = SPEQL_R_TABLES;
	if (c->form->items == NIL)
		return;
	s.m.map = palloc0(sizeof(int) * (list_length(c->form->query->rtable) + 1));
	s.used = palloc0(sizeof(bool) * list_length(q->items));
	chosen = palloc0(sizeof(Node *) * list_length(c->form->items));
	if (!search(&s, 0, chosen))
		result->reason = s.reason;
}
