-- Bad arguments: the SQLSTATE, the words, and a session that lives on.
\set VERBOSITY verbose
\set SHOW_CONTEXT never
SET prepack.model = 'dummy';
SELECT prepack.wait_until_ready('30 s');
CREATE FUNCTION state_of(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ' ' || SQLERRM;
END $$;

-- labels
SELECT state_of($$SELECT prepack.classify('x', '{}')$$);
SELECT state_of($$SELECT prepack.classify('x', '{a}')$$);
SELECT state_of($$SELECT prepack.classify('x', '{a,a}')$$);
SELECT state_of($$SELECT prepack.classify('x', ARRAY['a', NULL])$$);
SELECT state_of($$SELECT prepack.classify('x', ARRAY['a', ''])$$);
SELECT state_of($$SELECT prepack.classify('x', '{{a,b},{c,d}}')$$);
SELECT state_of($$SELECT prepack.classify('x', (SELECT array_agg(i::text)
    FROM generate_series(1, 10000) i)) IS NOT NULL$$);
SELECT state_of($$SELECT prepack.classify('x', (SELECT array_agg(i::text) FROM generate_series(1, 10001) i))$$);
SELECT state_of($$SELECT prepack.classify('x', '{a,b}', descriptions => '{one}')$$);
SELECT state_of($$SELECT prepack.classify(ARRAY[['a','b'],['c','d']], '{a,b}')$$);

-- numbers at their borders
SELECT state_of($$SELECT prepack.is_true('x', 'c', threshold => -0.1)$$);
SELECT state_of($$SELECT prepack.is_true('x', 'c', threshold => 1.1)$$);
SELECT state_of($$SELECT prepack.is_true('x', 'c', threshold => 'NaN')$$);
SELECT state_of($$SELECT prepack.generate('x', max_tokens => 0)$$);
SELECT state_of($$SELECT prepack.generate('x', max_tokens => 1)$$);
SELECT state_of($$SELECT prepack.generate('x', max_tokens => 1048576)$$);
SELECT state_of($$SELECT prepack.generate('x', max_tokens => 1048577)$$);
SELECT state_of($$SELECT prepack.generate('x', max_tokens => -2147483648)$$);
SELECT state_of($$SELECT prepack.generate('x', temperature => -1)$$);
SELECT state_of($$SELECT prepack.generate('x', temperature => 'NaN')$$);
SELECT state_of($$SELECT prepack.generate('x', temperature => 'Infinity')$$);
SELECT state_of($$SELECT prepack.generate('x', top_p => 0)$$);
SELECT state_of($$SELECT prepack.generate('x', top_p => 1.5)$$);
SELECT state_of($$SELECT prepack.generate('x', seed => -9223372036854775808, temperature => 1)$$);
SELECT state_of($$SELECT prepack.generate('x', stop => array_fill('s'::text, ARRAY[17]))$$);
SELECT state_of($$SELECT prepack.generate('x', stop => ARRAY[''])$$);
SELECT state_of($$SELECT prepack.generate('x', on_error => 'ignore')$$);
SELECT state_of($$SELECT prepack.classify('x', '{a,b}', min_prob => 2)$$);

-- models
SELECT state_of($$SELECT prepack.generate('x', model => 'nobody')$$);
SELECT state_of($$SELECT prepack.register_model('x', '../etc/passwd')$$);
SELECT state_of($$SELECT prepack.register_model('x', '/etc/passwd')$$);
SELECT state_of($$SELECT prepack.register_model('', 'x.gguf')$$);
SELECT state_of($$SELECT prepack.register_model('x', 'x.gguf', '{"kind": "magic"}')$$);
SELECT state_of($$SELECT prepack.drop_model('dummy')$$);
SELECT state_of($$SELECT prepack.set_default_model('nobody')$$);

-- schemas
SELECT state_of($$SELECT prepack.extract('x', '{}')$$);
SELECT state_of($$SELECT prepack.extract('x', '[1]')$$);
SELECT state_of($$SELECT prepack.extract('x', '{"a": 1}')$$);
SELECT state_of($$SELECT prepack.log_likelihood(ARRAY['a'], ARRAY['b', 'c'])$$);

-- the session lives on
SELECT prepack.generate('x') IS NOT NULL;
DROP FUNCTION state_of;
