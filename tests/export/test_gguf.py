from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from gptcli.bases.base import Base, LazyWeights
from gptcli.bpe import BpeTokenizer, train_bpe
from gptcli.config import ModelConfig, SampleConfig
from gptcli.errors import ExportError
from gptcli.export.card import Card, make_card
from gptcli.export.exporting import export
from gptcli.export.gguf import check_gguf, write_gguf
from gptcli.export.gguf_tokens import QWEN_REGEX, encode_with, gguf_tokens
from gptcli.interchange import to_transformers
from gptcli.model import GPT
from gptcli.pretrained_tokenizer import PretrainedTokenizer
from gptcli.tokenizer import Tokenizer, char_tokenizer
from gptcli.vocabulary import Ids

TEXT = (
    "It's 1914, and I'LL wait: we've 12345 of them --  naïve cafés!\r\n\n\n\tdef f(x):\n        return x\n\n  \n" * 20
)
BPE = train_bpe([TEXT], 300)
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"family": "gpt2", "bias": True},
    "gpt2 without bias": {"family": "gpt2", "n_inner": 20},
    "modern": {"n_kv_head": 2, "head_dim": 6, "rope_theta": 5e4, "norm_eps": 1e-5},
    "modern untied": {"tie_embeddings": False},
}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
NUMBERS = {"type": "Split", "pattern": {"Regex": r"\d+"}, "behavior": "Isolated", "invert": False}
DIGITS = {"type": "Digits", "individual_digits": True}
NUMPY = {"float32": np.float32, "float16": np.float16}


def random_base(shape: str = "modern", tokenizer: Tokenizer = BPE, **how: Any) -> Base:  # noqa: ANN401 - keys of ModelConfig
    """A model whose weights, norms and biases included, are all drawn at random."""
    settings = {"n_layer": 2, "n_head": 4, "n_embd": 16, "block_size": 24, **SHAPES[shape], **how}
    config = ModelConfig(vocab_size=tokenizer.vocab_size, **settings)
    generator = torch.Generator().manual_seed(7)
    weights = {
        name: torch.randn(tensor.shape, generator=generator) for name, tensor in GPT(config).state_dict().items()
    }
    return Base("tiny", "run", config, tokenizer, weights, {"corpus": "a-corpus"})


def write(base: Base, folder: Path, dtype: str = "float32") -> gguf.GGUFReader:
    folder.mkdir()
    write_gguf(base, folder, dtype, make_card(base, None, dtype))
    return gguf.GGUFReader(folder / "tiny.gguf")


def fields(reader: gguf.GGUFReader) -> dict[str, Any]:
    return {key: field.contents() for key, field in reader.fields.items()}


def qwen(**changes: Any) -> PretrainedTokenizer:  # noqa: ANN401 - keys of a tokenizer.json
    """A tokenizer of Qwen3's kind with a gap among its ids, special tokens, a word and whitespace as added tokens."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_REGEX), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learner.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    )
    value = json.loads(learner.to_str())
    marks = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    size = len(value["model"]["vocab"])
    value["added_tokens"] = [
        {"id": size, "content": "        ", "special": False, **marks},
        {"id": size + 1, "content": "<|endoftext|>", "special": True, **marks},
        {"id": size + 2, "content": "<|im_end|>", "special": True, **marks},
        {"id": size + 4, "content": "<think>", "special": False, **marks},
    ]
    value["normalizer"] = {"type": "NFC"}
    model = {**value["model"], **changes.pop("model", {})}
    return PretrainedTokenizer({**value, "model": model, **changes}, size + 1)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_tensors_stand_under_the_names_and_in_the_layout_of_llama_cpps_own_converter(
    shape: str, dtype: str, tmp_path: Path
) -> None:
    base = random_base(shape)
    found = {tensor.name: tensor for tensor in write(base, tmp_path / "out", dtype).tensors}

    # The package's own table from transformers' names, whose layout the converter of llama.cpp keeps.
    kind = gguf.MODEL_ARCH.GPT2 if base.config.family == "gpt2" else gguf.MODEL_ARCH.QWEN3
    names = gguf.get_tensor_name_map(kind, base.config.n_layer)
    expected = to_transformers(dict(base.weights), base.config)
    assert len(found) == len(expected)
    for their_name, tensor in expected.items():
        there = found[names.get_name(their_name, try_suffixes=(".weight", ".bias")) or their_name]
        conv1d = base.config.family == "gpt2" and ".h." in their_name and tensor.dim() == 2
        tensor = tensor.t() if conv1d else tensor
        assert there.shape.tolist() == list(tensor.shape)[::-1]
        if tensor.dim() == 1 or there.name == "position_embd.weight":
            assert there.tensor_type == gguf.GGMLQuantizationType.F32
            assert np.array_equal(there.data, tensor.numpy())
        elif dtype == "bfloat16":
            assert there.tensor_type == gguf.GGMLQuantizationType.BF16
            bits = torch.from_numpy(there.data.copy().view(np.int16)).view(torch.bfloat16)
            assert torch.equal(bits, tensor.to(torch.bfloat16))
        else:
            assert there.data.dtype == NUMPY[dtype]
            assert np.array_equal(there.data, tensor.numpy().astype(NUMPY[dtype]))


def test_gpt2_without_biases_gets_zeros(tmp_path: Path) -> None:
    tensors = write(random_base("gpt2 without bias"), tmp_path / "out").tensors
    biases = [tensor for tensor in tensors if tensor.name.endswith(".bias")]
    assert len(biases) == 2 * 6 + 1
    assert not any(tensor.data.any() for tensor in biases)


def test_metadata_of_a_modern_model(tmp_path: Path) -> None:
    found = fields(write(random_base(), tmp_path / "out", "float16"))
    assert found["general.architecture"] == "qwen3"
    assert found["general.file_type"] == gguf.LlamaFileType.MOSTLY_F16
    assert {key: value for key, value in found.items() if key.startswith("qwen3.")} == {
        "qwen3.context_length": 24,
        "qwen3.embedding_length": 16,
        "qwen3.block_count": 2,
        "qwen3.feed_forward_length": 48,
        "qwen3.vocab_size": 300,
        "qwen3.attention.head_count": 4,
        "qwen3.attention.head_count_kv": 2,
        "qwen3.attention.key_length": 6,
        "qwen3.attention.value_length": 6,
        "qwen3.attention.layer_norm_rms_epsilon": np.float32(1e-5),
        "qwen3.rope.dimension_count": 6,
        "qwen3.rope.freq_base": 5e4,
    }


def test_metadata_of_a_gpt2_model(tmp_path: Path) -> None:
    found = fields(write(random_base("gpt2 without bias"), tmp_path / "out", "bfloat16"))
    assert found["general.architecture"] == "gpt2"
    assert found["general.file_type"] == gguf.LlamaFileType.MOSTLY_BF16
    assert {key: value for key, value in found.items() if key.startswith("gpt2.")} == {
        "gpt2.context_length": 24,
        "gpt2.embedding_length": 16,
        "gpt2.block_count": 2,
        "gpt2.feed_forward_length": 20,
        "gpt2.vocab_size": 300,
        "gpt2.attention.head_count": 4,
        "gpt2.attention.head_count_kv": 4,
        "gpt2.attention.layer_norm_epsilon": np.float32(1e-5),
    }


def test_tokenizer_of_a_bpe(tmp_path: Path) -> None:
    found = fields(write(random_base(), tmp_path / "out"))
    tokens, end = found["tokenizer.ggml.tokens"], BPE.end_of_text
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert tokens[end] == "<|endoftext|>"
    assert found["tokenizer.ggml.token_type"] == [gguf.TokenType.NORMAL] * 299 + [gguf.TokenType.CONTROL]
    assert (found["tokenizer.ggml.bos_token_id"], found["tokenizer.ggml.eos_token_id"]) == (end, end)
    assert (found["tokenizer.ggml.add_bos_token"], found["tokenizer.ggml.add_eos_token"]) == (False, False)
    assert tokens[BPE.encode("\n")[0]] == "Ċ"
    assert "Ġ Ġ" in found["tokenizer.ggml.merges"]
    assert {merge.replace(" ", "") for merge in found["tokenizer.ggml.merges"]} <= set(tokens)
    assert "tokenizer.chat_template" not in found


def test_who_made_it_and_of_what_is_in_the_file(tmp_path: Path) -> None:
    base = random_base()
    (tmp_path / "out").mkdir()
    lines = ("* Corpus: a\\-corpus, 3 documents.", "* Source: <https://example.org/a_b>, 5 &lt; 6.")
    card = Card("tiny", {"license": "cc0-1.0"}, "A GPT.", (("What it was trained on", lines),), SampleConfig())
    write_gguf(base, tmp_path / "out", "float32", card)
    found = fields(gguf.GGUFReader(tmp_path / "out" / "tiny.gguf"))
    assert (found["general.name"], found["general.license"]) == ("tiny", "cc0-1.0")
    assert found["general.description"].splitlines() == [
        "A GPT.",
        "What it was trained on:",
        "* Corpus: a-corpus, 3 documents.",
        "* Source: <https://example.org/a_b>, 5 < 6.",
    ]
    assert (found["general.dataset.count"], found["general.dataset.0.name"]) == (1, "a-corpus")


def test_chat_template_goes_along(base: Base, tmp_path: Path) -> None:
    template = fields(write(base, tmp_path / "out"))["tokenizer.chat_template"]
    assert "'Assistant:'" in template
    readme = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "llama-cli -m tiny.gguf -c 48 --temp 0.8 --top-k 0 --top-p 1 --min-p 0 --jinja" in readme
    assert "Some versions of Ollama cut prompts into words as Qwen's models do" in readme


@pytest.mark.parametrize("kind", ["bpe", "gpt2"])
def test_export_is_a_folder_of_three_files_and_says_what_was_equal(
    kind: str, tokenizers: dict[str, Tokenizer], tmp_path: Path
) -> None:
    base = random_base("gpt2", tokenizers[kind])
    result = export(base, "gguf", tmp_path / "out", dtype="float16")
    assert result.files == ("Modelfile", "README.md", "tiny.gguf")
    assert f"gpt2 with all 22 settings, {base.tokenizer.vocab_size:,} tokens" in result.checks[0]
    assert f"Its 28 tensors hold {sum(w.numel() for w in base.weights.values()):,} numbers" in result.checks[1]
    assert "as the model's tokenizer" in result.checks[2]
    assert "FROM ./tiny.gguf" in (tmp_path / "out" / "Modelfile").read_text("utf-8")
    assert "llama-completion -m tiny.gguf -c 24 --temp 0.8 --top-k 0 --top-p 1 --min-p 0 -n 12 -no-cnv -p" in (
        tmp_path / "out" / "README.md"
    ).read_text("utf-8")


def test_each_weight_is_read_once_and_none_is_kept(tmp_path: Path) -> None:
    base = random_base()
    asked: Counter[str] = Counter()

    def maker(name: str) -> Callable[[], Tensor]:
        def make() -> Tensor:
            asked[name] += 1
            return base.weights[name]

        return make

    card = make_card(base, None, "float32")
    lazy = dataclasses.replace(base, weights=LazyWeights({name: maker(name) for name in base.weights}))
    (tmp_path / "out").mkdir()
    write_gguf(lazy, tmp_path / "out", "float32", card)
    assert asked == Counter(base.weights.keys())


def test_model_of_the_exact_gelu_is_told_how_much_llama_cpp_moves_it(tmp_path: Path) -> None:
    base = random_base("gpt2", gelu="exact")
    write(base, tmp_path / "out")
    told = check_gguf(base, tmp_path / "out", "float32")[-1]
    assert "computes it exactly: that moves its logits by up to 0.00" in told


def test_pretrained_tokenizer_keeps_its_kinds_of_tokens() -> None:
    tokenizer = qwen()
    tokens = gguf_tokens(tokenizer)
    assert tokens.pre == "qwen2"
    assert list(zip(tokens.texts, tokens.types, strict=True))[-5:] == [
        ("        ", gguf.TokenType.USER_DEFINED),
        ("<|endoftext|>", gguf.TokenType.CONTROL),
        ("<|im_end|>", gguf.TokenType.CONTROL),
        (f"[PAD{len(tokens.texts) - 2}]", gguf.TokenType.UNUSED),
        ("<think>", gguf.TokenType.NORMAL),  # no text becomes it, but its text comes out
    ]
    assert tokens.end_of_text == tokenizer.end_of_text


def test_pattern_of_gpt2_is_known_in_a_pretrained_tokenizer() -> None:
    assert gguf_tokens(qwen(pre_tokenizer={**BYTES, "use_regex": True}, normalizer=None)).pre == "gpt-2"


@pytest.mark.parametrize("name", ["bpe", "gpt2", "qwen"])
def test_what_the_file_says_of_the_tokenizer_gives_the_same_ids(
    name: str, tokenizers: dict[str, Tokenizer], real_texts: list[str]
) -> None:
    tokenizer = qwen() if name == "qwen" else tokenizers[name]
    tokens = gguf_tokens(tokenizer)
    for text in (real_texts[1][:30_000], TEXT):
        ids = encode_with(tokens.texts, tokens.types, tokens.merges, tokens.pre, text)
        assert ids == tokenizer.encode(text).tolist()


def test_vocabulary_of_single_bytes_has_a_merge_that_no_text_has() -> None:
    tokens = gguf_tokens(train_bpe(["abc"], 257))
    assert tokens.merges == ["<|endoftext|> <|endoftext|>"]
    assert encode_with(tokens.texts, tokens.types, tokens.merges, tokens.pre, "aa\n")[0] == tokens.texts.index("a")


def test_char_tokenizer_is_refused_with_both_ways_round() -> None:
    with pytest.raises(ExportError, match="knows none") as error:
        gguf_tokens(char_tokenizer(["abc"], end_of_text=True))
    assert "--set data.tokenizer=bpe:512" in error.value.hint
    assert "--format hf" in error.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": {"type": "NFKC"}}, r"normalises text \(NFKC\)"),
        ({"model": {"ignore_merges": True}}, "whole words before merges"),
        (
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [DIGITS, {**BYTES, "use_regex": True}]}},
            r"llama\.cpp's: Digits, then 's\|'t.*Known are those of gpt-2 and qwen2",
        ),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [NUMBERS, BYTES]}}, r"llama\.cpp's: \\d\+\. Known"),
        ({"pre_tokenizer": BYTES}, r"llama\.cpp's: not at all"),
    ],
    ids=["normalizer", "ignore_merges", "digits", "regex", "none"],
)
def test_tokenizer_that_llama_cpp_cannot_be_told_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message) as error:
        gguf_tokens(qwen(**changes))
    assert "--format hf" in error.value.hint


def test_tokenizer_without_end_of_text_is_refused() -> None:
    with pytest.raises(ExportError, match="no end-of-text"):
        gguf_tokens(PretrainedTokenizer(qwen().tokenizer_json, None))


def test_two_tokens_with_one_text_are_refused() -> None:
    tokenizer = qwen()
    value = {**tokenizer.tokenizer_json, "added_tokens": [dict(t) for t in tokenizer.tokenizer_json["added_tokens"]]}
    value["added_tokens"][2]["content"] = "[PAD293]"
    with pytest.raises(ExportError, match=r"written '\[PAD293\]'"):
        gguf_tokens(PretrainedTokenizer(value, tokenizer.end_of_text))


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [("gpt2", {"n_head": 16}, "one number wide"), ("modern", {"n_layer": 513}, "513 layers")],
)
def test_shape_that_llama_cpp_cannot_compute_is_refused(
    shape: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    base = random_base(shape)
    refused = dataclasses.replace(base, config=base.config.model_copy(update=settings))
    with pytest.raises(ExportError, match=message):
        write_gguf(refused, tmp_path, "float32", make_card(base, None, "float32"))
    assert not list(tmp_path.iterdir())


def test_missing_package_is_named_with_what_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ExportError, match="package gguf") as error:
        export(random_base(), "gguf", tmp_path / "out")
    assert 'pip install -e ".[export]"' in error.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "message", "hint"),
    [(1e5, "too large for float16", "--dtype bfloat16"), (float("nan"), "is not finite", "--checkpoint latest")],
)
def test_weight_that_the_format_cannot_hold_is_refused(value: float, message: str, hint: str, tmp_path: Path) -> None:
    base = random_base()
    base.weights["blocks.1.mlp.down.weight"][3, 4] = value
    with pytest.raises(ExportError, match=rf"blk\.1\.ffn_down\.weight .*{message}") as error:
        export(base, "gguf", tmp_path / "out", dtype="float16")
    assert hint in error.value.hint
    assert not list(tmp_path.iterdir())


def changed(base: Base, **settings: Any) -> Base:  # noqa: ANN401 - keys of ModelConfig
    return dataclasses.replace(base, config=base.config.model_copy(update=settings))


def with_weight(base: Base, name: str, tensor: Tensor) -> Base:
    return dataclasses.replace(base, weights={**base.weights, name: tensor})


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda base: changed(base, rope_theta=1e6), r"rope\.freq_base 50000\.0, expected 1000000\.0"),
        (lambda base: changed(base, block_size=25), r"context_length 24, expected 25"),
        (lambda base: changed(base, tie_embeddings=False), r"missing or too many: output\.weight"),
        (lambda base: dataclasses.replace(base, tokenizer=train_bpe([TEXT[::-1]], 300)), r"tokenizer\.ggml\.tokens"),
        (
            lambda base: with_weight(base, "norm.weight", base.weights["norm.weight"] + 1e-6),
            r"other numbers in output_norm\.weight",
        ),
    ],
)
def test_check_finds_what_differs(other: Callable[[Base], Base], message: str, tmp_path: Path) -> None:
    base = random_base()
    write(base, tmp_path / "out")
    assert len(check_gguf(base, tmp_path / "out", "float32")) == 3
    with pytest.raises(ExportError, match=message) as error:
        check_gguf(other(base), tmp_path / "out", "float32")
    assert "tiny.gguf does not read back as the model" in error.value.message


def test_check_finds_one_wrong_bit_and_another_format(tmp_path: Path) -> None:
    base = random_base()
    reader = write(base, tmp_path / "out", "bfloat16")
    with pytest.raises(ExportError, match=r"general\.file_type 32, expected 1"):
        check_gguf(base, tmp_path / "out", "float16")
    last = reader.tensors[-2]
    content = bytearray((tmp_path / "out" / "tiny.gguf").read_bytes())
    content[last.data_offset + 5] ^= 1
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "tiny.gguf").write_bytes(content)
    with pytest.raises(ExportError, match=f"other numbers in {last.name}"):
        check_gguf(base, tmp_path / "damaged", "bfloat16")
    shutil.move(tmp_path / "out" / "tiny.gguf", tmp_path / "out" / "other.gguf")
    with pytest.raises(ExportError, match=r"general\.name tiny, expected other"):
        check_gguf(base, tmp_path / "out", "bfloat16")


class Shouting(BpeTokenizer):
    """A tokenizer that does more to a text than its tokens and merges tell."""

    def encode(self, text: str) -> Ids:
        return super().encode(text.upper())


def test_check_finds_tokens_that_do_not_make_the_models_ids(tmp_path: Path) -> None:
    tokens = [BPE.token_bytes(token_id) for token_id in range(BPE.vocab_size - 1)]
    base = random_base(tokenizer=Shouting("bpe:300", tokens))
    with pytest.raises(ExportError, match="tokens and merges that make other ids of a text"):
        export(base, "gguf", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [7, 200, 5000, -100])
def test_check_finds_a_file_that_ends_too_early(size: int, tmp_path: Path) -> None:
    base = random_base()
    write(base, tmp_path / "out")
    path = tmp_path / "out" / "tiny.gguf"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ExportError, match="cannot be read"):
        check_gguf(base, tmp_path / "out", "float32")
