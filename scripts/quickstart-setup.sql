-- quickstart-setup.sql: the extension, two models by name, a table for the packages.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS prepack;
SELECT prepack.wait_until_ready() AS ready \gset
SELECT count(*) = 0 AS fresh FROM prepack.models WHERE name = 'smollm2' \gset
\if :fresh
    SELECT prepack.register_model('smollm2', 'smollm2-135m.gguf') \g /dev/null
    SELECT prepack.register_model('minilm', 'minilm-l6') \g /dev/null
    SELECT prepack.set_default_model('smollm2', 'generate'), prepack.set_default_model('minilm', 'embed') \g /dev/null
\endif
DROP TABLE IF EXISTS package, answer, vector;
CREATE TABLE package (name text, section text, description text);
