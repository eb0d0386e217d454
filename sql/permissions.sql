-- What costs compute is not PUBLIC's; views are, masked.
CREATE ROLE prepack_nobody;
CREATE ROLE prepack_user;
CREATE ROLE prepack_admin;
SET ROLE prepack_nobody;
SELECT prepack.generate('x', model => 'dummy');
SELECT prepack.count_tokens('x', model => 'dummy');
SELECT prepack.register_model('x', 'bert');
SELECT prepack.restart_engine();
SELECT prepack.grant_usage('prepack_nobody');
SELECT last_error FROM prepack.status;
SELECT name, kind, loaded FROM prepack.models WHERE name = 'dummy';
SELECT count(*) >= 0 FROM prepack.queue;
SELECT * FROM prepack.model_registry;
SET prepack.allowed_models = '';
RESET ROLE;
SELECT prepack.grant_usage('prepack_user'), prepack.grant_usage('prepack_admin', admin => true);
SET ROLE prepack_user;
SELECT prepack.generate('x', model => 'dummy') IS NOT NULL;
SELECT prepack.register_model('x', 'bert');
RESET ROLE;
SET ROLE prepack_admin;
SELECT prepack.register_model('x', 'bert');
SELECT name, kind FROM prepack.models ORDER BY name;
SELECT prepack.drop_model('x');
RESET ROLE;
-- everyone can read the registry, else only superusers could dump their databases; who administers models, or may read
-- all data, sees the names of keys in it, which has no place for a key
SET prepack.allowed_endpoints = 'http://localhost';
SET ROLE prepack_admin;
SELECT prepack.register_endpoint('near', 'http://localhost/v1',
    '{"model": "m", "key_file": "hush", "key_env": "PREPACK_HUSH", "retries": 1}');
SELECT options FROM prepack.model_registry WHERE name = 'near';
RESET ROLE;
SELECT options FROM prepack.model_registry WHERE name = 'near';
SET ROLE prepack_user;
SELECT options FROM prepack.model_registry WHERE name = 'near';
SELECT options::text, to_jsonb(options), options::text::jsonb -> 'key_file' AS file FROM prepack.model_registry
    WHERE name = 'near';
COPY (SELECT r FROM prepack.model_registry r WHERE name = 'near') TO STDOUT;
CREATE TEMP TABLE mine AS SELECT options FROM prepack.model_registry WHERE name = 'near';
ALTER TABLE mine ALTER COLUMN options TYPE jsonb USING options::text::jsonb;
SELECT options FROM mine;
DROP TABLE mine;
SELECT options::jsonb FROM prepack.model_registry;
SELECT options -> 'key_file' FROM prepack.model_registry;
CREATE CAST (prepack.model_options AS jsonb) WITHOUT FUNCTION;
RESET ROLE;
GRANT pg_read_all_data TO prepack_user;
SET ROLE prepack_user;
SELECT options FROM prepack.model_registry WHERE name = 'near';
RESET ROLE;
REVOKE pg_read_all_data FROM prepack_user;
SELECT prepack.drop_model('near');
SET ROLE prepack_admin;
SELECT prepack.register_endpoint('far', 'http://user:secret@localhost/v1', '{"model": "m"}');
SELECT prepack.register_endpoint('far', 'http://localhost/v1?key=secret', '{"model": "m"}');
SELECT prepack.register_endpoint('far', 'http://localhost/v1', '{"model": "m", "key": "secret"}');
SELECT prepack.register_endpoint('far', 'http://localhost/v1', '{"model": "m", "key_env": "secret"}');
SELECT prepack.register_endpoint('far', 'http://localhost/v1', '{"model": "m", "key_file": "../secret"}');
RESET ROLE;
SELECT count(*) FROM prepack.model_registry r WHERE r::text ~ 'secret';
-- a policy with a call in it judges a row before any condition of the user's sees it
CREATE TABLE secret AS SELECT i AS id, 'secret ' || i AS body FROM generate_series(1, 8) i;
ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
CREATE POLICY judged ON secret USING (prepack.is_true(body, 'is odd', model => 'dummy'));
GRANT SELECT ON secret TO prepack_user;
CREATE FUNCTION peek(body text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$
BEGIN
    RAISE NOTICE 'saw %', body;
    RETURN true;
END $$;
SET ROLE prepack_user;
SELECT id FROM secret WHERE peek(body);
EXPLAIN (COSTS OFF) SELECT id FROM secret WHERE peek(body);
SELECT id FROM secret WHERE peek(body) AND prepack.is_true(body, 'is even', model => 'dummy') AND id < 6;
RESET ROLE;
DROP TABLE secret;
DROP FUNCTION peek;
SET prepack.allowed_models = 'other';
SELECT prepack.generate('x', model => 'dummy');
RESET prepack.allowed_models;
DROP OWNED BY prepack_user, prepack_admin;
DROP ROLE prepack_nobody, prepack_user, prepack_admin;
