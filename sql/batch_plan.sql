-- Where Batch nodes stand: every place an expression can stand in.
SET prepack.model = 'dummy';
SET prepack.embed_model = 'dummy';
SELECT prepack.wait_until_ready('30 s');
CREATE TABLE ticket (id int PRIMARY KEY, body text, kind text);
INSERT INTO ticket SELECT i, 'text ' || i % 7, 'k' || i % 3 FROM generate_series(1, 40) i;
ANALYZE ticket;
CREATE TABLE copy_of (id int, label text);

-- plans without costs: only where the node is
EXPLAIN (COSTS OFF, VERBOSE) SELECT id, prepack.classify(body, '{a,b}') FROM ticket;
EXPLAIN (COSTS OFF) SELECT id FROM ticket WHERE prepack.is_true(body, 'c') AND id < 10;
EXPLAIN (COSTS OFF) SELECT id FROM ticket ORDER BY prepack.score(body, 'c');
EXPLAIN (COSTS OFF) SELECT prepack.classify(body, '{a,b}'), count(*) FROM ticket GROUP BY 1;
EXPLAIN (COSTS OFF) SELECT kind, sum(prepack.score(body, 'c')) FROM ticket GROUP BY kind;
EXPLAIN (COSTS OFF) SELECT kind FROM ticket GROUP BY kind HAVING prepack.is_true(string_agg(body, ' '), 'c');
EXPLAIN (COSTS OFF) SELECT a.id FROM ticket a JOIN ticket b ON prepack.is_true(a.body || b.body, 'c');
-- keys of a hash join, on either side
CREATE TABLE label AS SELECT unnest('{a,b}'::text[]) AS name, unnest('{1,2}'::int[]) AS n; ANALYZE label;
SET enable_nestloop = off; SET enable_mergejoin = off;
EXPLAIN (COSTS OFF) SELECT t.id, l.n FROM ticket t JOIN label l ON l.name = prepack.classify(t.body, '{a,b}');
EXPLAIN (COSTS OFF) SELECT t.id, l.n FROM label l LEFT JOIN ticket t ON l.name = prepack.classify(t.body, '{a,b}');
RESET enable_nestloop; RESET enable_mergejoin;
EXPLAIN (COSTS OFF) SELECT prepack.score(prepack.generate('Say', body), 'c') FROM ticket;
EXPLAIN (COSTS OFF) INSERT INTO copy_of SELECT id, prepack.classify(body, '{a,b}') FROM ticket;
EXPLAIN (COSTS OFF) UPDATE ticket SET kind = prepack.classify(body, '{a,b}');
EXPLAIN (COSTS OFF) DELETE FROM copy_of RETURNING prepack.classify(label, '{a,b}');
EXPLAIN (COSTS OFF) SELECT CASE WHEN id > 5 THEN prepack.classify(body, '{a,b}') END FROM ticket;
-- PostgreSQL 18 shows the window, too.
CREATE FUNCTION plan_of(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
        IF line !~ 'Window:' THEN
            RETURN NEXT line;
        END IF;
    END LOOP;
END $$;
SELECT plan_of($$SELECT row_number() OVER (ORDER BY prepack.score(body, 'c')) FROM ticket$$);
DROP FUNCTION plan_of;
SET prepack.enabled = off;
EXPLAIN (COSTS OFF) SELECT id, prepack.classify(body, '{a,b}') FROM ticket;
RESET prepack.enabled;

-- the same rows with and without the node, in every place
CREATE FUNCTION differs(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    SET LOCAL prepack.enabled = on;
    EXECUTE 'CREATE TEMP TABLE with_node AS ' || query;
    SET LOCAL prepack.enabled = off;
    EXECUTE 'CREATE TEMP TABLE without_node AS ' || query;
    EXECUTE 'SELECT count(*) FROM ((TABLE with_node EXCEPT ALL TABLE without_node) UNION ALL '
        '(TABLE without_node EXCEPT ALL TABLE with_node)) d' INTO n;
    IF (SELECT count(*) FROM with_node) = 0 THEN
        RAISE 'the query returns nothing';
    END IF;
    DROP TABLE with_node, without_node;
    RETURN n;
END $$;
SELECT differs($$SELECT id, prepack.classify(body, '{a,b,c}') FROM ticket$$);
SELECT differs($$SELECT id FROM ticket WHERE prepack.score(body, 'c') > 0.3 AND prepack.score(body, 'd') > 0.2$$);
SELECT differs($$SELECT prepack.classify(body, '{a,b,c}') l, count(*) FROM ticket GROUP BY 1$$);
SELECT differs($$SELECT kind, sum(prepack.score(body, 'c')) FILTER (WHERE id > 5) FROM ticket GROUP BY kind$$);
SELECT differs($$SELECT kind, prepack.generate('Say', string_agg(body, ',' ORDER BY id)) FROM ticket GROUP BY kind
    HAVING prepack.score(max(body), 'c') > 0$$);
SET enable_nestloop = off; SET enable_mergejoin = off;
SELECT differs($$SELECT t.id, l.n FROM ticket t JOIN label l ON l.name = prepack.classify(t.body, '{a,b}')$$);
SELECT differs($$SELECT t.id, l.n FROM label l LEFT JOIN ticket t
    ON l.name = prepack.classify(t.body, '{a,b}') AND l.n > 1$$);
SELECT differs($$SELECT a.id, b.id AS b FROM ticket a FULL JOIN ticket b
    ON prepack.classify(a.body, '{a,b,c}') = prepack.classify(b.body, '{a,b,c}') AND a.id = b.id$$);
RESET enable_nestloop; RESET enable_mergejoin;
SELECT differs($$SELECT a.id, b.id AS b FROM ticket a JOIN ticket b ON a.id = b.id + 1
    AND prepack.score(a.body || b.body, 'c') > 0.2$$);
-- a condition that proves one partner at most moves above the join: the join must not stop at the first
CREATE UNIQUE INDEX label_name ON label (name);
SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_indexscan = off; SET enable_bitmapscan = off;
SET enable_indexonlyscan = off;
SELECT differs($$SELECT t.id, l.n FROM ticket t JOIN label l ON l.name = prepack.classify(t.body, '{a,b}')$$);
RESET enable_hashjoin; RESET enable_mergejoin; RESET enable_indexscan; RESET enable_bitmapscan;
RESET enable_indexonlyscan;
DROP INDEX label_name;
SELECT differs($$SELECT id, prepack.score(prepack.generate('Say', body), 'c') FROM ticket$$);
SELECT differs($$SELECT id, CASE WHEN id > 20 THEN prepack.classify(body, '{a,b}') WHEN id > 10 THEN 'x' END,
    coalesce(CASE WHEN id % 2 = 0 THEN kind END, prepack.generate('Say', body)) AS c,
    id > 30 AND prepack.is_true(body, 'c') AS a, id > 30 OR prepack.is_true(body, 'd') AS o FROM ticket$$);
SELECT differs($$SELECT id, (SELECT max(prepack.score(t.body || u.body, 'c')) FROM ticket u WHERE u.id < 4)
    FROM ticket t$$);
SELECT differs($$WITH c AS MATERIALIZED (SELECT id, prepack.classify(body, '{a,b}') l FROM ticket)
    SELECT * FROM c WHERE l = 'a'$$);
SELECT differs($$SELECT id, prepack.classify(body, '{a,b}') FROM ticket
    UNION ALL SELECT -id, prepack.generate(body) FROM ticket$$);
SELECT differs($$SELECT id, rank() OVER (PARTITION BY kind ORDER BY prepack.score(body, 'c')) FROM ticket$$);
SELECT differs($$SELECT id, sum(prepack.score(body, 'c')) OVER (ORDER BY id) FROM ticket$$);
SELECT differs($$SELECT id, unnest(ARRAY[prepack.classify(body, '{a,b}'), body]) FROM ticket$$);
SELECT differs($$SELECT DISTINCT prepack.classify(body, '{a,b,c,d}') FROM ticket$$);
SELECT differs($$SELECT id FROM ticket ORDER BY prepack.score(body, 'c'), id LIMIT 7$$);
SELECT differs($$SELECT id, prepack.classify(body, ARRAY['x', kind]) FROM ticket$$);
SELECT differs($$SELECT id, prepack.classify(nullif(body, 'text 3'), '{a,b}') FROM ticket$$);
SELECT differs($$SELECT t.id, l.s FROM ticket t, LATERAL (SELECT prepack.score(t.body, 'c') AS s) l$$);
SELECT differs($$SELECT id, prepack.embed(body) FROM ticket$$);

-- under a parallel plan: the workers scan, the leader calls
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
EXPLAIN (COSTS OFF) SELECT id, prepack.classify(body, '{a,b}') FROM ticket WHERE kind <> 'none';
SELECT differs($$SELECT id, prepack.classify(body, '{a,b}') FROM ticket WHERE kind <> 'none'$$);
SELECT differs($$SELECT id FROM ticket WHERE kind <> 'none' AND prepack.is_true(body, 'c')$$);
SELECT differs($$SELECT a.id, b.id AS b FROM ticket a LEFT JOIN ticket b ON a.id = b.id + 1
    AND prepack.score(a.body || b.body, 'c') > 0.5 WHERE a.kind <> 'none'$$);
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
RESET max_parallel_workers_per_gather;

-- writes
INSERT INTO copy_of SELECT id, prepack.classify(body, '{a,b}') FROM ticket;
SELECT count(*) FROM copy_of c JOIN ticket t USING (id) WHERE c.label = prepack.classify(t.body, '{a,b}');
UPDATE ticket SET kind = prepack.classify(body, '{p,q}');
SELECT count(*) FROM ticket WHERE kind IN ('p', 'q');
DELETE FROM copy_of WHERE id <= 2 RETURNING id, prepack.classify(label, '{x,y}') IN ('x', 'y') AS known;
WITH moved AS (DELETE FROM copy_of WHERE id <= 4 RETURNING *)
SELECT id, prepack.score(label, 'c') >= 0 AS ok FROM moved;
COPY (SELECT id, prepack.classify(body, '{a,b}') IS NOT NULL FROM ticket WHERE id < 3) TO STDOUT;

-- prepared statements, cursors (also backwards), PL/pgSQL, a limit
PREPARE p(int) AS SELECT count(prepack.classify(body, '{a,b}')) FROM ticket WHERE id <= $1;
EXECUTE p(3);
EXECUTE p(5);
DEALLOCATE p;
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT id, prepack.classify(body, '{a,b}') IS NOT NULL FROM ticket ORDER BY id;
FETCH 3 FROM c;
FETCH BACKWARD 2 FROM c;
FETCH LAST FROM c;
COMMIT;
DO $$
DECLARE
    r record;
    n int := 0;
BEGIN
    FOR r IN SELECT prepack.classify(body, '{a,b}') l FROM ticket LOOP
        n := n + 1;
        EXIT WHEN n = 5;
    END LOOP;
    RAISE NOTICE '% rows', n;
END $$;
SELECT count(*) FROM (SELECT prepack.classify(body, '{a,b}') FROM ticket LIMIT 3) s;

-- equal inputs are computed once; guards keep calls from rows that do not reach them
CREATE FUNCTION computed(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ' || query LOOP
        IF line ~ 'Rows (Read|Computed)' THEN
            RETURN NEXT btrim(line);
        END IF;
    END LOOP;
END $$;
SELECT computed($$SELECT prepack.classify(body, '{a,b}') FROM ticket$$);
SELECT computed($$SELECT CASE WHEN id > 35 THEN prepack.classify(body || id, '{a,b}') END FROM ticket$$);
SELECT computed($$SELECT id FROM ticket WHERE id < 4 AND prepack.is_true(body, 'c')$$);
-- more inputs than work_mem remembers, and labels that differ by row: still right, still one call a text
SET work_mem = '64kB';
SET hash_mem_multiplier = 1;
SELECT count(*), count(DISTINCT label) FROM (
    SELECT i % 5000 AS text, prepack.classify((i % 5000)::text, ARRAY['a', 'b', (i % 3)::text]) AS label
    FROM generate_series(0, 9999) i) s;
SELECT count(*) FROM (
    SELECT prepack.classify((i % 5000)::text, '{a,b,c}') AS one,
        prepack.classify((i % 5000)::text || '', '{a,b,c}') AS two
    FROM generate_series(0, 9999) i) s WHERE one IS DISTINCT FROM two;
RESET work_mem;
RESET hash_mem_multiplier;

-- ON conditions of outer joins: candidates' calls go in batches, rows without a partner come once, with NULLs
CREATE TABLE person AS SELECT i AS id, nullif('text ' || i % 7, 'text 3') AS body, nullif(i % 5, 4) AS k
    FROM generate_series(1, 24) i;
CREATE TABLE job AS SELECT i AS id, nullif('text ' || i % 11, 'text 8') AS body, nullif(i % 6, 0) AS k
    FROM generate_series(1, 20) i;
ANALYZE person, job;
SET enable_mergejoin = off; SET enable_nestloop = off;
EXPLAIN (COSTS OFF, VERBOSE) SELECT p.id, j.id FROM person p LEFT JOIN job j
    ON p.k = j.k AND prepack.is_true(p.body || j.body, 'c') WHERE j.id IS NULL OR j.id < 20;
EXPLAIN (COSTS OFF) SELECT p.id, prepack.classify(j.body, '{a,b}') FROM person p FULL JOIN job j
    ON p.k = j.k AND prepack.is_true(p.body, 'c') AND prepack.score(j.body, 'd') > 0.5
    WHERE coalesce(p.id, 0) < 50 AND prepack.score(coalesce(p.body, j.body), 'e') > 0.1;
SET enable_hashjoin = off; SET enable_nestloop = on;
EXPLAIN (COSTS OFF) SELECT p.id, j.id FROM person p LEFT JOIN job j
    ON p.k = j.k AND prepack.is_true(p.body || j.body, 'c');
SET enable_mergejoin = on; SET enable_nestloop = off;
EXPLAIN (COSTS OFF) SELECT p.id, j.id FROM person p LEFT JOIN job j
    ON p.k = j.k AND prepack.is_true(p.body || j.body, 'c');
RESET enable_hashjoin; RESET enable_nestloop; RESET enable_mergejoin;
-- how many rows differ from those without the node, for each kind of join by each algorithm that can do it: right
-- and full joins merge by nothing but equality
CREATE FUNCTION joins_differ(query text) RETURNS TABLE (kind text, n bigint) LANGUAGE plpgsql AS $$
DECLARE
    way text;
BEGIN
    FOREACH kind IN ARRAY '{left,right,full}'::text[] LOOP
        n := 0;
        FOREACH way IN ARRAY '{hashjoin,mergejoin,nestloop}'::text[] LOOP
            CONTINUE WHEN kind <> 'left' AND way <> 'hashjoin';
            SET LOCAL enable_hashjoin = off;
            SET LOCAL enable_mergejoin = off;
            SET LOCAL enable_nestloop = off;
            PERFORM set_config('enable_' || way, 'on', true);
            n := n + differs(format(query, kind));
        END LOOP;
        RETURN NEXT;
    END LOOP;
END $$;
SELECT * FROM joins_differ($$SELECT p.id, j.id AS j, p.body, j.k FROM person p %s JOIN job j
    ON p.k = j.k AND prepack.score(p.body || j.body, 'c') > 0.8$$);
SELECT * FROM joins_differ($$SELECT p.id, j.id AS j FROM person p %s JOIN job j
    ON p.k = j.k AND prepack.score(p.body, 'c') > 0.5$$);
SELECT * FROM joins_differ($$SELECT p.id, j.id AS j FROM person p %s JOIN job j
    ON p.k = j.k AND prepack.score(j.body, 'c') > 0.5$$);
SELECT * FROM joins_differ($$SELECT p.id, j.id AS j FROM person p %s JOIN job j
    ON p.k = j.k AND p.id <> j.id AND prepack.score(prepack.generate('Say', p.body), 'c') > 0.3
    AND prepack.score(j.body || p.k, 'd') > 0.3$$);
SELECT * FROM joins_differ($$SELECT p.id, j.id AS j FROM person p %s JOIN job j
    ON p.k = j.k AND (p.id < 20 OR prepack.is_true(p.body || j.body, 'c'))$$);
SELECT * FROM joins_differ($$SELECT count(*) FROM person p %s JOIN job j
    ON p.k = j.k AND prepack.score(p.body || j.body, 'c') > 0.8$$);
SELECT * FROM joins_differ($$SELECT p, j.body AS j, prepack.score(j.body, 'e') AS s FROM person p %s JOIN job j
    ON p.k = j.k AND prepack.score(p.body || j.body, 'c') > 0.8
    WHERE j.id IS NULL OR prepack.score(j.body, 'd') > 0.2$$);
-- nobody, and everybody, finds a partner
SELECT * FROM joins_differ($$SELECT p.id, j.id AS j FROM person p %s JOIN job j
    ON p.k = j.k AND prepack.score(p.body || j.body, 'c') > 2$$);
SELECT * FROM joins_differ($$SELECT p.id, j.id AS j FROM person p %s JOIN job j
    ON p.k = j.k AND prepack.score(coalesce(p.body, j.body, ''), 'c') < 2$$);
-- joins of joins, a correlated one that starts over for each row, a limit, a condition that cannot wait
SELECT * FROM joins_differ($$SELECT p.id, j.id AS j, q.id AS q FROM person p %1$s JOIN job j
    ON p.k = j.k AND prepack.score(p.body || j.body, 'c') > 0.8
    %1$s JOIN person q ON q.k = j.k AND prepack.score(q.body || mod(j.id, 3), 'd') > 0.7$$);
SELECT * FROM joins_differ($$SELECT p.id, (SELECT count(*) || ' ' || count(j.id) || ' ' || count(q.id) FROM job j
    %s JOIN person q ON q.k = j.k AND prepack.score(q.body || j.body || p.k, 'c') > 0.7
    WHERE coalesce(j.id, 0) < p.id) AS found FROM person p WHERE p.id < 9$$);
SELECT count(*) FROM (SELECT 1 FROM person p FULL JOIN job j
    ON p.k = j.k AND prepack.is_true(p.body || j.body, 'c') LIMIT 7) s;
SELECT * FROM joins_differ($$SELECT p.id, j.id AS j FROM person p %s JOIN job j
    ON p.k = j.k AND (random() < 2 AND prepack.score(p.body || j.body, 'c') > 0.8)$$);
-- the order of the outer side is kept
SET enable_hashjoin = off; SET enable_nestloop = off;
SELECT count(*), count(*) FILTER (WHERE k < before) AS out_of_order FROM (
    SELECT k, lag(k) OVER () AS before FROM (SELECT p.k FROM person p LEFT JOIN job j
        ON p.k = j.k AND prepack.score(p.body || j.body, 'c') > 0.8 ORDER BY p.k) s) t;
RESET enable_hashjoin; RESET enable_nestloop;
-- the calls are those of the candidates that other conditions leave, equal inputs once
SELECT computed($$SELECT p.id FROM person p LEFT JOIN job j
    ON p.k = j.k AND p.id < 3 AND prepack.is_true(p.id || 'x' || j.id, 'c')$$);
SELECT count(*) FROM person p JOIN job j ON p.k = j.k AND p.id < 3;
-- inner rows that wait for a partner go to disk, and so does the hash table
SET work_mem = '64kB'; SET enable_mergejoin = off; SET enable_nestloop = off;
SELECT count(*), count(p), count(j), sum(p), sum(j) FROM
    (SELECT i AS p, 'text ' || i % 5 AS body, i % 1000 AS k FROM generate_series(1, 4000) i) p FULL JOIN
    (SELECT i AS j, repeat('x', 100) AS filler, i % 2000 AS k FROM generate_series(1, 4000) i) j
    ON p.k = j.k AND prepack.score(p.body || j.filler, 'c') > 2;
RESET work_mem; RESET enable_mergejoin; RESET enable_nestloop;
-- prepared, under a cursor read backwards, and where rows are written
PREPARE joined(int) AS SELECT count(*), count(j.id) FROM person p LEFT JOIN job j
    ON p.k = j.k AND prepack.score(p.body || j.body, 'c') > 0.8 WHERE p.id <= $1;
EXECUTE joined(10);
EXECUTE joined(24);
DEALLOCATE joined;
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT p.id, j.id FROM person p LEFT JOIN job j
    ON p.k = j.k AND prepack.score(p.body || j.body, 'c') > 2 WHERE p.id < 5 ORDER BY p.id;
FETCH ALL FROM c;
FETCH BACKWARD 2 FROM c;
ROLLBACK;
BEGIN;
UPDATE person SET body = j.body FROM person p LEFT JOIN job j
    ON p.k = j.k AND prepack.score(p.body || j.body, 'c') > 2 WHERE person.id = p.id;
SELECT count(*) FROM person WHERE body IS NULL;
ROLLBACK;
DROP FUNCTION joins_differ;
DROP TABLE person, job;

-- operands of index conditions: made on the outer side of a nested loop, in batches
CREATE TABLE topic AS SELECT (ARRAY['a', 'b', 'c', NULL])[1 + i % 4] || i / 40 AS name, i % 3 AS k, i AS n
    FROM generate_series(1, 2000) i;
CREATE INDEX topic_name ON topic (name, k); ANALYZE topic;
SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_bitmapscan = off;
EXPLAIN (COSTS OFF) SELECT t.id, c.n FROM ticket t JOIN topic c ON c.name = prepack.classify(t.body, '{a3,b7}');
EXPLAIN (COSTS OFF) SELECT t.id, c.n FROM ticket t LEFT JOIN LATERAL (SELECT count(*) AS n FROM topic
    WHERE name = lower(prepack.classify(t.body, '{A3,B7}')) AND k = t.id % 3) c ON true;
SET enable_memoize = off;
EXPLAIN (COSTS OFF) SELECT t.id FROM ticket t WHERE EXISTS
    (SELECT FROM topic WHERE name = prepack.classify(t.body, '{a3,b7}'));
SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = on;
EXPLAIN (COSTS OFF) SELECT t.id, c.n FROM ticket t JOIN topic c ON c.name = prepack.classify(t.body, '{a3,b7}');
SELECT differs($$SELECT t.id, c.n FROM ticket t JOIN topic c ON c.name = prepack.classify(t.body, '{a3,b7}')
    AND c.k = t.id % 3$$);
RESET enable_indexscan; RESET enable_indexonlyscan; RESET enable_memoize;
SELECT differs($$SELECT t.id, c.n FROM ticket t LEFT JOIN topic c ON c.name = prepack.classify(t.body, '{a3,d}')$$);
SELECT differs($$SELECT t.id, c.n FROM ticket t, LATERAL (SELECT n FROM topic
    WHERE name = CASE WHEN t.id % 2 = 0 THEN prepack.classify(t.body, '{a3,b7}') ELSE 'c' || t.id END
    ORDER BY n LIMIT 2) c$$);
SELECT differs($$SELECT t.id, c.n FROM ticket t LEFT JOIN LATERAL (SELECT count(*) AS n FROM topic
    WHERE name = ANY (ARRAY[prepack.classify(t.body, '{a3,b7}'), 'c9']) AND k > t.id % 3) c ON true$$);
SELECT differs($$SELECT t.id FROM ticket t WHERE NOT EXISTS
    (SELECT FROM topic WHERE name = prepack.classify(t.body, '{a3,d}') AND prepack.is_true(t.body || n, 'c'))$$);
SELECT differs($$SELECT t.id, u.id AS u, c.n FROM ticket t JOIN ticket u ON u.id = t.id + 1
    JOIN topic c ON c.name = prepack.classify(t.body || u.body, '{a3,b7,d}')$$);
SELECT differs($$SELECT o.i, (SELECT sum(c.n) FROM ticket t JOIN topic c
    ON c.name = prepack.classify(t.body, '{a3,b7}') WHERE t.id < o.i) AS n FROM generate_series(1, 5) o(i)$$);
SELECT computed($$SELECT c.n FROM ticket t JOIN topic c
    ON c.name = CASE WHEN t.id > 35 THEN prepack.classify(t.body || t.id, '{a3,b7}') END$$);
RESET enable_hashjoin; RESET enable_mergejoin; RESET enable_bitmapscan;
DROP TABLE topic;

-- the cost of calls alone is no reason to compile expressions
CREATE FUNCTION compiles(query text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE 'EXPLAIN (ANALYZE, FORMAT json) ' || query INTO plan;
    RETURN plan -> 0 -> 'JIT' IS NOT NULL;
END $$;
SET jit = on;
SET jit_above_cost = 1000;
SELECT compiles($$SELECT prepack.classify(i::text, '{a,b}') FROM generate_series(1, 2000) i$$),
    compiles($$SELECT count(i * 2) FROM generate_series(1, 200000) i$$) = pg_jit_available() AS others_do;
RESET jit;
RESET jit_above_cost;
DROP FUNCTION compiles;
DROP TABLE ticket, copy_of, label;
DROP FUNCTION differs, computed;
