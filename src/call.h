/*
 * call.h: calls of the SQL functions over text, as data.
 *
 * Every verb is one PpCallType: which arguments vary by row, how the others become a job, how a
 * row's result becomes a Datum. The scalar function, its array twin and the batch node are the same
 * three steps over it (prepare once, rows, results), so that they cannot differ.
 */
#ifndef PP_CALL_H
#define PP_CALL_H

#include "prepack.h"

#include "fmgr.h"

#include "client.h"
#include "models.h"

#define PP_CALL_ARGS_MAX 12
/* The planner's cost of a call that is made alone, in units of cpu_operator_cost. */
#define PP_CALL_COST_ALONE 1000.0

typedef struct PpCallType PpCallType;

/* A call with everything but its rows. Lives in the context that was current in pp_call_prepare. */
typedef struct PpCall
{
	const PpCallType *type;
	PpJob job;
	int row_arg;  /* argument that varies by row */
	int row2_arg; /* a second one, or −1 */
	int on_error; /* PpOnError */
	/* min_prob of classify (0 = none), threshold of is_true and multi */
	float4 threshold;
	Datum *labels; /* text Datums, [job.n_labels] */
} PpCall;

struct PpCallType
{
	const char *symbol; /* C symbol of the scalar function */
	const char *name;   /* SQL name */
	PpJobKind kind;
	PpModelUse use;
	int n_args;
	int row_arg;
	int row2_arg;
	int model_arg;
	int on_error_arg; /* −1: has none */
	/* equal inputs give equal results, so that they are computed once */
	bool deterministic;
	void (*prepare)(PpCall *call, const NullableDatum *args);
	Datum (*result)(const PpCall *call, const PpRow *row, bool *isnull);
};

/* Finds the type of a scalar function by its C symbol; NULL: not one of ours. */
extern const PpCallType *pp_call_type(const char *symbol);

/*
 * Prepares a call from the arguments that do not vary by row. absent[i]: the argument was left out
 * or is the constant NULL, as opposed to a row's NULL. Returns NULL when a required argument is
 * NULL: every row's result is NULL then.
 */
extern PpCall *pp_call_prepare(const PpCallType *type, const NullableDatum *args,
                               const bool *absent);

/* The text of a text Datum, without a copy if it is not toasted. Lives in the current context. */
extern PpText pp_text_of(Datum d);

/* A row's value; raises the row's error, or gives NULL where the call says so. */
extern Datum pp_call_result(const PpCall *call, const PpRow *row, bool *isnull);

/* True when equal rows of this call give equal results (no sampling without a seed). */
extern bool pp_call_deterministic(const PpCall *call);

#endif /* PP_CALL_H */
