-- Promise 31: every numeric argument and setting at min-1, min, max, max+1, at the ends of its type, and
-- at NaN. Outside is 22023, always before anything is computed; inside never is. Then inputs of every
-- shape that no one would type: the session survives all of them.
SET prepack.model = 'dummy';
SET prepack.embed_model = 'dummy';
SELECT prepack.wait_until_ready('30 s');

CREATE FUNCTION state_of(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END $$;

CREATE TABLE argument (call text, bad text[], good text[]);
INSERT INTO argument VALUES
    ('generate(''x'', max_tokens => %s)', '{-2147483648,-1,0,1048577,2147483647}', '{1,1048576}'),
    ('generate(''x'', ARRAY[''y''], max_tokens => %s)', '{-2147483648,-1,0,1048577,2147483647}', '{1,1048576}'),
    ('generate(''x'', temperature => %s)', '{-1e-6,-Infinity,100.1,1e38,Infinity,NaN}', '{0,100}'),
    ('generate(''x'', top_p => %s)', '{0,-1,9e-7,1.0000002,Infinity,-Infinity,NaN}', '{1e-6,1}'),
    ('generate(''x'', temperature => 1, seed => %s)', '{}',
        '{-9223372036854775808,-1,0,9223372036854775807}'),
    ('generate_json(''x'', ''{"type":"boolean"}'', max_tokens => %s)', '{-1,0,1048577}', '{1048576}'),
    ('generate_json(''x'', ''{"type":"boolean"}'', temperature => %s)', '{-1,100.1,NaN}', '{0}'),
    ('generate_json(''x'', ''{"type":"boolean"}'', top_p => %s)', '{0,1.1,NaN}', '{1}'),
    ('classify(''x'', ''{a,b}'', min_prob => %s)', '{-1e-6,1.0000002,Infinity,NaN}', '{0,1}'),
    ('classify(''{x,y}''::text[], ''{a,b}'', min_prob => %s)', '{-1e-6,1.0000002,Infinity,NaN}', '{0,1}'),
    ('classify_multi(''x'', ''{a,b}'', %s)', '{-1e-6,1.0000002,-Infinity,NaN}', '{0,1}'),
    ('is_true(''x'', ''c'', threshold => %s)', '{-1e-6,1.0000002,Infinity,NaN}', '{0,1}'),
    ('is_true(''{x}''::text[], ''c'', threshold => %s)', '{-1e-6,1.0000002,Infinity,NaN}', '{0,1}'),
    ('generate(''x'', ARRAY[''y''], temperature => %s)', '{-1e-6,-Infinity,100.1,1e38,Infinity,NaN}', '{0,100}'),
    ('generate(''x'', ARRAY[''y''], top_p => %s)', '{0,-1,9e-7,1.0000002,Infinity,-Infinity,NaN}', '{1e-6,1}'),
    ('stream(''x'', max_tokens => %s)', '{-2147483648,-1,0,1048577,2147483647}', '{1}'),
    ('stream(''x'', temperature => %s)', '{-1e-6,-Infinity,100.1,1e38,Infinity,NaN}', '{0,100}'),
    ('stream(''x'', top_p => %s)', '{0,-1,9e-7,1.0000002,Infinity,-Infinity,NaN}', '{1e-6,1}'),
    ('classify_multi(''{x}''::text[], ''{a,b}'', %s)', '{-1e-6,1.0000002,-Infinity,NaN}', '{0,1}'),
    ('repair_sql(''SELECT 1'', %s)', '{}', '{-2147483648,-1,0,8,9,2147483647}'),
    ('repair_sql(''SELECT 1'', NULL)', '{}', '{x}');
-- Nothing but these may be seen: a good value refused, or a bad one that is not refused by 22023.
SELECT format(call, quote_literal(value)), expected, got FROM argument,
    LATERAL (SELECT value, '22023' FROM unnest(bad) value UNION ALL SELECT value, 'ok' FROM unnest(good) value)
        AS v(value, expected),
    LATERAL state_of('SELECT prepack.' || format(call, quote_literal(value))) AS got
WHERE got <> expected ORDER BY 1;
SELECT n, state_of(format('SELECT * FROM prepack.rank(''q'', ''{a,b}'', %s)', n))
FROM unnest('{-2147483648,0,1,2147483647}'::int[]) n;
SELECT state_of('SELECT count(*) FROM prepack.stream(''x'', max_tokens => 0)') AS stream;

-- settings
CREATE TABLE setting (name text, bad text[], good text[]);
INSERT INTO setting VALUES
    ('max_tokens', '{-1,0,1048577,9223372036854775807,NaN}', '{1,1048576}'),
    ('batch_rows', '{-1,0,NaN}', '{1}'),
    ('startup_wait', '{-1,2147483648,NaN}', '{0,2147483647}'),
    ('statement_token_limit', '{-1,2147483648,NaN}', '{0,2147483647}'),
    ('on_error', '{ignore,""}', '{error,"null"}');
SELECT name, value, expected, got FROM setting,
    LATERAL (SELECT value, '22023' FROM unnest(bad) value UNION ALL SELECT value, 'ok' FROM unnest(good) value)
        AS v(value, expected),
    LATERAL state_of(format('SET LOCAL prepack.%s = %L', name, value)) AS got
WHERE got <> expected ORDER BY 1, 2;
-- of every number that a session may set, the two ends and one beyond each
SELECT string_agg(substr(name, 9), ' ' ORDER BY name) FROM pg_settings
WHERE name LIKE 'prepack.%' AND vartype IN ('integer', 'real') AND context IN ('user', 'superuser');
SELECT name, value, expected, got FROM pg_settings,
    LATERAL (VALUES ((min_val::numeric - 1)::text, '22023'), (min_val, 'ok'), (max_val, 'ok'),
        ((max_val::numeric + 1)::text, '22023'), ('NaN', '22023'), ('', '22023')) AS v(value, expected),
    LATERAL state_of(format('SET LOCAL %s = %L', name, value)) AS got
WHERE name LIKE 'prepack.%' AND vartype IN ('integer', 'real') AND context IN ('user', 'superuser')
    AND got <> expected ORDER BY 1, 2;
SELECT context, count(*) FROM pg_settings
WHERE name IN ('prepack.cpu_threads', 'prepack.memory_limit', 'prepack.device', 'prepack.model_directory')
GROUP BY context;

-- waiting: no interval overflows
SELECT prepack.wait_until_ready('178000000 years'), prepack.wait_until_ready('-178000000 years'),
    prepack.wait_until_ready(NULL);

-- labels
SELECT what, state_of('SELECT prepack.classify(''x'', ' || labels || ')') FROM (VALUES
    ('none', $$'{}'$$), ('one', $$'{a}'$$), ('empty', $$'{a,""}'$$), ('NULL', $$'{a,NULL}'$$),
    ('twice', $$'{a,b,a}'$$), ('two dimensions', $$'{{a,b},{c,d}}'$$),
    ('10,000', $$(SELECT array_agg(i::text) FROM generate_series(1, 10000) i)$$),
    ('10,001', $$(SELECT array_agg(i::text) FROM generate_series(1, 10001) i)$$),
    ('one of 1 MB', $$ARRAY['a', repeat('b', 1048576)]$$), ('shifted bounds', $$'[5:6]={a,b}'::text[]$$)
) AS v(what, labels);

-- arrays of inputs: of no length, of two dimensions, of NULL only, with other bounds
SELECT what, state_of('SELECT prepack.score(' || inputs || ', ''c'')') FROM (VALUES
    ('none', $$'{}'::text[]$$), ('two dimensions', $$'{{a,b},{c,d}}'::text[]$$), ('NULL', $$'{NULL,NULL}'::text[]$$),
    ('shifted bounds', $$'[5:6]={a,b}'::text[]$$), ('100,000', $$array_fill('x'::text, ARRAY[100000])$$)
) AS v(what, inputs);
SELECT prepack.score('{NULL,NULL}'::text[], 'c'), array_length(prepack.score('[5:7]={a,NULL,b}'::text[], 'c'), 1);
SELECT prepack.rank('q', '{}'), prepack.embed('{}'::text[]);

-- schemas that are none, or none that can be kept to
SELECT what, state_of(format('SELECT prepack.generate_json(''x'', %L)', schema)) FROM (VALUES
    ('boolean schema', 'true'), ('number', '1'), ('array', '[]'), ('string', '"x"'),
    ('unknown type', '{"type": "word"}'),
    ('contradiction', '{"type": "string", "enum": []}'), ('no reference', '{"$ref": "#/definitions/nowhere"}'),
    ('deep', repeat('{"type": "array", "items": ', 5000) || '{}' || repeat('}', 5000)),
    ('bad pattern', '{"type": "string", "pattern": "("}'), ('good', '{"type": "boolean"}')
) AS v(what, schema);

-- names
SELECT what, state_of(call) FROM (VALUES
    ('unknown model', $$SELECT prepack.generate('x', model => 'nobody')$$),
    ('empty model', $$SELECT prepack.generate('x', model => '')$$),
    ('long model', $$SELECT prepack.generate('x', model => repeat('m', 100000))$$),
    ('unknown model of an array', $$SELECT prepack.score('{x}'::text[], 'c', model => 'nobody')$$),
    ('unknown model of no rows', $$SELECT prepack.score('{}'::text[], 'c', model => 'nobody')$$),
    ('unknown default', $$SELECT prepack.set_default_model('nobody')$$),
    ('unknown kind', $$SELECT prepack.set_default_model('dummy', 'magic')$$),
    ('load', $$SELECT prepack.load_model('nobody')$$), ('unload', $$SELECT prepack.unload_model('nobody')$$),
    ('drop', $$SELECT prepack.drop_model('nobody')$$)
) AS v(what, call);

-- text of 100 MB: in one row, among others, and in a query
SELECT state_of($$SELECT length(prepack.generate(repeat('long text ', 10485760)))$$) AS alone;
SELECT state_of($$SELECT prepack.score(ARRAY['a', repeat('long text ', 10485760), 'b'], 'c')$$) AS among_others;
SELECT p IS NULL AS is_null FROM unnest(
    prepack.score(ARRAY['a', repeat('long text ', 10485760), 'b'], 'c', on_error => 'null')) p;
SELECT count(prepack.score(CASE i WHEN 2 THEN repeat('long text ', 10485760) ELSE 'a' END, 'c', on_error => 'null'))
FROM generate_series(1, 3) i;

SELECT state_of($$SELECT prepack.generate(repeat('long text ', 10485760), 'x')$$) AS instruction,
    state_of($$SELECT prepack.classify('x', ARRAY[repeat('a', 52428800), repeat('b', 52428800)])$$) AS labels,
    state_of($$SELECT prepack.relevance(repeat('long text ', 10485760), '{a,b}'::text[])$$) AS query;

-- the session lives on
SELECT prepack.generate('x') IS NOT NULL AS lives;
DROP TABLE argument, setting;
DROP FUNCTION state_of;
