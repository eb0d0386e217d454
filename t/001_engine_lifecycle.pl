# 001_engine_lifecycle.pl: the engine dies, hangs or is absent; the database goes on.
#
# Whatever ends the engine or its supervisor, no other session notices, and it is back soon. Times are
# printed, not asserted; 002_under_load.pl holds them to their numbers.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $models = $ENV{PREPACK_MODELS} // '';
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf',
	"shared_preload_libraries = 'prepack'\nprepack.model_directory = '$models'\n");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION prepack');
is($node->safe_psql('postgres', "SELECT prepack.wait_until_ready('30 s')"), 't', 'engine starts');

# The pid of the engine, from the view.
sub engine_pid { return $node->safe_psql('postgres', 'SELECT engine_pid FROM prepack.status'); }

# The parent of a process: the supervisor, of the engine.
sub parent_of
{
	my ($pid) = @_;
	my ($line) = grep { /^PPid:/ } split /\n/, slurp_file("/proc/$pid/status");
	return (split ' ', $line)[1];
}

# Waits until a call succeeds; returns the seconds it took.
sub time_to_answer
{
	my $start = time;
	while (time - $start < 30)
	{
		my ($rc) = $node->psql('postgres', "SELECT prepack.generate('x', model => 'dummy')");
		return time - $start if $rc == 0;
		usleep(20_000);
	}
	return undef;
}

# A bystander: one session that must live through everything below.
my $bystander = $node->background_psql('postgres', on_error_stop => 0) if $node->can('background_psql');
my ($in, $out, $timer) = ('', '', IPC::Run::timeout(180));
$bystander = $node->background_psql('postgres', \$in, \$out, $timer) if !ref $bystander;

# kill -9 of the engine, ten times
my @took;
for my $round (1 .. 10)
{
	my $pid = engine_pid();
	my $restarts = $node->safe_psql('postgres', 'SELECT restarts FROM prepack.status');
	kill 'KILL', $pid;
	$node->poll_query_until('postgres', "SELECT engine_pid <> $pid FROM prepack.status")
	  or die 'the engine was not restarted';
	push @took, time_to_answer();
	is($node->safe_psql('postgres', 'SELECT restarts FROM prepack.status'),
		$restarts + 1, "one restart for one kill, round $round");
	# An engine that has lived is restarted at once; quick failures would back off.
	$node->safe_psql('postgres', 'SELECT prepack.restart_engine()');
	$node->poll_query_until('postgres', "SELECT prepack.wait_until_ready('1 s')");
}
ok(!(grep { !defined } @took), 'every kill was survived');
diag(sprintf 'kill to first answer: %.0f ms at most', 1000 * (sort { $a <=> $b } @took)[-1]);

# SIGTERM to the supervisor: both are back
my $engine = engine_pid();
my $supervisor = parent_of($engine);
kill 'TERM', $supervisor;
$node->poll_query_until('postgres', "SELECT coalesce(engine_pid, $engine) <> $engine FROM prepack.status");
ok(defined time_to_answer(), 'supervisor and engine come back');
ok(!-e "/proc/$engine", 'the old engine is gone with its supervisor');

# a call that runs when the engine dies gets one clear error
SKIP:
{
	skip "no model smollm2-135m.gguf in '$models'", 4 if !-e "$models/smollm2-135m.gguf";
	$node->safe_psql('postgres', "SELECT prepack.register_model('smol', 'smollm2-135m.gguf')");
	$node->safe_psql('postgres', "SELECT prepack.load_model('smol')");
	my $long = q{SELECT count(prepack.classify(repeat(md5(i::text) || ' ', 40), '{a,b}', model => 'smol'))
		FROM generate_series(1, 20000) i};
	my $pid = engine_pid();
	my ($so, $se) = ('', '');
	my $h = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', $long ],
		'<', \undef, '>', \$so, '2>', \$se, IPC::Run::timeout(60));
	$node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM prepack.queue});
	kill 'KILL', $pid;
	$h->finish;
	like($se, qr/inference engine exited unexpectedly/, 'the caller is told');
	like($se, qr/HINT:  The engine is being restarted/, 'and what happens next');
	ok(defined time_to_answer(), 'the engine is back');

	# statement_timeout, with the server's own words and our progress
	$node->safe_psql('postgres', "SELECT prepack.load_model('smol')");
	my $start = time;
	my (undef, undef, $err) = $node->psql('postgres', "SET statement_timeout = '1s'; $long");
	diag(sprintf 'a statement with a timeout of 1000 ms ended after %.0f ms', 1000 * (time - $start));
	like($err, qr/canceling statement due to statement timeout.*rows done/s, 'timeout keeps its words');
}

# the postmaster is killed: nothing stays behind, and the next start succeeds at once
$engine = engine_pid();
my ($postmaster) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');
$node->kill9;
my $gone = 0;
for (1 .. 250) { last if $gone = !-e "/proc/$engine"; usleep(20_000); }
ok($gone, 'the engine does not outlive the postmaster');
# The killed process may linger as a zombie, which still holds its pid against a new postmaster.
for (1 .. 500) { last if !-e "/proc/$postmaster"; usleep(20_000); }
unlink $node->data_dir . '/postmaster.pid' if -e "/proc/$postmaster";
$node->start;
ok(defined time_to_answer(), 'restart after kill -9 of the postmaster');

# dump and restore: user models travel, built-in ones do not come twice
$node->safe_psql('postgres', q{SELECT prepack.register_model('mine', 'mine.gguf', '{"kind": "embed"}')});
my $dump = $node->basedir . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $dump, '-d', $node->connstr('postgres') ], 'pg_dump');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-f', $dump, '-d', $node->connstr('copy') ],
	'restore');
is($node->safe_psql('copy', q{SELECT string_agg(name, ',' ORDER BY name) FROM prepack.models
	WHERE name IN ('dummy', 'mine')}), 'dummy,mine', 'registered models are restored');
$node->safe_psql('postgres', 'DROP DATABASE copy');

# a fast stop is fast, and takes the engine along
$engine = engine_pid();
$node->stop('fast');
ok(!-e "/proc/$engine", 'a stopped server has no engine');

# without preload: the extension can be created, calls say what to do
my $bare = PostgreSQL::Test::Cluster->new('bare');
$bare->init;
$bare->start;
$bare->safe_psql('postgres', 'CREATE EXTENSION prepack');
my (undef, undef, $stderr) = $bare->psql('postgres', "SELECT prepack.generate('x', model => 'dummy')");
like($stderr, qr/prepack is not loaded.*shared_preload_libraries/s, 'not preloaded: 55000 with a hint');
$bare->stop;

done_testing();
