# 005_same_answer.pl: a row's answer does not depend on what is computed beside it.
#
# Promise 20 on the CPU: alone, in arrays of 7 and 997, in any order, through the batch node, under a
# parallel plan, beside other sessions: bit for bit the same. On SmolLM2 where it is there, else on a small
# random model only; with extra_float_digits, so that equal text is equal bits. A test that compares nothing
# different would pass, too: the answers must differ between rows.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PrepackTest;
use Test::More;

my $real = real_model();
my $node = new_server('same', models => $real ? models_dir() : toy_models(),
	conf => "max_parallel_workers_per_gather = 2\nparallel_setup_cost = 0\nparallel_tuple_cost = 0\n"
	  . "min_parallel_table_scan_size = 0\nprepack.model = 'm'\n");
diag("SKIP: answers of SmolLM2: no smollm2-135m.gguf in '" . models_dir() . "'; on a random model instead")
  if !$real;
my $file = $real ? 'smollm2-135m.gguf' : 'llama/model.gguf';
$node->safe_psql('postgres', "SELECT prepack.register_model('m', '$file'); SELECT prepack.load_model('m')");

# Twelve rows that are looked at, among as many others as make up 997.
$node->safe_psql('postgres', q{
	CREATE TABLE needle (id int PRIMARY KEY, body text);
	INSERT INTO needle SELECT i, (ARRAY['The app crashes', 'It is slow', 'Thanks', 'How do I pay?'])[1 + i % 4]
		|| repeat(' again', i / 4) FROM generate_series(1, 12) i;
	CREATE TABLE hay (id int PRIMARY KEY, body text);
	INSERT INTO hay SELECT i, 'note ' || i || repeat(' more', i % 5) FROM generate_series(1, 985) i;
	CREATE TABLE alone (id int, what text, answer text);
	ANALYZE;});

# The three kinds of answers, as text with every bit: probabilities of the next token, of a text, and words.
my %call = (
	likely => q{prepack.log_likelihood('Ticket:', %s)},
	said => q{prepack.generate('Go on:', %s, max_tokens => 6)});
$call{score} = q{prepack.score(%s, 'is urgent')} if $real;

# Each needle by a call of its own, in a statement of its own.
for my $what (sort keys %call)
{
	my $sql = sprintf $call{$what}, 'body';
	$node->safe_psql('postgres', "SET prepack.enabled = off;
		INSERT INTO alone SELECT id, '$what', ($sql)::text FROM needle WHERE id = $_") for 1 .. 12;
	my $distinct = $node->safe_psql('postgres',
		"SELECT count(DISTINCT answer) FROM alone WHERE what = '$what'");
	cmp_ok($distinct, '>', 4, "$what: answers differ between rows");
}

# How many answers differ from those of the rows alone.
sub differing
{
	my ($what, $rows, $settings) = @_;
	return $node->safe_psql('postgres', ($settings // '') . ";
		SELECT count(*) FROM ($rows) r(id, answer) FULL JOIN (SELECT * FROM alone WHERE what = '$what') a USING (id)
		WHERE r.answer IS DISTINCT FROM a.answer");
}

# The needles among n − 12 others in random order, as one array.
sub in_array
{
	my ($what, $n, $seed) = @_;
	my $array = $what eq 'likely' ? "array_fill('Ticket:'::text, ARRAY[$n]), array_agg(body ORDER BY place)"
	  : 'array_agg(body ORDER BY place)';
	my $call = $what eq 'likely' ? "prepack.log_likelihood($array)" : sprintf $call{$what}, $array;
	return "SELECT s.id, a.answer::text FROM
		(SELECT $call AS answers, array_agg(id ORDER BY place) AS ids FROM (
			SELECT id, body, hashint4extended(id, $seed) AS place FROM (
				SELECT id, body FROM needle UNION ALL
				(SELECT -id, body FROM hay ORDER BY hashint4extended(id, $seed) LIMIT $n - 12)) u) o) c,
		LATERAL unnest(c.ids, c.answers) AS s(id, x), LATERAL (SELECT s.x) AS a(answer) WHERE s.id > 0";
}
for my $what (sort keys %call)
{
	my $sql = sprintf $call{$what}, 'body';
	is(differing($what, "SELECT id, ($sql)::text FROM needle"), 0, "$what: through the batch node");
	is(differing($what, "SELECT id, ($sql)::text FROM needle ORDER BY random()"), 0, "$what: in any order");
	is(differing($what, "SELECT * FROM (SELECT id, ($sql)::text FROM
		(SELECT id, body FROM needle UNION ALL SELECT -id, body FROM hay WHERE id <= 50) u) x WHERE id > 0",
		'SET prepack.batch_rows = 7'), 0, "$what: in batches of 7, among others");
	# Arrays of 7: two needles each among five others.
	is(differing($what, join ' UNION ALL ', map {
		my $pair = $_;
		my $rows = "SELECT id, body FROM needle WHERE id IN ($pair, $pair + 6) UNION ALL
			SELECT -id, body FROM hay WHERE id BETWEEN $pair AND $pair + 4";
		my $array = $what eq 'likely' ? "array_fill('Ticket:'::text, ARRAY[7]), array_agg(body ORDER BY id)"
		  : 'array_agg(body ORDER BY id)';
		my $call = $what eq 'likely' ? "prepack.log_likelihood($array)" : sprintf $call{$what}, $array;
		"SELECT s.id, s.x::text FROM (SELECT $call AS answers, array_agg(id ORDER BY id) AS ids FROM ($rows) u) c,
			LATERAL unnest(c.ids, c.answers) AS s(id, x) WHERE s.id > 0" } 1 .. 6), 0, "$what: in arrays of 7");
}
# 997 rows take their time on a real model: one kind of answer, twice, each time in another order.
is(differing('likely', in_array('likely', 997, $_)), 0, "likely: in an array of 997, order $_") for 1 .. 2;

# A parallel plan, which must be one.
my $query = sprintf 'SELECT id, (%s)::text FROM needle', sprintf $call{likely}, 'body';
like($node->safe_psql('postgres', "EXPLAIN (COSTS OFF) $query WHERE id > 0"), qr/Gather/, 'the plan is parallel');
is(differing('likely', $query), 0, 'likely: under a parallel plan');

# Beside other sessions, which keep the engine busy with the same model and with the same texts.
my $traffic = $node->basedir . '/traffic.sql';
append_to_file($traffic, q{
	SELECT prepack.generate('Go on:', body, max_tokens => 8), prepack.log_likelihood('Ticket:', body)
	FROM needle UNION ALL SELECT prepack.generate('Tell.', body, max_tokens => 8), 0 FROM hay WHERE id < 9;} . "\n");
my ($out, $err) = ('', '');
my $h = IPC::Run::start([ 'pgbench', '-n', '-c', 4, '-T', 300, '-f', $traffic, '-h', $node->host, '-p', $node->port,
	'postgres' ], '<', \undef, '>', \$out, '2>', \$err);
wait_for(sub { $node->safe_psql('postgres', 'SELECT count(*) FROM prepack.queue') > 0 }) // die 'no traffic';
for my $what (sort keys %call)
{
	my $sql = sprintf $call{$what}, 'body';
	is(differing($what, "SELECT id, ($sql)::text FROM needle"), 0, "$what: beside other sessions, round $_") for 1 .. 2;
}
$h->signal('TERM');
$h->finish;
unlike($err, qr/ERROR/, 'the traffic had no error') or diag($err);
$node->stop('fast');
done_testing();
