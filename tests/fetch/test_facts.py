from __future__ import annotations

import json

import pytest

from gptcli.fetch.facts import PageFacts, iso_date, licence_name, page_facts

URL = "https://example.org/blog/2024/post/"
BY_SA = "https://creativecommons.org/licenses/by-sa/4.0/"

ARTICLE = json.dumps(
    {"@type": ["BlogPosting"], "headline": "H", "datePublished": "2024-03-01", "author": [{"name": "A"}, "B"]}
)

FACTS: dict[str, tuple[str, dict[str, object]]] = {
    "title": ("<title> A &amp; B\n | Site </title>", {"title": "A & B | Site"}),
    "og title before title": (
        '<title>T | S</title><meta property="og:title" content="T"><meta property="og:site_name" content="S">',
        {"title": "T", "site_name": "S"},
    ),
    "canonical": ('<link rel="canonical" href="/blog/2024/post/">', {"canonical": URL}),
    "canonical on a base": (
        '<base href="https://b.org/x/"><link rel=canonical href="y">',
        {"canonical": "https://b.org/x/y"},
    ),
    "language": ('<html lang="en-GB">', {"language": "en-GB"}),
    "language of Open Graph": ('<meta property="og:locale" content="de_AT">', {"language": "de-AT"}),
    "next": ('<a href="/page/2/" rel="next nofollow">Older</a>', {"next": "https://example.org/page/2/"}),
    "WordPress": (
        '<meta name="generator" content="WordPress 6.5"><link rel="https://api.w.org/" href="/wp-json/">',
        {"generator": "WordPress 6.5", "wordpress": "https://example.org/wp-json/"},
    ),
    "author": ('<meta name="author" content="Ann  Lee">', {"author": "Ann Lee"}),
    "an address is no author": (
        '<meta property="article:author" content="https://facebook.com/ann">',
        {"author": "", "article": False},
    ),
    "date": (
        '<meta property="article:published_time" content="2024-03-01T10:00:00+01:00">',
        {"date": "2024-03-01T09:00:00+00:00", "article": True},
    ),
    "date of the only article": (
        '<article><time datetime="2024-03-01">1 March</time></article>',
        {"date": "2024-03-01"},
    ),
    "no date of many articles": ("<article><time datetime=2024-03-01></article>" * 2, {"date": ""}),
    "JSON-LD": (
        f'<script type="application/ld+json">{{"@graph": [{{"@type": "WebSite"}}, {ARTICLE}]}}</script>',
        {"title": "H", "date": "2024-03-01", "author": "A, B", "article": True},
    ),
    "broken JSON-LD": ('<script type="application/ld+json">{"@type": "BlogPosting",</script>', {"article": False}),
    "linked licence": (f'<a rel="license" href="{BY_SA}">x</a>', {"licence": f"CC BY-SA 4.0 ({BY_SA})"}),
    "one licence of Creative Commons": (
        f'<footer><a href="{BY_SA}deed.de">x</a></footer>',
        {"licence": f"CC BY-SA 4.0 ({BY_SA}deed.de)"},
    ),
    "two licences are nobody's": (
        f'<a href="{BY_SA}">x</a><a href="https://creativecommons.org/licenses/by/3.0/">y</a>',
        {"licence": ""},
    ),
    "licence of a picture": (
        f'<figure><img><figcaption><a href="{BY_SA}">x</a></figcaption></figure>',
        {"licence": ""},
    ),
}


@pytest.mark.parametrize("name", FACTS)
def test_declarations_are_read(name: str) -> None:
    html, expected = FACTS[name]
    facts = page_facts(html, URL)
    assert {key: getattr(facts, key) for key in expected} == expected


def test_feeds_are_found_and_those_of_comments_are_not() -> None:
    html = """
    <link rel="alternate" type="application/rss+xml; charset=utf-8" title="Posts" href="/feed/">
    <link rel="alternate" type="application/rss+xml" title="Posts again" href="https://example.org/feed/">
    <link rel="alternate" type="application/rss+xml" title="Site » Comments Feed" href="/x/">
    <link rel="alternate" type="application/rss+xml" href="/comments/feed/">
    <link rel="alternate" type="application/atom+xml" href="atom.xml">
    <link rel="alternate" type="application/json+oembed" href="/oembed">
    <link rel="alternate" hreflang="de" href="/de/">
    <a rel="alternate" type="application/rss+xml" href="/no-link-element">RSS</a>
    """
    assert page_facts(html, URL).feeds == ("https://example.org/feed/", f"{URL}atom.xml")


@pytest.mark.parametrize(
    "html", ["", " ", "<", "<!-- -->", "<html", "plain text", "<meta>", "<link rel=next>", '<a rel="next" href="//[">x']
)
def test_a_page_that_says_nothing_has_no_facts(html: str) -> None:
    assert page_facts(html, URL) == PageFacts()


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("2024-03-01", "2024-03-01"),
        ("2024-03-01T10:00:00Z", "2024-03-01T10:00:00+00:00"),
        ("2024-03-01T10:00:00.123456-0500", "2024-03-01T15:00:00+00:00"),
        ("2024-03-01 10:00", "2024-03-01T10:00:00+00:00"),
        ("Fri, 01 Mar 2024 10:00:00 +0100", "2024-03-01T09:00:00+00:00"),
        ("2024-13-45", ""),
        ("0000-00-00T00:00:00Z", ""),
        ("yesterday", ""),
        ("March 2024", ""),
        ("", ""),
        ("9" * 50, ""),
    ],
)
def test_dates_become_iso_in_utc_or_nothing(text: str, date: str) -> None:
    assert iso_date(text) == date


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (BY_SA, f"CC BY-SA 4.0 ({BY_SA})"),
        (
            "https://creativecommons.org/publicdomain/zero/1.0/",
            "CC0 1.0 (https://creativecommons.org/publicdomain/zero/1.0/)",
        ),
        ("https://example.org/licence", "https://example.org/licence"),
    ],
)
def test_licences_have_the_names_people_know(url: str, name: str) -> None:
    assert licence_name(url) == name
