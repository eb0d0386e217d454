#!/usr/bin/env python3
"""test_cli.py: the command line of prepack-engine: results, messages, exit statuses, Ctrl-C.

    test/test_cli.py            (PREPACK_ENGINE names another program than build/prepack-engine)

Needs the program, and for the tests with models the two small ones of "make models"; what is absent
is skipped and said.
"""

import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import summary

ENGINE = pathlib.Path(os.environ.get("PREPACK_ENGINE", "build/prepack-engine")).resolve()
ROOT = pathlib.Path(__file__).resolve().parents[1]
MODELS = pathlib.Path(os.environ.get("PREPACK_MODELS") or "models").resolve()
SMOL, MINILM = MODELS / "smollm2-135m.gguf", MODELS / "minilm-l6"
COMMANDS = ("generate", "inspect", "selftest", "bench")
SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 20},
                                           "age": {"type": "integer"}},
          "required": ["name", "age"], "additionalProperties": False}


def run(*args, stdin="", **kwargs):
    """Runs the engine; returns exit status, stdout, stderr."""
    done = subprocess.run([ENGINE, *map(str, args)], input=stdin, capture_output=True, text=True,
                          timeout=300, **kwargs)
    return done.returncode, done.stdout, done.stderr


def needs(path):
    """Skips a test when a model is not there."""
    return unittest.skipUnless(path.exists(), f"{path.name} is not fetched (make models)")


class Calls(unittest.TestCase):
    def test_help(self):
        status, out, _ = run("--help")
        self.assertEqual(status, 0)
        for command in COMMANDS:
            self.assertRegex(out, rf"(?m)^  {command} +\w")
            status, own, said = run(command, "--help")
            self.assertEqual((status, said), (0, ""))
            self.assertIn(f"usage: prepack-engine {command} ", own)

    def test_help_is_as_wide_as_a_terminal(self):
        for command in COMMANDS:
            self.assertLessEqual(max(map(len, run(command, "--help")[1].splitlines())), 90)

    def test_version(self):
        status, out, _ = run("--version")
        self.assertEqual(status, 0)
        self.assertRegex(out, r"^prepack-engine \d+\.\d+\n$")

    def test_wrong_calls(self):
        for args, said in (
                ((), "usage: prepack-engine COMMAND"),
                (("paint",), 'there is no command "paint"'),
                (("generate",), "usage: prepack-engine generate MODEL [PROMPT]"),
                (("generate", "m", "p", "q"), '"q" is one argument too many'),
                (("generate", "m", "--colour", "red"), 'there is no option "--colour"'),
                (("generate", "m", "--top-k"), "--top-k needs a value: N"),
                (("generate", "m", "--top-k", "5x"), '--top-k takes a whole number, not "5x"'),
                (("generate", "m", "--top-k", "-1"), "--top-k takes a whole number"),
                (("generate", "m", "--max-tokens", "4294967296"), "takes a whole number"),
                (("generate", "m", "--temperature", "nan"), "--temperature takes a number"),
                (("generate", "m", "--raw=1"), "--raw takes no value"),
                (("generate", "m", *["--stop", "x"] * 17), "--stop may be given 16 times"),
                (("inspect",), "usage: prepack-engine inspect MODEL"),
                (("bench", "m", "--work", "dance"), 'there is no work "dance"'),
                (("bench", "m", "--mode", "fast"), 'there is no mode "fast"'),
                (("bench", "m", "--work", "embed"), "--work embed needs --texts"),
                (("bench", "m", "--gen", "0"), "take 1 or more"),
                (("bench", "m", "--repeats", "99"), "--repeats takes 1 to 32")):
            with self.subTest(args=args):
                status, out, err = run(*args)
                self.assertEqual((status, out), (2, ""))
                self.assertIn(said, err)

    def test_output_that_cannot_be_written(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run([ENGINE, "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("could not write the result: No space left on device", done.stderr)


class Models(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = pathlib.Path(self.folder.name)

    def test_unknown_names_are_answered_with_those_there_are(self):
        (self.path / "one.gguf").write_text("")
        (self.path / "two").mkdir()
        (self.path / "two/config.json").write_text("{}")
        (self.path / "notes.txt").write_text("")
        status, _, err = run("inspect", "three", env={"PREPACK_MODELS": str(self.path)})
        self.assertEqual(status, 1)
        self.assertIn('there is no model "three"; in ', err)
        self.assertTrue(err.endswith(": one.gguf, two\n"), err)

    def test_no_model_folder(self):
        status, _, err = run("generate", "any", "x", cwd=self.path, env={})
        self.assertEqual(status, 1)
        self.assertIn('there is no model "any"; in models: none', err)

    def test_a_path_is_not_looked_up(self):
        (self.path / "one.gguf").write_text("")
        status, _, err = run("inspect", "./one.gguf", env={"PREPACK_MODELS": str(self.path)})
        self.assertEqual(status, 1)
        self.assertIn("there is no model", err)

    def test_bad_files(self):
        (self.path / "not.gguf").write_bytes(b"something else altogether")
        (self.path / "cut.gguf").write_bytes(b"GGUF\3\0\0\0" + b"\xff" * 16)
        (self.path / "config.json").write_text("{")
        for name in ("not.gguf", "cut.gguf", ""):
            for command in ("inspect", "generate", "bench"):
                args = ("x",) if command == "generate" else ()
                status, _, err = run(command, self.path / name, *args)
                self.assertEqual(status, 1, err)
                self.assertRegex(err, r"^prepack-engine: [^\n]{10,}\n$")


class Inspect(unittest.TestCase):
    @needs(SMOL)
    def test_gguf_by_name(self):
        status, out, err = run("inspect", "smollm2-135m", env={"PREPACK_MODELS": str(MODELS)})
        self.assertEqual((status, err), (0, ""))
        for line in ("parameters    134.5 million", "architecture  llama, generates text",
                     "layers        30 of width 576, inner width 1536",
                     "attention     9 heads of width 64, 3 of keys and values",
                     "context       8192 tokens, 23.0 kB of keys and values each",
                     "tokenizer     byte-level BPE, 49152 tokens"):
            self.assertIn(line + "\n", out)
        self.assertRegex(out, r"(?m)^chat +chatml")
        self.assertIn("tensors       272: 210 in Q4_1 (66.4 MB), 1 in Q8_0", out)
        self.assertNotIn("digest", out)

    @needs(SMOL)
    def test_digest(self):
        digest = hashlib.sha256(SMOL.read_bytes()).hexdigest()
        self.assertIn(f"digest        {digest}\n", run("inspect", "--digest", SMOL)[1])

    @needs(MINILM)
    def test_folder_and_tensors(self):
        status, out, err = run("inspect", MINILM, "--tensors")
        self.assertEqual((status, err), (0, ""))
        self.assertIn("architecture  bert, embeds text\n", out)
        self.assertIn("vectors       384 numbers, mean, length 1\n", out)
        self.assertIn("context       256 tokens\n", out)
        self.assertIn("tokenizer     WordPiece, 30522 tokens\n", out)
        self.assertNotIn("chat ", out)
        tensors = re.findall(r"(?m)^(\S+) +F32 +([\dx ]+)$", out)
        self.assertEqual(len(tensors), 103)
        self.assertIn(("embeddings.word_embeddings.weight", "30522 x 384"), tensors)


@needs(SMOL)
class Generate(unittest.TestCase):
    def answer(self, *args, **kwargs):
        """The answer to a call that must succeed."""
        status, out, err = run("generate", SMOL, *args, **kwargs)
        self.assertEqual(status, 0, err)
        return out

    def test_an_answer_that_makes_sense(self):
        out = self.answer("What is the capital of France? Answer in one sentence.", "--max-tokens", 24)
        self.assertIn("Paris", out)
        self.assertTrue(out.endswith("\n"))

    def test_the_prompt_may_come_from_stdin(self):
        prompt = "Name three colours."
        out = self.answer(prompt, "--max-tokens", 8)
        self.assertEqual(self.answer("--max-tokens", 8, stdin=prompt), out)
        self.assertEqual(self.answer("-", "--max-tokens=8", stdin=prompt), out)

    def test_raw_text_is_continued(self):
        out = self.answer("--raw", "The capital of France is", "--max-tokens", 3)
        self.assertIn("Paris", out)

    def test_system_prompt_counts(self):
        args = ("Hello!", "--max-tokens", 16)
        self.assertNotEqual(self.answer(*args, "--system", "You are a pirate. Answer in Latin."),
                            self.answer(*args))

    def test_seeds(self):
        args = ("Tell a story.", "--temperature", 1, "--max-tokens", 24, "--seed")
        first = self.answer(*args, 1)
        self.assertEqual(self.answer(*args, 1), first)
        self.assertNotEqual(self.answer(*args, 2), first)

    def test_stop(self):
        args = ("--raw", "1, 2, 3, 4,", "--max-tokens", 40)
        self.assertIn("9", self.answer(*args))
        out = self.answer(*args, "--stop", " 8", "--stop", "never")
        self.assertIn("7", out)
        self.assertNotIn("8", out)

    def test_schema(self):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(SCHEMA, file)
            file.flush()
            out = self.answer("Invent a person.", "--schema", file.name, "--max-tokens", 80)
        person = json.loads(out)
        self.assertEqual(set(person), {"name", "age"})
        self.assertIsInstance(person["age"], int)

    def test_stats(self):
        _, out, err = run("generate", SMOL, "Hello!", "--max-tokens", 5, "--stats")
        self.assertRegex(err, r"(?m)^prompt: +\d+ tokens in [\d.]+ ms, \d+ tok/s$")
        self.assertRegex(err, r"(?m)^answer: +[1-5] tokens in [\d.]+ ms, \d+ tok/s$")
        self.assertRegex(err, r"(?m)^drafts: +\d+ of \d+ proposed tokens accepted$")
        self.assertNotIn("tok/s", out)

    def test_failures(self):
        for args, said in ((("x", "--temperature", -1), "temperature"),
                           (("x", "--top-p", 2), "top"),
                           (("x", "--schema", "/no/such/file"), "/no/such/file"),
                           (("word " * 9000,), "the limit of model"),
                           (("--raw", ""), "prompt is empty")):
            with self.subTest(said=said):
                status, out, err = run("generate", SMOL, *args)
                self.assertEqual((status, out), (1, ""))
                self.assertIn(said, err)

    def test_a_longer_context_than_the_first(self):
        args = (ROOT / "test/data/models/phi3-long", "the rain in the other plain", "--raw", "--max-tokens", 8)
        status, _, err = run("generate", *args)
        self.assertEqual(status, 1)
        self.assertRegex(err, r"prompt has \d+ tokens, the limit of model .* is 16")
        self.assertEqual(run("generate", *args, "--context", 64)[0], 0)

    @needs(MINILM)
    def test_an_encoder_does_not_generate(self):
        status, _, err = run("generate", MINILM, "x")
        self.assertEqual(status, 1)
        self.assertIn("cannot generate", err)

    def test_interrupt(self):
        child = subprocess.Popen([ENGINE, "generate", SMOL, "--raw", "1, 2, 3,", "--max-tokens", "8000"],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertTrue(child.stdout.read(1))
        child.send_signal(signal.SIGINT)
        start = time.monotonic()
        rest, said = child.communicate(timeout=60)
        self.assertEqual(child.returncode, 130)
        self.assertLess(time.monotonic() - start, 10)
        self.assertTrue(rest.endswith(b"\n"))
        self.assertIn(b"cancelled", said)


class Quantisation(unittest.TestCase):
    @needs(SMOL)
    def test_the_cpu_refuses_what_only_cards_have(self):
        for command in (("generate", SMOL, "hi"), ("bench", SMOL), ("selftest", SMOL)):
            for form in ("fp8", "bf16", "q3"):
                status, out, err = run(*command, "--device", "cpu", "--quantisation", form)
                self.assertEqual(status, 1, (command, form))
                self.assertIn(f'quantisation "{form}"', out + err)

    @needs(SMOL)
    def test_any_bits(self):
        # the CPU has one order of sums for any batch and takes no notice; the server's option is the same word
        status, out, err = run("bench", SMOL, "--device", "cpu", "--any-bits", "--work", "decode", "--gen", "2",
                               "--repeats", "1")
        self.assertEqual(status, 0, err)
        self.assertIn("decode", out)
        status, _, err = run("serve", "--any-bits")
        self.assertIn("--socket PATH is needed", err)


class SelfTest(unittest.TestCase):
    def test_device_alone(self):
        with tempfile.TemporaryDirectory() as folder:
            status, out, _ = run("selftest", env={"PREPACK_MODELS": folder})
        self.assertEqual(status, 0, out)
        self.assertIn("none in the model folder", out)
        n_ok = len(re.findall(r"(?m)^ok ", out))
        self.assertGreaterEqual(n_ok, 4)
        self.assertTrue(out.endswith(f"selftest: {n_ok} ok, 0 failed\n"))

    @needs(SMOL)
    def test_decoder(self):
        status, out, _ = run("selftest", SMOL)
        self.assertEqual(status, 0, out)
        for job in ("generate", "generate with a seed", "generate out of a list", "classify",
                    "log_likelihood"):
            self.assertIn(f"{job}: 6 of 6 rows have the same bits packed and alone", out)

    @needs(MINILM)
    def test_encoder(self):
        status, out, _ = run("selftest", MINILM)
        self.assertEqual(status, 0, out)
        self.assertIn("embed: 6 of 6 rows have the same bits packed and alone", out)
        self.assertRegex(out, r"cosine of two texts that mean the same is 0\.[4-9]")

    def test_a_model_that_does_not_load_fails(self):
        with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
            status, out, _ = run("selftest", file.name)
        self.assertEqual(status, 1)
        self.assertIn("FAILED   load: ", out)
        self.assertTrue(out.endswith(" 1 failed\n"))


class Bench(unittest.TestCase):
    def figures(self, *args):
        """The lines of a work: name -> (figure, unit)."""
        status, out, err = run("bench", *args, "--repeats", 1, "--threads", 2)
        self.assertEqual(status, 0, err)
        rows = [line.split("\t") for line in out.splitlines()]
        figures = {work: (float(figure), unit) for work, figure, unit in rows}
        self.assertEqual(figures["memory/accounted"][1], "B")
        self.assertGreater(figures["memory/accounted"][0], 1e6)
        return figures

    @needs(SMOL)
    def test_prefill_has_the_tokens_asked_for(self):
        figures = self.figures(SMOL, "--work", "prefill", "--prompt", 100)
        self.assertEqual(figures["prefill/tokens"], (100, "tokens"))
        self.assertEqual(figures["prefill"][1], "tok/s")
        self.assertGreater(figures["prefill"][0], 10)

    @needs(SMOL)
    def test_decode(self):
        figures = self.figures(SMOL, "--work", "decode", "--gen", 8)
        self.assertGreater(figures["decode"][0], 1)
        self.assertLessEqual(figures["decode/accepted"][0], figures["decode/tokens"][0])

    @needs(SMOL)
    def test_classify_in_every_mode(self):
        with tempfile.TemporaryDirectory() as folder:
            texts = pathlib.Path(folder) / "texts"
            texts.write_text("".join(f"letter {'very ' * (i % 7)}late\n" for i in range(40)))
            tokens = set()
            for mode in ("packed", "padded", "sorted", "unshared"):
                figures = self.figures(SMOL, "--work", "classify", "--texts", texts, "--labels",
                                       "good,bad", "--instruction", "bench/instruction.txt",
                                       "--mode", mode)
                self.assertEqual(figures["classify"][1], "texts/s")
                self.assertEqual(figures["classify/shared"][0] > 0, mode == "packed")
                tokens.add(figures["classify/tokens"])
        self.assertEqual(len(tokens), 1)

    @needs(MINILM)
    def test_embed_cuts_at_the_limit_of_the_model(self):
        with tempfile.TemporaryDirectory() as folder:
            texts = pathlib.Path(folder) / "texts"
            texts.write_text("one two\n" + "word " * 1000)
            figures = self.figures(MINILM, "--work", "embed", "--texts", texts)
        self.assertEqual(figures["embed/tokens"], (4 + 256, "tokens"))

    @needs(SMOL)
    def test_table(self):
        status, out, _ = run("bench", SMOL, "--prompt", 32, "--gen", 4, "--batch", 3, "--repeats", 1)
        self.assertEqual(status, 0)
        for line in ("model", "device", "prefill", "decode", "batch", "memory"):
            self.assertRegex(out, rf"(?m)^{line} ")
        self.assertIn("a prompt of 32 tokens", out)
        self.assertIn("3 prompts at once, 12 tokens", out)

    @needs(MINILM)
    def test_empty_texts(self):
        with tempfile.NamedTemporaryFile() as file:
            status, out, err = run("bench", MINILM, "--work", "embed", "--texts", file.name)
        self.assertEqual((status, out), (1, ""))
        self.assertIn("holds no texts", err)


if __name__ == "__main__":
    if not ENGINE.exists():
        print(f"SKIP: {ENGINE} is not built (make)\ncli: 0 passed, 0 failed, 1 skipped")
        sys.exit(0)
    summary.main("cli")
