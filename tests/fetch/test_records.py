from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.documents import Document
from gptcli.errors import SourceError
from gptcli.fetch.records import TextFields, choose_fields, clean_text, has_path, record_document, value_at

WORDPRESS = {
    "id": 7,
    "date_gmt": "2024-01-02T03:04:05",
    "date": "2024-01-02T04:04:05",
    "link": "https://example.org/?p=7",
    "title": {"rendered": "Tom &#038; Jerry"},
    "content": {"rendered": "<p>One &amp; two</p>\n<p>Three</p>", "protected": False},
    "excerpt": {"rendered": "<p>One</p>"},
    "author": 3,
}


def chosen(*records: Mapping[str, Any], wanted: tuple[str, ...] = ()) -> TextFields:
    return choose_fields(records, wanted, "the list")


def made(record: Mapping[str, Any], *, base_url: str = "") -> Document:
    item = record_document(record, chosen(record), base_url=base_url)
    assert item is not None
    return item


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"id": 1, "title": "t", "body": "short"}, "body"),
        ({"title": "a very long title of a short post", "content": "x"}, "content"),
        (WORDPRESS, "content.rendered"),
        ({"content_html": "<p>x</p>", "title": "t"}, "content_html"),
        ({"contentHtml": "<p>x</p>", "summary": "much longer than the other"}, "contentHtml"),
        ({"Article Text": "no name that is known, but the longest", "Name": "x"}, "Article Text"),
        ({"row_idx": 0, "row": {"text": "words"}}, "row.text"),
        ({"node": {"meta": {"slug": "a-b"}, "body": {"html": "<p>x</p>"}}}, "node.body.html"),
        ({"body": None, "text": "words"}, "text"),
        ({"title": "t", "body": None}, "body"),
        ({"url": "https://example.org/a/very/long/address", "quote": "To be"}, "quote"),
        ({"sha": "0123456789abcdef0123456789abcdef", "at": "2024-01-02T03:04:05Z", "word": "be"}, "word"),
        ({"lines": ["To be", "or not"], "name": "H"}, "lines"),
    ],
)
def test_the_text_is_found_by_its_name_else_by_its_length(record: dict[str, Any], text: str) -> None:
    assert chosen(record).text == (text,)


def test_a_name_counts_only_where_some_record_has_words_under_it() -> None:
    assert chosen({"content": "", "story_text": "x"}, {"content": None, "story_text": "y"}).text == ("story_text",)


def test_the_other_roles_stand_beside_the_text_or_at_the_top() -> None:
    record = {
        "id": 9,
        "html_url": "u",
        "node": {"body": "b", "headline": "h", "createdAt": "2024", "user": {"login": "x"}, "url": "api"},
    }
    fields = chosen(record)
    assert (fields.title, fields.author, fields.date) == ("node.headline", "node.user", "node.createdAt")
    assert (fields.url, fields.id) == ("html_url", "id")


def test_a_field_that_repeats_with_other_content_is_no_key() -> None:
    one, two = {"id": 1, "body": "a"}, {"id": 1, "body": "b"}
    assert chosen(one, two).id == ""
    assert chosen(one, one).id == "id"
    assert chosen({"body": "a", "url": "/a"}, {"body": "b", "url": "/b"}).id == "url"


def test_wanted_fields_are_joined_in_their_order() -> None:
    record = {"title": "Tom &amp; Jerry", "body": "<p>a</p>", "tags": ["x", "y"], "stars": 4, "gone": None}
    fields = chosen(record, wanted=("title", "gone", "body", "tags", "stars"))
    item = record_document(record, fields)
    assert item is not None
    assert (item.text, item.title) == ("Tom & Jerry\n\na\n\nx\ny\n\n4", "Tom & Jerry")


def test_wanted_fields_may_be_nested_and_name_the_object_around_a_text() -> None:
    item = record_document(WORDPRESS, chosen(WORDPRESS, wanted=("title", "content.rendered")))
    assert item is not None
    assert item.text == "Tom & Jerry\n\nOne & two\n\nThree"


def test_a_wanted_field_that_no_record_has_is_an_error_that_lists_the_fields() -> None:
    with pytest.raises(SourceError, match=r"no record has a field 'bdoy'\. The fields are id, title, body\.") as caught:
        chosen({"id": 1, "title": "t"}, {"body": "b"}, wanted=("title", "bdoy"))
    assert "--text-fields title,body" in caught.value.hint


def test_a_wanted_field_that_is_null_everywhere_is_there() -> None:
    assert chosen({"body": None}, wanted=("body",)).text == ("body",)


@pytest.mark.parametrize("record", [{"id": 5, "at": "2024-01-02", "link": "https://example.org/"}, {}, {"n": [1]}])
def test_records_without_words_are_an_error_that_lists_the_fields(record: dict[str, Any]) -> None:
    with pytest.raises(SourceError, match=f"no field of the records looks like text. .*{next(iter(record), 'none')}"):
        chosen(record)


def test_wordpress_becomes_a_document_with_its_origin() -> None:
    item = made(WORDPRESS)
    assert (item.text, item.title) == ("One & two\n\nThree", "Tom & Jerry")
    assert (item.url, item.date, item.author) == ("https://example.org/?p=7", "2024-01-02T04:04:05", "")


def test_json_feed_has_its_text_in_either_of_two_fields() -> None:
    html = {"id": "1", "content_html": "<p>a &lt;b&gt;</p>", "authors": [{"name": "Ann"}, {"name": "Bo"}]}
    text = {"id": "2", "content_text": "<b> is a tag", "url": "/two", "language": "en"}
    fields = chosen(html, text)
    documents = [record_document(record, fields, base_url="https://example.org/feed.json") for record in (html, text)]
    assert [item and item.text for item in documents] == ["a <b>", "<b> is a tag"]
    assert documents[0] is not None
    assert documents[1] is not None
    assert (documents[0].author, documents[1].url) == ("Ann, Bo", "https://example.org/two")


@pytest.mark.parametrize("body", [None, "", " \n", "<p> </p>", "<script>x()</script>", True, [], {}, float("nan")])
def test_a_record_without_text_is_no_document(body: object) -> None:
    assert record_document({"id": 1, "title": "t", "body": body}, TextFields(("body",), title="title")) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12, "12"),
        (Decimal("1.50"), "1.50"),
        (date(2024, 1, 2), "2024-01-02"),
        ("é".encode(), "é"),
        (b"\xff", ""),
        (["a", None, 3, "b"], "a\nb"),
        ({"rendered": "a"}, "a"),
        ({"other": "a"}, ""),
        (float("inf"), ""),
        ("a\r\nb", "a\nb"),
        ("if a < b && c > d: AT&T", "if a < b && c > d: AT&T"),
    ],
)
def test_values_of_other_kinds_become_text_or_nothing(value: object, text: str) -> None:
    assert clean_text(value) == text


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("Don&#8217;t &amp; won&rsquo;t", "Don\u2019t & won\u2019t"),
        ('<p>See <a\n  href="/x"\n  title="a > b">this</a>.</p><p>Next</p>', "See this.\n\nNext"),
        ("First <em>line</em>\n\nSecond", "First line\n\nSecond"),
        ("<h2>Head</h2>\nOne\n\nTwo\n<pre>a\n\nb</pre>\nThree", "Head\n\nOne\n\nTwo\n\na\n\nb\n\nThree"),
    ],
)
def test_html_becomes_text_with_its_paragraphs(html: str, text: str) -> None:
    assert clean_text(html, "body") == text


def test_code_inside_markdown_keeps_its_tags() -> None:
    markdown = "Use it &amp; see <b>this</b>:\n\n```html\n<p>\n\n  kept</p>\n```\n\nDone."
    assert clean_text(markdown, "body") == "Use it & see this:\n\n```html\n<p>\n\n  kept</p>\n```\n\nDone."


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("2002-06-12T10:00:00+00:00", "2002-06-12T10:00:00+00:00"),
        (1718186400, "2024-06-12T10:00:00+00:00"),
        (1718186400123, "2024-06-12T10:00:00+00:00"),
        ("Wed, 12 Jun 2024 10:00:00 GMT", "2024-06-12T10:00:00+00:00"),
        (datetime(2024, 6, 12, tzinfo=timezone.utc), "2024-06-12T00:00:00+00:00"),
        pytest.param(10**4000, "", id="a number of thousands of digits"),
        pytest.param(-(10**400), "", id="a number below all others"),
        (float("inf"), ""),
        (Decimal("sNaN"), ""),
        ("Wed, 99 Jun 2024", "Wed, 99 Jun 2024"),
        (2002, "2002"),
        ([], ""),
    ],
)
def test_dates_are_iso_8601_where_they_can_be_read(found: object, expected: str) -> None:
    assert made({"body": "x", "date": found}).date == expected


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("/2024/a b", "https://example.org/2024/a%20b"),
        ("https://other.example/x#y", "https://other.example/x"),
        ("javascript:alert(1)", ""),
        ("http://[", ""),
        (17, "https://example.org/api/17"),
        (None, ""),
    ],
)
def test_addresses_are_made_absolute(link: object, expected: str) -> None:
    assert made({"body": "x", "url": link}, base_url="https://example.org/api/list").url == expected


def test_the_licence_of_a_record_goes_before_that_of_the_source() -> None:
    fields = TextFields(("body",), licence="license")
    own = record_document({"body": "x", "license": "CC BY 4.0"}, fields, licence="MIT")
    other = record_document({"body": "x"}, fields, licence="MIT")
    assert own is not None
    assert other is not None
    assert (own.licence, other.licence) == ("CC BY 4.0", "MIT")


def test_paths_go_through_objects_lists_and_keys_with_dots() -> None:
    record = {"a": {"b": [{"c": 1}]}, "@odata.nextLink": 2, "x.y": {"z": 3}, "n": None}
    assert [value_at(record, path) for path in ("a.b.0.c", "@odata.nextLink", "x.y.z")] == [1, 2, 3]
    assert [value_at(record, path) for path in ("a.b.1.c", "a.b.c", "n", "")] == [None] * 4
    assert has_path(record, "n")
    assert not has_path(record, "a.c")


@given(
    st.dictionaries(
        st.text(max_size=8) | st.sampled_from(["body", "title", "date", "url", "author", "id"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40) | st.binary(max_size=9),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=6,
    )
)
def test_any_record_is_a_document_or_none_or_one_error(record: dict[str, Any]) -> None:
    try:
        fields = chosen(record)
    except SourceError:
        return
    item = record_document(record, fields, base_url="https://example.org/")
    assert item is None or item.text.strip()
