/*
 * batch.h: the Prepack Batch node: scalar calls wherever they stand, sent to the engine in batches.
 *
 *	batch_plan.c	planner hook: walks finished plans and puts Batch nodes where calls are
 *	batch_hoist.c	takes calls out of expressions, with the guards under which they are reached
 *	batch_exec.c	the executor node: buffers rows, sends their calls, hands rows on in order
 *	batch_memo.c	equal inputs of a statement are computed once
 *	batch_join.c	planner's part of outer, semi and anti joins with calls in their conditions
 *	batch_settle.c	executor's part of outer joins: decides which rows found no partner
 *	batch_rounds.c	executor's part of semi and anti joins, which stop at the first partner
 *	batch_lift.c	calls in index conditions, made on the other side of a nested loop
 *	batch_nodes.c	makes the nodes that the planner's parts put in
 *
 * A Batch node has its outer plan's columns, 1 … n_outer, followed by one column per call.
 * Expressions above it see calls as Vars. Everything of the node that the planner knows lies in
 * lists that copyObject can copy:
 *	custom_exprs	the calls, FuncExprs over OUTER_VAR
 *	custom_private	(Integer n_outer, Integer limit, List of guards: one expression or NULL a call)
 */
#ifndef PP_BATCH_H
#define PP_BATCH_H

#include "prepack.h"

#include "executor/executor.h"
#include "nodes/extensible.h"
#include "nodes/execnodes.h"
#include "nodes/plannodes.h"

#include "call.h"

/* Installs planner hook and node methods. */
extern void pp_batch_install(void);

/* batch_plan.c */
extern CustomScanMethods pp_batch_scan_methods;

/* batch_hoist.c */

/* The call type of a function expression; NULL: not one of ours. */
extern const PpCallType *pp_batch_call_type(const FuncExpr *func);
extern bool pp_batch_contains_call(Node *node);

/* What one level of hoisting found. */
typedef struct PpHoist
{
	List *calls;      /* FuncExprs over OUTER_VAR */
	List *guards;     /* parallel: the condition under which a call is reached, or NULL */
	int first_column; /* number of the first call's column */
} PpHoist;

/*
 * Returns expr with every call that can run now (its arguments and guard hold no other call)
 * replaced by a Var of its column under OUTER_VAR, and adds the call to *hoist. in_aggregates: only
 * inside aggregate and window arguments; else only outside of them.
 */
extern Node *pp_batch_hoist(Node *expr, PpHoist *hoist, bool in_aggregates);

/* expr IS [NOT] TRUE / FALSE. */
extern Node *pp_batch_test_bool(Node *expr, BoolTestType kind);

/* batch_exec.c */
extern Node *pp_batch_create_state(CustomScan *cscan);

/* batch_settle.c, and, of the semi join, batch_rounds.c */

/*
 * The lists of the nodes Outer Join and Semi Join: custom_exprs, the conditions with their calls'
 * columns, over OUTER_VAR; custom_private, (Integer JoinType, IntList of sides).
 */
extern CustomScanMethods pp_settle_scan_methods;
extern CustomScanMethods pp_semi_scan_methods;
extern CustomScanMethods pp_rounds_scan_methods;
extern CustomScanMethods pp_number_scan_methods;

/* Where a column of the join comes from. */
typedef enum PpSide
{
	PP_SIDE_OUTER = 1,
	PP_SIDE_INNER = 2
} PpSide;

/* The columns of an Outer Join node's input that number the rows of the join's sides. */
#define PP_OUTER_NUMBER 1
#define PP_INNER_NUMBER 2

/* What the nodes' executors share. */
extern Node *pp_batch_new_state(Size bytes, const CustomExecMethods *methods);
extern void pp_batch_begin_outer(CustomScanState *node, EState *estate, int eflags);
extern void pp_batch_end_outer(CustomScanState *node);
extern TupleTableSlot *pp_batch_copy_values(CustomScanState *node, TupleTableSlot *row, int n);
extern TupleTableSlot *pp_batch_filter(CustomScanState *node, bool (*next)(CustomScanState *node));
extern void pp_batch_explain_join(CustomScanState *node, const char *type, int64 n_rejected,
                                  List *ancestors, ExplainState *es);

/* batch_memo.c */
typedef struct PpMemo PpMemo;

/* The memo of a statement; one per EState, freed with it. */
extern PpMemo *pp_memo_of(EState *estate);
/*
 * A number, 1 or more, for the type and constant arguments of calls: the keys of their results
 * begin with it. The constants' own key begins with PP_MEMO_CONSTANTS.
 */
#define PP_MEMO_CONSTANTS 0
extern uint32 pp_memo_constants(PpMemo *memo, const char *key, Size key_bytes);
/* Looks for the result of (number of the constants, rows); false: not known. */
extern bool pp_memo_find(PpMemo *memo, const char *key, Size key_bytes, Datum *value, bool *isnull);
/* Remembers a result while there is room. */
extern void pp_memo_add(PpMemo *memo, const char *key, Size key_bytes, Datum value, bool isnull,
                        int16 typlen, bool typbyval);

#endif /* PP_BATCH_H */
