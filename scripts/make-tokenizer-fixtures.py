#!/usr/bin/env python3
"""Makes the reference data of test_tokenizer and test_chat, into test/data/tokenizer.

    make-tokenizer-fixtures.py [--models DIR] [--out DIR] [--show NAME TEXT]

Every id comes from the Python packages tokenizers and sentencepiece, every prompt from transformers:

NAME.json    a small tokenizer.json of each kind, trained here on the text below
NAME.gguf    the vocabulary of three of them as GGUF carries it
cases.json   texts, and for every tokenizer the hashes of the reference's ids: of hostile texts, of
             pairs under truncation, of what the ids decode to, and of thousands of random texts
             that the test makes from the same seeds; for the real models (where they are), too
chat.json    templates as models publish them, and the ids of prompts that transformers renders

Plain user text must not give special tokens. The reference does that with encode_special_tokens,
but its Unigram model still finds them in its vocabulary, so there the reference is a copy of the
tokenizer that has no texts for them.

--show prints the reference's tokens of one text of cases.json, to compare with a failed test.
"""

import argparse
import collections
import io
import json
import pathlib
import unicodedata

import gguf
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors, trainers)

WORDS = """the quick brown fox jumps over the lazy dog database query SELECT FROM where price > 100
naïve café résumé Straße 你好 世界 привет мир emoji 😀 👍🏽 don't can't I'm we've 3.14 2024-11-23 x86_64
HTTPServer camelCase 日本語 한국어 مرحبا नमस्ते λόγος""".split()

TRAIN = """The harbour town had grown up around a single long pier, and for two hundred years.
Nobody kept statistics in those days; but the church records tell the same story: more weddings!
SELECT name, price * 1.21 AS gross FROM items WHERE price > 100 ORDER BY name LIMIT 10;
"It's fine," she said. We've seen 12,345 of them — they'd sold 67 % by 2024. I'm sure you'll agree.
Die Straße ist naß, der Käufer über 18. Le café est déjà fermé à Noël. El niño comió piñas.
Привет, мир! Это простой текст на русском языке. Γειά σου Κόσμε, ο λόγος.
你好,世界。数据库查询很快。日本語のテキストです。한국어 문장입니다. مرحبا بالعالم नमस्ते दुनिया
def f(x):\n\treturn [i ** 2 for i in range(10)]\r\n{"a": [1, 2, {"b": null}], "c": "d"}
HTTPServer camelCase XMLHttpRequest snake_case_name 😀 👍🏽 👩‍👩‍👧 🏳️‍🌈 ﬁne ① ½ Ⅷ ｶﾞ
foo bar baz foo bar baz the the the and and and ing tion er est ness able""".split("\n")

HOSTILE = [
    "", "a", " ", "  ", " a", "a ", "\n", "\r\n", "a\r\nb\r\n\r\nc", "\t\tx \t y",
    "Hello, world!  I'm   fine'S 'LL 're 'Ve don't CAN'T 's'", "x\u00a0y\u00a0 z\u202f\u3000w\u2003",
    "👩‍👩‍👧‍👦 family 🏳️‍🌈 👍🏽🇩🇪🇫🇷", "e\u0301 n\u0303\u0301a\u0308\u0323 q\u0307\u0323 q\u0323\u0307",
    "12345678901234567890 3.14 ½ Ⅷ ٣٤٥ 1a2b", "<|im_start|>user\n<|im_end|><|endoftext|>x",
    "[CLS] a [SEP] [UNK][MASK] [PAD]", "<s>a</s> [INST] x [/INST] <0x41> <unk><pad><mask>",
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|><|eot_id|>",
    "<bos><start_of_turn>user<end_of_turn><|user|><|end|>", "日本語テキスト 中文 한국어ですか",
    "a\u200bb\u200dc\ufeffd\u2060e\u00adf", "nul\0byte\0\0", "\ud7ff\ue000\uffff\U00010000\U0010ffff",
    "ſ'ſ 'S \u212a\u0130ıIi", "ß ẞ Σς ΑΣ ὈΔΥΣΣΕΎΣ", "ﬁ ﬂ ﬃ ① ㍿ ｶﾞ ﾊﾟ ①\u0301 ﬁ\u0301", "....!!!???---___~~~",
    "   leading", "trailing   ", "a\n\n\n  \n b \n", "\u2028\u2029\x85\x0b\x0c\x1c\x1f\x7f\x80",
    "λόγος Привет мир שלום مرحبا हिन्दी ไทย", "camelCaseHTTPServer XMLHttpRequest ǅabc ʰaB",
    '{"a": [1, 2, {"b": null}]}', "for(int i=0;i<10;i++){\n\tx+=i;//\n}\r\n", "a/b//c\n/\n /x",
    "foo bar foo  bar xfoo bar foo barx <tag>x</tag> < tag >", "\u2581 \u2581\u2581a \u2581b",
    "i\u0307 I\u0307", "ААА\u0301\u0323", "각\u1100\u1161\u11a8 가\u11a8", "\u0915\u094d\u0937\u093f",
    "👨‍👩‍👧‍👦" * 8, "a\u0300\u0301\u0302\u0303\u0304\u0305\u0306\u0307\u0308\u0309" * 3,
    "x" * 99, "x" * 100, "x" * 101, "ﷺ ﷻ", "𝐇𝐞𝐥𝐥𝐨 Ｈｅｌｌｏ ℌ𝔢", "　全角　スペース　",
]

# Long runs: text, times. The hostile ones are where quadratic or cutting tokenizers show.
RUNS = [("a", 1 << 20), ("ab", 30000), (" ", 50000), ("\n", 50000), ("1", 50000), ("é", 20000),
        ("日", 20000), ("!", 50000), ("\u0301", 20000), ("a\u0301\u0323", 10000),
        ("\u0323\u0301", 20000), ("a ", 30000), ("👍🏽", 5000), ("'s", 20000), ("\u2581", 20000),
        ("<|im_start|>", 2000), ("<s>", 5000), ("\r\n", 20000), (" \n", 20000), ("A", 50000)]

PAIRS = [(10, 20, 512), (10, 20, 16), (33, 12, 12), (46, 47, 20), (0, 1, 8), (47, 0, 8), (11, 10, 9),
         (10, 33, 40)]

N_BLOCKS = 40
N_BLOCK_TEXTS = 200
BLOCKS = [(0x80, 0x24f), (0x250, 0x36f), (0x370, 0x52f), (0x530, 0x6ff), (0x700, 0x8ff),
          (0x900, 0xdff), (0xe00, 0x10ff), (0x1100, 0x13ff), (0x1400, 0x18ff), (0x1900, 0x1dff),
          (0x1e00, 0x1fff), (0x2000, 0x20ff), (0x2100, 0x24ff), (0x2500, 0x2bff), (0x2c00, 0x2fff),
          (0x3000, 0x33ff), (0x4e00, 0x50ff), (0xa000, 0xabff), (0xac00, 0xaeff), (0xf900, 0xfdff),
          (0xfe00, 0xffff), (0x10000, 0x10fff), (0x1d400, 0x1d7ff), (0x1f000, 0x1faff), (0x20000, 0x200ff)]


# --- which characters both sides know ------------------------------------------------------

def known_characters():
    """Characters whose properties the reference has as Unicode 14 does: parts of it are older."""
    clean = normalizers.BertNormalizer(True, False, False, False)
    bare = normalizers.BertNormalizer(False, False, True, False)
    marks = normalizers.StripAccents()
    lower = normalizers.Lowercase()
    punctuation = pre_tokenizers.BertPreTokenizer()
    letters = pre_tokenizers.Split(Regex("\\p{L}"), "isolated")
    numbers = pre_tokenizers.Split(Regex("\\p{N}"), "isolated")
    forms = [(f, getattr(normalizers, f)()) for f in ("NFC", "NFD", "NFKC", "NFKD")]

    def known(c, category):
        pieces = len(punctuation.pre_tokenize_str("a" + c + "b"))
        is_space = c.isspace() and not "\x1c" <= c <= "\x1f"
        is_punctuation = category[0] == "P" or c in "$+<=>^`|~"
        return ((clean.normalize_str(c) == "") == (category in ("Cc", "Cf", "Co") and c not in "\t\n\r"
                                                   or c in "\0\ufffd")
                and (bare.normalize_str("a" + c) == "a") == (category == "Mn")
                and (marks.normalize_str("a" + c) == "a") == (category[0] == "M")
                and pieces == (3 if is_punctuation else 2 if is_space else 1)
                and (len(letters.pre_tokenize_str("\x01" + c)) == 2) == (category[0] == "L")
                and (len(numbers.pre_tokenize_str("\x01" + c)) == 2) == (category[0] == "N")
                and lower.normalize_str(c) == c.lower()
                and all(n.normalize_str(c) == unicodedata.normalize(f, c) for f, n in forms))

    out = []
    for a, b in [(0, 0x7f)] + BLOCKS:
        for code in range(a, b + 1):
            c = chr(code)
            category = unicodedata.category(c)
            if category not in ("Cn", "Cs") and known(c, category):
                out.append(code)
    return out


def ranges_of(codes):
    """Sorted code points as a list of [first, last]."""
    out = []
    for c in codes:
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


# --- random texts, the same here and in test_tokenizer.c -----------------------------------

class Random:
    """splitmix64, as test_random in test.h."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        mask = (1 << 64) - 1
        self.state = (self.state + 0x9e3779b97f4a7c15) & mask
        z = self.state
        z = ((z ^ (z >> 30)) * 0xbf58476d1ce4e5b9) & mask
        z = ((z ^ (z >> 27)) * 0x94d049bb133111eb) & mask
        return (z ^ (z >> 31)) % n


MARKS = " \n\t'.,!-\r/"


def random_text(seed, ranges):
    """Words, marks, hostile texts and characters of any range, some with a space behind."""
    r = Random(seed)
    out = []
    for _ in range(1 + r.below(24)):
        kind = r.below(100)
        if kind < 35:
            out.append(WORDS[r.below(len(WORDS))])
        elif kind < 55:
            out.append(MARKS[r.below(len(MARKS))])
        elif kind < 62:
            out.append(HOSTILE[r.below(len(HOSTILE))])
        else:
            a, b = ranges[r.below(len(ranges))]
            out.extend(chr(a + r.below(b - a + 1)) for _ in range(1 + r.below(4)))
        if r.below(2):
            out.append(" ")
    return "".join(out)


def fnv(data, h=0xcbf29ce484222325):
    """FNV-1a of bytes."""
    for byte in data:
        h = ((h ^ byte) * 0x100000001b3) & ((1 << 64) - 1)
    return h


def hash_ids(ids, h=0xcbf29ce484222325):
    """FNV-1a over whole ids, in two's complement."""
    for i in ids:
        h = ((h ^ (i & 0xffffffff)) * 0x100000001b3) & ((1 << 64) - 1)
    return h


def word(h):
    """The 32 bits of a hash that are kept."""
    return f"{(h ^ h >> 32) & 0xffffffff:08x}"


# --- tokenizers ----------------------------------------------------------------------------

LLAMA3 = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
          "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
UPPER, LOWER = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]", "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
LEAD = "[^\\r\\n\\p{L}\\p{N}]?"
TEKKEN = (f"{LEAD}{UPPER}*{LOWER}+|{LEAD}{UPPER}+{LOWER}*|\\p{{N}}| ?[^\\s\\p{{L}}\\p{{N}}]+[\\r\\n/]*"
          "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
SUFFIX = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT4O = (f"{LEAD}{UPPER}*{LOWER}+{SUFFIX}|{LEAD}{UPPER}+{LOWER}*{SUFFIX}|\\p{{N}}{{1,3}}"
         "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def special(text, **options):
    """A special added token."""
    return AddedToken(text, special=True, normalized=False, **options)


def train_bpe(pre, specials, normalizer=None, post=None, size=520, **options):
    """Byte-level BPE."""
    t = Tokenizer(models.BPE(**options))
    t.normalizer = normalizer
    t.pre_tokenizer = pre
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=specials, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator(TRAIN, trainer)
    t.post_processor = post
    return t


def split_bytes(pattern):
    """A Split and ByteLevel, as Llama-3 and its kin have."""
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                    pre_tokenizers.ByteLevel(False, use_regex=False)])


def template(t, single, pair, *names):
    """TemplateProcessing with the ids of the tokens named."""
    return processors.TemplateProcessing(single, pair, [(n, t.token_to_id(n)) for n in names])


def byte_level_tokenizers():
    """Every family of byte-level BPE."""
    plain = pre_tokenizers.ByteLevel(False)
    out = {"gpt2": train_bpe(plain, ["<|endoftext|>"])}
    out["roberta"] = train_bpe(pre_tokenizers.ByteLevel(True),
                               ["<s>", "<pad>", "</s>", "<unk>", special("<mask>", lstrip=True)])
    out["roberta"].post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    out["smollm"] = train_bpe(pre_tokenizers.Sequence([pre_tokenizers.Digits(True), plain]), CHATML)
    out["llama3"] = t = train_bpe(
        split_bytes(LLAMA3), ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>",
                              "<|end_header_id|>", "<|eot_id|>"], ignore_merges=True)
    t.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False),
         template(t, "<|begin_of_text|> $A", "<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
                  "<|begin_of_text|>")])
    out["qwen2"] = t = train_bpe(split_bytes(QWEN2), CHATML, normalizers.NFC(),
                                 processors.ByteLevel(trim_offsets=False))
    t.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    out["tekken"] = train_bpe(split_bytes(TEKKEN), ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]",
                                                    "[/SYSTEM_PROMPT]"],
                              ignore_merges=True)
    out["gpt4o"] = train_bpe(split_bytes(GPT4O), ["<|endoftext|>", "<|end|>", "<|user|>",
                                                  "<|assistant|>", "<|system|>", "<|im_start|>",
                                                  "<|im_sep|>", "<|im_end|>"])
    out["modernbert"] = t = train_bpe(plain, ["[UNK]", "[CLS]", "[SEP]", "[PAD]",
                                              special("[MASK]", lstrip=True)], normalizers.NFC())
    t.add_tokens([AddedToken(" " * n, normalized=True) for n in (4, 3, 2)])
    t.post_processor = template(t, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", "[CLS]", "[SEP]")
    return out


def train_spm(kind, size, **options):
    """A SentencePiece model of the training text."""
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TRAIN * 4), model_writer=buffer, model_type=kind, vocab_size=size,
        hard_vocab_limit=False, minloglevel=2, **options)
    return sentencepiece.SentencePieceProcessor(model_proto=buffer.getvalue())


def spm_merges(sp):
    """The merges that make SentencePiece's pieces, as transformers derives them from scores."""
    vocab = {sp.id_to_piece(i): i for i in range(sp.vocab_size())}
    merges = []
    for piece, i in vocab.items():
        if sp.is_control(i) or sp.is_unknown(i) or sp.is_byte(i):
            continue
        local = [(piece[:k], piece[k:]) for k in range(1, len(piece))
                 if piece[:k] in vocab and piece[k:] in vocab]
        local.sort(key=lambda m: (vocab[m[0]], vocab[m[1]]))
        merges += [(m, sp.get_score(i)) for m in local]
    merges.sort(key=lambda m: -m[1])
    return vocab, [m for m, _ in merges]


LLAMA_DECODER = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]


def spm_tokenizers(sp):
    """SentencePiece BPE in three dresses: Llama-2's, Mistral's, Gemma's."""
    vocab, merges = spm_merges(sp)
    out = {}
    for name in ("llama2", "mistral", "gemma"):
        t = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        t.add_special_tokens([special("<unk>"), special("<s>"), special("</s>")])
        t.add_tokens([AddedToken("<tag>", normalized=False)])
        t.decoder = decoders.Sequence(LLAMA_DECODER + [decoders.Strip(" ", 1, 0)])
        t.post_processor = template(t, "<s> $A", "<s> $A <s>:1 $B:1", "<s>")
        out[name] = t
    out["llama2"].normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"),
                                                     normalizers.Replace(" ", "\u2581")])
    out["llama2"].add_special_tokens([special(x, rstrip=True) for x in ("<|system|>", "<|user|>", "<|assistant|>",
                                                                        "<|end|>")])
    out["mistral"].pre_tokenizer = pre_tokenizers.Metaspace("\u2581", "first", False)
    out["mistral"].add_special_tokens([special(x) for x in ("[INST]", "[/INST]", "[SYSTEM_PROMPT]",
                                                            "[/SYSTEM_PROMPT]")])
    out["gemma"].normalizer = normalizers.Replace(" ", "\u2581")
    out["gemma"].pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    out["gemma"].decoder = decoders.Sequence(LLAMA_DECODER)
    out["gemma"].add_special_tokens([special("<bos>"), special("<start_of_turn>"), special("<end_of_turn>")])
    return out


def charsmap_rules():
    """Rules of SentencePiece's own kind, few enough for a small file: a piece of NFKC, and spaces."""
    rules = {}
    for c in [*range(0xa0, 0x180), *range(0x2070, 0x2100), *range(0x2150, 0x2190), *range(0x2460, 0x2474),
              *range(0x3000, 0x3002), *range(0xfb00, 0xfb07), *range(0xff01, 0xff9f)]:
        to = unicodedata.normalize("NFKC", chr(c))
        if to != chr(c):
            rules[chr(c)] = to
    for c in "aeiounAEIOU":
        for mark in "\u0300\u0301\u0302\u0303\u0308":
            rules[c + mark] = unicodedata.normalize("NFC", c + mark)
    for c in "カキクケコ":
        rules[unicodedata.normalize("NFKC", c) + "\u3099"] = unicodedata.normalize("NFC", c + "\u3099")
    rules.update({c: " " for c in "\t\n\r\u00a0\u2003\u202f"})
    rules.update({c: "" for c in "\x01\x02\u200b\ufeff\u00ad"})
    return {a: b for a, b in rules.items() if a != b}


def rules_file(path):
    """The rules as the trainer reads them."""
    line = "{}\t{}\n".format
    path.write_text("".join(line(" ".join(f"{ord(c):x}" for c in a), " ".join(f"{ord(c):x}" for c in b))
                            for a, b in charsmap_rules().items()))
    return str(path)


def unigram_tokenizers(sp):
    """Unigram in XLM-R's newer and older dress, and with byte fallback."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(sp.serialized_model_proto())
    charsmap = proto.normalizer_spec.precompiled_charsmap
    vocab = [(p.piece, p.score) for p in proto.pieces]
    unk = sp.unk_id()
    specials = [special(x) for x in ("<s>", "</s>", "<unk>")]
    pair = "<s> $A </s> </s> $B </s>"
    out = {}
    for name in ("xlmr", "xlmr-old", "unigram-bytes", "unigram-trim"):
        extra = [(f"<0x{b:02X}>", 0.0) for b in range(256)] if name == "unigram-bytes" else []
        t = Tokenizer(models.Unigram(vocab + extra, unk, bool(extra)))
        t.add_special_tokens(specials + [special("<mask>", lstrip=True)] * (name != "unigram-trim"))
        t.post_processor = template(t, "<s> $A </s>", pair, "<s>", "</s>")
        t.decoder = decoders.Metaspace()
        t.pre_tokenizer = pre_tokenizers.Metaspace()
        out[name] = t
    squeeze = normalizers.Replace(Regex(" {2,}"), " ")
    out["xlmr"].normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap), squeeze])
    out["xlmr-old"].normalizer = normalizers.Precompiled(charsmap)
    out["xlmr-old"].pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(),
                                                             pre_tokenizers.Metaspace()])
    out["unigram-bytes"].normalizer = normalizers.NFKC()
    out["unigram-bytes"].decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    out["unigram-trim"].normalizer = normalizers.Sequence(
        [normalizers.Precompiled(charsmap), normalizers.Strip(), squeeze])
    return out, charsmap


def wordpiece_vocabulary(normalizer, pre, names, size):
    """The letters, then the pieces that cover most. The package's trainer differs from run to run."""
    counts = collections.Counter()
    for line in TRAIN:
        for word, _ in pre.pre_tokenize_str(normalizer.normalize_str(line)):
            counts.update((i > 0, word[i:k]) for i in range(len(word)) for k in range(i + 1, len(word) + 1))
    counts.update([(False, "\u2581"), (True, "\u2581")])  # GGUF writes its own mark that way
    letters = sorted(piece for piece in counts if len(piece[1]) == 1)
    longer = sorted((piece for piece in counts if len(piece[1]) > 1),
                    key=lambda piece: (-counts[piece] * len(piece[1]), piece))
    pieces = ["##" * inside + text for inside, text in letters + longer]
    return {piece: i for i, piece in enumerate(dict.fromkeys(names + pieces[:size]))}


def train_wordpiece(normalizer, pre, size=420):
    """WordPiece."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    t = Tokenizer(models.WordPiece(wordpiece_vocabulary(normalizer, pre, names, size), unk_token="[UNK]"))
    t.normalizer = normalizer
    t.pre_tokenizer = pre
    t.decoder = decoders.WordPiece()
    t.add_special_tokens([special(x) for x in names])
    t.post_processor = template(t, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", "[CLS]", "[SEP]")
    return t


def wordpiece_tokenizers():
    """BERT uncased and cased, and one with many other steps."""
    bert = pre_tokenizers.BertPreTokenizer()
    out = {"bert": train_wordpiece(normalizers.BertNormalizer(), bert),
           "bert-cased": train_wordpiece(normalizers.BertNormalizer(lowercase=False), bert)}
    out["bert-cased"].post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    out["steps"] = t = train_wordpiece(
        normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(),
                              normalizers.Replace("--", "-"), normalizers.Strip(True, False)]),
        pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.Digits(False),
                                 pre_tokenizers.WhitespaceSplit()]))
    t.add_tokens([AddedToken("foo bar", single_word=True, normalized=True),
                  AddedToken("<tag>", lstrip=True, rstrip=True, normalized=False),
                  AddedToken("can't", normalized=True), AddedToken("the", normalized=False),
                  AddedToken("the quick", single_word=True, normalized=False)])
    return out


def character_tokenizers():
    """BPE over characters that are not all known: dropped, unknown one by one, unknown in a row."""
    out = {}
    letters = collections.Counter(c for line in TRAIN[:5] for c in line if not c.isspace())
    alphabet = sorted(letters, key=lambda c: (-letters[c], c))[:50]  # the trainer takes any of equals
    for name, options in (("bpe-drop", {}), ("bpe-unk", {"unk_token": "<unk>"}),
                          ("bpe-fuse", {"unk_token": "<unk>", "fuse_unk": True})):
        t = Tokenizer(models.BPE(**options))
        t.pre_tokenizer = pre_tokenizers.Whitespace()
        t.decoder = decoders.Fuse()
        t.train_from_iterator(TRAIN[:5], trainers.BpeTrainer(vocab_size=160, special_tokens=["<unk>"],
                                                             limit_alphabet=50, initial_alphabet=alphabet,
                                                             show_progress=False))
        out[name] = t
    return out


# --- the reference -------------------------------------------------------------------------

class Reference:
    """What the reference makes of a text: plain, with special tokens, with its template."""

    def __init__(self, t):
        self.t = t
        self.plain = t
        data = json.loads(t.to_str())
        if data["model"]["type"] == "Unigram":
            for token in data["added_tokens"]:
                if token["id"] < len(data["model"]["vocab"]) and token["special"]:
                    data["model"]["vocab"][token["id"]][0] = f"\U000f0000{token['id']}\U000f0000"
            data["added_tokens"] = [x for x in data["added_tokens"] if not x["special"]]
            data["post_processor"] = None
            for b, piece in enumerate(data["model"]["vocab"]):
                if piece[0].startswith("<0x") and not data["model"]["byte_fallback"]:
                    piece[0] = f"\U000f0001{b}"
            self.plain = Tokenizer.from_str(json.dumps(data))

    def encode(self, text):
        self.plain.encode_special_tokens = True
        return self.plain.encode(text, add_special_tokens=False).ids

    def encode_special(self, text):
        self.t.encode_special_tokens = False
        return self.t.encode(text, add_special_tokens=False).ids

    def encode_template(self, text):
        self.t.encode_special_tokens = True
        return self.t.encode(text).ids

    def encode_pair(self, a, b, max_tokens):
        self.t.encode_special_tokens = True
        self.t.enable_truncation(max_tokens, strategy="longest_first")
        e = self.t.encode(a, b)
        self.t.no_truncation()
        return e.ids + e.type_ids

    def decode(self, ids):
        return self.t.decode(ids, skip_special_tokens=True)


class SpmReference:
    """SentencePiece itself, for GGUF's llama vocabularies."""

    def __init__(self, sp):
        self.sp = sp

    def encode(self, text):
        return self.sp.encode(text)

    def decode(self, ids):
        return self.sp.decode(ids)


class SpmPairReference(SpmReference):
    """The same for Unigram, with the other tokenizer's template around it: ids go in as words."""

    def __init__(self, sp, t):
        super().__init__(sp)
        self.other = t
        self.t = Tokenizer(models.WordLevel({str(i): i for i in range(sp.vocab_size())}))
        self.t.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        self.t.post_processor = t.post_processor

    def words(self, text):
        return " ".join(map(str, self.encode(text)))

    def decode(self, ids):
        return self.other.decode(ids, skip_special_tokens=True)

    def encode_template(self, text):
        return self.t.encode(self.words(text)).ids

    def encode_pair(self, a, b, max_tokens):
        self.t.enable_truncation(max_tokens, strategy="longest_first")
        e = self.t.encode(self.words(a), self.words(b))
        self.t.no_truncation()
        return e.ids + e.type_ids


def pairs_of(reference, texts):
    """Hashes of ids and types of the pairs; none where the reference has no template for pairs."""
    if not hasattr(reference, "encode_pair") or reference.t.post_processor is None:
        return []
    if reference.t.num_special_tokens_to_add(True) == 0:
        return []
    return [word(hash_ids(reference.encode_pair(texts[a], texts[b], n))) for a, b, n in PAIRS]


def cases_of(reference, texts, ranges, runs=True):
    """All hashes of a tokenizer."""
    plain = [reference.encode(t) for t in texts]
    out = {"plain": [word(hash_ids(i)) for i in plain],
           "decoded": [word(fnv(reference.decode(i).encode())) for i in plain]}
    if isinstance(reference, Reference):
        out["special"] = [word(hash_ids(reference.encode_special(t))) for t in texts]
    if hasattr(reference, "encode_template"):
        out["template"] = [word(hash_ids(reference.encode_template(t))) for t in texts[:12]]
    out["pairs"] = pairs_of(reference, texts)
    if runs:
        out["runs"] = [word(hash_ids(reference.encode(t * n))) for t, n in RUNS]
    out["random"] = []
    for block in range(N_BLOCKS):
        h = 0xcbf29ce484222325
        for i in range(N_BLOCK_TEXTS):
            h = hash_ids(reference.encode(random_text(block * N_BLOCK_TEXTS + i, ranges)) + [-1], h)
        out["random"].append(word(h))
    return out


# --- GGUF ----------------------------------------------------------------------------------

def write_gguf(path, model, tokens, types, scores=None, **values):
    """A GGUF file with nothing but a vocabulary."""
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_tokenizer_model(model)
    w.add_token_list(tokens)
    w.add_token_types(types)
    if scores is not None:
        w.add_token_scores(scores)
    for key, value in values.items():
        name = f"tokenizer.ggml.{key}"
        if isinstance(value, bool):
            w.add_bool(name, value)
        elif isinstance(value, int):
            w.add_uint32(name, value)
        else:
            w.add_array(name, value)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


def write_gguf_llama(path, sp):
    """SentencePiece BPE, by score."""
    def kind(i):
        return 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1
    ids = range(sp.vocab_size())
    write_gguf(path, "llama", [sp.id_to_piece(i) for i in ids], [kind(i) for i in ids],
               [sp.get_score(i) for i in ids], unknown_token_id=0, bos_token_id=1, eos_token_id=2,
               add_bos_token=True, add_eos_token=False, add_space_prefix=True)


def write_gguf_bert(path, t):
    """WordPiece, rewritten as converters do."""
    vocab = sorted(t.get_vocab().items(), key=lambda x: x[1])

    def rewrite(token):
        if token.startswith("[") and token.endswith("]"):
            return token
        return token[2:] if token.startswith("##") else "\u2581" + token
    special_ids = {t.token_to_id(x) for x in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")}
    write_gguf(path, "bert", [rewrite(x) for x, _ in vocab], [3 if i in special_ids else 1 for _, i in vocab],
               unknown_token_id=1, padding_token_id=0, cls_token_id=2, seperator_token_id=3, mask_token_id=4)


def write_gguf_unigram(path, t, charsmap):
    """Unigram with SentencePiece's map."""
    model = json.loads(t.to_str())["model"]
    special_ids = {0, 1, 2}
    write_gguf(path, "t5", [x for x, _ in model["vocab"]],
               [2 if i == model["unk_id"] else 3 if i in special_ids else 1 for i in range(len(model["vocab"]))],
               [s for _, s in model["vocab"]], unknown_token_id=model["unk_id"],
               bos_token_id=t.token_to_id("<s>"), eos_token_id=t.token_to_id("</s>"), add_bos_token=True,
               add_eos_token=True, add_space_prefix=True, remove_extra_whitespaces=True,
               precompiled_charsmap=list(charsmap))


def smollm2(path):
    """The reference of SmolLM2's vocabulary, which its GGUF file carries."""
    fields = gguf.GGUFReader(str(path)).fields
    tokens, types, merges = (fields["tokenizer.ggml." + k].contents() for k in ("tokens", "token_type", "merges"))
    t = Tokenizer(models.BPE({x: i for i, x in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges]))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)])
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([special(x) for x, k in zip(tokens, types) if k == 3])
    return t


# --- chat ----------------------------------------------------------------------------------

LOOP = "{% for message in messages %}"
END = "{% endfor %}"
CHATML_LOOP = ("{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}" + END +
               "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def default_system(text):
    """What chatml templates insert when there is no system turn."""
    return (LOOP + "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n" + text +
            "<|im_end|>\n' }}{% endif %}" + CHATML_LOOP)


LLAMA3_BODY = ("{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
               " + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
               "{% set content = bos_token + content %}{% endif %}{{ content }}" + END +
               "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")
LLAMA31 = ("{{- bos_token }}{%- set date_string = '26 Jul 2024' %}{%- if messages[0]['role'] == 'system' %}"
           "{%- set system_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}{%- else %}"
           "{%- set system_message = '' %}{%- endif %}{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}"
           "{{- 'Cutting Knowledge Date: December 2023\n' }}{{- 'Today Date: ' + date_string + '\n\n' }}"
           "{{- system_message }}{{- '<|eot_id|>' }}{%- for message in messages %}"
           "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim"
           " + '<|eot_id|>' }}{%- endfor %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}")
LLAMA2 = ("{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
          "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
          "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
          "{% if loop.index0 == 0 and system_message != false %}"
          "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}"
          "{% set content = message['content'] %}{% endif %}"
          "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% endfor %}")
GEMMA = ("{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}"
         "{%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}{%- set loop_messages = messages[1:] -%}"
         "{%- else -%}{%- set first_user_prefix = '' -%}{%- set loop_messages = messages -%}{%- endif -%}"
         "{%- for message in loop_messages -%}{{ '<start_of_turn>' + message['role'] + '\n'"
         " + (first_user_prefix if loop.first else '') }}{{ message['content'] | trim }}{{ '<end_of_turn>\n' }}"
         "{%- endfor -%}{{'<start_of_turn>model\n'}}")


def mistral(open_, close):
    """Mistral's templates differ in the spaces around [INST]."""
    return ("{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}"
            "{%- set messages = messages[1:] %}{%- endif %}{{- bos_token }}{%- for message in messages %}"
            "{%- if loop.last and system_message is defined %}{{- " + open_ +
            " + system_message + \"\\n\\n\" + message[\"content\"] + " + close + " }}{%- else %}{{- " + open_ +
            " + message[\"content\"] + " + close + " }}{%- endif %}{%- endfor %}")


PHI3 = ("{{ bos_token }}" + LOOP + "{{'<|' + message['role'] + '|>' + '\n' + message['content'] + '<|end|>\n'}}"
        + END + "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}")
PHI4_MINI = (LOOP + "{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}"
             "{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>'"
             " + '<|end|>' }}{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}"
             + END + "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}")
# The same dialect, written another way: only the marker of its tools tells.
PHI4_TOOLS = ("{%- for message in messages -%}{{- '<|' ~ message.role ~ '|>' -}}{{- message.content -}}"
              "{%- if message.tools -%}{{- '<|tool|>' ~ (message.tools | tojson) ~ '<|/tool|>' -}}{%- endif -%}"
              "{{- '<|end|>' -}}{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}")
PHI4 = (LOOP + "".join("{% if message['role'] == '" + role + "' %}{{'<|im_start|>" + role + "<|im_sep|>' + "
                       "message['content'] + '<|im_end|>'}}{% endif %}" for role in ("system", "user", "assistant"))
        + END + "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}")


def mistral7(space):
    """Mistral's later templates give the system text tokens of its own."""
    return ("{{ bos_token }}" + LOOP + "{% if message['role'] == 'user' %}{{ '[INST]" + space + "' + message['content']"
            " + '[/INST]' }}{% elif message['role'] == 'system' %}{{ '[SYSTEM_PROMPT]" + space +
            "' + message['content'] + '[/SYSTEM_PROMPT]' }}{% endif %}" + END)


TEMPLATES = [  # family, variant, tokenizer, begin token, template
    ("chatml", "smollm2", "smollm", None,
     default_system("You are a helpful AI assistant named SmolLM, trained by Hugging Face")),
    ("chatml", "qwen2.5", "qwen2", None,
     default_system("You are Qwen, created by Alibaba Cloud. You are a helpful assistant.")),
    ("chatml", "qwen2", "qwen2", None, default_system("You are a helpful assistant.")),
    ("chatml", "qwen3", "qwen2", None,
     LOOP + CHATML_LOOP + "{%- if enable_thinking is defined and enable_thinking is false %}"
     "{{- '<think>\n\n</think>\n\n' }}{%- endif %}"),
    ("chatml", "", "smollm", None, LOOP + CHATML_LOOP),
    ("chatml", "bos", "gpt4o", "<|endoftext|>", "{{bos_token}}" + LOOP + CHATML_LOOP),
    ("chatml", "phi4", "gpt4o", "<|endoftext|>", PHI4),
    ("llama3", "", "llama3", "<|begin_of_text|>", LOOP + LLAMA3_BODY),
    ("llama3", "llama3.1", "llama3", "<|begin_of_text|>", LLAMA31),
    ("gemma", "", "gemma", "<bos>", GEMMA),
    ("phi3", "phi4-mini", "gpt4o", None, PHI4_MINI), ("phi3", "phi4-mini", "gpt4o", None, PHI4_TOOLS),
    ("phi3", "bos", "llama2", "<s>", PHI3),
    ("phi3", "", "llama2", None, PHI3.replace("{{ bos_token }}", "")),
    ("llama2", "", "llama2", "<s>", LLAMA2),
    ("mistral", "v1", "llama2", "<s>", mistral('" [INST] "', '" [/INST]"')),
    ("mistral", "v1", "llama2", "<s>", mistral("' [INST] '", "' [/INST]'")),
    ("mistral", "v7", "tekken", "<s>", mistral7("")),
    ("mistral", "v7-spaced", "mistral", "<s>", mistral7(" ")),
    ("mistral", "v3", "mistral", "<s>", mistral('"[INST] "', '"[/INST]"')),
    ("mistral", "v3-tekken", "tekken", "<s>", mistral('"[INST]"', '"[/INST]"')),
    ("mistral", "v0", "llama2", "<s>",
     "{{ bos_token }}" + LOOP + "{{ '[INST] ' + message['content'] + ' [/INST]' }}" + END),
]
# system, prefix, input, suffix: cut where the reference has a boundary between tokens, too.
PROMPTS = [
    ["", "", "Hello", ""], ["Be brief.", "", "Hello there", ""], ["", "Text: ", "Hello", "\n\nAnswer:"],
    ["Be brief.", "Choose one.\n\nText: ", "12 tests", "\n\nCategory:"], [" Be kind. ", " Say: ", "Hello", "\n "],
    ["", "Read.\n\n", "Привет, мир", ""], ["You are a pirate", "", "don't", "\n\nCategory:"],
]


def chat_cases(tokenizers):
    """Prompts of every family, rendered by transformers."""
    import transformers
    out = []
    for family, variant, name, bos, text in TEMPLATES:
        t = Tokenizer.from_str(tokenizers[name].to_str())
        t.encode_special_tokens = False
        fast = transformers.PreTrainedTokenizerFast(tokenizer_object=t, bos_token=bos, chat_template=text)
        ids = []
        for system, prefix, given, suffix in PROMPTS:
            if variant == "v0":
                system = ""
            messages = [{"role": "system", "content": system}] if system else []
            messages.append({"role": "user", "content": prefix + given + suffix})
            rendered = fast.apply_chat_template(messages, tokenize=False, add_generation_prompt=True,
                                                enable_thinking=False)
            ids.append(t.encode(rendered, add_special_tokens=False).ids)
        out.append({"family": family, "variant": variant, "tokenizer": name, "bos": bos,
                    "template": text, "ids": ids})
    return {"prompts": PROMPTS, "cases": out}


# --- main ----------------------------------------------------------------------------------

def dump(path, value):
    """Compact JSON, one top-level member a line."""
    members = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'), ensure_ascii=False)}"
                         for k, v in value.items())
    path.write_text("{" + members + "}\n", encoding="utf-8")


def save(t, path):
    """tokenizer.json in one line."""
    path.write_text(json.dumps(json.loads(t.to_str()), ensure_ascii=False, separators=(",", ":")) + "\n",
                    encoding="utf-8")


def block_texts(codes):
    """A sample of every 128 characters that both sides know."""
    out = []
    for first in range(0, 0x20100, 0x80):
        block = [c for c in codes if first <= c < first + 0x80]
        if block:
            out.append("".join(chr(c) + (" " if c % 5 == 0 else "") for c in block[::3]))
    return ["".join(out[i:i + 3]) for i in range(0, len(out), 3)]


def make(models_folder, out):
    """Everything: returns the references by name, and the texts."""
    tokenizers = byte_level_tokenizers() | wordpiece_tokenizers() | character_tokenizers()
    sp_bpe = train_spm("bpe", 640, byte_fallback=True, normalization_rule_name="identity",
                       remove_extra_whitespaces=False, character_coverage=0.98)
    rules = rules_file(out / "rules.tsv")
    sp_unigram = train_spm("unigram", 300, normalization_rule_tsv=rules, unk_id=2, bos_id=0, eos_id=1,
                           character_coverage=0.98)
    pathlib.Path(rules).unlink()
    tokenizers |= spm_tokenizers(sp_bpe)
    unigrams, charsmap = unigram_tokenizers(sp_unigram)
    tokenizers |= unigrams
    for name, t in tokenizers.items():
        save(t, out / f"{name}.json")
    write_gguf_llama(out / "llama.gguf", sp_bpe)
    write_gguf_bert(out / "bert.gguf", tokenizers["bert"])
    write_gguf_unigram(out / "unigram.gguf", tokenizers["unigram-trim"], charsmap)
    references = {name + ".json": Reference(t) for name, t in tokenizers.items()}
    references["llama.gguf"] = SpmReference(sp_bpe)
    references["bert.gguf"] = references["bert.json"]
    references["unigram.gguf"] = SpmPairReference(sp_unigram, tokenizers["unigram-trim"])
    real = {}
    if (models_folder / "smollm2-135m.gguf").exists():
        real["smollm2-135m.gguf"] = Reference(smollm2(models_folder / "smollm2-135m.gguf"))
    if (models_folder / "minilm-l6").exists():
        t = Tokenizer.from_file(str(models_folder / "minilm-l6" / "tokenizer.json"))
        t.no_truncation()
        t.no_padding()
        real["minilm-l6"] = Reference(t)
    return tokenizers, references, real


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", type=pathlib.Path, default=pathlib.Path("models"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("test/data/tokenizer"))
    parser.add_argument("--show", nargs=2, metavar=("NAME", "TEXT"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizers, references, real = make(args.models, args.out)
    codes = known_characters()
    ranges = ranges_of(c for c in codes if c >= 0x80)
    texts = HOSTILE + block_texts(codes)
    if args.show:
        reference = (references | real)[args.show[0]]
        text = texts[int(args.show[1])]
        print(ascii(text), reference.encode(text), sep="\n")
        return
    dump(args.out / "cases.json",
         {"texts": texts, "runs": RUNS, "pairs": PAIRS, "words": WORDS, "marks": MARKS, "n_hostile": len(HOSTILE),
          "ranges": ranges, "n_block_texts": N_BLOCK_TEXTS,
          "fixtures": {n: cases_of(r, texts, ranges) for n, r in references.items()},
          "models": {n: cases_of(r, texts, ranges) for n, r in real.items()}})
    dump(args.out / "chat.json", chat_cases(tokenizers))


if __name__ == "__main__":
    main()
