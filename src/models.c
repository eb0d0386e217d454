/*
 * models.c: lookups in prepack.model_registry.
 *
 * The registry is read with a direct scan, whatever the caller may SELECT: which models exist is no
 * secret (the view models shows them), and a call must not depend on privileges on our table. It is
 * small, so every resolution scans all of it, under the catalog's usual lock and the latest
 * snapshot.
 */
#include "models.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/jsonb.h"
#include "utils/varlena.h"

#include "endpoints.h"

#define PP_REGISTRY "model_registry"

/* Columns of the registry, in the script's order. */
enum
{
	COL_NAME = 1,
	COL_PATH,
	COL_KIND,
	COL_OPTIONS,
	COL_IS_DEFAULT,
	COL_BUILTIN
};

/* One registered model with what resolution needs. */
typedef struct Registered
{
	PpModel model;
	bool is_default;
	bool builtin;
} Registered;

/*
 * Opens the registry; the extension may not be installed in this database, or be dropped and made
 * anew since this session looked last: the name is resolved under the lock.
 */
static Relation
open_registry(void)
{
	RangeVar *name = makeRangeVar("prepack", PP_REGISTRY, -1);
	Oid relid = RangeVarGetRelid(name, AccessShareLock, true);

	if (!OidIsValid(relid))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
		                errmsg("extension \"prepack\" is not installed"),
		                errhint("Run CREATE EXTENSION prepack.")));
	return table_open(relid, NoLock);
}

/* Whoever may change the registry, or read all data, may see all of it. */
bool
pp_may_see_keys(void)
{
	Oid relid = RangeVarGetRelid(makeRangeVar("prepack", PP_REGISTRY, -1), NoLock, true);

	return has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_DATA) ||
	       (OidIsValid(relid) && pg_class_aclcheck(relid, GetUserId(), ACL_UPDATE) == ACLCHECK_OK);
}

/* Copies a text column. */
static void
copy_text(TupleTableSlot *slot, int column, char *out, Size size)
{
	bool isnull;
	Datum d = slot_getattr(slot, column, &isnull);

	strlcpy(out, isnull ? "" : TextDatumGetCString(d), size);
}

/* The options as JSON text. */
static char *
options_text(TupleTableSlot *slot)
{
	bool isnull;
	Datum d = slot_getattr(slot, COL_OPTIONS, &isnull);
	Jsonb *options = isnull ? NULL : DatumGetJsonbP(d);

	return options == NULL ? pstrdup("{}") : JsonbToCString(NULL, &options->root, VARSIZE(options));
}

/* Reads all registered models. */
static List *
read_registry(void)
{
	Relation rel = open_registry();
	/* Under a parallel plan no new snapshot may be taken; the statement's own serves. */
	Snapshot snapshot =
	    RegisterSnapshot(IsInParallelMode() ? GetActiveSnapshot() : GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	List *models = NIL;

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		Registered *r = palloc0_object(Registered);
		bool isnull;

		copy_text(slot, COL_NAME, r->model.name, sizeof(r->model.name));
		copy_text(slot, COL_PATH, r->model.path, sizeof(r->model.path));
		copy_text(slot, COL_KIND, r->model.kind, sizeof(r->model.kind));
		if (pp_is_url(r->model.path))
			r->model.options = options_text(slot);
		r->is_default = DatumGetBool(slot_getattr(slot, COL_IS_DEFAULT, &isnull));
		r->builtin = DatumGetBool(slot_getattr(slot, COL_BUILTIN, &isnull));
		models = lappend(models, r);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return models;
}

/* Whether a model of this kind can serve the use. */
static bool
serves(const char *kind, PpModelUse use)
{
	bool decoder = strcmp(kind, "generate") == 0;
	bool embedder = strcmp(kind, "embed") == 0;

	if (strcmp(kind, "dummy") == 0 || use == PP_USE_ANY)
		return true;
	if (use == PP_USE_GENERATE)
		return decoder;
	if (use == PP_USE_EMBED)
		return embedder;
	return decoder || embedder || strcmp(kind, "rerank") == 0;
}

/* How well a kind suits a use; the best is tried first when nothing is named. */
static int
preference(const char *kind, PpModelUse use)
{
	if (use == PP_USE_RELEVANCE)
		return strcmp(kind, "rerank") == 0 ? 3 : strcmp(kind, "embed") == 0 ? 2 : 1;
	return strcmp(kind, "generate") == 0 ? 2 : 1;
}

/* Finds a model by name. */
static Registered *
find_named(List *models, const char *name)
{
	ListCell *lc;

	foreach (lc, models)
		if (strcmp(((Registered *) lfirst(lc))->model.name, name) == 0)
			return lfirst(lc);
	return NULL;
}

/*
 * Without a name: the default of the best kind that serves, else the only model of it. Never the
 * dummy, and an endpoint only when it was made the default: registering one must not send rows
 * away.
 */
static Registered *
find_default(List *models, PpModelUse use)
{
	Registered *best = NULL;
	int best_rank = 0;
	int n_best = 0;
	ListCell *lc;

	foreach (lc, models)
	{
		Registered *r = lfirst(lc);
		int rank = preference(r->model.kind, use) * 2 + (r->is_default ? 1 : 0);

		if (r->builtin || (r->model.options != NULL && !r->is_default) ||
		    !serves(r->model.kind, use) || rank < best_rank)
			continue;
		n_best = rank > best_rank ? 1 : n_best + 1;
		best = r;
		best_rank = rank;
	}
	return n_best == 1 ? best : NULL;
}

/* Lists the names for a HINT. */
static char *
list_names(List *models)
{
	StringInfoData names;
	ListCell *lc;

	initStringInfo(&names);
	foreach (lc, models)
		appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "",
		                 ((Registered *) lfirst(lc))->model.name);
	return names.data;
}

/* Enforces prepack.allowed_models. */
static void
check_allowed(const char *name)
{
	List *allowed;
	ListCell *lc;

	if (pp_allowed_models == NULL || pp_allowed_models[0] == '\0')
		return;
	if (!SplitIdentifierString(pstrdup(pp_allowed_models), ',', &allowed))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		                errmsg("invalid list in \"prepack.allowed_models\"")));
	foreach (lc, allowed)
		if (strcmp(lfirst(lc), name) == 0)
			return;
	ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
	                errmsg("model \"%s\" is not allowed here", name),
	                errdetail("Allowed models: %s.", pp_allowed_models)));
}

/* The name that a setting gives for this use, or NULL. */
static const char *
name_from_settings(PpModelUse use)
{
	const char *name = use == PP_USE_EMBED || use == PP_USE_RELEVANCE ? pp_embed_model : pp_model;

	return name != NULL && name[0] != '\0' ? name : NULL;
}

/* Resolves a name, or the default, to a registered model. */
PpModel *
pp_model_resolve(const char *name, PpModelUse use)
{
	List *models = read_registry();
	Registered *r;

	if (name == NULL)
		name = name_from_settings(use);
	r = name != NULL ? find_named(models, name) : find_default(models, use);
	if (r == NULL && name != NULL)
		ereport(ERROR,
		        (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("model \"%s\" does not exist", name),
		         errhint("Registered models: %s.", list_names(models))));
	if (r == NULL)
		ereport(
		    ERROR,
		    (errcode(ERRCODE_UNDEFINED_OBJECT),
		     errmsg("no model was named and there is no default"),
		     errhint(
		         "Set \"prepack.%s\" or call prepack.set_default_model(). Registered models: %s.",
		         use == PP_USE_EMBED || use == PP_USE_RELEVANCE ? "embed_model" : "model",
		         list_names(models))));
	if (!serves(r->model.kind, use))
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
		                errmsg("model \"%s\" is of kind \"%s\" and cannot do this", r->model.name,
		                       r->model.kind)));
	check_allowed(r->model.name);
	if (r->model.options != NULL)
		pp_endpoint_check_allowed(r->model.name, r->model.path);
	return &r->model;
}
