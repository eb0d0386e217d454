-- The engine is up, and the built-in model is there.
SELECT prepack.wait_until_ready('30 s');
SELECT state, current_setting('prepack.device') IN ('auto', device) AS device_as_set, restarts, last_error
FROM prepack.status;
SELECT name, kind, loaded FROM prepack.models;
SELECT * FROM prepack.version();
