# 007_speculation.pl: typing sessions, their workers and tables, when things go wrong.
#
# Scenarios 13 to 15, 20, 24 and 25 of speculation: storms of edits, cancelled builds, crashes, quotas,
# DDL beside builds. Times are promised limits with a wide margin: machines are shared.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PrepackTest;
use Test::More;
use Time::HiRes qw(time usleep);

$SIG{PIPE} = 'IGNORE'; # of sessions that a crash ends

my $node = PostgreSQL::Test::Cluster->new('speculation');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'prepack'
max_prepared_transactions = 4
prepack.max_speculators = 2
autovacuum = off
restart_after_crash = on
CONF
$node->start;
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION prepack;
CREATE TABLE sale AS SELECT i AS id, i % 50 AS city, (i % 97)::numeric AS amount FROM generate_series(1, 400000) i;
ANALYZE sale;
SQL

my $timer = IPC::Run::timeout(300);

# Runs one statement in a new session, after typing; waits for what is built.
sub typed
{
	my ($text, $then) = @_;
	return $node->safe_psql('postgres', <<"SQL");
SET prepack.speculation = materialize;
SET max_parallel_workers_per_gather = 0;
@{[ sql_typing($text) ]}
$then
SQL
}

# Waits until a query gives 't'.
sub wait_until { return $node->poll_query_until('postgres', $_[0]); }

my $query = 'SELECT city, sum(amount) FROM sale WHERE id > 5 GROUP BY city';

# typed, built, answered
like(typed($query, "EXPLAIN (COSTS OFF) $query"), qr/Prepack Speculation.*exact/s,
	'the finished query reads a table');
ok(wait_until("SELECT count(*) = 0 FROM prepack.speculations"), 'the worker ends with the session that typed');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'prepack speculator'"),
	'0', 'no worker is left');

# what is sorted: the table has an index in this order as soon as the text that asks for it rests
my $sorted = 'SELECT id % 20000 AS k, sum(amount) FROM sale WHERE id > 5 GROUP BY 1';
my @plans = map { typed("$sorted$_", "EXPLAIN (COSTS OFF) $sorted$_") } '', ' ORDER BY 2 DESC NULLS LAST, 1';
like($plans[0], qr/Prepack Speculation.*Seq Scan on speculation_/s, 'without an order a table is read as it lies');
like($plans[1], qr/Prepack Speculation.*Index(?: Only)? Scan using speculation_\w+_o2/s,
	'an order is read from an index');
unlike($plans[1] =~ s/.*?Index//sr, qr/Sort/, 'and nothing is sorted then');
is($node->safe_psql('postgres', <<'SQL'), 't|t', 'the index has the keys of the order, and counts');
SELECT pg_get_indexdef(indexrelid) LIKE '%(c2 DESC NULLS LAST, c1)',
    bytes = pg_relation_size(indrelid) + pg_relation_size(indexrelid)
FROM pg_index JOIN prepack.speculation_tables ON indrelid::regclass::text LIKE 'prepack.speculation\_' || id || '\_%'
WHERE indexrelid::regclass::text LIKE '%\_o2'
SQL

# a table that answers at once is no reason to leave a finished text at that: its own takes less still
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION odd(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE COST 100 AS 'BEGIN RETURN $1 % 2 = 1; END';
SELECT prepack.materialize('SELECT city, amount FROM sale WHERE odd(city)');
SQL
my $grouped = 'SELECT city, sum(amount), min(amount), max(amount), avg(amount) FROM sale WHERE odd(city) GROUP BY city';
like($node->safe_psql('postgres', "SET max_parallel_workers_per_gather = 0; EXPLAIN (COSTS OFF) $grouped"),
	qr/Tables:.*Aggregate/s, 'a table without groups answers a query with groups');
unlike(typed($grouped, "EXPLAIN (COSTS OFF) $grouped"), qr/Aggregate|Scan on sale/,
	'typed, the query has its own table');

# 13: two hundred edits
my $storm = join("\n", 'SET prepack.speculation = materialize;',
	map { sprintf "SELECT prepack.speculate('SELECT city FROM sale WHERE id > %d') > 0;", $_ } 1 .. 200);
my $start = time;
like($node->safe_psql('postgres', $storm
	  . "\nSELECT 'builds: ' || count(*) FROM prepack.speculation_tables WHERE state = 'building';"),
	qr/builds: [01]$/, '13: two hundred edits have one build at most in flight');
diag(sprintf '200 edits: %.0f ms', 1000 * (time - $start));
ok(wait_until("SELECT count(*) = 0 FROM prepack.speculation_tables WHERE state = 'building'"), '13: no build is left');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_locks WHERE relation = 'sale'::regclass"), '0',
	'13: no lock is left');

# 24: the quota
$node->safe_psql('postgres',
	"SELECT prepack.reset_speculation(); ALTER SYSTEM SET prepack.speculation_max_bytes = '1MB';
    SELECT pg_reload_conf()");
usleep(200_000);
my ($rc, $stdout, $stderr) = $node->psql('postgres', "SELECT prepack.materialize('SELECT id, city, amount FROM sale')");
like($stderr, qr/could not be built/, '24: a table over the quota is not built');
cmp_ok($node->safe_psql('postgres', "SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class
    WHERE relnamespace = 'prepack'::regnamespace AND relname LIKE 'speculation\\_%' AND relkind = 'r'"),
	'<=', 1.01 * 1024 * 1024, '24: nothing over the quota is left on disk');
$node->safe_psql('postgres', "ALTER SYSTEM RESET prepack.speculation_max_bytes; SELECT pg_reload_conf()");

# 14, 25: a long build is cancelled by DDL on what it reads
my $long = 'SELECT a.city, count(*) FROM sale a JOIN sale b ON a.city = b.city '
  . 'WHERE a.id < 60000 AND b.id < 60000 GROUP BY a.city';
my $begin = "SET prepack.speculation = materialize; SET max_parallel_workers_per_gather = 0;\n"
  . "SELECT prepack.speculate('$long') > 0;\n";
my ($tin, $tout) = ('', '');
my $typist = IPC::Run::start(
	[ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \$tin, '>', \$tout, $timer);
$tin = $begin;
$typist->pump_nb;
ok(wait_until("SELECT count(*) > 0 FROM prepack.speculation_tables WHERE state = 'building'"), '14: a long build runs');
$start = time;
$node->safe_psql('postgres', 'ALTER TABLE sale ADD COLUMN note text');
my $took = time - $start;
cmp_ok($took, '<', 1.0, sprintf('25: DDL does not wait for a build (%.0f ms)', 1000 * $took));

# a newer text that has no use for a build cancels it
$tin = "SELECT prepack.speculate('$long ') > 0;\n";
$typist->pump_nb;
ok(wait_until("SELECT count(*) > 0 FROM prepack.speculation_tables WHERE state = 'building'"), '14: it is built again');
$start = time;
$tin = "SELECT prepack.speculate('SELECT 1') > 0;\n";
$typist->pump_nb;
ok(wait_until("SELECT count(*) = 0 FROM prepack.speculation_tables WHERE state = 'building'"),
	'14: a newer text ends it');
diag(sprintf 'cancelled after %.0f ms, the poll included', 1000 * (time - $start));

# 15: a query that is submitted while a table is built for its text runs beside the build, and ends it
(my $longer = $long) =~ s/60000/50000/g;
$tin = "SELECT prepack.speculate('$longer') > 0;\n";
$typist->pump_nb;
ok(wait_until("SELECT count(*) > 0 FROM prepack.speculation_tables WHERE state = 'building' AND definition ~ '50000'"),
	'15: what is built is shown');
$tin = "SELECT 'own ' || count(*) FROM sale WHERE id <= 7;\n";
$typist->pump until $tout =~ /own \d/;
like($tout, qr/own 7$/m, '15: a query is answered beside it');
ok(wait_until("SELECT count(*) = 0 FROM prepack.speculation_tables WHERE state = 'building'"), '15: and ends it');

# DROP DATABASE beside a worker
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION prepack; CREATE TABLE t AS SELECT generate_series(1, 1000) i');
my ($oin, $oout) = ('', '');
my $other = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('other') ], '<', \$oin, '>', \$oout, $timer);
$oin = "SET prepack.speculation = materialize; SELECT prepack.speculate('SELECT i FROM t') > 0; SELECT 'fed';\n";
$other->pump until $oout =~ /fed/;
$oin = "\\q\n";
$other->finish;
$node->safe_psql('postgres', 'DROP DATABASE other');
pass('25: a database with a typing session is dropped');

# 20: kill -9 of a worker: the cluster restarts, tables of before are neither served nor left
typed($query, 'SELECT 1');
$tin = "SELECT prepack.speculate('$long') > 0;\n";
$typist->pump_nb;
wait_until("SELECT count(*) > 0 FROM prepack.speculation_tables WHERE state = 'building'");
my $pid = $node->safe_psql('postgres',
	"SELECT pid FROM pg_stat_activity WHERE backend_type = 'prepack speculator' LIMIT 1");
my $before = $node->safe_psql('postgres',
	"SELECT count(*) FROM pg_class WHERE relname LIKE 'speculation\\_%' AND relkind = 'r'
    AND relnamespace = 'prepack'::regnamespace");
kill 'KILL', $pid;
eval { $typist->kill_kill };
my $up = 0;
for (1 .. 300)
{
	usleep(100_000);
	$up = eval { ($node->psql('postgres', 'SELECT 1'))[0] == 0 } && $_ > 5;
	last if $up;
}
ok($up, '20: the cluster is back after kill -9 of a worker');
is($node->safe_psql('postgres', 'SELECT count(*) FROM prepack.speculation_tables'), '0', '20: the registry is empty');
unlike($node->safe_psql('postgres', "EXPLAIN (COSTS OFF) $query"), qr/Prepack Speculation/,
	'20: no table of before is used');
cmp_ok($before, '>', 0, '20: there were tables on disk');
typed('SELECT count(*) FROM sale', 'SELECT 1');
is($node->safe_psql('postgres', "SELECT prepack.reset_speculation() >= 0"), 't', '20: reset sweeps');
ok(wait_until("SELECT count(*) = 0 FROM pg_class WHERE relname LIKE 'speculation\\_%' AND relkind = 'r'
    AND relnamespace = 'prepack'::regnamespace"), '20: orphans are dropped');

# a prepared transaction that wrote a table is a writer until it is resolved
$node->safe_psql('postgres', "BEGIN; INSERT INTO sale (id, city, amount) VALUES (0, 1, 1); PREPARE TRANSACTION 'p'");
$node->restart;
($rc, $stdout, $stderr) = $node->psql('postgres',
	"SET statement_timeout = '2s'; SELECT prepack.materialize('SELECT count(*) FROM sale')");
like($stderr, qr/statement timeout/, '20: nothing is built beside a prepared transaction that writes');
$node->safe_psql('postgres', "COMMIT PREPARED 'p'");
is($node->safe_psql('postgres', "SELECT prepack.materialize('SELECT count(*) FROM sale') > 0;
    SET prepack.test_fault = 'ignore_cost'; SELECT count(*) FROM sale"), "t\n400001", '20: and after it all is right');

# DROP EXTENSION takes the tables along
$node->safe_psql('postgres', 'DROP EXTENSION prepack CASCADE');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_class WHERE relname LIKE 'speculation\\_%'"), '0',
	'tables go with it');
is($node->safe_psql('postgres', 'SELECT count(*) FROM sale'), '400001', 'queries that had tables still run');
$node->stop;
done_testing();
