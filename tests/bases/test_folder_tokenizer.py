from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gptcli.bases.folder_tokenizer import GPT2_FINGERPRINT, open_folder_tokenizer
from gptcli.bpe import byte_characters, gpt2_tokenizer
from gptcli.errors import FormatError, TokenizerError
from tests.bases.saved import QWEN_SPECIAL, qwen_tokenizer, rewrite_json, save_tokenizer_of_qwen

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


@pytest.fixture(scope="module")
def vocabulary(shared_data: Path) -> dict[str, int]:
    """GPT-2's vocab.json."""
    contents = [path.read_bytes() for path in (shared_data / "tiktoken").iterdir()]
    found = max((json.loads(content) for content in contents if content[:1] == b"{"), key=len)
    assert isinstance(found, dict)
    assert len(found) == 50_257
    return found


@pytest.fixture
def _no_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a copy of GPT-2's vocabulary nor a network to get it from."""
    import tiktoken.registry

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "none"))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


def write(folder: Path, name: str, value: object) -> None:
    (folder / name).write_text(json.dumps(value), "utf-8")


def gpt2_file(vocabulary: dict[str, int], **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a tokenizer.json like GPT-2's, but for the merges."""
    end = {"id": 50_256, "content": "<|endoftext|>", "special": True, "normalized": True}
    model = {"type": "BPE", "vocab": vocabulary, "merges": []}
    return {"added_tokens": [end], "normalizer": None, "pre_tokenizer": BYTE_LEVEL, "model": model, **changes}


def bent(**changes: object) -> dict[str, object]:
    """Return a tokenizer.json that is right but for the changes."""
    whole = {"type": "BPE", "vocab": {character: n for n, character in enumerate(byte_characters())}, "merges": []}
    return {"pre_tokenizer": BYTE_LEVEL, "normalizer": None, "model": whole, **changes}


def test_fingerprint_of_gpt2_is_its_own(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken"))
    assert gpt2_tokenizer().fingerprint == GPT2_FINGERPRINT


@pytest.mark.usefixtures("_no_vocabulary")
def test_gpt2s_tokenizer_is_recognised_in_its_files_and_needs_no_others(
    vocabulary: dict[str, int], tmp_path: Path
) -> None:
    write(tmp_path, "vocab.json", vocabulary)
    first = open_folder_tokenizer(tmp_path, {}, 50_257)
    write(tmp_path, "tokenizer.json", gpt2_file(vocabulary))
    (tmp_path / "vocab.json").unlink()
    second = open_folder_tokenizer(tmp_path, {}, 50_304)
    for found in (first, second):
        assert (found.name, found.fingerprint, found.end_of_text) == ("gpt2", GPT2_FINGERPRINT, 50_256)
        assert found.decode(found.encode("Mr. Bloom")) == "Mr. Bloom"


def test_file_that_differs_from_gpt2s_is_served_as_it_came(vocabulary: dict[str, int], tmp_path: Path) -> None:
    swapped = {**vocabulary, "the": vocabulary["and"], "and": vocabulary["the"]}
    pad = {"id": 50_257, "content": "<|pad|>", "special": True}
    added = gpt2_file(vocabulary)["added_tokens"]
    for value in (
        gpt2_file(swapped),
        gpt2_file(vocabulary, normalizer={"type": "NFC"}),
        gpt2_file(vocabulary, added_tokens=[*added, pad]),
    ):
        write(tmp_path, "tokenizer.json", value)
        found = open_folder_tokenizer(tmp_path, {}, 50_257)
        assert (found.name, found.end_of_text) == ("pretrained", 50_256)


def test_end_of_text_is_the_tokenizers_then_the_models_then_the_one_so_called(tmp_path: Path) -> None:
    save_tokenizer_of_qwen(qwen_tokenizer(["to be or not to be"], 260), tmp_path)
    vocab = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    ids = {item["content"]: item["id"] for item in vocab}
    end, start, turn = (ids[name] for name in QWEN_SPECIAL)

    def found(eos: object, model_eos: object) -> int | None:
        rewrite_json(tmp_path / "tokenizer_config.json", eos_token=eos)
        return open_folder_tokenizer(tmp_path, {"eos_token_id": model_eos}, 300).end_of_text

    assert found("<|im_end|>", end) == turn
    assert found({"content": "<|im_end|>"}, end) == turn
    assert found(None, start) == start
    assert found(None, [9999, turn]) == turn
    assert found("<nowhere>", 5) == end  # 5 is a byte, so any text could contain it
    assert found("<think>", None) == end


def test_tokenizer_without_a_special_token_has_no_end_of_text(tmp_path: Path) -> None:
    write(tmp_path, "tokenizer.json", json.loads(qwen_tokenizer(["to be"], 260).to_str()) | {"added_tokens": []})
    assert open_folder_tokenizer(tmp_path, {"eos_token_id": 3}, 300).end_of_text is None


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, r"no tokenizer\.json, and the model's vocabulary of 31 tokens is not GPT-2's of 50,257"),
        ({"tokenizer.model": {}}, r"a SentencePiece model \(tokenizer\.model\)"),
        ({"vocab.json": {"a": 0}}, r"vocab\.json is not GPT-2's"),
        ({"vocab.json": {str(n): n for n in range(50_257)}}, r"vocab\.json is not GPT-2's"),
        ({"tokenizer.json": {"model": {"type": "Unigram", "vocab": []}}}, "its model is Unigram"),
        ({"tokenizer.json": {"model": 3}}, "its model is missing"),
        ({"tokenizer.json": {"added_tokens": 3}}, "added_tokens should be a list"),
        ({"tokenizer.json": bent(pre_tokenizer={"type": ["x"]})}, "a step of it is damaged"),
        ({"tokenizer.json": bent(pre_tokenizer={"type": "Sequence", "pretokenizers": 5})}, "a step of it is damaged"),
        ({"tokenizer.json": bent(normalizer={"type": "Sequence", "normalizers": 7})}, "a step of it is damaged"),
    ],
)
def test_tokenizers_that_cannot_be_used_are_refused_with_the_reason(
    files: dict[str, object], reason: str, tmp_path: Path
) -> None:
    for name, value in files.items():
        write(tmp_path, name, value)
    with pytest.raises(TokenizerError, match=reason) as caught:
        open_folder_tokenizer(tmp_path, {}, 31)
    assert str(tmp_path) in caught.value.message
    assert caught.value.hint


def test_bytes_twice_in_a_vocabulary_of_gpt2s_size_are_not_gpt2s(vocabulary: dict[str, int], tmp_path: Path) -> None:
    assert len(byte_characters()) == 256
    write(tmp_path, "vocab.json", {**vocabulary, "!": 7})
    with pytest.raises(TokenizerError, match=r"vocab\.json is not GPT-2's"):
        open_folder_tokenizer(tmp_path, {}, 50_257)


@pytest.mark.parametrize("content", ["[1]", "{", "\udcff", "[" * 100_000])
def test_damaged_file_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content, "utf-8", "surrogateescape")
    with pytest.raises(FormatError, match=r"tokenizer\.json"):
        open_folder_tokenizer(tmp_path, {}, 50_257)
