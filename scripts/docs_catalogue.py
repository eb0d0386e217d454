"""docs_catalogue.py: the manual beside the catalogue of a server that has the extension.

The pages of docs/, above all reference.md, hold every function (its signature in a block without a language,
or its name in the text where it is only the inside of a view), every view with its columns and types, every
setting with its type, default and context, and no other; every object has a comment. troubleshooting.md
holds every message of src/ and src/speql. And no page names an object of the schema that does not exist.
"""

import ast
import re

CONTEXTS = {"user": "session", "superuser": "superuser", "postmaster": "server start"}
# Words after "prepack." that are files, not objects.
FILES = {"so", "sql", "control", "conf", "c", "h"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
SIGNATURE = re.compile(r"(\w+)\(((?:[^()']|'[^']*')*)\)\s*→\s*((?:SETOF )?(?:\([^)]*\)|[\w\[\] ]+))")
SETTING = re.compile(r"^\*\*`(prepack\.\w+)`\*\* \(`(\w+)`, default `(.*?)`, ([\w ]+)\)", re.M)
VIEW = re.compile(r"^### prepack\.(\w+)\n(.*?)(?=^###? )", re.M | re.S)
COLUMN = re.compile(r"^\| `(\w+)` \| `([^`]+)` \|", re.M)
NAME = re.compile(r"\bprepack\.([a-z][a-z_]*)")
# Messages that a user meets; internal ones (elog) are none.
MESSAGE = re.compile(r'\berrmsg\(\s*((?:"(?:[^"\\]|\\.)*"\s*|INT64_FORMAT\s*)+)')
STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"|INT64_FORMAT')
CONVERSION = re.compile(r"%(?:\.(?:\*|\d+))?[a-z]+|%ld")

FUNCTIONS = """
SELECT p.proname || E'\\t' || pg_get_function_arguments(p.oid) || E'\\t' || pg_get_function_result(p.oid)
FROM pg_proc p WHERE p.pronamespace = 'prepack'::regnamespace ORDER BY 1
"""
COLUMNS = """
SELECT c.relname || E'\\t' || a.attname || E'\\t' || format_type(a.atttypid, a.atttypmod)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relnamespace = 'prepack'::regnamespace AND c.relkind = 'v' ORDER BY c.relname, a.attnum
"""
SETTINGS = """
SELECT name || E'\\t' || vartype || E'\\t' || CASE WHEN context IN ('user', 'superuser')
    THEN set_config(name, boot_val, true) ELSE boot_val END || E'\\t' || context
FROM pg_settings WHERE name LIKE 'prepack.%' ORDER BY name
"""
RELATIONS = "SELECT relname FROM pg_class WHERE relnamespace = 'prepack'::regnamespace"
UNCOMMENTED = """
SELECT pg_describe_object(classid, objid, 0) FROM pg_depend
WHERE refobjid = (SELECT oid FROM pg_extension WHERE extname = 'prepack') AND deptype = 'e'
    AND classid IN ('pg_proc'::regclass, 'pg_class'::regclass)
    AND obj_description(objid, classid::regclass::name) IS NULL
UNION ALL
SELECT c.relname || '.' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relnamespace = 'prepack'::regnamespace AND c.relkind = 'v' AND col_description(c.oid, a.attnum) IS NULL
"""


def flat(text):
    """A text with every run of blanks as one space."""
    return re.sub(r"\s+", " ", text).strip()


def signature_of(name, arguments, result):
    """A function of the catalogue as the manual writes it."""
    parts = [re.sub(r"::[a-z ]+(\[\])?", "", part) for part in arguments.split(", ")]
    out = [part[len("OUT "):] for part in parts if part.startswith("OUT ")]
    if out:
        result = result.replace("record", f"({', '.join(out)})")
    return f"{name}({', '.join(p for p in parts if not p.startswith('OUT '))}) → {result}"


def compare(what, documented, real, report):
    """Compares two sets; every element is a check of its own."""
    for item in sorted(set(documented) | set(real)):
        words = "is not documented" if item in real else "is documented but does not exist"
        report.check(item in real and item in documented, f"docs: {what} {item} {words}")


def check_reference(text, rows, report):
    """Functions, views and settings."""
    written = {flat(f"{n}({a}) → {r}") for language, block in FENCE.findall(text) if not language
               for n, a, r in SIGNATURE.findall(block)}
    real = {signature_of(*row) for row in rows(FUNCTIONS)}
    inner = {s for s in real if f"`{s.split('(')[0]}()`" in text or f"`{s.split(' → ')[0]}`" in text}
    compare("function", written, real - (inner - written), report)
    columns = {f"{view}.{name} {kind}" for view, body in VIEW.findall(text + "\n## ")
               for name, kind in COLUMN.findall(body)}
    compare("column", columns, {f"{v}.{n} {t}" for v, n, t in rows(COLUMNS)}, report)
    settings = {(n, t, d, CONTEXTS[c]) for n, t, d, c in rows(SETTINGS)}
    compare("setting", set(SETTING.findall(text)), settings, report)
    report.check(not rows(UNCOMMENTED), f"objects without a comment: {rows(UNCOMMENTED)}")


def check_names(pages, rows, report):
    """Every object that a page names exists."""
    known = {row[0] for query in (FUNCTIONS, RELATIONS) for row in rows(query)}
    known |= {row[0].split(".")[1] for row in rows(SETTINGS)} | FILES | {"test_fault"}
    for path, text in pages:
        unknown = sorted(set(NAME.findall(text)) - known)
        report.check(not unknown, f"{path}: there is no {', '.join('prepack.' + n for n in unknown)}")


def messages(source):
    """The messages of a C file, each conversion as …"""
    for m in MESSAGE.finditer(source):
        parts = ("%d" if s == "INT64_FORMAT" else ast.literal_eval(s) for s in STRINGS.findall(m.group(1)))
        yield CONVERSION.sub("…", "".join(parts).replace("%%", "%"))


def check_messages(text, sources, report):
    """Every message of the sources has its place in the manual, as the start of an entry."""
    entries = set(re.findall(r"^\*\*(.+?)\*\*", text, re.M))
    for message in sorted({m for source in sources for m in messages(source)}):
        report.check(message in entries, f"docs/troubleshooting.md: no entry for: {message}")
