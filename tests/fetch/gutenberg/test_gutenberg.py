from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from gptcli.documents import Document
from gptcli.errors import SourceError
from gptcli.fetch import gutenberg
from gptcli.fetch.gutenberg import gutenberg_name, is_gutenberg, open_gutenberg
from gptcli.fetch.gutenberg.header import PUBLIC_DOMAIN
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.source import Source
from gptcli.fetch.web import FetchError, Web
from tests.fetch.conftest import Page, Site
from tests.fetch.gutenberg.test_catalog import ROWS, catalog
from tests.fetch.gutenberg_samples import END, FOOTER, HEADER, START

Fetched = tuple[Source, list[Document]]
FEED = "/cache/epub/feeds/pg_catalog.csv.gz"


def a_book(words: str, header: str = HEADER) -> bytes:
    return f"{header}{START}\n\n\n{words}\n\n\n{END}\n{FOOTER}".replace("\n", "\r\n").encode()


@pytest.fixture
def mirror(site: Site, shared_data: Path) -> Site:
    """The real renderings laid out as a mirror has them."""
    for path, name in {
        "/8/6/863/863-0.txt": "863-0.txt",
        "/8/6/863/863.txt": "863.txt",
        "/1/5/1/1513/1513-0.txt": "1513-0.txt",
        "/1/5/1/1513/1513-h/1513-h.htm": "1513-h.htm",
    }.items():
        site.pages[path] = Page((shared_data / "gutenberg" / name).read_bytes())
    return site


@pytest.fixture
def fetched(tmp_path: Path, site: Site) -> Callable[..., Fetched]:
    """Fetch from the site, as often as one likes into the same raw store."""

    def fetched(where: str, **options: object) -> Fetched:
        chosen = FetchOptions(**{"mirror": site.url, "delay": 0.0, **options})  # type: ignore[arg-type]
        with Web(tmp_path / "corpus", where, chosen) as web:
            source = open_gutenberg(where, web, chosen)
            items = list(source.documents)
            if not source.missing:
                web.finish()
            return source, items

    return fetched


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("gutenberg:1513", "pg1513"),
        ("Gutenberg: #1513 ", "pg1513"),
        ("gutenberg:863,58866, 61262", "pg863-58866-61262"),
        ("gutenberg:1 2 3 4 5", "pg1-2-3-and-2-more"),
        ("gutenberg:863,863", "pg863"),
        ("https://www.gutenberg.org/ebooks/1513", "pg1513"),
        ("http://gutenberg.org/ebooks/1513.txt.utf-8", "pg1513"),
        ("gutenberg.org/ebooks/1513.html.images", "pg1513"),
        ("https://www.gutenberg.org/files/1513/1513-0.txt", "pg1513"),
        ("https://www.gutenberg.org/files/1513/1513-h/1513-h.htm#sceneI_1", "pg1513"),
        ("https://gutenberg.org/cache/epub/1513/pg1513-images.html", "pg1513"),
        ("https://www.gutenberg.org/etext/1513", "pg1513"),
        ("https://aleph.gutenberg.org/1/5/1/1513/1513-8.txt", "pg1513"),
        ("https://gutenberg.pglaf.org/0/5/5.txt", "pg5"),
        ("gutenberg:https://www.gutenberg.org/ebooks/863", "pg863"),
        ("gutenberg:Romeo and Juliet", "Romeo and Juliet"),
        ("gutenberg:1984 and after", "1984 and after"),
    ],
)
def test_books_are_known_by_number_address_and_title(where: str, name: str) -> None:
    assert is_gutenberg(where)
    assert gutenberg_name(where) == name


@pytest.mark.parametrize(
    "where",
    ["book.txt", "https://example.org/ebooks/1513", "gutenberg", "https://notgutenberg.org/ebooks/1", "gutenberg.txt",
     "https://[broken", "ftp://www.gutenberg.org/ebooks/1", "gutenberg.org.example.com/ebooks/1"],
)  # fmt: skip
def test_other_words_are_no_books_of_it(where: str) -> None:
    assert not is_gutenberg(where)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("gutenberg:", "gutenberg: names no book of Project Gutenberg."),
        ("gutenberg:?!", "gutenberg:?! names no book of Project Gutenberg."),
        ("gutenberg:0", "Project Gutenberg has no book number 0."),
        ("gutenberg:863,999999999", "Project Gutenberg has no book number 999999999."),
        ("gutenberg:https://example.org/1", "gutenberg:https://example.org/1 names no book of Project Gutenberg."),
        (
            "https://gutenberg.org/ebooks/author/451",
            (
                "https://gutenberg.org/ebooks/author/451 is not the address of a book of Project Gutenberg, "
                "and its other pages are not for programs."
            ),
        ),
    ],
)
def test_words_that_name_no_book_are_an_error(where: str, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        gutenberg_name(where)
    assert caught.value.message == message
    assert "1513" in caught.value.hint


def test_a_book_comes_clean_and_with_what_its_header_says(mirror: Site, fetched: Callable[..., Fetched]) -> None:
    source, (item,) = fetched("https://www.gutenberg.org/ebooks/1513")
    assert item.text.startswith("THE TRAGEDY OF ROMEO AND JULIET")
    assert item.text.endswith("[_Exeunt._]")
    assert (item.title, item.author, item.language) == ("Romeo and Juliet", "William Shakespeare", "en")
    assert (item.date, item.url) == ("1998-11", "https://www.gutenberg.org/ebooks/1513")
    assert item.licence == source.licence == PUBLIC_DOMAIN
    assert source.fetched_at.keys() == {item.id}
    assert source.dropped["lines of header, licence, credits and notes"] > 300
    assert mirror.asked == ["/cache/epub/1513/pg1513.txt", "/1/5/1/1513/1513-0.txt"]


def test_several_books_are_a_document_each_in_the_order_given(mirror: Site, fetched: Callable[..., Fetched]) -> None:
    source, items = fetched("gutenberg:1513,863")
    assert [item.title for item in items] == ["Romeo and Juliet", "The Mysterious Affair at Styles"]
    assert source.missing == []


def test_what_was_fetched_is_not_asked_for_again(mirror: Site, fetched: Callable[..., Fetched]) -> None:
    mirror.pages["/1/5/1/1513/1513-0.txt"] = Page(b"", status=500)
    mirror.pages["/1/5/1/1513/1513-h/1513-h.htm"] = Page(b"", status=500)
    source, items = fetched("gutenberg:863,1513")
    assert [missing.what for missing in source.missing] == ["book 1513"]
    assert len(items) == 1
    mirror.pages["/1/5/1/1513/1513-0.txt"] = Page(a_book("The play."))
    asked = len(mirror.asked)
    source, items = fetched("gutenberg:863,1513")
    assert [item.text for item in items][1:] == ["The play."]
    assert source.missing == []
    assert not [path for path in mirror.asked[asked:] if "863" in path]


def test_offline_a_book_comes_from_the_raw_store(mirror: Site, fetched: Callable[..., Fetched]) -> None:
    _, online = fetched("gutenberg:863")
    asked = len(mirror.asked)
    _, offline = fetched("gutenberg:863", offline=True)
    assert offline == online
    assert len(mirror.asked) == asked


def test_offline_a_book_that_never_came_is_an_error(mirror: Site, fetched: Callable[..., Fetched]) -> None:
    fetched("gutenberg:863")
    with pytest.raises(FetchError, match=r"Book 1513 of Project Gutenberg was not fetched before, and --offline"):
        fetched("gutenberg:1513", offline=True)


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/cache/epub/7/pg7.txt", 7),
        ("/0/7/7-0.txt", 7),
        ("/0/7/7.txt", 7),
        ("/1/10/10-8.txt", 10),
        ("/1/2/3/4/12345/12345-0.txt", 12345),
        ("/1/2/3/4/12345/12345-h/12345-h.htm", 12345),
    ],
)
def test_every_place_of_a_mirror_is_tried(site: Site, fetched: Callable[..., Fetched], path: str, number: int) -> None:
    body = a_book("A short work.")
    site.pages[path] = Page(b"<html><body><pre>" + body + b"</pre></body></html>" if path.endswith("htm") else body)
    _, (item,) = fetched(f"gutenberg:{number}")
    assert item.text == "A short work."


def test_a_rendering_in_html_is_the_last_resort(mirror: Site, fetched: Callable[..., Fetched]) -> None:
    del mirror.pages["/1/5/1/1513/1513-0.txt"]
    _, (item,) = fetched("gutenberg:1513")
    assert item.text.startswith("THE TRAGEDY OF ROMEO AND JULIET")
    assert "Gutenberg" not in item.text
    assert "<" not in item.text


def test_a_page_that_says_not_found_with_status_200_is_no_book(site: Site, fetched: Callable[..., Fetched]) -> None:
    site.pages["/cache/epub/5/pg5.txt"] = Page(b"<!DOCTYPE html><html>No such file</html>")
    site.pages["/0/5/5.txt"] = Page(a_book("The Constitution."))
    _, (item,) = fetched("gutenberg:5")
    assert item.text == "The Constitution."


@pytest.mark.parametrize("says", ["ISO-8859-1", "ASCII", "Windows-1252"])
def test_latin_1_is_read_as_the_windows_encoding_it_is(site: Site, fetched: Callable[..., Fetched], says: str) -> None:
    header = HEADER + f"Character set encoding: {says}\n\n"
    words = "\u201cCaf\u00e9\u201d\u2014 he said, and \u0153uvre."
    site.pages["/1/10/10-8.txt"] = Page(a_book(words, header).decode().encode("cp1252"))
    _, (item,) = fetched("gutenberg:10")
    assert item.text == words
    assert item.language == "en"


def test_the_encoding_of_the_header_is_believed_and_another_can_be_insisted_on(
    site: Site, fetched: Callable[..., Fetched]
) -> None:
    words = "P\u0159\u00edli\u0161 \u017elu\u0165ou\u010dk\u00fd k\u016f\u0148."
    body = a_book(words, HEADER + "Character set encoding: ISO-8859-2\n\n").decode().encode("iso-8859-2")
    site.pages["/1/10/10-8.txt"] = Page(body)
    assert fetched("gutenberg:10")[1][0].text == words
    assert fetched("gutenberg:10", encoding="latin-1")[1][0].text == words.encode("iso-8859-2").decode("latin-1")


def test_bytes_that_the_header_lies_about_are_guessed(site: Site, fetched: Callable[..., Fetched]) -> None:
    words = "\u041c\u043e\u0439 \u0434\u044f\u0434\u044f \u0441\u0430\u043c\u044b\u0445 \u0447\u0435\u0441\u0442\u043d"
    body = a_book(f"{words} " * 40, HEADER + "Character set encoding: klingon-1\n\n").decode().encode("koi8-r")
    site.pages["/1/10/10-8.txt"] = Page(body)
    assert "\ufffd" not in fetched("gutenberg:10")[1][0].text


def test_a_book_that_no_mirror_has_is_an_error_that_says_so(site: Site, fetched: Callable[..., Fetched]) -> None:
    with pytest.raises(FetchError) as caught:
        fetched("gutenberg:863")
    host = site.url.removeprefix("http://")
    assert caught.value.message == f"There is no text of a book 863 of Project Gutenberg at {host}."
    assert "https://www.gutenberg.org/ebooks/863" in caught.value.hint
    assert caught.value.reason == "gone"


def test_of_several_books_the_one_that_cannot_be_had_is_missing(mirror: Site, fetched: Callable[..., Fetched]) -> None:
    source, items = fetched("gutenberg:863,99,1513")
    assert [item.title for item in items] == ["The Mysterious Affair at Styles", "Romeo and Juliet"]
    (missing,) = source.missing
    assert missing.what == "book 99"
    assert "There is no text of a book 99" in missing.why


def test_where_no_book_comes_the_reason_is_the_error(site: Site, fetched: Callable[..., Fetched]) -> None:
    with pytest.raises(FetchError, match="There is no text of a book 99"):
        fetched("gutenberg:98,99")


def test_the_next_mirror_is_asked_when_one_is_down_or_lacks_the_book(
    mirror: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_data: Path
) -> None:
    monkeypatch.setattr(gutenberg, "MIRRORS", (f"{mirror.url}/down", f"{mirror.url}/without", mirror.url))
    mirror.pages["/down/cache/epub/863/pg863.txt"] = Page(b"", status=503)
    options = FetchOptions(delay=0.0)
    with Web(tmp_path / "corpus", "gutenberg:863", options) as web:
        source = open_gutenberg("gutenberg:863", web, options)
        (item,) = source.documents
    assert item.title == "The Mysterious Affair at Styles"
    assert source.missing == []
    assert "/without/8/6/863/863-h/863-h.htm" in mirror.asked


def test_when_every_mirror_fails_each_failure_is_told(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gutenberg, "MIRRORS", (f"{site.url}/one", f"{site.url}/two"))
    for name in ("one", "two"):
        site.pages[f"/{name}/cache/epub/863/pg863.txt"] = Page(b"", status=403)
    options = FetchOptions(delay=0.0)
    with Web(tmp_path / "corpus", "gutenberg:863", options) as web, pytest.raises(FetchError) as caught:
        list(open_gutenberg("gutenberg:863", web, options).documents)
    assert caught.value.message.startswith("No mirror of Project Gutenberg could be read for book 863: ")
    assert caught.value.message.count("403 Forbidden") == 2


def test_a_mirror_may_have_a_path_and_a_login_that_is_not_told(site: Site, fetched: Callable[..., Fetched]) -> None:
    mirror = f"{site.url.replace('://', '://me:secret@')}/books/"
    with pytest.raises(FetchError) as caught:
        fetched("gutenberg:5", mirror=mirror)
    assert "secret" not in caught.value.message
    site.pages["/books/0/5/5.txt"] = Page(a_book("The Constitution."))
    assert fetched("gutenberg:5,5", mirror=mirror)[1][0].text == "The Constitution."


def test_a_title_is_looked_up_in_the_catalogue_of_the_mirror(mirror: Site, fetched: Callable[..., Fetched]) -> None:
    mirror.pages[FEED] = Page(gzip.compress(catalog(*ROWS)), content_type="application/gzip")
    source, (item,) = fetched("gutenberg:the mysterious affair at styles")
    assert item.title == "The Mysterious Affair at Styles"
    assert source.notes == [
        "'the mysterious affair at styles' is book 863: The Mysterious Affair at Styles, by Agatha Christie."
    ]
    assert mirror.asked[0] == FEED


@pytest.mark.parametrize("broken", [b"<html>Come back later", gzip.compress(catalog(*ROWS))[:-20], b""])
def test_a_broken_catalogue_is_asked_for_again(mirror: Site, fetched: Callable[..., Fetched], broken: bytes) -> None:
    mirror.pages[FEED] = [Page(broken), Page(gzip.compress(catalog(*ROWS)), content_type="application/gzip")]
    with pytest.raises(SourceError, match="is not the catalogue of Project Gutenberg"):
        fetched("gutenberg:the mysterious affair at styles")
    assert [item.title for item in fetched("gutenberg:the mysterious affair at styles")[1]] == [
        "The Mysterious Affair at Styles"
    ]


@pytest.mark.parametrize("useless", [b"", b" \r\n", b"\0\1\2\0", b"<!DOCTYPE html><p>Busy."])
def test_a_rendering_that_is_no_text_is_asked_for_again(
    site: Site, fetched: Callable[..., Fetched], useless: bytes
) -> None:
    site.pages["/cache/epub/7/pg7.txt"] = [Page(useless), Page(a_book("The words of the book."))]
    with pytest.raises(SourceError):
        fetched("gutenberg:7")
    assert [item.text for item in fetched("gutenberg:7")[1]] == ["The words of the book."]


def test_without_a_catalogue_a_number_is_asked_for(site: Site, fetched: Callable[..., Fetched]) -> None:
    with pytest.raises(SourceError, match="The catalogue of titles of Project Gutenberg could not be had") as caught:
        fetched("gutenberg:Romeo and Juliet")
    assert "gutenberg:1513" in caught.value.hint


def test_the_plan_counts_what_is_not_here_at_two_seconds_each(
    mirror: Site, tmp_path: Path, fetched: Callable[..., Fetched]
) -> None:
    options = FetchOptions(mirror=mirror.url)
    with Web(tmp_path / "plan", "gutenberg:863,1513,99", options) as web:
        plan = open_gutenberg("gutenberg:863,1513,99", web, options).plan()
    host = mirror.url.removeprefix("http://")
    assert plan.steps == (f"read 3 books 863, 1513, 99 from {host}",)
    assert plan.requests == 3
    assert plan.seconds is not None
    assert plan.seconds >= 4
    assert mirror.asked == []


def test_a_copyrighted_book_says_so(site: Site, fetched: Callable[..., Fetched]) -> None:
    notice = "** This is a COPYRIGHTED Project Gutenberg eBook, Details Below **\n\n"
    site.pages["/0/5/5.txt"] = Page(a_book("My work.", HEADER + notice))
    site.pages["/0/6/6.txt"] = Page(a_book("My work.\n\nCopyright (C) 2008 Jane Roe.", HEADER + notice))
    source, items = fetched("gutenberg:5,6")
    assert [item.licence for item in items] == [
        "copyrighted, distributed by Project Gutenberg with permission",
        "copyrighted, distributed by Project Gutenberg with permission: \u00a9 2008 Jane Roe",
    ]
    assert source.licence == "see each document"


def test_a_file_without_words_is_an_error(site: Site, fetched: Callable[..., Fetched]) -> None:
    site.pages["/0/5/5.txt"] = Page(b"\n\n")
    with pytest.raises(SourceError, match=r"/0/5/5\.txt is empty"):
        fetched("gutenberg:5")
