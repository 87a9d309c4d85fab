from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from gptcli.documents import Document, read_documents
from gptcli.errors import SourceError
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.site.blog import is_home_page, open_blog, open_feed
from gptcli.fetch.source import Source
from gptcli.fetch.web import Web
from tests.fetch.blog_site import Blog, f1, html_page, put_atom_blog, put_blog, put_wordpress_blog
from tests.fetch.blog_themes import THEMES
from tests.fetch.conftest import Page, Site

ROOT = Path(__file__).resolve().parents[3]
QUICK = FetchOptions(delay=0)


def fetched(
    site: Site, folder: Path, options: FetchOptions = QUICK, path: str = "/", *, feed: bool = False
) -> tuple[Source, list[Document]]:
    """Fetch a whole site from its home page alone, as one corpus."""
    with Web(folder / "corpus", site.url, options) as web:
        opening = open_feed if feed else open_blog
        source = opening(site.url + path, web.get(site.url + path), web, options)
        documents = list(source.documents)
        if not source.missing:
            web.finish()
    return source, documents


def scores(blog: Blog, documents: list[Document]) -> list[float]:
    """Return the F1 of each document against its known body; the addresses have to be exactly those of the posts."""
    known = {blog.url + post.path: post for post in blog.allowed}
    assert sorted(item.url for item in documents) == sorted(known)
    return [f1(item.text, known[item.url].text) for item in documents]


@pytest.mark.parametrize("theme", THEMES)
def test_from_the_home_page_alone_exactly_the_posts_come_and_their_texts_are_right(
    theme: str, site: Site, tmp_path: Path
) -> None:
    blog = put_blog(site, theme)
    source, documents = fetched(site, tmp_path)
    found = scores(blog, documents)
    assert len(documents) == 60
    assert sum(found) / len(found) >= 0.99
    assert min(found) >= 0.95
    assert source.missing == []
    assert not set(blog.disallowed) & set(site.asked)
    assert source.dropped["pages that robots.txt disallows"] == 5
    assert source.dropped["pages that are gone"] == 1
    assert max(Counter(site.asked).values()) == 1
    assert [note for note in source.notes if "has no end: 10 pages in a row brought nothing new" in note]
    assert not [path for path in site.asked if path.startswith(("/tags/", "/about", "/img/", "/comments/"))]


def test_documents_are_the_oldest_first_and_say_where_they_are_from(site: Site, tmp_path: Path) -> None:
    blog = put_blog(site, "semantic", 39)
    source, documents = fetched(site, tmp_path)
    assert [item.url for item in documents] == [site.url + post.path for post in blog.allowed]
    assert [item.date[:10] for item in documents] == [post.date for post in blog.allowed]
    assert [item.title for item in documents] == [post.title for post in blog.allowed]
    assert {item.author for item in documents} == {"Maria Lopez"}
    assert {item.language for item in documents} == {"en"}
    assert source.licence == "CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/)"
    assert set(source.fetched_at) == {item.id for item in documents}
    assert all(stamp[:4].isdecimal() for stamp in source.fetched_at.values())


def test_whole_texts_of_the_feed_are_taken_without_asking_for_their_pages(site: Site, tmp_path: Path) -> None:
    blog = put_blog(site, "bare", 39)
    fetched(site, tmp_path)
    in_feed = [post for post in blog.allowed if post.number % 2 == 0 and post.number >= 29]
    assert len(in_feed) >= 4
    assert not {post.path for post in in_feed} & set(site.asked)


def test_lines_that_repeat_over_the_site_go_and_are_told(site: Site, tmp_path: Path) -> None:
    put_blog(site, "modern", 26)
    source, documents = fetched(site, tmp_path)
    assert source.dropped["lines that repeat over the site"] >= 38
    (note,) = [note for note in source.notes if note.startswith("Lines that repeat")]
    assert '"Subscribe to the newsletter" (in ' in note
    assert not [item for item in documents if "newsletter" in item.text]


def test_requests_are_spaced(site: Site, tmp_path: Path) -> None:
    put_blog(site, "bare", 26)
    fetched(site, tmp_path, FetchOptions(delay=0.01))
    assert len(site.times) > 20
    assert min(later - sooner for sooner, later in zip(site.times, site.times[1:], strict=False)) >= 0.009


def test_wordpress_gives_all_posts_by_its_interface(site: Site, tmp_path: Path) -> None:
    blog = put_wordpress_blog(site, 120)
    _, documents = fetched(site, tmp_path)
    assert scores(blog, documents) == [1.0] * 120
    assert [item.text for item in documents] == [post.text for post in blog.posts]
    assert len(site.asked) == 4  # the home page, robots.txt, two pages of posts


def test_what_robots_disallow_is_not_taken_from_the_interface_either(site: Site, tmp_path: Path) -> None:
    blog = put_wordpress_blog(site, 20)
    rules = f"User-agent: *\nDisallow: {blog.posts[3].path}\n"
    site.pages["/robots.txt"] = Page(rules.encode())
    source, documents = fetched(site, tmp_path)
    assert len(documents) == 19
    assert source.dropped["pages that robots.txt disallows"] == 1
    _, documents = fetched(site, tmp_path / "ignored", FetchOptions(delay=0, robots="ignore"))
    assert len(documents) == 20


def test_a_feed_with_everything_needs_no_page(site: Site, tmp_path: Path) -> None:
    blog = put_atom_blog(site, 30)
    _, documents = fetched(site, tmp_path)
    assert [item.text for item in documents] == [post.text for post in blog.posts]
    assert not [path for path in site.asked if path in {post.path for post in blog.posts}]


def test_the_address_of_a_feed_brings_its_posts_and_those_of_its_older_pages(site: Site, tmp_path: Path) -> None:
    blog = put_atom_blog(site, 30)
    source, documents = fetched(site, tmp_path, path="/atom.xml", feed=True)
    assert scores(blog, documents) == [1.0] * 30
    assert source.kind == "blog"
    assert site.asked == ["/atom.xml", "/robots.txt", "/atom.xml?page=2", "/atom.xml?page=3"]
    assert "may hold the newest posts only" in source.notes[0]


def test_a_second_fetch_finds_the_same_and_an_offline_one_asks_nobody(site: Site, tmp_path: Path) -> None:
    put_blog(site, "divs", 26)
    _, first = fetched(site, tmp_path)
    _, second = fetched(site, tmp_path)
    assert second == first
    asked = len(site.asked)
    source, offline = fetched(site, tmp_path, FetchOptions(offline=True))
    assert (offline, source.missing, len(site.asked)) == (first, [], asked)


@pytest.mark.parametrize("stop", [2, 9, 30])
def test_a_fetch_that_broke_off_goes_on_and_asks_nothing_twice(site: Site, tmp_path: Path, stop: int) -> None:
    put_blog(site, "semantic", 26)
    _, whole = fetched(site, tmp_path / "whole")
    undisturbed = list(site.asked)
    site.requests.clear()
    told: list[str] = []

    def break_off(line: str) -> None:
        told.append(line)
        if len(site.asked) >= stop:
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        Web(tmp_path / "broken" / "corpus", site.url, QUICK, on_progress=break_off) as web,
    ):
        list(open_blog(site.url, web.get(f"{site.url}/"), web, QUICK).documents)
    assert stop <= len(site.asked) < len(undisturbed)
    _, documents = fetched(site, tmp_path / "broken")
    assert documents == whole
    assert sorted(site.asked) == sorted(undisturbed)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_command_goes_on_and_writes_the_same_bytes(site: Site, tmp_path: Path) -> None:
    blog = put_blog(site, "wordpress", 39)

    def start(folder: Path) -> subprocess.Popen[bytes]:
        folder.mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-m", "gptcli", "fetch", site.url, "--delay", "0", "--name", "blog"],
            cwd=folder,
            env={"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def complete(folder: Path) -> bytes:
        process = start(folder)
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr.decode()
        return (folder / "corpora" / "blog" / "documents.jsonl").read_bytes()

    whole = complete(tmp_path / "whole")
    undisturbed = set(site.asked)
    site.requests.clear()
    for path in ("/map-2.xml.gz", blog.allowed[10].path):
        page = site.page(path)
        process = start(tmp_path / "killed")
        page.before = process.kill
        _, stderr = process.communicate(timeout=120)
        page.before = lambda: None
        assert process.returncode == -signal.SIGKILL, stderr.decode()
    assert complete(tmp_path / "killed") == whole
    assert set(site.asked) == undisturbed
    assert len(site.asked) <= len(undisturbed) + 2


def test_a_post_that_fails_now_is_missing_and_comes_with_the_next_fetch(site: Site, tmp_path: Path) -> None:
    blog = put_blog(site, "bare", 26)
    post = blog.allowed[2]
    site.pages[post.path] = [Page(status=500)] * 5 + [site.page(post.path)]
    source, documents = fetched(site, tmp_path)
    assert [item.what for item in source.missing] == [site.url + post.path]
    assert len(documents) == len(blog.allowed) - 1
    site.requests.clear()
    source, documents = fetched(site, tmp_path)
    assert (source.missing, len(documents)) == ([], len(blog.allowed))
    assert site.asked == [post.path]


def test_a_limit_of_pages_is_one_line_among_what_is_missing(site: Site, tmp_path: Path) -> None:
    put_blog(site, "bare", 26)
    source, documents = fetched(site, tmp_path, FetchOptions(delay=0, max_pages=30))
    assert 0 < len(documents) < 24
    (missing,) = source.missing
    assert "posts of" in missing.what
    assert "limit of 30 pages" in missing.why


def test_a_page_by_several_addresses_is_one_document(site: Site, tmp_path: Path) -> None:
    text = "<p>" + "The same words under several addresses, again and again. " * 5 + "</p>"
    head = '<link rel="canonical" href="/2024/05/one/">'
    paths = ("one", "one/?utm_source=x", "print-one/", "copied/", "moved/")
    site.pages["/"] = html_page("".join(f'<h2><a href="/2024/05/{path}">x</a></h2>' for path in paths))
    site.pages["/2024/05/one"] = site.pages["/2024/05/print-one/"] = html_page(head + text)
    site.pages["/2024/05/copied/"] = html_page(text)
    site.pages["/2024/05/moved/"] = Page(status=301, headers={"Location": "/2024/05/one"})
    source, (item,) = fetched(site, tmp_path)
    assert item.url == f"{site.url}/2024/05/one/"
    assert source.dropped["pages that are others by another address"] == 2
    assert source.dropped["posts with the text of another"] == 1


def test_a_canonical_address_that_is_the_same_everywhere_is_not_believed(site: Site, tmp_path: Path) -> None:
    names = ("one", "two", "three")
    site.pages["/"] = html_page("".join(f'<h2><a href="/posts/{name}/">x</a></h2>' for name in names))
    for number, name in enumerate(names):
        canonical = ("/", "/posts/", "https://elsewhere.org/x/")[number]
        site.pages[f"/posts/{name}/"] = html_page(
            f'<link rel=canonical href="{canonical}"><p>{f"Words of {name}. " * 20}</p>'
        )
    _, documents = fetched(site, tmp_path)
    assert sorted(item.url for item in documents) == sorted(f"{site.url}/posts/{name}/" for name in names)


def test_what_is_no_page_of_the_site_is_counted(site: Site, tmp_path: Path) -> None:
    paths = ("good", "picture", "binary", "abroad", "private", "empty")
    site.pages["/"] = html_page("".join(f'<h2><a href="/posts/{path}/">x</a></h2>' for path in paths))
    site.pages["/posts/good/"] = html_page(f"<p>{'Good words. ' * 30}</p>")
    site.pages["/posts/picture/"] = Page(b"\x89PNG", content_type="image/png")
    site.pages["/posts/binary/"] = Page(b"\0\1\2" * 500, content_type="text/html")
    site.pages["/posts/abroad/"] = Page(status=302, headers={"Location": site.url.replace("127.0.0.1", "localhost")})
    site.pages["/posts/private/"] = Page(status=302, headers={"Location": "http://10.0.0.7/admin"})
    site.pages["/posts/empty/"] = html_page("<script>x</script>")
    source, documents = fetched(site, tmp_path)
    assert [item.url for item in documents if item.text] == [f"{site.url}/posts/good/"]
    assert source.missing == []
    assert +source.dropped == {
        "addresses that are no web pages": 2,
        "pages that lead to another site": 1,
        "links into a private network": 1,
    }


def test_a_site_with_nothing_but_a_home_page_is_that_page(site: Site, tmp_path: Path) -> None:
    site.pages["/"] = html_page(f"<title>Mine</title><p>{'All that I have to say. ' * 20}</p>")
    source, (item,) = fetched(site, tmp_path)
    assert (item.title, item.url) == ("Mine", f"{site.url}/")
    assert source.notes == [f"No posts were found on {site.url}/, so its home page is all there is."]


def test_a_site_without_a_word_is_an_error_that_says_why(site: Site, tmp_path: Path) -> None:
    site.pages["/"] = html_page('<h2><a href="/posts/a/">x</a></h2>')
    with pytest.raises(SourceError, match=r"No post of .* could be read \(pages that are gone: 1\)"):
        fetched(site, tmp_path)


@pytest.mark.parametrize(
    ("path", "status", "missing"), [("/robots.txt", 503, 1), ("/atom.xml", 404, 1), ("/atom.xml", 403, 1)]
)
def test_a_home_page_never_stands_for_posts_whose_list_fails(
    site: Site, tmp_path: Path, path: str, status: int, missing: int
) -> None:
    put_atom_blog(site, 30)
    _, documents = fetched(site, tmp_path / "before")
    assert len(documents) == 30
    site.pages["/"] = html_page(
        f'<link rel="alternate" type="application/atom+xml" href="/atom.xml"><p>{"Welcome to my site. " * 20}</p>'
    )
    site.pages[path] = Page(status=status)
    with Web(tmp_path / "after" / "corpus", site.url, QUICK) as web:
        source = open_blog(site.url, web.get(f"{site.url}/"), web, QUICK)
        with pytest.raises(SourceError, match="No post of"):
            list(source.documents)
    assert len(source.missing) >= missing


def test_a_feed_that_answers_with_a_page_is_missing_too(site: Site, tmp_path: Path) -> None:
    site.pages["/"] = html_page('<link rel="alternate" type="application/atom+xml" href="/atom.xml"><p>Welcome.</p>')
    site.pages["/atom.xml"] = html_page("<p>Are you a robot?</p>")
    with pytest.raises(SourceError, match="is linked as a feed, and its answer is none"):
        fetched(site, tmp_path)


def test_a_guess_that_fails_is_no_reason_to_miss_anything_but_posts(site: Site, tmp_path: Path) -> None:
    site.pages["/"] = html_page(f"<p>{'All that I have to say. ' * 20}</p>")
    site.pages["/feed/"] = Page(status=500)
    with pytest.raises(SourceError, match="No post of"):
        fetched(site, tmp_path / "one")
    site.pages["/"] = html_page('<h2><a href="/2024/05/a/">A</a></h2>')
    site.pages["/2024/05/a/"] = html_page(f"<p>{'Good words. ' * 30}</p>")
    source, documents = fetched(site, tmp_path / "two")
    assert (len(documents), source.missing) == (1, [])


def test_a_plan_of_lists_that_go_on_says_at_least(site: Site, tmp_path: Path) -> None:
    for number in range(1, 31):
        older = f'<a rel="next" href="/page/{number + 1}/">x</a>' if number < 30 else ""
        site.pages["/" if number == 1 else f"/page/{number}/"] = html_page(
            f'<h2><a href="/2024/05/a{number}/">x</a></h2>{older}'
        )
    with Web(tmp_path / "corpus", site.url, QUICK) as web:
        plan = open_blog(site.url, web.get(f"{site.url}/"), web, QUICK).plan()
    assert "ask for the pages of at least 11 posts" in plan.steps
    assert plan.at_least
    assert (plan.requests, plan.seconds) == (len(site.asked) - 1 + 11, 0.0)


def test_the_plan_reads_lists_and_no_post(site: Site, tmp_path: Path) -> None:
    blog = put_atom_blog(site, 30)
    with Web(tmp_path / "corpus", site.url, FetchOptions(delay=0)) as web:
        plan = open_blog(site.url, web.get(f"{site.url}/"), web, QUICK).plan()
    assert (plan.requests, plan.seconds) == (len(site.asked) - 1, 0.0)
    assert plan.steps[-1] == "ask for no page of a post"
    site.requests.clear()
    site.pages.clear()
    put_blog(site, "bare", 26)
    with Web(tmp_path / "other", site.url, FetchOptions(delay=0)) as web:
        plan = open_blog(site.url, web.get(f"{site.url}/"), web, QUICK).plan()
    assert "ask for the pages of 22 posts" in plan.steps
    assert plan.requests == len(site.asked) - 1 + 22
    assert not {post.path for post in blog.posts} & set(site.asked)


def test_the_plan_of_wordpress_counts_its_pages(site: Site, tmp_path: Path) -> None:
    put_wordpress_blog(site, 120)
    with Web(tmp_path / "corpus", site.url, FetchOptions(delay=0)) as web:
        plan = open_blog(site.url, web.get(f"{site.url}/"), web, QUICK).plan()
    assert plan.requests == 3
    assert plan.steps[0].startswith("read 120 posts with their texts from WordPress's interface")
    assert len(site.asked) == 3


HOMES = {
    "/": ("<p>anything</p>", True),
    "/index.html": ("<p>anything</p>", True),
    "/blog/": (
        "<link rel=alternate type=application/rss+xml href=/f>" + "<h2><a href=/2024/05/{}/>x</a></h2>" * 3,
        True,
    ),
    "/notes/": ("<h2><a href=/2024/05/{}/>x</a></h2>" * 3 + "<a rel=next href=/notes/2>x</a>", True),
    "/list/": ("<h2><a href=/2024/05/{}/>x</a></h2>" * 3, False),
    "/2024/05/post/": ("<link rel=alternate type=application/rss+xml href=/f><h1>A post</h1><p>Words.</p>", False),
    "/2024/05/other/": (
        '<meta property="og:type" content="article"><link rel=alternate type=application/rss+xml href=/f>'
        + "<h2><a href=/2024/05/{}/>x</a></h2>" * 5,
        False,
    ),
}


@pytest.mark.parametrize("path", HOMES)
def test_a_home_page_is_told_from_a_single_page(path: str, site: Site, tmp_path: Path) -> None:
    html, home = HOMES[path]
    numbered: Iterator[int] = iter(range(99))
    pieces = html.split("{}")
    site.pages[path] = html_page("".join(f"{piece}a{next(numbered)}" for piece in pieces[:-1]) + pieces[-1])
    with Web(tmp_path / "corpus", site.url, QUICK) as web:
        why = is_home_page(site.url + path, web.get(site.url + path))
    assert (why is not None) == home


def test_fetch_takes_a_home_page_for_a_blog_and_stores_it(site: Site, tmp_path: Path) -> None:
    from gptcli.fetch.fetching import fetch

    blog = put_blog(site, "semantic", 26)
    result = fetch(site.url, name="sea", corpora_dir=tmp_path / "corpora", options=QUICK)
    assert result.documents == len(blog.allowed)
    assert result.source["kind"] == "blog"
    assert len(list(read_documents(result.folder / "documents.jsonl"))) == len(blog.allowed)
    provenance = [json.loads(line) for line in (result.folder / "provenance.jsonl").read_text("utf-8").splitlines()[1:]]
    assert [line["url"] for line in provenance] == [site.url + post.path for post in blog.allowed]
