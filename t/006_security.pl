# 006_security.pl: what one role may learn of another, and what a hostile peer can do.
#
# Promises 18, 19, 24 and 30. Here the engine's own count of the tokens that it took from the cache must not
# move, which is what a timing attack would guess at; the attack itself is 011_prefix_timing.pl.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use IO::Select;
use IO::Socket::UNIX;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PrepackTest;
use Test::More;
use Time::HiRes qw(time usleep);

srand($ENV{PREPACK_TEST_SEED} // 20261123);
my $real = real_model();
$ENV{UNRELATED_SECRET} = 'unrelated';
my $node = new_server('secret', models => $real ? models_dir() : toy_models(),
	conf => "prepack.model = 'dummy'\nlog_min_error_statement = panic\nlog_statement = none\n");
my $file = $real ? 'smollm2-135m.gguf' : 'llama/model.gguf';
$node->safe_psql('postgres', "SELECT prepack.register_model('m', '$file');
	CREATE ROLE ann LOGIN; CREATE ROLE bob LOGIN; CREATE ROLE eve LOGIN;
	SELECT prepack.grant_usage('ann'), prepack.grant_usage('bob'), prepack.grant_usage('eve')");

# --- promise 18: a thousand random policies, views and roles, through prepared statements
$node->safe_psql('postgres', q{
	CREATE TABLE doc (id int PRIMARY KEY, owner name, body text);
	INSERT INTO doc SELECT i, (ARRAY['ann', 'bob'])[1 + i % 2], 'canary ' || i FROM generate_series(1, 60) i;
	ALTER TABLE doc ENABLE ROW LEVEL SECURITY;
	CREATE POLICY p ON doc USING (false);
	CREATE VIEW barrier WITH (security_barrier) AS SELECT * FROM doc WHERE id % 3 = 0;
	GRANT SELECT ON doc, barrier TO ann, bob;
	CREATE FUNCTION leak(body text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS
		$$ BEGIN INSERT INTO pg_temp.seen VALUES (current_user, body); RETURN true; END $$;
	-- Runs a query for a role and gives the ids that it may not see but got or leaked.
	CREATE FUNCTION foreign_rows(query text, role name) RETURNS int LANGUAGE plpgsql AS $$
	DECLARE
		mine int[];
		got int[];
		leaked int;
	BEGIN
		TRUNCATE pg_temp.seen;
		EXECUTE format('SET ROLE %I', role);
		SELECT coalesce(array_agg(id), '{}') INTO mine FROM doc;
		EXECUTE 'SELECT coalesce(array_agg(id), ''{}'') FROM (' || query || ') q' INTO got;
		RESET ROLE;
		SELECT count(*) INTO leaked FROM pg_temp.seen WHERE substr(body, 8)::int <> ALL (mine);
		RETURN leaked + (SELECT count(*) FROM unnest(got) g WHERE g <> ALL (mine));
	END $$;
	CREATE PROCEDURE try_policies(n int, OUT foreign_total int, OUT tried int) LANGUAGE plpgsql AS $$
	DECLARE
		queries text[] := ARRAY[
			$q$SELECT id FROM doc WHERE prepack.is_true(body, 'x') OR true$q$,
			$q$SELECT id FROM doc WHERE leak(body) AND prepack.classify(body, '{a,b}') IN ('a', 'b')$q$,
			$q$SELECT id FROM doc WHERE prepack.classify(body, '{a,b}') IN ('a', 'b') AND leak(body)$q$,
			$q$SELECT d.id FROM doc d JOIN doc e ON d.id = e.id + 1
				WHERE prepack.score(e.body, 'y') >= 0 AND leak(e.body)$q$,
			$q$SELECT id FROM doc ORDER BY prepack.score(body, 'z'), id LIMIT 9$q$];
	BEGIN
		foreign_total := 0;
		tried := 0;
		FOR i IN 1 .. n LOOP
			EXECUTE format('ALTER POLICY p ON doc USING (id %% %s = %s %s)', 1 + i % 7, i % 5,
				(ARRAY['', 'AND owner = current_user', 'OR id = ' || i % 60])[1 + i % 3]);
			foreign_total := foreign_total + foreign_rows(queries[1 + i % 5], (ARRAY['ann', 'bob'])[1 + i % 2]::name);
			tried := tried + 1;
		END LOOP;
	END $$;});
my $session = $node->background_psql('postgres', on_error_stop => 0);
$session->query('CREATE TEMP TABLE seen (who name, body text); GRANT ALL ON seen TO PUBLIC');
is($session->query('CALL try_policies(1000, NULL, NULL)'), '0|1000',
	'promise 18: 1,000 policies show no foreign row, to a call or to a leaking function beside it');
# What is computed is what may be seen: the texts that reached the engine are the role's own.
$session->query(q{ALTER POLICY p ON doc USING (owner = current_user); SELECT prepack.pg_stat_prepack_reset()});
$session->query(q{SET ROLE ann; SELECT count(prepack.score(body, 'q')) FROM doc});
$session->query('RESET ROLE');
is($session->query(q{SELECT sum(rows) FROM prepack.pg_stat_prepack WHERE userid = 'ann'::regrole}), '30',
	'promise 18: rows that a policy hides never reach the engine');
# One prepared statement under two roles.
$session->query(q{SET plan_cache_mode = force_generic_plan;
	PREPARE q AS SELECT string_agg(DISTINCT owner, ',') FROM doc WHERE prepack.score(body, 'q') >= 0;
	SET ROLE ann});
is($session->query('EXECUTE q'), 'ann', 'promise 18: a prepared statement, as one role');
$session->query('SET ROLE bob');
is($session->query('EXECUTE q'), 'bob', 'promise 18: and as another');
$session->query('RESET ROLE');

# --- promise 19: prefixes. The same role finds its own; another finds no more than if it were the first.
sub shared
{
	my ($role, $text) = @_;
	$node->safe_psql('postgres', 'SELECT prepack.pg_stat_prepack_reset()');
	$node->safe_psql('postgres', "SELECT prepack.generate('Secret word: heliotrope. Answer shortly.', '$text',
		model => 'm', max_tokens => 1)", extra_params => [ '-U', $role ]);
	return $node->safe_psql('postgres',
		"SELECT sum(shared_prefix_tokens) FROM prepack.pg_stat_prepack WHERE userid = '$role'::regrole");
}
my $first = shared('ann', 'one');
my $own = shared('ann', 'two');
my $others = shared('bob', 'three');
cmp_ok($own, '>', $first, "promise 19: a role finds its own prefix: $own tokens, at first $first");
is($others, $first, 'promise 19: another role finds no more of it than the first call did');
is($node->safe_psql('postgres', 'SELECT count(*) FROM prepack.prefixes', extra_params => [ '-U', 'eve' ]), '0',
	'promise 19: a role that called nothing sees no prefix');

# --- promise 30: no prompt where it does not belong
my $canary = 'xyzzy' . int rand 1e9;
$node->safe_psql('postgres', "CREATE TABLE secret AS SELECT '$canary ' || i AS body FROM generate_series(1, 50) i;
	GRANT SELECT ON secret TO ann");
for my $sql ('SELECT prepack.generate(body) FROM secret', 'SELECT prepack.classify(body, \'{a,b}\') FROM secret',
	'SELECT prepack.generate_json(body, \'{"type": "word"}\') FROM secret',
	'SELECT prepack.generate(body, model => \'m\', max_tokens => 2) FROM secret LIMIT 3',
	'SELECT prepack.score(repeat(body, 5000000), \'x\') FROM secret WHERE body ~ \' 1$\'',
	'SELECT prepack.classify(array_agg(body || repeat(\' word\', 20000)), \'{a,b}\', model => \'m\') FROM secret')
{
	$node->psql('postgres', "SET statement_timeout = '10s'; $sql", extra_params => [ '-U', 'ann' ]);
}
my $engine = engine_pid($node);
my $seen = join ' ', map {
	$node->safe_psql('postgres', "SELECT row_to_json(v) FROM prepack.$_ v", extra_params => [ '-U', 'eve' ]) }
  qw(status queue prefixes pg_stat_prepack models);
unlike($seen, qr/$canary/, 'promise 30: no view shows a text to another role');
unlike(slurp_file($node->logfile), qr/$canary/, 'promise 30: no text in the server log');
unlike(slurp_file("/proc/$engine/cmdline") . slurp_file("/proc/$engine/environ"), qr/$canary/,
	'promise 30: nor in the command line or the environment of the engine');
unlike(slurp_file("/proc/$engine/environ"), qr/UNRELATED/, 'promise 30: the engine does not get the environment');
like(slurp_file("/proc/$engine/limits"), qr/^Max core file size\s+0\s+0\s/m, 'promise 30: the engine leaves no core');
like(slurp_file("/proc/$engine/status"), qr/^NoNewPrivs:\s+1$/m, 'promise 30: and gains no rights');
is((stat($node->data_dir . '/prepack/engine.sock'))[2] & 0177, 0, 'promise 30: its socket is the owner\'s alone');

# --- promise 24: hostile bytes to the engine
my $socket = $node->data_dir . '/prepack/engine.sock';
my $hello = pack 'V v v Q< V V V', 12, 1, 0, 1, 0x4b505250, 1, $$;
for my $round (1 .. 500)
{
	my $peer = IO::Socket::UNIX->new(Peer => $socket) or next;
	my $noise = join '', map { chr int rand 256 } 1 .. 1 + int rand 200;
	$peer->print($hello) if $round % 4;
	# Whole frames with a random type and payload, too: they get past the header's checks.
	$noise = pack('V v v Q<', length $noise, 1 + int rand 14, 0, $round) . $noise if $round % 2;
	$peer->print($noise);
	$peer->close;
}
is($node->safe_psql('postgres', q{SELECT prepack.score('x', 'y') IS NOT NULL}), 't', 'promise 24: the engine answers');
is(engine_pid($node), $engine, 'promise 24: after 500 hostile clients it is the same');

# --- promise 24: hostile bytes from the engine, by a proxy between it and the backends
my $moved = $socket =~ s/engine\.sock$/moved/r;    # a socket's path has 107 bytes at most
rename $socket, $moved or die "rename: $!";
my $listener = IO::Socket::UNIX->new(Local => $socket, Listen => 64) or die "listen: $!";
my $mode_file = $node->basedir . '/mode';

# What the proxy makes of bytes on their way to a backend; the empty list ends the connection.
sub harm
{
	my ($mode, $bytes) = @_;
	return $bytes if $mode eq 'none';
	if ($mode eq 'flip') { substr($bytes, rand length $bytes, 1) = chr int rand 256; return $bytes; }
	return substr($bytes, 0, rand length $bytes) if $mode eq 'cut';
	return $bytes . $bytes if $mode eq 'twice';
	return join '', map { chr int rand 256 } 1 .. 64 if $mode eq 'noise';
	return $bytes . pack('V v v Q<', 4, 65 + int rand 9, 0, int rand 9) . "\xff\xff\xff\xff" if $mode eq 'extra';
	return ();
}

# In a process of its own, which must not run the END blocks of the test: they stop the server.
# Relays one connection; only what answers a job is harmed, so that the supervisor is content.
sub relay
{
	my ($client) = @_;
	my $server = IO::Socket::UNIX->new(Peer => $moved) or POSIX::_exit(0);
	my $both = IO::Select->new($client, $server);
	my $jobs = 0;
	srand($$);
	while (my @ready = $both->can_read)
	{
		for my $from (@ready)
		{
			sysread($from, my $bytes, 65536) or POSIX::_exit(0);
			my $to = $from == $client ? $server : $client;
			# What a supervisor sends is shorter than any job.
			$jobs ||= $from == $client && length $bytes > 100;
			my @sent = $from == $server && $jobs ? harm(slurp_file($mode_file), $bytes) : ($bytes);
			POSIX::_exit(0) if !@sent;
			syswrite $to, $sent[0];
		}
	}
	POSIX::_exit(0);
}
append_to_file($mode_file, 'none');
my $proxy = fork // die;
if ($proxy == 0)
{
	$SIG{CHLD} = 'IGNORE';
	while (1)
	{
		my $client = $listener->accept or next;
		next if fork;
		relay($client);
	}
}
close $listener;
my $victim = $node->background_psql('postgres', on_error_stop => 0);
my $pid = $victim->query('SELECT pg_backend_pid()');
$victim->query("SET statement_timeout = '100ms'");
my %ended = (answer => 0, error => 0);
for my $mode (qw(none flip cut twice noise extra end))
{
	open my $f, '>', $mode_file or die; print $f $mode; close $f;
	for my $round (1 .. ($mode eq 'none' ? 5 : 25))
	{
		my $answer = $victim->query("SELECT 'sum ' || count(*) FROM unnest(prepack.classify(
			array_fill('text $round'::text, ARRAY[20]), '{a,b}')) x");
		$victim->{stderr} = '';
		$ended{ $answer eq 'sum 20' ? 'answer' : 'error' }++;
		fail("promise 24: without harm the proxy is not seen") if $mode eq 'none' && $answer ne 'sum 20';
	}
}
is($ended{answer} + $ended{error}, 155,
	"promise 24: every request ends once: $ended{answer} answers, $ended{error} errors");
cmp_ok($ended{error}, '>', 50, 'promise 24: the harm is felt');
is($victim->query('SELECT pg_backend_pid()'), $pid, 'promise 24: and the backend lives');
$victim->quit;
kill 'KILL', $proxy;
waitpid $proxy, 0;
unlink $socket;
rename $moved, $socket;
wait_ready($node);
is($node->safe_psql('postgres', q{SELECT prepack.score('x', 'y') IS NOT NULL}), 't',
	'promise 24: without it all is well');
unlike(slurp_file($node->logfile), qr/terminated by signal 11|PANIC|reinitializing/, 'nothing crashed');
$session->quit;
$node->stop('fast');
done_testing();
