#!/usr/bin/env python3
"""Makes the reference data of test_quant and test_weights, into test/data/weights.

    make-weights-fixtures.py [--models DIR] [--out DIR]

Everything comes from other people's readers and writers (the Python packages gguf and safetensors),
so that the engine's loaders are never compared with themselves:

quant-TYPE.bin   blocks of random bytes and their values: u32 type, u32 number of weights, bytes of
                 the blocks, then the weights as f32. Scales are finite: half of them ordinary, the
                 others any, subnormal and negative too. The dequantiser is gguf's, in numpy.
writer.gguf      a file by gguf's writer with a key of every type
writer.st        a file by safetensors' writer
real.tsv         for every tensor of the real models (where they are): model, name, type, shape and
                 the SHA-256 of its values as little-endian f32
"""

import argparse
import hashlib
import pathlib
import struct

import gguf
import numpy as np
import safetensors.numpy
from gguf import GGMLQuantizationType as T

BLOCKS = {  # type: weights and bytes of a block, places of its f16 scales
    T.F32: (1, 4, []), T.F16: (1, 2, [0]), T.BF16: (1, 2, []),
    T.Q4_0: (32, 18, [0]), T.Q4_1: (32, 20, [0, 2]), T.Q5_0: (32, 22, [0]),
    T.Q5_1: (32, 24, [0, 2]), T.Q8_0: (32, 34, [0]), T.Q4_K: (256, 144, [0, 2]),
    T.Q5_K: (256, 176, [0, 2]), T.Q6_K: (256, 210, [208]), T.IQ4_NL: (32, 18, [0]),
}
N_WEIGHTS = 2048


def dequantise(data, kind):
    """The values of stored bytes, by the gguf package."""
    if kind == T.F32:
        return data.view(np.float32)
    if kind == T.F16:
        return data.view(np.float16).astype(np.float32)
    return gguf.quants.dequantize(data, kind)


def random_blocks(rng, kind):
    """Random blocks whose scales, or whose elements where these are floats, are finite."""
    n_block, n_bytes, scales = BLOCKS[kind]
    blocks = rng.integers(0, 256, (N_WEIGHTS // n_block, n_bytes), dtype=np.uint8)
    if kind in (T.F32, T.BF16):
        values = rng.standard_normal(N_WEIGHTS).astype(np.float32)
        bits = values.view(np.uint32)
        return (bits if kind == T.F32 else (bits >> 16).astype(np.uint16)).view(np.uint8)
    for at in scales:
        bits = rng.integers(0, 0x10000, len(blocks), dtype=np.uint16)
        bits = np.where(bits & 0x7c00 == 0x7c00, bits & 0x83ff, bits)  # no infinity, no NaN
        usual = rng.normal(0, 0.02, len(blocks)).astype(np.float16).view(np.uint16)
        bits = np.where(np.arange(len(blocks)) % 2 == 0, usual, bits).astype("<u2")
        blocks[:, at:at + 2] = bits.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(-1)


def write_quant(out):
    """Writes one file of blocks and values a type."""
    rng = np.random.default_rng(20240509)
    for kind in BLOCKS:
        data = np.ascontiguousarray(random_blocks(rng, kind))
        values = dequantise(data, kind).reshape(-1).astype("<f4")
        assert len(values) == N_WEIGHTS and np.isfinite(values).all()
        (out / f"quant-{kind.name}.bin").write_bytes(
            struct.pack("<II", kind, len(values)) + data.tobytes() + values.tobytes())


def write_gguf(path):
    """Writes a GGUF file with a key of every type, arrays, and tensors of three types."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("test.u8", 200)
    writer.add_int8("test.i8", -100)
    writer.add_uint16("test.u16", 60000)
    writer.add_int16("test.i16", -30000)
    writer.add_uint32("test.u32", 4000000000)
    writer.add_int32("test.i32", -2000000000)
    writer.add_float32("test.f32", 0.1)
    writer.add_bool("test.bool", True)
    writer.add_string("test.string", "grüße\n")
    writer.add_uint64("test.u64", 2**64 - 1)
    writer.add_int64("test.i64", -2**63)
    writer.add_float64("test.f64", 0.1)
    writer.add_array("test.strings", ["", "a", "<|end|>", "日本"])
    writer.add_array("test.ints", [3, -1, 2**31 - 1])
    writer.add_array("test.floats", [0.5, -2.0])
    writer.add_array("test.bools", [True, False])
    values = np.arange(128, dtype=np.float32).reshape(2, 64) / 16
    writer.add_tensor("token_embd.weight", values)
    writer.add_tensor("half", values[0].astype(np.float16))
    writer.add_tensor("packed", gguf.quants.quantize(values, T.Q8_0), raw_dtype=T.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_safetensors(path):
    """Writes a safetensors file with an integer tensor between the weights."""
    values = np.arange(12, dtype=np.float32).reshape(3, 4) / 8
    safetensors.numpy.save_file(
        {"a.weight": values, "b.bias": values[0].astype(np.float16), "scalar": np.array(7.5, np.float32),
         "position_ids": np.arange(5, dtype=np.int64)}, path, {"format": "pt"})


def row(model, name, kind, shape, values):
    """One line of real.tsv."""
    digest = hashlib.sha256(np.ascontiguousarray(values, dtype="<f4").tobytes()).hexdigest()
    return "\t".join([model, name, kind, "x".join(map(str, shape)), digest])


def real_rows(models):
    """Reads the real models; one that is absent gives no rows."""
    smol = models / "smollm2-135m.gguf"
    if smol.exists():
        for t in gguf.GGUFReader(smol).tensors:
            data = np.ascontiguousarray(t.data)
            values = data if t.tensor_type == T.F32 else dequantise(data, t.tensor_type)
            yield row(smol.name, t.name, t.tensor_type.name, [int(n) for n in t.shape[::-1]], values)
    for path in sorted(models.glob("minilm-l6/**/model.safetensors")):
        with safetensors.safe_open(path, "np") as f:
            for name in f.keys():
                values = f.get_tensor(name)
                if values.dtype == np.float32:
                    yield row("minilm-l6", name, "F32", values.shape, values)


def main():
    """Writes all fixtures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="models", type=pathlib.Path)
    parser.add_argument("--out", default="test/data/weights", type=pathlib.Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    write_quant(args.out)
    write_gguf(args.out / "writer.gguf")
    write_safetensors(args.out / "writer.st")
    rows = list(real_rows(args.models))
    if rows:
        (args.out / "real.tsv").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
