/*
 * guc.c: every setting of prepack, in alphabetical order. The list is the contract of the manual's
 * reference page.
 *
 * Settings of the postmaster are defined only while preloading; a session that loads the library
 * later does not get them. What decides policy or cost is never USERSET.
 */
#include "prepack.h"

#include <limits.h>
#include <sys/resource.h>

#include "miscadmin.h"
#include "utils/guc.h"

#include "endpoints.h"

#define PP_BATCH_ROWS_MAX  65536
#define PP_MAX_TOKENS_MAX  1048576
#define PP_CPU_THREADS_MAX 1024
#define PP_CONTEXT_MAX     (1 << 24)
#define PP_SPECULATORS_MAX 64
#define BACKGROUND_NICE    10 /* about a tenth of a processor that others want */

bool pp_enabled = true;
char *pp_model = NULL;
char *pp_embed_model = NULL;
int pp_max_tokens = 256;
int pp_on_error = PP_ON_ERROR_ERROR;
int pp_batch_rows = 256;
int pp_startup_wait = 30000;
int pp_speculation = PP_SPECULATION_SUGGEST;
bool pp_use_speculation = true;
char *pp_allowed_endpoints = NULL;
char *pp_allowed_models = NULL;
int pp_statement_token_limit = 0;
bool pp_track_prompts = false;
int pp_speculation_log_min_duration = -1;
int pp_speculation_max_bytes = 256;
int pp_speculation_ttl = 600;
int pp_speculation_statement_timeout = 10000;
char *pp_device = NULL;
static int pp_quantisation = 0; /* index into quantisation_options */
int pp_memory_limit = 0;
bool pp_batch_invariance = true;
int pp_cpu_threads = 0;
int pp_max_context = 0;
char *pp_model_directory = NULL;
int pp_max_speculators = 2;
char *pp_test_fault = NULL;

static bool pp_background = false;

static const struct config_enum_entry on_error_options[] = {{"error", PP_ON_ERROR_ERROR, false},
                                                            {"null", PP_ON_ERROR_NULL, false},
                                                            {NULL, 0, false}};

static const struct config_enum_entry quantisation_options[] = {{"auto", 0, false},
                                                                {"bf16", 1, false},
                                                                {"fp8", 2, false},
                                                                {NULL, 0, false}};

static const struct config_enum_entry speculation_options[] = {{"off", PP_SPECULATION_OFF, false},
                                                               {"suggest", PP_SPECULATION_SUGGEST,
                                                                false},
                                                               {"plan", PP_SPECULATION_PLAN, false},
                                                               {"materialize",
                                                                PP_SPECULATION_MATERIALIZE, false},
                                                               {NULL, 0, false}};

/* The setting as the engine's option takes it. */
char *
pp_quantisation_name(void)
{
	return unconstify(char *, quantisation_options[pp_quantisation].name);
}

/* Settings of a session. */
static void
define_user_settings(void)
{
	DefineCustomIntVariable("prepack.batch_rows",
	                        "Rows whose calls are sent to the engine together.", NULL,
	                        &pp_batch_rows, 256, 1, PP_BATCH_ROWS_MAX, PGC_USERSET, 0, NULL, NULL,
	                        NULL);
	DefineCustomStringVariable("prepack.embed_model",
	                           "Model of embed, similarity, relevance and rank.", NULL,
	                           &pp_embed_model, "", PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("prepack.enabled",
	                         "Batches calls behind the scenes and uses speculation.",
	                         "The functions themselves work either way.", &pp_enabled, true,
	                         PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("prepack.max_tokens", "Most tokens that one call generates.", NULL,
	                        &pp_max_tokens, 256, 1, PP_MAX_TOKENS_MAX, PGC_USERSET, 0, NULL, NULL,
	                        NULL);
	DefineCustomStringVariable("prepack.model",
	                           "Model of generate, classify, is_true, score and extract.", NULL,
	                           &pp_model, "", PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable("prepack.on_error", "What a row gets that fails: an error, or NULL.",
	                         NULL, &pp_on_error, PP_ON_ERROR_ERROR, on_error_options, PGC_USERSET,
	                         0, NULL, NULL, NULL);
	DefineCustomEnumVariable("prepack.speculation", "How far to work ahead of a person who types.",
	                         NULL, &pp_speculation, PP_SPECULATION_SUGGEST, speculation_options,
	                         PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("prepack.startup_wait",
	                        "How long a call waits for an engine or model that starts.", NULL,
	                        &pp_startup_wait, 30000, 0, INT_MAX, PGC_USERSET, GUC_UNIT_MS, NULL,
	                        NULL, NULL);
	DefineCustomBoolVariable("prepack.use_speculation", "Lets queries read speculative tables.",
	                         NULL, &pp_use_speculation, true, PGC_USERSET, 0, NULL, NULL, NULL);
}

/* Lowers the priority of a background worker, for good. */
static void
assign_background(bool value, void *extra)
{
	if (value && MyBackendType == B_BG_WORKER)
		(void) setpriority(PRIO_PROCESS, 0, BACKGROUND_NICE);
}

/* Settings of the administrator that take effect at once. */
static void
define_admin_settings(void)
{
	DefineCustomStringVariable("prepack.allowed_endpoints",
	                           "Servers that rows may be sent to, comma-separated; empty: none.",
	                           "Each as scheme://host[:port].", &pp_allowed_endpoints, "",
	                           PGC_SUSET, 0, pp_endpoint_check_list, NULL, NULL);
	DefineCustomStringVariable("prepack.allowed_models",
	                           "Models that may be used, comma-separated; empty: all.", NULL,
	                           &pp_allowed_models, "", PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("prepack.background",
	                         "Set in speculation workers: they, and the parallel workers that they "
	                         "start, leave the processors to others.",
	                         NULL, &pp_background, false, PGC_SUSET,
	                         GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE | GUC_DISALLOW_IN_FILE, NULL,
	                         assign_background, NULL);
	DefineCustomIntVariable("prepack.speculation_log_min_duration",
	                        "Logs speculative work that takes this long; −1: none.", NULL,
	                        &pp_speculation_log_min_duration, -1, -1, INT_MAX, PGC_SUSET,
	                        GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("prepack.speculation_max_bytes",
	                        "Most disk space of speculative tables.", NULL,
	                        &pp_speculation_max_bytes, 256, 0, INT_MAX, PGC_SUSET, GUC_UNIT_MB,
	                        NULL, NULL, NULL);
	DefineCustomIntVariable("prepack.speculation_statement_timeout",
	                        "Longest run of one speculative statement.", NULL,
	                        &pp_speculation_statement_timeout, 10000, 1, INT_MAX, PGC_SUSET,
	                        GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("prepack.speculation_ttl",
	                        "How long an unused speculative table is kept.", NULL,
	                        &pp_speculation_ttl, 600, 1, INT_MAX, PGC_SUSET, GUC_UNIT_S, NULL, NULL,
	                        NULL);
	DefineCustomIntVariable("prepack.statement_token_limit",
	                        "Most tokens one statement may use; 0: no limit.", NULL,
	                        &pp_statement_token_limit, 0, 0, INT_MAX, PGC_SUSET, 0, NULL, NULL,
	                        NULL);
	DefineCustomStringVariable("prepack.test_fault", "Fault to provoke, for tests.", NULL,
	                           &pp_test_fault, "", PGC_SUSET,
	                           GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE | GUC_DISALLOW_IN_FILE, NULL,
	                           NULL, NULL);
	DefineCustomBoolVariable("prepack.track_prompts", "Logs what every request asks.", NULL,
	                         &pp_track_prompts, false, PGC_SUSET, 0, NULL, NULL, NULL);
}

/* Settings of the server's start. */
static void
define_server_settings(void)
{
	DefineCustomBoolVariable("prepack.batch_invariance",
	                         "On a card, a row's result does not depend on its batch.",
	                         "Off: by rounding it may, where that is faster.", &pp_batch_invariance,
	                         true, PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("prepack.cpu_threads", "Threads of the engine; 0: one per core.", NULL,
	                        &pp_cpu_threads, 0, 0, PP_CPU_THREADS_MAX, PGC_POSTMASTER, 0, NULL,
	                        NULL, NULL);
	DefineCustomStringVariable("prepack.device", "Where models run: auto, cpu, cuda:0, cuda:0+1, …",
	                           NULL, &pp_device, "auto", PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("prepack.max_context",
	                        "Longest context that models are loaded for; 0: each model's own.",
	                        NULL, &pp_max_context, 0, 0, PP_CONTEXT_MAX, PGC_POSTMASTER, 0, NULL,
	                        NULL, NULL);
	DefineCustomIntVariable("prepack.max_speculators", "Most speculation workers at a time.", NULL,
	                        &pp_max_speculators, 2, 0, PP_SPECULATORS_MAX, PGC_POSTMASTER, 0, NULL,
	                        NULL, NULL);
	DefineCustomIntVariable("prepack.memory_limit",
	                        "Memory for weights, keys and values; 0: 80 % of the device's.", NULL,
	                        &pp_memory_limit, 0, 0, INT_MAX, PGC_POSTMASTER, GUC_UNIT_MB, NULL,
	                        NULL, NULL);
	DefineCustomStringVariable("prepack.model_directory", "Folder that models are loaded from.",
	                           "A relative path is taken from the data directory.",
	                           &pp_model_directory, "prepack/models", PGC_POSTMASTER,
	                           GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomEnumVariable("prepack.quantisation",
	                         "What a card holds weights as: auto, bf16 or fp8.",
	                         "auto: as the file has them.", &pp_quantisation, 0,
	                         quantisation_options, PGC_POSTMASTER, 0, NULL, NULL, NULL);
}

/* Defines the settings that this moment of loading allows, and reserves the prefix. */
void
pp_define_gucs(bool preloading)
{
	define_user_settings();
	define_admin_settings();
	if (preloading)
		define_server_settings();
	MarkGUCPrefixReserved("prepack");
}
