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

SET client_min_messages = error;
SELECT prepack.reset_speculation() >= 0 AS reset;
DROP SCHEMA traps CASCADE;
