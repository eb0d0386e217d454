/*
 * endpoints.c: URLs and options of endpoints. See endpoints.h.
 *
 * The URLs that pass are few in form on purpose: no user, no query, no percent signs, no characters
 * that two parsers could understand in two ways. What is compared with the list of the allowed is
 * then what libcurl connects to.
 *
 * Of the options, only administrators see the names of keys. pg_dump by a role that is no superuser
 * locks and reads every column of every table, so no privilege on a column can hide them: the type
 * of the column does, in its output function, which no query gets around.
 */
#include "endpoints.h"

#include <math.h>

#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#include "models.h"

#define PP_KEY_MASK "********" /* in the place of the name of a key's file or variable */

/* Where a URL leads: the part that permission is given for. */
typedef struct Origin
{
	bool tls;
	char host[256]; /* lower case; IPv6 in its brackets */
	int port;
} Origin;

/* True for URLs that are spoken to. */
bool
pp_is_url(const char *path)
{
	return strncmp(path, "http://", 7) == 0 || strncmp(path, "https://", 8) == 0;
}

/* Reads a port at *at, or takes the scheme's own. */
static bool
parse_port(const char **at, Origin *origin)
{
	char *end;
	long port;

	origin->port = origin->tls ? 443 : 80;
	if (**at != ':')
		return true;
	(*at)++;
	if (**at < '1' || **at > '9')
		return false;
	port = strtol(*at, &end, 10);
	if (end - *at > 5 || port > 65535)
		return false;
	origin->port = (int) port;
	*at = end;
	return true;
}

/* Takes a URL apart; false: it is not one of ours. */
static bool
parse_url(const char *url, Origin *origin)
{
	static const char host_chars[] = "abcdefghijklmnopqrstuvwxyz0123456789.-";
	static const char path_chars[] =
	    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-~/";
	const char *at = strchr(url, ':');
	Size n = 0;

	if (!pp_is_url(url) || strlen(url) > PP_ENDPOINT_URL_MAX)
		return false;
	origin->tls = strncmp(url, "https:", 6) == 0;
	at += 3;
	while (at[n] != '\0' && at[n] != '/' && (at[n] != ':' || at[0] == '['))
	{
		if (at[0] == '[' && at[n] == ']')
		{
			n++;
			break;
		}
		n++;
	}
	if (n == 0 || n >= sizeof(origin->host))
		return false;
	for (Size i = 0; i < n; i++)
		origin->host[i] = pg_tolower((unsigned char) at[i]);
	origin->host[n] = '\0';
	if (at[0] == '[' ? strspn(origin->host + 1, "0123456789abcdef:.") != n - 2 || at[n - 1] != ']'
	                 : strspn(origin->host, host_chars) != n || at[0] == '.' || at[0] == '-')
		return false;
	at += n;
	return parse_port(&at, origin) && (*at == '\0' || *at == '/') &&
	       strspn(at, path_chars) == strlen(at) && strstr(at, "/..") == NULL;
}

/* Refuses URLs of other forms. */
void
pp_endpoint_check_url(const char *url)
{
	Origin origin;

	if (!parse_url(url, &origin))
		ereport(ERROR,
		        (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("invalid URL of an endpoint"),
		         errdetail("A URL is http or https, a host, perhaps a port and a path."),
		         errhint("For example: \"http://localhost:8000/v1\".")));
}

/* ---- options ----------------------------------------------------------------------------- */

/* A numeric option and its range. */
typedef struct NumberOption
{
	const char *name;
	double min;
	double max;
	bool whole;
} NumberOption;

static const NumberOption number_options[] = {{"concurrency", 1, 256, true},
                                              {"retries", 0, 10, true},
                                              {"timeout", 0.001, 3600, false}};

static const char *const text_options[] = {"kind", "model", "key_file", "key_env"};

/* Checks one option's number; false: it is of another name. */
static bool
check_number(const char *name, const JsonbValue *v)
{
	for (int i = 0; i < (int) lengthof(number_options); i++)
	{
		const NumberOption *option = &number_options[i];
		double value = NAN;

		if (strcmp(name, option->name) != 0)
			continue;
		if (v->type == jbvNumeric)
			value = DatumGetFloat8(
			    DirectFunctionCall1(numeric_float8, NumericGetDatum(v->val.numeric)));
		if (!(value >= option->min && value <= option->max) ||
		    (option->whole && value != floor(value)))
			ereport(ERROR,
			        (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			         errmsg("%s of an endpoint must be %s between %g and %g", name,
			                option->whole ? "an integer" : "a number", option->min, option->max)));
		return true;
	}
	return false;
}

/* Checks one option's text; false: it is of another name. */
static bool
check_text(const char *name, const JsonbValue *v)
{
	const char *value = v->type == jbvString ? pnstrdup(v->val.string.val, v->val.string.len) : "";
	bool good = value[0] != '\0' && strlen(value) < 200;
	bool known = false;

	for (int i = 0; i < (int) lengthof(text_options); i++)
		known = known || strcmp(name, text_options[i]) == 0;
	if (!known)
		return false;
	if (strcmp(name, "kind") == 0 && strcmp(value, "generate") != 0 && strcmp(value, "embed") != 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		                errmsg("unknown kind \"%s\" of an endpoint", value),
		                errhint("Use generate or embed.")));
	if (strcmp(name, "key_file") == 0 && (strchr(value, '/') != NULL || value[0] == '.'))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
		                errmsg("key_file must be a file's name, not a path"),
		                errhint("Keys are files in the folder \"prepack/keys\" of the data "
		                        "directory.")));
	if (strcmp(name, "key_env") == 0 && strncmp(value, "PREPACK_", 8) != 0)
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
		                errmsg("key_env must name a variable that begins with \"PREPACK_\"")));
	if (!good)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		                errmsg("%s of an endpoint must be a text of 1 to 199 bytes", name)));
	return true;
}

/* Checks all options. */
void
pp_endpoint_check_options(Jsonb *options)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue v;
	char *name = NULL;

	if (!JB_ROOT_IS_OBJECT(options))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		                errmsg("options of an endpoint must be a JSON object")));
	it = JsonbIteratorInit(&options->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(v.val.string.val, v.val.string.len);
		else if (token == WJB_VALUE && !check_number(name, &v) && !check_text(name, &v))
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			                errmsg("unknown option \"%s\" of an endpoint", name),
			                errhint("Options are kind, model, key_file, key_env, concurrency, "
			                        "retries and timeout.")));
	}
}

/* Options with a mask in the place of one option's value, if they have it. */
static Jsonb *
mask_option(Jsonb *options, const char *name)
{
	JsonbValue *value = JB_ROOT_IS_OBJECT(options)
	                        ? getKeyJsonValueFromContainer(&options->root, name, strlen(name), NULL)
	                        : NULL;
	char *mask;

	if (value == NULL)
		return options;
	mask = psprintf("{\"%s\": \"" PP_KEY_MASK "\"}", name);
	return DatumGetJsonbP(
	    DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(options),
	                        DirectFunctionCall1(jsonb_in, CStringGetDatum(mask))));
}

PG_FUNCTION_INFO_V1(pp_model_options_out);

/* Shows the options of a registered model; how its key is called is not everybody's to know. */
Datum
pp_model_options_out(PG_FUNCTION_ARGS)
{
	Jsonb *options = PG_GETARG_JSONB_P(0);

	if (!pp_may_see_keys())
		options = mask_option(mask_option(options, "key_file"), "key_env");
	PG_RETURN_CSTRING(JsonbToCString(NULL, &options->root, VARSIZE(options)));
}

/* ---- permission -------------------------------------------------------------------------- */

/*
 * Takes the next entry off a comma-separated list; false: there is none. White space around it does
 * not count.
 */
static bool
next_entry(const char **at, char *out, Size size)
{
	Size n;

	*at += strspn(*at, ", \t\n\r");
	n = strcspn(*at, ", \t\n\r");
	if (n == 0)
		return false;
	strlcpy(out, *at, Min(size, n + 1));
	*at += n;
	return true;
}

/* The check hook: every entry must be scheme://host[:port]. */
bool
pp_endpoint_check_list(char **list, void **extra, GucSource source)
{
	const char *at = *list;
	char entry[PP_ENDPOINT_URL_MAX + 2];
	Origin origin;

	while (next_entry(&at, entry, sizeof(entry)))
		if (!parse_url(entry, &origin) || strchr(strchr(entry, ':') + 3, '/') != NULL)
		{
			GUC_check_errdetail("\"%s\" is not scheme://host[:port].", entry);
			return false;
		}
	return true;
}

/* Raises an error unless a superuser has allowed the place that a URL leads to. */
void
pp_endpoint_check_allowed(const char *name, const char *url)
{
	const char *at = pp_allowed_endpoints != NULL ? pp_allowed_endpoints : "";
	char entry[PP_ENDPOINT_URL_MAX + 2];
	Origin wanted;
	Origin allowed;

	pp_endpoint_check_url(url);
	(void) parse_url(url, &wanted);
	while (next_entry(&at, entry, sizeof(entry)))
		if (parse_url(entry, &allowed) && allowed.tls == wanted.tls &&
		    allowed.port == wanted.port && strcmp(allowed.host, wanted.host) == 0)
			return;
	ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
	                errmsg("endpoint \"%s\" is not allowed here", name),
	                errdetail("Its rows would leave this machine for \"%s://%s:%d\".",
	                          wanted.tls ? "https" : "http", wanted.host, wanted.port),
	                errhint("A superuser can add that address to \"prepack.allowed_endpoints\".")));
}
