#!/usr/bin/env python3
"""make-model-fixtures.py: writes test/data/models: tiny models of every architecture with reference outputs.

For each architecture a model with random weights is made with transformers, small but with every feature on
(grouped heads, windows shorter than the texts, q/k norms, softcaps, biases, scaled RoPE, token types,
classifiers). Saved: the Hugging Face folder, a GGUF twin where the format knows the architecture (with the
conversions that llama.cpp's converter applies), and reference.bin: for a few token sequences the hidden state
after every layer and the final outputs, computed in float32, or float64 for the outputs.

reference.bin, little endian: u32 magic 0x46525050, n_sequences, n_layers, d, n_out, then for each sequence u32
length, i32 tokens[length], u32 types[length], f32 hidden[n_layers + 1][length][d] (after the embeddings, after
each layer), f32 out: decoders [length][n_vocab], encoders [n_out].

usage: scripts/make-model-fixtures.py [--out test/data/models] [--smollm2 FILE.gguf] [--minilm FOLDER] [name ...]
With --smollm2 it writes instead smollm2-greedy.json (greedy continuations by transformers on the dequantised
weights) and smollm2-english.json (ids and likelihood of english.txt), with --minilm minilm-embeddings.json
(vectors by sentence-transformers). Needs torch, transformers, accelerate, gguf, numpy, sentence-transformers.
Deterministic: the seed is the model's name.
"""
import argparse
import json
import pathlib
import shutil
import struct
import zlib

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

VOCAB = 112
D = 32
N_SEQ = (1, 7, 23)

BASE = dict(vocab_size=VOCAB, hidden_size=D, intermediate_size=40, num_hidden_layers=2,
            max_position_embeddings=64)
GQA = dict(num_attention_heads=4, num_key_value_heads=2)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32, rope_theta=10000.0)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, rope_theta=10000.0,
            beta_fast=4.0, beta_slow=1.0)
LONG = dict(rope_type="longrope", short_factor=[1.0, 1.1, 1.4], long_factor=[1.0, 2.0, 4.0],
            original_max_position_embeddings=32, rope_theta=10000.0, partial_rotary_factor=0.75)
BERT = dict(vocab_size=VOCAB, hidden_size=D, intermediate_size=40, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=64)

# name: (config class, model class, config, options)
MODELS = {
    "llama": ("LlamaConfig", "LlamaForCausalLM",
              dict(BASE, **GQA, rope_parameters=LLAMA3, tie_word_embeddings=True), dict(gguf="llama", dtype="float32")),
    "llama-bias": ("LlamaConfig", "LlamaForCausalLM",
                   dict(BASE, **GQA, attention_bias=True, mlp_bias=True, head_dim=16,
                        rope_parameters=dict(rope_type="linear", factor=2.0, rope_theta=5000.0)),
                   dict(gguf="llama", legacy_rope=True)),
    "mistral": ("MistralConfig", "MistralForCausalLM",
                dict(BASE, **GQA, sliding_window=6, head_dim=8,
                     rope_parameters=dict(rope_type="default", rope_theta=1e6)), dict()),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM",
              dict(BASE, **GQA, rope_parameters=YARN, use_sliding_window=True, sliding_window=5,
                   max_window_layers=1), dict()),
    "qwen2-yarn": ("Qwen2Config", "Qwen2ForCausalLM",
                   dict(BASE, **GQA, rope_parameters=YARN, tie_word_embeddings=True), dict(gguf="qwen2")),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", dict(BASE, **GQA, head_dim=16), dict(gguf="qwen3")),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM",
               dict(BASE, **GQA, head_dim=16, sliding_window=5, query_pre_attn_scalar=20,
                    attn_logit_softcapping=2.0, final_logit_softcapping=1.5), dict()),
    "gemma2-gguf": ("Gemma2Config", "Gemma2ForCausalLM",
                    dict(BASE, **GQA, head_dim=16, sliding_window=5, query_pre_attn_scalar=16,
                         attn_logit_softcapping=2.0, final_logit_softcapping=1.5), dict(gguf="gemma2")),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM",
               dict(BASE, **GQA, head_dim=8, sliding_window=5, query_pre_attn_scalar=8,
                    num_hidden_layers=6, intermediate_size=32,
                    rope_parameters=dict(full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
                                         sliding_attention=dict(rope_type="default", rope_theta=1e4))),
               dict(gguf="gemma3")),
    "phi3": ("Phi3Config", "Phi3ForCausalLM",
             dict(BASE, **GQA, rope_parameters=LONG, original_max_position_embeddings=32,
                  sliding_window=9, pad_token_id=0, bos_token_id=1, eos_token_id=2), dict(gguf="phi3")),
    "phi3-long": ("Phi3Config", "Phi3ForCausalLM",
                  dict(BASE, **GQA, rope_parameters=dict(LONG, original_max_position_embeddings=16),
                       original_max_position_embeddings=16, pad_token_id=0, bos_token_id=1, eos_token_id=2),
                  dict(gguf="phi3", lengths=(17, 40))),
    "qwen3-embed": ("Qwen3Config", "Qwen3Model", dict(BASE, **GQA, head_dim=16),
                    dict(gguf="qwen3", pooling="last", normalise=True)),
    "bert": ("BertConfig", "BertModel", dict(BERT), dict(gguf="bert", pooling="mean", normalise=True)),
    "bert-rerank": ("BertConfig", "BertForSequenceClassification", dict(BERT, num_labels=1), dict(gguf="bert")),
    "xlmr": ("XLMRobertaConfig", "XLMRobertaModel", dict(BERT, type_vocab_size=1, layer_norm_eps=1e-5),
             dict(pooling="cls", normalise=False)),
    "xlmr-rerank": ("XLMRobertaConfig", "XLMRobertaForSequenceClassification",
                    dict(BERT, type_vocab_size=1, layer_norm_eps=1e-5, num_labels=3), dict()),
    "modernbert": ("ModernBertConfig", "ModernBertModel",
                   dict(BERT, num_hidden_layers=4, local_attention=6, pad_token_id=0, bos_token_id=1,
                        eos_token_id=2, cls_token_id=1, sep_token_id=2), dict(pooling="cls", normalise=True)),
    "modernbert-rerank": ("ModernBertConfig", "ModernBertForSequenceClassification",
                          dict(BERT, num_hidden_layers=4, local_attention=6, num_labels=1, pad_token_id=0,
                               bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
                               classifier_pooling="mean"), dict()),
}


def byte_unicode():
    """The byte-level alphabet of GPT-2: printable bytes stand for themselves."""
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    return [chr(b) if b in keep else chr(256 + sum(1 for c in range(b) if c not in keep)) for b in range(256)]


def write_tokenizer(folder, encoder):
    """A tokenizer of exactly VOCAB tokens: byte-level BPE for decoders, WordPiece for encoders."""
    letters = [chr(c) for c in range(33, 127)]
    if encoder:
        words = (["[PAD]", "[CLS]", "[SEP]", "[UNK]"] + [c for c in "abcdefghijklmnopqrstuvwxyz0123456789"]
                 + ["##" + c for c in "abcdefghijklmnopqrstuvwxyz0123456789"] + list("!\"#$%&'()*+,-./:;<=>?@[]^_"))
        words = (words + [f"[unused{i}]" for i in range(VOCAB)])[:VOCAB]
        specials = words[:4]
        model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                 "max_input_chars_per_word": 100, "vocab": {w: i for i, w in enumerate(words)}}
        post = {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                           {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                         {"SpecialToken": {"id": "[SEP]", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}},
                         {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
                "special_tokens": {t: {"id": t, "ids": [words.index(t)], "tokens": [t]} for t in ("[CLS]", "[SEP]")}}
        norm = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                "lowercase": True}
        pre = {"type": "BertPreTokenizer"}
        dec = {"type": "WordPiece", "prefix": "##", "cleanup": True}
        merges = []
    else:
        space = byte_unicode()[32]
        words = ["<pad>", "<s>", "</s>"] + letters + [space, byte_unicode()[10]]
        merges = [(space, "t"), ("h", "e"), (space, "a"), ("i", "n"), ("o", "n"), ("e", "r"), (space + "t", "he")]
        words += [a + b for a, b in merges]
        words = (words + [f"<unused{i}>" for i in range(VOCAB)])[:VOCAB]
        specials = words[:3]
        model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                 "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                 "vocab": {w: i for i, w in enumerate(words)}, "merges": [list(m) for m in merges]}
        norm, post = None, None
        pre = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        dec = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    added = [{"id": words.index(t), "content": t, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for t in specials]
    json.dump({"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": norm,
               "pre_tokenizer": pre, "post_processor": post, "decoder": dec, "model": model},
              open(folder / "tokenizer.json", "w"), ensure_ascii=False, separators=(",", ":"))
    names = ({"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"} if encoder
             else {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"})
    json.dump(names, open(folder / "tokenizer_config.json", "w"))
    return words, merges, specials


def randomise(model, generator):
    """Weights far from their initial values, so that no norm is the identity and no bias is zero."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            scale = 1.0 / np.sqrt(p.shape[-1]) if p.dim() == 2 and "embed" not in name else 0.5
            noise = torch.randn(p.shape, generator=generator) * scale
            if p.dim() == 1 and "norm" in name.lower() and name.endswith("weight"):
                noise = noise * 0.4 + (0.0 if "gemma" in type(model).__name__.lower() else 1.0)
            p.copy_(noise)


def save_folder(model, folder, options):
    """The folder as Hugging Face lays it out: config.json, model.safetensors."""
    model.config.architectures = [type(model).__name__]
    dtype = getattr(torch, options.get("dtype", "bfloat16"))
    model.config.dtype = dtype
    config = json.loads(model.config.to_json_string())
    if options.get("legacy_rope"):
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        rope["type"] = rope.pop("rope_type")
        config["rope_scaling"] = rope
    json.dump(config, open(folder / "config.json", "w"), indent=1, sort_keys=True)
    tied = getattr(model.config, "tie_word_embeddings", False)
    tensors = {k: v.to(dtype).contiguous() for k, v in model.state_dict().items()
               if not (tied and k == "lm_head.weight")}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def save_pooling(folder, options):
    """modules.json and what it names, as sentence-transformers writes them."""
    kind = options["pooling"]
    modules = [("", "models.Transformer"), ("1_Pooling", "models.Pooling")]
    if options["normalise"]:
        modules.append(("2_Normalize", "models.Normalize"))
    json.dump([{"idx": i, "name": str(i), "path": p, "type": "sentence_transformers." + t}
               for i, (p, t) in enumerate(modules)], open(folder / "modules.json", "w"))
    (folder / "1_Pooling").mkdir()
    json.dump({"word_embedding_dimension": D, "pooling_mode_cls_token": kind == "cls",
               "pooling_mode_mean_tokens": kind == "mean", "pooling_mode_max_tokens": False,
               "pooling_mode_lasttoken": kind == "last", "pooling_mode_mean_sqrt_len_tokens": False},
              open(folder / "1_Pooling" / "config.json", "w"))


def hidden_states(model, ids, **kw):
    """The state after the embeddings and after every layer, before the final norm, by hooks on the layers."""
    base = model.base_model
    layers = base.encoder.layer if hasattr(base, "encoder") else base.layers
    states = []
    hooks = [layers[0].register_forward_pre_hook(lambda m, a, k: states.append(a[0] if a else k["hidden_states"]),
                                                 with_kwargs=True)]
    hooks += [l.register_forward_hook(lambda m, a, o: states.append(o[0] if isinstance(o, tuple) else o))
              for l in layers]
    out = model(input_ids=ids, **kw)
    for h in hooks:
        h.remove()
    return torch.stack([s.reshape(ids.shape[1], -1) for s in states]).float(), out


def pooled(out, options):
    """What sentence-transformers makes of the last hidden state of one text."""
    h = out.last_hidden_state[0]
    v = {"cls": h[0], "mean": h.mean(0), "last": h[-1]}[options["pooling"]]
    return v / v.norm().clamp(min=1e-12) if options["normalise"] else v


def write_reference(model, path, options, generator, decoder):
    """reference.bin, as the head of this file says. Computed in double: the reference's own error is no part."""
    model = model.double()
    config = model.config
    bert = config.model_type == "bert"
    sequences = []
    for n in options.get("lengths", N_SEQ):
        ids = torch.randint(3, VOCAB, (1, n), generator=generator)
        types = torch.randint(0, 2, (1, n), generator=generator) if bert else torch.zeros_like(ids)
        kw = dict(token_type_ids=types) if bert else {}
        with torch.no_grad():
            hidden, out = hidden_states(model, ids, **kw)
        final = out.logits[0] if hasattr(out, "logits") else pooled(out, options)
        sequences.append((ids[0], types[0], hidden, final.float()))
    n_out = VOCAB if decoder and "pooling" not in options else sequences[0][3].numel()
    with open(path, "wb") as f:
        f.write(struct.pack("<5I", 0x46525050, len(sequences), config.num_hidden_layers, D, n_out))
        for ids, types, hidden, final in sequences:
            f.write(struct.pack("<I", len(ids)))
            f.write(ids.numpy().astype("<i4").tobytes() + types.numpy().astype("<u4").tobytes())
            f.write(hidden.numpy().astype("<f4").tobytes() + final.numpy().astype("<f4").tobytes())


def permute(w, n_heads):
    """llama.cpp's reordering of q and k: rotated pairs become neighbours."""
    return w.reshape(n_heads, 2, w.shape[0] // n_heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


DECODER_NAMES = [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output"),
                 ("input_layernorm", "attn_norm"), ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"),
                 ("self_attn.v_proj", "attn_v"), ("self_attn.qkv_proj", "attn_qkv"),
                 ("self_attn.o_proj", "attn_output"), ("self_attn.q_norm", "attn_q_norm"),
                 ("self_attn.k_norm", "attn_k_norm"), ("mlp.gate_up_proj", "ffn_up"), ("mlp.gate_proj", "ffn_gate"),
                 ("mlp.up_proj", "ffn_up"), ("mlp.down_proj", "ffn_down"),
                 ("pre_feedforward_layernorm", "ffn_norm"), ("post_feedforward_layernorm", "post_ffw_norm"),
                 ("model.layers.", "blk.")]
BERT_NAMES = [("bert.", ""), ("embeddings.word_embeddings", "token_embd"),
              ("embeddings.position_embeddings", "position_embd"),
              ("embeddings.token_type_embeddings", "token_types"), ("embeddings.LayerNorm", "token_embd_norm"),
              ("encoder.layer.", "blk."), ("attention.self.query", "attn_q"), ("attention.self.key", "attn_k"),
              ("attention.self.value", "attn_v"), ("attention.output.dense", "attn_output"),
              ("attention.output.LayerNorm", "attn_output_norm"), ("intermediate.dense", "ffn_up"),
              ("output.LayerNorm", "layer_output_norm"), ("output.dense", "ffn_down"), ("pooler.dense", "cls"),
              ("classifier", "cls.output")]


def gguf_name(name, arch):
    """The GGUF name of a tensor of a state dict."""
    if arch == "qwen3" and not name.startswith(("model.", "lm_head")):
        name = "model." + name
    for a, b in BERT_NAMES if arch == "bert" else DECODER_NAMES:
        name = name.replace(a, b)
    after = "post_attention_norm" if arch.startswith("gemma") else "ffn_norm"
    return name.replace("post_attention_layernorm", after)


def gguf_metadata(w, model, arch, rerank, options):
    """The keys of the converter."""
    c = model.config
    w.add_block_count(c.num_hidden_layers)
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    if arch == "bert":
        w.add_layer_norm_eps(c.layer_norm_eps)
        w.add_causal_attention(False)
        w.add_pooling_type(gguf.PoolingType.RANK if rerank else gguf.PoolingType.MEAN)
        return
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    if "pooling" in options:
        w.add_pooling_type(gguf.PoolingType.LAST)
    head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    rope = c.rope_parameters.get("full_attention", c.rope_parameters)
    w.add_rope_freq_base(rope["rope_theta"])
    w.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
    if getattr(c, "sliding_window", None):
        w.add_sliding_window(c.sliding_window)
    if arch == "gemma2":
        w.add_attn_logit_softcapping(c.attn_logit_softcapping)
        w.add_final_logit_softcapping(c.final_logit_softcapping)
    if rope["rope_type"] in ("linear", "yarn"):
        w.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        w.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] in ("yarn", "longrope"):
        w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if rope["rope_type"] == "yarn":
        w.add_float32(f"{arch}.rope.scaling.yarn_beta_fast", rope["beta_fast"])
        w.add_float32(f"{arch}.rope.scaling.yarn_beta_slow", rope["beta_slow"])
    if rope["rope_type"] == "longrope":
        factor = c.max_position_embeddings / rope["original_max_position_embeddings"]
        w.add_rope_scaling_attn_factors(np.sqrt(1 + np.log(factor)
                                                / np.log(rope["original_max_position_embeddings"])))


def gguf_tokenizer(w, words, merges, specials, encoder):
    """The tokenizer's keys."""
    types = [gguf.TokenType.CONTROL if t in specials else gguf.TokenType.NORMAL for t in words]
    if encoder:
        words = [t if t in specials or t[0] == "[" else t[2:] if t.startswith("##") else "\u2581" + t for t in words]
        w.add_tokenizer_model("bert")
        w.add_pad_token_id(0)
        w.add_uint32("tokenizer.ggml.cls_token_id", 1)
        w.add_sep_token_id(2)
        w.add_unk_token_id(3)
        w.add_token_type_count(2)
    else:
        w.add_tokenizer_model("gpt2")
        w.add_tokenizer_pre("gpt-2")
        w.add_token_merges([" ".join(m) for m in merges])
        w.add_pad_token_id(0)
        w.add_bos_token_id(1)
        w.add_eos_token_id(2)
        w.add_add_bos_token(False)
    w.add_token_list(words)
    w.add_token_types(types)


def add_tensor(w, name, a, half):
    """Adds a tensor: matrices in bfloat16 (their values already are), vectors in float32, as converters do."""
    a = np.ascontiguousarray(a, dtype=np.float32)
    if half and a.ndim == 2:
        kind = gguf.GGMLQuantizationType.BF16
        w.add_tensor(name, gguf.quants.quantize(a, kind), raw_shape=None, raw_dtype=kind)
    else:
        w.add_tensor(name, a)


def save_gguf(model, path, arch, options, tokenizer):
    """The twin, with the conversions of llama.cpp's converter."""
    c = model.config
    rerank = type(model).__name__.endswith("Classification")
    w = gguf.GGUFWriter(path, arch)
    gguf_metadata(w, model, arch, rerank, options)
    gguf_tokenizer(w, *tokenizer, arch == "bert")
    for name, p in model.state_dict().items():
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        if "position_ids" in name or (arch == "bert" and not rerank and "pooler" in name):
            continue
        a = p.float().numpy()
        if arch == "llama" and ("q_proj" in name or "k_proj" in name):
            a = permute(a, c.num_attention_heads if "q_proj" in name else c.num_key_value_heads)
        if arch.startswith("gemma") and name.endswith("norm.weight"):
            a = a + 1
        add_tensor(w, gguf_name(name, arch), a, options.get("dtype", "bfloat16") == "bfloat16")
    rope = getattr(c, "rope_parameters", None) or {}
    if rope.get("rope_type") == "llama3":
        plain = rope["rope_theta"] ** (-np.arange(0, 8, 2) / 8)
        scaled = model.model.rotary_emb.inv_freq.double().numpy()
        w.add_tensor("rope_freqs.weight", (plain / scaled).astype(np.float32))
    if rope.get("rope_type") == "longrope":
        w.add_tensor("rope_factors_short.weight", np.array(rope["short_factor"], dtype=np.float32))
        w.add_tensor("rope_factors_long.weight", np.array(rope["long_factor"], dtype=np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def make(name, out):
    """One model, everything about it."""
    config_class, model_class, settings, options = MODELS[name]
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    config = getattr(transformers, config_class)(**settings)
    config._attn_implementation = "eager"
    model = getattr(transformers, model_class)(config).eval()
    randomise(model, generator)
    for p in model.parameters():  # not model.to(): frequencies are buffers, and stay exact
        p.data = p.data.to(getattr(torch, options.get("dtype", "bfloat16"))).float()
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    decoder = model_class.endswith("CausalLM") or model_class.startswith("Qwen3")
    tokenizer = write_tokenizer(folder, not decoder)
    save_folder(model, folder, options)
    if "pooling" in options:
        save_pooling(folder, options)
    if "gguf" in options:
        save_gguf(model, folder / "model.gguf", options["gguf"], options, tokenizer)
    write_reference(model, folder / "reference.bin", options, generator, decoder)
    print(name, sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()), "bytes")


def make_greedy(path, out):
    """smollm2-greedy.json: prompts, their ids, 64 greedy tokens each."""
    path = pathlib.Path(path).resolve()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name,
                                                              dtype=torch.float32).eval()
    prompts = json.load(open(out / "smollm2-prompts.json"))
    rows = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
        tokens, margin = [], float("inf")
        cache = transformers.DynamicCache()
        step = ids
        with torch.no_grad():
            for _ in range(64):
                logits = model(input_ids=step, past_key_values=cache).logits[0, -1]
                top = torch.topk(logits, 2)
                margin = min(margin, (top.values[0] - top.values[1]).item())
                tokens.append(top.indices[0].item())
                step = top.indices[:1].reshape(1, 1)
        rows.append({"prompt": prompt, "ids": ids[0].tolist(), "tokens": tokens, "margin": round(margin, 5)})
        print(prompt[:40], "margin", round(margin, 5))
    with open(out / "smollm2-greedy.json", "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(r) for r in rows) + "\n]\n")


def make_perplexity(path, out):
    """smollm2-english.json: the ids of english.txt and the reference's mean negative log-likelihood."""
    path = pathlib.Path(path).resolve()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name,
                                                              dtype=torch.float32).eval()
    ids = tokenizer((out / "english.txt").read_text(), return_tensors="pt").input_ids
    with torch.no_grad():
        nll = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1].double(), ids[0, 1:]).item()
    with open(out / "smollm2-english.json", "w") as f:
        json.dump({"nll": nll, "ids": ids[0].tolist()}, f, separators=(",", ":"))
    print("english.txt", ids.shape[1], "tokens, perplexity", np.exp(nll))


def make_minilm(path, out):
    """minilm-embeddings.json: texts, their ids, their vectors by sentence-transformers."""
    from sentence_transformers import SentenceTransformer
    model = SentenceTransformer(path, device="cpu")
    texts = json.load(open(out / "minilm-texts.json"))
    rows = []
    for text in texts:
        v = model.encode(text, normalize_embeddings=False)
        ids = model.tokenizer(text, truncation=True, max_length=model.max_seq_length).input_ids
        rows.append({"text": text, "ids": ids, "embedding": [round(float(x), 7) for x in v]})
    with open(out / "minilm-embeddings.json", "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows) + "\n]\n")


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("test/data/models"))
    parser.add_argument("--smollm2", help="SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--minilm", help="the folder of all-MiniLM-L6-v2")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    for name in args.names or ([] if args.smollm2 or args.minilm else MODELS):
        make(name, args.out)
    if args.smollm2:
        make_greedy(args.smollm2, args.out)
        make_perplexity(args.smollm2, args.out)
    if args.minilm:
        make_minilm(args.minilm, args.out)


if __name__ == "__main__":
    main()
