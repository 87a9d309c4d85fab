from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import pytest

from gptcli.errors import SourceError
from gptcli.fetch.json_api.paging import (
    Answer,
    larger_pages,
    next_step,
    on_same_host,
    pages_in_all,
    says_more,
    stated_total,
    with_parameter,
)

LIST = "https://example.org/api/posts"


def answer(
    body: object = None,
    url: str = LIST,
    *,
    count: int = 10,
    items: str = "",
    link: str | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Answer:
    return Answer(url, body, items, count, link, headers)


@pytest.mark.parametrize(
    ("body", "items", "url", "expected"),
    [
        pytest.param(
            {"rows": [], "next": "20", "next_url": f"{LIST}.json?_size=max&_next=20"},
            "rows",
            f"{LIST}.json?_size=max",
            f"{LIST}.json?_size=max&_next=20",
            id="datasette",
        ),
        pytest.param(
            {"ok": True, "rows": [], "next": "0,9", "truncated": False},
            "rows",
            f"{LIST}.json?_col=a&_col=b&_next=0%2C1",
            f"{LIST}.json?_col=a&_col=b&_next=0%2C9",
            id="datasette 1.0 alpha",
        ),
        pytest.param(
            {"items": [], "next_url": "/feed/2.json"}, "items", LIST, "https://example.org/feed/2.json", id="JSON Feed"
        ),
        pytest.param({"results": [], "next": f"{LIST}?page=2"}, "results", LIST, f"{LIST}?page=2", id="DRF"),
        pytest.param({"data": [], "links": {"next": f"{LIST}?c=x"}}, "data", LIST, f"{LIST}?c=x", id="JSON:API"),
        pytest.param({"_links": {"next": {"href": "?page=3"}}}, "", f"{LIST}?page=2", f"{LIST}?page=3", id="HAL"),
        pytest.param({"value": [], "@odata.nextLink": "posts?$skip=9"}, "value", LIST, f"{LIST}?$skip=9", id="OData"),
        pytest.param({"posts": [], "meta": {"pagination": {"next": 2}}}, "posts", LIST, f"{LIST}?page=2", id="Ghost"),
        pytest.param(
            {"next": "2"}, "", f"{LIST}?p=1&q=a%20b", f"{LIST}?q=a%20b&p=2", id="a number, in the page's own parameter"
        ),
        pytest.param({"next_cursor": "a/b="}, "", LIST, f"{LIST}?cursor=a%2Fb%3D", id="cursor"),
        pytest.param({"nextPageToken": "t"}, "", LIST, f"{LIST}?pageToken=t", id="page token"),
        pytest.param(
            {"data": {"children": [], "after": "t3_x"}}, "data.children", LIST, f"{LIST}?after=t3_x", id="Reddit"
        ),
        pytest.param(
            {"continue": {"gapcontinue": "B", "continue": "gapcontinue||"}},
            "query.pages",
            LIST,
            f"{LIST}?gapcontinue=B&continue=gapcontinue%7C%7C",
            id="MediaWiki",
        ),
        pytest.param({"page": 1, "total_pages": 2}, "", LIST, f"{LIST}?page=2", id="page and total_pages"),
        pytest.param(
            {"meta": {"current_page": 2, "last_page": 3}}, "", f"{LIST}?page=2", f"{LIST}?page=3", id="Laravel"
        ),
        pytest.param({"page": 0, "nbPages": 2}, "", LIST, f"{LIST}?page=1", id="numbered from 0"),
        pytest.param({"has_more": True}, "", f"{LIST}?page=4", f"{LIST}?page=5", id="has_more"),
        pytest.param({"total": 25, "skip": 10, "limit": 10}, "", f"{LIST}?skip=10", f"{LIST}?skip=20", id="offset"),
        pytest.param(
            {"num_rows_total": 25},
            "",
            f"{LIST}?offset=0&length=10",
            f"{LIST}?length=10&offset=10",
            id="offset asked for",
        ),
    ],
)
def test_the_next_page_is_found_in_the_answer(body: object, items: str, url: str, expected: str) -> None:
    assert next_step(answer(body, url, items=items)).url == expected


@pytest.mark.parametrize(
    ("body", "url"),
    [
        ({"rows": [], "next": None, "next_url": None}, LIST),
        ({"results": [], "next": None, "count": 10}, LIST),
        ({"items": []}, LIST),
        ([], LIST),
        ({"page": 3, "total_pages": 3}, f"{LIST}?page=3"),
        ({"page": 1, "nbPages": 2}, f"{LIST}?page=1"),
        ({"pageInfo": {"endCursor": "x", "hasNextPage": False}}, LIST),
        ({"next_cursor": ""}, LIST),
        ({"has_more": False, "next_token": "x"}, LIST),
        ({"total": 20, "offset": 10}, LIST),
        ({"total": 20, "offset": 0}, f"{LIST}?offset=10"),
        ({"pages": 320}, LIST),
        ({"next": True}, LIST),
    ],
)
def test_an_answer_that_names_no_next_page_is_the_end(body: object, url: str) -> None:
    assert next_step(answer(body, url)).url is None


def test_the_link_header_leads_on_where_the_answer_is_a_bare_list() -> None:
    assert next_step(answer([], link=f"{LIST}?page=2")).url == f"{LIST}?page=2"


def test_wordpress_counts_its_pages_in_a_header() -> None:
    headers = {"x-wp-totalpages": "2", "x-wp-total": "15"}
    assert next_step(answer([], headers=headers)).url == f"{LIST}?page=2"
    assert next_step(answer([], f"{LIST}?page=2", headers=headers)).url is None
    assert (stated_total(answer([], headers=headers)), pages_in_all(answer([], headers=headers))) == (15, 2)


def test_a_list_that_says_nothing_of_pages_is_told_from_one_that_says_it_has_ended() -> None:
    assert not next_step(answer({"items": [], "total": 99}, items="items")).known
    assert next_step(answer({"results": [], "next": None}, items="results")).known


@pytest.mark.parametrize(
    ("wanted", "body", "url", "expected"),
    [
        ("more.there", {"more": {"there": "/api/posts?at=2"}}, LIST, f"{LIST}?at=2"),
        ("more.next_key", {"more": {"next_key": "k"}}, LIST, f"{LIST}?key=k"),
        ("since=data.last", {"data": {"last": 7}}, LIST, f"{LIST}?since=7"),
        ("since=data.last", {"data": {}}, LIST, None),
        ("page", [], LIST, f"{LIST}?page=2"),
        ("page", [], f"{LIST}?page=5", f"{LIST}?page=6"),
        ("start", [], LIST, f"{LIST}?start=10"),
        ("start", [], f"{LIST}?start=10", f"{LIST}?start=20"),
        ("page[number]", [], LIST, f"{LIST}?page[number]=2"),
        ("a.path.that.ended", {"a": {}}, LIST, None),
    ],
)
def test_next_names_a_path_or_a_parameter(wanted: str, body: object, url: str, expected: str | None) -> None:
    assert next_step(answer(body, url), wanted).url == expected


def test_a_counted_parameter_ends_with_an_empty_page() -> None:
    assert next_step(answer([], count=0), "page").url is None
    assert next_step(answer([]), "page").blind


@pytest.mark.parametrize(
    ("base", "link", "expected"),
    [
        ("https://example.org/a?x=1", "http://example.org/a?x=2", "https://example.org/a?x=2"),
        ("http://127.0.0.1:8001/a", "https://127.0.0.1:8001/b#c", "http://127.0.0.1:8001/b"),
        ("https://example.org/a", "https://www.example.org/b", "https://example.org/b"),
        ("https://example.org/a", "http://example.org:80/b", "https://example.org/b"),
        ("https://user:word@example.org/a", "https://example.org/b", "https://user:word@example.org/b"),
    ],
)
def test_the_same_host_keeps_the_scheme_that_was_typed(base: str, link: str, expected: str) -> None:
    assert on_same_host(base, link) == expected


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.example/a",
        "http://127.0.0.1/a",
        "https://example.org:8443/a",
        "https://example.org.evil.example/",
        "//evil.example/",
        "ftp://example.org/a",
        "http://[::1/",
        "https://example.org:99999/",
    ],
)
def test_a_next_page_on_another_host_is_refused(link: str) -> None:
    with pytest.raises(SourceError, match=r"on another host than example\.org, so it was not followed"):
        next_step(answer({"next_url": link}))


def test_known_servers_are_asked_for_their_largest_pages() -> None:
    datasette = answer({"rows": [], "next": "9", "next_url": f"{LIST}.json?_next=9"}, f"{LIST}.json", items="rows")
    assert larger_pages(datasette) == f"{LIST}.json?_size=max"
    keyed = answer({"1": {}}, f"{LIST}.json?_shape=object&_size=9")
    assert larger_pages(keyed) == f"{LIST}.json?_shape=objects&_size=max"
    wordpress = answer([], f"{LIST}?page=1", headers={"x-wp-totalpages": "3"})
    assert larger_pages(wordpress) == f"{LIST}?page=1&per_page=100&orderby=id&order=asc"


@pytest.mark.parametrize(
    "found",
    [
        answer({"rows": [], "next": None}, f"{LIST}.json", items="rows"),
        answer({"rows": [], "next": "9"}, f"{LIST}.json?_size=50", items="rows"),
        answer([], f"{LIST}?per_page=20", headers={"x-wp-totalpages": "3"}),
        answer({"results": [], "next": f"{LIST}?page=2"}),
    ],
)
def test_a_size_that_was_typed_and_unknown_servers_are_left_alone(found: Answer) -> None:
    assert larger_pages(found) is None


def test_totals_below_what_came_are_not_totals() -> None:
    assert stated_total(answer({"count": 3, "total": 40})) == 40
    assert stated_total(answer({"count": True, "total": "40"})) is None
    assert pages_in_all(answer({"total": 41})) == 5
    assert pages_in_all(answer({"total": 41}, count=0)) is None


def test_an_answer_that_was_cut_short_says_so() -> None:
    assert says_more(answer({"rows": [], "truncated": True}, items="rows"))
    assert not says_more(answer({"rows": [], "truncated": False}, items="rows"))


def test_setting_a_parameter_leaves_the_others_as_they_are_written() -> None:
    url = f"{LIST}?q=a+b&_next=1&empty=&%5Fnext=2#part"
    assert with_parameter(url, "_next", "ä&b") == f"{LIST}?q=a+b&empty=&_next=%C3%A4%26b"
