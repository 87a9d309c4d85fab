from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.documents import (
    CLEANERS,
    PART_CHARS,
    ContentDigest,
    collapse_blank_lines,
    content_digest,
    cut_out,
    document,
    document_parts,
    drop_lines,
    from_json,
    in_val,
    nearest_break,
    normalize_newlines,
    read_documents,
    rewritten,
    segments,
    strip_trailing_spaces,
    to_json,
    well_formed,
    write_documents,
)
from gptcli.errors import FormatError, UnfinishedError

texts = st.text(st.sampled_from("ab é\n\t　😀"), max_size=60)


def book(shared_data: Path) -> str:
    return (shared_data / "gutenberg" / "863-0.txt").read_text("utf-8-sig")


def test_id_is_the_start_of_the_texts_sha256_and_of_nothing_else() -> None:
    assert document("abc", title="one").id == document("abc", title="two").id == "ba7816bf8f01cfea"


def test_lone_surrogates_become_replacement_characters() -> None:
    assert document("a\ud800b", title="\udcff") == document("a�b", title="�")
    assert well_formed("a😀") == "a😀"


@given(st.text(), st.text(), st.integers(0, 9))
def test_a_document_survives_its_line(text: str, title: str, part: int) -> None:
    item = document(text, title=title, part=part)
    assert from_json(json.loads(json.dumps(to_json(item)))) == item


def test_documents_survive_their_file_and_are_counted(tmp_path: Path) -> None:
    items = [document("Grüße\u2028\x85\n", title="a", licence="CC0-1.0"), *document_parts(["x y " * 2_000_000])]
    path = tmp_path / "documents.jsonl"
    with path.open("wb") as file:
        written = write_documents(file, items)
    assert list(read_documents(path)) == items
    assert [item.part for item in items] == [0, 0, 1]
    assert (written.documents, written.bytes) == (2, 13 + 8_000_000)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "damaged"),
        (b"[]", "a JSON object was expected, found list"),
        (b'{"id": "1"}', "'text' is missing"),
        (b'{"id": "1", "text": 5}', "should be a str, found int"),
        (b'{"id": "1", "text": "", "part": true}', "should be a int, found bool"),
        (b'{"id": "1", "text": "", "part": -1}', "negative"),
        (b'{"id": "1", "text": "", "colour": ""}', "'colour' is unknown"),
        (b'{"id": "1", "text": "\xff"}', "damaged"),
        (b"[" * 100_000, "damaged"),
    ],
)
def test_a_damaged_line_is_named_by_file_and_number(tmp_path: Path, line: bytes, problem: str) -> None:
    path = tmp_path / "documents.jsonl"
    path.write_bytes(b'{"id": "1", "text": "fine"}\n' + line + b"\n")
    with pytest.raises(FormatError) as caught:
        list(read_documents(path))
    assert f"{path}:2: this line is damaged" in caught.value.message
    assert problem in caught.value.message


def test_missing_documents_are_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(UnfinishedError, match="cannot be read"):
        list(read_documents(tmp_path / "documents.jsonl"))


def test_a_lone_surrogate_in_a_file_cannot_reach_later_stages(tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl"
    path.write_bytes(b'{"id": "1", "text": "a\\ud800"}\n')
    assert next(read_documents(path)).text == "a�"


def test_a_long_text_is_cut_after_the_last_word_of_a_paragraph(shared_data: Path) -> None:
    whole = book(shared_data) * 15
    parts = list(document_parts([whole], title="Styles"))
    assert "".join(part.text for part in parts) == whole
    assert [part.part for part in parts] == [0, 1]
    assert parts[1].text.startswith("\n\n")
    assert not parts[0].text[-1].isspace()
    assert {part.title for part in parts} == {"Styles"}


@pytest.mark.parametrize("unit", ["word ", "line\n", "x", " ", "a" * 999 + "\n\n", "é😀　"])
def test_parts_do_not_depend_on_how_the_text_arrives(unit: str) -> None:
    text = unit * (PART_CHARS * 2 // len(unit) + 10)
    whole = list(document_parts([text]))
    assert "".join(part.text for part in whole) == text
    assert max(len(part.text) for part in whole) <= PART_CHARS
    assert list(document_parts(text[i : i + 777_777] for i in range(0, len(text), 777_777))) == whole


def test_no_text_has_no_parts() -> None:
    assert list(document_parts(["", ""])) == []


@given(st.lists(texts, max_size=6))
def test_content_digest_of_pieces_is_that_of_the_whole(pieces: list[str]) -> None:
    digest = ContentDigest()
    for piece in pieces:
        digest.update(piece)
    assert digest.digest() == content_digest("".join(pieces))


@given(texts)
def test_content_digest_ignores_how_words_are_spaced(text: str) -> None:
    assert content_digest(text) == content_digest(" ".join(text.split()) + "\n")


def test_content_digest_tells_texts_apart_across_its_chunks() -> None:
    long = "word " * 40_000
    assert content_digest(long) == content_digest(long.replace(" ", "\n\n"))
    assert content_digest(long + "a b") != content_digest(long + "ab")


def test_about_the_asked_share_goes_to_val() -> None:
    share = sum(in_val(content_digest(str(number)), 0.1) for number in range(2000)) / 2000
    assert 0.08 < share < 0.12
    assert not in_val(b"\0" * 16, 0.0)
    assert in_val(b"\xff" * 16, 1.0)


def test_a_book_is_cut_where_a_paragraph_starts(shared_data: Path) -> None:
    text = book(shared_data)
    at = nearest_break(text, int(len(text) * 0.9), 20_000)
    assert text[at - 2 : at] == "\n\n"
    assert not text[at].isspace()
    assert abs(at - 0.9 * len(text)) < 1000


def test_the_nearest_paragraph_is_taken_on_either_side() -> None:
    assert nearest_break("a" * 80 + "\n\n" + "b" * 18, 80, 10) == 82
    assert nearest_break("a" * 76 + "\n\n\n\n" + "b" * 20, 82, 9) == 80


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a" * 90 + "\n" + "b" * 9, 91),
        ("a" * 92 + " " + "b" * 7, 93),
        ("a" * 100, 90),
        ("\n\n" + "a" * 98, 90),
        ("a", 0),
        ("", 0),
    ],
)
def test_without_a_paragraph_near_a_line_or_a_word_is_taken_else_the_exact_place(text: str, expected: int) -> None:
    assert nearest_break(text, int(len(text) * 0.9), int(len(text) * 0.05)) == expected


@given(texts, st.floats(0.01, 0.99))
def test_the_cut_stays_within_reach(text: str, fraction: float) -> None:
    target, reach = int(len(text) * fraction), int(len(text) * min(fraction, 1 - fraction) / 2)
    at = nearest_break(text, target, reach)
    assert 0 <= at <= len(text)
    assert abs(at - target) <= reach


def test_cleaners_do_what_their_names_say() -> None:
    assert normalize_newlines("a\r\nb\rc\n") == "a\nb\nc\n"
    assert strip_trailing_spaces("a \t\n b \n\nc ") == "a\n b\n\nc"
    assert collapse_blank_lines("a\n\n\n\nb\n\nc\nd") == "a\n\nb\n\nc\nd"
    assert CLEANERS["strip_bom"]("\ufeffa\ufeff") == "a\ufeff"


def test_dropped_lines_are_counted() -> None:
    assert drop_lines("Chapter 1\ntext\nChapter 2\nmore Chapter\n", r"^Chapter \d+$") == ("text\nmore Chapter\n", 2)


def test_writing_is_lines_of_plain_utf8() -> None:
    file = io.BytesIO()
    write_documents(file, [document("é", title="t")])
    assert file.getvalue() == '{"id": "4a99557e4033c353", "text": "é", "title": "t"}\n'.encode()


TALK = document("User: Hi.\nAssistant: Hello.User: Bye?\nAssistant: Bye.", answers=((20, 27), (48, 53)), title="Talk")


def test_a_conversation_survives_its_line_with_its_answers() -> None:
    line = json.loads(json.dumps(to_json(TALK)))
    assert line["answers"] == [[20, 27], [48, 53]]
    assert from_json(line) == TALK
    assert "answers" not in to_json(document("An ordinary text."))


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ([[0, 99]], "parts of the text, one after the other"),
        ([[20, 27], [26, 30]], "parts of the text, one after the other"),
        ([[5, 5]], "parts of the text, one after the other"),
        ([[-1, 5]], "parts of the text, one after the other"),
        ([[1, 2, 3]], "pairs of integers"),
        ([[1, "2"]], "pairs of integers"),
        (["12"], "pairs of integers"),
        ("12", "should be a list"),
    ],
)
def test_answers_that_are_not_in_the_text_are_refused(answers: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        from_json({**to_json(TALK), "answers": answers})


def test_conversations_are_counted_when_they_are_written() -> None:
    written = write_documents(io.BytesIO(), [TALK, document("An ordinary text.")])
    assert (written.documents, written.conversations) == (2, 1)


def test_segments_are_the_whole_text_in_turns() -> None:
    found = list(segments(TALK))
    assert "".join(text for text, _ in found) == TALK.text
    assert [text for text, answered in found if answered] == [" Hello.", " Bye."]
    assert list(segments(document("An ordinary text."))) == [("An ordinary text.", False)]


def test_a_rewritten_conversation_keeps_its_answers() -> None:
    shorter = rewritten(TALK, lambda text: text.replace("Hello", "H").replace(" Bye.", ""))
    assert shorter.text == "User: Hi.\nAssistant: H.User: Bye?\nAssistant:"
    assert [shorter.text[start:end] for start, end in shorter.answers] == [" H."]
    assert (shorter.title, shorter.id) == ("Talk", document(shorter.text).id)


def test_a_piece_of_a_conversation_has_the_answers_that_are_in_it() -> None:
    assert cut_out(TALK, 0, len(TALK.text), 3).answers == TALK.answers
    end = cut_out(TALK, 27, len(TALK.text), 0)
    assert (end.text, [end.text[a:b] for a, b in end.answers]) == ("User: Bye?\nAssistant: Bye.", [" Bye."])
    start = cut_out(TALK, 0, 24, 0)
    assert [start.text[a:b] for a, b in start.answers] == [" Hel"]


@pytest.mark.skipif(os.name != "posix", reason="needs pipes and devices")
@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_documents_that_are_no_file_are_told_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "documents.jsonl"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(FormatError, match="should be a file, and this is none"):
        list(read_documents(path))
