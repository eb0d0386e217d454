#!/usr/bin/env python3
"""test_schema.py: what prepack-engine writes under random JSON schemas validates by the package jsonschema.

    test/test_schema.py            (PREPACK_ENGINE names another program than build/prepack-engine)

The model is a tiny one with random weights, so that the grammar alone makes sense of its answers. Budgets
reach from the least that a schema needs to all that the model's context has room for. Skipped, and said, where
jsonschema is not installed.
"""

import importlib.machinery
import importlib.util
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import summary

try:
    import jsonschema
except ImportError:
    jsonschema = None

ROOT = pathlib.Path(__file__).parents[1]
ENGINE = pathlib.Path(os.environ.get("PREPACK_ENGINE", "build/prepack-engine")).resolve()
MODEL = ROOT / "test/data/models/llama"
ROOM = 60  # tokens: the context is 64, the prompt takes a few
N_SCHEMAS = 80


def load_script(name):
    """A script as a module; its name is no Python name."""
    loader = importlib.machinery.SourceFileLoader("script", str(ROOT / "scripts" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("script", loader))
    loader.exec_module(module)
    return module


def least(schema):
    """The least bytes, hence tokens, of a value."""
    if "const" in schema:
        return len(text(schema["const"]))
    for key in ("enum", "anyOf", "oneOf"):
        if key in schema:
            return min(len(text(x)) if key == "enum" else least(x) for x in schema[key])
    kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    costs = {"string": 2 + schema.get("minLength", 0), "integer": 1, "number": 1, "boolean": 4, "null": 4}
    if kinds == ["array"]:
        n = schema.get("minItems", 0)
        return 2 + n * least(schema["items"]) + max(n - 1, 0)
    if kinds == ["object"]:
        parts = [len(text(k)) + 1 + least(schema["properties"][k]) for k in schema.get("required", [])]
        return 2 + sum(parts) + max(len(parts) - 1, 0)
    return min(costs[k] for k in kinds)


def text(value):
    """A value as the engine writes it, in bytes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def in_vocabulary(schema):
    """The tiny model has printable ASCII alone."""
    return all(" " <= c <= "~" for c in json.dumps(schema, ensure_ascii=False))


@unittest.skipUnless(jsonschema, "the Python package jsonschema is not installed")
@unittest.skipUnless(ENGINE.exists(), f"{ENGINE} is not built")
class Schemas(unittest.TestCase):
    def write(self, path, budget, seed):
        """What the engine writes."""
        done = subprocess.run([ENGINE, "generate", MODEL, "a", "--raw", "--schema", path, "--temperature", "1.5",
                               "--max-tokens", str(budget), "--seed", str(seed), "--threads", "1"],
                              capture_output=True, timeout=60)
        self.assertEqual((done.returncode, done.stderr), (0, b""), path.read_text())
        return done.stdout.decode()

    def test_outputs_validate(self):
        script = load_script("make-grammar-fixtures.py")
        r = random.Random(7)
        n = 0
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "schema.json"
            while n < N_SCHEMAS:
                schema = script.random_schema(r)
                if least(schema) > ROOM or not in_vocabulary(schema):
                    continue
                n += 1
                path.write_text(json.dumps(schema))
                for budget in (least(schema), (least(schema) + ROOM) // 2, ROOM):
                    out = self.write(path, budget, n)
                    with self.subTest(schema=schema, budget=budget, out=out):
                        jsonschema.Draft202012Validator(schema).validate(json.loads(out))


if __name__ == "__main__":
    summary.main("schema")
