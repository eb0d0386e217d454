#!/usr/bin/env python3
"""sentence_transformers_bench.py: sentence-transformers on the work of bench-llm.

    sentence_transformers_bench.py MODEL_FOLDER --texts FILE [--threads 2] [--batch 32]

Prints lines "work<TAB>figure<TAB>unit". The library is used as its documentation shows: encode over
all texts at once, which sorts them by length and pads each batch to its longest; vectors are
normalised. Texts are cut at the model's own limit (256 tokens for all-MiniLM-L6-v2), as is its
default; the number of tokens left is printed, so that the other side can show that it did as much.
"""

import argparse
import pathlib
import statistics
import sys
import time

import sentence_transformers
import torch


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--texts", type=pathlib.Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = sentence_transformers.SentenceTransformer(args.model, device="cpu")
    texts = args.texts.read_text().splitlines()
    n_tokens = sum(len(model.tokenizer(text, truncation=True, max_length=model.max_seq_length,
                                       padding=False)["input_ids"]) for text in texts)
    model.encode(texts[:64], batch_size=args.batch)

    def run():
        start = time.perf_counter()
        model.encode(texts, batch_size=args.batch, normalize_embeddings=True)
        return time.perf_counter() - start

    took = statistics.median(run() for _ in range(args.repeats))
    print(f"# sentence-transformers {sentence_transformers.__version__}, torch {torch.__version__}")
    print(f"embed/tokens\t{n_tokens}\ttokens")
    print(f"embed\t{len(texts) / took:.6g}\ttexts/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
