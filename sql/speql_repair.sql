-- Repair of unfinished statements: each block as it could run now. Nothing is executed.
CREATE SCHEMA repair;
SET search_path = repair;
CREATE TABLE customer (c_id int PRIMARY KEY, c_name text, c_segment text);
CREATE TABLE orders (o_id int PRIMARY KEY, o_customer int REFERENCES customer, o_date date, o_total numeric);
CREATE TABLE stock (s_id int PRIMARY KEY, s_amount int);
CREATE SEQUENCE ticket;

-- Complete, and cut at the end
SELECT * FROM prepack.repair_sql('SELECT c_name FROM customer WHERE c_id > 3');
SELECT * FROM prepack.repair_sql('SELECT c_name FROM customer WHERE c_id >');
SELECT * FROM prepack.repair_sql('SELECT c_name FROM customer WHERE c_segment = ''BUIL');
SELECT * FROM prepack.repair_sql('SELECT c_name FROM customer WHERE c_id IN (1, 2, ');
SELECT * FROM prepack.repair_sql('SELECT CASE WHEN c_id = 1 THEN 2 FROM customer');
SELECT * FROM prepack.repair_sql('SELECT c_name FROM customer -- whose');
SELECT * FROM prepack.repair_sql('SELECT c_name FROM customer /* whose');

-- The cursor in the middle
SELECT * FROM prepack.repair_sql('SELECT c_name,  FROM customer WHERE c_id = AND c_name = ''x''', 14);

-- What the analysis asks for
SELECT * FROM prepack.repair_sql('SELECT c_name, count(*) FROM customer');
SELECT * FROM prepack.repair_sql('SELECT c_seg');
SELECT * FROM prepack.repair_sql('SELECT c_name, sum(o_total)');
SELECT * FROM prepack.repair_sql('SELECT c_name FROM cust');
SELECT * FROM prepack.repair_sql('SELECT x FROM (SELECT c_id AS x FROM customer');

-- No key leads from customer to stock: no join is guessed
SELECT * FROM prepack.repair_sql('SELECT c_name, s_amount FROM customer');
-- A cross join that was typed is named
SELECT * FROM prepack.repair_sql('SELECT c_name, s_amount FROM customer, stock WHERE');

-- Slips: names and keywords that are nearly right, when only one is so near
SELECT * FROM prepack.repair_sql('SELECT c_nmae, c_id FROM customer WHERE c_id > 1');
SELECT * FROM prepack.repair_sql('SELECT c_name FROM custmer WHERE c_id > 1');
SELECT * FROM prepack.repair_sql('SELECT cust.c_nam, cust.c_id FROM customer cust');
SELECT * FROM prepack.repair_sql('SELECT cst.c_id, 1 FROM customer cust');
SELECT * FROM prepack.repair_sql('SELECT cust.c_id FROM customer cust WHERE cust.c_na');
SELECT * FROM prepack.repair_sql('SELCT c_name form customer WEHRE c_id > 1 gruop by c_name oder BY c_name');
SELECT * FROM prepack.repair_sql('SELECT c_name FROM customer formal');
SELECT * FROM prepack.repair_sql('SELECT x_nothing, c_id FROM customer WHERE c_id > 1');

-- … but not what may be a column of the surroundings, another number, or a WITH item
SELECT * FROM prepack.repair_sql('SELECT o_id FROM orders WHERE EXISTS (SELECT 1 FROM customer WHERE c_id = o_id AND ');
SELECT * FROM prepack.repair_sql('SELECT ord1.o_id, ord2.o_id FROM orders ord1 WHERE');
SELECT block, sql FROM prepack.repair_sql('WITH RECURSIVE customers AS (SELECT 1 AS c_id UNION ALL
    SELECT c_id FROM customers WHERE c_id < 3)') OFFSET 2;

-- Calls that lack arguments yet
SELECT * FROM prepack.repair_sql('SELECT regexp_replace(c_name, ''a'', ');
SELECT * FROM prepack.repair_sql('SELECT c_id, repair.no_such(c_name) FROM customer');
SELECT * FROM prepack.repair_sql('SELECT c_id, c_name + (c_id');

-- Aliases that nothing bears yet: the one table that has what is taken from them
SELECT * FROM prepack.repair_sql('SELECT k.c_name, k.c_id');
SELECT * FROM prepack.repair_sql('SELECT k.c_name, o.o_date FROM customer k WHERE o.o_id > 1');
SELECT * FROM prepack.repair_sql('SELECT z.no_such, z.c_id, 1');
SELECT * FROM prepack.repair_sql('SELECT d.datname, d.oid');

-- Misspelt functions: the only name so near that takes so many arguments
SELECT * FROM prepack.repair_sql('SELECT coutn(*) FROM customer');
SELECT * FROM prepack.repair_sql('SELECT upperr(c_name), avrage(1) FROM customer');
SELECT * FROM prepack.repair_sql('SELECT substrng(c_name, 1, 2), repalce(c_name, ''a''');
SELECT * FROM prepack.repair_sql('SELECT c_id FROM customer GROUP BY c_id HAVING Conut(*) > 1 ORDER BY lenght(');
SELECT * FROM prepack.repair_sql('SELECT lowre(c_name, 1) FROM customer'); -- nothing near has two
CREATE FUNCTION widget(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION wadget(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
SELECT * FROM prepack.repair_sql('SELECT wodget(1)'); -- two could be meant
SELECT * FROM prepack.repair_sql('SELECT wagget(1)');
DROP FUNCTION widget, wadget;
SELECT * FROM prepack.repair_sql('SELECT length(1, 2) FROM customer'); -- spelt right

-- Blocks: WITH items, subqueries, operands of set operations
SELECT * FROM prepack.repair_sql(
    'WITH a AS (SELECT c_id FROM customer), b AS (SELECT c_id FROM a WHERE ) SELECT * FROM b', 70);
SELECT * FROM prepack.repair_sql(
    'SELECT c_id FROM customer UNION ALL SELECT o_id FROM orders WHERE o_id IN (SELECT s_id FROM');
SELECT * FROM prepack.repair_sql('WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n <');

-- Only the statement under the cursor
SELECT * FROM prepack.repair_sql('DELETE FROM customer; SELECT c_id FROM customer WHERE; DROP TABLE stock', 40);

-- Nothing but reads; nothing runs
SELECT valid FROM prepack.repair_sql('DELETE FROM customer');
SELECT valid FROM prepack.repair_sql('WITH d AS (DELETE FROM customer RETURNING *) SELECT * FROM d');
SELECT valid FROM prepack.repair_sql('SELECT * INTO copy FROM customer') ;
SELECT * FROM prepack.repair_sql('SELECT c_id FROM customer FOR UPDATE');
SELECT valid FROM prepack.repair_sql('SELECT nextval(''ticket'')');
SELECT is_called FROM ticket;

-- An error of the text is none of the caller's transaction, whose locks stay as they were
BEGIN;
SELECT valid FROM prepack.repair_sql('SELECT nothing FROM nowhere');
SELECT valid FROM prepack.repair_sql('SELECT c_id FROM customer');
SELECT count(*) FROM pg_locks WHERE relation = 'customer'::regclass AND pid = pg_backend_pid();
COMMIT;

-- Edges: blank, NULL, any bytes, a cursor anywhere
SELECT * FROM prepack.repair_sql('');
SELECT * FROM prepack.repair_sql(NULL);
SELECT count(*) FROM prepack.repair_sql('ÄÖ (( "ü'' $$ [ CASE ; ) END', -5);
SELECT * FROM prepack.repair_sql('SELECT ''é'', c_name FROM customer WHERE c_name = ''ö', 1000);
SELECT count(*) FROM prepack.repair_sql(repeat('(', 10000));

-- What no one types is not looked at
SELECT valid, changes FROM prepack.repair_sql('SELECT 1 ' || repeat('+', 60000));
SELECT valid, changes FROM prepack.repair_sql('SELECT ' || repeat('1 + ', 20000));
SELECT count(*), bool_or(valid) FROM prepack.repair_sql(repeat('SELECT (', 5000));

DROP SCHEMA repair CASCADE;
