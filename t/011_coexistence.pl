# 011_coexistence.pl: other extensions and speculation, in either order of preloading.
#
# Scenario 25 of speculation: pg_stat_statements and auto_explain before and after prepack, PREPARE, cursors,
# PL/pgSQL, parallel query, JIT, pg_dump; without tables plans are the server's own, byte for byte; builds hold
# back neither DDL nor vacuum; nothing grows while texts come and go.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PrepackTest;
use Test::More;

my $query = 'SELECT city, sum(amount) FROM sale WHERE id > 5 GROUP BY city ORDER BY city';

# Makes a server with a preload list.
sub server
{
	my ($name, $preload) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init;
	$node->append_conf('postgresql.conf', <<"CONF");
shared_preload_libraries = '$preload'
autovacuum = off
CONF
	$node->append_conf('postgresql.conf', <<'CONF') if $preload =~ /auto_explain/;
pg_stat_statements.track_planning = on
pg_stat_statements.track = all
auto_explain.log_min_duration = 0
auto_explain.log_analyze = on
auto_explain.log_nested_statements = on
CONF
	$node->start;
	$node->safe_psql('postgres', <<'SQL');
CREATE TABLE sale AS SELECT i AS id, i % 50 AS city, (i % 97)::numeric AS amount FROM generate_series(1, 200000) i;
-- small enough that ANALYZE reads all of it, and finds the same everywhere
CREATE TABLE shop AS SELECT i AS id, i % 50 AS city, i % 7 AS kind FROM generate_series(1, 20000) i;
ANALYZE sale, shop;
SQL
	return $node;
}

# The plans of a few queries, as a server without tables makes them.
sub plans
{
	my ($node, $setting) = @_;
	my $plans = $node->safe_psql('postgres', $setting . join '', map { "EXPLAIN (VERBOSE) $_;" }
		'SELECT city, count(*) FROM shop WHERE id > 5 GROUP BY city ORDER BY city',
		'SELECT * FROM shop a JOIN shop b USING (id) WHERE a.city = 3 LIMIT 10',
		'SELECT (SELECT max(kind) FROM shop s WHERE s.city = t.city) FROM shop t WHERE id < 9',
		'WITH x AS (SELECT city FROM shop) SELECT count(DISTINCT city) FROM x');
	return $plans =~ s/\n?Query Identifier[^\n]*//gr; # pg_stat_statements' doing
}

# without prepack at all
my $bare = server('bare', '');
my $server_plans = plans($bare, '');
my $rows = $bare->safe_psql('postgres', $query);
my ($one) = split /\n/, $rows;
$bare->stop;

for my $preload ('prepack,pg_stat_statements,auto_explain', 'auto_explain,pg_stat_statements,prepack')
{
	my $first = (split /,/, $preload)[0] eq 'prepack' ? 'prepack first' : 'prepack last';
	my $node = server($first =~ s/ /_/r, $preload);

	$node->safe_psql('postgres', 'CREATE EXTENSION pg_stat_statements; CREATE EXTENSION prepack');
	is(plans($node, ''), $server_plans, "$first: without tables, plans are the server's own");

	# typed, submitted twice: one statement for the others, counted as often as it was submitted
	is($node->safe_psql('postgres', <<"SQL"), "t\n$rows\n$rows", "$first: answers are right");
SELECT pg_stat_statements_reset() IS NOT NULL;
SET prepack.speculation = materialize;
@{[ sql_typing($query) ]}
$query;
$query;
SQL
	is($node->safe_psql('postgres', q{SELECT calls, plans <= calls, rows FROM pg_stat_statements
		WHERE query LIKE 'SELECT city, sum(amount) FROM sale%'}), '2|t|100', "$first: two calls, a hundred rows");
	is($node->safe_psql('postgres', q{SELECT query FROM pg_stat_statements WHERE query ~ 'speculation_\d'}), '',
		"$first: nothing of what tables are made and read by");
	my $log = slurp_file($node->logfile);
	like($log, qr/Prepack Speculation.*actual time.*\n\s+Tables: .*exact/, "$first: auto_explain shows the tables");

	is($node->safe_psql('postgres', <<"SQL"), "t\n$rows\n100000\n100000\n$one\n50", "$first: however it is run");
SELECT count(*) > 0 FROM prepack.speculation_tables WHERE state = 'ready';
PREPARE kept AS $query; EXECUTE kept;
SET jit_above_cost = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
SELECT count(*) FROM sale WHERE id > 100000;
RESET ALL;
SELECT count(*) FROM sale WHERE id > 100000;
DO \$\$ DECLARE n int := 0; r record; BEGIN
    FOR r IN $query LOOP n := n + 1; END LOOP;
    IF n <> 50 THEN RAISE EXCEPTION '% rows', n; END IF;
END \$\$;
BEGIN; DECLARE c CURSOR WITH HOLD FOR $query; FETCH 1 FROM c \\gset
COMMIT; SELECT :city, :sum; CLOSE c;
WITH s AS ($query) SELECT count(*) FROM s;
SQL
	$node->command_ok([ 'pg_dump', '-f', $node->basedir . '/dump.sql', '-d', $node->connstr('postgres') ],
		"$first: pg_dump");
	unlike(slurp_file($node->basedir . '/dump.sql'), qr/speculation_\d/, "$first: leaves speculative tables out");
	is(plans($node, 'SET prepack.use_speculation = off;'), $server_plans,
		"$first: switched off, plans are the server's own");

	# noise: many texts, each with a table that takes the place of the one before
	my $noise = join '', "ALTER SYSTEM SET prepack.speculation_max_bytes = '2MB'; SELECT pg_reload_conf();\n",
		map { "SELECT prepack.reset_speculation() >= 0;\n"
		  . "SELECT prepack.materialize('SELECT id FROM sale WHERE id < $_') > 0;\n" } 101 .. 140;
	$node->safe_psql('postgres', $noise);
	$node->safe_psql('postgres', 'VACUUM pg_class, pg_attribute, pg_type, pg_depend, pg_statistic');
	my $size = q{SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE oid IN ('pg_class'::regclass,
		'pg_attribute'::regclass, 'pg_type'::regclass, 'pg_depend'::regclass, 'pg_statistic'::regclass)};
	my $before = $node->safe_psql('postgres', $size);
	$node->safe_psql('postgres', $noise);
	$node->safe_psql('postgres', 'VACUUM pg_class, pg_attribute, pg_type, pg_depend, pg_statistic');
	my $grown = $node->safe_psql('postgres', $size) - $before;
	cmp_ok($grown, '<', 128 * 1024, "$first: forty more tables let the catalogs grow by $grown bytes");
	$node->safe_psql('postgres', 'VACUUM sale; ANALYZE');
	$node->stop;
}
done_testing();
