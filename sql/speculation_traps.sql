-- Queries that almost match a speculative table, and tables that are almost fresh. Each must give what it
-- gives without the table, whether that is used or not.
SET client_min_messages = warning;
SET prepack.test_fault = 'ignore_cost';
SET max_parallel_workers_per_gather = 0;
CREATE SCHEMA traps;
SET search_path = traps;
CREATE FUNCTION rows_of(query text, speculation text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text := ''; row_text text;
BEGIN
    PERFORM set_config('prepack.use_speculation', speculation, false);
    FOR row_text IN EXECUTE format('SELECT q::text FROM (%s) q ORDER BY 1', query) LOOP
        result := result || row_text || E'\n';
    END LOOP;
    PERFORM set_config('prepack.use_speculation', 'on', false);
    RETURN result;
END $$;
-- How a query is answered, and whether the rows are right.
CREATE FUNCTION check_answer(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE plan text;
BEGIN
    EXECUTE 'EXPLAIN (FORMAT json, COSTS off) ' || query INTO plan;
    RETURN coalesce((SELECT string_agg(m[1], ' + ') FROM regexp_matches(plan, '"Tables": \[\s*"\d+ \((\w+)\)"', 'g') m),
        'not used: ' || substring(plan FROM '"Reason": "([^"]*)"'), 'plain') ||
        CASE WHEN rows_of(query, 'on') = rows_of(query, 'off') THEN '' ELSE ': DIFFERENT' END;
END $$;

-- values that are equal, but not the same
CREATE TABLE v (n numeric, f float8, i interval, x text);
INSERT INTO v VALUES (1.0, 0, '1 day', 'a'), (1.00, '-0', '24 hours', 'b'), (2, 1, '2 days', 'c');
SELECT prepack.materialize('SELECT n, count(*), sum(n) FROM v GROUP BY n') > 0 AS built;
SELECT prepack.materialize('SELECT f, count(*) FROM v GROUP BY f') > 0 AS built;
SELECT prepack.materialize('SELECT i, count(*) FROM v GROUP BY i') > 0 AS built;
SELECT check_answer('SELECT n, count(*) FROM v GROUP BY n');
SELECT check_answer('SELECT count(*), sum(n), max(n), count(DISTINCT n) FROM v WHERE n > 1 AND n IN (1, 2)
    OR n IS NULL');
SELECT check_answer('SELECT n::text, count(*) FROM v GROUP BY 1');
SELECT check_answer('SELECT count(*) FROM v WHERE scale(n) = 2');
SELECT check_answer('SELECT count(DISTINCT n::text) FROM v');
SELECT check_answer('SELECT count(*) FROM v WHERE EXISTS (SELECT 1 FROM v w WHERE w.f = 1 AND scale(v.n) = 2)');
SELECT check_answer('SELECT f::text, count(*) FROM v GROUP BY 1');
SELECT check_answer('SELECT extract(hour FROM i), count(*) FROM v GROUP BY 1');
SELECT prepack.reset_speculation() > 0 AS reset;
SELECT prepack.materialize('SELECT DISTINCT n FROM v') > 0 AS built;
SELECT check_answer('SELECT DISTINCT n FROM v WHERE n < 2');
SELECT check_answer('SELECT DISTINCT n::text FROM v');
SELECT check_answer('SELECT DISTINCT n FROM v WHERE scale(n) = 2');
SELECT prepack.reset_speculation() > 0 AS reset;

-- columns that WHERE makes equal, below grouping sets that make one of them null
CREATE TABLE e (a int, b int, c int[], d int[]);
INSERT INTO e VALUES (1, 1, '{1}', '{1,2,3}'), (1, 2, '{4,5}', '{6}'), (2, 2, '{7}', '{8}');
SELECT prepack.materialize('SELECT a, b, count(*) FROM e WHERE a = b GROUP BY ROLLUP (a, b)') > 0 AS built;
SELECT check_answer('SELECT a, b, count(*) FROM e WHERE a = b GROUP BY ROLLUP (a, b)');
SELECT prepack.reset_speculation() > 0 AS reset;
SELECT prepack.materialize('SELECT a, b, count(*) FROM e GROUP BY DISTINCT ROLLUP (a), ROLLUP (a, b)') > 0 AS built;
SELECT check_answer('SELECT a, b, count(*) FROM e GROUP BY DISTINCT ROLLUP (a), ROLLUP (a, b)');
SELECT check_answer('SELECT a, b, count(*) FROM e GROUP BY ROLLUP (a), ROLLUP (a, b)');
SELECT prepack.reset_speculation() > 0 AS reset;

-- set-returning functions side by side
SELECT prepack.materialize('SELECT unnest(c), unnest(d) FROM e') > 0 AS built;
SELECT check_answer('SELECT unnest(d), unnest(c) FROM e');
SELECT check_answer('SELECT unnest(c) FROM e');
SELECT prepack.reset_speculation() > 0 AS reset;

-- a plan that was kept, run under other settings
CREATE TABLE w (f float8);
INSERT INTO w VALUES (0.1::float4), (1 / 3.0);
SELECT prepack.materialize('SELECT f::text, count(*) FROM w GROUP BY 1') > 0 AS built;
PREPARE kept AS SELECT f::text, count(*) FROM w GROUP BY 1 ORDER BY 1;
EXECUTE kept;
SET extra_float_digits = -10;
EXECUTE kept;
RESET extra_float_digits;
DEALLOCATE kept;


-- joins with names, windows that nothing uses
SELECT prepack.materialize('SELECT * FROM e JOIN (w CROSS JOIN v) j ON e.a = j.n') > 0 AS built;
SELECT prepack.materialize('SELECT * FROM (e JOIN w ON e.a = w.f) j, LATERAL (SELECT b + 1) s(c)') > 0 AS built;
SELECT prepack.materialize('SELECT a FROM e WHERE b > 1 WINDOW w AS (PARTITION BY b)') > 0 AS built;
SELECT check_answer('SELECT * FROM e JOIN (w CROSS JOIN v) j ON e.a = j.n');
SELECT check_answer('SELECT * FROM (e JOIN w ON e.a = w.f) j, LATERAL (SELECT b + 1) s(c)');
SELECT check_answer('SELECT a FROM e WHERE b > 1');

-- foreign keys that do not hold, though the server calls them valid
CREATE TABLE city (id int PRIMARY KEY, name text);
CREATE TABLE shop (id int, city_id int NOT NULL REFERENCES city);
INSERT INTO city SELECT i, 'c' || i FROM generate_series(1, 20) i;
INSERT INTO shop SELECT i, i % 20 + 1 FROM generate_series(1, 200) i;
ANALYZE city, shop;
SELECT prepack.materialize('SELECT s.id, c.name FROM shop s JOIN city c ON c.id = s.city_id') > 0 AS built;
SELECT check_answer('SELECT count(id) FROM shop');
SET session_replication_role = replica;
DELETE FROM city WHERE id = 3;
RESET session_replication_role;
SELECT check_answer('SELECT count(id) FROM shop');
SELECT prepack.materialize('SELECT s.id, c.name FROM shop s JOIN city c ON c.id = s.city_id') > 0 AS built;
SELECT check_answer('SELECT count(id) FROM shop');
SELECT check_answer('SELECT s.id FROM shop s JOIN city c ON c.id = s.city_id');

-- a column that is never null is, where an outer join finds no partner
CREATE TABLE town (id int PRIMARY KEY);
CREATE TABLE stop (id int, k int NOT NULL REFERENCES town);
INSERT INTO town VALUES (1), (2), (3);
INSERT INTO stop VALUES (1, 1), (2, 2), (3, 3);
ANALYZE town, stop;
SELECT prepack.materialize('SELECT a.id FROM stop a LEFT JOIN stop b ON a.k = b.k AND b.id > 1
    JOIN town t ON t.id = b.k') > 0 AS built;
SELECT check_answer('SELECT a.id FROM stop a LEFT JOIN stop b ON a.k = b.k AND b.id > 1');
SELECT prepack.reset_speculation() > 0 AS reset;
SELECT prepack.materialize('SELECT a.id FROM stop a LEFT JOIN stop b ON a.k = b.k AND b.id > 1
    JOIN town t ON t.id = a.k') > 0 AS built;
SELECT check_answer('SELECT a.id FROM stop a LEFT JOIN stop b ON a.k = b.k AND b.id > 1');
SELECT prepack.reset_speculation() > 0 AS reset;
DROP TABLE stop, town;

-- functions that functions call, of aggregates, of domains
CREATE FUNCTION inner_one(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1; END';
CREATE FUNCTION outer_one(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN inner_one($1); END';
CREATE FUNCTION adds(int, int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1 + $2; END';
CREATE AGGREGATE total(int) (SFUNC = adds, STYPE = int, INITCOND = '0');
CREATE DOMAIN small AS int;
SELECT prepack.materialize('SELECT outer_one(a), total(b) FROM e GROUP BY 1') > 0 AS built;
SELECT prepack.materialize('SELECT a::small, count(*) FROM e GROUP BY 1') > 0 AS built;
SELECT check_answer('SELECT outer_one(a), total(b) FROM e GROUP BY 1');
SELECT check_answer('SELECT a::small, count(*) FROM e GROUP BY 1');
CREATE OR REPLACE FUNCTION inner_one(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN -$1; END';
SELECT check_answer('SELECT outer_one(a), total(b) FROM e GROUP BY 1');
SELECT check_answer('SELECT a::small, count(*) FROM e GROUP BY 1');
SELECT prepack.materialize('SELECT outer_one(a), total(b) FROM e GROUP BY 1') > 0 AS built;
CREATE OR REPLACE FUNCTION adds(int, int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1 - $2; END';
SELECT check_answer('SELECT outer_one(a), total(b) FROM e GROUP BY 1');
SELECT prepack.materialize('SELECT outer_one(a), total(b) FROM e GROUP BY 1') > 0 AS built;
BEGIN;
CREATE OR REPLACE FUNCTION adds(int, int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN 0; END';
SELECT check_answer('SELECT outer_one(a), total(b) FROM e GROUP BY 1');
ROLLBACK;
-- what is volatile below an aggregate or a domain is not run
CREATE FUNCTION notes(int, int) RETURNS int VOLATILE LANGUAGE plpgsql
    AS 'BEGIN PERFORM pg_notify(''traps'', ''run''); RETURN $1 + $2; END';
CREATE AGGREGATE noisy(int) (SFUNC = notes, STYPE = int, INITCOND = '0');
CREATE FUNCTION accepts(int) RETURNS bool VOLATILE LANGUAGE plpgsql
    AS 'BEGIN PERFORM pg_notify(''traps'', ''run''); RETURN true; END';
CREATE DOMAIN checked AS int CHECK (accepts(VALUE));
SELECT prepack.materialize('SELECT noisy(a) FROM e');
SELECT prepack.materialize('SELECT a::checked, count(*) FROM e GROUP BY 1');

-- types in use by a speculative table only are not in use
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE COLLATION own_order FROM "C";
CREATE TABLE felt (m mood, t text);
SELECT prepack.materialize('SELECT m, t COLLATE own_order, count(*) FROM felt GROUP BY 1, 2') > 0 AS built;
SELECT prepack.materialize('SELECT a::small, count(*) FROM e GROUP BY 1') > 0 AS built;
ALTER DOMAIN small ADD CHECK (VALUE > 1);
SELECT check_answer('SELECT a::small, count(*) FROM e WHERE a > 1 GROUP BY 1');
DROP TABLE felt;
DROP TYPE mood;
DROP COLLATION own_order;
ANALYZE;

-- a transaction that builds, then writes
CREATE TABLE late (a int);
BEGIN;
SELECT prepack.materialize('SELECT count(*) FROM late') > 0 AS built;
INSERT INTO late VALUES (1);
COMMIT;
SELECT check_answer('SELECT count(*) FROM late');

-- cursors that can be moved and updated as they are
BEGIN;
SELECT prepack.materialize('SELECT id, name FROM city') > 0 AS built;
COMMIT;
BEGIN;
DECLARE plain CURSOR FOR SELECT id FROM city WHERE id < 3;
FETCH 2 FROM plain;
FETCH PRIOR FROM plain;
UPDATE city SET name = 'other' WHERE CURRENT OF plain;
ROLLBACK;

-- a temporary child is there for one session
CREATE TEMP TABLE late_child () INHERITS (late);
SELECT prepack.materialize('SELECT count(*) FROM late');
DROP TABLE late_child;

-- the right to execute a function
CREATE ROLE regress_trapped;
GRANT USAGE ON SCHEMA traps TO regress_trapped;
SELECT prepack.grant_usage('regress_trapped');
GRANT USAGE ON SCHEMA prepack TO regress_trapped;
GRANT SELECT ON e TO regress_trapped;
SET ROLE regress_trapped;
SELECT prepack.materialize('SELECT abs(a), count(*) FROM e GROUP BY 1') > 0 AS built;
SELECT check_answer('SELECT abs(a), count(*) FROM e GROUP BY 1');
RESET ROLE;
REVOKE EXECUTE ON FUNCTION abs(int) FROM PUBLIC;
SET ROLE regress_trapped;
SELECT abs(a), count(*) FROM e GROUP BY 1;
RESET ROLE;
GRANT EXECUTE ON FUNCTION abs(int) TO PUBLIC;
REVOKE ALL ON SCHEMA prepack FROM regress_trapped;
DROP OWNED BY regress_trapped;
DROP ROLE regress_trapped;

-- 19: names that come to mean something else: shadowed in an earlier schema, replaced, renamed
CREATE SCHEMA early;
SET search_path = early, traps;
CREATE TABLE traps.item AS SELECT i AS id, 'n' || i AS name,
    timestamptz '2024-06-01 00:00+00' + i * interval '1 hour' AS at FROM generate_series(1, 100) i;
ANALYZE item;
SELECT prepack.materialize('SELECT count(*) FROM item') > 0 AS built;
CREATE TABLE early.item AS SELECT 1 AS id;
SELECT check_answer('SELECT count(*) FROM item'), count(*) FROM item;
DROP TABLE early.item;
SELECT check_answer('SELECT count(*) FROM item'), count(*) FROM item;
CREATE FUNCTION traps.f(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1; END';
CREATE FUNCTION traps.g(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN f($1); END';
SELECT prepack.materialize('SELECT id FROM item WHERE f(id) > 90') > 0 AS built;
SELECT prepack.materialize('SELECT name FROM item WHERE g(id) > 90') > 0 AS built_of_a_caller;
SELECT check_answer('SELECT id FROM item WHERE f(id) > 90'), check_answer('SELECT name FROM item WHERE g(id) > 90');
CREATE FUNCTION early.f(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN -$1; END';
SELECT check_answer('SELECT id FROM item WHERE f(id) > 90'), check_answer('SELECT name FROM item WHERE g(id) > 90'),
    count(*) FROM item WHERE f(id) > 90;
DROP FUNCTION early.f;
CREATE FUNCTION traps.h(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + 1';
SELECT prepack.materialize('SELECT id FROM item WHERE h(id) > 50') > 0 AS built;
SELECT check_answer('SELECT id FROM item WHERE h(id) > 50');
CREATE OR REPLACE FUNCTION traps.h(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 - 1';
SELECT check_answer('SELECT id FROM item WHERE h(id) > 50'), count(*) FROM item WHERE h(id) > 50;
SELECT prepack.materialize('SELECT id FROM item WHERE id > 70') > 0 AS built;
SELECT check_answer('SELECT id FROM item WHERE id > 70');
CREATE OPERATOR early.> (LEFTARG = int, RIGHTARG = int, FUNCTION = int4lt);
SET search_path = early, pg_catalog, traps;
SELECT check_answer('SELECT id FROM item WHERE id > 70'), count(*) FROM item WHERE id > 70;
DROP OPERATOR early.> (int, int);
SET search_path = early, traps;
CREATE VIEW traps.recent AS SELECT id FROM item WHERE id > 10;
SELECT prepack.materialize('SELECT count(*) FROM recent') > 0 AS built;
SELECT check_answer('SELECT count(*) FROM recent');
CREATE OR REPLACE VIEW traps.recent AS SELECT id FROM item WHERE id > 20;
SELECT check_answer('SELECT count(*) FROM recent'), count(*) FROM recent;
DROP VIEW recent;
SELECT prepack.materialize('SELECT id, name FROM item WHERE id > 80') > 0 AS built;
ALTER TABLE item ALTER name TYPE varchar(20);
SELECT check_answer('SELECT id, name FROM item WHERE id > 80');
SELECT prepack.materialize('SELECT id, name FROM item WHERE id > 80') > 0 AS built;
ALTER TABLE item RENAME name TO label;
ALTER TABLE item ADD name text DEFAULT 'new';
SELECT check_answer('SELECT id, name FROM item WHERE id > 80'), max(name) FROM item WHERE id > 80;
SELECT prepack.materialize('SELECT id, label FROM item WHERE id > 80') > 0 AS built;
ALTER TABLE item DROP name;
SELECT check_answer('SELECT id, label FROM item WHERE id > 80');
SELECT prepack.materialize('SELECT id, label FROM item WHERE id > 80') > 0 AS built;
ALTER TABLE item RENAME TO thing;
CREATE TABLE traps.item AS SELECT 99 AS id, 'other' AS label;
SELECT check_answer('SELECT id, label FROM item WHERE id > 80'), max(label) FROM item WHERE id > 80;
DROP TABLE item;
ALTER TABLE thing RENAME TO item;

-- 19: a type that gets an equality of its own after it was grouped by
CREATE TYPE traps.pair AS (a int, b int);
CREATE TABLE traps.pairs AS SELECT row(i % 3, i % 2)::pair AS p FROM generate_series(1, 20) i;
ANALYZE pairs;
SELECT prepack.materialize('SELECT p, count(*) FROM pairs GROUP BY p') > 0 AS built;
SELECT prepack.materialize('SELECT DISTINCT p FROM pairs') > 0 AS built_distinct;
SELECT prepack.materialize('SELECT count(DISTINCT p) FROM pairs') > 0 AS built_inside;
SELECT check_answer('SELECT p, count(*) FROM pairs GROUP BY p'), check_answer('SELECT DISTINCT p FROM pairs'),
    check_answer('SELECT count(DISTINCT p) FROM pairs');
CREATE FUNCTION traps.pair_lt(pair, pair) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT $1.a < $2.a';
CREATE FUNCTION traps.pair_eq(pair, pair) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT $1.a = $2.a';
CREATE FUNCTION traps.pair_cmp(pair, pair) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1.a - $2.a';
CREATE OPERATOR traps.= (LEFTARG = pair, RIGHTARG = pair, FUNCTION = pair_eq, MERGES, COMMUTATOR = OPERATOR(traps.=));
CREATE OPERATOR traps.< (LEFTARG = pair, RIGHTARG = pair, FUNCTION = pair_lt);
CREATE OPERATOR CLASS traps.pair_ops DEFAULT FOR TYPE pair USING btree AS
    OPERATOR 1 traps.<, OPERATOR 3 traps.=, FUNCTION 1 pair_cmp(pair, pair);
SELECT count(*) FROM (SELECT p FROM pairs GROUP BY p) q;
SELECT check_answer('SELECT p, count(*) FROM pairs GROUP BY p'), check_answer('SELECT DISTINCT p FROM pairs'),
    check_answer('SELECT count(DISTINCT p) FROM pairs');

-- 23: the time zone, and what is declared stable but gives the transaction a number
SELECT prepack.materialize('SELECT id, at::text FROM item WHERE id > 90') > 0 AS built;
SELECT check_answer('SELECT id, at::text FROM item WHERE id > 90');
SET TimeZone = 'Asia/Tokyo';
SELECT check_answer('SELECT id, at::text FROM item WHERE id > 90');
RESET TimeZone;
SELECT prepack.materialize('SELECT txid_current(), id FROM item');
SELECT prepack.materialize('SELECT id FROM item WHERE pg_current_xact_id() IS NOT NULL');

SET client_min_messages = error;
SELECT prepack.reset_speculation() >= 0 AS reset;
DROP SCHEMA traps, early CASCADE;
