from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gptcli.errors import SourceError
from gptcli.fetch.web import FetchError
from tests.fetch.conftest import Page, Site
from tests.fetch.datasette_server import ROWS, DatasetteSite, datasette_site
from tests.fetch.json_reading import plan, read, records, serve, texts


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def datasette(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatasetteSite]:
    with datasette_site(tmp_path_factory.mktemp("datasette")) as site:
        yield site


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?_col=title&_col=body&_shape=objects&_size=max",
        "?_shape=array",
        "?_shape=array&_nl=on&_size=max",
        "?_shape=object",
    ],
)
def test_a_real_datasette_gives_all_rows_in_order_and_clean(
    datasette: DatasetteSite, query: str, tmp_path: Path
) -> None:
    datasette.requests.clear()
    source, documents = read(datasette.table + query, tmp_path / "blog")
    expected = [post for post in datasette.posts if post.words]
    assert [item.title for item in documents] == [post.title for post in expected]
    assert [tuple(item.text.split()) for item in documents] == [post.words for post in expected]
    assert source.dropped == {"records without text": ROWS - len(expected)}
    assert (source.missing, source.name, len(expected) > 1500) == ([], "blog_entry", True)
    assert source.notes == ["The text of each record is its field body; --text-fields NAME,NAME takes others."]
    assert len(datasette.requests) == len(set(datasette.requests))
    assert {item.id for item in documents} == set(source.fetched_at)


def test_the_page_of_a_table_is_read_by_its_rows(datasette: DatasetteSite, tmp_path: Path) -> None:
    url = f"{datasette.url}/blog/blog_entry?id__gt=1500&_size=70"
    source, documents = read(url, tmp_path / "blog")
    assert [item.title for item in documents] == [post.title for post in datasette.posts[1500:] if post.words]
    assert any(note.startswith("The page shows a table of Datasette") for note in source.notes)


def test_rows_that_datasette_cuts_off_are_told(datasette: DatasetteSite, tmp_path: Path) -> None:
    url = f"{datasette.url}/blog.json?sql=select+*+from+blog_entry+order+by+id"
    source, documents = read(url, tmp_path / "blog")
    assert len(documents) == sum(bool(post.words) for post in datasette.posts[:101])
    (missing,) = source.missing
    assert missing.why.startswith("The server gave 101 records and did not say how the next ones are had.")


def test_a_first_page_that_is_no_use_is_asked_for_again(site: Site, tmp_path: Path) -> None:
    url = serve(site, "/posts.json", records(1, 2))
    good = site.page("/posts.json")
    for useless in (b'[{"body": "wor', b'{"ok": false, "error": "Too busy."}', b"[" * 100_000):
        site.pages["/posts.json"] = Page(useless, content_type="application/json")
        with pytest.raises(SourceError):
            read(url, tmp_path / "blog")
    site.pages["/posts.json"] = good
    assert texts(read(url, tmp_path / "blog")[1]) == ["text 1", "text 2"]


def test_a_later_page_that_does_not_parse_is_asked_for_again(site: Site, tmp_path: Path) -> None:
    url = serve(site, "/posts", {"items": records(1, 2), "next": "/posts?page=2"})
    serve(site, "/posts?page=2", b'{"items": [')
    source, documents = read(url, tmp_path / "blog")
    assert (len(documents), len(source.missing)) == (2, 1)
    serve(site, "/posts?page=2", {"items": records(3, 4), "next": None})
    assert len(read(url, tmp_path / "blog")[1]) == 4


def test_a_database_of_datasette_names_its_tables(datasette: DatasetteSite, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"is a whole database of Datasette; its tables are blog_entry\.") as caught:
        read(f"{datasette.url}/blog.json", tmp_path / "blog")
    assert caught.value.hint == f"Fetch one of them: gptcli fetch {datasette.url}/blog/TABLE.json"


def test_the_plan_of_a_datasette_knows_its_pages(datasette: DatasetteSite, tmp_path: Path) -> None:
    found, requests = plan(datasette.table, tmp_path / "blog")
    assert found.steps == (f"read 1,650 records on 17 pages of {datasette.table}; their text is the field body",)
    assert (found.requests, requests) == (16, 2)


@pytest.mark.parametrize(
    ("value", "options", "expected"),
    [
        ([{"body": "a"}, {"body": "b"}], {}, ["a", "b"]),
        (["a text of its own", "and another one"], {}, ["a text of its own", "and another one"]),
        ({"version": "https://jsonfeed.org/version/1.1", "items": [{"id": "1", "content_html": "<p>a"}]}, {}, ["a"]),
        ({"1": {"title": "t", "body": "a"}, "2": {"title": "u", "body": "b"}}, {}, ["a", "b"]),
        ({"x": {"title": "t", "body": "a"}, "y": {"title": "u", "body": "b"}}, {}, ["a", "b"]),
        ({"tags": [{"name": "t"}], "data": {"posts": {"nodes": [{"body": "a" * 30}]}}}, {}, ["a" * 30]),
        ({"columns": ["id", "body"], "rows": [[1, "a"], [2, "b"]]}, {}, ["a", "b"]),
        ({"hits": {"total": 1, "hits": [{"_source": {"text": "a"}}]}}, {}, ["a"]),
        ({"features": [{"row": {"text": "a"}}], "other": []}, {"items": "features"}, ["a"]),
        ({"a": {"b": {"x": {"body": "a"}}}}, {"items": "a.b"}, ["a"]),
        ([{"title": "T", "body": "a"}], {"text_fields": ("title", "body")}, ["T\n\na"]),
        ([1, {"body": "a"}, None], {}, ["a"]),
    ],
)
def test_lists_of_many_shapes_are_read(
    site: Site, tmp_path: Path, value: object, options: dict[str, Any], expected: list[str]
) -> None:
    source, documents = read(serve(site, "/list", value), tmp_path / "list", **options)
    assert texts(documents) == expected
    assert source.missing == []


@pytest.mark.parametrize(
    ("value", "options", "message", "hint"),
    [
        (
            {"title": "t", "body": "a text that is longer than the list", "tags": [{"a": "b"}]},
            {},
            "{url} is a single JSON object, and a list of records was expected. Its keys are {keys}.",
            "Say where the list is, by a dotted path: gptcli fetch {url} --items tags",
        ),
        (
            {"data": {"n": 1}},
            {"items": "data.posts"},
            "{url} has nothing at 'data.posts'. Its keys are data (an object).",
            "Say where the list is, by a dotted path: gptcli fetch {url} --items data.items",
        ),
        (
            {"data": 5, "list": []},
            {"items": "data"},
            "{url}: what is at 'data' is a number, not a list.",
            "Say where the list is, by a dotted path: gptcli fetch {url} --items list",
        ),
        (
            {"ok": False, "error": "Invalid  filter\n", "status": 400},
            {},
            "{url} answered with an error: Invalid filter.",
            "Check the address.",
        ),
        (
            {"errors": [{"detail": "No such thing."}]},
            {},
            "{url} answered with an error: No such thing.",
            "Check the address.",
        ),
        (
            [{"id": 1, "n": 2}],
            {},
            "{url}: no field of the records looks like text. The fields are id, n.",
            "Name the fields that are the text: --text-fields title,body",
        ),
        (
            b'{"ok": tru',
            {},
            "{url} is not JSON (it begins with '{{\"ok\": tru'; Expecting value: line 1 column 8 (char 7)).",
            "--as page or --as text reads it as something else.",
        ),
        ("hello", {}, "{url} is a text, and a list of records was expected.", "Check the address."),
    ],
)
def test_what_is_no_list_is_explained(
    site: Site, tmp_path: Path, value: object, options: dict[str, Any], message: str, hint: str
) -> None:
    url = serve(site, "/list", value)
    with pytest.raises(SourceError) as caught:
        read(url, tmp_path / "list", **options)
    assert (caught.value.message, caught.value.hint) == (
        message.format(url=url, keys="title (a text), body (a text), tags (a list)"),
        hint.format(url=url),
    )


def test_an_empty_list_has_no_documents(site: Site, tmp_path: Path) -> None:
    assert read(serve(site, "/list", {"items": []}), tmp_path / "list")[1] == []


def test_wordpress_is_read_in_pages_of_a_hundred_by_id(site: Site, tmp_path: Path) -> None:
    def post(number: int) -> dict[str, Any]:
        return {"id": number, "link": f"/?p={number}", "content": {"rendered": f"<p>text {number}</p>"}}

    counts = {"X_WP_Total": "120", "X_WP_TotalPages": "12"}
    url = serve(site, "/wp-json/wp/v2/posts", [post(number) for number in range(120, 110, -1)], **counts)
    counts["X_WP_TotalPages"] = "2"
    large = "/wp-json/wp/v2/posts?per_page=100&orderby=id&order=asc"
    serve(site, large, [post(number) for number in range(1, 101)], **counts)
    serve(site, f"{large}&page=2", [post(number) for number in range(101, 121)], **counts)
    assert plan(url, tmp_path / "plan")[0].steps[0].startswith("read 120 records on 2 pages")
    site.requests.clear()
    source, documents = read(url, tmp_path / "posts")
    assert texts(documents) == [f"text {number}" for number in range(1, 121)]
    assert documents[0].url == f"{site.url}/?p=1"
    assert (source.name, site.asked) == ("posts", ["/wp-json/wp/v2/posts", "/robots.txt", large, f"{large}&page=2"])


def test_a_server_that_refuses_large_pages_gives_small_ones(site: Site, tmp_path: Path) -> None:
    url = serve(site, "/blog/posts.json", {"rows": records(1, 2), "next": "2"})
    site.pages["/blog/posts.json?_size=max"] = Page(b"no", status=400)
    serve(site, "/blog/posts.json?_next=2", {"rows": records(3, 4), "next": None})
    assert texts(read(url, tmp_path / "list")[1]) == ["text 1", "text 2", "text 3", "text 4"]


def test_records_that_come_twice_by_a_shifted_page_are_dropped(site: Site, tmp_path: Path) -> None:
    url = serve(site, "/list", records(1, 3), Link="</list?page=2>; rel=next")
    serve(site, "/list?page=2", records(3, 5))
    source, documents = read(url, tmp_path / "list")
    assert texts(documents) == [f"text {number}" for number in range(1, 6)]
    assert source.dropped == {"records that came twice": 1}


def test_an_id_that_is_no_key_drops_nothing(site: Site, tmp_path: Path) -> None:
    url = serve(site, "/list", [{"id": 1, "body": "a"}], Link="</list?page=2>; rel=next")
    serve(site, "/list?page=2", [{"id": 1, "body": "b"}])
    assert texts(read(url, tmp_path / "list")[1]) == ["a", "b"]


def test_the_same_record_twice_without_any_key_is_kept(site: Site, tmp_path: Path) -> None:
    url = serve(site, "/list", [{"body": "a"}, {"body": "a"}], Link="</list?page=2>; rel=next")
    serve(site, "/list?page=2", [{"body": "a"}, {"body": "b"}])
    source, documents = read(url, tmp_path / "list")
    assert (texts(documents), source.dropped) == (["a", "a", "a", "b"], {})


@pytest.mark.parametrize(
    ("second", "why"),
    [
        ({"results": records(3, 4), "next": "/list?page=2"}, "The server names this page again as the next one"),
        ({"results": records(3, 4), "next": "/list"}, "The server names this page again as the next one"),
        ({"results": records(1, 2), "next": "/list?page=3"}, "The page has the same records as an earlier one"),
    ],
)
def test_an_api_that_repeats_a_page_is_stopped(site: Site, tmp_path: Path, second: dict[str, Any], why: str) -> None:
    url = serve(site, "/list", {"results": records(1, 2), "next": "/list?page=2"})
    serve(site, "/list?page=2", second)
    source, documents = read(url, tmp_path / "list")
    assert texts(documents) == [f"text {record['id']}" for record in records(1, 2 if "3" in second["next"] else 4)]
    (missing,) = source.missing
    assert missing.why.startswith(why)
    assert site.asked == ["/list", "/robots.txt", "/list?page=2"]


@pytest.mark.parametrize("again", [[], records(1, 2)])
def test_pages_without_end_that_bring_nothing_new_are_stopped(site: Site, tmp_path: Path, again: list[Any]) -> None:
    url = serve(site, "/list", {"results": records(1, 2), "next": "/list?at=1"})
    for number in range(1, 40):
        page = [{**record, "seen_at": number} for record in again]
        serve(site, f"/list?at={number}", {"results": page, "next": f"/list?at={number + 1}"})
    source, documents = read(url, tmp_path / "list")
    assert (len(documents), len(site.asked)) == (2, 12)
    assert source.missing[0].why == "10 pages in a row brought nothing new, so no further ones were asked for."


def test_a_next_page_on_another_host_is_not_followed(site: Site, tmp_path: Path) -> None:
    url = serve(site, "/list", {"items": records(1, 2), "next_url": "https://evil.example/2"})
    source, documents = read(url, tmp_path / "list")
    (missing,) = source.missing
    assert len(documents) == 2
    assert missing.why == (
        "The next page is said to be https://evil.example/2, which is on another host than 127.0.0.1, "
        "so it was not followed."
    )


def test_the_plan_of_a_list_tells_what_it_cannot_know(site: Site, tmp_path: Path) -> None:
    found, _ = plan(serve(site, "/a", {"items": records(1, 2), "next_url": "/a?2"}), tmp_path / "a")
    assert (found.requests, found.seconds) == (None, None)
    assert "on a number of pages that it does not say" in found.steps[0]
    found, _ = plan(serve(site, "/b", {"items": records(1, 2), "next_url": "https://evil.example/"}), tmp_path / "b")
    assert (found.requests, len(found.steps)) == (0, 2)


def test_offline_the_same_documents_come_from_the_raw_store(site: Site, tmp_path: Path) -> None:
    url = serve(site, "/blog/posts.json", {"rows": records(1, 2), "next": "2"})
    site.pages["/blog/posts.json?_size=max"] = Page(b"no", status=400)
    serve(site, "/blog/posts.json?_next=2", {"rows": records(3, 4), "next": None})
    _, documents = read(url, tmp_path / "list")
    site.pages.clear()
    source, again = read(url, tmp_path / "list", offline=True)
    assert (again, source.missing) == (documents, [])


def test_a_page_that_fails_is_named_and_a_second_run_completes_the_list(site: Site, tmp_path: Path) -> None:
    url = serve(site, "/list", {"items": records(1, 2), "next_url": "/list?page=2"})
    site.pages["/list?page=2"] = Page(b"", status=403)
    source, documents = read(url, tmp_path / "list")
    (missing,) = source.missing
    assert (len(documents), missing.what) == (2, f"{url}?page=2")
    assert "403" in missing.why
    serve(site, "/list?page=2", {"items": records(3, 4), "next_url": None})
    again, documents = read(url, tmp_path / "list")
    assert (len(documents), again.missing) == (4, [])
    assert site.asked.count("/list") == 1


def test_fewer_records_than_the_server_speaks_of_are_told(site: Site, tmp_path: Path) -> None:
    lost, _ = read(serve(site, "/lost", {"items": records(1, 2), "total": 40}), tmp_path / "lost")
    assert lost.missing[0].why.startswith("The server gave 2 of 40 records and did not say")
    ended, _ = read(serve(site, "/ended", {"results": records(1, 2), "count": 3, "next": None}), tmp_path / "ended")
    assert ended.missing == []
    assert ended.notes == ["The server speaks of 3 records, and its last page came after 2."]


@pytest.mark.parametrize("after_the_last", [Page(status=404), Page(status=400), Page(b"[]"), None])
def test_next_may_name_the_parameter_that_counts_pages(site: Site, tmp_path: Path, after_the_last: Page | None) -> None:
    url = serve(site, "/list", records(1, 2))
    serve(site, "/list?page=2", records(3, 4))
    site.pages["/list?page=3"] = after_the_last or site.pages["/list?page=2"]
    source, documents = read(url, tmp_path / "list", next_page="page")
    assert (len(documents), source.missing) == (4, [])


def test_a_parameter_that_the_server_ignores_is_told(site: Site, tmp_path: Path) -> None:
    url = serve(site, "/list", records(1, 2))
    serve(site, "/list?page=2", records(1, 2))
    source, documents = read(url, tmp_path / "list", next_page="page")
    assert (len(documents), len(source.missing)) == (2, 1)


def test_a_list_that_cannot_be_had_is_the_error_of_its_request(site: Site, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="404"):
        read(f"{site.url}/nowhere", tmp_path / "list")


@pytest.mark.parametrize(
    ("path", "name"),
    [("/api/v2/posts.json?x=1", "posts"), ("/", "127.0.0.1"), ("/a%20b.ndjson", "a b")],
)
def test_the_name_is_the_last_part_of_the_path_else_the_host(site: Site, tmp_path: Path, path: str, name: str) -> None:
    assert read(serve(site, path, [{"body": "a"}]), tmp_path / "list")[0].name == name


def test_robots_txt_against_the_typed_address_is_said_once_and_strict_obeys_it(site: Site, tmp_path: Path) -> None:
    site.pages["/robots.txt"] = Page(b"User-agent: *\nDisallow: /")
    site.pages["/list"] = Page(b'[{"id": 1, "body": "One."}]', content_type="application/json")
    source, documents = read(f"{site.url}/list", tmp_path / "polite")
    assert texts(documents) == ["One."]
    assert "keeps crawlers from this address" in source.notes[0]
    assert "--robots strict" in source.notes[0]
    source, _ = read(f"{site.url}/list", tmp_path / "ignoring", robots="ignore")
    assert not [text for text in source.notes if "robots" in text]
    with pytest.raises(FetchError, match=r"is disallowed by the robots\.txt"):
        read(f"{site.url}/list", tmp_path / "strict", robots="strict")
