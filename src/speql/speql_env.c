/*
 * speql_env.c: see speql_env.h.
 *
 * Functions that are declared immutable may still read some of these (text output of dates and
 * floats, for one), and constants are folded under them.
 */
#include "speql_env.h"

#include "common/hashfn.h"
#include "lib/stringinfo.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/memutils.h"

static const char *const setting_names[] = {"search_path",
                                            "TimeZone",
                                            "DateStyle",
                                            "IntervalStyle",
                                            "lc_monetary",
                                            "lc_numeric",
                                            "lc_time",
                                            "extra_float_digits",
                                            "bytea_output",
                                            "xmlbinary",
                                            "xmloption",
                                            "default_text_search_config",
                                            "row_security",
                                            "array_nulls",
                                            "transform_null_equals",
                                            "standard_conforming_strings",
                                            "backslash_quote",
                                            "quote_all_identifiers"};

static char *applied = NULL; /* the planner's settings, as captured */
static Size applied_size = 0;

/* Adds a text and its zero byte. */
static void
put(StringInfo to, const char *text)
{
	appendBinaryStringInfo(to, text ? text : "", (int) strlen(text ? text : "") + 1);
}

/* Captures the settings. */
char *
speql_env_capture(Size *size)
{
	StringInfoData values;

	initStringInfo(&values);
	for (int i = 0; i < lengthof(setting_names); i++)
		put(&values, GetConfigOption(setting_names[i], true, false));
	*size = values.len;
	return values.data;
}

/* Hashes them. */
uint64
speql_env_hash(const char *settings, Size size)
{
	return hash_bytes_extended((const unsigned char *) settings, (int) size, 0);
}

/* Hashes this session's. */
uint64
speql_env_current(void)
{
	Size size;
	char *settings = speql_env_capture(&size);
	uint64 hash = speql_env_hash(settings, size);

	pfree(settings);
	return hash;
}

/* Applies them. */
bool
speql_env_apply(const char *settings, Size size)
{
	const char *value = settings;

	for (int i = 0; i < lengthof(setting_names); i++)
	{
		if (value >= settings + size)
			return false;
		if (set_config_option(setting_names[i], value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SET,
		                      true, WARNING, false) == 0)
			return false;
		value += strlen(value) + 1;
	}
	return true;
}

/* ---- of the planner ---------------------------------------------------------------------- */

/* Captures those that EXPLAIN (SETTINGS) knows. */
char *
speql_env_capture_planner(Size *size)
{
	StringInfoData pairs;
	int n;
	struct config_generic **settings = get_explain_guc_options(&n);

	initStringInfo(&pairs);
	for (int i = 0; i < n; i++)
	{
		put(&pairs, settings[i]->name);
		put(&pairs, GetConfigOptionByName(settings[i]->name, NULL, true));
	}
	*size = pairs.len;
	return pairs.data;
}

/* Sets the captured settings, or takes them back. */
static void
set_all(const char *settings, Size size, bool back)
{
	const char *at = settings;

	while (at < settings + size)
	{
		const char *value = at + strlen(at) + 1;

		(void) set_config_option(at, back ? NULL : value, PGC_USERSET, PGC_S_SESSION,
		                         GUC_ACTION_SET, true, DEBUG1, false);
		at = value + strlen(value) + 1;
	}
}

/* Applies them. */
void
speql_env_apply_planner(const char *settings, Size size)
{
	if (size == applied_size && memcmp(settings, applied, size) == 0)
		return;
	set_all(applied, applied_size, true);
	set_all(settings, size, false);
	applied = applied ? repalloc(applied, Max(size, 1))
	                  : MemoryContextAlloc(TopMemoryContext, Max(size, 1));
	memcpy(applied, settings, size);
	applied_size = size;
}
