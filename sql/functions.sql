-- The functions over text on the built-in model: shapes, NULLs, array twins, order.
SET prepack.model = 'dummy';
SET prepack.embed_model = 'dummy';
SELECT prepack.wait_until_ready('30 s');

-- NULL in, NULL out
SELECT prepack.generate(NULL), prepack.classify(NULL, '{a,b}'), prepack.is_true(NULL, 'x'),
    prepack.score('x', NULL), prepack.embed(NULL::text), prepack.count_tokens(NULL::text),
    prepack.relevance('q', NULL::text), prepack.log_likelihood('a', NULL::text);

-- the same input gives the same answer
SELECT prepack.generate('Say hello.') = prepack.generate('Say hello.') AS same,
    prepack.generate('Say hello.') <> prepack.generate('Say goodbye.') AS differs;
SELECT prepack.classify('a text', '{bug,feature,question}') = ANY ('{bug,feature,question}');
SELECT round(sum(p)::numeric, 4) FROM unnest(prepack.classify_probs('a text', '{bug,feature,question}')) p;
SELECT array_length(prepack.classify_probs('a text', '{bug,feature,question}'), 1);
SELECT prepack.classify_multi('a text', '{bug,feature}', 0.0), prepack.classify_multi('a text', '{bug}', 1.0);
SELECT prepack.is_true('x', 'is a letter', threshold => 0), prepack.score('x', 'is a letter') BETWEEN 0 AND 1;
SELECT jsonb_typeof(prepack.extract('Ann, 41', '{"name": "string", "age": "integer, in years"}'));
SELECT array_length(prepack.embed('x'), 1) > 0, round(prepack.similarity('x', 'x')::numeric, 3);
SELECT prepack.count_tokens('three small words');
SELECT prepack.log_likelihood('a', 'b') < 0;

-- array twins: same length, same order, NULL in its place, equal to the scalar calls
SELECT prepack.classify(ARRAY['one', NULL, 'two', 'one'], '{a,b,c}')
    = ARRAY[prepack.classify('one', '{a,b,c}'), NULL, prepack.classify('two', '{a,b,c}'),
            prepack.classify('one', '{a,b,c}')] AS equal;
SELECT prepack.generate('Say', ARRAY['x', 'y']) = ARRAY[prepack.generate('Say', 'x'), prepack.generate('Say', 'y')];
SELECT prepack.score('{}'::text[], 'c'), prepack.is_true(NULL::text[], 'c'), prepack.count_tokens('{a b,c}'::text[]);
SELECT count(*), count(e) FROM prepack.embed(ARRAY['a', NULL, 'b']) e;
SELECT prepack.relevance('q', '{}'::text[]), array_length(prepack.relevance('q', ARRAY['a', 'b']), 1);
SELECT ord, score IS NOT NULL AS has_score, document FROM prepack.rank('q', ARRAY['a', 'b', 'c'], 2) ORDER BY ord;
SELECT count(*) > 0 FROM prepack.stream('Say something.');

-- min_prob turns an unsure answer into NULL
SELECT prepack.classify('a text', '{bug,feature}', min_prob => 1.0);

-- options
SELECT length(prepack.generate('Say', max_tokens => 1)) <= length(prepack.generate('Say', max_tokens => 50));
SELECT prepack.generate('Say', temperature => 1, seed => 7) = prepack.generate('Say', temperature => 1, seed => 7);

-- prompts are logged where the administrator asks for it, and cut
SET client_min_messages = log;
SELECT prepack.generate('Not logged.') IS NOT NULL;
SET prepack.track_prompts = on;
SELECT prepack.score(ARRAY['one', 'two'], 'it is odd') IS NOT NULL;
SELECT prepack.generate('Say', repeat('ä', 501)) IS NOT NULL;
RESET prepack.track_prompts;
RESET client_min_messages;
