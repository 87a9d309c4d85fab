"""``gptcli fetch`` as it is typed: what it decides, what it says, and what it leaves for the commands after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli
from tests.fetch.blog_site import put_blog
from tests.fetch.conftest import Page, Site, site

__all__ = ["site"]

JSON = "application/json"


def documents(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = (folder / "corpora" / name / "documents.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def entries(*bodies: str) -> bytes:
    return json.dumps([{"id": n, "url": f"/{n}", "body": body} for n, body in enumerate(bodies)]).encode()


def test_a_blog_is_fetched_from_its_front_page_and_trained_on(cli: Cli, folder: Path, site: Site) -> None:
    put_blog(site, "semantic")
    fetched = cli("fetch", f"{site.url}/", "--name", "blog", "--delay", "0", "--json").json()
    assert (fetched["documents"], fetched["source"]["kind"], fetched["source"]["missing"]) == (60, "blog", [])
    assert fetched["source"]["dropped"]["pages that robots.txt disallows"] == 5
    small = ("--set", "max_steps=2", "--set", "n_layer=1", "--set", "eval_tokens=500", "--device", "cpu", "--quiet")
    trained = cli("train", "--profile", "macbook", *small)
    assert trained.code == 0, trained.stderr
    assert trained.stdout.strip() == "runs/blog-macbook"


def test_explain_says_what_and_how_long_and_writes_nothing(cli: Cli, folder: Path, site: Site) -> None:
    listed = [{"id": n, "body": f"Entry {n}."} for n in range(100)]
    first = {"count": 250, "next": "/list.json?page=2", "results": listed}
    site.pages["/list.json"] = Page(json.dumps(first).encode(), JSON)
    done = cli("fetch", f"{site.url}/list.json", "--explain", "--delay", "2")
    assert done.code == 0, done.stderr
    assert "kind: json, because it answers with JSON" in done.stdout
    assert "250 records on 3 pages" in done.stdout
    assert "requests: 3, about " in done.stdout
    assert site.asked == ["/list.json"]
    assert not (folder / "corpora").exists()


def test_explain_of_files_counts_them(cli: Cli, folder: Path) -> None:
    (folder / "notes").mkdir()
    for name in ("a.txt", "b.md", "c.html"):
        (folder / "notes" / name).write_text("Some words.", "utf-8")
    found = cli("fetch", "notes", "--explain", "--json").json()
    assert (found["kind"], found["corpus"], found["requests"], found["bytes"]) == ("folder", "notes", 0, 33)


def test_files_that_the_shell_has_listed_are_one_corpus(cli: Cli, folder: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text(f"The words of {name}.", "utf-8")
    assert cli("fetch", "b.txt", "a.txt", "--name", "both").code == 0
    assert [item["title"] for item in documents(folder, "both")] == ["b", "a"]


def test_a_refresh_says_what_is_new_changed_and_gone(cli: Cli, folder: Path, site: Site) -> None:
    site.pages["/list"] = Page(entries("Zero.", "One.", "Two."), JSON)
    address = f"{site.url}/list"
    assert cli("fetch", address, "--name", "x").code == 0
    site.pages["/list"] = Page(entries("Zero.", "One, but different."), JSON)
    done = cli("fetch", address, "--name", "x", "--json")
    assert "1 changed, 1 gone" in done.json()["notes"][-1]
    assert done.json()["source"]["changes"] == {"new": 0, "changed": 1, "gone": 1}
    again = cli("fetch", address, "--name", "x", "--json").json()
    assert again["notes"][-1] == "The text of x is the same as before."


def test_offline_makes_the_documents_anew_with_other_lines_dropped(cli: Cli, folder: Path, site: Site) -> None:
    site.pages["/a.txt"] = Page(b"Chapter one\nIt was dark.\nChapter two\nIt was light.")
    assert cli("fetch", f"{site.url}/a.txt", "--name", "x").code == 0
    asked = len(site.requests)
    done = cli("fetch", f"{site.url}/a.txt", "--name", "x", "--offline", "--drop-lines", "^Chapter")
    assert done.code == 0, done.stderr
    assert "lines with ^Chapter: 2" in done.stderr
    assert documents(folder, "x")[0]["text"] == "It was dark.\nIt was light."
    assert len(site.requests) == asked


def test_the_record_and_the_documents_are_shown(cli: Cli, folder: Path, site: Site) -> None:
    site.pages["/list"] = Page(entries("<p>Zero &amp; none.</p>", "", "Two."), JSON)
    assert cli("fetch", f"{site.url}/list", "--name", "x", "--text-fields", "body").code == 0
    shown = cli("corpora", "show", "x").stdout
    assert f"command: gptcli fetch {site.url}/list --name x --text-fields body" in shown
    assert "dropped: records without text: 1" in shown
    rows = cli("corpora", "show", "x", "--documents", "--json").json()["documents"]
    assert [row["url"] for row in rows] == [f"{site.url}/0", f"{site.url}/2"]
    assert all(len(row["sha256"]) == 64 and row["fetched_at"].endswith("+00:00") for row in rows)
    assert documents(folder, "x")[0]["text"] == "Zero & none."


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (("--delay", "-1"), "--delay"),
        (("--max-pages", "0"), "--max-pages"),
        (("--max-bytes", "much"), "500MB"),
        (("--robots", "maybe"), "--robots"),
        (("--as", "book"), "--as"),
    ],
)
def test_values_that_cannot_be_are_usage_errors(cli: Cli, options: tuple[str, ...], fragment: str) -> None:
    done = cli("fetch", "docs.txt", *options)
    assert (done.code, done.stdout) == (2, "")
    assert fragment in done.stderr


def test_a_pattern_that_is_none_is_a_sentence(cli: Cli) -> None:
    done = cli("fetch", "docs.txt", "--drop-lines", "(")
    assert (done.code, done.stdout) == (1, "")
    assert "'(' is not a regular expression" in done.stderr


@pytest.mark.parametrize("mirror", ["nonsense", "ftp://example.org", "http://"])
def test_a_mirror_that_is_no_address_is_a_sentence(cli: Cli, mirror: str) -> None:
    done = cli("fetch", "gutenberg:863", "--mirror", mirror)
    assert (done.code, done.stdout) == (1, "")
    assert "--mirror" in done.stderr


def test_a_limit_of_the_user_is_no_failure_and_the_same_command_without_it_goes_on(
    cli: Cli, folder: Path, site: Site
) -> None:
    for number in range(1, 6):
        following = f"/list?page={number + 1}" if number < 5 else None
        body = {"items": [{"id": number, "body": f"Entry {number}."}], "next": following}
        site.pages["/list" if number == 1 else f"/list?page={number}"] = Page(json.dumps(body).encode(), JSON)
    done = cli("fetch", f"{site.url}/list", "--name", "x", "--max-pages", "3")
    assert done.code == 0, done.stderr
    assert "has reached its limit of 3 pages" in " ".join(done.stderr.split())
    assert 0 < len(documents(folder, "x")) < 5
    assert cli("fetch", f"{site.url}/list", "--name", "x").code == 0
    assert len(documents(folder, "x")) == 5
    assert site.asked.count("/list") == 1


def test_a_page_that_a_refresh_cannot_renew_is_taken_as_it_was(cli: Cli, folder: Path, site: Site) -> None:
    blog = put_blog(site, "bare")
    address = f"{site.url}/"
    assert cli("fetch", address, "--name", "x", "--delay", "0").code == 0
    before = documents(folder, "x")
    broken = next(path for path in (f"/{item['url'].split('/', 3)[3]}" for item in before) if path in site.pages)
    site.pages[broken] = Page(status=403)
    done = cli("fetch", address, "--name", "x", "--delay", "0")
    assert done.code == 1
    assert "stands for it" in " ".join(done.stderr.split())
    assert documents(folder, "x") == before
    assert blog.url == site.url


def test_several_corpora_are_joined_into_one(cli: Cli, folder: Path) -> None:
    for name in ("one", "two"):
        (folder / f"{name}.txt").write_text(f"The words of {name}.", "utf-8")
        assert cli("fetch", f"{name}.txt").code == 0
    done = cli("fetch", "corpora/one", "corpora/two", "--name", "both")
    assert done.code == 0, done.stderr
    assert [(item["title"], item["text"]) for item in documents(folder, "both")] == [
        ("one", "The words of one."),
        ("two", "The words of two."),
    ]


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("doks.txt", "Did you mean docs.txt?"),
        ("example.org", "gptcli fetch https://example.org."),
        ("127.0.0.1:8811", "gptcli fetch https://127.0.0.1:8811."),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(cli: Cli, source: str, hint: str) -> None:
    assert hint in " ".join(cli("fetch", source).stderr.split())


def test_a_corpus_is_not_made_of_itself(cli: Cli, folder: Path) -> None:
    assert cli("fetch", "docs.txt").code == 0
    before = documents(folder, "docs")
    done = cli("fetch", "corpora/docs", "--name", "docs")
    assert (done.code, documents(folder, "docs") == before) == (1, True)
    assert "cannot be made of itself" in done.stderr


def test_after_an_error_the_same_command_asks_again(cli: Cli, folder: Path, site: Site) -> None:
    site.pages["/a.txt"] = Page(b"The first text.")
    assert cli("fetch", f"{site.url}/a.txt", "--name", "x").code == 0
    site.pages["/a.txt"] = Page(status=404)
    assert cli("fetch", f"{site.url}/a.txt", "--name", "x").code == 1
    assert cli("fetch", f"{site.url}/a.txt", "--name", "x", "--offline").code == 0
    site.pages["/a.txt"] = Page(b"The second text.")
    assert cli("fetch", f"{site.url}/a.txt", "--name", "x").code == 0
    assert documents(folder, "x")[0]["text"] == "The second text."


def test_a_page_without_text_is_asked_for_again_when_it_is_mended(cli: Cli, folder: Path, site: Site) -> None:
    site.pages["/p"] = Page(b"<html><body></body></html>", "text/html")
    assert cli("fetch", f"{site.url}/p", "--name", "x").code == 1
    site.pages["/p"] = Page(b"<html><body><p>Now there are words.</p></body></html>", "text/html")
    assert cli("fetch", f"{site.url}/p", "--name", "x").code == 0
    assert "Now there are words." in documents(folder, "x")[0]["text"]


def test_a_site_that_is_down_does_not_replace_its_posts(cli: Cli, folder: Path, site: Site) -> None:
    put_blog(site, "bare")
    command = ("fetch", f"{site.url}/", "--name", "x", "--delay", "0")
    assert cli(*command).code == 0
    before = documents(folder, "x")
    site.pages.clear()
    site.pages["/"] = Page(b"<html><body><p>Down for maintenance, back in an hour.</p></body></html>", "text/html")
    done = cli(*command)
    assert (done.code, documents(folder, "x") == before) == (1, True)
    assert "gave 60 documents before and gives 1 now, so the corpus was kept" in " ".join(done.stderr.split())
    put_blog(site, "bare")
    assert cli(*command).code == 0
    assert documents(folder, "x") == before


def test_new_posts_come_though_one_of_them_never_can(cli: Cli, folder: Path, site: Site) -> None:
    listed: list[dict[str, object]] = [{"id": 1, "body": "One."}, {"id": 2, "body": "Two."}]
    site.pages["/list"] = Page(json.dumps({"items": listed, "next": None}).encode(), JSON)
    assert cli("fetch", f"{site.url}/list", "--name", "x").code == 0
    listed.append({"id": 3, "body": "Three."})
    site.pages["/list"] = Page(json.dumps({"items": listed, "next": "/list?page=2"}).encode(), JSON)
    site.pages["/list?page=2"] = Page(status=403)
    done = cli("fetch", f"{site.url}/list", "--name", "x")
    assert (done.code, len(documents(folder, "x"))) == (1, 3)
    assert "403 Forbidden" in done.stderr


def test_a_feed_that_was_none_is_asked_for_again_when_it_is_mended(cli: Cli, folder: Path, site: Site) -> None:
    put_blog(site, "bare")
    feed = site.pages["/feed.xml"]
    site.pages["/feed.xml"] = Page(b"<html><body>Sorry!</body></html>", "text/html")
    command = ("fetch", f"{site.url}/", "--name", "x", "--delay", "0")
    first = cli(*command)
    assert (first.code, "is linked as a feed, and its answer is none" in first.stderr) == (1, True)
    site.pages["/feed.xml"] = feed
    second = cli(*command)
    assert second.code == 0, second.stderr
