from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch

from gptcli.bases.base import Base, build_model
from gptcli.bases.opening import describe_base, open_base
from gptcli.config import GPT2_NAMES, FinetuneConfig, ModelConfig, RunProfile
from gptcli.errors import FormatError, RunError
from gptcli.files import read_json, write_json
from gptcli.finetune import create_finetune
from gptcli.plan import count_parameters
from gptcli.restore import load_model
from gptcli.runs import RunDir, create_run
from gptcli.shards import TokenDataset
from gptcli.tokenizer import save_tokenizer
from gptcli.train import train
from tests.bases.saved import GPT2, save_model


@pytest.fixture
def run(
    tmp_path: Path, tiny_dataset: TokenDataset, tiny_profile: RunProfile, monkeypatch: pytest.MonkeyPatch
) -> RunDir:
    """A trained run, found by its name from the working directory."""
    monkeypatch.chdir(tmp_path)
    made = create_run(tiny_profile, profile_name="tiny", dataset=tiny_dataset, name="mine")
    with contextlib.closing(train(made)) as events:
        list(events)
    return made


def same_weights(base: Base, model: torch.nn.Module) -> bool:
    expected = model.state_dict()
    return set(base.weights) == set(expected) and all(torch.equal(base.weights[n], expected[n]) for n in expected)


def test_run_is_opened_by_name_and_by_path(run: RunDir) -> None:
    for name in ("mine", "runs/mine"):
        base = open_base(name)
        model, tokenizer, step = load_model(run, "best")
        assert same_weights(base, model)
        assert (base.name, base.kind, base.config) == (name, "run", run.profile().model)
        assert (base.tokenizer.fingerprint, base.chat) == (tokenizer.fingerprint, None)
        facts = {"run": "mine", "step": step, "corpus": "tiny", "tokenizer": tokenizer.fingerprint}
        assert base.origin == facts


def test_best_or_latest_of_a_run_is_opened(run: RunDir) -> None:
    latest = open_base("mine", which="latest")
    assert latest.origin["step"] == run.profile().train.max_steps
    assert same_weights(latest, load_model(run, "latest")[0])


def test_run_called_like_a_published_model_comes_first_and_is_named(run: RunDir) -> None:
    said: list[str] = []
    open_base("mine", on_notice=said.append)
    assert said == []
    run.path.rename(run.path.with_name("gpt2"))
    assert open_base("gpt2", on_notice=said.append).kind == "run"
    assert said == ["gpt2 is your run here; the published model is openai-community/gpt2."]


def test_folder_by_save_pretrained_is_opened(
    tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken"))
    save_model(GPT2, tmp_path / "model")
    assert open_base(str(tmp_path / "model")).kind == "folder"
    facts = describe_base(str(tmp_path / "model"))
    assert (facts.config, facts.download_bytes, facts.stored_dtype) == (GPT2, 0, "float32")
    assert facts.where == "on this machine"


@pytest.fixture
def exported(run: RunDir, tmp_path: Path) -> Path:
    """The run as ``gptcli export --format safetensors`` writes it."""
    from safetensors.torch import save_file

    base, folder = open_base("mine"), tmp_path / "exported"
    folder.mkdir()
    about = {"model": base.config.model_dump(mode="json"), "dtype": "float32", "chat": {"user_start": "You: "}}
    write_json(folder / "model.json", {"format_version": 1, **about, "origin": dict(base.origin)})
    save_tokenizer(base.tokenizer, folder / "tokenizer.json")
    save_file({name: base.weights[name].contiguous() for name in base.weights}, folder / "model.safetensors")
    return folder


def test_own_export_is_opened(exported: Path) -> None:
    base = open_base(str(exported))
    assert same_weights(base, build_model(open_base("mine")))
    assert (base.kind, base.config) == ("gptcli", open_base("mine").config)
    assert base.chat is not None
    assert base.chat.user_start == "You: "
    assert base.origin == {"folder": str(exported), **open_base("mine").origin}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format_version": 7}, "format_version 7"),
        ({"model": {"n_layer": "x"}}, "is damaged"),
        ({"model": None}, "is damaged"),
        ({"chat": {"nobody_start": ""}}, "is damaged"),
        ({"chat": 3}, "is damaged"),
        ({"chat": {"user_start": 5}}, r"is damaged \(chat\.user_start should be a string\)"),
        ({"n_layer": 2}, "missing blocks.1"),
        ({"n_layer": 10**8}, "n_layer Input should be less than or equal to 1000"),
        ({"n_embd": 10**12}, "is damaged"),
        ({"n_embd": 10**30, "n_head": 1}, "is damaged"),
        ({"n_inner": 10**18}, "is damaged"),
        ({"block_size": 2**27}, "block_size Input should be less than or equal to 1048576"),
        ({"block_size": 2**20, "head_dim": 256}, "block_size 1048576 x head_dim 256 is more than 134217728"),
        ({"rope_theta": 10**400}, "is damaged"),
        ({"vocab_size": 5}, r"tokenizer has \d+ tokens, the model has 5"),
    ],
    ids=str,
)
def test_damaged_own_export_is_refused(changes: dict[str, object], reason: str, exported: Path) -> None:
    about = read_json(exported / "model.json", format_version=1, what="it")
    inside = {key: value for key, value in changes.items() if key in ModelConfig.model_fields}
    outside = {key: value for key, value in changes.items() if key not in inside}
    write_json(exported / "model.json", {**about, "model": {**about["model"], **inside}, **outside})
    with pytest.raises(FormatError, match=reason):
        open_base(str(exported))


@pytest.mark.parametrize("finetune", [{}, {"lora_rank": 2}], ids=["whole", "lora"])
def test_length_that_a_base_claims_costs_nothing_where_the_run_has_a_shorter_one(
    finetune: dict[str, int], exported: Path, tiny_dataset: TokenDataset, tiny_profile: RunProfile
) -> None:
    about = read_json(exported / "model.json", format_version=1, what="it")
    write_json(exported / "model.json", {**about, "model": {**about["model"], "block_size": 2**20}})
    base = open_base(str(exported))
    assert (base.config.family, base.config.block_size) == ("modern", 2**20)
    tuned = tiny_profile.model_copy(update={"finetune": FinetuneConfig.model_validate(finetune)})
    created = create_finetune(tuned, base, profile_name="tiny", dataset=tiny_dataset, name="tuned")
    assert created.profile().model.block_size == tiny_profile.model.block_size


def test_name_that_stands_for_nothing_is_answered_with_near_ones(run: RunDir) -> None:
    with pytest.raises(
        RunError, match="'gtp2-xl' is neither a run nor a folder of a model nor a published one"
    ) as caught:
        open_base("gtp2-xl")
    assert "Did you mean gpt2-xl" in caught.value.hint
    assert "gptcli runs list" in caught.value.hint
    with pytest.raises(RunError) as caught:
        describe_base("mein")
    assert "Did you mean mine?" in caught.value.hint


def test_path_that_is_no_model_is_told_what_is_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ckpt.pt").write_bytes(b"PK\x03\x04")
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for folder, file in (("x-gguf", "x.gguf"), ("x-nanogpt", "ckpt.pt"), ("out", "ckpt2.pt"), ("x-gguf", "Modelfile")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / file).write_bytes(b"")
    for name, answer in (
        ("empty", "neither config.json"),
        ("x-gguf", "x-gguf: this is GGUF, for llama.cpp"),
        ("x-gguf/x.gguf", "x.gguf: this is GGUF, for llama.cpp"),
        ("x-nanogpt", f"nanogpt:{Path('x-nanogpt/ckpt.pt')}"),
        ("out/ckpt.pt", f"There is no file out/ckpt.pt. Did you mean nanogpt:{Path('out/ckpt2.pt')}?"),
        ("x-nanogtp/ckpt.pt", "There is no file x-nanogtp/ckpt.pt. A checkpoint of nanoGPT is given as nanogpt:FILE."),
        ("./x-nanogtp", f"Did you mean {Path('x-nanogpt')}"),
        ("ckpt.pt", "give nanogpt:ckpt.pt"),
        ("model.safetensors", "Try its folder"),
        ("a/b/c", "OWNER/NAME"),
        ("nanogpt:nowhere.pt", "nowhere.pt"),
    ):
        with pytest.raises(RunError) as caught:
            open_base(name)
        assert answer in f"{caught.value.message} {caught.value.hint}"


def test_published_models_are_known_by_heart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    millions = {"gpt2": 124, "gpt2-medium": 355, "gpt2-large": 774, "gpt2-xl": 1558, "Qwen/Qwen3-0.6B-Base": 596}
    for name, n_params in millions.items():
        facts = describe_base(name)
        counted = count_parameters(facts.config)
        assert round(counted / 1e6) == n_params
        size = {"float32": 4, "bfloat16": 2}[facts.stored_dtype]
        assert 1 <= facts.download_bytes / (size * counted) < 1.15  # the published GPT-2 files hold masks too
        assert facts.where.startswith("to be downloaded from ")
    assert {*GPT2_NAMES} < set(millions)


def test_names_that_begin_with_what_was_typed_are_offered(run: RunDir) -> None:
    run.path.rename(run.path.with_name("small-quickstart"))
    for typed in ("smal", "SMALL-", "small"):
        with pytest.raises(RunError) as caught:
            open_base(typed)
        assert "Did you mean small-quickstart?" in caught.value.hint
    with pytest.raises(RunError) as caught:
        open_base("quick")
    assert "Did you mean" not in caught.value.hint
