# 009_effects.pl: typing alone has no effects.
#
# Scenario 23 of speculation: nothing of what is typed runs unless it only reads. Every volatile function of
# the catalog is typed as an unfinished text, in blocks of statements; then what has effects with real
# arguments, what hides in aggregates, domains and views, DML and commands. Nothing may be previewed, built
# or done. At last, results that depend on settings and on the day.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('effects');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'prepack'
prepack.max_speculators = 4
autovacuum = off
CONF
$node->start;
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION prepack;
CREATE EXTENSION dblink;
CREATE SCHEMA helper;
CREATE TABLE sale AS SELECT i AS id, i % 7 AS city FROM generate_series(1, 1000) i;
CREATE TABLE log (t text);
CREATE SEQUENCE numbers;
CREATE FUNCTION writes() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('run'); RETURN 1; END $$;
CREATE FUNCTION adds(int, int) RETURNS int VOLATILE LANGUAGE plpgsql
    AS $$ BEGIN PERFORM pg_advisory_lock(4711); RETURN $1 + $2; END $$;
CREATE AGGREGATE noisy(int) (SFUNC = adds, STYPE = int, INITCOND = '0');
CREATE FUNCTION accepts(int) RETURNS bool VOLATILE LANGUAGE plpgsql
    AS $$ BEGIN PERFORM pg_advisory_lock(4712); RETURN true; END $$;
CREATE DOMAIN checked AS int CHECK (accepts(VALUE));
CREATE VIEW hidden AS SELECT pg_try_advisory_lock(4713), id FROM sale;
CREATE VIEW locked AS SELECT id FROM sale FOR UPDATE;

-- Types a text, waits until its worker is idle; the states of its blocks.
CREATE FUNCTION helper.type(line text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE fed bigint := prepack.speculate(line);
BEGIN
    FOR i IN 1 .. 2000 LOOP
        EXIT WHEN EXISTS (SELECT FROM prepack.speculations s WHERE s.id = fed AND s.state = 'idle');
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN (SELECT string_agg(DISTINCT state, ',' ORDER BY state) FROM prepack.preview(fed));
END $$;
-- Calls of all volatile functions with NULL for every argument, those aside that no SQL can call.
CREATE VIEW helper.calls AS
SELECT p.oid, format('SELECT pg_catalog.%I(%s)', p.proname, (SELECT string_agg(CASE
        WHEN o = p.pronargs AND p.provariadic <> 0 AND t.typname <> 'any' THEN 'VARIADIC ' ELSE '' END || 'NULL::'
        || CASE
        WHEN t.typtype <> 'p' THEN format_type(t.oid, NULL)
        WHEN t.typname LIKE '%array' THEN 'int[]' WHEN t.typname = 'any' THEN 'text' ELSE 'int' END, ', ' ORDER BY o)
    FROM unnest(p.proargtypes) WITH ORDINALITY a(x, o) JOIN pg_type t ON t.oid = a.x)) AS call
FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.provolatile = 'v' AND p.prokind = 'f'
    AND p.prorettype <> ALL (ARRAY['internal', 'trigger', 'event_trigger', 'table_am_handler', 'index_am_handler',
        'language_handler', 'fdw_handler', 'tsm_handler']::regtype[]) AND 'internal'::regtype <> ALL (p.proargtypes);
SQL

# A text as a literal.
sub quoted { return "'" . $_[0] =~ s/'/''/gr . "'"; }

# Runs SQL in one session that types.
sub typing
{
	return $node->safe_psql('postgres',
		"SET prepack.speculation = materialize; SET client_min_messages = error;\n$_[0]");
}

my $volatile = $node->safe_psql('postgres', 'SELECT count(*) FROM helper.calls');
cmp_ok($volatile, '>', 200, "$volatile volatile functions");

# each as a finished statement: refused
my (undef, $built, $refusals) = $node->psql('postgres', <<'SQL', on_error_stop => 0);
SELECT format('SELECT prepack.materialize(%L)', call || ' FROM sale') FROM helper.calls \gexec
SQL
is($built, '', 'no call of a volatile function is built into a table');
is(scalar(() = $refusals =~ /Reason: volatile\./g), $volatile, 'because it is volatile');

# all of them typed, unfinished, fourteen blocks at a time
my @pages = split /\n/, $node->safe_psql('postgres', <<'SQL');
SELECT 'WITH ' || string_agg(format('b%s AS (%s)', oid, call), ', ' ORDER BY oid)
    || ' SELECT * FROM sale, LATERAL (' || min(call)
FROM (SELECT *, row_number() OVER (ORDER BY oid) / 14 AS page FROM helper.calls) c GROUP BY page;
SQL

# real arguments, and what hides
my @texts = ('SELECT nextval(\'numbers\')', 'SELECT setval(\'numbers\', 1000)', 'SELECT writes(), id FROM sale',
	'SELECT pg_advisory_lock(4710)', 'SELECT pg_try_advisory_lock(4710) FROM sale',
	'SELECT pg_notify(\'effects\', \'x\')',
	'SELECT lo_create(77777)', 'SELECT lo_from_bytea(77778, \'x\')', 'SELECT set_config(\'work_mem\', \'1MB\', false)',
	'SELECT pg_sleep(100)', 'SELECT pg_create_restore_point(\'x\')',
	'SELECT pg_terminate_backend(pid) FROM pg_stat_activity', 'SELECT pg_reload_conf()',
	'SELECT * FROM dblink(\'dbname=postgres\', \'SELECT writes()\') AS t(x int)',
	'SELECT dblink_exec(\'dbname=postgres\', \'INSERT INTO log VALUES (1)\')',
	'SELECT noisy(id) FROM sale', 'SELECT id::checked FROM sale', 'SELECT * FROM hidden', 'SELECT * FROM locked',
	'SELECT id FROM sale WHERE city = (SELECT writes())', 'SELECT id FROM sale ORDER BY nextval(\'numbers\')',
	'SELECT id FROM sale LIMIT writes()', 'WITH x AS (DELETE FROM sale RETURNING *) SELECT * FROM x',
	'WITH x AS (INSERT INTO log VALUES (1) RETURNING *) SELECT * FROM x', 'SELECT * INTO copied FROM sale',
	'INSERT INTO log VALUES (1)', 'UPDATE sale SET id = 0', 'DELETE FROM sale', 'TRUNCATE log', 'DROP TABLE log',
	'MERGE INTO sale s USING log l ON true WHEN MATCHED THEN DELETE', 'CREATE TABLE made (a int)', 'NOTIFY effects',
	'DO $do$ BEGIN PERFORM writes(); END $do$', 'CALL writes()', 'EXPLAIN ANALYZE SELECT writes()', 'VACUUM sale',
	'COPY sale TO PROGRAM \'false\'', 'SELECT 1; DELETE FROM sale', 'LOCK TABLE sale', 'COMMIT');
my $size = $node->safe_psql('postgres', "SELECT sum(hashtext(s::text)), count(*) FROM sale s");
push @texts, @pages;
my ($typed, @sessions) = ('');
for my $share (0 .. 3)
{
	my $sql = join "\n", 'SET prepack.speculation = materialize; SET client_min_messages = error; LISTEN effects;',
		map { 'SELECT helper.type(' . quoted($texts[$_]) . ');' } grep { $_ % 4 == $share } 0 .. $#texts;
	# a worker holds what it locks as long as its session lasts
	$sql .= "\nSELECT 'locks: ' || count(*) FROM pg_locks WHERE locktype = 'advisory';\n";
	append_to_file($node->basedir . "/typed$share.sql", $sql);
	push @sessions, IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-f',
			$node->basedir . "/typed$share.sql" ], '>>', \$typed, '2>&1');
}
$_->finish for @sessions;
unlike($typed, qr/ready|failed|ERROR|Asynchronous/, 'nothing of ' . @texts . ' texts is previewed');
cmp_ok(scalar(() = $typed =~ /skipped/g), '>=', @pages + 20, 'but skipped, or not even repaired');
is(scalar(() = $typed =~ /^locks: 0$/mg), 4, 'no advisory lock was taken');
# of these the repair leaves what only reads
typing("SELECT helper.type('SELECT id FROM sale FOR UPDATE');\n"
	  . "SELECT helper.type('SELECT id FROM (SELECT id FROM sale FOR SHARE) s, pg_advisory_lock(4714)')");
is($node->safe_psql('postgres', 'SELECT is_called FROM numbers'), 'f', 'no sequence moved');
is($node->safe_psql('postgres', 'SELECT count(*) FROM log'), '0', 'no row was written');
is($node->safe_psql('postgres', "SELECT sum(hashtext(s::text)), count(*) FROM sale s"), $size, 'no row was changed');
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_largeobject_metadata'), '0', 'no large object was made');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_class WHERE relname IN ('copied', 'made')"), '0',
	'no table was made');
is($node->safe_psql('postgres', 'SELECT count(*) FROM prepack.speculation_tables'), '0', 'nor a speculative one');
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal|restore point "x" created|received SIGHUP/,
	'no mark in the log');

# settings: a result is for those that it was made under
my $shown = $node->safe_psql('postgres', <<'SQL');
SET prepack.test_fault = ignore_cost;
CREATE TABLE moment AS SELECT timestamptz '2024-03-01 23:30+00' AS at, current_date AS day, 0.1::float8 AS f;
SELECT prepack.materialize('SELECT at, day, f FROM moment') > 0;
SELECT prepack.materialize('SELECT f::text, count(*) FROM moment GROUP BY 1') > 0;
SELECT date_trunc('day', at)::text, f::text, day = current_date FROM moment;
SET TimeZone = 'Asia/Tokyo';
SELECT date_trunc('day', at)::text, f::text FROM moment;
RESET TimeZone;
SET extra_float_digits = -15;
SELECT f::text, count(*) FROM moment GROUP BY 1;
RESET extra_float_digits;
SELECT prepack.materialize('SELECT at FROM moment WHERE day = current_date') > 0;
UPDATE moment SET day = day - 1;
SELECT count(*) FROM moment WHERE day = current_date;
SET search_path = helper, public;
CREATE TABLE helper.moment (f float8);
SELECT f::text, count(*) FROM moment GROUP BY 1;
SQL
is($shown, "t\nt\n2024-03-01 00:00:00+00|0.1|t\n2024-03-02 00:00:00+09|0.1\n0.1|1\nt\n0",
	'settings, the day and the path count');
$node->stop;
done_testing();
