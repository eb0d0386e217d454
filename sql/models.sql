-- The registry: kinds read from the files, defaults, and who may use what. The models are the small ones of
-- test/data, whose answers mean nothing.
SELECT prepack.wait_until_ready('30 s');
\set VERBOSITY terse
SELECT prepack.register_model('writer', 'llama/model.gguf');
SELECT prepack.register_model('embedder', 'bert');
SELECT prepack.register_model('ranker', 'bert-rerank');
SELECT prepack.register_model('later', 'not-there.gguf', '{"kind": "embed"}');
SELECT prepack.register_model('never', 'not-there.gguf');
SELECT prepack.register_model('never', 'llama/config.json');
SELECT prepack.register_model('never', '.');
SELECT prepack.register_model('writer', 'bert');
SELECT name, kind, loaded FROM prepack.models ORDER BY name;

-- What can do what
SELECT prepack.generate('x', model => 'embedder');
SELECT prepack.embed('x', model => 'writer');
SELECT prepack.classify('x', '{a,b}', model => 'ranker');
SELECT prepack.embed('x', model => 'later');
SELECT array_length(prepack.embed('x', model => 'embedder'), 1) > 0 AS embeds,
    prepack.relevance('q', 'x', model => 'ranker') BETWEEN 0 AND 1 AS judges,
    prepack.count_tokens('x', model => 'writer') > 0 AS counts,
    prepack.generate('x', model => 'writer', max_tokens => 4) IS NOT NULL AS writes;
SELECT name, loaded FROM prepack.models WHERE name <> 'dummy' ORDER BY name;
SELECT model, loaded, bytes > 0 AS has_bytes FROM prepack.load_model('writer');
SELECT prepack.unload_model('writer');
SELECT loaded FROM prepack.models WHERE name = 'writer';
-- a session that knew it loaded loads it again
SELECT prepack.generate('x', model => 'writer', max_tokens => 4) IS NOT NULL AS writes;

-- Defaults: the only one of its kind, else the one that was set
SELECT prepack.generate('x', max_tokens => 4) IS NOT NULL AS writes;
SELECT prepack.register_model('second', 'llama');
SELECT prepack.generate('x', max_tokens => 4) IS NOT NULL AS writes;
SELECT prepack.set_default_model('second');
SELECT prepack.generate('x', max_tokens => 4) IS NOT NULL AS writes;
SELECT prepack.set_default_model('second', 'embed');

-- prepack.allowed_models, which only a superuser sets
CREATE ROLE prepack_analyst;
SELECT prepack.grant_usage('prepack_analyst');
SET prepack.allowed_models = 'writer, dummy';
SET ROLE prepack_analyst;
SET prepack.allowed_models = '';
SET prepack.statement_token_limit = 0;
SELECT prepack.generate('x', model => 'writer', max_tokens => 4) IS NOT NULL AS writes;
SELECT prepack.generate('x', model => 'second', max_tokens => 4);
SELECT prepack.score(ARRAY['x'], 'c', model => 'second');
SELECT prepack.generate('x', max_tokens => 4);
SELECT count(prepack.classify(i::text, '{a,b}', model => 'second')) FROM generate_series(1, 3) i;
RESET ROLE;
RESET prepack.allowed_models;

-- prepack.statement_token_limit, of scalar calls, arrays, batches and function bodies
SET prepack.model = 'dummy';
SET prepack.statement_token_limit = 50;
SELECT prepack.score('x', 'c') IS NOT NULL AS few;
SELECT prepack.score(array_fill('some words more'::text, ARRAY[1000]), 'c');
SELECT count(prepack.score('some words ' || i, 'c')) FROM generate_series(1, 1000) i;
DO $$ BEGIN FOR i IN 1 .. 1000 LOOP PERFORM prepack.score('some words ' || i, 'c'); END LOOP; END $$;
SELECT prepack.score('x', 'c') IS NOT NULL AS counted_anew;
RESET prepack.statement_token_limit;

DROP OWNED BY prepack_analyst;
DROP ROLE prepack_analyst;
SELECT prepack.drop_model(name) FROM prepack.models WHERE name <> 'dummy';
