# 011_prefix_timing.pl: promise 19 by the clock. Does the time of a call tell what another role has asked?
#
# A role primes prompts; a probe asks for primed ones and for fresh ones, in random order, and guesses by
# the time which were which. The area under its ROC curve (AUC) is the chance that a primed prompt comes
# faster than a fresh one: 0.5 is no knowledge. The same role must see its own (0.9 or more), which proves
# that the test can see; another must not (0.55 or less, plus what chance allows so few probes).
#
# PREPACK_TIMING_PROBES sets the probes of a class; the promise is for 10,000, lengths 1 to 256, which take an
# hour of two cores or two minutes of a card, so that a plain run has 100 and says so. What is kept
# from statement to statement is the prompt before the input. Needs the real model: the small ones are done with
# a prompt sooner than a clock can tell.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use List::Util qw(shuffle);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PrepackTest;
use Test::More;

srand($ENV{PREPACK_TEST_SEED} // 20261123);
my $n_probes = $ENV{PREPACK_TIMING_PROBES} // 100;
my $block = 50;
plan skip_all => 'no smollm2-135m.gguf in PREPACK_MODELS (make models)' if !real_model();
my $node = new_server('timing', models => models_dir());
$node->safe_psql('postgres', q{SELECT prepack.register_model('m', 'smollm2-135m.gguf');
	CREATE ROLE ann LOGIN; CREATE ROLE bob LOGIN;
	SELECT prepack.grant_usage('ann'), prepack.grant_usage('bob')});
$node->safe_psql('postgres', q{
	CREATE FUNCTION seconds_of(prompts text[], input text) RETURNS float8[] LANGUAGE plpgsql AS $$
	DECLARE
		result float8[] := '{}';
		before timestamptz;
		t text;
	BEGIN
		FOREACH t IN ARRAY prompts LOOP
			before := clock_timestamp();
			PERFORM prepack.generate(t, input, model => 'm', max_tokens => 1);
			result := result || extract(epoch FROM clock_timestamp() - before)::float8;
		END LOOP;
		RETURN result;
	END $$});
my %session = map { $_ => $node->background_psql('postgres', extra_params => [ '-U', $_ ]) } qw(ann bob);
$_->set_query_timer_restart for values %session;

# A text of about so many tokens that no other text begins with: a word is a blank, a letter and a digit.
sub text_of
{
	my ($length) = @_;
	return join ' ', map { ('a' .. 'z')[ rand 26 ] . int rand 10 } 1 .. 1 + $length / 3;
}

# The seconds of a role's calls, one by one.
sub ask
{
	my ($role, $input, @texts) = @_;
	my $array = 'ARRAY[' . join(',', map { "'$_'" } @texts) . ']';
	my $answer = $session{$role}->query("SELECT array_to_string(seconds_of($array, '$input'), ' ')");
	return split ' ', $answer;
}

# The chance that a value of the first list is below one of the second.
sub auc
{
	my ($low, $high) = @_;
	my @all = sort { $a->[0] <=> $b->[0] } (map { [ $_, 1 ] } @$low), (map { [ $_, 0 ] } @$high);
	my ($sum, $below) = (0, 0);

	for my $value (@all) { $value->[1] ? ($below++) : ($sum += $below); }
	return $sum / (@$low * @$high);
}

# How well a role tells the prompts that ann has asked from fresh ones of the same lengths.
sub distinguish
{
	my ($role, $shortest) = @_;
	my (@primed, @fresh);

	for (my $done = 0; $done < $n_probes; $done += $block)
	{
		my @lengths = map { $shortest + int rand(257 - $shortest) } 1 .. $block;
		my @known = map { text_of($_) } @lengths;
		ask('ann', 'one', @known);
		my @probes = shuffle((map { [ $_, \@primed ] } @known), (map { [ text_of($_), \@fresh ] } @lengths));
		my @seconds = ask($role, 'two', map { $_->[0] } @probes);
		push @{ $probes[$_][1] }, $seconds[$_] for 0 .. $#probes;
	}
	return auc(\@primed, \@fresh);
}

ask('ann', 'one', map { text_of(100) } 1 .. 20);    # loads the model, learns the sizes of passes
my $own = distinguish('ann', 64);
my $other = distinguish('bob', 1);
# Three standard deviations of the AUC of two equal distributions.
my $chance = 3 * sqrt((2 * $n_probes + 1) / (12 * $n_probes**2));
diag(sprintf '%d probes a class: AUC %.3f for the same role, %.3f for another, chance %.3f', $n_probes, $own, $other,
	$chance);
diag("the promise is for 10000: PREPACK_TIMING_PROBES=10000, about an hour without a card") if $n_probes < 10000;
cmp_ok($own, '>=', 0.9, 'promise 19: a role that looks for its own prompts by the time finds them');
cmp_ok(abs($other - 0.5), '<=', 0.05 + $chance, 'promise 19: another role finds nothing');
$_->quit for values %session;
done_testing();
