# 012_other_version.pl: an engine of another version than the library is refused, at once and in words.
#
# The program is what a package manager replaces under a running server. Here a stand-in listens on the
# engine's socket while the engine itself is stopped: to the server it is an engine that was started and
# speaks otherwise.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use IO::Socket::UNIX;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PrepackTest;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = new_server('main', conf => "prepack.startup_wait = '60s'\n");
my $socket = $node->data_dir . '/prepack/engine.sock';
my $call = q{SELECT prepack.generate('x', model => 'dummy') IS NOT NULL};
my $magic = 0x4b505250;

# A frame: u32 length, u32 type, u64 id, payload.
sub frame
{
	my ($type, $id, $payload) = @_;
	return pack('V V Q<', length $payload, $type, $id) . $payload;
}

# Answers every connection with the same bytes, in a process of its own; returns its pid.
sub stand_in
{
	my ($bytes) = @_;
	unlink $socket;
	my $listener = IO::Socket::UNIX->new(Local => $socket, Listen => 16) or die "cannot listen: $!";
	my $pid = fork // die "cannot fork: $!";
	return $pid if $pid;
	while (my $client = $listener->accept)
	{
		$client->sysread(my $hello, 1024);
		$client->syswrite($bytes);
		$client->sysread($hello, 1024);
	}
	POSIX::_exit(0);
}

# What the server does about an engine that answers so.
sub check_refused
{
	my ($name, $bytes, $detail) = @_;
	my $engine = engine_pid($node);
	my $offset = -s $node->logfile;
	kill 'STOP', $engine;
	my $pid = stand_in($bytes);
	my $noticed = wait_for(
		sub { $node->safe_psql('postgres', 'SELECT state FROM prepack.status') eq 'degraded' }, 20);
	ok(defined $noticed, "$name: noticed");
	my $start = time;
	my ($rc, undef, $stderr) = $node->psql('postgres', "\\set VERBOSITY verbose\n$call");
	my $took = time - $start;
	isnt($rc, 0, "$name: calls fail");
	like($stderr, qr/ERROR:  55000: inference engine is of another version than the library/, "$name: the error");
	like($stderr, qr/DETAIL:  $detail/, "$name: what differs");
	like($stderr, qr/HINT:  Restart the server, so that it loads the library/, "$name: what to do");
	within($took, 5, "$name: no call waits prepack.startup_wait, a minute here");
	my $told = $node->safe_psql('postgres', 'SELECT last_error FROM prepack.status');
	like($told, qr/^$detail/, "$name: the view");
	my $said = () = slurp_file($node->logfile, $offset) =~
	  /LOG:  inference engine is of another version than the library, retrying once a minute/g;
	is($said, 1, "$name: said once in the log");
	ok(!kill(0, $engine), "$name: that engine is gone");

	# The right program again: the next start, asked for here, is a good one.
	kill 'KILL', $pid;
	waitpid $pid, 0;
	$node->safe_psql('postgres', 'SELECT prepack.restart_engine()');
	is($node->safe_psql('postgres', "SELECT prepack.wait_until_ready('30 s')"), 't', "$name: and back");
	is($node->safe_psql('postgres', $call), 't', "$name: calls answer again");
	return $told;
}

my ($version) = check_refused('an older protocol', frame(64, 1, pack('V V V', $magic, 0, $$)),
	'The engine speaks protocol version 0, the library \d+\.') =~ /library (\d+)/;
my $refusal = 'protocol version 1 is not supported; the engine speaks 2';
check_refused('a newer protocol', frame(68, 1, pack('C V/a', 4, $refusal)), "The engine says: $refusal\\.");
check_refused('statistics of another shape',
	frame(64, 1, pack('V V V', $magic, $version, $$)) . frame(70, 2, pack('V C', $$, 1)),
	'What the engine says of its state is not understood\.');
check_refused('another program', frame(9999, 1, 'HTTP/1.1 400 Bad Request'),
	'What the engine answers is not understood\.');
$node->stop('fast');
done_testing();
