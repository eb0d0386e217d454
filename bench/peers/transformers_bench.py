#!/usr/bin/env python3
"""transformers_bench.py: transformers on the works of bench_gpu.c, with random weights in bf16.

    transformers_bench.py [--model NAME]

Prints lines "work<TAB>figure<TAB>unit<TAB>detail" as bench_gpu does: the same shapes, the same lengths.
Batches are padded, as the library takes them; attention is PyTorch's own choice (sdpa), logits are made
of the last tokens alone, and labels take only their columns. A figure is the median of five runs after
two that warm up. Rows of embeddings go through the model, mean pooling and normalisation in the batch
size of several that is fastest.

padded, dense   prefill of the mix, and of 4 x 2,048 tokens, which is what padding costs nothing on
decode1, 64     steps behind 128 and 1,024 tokens, with the library's growing cache
mmlu-…          the prepacking paper's table: 512 questions in batches of 64, as they come or sorted
label           rows of 300 tokens; the library shares no prefix, so "shared" costs the same there
"""

import argparse
import math
import statistics
import sys
import time
import warnings

import torch
import transformers

# name: width, layers, heads, heads of keys, head, feed-forward, vocabulary, tied, family
SHAPES = {
    "llama-8b": (4096, 32, 32, 8, 128, 14336, 128256, False, "Llama"),
    "qwen2.5-1.5b": (1536, 28, 12, 2, 128, 8960, 151936, True, "Qwen2"),
    "llama-1.3b": (2048, 24, 16, 16, 128, 5504, 32000, False, "Llama"),
    "qwen3-0.6b": (1024, 28, 16, 8, 128, 3072, 151936, True, "Qwen3"),
    "minilm-l6": (384, 6, 12, 12, 32, 1536, 30522, True, "Bert"),
}
DEVICE = "cuda"
N_MIX, N_MMLU, MMLU_BATCH = 32, 512, 64
LABELS = (17, 1009, 5003, 29989)


def mix_lengths():
    """The lengths of the mix, as bench_gpu.c makes them."""
    normal = statistics.NormalDist()
    lengths = []
    for i in range(N_MIX):
        z = normal.inv_cdf(0.5 + (i // 2 + 0.5) / N_MIX)
        lengths.append(int(min(max(160 * math.exp(z if i % 2 == 0 else -z), 8), 4096)))
    lengths[N_MIX - 2] = 1020
    return lengths


def mmlu_lengths():
    """The lengths of the questions."""
    normal = statistics.NormalDist()
    z = [normal.inv_cdf((i * 197 % N_MMLU + 0.5) / N_MMLU) for i in range(N_MMLU)]
    return [int(48 * math.exp(0.9 * x)) for x in z]


def make_model(name):
    """A model of a shape with random weights on the card."""
    d, layers, heads, kv, head, ff, vocab, tied, family = SHAPES[name]
    settings = {"hidden_size": d, "num_hidden_layers": layers, "num_attention_heads": heads,
                "intermediate_size": ff, "vocab_size": vocab, "tie_word_embeddings": tied}
    if family == "Bert":
        config = transformers.BertConfig(**settings)
        maker = transformers.BertModel
    else:
        config = getattr(transformers, family + "Config")(
            **settings, num_key_value_heads=kv, head_dim=head, max_position_embeddings=8192)
        maker = getattr(transformers, family + "ForCausalLM")
    config._attn_implementation = "sdpa"
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(DEVICE):
        model = maker(config)
    torch.set_default_dtype(torch.float32)
    return model.eval()


def seconds(call, runs=5, warm=2):
    """The median seconds of a call, the card's work included."""
    times = []
    for i in range(runs + warm):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        if i >= warm:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def padded_batch(model, lengths):
    """Ids and mask of a batch, padded on the left as for generation."""
    longest = max(lengths)
    ids = torch.randint(0, model.config.vocab_size, (len(lengths), longest), device=DEVICE)
    keep = torch.tensor(lengths, device=DEVICE)[:, None]
    mask = (torch.arange(longest, device=DEVICE)[None] >= longest - keep).long()
    return ids, mask


def emit(name, work, figure, unit, detail):
    """One line."""
    print(f"{name}/{work}\t{figure:.6g}\t{unit}\t{detail}", flush=True)


def prefill(model, name, work, lengths, batch):
    """Prompts in padded batches; the logits of the last tokens."""
    total = 0.0
    computed = 0
    for first in range(0, len(lengths), batch):
        ids, mask = padded_batch(model, lengths[first:first + batch])
        computed += ids.numel()
        if int(mask.min()) == 1:
            mask = None
        total += seconds(lambda: model(ids, attention_mask=mask, logits_to_keep=1, use_cache=True))
    emit(name, work, sum(lengths) / total, "real tok/s",
         f"{sum(lengths)} real, {computed} computed, {total * 1e3:.2f} ms")


def decode(model, name, work, streams, past):
    """Steps of some streams with the cache of a prompt."""
    ids = torch.randint(0, model.config.vocab_size, (streams, past), device=DEVICE)
    cache = transformers.DynamicCache()
    out = model(ids, past_key_values=cache, logits_to_keep=1)

    def step():
        nonlocal out
        token = out.logits[:, -1].argmax(-1, keepdim=True)
        out = model(token, past_key_values=cache)

    time_step = seconds(lambda: [step() for _ in range(8)], 3, 1) / 8
    emit(name, work, streams / time_step, "tok/s",
         f"{streams} streams behind {past} tokens, {time_step * 1e3:.3f} ms a step")


def label(model, name, rows):
    """Rows of 300 tokens, four columns of the last token's logits."""
    ids = torch.randint(0, model.config.vocab_size, (rows, 300), device=DEVICE)
    columns = model.lm_head.weight[list(LABELS)]

    def score():
        last = model.model(ids, use_cache=False).last_hidden_state[:, -1]
        return (last @ columns.T).float().cpu()

    spent = seconds(score)
    emit(name, "label", rows / spent, "rows/s", f"{rows} rows of 300 tokens, {spent * 1e3:.2f} ms")


def embed(model, name):
    """Rows of 60 tokens in the fastest of some batch sizes."""
    best = None
    for rows in (32, 128, 512, 2048):
        ids = torch.randint(0, model.config.vocab_size, (rows, 60), device=DEVICE)
        mask = torch.ones_like(ids)

        def encode(ids=ids, mask=mask):
            hidden = model(ids, attention_mask=mask).last_hidden_state
            weight = mask[..., None].to(hidden.dtype)
            mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(mean, dim=1).float().cpu()

        rate = rows / seconds(encode)
        best = max(best or (rate, rows), (rate, rows))
    emit(name, "embed", best[0], "rows/s", f"batches of {best[1]} rows of 60 tokens, the best of four")


def copy_rate():
    """Bytes read and written by a copy on the card, of random numbers: what bandwidth there is."""
    a = torch.randint(0, 256, (1 << 32,), device=DEVICE, dtype=torch.uint8)
    b = torch.empty_like(a)
    spent = seconds(lambda: b.copy_(a))
    print(f"copy\t{2 * a.numel() / spent * 1e-12:.4g}\tTB/s\t4 GiB, read and written", flush=True)


def run(name):
    """All works of a shape."""
    start = time.perf_counter()
    model = make_model(name)
    print(f"{name}: made in {time.perf_counter() - start:.1f} s", file=sys.stderr)
    if name == "minilm-l6":
        embed(model, name)
        return
    if name == "llama-1.3b":
        lengths = mmlu_lengths()
        prefill(model, name, "mmlu-padded", lengths, MMLU_BATCH)
        prefill(model, name, "mmlu-sorted", sorted(lengths), MMLU_BATCH)
        return
    if name != "qwen3-0.6b":
        prefill(model, name, "padded", mix_lengths(), N_MIX)
        prefill(model, name, "dense", [2048] * 4, 4)
    if name == "qwen3-0.6b":
        label(model, name, 54)
    if name == "llama-8b":
        copy_rate()
        decode(model, name, "decode1", 1, 128)
        decode(model, name, "decode64", 64, 1024)


def main():
    """Runs the shapes that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", action="append", choices=SHAPES)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    print(f"# transformers {transformers.__version__}, torch {torch.__version__}, "
          f"{torch.cuda.get_device_name()}")
    for name in args.model or SHAPES:
        with torch.inference_mode():
            run(name)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
