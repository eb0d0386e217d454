-- Speculative tables: what they answer, and what they must not. Numbers are those of the scenarios in
-- docs/speculation.md. check_answer() runs a query with and without speculation and says how it was
-- answered; the rows must be the same.
SET client_min_messages = warning;
SET prepack.test_fault = 'ignore_cost';
SET max_parallel_workers_per_gather = 0;
CREATE TABLE customer (id int PRIMARY KEY, name text NOT NULL, region int, since date);
CREATE TABLE sale (id int PRIMARY KEY, customer_id int REFERENCES customer, day date NOT NULL,
    amount numeric, quantity int, weight float8, note text);
INSERT INTO customer SELECT i, 'c' || i, nullif(i % 4, 3), date '2020-01-01' + i FROM generate_series(1, 20) i;
INSERT INTO sale SELECT i, nullif(i % 21, 0), date '2024-01-01' + i % 30, (i % 7) * 1.50, nullif(i % 5, 4),
    i / 3.0, CASE WHEN i % 3 = 0 THEN 'n' || i % 9 END FROM generate_series(1, 400) i;
ANALYZE customer, sale;

CREATE FUNCTION answered_by(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE plan text;
BEGIN
    EXECUTE 'EXPLAIN (FORMAT json, COSTS off) ' || query INTO plan;
    RETURN coalesce((SELECT string_agg(m[1], ' + ') FROM regexp_matches(plan, '"Tables": \[\s*(.*?)\s*\]', 'n') m),
        'not used: ' || substring(plan FROM '"Reason": "([^"]*)"'), 'plain');
END $$;
CREATE FUNCTION rows_of(query text, speculation text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE rows text;
BEGIN
    PERFORM set_config('prepack.use_speculation', speculation, false);
    EXECUTE format('SELECT string_agg(q::text, E''\n'' ORDER BY q::text) FROM (%s) q', query) INTO rows;
    PERFORM set_config('prepack.use_speculation', 'on', false);
    RETURN rows;
END $$;
CREATE FUNCTION check_answer(query text) RETURNS text LANGUAGE sql AS $$
    SELECT regexp_replace(answered_by(query), '"?\d+ \((\w+)\)"?', '\1', 'g') ||
        CASE WHEN rows_of(query, 'on') IS NOT DISTINCT FROM rows_of(query, 'off') THEN '' ELSE ': DIFFERENT' END
$$;

-- 4, 5: a constant gets tighter, then looser
SELECT prepack.materialize($$SELECT id, amount FROM sale WHERE quantity > 1 AND day BETWEEN '2024-01-05'
    AND '2024-01-25'$$) > 0 AS built;
SELECT check_answer($$SELECT id, amount FROM sale WHERE quantity > 1 AND day BETWEEN '2024-01-05' AND '2024-01-25'$$);
SELECT check_answer($$SELECT id, amount FROM sale WHERE quantity > 1 AND day BETWEEN '2024-01-07' AND '2024-01-20'$$);
SELECT check_answer($$SELECT id FROM sale WHERE quantity > 0 AND day BETWEEN '2024-01-05' AND '2024-01-25'$$);
SELECT reason FROM prepack.explain_match($$SELECT id FROM sale WHERE quantity > 0 AND day BETWEEN '2024-01-05'
    AND '2024-01-25'$$);
SELECT prepack.reset_speculation();
SELECT prepack.materialize($$SELECT id, amount, day FROM sale WHERE quantity > 1 AND day BETWEEN '2024-01-05'
    AND '2024-01-25'$$, true) > 0 AS built;
SELECT check_answer($$SELECT id, amount FROM sale WHERE quantity > 0 AND day > '2024-01-15'$$);
SELECT check_answer($$SELECT id FROM sale WHERE quantity IN (1, 3) AND day > '2024-01-15'$$);
SELECT check_answer($$SELECT count(*), sum(amount) FROM sale WHERE quantity = 2$$);
SELECT prepack.reset_speculation();

-- 6: conjuncts come and go, a table is joined, a column was not projected
SELECT prepack.materialize($$SELECT id, customer_id, amount FROM sale WHERE amount > 2$$) > 0 AS built;
SELECT check_answer($$SELECT id, amount FROM sale WHERE amount > 2 AND customer_id = 3$$);
SELECT check_answer($$SELECT s.id, c.name FROM sale s JOIN customer c ON c.id = s.customer_id
    WHERE s.amount > 2 AND c.region = 1$$);
SELECT check_answer($$SELECT id, weight FROM sale WHERE amount > 2$$);
SELECT check_answer($$SELECT id FROM sale$$);
SELECT usable, reason FROM prepack.explain_match($$SELECT id, weight FROM sale WHERE amount > 2$$);
SELECT usable, reason FROM prepack.explain_match($$SELECT name FROM customer$$);
SELECT prepack.reset_speculation();

-- a table that the query does not read, joined along a foreign key that is never null
CREATE TABLE line (id int PRIMARY KEY, sale_id int NOT NULL REFERENCES sale, pieces int);
INSERT INTO line SELECT i, i % 400 + 1, i % 6 FROM generate_series(1, 900) i;
SELECT prepack.materialize($$SELECT l.sale_id, l.pieces, s.amount FROM line l JOIN sale s ON s.id = l.sale_id$$) > 0
    AS built;
SELECT check_answer('SELECT sale_id, sum(pieces) FROM line WHERE pieces > 1 GROUP BY sale_id');
SELECT check_answer('SELECT count(*) FROM sale');
ALTER TABLE line ALTER sale_id DROP NOT NULL;
SELECT check_answer('SELECT sale_id, sum(pieces) FROM line WHERE pieces > 1 GROUP BY sale_id');
DROP TABLE line;
SELECT prepack.reset_speculation();

-- 7: grouping
SELECT prepack.materialize($$SELECT customer_id, day, count(*), count(note), sum(amount), avg(amount),
    min(quantity), max(note), sum(quantity), avg(quantity) FROM sale GROUP BY customer_id, day$$) > 0 AS built;
SELECT check_answer($$SELECT customer_id, count(*), sum(amount) FROM sale GROUP BY customer_id HAVING count(*) > 3$$);
SELECT check_answer($$SELECT day, min(quantity), max(note), sum(quantity) FROM sale WHERE customer_id IN (1,
    2) GROUP BY day$$);
SELECT check_answer($$SELECT count(*), count(note), sum(amount), sum(quantity) FROM sale$$);
SELECT check_answer($$SELECT count(*), sum(amount) FROM sale WHERE customer_id = -1$$);
SELECT check_answer($$SELECT count(DISTINCT customer_id), count(customer_id) FROM sale$$);
SELECT check_answer($$SELECT day, customer_id, count(*) FROM sale GROUP BY ROLLUP (day, customer_id)$$);
SELECT check_answer($$SELECT customer_id, day, quantity, count(*) FROM sale GROUP BY 1, 2, 3$$);
SELECT check_answer($$SELECT customer_id FROM sale$$);
SELECT reason FROM prepack.explain_match($$SELECT customer_id, sum(weight) FROM sale GROUP BY 1$$);
SELECT prepack.reset_speculation();
-- an average needs its sum and its count; a float sum is never added up
SELECT prepack.materialize($$SELECT customer_id, day, avg(quantity), sum(weight) FROM sale GROUP BY 1,
    2$$) > 0 AS built;
SELECT reason FROM prepack.explain_match($$SELECT customer_id, avg(quantity) FROM sale GROUP BY 1$$);
SELECT reason FROM prepack.explain_match($$SELECT customer_id, sum(weight) FROM sale GROUP BY 1$$);
SELECT prepack.reset_speculation();
-- one row over everything is not the sum of parts
SELECT prepack.materialize('SELECT count(*), sum(amount) FROM sale WHERE quantity > 0') > 0 AS built;
SELECT check_answer('SELECT sum(amount) / count(*) FROM sale WHERE quantity > 0');
SELECT check_answer('SELECT count(*) FROM sale WHERE quantity > 0 AND customer_id = 1');
SELECT check_answer('SELECT count(*) FROM sale s JOIN customer c ON c.id = s.customer_id WHERE quantity > 0');
SELECT prepack.reset_speculation();

-- 8: self-joins
SELECT prepack.materialize('SELECT a.id, b.id FROM customer a, customer b WHERE a.region = b.id
    AND a.name > ''c2''') > 0 AS built;
SELECT check_answer('SELECT x.id, y.id FROM customer y, customer x WHERE x.region = y.id AND x.name > ''c2''');
SELECT check_answer('SELECT x.id, y.id FROM customer x, customer y WHERE x.region = y.id AND y.name > ''c2''');
SELECT prepack.reset_speculation();

-- 9: outer joins, subqueries, three-valued logic
SELECT prepack.materialize('SELECT c.id, c.region, s.id FROM customer c LEFT
    JOIN sale s ON s.customer_id = c.id AND s.amount > 8') > 0 AS built;
SELECT check_answer('SELECT c.id, s.id FROM customer c LEFT JOIN sale s ON s.customer_id = c.id
    AND s.amount > 8 WHERE c.region = 1');
SELECT check_answer('SELECT c.id FROM customer c LEFT JOIN sale s ON s.customer_id = c.id AND s.amount > 8
    WHERE s.id IS NULL');
SELECT check_answer('SELECT c.id FROM customer c JOIN sale s ON s.customer_id = c.id AND s.amount > 8');
SELECT check_answer('SELECT c.id FROM customer c LEFT JOIN sale s ON s.customer_id = c.id AND s.amount > 7');
SELECT prepack.reset_speculation();
SELECT prepack.materialize('SELECT id, region FROM customer WHERE region NOT IN (SELECT quantity
    FROM sale) OR NOT (region = 1 OR id > 5)') > 0 AS built;
SELECT check_answer('SELECT id, region FROM customer WHERE region NOT IN (SELECT quantity
    FROM sale) OR NOT (region = 1 OR id > 5)');
SELECT check_answer('SELECT id FROM customer WHERE region NOT IN (SELECT quantity FROM sale
    WHERE quantity IS NOT NULL) OR NOT (region = 1 OR id > 5)');
SELECT prepack.reset_speculation();

-- 10: what comes on top: order, limit, distinct, windows, set operations
SELECT prepack.materialize('SELECT region, name, since FROM customer WHERE id > 3') > 0 AS built;
SELECT check_answer('SELECT DISTINCT region FROM customer WHERE id > 3');
SELECT check_answer('SELECT DISTINCT ON (region) region, name FROM customer WHERE id > 3 ORDER BY region, name DESC');
SELECT check_answer('SELECT name, rank() OVER (PARTITION BY region ORDER BY name) FROM customer WHERE id > 3');
SELECT check_answer('SELECT name FROM customer WHERE id > 3 UNION SELECT note FROM sale');
SELECT region, name FROM customer WHERE id > 3 ORDER BY region DESC NULLS LAST, name LIMIT 3;
SELECT region, name FROM customer WHERE id > 3 ORDER BY region FETCH FIRST 1 ROW WITH TIES;
SELECT check_answer('SELECT region, name FROM customer WHERE id > 3 ORDER BY name OFFSET 2 LIMIT 3');
SELECT check_answer('SELECT region, name FROM customer WHERE id > 3 ORDER BY region FETCH FIRST 1 ROW WITH TIES');
SELECT prepack.reset_speculation();

-- 12: blocks of a statement, each from a table of its own
SELECT prepack.materialize('SELECT customer_id, sum(amount) AS total FROM sale GROUP BY customer_id') > 0 AS built;
SELECT prepack.materialize('SELECT id, name FROM customer WHERE region = 1') > 0 AS built;
SELECT check_answer('WITH t AS (SELECT customer_id, sum(amount) AS total FROM sale GROUP BY customer_id)
    SELECT c.name, t.total FROM customer c JOIN t ON t.customer_id = c.id WHERE c.region = 1');
SELECT check_answer('SELECT name FROM customer WHERE region = 1 AND id IN (SELECT customer_id FROM sale
    GROUP BY customer_id HAVING sum(amount) > 50)');
EXPLAIN (COSTS OFF) SELECT name FROM customer WHERE region = 2;
SELECT prepack.reset_speculation();

-- 16: writes
CREATE FUNCTION fresh() RETURNS text LANGUAGE sql AS 'SELECT string_agg(reason, '', '')
    FROM prepack.speculation_tables WHERE state = ''ready''';
SELECT prepack.materialize('SELECT count(*) FROM sale') > 0 AS built;
UPDATE sale SET note = note WHERE id = -1;
SELECT fresh();
SELECT check_answer('SELECT count(*) FROM sale');
BEGIN; INSERT INTO sale VALUES (1001, 1, '2024-03-01'); ROLLBACK;
SELECT fresh(), check_answer('SELECT count(*) FROM sale');
INSERT INTO customer VALUES (100, 'other', 1);
SELECT fresh();
INSERT INTO sale VALUES (1001, 1, '2024-03-01');
SELECT fresh(), check_answer('SELECT count(*) FROM sale');
SELECT prepack.materialize('SELECT count(*) FROM sale') > 0 AS built;
WITH d AS (DELETE FROM sale WHERE id = 1001 RETURNING 1) SELECT * FROM d;
SELECT check_answer('SELECT count(*) FROM sale');
SELECT prepack.materialize('SELECT count(*) FROM sale') > 0 AS built;
COPY sale (id, customer_id, day) FROM stdin;
1002	1	2024-03-02
\.
SELECT check_answer('SELECT count(*) FROM sale');
SELECT prepack.materialize('SELECT count(*) FROM sale') > 0 AS built;
MERGE INTO sale s USING customer c ON s.id = 1002 AND c.id = 1 WHEN MATCHED THEN DELETE;
SELECT check_answer('SELECT count(*) FROM sale');
CREATE TABLE emptied (a int); INSERT INTO emptied VALUES (1);
SELECT prepack.materialize('SELECT a FROM emptied') > 0 AS built;
TRUNCATE emptied;
SELECT check_answer('SELECT a FROM emptied');
-- a foreign key's action, a trigger, a partition's leaf
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int REFERENCES parent ON DELETE CASCADE);
INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (1), (2);
SELECT prepack.materialize('SELECT count(*) FROM child') > 0 AS built;
DELETE FROM parent WHERE id = 1;
SELECT check_answer('SELECT count(*) FROM child');
CREATE TABLE part (a int, b int) PARTITION BY RANGE (a);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
CREATE TABLE part_2 (a int, b int); INSERT INTO part_2 VALUES (11, 11);
INSERT INTO part VALUES (1, 1);
SELECT prepack.materialize('SELECT sum(b) FROM part') > 0 AS built;
SELECT check_answer('SELECT sum(b) FROM part');
INSERT INTO part_1 VALUES (2, 2);
SELECT check_answer('SELECT sum(b) FROM part');
SELECT prepack.materialize('SELECT sum(b) FROM part') > 0 AS built;
ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES FROM (10) TO (20);
SELECT check_answer('SELECT sum(b) FROM part');
-- a materialized view
CREATE MATERIALIZED VIEW seen AS SELECT count(*) AS n FROM sale;
SELECT prepack.materialize('SELECT n FROM seen') > 0 AS built;
INSERT INTO sale VALUES (1003, 1, '2024-03-03');
SELECT check_answer('SELECT n FROM seen');
REFRESH MATERIALIZED VIEW seen;
SELECT check_answer('SELECT n FROM seen');

-- 18: one's own transaction, isolation levels
SELECT prepack.materialize('SELECT count(*) FROM sale') > 0 AS built;
BEGIN;
INSERT INTO sale VALUES (1004, 1, '2024-03-04');
SELECT count(*) FROM sale;
SELECT answered_by('SELECT count(*) FROM sale');
ROLLBACK;
SELECT check_answer('SELECT count(*) FROM sale');
BEGIN;
SAVEPOINT a; DELETE FROM sale; ROLLBACK TO a;
SELECT check_answer('SELECT count(*) FROM sale');
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT check_answer('SELECT count(*) FROM sale');
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT answered_by('SELECT count(*) FROM sale');
ROLLBACK;
PREPARE counted AS SELECT count(*) FROM sale WHERE id > $1;
SELECT prepack.materialize('SELECT id FROM sale WHERE id > 5') > 0 AS built;
SELECT answered_by('EXECUTE counted(400)') LIKE '%(range)%' AS used;
EXECUTE counted(400);
DELETE FROM sale WHERE id = 1003;
EXECUTE counted(400);
DEALLOCATE counted;

-- 21: permissions
CREATE ROLE regress_speculator; CREATE ROLE regress_other;
GRANT USAGE ON SCHEMA prepack TO regress_speculator, regress_other;
SELECT prepack.grant_usage('regress_speculator');
SELECT prepack.grant_usage('regress_other');
GRANT SELECT (id, name) ON customer TO regress_speculator;
SET ROLE regress_speculator;
SELECT prepack.materialize('SELECT id, name FROM customer') > 0 AS built;
SELECT prepack.materialize('SELECT region FROM customer') > 0 AS built;
SELECT answered_by('SELECT name FROM customer WHERE id = 1') LIKE '%range%' AS used;
SELECT relname ~ '^speculation_' AS found, has_table_privilege(oid, 'SELECT') AS readable
FROM pg_class WHERE relnamespace = 'prepack'::regnamespace AND relkind = 'r'
    AND relname LIKE 'speculation%' ORDER BY oid DESC LIMIT 1;
RESET ROLE;
REVOKE SELECT ON customer FROM regress_speculator; REVOKE SELECT (id, name) ON customer FROM regress_speculator;
SET ROLE regress_speculator;
SELECT name FROM customer WHERE id = 1;
SELECT count(*) FROM prepack.speculation_tables;
RESET ROLE;
GRANT SELECT ON customer TO regress_other;
SET ROLE regress_other;
SELECT answered_by('SELECT name FROM customer WHERE id = 1');
SELECT count(*) FROM prepack.speculation_tables;
RESET ROLE;

-- 22: row security
CREATE TABLE tenant (who name, v int); INSERT INTO tenant VALUES ('regress_speculator', 1), ('regress_other', 2);
ALTER TABLE tenant ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON tenant USING (who = current_user);
GRANT SELECT ON tenant TO regress_speculator, regress_other;
SET ROLE regress_speculator;
SELECT prepack.materialize('SELECT v FROM tenant');
SELECT v FROM tenant;
SET ROLE regress_other;
SELECT v FROM tenant;
RESET ROLE;

-- 23: volatile things, settings
CREATE SEQUENCE counter;
SELECT prepack.materialize('SELECT nextval(''counter''), id FROM sale');
SELECT prepack.materialize('SELECT random() FROM sale');
SELECT is_called FROM counter;
SELECT prepack.materialize('SELECT id, day FROM sale WHERE day < now()') > 0 AS built;
SELECT answered_by('SELECT id FROM sale WHERE day < now()') LIKE '%range%' AS tested_on_top;
SELECT prepack.reset_speculation() > 0 AS reset;
SELECT prepack.materialize('SELECT day::text || note FROM sale') > 0 AS built;
SELECT check_answer('SELECT day::text || note FROM sale');
SET DateStyle = 'German';
SELECT check_answer('SELECT day::text || note FROM sale');
RESET DateStyle;
CREATE FUNCTION doubled(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN 2 * $1; END';
SELECT prepack.materialize('SELECT id FROM sale WHERE doubled(quantity) > 2') > 0 AS built;
SELECT check_answer('SELECT id FROM sale WHERE doubled(quantity) > 2');
CREATE OR REPLACE FUNCTION doubled(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN 3 * $1; END';
SELECT check_answer('SELECT id FROM sale WHERE doubled(quantity) > 2');

-- <> tells of equal values no more than = does, though it is in no operator family
CREATE TABLE padded AS SELECT ('c' || i % 3)::char(5) AS c, i AS v FROM generate_series(1, 30) i; ANALYZE padded;
SELECT prepack.materialize('SELECT c, sum(v) FROM padded GROUP BY c') > 0 AS built;
SELECT check_answer('SELECT c, sum(v) FROM padded WHERE c <> ''c1'' GROUP BY c');
SELECT check_answer('SELECT c, sum(v) FROM padded WHERE c LIKE ''c1%'' GROUP BY c');

-- WITH items that nothing reads any more are not planned
CREATE FUNCTION planned_ctes(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE plan text;
BEGIN
    EXECUTE 'EXPLAIN (FORMAT json, COSTS off) ' || query INTO plan;
    RETURN coalesce((SELECT string_agg(m[1], ', ') FROM regexp_matches(plan, '"Subplan Name": "(CTE \w+)"', 'g') m),
        'none');
END $$;
SELECT prepack.materialize($$WITH r AS (SELECT day, sum(quantity) AS q FROM sale GROUP BY day)
    SELECT day FROM r WHERE q = (SELECT max(q) FROM r)$$) > 0 AS built;
SELECT check_answer($$WITH r AS (SELECT day, sum(quantity) AS q FROM sale GROUP BY day)
    SELECT day FROM r WHERE q = (SELECT max(q) FROM r)$$);
SELECT planned_ctes($$WITH r AS (SELECT day, sum(quantity) AS q FROM sale GROUP BY day)
    SELECT day FROM r WHERE q = (SELECT max(q) FROM r)$$);

-- indexes: a large superset has them on the columns that edits compare
CREATE TABLE big AS SELECT i AS id, i % 30000 AS k FROM generate_series(1, 60000) i; ANALYZE big;
GRANT SELECT ON big TO regress_speculator;
SELECT prepack.materialize('SELECT count(*) FROM big WHERE k = 5', true) > 0 AS built;
SELECT count(*) AS indexes FROM pg_index JOIN pg_class t ON t.oid = indrelid
WHERE t.relname LIKE 'speculation\_%' AND t.relkind = 'r';
SELECT check_answer('SELECT count(*) FROM big WHERE k = 77');
CREATE FUNCTION scans(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
        IF line ~ 'Scan' THEN RETURN NEXT regexp_replace(trim(line), '_\d+', '', 'g'); END IF;
    END LOOP;
END $$;
SELECT scans('SELECT count(*) FROM big WHERE k = 77');
SELECT bytes > 1900000 AS indexes_count FROM prepack.speculation_tables WHERE definition LIKE '%big%';

-- what cannot be kept
SELECT prepack.materialize('DELETE FROM sale');
SELECT prepack.materialize('SELECT 1; SELECT 2');
SELECT prepack.materialize('SELECT relname FROM pg_class');
SELECT prepack.materialize('SELECT id FROM sale LIMIT 3') > 0 AS built_without_limit;
SELECT prepack.materialize('SELECT count(*) FROM sale WHERE 1 / (quantity - quantity) > 0');
SELECT prepack.materialize(NULL);
SELECT prepack.explain_match('SELECT nosuch FROM sale');
BEGIN READ ONLY; SELECT prepack.materialize('SELECT 1 FROM sale'); ROLLBACK;
BEGIN; SAVEPOINT a; SELECT prepack.materialize('SELECT 1 FROM sale'); ROLLBACK;
SET prepack.use_speculation = off;
SELECT answered_by('SELECT id FROM sale WHERE doubled(quantity) > 2');

DROP TABLE padded, sale, customer, emptied, parent, child, part, tenant, big CASCADE;
DROP FUNCTION scans, planned_ctes, answered_by, check_answer, rows_of, fresh, doubled; DROP SEQUENCE counter;
REVOKE ALL ON SCHEMA prepack FROM regress_speculator, regress_other;
DROP OWNED BY regress_speculator, regress_other; DROP ROLE regress_speculator, regress_other;
