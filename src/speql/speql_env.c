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

/* Captures the settings. */
char *
speql_env_capture(Size *size)
{
	StringInfoData values;

	initStringInfo(&values);
	for (int i = 0; i < lengthof(setting_names); i++)
	{
		const char *value = GetConfigOption(setting_names[i], true, false);

		appendBinaryStringInfo(&values, value ? value : "", strlen(value ? value : "") + 1);
	}
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
