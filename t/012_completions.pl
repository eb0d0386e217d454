# 012_completions.pl: what the model writes behind unfinished queries parses and resolves.
#
# The TPC-H queries of bench/speql are cut at their tokens; of each prefix the model's completion is
# asked for, and the whole text must analyse as it stands. PREPACK_PREFIXES is the step between cuts
# (1: every token, some 20 minutes). Then: names that the role may not read are never written.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use PrepackTest;
use Test::More;

plan skip_all => 'no smollm2-135m.gguf in PREPACK_MODELS (make models)' if !real_model();

my $bench = "$FindBin::RealBin/../bench/speql";
my $step = $ENV{PREPACK_PREFIXES} // 60;
my $node = new_server('completions', models => models_dir(), conf => "autovacuum = off\n");

$node->safe_psql('postgres', slurp_file("$bench/tpch_schema.sql"));
$node->safe_psql('postgres', q{SELECT prepack.register_model('m', 'smollm2-135m.gguf');
	SELECT prepack.set_default_model('m'); SELECT prepack.load_model('m');});

# The prefixes: query, tokens, text.
my $token = qr/'(?:[^']|'')*'|\d+(?:\.\d+)?|\w+|[<>=!+*\/|-]+|\S/;
my (@prefixes, $k);
for my $query (split /;\s*/, slurp_file("$bench/tpch_queries.sql"))
{
	$query =~ s/--[^\n]*\n//g;
	$query =~ s/^\s+//;
	while ($query =~ /$token/g)
	{
		my $text = substr($query, 0, pos $query);
		next if ++$k % $step || $text eq $query;
		push @prefixes, $k / $step % 2 ? $text : "$text ";
	}
}

# Feeds texts one by one; prints the model's continuation of each, and the error of the whole.
sub ask
{
	my ($role, @texts) = @_;
	my $list = join ', ', map { my $t = $_; $t =~ s/'/''/g; "'$t'" } @texts;
	return [ split /\n/, $node->safe_psql('postgres', <<"SQL") ];
SET client_min_messages = error;
SET ROLE $role;
CREATE TEMP TABLE answer (n int, text text, error text);
DO \$\$
DECLARE fed bigint; body text; whole text; n int := 0;
BEGIN
    -- The first prompt, with the whole schema, may take longer than the model is given on a busy machine.
    FOR i IN 1 .. 20 LOOP
        fed := prepack.speculate('SELECT count(*) FROM nation' || repeat(' ', i));
        PERFORM pg_sleep(0.5);
        EXIT WHEN EXISTS (SELECT FROM prepack.completions(fed, 4000) c WHERE c.source = 'model');
    END LOOP;
    FOREACH body IN ARRAY ARRAY[$list] LOOP
        fed := prepack.speculate(body);
        FOR i IN 1 .. 50 LOOP
            EXIT WHEN EXISTS (SELECT FROM prepack.completions(fed) c WHERE c.source = 'model');
            PERFORM pg_sleep(0.05);
        END LOOP;
        SELECT c.full_sql INTO whole FROM prepack.completions(fed) c WHERE c.source = 'model';
        n := n + 1;
        BEGIN
            IF whole IS NOT NULL THEN EXECUTE 'EXPLAIN ' || whole; END IF;
            INSERT INTO answer VALUES (n, whole, NULL);
        -- The planner computes with constants; what they are is not what is promised.
        EXCEPTION WHEN data_exception THEN INSERT INTO answer VALUES (n, whole, NULL);
        WHEN OTHERS THEN INSERT INTO answer VALUES (n, whole, SQLERRM);
        END;
    END LOOP;
END \$\$;
SELECT n, replace(coalesce(error, ''), E'\\n', ' '), translate(coalesce(text, ''), E'\\n', ' ') FROM answer ORDER BY n;
SQL
}

my $answers = ask('postgres', @prefixes);
my @written = grep { /\|.*\|./ } @$answers;
my @failed = grep { !/^\d+\|\|/ } @$answers;
is(scalar @$answers, scalar @prefixes, 'every prefix had an answer');
diag(sprintf 'the model continued %d of %d prefixes', scalar @written, scalar @prefixes);
cmp_ok(scalar @written, '>', 0, 'the model continues queries');
is(scalar @failed, 0, 'every continuation parses and resolves') or diag(join "\n", @failed);

# Names out of reach.
$node->safe_psql('postgres', 'CREATE ROLE clerk; GRANT SELECT (n_nationkey, n_name) ON nation TO clerk');
my @texts = map { "SELECT n_name FROM nation WHERE $_" } ('n', 'n_', 'n_n', 'n_name = n_', '');
push @texts, map { "SELECT $_" } ('n', 'n_', 'n_nationkey, ', 'n_name, n', 'count(');
my @clerk = grep { /\|.*\|./ } @{ ask('clerk', @texts) };
cmp_ok(scalar @clerk, '>', 0, 'it continues those of a role that may read two columns');
is(scalar(grep { /n_regionkey|n_comment|\bfrom\s+(?!nation\b)\w/i } @clerk), 0, 'and names no others')
  or diag(join "\n", @clerk);
# A text that may be submitted as it is has its table first; one that is not finished has the model's words first.
$node->safe_psql('postgres', 'CREATE TABLE sale AS SELECT i AS id, i % 50 AS city FROM generate_series(1, 100000) i');
sub steps
{
	my ($text) = @_;
	my $from = -s $node->logfile;
	$node->safe_psql('postgres', "SET prepack.speculation = materialize; ANALYZE sale;\n" . sql_typing($text));
	return join ' ', slurp_file($node->logfile, $from) =~ /^.*duration: [\d.]+ ms  (table|model): /mg;
}
$node->safe_psql('postgres', 'ALTER SYSTEM SET prepack.speculation_log_min_duration = 0; SELECT pg_reload_conf()');
like(steps('SELECT city, count(*) FROM sale GROUP BY city'), qr/^table model/, 'a whole text has its table first');
like(steps('SELECT city, sum(id) FROM sale GROUP BY city ORDER BY'), qr/^model table/,
	'an unfinished one is continued first');
done_testing();
