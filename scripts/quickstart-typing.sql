-- A query is typed, line by line: what prepack says to each, and how long the finished query takes.
\set ON_ERROR_STOP on
\pset footer off
\set QUIET on
SET client_min_messages = warning;
DROP TABLE IF EXISTS sale;
CREATE TABLE sale AS
SELECT i AS id, 'city ' || i % 40 AS city, date '2026-01-01' + i % 365 AS day, round((i % 997) / 10.0, 1) AS amount
FROM generate_series(1, 2000000) i;
ANALYZE sale;
SET prepack.speculation = materialize;
SELECT prepack.reset_speculation() AS forgotten \gset

CREATE TEMP TABLE typed (i int, body text);
INSERT INTO typed VALUES
    (1, 'SELECT city, count(*), sum(amount) AS'),
    (2, E'SELECT city, count(*), sum(amount) AS total\nFROM sale'),
    (3, E'SELECT city, count(*), sum(amount) AS total\nFROM sale\nWHERE day >= date ''2026-06-01'' AND'),
    (4, E'SELECT city, count(*), sum(amount) AS total\nFROM sale\nWHERE day >= date ''2026-06-01''\nGROUP BY'),
    (5, E'SELECT city, count(*), sum(amount) AS total\nFROM sale\nWHERE day >= date ''2026-06-01''\nGROUP BY city\n'
        'ORDER BY total DESC LIMIT 3');

-- Cold: without speculation.
SELECT body AS query FROM typed WHERE i = 5 \gset
SET prepack.use_speculation = off;
SELECT clock_timestamp() AS t0 \gset
:query \g /dev/null
SELECT round(1000 * extract(epoch FROM clock_timestamp() - :'t0'::timestamptz), 1) AS cold_ms \gset
SET prepack.use_speculation = on;

-- Typed: each text is shown, fed, and after a moment what is known of it is shown.
\t on
\pset format unaligned
SELECT statement FROM typed t, LATERAL (VALUES
    (1, format('SELECT %L', E'\n' || body || '▏')),
    (2, format('SELECT '''' WHERE prepack.speculate(%L) IS NULL', body)),
    (3, 'SELECT ''  next:    '' || string_agg(trim(c.insert_text), ''  |  '') FROM (SELECT insert_text FROM '
        'prepack.completions((SELECT max(id) FROM prepack.speculations), 2000) LIMIT 3) c '
        'HAVING count(*) > 0'),
    (4, 'SELECT ''  preview: '' || left(p.rows::text, 90) FROM prepack.preview('
        '(SELECT max(id) FROM prepack.speculations), 3, 5000) p WHERE p.rows IS NOT NULL'),
    (5, 'SELECT '''' FROM pg_sleep(1)')) s(step, statement)
WHERE s.step <> 5 OR t.i = 5 ORDER BY t.i, s.step \gexec

-- Submitted: the same text as ever.
\t off
\pset format aligned
\echo '-- submitted'
SELECT clock_timestamp() AS t0 \gset
:query;
SELECT round(1000 * extract(epoch FROM clock_timestamp() - :'t0'::timestamptz), 1) AS ready_ms, :cold_ms AS cold_ms,
    (SELECT count(*) FROM prepack.speculation_tables WHERE state = 'ready') AS tables;
