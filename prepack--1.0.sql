/* prepack--1.0.sql: every SQL object of the extension */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION prepack" to load this file. \quit

-- Conventions
--   Optional arguments default to NULL, so functions are CALLED ON NULL INPUT and check the
--   required arguments themselves: a NULL input gives NULL.
--   Scoring functions are STABLE, generation is VOLATILE. PARALLEL RESTRICTED: the leader batches
--   the calls while the workers scan.
--   Each verb has an array twin: same length, same order, NULL in, NULL out.
--   What costs compute is not granted to PUBLIC: the administrator decides, with
--   prepack.grant_usage().

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
COMMENT ON FUNCTION prepack.generate(text, text, text, text, int, real, real, bigint, text[], text) IS
    'the model''s answer to a prompt, about an input if one is given';
REVOKE EXECUTE ON FUNCTION prepack.generate(text, text, text, text, int, real, real, bigint, text[], text) FROM PUBLIC; -- the administrator decides

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
COMMENT ON FUNCTION prepack.generate(text, text[], text, text, int, real, real, bigint, text[], text) IS
    'the model''s answers to a prompt about each input';
REVOKE EXECUTE ON FUNCTION prepack.generate(text, text[], text, text, int, real, real, bigint, text[], text) FROM PUBLIC; -- the administrator decides

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
COMMENT ON FUNCTION prepack.generate_json(text, jsonb, text, text, text, int, real, real, bigint, text) IS
    'an answer as JSON that fits a JSON schema';
REVOKE EXECUTE ON FUNCTION prepack.generate_json(text, jsonb, text, text, text, int, real, real, bigint, text) FROM PUBLIC; -- the administrator decides

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
COMMENT ON FUNCTION prepack.generate_json(text, jsonb, text[], text, text, int, real, real, bigint, text) IS
    'answers as JSON that fits a JSON schema, one per input';
REVOKE EXECUTE ON FUNCTION prepack.generate_json(text, jsonb, text[], text, text, int, real, real, bigint, text) FROM PUBLIC; -- the administrator decides

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
REVOKE EXECUTE ON FUNCTION prepack.stream(text, text, text, text, int, real, real, bigint, text[]) FROM PUBLIC; -- the administrator decides

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
REVOKE EXECUTE ON FUNCTION prepack.classify(text, text[], text, text, text[], real, text) FROM PUBLIC; -- the administrator decides

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
REVOKE EXECUTE ON FUNCTION prepack.classify(text[], text[], text, text, text[], real, text) FROM PUBLIC; -- the administrator decides

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
REVOKE EXECUTE ON FUNCTION prepack.classify_probs(text, text[], text, text, text[], text) FROM PUBLIC; -- the administrator decides

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
REVOKE EXECUTE ON FUNCTION prepack.classify_probs(text[], text[], text, text, text[], text) FROM PUBLIC; -- the administrator decides

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
REVOKE EXECUTE ON FUNCTION prepack.classify_multi(text, text[], real, text, text, text) FROM PUBLIC; -- the administrator decides

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
REVOKE EXECUTE ON FUNCTION prepack.classify_multi(text[], text[], real, text, text, text) FROM PUBLIC; -- the administrator decides

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
REVOKE EXECUTE ON FUNCTION prepack.is_true(text, text, text, real, text) FROM PUBLIC; -- the administrator decides

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
REVOKE EXECUTE ON FUNCTION prepack.is_true(text[], text, text, real, text) FROM PUBLIC; -- the administrator decides

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
REVOKE EXECUTE ON FUNCTION prepack.score(text, text, text, text) FROM PUBLIC; -- the administrator decides

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
REVOKE EXECUTE ON FUNCTION prepack.score(text[], text, text, text) FROM PUBLIC; -- the administrator decides

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
REVOKE EXECUTE ON FUNCTION prepack.extract(text, jsonb, text, text) FROM PUBLIC; -- the administrator decides

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
REVOKE EXECUTE ON FUNCTION prepack.extract(text[], jsonb, text, text) FROM PUBLIC; -- the administrator decides

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
REVOKE EXECUTE ON FUNCTION prepack.relevance(text, text, text, text) FROM PUBLIC; -- the administrator decides

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
REVOKE EXECUTE ON FUNCTION prepack.relevance(text, text[], text, text) FROM PUBLIC; -- the administrator decides

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
REVOKE EXECUTE ON FUNCTION prepack.rank(text, text[], int, text) FROM PUBLIC; -- the administrator decides

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
REVOKE EXECUTE ON FUNCTION prepack.similarity(text, text, text) FROM PUBLIC; -- the administrator decides

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
REVOKE EXECUTE ON FUNCTION prepack.similarity(text, text[], text) FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.count_tokens(
    input text,
    model text DEFAULT NULL
) RETURNS int
LANGUAGE c STABLE PARALLEL RESTRICTED COST 1000
SUPPORT prepack.cost_support
AS 'MODULE_PATHNAME', 'pp_count_tokens';
COMMENT ON FUNCTION prepack.count_tokens(text, text) IS
    'the number of tokens of a text';
REVOKE EXECUTE ON FUNCTION prepack.count_tokens(text, text) FROM PUBLIC; -- the administrator decides

CREATE FUNCTION prepack.count_tokens(
    inputs text[],
    model text DEFAULT NULL
) RETURNS int[]
LANGUAGE c STABLE PARALLEL RESTRICTED COST 1000
SUPPORT prepack.cost_support
AS 'MODULE_PATHNAME', 'pp_count_tokens_array';
COMMENT ON FUNCTION prepack.count_tokens(text[], text) IS
    'the number of tokens of each text';
REVOKE EXECUTE ON FUNCTION prepack.count_tokens(text[], text) FROM PUBLIC; -- the administrator decides

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
REVOKE EXECUTE ON FUNCTION prepack.log_likelihood(text, text, text) FROM PUBLIC; -- the administrator decides

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
REVOKE EXECUTE ON FUNCTION prepack.log_likelihood(text[], text[], text) FROM PUBLIC; -- the administrator decides

-- ---------------------------------------------------------------------------------------------
-- Models and administration
-- ---------------------------------------------------------------------------------------------

-- Registered models. Rows of users are dumped; the built-in ones come with the script. Read through the view models; written
-- by the functions below only.
CREATE TABLE prepack.model_registry (
    name text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 63),
    path text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('generate', 'embed', 'rerank', 'endpoint', 'dummy')),
    options jsonb NOT NULL DEFAULT '{}',
    is_default boolean NOT NULL DEFAULT false,
    builtin boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE prepack.model_registry IS 'models that may be named in calls; use the view prepack.models';
CREATE UNIQUE INDEX model_registry_default ON prepack.model_registry (kind) WHERE is_default;
REVOKE ALL ON prepack.model_registry FROM PUBLIC;
INSERT INTO prepack.model_registry (name, path, kind, builtin) VALUES ('dummy', '', 'dummy', true);
SELECT pg_catalog.pg_extension_config_dump('prepack.model_registry', 'WHERE NOT builtin');
