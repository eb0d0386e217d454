# 004_versions.pl: standby, dump, upgrade, update; a server that is killed, an engine that cannot start.
#
# Promises 4, 10, 26 and 28.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PrepackTest;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = new_server('main', init => { allows_streaming => 1 });
my $call = "SELECT prepack.generate('x', model => 'toy', max_tokens => 2) IS NOT NULL";
$node->safe_psql('postgres', q{SELECT prepack.register_model('toy', 'llama/model.gguf')});

# --- promise 28: a hot standby answers with an engine of its own, and after promotion, too
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
wait_ready($standby);
isnt(engine_pid($standby), engine_pid($node), 'promise 28: a standby has an engine of its own');
is($standby->safe_psql('postgres', $call), 't', 'promise 28: a standby answers');
like(($standby->psql('postgres', q{SELECT prepack.register_model('y', 'bert')}))[2],
	qr/read-only transaction/, 'promise 28: a standby changes nothing');
$node->safe_psql('postgres', q{SELECT prepack.register_model('late', 'bert')});
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', q{SELECT array_length(prepack.embed('x', model => 'late'), 1) > 0}), 't',
	'promise 28: what the primary registers, a standby knows');
$standby->promote;
is($standby->safe_psql('postgres', $call), 't', 'promise 28: a promoted standby goes on');
$standby->stop('fast');

# --- promise 28: dump and restore by a role that is no superuser: its data, and calls in its views
$node->safe_psql('postgres', q{
	CREATE ROLE owner LOGIN;
	SELECT prepack.grant_usage('owner');
	CREATE DATABASE app OWNER owner;});
$node->safe_psql('app', q{CREATE EXTENSION prepack; SELECT prepack.grant_usage('owner');
	SELECT prepack.register_model('toy', 'llama/model.gguf'); GRANT CREATE ON SCHEMA public TO owner;
	INSERT INTO prepack.model_registry (name, path, kind, options)
		VALUES ('far', 'http://localhost/v1', 'generate', '{"model": "m", "key_file": "hush"}')});
$node->safe_psql('app', q{
	SET ROLE owner;
	CREATE TABLE note (id int, body text);
	INSERT INTO note VALUES (1, 'one');
	CREATE VIEW labelled AS SELECT id, prepack.classify(body, '{a,b}', model => 'dummy') AS label FROM note;
	CREATE TABLE derived (body text, few boolean GENERATED ALWAYS AS (length(body) < 10) STORED);});
my $dump = $node->basedir . '/app.sql';
$node->command_ok([ 'pg_dump', '-U', 'owner', '-f', $dump, '-h', $node->host, '-p', $node->port, 'app' ],
	'promise 28: pg_dump by a role that is no superuser');
unlike(slurp_file($dump), qr/CREATE FUNCTION prepack/, 'promise 28: members of the extension are not dumped');
like(slurp_file($dump), qr/"key_file": "\*+"/, 'its dump has endpoints, without the names of keys');
unlike(slurp_file($dump), qr/hush/, 'and nowhere else has it one');
my ($whole) = run_command([ 'pg_dump', '-h', $node->host, '-p', $node->port, 'app' ]);
like($whole, qr/^far\thttp.*"key_file": "hush"/m, 'a superuser\'s dump is whole');
$node->safe_psql('postgres', 'CREATE DATABASE copy OWNER owner');
$node->safe_psql('copy', "CREATE EXTENSION prepack; SELECT prepack.grant_usage('owner')");
# What is not the role's own, the extension's comment and registry, it cannot restore; the rest it can.
run_log([ 'psql', '-Xq', '-h', $node->host, '-p', $node->port, '-U', 'owner', '-f', $dump, 'copy' ]);
is($node->safe_psql('copy', 'SET ROLE owner; SELECT label IN (\'a\', \'b\') FROM labelled'), 't',
	'promise 28: the view is restored and calls');

# --- promise 28: an update of the extension's script, old to new
is(($node->psql('postgres', 'ALTER EXTENSION prepack UPDATE'))[0], 0, 'promise 28: an update to the same version');
like(($node->psql('postgres', q{ALTER EXTENSION prepack UPDATE TO '99'}))[2], qr/no update path/,
	'promise 28: an update to no version');

# --- promise 28: pg_upgrade; in binary upgrade no engine is started
my $new = PostgreSQL::Test::Cluster->new('new');
$new->init;
$new->append_conf('postgresql.conf',
	"shared_preload_libraries = 'prepack'\nprepack.model_directory = '" . toy_models() . "'\n");
$node->safe_psql('postgres', 'DROP DATABASE copy');
$node->stop('fast');
my $bin = `pg_config --bindir`;
chomp $bin;
chdir $node->basedir;
command_ok([ 'pg_upgrade', '--no-sync', '-d', $node->data_dir, '-D', $new->data_dir, '-b', $bin, '-B', $bin,
	'-s', $new->host, '-p', $node->port, '-P', $new->port ], 'promise 28: pg_upgrade');
chdir '/';
# Starting an engine makes this folder; pg_upgrade has started the new server several times.
ok(!-e $new->data_dir . '/prepack', 'promise 28: binary upgrade starts no engine');
$new->start;
wait_ready($new);
is($new->safe_psql('postgres', $call), 't', 'promise 28: an upgraded server answers');
is($new->safe_psql('app', q{SELECT label IN ('a', 'b') FROM labelled}), 't', 'promise 28: and its views call');
$new->stop('fast');

# --- promise 26: a schema that somebody planted is not taken over
my $plain = new_server('plain');
$plain->safe_psql('postgres', q{CREATE ROLE attacker; CREATE DATABASE trap OWNER attacker});
$plain->safe_psql('trap', q{SET ROLE attacker; CREATE SCHEMA prepack});
like(($plain->psql('trap', 'CREATE EXTENSION prepack'))[2], qr/schema "prepack" belongs to "attacker"/,
	'promise 26: a planted schema is refused');
$plain->safe_psql('trap', 'DROP SCHEMA prepack');
$plain->safe_psql('trap', q{SET ROLE attacker;
	CREATE FUNCTION public.grab(text, text) RETURNS boolean LANGUAGE plpgsql AS
		$$ BEGIN EXECUTE 'ALTER ROLE attacker SUPERUSER'; RETURN true; END $$;
	CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.grab);
	CREATE OPERATOR public.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = public.grab);
	CREATE FUNCTION public.coalesce_text(text) RETURNS text LANGUAGE sql AS 'SELECT $1';
	CREATE FUNCTION public.format(text, name) RETURNS text LANGUAGE plpgsql AS
		$$ BEGIN EXECUTE 'ALTER ROLE attacker SUPERUSER'; RETURN ''; END $$;
	ALTER DATABASE trap SET search_path = public, pg_catalog});
$plain->safe_psql('trap', q{CREATE EXTENSION prepack; SELECT prepack.grant_usage('attacker', admin => true);
	SELECT prepack.register_model('m', 'bert'), prepack.set_default_model('m', 'embed'), prepack.drop_model('m');
	SELECT count(*) FROM prepack.models; SELECT count(*) FROM prepack.status; SELECT prepack.version()});
is($plain->safe_psql('trap', q{SELECT rolsuper FROM pg_roles WHERE rolname = 'attacker'}), 'f',
	'promise 26: planted operators and functions are never called');

# --- promise 10: a device that is not there: the server starts, says so, and does not storm
$plain->append_conf('postgresql.conf', "prepack.device = 'cuda:7'\nprepack.startup_wait = '10s'\n");
my $offset = -s $plain->logfile;
$plain->restart;
my $degraded = wait_for(sub {
	$plain->safe_psql('postgres', 'SELECT state FROM prepack.status') eq 'degraded' }, 60);
ok(-e $plain->data_dir . '/prepack', 'promise 28: where an engine is started, there is its folder');
ok(defined $degraded, 'promise 10: without its device the engine is degraded');
my (undef, undef, $stderr) = $plain->psql('postgres', "SELECT prepack.generate('x', model => 'dummy')");
like($stderr, qr/inference engine is not running.*HINT/s, 'promise 10: a call says so, with a hint');
is($plain->safe_psql('postgres', 'SELECT 1'), '1', 'promise 10: everything else works');
my $lines = () = slurp_file($plain->logfile, $offset) =~ /inference engine|prepack-engine|supervisor/g;
cmp_ok($lines, '<=', 20, 'promise 10: a few lines of log until then');
$offset = -s $plain->logfile;
sleep 3;
$lines = () = slurp_file($plain->logfile, $offset) =~ /inference engine|prepack-engine|supervisor/g;
is($lines, 0, 'promise 10: and none after');
$plain->adjust_conf('postgresql.conf', 'prepack.device', "'cpu'");
$plain->restart;

# Degraded by kills: a request for a restart ends it.
wait_ready($plain);
my $restarts = 0;
while ($restarts++ < 10)
{
	my $pid = engine_pid($plain);
	kill 'KILL', $pid if $pid;
	wait_for(sub { my $now = engine_pid($plain); $now != $pid || $plain->safe_psql('postgres',
		'SELECT state FROM prepack.status') eq 'degraded' }, 10);
	last if $plain->safe_psql('postgres', 'SELECT state FROM prepack.status') eq 'degraded';
	wait_ready($plain);
}
cmp_ok($restarts, '<=', 7, 'six quick failures degrade the engine');
is($plain->safe_psql('postgres', 'SELECT prepack.restart_engine()'), 't', 'a restart is asked for');
is($plain->safe_psql('postgres', "SELECT prepack.wait_until_ready('20 s')"), 't', 'and ends the degraded state');

# Whether a process has ended; as a zombie it has, too.
sub ended
{
	my ($pid) = @_;
	return !-e "/proc/$pid" || (eval { slurp_file("/proc/$pid/stat") } // ') Z ') =~ /\) Z /;
}

# --- promise 4: kill -9 of the postmaster, twenty times, while the engine is busy
my @gone;
my $refused = 0;
for my $round (1 .. 20)
{
	wait_ready($plain);
	my $engine = engine_pid($plain);
	my $session = $plain->background_psql('postgres', on_error_stop => 0);
	my $backend = $session->query('SELECT pg_backend_pid()');
	$session->query_until(qr/begun/, "\\echo begun\nSELECT count(prepack.classify(i::text, '{a,b}', model => 'dummy'))
		FROM (SELECT generate_series(1, 1000000000) AS i OFFSET 0) s;\n");
	my ($postmaster) = split /\n/, slurp_file($plain->data_dir . '/postmaster.pid');
	$plain->kill9;
	# The engine, and the backend that it served: it notices when it waits next.
	push @gone, wait_for(sub { ended($engine) && ended($backend) }, 10) // 10;
	# The killed process may linger as a zombie, which still holds its pid against a new postmaster.
	wait_for(sub { !-e "/proc/$postmaster" }, 10);
	unlink $plain->data_dir . '/postmaster.pid' if -e "/proc/$postmaster";
	$refused++ if !$plain->start(fail_ok => 1);
	eval { $session->quit };
}
within(percentile(1, @gone), 5, 'promise 4: engine and backend end with a killed postmaster, the longest of 20');
is($refused, 0, 'promise 4: 20 of 20 starts succeed at once');
$plain->stop('fast');
done_testing();
