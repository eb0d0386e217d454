# 008_plan_ahead.pl: the plan of what is typed is made before it is submitted, and used only while it
# holds.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PrepackTest;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('ahead');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'prepack'
autovacuum = off
prepack.speculation_log_min_duration = 0
CONF
$node->start;

# On a busy machine a plan may seem not to be worth while; here it is kept whatever it gains.
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION prepack;
ALTER DATABASE postgres SET prepack.test_fault = 'ignore_cost';
CREATE TABLE part_of (id int, v int) PARTITION BY RANGE (id);
CREATE TABLE part_of_1 PARTITION OF part_of FOR VALUES FROM (0) TO (100);
CREATE TABLE later (id int, v int);
INSERT INTO later VALUES (100, 1000);
INSERT INTO part_of SELECT i, i FROM generate_series(1, 9) i;
CREATE FUNCTION twice(i int) RETURNS int LANGUAGE sql IMMUTABLE RETURN 2 * i;
DO $$
BEGIN
    FOR i IN 1 .. 7 LOOP
        EXECUTE format('CREATE TABLE t%s AS SELECT i AS id, i %% %s AS v FROM generate_series(1, 200) i', i, i + 1);
        EXECUTE format('CREATE INDEX t%s_id ON t%s (id)', i, i);
    END LOOP;
END $$;
ANALYZE;
SQL

my $query = 'SELECT count(*), sum(twice(p.v)) FROM part_of p '
  . join(' ', map { "LEFT JOIN t$_ ON t$_.id = p.id" } 1 .. 7)
  . ' JOIN t1 AS a ON a.id <= p.id JOIN t2 AS b ON b.id = a.id JOIN t3 AS c ON c.id = b.id WHERE p.v < 5000';
my $used = "SELECT value FROM prepack.pg_stat_prepack_speculation WHERE name = 'plans used'";

# Types the query in a new session and waits until all work for it is done; then runs statements.
# Returns the lines of output, the last one how many plans were used in between.
sub typed
{
	my ($then, %option) = @_;
	my $settings = $option{settings} // '';
	my $out = $node->safe_psql('postgres', <<"SQL");
SET prepack.speculation = plan;
$settings
@{[ sql_typing($query) ]}
SELECT value AS used_before FROM prepack.pg_stat_prepack_speculation WHERE name = 'plans used' \\gset
$then
SELECT value - :used_before FROM prepack.pg_stat_prepack_speculation WHERE name = 'plans used';
SQL
	return [ split /\n/, $out ];
}

my $right = $node->safe_psql('postgres', $query);
is_deeply(typed("$query;"), [ $right, '1' ], 'the plan is used, and gives the same');
is_deeply(typed("$query; $query;"), [ $right, $right, '2' ], 'more than once');
my $other_layout = $query =~ s/SELECT/select  /r;
is_deeply(typed("/* so */ $other_layout;"), [ $right, '1' ], 'layout, case and comments do not matter');
is(typed($query =~ s/5000/5001/r . ';')->[-1], '0', 'another constant has another plan');
like(join("\n", @{ typed("EXPLAIN (COSTS OFF) $query;") }), qr/Aggregate.*\n1$/s, 'EXPLAIN shows it');
is_deeply(typed("PREPARE p AS $query; EXECUTE p;"), [ $right, '0' ], 'a prepared statement plans for itself');

# settings
is_deeply(typed("$query;", settings => 'SET enable_nestloop = off;'), [ $right, '1' ],
	'the worker plans under the settings of the session');
is_deeply(typed("SET enable_nestloop = off; $query;"), [ $right, '0' ], 'a changed setting asks for a new plan');
is_deeply(typed("SET enable_nestloop = off; RESET enable_nestloop; $query;"), [ $right, '1' ], '… and changed back');
is_deeply(typed("SET prepack.use_speculation = off; $query;"), [ $right, '0' ], 'unless switched off');
is_deeply(typed("BEGIN ISOLATION LEVEL SERIALIZABLE; $query; COMMIT;"), [ $right, '0' ], 'not when serializable');

# what the plan rests on
is_deeply(typed("DROP INDEX t3_id; $query;"), [ $right, '0' ], 'an index is dropped');
is_deeply(typed("ALTER TABLE t4 ADD COLUMN w int; $query;"), [ $right, '0' ], 'a table is altered');
is_deeply(typed("CREATE TABLE unrelated (i int); $query;"), [ $right, '1' ], 'a table of no concern is created');
is_deeply(
	typed("BEGIN; CREATE OR REPLACE FUNCTION twice(i int) RETURNS int LANGUAGE sql IMMUTABLE RETURN 3 * i;\n"
		  . "$query; ROLLBACK;"),
	[ $right =~ s/\|(\d+)/'|' . $1 * 3 \/ 2/er, '0' ],
	'an inlined function is replaced');
my $more = typed("ALTER TABLE part_of ATTACH PARTITION later FOR VALUES FROM (100) TO (200); $query;");
is($more->[-1], '0', 'a partition is attached');
isnt($more->[0], $right, '… whose rows are seen');
$right = $node->safe_psql('postgres', $query);
is($more->[0], $right, '… all of them');

# by another session
my $other = $node->connstr('postgres');
is(typed(qq(\\! psql -XAtq -d "$other" -c "ALTER TABLE part_of DETACH PARTITION later"\n$query;))->[-1],
	'0', 'a partition is detached by another session');

# roles
$node->safe_psql('postgres', 'CREATE ROLE reader; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader');
is(typed("SET ROLE reader; $query;")->[-1], '0', 'another role has none');

ok($node->log_contains(qr/LOG:  speculation: duration: [0-9.]+ ms  preview: SELECT count/),
	'what runs ahead is logged');

$node->stop;
done_testing();
