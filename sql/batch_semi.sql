-- Calls whose result meets a subquery: EXISTS, NOT EXISTS, IN, NOT IN, ANY, and calls inside of it.
SET prepack.model = 'dummy';
SELECT prepack.wait_until_ready('30 s');
CREATE TABLE person AS SELECT i AS id, nullif('text ' || i % 7, 'text 3') AS body, nullif(i % 5, 4) AS k
    FROM generate_series(1, 40) i;
CREATE TABLE job AS SELECT i AS id, nullif('text ' || i % 11, 'text 8') AS body, nullif(i % 6, 0) AS k
    FROM generate_series(1, 30) i;
CREATE TABLE label AS SELECT unnest('{a,b}'::text[]) AS name;
ANALYZE person, job, label;

-- how many rows differ from those without the node, and whether there are any
CREATE FUNCTION differs(query text, OUT rows text, OUT differing bigint) LANGUAGE plpgsql AS $$
BEGIN
    SET LOCAL prepack.enabled = on;
    EXECUTE 'CREATE TEMP TABLE with_node AS ' || query;
    SET LOCAL prepack.enabled = off;
    EXECUTE 'CREATE TEMP TABLE without_node AS ' || query;
    SELECT CASE count(*) WHEN 0 THEN 'none' ELSE 'some' END INTO rows FROM with_node;
    SELECT count(*) INTO differing FROM ((TABLE with_node EXCEPT ALL TABLE without_node) UNION ALL
        (TABLE without_node EXCEPT ALL TABLE with_node)) d;
    DROP TABLE with_node, without_node;
END $$;
-- the same, by each algorithm of joins; the kinds that keep the rows of the hash table find partners at any time
CREATE FUNCTION joins_differ(query text, OUT rows text, OUT differing bigint) LANGUAGE plpgsql AS $$
DECLARE
    way text;
    one record;
BEGIN
    differing := 0;
    FOREACH way IN ARRAY '{hashjoin,mergejoin,nestloop}'::text[] LOOP
        SET LOCAL enable_hashjoin = off;
        SET LOCAL enable_mergejoin = off;
        SET LOCAL enable_nestloop = off;
        PERFORM set_config('enable_' || way, 'on', true);
        SELECT * INTO one FROM differs(query);
        rows := CASE WHEN rows <> one.rows THEN 'unlike' ELSE one.rows END;
        differing := differing + one.differing;
    END LOOP;
END $$;

-- a condition over both sides: rounds; over one side: before the join
SET enable_hashjoin = off; SET enable_nestloop = off;
EXPLAIN (COSTS OFF) SELECT id FROM person p WHERE EXISTS
    (SELECT FROM job j WHERE j.k = p.k AND prepack.is_true(p.body || j.body, 'c'));
EXPLAIN (COSTS OFF) SELECT id FROM person p WHERE NOT EXISTS
    (SELECT FROM job j WHERE j.k = p.k AND prepack.is_true(p.body || j.body, 'c'));
SET enable_nestloop = on; SET enable_mergejoin = off;
EXPLAIN (COSTS OFF) SELECT id FROM person p WHERE NOT EXISTS
    (SELECT FROM job j WHERE j.id < p.id AND prepack.is_true(p.body || j.body, 'c'));
RESET enable_hashjoin; RESET enable_nestloop; RESET enable_mergejoin;

-- the same rows as without the node
SELECT * FROM joins_differ($$SELECT id, body FROM person p WHERE EXISTS
    (SELECT FROM job j WHERE j.k = p.k AND prepack.is_true(p.body || j.body, 'c'))$$);
SELECT * FROM joins_differ($$SELECT id, body FROM person p WHERE NOT EXISTS
    (SELECT FROM job j WHERE j.k = p.k AND prepack.is_true(p.body || j.body, 'c'))$$);
SELECT * FROM joins_differ($$SELECT id FROM person p WHERE EXISTS
    (SELECT FROM job j WHERE j.k = p.k AND prepack.is_true(p.body || j.body, 'c') AND prepack.score(j.body, 'd') > 0.3
     AND prepack.score(prepack.generate('Say', p.body), 'e') > 0.3)$$);
SELECT * FROM joins_differ($$SELECT id FROM person p WHERE NOT EXISTS
    (SELECT FROM job j WHERE j.k = p.k AND (j.id < 9 OR prepack.is_true(p.body || j.body, 'c'))
     AND prepack.classify(j.body, '{a,b}') = 'a')$$);
SELECT * FROM joins_differ($$SELECT id FROM person p WHERE NOT EXISTS
    (SELECT FROM job j WHERE j.k = p.k AND prepack.is_true(p.body, 'c'))$$);
SELECT * FROM joins_differ($$SELECT id FROM person p WHERE k IN
    (SELECT k FROM job j WHERE prepack.is_true(p.body || j.body, 'c'))$$);
-- everybody, and nobody, has a partner; a call in the rows that the join returns; a condition that cannot wait
SELECT * FROM joins_differ($$SELECT id FROM person p WHERE EXISTS
    (SELECT FROM job j WHERE j.k = p.k AND prepack.score(coalesce(p.body, j.body, ''), 'c') < 2)$$);
SELECT * FROM joins_differ($$SELECT id FROM person p WHERE EXISTS
    (SELECT FROM job j WHERE j.k = p.k AND prepack.score(p.body || j.body, 'c') > 2)$$);
SELECT * FROM joins_differ($$SELECT prepack.classify(p.body, '{a,b}') AS l, count(*) FROM person p WHERE EXISTS
    (SELECT FROM job j WHERE j.k = p.k AND prepack.is_true(p.body || j.body, 'c')) GROUP BY 1$$);
SELECT * FROM joins_differ($$SELECT id FROM person p WHERE EXISTS
    (SELECT FROM job j WHERE j.k = p.k AND (random() < 2 AND prepack.is_true(p.body || j.body, 'c')))$$);
-- joins of joins: a semi join hands its partner's key on; correlated ones start over for each row
SELECT * FROM joins_differ($$SELECT id FROM person p WHERE EXISTS (SELECT FROM job j WHERE j.k = p.k AND EXISTS
    (SELECT FROM person q WHERE q.k = j.k AND prepack.is_true(coalesce(j.body, 'x') || q.k, 'd')))$$);
SELECT * FROM joins_differ($$SELECT id FROM person p WHERE EXISTS
    (SELECT FROM job j WHERE j.k = p.k AND prepack.is_true(p.body || j.body, 'c')) AND NOT EXISTS
    (SELECT FROM job j WHERE j.k = p.k AND prepack.score(p.body || j.body, 'd') > 0.8)$$);
SELECT * FROM joins_differ($$SELECT p.id, (SELECT count(*) FROM job j WHERE j.id < p.id AND EXISTS
    (SELECT FROM person q WHERE q.k = j.k AND prepack.is_true(q.body || j.body || p.k, 'c'))) FROM person p
    WHERE p.id < 9$$);
SELECT * FROM joins_differ($$SELECT p.id, l.id AS j FROM person p, LATERAL (SELECT j.id FROM job j WHERE j.k = p.k
    AND NOT EXISTS (SELECT FROM person q WHERE q.k = j.k AND prepack.is_true(q.body || j.body || p.id % 2, 'c'))) l$$);
-- NOT IN, ANY and ALL, with NULLs among the answers and among what they meet
SELECT * FROM differs($$SELECT id FROM person WHERE prepack.classify(body, '{a,b,c}') NOT IN
    (SELECT name FROM label)$$);
SELECT * FROM differs($$SELECT id FROM person WHERE prepack.classify(body, '{a,b,c}') NOT IN
    (SELECT nullif(name, 'b') FROM label)$$);
SELECT * FROM differs($$SELECT id FROM person WHERE prepack.classify(body, '{a,b,c}') = ANY
    (SELECT prepack.classify(body, '{a,b,c}') FROM job j WHERE j.k = person.k)$$);
SELECT * FROM differs($$SELECT id, prepack.score(body, 'c') > ALL (SELECT prepack.score(j.body, 'c') FROM job j
    WHERE j.id < person.id AND j.body IS NOT NULL) AS best FROM person$$);
SELECT * FROM differs($$SELECT id FROM person p WHERE id < 3 OR EXISTS
    (SELECT FROM job j WHERE j.k = p.k AND prepack.is_true(p.body || j.body, 'c'))$$);
-- batches of one row, windows smaller than an outer row's candidates
SET prepack.batch_rows = 1;
SELECT * FROM joins_differ($$SELECT id FROM person p WHERE NOT EXISTS
    (SELECT FROM job j WHERE j.k = p.k AND prepack.is_true(p.body || j.body, 'c'))$$);
RESET prepack.batch_rows;
SET work_mem = '64kB';
SELECT * FROM joins_differ($$SELECT p.id FROM person p WHERE EXISTS
    (SELECT FROM (SELECT 'text ' || i % 60 AS body, repeat('x', 700) AS filler, i % 3 AS k
         FROM generate_series(1, 450) i) j
     WHERE j.k = p.k AND prepack.score(j.body || length(j.filler) || p.id, 'c') > 0.98)$$);
SELECT * FROM joins_differ($$SELECT p.id FROM person p WHERE p.id < 9 AND NOT EXISTS
    (SELECT FROM (SELECT 'text ' || i % 60 AS body, repeat('x', 700) AS filler, i % 3 AS k
         FROM generate_series(1, 450) i) j
     WHERE j.k = p.k AND prepack.score(j.body || length(j.filler) || p.id, 'c') > 0.98)$$);
RESET work_mem;

-- The calls are those of the join, at most twice as many: here each row's tenth candidate decides, of 40 rows,
-- which make no batch; and where rows are enough for one, just those. Fewer rows, under a limit.
CREATE FUNCTION computed(query text, OUT calls int, OUT in_time boolean) LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ' || query LOOP
        calls := coalesce(substring(line FROM 'Rows Computed: (\d+)')::int, calls);
        in_time := coalesce(substring(line FROM 'Batches: (\d+)$')::int <= 12, in_time);
    END LOOP;
END $$;
SET enable_hashjoin = off; SET enable_mergejoin = off;
SELECT calls BETWEEN 400 AND 800 AS bounded, in_time FROM computed($$SELECT p.id FROM person p WHERE EXISTS
    (SELECT FROM generate_series(1, 100) j
     WHERE p.id <> j + 1000 AND (prepack.score(p.id || ' ' || j, 'c') > 2 OR j = 10))$$);
SET prepack.batch_rows = 16;
SELECT calls FROM computed($$SELECT p.id FROM person p WHERE id <= 16 AND EXISTS
    (SELECT FROM generate_series(1, 100) j
     WHERE p.id <> j + 1000 AND (prepack.score(p.id || ' ' || j, 'c') > 2 OR j = 10))$$);
RESET prepack.batch_rows;
SELECT calls < 100 AS a_few FROM computed($$SELECT 1 FROM generate_series(1, 1000) p WHERE EXISTS
    (SELECT FROM generate_series(1, 5) j WHERE p <> j + 1000 AND prepack.score(p || ' ' || j, 'c') < 2) LIMIT 3$$);
RESET enable_hashjoin; RESET enable_mergejoin;
-- what a subquery is compared with, and the subquery's own list and condition
SELECT calls, in_time FROM computed($$SELECT id FROM person WHERE
    prepack.classify(id::text, '{a,b,c}') NOT IN (SELECT name FROM label)$$);
SELECT calls, in_time FROM computed($$SELECT id FROM person WHERE
    prepack.score(id::text, 'c') > ALL (SELECT length(name) FROM label)$$);
SELECT calls, in_time FROM computed($$SELECT id FROM person WHERE
    body NOT IN (SELECT prepack.generate('Say', id::text) FROM job)$$);
SELECT calls, in_time FROM computed($$SELECT id FROM person WHERE
    body NOT IN (SELECT name FROM label WHERE prepack.is_true(name, 'c'))$$);

-- prepared, under a cursor read backwards, where rows are written
PREPARE partners(int) AS SELECT count(*) FROM person p WHERE p.id <= $1 AND EXISTS
    (SELECT FROM job j WHERE j.k = p.k AND prepack.score(p.body || j.body, 'c') < 2);
EXECUTE partners(10);
EXECUTE partners(40);
DEALLOCATE partners;
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT p.id FROM person p WHERE p.id < 7 AND NOT EXISTS
    (SELECT FROM job j WHERE j.k = p.k AND prepack.score(p.body || j.body, 'c') > 2) ORDER BY p.id;
FETCH ALL FROM c;
FETCH BACKWARD 2 FROM c;
ROLLBACK;
BEGIN;
DELETE FROM person p WHERE NOT EXISTS
    (SELECT FROM job j WHERE j.k = p.k AND prepack.score(p.body || j.body, 'c') < 2);
SELECT count(*), count(body), count(k) FROM person;
ROLLBACK;
DROP FUNCTION joins_differ, differs, computed;
DROP TABLE person, job, label;
