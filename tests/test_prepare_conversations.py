"""Tokens of conversations, and tokens made with a tokenizer that came from elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from gptcli.chat_template import ChatTemplate
from gptcli.config import DataConfig
from gptcli.errors import CorpusError, TokenizerError
from gptcli.fetch.fetching import fetch
from gptcli.prepare import ensure_tokens, prepare
from gptcli.shards import TokenDataset, open_dataset, read_manifest
from gptcli.tokenizer import Tokenizer, char_tokenizer, train_bpe

TEXT = "It was a bright cold day in April, and the clocks were striking thirteen.\n\n" * 40
CHAR = DataConfig(tokenizer="char")


@pytest.fixture
def corpora_dir(tmp_path: Path) -> Path:
    return tmp_path / "corpora"


def make_chats(corpora_dir: Path, count: int, name: str = "chats", turns: int = 2) -> None:
    """Fetch conversations of so many turns, no two of them the same."""
    records = []
    for number in range(count):
        turn = [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": f"{number}, so."}]
        records.append({"messages": turn * turns})
    path = corpora_dir.parent / f"{name}.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    fetch(str(path), name=name, corpora_dir=corpora_dir)


def make_text(corpora_dir: Path, name: str = "text", text: str = TEXT) -> None:
    path = corpora_dir.parent / f"{name}.txt"
    path.write_text(text, "utf-8")
    fetch(str(path), name=name, corpora_dir=corpora_dir)


def own_tokenizer() -> Tokenizer:
    return train_bpe([TEXT], 300)


def scored_text(dataset: TokenDataset, tokenizer: Tokenizer) -> list[str]:
    """What is scored in train, cut at end-of-text."""
    ids, mask = dataset.train.read(0, len(dataset.train)), dataset.train.scored(0, len(dataset.train))
    assert mask is not None
    scored = ids[mask]
    assert tokenizer.end_of_text is not None
    ends = np.flatnonzero(scored == tokenizer.end_of_text)
    return [tokenizer.decode(part[part != tokenizer.end_of_text]) for part in np.split(scored, ends)]


@pytest.mark.parametrize("name", ["char", "bpe:300"])
def test_only_answers_are_scored_and_the_manifest_keeps_the_template(corpora_dir: Path, name: str) -> None:
    make_chats(corpora_dir, 200)
    result = prepare("chats", DataConfig(tokenizer=name), corpora_dir=corpora_dir)
    dataset = open_dataset(result.folder)
    tokenizer = dataset.tokenizer()
    found = result.manifest.train.conversations
    assert result.manifest.chat == ChatTemplate() == read_manifest(result.folder).chat
    assert found is not None
    assert found.answers == 2 * found.conversations == 2 * result.manifest.train.documents
    texts = [text for text in scored_text(dataset, tokenizer) if text]
    assert len(texts) == found.answers
    assert all(text.endswith(", so.") and text.startswith(" ") for text in texts)
    again = prepare("chats", DataConfig(tokenizer=name), corpora_dir=corpora_dir)
    assert again.reused


def test_an_ordinary_corpus_has_no_masks_and_an_old_manifest_is_used_as_it_is(corpora_dir: Path) -> None:
    make_text(corpora_dir)
    result = prepare("text", CHAR, corpora_dir=corpora_dir)
    assert sorted(path.name for path in result.folder.iterdir()) == [
        "manifest.json",
        "ngrams.bin",
        "tokenizer.json",
        "train-00000.bin",
        "val-00000.bin",
    ]
    # What a manifest held before there were conversations, and the index of n-grams.
    assert set(json.loads((result.folder / "manifest.json").read_text("utf-8"))) == {
        *("format_version", "corpus", "corpus_sha256", "licence", "tokenizer", "fingerprint", "vocab_size", "dtype"),
        *("split", "split_reason", "val_fraction", "split_at", "duplicates_removed", "created_at", "train", "val"),
        *("ngrams", "checksum"),
    }
    assert result.manifest.chat is None
    assert prepare("text", CHAR, corpora_dir=corpora_dir).reused


def test_a_corpus_that_becomes_conversations_is_split_as_such(corpora_dir: Path) -> None:
    make_text(corpora_dir, "c")
    assert prepare("c", CHAR, corpora_dir=corpora_dir).manifest.split == "paragraph"
    make_chats(corpora_dir, 200, "c", turns=1)
    assert prepare("c", CHAR, corpora_dir=corpora_dir).manifest.split == "document"


def test_one_long_conversation_is_enough(corpora_dir: Path) -> None:
    make_chats(corpora_dir, 1, turns=40)
    manifest = prepare("chats", CHAR, corpora_dir=corpora_dir).manifest
    assert manifest.val.conversations is not None
    assert manifest.val.conversations.answers == 4


SPLITS = [DataConfig(tokenizer="char"), DataConfig(tokenizer="char", split="paragraph")]


@pytest.mark.parametrize("data", [*SPLITS, DataConfig(tokenizer="char", split_at=0.9)])
def test_a_split_without_an_answer_is_refused(corpora_dir: Path, data: DataConfig) -> None:
    make_chats(corpora_dir, 1, turns=1)
    with pytest.raises(CorpusError, match="The val split of chats has no answer to be scored") as caught:
        prepare("chats", data, corpora_dir=corpora_dir)
    assert caught.value.hint.startswith("Add conversations")
    assert "--split-at" not in caught.value.hint
    assert not (corpora_dir / "chats/tokens/char").exists()


@pytest.mark.parametrize("data", SPLITS)
@pytest.mark.parametrize("same", [False, True])
def test_the_hints_for_a_split_without_an_answer_end(corpora_dir: Path, data: DataConfig, same: bool) -> None:
    make_chats(corpora_dir, 1 if same else 2, turns=1)
    if same:  # twice the same, of which one is left out
        lines = (corpora_dir.parent / "chats.jsonl").read_text("utf-8")
        (corpora_dir.parent / "chats.jsonl").write_text(lines * 2, "utf-8")
        fetch(str(corpora_dir.parent / "chats.jsonl"), name="chats", corpora_dir=corpora_dir)
    hints = [hint_of(corpora_dir, data)]
    while found := re.search(r"--split-at (0\.\d+)", hints[-1]):
        hints.append(hint_of(corpora_dir, DataConfig(tokenizer="char", split_at=float(found[1]))))
        assert hints[-1] not in hints[:-1]
    assert hints[-1].startswith("Add conversations") if same else not hints[-1]


def hint_of(corpora_dir: Path, data: DataConfig) -> str:
    """What is advised where these tokens cannot be made; "" where they can."""
    try:
        prepare("chats", data, corpora_dir=corpora_dir)
    except CorpusError as error:
        return error.hint
    return ""


def test_conversations_need_end_of_text(corpora_dir: Path) -> None:
    make_chats(corpora_dir, 20)
    given = char_tokenizer(["User: Assistant: What is 0123456789?, so.\n"], end_of_text=False)
    with pytest.raises(TokenizerError, match="whose answers end with end-of-text, and the tokenizer char") as caught:
        prepare("chats", DataConfig(), tokenizer=given, corpora_dir=corpora_dir)
    assert "gptcli prepare chats" in caught.value.hint


def test_tokens_of_a_given_tokenizer_lie_apart_and_auto_passes_over_them(corpora_dir: Path) -> None:
    make_text(corpora_dir)
    given = own_tokenizer()
    result = prepare("text", DataConfig(tokenizer="char"), tokenizer=given, corpora_dir=corpora_dir)
    assert result.folder.name == f"bpe-300-{given.fingerprint[:8]}"
    assert result.manifest.given_tokenizer
    dataset = open_dataset(result.folder)
    assert dataset.tokenizer().fingerprint == given.fingerprint
    assert given.decode(dataset.train.read(0, len(dataset.train))) in TEXT
    assert prepare("text", DataConfig(), tokenizer=given, corpora_dir=corpora_dir).reused
    own = prepare("text", DataConfig(), corpora_dir=corpora_dir)
    assert own.manifest.tokenizer == "char"
    assert prepare("text", DataConfig(), tokenizer=given, corpora_dir=corpora_dir).reused


def test_a_given_tokenizer_that_the_corpus_has_chosen_itself_shares_its_tokens(corpora_dir: Path) -> None:
    make_text(corpora_dir)
    chosen = prepare("text", DataConfig(tokenizer="bpe:300"), corpora_dir=corpora_dir)
    given = open_dataset(chosen.folder).tokenizer()
    shared = prepare("text", DataConfig(), tokenizer=given, corpora_dir=corpora_dir)
    assert (shared.folder, shared.reused) == (chosen.folder, True)
    forced = prepare("text", DataConfig(), tokenizer=given, corpora_dir=corpora_dir, force=True)
    assert not forced.manifest.given_tokenizer
    assert prepare("text", DataConfig(), corpora_dir=corpora_dir).manifest.tokenizer == "bpe:300"


def test_gpt2_tokens_made_for_weights_become_the_corpus_own_when_it_asks_for_them(
    corpora_dir: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gptcli.tokenizer import gpt2_tokenizer

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken"))
    make_text(corpora_dir)
    given = prepare("text", DataConfig(), tokenizer=gpt2_tokenizer(), corpora_dir=corpora_dir)
    assert given.folder.name == "gpt2"
    assert prepare("text", DataConfig(), corpora_dir=corpora_dir).manifest.tokenizer == "char"
    asked = prepare("text", DataConfig(tokenizer="gpt2"), corpora_dir=corpora_dir)
    assert (asked.reused, asked.manifest.given_tokenizer) == (True, False)
    assert prepare("text", DataConfig(), corpora_dir=corpora_dir).manifest.tokenizer == "gpt2"
    assert prepare("text", DataConfig(), tokenizer=gpt2_tokenizer(), corpora_dir=corpora_dir).reused


def test_ensure_makes_tokens_of_a_given_tokenizer_and_says_so_once(corpora_dir: Path) -> None:
    make_text(corpora_dir)
    notices: list[str] = []
    for _ in range(2):
        result = ensure_tokens(
            "text", DataConfig(), tokenizer=own_tokenizer(), corpora_dir=corpora_dir, on_notice=notices.append
        )
        assert result.tokenizer_reason == "it came with the weights"
    assert notices == ["Preparing text with bpe:300: there are no tokens of this kind yet."]


def test_a_tokenizer_without_a_name_of_its_own_is_called_that_of_the_weights(corpora_dir: Path) -> None:
    make_text(corpora_dir)
    given = own_tokenizer()
    given.name = "pretrained"
    notices: list[str] = []
    result = ensure_tokens("text", DataConfig(), tokenizer=given, corpora_dir=corpora_dir, on_notice=notices.append)
    assert notices == ["Preparing text with the tokenizer of the weights: there are no tokens of this kind yet."]
    assert result.folder.name == f"pretrained-{given.fingerprint[:8]}"


def test_tokens_of_another_tokenizer_in_the_folder_are_made_again(corpora_dir: Path) -> None:
    make_text(corpora_dir)
    first, other = train_bpe([TEXT], 300), train_bpe([TEXT[::-1]], 300)
    first.name = other.name = "gpt2"  # the one name that has a folder without a fingerprint
    prepare("text", DataConfig(), tokenizer=first, corpora_dir=corpora_dir)
    notices: list[str] = []
    result = ensure_tokens("text", DataConfig(), tokenizer=other, corpora_dir=corpora_dir, on_notice=notices.append)
    assert notices == ["Preparing text with gpt2: its tokens were made with another tokenizer."]
    assert result.manifest.fingerprint == other.fingerprint


def test_a_text_that_a_given_tokenizer_cannot_hold_is_refused(corpora_dir: Path) -> None:
    make_text(corpora_dir)
    with pytest.raises(TokenizerError, match="the text has others"):
        prepare("text", DataConfig(), tokenizer=char_tokenizer(["abc"], end_of_text=True), corpora_dir=corpora_dir)


def test_the_name_pretrained_alone_says_not_which_tokenizer(corpora_dir: Path) -> None:
    make_text(corpora_dir)
    with pytest.raises(TokenizerError, match="its name does not say which") as caught:
        prepare("text", DataConfig(tokenizer="pretrained"), corpora_dir=corpora_dir)
    assert "gptcli prepare text --run RUN" in caught.value.hint
