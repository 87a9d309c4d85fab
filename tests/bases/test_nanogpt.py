from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from gptcli.bases.base import Base, build_model
from gptcli.bases.nanogpt import open_nanogpt
from gptcli.bases.nanogpt_meta import meta_pickle
from gptcli.config import ModelConfig, SampleConfig
from gptcli.errors import FormatError, GptcliError, RunError, TokenizerError
from gptcli.interchange import to_transformers, to_transformers_config
from gptcli.sample import generate
from tests.bases.nanogpt_recipe import BLOCK_SIZE, N_EMBD, nanogpt_checkpoint, nanogpt_logits

ALPHABET = tuple(" abcdefghijklmno")


def save(checkpoint: object, folder: Path, characters: tuple[str, ...] = ALPHABET) -> Path:
    """Write the files that nanoGPT's train.py and prepare.py leave behind; returns the checkpoint's."""
    (folder / "out").mkdir()
    (folder / "data" / "mine").mkdir(parents=True)
    torch.save(checkpoint, folder / "out" / "ckpt.pt")
    (folder / "data" / "mine" / "meta.pkl").write_bytes(meta_pickle(characters))
    return folder / "out" / "ckpt.pt"


def ours(base: Base, tokens: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.as_tensor(build_model(base)(tokens))


def some_tokens(vocab_size: int = len(ALPHABET)) -> Tensor:
    return torch.randint(vocab_size, (3, BLOCK_SIZE), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("prefix", ["", "_orig_mod."], ids=["plain", "compiled"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_checkpoint_gives_the_logits_of_nanogpt(bias: bool, prefix: str, tmp_path: Path) -> None:
    checkpoint = nanogpt_checkpoint(len(ALPHABET), bias=bias)
    tokens = some_tokens()
    expected = nanogpt_logits(checkpoint["model"], tokens)
    checkpoint["model"] = {prefix + name: tensor for name, tensor in checkpoint["model"].items()}
    base = open_nanogpt(save(checkpoint, tmp_path))
    torch.testing.assert_close(ours(base, tokens), expected, atol=1e-5, rtol=1e-5)
    assert (base.kind, base.config.family, base.config.bias, base.config.dropout) == ("nanogpt", "gpt2", bias, 0.1)


def test_approximated_gelu_would_give_other_logits(tmp_path: Path) -> None:
    checkpoint = nanogpt_checkpoint(len(ALPHABET))
    base = open_nanogpt(save(checkpoint, tmp_path))
    approximated = base.config.model_copy(update={"gelu": "tanh"})
    other = Base(base.name, base.kind, approximated, base.tokenizer, base.weights)
    difference = (ours(other, some_tokens()) - nanogpt_logits(checkpoint["model"], some_tokens())).abs().max()
    assert difference > 1e-4


def test_exact_gelu_is_for_the_gpt2_family_and_known_to_transformers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gelu is for family gpt2"):
        ModelConfig(gelu="exact")
    checkpoint = nanogpt_checkpoint(len(ALPHABET))
    base = open_nanogpt(save(checkpoint, tmp_path))
    theirs_class: Any = transformers.GPT2LMHeadModel
    theirs = theirs_class(to_transformers_config(base.config)).eval()
    theirs.load_state_dict(to_transformers(dict(base.weights), base.config), strict=False)
    with torch.inference_mode():
        logits = theirs(some_tokens()).logits
    expected = nanogpt_logits(checkpoint["model"], some_tokens())
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_checkpoint_writes_text_with_the_characters_of_meta(tmp_path: Path) -> None:
    base = open_nanogpt(save(nanogpt_checkpoint(len(ALPHABET)), tmp_path))
    assert base.tokenizer.decode(base.tokenizer.encode("a good deed")) == "a good deed"
    pieces = list(generate(build_model(base), base.tokenizer, "a good ", SampleConfig(max_new_tokens=9)))
    assert len(pieces) == 9
    assert any("meta.pkl" in note for note in base.notes)


def test_origin_says_where_it_comes_from_and_how_far_it_was_trained(tmp_path: Path) -> None:
    base = open_nanogpt(save(nanogpt_checkpoint(len(ALPHABET)), tmp_path))
    assert base.name == f"nanogpt:{tmp_path / 'out' / 'ckpt.pt'}"
    assert {key: base.origin[key] for key in ("dataset", "iter_num", "best_val_loss")} == {
        "dataset": "mine",
        "iter_num": 250,
        "best_val_loss": "1.4697",
    }
    assert len(str(base.origin["sha256"])) == 64


@pytest.fixture
def _gpt2_vocabulary(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken"))


@pytest.mark.usefixtures("_gpt2_vocabulary")
@pytest.mark.parametrize("rows", [50_257, 50_304])
def test_padding_of_gpt2s_vocabulary_is_left_out(rows: int, tmp_path: Path) -> None:
    checkpoint = nanogpt_checkpoint(rows, n_embd=8)
    torch.save(checkpoint, tmp_path / "ckpt.pt")
    base = open_nanogpt(tmp_path / "ckpt.pt")
    assert (base.tokenizer.name, base.config.vocab_size, len(base.notes)) == ("gpt2", 50_257, int(rows > 50_257))
    tokens = torch.from_numpy(base.tokenizer.encode("Mr. Leopold Bloom ate with relish").astype("int64"))[None]
    expected = nanogpt_logits(checkpoint["model"], tokens)[..., :50_257]
    torch.testing.assert_close(ours(base, tokens), expected, atol=1e-4, rtol=1e-5)


def test_padding_of_a_character_vocabulary_is_left_out(tmp_path: Path) -> None:
    checkpoint = nanogpt_checkpoint(64)
    base = open_nanogpt(save(checkpoint, tmp_path))
    assert base.config.vocab_size == base.tokenizer.vocab_size == len(ALPHABET)
    assert any("48 only pad" in note for note in base.notes)
    expected = nanogpt_logits(checkpoint["model"], some_tokens())[..., : len(ALPHABET)]
    torch.testing.assert_close(ours(base, some_tokens()), expected, atol=1e-5, rtol=1e-5)


def test_characters_in_another_order_keep_their_own_rows(tmp_path: Path) -> None:
    shuffled = tuple("onmlkjihg fedcba")
    checkpoint = nanogpt_checkpoint(len(shuffled))
    base = open_nanogpt(save(checkpoint, tmp_path, shuffled))
    text = "a good deed"
    theirs = torch.tensor([[shuffled.index(character) for character in text]])
    expected = nanogpt_logits(checkpoint["model"], theirs)[..., [shuffled.index(c) for c in sorted(shuffled)]]
    encoded = torch.from_numpy(base.tokenizer.encode(text).astype("int64"))[None]
    torch.testing.assert_close(ours(base, encoded), expected, atol=1e-5, rtol=1e-5)
    assert any("order of their own" in note for note in base.notes)


def test_characters_come_from_the_text_where_there_is_no_meta(tmp_path: Path) -> None:
    path = save(nanogpt_checkpoint(len(ALPHABET)), tmp_path)
    (tmp_path / "data" / "mine" / "meta.pkl").unlink()
    with pytest.raises(TokenizerError, match=r"input\.txt: there is no such file") as caught:
        open_nanogpt(path)
    assert "meta.pkl" in caught.value.message
    assert "data/mine/meta.pkl" in caught.value.hint
    from_corpus = open_nanogpt(path, texts=lambda: iter(["onmlkji", "hgfedcba "]))
    assert any("those of the corpus" in note for note in from_corpus.notes)
    (tmp_path / "data" / "mine" / "input.txt").write_text("".join(reversed(ALPHABET)), "utf-8")
    from_file = open_nanogpt(path)
    assert from_file.tokenizer.fingerprint == from_corpus.tokenizer.fingerprint
    (tmp_path / "data" / "mine" / "input.txt").write_bytes(b"\xff")
    with pytest.raises(TokenizerError, match="the corpus: it has 1 characters"):
        open_nanogpt(path, texts=lambda: iter(["a"]))


def test_old_masks_are_dropped_and_an_untied_head_is_refused(tmp_path: Path) -> None:
    checkpoint = nanogpt_checkpoint(len(ALPHABET))
    tokens = some_tokens()
    expected = nanogpt_logits(checkpoint["model"], tokens)
    for layer in range(2):
        checkpoint["model"][f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, BLOCK_SIZE, BLOCK_SIZE).tril()
    checkpoint["model"]["lm_head.weight"] = checkpoint["model"]["lm_head.weight"].clone()
    path = save(checkpoint, tmp_path)
    torch.testing.assert_close(ours(open_nanogpt(path), tokens), expected, atol=1e-5, rtol=1e-5)
    checkpoint["model"]["lm_head.weight"][3, 3] += 1
    torch.save(checkpoint, path)
    with pytest.raises(FormatError, match=r"lm_head.weight differs from transformer.wte.weight"):
        open_nanogpt(path)


def test_checkpoint_of_january_2023_has_no_bias_among_its_settings(tmp_path: Path) -> None:
    checkpoint = nanogpt_checkpoint(len(ALPHABET))
    del checkpoint["model_args"]["bias"], checkpoint["model_args"]["dropout"], checkpoint["best_val_loss"]
    base = open_nanogpt(save(checkpoint, tmp_path))
    assert (base.config.bias, base.config.dropout, "best_val_loss" in base.origin) == (True, 0.0, False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_keep_the_number_format_of_the_file(dtype: torch.dtype, tmp_path: Path) -> None:
    checkpoint = nanogpt_checkpoint(len(ALPHABET))
    checkpoint["model"] = {name: tensor.to(dtype) for name, tensor in checkpoint["model"].items()}
    base = open_nanogpt(save(checkpoint, tmp_path))
    assert {base.weights[name].dtype for name in base.weights} == {dtype}


def test_file_of_a_torch_before_zip_is_read(tmp_path: Path) -> None:
    checkpoint = nanogpt_checkpoint(len(ALPHABET))
    path = save(checkpoint, tmp_path)
    torch.save(checkpoint, path, _use_new_zipfile_serialization=False)
    expected = nanogpt_logits(checkpoint["model"], some_tokens())
    torch.testing.assert_close(ours(open_nanogpt(path), some_tokens()), expected, atol=1e-5, rtol=1e-5)


def drop(model: dict[str, Any], _: dict[str, Any]) -> None:
    del model["transformer.ln_f.bias"]


def drop_layer_part(model: dict[str, Any], _: dict[str, Any]) -> None:
    del model["transformer.h.1.mlp.c_fc.bias"]
    model["transformer.h.1.attn.rotary"] = torch.ones(2)
    model["transformer.h.0.ln_1.weight"] = torch.ones(3)


def widen(_: dict[str, Any], args: dict[str, Any]) -> None:
    args.update(n_embd=32, n_layer=3, vocab_size=17)


def no_heads(_: dict[str, Any], args: dict[str, Any]) -> None:
    args["n_head"] = 3


def odd_types(_: dict[str, Any], args: dict[str, Any]) -> None:
    args.update(n_head="two", dropout=[1])


def no_embedding(model: dict[str, Any], _: dict[str, Any]) -> None:
    del model["transformer.wte.weight"]


def flat_embedding(model: dict[str, Any], _: dict[str, Any]) -> None:
    model["transformer.wte.weight"] = torch.ones(16)


def whole_numbers(model: dict[str, Any], _: dict[str, Any]) -> None:
    model["transformer.wpe.weight"] = torch.ones(BLOCK_SIZE, N_EMBD, dtype=torch.int64)
    model["transformer.ln_f.weight"] = "none"


def strides(model: dict[str, Any], _: dict[str, Any]) -> None:
    model["transformer.wpe.weight"] = torch.ones(1).as_strided((BLOCK_SIZE, N_EMBD), (0, 0))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (drop, ["bias True, the tensors have False"]),
        (
            drop_layer_part,
            [
                "transformer.h.1.mlp.c_fc.bias is missing, expected (64,)",
                "transformer.h.1.attn.rotary is not known",
                "transformer.h.0.ln_1.weight is (3,), expected (16,)",
            ],
        ),
        (widen, ["n_embd 32, the tensors have 16", "n_layer 3, the tensors have 2", "vocab_size 17, the"]),
        (no_heads, ["n_embd 16 is not divisible by n_head 3"]),
        (odd_types, ["n_head", "dropout"]),
        (no_embedding, ["transformer.wte.weight is missing"]),
        (flat_embedding, ["transformer.wte.weight is no matrix"]),
        (whole_numbers, ["transformer.wpe.weight is no tensor of weights", "transformer.ln_f.weight is no tensor"]),
        (strides, ["transformer.wpe.weight is no tensor of weights"]),
    ],
)
def test_tensors_that_do_not_fit_are_listed(
    change: Callable[[dict[str, Any], dict[str, Any]], None], told: list[str], tmp_path: Path
) -> None:
    checkpoint = nanogpt_checkpoint(len(ALPHABET))
    change(checkpoint["model"], checkpoint["model_args"])
    path = save(checkpoint, tmp_path)
    with pytest.raises(FormatError) as caught:
        open_nanogpt(path)
    assert [line for line in told if line not in caught.value.message] == []


def in_model_args(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda checkpoint: checkpoint["model_args"].update({key: value})


def in_model(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda checkpoint: checkpoint["model"].update({name: value})


NO_WEIGHTS = "transformer.wpe.weight is no tensor of weights"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (in_model_args("vocab_size", torch.zeros(3)), "model_args has vocab_size of type Tensor, the tensors have 16"),
        (in_model_args("n_layer", "x" * 3_000_000), "model_args has n_layer 'xxx"),
        (in_model_args("n_embd", 10**300), "model_args has n_embd of type int, the tensors have 16"),
        (in_model_args("n_head", torch.zeros(3)), "model_args has n_head of type Tensor, expected a number"),
        (in_model_args("n_head", 10**300), "model_args has n_head of type int, expected a number"),
        (in_model_args("n_head", True), "model_args: n_head"),
        (in_model_args("dropout", 10**300), "model_args has dropout of type int, expected a number"),
        (in_model_args("dropout", 1j), "model_args has dropout of type complex, expected a number"),
        (in_model_args("dropout", float("nan")), "model_args: dropout"),
        (in_model_args("bias", 1), "model_args has bias 1, the tensors have True"),
        (in_model("transformer.wpe.weight", torch.ones(BLOCK_SIZE, N_EMBD, device="meta")), NO_WEIGHTS),
        (in_model("transformer.wpe.weight", torch.ones(BLOCK_SIZE, N_EMBD).to(torch.float8_e4m3fn)), NO_WEIGHTS),
        (in_model("transformer.wpe.weight", torch.ones(BLOCK_SIZE, N_EMBD, dtype=torch.cfloat)), NO_WEIGHTS),
        (in_model("transformer.wpe.weight", torch.ones(BLOCK_SIZE, N_EMBD).to_sparse()), NO_WEIGHTS),
        (in_model("y" * 3_000_000, torch.ones(1)), "yyyy"),
        (lambda checkpoint: checkpoint["model"].update({("a", 1): torch.ones(1)}), "tuple is not known"),
        (lambda checkpoint: checkpoint.update({"model": 1, "A" * 3_000_000: 1}), "found AAAA"),
        (lambda checkpoint: [checkpoint.clear(), checkpoint.update({("a",): 1})], "found tuple"),
    ],
)
def test_odd_values_are_told_in_a_few_words(
    change: Callable[[dict[str, Any]], object], told: str, tmp_path: Path
) -> None:
    checkpoint = nanogpt_checkpoint(len(ALPHABET))
    change(checkpoint)
    path = save(checkpoint, tmp_path)
    with pytest.raises(FormatError) as caught:
        open_nanogpt(path)
    assert told in caught.value.message
    assert len(caught.value.message) < 2000


@pytest.mark.parametrize(
    "loss",
    [1j, torch.tensor(1j), torch.ones(1, device="meta"), torch.ones(2), 10**300, True, "low", [1.5], None],
    ids=lambda loss: type(loss).__name__,
)
def test_odd_loss_and_step_are_no_part_of_the_origin(loss: object, tmp_path: Path) -> None:
    checkpoint = {**nanogpt_checkpoint(len(ALPHABET)), "best_val_loss": loss, "iter_num": loss}
    origin = open_nanogpt(save(checkpoint, tmp_path)).origin
    assert {"best_val_loss", "iter_num"} & set(origin) == set()


@pytest.mark.parametrize(("loss", "told"), [(1.25, "1.2500"), (3, "3.0000"), (torch.ones(1).bfloat16(), "1.0000")])
def test_loss_may_be_any_real_number(loss: object, told: str, tmp_path: Path) -> None:
    checkpoint = {**nanogpt_checkpoint(len(ALPHABET)), "best_val_loss": loss}
    assert open_nanogpt(save(checkpoint, tmp_path)).origin["best_val_loss"] == told


@pytest.mark.parametrize("dataset", ["a\0b", "\ud800", "x" * 5000, "я" * 101, "a b", "", 7, None, ["mine"]])
def test_odd_dataset_is_passed_over(dataset: object, tmp_path: Path) -> None:
    checkpoint = nanogpt_checkpoint(len(ALPHABET))
    checkpoint["config"]["dataset"] = dataset
    torch.save(checkpoint, tmp_path / "ckpt.pt")
    (tmp_path / "meta.pkl").write_bytes(meta_pickle(ALPHABET))
    assert "dataset" not in open_nanogpt(tmp_path / "ckpt.pt").origin


@pytest.mark.parametrize("dataset", ["poe_char", "poems/nonsense", "стихи"])
def test_dataset_may_have_any_plain_name(dataset: str, tmp_path: Path) -> None:
    path = save(nanogpt_checkpoint(len(ALPHABET), dataset=dataset), tmp_path)
    (tmp_path / "data" / dataset).mkdir(parents=True)
    (tmp_path / "data" / "mine" / "meta.pkl").rename(tmp_path / "data" / dataset / "meta.pkl")
    assert open_nanogpt(path).origin["dataset"] == dataset


def test_weights_that_were_parameters_can_be_exported(tmp_path: Path) -> None:
    checkpoint = nanogpt_checkpoint(len(ALPHABET))
    checkpoint["model"] = {name: torch.nn.Parameter(tensor) for name, tensor in checkpoint["model"].items()}
    base = open_nanogpt(save(checkpoint, tmp_path))
    assert not any(base.weights[name].requires_grad for name in base.weights)
    assert base.weights["wte.weight"].numpy().shape == (len(ALPHABET), N_EMBD)


class Payload:
    """Unpickled, this makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["model", "config"])
def test_malicious_pickle_is_refused_and_not_run(place: str, zipped: bool, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = save({**nanogpt_checkpoint(len(ALPHABET)), place: Payload(mark)}, tmp_path)
    if not zipped:
        torch.save({"model": Payload(mark)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(FormatError, match=r"refused, and nothing in it was run: it asks for \S*system"):
        open_nanogpt(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the payload is a real one
    assert mark.exists()


def test_malicious_meta_is_not_run_either(tmp_path: Path) -> None:
    path = save(nanogpt_checkpoint(len(ALPHABET)), tmp_path)
    mark = tmp_path / "mark"
    (tmp_path / "data" / "mine" / "meta.pkl").write_bytes(f"cposix\nsystem\n(Vtouch {mark}\ntR.".encode())
    with pytest.raises(TokenizerError, match=r"asks for 'posix.system'"):
        open_nanogpt(path)
    base = open_nanogpt(path, texts=lambda: iter(ALPHABET))
    assert any("asks for 'posix.system'" in note for note in base.notes)
    assert not mark.exists()


def test_dataset_cannot_lead_out_of_the_data_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "meta.pkl").write_bytes(meta_pickle(ALPHABET))
    path = save(nanogpt_checkpoint(len(ALPHABET), dataset="../elsewhere"), tmp_path)
    with pytest.raises(TokenizerError) as caught:
        open_nanogpt(path)
    assert "elsewhere/meta.pkl:" not in caught.value.message


def test_file_cut_anywhere_is_damaged(tmp_path: Path) -> None:
    path = save(nanogpt_checkpoint(len(ALPHABET)), tmp_path)
    whole = path.read_bytes()
    for length in (0, 3, 9, 100, len(whole) // 2, len(whole) - 1000, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError, match=r"is damaged|is not a checkpoint"):
            open_nanogpt(path)


def make_safetensors(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, path)


OTHERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: path.write_text("n_layer = 6\n", "utf-8"), "torch.save did not write it"),
    "zip": (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(300)), "is damaged"),
    "pickle": (lambda path: path.write_bytes(b"\x80\x02}."), "is damaged"),
    "noise": (lambda path: path.write_bytes(b"\x80" + bytes(range(256))), "is damaged"),
    "safetensors": (make_safetensors, "safetensors file"),
    "list": (lambda path: torch.save([1, 2], path), "it holds a list"),
    "state-dict": (lambda path: torch.save({f"w{i}": torch.ones(1) for i in range(9)}, path), "found w0, w1"),
    "module": (lambda path: torch.save(torch.nn.Linear(2, 2), path), "asks for torch.nn.modules.linear.Linear"),
    "empty": (lambda path: torch.save({"model": {}, "model_args": {}}, path), "transformer.wpe.weight is missing"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_file_of_another_kind_is_told_apart(kind: str, tmp_path: Path) -> None:
    make, told = OTHERS[kind]
    make(tmp_path / "ckpt.pt")
    with pytest.raises(FormatError) as caught:
        open_nanogpt(tmp_path / "ckpt.pt")
    assert told in caught.value.message
    assert "\n  " not in caught.value.hint


def test_missing_file_and_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="There is no file"):
        open_nanogpt(tmp_path / "ckpt.pt")
    with pytest.raises(RunError, match="is a folder") as caught:
        open_nanogpt(tmp_path)
    assert caught.value.hint.endswith("ckpt.pt")
    (tmp_path / "ckpt.pt").write_bytes(b"x")
    with pytest.raises(GptcliError, match="cannot be read"):
        open_nanogpt(tmp_path / "ckpt.pt" / "deeper")
