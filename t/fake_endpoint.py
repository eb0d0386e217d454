#!/usr/bin/env python3
"""A small OpenAI-compatible server for the tests of remote endpoints. What it does is in the model's name.

    fake_endpoint.py LOG

Prints its port, then serves until its standard input closes. LOG gets a line for each request: the
model, the path, and "+" for each thing that the request has: key, logprobs, schema, stream.
"""

import http.server
import json
import math
import os
import sys
import threading
import time

KEY = "Bearer open-sesame"
seen = {}
lock = threading.Lock()


def top(token, *pairs):
    """The logprobs of an answer of one token."""
    return {"content": [{"token": token, "logprob": math.log(pairs[0][1]), "top_logprobs": [
        {"token": t, "logprob": math.log(p)} for t, p in pairs]}]}


def answer(text):
    """What a model says to a prompt, and its logprobs: it finds bugs where something crashes."""
    bug = "crash" in text.rsplit("Text: ", 1)[-1]
    if "Categories:" in text:
        return (("bug", top("bug", ("bug", 0.8), ("question", 0.1))) if bug else
                ("question", top("question", ("question", 0.6), ("bug", 0.3))))
    if "Yes or No" in text:
        return (("Yes", top("Yes", ("Yes", 0.9), ("No", 0.1))) if bug else
                ("No", top("No", ("No", 0.75), ("Yes", 0.25))))
    return f"You said: {text}", None


def vector(text):
    """A vector of letter counts."""
    return [float(text.count(c)) for c in "aeiou"] + [1.0]


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def reply(self, code, body, headers=()):
        """Sends JSON, or bytes as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def note(self, request):
        """Writes the log; returns how often the model was asked before."""
        has = [name for name, there in (("key", self.headers.get("Authorization") == KEY),
                                        ("logprobs", "logprobs" in request),
                                        ("schema", "response_format" in request),
                                        ("stream", "stream" in request)) if there]
        with lock:
            n = seen[request["model"]] = seen.get(request["model"], 0) + 1
            with open(sys.argv[1], "a", encoding="utf-8") as log:
                log.write(" ".join([request["model"], self.path] + ["+" + h for h in has]) + "\n")
        return n - 1

    def stream(self, text, pause, ends):
        """Sends a text word by word, as events; the connection's end is the reply's."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.close_connection = True
        for word in text.split(" "):
            event = {"choices": [{"index": 0, "delta": {"content": word + " "}, "finish_reason": None}]}
            self.wfile.write(b": a comment\r\ndata: " + json.dumps(event).encode() + b"\r\n\r\n")
            time.sleep(pause)
        if ends:
            usage = {"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 4}}
            self.wfile.write(b"data: " + json.dumps(usage).encode() + b"\n\ndata: [DONE]\n\n")

    def chat(self, request):
        """A chat's next message."""
        text, logprobs = answer(request["messages"][-1]["content"])
        if "stream" in request:
            self.stream(text, 0.3 if request["model"] == "slow" else 0, request["model"] != "endless")
            return
        if "response_format" in request:
            text = json.dumps({"product": "teapot", "price": 12.5})
        self.reply(200, {"choices": [{"index": 0, "message": {"role": "assistant", "content": text},
                                      "logprobs": logprobs if "logprobs" in request else None,
                                      "finish_reason": "stop"}],
                         "usage": {"prompt_tokens": 20, "completion_tokens": 2,
                                   "prompt_tokens_details": {"cached_tokens": 5}}})

    def do_POST(self):
        """Answers as the model's name says."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        model = request["model"]
        n = self.note(request)
        if model == "hang":
            time.sleep(600)
        elif model == "trickle":
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            for _ in range(6000):
                self.wfile.write(b" ")
                time.sleep(0.1)
        elif model == "down" or (model == "flaky" and n % 3 != 2):
            self.reply(503, {"error": {"message": "down"}}, [("Retry-After", "0")])
        elif model == "busy":
            self.reply(429, {"error": {"code": "rate_limit_exceeded"}})
        elif model == "away":
            self.reply(302, {}, [("Location", "http://127.0.0.1:1/v1/chat/completions")])
        elif model == "garbage":
            self.reply(200, b"<html>no JSON</html>")
        elif model == "liar":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.close_connection = True
        elif model == "huge":
            self.send_response(200)
            self.end_headers()
            for _ in range(40):
                self.wfile.write(b" " * (1 << 20))
            self.close_connection = True
        elif model == "locked" and self.headers.get("Authorization") != KEY:
            self.reply(401, {"error": {"code": "invalid_api_key"}})
        elif model == "plain" and ("logprobs" in request or "response_format" in request):
            self.reply(400, {"error": {"type": "invalid_request_error"}})
        elif model == "picky" and "poison" in request["messages"][-1]["content"]:
            self.reply(400, {"error": {"code": "context_length_exceeded"}})
        elif self.path.endswith("/embeddings"):
            self.reply(200, {"data": [{"index": i, "embedding": vector(t)}
                                      for i, t in enumerate(request["input"])],
                             "usage": {"prompt_tokens": 3 * len(request["input"])}})
        else:
            self.chat(request)

    def log_message(self, *args):
        """Stays quiet."""


class Server(http.server.ThreadingHTTPServer):
    """A thread a connection; clients that leave are none of its business."""

    daemon_threads = True

    def handle_error(self, request, client_address):
        """Stays quiet."""


def main():
    """Serves until standard input closes."""
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
