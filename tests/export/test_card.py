from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gptcli.bases.base import Base
from gptcli.bases.run import open_run
from gptcli.config import DataConfig, RunProfile
from gptcli.data_facts import without_folders
from gptcli.documents import document, to_json
from gptcli.export.card import inert, inert_address, make_card
from gptcli.fetch.fetching import fetch
from gptcli.prepare import prepare
from gptcli.runs import RunDir, create_run
from gptcli.shards import open_dataset
from gptcli.train import train

HOSTILE = (
    "Evil --- title\n---\nlicense: mit\n# <script>alert(1)</script> [x](javascript:1) ![i](http://x/y) `a` *b* \u202e"
)


def make_run(folder: Path, profile: RunProfile, texts: dict[str, str], licence: str = "") -> RunDir:
    """Fetch texts, prepare them and train on them: a run in ``folder/runs/r``."""
    (folder / "texts").mkdir()
    for name, text in texts.items():
        (folder / "texts" / name).write_text(text, "utf-8")
    fetch(str(folder / "texts"), name="stories", corpora_dir=folder / "corpora")
    if licence:
        source = folder / "corpora" / "stories" / "source.json"
        source.write_text(
            json.dumps({**json.loads(source.read_bytes()), "checksum": None, "licence": licence}), "utf-8"
        )
    tokens = prepare("stories", DataConfig(tokenizer="char", split_at=0.9), corpora_dir=folder / "corpora").folder
    run = create_run(profile, profile_name="tiny", dataset=open_dataset(tokens), runs_dir=folder / "runs", name="r")
    with contextlib.closing(train(run)) as events:
        list(events)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    from pydoc_data.topics import topics

    from gptcli.config import ModelConfig, SampleConfig, TrainConfig

    profile = RunProfile(
        model=ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=16),
        train=TrainConfig(batch_size=4, max_steps=6, warmup_steps=1, eval_interval=3, device="cpu"),
        sample=SampleConfig(prompt="The ", temperature=0.7),
    )
    texts = {"class.txt": topics["class"], "for.txt": topics["for"]}
    return make_run(tmp_path_factory.mktemp("card"), profile, texts, licence="CC-BY-4.0")


@pytest.fixture
def base(run: RunDir) -> Base:
    return open_run(run, "r")


def front(markdown: str) -> dict[str, Any]:
    parts = markdown.split("---\n")
    assert parts[0] == ""
    content = yaml.safe_load(parts[1])
    assert isinstance(content, dict)
    return content


def test_card_says_what_the_run_saw_how_it_went_and_how_good_it_is(run: RunDir, base: Base) -> None:
    text = make_card(base, run, "float32").markdown("Load it so.", library="transformers", tags=("x",))
    manifest, events = run.manifest(), list(metrics(run))
    best = next(event for event in events if event["event"] == "evaluated" and event["step"] == base.origin["step"])
    assert front(text) == {
        "pipeline_tag": "text-generation",
        "license": "cc-by-4.0",
        "tags": ["gptcli", "text-generation", "x"],
        "library_name": "transformers",
    }
    for line in (
        "# r",
        "Load it so.",
        "* Corpus: stories",
        f"* To train on: {manifest.train.tokens:,} tokens, {manifest.train.bytes:,} bytes of text from 2 documents",
        "* Licence of the text: CC-BY-4.0",
        f"* Network: 1 layer, 2 heads, width 16, context 16 tokens, vocabulary {manifest.vocab_size}",
        "* Optimizer: muon with learning rate 0.02, adamw with learning rate 0.003, schedule wsd",
        "* Steps: 6 of 6, of 64 tokens each",
        f"* Tokens seen: {6 * 64}",
        f"* val_loss {best['val_loss']:.4f} ± {best['val_loss_stderr']:.4f} (standard error) nats a token of",
        f"* bits_per_byte {best['bits_per_byte']:.4f}, which compares between tokenizers",
    ):
        assert line in text, line
    assert "Do not rely on what it writes." in text
    assert "Source: texts, fetched on" in text


def metrics(run: RunDir) -> Iterator[dict[str, Any]]:
    for line in run.metrics_path.read_text("utf-8").splitlines():
        yield json.loads(line)


def test_no_folder_of_the_machine_gets_into_the_card(run: RunDir, base: Base, tmp_path: Path) -> None:
    text = make_card(base, run, "float32").markdown("")
    assert str(run.path.parent.parent) not in text
    other = Base(str(tmp_path / "m"), "folder", base.config, base.tokenizer, base.weights, {"folder": str(tmp_path)})
    card = make_card(other, None, "float16")
    assert card.name == "m"
    assert str(tmp_path) not in card.markdown("")
    assert f"folder {inert(tmp_path.name)}" in card.markdown("")
    assert "stored in float16" in card.markdown("")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2-xl", "gpt2-xl"),
        ("Qwen/Qwen3-0.6B-Base", "Qwen3-0.6B-Base"),
        ("nanogpt:out/ckpt.pt", "ckpt"),
        ("a b/ü$", "model"),
        ("..", "model"),
    ],
)
def test_card_has_a_name_that_can_be_a_file(name: str, expected: str, base: Base) -> None:
    other = Base(name, "published", base.config, base.tokenizer, base.weights)
    assert make_card(other, None, "float32").name == expected


def test_without_corpus_and_metrics_the_card_says_what_is_left(tmp_path: Path, tiny_profile: RunProfile) -> None:
    run = make_run(tmp_path, tiny_profile, {"a.txt": "One day it rained. " * 200})
    base = open_run(run, "r")
    documents = tmp_path / "corpora" / "stories" / "documents.jsonl"
    documents.write_bytes(documents.read_bytes() + b"{damaged\n")
    assert "Source: texts" in make_card(base, run, "float32").markdown("")
    (tmp_path / "corpora").rename(tmp_path / "gone")
    run.metrics_path.write_text('{"event": "evaluated"}\nnot json\n[]\n', "utf-8")
    text = make_card(base, run, "float32").markdown("")
    assert "## Results" not in text
    assert "* Licence of the text: not known" in text
    assert "* Corpus: stories" in text
    assert "license" not in front(text)
    run.metrics_path.unlink()
    assert "Tokens seen" not in make_card(base, run, "float32").markdown("")


def test_text_from_outside_is_inert(tmp_path: Path, tiny_profile: RunProfile) -> None:
    run = make_run(tmp_path, tiny_profile, {"a.txt": "One day it rained. " * 200})
    path = tmp_path / "corpora" / "stories" / "documents.jsonl"
    items = [
        document(
            f"Text {n}.", title=HOSTILE, author="A <b>", url=f"https://x.org/{n}", licence=HOSTILE, language="en-GB"
        )
        for n in range(30)
    ]
    path.write_text("".join(json.dumps(to_json(item)) + "\n" for item in items), "utf-8")
    text = make_card(open_run(run, "r"), run, "float32").markdown("")
    assert front(text)["license"] == "other"
    assert front(text)["language"] == "en"
    assert text.count("\n---\n") == 1
    assert "<script>" not in text
    listed = [line for line in text.splitlines() if "Evil" in line]
    assert not any(re.search(r"(?<!\\)[\[\]*`<]", line.partition("“")[2].partition("”")[0]) for line in listed)
    assert "<https://x.org/19>" in text
    assert "<https://x.org/20>" not in text
    assert "and 10 more documents" in text
    assert all(len(line) < 1500 for line in text.splitlines())


def test_conversations_are_counted(tmp_path: Path, tiny_profile: RunProfile) -> None:
    chats = [{"prompt": f"What is {n}?", "completion": f"It is {n}, as you know."} for n in range(300)]
    (tmp_path / "chats.jsonl").write_text("".join(f"{json.dumps(chat)}\n" for chat in chats), "utf-8")
    fetch(str(tmp_path / "chats.jsonl"), name="chats", corpora_dir=tmp_path / "corpora")
    tokens = prepare("chats", DataConfig(tokenizer="bpe:300"), corpora_dir=tmp_path / "corpora").folder
    run = create_run(
        tiny_profile, profile_name="tiny", dataset=open_dataset(tokens), runs_dir=tmp_path / "runs", name="r"
    )
    with contextlib.closing(train(run)) as events:
        list(events)
    text = make_card(open_run(run, "r"), run, "float32").markdown("")
    found = re.search(r"\* Conversations: (\d+), of which it learned the (\d+) answers", text)
    assert found is not None
    assert 200 < int(found[1]) == int(found[2]) < 300
    assert "more documents" not in text


def test_finetuned_run_names_what_it_began_from(tmp_path: Path, tiny_profile: RunProfile) -> None:
    run = make_run(tmp_path, tiny_profile, {"a.txt": "One day it rained. " * 200}, licence="MIT")
    assert front(make_card(open_run(run, "r"), run, "float32").markdown(""))["license"] == "mit"
    run.base_path.mkdir()
    origin = {"repository": "openai-community/gpt2", "revision": "abc"}
    parent: dict[str, Any] = {
        "format_version": 1,
        "name": "gpt2",
        "kind": "published",
        "origin": origin,
        "notes": [],
        "files": {},
    }
    (run.base_path / "base.json").write_text(json.dumps({**parent, "checksum": None}), "utf-8")
    first = {"event": "evaluated", "step": 0, "tokens_seen": 0, "val_loss": 5.25, "val_loss_stderr": 0.1}
    first |= {"bits_per_byte": 3.0, "perplexity": 190.0, "n_tokens": 30}
    run.metrics_path.write_text(f"{json.dumps(first)}\n{run.metrics_path.read_text('utf-8')}", "utf-8")
    text = make_card(open_run(run, "r"), run, "float32").markdown("")
    assert front(text)["base_model"] == "openai-community/gpt2"
    assert front(text)["license"] == "other"
    assert "* Finetuned from: gpt2 (repository openai-community/gpt2, revision abc), whose own text" in text
    assert "* before finetuning: val_loss 5.2500" in text
    parent |= {"name": "nanogpt:/home/somebody/out/ckpt.pt", "origin": {"file": "/home/somebody/out/ckpt.pt"}}
    (run.base_path / "base.json").write_text(json.dumps({**parent, "checksum": None}), "utf-8")
    text = make_card(open_run(run, "r"), run, "float32").markdown("")
    assert "* Finetuned from: nanogpt:ckpt.pt (file ckpt.pt), whose own text" in text
    assert "somebody" not in text


def test_published_model_is_named_as_base(base: Base) -> None:
    origin = {"repository": "Qwen/Qwen3-0.6B-Base", "revision": "abc"}
    other = Base("Qwen/Qwen3-0.6B-Base", "published", base.config, base.tokenizer, base.weights, origin)
    text = make_card(other, None, "float32").markdown("")
    assert front(text)["base_model"] == "Qwen/Qwen3-0.6B-Base"
    assert "The weights are those of Qwen3-0.6B-Base (repository Qwen/Qwen3-0.6B-Base; revision abc)." in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/somebody/gpt2", "gpt2"),
        ("nanogpt:/home/somebody/ckpt.pt", "nanogpt:ckpt.pt"),
        ("nanogpt:~/secret/ckpt.pt", "nanogpt:ckpt.pt"),
        ("../secret/model", "model"),
        ("openai-community/gpt2", "openai-community/gpt2"),
        ("nanogpt:out/ckpt.pt", "nanogpt:out/ckpt.pt"),
        ("", ""),
    ],
)
def test_folders_of_the_machine_are_left_out(value: str, shown: str) -> None:
    assert without_folders(value) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words, 1-2 (3)", "plain words, 1-2 (3)"),
        ("a\nb\tc", "a b c"),
        ("<i>&amp;</i>", "&lt;i&gt;&amp;amp;&lt;/i&gt;"),
        ("*a* _b_ `c` [d](e) # ~f~ | $g$ \\", r"\*a\* \_b\_ \`c\` \[d\](e) \# \~f\~ \| \$g\$ \\"),
        ("\x1b[31m\u202ered\ud800", r"\[31m red"),
        ("x" * 400, "x" * 299 + "…"),
    ],
)
def test_inert_text_shows_as_it_is(text: str, shown: str) -> None:
    assert inert(text) == shown


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://a.org/b_c?d=1&e=2#f", "<https://a.org/b_c?d=1&e=2#f>"),
        ("https://a.org/<script>", "https://a.org/&lt;script&gt;"),
        ("https://a.org/a b", "https://a.org/a b"),
        ("javascript:alert(1)", "javascript:alert(1)"),
        ("book_1.txt", r"book\_1.txt"),
    ],
)
def test_addresses_of_the_web_are_links_and_others_text(address: str, shown: str) -> None:
    assert inert_address(address) == shown
