from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.errors import SourceError
from gptcli.fetch.json_api.items import as_record, find_items, records_at
from gptcli.fetch.json_api.paging import Answer, larger_pages, next_step, pages_in_all, says_more
from gptcli.fetch.records import choose_fields, record_document

# Answers as these services give them, cut down to what matters.
REDDIT = {
    "kind": "Listing",
    "data": {
        "after": "t3_b",
        "children": [{"kind": "t3", "data": {"id": "b", "title": "T", "selftext": "words", "permalink": "/r/x/b"}}],
    },
}
ALGOLIA = {
    "hits": [{"objectID": "1", "title": None, "story_text": None, "comment_text": "<p>words"}],
    "nbPages": 3,
    "page": 0,
}
MEDIAWIKI = {
    "batchcomplete": "",
    "continue": {"gapcontinue": "Ab", "continue": "gapcontinue||"},
    "query": {"pages": {"7": {"pageid": 7, "title": "A", "extract": "words"}}},
}
HUB_ROWS = {
    "features": [{"feature_idx": 0, "name": "text", "type": {"dtype": "string"}}],
    "rows": [{"row_idx": 0, "row": {"text": "words", "label": 1}, "truncated_cells": []}],
    "num_rows_total": 9,
}
DISCOURSE = {
    "users": [{"id": 1, "username": "ann"}],
    "topic_list": {"per_page": 30, "topics": [{"id": 5, "fancy_title": "A &amp; B of some length", "posts_count": 3}]},
}
GITHUB = [
    {
        "url": "https://api.example.org/issues/1",
        "html_url": "https://example.org/issues/1",
        "id": 9,
        "number": 1,
        "title": "T",
        "user": {"login": "ann", "url": "https://api.example.org/users/ann"},
        "labels": [{"name": "bug"}],
        "body": "words",
    }
]


@pytest.mark.parametrize(
    ("body", "path", "text", "title", "url", "following"),
    [
        (REDDIT, "data.children", "words", "T", "https://a.example/r/x/b", "?after=t3_b"),
        (ALGOLIA, "hits", "words", "", "", "?page=1"),
        (MEDIAWIKI, "query.pages", "words", "A", "", "?gapcontinue=Ab&continue=gapcontinue%7C%7C"),
        (HUB_ROWS, "rows", "words", "", "", None),
        (DISCOURSE, "topic_list.topics", "A & B of some length", "", "", None),
        (GITHUB, "", "words", "T", "https://example.org/issues/1", None),
    ],
    ids=["reddit", "algolia", "mediawiki", "hub rows", "discourse", "github"],
)
def test_answers_of_known_services_are_understood(
    body: object, path: str, text: str, title: str, url: str, following: str | None
) -> None:
    base = "https://a.example/list"
    assert find_items(body, None, "a list") == path
    records, skipped = records_at(body, path, "a list")
    item = record_document(records[0], choose_fields(records, (), "a list"), base_url=base)
    assert item is not None
    assert (item.text, item.title, item.url, skipped) == (text, title, url, 0)
    step = next_step(Answer(base, body, path, len(records)))
    assert step.url == (base + following if following else None)


@pytest.mark.parametrize(
    ("value", "columns", "record"),
    [
        ({"a": 1}, None, {"a": 1}),
        ("words", None, {"text": "words"}),
        ([1, "b"], ["id", "body"], {"id": 1, "body": "b"}),
        ([1, "b"], ["id"], {"0": 1, "1": "b"}),
        (["T", "b"], None, {"title": "T", "text": "T\n\nb"}),
        (["a", "b", "c"], "no columns", {"title": "", "text": "a\n\nb\n\nc"}),
        (None, None, None),
        (3, None, None),
    ],
)
def test_an_element_of_any_kind_is_an_object_or_left_out(value: object, columns: object, record: object) -> None:
    assert as_record(value, columns) == record


def test_objects_by_their_ids_keep_them() -> None:
    records, skipped = records_at({"x": {"body": "a"}, "y": {"id": 1, "body": "b"}}, "", "a list")
    assert (records, skipped) == ([{"id": "x", "body": "a"}, {"id": 1, "body": "b"}], 0)


def test_a_later_page_without_the_list_is_an_error_that_shows_its_keys() -> None:
    with pytest.raises(SourceError, match=r"a list has no list at 'data\.items', as the first page has\. Its keys are"):
        records_at({"data": {"other": 1}}, "data.items", "a list")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=4)
            | st.sampled_from(
                [
                    "rows",
                    "items",
                    "next",
                    "next_url",
                    "page",
                    "total_pages",
                    "total",
                    "offset",
                    "columns",
                    "continue",
                    "meta",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(JSON, st.sampled_from(["https://a.example/x.json", "https://a.example/x?page=2&offset=3", "http://[::1]:8/x"]))
def test_any_json_is_a_list_or_an_error(body: object, url: str) -> None:
    try:
        path = find_items(body, None, "a list")
        records, skipped = records_at(body, path, "a list")
    except SourceError:
        return
    answer = Answer(url, body, path, len(records) + skipped)
    assert pages_in_all(answer) is None or pages_in_all(answer) in range(10**12)
    assert says_more(answer) in {True, False}
    try:
        assert next_step(answer).url is None or "://" in str(next_step(answer).url)
        assert larger_pages(answer) is None or "://" in str(larger_pages(answer))
    except SourceError:  # a next page on another host
        return
