from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from gptcli.config import GPT2_NAMES, ModelConfig, SampleConfig
from gptcli.errors import FormatError, RunError, TokenizerError
from gptcli.interchange import to_transformers_config
from gptcli.pretrained import GPT2_GIGABYTES, load_folder, load_pretrained
from gptcli.sample import generate

ROOT = Path(__file__).resolve().parents[1]
GPT2 = ModelConfig(family="gpt2", n_layer=2, n_head=2, n_embd=8, block_size=16, vocab_size=50_257, bias=True)
MODERN = ModelConfig(n_layer=2, n_head=4, n_kv_head=2, n_embd=16, block_size=16, vocab_size=50_257)
SMALL = {"gpt2": GPT2.model_copy(update={"vocab_size": 31}), "modern": MODERN.model_copy(update={"vocab_size": 31})}
FAMILIES = pytest.mark.parametrize("family", ["gpt2", "modern"])


@pytest.fixture
def gpt2_vocabulary(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """GPT-2's vocabulary without a network; returns the folder."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken"))
    return shared_data / "tiktoken"


def save(config: ModelConfig, folder: Path, **how: Any) -> Any:  # noqa: ANN401 - transformers' models have no types
    """Save a random model as a user of transformers does; returns theirs."""
    torch.manual_seed(5)
    theirs_class: Any = transformers.GPT2LMHeadModel if config.family == "gpt2" else transformers.Qwen3ForCausalLM
    theirs = theirs_class(to_transformers_config(config)).eval()
    theirs.save_pretrained(folder, **how)
    return theirs


def rewrite_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


@pytest.mark.parametrize("config", [GPT2, MODERN], ids=["gpt2", "modern"])
def test_folder_by_save_pretrained_gives_its_logits_and_writes(
    config: ModelConfig, tmp_path: Path, gpt2_vocabulary: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    theirs = save(config, tmp_path)
    capfd.readouterr()
    model, tokenizer = load_pretrained(str(tmp_path))
    assert capfd.readouterr() == ("", "")
    tokens = torch.from_numpy(tokenizer.encode("Mr. Leopold Bloom ate with relish").astype("int64"))[None]
    with torch.inference_mode():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=1e-5, rtol=1e-5)
    pieces = list(generate(model, tokenizer, "Mr. Leopold Bloom", SampleConfig(max_new_tokens=20)))
    assert len(pieces) == 20


@FAMILIES
def test_weights_of_any_vocabulary_are_loaded_ready_to_train(family: str, tmp_path: Path) -> None:
    theirs = save(SMALL[family], tmp_path)
    model = load_folder(tmp_path)
    shutil.rmtree(tmp_path)
    tokens = torch.randint(31, (2, 12))
    torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=1e-5, rtol=1e-5)
    model(tokens, tokens).backward()
    with torch.no_grad():
        for p in model.parameters():
            assert p.grad is not None
            assert (p.device.type, p.dtype, p.is_contiguous()) == ("cpu", torch.float32, True)
            p.sub_(p.grad)


@FAMILIES
def test_half_precision_and_sharded_files_are_loaded_as_float32(family: str, tmp_path: Path) -> None:
    theirs = save(SMALL[family], tmp_path / "whole").to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "pieces", max_shard_size="2KB")
    assert len(list((tmp_path / "pieces").glob("*.safetensors"))) > 1
    model = load_folder(tmp_path / "pieces")
    tokens = torch.randint(31, (1, 9))
    with torch.inference_mode():
        expected = theirs.to(torch.float32)(tokens).logits
        torch.testing.assert_close(model(tokens), expected, atol=1e-5, rtol=1e-5)


def test_folder_with_gpt2s_own_vocabulary_file_is_recognised(tmp_path: Path, gpt2_vocabulary: Path) -> None:
    save(GPT2, tmp_path)
    contents = [json.loads(path.read_bytes()) for path in gpt2_vocabulary.iterdir() if path.read_bytes()[:1] == b"{"]
    vocabulary = max(contents, key=len)
    assert len(vocabulary) == 50_257
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    assert load_pretrained(str(tmp_path))[1].name == "gpt2"
    swapped = {**vocabulary, "the": vocabulary["and"], "and": vocabulary["the"]}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": swapped}}), "utf-8")
    with pytest.raises(TokenizerError, match=r"50,257 tokens, which is not GPT-2's"):
        load_pretrained(str(tmp_path))


def test_model_with_another_vocabulary_needs_a_tokenizer_we_lack(tmp_path: Path) -> None:
    save(SMALL["modern"], tmp_path)
    with pytest.raises(TokenizerError, match=r"no tokenizer for this model's vocabulary of 31 tokens"):
        load_pretrained(str(tmp_path))


@pytest.mark.parametrize("content", ["[1]", "{}", '{"model": {"vocab": []}}', '{"model": 3}', "{"])
def test_damaged_vocabulary_file_is_refused(content: str, tmp_path: Path) -> None:
    save(GPT2, tmp_path)
    (tmp_path / "tokenizer.json").write_text(content, "utf-8")
    with pytest.raises(FormatError, match=r"tokenizer\.json"):
        load_pretrained(str(tmp_path))


def test_another_class_is_named_and_refused(tmp_path: Path) -> None:
    transformers.LlamaConfig(architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)
    with pytest.raises(FormatError, match=r"LlamaForCausalLM was found; gptcli reads GPT2LMHeadModel and Qwen3"):
        load_pretrained(str(tmp_path))


@FAMILIES
def test_missing_tensor_is_refused_and_not_drawn_at_random(family: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save(SMALL[family], tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in sorted(tensors) if ".1." in name)
    kept = {name: tensor for name, tensor in tensors.items() if name != gone}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FormatError) as caught:
        load_folder(tmp_path)
    assert gone in caught.value.message


@pytest.mark.parametrize(
    "change",
    [{"n_embd": 12}, {"n_layer": 3}, {"n_head": "two"}, {"n_head": 3}, {"vocab_size": 40}, {"n_layer": None}],
    ids=str,
)
def test_config_that_does_not_fit_the_weights_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    save(SMALL["gpt2"], tmp_path)
    rewrite_config(tmp_path, **change)
    with pytest.raises(FormatError):
        load_folder(tmp_path)


@pytest.mark.parametrize("content", [b"", b"junk", b"\xff" * 100])
def test_damaged_weights_are_refused(content: bytes, tmp_path: Path) -> None:
    save(SMALL["gpt2"], tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(FormatError, match="the model cannot be read"):
        load_folder(tmp_path)


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    theirs = save(SMALL["gpt2"], tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(FormatError, match="the model cannot be read") as caught:
        load_folder(tmp_path)
    assert "model.safetensors" in caught.value.hint


@pytest.mark.parametrize(
    "content", ["[]", "{", "null", "\udcff", '{"model_type": ["gpt2"]}', '{"model_type": "gpt2", "vocab_size": "x"}']
)
def test_damaged_config_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content, "utf-8", "surrogateescape")
    with pytest.raises(FormatError, match=r"config\.json|a model of class \['gpt2'\]|class gpt2"):
        load_pretrained(str(tmp_path))


def test_unknown_name_is_answered_with_the_names_there_are(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="'gtp2-xl' is neither a published model") as caught:
        load_pretrained("gtp2-xl")
    assert caught.value.hint == "Did you mean gpt2-xl?"
    with pytest.raises(RunError, match=r"gpt2, gpt2-medium, gpt2-large, gpt2-xl\) nor a folder with a config.json"):
        load_pretrained(str(tmp_path))


def test_every_published_name_has_its_size() -> None:
    assert tuple(GPT2_GIGABYTES) == GPT2_NAMES


class Hub(BaseHTTPRequestHandler):
    """Serves one folder as the repository openai-community/gpt2, by the part of the hub's protocol that is needed."""

    def __init__(self, folder: Path, *args: Any) -> None:  # noqa: ANN401
        self.folder = folder
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        content = self.answer()
        self.wfile.write(content)

    def answer(self) -> bytes:
        prefix = "/openai-community/gpt2/resolve/main/"
        file = self.folder / self.path.removeprefix(prefix)
        found = self.path.startswith(prefix) and file.is_file()
        content = file.read_bytes() if found else b""
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", "0" * 40)
        if found:
            self.send_header("ETag", f'"{file.name}-{len(content)}"')
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        return content

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


# Loads gpt2 and prints its shape, or the error; where the hub is and whether to ask it is read from the environment.
LOAD = """
from gptcli.errors import GptcliError
from gptcli.pretrained import load_pretrained
try:
    model, tokenizer = load_pretrained("gpt2", on_notice=lambda text: print("notice:", text))
    print(model.config.n_layer, model.config.n_embd, tokenizer.name)
except GptcliError as error:
    print(type(error).__name__, error.message, error.hint, sep="|")
"""


def load_elsewhere(cache: Path, vocabulary: Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Load gpt2 in a process of its own: the hub's settings are read when its package is imported."""
    fixed = {"HF_HOME": str(cache), "TIKTOKEN_CACHE_DIR": str(vocabulary), "HF_HUB_DISABLE_XET": "1"}
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", LOAD],
        env={**kept, **fixed, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", **environment},
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=120,
    )


@pytest.mark.slow
def test_published_model_is_downloaded_once_then_taken_from_the_cache(
    tmp_path: Path, hub: str, gpt2_vocabulary: Path
) -> None:
    save(GPT2, tmp_path / "served")
    work = tmp_path / "work"
    work.mkdir()
    first = load_elsewhere(tmp_path / "cache", gpt2_vocabulary, work, HF_ENDPOINT=hub)
    assert first.stdout.splitlines() == ["notice: Downloading gpt2 (about 0.5 GB).", "2 8 gpt2"], first.stderr
    again = load_elsewhere(tmp_path / "cache", gpt2_vocabulary, work, HF_HUB_OFFLINE="1")
    assert (again.stdout, again.stderr) == ("2 8 gpt2\n", "")


@pytest.mark.slow
def test_published_model_without_network_says_what_is_needed_and_where_to_put_it(
    tmp_path: Path, gpt2_vocabulary: Path
) -> None:
    offline = load_elsewhere(tmp_path / "cache", gpt2_vocabulary, tmp_path, HF_HUB_OFFLINE="1")
    name, message, hint = offline.stdout.splitlines()[-1].split("|")
    assert name == "RunError"
    assert message.startswith("The weights of gpt2 are neither in the local cache nor to be had from the network (")
    assert "HF_HOME" in hint
    assert "save_pretrained" in hint
    assert "Traceback" not in offline.stderr
