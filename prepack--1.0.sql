/* prepack--1.0.sql: every SQL object of the extension */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION prepack" to load this file. \quit

-- A schema that exists is used: it must not be one that somebody planted to own what is in it.
DO $$
DECLARE
    owner name;
BEGIN
    SELECT pg_catalog.pg_get_userbyid(n.nspowner) INTO STRICT owner
    FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) n.nspowner
    WHERE n.nspname OPERATOR(pg_catalog.=) 'prepack' AND NOT r.rolsuper;
    RAISE EXCEPTION 'schema "prepack" belongs to "%"', owner
        USING HINT = 'Drop the schema, or give it to a superuser.';
EXCEPTION WHEN no_data_found THEN
    NULL;
END $$;

-- Conventions
--   Optional arguments default to NULL, so functions are CALLED ON NULL INPUT and check the
--   required arguments themselves: a NULL input gives NULL.
--   Scoring functions are STABLE, generation is VOLATILE. PARALLEL RESTRICTED: the leader batches
--   the calls while the workers scan.
--   Each verb has an array twin: same length, same order, NULL in, NULL out.
--   What costs compute is not granted to PUBLIC: the administrator decides, with
--   prepack.grant_usage().

COMMENT ON SCHEMA prepack IS 'functions of the extension prepack: a language model over rows';

-- ---------------------------------------------------------------------------------------------
-- Functions over text
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION prepack.cost_support(internal) RETURNS internal
LANGUAGE c AS 'MODULE_PATHNAME', 'pp_cost_support';
COMMENT ON FUNCTION prepack.cost_support(internal) IS
    'planner support: what a call of the scoring and generating functions costs';

CREATE FUNCTION prepack.generate(
    prompt text,
    input text DEFAULT NULL,
    model text DEFAULT NULL,
    system text DEFAULT NULL,
    max_tokens int DEFAULT NULL,
    temperature real DEFAULT NULL,
    top_p real DEFAULT NULL,
    seed bigint DEFAULT NULL,
    stop text[] DEFAULT NULL,
    on_error text DEFAULT NULL
) RETURNS text
LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100000
SUPPORT prepack.cost_support
AS 'MODULE_PATHNAME', 'pp_generate';
COMMENT ON FUNCTION
    prepack.generate(text, text, text, text, int, real, real, bigint, text[], text)
IS
    'the model''s answer to a prompt, about an input if one is given';
REVOKE EXECUTE ON FUNCTION
    prepack.generate(text, text, text, text, int, real, real, bigint, text[], text)
FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.generate(
    prompt text,
    inputs text[],
    model text DEFAULT NULL,
    system text DEFAULT NULL,
    max_tokens int DEFAULT NULL,
    temperature real DEFAULT NULL,
    top_p real DEFAULT NULL,
    seed bigint DEFAULT NULL,
    stop text[] DEFAULT NULL,
    on_error text DEFAULT NULL
) RETURNS text[]
LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100000
SUPPORT prepack.cost_support
AS 'MODULE_PATHNAME', 'pp_generate_array';
COMMENT ON FUNCTION
    prepack.generate(text, text[], text, text, int, real, real, bigint, text[], text)
IS
    'the model''s answers to a prompt about each input';
REVOKE EXECUTE ON FUNCTION
    prepack.generate(text, text[], text, text, int, real, real, bigint, text[], text)
FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.generate_json(
    prompt text,
    schema jsonb,
    input text DEFAULT NULL,
    model text DEFAULT NULL,
    system text DEFAULT NULL,
    max_tokens int DEFAULT NULL,
    temperature real DEFAULT NULL,
    top_p real DEFAULT NULL,
    seed bigint DEFAULT NULL,
    on_error text DEFAULT NULL
) RETURNS jsonb
LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100000
SUPPORT prepack.cost_support
AS 'MODULE_PATHNAME', 'pp_generate_json';
COMMENT ON FUNCTION
    prepack.generate_json(text, jsonb, text, text, text, int, real, real, bigint, text)
IS
    'an answer as JSON that fits a JSON schema';
REVOKE EXECUTE ON FUNCTION
    prepack.generate_json(text, jsonb, text, text, text, int, real, real, bigint, text)
FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.generate_json(
    prompt text,
    schema jsonb,
    inputs text[],
    model text DEFAULT NULL,
    system text DEFAULT NULL,
    max_tokens int DEFAULT NULL,
    temperature real DEFAULT NULL,
    top_p real DEFAULT NULL,
    seed bigint DEFAULT NULL,
    on_error text DEFAULT NULL
) RETURNS jsonb[]
LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100000
SUPPORT prepack.cost_support
AS 'MODULE_PATHNAME', 'pp_generate_json_array';
COMMENT ON FUNCTION
    prepack.generate_json(text, jsonb, text[], text, text, int, real, real, bigint, text)
IS
    'answers as JSON that fits a JSON schema, one per input';
REVOKE EXECUTE ON FUNCTION
    prepack.generate_json(text, jsonb, text[], text, text, int, real, real, bigint, text)
FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.stream(
    prompt text,
    input text DEFAULT NULL,
    model text DEFAULT NULL,
    system text DEFAULT NULL,
    max_tokens int DEFAULT NULL,
    temperature real DEFAULT NULL,
    top_p real DEFAULT NULL,
    seed bigint DEFAULT NULL,
    stop text[] DEFAULT NULL
) RETURNS SETOF text
LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100000 ROWS 100
AS 'MODULE_PATHNAME', 'pp_stream';
COMMENT ON FUNCTION prepack.stream(text, text, text, text, int, real, real, bigint, text[]) IS
    'an answer in pieces, as they are produced';
REVOKE EXECUTE ON FUNCTION
    prepack.stream(text, text, text, text, int, real, real, bigint, text[])
FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.classify(
    input text,
    labels text[],
    instruction text DEFAULT NULL,
    model text DEFAULT NULL,
    descriptions text[] DEFAULT NULL,
    min_prob real DEFAULT NULL,
    on_error text DEFAULT NULL
) RETURNS text
LANGUAGE c STABLE PARALLEL RESTRICTED COST 10000
SUPPORT prepack.cost_support
AS 'MODULE_PATHNAME', 'pp_classify';
COMMENT ON FUNCTION prepack.classify(text, text[], text, text, text[], real, text) IS
    'the label that fits a text best; NULL when its probability is below min_prob';
REVOKE EXECUTE ON FUNCTION
    prepack.classify(text, text[], text, text, text[], real, text)
FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.classify(
    inputs text[],
    labels text[],
    instruction text DEFAULT NULL,
    model text DEFAULT NULL,
    descriptions text[] DEFAULT NULL,
    min_prob real DEFAULT NULL,
    on_error text DEFAULT NULL
) RETURNS text[]
LANGUAGE c STABLE PARALLEL RESTRICTED COST 10000
SUPPORT prepack.cost_support
AS 'MODULE_PATHNAME', 'pp_classify_array';
COMMENT ON FUNCTION prepack.classify(text[], text[], text, text, text[], real, text) IS
    'the label that fits each text best';
REVOKE EXECUTE ON FUNCTION
    prepack.classify(text[], text[], text, text, text[], real, text)
FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.classify_probs(
    input text,
    labels text[],
    instruction text DEFAULT NULL,
    model text DEFAULT NULL,
    descriptions text[] DEFAULT NULL,
    on_error text DEFAULT NULL
) RETURNS real[]
LANGUAGE c STABLE PARALLEL RESTRICTED COST 10000
SUPPORT prepack.cost_support
AS 'MODULE_PATHNAME', 'pp_classify_probs';
COMMENT ON FUNCTION prepack.classify_probs(text, text[], text, text, text[], text) IS
    'the probability of each label, in the order of labels; they add up to 1';
REVOKE EXECUTE ON FUNCTION
    prepack.classify_probs(text, text[], text, text, text[], text)
FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.classify_probs(
    inputs text[],
    labels text[],
    instruction text DEFAULT NULL,
    model text DEFAULT NULL,
    descriptions text[] DEFAULT NULL,
    on_error text DEFAULT NULL
) RETURNS SETOF real[]
LANGUAGE c STABLE PARALLEL RESTRICTED COST 10000 ROWS 100
AS 'MODULE_PATHNAME', 'pp_classify_probs_array';
COMMENT ON FUNCTION prepack.classify_probs(text[], text[], text, text, text[], text) IS
    'the probabilities of the labels for each text';
REVOKE EXECUTE ON FUNCTION
    prepack.classify_probs(text[], text[], text, text, text[], text)
FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.classify_multi(
    input text,
    labels text[],
    threshold real DEFAULT 0.5,
    instruction text DEFAULT NULL,
    model text DEFAULT NULL,
    on_error text DEFAULT NULL
) RETURNS text[]
LANGUAGE c STABLE PARALLEL RESTRICTED COST 10000
SUPPORT prepack.cost_support
AS 'MODULE_PATHNAME', 'pp_classify_multi';
COMMENT ON FUNCTION prepack.classify_multi(text, text[], real, text, text, text) IS
    'all labels that apply to a text, each judged by itself';
REVOKE EXECUTE ON FUNCTION
    prepack.classify_multi(text, text[], real, text, text, text)
FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.classify_multi(
    inputs text[],
    labels text[],
    threshold real DEFAULT 0.5,
    instruction text DEFAULT NULL,
    model text DEFAULT NULL,
    on_error text DEFAULT NULL
) RETURNS SETOF text[]
LANGUAGE c STABLE PARALLEL RESTRICTED COST 10000 ROWS 100
AS 'MODULE_PATHNAME', 'pp_classify_multi_array';
COMMENT ON FUNCTION prepack.classify_multi(text[], text[], real, text, text, text) IS
    'all labels that apply to each text';
REVOKE EXECUTE ON FUNCTION
    prepack.classify_multi(text[], text[], real, text, text, text)
FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.is_true(
    input text,
    condition text,
    model text DEFAULT NULL,
    threshold real DEFAULT 0.5,
    on_error text DEFAULT NULL
) RETURNS boolean
LANGUAGE c STABLE PARALLEL RESTRICTED COST 10000
SUPPORT prepack.cost_support
AS 'MODULE_PATHNAME', 'pp_is_true';
COMMENT ON FUNCTION prepack.is_true(text, text, text, real, text) IS
    'whether a text meets a condition';
REVOKE EXECUTE ON FUNCTION
    prepack.is_true(text, text, text, real, text)
FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.is_true(
    inputs text[],
    condition text,
    model text DEFAULT NULL,
    threshold real DEFAULT 0.5,
    on_error text DEFAULT NULL
) RETURNS boolean[]
LANGUAGE c STABLE PARALLEL RESTRICTED COST 10000
SUPPORT prepack.cost_support
AS 'MODULE_PATHNAME', 'pp_is_true_array';
COMMENT ON FUNCTION prepack.is_true(text[], text, text, real, text) IS
    'whether each text meets a condition';
REVOKE EXECUTE ON FUNCTION
    prepack.is_true(text[], text, text, real, text)
FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.score(
    input text,
    criterion text,
    model text DEFAULT NULL,
    on_error text DEFAULT NULL
) RETURNS real
LANGUAGE c STABLE PARALLEL RESTRICTED COST 10000
SUPPORT prepack.cost_support
AS 'MODULE_PATHNAME', 'pp_score';
COMMENT ON FUNCTION prepack.score(text, text, text, text) IS
    'the probability, 0 to 1, that a text meets a criterion';
REVOKE EXECUTE ON FUNCTION
    prepack.score(text, text, text, text)
FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.score(
    inputs text[],
    criterion text,
    model text DEFAULT NULL,
    on_error text DEFAULT NULL
) RETURNS real[]
LANGUAGE c STABLE PARALLEL RESTRICTED COST 10000
SUPPORT prepack.cost_support
AS 'MODULE_PATHNAME', 'pp_score_array';
COMMENT ON FUNCTION prepack.score(text[], text, text, text) IS
    'the probability that each text meets a criterion';
REVOKE EXECUTE ON FUNCTION
    prepack.score(text[], text, text, text)
FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.extract(
    input text,
    fields jsonb,
    model text DEFAULT NULL,
    on_error text DEFAULT NULL
) RETURNS jsonb
LANGUAGE c STABLE PARALLEL RESTRICTED COST 100000
SUPPORT prepack.cost_support
AS 'MODULE_PATHNAME', 'pp_extract';
COMMENT ON FUNCTION prepack.extract(text, jsonb, text, text) IS
    'fields of a text as a JSON object; fields maps names to types and descriptions';
REVOKE EXECUTE ON FUNCTION
    prepack.extract(text, jsonb, text, text)
FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.extract(
    inputs text[],
    fields jsonb,
    model text DEFAULT NULL,
    on_error text DEFAULT NULL
) RETURNS jsonb[]
LANGUAGE c STABLE PARALLEL RESTRICTED COST 100000
SUPPORT prepack.cost_support
AS 'MODULE_PATHNAME', 'pp_extract_array';
COMMENT ON FUNCTION prepack.extract(text[], jsonb, text, text) IS
    'fields of each text as JSON objects';
REVOKE EXECUTE ON FUNCTION
    prepack.extract(text[], jsonb, text, text)
FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.relevance(
    query text,
    document text,
    model text DEFAULT NULL,
    on_error text DEFAULT NULL
) RETURNS real
LANGUAGE c STABLE PARALLEL RESTRICTED COST 10000
SUPPORT prepack.cost_support
AS 'MODULE_PATHNAME', 'pp_relevance';
COMMENT ON FUNCTION prepack.relevance(text, text, text, text) IS
    'how well a document answers a query: a cross-encoder''s score, a cosine or log-odds, by the model';
REVOKE EXECUTE ON FUNCTION
    prepack.relevance(text, text, text, text)
FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.relevance(
    query text,
    documents text[],
    model text DEFAULT NULL,
    on_error text DEFAULT NULL
) RETURNS real[]
LANGUAGE c STABLE PARALLEL RESTRICTED COST 10000
SUPPORT prepack.cost_support
AS 'MODULE_PATHNAME', 'pp_relevance_array';
COMMENT ON FUNCTION prepack.relevance(text, text[], text, text) IS
    'how well each document answers a query';
REVOKE EXECUTE ON FUNCTION
    prepack.relevance(text, text[], text, text)
FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.rank(
    query text,
    documents text[],
    top_k int DEFAULT NULL,
    model text DEFAULT NULL,
    OUT ord int,
    OUT score real,
    OUT document text
) RETURNS SETOF record
LANGUAGE c STABLE PARALLEL RESTRICTED COST 10000 ROWS 10
AS 'MODULE_PATHNAME', 'pp_rank';
COMMENT ON FUNCTION prepack.rank(text, text[], int, text) IS
    'documents by relevance to a query, best first; ord is the position in the input';
REVOKE EXECUTE ON FUNCTION
    prepack.rank(text, text[], int, text)
FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.embed(
    input text,
    model text DEFAULT NULL
) RETURNS real[]
LANGUAGE c STABLE PARALLEL RESTRICTED COST 10000
SUPPORT prepack.cost_support
AS 'MODULE_PATHNAME', 'pp_embed';
COMMENT ON FUNCTION prepack.embed(text, text) IS
    'the embedding vector of a text';
REVOKE EXECUTE ON FUNCTION prepack.embed(text, text) FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.embed(
    inputs text[],
    model text DEFAULT NULL
) RETURNS SETOF real[]
LANGUAGE c STABLE PARALLEL RESTRICTED COST 10000 ROWS 100
AS 'MODULE_PATHNAME', 'pp_embed_array';
COMMENT ON FUNCTION prepack.embed(text[], text) IS
    'the embedding vectors of texts, in order';
REVOKE EXECUTE ON FUNCTION prepack.embed(text[], text) FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.similarity(
    a text,
    b text,
    model text DEFAULT NULL
) RETURNS real
LANGUAGE c STABLE PARALLEL RESTRICTED COST 10000
SUPPORT prepack.cost_support
AS 'MODULE_PATHNAME', 'pp_similarity';
COMMENT ON FUNCTION prepack.similarity(text, text, text) IS
    'the cosine of the embeddings of two texts';
REVOKE EXECUTE ON FUNCTION
    prepack.similarity(text, text, text)
FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.similarity(
    a text,
    b text[],
    model text DEFAULT NULL
) RETURNS real[]
LANGUAGE c STABLE PARALLEL RESTRICTED COST 10000
SUPPORT prepack.cost_support
AS 'MODULE_PATHNAME', 'pp_similarity_array';
COMMENT ON FUNCTION prepack.similarity(text, text[], text) IS
    'the cosines of a text''s embedding with those of others';
REVOKE EXECUTE ON FUNCTION
    prepack.similarity(text, text[], text)
FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.count_tokens(
    input text,
    model text DEFAULT NULL
) RETURNS int
LANGUAGE c STABLE PARALLEL RESTRICTED COST 1000
SUPPORT prepack.cost_support
AS 'MODULE_PATHNAME', 'pp_count_tokens';
COMMENT ON FUNCTION prepack.count_tokens(text, text) IS
    'the number of tokens of a text';
REVOKE EXECUTE ON FUNCTION
    prepack.count_tokens(text, text)
FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.count_tokens(
    inputs text[],
    model text DEFAULT NULL
) RETURNS int[]
LANGUAGE c STABLE PARALLEL RESTRICTED COST 1000
SUPPORT prepack.cost_support
AS 'MODULE_PATHNAME', 'pp_count_tokens_array';
COMMENT ON FUNCTION prepack.count_tokens(text[], text) IS
    'the number of tokens of each text';
REVOKE EXECUTE ON FUNCTION
    prepack.count_tokens(text[], text)
FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.log_likelihood(
    prompt text,
    completion text,
    model text DEFAULT NULL
) RETURNS float8
LANGUAGE c STABLE PARALLEL RESTRICTED COST 10000
SUPPORT prepack.cost_support
AS 'MODULE_PATHNAME', 'pp_log_likelihood';
COMMENT ON FUNCTION prepack.log_likelihood(text, text, text) IS
    'the natural logarithm of the probability of a completion after a prompt';
REVOKE EXECUTE ON FUNCTION
    prepack.log_likelihood(text, text, text)
FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.log_likelihood(
    prompts text[],
    completions text[],
    model text DEFAULT NULL
) RETURNS float8[]
LANGUAGE c STABLE PARALLEL RESTRICTED COST 10000
SUPPORT prepack.cost_support
AS 'MODULE_PATHNAME', 'pp_log_likelihood_array';
COMMENT ON FUNCTION prepack.log_likelihood(text[], text[], text) IS
    'the log-likelihoods of completions after their prompts';
REVOKE EXECUTE ON FUNCTION
    prepack.log_likelihood(text[], text[], text)
FROM PUBLIC; -- the administrator decides

-- ---------------------------------------------------------------------------------------------
-- Models and administration
-- ---------------------------------------------------------------------------------------------

-- The options of a registered model: jsonb, but whoever may not change the registry, nor read all data, sees that there
-- is a key, not the name of its file or variable. The table cannot be hidden as a whole, see below.
CREATE TYPE prepack.model_options;
CREATE FUNCTION prepack.model_options_in(cstring) RETURNS prepack.model_options
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'jsonb_in';
CREATE FUNCTION prepack.model_options_out(prepack.model_options) RETURNS cstring
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pp_model_options_out';
CREATE TYPE prepack.model_options (
    INPUT = prepack.model_options_in, OUTPUT = prepack.model_options_out, LIKE = pg_catalog.jsonb
);
CREATE CAST (pg_catalog.jsonb AS prepack.model_options) WITHOUT FUNCTION AS ASSIGNMENT;
COMMENT ON FUNCTION prepack.model_options_in(cstring) IS 'reads options of a model';
COMMENT ON FUNCTION prepack.model_options_out(prepack.model_options) IS
    'shows options of a model, names of keys to administrators only';
COMMENT ON TYPE prepack.model_options IS 'jsonb that shows names of keys to administrators only';

-- Registered models. Rows of users are dumped; the built-in ones come with the script. Read
-- through the view models, written by the functions below only.
CREATE TABLE prepack.model_registry (
    name text PRIMARY KEY CHECK (pg_catalog.length(name) OPERATOR(pg_catalog.>=) 1
        AND pg_catalog.length(name) OPERATOR(pg_catalog.<=) 63),
    path text NOT NULL,
    kind text NOT NULL CHECK (kind OPERATOR(pg_catalog.=)
        ANY (ARRAY['generate', 'embed', 'rerank', 'dummy'])),
    options prepack.model_options NOT NULL DEFAULT '{}',
    is_default boolean NOT NULL DEFAULT false,
    builtin boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE prepack.model_registry IS 'models that may be named in calls; use the view prepack.models';
CREATE UNIQUE INDEX model_registry_default ON prepack.model_registry (kind) WHERE is_default;
-- A role that is no superuser can dump its database only if it can read every column of this table.
GRANT SELECT ON prepack.model_registry TO PUBLIC;
INSERT INTO prepack.model_registry (name, path, kind, builtin) VALUES ('dummy', '', 'dummy', true);
SELECT pg_catalog.pg_extension_config_dump('prepack.model_registry', 'WHERE NOT builtin');

CREATE FUNCTION prepack.register_model(name text, path text, options jsonb DEFAULT '{}')
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pp_register_model';
COMMENT ON FUNCTION prepack.register_model(text, text, jsonb) IS
    'names a model under prepack.model_directory; options {"kind": "generate"|"embed"|"rerank"}';
REVOKE EXECUTE ON FUNCTION prepack.register_model(text, text, jsonb) FROM PUBLIC;

CREATE FUNCTION prepack.register_endpoint(name text, url text, options jsonb DEFAULT '{}')
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pp_register_endpoint';
COMMENT ON FUNCTION prepack.register_endpoint(text, text, jsonb) IS
    'names a model of an OpenAI-compatible server; options kind, model, key_file, key_env, concurrency, …';
REVOKE EXECUTE ON FUNCTION prepack.register_endpoint(text, text, jsonb) FROM PUBLIC;

CREATE FUNCTION prepack.drop_model(name text)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pp_drop_model';
COMMENT ON FUNCTION prepack.drop_model(text) IS 'forgets a registered model; its file stays';
REVOKE EXECUTE ON FUNCTION prepack.drop_model(text) FROM PUBLIC;

CREATE FUNCTION prepack.set_default_model(name text, kind text DEFAULT 'generate')
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pp_set_default_model';
COMMENT ON FUNCTION prepack.set_default_model(text, text) IS
    'makes a model the one that calls of its kind use when nothing else is said';
REVOKE EXECUTE ON FUNCTION prepack.set_default_model(text, text) FROM PUBLIC;

CREATE FUNCTION prepack.load_model(name text, OUT model text, OUT loaded boolean, OUT bytes bigint)
RETURNS record LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pp_load_model';
COMMENT ON FUNCTION prepack.load_model(text) IS 'loads a model into the engine now rather than at its first call';
REVOKE EXECUTE ON FUNCTION prepack.load_model(text) FROM PUBLIC;

CREATE FUNCTION prepack.unload_model(name text)
RETURNS boolean LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pp_unload_model';
COMMENT ON FUNCTION prepack.unload_model(text) IS
    'takes a model out of the engine and frees its memory; its running calls fail. False: it was not loaded';
REVOKE EXECUTE ON FUNCTION prepack.unload_model(text) FROM PUBLIC;

CREATE FUNCTION prepack.wait_until_ready(timeout interval DEFAULT '1 min')
RETURNS boolean LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'pp_wait_until_ready';
COMMENT ON FUNCTION prepack.wait_until_ready(interval) IS
    'waits until the engine answers; false when the time is over';

CREATE FUNCTION prepack.restart_engine()
RETURNS boolean LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pp_restart_engine';
COMMENT ON FUNCTION prepack.restart_engine() IS 'restarts the engine; running calls of all sessions fail';
REVOKE EXECUTE ON FUNCTION prepack.restart_engine() FROM PUBLIC;

CREATE FUNCTION prepack.prewarm(instruction text, model text DEFAULT NULL)
RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pp_prewarm';
COMMENT ON FUNCTION prepack.prewarm(text, text) IS
    'computes the prefix of an instruction ahead and pins it; returns its number of tokens';
REVOKE EXECUTE ON FUNCTION prepack.prewarm(text, text) FROM PUBLIC;

CREATE FUNCTION prepack.library_version()
RETURNS text LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'pp_version';
COMMENT ON FUNCTION prepack.library_version() IS 'the version of the loaded library';
CREATE FUNCTION prepack.version(OUT library text, OUT sql text)
RETURNS record LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT prepack.library_version(), e.extversion
    FROM pg_catalog.pg_extension e WHERE e.extname OPERATOR(pg_catalog.=) 'prepack'
$$;
COMMENT ON FUNCTION prepack.version() IS 'the versions of the library and of the installed script';

-- Grants what calls need; with admin also what administration needs. Runs with the caller's own
-- rights: only the extension's owner, a superuser or a role with grant options can grant.
CREATE FUNCTION prepack.grant_usage(role regrole, admin boolean DEFAULT false)
RETURNS void LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    f record;
BEGIN
    EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA prepack TO %s', role);
    FOR f IN
        SELECT p.oid::pg_catalog.regprocedure AS signature
        FROM pg_catalog.pg_proc p
        JOIN pg_catalog.pg_depend d ON d.objid OPERATOR(pg_catalog.=) p.oid
            AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
            AND d.deptype OPERATOR(pg_catalog.=) 'e'
        JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid
            AND e.extname OPERATOR(pg_catalog.=) 'prepack'
        WHERE admin OR p.proname OPERATOR(pg_catalog.<>) ALL (ARRAY[
            'register_model', 'register_endpoint', 'drop_model', 'set_default_model', 'load_model', 'unload_model',
            'restart_engine', 'prewarm', 'grant_usage', 'pg_stat_prepack_reset']::pg_catalog.name[])
    LOOP
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %s', f.signature, role);
    END LOOP;
    IF admin THEN
        EXECUTE pg_catalog.format(
            'GRANT SELECT, INSERT, UPDATE, DELETE ON prepack.model_registry TO %s', role);
    END IF;
END
$$;
COMMENT ON FUNCTION prepack.grant_usage(regrole, boolean) IS
    'lets a role use the functions over text; with admin also manage models and the engine';
REVOKE EXECUTE ON FUNCTION prepack.grant_usage(regrole, boolean) FROM PUBLIC;

-- ---------------------------------------------------------------------------------------------
-- Views
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION prepack.engine_status(
    OUT state text, OUT engine_pid int, OUT device text, OUT memory_used bigint,
    OUT memory_limit bigint, OUT queue_depth int, OUT started_at timestamptz,
    OUT restarts bigint, OUT last_error text
) RETURNS record LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'pp_status';
COMMENT ON FUNCTION prepack.engine_status() IS 'what the view prepack.status shows';

CREATE VIEW prepack.status AS SELECT * FROM prepack.engine_status();
COMMENT ON VIEW prepack.status IS 'the engine: one row';
COMMENT ON COLUMN prepack.status.state IS
    'ready, starting, degraded (failed repeatedly, retried once a minute) or down';
COMMENT ON COLUMN prepack.status.engine_pid IS 'process of the engine';
COMMENT ON COLUMN prepack.status.device IS 'where it computes';
COMMENT ON COLUMN prepack.status.memory_used IS 'bytes of weights, keys and values';
COMMENT ON COLUMN prepack.status.memory_limit IS 'bytes it may use';
COMMENT ON COLUMN prepack.status.queue_depth IS 'sequences that wait or run';
COMMENT ON COLUMN prepack.status.started_at IS 'start of the engine';
COMMENT ON COLUMN prepack.status.restarts IS 'restarts since the server''s start';
COMMENT ON COLUMN prepack.status.last_error IS 'how the last engine ended';

CREATE FUNCTION prepack.engine_models(
    OUT path text, OUT architecture text, OUT parameters bigint, OUT quantisation text,
    OUT context int, OUT bytes bigint, OUT kv_bytes bigint, OUT digest text
) RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'pp_engine_models';
COMMENT ON FUNCTION prepack.engine_models() IS 'the models that the engine has loaded';

CREATE VIEW prepack.models AS
SELECT r.name, r.kind, e.architecture, e.parameters, e.quantisation, e.context,
    e.path IS NOT NULL OR r.kind OPERATOR(pg_catalog.=) 'dummy' AS loaded,
    e.bytes, e.kv_bytes, e.digest, r.is_default, r.path,
    r.path OPERATOR(pg_catalog.~) '^https?://' AS remote
FROM prepack.model_registry r
LEFT JOIN prepack.engine_models() e ON e.path OPERATOR(pg_catalog.=) r.path;
COMMENT ON VIEW prepack.models IS 'registered models, and what the engine says of the loaded ones';
COMMENT ON COLUMN prepack.models.name IS 'name for calls';
COMMENT ON COLUMN prepack.models.kind IS 'generate, embed, rerank or dummy';
COMMENT ON COLUMN prepack.models.architecture IS 'of a loaded model, as its file says';
COMMENT ON COLUMN prepack.models.parameters IS 'number of weights';
COMMENT ON COLUMN prepack.models.quantisation IS 'format of most weights in the file';
COMMENT ON COLUMN prepack.models.context IS 'most tokens of a sequence';
COMMENT ON COLUMN prepack.models.loaded IS 'whether the engine has it in memory';
COMMENT ON COLUMN prepack.models.bytes IS 'of the weights in memory';
COMMENT ON COLUMN prepack.models.kv_bytes IS 'set aside for keys and values';
COMMENT ON COLUMN prepack.models.digest IS 'SHA-256 of the file';
COMMENT ON COLUMN prepack.models.is_default IS 'default of its kind';
COMMENT ON COLUMN prepack.models.path IS 'below the model directory, or the URL of an endpoint';
COMMENT ON COLUMN prepack.models.remote IS 'whether rows leave this machine for it';

CREATE FUNCTION prepack.engine_queue(
    OUT pid int, OUT userid oid, OUT function text, OUT model text, OUT state text,
    OUT row_count bigint, OUT rows_done bigint, OUT tokens bigint, OUT wait_ms float8, OUT run_ms float8
) RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'pp_engine_queue';
COMMENT ON FUNCTION prepack.engine_queue() IS 'what the view prepack.queue shows';

CREATE VIEW prepack.queue AS
SELECT q.pid, pg_catalog.pg_get_userbyid(q.userid) AS "user", q.function, q.model, q.state,
    q.row_count AS rows, q.rows_done, q.tokens, q.wait_ms, q.run_ms
FROM prepack.engine_queue() q;
COMMENT ON VIEW prepack.queue IS
    'running and waiting requests: one''s own, or all for members of pg_read_all_stats';
COMMENT ON COLUMN prepack.queue.pid IS 'process of the session';
COMMENT ON COLUMN prepack.queue."user" IS 'role';
COMMENT ON COLUMN prepack.queue.function IS 'of this schema';
COMMENT ON COLUMN prepack.queue.model IS 'path of the model';
COMMENT ON COLUMN prepack.queue.state IS 'receiving its rows, or running';
COMMENT ON COLUMN prepack.queue.rows IS 'rows of the request';
COMMENT ON COLUMN prepack.queue.rows_done IS 'rows with a result';
COMMENT ON COLUMN prepack.queue.tokens IS 'tokens of its prompts';
COMMENT ON COLUMN prepack.queue.wait_ms IS 'time before its first token was computed';
COMMENT ON COLUMN prepack.queue.run_ms IS 'time since then';

CREATE FUNCTION prepack.engine_prefixes(
    OUT model text, OUT tokens int, OUT hits bigint, OUT pinned boolean, OUT last_used bigint
) RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'pp_engine_prefixes';
COMMENT ON FUNCTION prepack.engine_prefixes() IS 'what the view prepack.prefixes shows';

CREATE VIEW prepack.prefixes AS SELECT * FROM prepack.engine_prefixes();
COMMENT ON VIEW prepack.prefixes IS 'prefixes that the engine keeps for the current role';
COMMENT ON COLUMN prepack.prefixes.model IS 'path of the model';
COMMENT ON COLUMN prepack.prefixes.tokens IS 'length';
COMMENT ON COLUMN prepack.prefixes.hits IS 'sequences that began with it';
COMMENT ON COLUMN prepack.prefixes.pinned IS 'by prewarm';
COMMENT ON COLUMN prepack.prefixes.last_used IS 'clock of uses; the smallest goes first';

CREATE FUNCTION prepack.pg_stat_prepack(
    OUT userid oid, OUT dbid oid, OUT queryid bigint, OUT function text, OUT model text,
    OUT calls bigint, OUT rows bigint, OUT errors bigint, OUT cancels bigint,
    OUT prompt_tokens bigint, OUT shared_prefix_tokens bigint, OUT padding_avoided_tokens bigint,
    OUT output_tokens bigint, OUT queue_ms float8, OUT prefill_ms float8, OUT decode_ms float8,
    OUT stats_since timestamptz
) RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'pp_stat_prepack';
COMMENT ON FUNCTION prepack.pg_stat_prepack() IS 'what the view prepack.pg_stat_prepack shows';

CREATE VIEW prepack.pg_stat_prepack AS SELECT * FROM prepack.pg_stat_prepack();
COMMENT ON VIEW prepack.pg_stat_prepack IS
    'calls by user, database, query, function and model; joins to pg_stat_statements by queryid';
COMMENT ON COLUMN prepack.pg_stat_prepack.userid IS 'role';
COMMENT ON COLUMN prepack.pg_stat_prepack.dbid IS 'database';
COMMENT ON COLUMN prepack.pg_stat_prepack.queryid IS 'of the statement; 0 where compute_query_id is off';
COMMENT ON COLUMN prepack.pg_stat_prepack.function IS 'of this schema';
COMMENT ON COLUMN prepack.pg_stat_prepack.model IS 'name of the model';
COMMENT ON COLUMN prepack.pg_stat_prepack.calls IS 'requests to the engine; a batch is one';
COMMENT ON COLUMN prepack.pg_stat_prepack.rows IS 'rows of those requests';
COMMENT ON COLUMN prepack.pg_stat_prepack.errors IS 'requests that failed';
COMMENT ON COLUMN prepack.pg_stat_prepack.cancels IS 'requests that were cancelled, by LIMIT too';
COMMENT ON COLUMN prepack.pg_stat_prepack.prompt_tokens IS 'tokens of the prompts';
COMMENT ON COLUMN prepack.pg_stat_prepack.shared_prefix_tokens IS
    'of these, not computed since another row or request had';
COMMENT ON COLUMN prepack.pg_stat_prepack.padding_avoided_tokens IS
    'what padding rows to the longest of their batch would have added';
COMMENT ON COLUMN prepack.pg_stat_prepack.output_tokens IS 'generated tokens';
COMMENT ON COLUMN prepack.pg_stat_prepack.queue_ms IS 'waiting';
COMMENT ON COLUMN prepack.pg_stat_prepack.prefill_ms IS 'until the first output token';
COMMENT ON COLUMN prepack.pg_stat_prepack.decode_ms IS 'from there to the end';
COMMENT ON COLUMN prepack.pg_stat_prepack.stats_since IS 'first call of the entry';

CREATE FUNCTION prepack.pg_stat_prepack_info(OUT dealloc bigint, OUT stats_reset timestamptz)
RETURNS record LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'pp_stat_prepack_info';
COMMENT ON FUNCTION prepack.pg_stat_prepack_info() IS 'what the view prepack.pg_stat_prepack_info shows';

CREATE VIEW prepack.pg_stat_prepack_info AS SELECT * FROM prepack.pg_stat_prepack_info();
COMMENT ON VIEW prepack.pg_stat_prepack_info IS
    'how often entries were dropped for room, and since when the counters run';
COMMENT ON COLUMN prepack.pg_stat_prepack_info.dealloc IS 'how often entries were dropped for room';
COMMENT ON COLUMN prepack.pg_stat_prepack_info.stats_reset IS 'since when the counters run';

CREATE FUNCTION prepack.pg_stat_prepack_reset()
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pp_stat_prepack_reset';
COMMENT ON FUNCTION prepack.pg_stat_prepack_reset() IS 'forgets the counters';
REVOKE EXECUTE ON FUNCTION prepack.pg_stat_prepack_reset() FROM PUBLIC;

GRANT USAGE ON SCHEMA prepack TO PUBLIC;
GRANT SELECT ON prepack.status, prepack.models, prepack.queue, prepack.prefixes,
    prepack.pg_stat_prepack, prepack.pg_stat_prepack_info TO PUBLIC;

-- Speculation ---------------------------------------------------------------------------

CREATE FUNCTION prepack.repair_sql(
    partial_sql text, cursor_pos int DEFAULT NULL,
    OUT block text, OUT sql text, OUT valid boolean, OUT changes text
) RETURNS SETOF record LANGUAGE c STABLE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pp_repair_sql';
COMMENT ON FUNCTION prepack.repair_sql(text, int) IS
    'what an unfinished SELECT can run as, block by block; a star marks the block under the cursor. Runs nothing';

CREATE FUNCTION prepack.materialize(query text, superset boolean DEFAULT false)
RETURNS bigint LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pp_materialize';
COMMENT ON FUNCTION prepack.materialize(text, boolean) IS
    'builds the speculative table of a finished query now; superset: one that also answers edits of its constants';

CREATE FUNCTION prepack.explain_match(
    query text, OUT table_id bigint, OUT usable boolean, OUT reason text, OUT compensation text
) RETURNS SETOF record LANGUAGE c STABLE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pp_explain_match';
COMMENT ON FUNCTION prepack.explain_match(text) IS
    'what each speculative table of the role could do for a query: the query over it, or why not';

CREATE FUNCTION prepack.reset_speculation()
RETURNS int LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pp_reset_speculation';
COMMENT ON FUNCTION prepack.reset_speculation() IS
    'forgets the speculative tables of the current role; returns how many';

CREATE FUNCTION prepack.engine_speculation_tables(
    OUT id bigint, OUT roleid oid, OUT state text, OUT kind text, OUT definition text,
    OUT rows bigint, OUT bytes bigint, OUT built_ms float8, OUT built_at timestamptz,
    OUT hits bigint, OUT saved_ms float8, OUT reason text
) RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'pp_speculation_tables';
COMMENT ON FUNCTION prepack.engine_speculation_tables() IS 'what the view prepack.speculation_tables shows';

CREATE VIEW prepack.speculation_tables AS
SELECT t.id, pg_catalog.pg_get_userbyid(t.roleid) AS role, t.state, t.kind, t.definition, t.rows,
    t.bytes, t.built_ms, pg_catalog.now() OPERATOR(pg_catalog.-) t.built_at AS age, t.hits,
    t.saved_ms, t.reason
FROM prepack.engine_speculation_tables() t;
COMMENT ON VIEW prepack.speculation_tables IS
    'speculative tables of this database: one''s own, or all for members of pg_read_all_stats';
COMMENT ON COLUMN prepack.speculation_tables.id IS 'as materialize returned it';
COMMENT ON COLUMN prepack.speculation_tables.role IS 'whose queries it answers';
COMMENT ON COLUMN prepack.speculation_tables.state IS 'building, ready or dead';
COMMENT ON COLUMN prepack.speculation_tables.kind IS 'exact or superset';
COMMENT ON COLUMN prepack.speculation_tables.definition IS 'the query that it holds';
COMMENT ON COLUMN prepack.speculation_tables.rows IS 'of the table';
COMMENT ON COLUMN prepack.speculation_tables.bytes IS 'on disk';
COMMENT ON COLUMN prepack.speculation_tables.built_ms IS 'time that building took';
COMMENT ON COLUMN prepack.speculation_tables.age IS 'since it was built';
COMMENT ON COLUMN prepack.speculation_tables.hits IS 'queries that it answered';
COMMENT ON COLUMN prepack.speculation_tables.saved_ms IS 'time that it is thought to have saved them';
COMMENT ON COLUMN prepack.speculation_tables.reason IS 'fresh, or why it answers nothing any more';

CREATE FUNCTION prepack.pg_stat_prepack_speculation(OUT name text, OUT value float8)
RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'pp_stat_speculation';
COMMENT ON FUNCTION prepack.pg_stat_prepack_speculation() IS
    'what the view prepack.pg_stat_prepack_speculation shows';

CREATE VIEW prepack.pg_stat_prepack_speculation AS SELECT * FROM prepack.pg_stat_prepack_speculation();
COMMENT ON VIEW prepack.pg_stat_prepack_speculation IS
    'what speculation did, hits by kind, misses by reason, and the time it took and saved';
COMMENT ON COLUMN prepack.pg_stat_prepack_speculation.name IS 'of the counter';
COMMENT ON COLUMN prepack.pg_stat_prepack_speculation.value IS 'since the server''s start';
GRANT SELECT ON prepack.speculation_tables, prepack.pg_stat_prepack_speculation TO PUBLIC;

CREATE FUNCTION prepack.speculate(partial_sql text, cursor_pos int DEFAULT NULL)
RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pp_speculate';
COMMENT ON FUNCTION prepack.speculate(text, int) IS
    'takes the text that is being typed; returns at once with its id, NULL when prepack.speculation is off';

CREATE FUNCTION prepack.completions(
    id bigint, wait_ms int DEFAULT 0,
    OUT ord int, OUT insert_text text, OUT full_sql text, OUT probability float8, OUT source text
) RETURNS SETOF record LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pp_completions';
COMMENT ON FUNCTION prepack.completions(bigint, int) IS
    'what may come next in a text, the most probable first; waits up to wait_ms for it';

CREATE FUNCTION prepack.preview(
    id bigint, max_rows int DEFAULT 100, wait_ms int DEFAULT 0,
    OUT block text, OUT sql text, OUT state text, OUT sampled boolean, OUT columns jsonb,
    OUT rows jsonb, OUT total_rows bigint, OUT elapsed_ms float8
) RETURNS SETOF record LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pp_preview';
COMMENT ON FUNCTION prepack.preview(bigint, int, int) IS
    'the blocks of a text, with first rows where there are some; a star marks the block under the cursor';

CREATE FUNCTION prepack.cancel_speculation(id bigint)
RETURNS boolean LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pp_cancel_speculation';
COMMENT ON FUNCTION prepack.cancel_speculation(bigint) IS 'stops the work on a text; true when there was any';

CREATE FUNCTION prepack.engine_speculations(
    OUT id bigint, OUT roleid oid, OUT state text, OUT pid int, OUT worker_pid int,
    OUT fed_at timestamptz
) RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'pp_speculations';
COMMENT ON FUNCTION prepack.engine_speculations() IS 'what the view prepack.speculations shows';

CREATE VIEW prepack.speculations AS
SELECT s.id, pg_catalog.pg_get_userbyid(s.roleid) AS role, s.state, s.pid, s.worker_pid, s.fed_at
FROM prepack.engine_speculations() s;
COMMENT ON VIEW prepack.speculations IS
    'texts that are being typed, one row for each session: one''s own, or all for members of pg_read_all_stats';
COMMENT ON COLUMN prepack.speculations.id IS 'as speculate returned it';
COMMENT ON COLUMN prepack.speculations.role IS 'who types';
COMMENT ON COLUMN prepack.speculations.state IS 'of the work on it';
COMMENT ON COLUMN prepack.speculations.pid IS 'the typing session';
COMMENT ON COLUMN prepack.speculations.worker_pid IS 'the worker';
COMMENT ON COLUMN prepack.speculations.fed_at IS 'the last text';
GRANT SELECT ON prepack.speculations TO PUBLIC;
