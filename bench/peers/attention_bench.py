#!/usr/bin/env python3
"""The peers of bench_attention.cu: PyTorch's scaled_dot_product_attention by cuDNN and by
FlashAttention-2, on the same shapes. Packed batches are padded for them, as that is what they take.

    attention_bench.py
"""

import math
import statistics

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = (("cuDNN", SDPBackend.CUDNN_ATTENTION), ("Flash2", SDPBackend.FLASH_ATTENTION))


def median_us(call):
    """The median of 30 launches, by events."""
    times = []
    for i in range(35):
        before = torch.cuda.Event(enable_timing=True)
        after = torch.cuda.Event(enable_timing=True)
        before.record()
        call()
        after.record()
        after.synchronize()
        if i >= 5:
            times.append(before.elapsed_time(after) * 1e3)
    return statistics.median(times)


def bench(name, batch, n_new, n_slots, heads, kv_heads, dh, causal, pairs=None):
    """Times a padded batch; pairs: the visible pairs that count as work, where padding does not."""
    q = torch.randn(batch, heads, n_new, dh, device="cuda", dtype=torch.bfloat16)
    k = torch.randn(batch, kv_heads, n_slots, dh, device="cuda", dtype=torch.bfloat16)
    v = torch.randn_like(k)
    if pairs is None:
        pairs = batch * (n_new * (n_new + 1) / 2 if causal else n_new * n_slots)
    for backend, kind in BACKENDS:
        try:
            with sdpa_kernel(kind):
                us = median_us(lambda: torch.nn.functional.scaled_dot_product_attention(
                    q, k, v, is_causal=causal, enable_gqa=heads != kv_heads))
        except RuntimeError as error:
            print(f"{name:<34} {backend:<6} not available: {str(error).splitlines()[0][:60]}")
            continue
        print(f"{name:<34} {backend:<6} H {heads}/{kv_heads} Dh {dh}: {us:9.1f} us "
              f"{pairs * 4 * dh * heads / us * 1e-6:7.1f} TFLOP/s", flush=True)


def main():
    """The shapes of bench_attention.cu."""
    bench("causal 1 x 8192", 1, 8192, 8192, 16, 16, 128, True)
    bench("causal 1 x 8192", 1, 8192, 8192, 32, 8, 128, True)
    bench("causal 2 x 8192", 2, 8192, 8192, 32, 8, 128, True)
    bench("causal 1 x 8192", 1, 8192, 8192, 32, 8, 64, True)
    bench("causal 1 x 8192", 1, 8192, 8192, 16, 8, 256, True)
    bench("causal 8 x 1024", 8, 1024, 1024, 32, 8, 128, True)
    bench("causal 64 x 128", 64, 128, 128, 32, 8, 128, True)
    bench("causal 64 x 128", 64, 128, 128, 32, 32, 128, True)
    for n, median, longest in ((64, 128, 1861), (32, 160, 1459)):
        bench(f"skewed {n}, median {median}: padded to {longest}", n, longest, longest, 32, 8, 128,
              True)
    bench("encoder 256 x 60", 256, 60, 60, 12, 12, 32, False)
    bench("encoder 1 x 8192", 1, 8192, 8192, 16, 16, 128, False)
    bench("decode 64 behind 1023", 64, 1, 1024, 32, 8, 128, False)
    bench("decode 64 behind 4095", 64, 1, 4096, 32, 8, 128, False)
    bench("decode 1 behind 8191", 1, 1, 8192, 32, 8, 128, False)


if __name__ == "__main__":
    main()
