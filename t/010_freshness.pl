# 010_freshness.pl: what speculative tables must not answer any more, with writers that few think of.
#
# Scenarios 17 and 19 of speculation, and what 18 needs two sessions for: the race harness (short; more checks
# in bench/speql/race by hand), logical replication's apply, partitions that come while a build waits, snapshots
# older than a table, prepared transactions, a standby.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('freshness');
$node->init(allows_streaming => 'logical');
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'prepack'
prepack.test_fault = 'ignore_cost'
max_prepared_transactions = 10
max_connections = 40
autovacuum = off
jit = off
CONF
$node->start;

my $timer = IPC::Run::timeout(120);
my $total = 'SELECT count(*), sum(v) FROM t';

# A session; send() returns at once, ask() what came back.
{
	package Session;

	sub new
	{
		my ($class, $dbname) = @_;
		my $self = bless { in => '', out => '', n => 0 }, $class;
		$self->{run} = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr($dbname) ],
			'<', \$self->{in}, '>', \$self->{out}, '2>&1', $timer);
		return $self;
	}

	sub send
	{
		my ($self, $sql) = @_;
		$self->{in} .= "$sql;\n\\echo done " . ++$self->{n} . "\n";
		$self->{run}->pump_nb;
	}

	sub answer
	{
		my ($self) = @_;
		my $mark = "done $self->{n}\n";
		$self->{run}->pump until $self->{out} =~ /$mark/;
		my $out = $self->{out} =~ s/done \d+\n//gr;
		$self->{out} = '';
		chomp $out;
		return $out;
	}

	sub ask { my ($self, $sql) = @_; $self->send($sql); return $self->answer; }

	sub end { my ($self) = @_; $self->{in} .= "\\q\n"; $self->{run}->finish; }
}

# How a query is answered in a session: "table" or "plain".
sub answered_by
{
	my ($session, $query) = @_;
	return $session->ask("EXPLAIN (COSTS OFF) $query") =~ /^\s*Tables:/m ? 'table' : 'plain';
}

# What a query gives with and without tables, and how.
sub both
{
	my ($session, $query) = @_;
	my $how = answered_by($session, $query);
	my $with = $session->ask($query);
	my $without = $session->ask("SET prepack.use_speculation = off; $query; RESET prepack.use_speculation");
	return $with eq $without ? "$how: $with" : "DIFFERENT: $with, not $without";
}

# ---- 19: logical replication
$node->safe_psql('postgres', 'CREATE DATABASE source');
$node->safe_psql('source', 'CREATE TABLE t (id int PRIMARY KEY, v int); CREATE PUBLICATION p FOR TABLE t;
	SELECT pg_create_logical_replication_slot(\'s\', \'pgoutput\')');
$node->safe_psql('postgres', 'CREATE EXTENSION prepack; CREATE TABLE t (id int PRIMARY KEY, v int)');
my $source = $node->connstr('source') =~ s/'/''/gr;
$node->safe_psql('postgres', "CREATE SUBSCRIPTION s CONNECTION '$source' PUBLICATION p
	WITH (create_slot = false, slot_name = s, copy_data = false)");
my $session = Session->new('postgres');
my %changes = (
	'insert' => 'INSERT INTO t SELECT i, i FROM generate_series(1, 10) i',
	'update' => 'UPDATE t SET v = v + 1 WHERE id < 4',
	'delete' => 'DELETE FROM t WHERE id = 7',
	'truncate' => 'TRUNCATE t');
for my $kind ('insert', 'update', 'delete', 'truncate')
{
	my $before = $session->ask($total);
	$session->ask("SELECT prepack.reset_speculation(); SELECT prepack.materialize('$total')");
	is(both($session, $total), "table: $before", "19: a table on the subscriber, before the $kind");
	$node->safe_psql('source', $changes{$kind});
	$node->wait_for_catchup('s');
	my $after = $node->safe_psql('source', $total);
	is(both($session, $total), "plain: $after", "19: $kind applied: not answered from it");
}
$node->safe_psql('postgres', 'ALTER SUBSCRIPTION s DISABLE; ALTER SUBSCRIPTION s SET (slot_name = NONE);
	DROP SUBSCRIPTION s');
$node->safe_psql('source', 'SELECT pg_drop_replication_slot(\'s\')');

# ---- 18: snapshots of before
$session->ask("INSERT INTO t SELECT i, i FROM generate_series(1, 10) i; SELECT prepack.reset_speculation()");
my $old = Session->new('postgres');
$old->ask('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
$session->ask("INSERT INTO t VALUES (11, 100); SELECT prepack.materialize('$total')");
is(both($session, $total), 'table: 11|155', '18: a new snapshot reads the table');
is(both($old, $total), 'plain: 10|55', '18: an older one does not');
$old->ask('COMMIT; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
$session->ask('INSERT INTO t VALUES (12, 1)');
is(both($old, $total), 'table: 11|155', '18: a snapshot of before the write still reads the table');
is(both($session, $total), 'plain: 12|156', '18: one of after does not');
$old->ask('COMMIT');
is(both($old, $total), 'plain: 12|156', '18: nor the same session in its next transaction');

# ---- prepared transactions
$session->ask("SELECT prepack.materialize('$total')");
$old->ask("BEGIN; INSERT INTO t VALUES (13, 1); PREPARE TRANSACTION 'p'");
is(both($session, $total), 'table: 12|156', '16: prepared is not yet written');
$old->ask("COMMIT PREPARED 'p'");
is(both($session, $total), 'plain: 13|157', '16: committed is');

# ---- 19: a partition that is attached while the build waits for it
$session->ask('CREATE TABLE part (a int, v int) PARTITION BY RANGE (a);
	CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10); CREATE TABLE part_2 (a int, v int);
	INSERT INTO part VALUES (1, 1); INSERT INTO part_2 VALUES (11, 1)');
$old->ask('BEGIN; ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES FROM (10) TO (20)');
$session->send("SELECT prepack.materialize('SELECT sum(v) FROM part') > 0");
$node->poll_query_until('postgres', "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 'part'::regclass
	OR NOT granted AND locktype = 'virtualxid'");
$old->ask('COMMIT');
like($session->answer, qr/partitions changed/, '19: a build that missed a partition is given up');
$session->ask("SELECT prepack.materialize('SELECT sum(v) FROM part')");
is(both($session, 'SELECT sum(v) FROM part'), 'table: 2', '19: the next has it');
$old->ask('INSERT INTO part_2 VALUES (12, 5)');
is(both($session, 'SELECT sum(v) FROM part'), 'plain: 7', '19: and sees what is written to it');

# ---- 19: a standby has no tables
$session->ask("SELECT prepack.materialize('$total')");
$node->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'b', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', $total), '13|157', '19: a standby answers');
unlike($standby->safe_psql('postgres', "EXPLAIN $total"), qr/Prepack/, '19: but not from tables');
like(($standby->psql('postgres', "SELECT prepack.materialize('$total')"))[2], qr/read-only transaction/,
	'19: nor builds any');
$standby->stop('immediate');
$_->end for $session, $old;

# ---- 17: races
$ENV{PGHOST} = $node->host;
$ENV{PGPORT} = $node->port;
$ENV{PGDATABASE} = 'postgres';
my $race = "$ENV{TESTDIR}/../../bench/speql/race";
command_ok([ $race, '--checks', 2000 ], '17: no false fresh answer, at most 2 % false stale ones');
command_ok([ $race, '--checks', 2000, '--scenario', 'late', '--caught' ],
	'17: writers noted after their commit are caught by the same harness');
$node->stop;
done_testing();
