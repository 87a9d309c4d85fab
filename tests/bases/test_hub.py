"""Models by name: from a hub on loopback behind ``HF_ENDPOINT``, from its cache, and what is said without either."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from gptcli.bases.hub import _check_disk
from gptcli.config import ModelConfig
from gptcli.errors import RunError
from tests.bases.model_hub import COMMIT, ModelHub, serve
from tests.bases.saved import GPT2, MODERN, qwen_tokenizer, rewrite_json, save_model, save_tokenizer_of_qwen

pytestmark = pytest.mark.slow  # each asks in processes of its own, which import torch

ROOT = Path(__file__).resolve().parents[2]
QWEN = "Qwen/Qwen3-0.6B-Base"
PROMPT = "Mr. Leopold Bloom ate"
# Opens names and prints what became of each, a JSON line each. A process of its own, because the settings of the hub
# are read from the environment when its library is imported.
PROBE = """
import json, sys, torch
from gptcli.bases.base import build_model
from gptcli.bases.opening import describe_base, open_base
from gptcli.config import SampleConfig
from gptcli.errors import GptcliError
from gptcli.sample import generate
torch.set_num_threads(1)
for name in sys.argv[2:]:
    notices, shown = [], []
    found = {"notices": notices, "shown": shown}
    try:
        if sys.argv[1] == "describe":
            facts = describe_base(name)
            found |= {"n_embd": facts.config.n_embd, "bytes": facts.download_bytes, "dtype": facts.stored_dtype}
            found |= {"where": facts.where}
        else:
            base = open_base(name, on_notice=notices.append, on_progress=shown.append)
            model = build_model(base)
            ids = base.tokenizer.encode(sys.argv[1])
            with torch.inference_mode():
                logits = model(torch.tensor([ids.tolist()]))
            config = SampleConfig(max_new_tokens=8, temperature=0)
            written = [piece.token_id for piece in generate(model, base.tokenizer, sys.argv[1], config)]
            found |= {"ids": ids.tolist(), "logits": logits[0, -1].tolist(), "written": written, "kind": base.kind}
            found |= {"origin": dict(base.origin), "tokenizer": base.tokenizer.name, "notes": base.notes}
    except GptcliError as error:
        found |= {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    print(json.dumps(found))
"""


@dataclass(frozen=True)
class Workplace:
    """A cache of its own, and an empty folder to work in."""

    cache: Path
    folder: Path
    vocabulary: Path

    def ask(self, what: str, *names: str, **environment: str) -> list[dict[str, Any]]:
        """Open (``what`` is a prompt) or describe names in a process of its own; returns what became of each."""
        fixed = {"HF_HOME": str(self.cache), "TIKTOKEN_CACHE_DIR": str(self.vocabulary), "HF_HUB_DISABLE_XET": "1"}
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.lower().endswith("_proxy") and not name.startswith("HF_")
        }
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", PROBE, what, *names],
            env={**kept, **fixed, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", **environment},
            cwd=self.folder,
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=300,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def place(tmp_path: Path, shared_data: Path) -> Workplace:
    (tmp_path / "work").mkdir()
    return Workplace(tmp_path / "cache", tmp_path / "work", shared_data / "tiktoken")


@pytest.fixture
def hub() -> Iterator[ModelHub]:
    with serve() as served:
        yield served


def check_equal(found: dict[str, Any], theirs: Any, rows: int) -> None:  # noqa: ANN401 - transformers has no types
    """Compare logits and greedy tokens with transformers' model of the same weights."""
    tokens = torch.tensor([found["ids"]])
    with torch.inference_mode():
        expected = theirs(tokens).logits[0, -1, :rows]
        written = theirs.generate(tokens, max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=None)
    torch.testing.assert_close(torch.tensor(found["logits"]), expected, atol=1e-5, rtol=1e-5)
    assert found["written"] == written[0, tokens.size(1) :].tolist()


@pytest.mark.parametrize("repository", ["openai-community/gpt2", "gpt2"])
def test_gpt2_is_downloaded_once_then_taken_from_the_cache(
    repository: str, place: Workplace, hub: ModelHub, tmp_path: Path
) -> None:
    theirs = save_model(GPT2, tmp_path / "served")
    hub.repositories[repository] = tmp_path / "served"
    (first,) = place.ask(PROMPT, "gpt2", HF_ENDPOINT=hub.url)
    check_equal(first, theirs, 50_257)
    assert first["notices"] == [f"Downloading {repository}: 0.00 GB."]
    assert any("model.safetensors" in line for line in first["shown"])
    assert first["origin"] == {"repository": repository, "revision": COMMIT}
    assert (first["kind"], first["tokenizer"]) == ("published", "gpt2")
    assert sorted(hub.sent) == ["config.json", "model.safetensors"]
    (again,) = place.ask(PROMPT, "gpt2", HF_HUB_OFFLINE="1")
    assert (again["logits"], again["written"]) == (first["logits"], first["written"])
    assert (again["notices"], again["origin"]) == ([], first["origin"])


def test_qwen3_is_downloaded_in_pieces_with_its_tokenizer(place: Workplace, hub: ModelHub, tmp_path: Path) -> None:
    config = MODERN.model_copy(update={"vocab_size": 320})
    theirs = save_model(config, tmp_path / "served", max_shard_size="20KB")
    tokenizer = qwen_tokenizer([PROMPT * 9], 300)
    save_tokenizer_of_qwen(tokenizer, tmp_path / "served")
    hub.repositories[QWEN] = tmp_path / "served"
    (described,) = place.ask("describe", QWEN, HF_ENDPOINT=hub.url)
    assert hub.sent == []
    assert (described["n_embd"], described["bytes"], described["dtype"]) == (1024, 1_192_135_096, "bfloat16")
    (first,) = place.ask(PROMPT, QWEN, HF_ENDPOINT=hub.url)
    check_equal(first, theirs, tokenizer.get_vocab_size())
    assert first["tokenizer"] == "pretrained"
    assert len([name for name in hub.sent if name.endswith(".safetensors")]) > 1
    hub.sent.clear()
    (again,) = place.ask(PROMPT, QWEN, HF_ENDPOINT=hub.url)
    assert (again["written"], hub.sent) == (first["written"], [])  # nothing is asked for again
    (described,) = place.ask("describe", QWEN, HF_HUB_OFFLINE="1")
    assert (described["n_embd"], described["bytes"], described["where"]) == (16, 0, "in the local cache")


def test_another_name_is_described_by_its_config_alone(place: Workplace, hub: ModelHub, tmp_path: Path) -> None:
    save_model(MODERN.model_copy(update={"vocab_size": 320}), tmp_path / "served")
    hub.repositories["some-one/small.model"] = tmp_path / "served"
    (found,) = place.ask("describe", "some-one/small.model", HF_ENDPOINT=hub.url)
    size = (tmp_path / "served" / "model.safetensors").stat().st_size
    assert (found["n_embd"], found["bytes"], found["dtype"]) == (16, size, "float32")
    assert hub.sent == ["config.json"]


def test_half_downloaded_cache_is_named_then_completed(place: Workplace, hub: ModelHub, tmp_path: Path) -> None:
    theirs = save_model(GPT2, tmp_path / "served", max_shard_size="500KB")
    hub.repositories["openai-community/gpt2"] = tmp_path / "served"
    place.ask(PROMPT, "gpt2", HF_ENDPOINT=hub.url)
    snapshot = next(place.cache.rglob(f"snapshots/{COMMIT}"))
    shard = max(snapshot.glob("*.safetensors"))
    shard.resolve().unlink()
    shard.unlink()
    (offline,) = place.ask(PROMPT, "gpt2", HF_HUB_OFFLINE="1")
    assert offline["error"] == "UnreachableError"
    assert f"in the local cache is not whole: {shard.name} is missing" in offline["message"]
    assert "HF_HUB_OFFLINE is set" in offline["message"]
    hub.sent.clear()
    (whole,) = place.ask(PROMPT, "gpt2", HF_ENDPOINT=hub.url)
    check_equal(whole, theirs, 50_257)
    assert hub.sent == [shard.name]


def test_refusals_of_the_hub_are_told_apart(place: Workplace, hub: ModelHub, tmp_path: Path) -> None:
    save_model(GPT2, tmp_path / "pickled", safe_serialization=True)
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    hub.repositories |= {"a/gated": "gated", "a/private": "private", "a/pickled": tmp_path / "pickled"}
    names = ("a/gated", "a/private", "a/unknown", "a/pickled", "a/b--c..d", "gpt2-xl")
    gated, private, unknown, pickled, impossible, not_there = place.ask(PROMPT, *names, HF_ENDPOINT=hub.url)
    assert "a/gated is gated" in gated["message"]
    assert "hf auth login" in gated["hint"]
    for found, name in ((private, "a/private"), (unknown, "a/unknown"), (not_there, "gpt2-xl")):
        assert found["message"] == f"{hub.url} has no model {name}, or it is private."
        assert "hf auth login" in found["hint"]
    assert pickled["error"] == "FormatError"
    assert "a/pickled has no model.safetensors" in pickled["message"]
    assert "save_pretrained" in pickled["hint"]
    assert "'a/b--c..d' cannot be a model's name on the hub" in impossible["message"]
    assert "pytorch_model.bin" not in hub.sent


def test_without_a_hub_it_is_said_what_is_needed_and_where_to_put_it(place: Workplace, hub: ModelHub) -> None:
    (unreachable,) = place.ask(PROMPT, "gpt2", HF_ENDPOINT="http://127.0.0.1:9")
    (offline,) = place.ask(PROMPT, "gpt2", HF_HUB_OFFLINE="1")
    for found, why in (
        (unreachable, "http://127.0.0.1:9 cannot be reached ("),
        (offline, "HF_HUB_OFFLINE is set"),
    ):
        assert found["error"] == "UnreachableError"
        assert "is not in the local cache" in found["message"]
        assert why in found["message"]
        assert "HF_HOME" in found["hint"]
        assert "save_pretrained" in found["hint"]


def test_hub_that_answers_with_an_error_is_not_called_unreachable(place: Workplace, hub: ModelHub) -> None:
    hub.repositories |= {"a/down": "down", "a/token": "token"}
    down, token = place.ask(PROMPT, "a/down", "a/token", HF_ENDPOINT=hub.url)
    for found, status in ((down, "500"), (token, "403")):
        assert f"is not in the local cache, and {hub.url} answers with an error (" in found["message"]
        assert status in found["message"]
    assert down["hint"] == "Type the same again later."
    assert "hf auth login" in token["hint"]


def test_name_beside_a_folder_that_is_here_is_called_a_path_first(place: Workplace, hub: ModelHub) -> None:
    (place.folder / "exports" / "novel-lora-hf").mkdir(parents=True)
    asked = ("exports/novel-lora-hff", "elsewhere/novel-lora-hff")
    (here, there) = place.ask(PROMPT, *asked, HF_ENDPOINT=hub.url)
    (unreachable,) = place.ask("describe", asked[0], HF_HUB_OFFLINE="1")
    for found in (here, unreachable):
        assert found["message"].startswith("There is no folder or run exports/novel-lora-hff here. ")
        assert found["hint"].startswith(f"Did you mean {Path('exports/novel-lora-hf')}? ")
    assert there["message"] == f"{hub.url} has no model elsewhere/novel-lora-hff, or it is private."


@pytest.mark.parametrize(
    ("name", "what"), [("model.safetensors", PROMPT), ("config.json", PROMPT), ("config.json", "describe")]
)
def test_damaged_file_in_the_cache_is_answered_with_the_way_to_get_it_again(
    name: str, what: str, place: Workplace, hub: ModelHub, tmp_path: Path
) -> None:
    theirs = save_model(GPT2, tmp_path / "served")
    hub.repositories["o/trunc"] = tmp_path / "served"
    place.ask(PROMPT, "o/trunc", HF_ENDPOINT=hub.url)
    file = next(place.cache.rglob(name))
    file.write_bytes(file.read_bytes()[:-9])
    (damaged,) = place.ask(what, "o/trunc", HF_ENDPOINT=hub.url)
    assert damaged["error"] == "FormatError"
    folder = damaged["hint"].partition('rm -r "')[2].partition('"')[0]
    assert Path(folder).name == "models--o--trunc"
    shutil.rmtree(folder)
    (found,) = place.ask(PROMPT, "o/trunc", HF_ENDPOINT=hub.url)
    check_equal(found, theirs, 50_257)


def test_sizes_that_no_model_has_are_refused_before_anything_is_planned(
    place: Workplace, hub: ModelHub, tmp_path: Path
) -> None:
    save_model(GPT2, tmp_path / "served")
    rewrite_json(tmp_path / "served" / "config.json", n_embd=10**12, n_head=1)
    hub.repositories["o/huge"] = tmp_path / "served"
    (described,) = place.ask("describe", "o/huge", HF_ENDPOINT=hub.url)
    assert described["error"] == "FormatError"
    assert "n_embd: Input should be less than or equal to" in described["message"]


def test_too_small_a_disk_is_noticed_before_anything_is_downloaded(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--a--b" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    _check_disk("a/b", 1, snapshot)
    with pytest.raises(RunError, match=r"not enough room on the disk for 1000000000\.00 GB of a/b") as caught:
        _check_disk("a/b", 10**18, snapshot)
    assert "HF_HOME" in caught.value.hint


def test_tokenizer_that_a_cache_lacks_is_fetched_for_it(place: Workplace, hub: ModelHub, tmp_path: Path) -> None:
    config: ModelConfig = MODERN.model_copy(update={"vocab_size": 320})
    save_model(config, tmp_path / "served")
    hub.repositories[QWEN] = tmp_path / "served"
    save_tokenizer_of_qwen(qwen_tokenizer([PROMPT * 9], 300), tmp_path / "served")
    (found,) = place.ask(PROMPT, QWEN, HF_ENDPOINT=hub.url)
    assert found["tokenizer"] == "pretrained"
    tokenizer = next(place.cache.rglob("tokenizer.json"))
    tokenizer.resolve().unlink()
    tokenizer.unlink()
    (offline,) = place.ask(PROMPT, QWEN, HF_HUB_OFFLINE="1")
    assert "tokenizer.json is missing, and HF_HUB_OFFLINE is set" in offline["message"]
    hub.sent.clear()
    (found,) = place.ask(PROMPT, QWEN, HF_ENDPOINT=hub.url)
    assert (found["tokenizer"], hub.sent) == ("pretrained", ["tokenizer.json"])


def test_weights_that_cannot_be_used_are_not_downloaded(place: Workplace, hub: ModelHub, tmp_path: Path) -> None:
    save_model(MODERN.model_copy(update={"vocab_size": 320}), tmp_path / "served")
    other = tmp_path / "llama"
    transformers.LlamaConfig(architectures=["LlamaForCausalLM"]).save_pretrained(other)
    (other / "model.safetensors").write_bytes((tmp_path / "served" / "model.safetensors").read_bytes())
    hub.repositories |= {"a/llama": other, "a/tokenless": tmp_path / "served"}
    llama, tokenless = place.ask(PROMPT, "a/llama", "a/tokenless", HF_ENDPOINT=hub.url)
    assert "LlamaForCausalLM was found; gptcli reads GPT2LMHeadModel and Qwen3ForCausalLM" in llama["message"]
    assert "there is no tokenizer.json" in tokenless["message"]
    assert hub.sent == ["config.json"] * 2
