from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from gptcli.bases.base import Base, build_model
from gptcli.chat_template import Message, write_prompt
from gptcli.config import SampleConfig
from gptcli.errors import ExportError
from gptcli.export import hf
from gptcli.export.card import make_card
from gptcli.export.exporting import export
from gptcli.export.hf import check_hf, quietly, write_hf
from gptcli.sample import generate
from gptcli.tokenizer import Tokenizer, char_tokenizer
from tests.export.conftest import SHAPES, random_base

FILES = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
Written = Callable[[Callable[..., None]], Path]


def load(folder: Path) -> tuple[Any, Any]:
    """Load as a user of transformers does."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quietly():
        model: Any = AutoModelForCausalLM.from_pretrained(folder)
        return model.eval(), AutoTokenizer.from_pretrained(folder)


def greedy(base: Base, prompt: str, count: int) -> str:
    pieces = generate(build_model(base), base.tokenizer, prompt, SampleConfig(temperature=0.0, max_new_tokens=count))
    return "".join(piece.text for piece in pieces)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        *((shape, "bpe") for shape in SHAPES),
        *((shape, kind) for shape in ("gpt2", "modern") for kind in ("gpt2", "char", "char without end")),
    ],
)
def test_transformers_computes_and_writes_the_same(
    shape: str, kind: str, tokenizers: dict[str, Tokenizer], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base = random_base(shape, tokenizers[kind])
    capfd.readouterr()
    result = export(base, "hf", tmp_path / "out")
    assert capfd.readouterr() == ("", "")
    assert set(result.files) == FILES == {path.name for path in (tmp_path / "out").iterdir()}
    model, tokenizer = load(tmp_path / "out")
    inputs = tokenizer("Hastings and I", return_tensors="pt")
    with torch.inference_mode():
        ours = build_model(base)(torch.tensor([base.tokenizer.encode("Hastings and I").tolist()]))
        torch.testing.assert_close(model(**inputs).logits, ours, atol=1e-4, rtol=0)
        written = model.generate(**inputs, do_sample=False, max_new_tokens=16)[0, inputs["input_ids"].size(1) :]
    assert tokenizer.decode(written, skip_special_tokens=True) == greedy(base, "Hastings and I", 16)
    assert any(re.search(r"equal ours (exactly|to \de-0\d) on 48 tokens \(0.0001", check) for check in result.checks)


@pytest.mark.parametrize("kind", ["bpe", "gpt2", "char"])
def test_tokenizer_of_the_export_gives_our_ids_for_whole_books(
    kind: str, tokenizers: dict[str, Tokenizer], real_texts: list[str], tmp_path: Path
) -> None:
    export(random_base("gpt2", tokenizers[kind]), "hf", tmp_path / "out")
    _, tokenizer = load(tmp_path / "out")
    with quietly():
        for text in real_texts:
            ids = tokenizers[kind].encode(text).tolist()
            assert tokenizer(text)["input_ids"] == ids
            assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("shape", ["gpt2 without bias", "modern"])
def test_half_formats_are_stored_and_named(
    dtype: Literal["float16", "bfloat16"], shape: str, tokenizers: dict[str, Tokenizer], tmp_path: Path
) -> None:
    base = random_base(shape, tokenizers["bpe"])
    result = export(base, "hf", tmp_path / "out", dtype=dtype)
    assert json.loads((tmp_path / "out" / "config.json").read_bytes())["dtype"] == dtype
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {getattr(torch, dtype)}
    assert any(f"with the weights rounded to {dtype}" in check for check in result.checks)
    embedding = "transformer.wte.weight" if shape.startswith("gpt2") else "model.embed_tokens.weight"
    assert torch.equal(tensors[embedding], base.weights["wte.weight"].to(getattr(torch, dtype)))


def test_export_is_readable_by_those_who_may_read_the_folder(base: Base, tmp_path: Path) -> None:
    export(base, "hf", tmp_path / "out")
    modes = {path.name: oct(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert len(set(modes.values())) == 1, modes


def test_profile_decides_how_transformers_writes(base: Base, tmp_path: Path) -> None:
    card = make_card(base, None, "float32")
    settings = SampleConfig(temperature=0.5, top_k=7, min_p=0.1, repetition_penalty=1.2, max_new_tokens=500)
    asked = hf._generation(base, settings)
    end = base.tokenizer.end_of_text
    assert asked == {
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "max_new_tokens": 24,
        "do_sample": True,
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 1.0,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
    }
    assert hf._generation(base, SampleConfig(temperature=0.0, max_new_tokens=3))["do_sample"] is False
    write_hf(base, tmp_path, "float32", card)
    model, _ = load(tmp_path)
    assert model.generation_config.eos_token_id == end
    assert model.generation_config.temperature == card.sample.temperature


def test_conversation_is_written_as_ours(base: Base, tmp_path: Path) -> None:
    result = export(base, "hf", tmp_path / "out")
    assert any("chat template" in check for check in result.checks)
    _, tokenizer = load(tmp_path / "out")
    messages = [
        Message("user", "Who did it?"),
        Message("assistant", "The {{ butler }}."),
        Message("user", "\nWhy? "),
        Message("assistant", "Money"),
        Message("user", "Oh"),
    ]
    assert base.chat is not None
    pieces = write_prompt(messages, base.chat)
    turns = [message._asdict() for message in messages]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "<|endoftext|>".join(pieces)
    found = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
    expected = []
    for piece in pieces:
        expected += [*base.tokenizer.encode(piece).tolist(), base.tokenizer.end_of_text]
    assert found == expected[:-1]


def change_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] += 0.01
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def drop_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_json(name: str, *path: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_bytes())
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        (folder / name).write_text(json.dumps(content), "utf-8")

    return change


def change_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}", "utf-8")


def damage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"junk")


def drop_merge(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_bytes())
    del content["model"]["merges"][0]
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (change_weights, r"model\.safetensors does not hold the model's weights: model\.norm\.weight\."),
        (drop_weight, r"model\.safetensors does not hold the model's weights: model\.norm\.weight\."),
        (
            change_json("config.json", "tie_word_embeddings", value=False),
            r"other tensors than it expects: lm_head\.weight",
        ),
        (damage, r"transformers cannot use what was written"),
        (drop_merge, r"gives other ids than ours, from token [\d,]+ on"),
        (change_json("tokenizer.json", "decoder", value={"type": "Fuse"}), "gives another text for the same ids"),
        (change_json("tokenizer_config.json", "eos_token", value="<|x|>"), r"has end-of-text \d+"),
        (change_json("generation_config.json", "eos_token_id", value=3), "names another end-of-text"),
        (change_json("config.json", "dtype", value="float16"), "the weights as torch.float16, they were"),
        (
            change_json("config.json", "rms_norm_eps", value=0.1),
            r"logits differ from ours by up to \d\.\d+, 0.0001 was allowed",
        ),
        (change_json("config.json", "model_type", value="gpt3"), "transformers cannot use"),
        (change_template, "chat template of the export writes a conversation with other tokens"),
    ],
)
def test_what_is_not_the_model_is_noticed(
    spoil: Callable[[Path], None], says: str, base: Base, written: Written, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = written(write_hf)
    assert len(check_hf(base, folder, "float32")) == 5
    spoil(folder)
    capfd.readouterr()
    with pytest.raises(ExportError, match=says) as caught:
        check_hf(base, folder, "float32")
    assert "gptcli export" in caught.value.hint
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("shape", "name"),
    [("gpt2", "transformer.wpe.weight"), ("modern untied", "model.embed_tokens.weight")],
)
def test_row_that_no_short_text_reaches_is_compared_too(
    shape: str, name: str, tokenizers: dict[str, Tokenizer], tmp_path: Path
) -> None:
    base = random_base(shape, tokenizers["bpe"], block_size=300)
    write_hf(base, tmp_path, "float32", make_card(base, None, "float32"))
    assert check_hf(base, tmp_path, "float32")
    tensors = load_file(tmp_path / "model.safetensors")
    assert base.tokenizer.end_of_text == 699
    tensors[name][299 if shape == "gpt2" else 699, 5] += 1e-3
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=f"does not hold the model's weights: {name}"):
        check_hf(base, tmp_path, "float32")


def test_chat_of_characters_is_exported_with_its_template(tmp_path: Path) -> None:
    tokenizer = char_tokenizer(["User: how are you?\nAssistant: fine.\n\n"], end_of_text=True)
    result = export(random_base("gpt2", tokenizer, chat=True), "hf", tmp_path / "out")
    assert any("chat template gives the same" in check for check in result.checks)


@pytest.mark.parametrize("prompt", ["Once upon a time", "how"])
def test_example_of_the_card_runs(
    prompt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = random_base("gpt2", char_tokenizer(["how are `you`?\n"], end_of_text=True))
    card = dataclasses.replace(make_card(base, None, "float32"), sample=SampleConfig(prompt=prompt))
    write_hf(base, tmp_path, "float32", card)
    readme = (tmp_path / "README.md").read_text("utf-8")
    assert "Characters that were not in its text are an error here" in readme
    monkeypatch.chdir(tmp_path)
    with quietly():
        exec(readme.partition("```python\n")[2].partition("```")[0], {})  # noqa: S102 - it is ours
    assert capsys.readouterr().out.startswith("how" if prompt == "how" else "")


def test_another_shape_of_logits_and_another_writing_are_noticed() -> None:
    ours = hf._Ours([1, 2], torch.zeros(2, 3), [1], [2, 0], torch.tensor([[0.0, 1.0, 1.00001], [1.0, 0.0, 0.0]]))
    with pytest.raises(ExportError, match=r"logits \(2, 4\), not \(2, 3\)"):
        hf._compare_logits(ours, torch.zeros(2, 4), "float32")
    with pytest.raises(ExportError, match="differ from ours by up to nan"):
        hf._compare_logits(ours, torch.full((2, 3), torch.nan), "float32")
    assert hf._compare_greedy(ours, [2, 0]) == "It goes on with the same 2 likeliest tokens."
    assert "same 0 likeliest tokens, then with one that ties" in hf._compare_greedy(ours, [1, 0])
    for other in ([0, 0], [2], [2, 1]):
        with pytest.raises(ExportError, match="goes on with other tokens"):
            hf._compare_greedy(ours, other)


@pytest.mark.parametrize("block_size", [1, 2, 7])
def test_shortest_contexts_can_be_exported(block_size: int, tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    base = random_base("gpt2", tokenizers["char"], block_size=block_size)
    assert len(export(base, "hf", tmp_path / "out").checks) == 4


def test_pretrained_tokenizer_goes_along_with_its_special_tokens(pretrained: Tokenizer, tmp_path: Path) -> None:
    base = random_base("modern", pretrained, chat=True)
    assert len(export(base, "hf", tmp_path / "out").checks) == 5
    model, tokenizer = load(tmp_path / "out")
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == pretrained.end_of_text
    assert tokenizer.eos_token_id == model.generation_config.eos_token_id == pretrained.end_of_text
    assert "The text `<|im_end|>` inside of a prompt" in (tmp_path / "out" / "README.md").read_text("utf-8")


# Loads an export as its card says, without anything of gptcli.
PLAIN = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
inputs = tokenizer("The", return_tensors="pt")
print(len(model.generate(**inputs)[0]) > 1, model.generate().shape[0], "gptcli" in sys.modules)
"""


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["gpt2", "modern"])
def test_export_is_loaded_by_a_program_that_has_no_gptcli(
    shape: str, tokenizers: dict[str, Tokenizer], tmp_path: Path
) -> None:
    export(random_base(shape, tokenizers["bpe"]), "hf", tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PLAIN, str(tmp_path / "out")],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )
    assert done.stdout.split() == ["True", "1", "False"], done.stderr
