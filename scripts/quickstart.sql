-- quickstart.sql: what the quickstart shows, on the table package(name, section, description).
\pset footer off
SET client_min_messages = warning;

-- 500 packages of eight sections, the same in every run
CREATE TEMP TABLE chosen AS
SELECT * FROM (
    SELECT name, section, left(description, 400) AS description,
        row_number() OVER (PARTITION BY section ORDER BY md5(name)) AS r
    FROM (SELECT DISTINCT ON (name) * FROM package ORDER BY name) p
    WHERE section IN ('games', 'science', 'fonts', 'sound', 'python', 'mail', 'database', 'graphics')
) s ORDER BY r, section LIMIT 500;
CREATE TEMP TABLE meaning (section text, label text, description text);
INSERT INTO meaning VALUES
    ('games', 'game', 'games and toys to play'),
    ('science', 'science', 'programs for science and research'),
    ('fonts', 'font', 'typefaces and fonts'),
    ('sound', 'audio', 'sound and music'),
    ('python', 'python', 'libraries for the Python language'),
    ('mail', 'email', 'email servers and clients'),
    ('database', 'database', 'database servers, clients and drivers'),
    ('graphics', 'graphics', 'images, drawing and viewers');
SELECT array_agg(label ORDER BY section) AS labels, array_agg(description ORDER BY section) AS texts
FROM meaning \gset
CREATE TABLE answer (name text, section text, label text);

\echo
\echo '-- SELECT name, prepack.classify(description, labels, descriptions => …) FROM chosen'
SELECT clock_timestamp() AS started \gset
\t on
SELECT statement FROM (
    SELECT i, 1 AS part, format($q$INSERT INTO answer SELECT c.name, c.section,
        prepack.classify(c.description, %L, 'Which kind of software does the text describe?',
            descriptions => %L)
        FROM (SELECT * FROM chosen ORDER BY r, section OFFSET %s LIMIT 100) c$q$,
        :'labels', :'texts', i * 100) AS statement
    FROM generate_series(0, 4) i
    UNION ALL
    SELECT i, 2, format('SELECT %L', format('%s of 500 rows done', (i + 1) * 100)) FROM generate_series(0, 4) i
) s ORDER BY i, part \gexec
\t off
SELECT count(*) AS rows, round(count(*) / extract(epoch FROM clock_timestamp() - :'started'::timestamptz), 1)
    AS rows_per_second, round(100.0 * avg((a.label = m.label)::int), 1) AS percent_right,
    round(100.0 / 8, 1) AS percent_by_chance
FROM answer a JOIN meaning m USING (section);

\echo
\echo '-- sections (down) against answers (across)'
SELECT section, label, count(*) FROM answer GROUP BY 1, 2 ORDER BY 1, 2 \crosstabview section label count label

\echo
\echo '-- embeddings of the 500 descriptions, then three searches with prepack.rank'
SELECT clock_timestamp() AS started \gset
CREATE TABLE vector AS
SELECT name, description, prepack.embed(description, model => 'minilm') AS v FROM chosen;
SELECT count(*) AS vectors, round(count(*) / extract(epoch FROM clock_timestamp() - :'started'::timestamptz), 1)
    AS vectors_per_second FROM vector;
SELECT q.query, round(r.score::numeric, 3) AS score, left(r.document, 70) AS document
FROM (VALUES ('play chess against the computer'), ('edit photographs'), ('connect to PostgreSQL')) q(query),
    LATERAL prepack.rank(q.query, (SELECT array_agg(description) FROM chosen), 3) r;
