# PrepackTest.pm: what the TAP tests share: a server with the library, times against promised limits,
# looks into /proc.
#
# A promise is a number of seconds. PREPACK_TEST_SLOWER=3 multiplies all of them, for machines on which
# even the server itself is that much slower (sanitizers, emulation); nothing else does.
package PrepackTest;
use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

our @EXPORT = qw(new_server engine_pid parent_of wait_for within percentile fds anon_kb models_dir
  toy_models real_model wait_ready sql_typing);

# The folder of the real models, and whether SmolLM2 is there.
sub models_dir { return $ENV{PREPACK_MODELS} // ''; }
sub real_model { return -e models_dir() . '/smollm2-135m.gguf'; }

# The small models of test/data, copied by scripts/tapcheck.
sub toy_models { return $ENV{PREPACK_TOYS}; }

# Starts a server with the library preloaded, the extension created, the engine ready.
sub new_server
{
	my ($name, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	my $models = $options{models} // toy_models();

	$node->init(%{ $options{init} // {} });
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'prepack'\n"
		  . "prepack.model_directory = '$models'\n" . ($options{conf} // ''));
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION prepack');
	wait_ready($node) if !$options{no_engine};
	return $node;
}

# Waits until the engine answers.
sub wait_ready
{
	my ($node) = @_;
	$node->safe_psql('postgres', "SELECT prepack.wait_until_ready('30 s')") eq 't'
	  or die 'the engine did not start';
}

# The statement that types a text and waits until all work for it is done.
sub sql_typing
{
	my ($text) = @_;
	$text =~ s/'/''/g;
	return <<"SQL";
DO \$\$
DECLARE fed bigint := prepack.speculate('$text');
BEGIN
    FOR i IN 1 .. 600 LOOP
        EXIT WHEN EXISTS (SELECT FROM prepack.speculations s WHERE s.id = fed AND s.state = 'idle');
        PERFORM pg_sleep(0.05);
    END LOOP;
END \$\$;
SQL
}

# The pid of the engine, from the view; 0 while there is none.
sub engine_pid
{
	my ($node) = @_;
	return $node->safe_psql('postgres', 'SELECT coalesce(engine_pid, 0) FROM prepack.status');
}

# The parent of a process: the supervisor, of the engine.
sub parent_of
{
	my ($pid) = @_;
	my ($line) = grep { /^PPid:/ } split /\n/, slurp_file("/proc/$pid/status");
	return (split ' ', $line)[1];
}

# Waits until a condition of Perl holds; returns the seconds it took, undef after the limit.
sub wait_for
{
	my ($condition, $limit) = @_;
	my $start = time;

	while (time - $start < ($limit // 30))
	{
		return time - $start if $condition->();
		usleep(5_000);
	}
	return undef;
}

# A promised limit in seconds: prints what was measured, fails when it was more.
sub within
{
	my ($seconds, $limit, $name) = @_;

	$limit *= $ENV{PREPACK_TEST_SLOWER} // 1;
	return fail("$name: never") if !defined $seconds;
	diag(sprintf '%s: %.0f ms of %.0f', $name, 1000 * $seconds, 1000 * $limit);
	return ok($seconds <= $limit, $name);
}

# The value below which a share of all values lies.
sub percentile
{
	my ($share, @values) = @_;
	my @sorted = sort { $a <=> $b } @values;

	return $sorted[ int($share * $#sorted + 0.5) ];
}

# Open descriptors of a process.
sub fds
{
	my ($pid) = @_;
	my @open = glob "/proc/$pid/fd/*";
	return scalar @open;
}

# Private memory of a process in kB.
sub anon_kb
{
	my ($pid) = @_;
	my ($kb) = slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m;
	return $kb;
}

1;
