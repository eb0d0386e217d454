# 002_under_load.pl: what happens to the engine and to DDL while sixteen clients work.
#
# Promises 1, 2, 3 and 27: a hundred kills of the engine cost no session and no foreign statement, each
# is followed by one restart and soon by an answer; DDL on the extension does not wait for calls.
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

my $node = new_server('load', conf => "max_connections = 60\n");
$node->safe_psql('postgres', q{SELECT prepack.register_model('toy', 'llama/model.gguf')});
$node->safe_psql('postgres', 'CREATE TABLE plain (id int PRIMARY KEY, n int); INSERT INTO plain
	SELECT i, 0 FROM generate_series(1, 1000) i');

# Starts clients that run a script until they are told to stop; 'plain' ones may never fail.
sub start_pgbench
{
	my ($clients, $seconds, $script, $file) = @_;
	my ($out, $err) = ('', '');
	my $path = $node->basedir . "/$file.sql";
	append_to_file($path, $script);
	my $h = IPC::Run::start(
		[ 'pgbench', '-n', '-c', $clients, '-j', 2, '-T', $seconds, '-f', $path,
		  '-h', $node->host, '-p', $node->port, 'postgres' ],
		'<', \undef, '>', \$out, '2>', \$err);
	return { handle => $h, out => \$out, err => \$err };
}

# --- promise 1 and 2: a hundred kills
my $plain = start_pgbench(8, 300, "\\set id random(1, 1000)\nUPDATE plain SET n = n + 1 WHERE id = :id;\n"
	  . "SELECT pg_sleep(0.01);\n", 'plain');
# A statement of prepack may fail, its session may not: errors are caught on the server.
my $calls = start_pgbench(8, 300, "DO \$\$ BEGIN PERFORM prepack.generate(i::text, model => 'toy', max_tokens => 2)
	FROM generate_series(1, 20) i; EXCEPTION WHEN system_error OR cannot_connect_now THEN NULL; END \$\$;\n"
	  . "SELECT pg_sleep(0.01);\n", 'calls');
my $started = $node->safe_psql('postgres', 'SELECT restarts FROM prepack.status');
my (@took, $requested);
my $asker = $node->background_psql('postgres', on_error_stop => 0);
for my $kill (1 .. 100)
{
	usleep(int rand 50_000);
	my $pid = engine_pid($node) || next;
	my $start = time;
	kill 'KILL', $pid;
	my $answer = wait_for(sub {
		return $asker->query("SELECT prepack.generate('x', model => 'toy', max_tokens => 2) IS NOT NULL") eq 't'
		  && engine_pid($node) != $pid;
	});
	push @took, defined $answer ? time - $start : 30;
	# Only quick failures in a row degrade; a request starts the count anew.
	next if $kill % 4;
	$pid = engine_pid($node);
	$node->safe_psql('postgres', 'SELECT prepack.restart_engine()');
	wait_for(sub { my $now = engine_pid($node); $now && $now != $pid });
	wait_ready($node);
	$requested++;
}
my $restarts = $node->safe_psql('postgres', 'SELECT restarts FROM prepack.status') - $started;
cmp_ok($restarts, '<=', @took + $requested, 'promise 2: at most one restart a kill');
cmp_ok(scalar @took, '>=', 100, 'promise 1: a hundred kills');
within(percentile(0.99, @took), 2, 'promise 2: kill to answer, p99');
is($asker->query('SELECT 1'), '1', 'the session that asked all the time is alive');
$asker->quit;

# --- promise 3: the supervisor ends
my $engine = engine_pid($node);
kill 'TERM', parent_of($engine);
my $back = wait_for(sub {
	my $now = engine_pid($node);
	return $now != 0 && $now != $engine
	  && ($node->psql('postgres', "SELECT prepack.score('x', 'y', model => 'dummy')"))[0] == 0;
});
within($back, 3, 'promise 3: SIGTERM of the supervisor to answer');
ok(!-e "/proc/$engine", 'promise 3: the engine went with its supervisor');

for my $load ($plain, $calls)
{
	$load->{handle}->signal('TERM');
	$load->{handle}->finish;
	unlike(${ $load->{err} }, qr/aborted|server closed|terminated/, 'promise 1: no client lost its session')
	  or diag(${ $load->{err} });
}
is($node->safe_psql('postgres', 'SELECT sum(n) > 100 FROM plain'), 't', 'promise 1: plain statements went on');
unlike(slurp_file($node->logfile), qr/reinitializing|terminating any other active|PANIC/,
	'promise 1: the cluster never restarted');

# --- promise 27: DDL while eight clients call
$node->safe_psql('postgres', 'CREATE DATABASE victim');
my $busy = start_pgbench(8, 300, "DO \$\$ BEGIN PERFORM prepack.classify(i::text, '{a,b}', model => 'dummy')
	FROM generate_series(1, 50) i; EXCEPTION WHEN OTHERS THEN NULL; END \$\$;\n", 'busy');
$restarts = $node->safe_psql('postgres', 'SELECT restarts FROM prepack.status');
my $admin = $node->background_psql('postgres', on_error_stop => 0);
my ($last, $idle, @ddl) = ('', 0);
for my $round (1 .. 200)
{
	my $start = time;
	my $oid = $admin->query($round % 4 ? q{DROP EXTENSION prepack; CREATE EXTENSION prepack;
			SELECT oid FROM pg_extension WHERE extname = 'prepack';}
		: q{ALTER EXTENSION prepack UPDATE; CREATE DATABASE other TEMPLATE victim;
			SELECT oid FROM pg_database WHERE datname = 'other'; DROP DATABASE other;});
	push @ddl, time - $start;
	$idle++ if $oid !~ /^\d+$/ || $oid eq $last;
	$last = $oid;
}
is($idle, 0, 'promise 27: every round made a new extension or database');
within(percentile(1, @ddl), 2, 'promise 27: DDL on the extension under load, the longest of 200');
$admin->quit;
$busy->{handle}->signal('TERM');
$busy->{handle}->finish;
wait_ready($node);
is($node->safe_psql('postgres', 'SELECT restarts FROM prepack.status'), $restarts, 'promise 27: no restart');
unlike(slurp_file($node->logfile), qr/deadlock detected/, 'promise 27: no deadlock');
unlike(slurp_file($node->logfile), qr/cache lookup failed|could not open relation|XX000/,
	'promise 27: no internal error')
  or diag(join "\n", grep { /cache lookup|could not open rel|XX000/ } split /\n/, slurp_file($node->logfile));

# A database in which calls were just made can be dropped at once.
$node->safe_psql('victim', q{CREATE EXTENSION prepack;
	SELECT prepack.score(i::text, 'y', model => 'dummy') FROM generate_series(1, 10) i});
my $start = time;
$node->safe_psql('postgres', 'DROP DATABASE victim');
within(time - $start, 2, 'promise 27: DROP DATABASE after calls');
$node->stop('fast');
done_testing();
