#!/usr/bin/env python3
"""llama_cpp_bench.py: llama.cpp on the work of bench-llm, through the package llama-cpp-python.

    llama_cpp_bench.py MODEL.gguf --work prefill|decode|classify [--scratch DIR] [--threads 2] …

Prints lines "work<TAB>figure<TAB>unit". The C functions are called directly, so that nothing of
Python but the loop over texts is timed; the peer gets what helps it: its own packed weight layouts,
flash attention where it chooses it, logits of the last token only, and for prefill and classify
every format it can make of the same weights.

prefill    512 tokens from an empty context, in the file's own format and in those of --formats
           (made by llama.cpp's own quantiser from the same file)
decode     128 greedy tokens of one stream after a prompt of 16
classify   label logits after instruction + text + suffix, one prefill a text:
           classify/whole    the whole prompt for every text
           classify/cached   the instruction's KV stays, each text is appended to it and removed
           classify/batched  as cached, and as many texts in one llama_decode as fit --batch tokens,
                             each a sequence that shares the instruction's cells
With --plain, lines begin with plain/ and llama.cpp computes on the weights as the file has them: what
prebuilt packages, which have no AMX, do with Q4_1.

Classification may run over every k-th text by length (--sample), which keeps the skew; its figure
is texts a second over those.
"""

import argparse
import ctypes
import pathlib
import statistics
import sys
import time

import llama_cpp as ll
import numpy as np

SUFFIX = "\nAnswer:"
QUIET = ll.llama_log_callback(lambda level, text, data: None)


class Model:
    """A loaded model with one context."""

    packed_layouts = True

    def __init__(self, path, threads, n_ctx=4096, n_batch=2048, n_seq=1):
        params = ll.llama_model_default_params()
        params.use_extra_bufts = self.packed_layouts
        self.model = ll.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        params = ll.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_seq_max = n_ctx, n_batch, n_seq
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        self.context = ll.llama_init_from_model(self.model, params)
        self.memory = ll.llama_get_memory(self.context)
        self.vocab = ll.llama_model_get_vocab(self.model)
        self.n_vocab = ll.llama_vocab_n_tokens(self.vocab)
        self.batch = ll.llama_batch_init(n_batch, 0, 1)
        self.n_batch = n_batch

    def close(self):
        """Frees what the model holds."""
        ll.llama_batch_free(self.batch)
        ll.llama_free(self.context)
        ll.llama_model_free(self.model)

    def tokens(self, text):
        """The token ids of a text, without a BOS token; special tokens are plain text."""
        data = text.encode()
        ids = (ll.llama_token * (len(data) + 8))()
        n = ll.llama_tokenize(self.vocab, data, len(data), ids, len(ids), False, False)
        return list(ids[:n])

    def add(self, tokens, start, sequence, wants_logits):
        """Puts tokens at the end of the batch, as positions start… of a sequence."""
        b = self.batch
        for i, token in enumerate(tokens):
            j = b.n_tokens
            b.token[j], b.pos[j], b.n_seq_id[j] = token, start + i, 1
            b.seq_id[j][0] = sequence
            b.logits[j] = wants_logits and i == len(tokens) - 1
            b.n_tokens += 1

    def decode(self):
        """Runs the batch and empties it."""
        status = ll.llama_decode(self.context, self.batch)
        if status != 0:
            raise SystemExit(f"llama_decode: {status}")
        ll.llama_synchronize(self.context)
        self.batch.n_tokens = 0

    def clear(self):
        """Empties the context."""
        ll.llama_memory_clear(self.memory, True)

    def label_logits(self, i, labels):
        """The logits of the labels' first tokens at output i of the last batch."""
        row = ll.llama_get_logits_ith(self.context, i)
        return [row[label] for label in labels]


def seconds(work):
    """How long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def prefill(model, n_tokens, repeats):
    """Tokens a second of prefill, the median of several runs."""
    tokens = [(i * 7919) % (model.n_vocab - 100) + 50 for i in range(n_tokens)]

    def run():
        model.clear()
        model.add(tokens, 0, 0, True)
        model.decode()

    run()
    return n_tokens / statistics.median(seconds(run) for _ in range(repeats))


def decode(model, n_tokens, repeats):
    """Tokens a second of greedy decoding with one stream, the median of several runs."""
    rates = []
    for _ in range(repeats):
        model.clear()
        model.add(list(range(1000, 1016)), 0, 0, True)
        model.decode()
        start = time.perf_counter()
        for position in range(16, 16 + n_tokens):
            row = ll.llama_get_logits_ith(model.context, -1)
            logits = np.ctypeslib.as_array(row, (model.n_vocab,))
            model.add([int(logits.argmax())], position, 0, True)
            model.decode()
        rates.append(n_tokens / (time.perf_counter() - start))
    return statistics.median(rates)


def classify_alone(model, instruction, rows, labels, keep_prefix):
    """Texts a second, one llama_decode a text, with the instruction's KV kept or not."""
    start = time.perf_counter()
    n_kept = 0
    for row in rows:
        ll.llama_memory_seq_rm(model.memory, 0, n_kept, -1)
        if n_kept == 0:
            row = instruction + row
        model.add(row, n_kept, 0, True)
        model.decode()
        model.label_logits(-1, labels)
        n_kept = len(instruction) if keep_prefix else 0
    return len(rows) / (time.perf_counter() - start)


def classify_batched(model, instruction, rows, labels, n_seq):
    """Texts a second, many texts a llama_decode, each a sequence on the instruction's cells."""
    start = time.perf_counter()
    model.clear()
    model.add(instruction, 0, 0, False)
    model.batch.logits[model.batch.n_tokens - 1] = True
    model.decode()
    waiting, sequence, ends = list(rows), 1, []
    while waiting or ends:
        fits = waiting and model.batch.n_tokens + len(waiting[0]) <= model.n_batch
        if fits and sequence < n_seq:
            ll.llama_memory_seq_cp(model.memory, 0, sequence, 0, -1)
            model.add(waiting.pop(0), len(instruction), sequence, True)
            ends.append(model.batch.n_tokens - 1)
            sequence += 1
            continue
        model.decode()
        for end in ends:
            model.label_logits(end, labels)
        for used in range(1, sequence):
            ll.llama_memory_seq_rm(model.memory, used, -1, -1)
        sequence, ends = 1, []
    return len(rows) / (time.perf_counter() - start)


def requantise(source, target, name):
    """Writes another format of the same weights with llama.cpp's own quantiser."""
    if target.exists():
        return
    params = ll.llama_model_quantize_default_params()
    params.ftype = getattr(ll, f"LLAMA_FTYPE_MOSTLY_{name.upper()}")
    params.allow_requantize = True
    part = target.with_suffix(".part")
    status = ll.llama_model_quantize(str(source).encode(), str(part).encode(), ctypes.byref(params))
    if status != 0:
        raise SystemExit(f"llama.cpp cannot make {name} of {source}")
    part.rename(target)


def sample_by_length(texts, n):
    """Every k-th text by length, in the order of the file: a sample with the same skew."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    chosen = sorted(order[int((i + 0.5) * len(texts) / n)] for i in range(min(n, len(texts))))
    return [texts[i] for i in chosen]


def run_prefill(args, emit):
    """Prefill in the file's format and in every other."""
    paths = {"own": args.model}
    args.scratch.mkdir(parents=True, exist_ok=True)
    for name in filter(None, args.formats.split(",")):
        paths[name] = args.scratch / f"{args.model.stem}.{name}.gguf"
        requantise(args.model, paths[name], name)
    for name, path in paths.items():
        model = Model(path, args.threads)
        emit(f"prefill/{name}", prefill(model, args.prompt, args.repeats), "tok/s")
        model.close()


def run_decode(args, emit):
    """Decoding of one stream in the file's format."""
    model = Model(args.model, args.threads)
    emit("decode", decode(model, args.gen, args.repeats), "tok/s")
    model.close()


def run_classify(args, emit):
    """Classification in three ways."""
    n_seq = 64
    model = Model(args.model, args.threads, 4096 + args.batch, args.batch, n_seq)
    texts = sample_by_length(args.texts.read_text().splitlines(), args.sample)
    instruction = model.tokens(args.instruction.read_text().strip() + "\n\n")
    rows = [model.tokens(text + SUFFIX) for text in texts]
    labels = [model.tokens(" " + label)[0] for label in args.labels.split(",")]
    n_row_tokens = sum(map(len, rows))
    emit("classify/texts", len(rows), "texts")
    emit("classify/tokens", n_row_tokens + len(rows) * len(instruction), "tokens")
    prefill(model, 512, 1)
    model.clear()
    emit("classify/whole", classify_alone(model, instruction, rows, labels, False), "texts/s")
    model.clear()
    emit("classify/cached", classify_alone(model, instruction, rows, labels, True), "texts/s")
    emit("classify/batched", classify_batched(model, instruction, rows, labels, n_seq), "texts/s")
    model.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--work", choices=["prefill", "decode", "classify"], required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--gen", type=int, default=128)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--formats", default="q4_0,q8_0,bf16")
    parser.add_argument("--scratch", type=pathlib.Path, default=pathlib.Path("build/bench/models"))
    parser.add_argument("--texts", type=pathlib.Path)
    parser.add_argument("--instruction", type=pathlib.Path)
    parser.add_argument("--labels", default="billing,delivery,technical,other")
    parser.add_argument("--sample", type=int, default=100)
    parser.add_argument("--plain", action="store_true",
                        help="weights as in the file: no AMX and no repacked layouts")
    args = parser.parse_args()
    Model.packed_layouts = not args.plain
    ll.llama_log_set(QUIET, None)
    ll.llama_backend_init()

    def emit(work, figure, unit):
        print(f"{'plain/' if args.plain else ''}{work}\t{figure:.6g}\t{unit}", flush=True)

    print(f"# llama-cpp-python {ll.__version__}: {ll.llama_print_system_info().decode()}")
    {"prefill": run_prefill, "decode": run_decode, "classify": run_classify}[args.work](args, emit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
