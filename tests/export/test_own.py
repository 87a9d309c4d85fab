from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from gptcli.bases.base import Base, build_model
from gptcli.bases.opening import open_base
from gptcli.chat_template import ChatTemplate
from gptcli.errors import ExportError
from gptcli.export.exporting import export
from gptcli.export.own import check_own, write_own
from gptcli.tokenizer import Tokenizer
from tests.export.conftest import SHAPES, random_base

Written = Callable[[Callable[..., None]], Path]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["bpe", "char", "char without end"])
def test_folder_is_opened_as_the_same_model(
    shape: str, kind: str, tokenizers: dict[str, Tokenizer], tmp_path: Path
) -> None:
    base = random_base(shape, tokenizers[kind])
    export(base, "safetensors", tmp_path / "out")
    back = open_base(str(tmp_path / "out"))
    assert back.config == base.config
    assert back.tokenizer.to_json() == base.tokenizer.to_json()
    assert set(back.weights) == set(base.weights)
    assert all(torch.equal(back.weights[name], base.weights[name]) for name in base.weights)
    tokens = torch.randint(base.tokenizer.vocab_size, (1, 9))
    assert torch.equal(build_model(back)(tokens), build_model(base)(tokens))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_formats_are_kept(dtype: Literal["float16", "bfloat16"], base: Base, tmp_path: Path) -> None:
    result = export(base, "safetensors", tmp_path / "out", dtype=dtype)
    assert f"tensors in {dtype}" in result.checks[0]
    back = open_base(str(tmp_path / "out"))
    assert all(torch.equal(back.weights[name], base.weights[name].to(getattr(torch, dtype))) for name in base.weights)


def test_chat_template_and_origin_go_along(base: Base, tmp_path: Path) -> None:
    chat = ChatTemplate(user_start="Q: ", answer_start="A:")
    origin: dict[str, str | int] = {
        "run": "r",
        "step": 7,
        "file": "/home/somebody/ckpt.pt",
        "base": "nanogpt:/home/somebody/ckpt.pt",
    }
    export(dataclasses.replace(base, chat=chat, origin=origin), "safetensors", tmp_path / "out")
    back = open_base(str(tmp_path / "out"))
    assert back.chat == chat
    assert (back.origin["run"], back.origin["step"]) == ("r", 7)
    assert (back.origin["file"], back.origin["base"]) == ("ckpt.pt", "nanogpt:ckpt.pt")
    assert "somebody" not in (tmp_path / "out" / "model.json").read_text("utf-8")


def change_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["norm.weight"][3] = torch.nextafter(tensors["norm.weight"][3], torch.tensor(9.0))
    save_file(tensors, folder / "model.safetensors")


def change_dtype(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor.half() for name, tensor in tensors.items()}, folder / "model.safetensors")


def change_about(*keys: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        about = json.loads((folder / "model.json").read_bytes())
        inner = about
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        (folder / "model.json").write_text(json.dumps({**about, "checksum": None}), "utf-8")

    return change


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (change_weight, r"read back the same: norm\.weight\.$"),
        (change_dtype, r"read back the same: blocks\.0"),
        (change_about("model", "norm_eps", value=1e-5), "the configuration"),
        (change_about("chat", value=None), "the chat template"),
    ],
)
def test_what_differs_is_named(spoil: Callable[[Path], None], says: str, base: Base, written: Written) -> None:
    folder = written(write_own)
    assert check_own(base, folder, "float32")
    spoil(folder)
    with pytest.raises(ExportError, match=says):
        check_own(base, folder, "float32")


def test_another_tokenizer_of_the_same_size_is_noticed(base: Base, written: Written, real_texts: list[str]) -> None:
    from gptcli.tokenizer import save_tokenizer, train_bpe

    folder = written(write_own)
    save_tokenizer(train_bpe([text[5000:60_000] for text in real_texts], 700), folder / "tokenizer.json")
    with pytest.raises(ExportError, match="the tokenizer"):
        check_own(base, folder, "float32")
