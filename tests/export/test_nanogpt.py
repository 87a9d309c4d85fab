from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import torch

from gptcli.bases.base import Base, build_model
from gptcli.bases.nanogpt import open_nanogpt
from gptcli.bases.nanogpt_meta import meta_pickle
from gptcli.chat_template import ChatTemplate, Message, write_prompt
from gptcli.config import ModelConfig
from gptcli.errors import ExportError, TokenizerError
from gptcli.export.card import make_card
from gptcli.export.exporting import export
from gptcli.export.nanogpt import N_COMPARED, check_nanogpt, write_nanogpt
from gptcli.model import GPT
from gptcli.tokenizer import CharTokenizer, Tokenizer, gpt2_tokenizer, train_bpe
from tests.bases.nanogpt_recipe import BLOCK_SIZE, N_EMBD, N_HEAD, N_LAYER, nanogpt_checkpoint, nanogpt_logits

TEXT = "She sells sea shells by the sea shore, and the shells she sells are sea shells, I am sure. "
CHARACTERS = CharTokenizer("".join(sorted(set(TEXT))), end_of_text=False)
SHAPE = ModelConfig(
    family="gpt2", gelu="exact", n_layer=N_LAYER, n_head=N_HEAD, n_embd=N_EMBD, block_size=BLOCK_SIZE, bias=True
)


TRAIN = "gptcli train CORPUS --set model.family=gpt2 --set data.tokenizer=char"


def make_base(tokenizer: Tokenizer = CHARACTERS, **changes: object) -> Base:
    """Return a model of weights large enough for GELU to matter."""
    config = SHAPE.model_copy(update={"vocab_size": tokenizer.vocab_size, **changes})
    torch.manual_seed(2)
    weights = {name: torch.randn_like(tensor) / 2 for name, tensor in GPT(config).state_dict().items()}
    return Base(name="my-run", kind="run", config=config, tokenizer=tokenizer, weights=weights)


def some_tokens(vocab_size: int) -> torch.Tensor:
    return torch.randint(vocab_size, (3, BLOCK_SIZE), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_checkpoint_computes_our_logits_by_nanogpts_formulas(bias: bool, tmp_path: Path) -> None:
    base = make_base(bias=bias)
    result = export(base, "nanogpt", tmp_path / "out")
    assert result.files == ("README.md", "ckpt.pt", "meta.pkl")
    checkpoint = torch.load(tmp_path / "out" / "ckpt.pt", weights_only=True)
    tokens = some_tokens(CHARACTERS.vocab_size)
    with torch.inference_mode():
        ours = build_model(base)(tokens)
    torch.testing.assert_close(ours, nanogpt_logits(checkpoint["model"], tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_checkpoint_has_the_names_and_shapes_of_nanogpts_own(bias: bool, tmp_path: Path) -> None:
    export(make_base(bias=bias), "nanogpt", tmp_path / "out")
    written = torch.load(tmp_path / "out" / "ckpt.pt", weights_only=True)
    theirs = nanogpt_checkpoint(CHARACTERS.vocab_size, bias=bias)
    assert {n: t.shape for n, t in written["model"].items()} == {n: t.shape for n, t in theirs["model"].items()}
    assert set(written) == set(theirs)
    assert set(written["model_args"]) == set(theirs["model_args"])
    assert {key: type(value) for key, value in written["model_args"].items()} == {
        key: type(value) for key, value in theirs["model_args"].items()
    }


def test_optimizer_of_a_resumed_nanogpt_takes_the_state_in_the_file(tmp_path: Path) -> None:
    export(make_base(), "nanogpt", tmp_path / "out")
    checkpoint = torch.load(tmp_path / "out" / "ckpt.pt", weights_only=True)
    tied = {name: torch.nn.Parameter(t) for name, t in checkpoint["model"].items() if name != "lm_head.weight"}
    groups = [
        {"params": [p for p in tied.values() if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in tied.values() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95))
    assert checkpoint["optimizer"]["param_groups"] == optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict(checkpoint["optimizer"])
    before = tied["transformer.wte.weight"].detach().clone()
    sum(p.square().sum() for p in tied.values()).backward()  # type: ignore[union-attr]
    optimizer.step()
    assert not torch.equal(before, tied["transformer.wte.weight"])


def test_import_and_export_give_the_same_file_content(tmp_path: Path) -> None:
    theirs = nanogpt_checkpoint(16)
    torch.save(theirs, tmp_path / "ckpt.pt")
    (tmp_path / "meta.pkl").write_bytes(meta_pickle(tuple("abcdefghijklmnop")))
    base = open_nanogpt(tmp_path / "ckpt.pt")
    result = export(base, "nanogpt", tmp_path / "out")
    written = torch.load(tmp_path / "out" / "ckpt.pt", weights_only=True)
    assert (tmp_path / "out" / "meta.pkl").read_bytes() == (tmp_path / "meta.pkl").read_bytes()
    assert all(torch.equal(written["model"][name], theirs["model"][name]) for name in theirs["model"])
    assert (written["model_args"], written["config"]) == (theirs["model_args"], {"dataset": "mine"})
    assert "data/mine" in (tmp_path / "out" / "README.md").read_text("utf-8")
    assert not any("GELU" in check for check in result.checks)
    assert any("data/mine/meta.pkl: copy" in check for check in result.checks)


def test_meta_is_unpickled_by_python_as_nanogpts_own(tmp_path: Path) -> None:
    tokenizer = CharTokenizer("\n abé🎭", end_of_text=True)
    export(make_base(tokenizer), "nanogpt", tmp_path / "out")
    code = """
import pickle, sys
meta = pickle.load(open(sys.argv[1], "rb"))
ids = [meta["stoi"][c] for c in "ab 🎭"]
assert meta["vocab_size"] == 7, meta
assert "".join(meta["itos"][i] for i in [*ids, 6]) == "ab 🎭", meta
"""
    subprocess.run([sys.executable, "-X", "utf8", "-c", code, str(tmp_path / "out" / "meta.pkl")], check=True)
    again = open_nanogpt(tmp_path / "out" / "ckpt.pt")
    assert again.tokenizer.fingerprint == tokenizer.fingerprint


def test_gpt2s_tokens_need_no_meta(tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken"))
    result = export(make_base(gpt2_tokenizer()), "nanogpt", tmp_path / "out")
    assert result.files == ("README.md", "ckpt.pt")
    checkpoint = torch.load(tmp_path / "out" / "ckpt.pt", weights_only=True)
    assert (checkpoint["model_args"]["vocab_size"], checkpoint["config"]) == (50_257, {})


def test_gpt2s_tokens_of_a_run_are_not_looked_for_elsewhere(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken"))
    base = make_base(gpt2_tokenizer())
    # Neither a cache nor a network, and nothing that tiktoken remembers.
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    with pytest.raises(TokenizerError):
        gpt2_tokenizer()
    assert export(base, "nanogpt", tmp_path / "out").checks


@pytest.mark.parametrize(
    "chat", [ChatTemplate(), ChatTemplate(user_start="Q: ", user_end=" ", answer_start="A:"), None]
)
def test_chat_template_that_stays_behind_is_told(chat: ChatTemplate | None, tmp_path: Path) -> None:
    result = export(dataclasses.replace(make_base(), chat=chat), "nanogpt", tmp_path / "out")
    told = [check for check in result.checks if "chat template stays behind" in check]
    assert len(told) == int(chat is not None)
    if chat is not None:
        assert repr(write_prompt([Message("user", "...")], chat)[0]) in told[0]


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_full_disk_in_the_middle_of_a_tensor_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    import resource

    base = make_base(block_size=20_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(ExportError, match=r"out cannot be written \(File too large\)"):
            export(base, "nanogpt", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_difference_that_nanogpts_gelu_makes_is_told(tmp_path: Path) -> None:
    base = make_base(gelu="tanh")
    result = export(base, "nanogpt", tmp_path / "out")
    told = next(check for check in result.checks if "GELU" in check)
    tokens = some_tokens(CHARACTERS.vocab_size)
    checkpoint = torch.load(tmp_path / "out" / "ckpt.pt", weights_only=True)
    with torch.inference_mode():
        moved = (build_model(base)(tokens) - nanogpt_logits(checkpoint["model"], tokens)).abs().max()
    figure = float(told.rpartition(" ")[2].rstrip("."))
    assert 1e-4 < figure < 0.1
    assert 0.2 < moved / figure < 5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_smaller_numbers_are_written_as_asked(dtype: str, tmp_path: Path) -> None:
    result = export(make_base(), "nanogpt", tmp_path / "out", dtype="float16" if dtype == "float16" else "bfloat16")
    checkpoint = torch.load(tmp_path / "out" / "ckpt.pt", weights_only=True)
    assert {tensor.dtype for tensor in checkpoint["model"].values()} == {getattr(torch, dtype)}
    assert dtype in result.checks[0]
    assert dtype in result.checks[1]


@pytest.mark.parametrize(
    ("base", "told", "way"),
    [
        (make_base(train_bpe([TEXT * 40], 300)), "tokenizer bpe:300", TRAIN),
        (make_base(n_inner=40), "4 x n_embd", "--format hf"),
        (
            dataclasses.replace(make_base(), config=ModelConfig(vocab_size=20, n_embd=16, n_layer=1), weights={}),
            "family modern",
            TRAIN,
        ),
    ],
)
def test_what_nanogpt_cannot_carry_is_refused_with_the_way_round(
    base: Base, told: str, way: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError) as caught:
        export(base, "nanogpt", tmp_path / "out")
    assert told in caught.value.message
    assert way in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_check_finds_a_changed_weight_and_other_characters(tmp_path: Path) -> None:
    base = make_base()
    write_nanogpt(base, tmp_path, "float32", make_card(base, None, "float32"))
    assert check_nanogpt(base, tmp_path, "float32")
    with pytest.raises(ExportError, match=r"not read back the same: blocks.0.attn"):
        check_nanogpt(base, tmp_path, "bfloat16")
    (tmp_path / "meta.pkl").write_bytes(meta_pickle(tuple(map(chr, range(1, CHARACTERS.vocab_size + 1)))))
    with pytest.raises(ExportError, match="tokens that were written"):
        check_nanogpt(base, tmp_path, "float32")


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    checkpoint = torch.load(folder / "ckpt.pt", weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, folder / "ckpt.pt")


def spoil_late_row(name: str) -> Callable[[dict[str, Any]], None]:
    def spoil(checkpoint: dict[str, Any]) -> None:
        checkpoint["model"][name][-1, -1] += 1e-6

    return spoil


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (spoil_late_row("transformer.wpe.weight"), "not read back the same: wpe.weight."),
        (spoil_late_row("transformer.wte.weight"), "not read back the same: wte.weight."),
        (lambda checkpoint: checkpoint["model_args"].update(n_head=N_HEAD * 2), "other logits"),
    ],
)
def test_check_finds_what_the_first_positions_do_not_show(
    change: Callable[[dict[str, Any]], None], told: str, tmp_path: Path
) -> None:
    base = make_base(block_size=N_COMPARED + 9)
    write_nanogpt(base, tmp_path, "float32", make_card(base, None, "float32"))
    assert f"{len(base.weights)} tensors in float32" in check_nanogpt(base, tmp_path, "float32")[0]
    rewrite(tmp_path, change)
    with pytest.raises(ExportError, match=re.escape(told)):
        check_nanogpt(base, tmp_path, "float32")


def test_run_with_a_long_name_and_odd_dataset_finds_its_characters(tmp_path: Path) -> None:
    base = dataclasses.replace(make_base(), name="run-" * 60, origin={"dataset": "../elsewhere"})
    result = export(base, "nanogpt", tmp_path / "out")
    assert any(f"data/{base.name[:100]}/meta.pkl: copy" in check for check in result.checks)
