# 003_limits.pl: leaks, cancels, lost clients.
#
# Promises 5, 6 and 7, each at its number, and the memory of a backend that runs 100,000 rows.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PrepackTest;
use Test::More;
use Time::HiRes qw(time usleep);

# No JIT: the endless statements look costly, and compiling cannot be interrupted.
my $node = new_server('limits',
	conf => "client_connection_check_interval = 100ms\nmax_connections = 60\njit = off\n",
	models => real_model() ? models_dir() : toy_models());
my $engine = engine_pid($node);

# Measures a backend and the engine: descriptors and private memory.
sub footprint
{
	my ($backend) = @_;
	return (fds($backend), anon_kb($backend), fds($engine), anon_kb($engine));
}

# --- the memory of a backend: flat over 100,000 rows
my $session = $node->background_psql('postgres', on_error_stop => 0);
my $backend = $session->query('SELECT pg_backend_pid()');
$session->query("SET prepack.model = 'dummy'");
my $rows = q{SELECT count(prepack.classify('row ' || i, '{a,b,c}')) FROM
	(SELECT generate_series(%d, %d) AS i OFFSET 0) s};
# What a statement remembers of equal inputs is bounded by work_mem: here it is full after the first rows.
$session->query("SET work_mem = '1MB'");
$session->query(sprintf $rows, 1, 30_000);
my @before = footprint($backend);
is($session->query(sprintf $rows, 1, 100_000), '100000', '100,000 rows');
my @after = footprint($backend);
cmp_ok($after[1] - $before[1], '<=', 2048, 'a backend runs 100,000 rows in the memory of 30,000, kB more');

# --- promise 5: 10,000 requests that end by an error at random rows, 1,000 connections
my $aborts = q{DO $$ BEGIN FOR i IN 1 .. %d LOOP BEGIN
	PERFORM prepack.score('row ' || i || ' ' || j, 'c'), 1 / (j - (random() * 60)::int) FROM generate_series(1, 100) j;
	EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$};
$session->query(sprintf $aborts, 2000);
@before = footprint($backend);
$session->query(sprintf $aborts, 10_000);
@after = footprint($backend);
is($after[0], $before[0], 'promise 5: descriptors of the backend after 10,000 aborts');
is($after[2], $before[2], 'promise 5: descriptors of the engine after 10,000 aborts');
cmp_ok($after[1], '<=', $before[1] * 1.01 + 256, 'promise 5: memory of the backend, kB');
cmp_ok($after[3], '<=', $before[3] * 1.01 + 1024, 'promise 5: memory of the engine, kB');
my $connect = $node->basedir . '/connect.sql';
append_to_file($connect, "SELECT prepack.score('x', 'c', model => 'dummy');\n");
$node->command_ok([ 'pgbench', '-n', '-C', '-c', 4, '-t', 250, '-f', $connect, '-h', $node->host,
	'-p', $node->port, 'postgres' ], 'promise 5: 1,000 connections');
# The engine may learn of the last client's end a moment after pgbench has ended.
wait_for(sub { fds($engine) <= $before[2] }, 10);
@after = footprint($backend);
is($after[2], $before[2], 'promise 5: descriptors of the engine after 1,000 connections');
cmp_ok($after[3], '<=', $before[3] * 1.01 + 1024, 'promise 5: memory of the engine, kB');
is($session->query('SELECT count(*) FROM prepack.queue'), '0', 'promise 5: nothing is left in the queue');

# --- promise 6: cancels. The clock runs on the server, from the signal to the backend's next state.
$node->safe_psql('postgres', q{
	CREATE FUNCTION cancel_ms(victim int) RETURNS float8 LANGUAGE plpgsql AS $$
	DECLARE
		start timestamptz := clock_timestamp();
	BEGIN
		PERFORM pg_cancel_backend(victim);
		LOOP
			PERFORM pg_stat_clear_snapshot();
			EXIT WHEN (SELECT state FROM pg_stat_activity WHERE pid = victim) <> 'active';
			PERFORM pg_sleep(0.0005);
		END LOOP;
		RETURN extract(epoch FROM clock_timestamp() - start) * 1000;
	END $$});
my %endless = (
	'rows of the dummy' => q{SELECT count(prepack.classify('row ' || i, '{a,b}', model => 'dummy'))
		FROM (SELECT generate_series(1, 1000000000) AS i OFFSET 0) s},
	'an array' => q{SELECT count(prepack.score(array_fill('some words'::text, ARRAY[100000]), 'c', model => 'dummy'))
		FROM generate_series(1, 100000)},
	'a function body' => q{DO $$ BEGIN LOOP PERFORM prepack.score('x', 'c', model => 'dummy'); END LOOP; END $$});
if (real_model())
{
	$node->safe_psql('postgres', q{SELECT prepack.register_model('smol', 'smollm2-135m.gguf');
		SELECT prepack.load_model('smol')});
	$endless{'10,000 rows at a model'} = q{
		SELECT count(prepack.classify(i || repeat(' word', 100), '{a,b}', model => 'smol'))
		FROM generate_series(1, 10000) i};
	$endless{'a long prefill'} = q{SELECT prepack.generate(random() || repeat(' word', 6000), model => 'smol')
		FROM generate_series(1, 100)};
	$endless{'generation'} = q{SELECT prepack.generate('Count.' || i, model => 'smol', max_tokens => 2000)
		FROM generate_series(1, 100) i};
}
else
{
	diag("SKIP: cancels at a real model: no smollm2-135m.gguf in '" . models_dir() . "'");
}

# Cancels a statement fifteen times; the seconds that each took.
sub cancels_of
{
	my ($what, $sql) = @_;
	my @ms;

	for my $round (1 .. 15)
	{
		my $banner = "started $what $round";
		$session->query_until(qr/$banner/, "\\echo $banner\n$sql;\n");
		usleep(20_000 + int rand 60_000);
		push @ms, $node->safe_psql('postgres', "SELECT cancel_ms($backend)");
		$session->query('SELECT 1');
		$session->{stderr} = '';
	}
	diag(sprintf '%s: cancel p50 %.1f ms, max %.1f ms', $what, percentile(0.5, @ms), percentile(1, @ms));
	return map { $_ / 1000 } @ms;
}

# What the server itself takes on this machine, with whatever else runs on it, stands beside.
my $alone = 'SELECT count(*) FROM generate_series(1, 1000000000)';
my $own = percentile(1, map { cancels_of('the server alone', $alone) } 1 .. 3);
my @cancels = map { cancels_of($_, $endless{$_}) } sort keys %endless;
within(percentile(0.5, @cancels), 0.05, 'promise 6: cancel to idle, the median');
within(percentile(0.99, @cancels), 0.1 + $own, 'promise 6: cancel to idle, p99, beyond the server alone');
within(percentile(1, @cancels), 0.2 + $own, 'promise 6: cancel to idle, the longest, beyond the server alone');
within(wait_for(sub { $node->safe_psql('postgres', 'SELECT count(*) FROM prepack.queue') == 0 }, 10),
	0.2, 'promise 6: the engine has dropped what was cancelled');
my ($start, $stderr);
# On a busy machine the time may be up before the first batch is sent, and nobody waits for rows then.
for (1 .. 5)
{
	$start = time;
	(undef, undef, $stderr) = $node->psql('postgres',
		"SET statement_timeout = '300ms'; $endless{'rows of the dummy'}");
	last if $stderr =~ /rows done/;
}
like($stderr, qr/canceling statement due to statement timeout.*rows done/s,
	'promise 6: statement_timeout, in its own words');
within(time - $start, 1, 'promise 6: a statement with 300 ms');

# --- promise 7: a client that is killed
my $served = q{SELECT count(*) FROM pg_stat_activity WHERE query ~ '^SELECT (count|pg_sleep)'
	AND state = 'active' AND pid <> pg_backend_pid()};

# Kills the client of a statement five times; the seconds from there to the statement's end.
sub losses_of
{
	my ($sql) = @_;
	my @lost;

	for my $round (1 .. 5)
	{
		my ($out, $err) = ('', '');
		my $client = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', $sql ],
			'<', \undef, '>', \$out, '2>', \$err);
		wait_for(sub { $session->query("/* look */ $served") == 1 }) // die 'the client did not start';
		my $start = time;
		$client->signal('KILL');
		push @lost, wait_for(sub { $session->query("/* look */ $served") == 0 }, 10) // 10;
		$client->finish;
	}
	return percentile(0.5, @lost);
}
my $own_loss = losses_of('SELECT pg_sleep(100)');
within(losses_of($endless{'rows of the dummy'}), $own_loss + 0.1,
	'promise 7: a killed client to the end of its statement, beyond the server alone');
$session->quit;
$node->stop('fast');
done_testing();
