"""Records of several shapes become conversations whose answers are known; everything else stays an ordinary text."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from gptcli.documents import Document, from_json, normalize_newlines, read_documents, to_json, well_formed
from gptcli.errors import SourceError
from gptcli.fetch import conversations
from gptcli.fetch.corpus import counted
from gptcli.fetch.fetching import FetchResult, IncompleteError, fetch
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.records import TextFields

HI = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
Fetch = Callable[..., FetchResult]


@pytest.fixture
def fetched(tmp_path: Path) -> Fetch:
    """Write records as lines of JSON (or text as it is) to a file and fetch it."""

    def do(content: list[Any] | str, name: str = "chats.jsonl", **options: Any) -> FetchResult:  # noqa: ANN401 - those of a fetch
        text = content if isinstance(content, str) else "".join(json.dumps(record) + "\n" for record in content)
        (tmp_path / name).write_text(text, "utf-8")
        return fetch(str(tmp_path / name), name="c", corpora_dir=tmp_path / "corpora", options=FetchOptions(**options))

    return do


def documents(result: FetchResult) -> list[Document]:
    return list(read_documents(result.folder / "documents.jsonl"))


def answers(item: Document) -> list[str]:
    return [item.text[start:end] for start, end in item.answers]


def test_messages_become_a_text_with_its_answers(fetched: Fetch) -> None:
    turns = [{"role": "system", "content": " Be kind. "}, *HI, {"role": "user", "content": "Bye?"}]
    turns += [{"role": "assistant", "content": "Bye!\r\nSee you."}, {"role": "user", "content": "..."}]
    result = fetched([{"messages": turns, "url": "https://example.org/1", "licence": "MIT"}])
    (item,) = documents(result)
    assert item.text == "Be kind.\n\nUser: Hi.\nAssistant: Hello.User: Bye?\nAssistant: Bye!\nSee you."
    assert answers(item) == [" Hello.", " Bye!\nSee you."]
    assert (item.url, item.licence) == ("https://example.org/1", "MIT")
    assert counted(result.source) == "1 conversation"
    assert any("read as conversations (messages)" in note for note in result.notes)


def test_the_words_of_other_formats_mean_the_same(fetched: Fetch) -> None:
    shared = [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}]
    other = [{"role": "developer", "content": "Short."}, {"role": "Human", "content": "Hi."}]
    other.append({"role": "MODEL", "content": "Hello."})
    texts = [item.text for item in documents(fetched([{"conversations": shared}]))]
    assert texts == ["User: Hi.\nAssistant: Hello."]
    texts = [item.text for item in documents(fetched([{"conversations": shared, "system": "Short."}]))]
    assert texts == ["Short.\n\nUser: Hi.\nAssistant: Hello."]
    assert [item.text for item in documents(fetched([{"messages": other}]))] == texts


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Hi.", "completion": "Hello."},
        {"instruction": "Hi.", "output": "Hello.", "input": ""},
        {"question": "Hi.", "answer": "Hello.", "id": 7},
        {"prompt": "Hi.", "response": "Hello.", "category": "greetings"},
        {"prompt": [HI[0]], "completion": [HI[1]]},
        {"prompt": "Something else.", "messages": HI},
    ],
)
def test_pairs_are_a_question_and_its_answer(fetched: Fetch, record: dict[str, Any]) -> None:
    (item,) = documents(fetched([record]))
    assert (item.text, answers(item)) == ("User: Hi.\nAssistant: Hello.", [" Hello."])


def test_what_an_instruction_is_about_goes_on_behind_it(fetched: Fetch) -> None:
    records = [{"instruction": "Add.", "input": "1 and 2", "output": "3"}, {"instruction": "Hi.", "output": "Hello."}]
    texts = [item.text for item in documents(fetched([{"input": "", **record} for record in records]))]
    assert texts == ["User: Add.\n\n1 and 2\nAssistant: 3", "User: Hi.\nAssistant: Hello."]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pairs.csv", "prompt,completion\nHi.,Hello.\nWhy?,Because.\n"),
        ("pairs.tsv", "question\tanswer\nHi.\tHello.\nWhy?\tBecause.\n"),
        ("pairs.json", '[{"prompt": "Hi.", "completion": "Hello."}, {"prompt": "Why?", "completion": "Because."}]'),
        ("pairs.json", '{"data": [{"prompt": "Hi.", "output": "Hello."}, {"prompt": "Why?", "output": "Because."}]}'),
    ],
)
def test_pairs_are_read_from_tables_and_json(fetched: Fetch, name: str, content: str) -> None:
    assert [item.text for item in documents(fetched(content, name))] == [
        "User: Hi.\nAssistant: Hello.",
        "User: Why?\nAssistant: Because.",
    ]


@pytest.mark.parametrize("weighted", [False, True])
def test_messages_are_read_from_parquet(tmp_path: Path, weighted: bool) -> None:
    turns = [{**turn, **({"weight": 1} if weighted else {})} for turn in HI]
    table = pa.table({"messages": [turns] * 3, "source": ["a", "b", "c"], "n": [1, 2, 3]})
    parquet.write_table(table, tmp_path / "chats.parquet")
    result = fetch(str(tmp_path / "chats.parquet"), name="c", corpora_dir=tmp_path / "corpora")
    assert [(item.text, len(item.answers)) for item in documents(result)] == [("User: Hi.\nAssistant: Hello.", 1)] * 3


def test_parts_of_a_message_are_joined_and_pictures_and_tools_are_counted(fetched: Fetch) -> None:
    asked = {"role": "user", "content": [{"type": "text", "text": "What"}, {"type": "image_url"}, "is this?"]}
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    told = {"role": "tool", "content": "a cat"}
    said = {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}
    result = fetched([{"messages": [asked, call, told, said]}])
    (item,) = documents(result)
    assert item.text == "User: What\n\nis this?\nAssistant: A cat."
    assert result.source["dropped"] == {
        "parts of messages that are not text": 1,
        "empty answers": 1,
        "messages of tools": 1,
    }


def test_records_without_an_answer_are_left_out_and_counted(fetched: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "PART_CHARS", 1000)
    monkeypatch.setattr(conversations, "TOO_LONG", "conversations of more than 1,000 characters")
    long = [{"role": "user", "content": "x" * 990}, HI[1]]
    empty = [HI[0], {"role": "assistant", "content": "  "}]
    records = [{"messages": turns} for turns in (HI, HI[:1], empty, [], long)]
    result = fetched(records)
    assert result.documents == 1
    assert result.source["dropped"] == {
        "conversations without an answer": 3,
        "empty answers": 1,
        "conversations of more than 1,000 characters": 1,
    }


def test_rows_after_the_sample_that_are_no_conversation_are_counted(fetched: Fetch) -> None:
    records: list[Any] = [{"messages": HI, "id": number} for number in range(100)]
    result = fetched([*records, {"id": 1}, "a line", {"messages": "text"}])
    assert result.documents == 100
    assert result.source["dropped"] == {"conversations without an answer": 2, "rows that are no conversation": 1}


def test_an_unknown_role_is_named_with_its_record(fetched: Fetch) -> None:
    with pytest.raises(SourceError, match=r"record 2: a message has the role 'critic', .* assistant") as caught:
        fetched([{"messages": HI}, {"messages": [{"role": "critic", "content": "Bad."}]}])
    assert caught.value.hint


@pytest.mark.parametrize(
    "record",
    [
        {"text": "An ordinary text.", "prompt": "Hi.", "completion": "Hello."},
        {"body": "An ordinary text.", "messages": 3},
        {"prompt": "An ordinary text.", "category": "words"},
        {"question": "An ordinary text.", "answer": 3},
        {"text": "An ordinary text.", "messages": ["a", "b"]},
    ],
)
def test_records_that_only_resemble_conversations_are_ordinary_texts(fetched: Fetch, record: dict[str, Any]) -> None:
    result = fetched([record])
    assert [(item.text, item.answers) for item in documents(result)] == [("An ordinary text.", ())]
    assert "conversations" not in result.source


PAIR = {"prompt": "Hi.", "completion": "Hello."}


@pytest.mark.parametrize("at", [0, 30, 60, 400])
@pytest.mark.parametrize(
    ("good", "odd"),
    [
        ({"messages": HI}, {"messages": "hello"}),
        ({"messages": HI}, {"messages": None}),
        ({"messages": HI}, {"Messages": [], "messages": 3}),
        ({"messages": HI}, {"text": "An ordinary text, longer than all the others."}),
        ({"messages": HI}, PAIR),
        (PAIR, {"prompt": "p", "completion": 5}),
        (PAIR, {"prompt": "An ordinary text, longer than all the others."}),
        (PAIR, {"text": "An ordinary text, longer than all the others."}),
        (PAIR, {"messages": HI}),
        ({**PAIR, "input": ""}, {"prompt": "p", "completion": None, "input": None}),
    ],
)
def test_one_odd_record_costs_no_other_and_is_counted(
    fetched: Fetch, good: dict[str, Any], odd: dict[str, Any], at: int
) -> None:
    result = fetched([*[good] * at, odd, *[good] * (400 - at)])
    assert [item.text for item in documents(result)] == ["User: Hi.\nAssistant: Hello."] * 400
    assert result.source["dropped"]["conversations without an answer"] == 1


def test_what_an_instruction_is_about_is_kept_where_some_have_nothing(fetched: Fetch) -> None:
    about = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
    texts = {item.text for item in documents(fetched([about, about, {"instruction": "Hi.", "output": "Hello."}]))}
    assert texts == {"User: Add.\n\n1 and 2\nAssistant: 3", "User: Hi.\nAssistant: Hello."}


@pytest.mark.parametrize(
    ("chats", "others", "problem"),
    [
        ([PAIR], [{"prompt": "A text."}], "1 of the first 2 records is a conversation (prompt and completion)"),
        ([{"messages": HI}] * 2, [{"text": "A text."}] * 2, "2 of the first 4 records are conversations (messages)"),
        ([PAIR] * 3, [{**PAIR, "text": "A text."}] * 2 + [{"text": "A text."}] * 4, "3 of the first 9 records are"),
    ],
)
def test_as_many_ordinary_records_as_conversations_are_an_error_with_the_way_to_either(
    fetched: Fetch, chats: list[Any], others: list[Any], problem: str
) -> None:
    with pytest.raises(SourceError) as caught:
        fetched([*chats, *others])
    assert problem in caught.value.message
    assert caught.value.message.endswith(f", and record {len(chats) + 1} is none.")
    assert "--as chat" in caught.value.hint
    insisted = fetched([*chats, *others], as_kind="chat")
    assert insisted.documents == sum("completion" in record or "messages" in record for record in [*chats, *others])
    if named := re.search("--text-fields ([a-z]+)", caught.value.hint):
        assert fetched([*chats, *others], text_fields=(named[1],)).documents >= len(chats)


def test_a_mixed_file_in_a_folder_is_told_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("An ordinary text.", "utf-8")
    (tmp_path / "texts" / "b.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "Hi."}]}\n{"a": 1}\n', "utf-8"
    )
    with pytest.raises(IncompleteError, match=r"b\.jsonl: 1 of the first 2 records is a conversation"):
        fetch(str(tmp_path / "texts"), name="c", corpora_dir=tmp_path / "corpora")


@pytest.mark.parametrize("weighted", [False, True])
def test_a_mixed_parquet_file_is_refused(tmp_path: Path, weighted: bool) -> None:
    turns = [{**turn, **({"weight": 1} if weighted else {})} for turn in HI]
    table = pa.table({"messages": [turns, None, None], "text": ["A text.", "B text.", "C text."]})
    parquet.write_table(table, tmp_path / "chats.parquet")
    with pytest.raises(SourceError, match="1 of the first 3 records is a conversation"):
        fetch(str(tmp_path / "chats.parquet"), name="c", corpora_dir=tmp_path / "corpora")


def test_pairs_beside_a_text_are_mentioned_once(fetched: Fetch) -> None:
    record = {**PAIR, "text": "An ordinary text."}
    result = fetched([record] * 60 + [PAIR])
    assert result.documents == 60
    (note,) = [note for note in result.notes if "conversations" in note]
    assert note.endswith("read as ordinary text (text); --as chat reads prompt and completion as conversations.")
    assert fetched([record] * 60 + [PAIR], as_kind="chat").documents == 61
    assert not any("conversations" in note for note in fetched([record], text_fields=("text",)).notes)


def test_only_of_pairs_it_is_said_that_their_fields_are_texts_too(fetched: Fetch) -> None:
    assert any("--text-fields NAME reads a field as" in note for note in fetched([PAIR]).notes)
    (note,) = [note for note in fetched([{"messages": HI}]).notes if "read as conversations" in note]
    assert note.endswith("chats.jsonl: read as conversations (messages).")


def test_fields_that_are_asked_for_are_ordinary_text(fetched: Fetch) -> None:
    result = fetched([{"prompt": "Hi.", "completion": "Hello."}], text_fields=("prompt", "completion"))
    assert [(item.text, item.answers) for item in documents(result)] == [("Hi.\n\nHello.", ())]


def test_as_chat_prefers_a_pair_to_the_text_beside_it(fetched: Fetch) -> None:
    (item,) = documents(fetched([{"instruction": "Hi.", "output": "Hello.", "text": "Both of them."}], as_kind="chat"))
    assert (item.text, answers(item)) == ("User: Hi.\nAssistant: Hello.", [" Hello."])


def test_as_chat_takes_the_fields_that_are_named_for_conversations(fetched: Fetch) -> None:
    record = {"q": "Hi.", "a": "Hello.", "text": "Both.", "talk": HI}
    for fields in (("q", "a"), ("talk",)):
        (item,) = documents(fetched([record], as_kind="chat", text_fields=fields))
        assert (item.text, answers(item)) == ("User: Hi.\nAssistant: Hello.", [" Hello."])


@pytest.mark.parametrize("named", [(), ("messages",)])
def test_as_chat_keeps_the_system_message_beside_a_list_that_is_named(fetched: Fetch, named: tuple[str, ...]) -> None:
    (item,) = documents(fetched([{"messages": HI, "system": "Short."}], as_kind="chat", text_fields=named))
    assert item.text == "Short.\n\nUser: Hi.\nAssistant: Hello."


@pytest.mark.parametrize("named", [(), ("instruction", "output")])
def test_as_chat_keeps_what_goes_with_a_pair_that_is_named(fetched: Fetch, named: tuple[str, ...]) -> None:
    record = {"instruction": "Add.", "input": "1 and 2", "output": "3", "system_prompt": "Short."}
    (item,) = documents(fetched([record], as_kind="chat", text_fields=named))
    assert item.text == "Short.\n\nUser: Add.\n\n1 and 2\nAssistant: 3"


def test_a_field_that_is_named_for_the_prompt_is_not_its_context_too(fetched: Fetch) -> None:
    record = {"context": "Hi.", "system": "Hello.", "other": 1}
    (item,) = documents(fetched([record], as_kind="chat", text_fields=("context", "system")))
    assert item.text == "User: Hi.\nAssistant: Hello."


def test_as_chat_takes_one_conversation_for_enough(fetched: Fetch) -> None:
    result = fetched([{"title": "A text."}] * 50 + [{"messages": HI}], as_kind="chat")
    assert (result.documents, result.source["dropped"]) == (1, {"conversations without an answer": 50})


def test_an_object_that_is_one_conversation_is_no_list_of_records(fetched: Fetch) -> None:
    (item,) = documents(fetched(json.dumps({"messages": HI}), "chat.json"))
    assert (item.text, answers(item)) == ("User: Hi.\nAssistant: Hello.", [" Hello."])


def test_as_chat_reads_a_file_of_any_name(fetched: Fetch) -> None:
    (item,) = documents(fetched([{"messages": HI}], "chats.data", as_kind="chat"))
    assert item.answers


@pytest.mark.parametrize(
    ("records", "fields", "problem"),
    [
        ([{"title": "A", "body": "B"}], (), "the records are no conversations. The fields are title, body"),
        (
            [{"title": "A", "body": "B"}],
            ("title", "reply"),
            "no record has a field 'reply'. The fields are title, body",
        ),
        (["only", "strings"], (), "the records are no conversations. The fields are none"),
        (
            [{"messages": HI, "system": "Short."}],
            ("messages", "system", "x"),
            "--as chat reads one field of messages, or two of prompt and answer, and 3 are named",
        ),
        ([{"messages": HI, "a": "b", "c": "d"}], ("messages", "a", "c"), "and 3 are named"),
        ([{"talk": "Hi.", "b": "Hello."}], ("talk",), "the field 'talk' holds no messages"),
        ([{"q": 5, "a": "Hello."}], ("q", "a"), "the field 'q' holds no text"),
    ],
)
def test_as_chat_names_the_fields_where_there_are_no_conversations(
    fetched: Fetch, records: list[Any], fields: tuple[str, ...], problem: str
) -> None:
    with pytest.raises(SourceError) as caught:
        fetched(records, as_kind="chat", text_fields=fields)
    assert problem in caught.value.message
    assert "--text-fields question,answer" in caught.value.hint


def test_lines_that_are_dropped_leave_the_answers_where_they_are(fetched: Fetch) -> None:
    record = {"prompt": "Hi.\nSent by phone", "completion": "Hello.\nSent by phone"}
    (item,) = documents(fetched([record], drop_lines=("Sent by",)))
    assert (item.text, answers(item)) == ("User: Hi.\nAssistant: Hello.", [" Hello."])


def test_conversations_among_texts_are_counted_apart(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.jsonl").write_text(json.dumps({"messages": HI}), "utf-8")
    (tmp_path / "texts" / "b.txt").write_text("An ordinary text.", "utf-8")
    result = fetch(str(tmp_path / "texts"), name="c", corpora_dir=tmp_path / "corpora")
    assert counted(result.source) == "2 documents (1 of them conversations)"


def test_several_corpora_become_one_in_which_conversations_stay_some(tmp_path: Path, fetched: Fetch) -> None:
    corpora = tmp_path / "corpora"
    chats = fetched([{"messages": HI}, {"messages": HI * 2}])
    (tmp_path / "book.txt").write_text("An ordinary text.", "utf-8")
    book = fetch(str(tmp_path / "book.txt"), name="book", corpora_dir=corpora)
    both = fetch([str(chats.folder), str(book.folder)], name="both", corpora_dir=corpora)
    assert documents(both) == [*documents(chats), *documents(book)]
    assert counted(both.source) == "3 documents (2 of them conversations)"


def test_answers_of_somebody_else_are_a_field_like_any_other(fetched: Fetch) -> None:
    result = fetched([{"id": "1", "text": "An ordinary text.", "answers": [[0, 99]]}, {"id": "2", "text": "More."}])
    assert [(item.text, item.answers) for item in documents(result)] == [("An ordinary text.", ()), ("More.", ())]


def test_what_is_piped_in_may_be_conversations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    piped = io.TextIOWrapper(io.BytesIO(json.dumps({"messages": HI}).encode()))
    monkeypatch.setattr("sys.stdin", piped)
    result = fetch("-", name="c", corpora_dir=tmp_path / "corpora", options=FetchOptions(as_kind="chat"))
    assert [item.text for item in documents(result)] == ["User: Hi.\nAssistant: Hello."]


says = st.tuples(st.sampled_from(["system", "user", "assistant", "GPT", "tool"]), st.text(st.characters()))


@given(st.lists(says, max_size=8))
def test_the_answers_are_what_the_assistant_said_whatever_that_is(said: list[tuple[str, str]]) -> None:
    record = {"messages": [{"role": role, "content": content} for role, content in said]}
    fields = conversations.ChatFields(TextFields(()), turns="messages")
    item = conversations.record_conversation(record, fields, Counter(), "a record")
    spoken = [content for role, content in said if role in ("assistant", "GPT")]
    expected = [" " + well_formed(normalize_newlines(content)).strip() for content in spoken]
    expected = [text for text in expected if text != " "]
    assert (answers(item) if item else []) == expected
    if item is not None:
        assert item.answers[-1][1] == len(item.text)
        assert from_json(to_json(item) | {"answers": [list(span) for span in item.answers]}) == item


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "text", "type", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)
names = st.sampled_from(["messages", "conversations", "prompt", "completion", "input", "system", "text", "x"])


@given(st.lists(st.dictionaries(names, json_values, max_size=5), max_size=4))
def test_no_shape_of_records_is_a_traceback(sample: list[dict[str, Any]]) -> None:
    with contextlib.suppress(conversations.MixedError):
        conversations.choose_chat_fields(sample, "records")
    fields = conversations.choose_chat_fields(sample, "records", insist=True)
    for record in sample if fields is not None else []:
        assert fields is not None
        with contextlib.suppress(SourceError):  # of an unknown role
            conversations.record_conversation(record, fields, Counter(), "a record")
