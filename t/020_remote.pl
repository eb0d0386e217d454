# 020_remote.pl: remote endpoints: a small server that answers well and badly (t/fake_endpoint.py), and,
# where the Python package is there, a real one (llama-cpp-python) with SmolLM2.
use strict;
use warnings;
use File::Basename qw(dirname);
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $models = $ENV{PREPACK_MODELS} // '';
my $here = dirname(__FILE__);
my $log = PostgreSQL::Test::Utils::tempdir() . '/requests';

# The real server must not outlive a test that dies.
my $real;
END
{
	local $?;
	$real->kill_kill if defined $real;
}

# Starts a Python program that prints its port; returns its harness and the port.
my %stdin;
sub start_server
{
	my ($name, @command) = @_;
	my ($out, $err) = ('', '');
	$stdin{$name} = '';
	my $harness = IPC::Run::start(\@command, '<', \$stdin{$name}, '>', \$out, '2>', \$err,
		IPC::Run::timeout(600));
	$harness->pump until $out =~ /^(\d+)\n/ || !$harness->pumpable;
	die "no server: $err" if $out !~ /^(\d+)\n/;
	return ($harness, $1);
}

my ($fake, $port) = start_server('fake', 'python3', "$here/fake_endpoint.py", $log);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', <<EOC);
shared_preload_libraries = 'prepack'
prepack.model_directory = '$models'
prepack.allowed_endpoints = 'http://127.0.0.1:$port, http://127.0.0.1:1'
EOC
mkdir $node->data_dir . '/prepack';
mkdir $node->data_dir . '/prepack/keys';
PostgreSQL::Test::Utils::append_to_file($node->data_dir . '/prepack/keys/key', "open-sesame\n");
$ENV{PREPACK_TEST_KEY} = 'open-sesame';
$ENV{OTHER_KEY} = 'open-sesame';
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION prepack');
is($node->safe_psql('postgres', "SELECT prepack.wait_until_ready('30 s')"), 't', 'engine starts');

# Registers an endpoint of the fake server.
sub endpoint
{
	my ($name, $options) = @_;
	$options //= '{}';
	$node->safe_psql('postgres',
		"SELECT prepack.register_endpoint('$name', 'http://127.0.0.1:$port/v1', '$options')");
}

# What a query gives, and its error with SQLSTATE.
sub query { return $node->safe_psql('postgres', $_[0]); }

sub error_of
{
	my ($sql) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql");
	$err =~ s/^LOCATION:.*\n?//m;
	$err =~ s/^psql:<stdin>:\d+: //mg;
	return $err;
}

# ---- every function --------------------------------------------------------------------------

endpoint('far');
endpoint('vectors', '{"kind": "embed"}');
query(q{CREATE TABLE t AS SELECT i, CASE WHEN i % 3 = 0 THEN 'it crashes ' ELSE 'how do I ' END || i AS body
	FROM generate_series(1, 300) i});

is(query(q{SELECT prepack.generate('Say hi.', model => 'far')}), 'You said: Say hi.', 'generate');
is(query(q{SELECT prepack.generate('Say:', 'x"\y', model => 'far')}), "You said: Say:\n\nx\"\\y",
	'generate with an input');
is(query(q{SELECT string_agg(s, '') FROM prepack.stream('Say hi.', model => 'far') s}),
	'You said: Say hi. ', 'stream');
endpoint('slowly', '{"model": "slow"}');
endpoint('endless');
is(query(q{SELECT count(*), max(at) - min(at) > '0.5 s' FROM (SELECT clock_timestamp() AS at,
	prepack.stream('Say hi.', model => 'slowly')) x}), '4|t', 'the pieces of a stream come as they are sent');
like(error_of(q{SELECT prepack.stream('Say hi.', model => 'endless')}),
	qr/^ERROR:  08P01: .*it ends in the middle/s, 'a stream that just ends is an error');
like(slurp_file($log), qr{^slow /v1/chat/completions \+stream$}m, 'only streams are asked for as streams');
unlike(slurp_file($log), qr{^far .*\+stream.*\nfar .*\+stream}m, 'one stream, one request');
is(query(q{SELECT label, count(*) FROM (SELECT prepack.classify(body, '{bug,question}', model => 'far') AS label
	FROM t) x GROUP BY 1 ORDER BY 1}), "bug|100\nquestion|200", 'classify');
is(query(q{SELECT prepack.classify_probs('it crashes', '{bug,question}', model => 'far')}),
	'{0.8888889,0.11111111}', 'probabilities from logprobs');
is(query(q{SELECT prepack.classify_multi('it crashes', '{bug,question}', model => 'far')}), '{bug,question}',
	'classify_multi');
is(query(q{SELECT prepack.is_true('it crashes', 'it is a bug', model => 'far')}), 't', 'is_true');
is(query(q{SELECT prepack.score('how do I', 'it is a bug', model => 'far')}), '0.25', 'score');
is(query(q{SELECT prepack.extract('a teapot for 12.50', '{"product": "string", "price": "number"}', model => 'far')}),
	'{"price": 12.5, "product": "teapot"}', 'extract');
is(query(q{SELECT prepack.relevance('q', 'it crashes', model => 'far')}), '0.9', 'relevance by a decoder');
is(query(q{SELECT prepack.embed('aei', model => 'vectors')}), '{1,1,1,0,0,1}', 'embed');
is(query(q{SELECT prepack.similarity('aei', 'eia', model => 'vectors')}), '1', 'similarity');
is(query(q{SELECT ord FROM prepack.rank('oooo', ARRAY['aaaa', 'ooo', 'eeee'], 1, 'vectors')}), '2', 'rank');
is(query(q{SELECT count(*) FROM t WHERE cardinality(prepack.embed(body, 'vectors')) = 6}), '300',
	'many embeddings');
is((() = slurp_file($log) =~ m{^vectors /v1/embeddings$}mg) < 60, 1, 'texts are embedded many at a time');
like(error_of(q{SELECT prepack.count_tokens('x', model => 'far')}),
	qr/^ERROR:  0A000: model "far" is a remote endpoint, which cannot count tokens/, 'count_tokens');
like(error_of(q{SELECT prepack.log_likelihood('x', 'y', model => 'far')}), qr/^ERROR:  0A000: /,
	'log_likelihood');
like(error_of(q{SELECT prepack.generate('x', model => 'vectors')}), qr/^ERROR:  42809: /,
	'an embedder does not generate');
like(error_of(q{SELECT * FROM prepack.load_model('far')}),
	qr/^ERROR:  42809: model "far" is a remote endpoint, which is not loaded here/, 'load_model');

# ---- EXPLAIN, statistics, views ----------------------------------------------------------------

my $plan = query(q{EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF)
	SELECT prepack.classify(body, '{bug,question}', model => 'far') FROM t});
like($plan, qr/Custom Scan \(Prepack Batch\)/, 'calls are batched');
like($plan, qr/Prompt Tokens: 6000\b/, 'usage is counted');
like($plan, qr/Shared Prefix Tokens: 1500\b/, 'with what the server had cached');
is(query(q{SELECT sum(rows) >= 300 AND sum(prompt_tokens) >= 6000 AND sum(output_tokens) >= 600
	FROM prepack.pg_stat_prepack WHERE function = 'classify' AND model = 'far'}), 't', 'pg_stat_prepack');
is(query(q{SELECT kind, remote, path FROM prepack.models WHERE name = 'vectors'}),
	"embed|t|http://127.0.0.1:$port/v1", 'models');
like(error_of(q{SELECT prepack.generate('x')}), qr/^ERROR:  42704: no model was named/,
	'an endpoint is no default by itself');
query(q{SELECT prepack.set_default_model('far')});
is(query(q{SELECT prepack.generate('x')}), 'You said: x', 'but may be made one');

# ---- servers that fail ---------------------------------------------------------------------

endpoint($_, '{"retries": 1, "timeout": 5}') for qw(down busy away garbage liar huge locked picky);
endpoint('flaky', '{"retries": 3}');
endpoint('plain');
endpoint($_, '{"timeout": 0.5}') for qw(hang trickle);
query(q{SELECT prepack.register_endpoint('nobody', 'http://127.0.0.1:1/v1', '{"retries": 0}')});

is(query(q{SELECT prepack.generate('x', model => 'flaky')}), 'You said: x', '503 is tried again');
is(query(q{SELECT prepack.classify('it crashes', '{bug,question}', model => 'plain')}), 'bug',
	'labels without logprobs');
is(query(q{SELECT prepack.classify_probs('it crashes', '{bug,question}', model => 'plain')}), '{1,0}',
	'the answer gets it all');
for (
	[ 'down', '08006', 'endpoint "down" failed (HTTP 503)' ],
	[ 'busy', '53000', 'endpoint "busy" has too many requests (HTTP 429)' ],
	[ 'away', '08006', 'endpoint "away" redirects (HTTP 302), which is not followed' ],
	[ 'garbage', '08P01', 'endpoint "garbage" sent a malformed reply: it is not JSON' ],
	[ 'huge', '08P01', 'endpoint "huge" sent more than 16 MB' ],
	[ 'locked', '08006', 'endpoint "locked" refused its key (HTTP 401)' ],
	[ 'hang', '08006', 'endpoint "hang" did not answer within 0.5 s' ],
	[ 'trickle', '08006', 'endpoint "trickle" did not answer within 0.5 s' ],
	[ 'liar', '08006', 'could not reach endpoint "liar": ' ],
	[ 'nobody', '08006', 'could not reach endpoint "nobody": ' ])
{
	my ($model, $state, $message) = @$_;
	my $error = error_of("SELECT prepack.generate('x', model => '$model')");
	like($error, qr/^ERROR:  $state: \Q$message\E/, "$model: message");
	like($error, qr/^HINT:  /m, "$model: hint");
}
is(query(q{SELECT count(*), count(prepack.generate(body, model => 'down', on_error => 'null')) FROM t}),
	'300|0', 'on_error => null, all rows fail');
ok((() = slurp_file($log) =~ /^down /mg) < 100, 'a server that is down is not asked for every row');
is(query(q{SELECT count(*), count(prepack.generate(CASE WHEN i = 7 THEN 'poison' ELSE 'ok' END || i,
	model => 'picky', on_error => 'null')) FROM t}), '300|299', 'on_error => null, one row fails');
like(error_of(q{SELECT prepack.generate('poison', model => 'picky')}),
	qr/^ERROR:  54000: prompt is too long for endpoint "picky"/, 'too long');

# ---- cancel ----------------------------------------------------------------------------------

endpoint('slow', '{"model": "hang"}');
my $start = time;
like(error_of(q{SET statement_timeout = '300ms'; SELECT prepack.generate(body, model => 'slow') FROM t}),
	qr/57014: canceling statement due to statement timeout/, 'statement_timeout');
ok(time - $start < 60, 'without waiting for the endpoint');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM prepack.queue}), 'nothing is left behind');

# ---- keys and permissions --------------------------------------------------------------------

endpoint('by_file', '{"model": "locked", "key_file": "key"}');
endpoint('by_env', '{"model": "locked", "key_env": "PREPACK_TEST_KEY"}');
endpoint('no_file', '{"model": "locked", "key_file": "missing"}');
is(query(q{SELECT prepack.generate('x', model => 'by_file')}), 'You said: x', 'key from a file');
is(query(q{SELECT prepack.generate('x', model => 'by_env')}), 'You said: x', 'key from the environment');
like(error_of(q{SELECT prepack.generate('x', model => 'no_file')}),
	qr{^ERROR:  58030: could not open the key file "prepack/keys/missing"}, 'no key file');
query(q{INSERT INTO prepack.model_registry (name, path, kind, options)
	SELECT 'sly_' || k, path, 'generate', jsonb_build_object('model', 'locked', k, v)
	FROM prepack.model_registry, (VALUES ('key_file', '../../PG_VERSION'), ('key_env', 'OTHER_KEY')) o(k, v)
	WHERE name = 'far'});
like(error_of(q{SELECT prepack.generate('x', model => 'sly_key_file')}), qr/^ERROR:  22023: .*invalid key_file/,
	'key files stay in their folder, whatever the table says');
like(error_of(q{SELECT prepack.generate('x', model => 'sly_key_env')}), qr/^ERROR:  22023: /,
	'and variables in their namespace');

query(q{INSERT INTO prepack.model_registry (name, path, kind)
	VALUES ('smuggled', 'http://127.0.0.1:2/v1', 'generate')});
my $refused = error_of(q{SELECT prepack.generate('x', model => 'smuggled')});
like($refused, qr/^ERROR:  42501: endpoint "smuggled" is not allowed here/, 'not on the list');
like($refused, qr/prepack\.allowed_endpoints/, 'with a hint');
query(q{CREATE ROLE analyst LOGIN; SELECT prepack.grant_usage('analyst')});
like(error_of(q{SET ROLE analyst; SET prepack.allowed_endpoints = 'http://127.0.0.1:2'}), qr/42501: permission denied/,
	'the list is the superuser\'s');
like(error_of(q{SET ROLE analyst; SELECT prepack.register_endpoint('x', 'http://127.0.0.1:1', '{}')}),
	qr/42501: permission denied/, 'registering is not for everybody');
my $server_log = slurp_file($node->logfile);
unlike($server_log, qr/open-sesame/, 'no key in the log');
is(query(q{SELECT count(*) FROM prepack.model_registry r WHERE r::text LIKE '%open-sesame%'}), '0',
	'nor in the catalogue');
my $engine = query(q{SELECT engine_pid FROM prepack.status});
unlike(slurp_file("/proc/$engine/cmdline"), qr/sesame/, 'nor on a command line');

# ---- a real server ---------------------------------------------------------------------------

SKIP:
{
	my $python = $ENV{PREPACK_PEER_PYTHON} // 'python3';
	my $gguf = "$models/smollm2-135m.gguf";
	my $has = system("$python -c 'import llama_cpp.server.app' >/dev/null 2>&1") == 0;
	my $n = 6;
	skip 'the Python package llama-cpp-python[server] is missing', $n if !$has;
	skip "there is no $gguf", $n if !-r $gguf;
	my $real_port = PostgreSQL::Test::Cluster::get_free_port();
	$real = IPC::Run::start([ $python, "$here/llama_server.py", '--model', $gguf, '--port', $real_port,
		'--host', '127.0.0.1', '--n_ctx', '2048', '--n_threads', '2', '--logits_all', 'true' ],
		'<', \undef, '>', "$log.real", '2>&1');
	query("ALTER SYSTEM SET prepack.allowed_endpoints = 'http://127.0.0.1:$real_port'");
	$node->reload;
	sleep 1;
	query("SELECT prepack.register_endpoint('real', 'http://127.0.0.1:$real_port/v1',
		'{\"concurrency\": 2, \"retries\": 10, \"timeout\": 300}')");
	like(query(q{SELECT prepack.generate('Name the capital of France.', model => 'real', max_tokens => 30)}),
		qr/Paris/, 'a real server generates');
	is(query(q{SELECT sum(p) BETWEEN 0.999 AND 1.001 FROM unnest(prepack.classify_probs(
		'The app crashes when I click save.', '{bug,question}', model => 'real')) p}), 't', 'and classifies');
	is(query(q{SELECT prepack.score('The app crashes.', 'the text is about software', model => 'real')
		BETWEEN 0 AND 1}), 't', 'and judges');
	is(query(q{SELECT jsonb_typeof(prepack.extract('Anna is 31 years old.', '{"name": "string", "age": "integer"}',
		model => 'real'))}), 'object', 'and extracts');
	is(query(q{SELECT bool_and(length(prepack.generate('Say hello to', n, model => 'real', max_tokens => 8)) > 0)
		FROM unnest('{Ann,Bob,Cid}'::text[]) n}), 't', 'and answers rows');
	is(query(q{SELECT sum(prompt_tokens) > 0 AND sum(output_tokens) > 0 FROM prepack.pg_stat_prepack
		WHERE model = 'real'}), 't', 'and counts its tokens');
}

$fake->kill_kill;
$node->stop;
done_testing();
