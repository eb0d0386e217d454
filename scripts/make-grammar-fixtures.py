#!/usr/bin/env python3
"""make-grammar-fixtures.py: writes test/data/grammar.json: random schemas, and values that fit or do not.

    make-grammar-fixtures.py [--out FILE] [--schemas N]

Every schema is of the subset that prepack compiles. Beside it stand values as JSON texts: "fits", written as
prepack would (compact, properties in the schema's order), which the grammar must take, and "misfits", which it
must refuse. The verdicts are those of the Python package jsonschema (draft 2020-12), whatever this script meant.
Deterministic. test/test_schema.py makes schemas with random_schema(), too.
"""
import argparse
import json
import pathlib
import random

TEXTS = ["", "a", "ab", "name", "e\u0301", "日本", "😀", 'say "no"', "back\\slash", "a/b", " ", "<|end|>", "null", "0"]
KEYS = ["a", "ab", "abc", "b", "name", "age", 'q"', "日", "a b", "\\"]
NUMBERS = [0, 1, -1, 7, 42, -305, 123456789, 0.5, -2.25, 1e-05, 6.02e+23]
KINDS = ["string", "integer", "number", "boolean", "null", "array", "object"]


def random_literal(r):
    """A value for enum or const."""
    kind = r.randrange(6)
    if kind < 3:
        return r.choice(TEXTS)
    if kind < 5:
        return r.choice(NUMBERS + [None, True, False])
    return r.choice([[], {}, [1, "x"], {"k": [None]}])


def bounds(r, low, high, most):
    """A pair of bounds, each of them there or not."""
    a, b = sorted((r.randrange(most), r.randrange(most)))
    return ({low: a} if r.random() < 0.5 else {}) | ({high: b} if r.random() < 0.7 else {})


def random_object(r, depth):
    """A schema of objects."""
    keys = r.sample(KEYS, r.randrange(5))
    schema = {"type": "object", "properties": {k: random_schema(r, depth + 1) for k in keys}}
    required = [k for k in keys if r.random() < 0.5]
    if required:
        schema["required"] = required
    if r.random() < 0.7:
        schema["additionalProperties"] = False
    return schema


def random_kind(r, kind, depth):
    """A schema of one type."""
    if kind == "object":
        return random_object(r, depth)
    if kind == "array":
        return {"type": "array", "items": random_schema(r, depth + 1)} | bounds(r, "minItems", "maxItems", 4)
    return {"type": kind} | (bounds(r, "minLength", "maxLength", 6) if kind == "string" else {})


def random_schema(r, depth=0):
    """A schema of the subset; deep ones are simple."""
    choice = r.random()
    plain = KINDS[:5] if depth >= 3 else KINDS
    if choice < 0.12:
        return {"enum": [random_literal(r) for _ in range(r.randrange(1, 6))]}
    if choice < 0.18:
        return {"const": random_literal(r)}
    if choice < 0.26 and depth < 3:
        return {"anyOf": [random_schema(r, depth + 1) for _ in range(r.randrange(1, 4))]}
    if choice < 0.32 and depth < 3:  # of types that exclude each other
        return {"oneOf": [random_kind(r, k, depth + 1) for k in r.sample(["string", "integer", "null", "array"], 2)]}
    if choice < 0.40:
        return {"type": r.sample(KINDS[:5], 2)}
    return random_kind(r, r.choice(plain), depth)


def random_string(r, schema):
    """A string within the bounds, mostly."""
    n = r.randrange(schema.get("minLength", 0), schema.get("maxLength", 7) + 1) if r.random() < 0.8 else r.randrange(9)
    return "".join(r.choice('abz09 é日😀"\\/{}[],:\u007f') for _ in range(n))


def random_value(r, schema):
    """A value that fits, if nothing goes wrong."""
    if "const" in schema:
        return schema["const"]
    for key in ("enum", "anyOf", "oneOf"):
        if key in schema:
            item = r.choice(schema[key])
            return item if key == "enum" else random_value(r, item)
    kind = schema["type"] if isinstance(schema["type"], str) else r.choice(schema["type"])
    if kind == "string":
        return random_string(r, schema)
    if kind in ("integer", "number"):
        return r.choice([x for x in NUMBERS if kind == "number" or isinstance(x, int)])
    if kind == "array":
        low = schema.get("minItems", 0)
        return [random_value(r, schema["items"]) for _ in range(r.randrange(low, schema.get("maxItems", low + 2) + 1))]
    if kind == "object":
        return {k: random_value(r, s) for k, s in schema["properties"].items()
                if k in schema.get("required", []) or r.random() < 0.5}
    return r.choice([True, False]) if kind == "boolean" else None


def damaged(r, value):
    """The value with one thing changed, deep inside or at the top."""
    if isinstance(value, list) and value and r.random() < 0.7:
        i = r.randrange(len(value))
        return r.choice([value[:i] + [damaged(r, value[i])] + value[i + 1:], value + [value[i]], value[1:]])
    if isinstance(value, dict) and value and r.random() < 0.8:
        k = r.choice(list(value))
        return r.choice([{a: b for a, b in value.items() if a != k}, value | {k: damaged(r, value[k])},
                         value | {"zz": 1}])
    if isinstance(value, str) and r.random() < 0.6:
        return r.choice([value + "xxxxxxxx", value[1:], value.upper()])
    return r.choice([None, True, 3, 2.5, "zzz", [], {}, [[]], {"zz": 0}])


def text_of(value):
    """As prepack writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def make_case(r, validator):
    """A schema with its values."""
    schema = random_schema(r)
    check = validator(schema)
    fits, misfits = [], []
    for _ in range(6):
        value = random_value(r, schema)
        (fits if check.is_valid(value) else misfits).append(text_of(value))
        bad = damaged(r, value)
        if not check.is_valid(bad):
            misfits.append(text_of(bad))
    return {"schema": schema, "fits": sorted(set(fits)), "misfits": sorted(set(misfits))}


def main():
    """Command line."""
    import jsonschema
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("test/data/grammar.json"))
    parser.add_argument("--schemas", type=int, default=250)
    args = parser.parse_args()
    r = random.Random(20261123)
    cases = [make_case(r, jsonschema.Draft202012Validator) for _ in range(args.schemas)]
    args.out.write_text("[\n" + ",\n".join(map(text_of, cases)) + "\n]\n", encoding="utf-8")
    print(sum(len(c["fits"]) for c in cases), "values fit,", sum(len(c["misfits"]) for c in cases), "do not")


if __name__ == "__main__":
    main()
