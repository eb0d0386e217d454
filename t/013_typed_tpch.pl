# 013_typed_tpch.pl: the 22 queries of TPC-H typed key by key, then submitted.
#
# Scenario 3 of speculation, on 60,000 made lines of orders: what each query answers from the tables that typing
# alone has built equals what it answers without any, and of those that read the large table the promised share
# is answered from one; the others are too cheap for a table on some machines. Costs are ignored: a table saves
# little on so few rows. The times of scale 1, and what speculation spends for them, are
# bench-speql's to measure; here only the promised median is held.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PrepackTest;
use Test::More;

my $speql = "$FindBin::RealBin/../bench/speql";
my $node = PostgreSQL::Test::Cluster->new('typed_tpch');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'prepack'
autovacuum = off
CONF
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION prepack; SET client_min_messages = warning; '
	  . slurp_file("$speql/tpch_schema.sql"));

# Rows that every query finds some of; no two sums that a LIMIT orders by are alike.
$node->safe_psql('postgres', <<'SQL');
SELECT setseed(0.5);
INSERT INTO region SELECT i, (ARRAY['AFRICA', 'AMERICA', 'ASIA', 'EUROPE', 'MIDDLE EAST'])[i + 1], ''
FROM generate_series(0, 4) i;
INSERT INTO nation SELECT i, (ARRAY['KENYA', 'BRAZIL', 'CHINA', 'FRANCE', 'SAUDI ARABIA', 'EGYPT', 'CANADA', 'INDIA',
    'GERMANY', 'IRAQ'])[i + 1], i % 5, '' FROM generate_series(0, 9) i;
INSERT INTO part SELECT i, (ARRAY['forest green', 'dim green', 'forest red', 'blue'])[i % 4 + 1] || i, 'Manufacturer#1',
    (ARRAY['Brand#12', 'Brand#23', 'Brand#34', 'Brand#45'])[i % 4 + 1],
    (ARRAY['ECONOMY ANODIZED STEEL', 'PROMO BRUSHED BRASS', 'LARGE PLATED BRASS'])[i % 3 + 1],
    (ARRAY[15, 3, 9, 14, 2, 49])[i / 3 % 6 + 1],
    CASE i % 4 WHEN 0 THEN 'SM BOX' WHEN 1 THEN 'MED BOX' WHEN 2 THEN 'LG BOX' ELSE 'JUMBO JAR' END, 900 + i, ''
FROM generate_series(1, 1500) i;
INSERT INTO supplier SELECT i, 'Supplier#' || i, 'street ' || i, i / 3 % 10, '1' || i % 9 || '-555', random() * 9000,
    CASE WHEN i % 9 = 0 THEN 'Customer angry Complaints' ELSE 'even' END FROM generate_series(1, 100) i;
INSERT INTO partsupp SELECT p, (p + s * 7) % 100 + 1, 50 + (p * s) % 900, random() * 100, ''
FROM generate_series(1, 1500) p, generate_series(0, 3) s;
INSERT INTO customer SELECT i, 'Customer#' || i, 'road ' || i, i / 7 % 10,
    (ARRAY['13', '31', '23', '44'])[i % 4 + 1] || '-555', random() * 9000,
    (ARRAY['BUILDING', 'MACHINERY'])[i % 2 + 1], '' FROM generate_series(1, 3000) i;
INSERT INTO orders SELECT i, i % 2000 + 1, (ARRAY['F', 'O'])[i / 2 % 2 + 1], random() * 90000,
    date '1992-01-01' + i * 7 % 2400, (ARRAY['1-URGENT', '2-HIGH', '3-MEDIUM'])[i % 3 + 1], 'Clerk#1', 0,
    CASE WHEN i % 11 = 0 THEN 'special packed requests' ELSE 'even' END FROM generate_series(1, 15000) i;
INSERT INTO lineitem SELECT o, ps_partkey, ps_suppkey, n, CASE WHEN o % 50 = 0 THEN 80 ELSE 1 + (o + n) % 49 END,
    1000 + random() * 9000, (o + n) % 11 * 0.01, (o + n) % 8 * 0.01, (ARRAY['R', 'A', 'N'])[o % 3 + 1],
    (ARRAY['F', 'O'])[n % 2 + 1], o_orderdate + n * 9, o_orderdate + (o + n) % 60, o_orderdate + n * 9 + o % 30,
    'DELIVER IN PERSON', (ARRAY['AIR', 'MAIL', 'SHIP'])[(o + n) % 3 + 1], ''
FROM orders, generate_series(1, 4) n,
    LATERAL (SELECT o_orderkey::int AS o) k,
    LATERAL (SELECT ps_partkey, ps_suppkey FROM partsupp WHERE ps_partkey = (o * 5 + n) % 1500 + 1
        ORDER BY ps_suppkey OFFSET o % 4 LIMIT 1) s;
CREATE INDEX ON lineitem (l_partkey, l_suppkey);
ANALYZE;
-- Types a text key by key, then waits until nothing more is built for it.
CREATE PROCEDURE type_keys(query text) LANGUAGE plpgsql AS $$
DECLARE fed bigint;
BEGIN
    FOR i IN 1 .. length(query) LOOP
        fed := prepack.speculate(left(query, i), i);
        PERFORM pg_sleep(0.001);
    END LOOP;
    FOR i IN 1 .. 1200 LOOP
        EXIT WHEN EXISTS (SELECT FROM prepack.speculations s WHERE s.id = fed AND s.state = 'idle');
        PERFORM pg_sleep(0.05);
    END LOOP;
END $$;
-- The rows of a query in its order, with or without tables, and the milliseconds.
CREATE FUNCTION answer(query text, speculation text, OUT result text, OUT ms float8) LANGUAGE plpgsql AS $$
DECLARE started timestamptz := clock_timestamp();
BEGIN
    PERFORM set_config('prepack.use_speculation', speculation, false);
    EXECUTE format('SELECT string_agg(q::text, E''\n'') FROM (%s) q', query) INTO result;
    ms := 1000 * extract(epoch FROM clock_timestamp() - started);
    PERFORM set_config('prepack.use_speculation', 'on', false);
END $$;
-- True for a query that reads a speculative table.
CREATE FUNCTION uses_table(query text) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE plan text;
BEGIN
    EXECUTE 'EXPLAIN (FORMAT json, COSTS off) ' || query INTO plan;
    RETURN plan ~ '"Tables": \[\s*"\d';
END $$;
SQL

my %query = slurp_file("$speql/tpch_queries.sql") =~ /^-- (\d+)\n(.*?);$/msg;
is(scalar(keys %query), 22, 'the 22 queries are read');
my ($large, $used, @ms) = (0, 0);
for my $n (sort { $a <=> $b } keys %query)
{
	my ($right, $table, $rows, $ms) = split /\|/, $node->safe_psql('postgres', <<"SQL");
SET prepack.speculation = materialize;
SET prepack.test_fault = 'ignore_cost';
SET max_parallel_workers_per_gather = 0;
CALL type_keys(\$q\$$query{$n}\$q\$);
SELECT fast.result IS NOT DISTINCT FROM plain.result, uses_table(\$q\$$query{$n}\$q\$),
    coalesce(length(plain.result), 0), fast.ms
FROM answer(\$q\$$query{$n}\$q\$, 'on') fast, answer(\$q\$$query{$n}\$q\$, 'off') plain
SQL
	is($right, 't', "3: Q$n typed and submitted answers what it answers without tables");
	cmp_ok($rows, '>', 0, "3: Q$n finds rows");
	diag("Q$n is not answered from a table") if $table ne 't';
	if ($query{$n} =~ /\blineitem\b/)
	{
		$large++;
		$used += $table eq 't';
	}
	push @ms, $ms;
}
is($large, 17, '17 read the large table');
cmp_ok($used, '>=', 0.85 * $large, "3: $used of these are answered from a table");
cmp_ok(percentile(0.5, @ms), '<=', 50, sprintf '3: median of the submitted queries: %.1f ms', percentile(0.5, @ms));
done_testing();
