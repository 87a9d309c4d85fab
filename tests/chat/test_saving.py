from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest

from gptcli.chat.commands import CommandError
from gptcli.chat.saving import Written, load_conversation, load_text, named_file, save_conversation, save_text
from gptcli.chat_template import ChatTemplate, Message, write_conversation
from gptcli.strict_yaml import load_yaml

TEXT = "ROMEO:\nWhat \u2013 \u7b2c\u4e00 \U0001f600?\n\n  ---\n\n**not bold**"
TALK = [
    Message("system", "Be kind."),
    Message("user", "hi"),
    Message("assistant", " fine \n"),
    Message("user", "two\nlines"),
    Message("assistant", ""),
]
FACTS: dict[str, object] = {"model": "parrot", "step": 12, "stop": ["\n---\n\n"]}


def save(path: Path, text: str = TEXT) -> str:
    return save_text(path, text, FACTS, {})


def talk(path: Path) -> str:
    return save_conversation(path, TALK, ChatTemplate(), FACTS, {})


@pytest.mark.parametrize("suffix", [".txt", ".md", ".jsonl", ".TXT", ".JSONL"])
def test_a_text_comes_back_as_it_was_saved(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"story{suffix}"
    assert save(path).endswith(f"to {path}.")
    assert load_text(path) == TEXT


def test_a_text_file_holds_the_text_alone(tmp_path: Path) -> None:
    save(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_bytes() == TEXT.encode()


def test_markdown_says_at_its_head_how_it_was_made(tmp_path: Path) -> None:
    save(tmp_path / "a.md")
    head, _, text = (tmp_path / "a.md").read_text("utf-8").partition("\n---\n\n")
    assert head == '---\nwritten_with: gptcli\nmodel: "parrot"\nstep: 12\nstop: ["\\n---\\n\\n"]'
    assert load_yaml(head.removeprefix("---\n"))[0] == {"written_with": "gptcli", **FACTS}
    assert text == TEXT


def test_other_markdown_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("---\ntitle: x\n---\n\nText", "utf-8")
    assert load_text(tmp_path / "a.md") == "---\ntitle: x\n---\n\nText"


def test_a_record_is_added_to_a_file_of_records(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    assert save(path, "one") == f"Saved a record to {path}."
    path.write_bytes(path.read_bytes().rstrip())  # as an editor may leave it
    assert save(path, "two\n") == f"Added a record to {path}."
    assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == [{"text": "one"}, {"text": "two\n"}]
    assert load_text(path) == "two\n"


@pytest.mark.parametrize("suffix", [".txt", ".md"])
def test_nothing_is_overwritten(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"story{suffix}"
    path.write_text("mine", "utf-8")
    with pytest.raises(CommandError, match="exists already and was left as it is"):
        save(path)
    assert path.read_text("utf-8") == "mine"


@pytest.mark.parametrize("content", ['{"messages": []}\n', "no json\n", "[1]\n", '{"text": "a"}\n{"other": 1}\n'])
def test_a_file_of_other_records_is_left_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "others.jsonl"
    path.write_text(content, "utf-8")
    with pytest.raises(CommandError, match="holds other records than text"):
        save(path)
    assert path.read_text("utf-8") == content


@pytest.mark.parametrize("name", ["story", "story.doc", ".txt", "story.json"])
def test_another_suffix_is_refused_with_those_that_are_known(tmp_path: Path, name: str) -> None:
    with pytest.raises(CommandError, match=r"expected is \.txt, \.md or \.jsonl"):
        save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_an_empty_text_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="nothing to save"):
        save(tmp_path / "a.txt", "")
    with pytest.raises(CommandError, match="nothing to save"):
        save_conversation(tmp_path / "a.jsonl", [Message("user", " ")], ChatTemplate(), FACTS, {})
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", "utf-8")
    with pytest.raises(CommandError, match="There is no folder"):
        save(tmp_path / "file" / "a.txt")
    with pytest.raises(CommandError, match="cannot be written"):
        save(tmp_path / ("a" * 300 + ".txt"))


def test_a_conversation_is_saved_for_finetuning_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    assert talk(path) == f"Saved a record to {path}."
    said = [
        Message("system", "Be kind."),
        Message("user", "hi"),
        Message("assistant", "fine"),
        Message("user", "two\nlines"),
    ]
    assert json.loads(path.read_text("utf-8")) == {"messages": [message._asdict() for message in said]}
    assert load_conversation(path) == tuple(said)


def test_a_saved_conversation_is_read_by_fetch_as_the_model_reads_it(tmp_path: Path) -> None:
    from gptcli.documents import read_documents
    from gptcli.fetch.fetching import fetch

    for _ in range(2):
        talk(tmp_path / "chats.jsonl")
    fetch(str(tmp_path / "chats.jsonl"), name="chats", corpora_dir=tmp_path / "corpora")
    documents = list(read_documents(tmp_path / "corpora" / "chats" / "documents.jsonl"))
    assert documents[0].text == write_conversation(TALK[:3]).text


def test_a_saved_conversation_can_be_read_by_people(tmp_path: Path) -> None:
    talk(tmp_path / "a.txt")
    talk(tmp_path / "a.md")
    assert (tmp_path / "a.txt").read_text("utf-8") == "Be kind.\n\nUser: hi\nAssistant: fine\nUser: two\nlines\n"
    assert (
        (tmp_path / "a.md")
        .read_text("utf-8")
        .endswith("---\n\n**System:** Be kind.\n\n**User:** hi\n\n**Assistant:** fine\n\n**User:** two\nlines\n")
    )


def test_a_model_for_texts_loads_no_conversation_and_the_other_way_round(tmp_path: Path) -> None:
    talk(tmp_path / "chats.jsonl")
    save(tmp_path / "a.txt")
    with pytest.raises(CommandError, match="holds a conversation"):
        load_text(tmp_path / "chats.jsonl")
    with pytest.raises(CommandError, match="holds a text"):
        load_conversation(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b"\xff\xfe\x00", "is not UTF-8 text"),
        ("a.jsonl", b"", "holds nothing"),
        ("a.jsonl", b'{"text": ""}\n', "is empty"),
        ("a.jsonl", b'{"text": "a"}\n{"text"', "cannot be read"),
        ("a.jsonl", b"[1, 2]", "holds nothing"),
        ("a.jsonl", b'{"prompt": "a"}', "cannot be read"),
        ("a.jsonl", b'{"messages": [{"role": "wizard", "content": "a"}]}', "cannot be read"),
        ("a.jsonl", b'{"messages": [{"role": "user", "content": 3}]}', "cannot be read"),
        ("a.jsonl", b'{"messages": 3}', "cannot be read"),
        ("a.jsonl", b"\xff", "cannot be read"),
        ("a.jsonl", b"[" * 100_000, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_loaded_says_why(tmp_path: Path, name: str, content: bytes, found: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CommandError, match=found):
        load_text(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "found"), [("nowhere.txt", "cannot be read"), ("nowhere.jsonl", "cannot be read"), (".", "is a folder")]
)
def test_a_file_that_is_not_there_says_why(tmp_path: Path, name: str, found: str) -> None:
    with pytest.raises(CommandError, match=found):
        load_text(tmp_path / name)


@pytest.mark.skipif(sys.platform == "win32", reason="needs links")
@pytest.mark.parametrize("name", ["round.txt", "round.jsonl", "round.txt/a.txt"])
def test_links_that_lead_in_a_circle_are_not_written(tmp_path: Path, name: str) -> None:
    for link in ("round.txt", "round.jsonl"):
        (tmp_path / link).symlink_to(tmp_path / link)
    with pytest.raises(CommandError, match=r"cannot be written|There is no folder"):
        save(tmp_path / name)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate(16 * 1024 * 1024 + 1)
    with pytest.raises(CommandError, match="larger than"):
        load_text(tmp_path / "huge.txt")


def test_a_text_from_windows_loads_with_plain_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\r\nb")
    assert load_text(tmp_path / "a.txt") == "a\nb"


@pytest.mark.parametrize(
    ("argument", "expected"), [("my story.txt", "my story.txt"), ('"my story.txt"', "my story.txt"), ("'", "'")]
)
def test_a_file_is_named_with_or_without_quotes(argument: str, expected: str) -> None:
    assert named_file(argument) == Path(expected)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a home folder by variable")
def test_a_home_folder_can_be_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert named_file("~/a.txt") == Path("/somewhere/a.txt")
    assert named_file("~nobody-at-all/a.txt") == Path("~nobody-at-all/a.txt")


def test_what_this_session_wrote_may_be_written_again(tmp_path: Path) -> None:
    path, written = tmp_path / "story.md", Written()
    for text in ("one", "two"):
        assert save_text(path, text, FACTS, written) == f"Saved to {path}."
        assert load_text(path) == text
    with pytest.raises(CommandError, match="exists already"):
        save_text(path, "three", FACTS, {})
    path.write_text("mine now", "utf-8")
    with pytest.raises(CommandError, match="exists already"):
        save_text(path, "three", FACTS, written)
    assert path.read_text("utf-8") == "mine now"


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_no_folder_is_made_for_a_file(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(CommandError, match=r"There is no folder .*stories"):
        save(tmp_path / "stories" / f"a{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="needs links and permissions")
def test_a_record_goes_where_a_link_leads_and_leaves_permissions_as_they_are(tmp_path: Path) -> None:
    real, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    save(real, "one")
    real.chmod(0o600)
    link.symlink_to(real)
    save(link, "two")
    assert link.is_symlink()
    assert [json.loads(line)["text"] for line in real.read_text("utf-8").splitlines()] == ["one", "two"]
    assert stat.S_IMODE(real.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content",
    [
        '{"event": "session", "format_version": 1}\n{"text": "a"}\n',
        '{"text": "a", "title": "b"}\n',
    ],
)
def test_a_record_is_not_added_to_a_log_or_to_records_with_more_in_them(tmp_path: Path, content: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(content, "utf-8")
    with pytest.raises(CommandError, match="holds other records than text"):
        save(path)
    assert path.read_text("utf-8") == content


def test_a_conversation_that_was_saved_for_people_is_told_how_to_be_kept(tmp_path: Path) -> None:
    talk(tmp_path / "talk.md")
    with pytest.raises(CommandError, match="holds a text") as caught:
        load_conversation(tmp_path / "talk.md")
    assert "/save talk.jsonl" in caught.value.hint


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs files that do not know their size")
def test_a_file_that_does_not_know_its_size_is_read_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptcli.chat.saving.MAX_LOAD_BYTES", 5)
    with pytest.raises(CommandError, match="larger than 5 bytes"):
        load_text(Path("/proc/self/status"))
