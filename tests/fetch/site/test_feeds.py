from __future__ import annotations

import pytest

from gptcli.fetch.site.feeds import Entry, Feed, entry_text, full_text, parse_feed

URL = "https://example.org/feed.xml"
CONTENT = 'xmlns:content="http://purl.org/rss/1.0/modules/content/" xmlns:dc="http://purl.org/dc/elements/1.1/"'
FEEDBURNER = 'xmlns:f="http://rssnamespace.org/feedburner/ext/1.0"'
WHOLE = "<p>All &amp; everything of the post.</p><p>To its end.</p>"


def parsed(text: str | bytes, **kwargs: str) -> Feed:
    feed = parse_feed(text.encode() if isinstance(text, str) else text, URL, **kwargs)
    assert feed is not None
    return feed


def rss(items: str, head: str = "") -> str:
    return f'<?xml version="1.0"?><rss version="2.0" {CONTENT}><channel><title>T</title>{head}{items}</channel></rss>'


def test_rss_with_whole_texts() -> None:
    feed = parsed(
        rss(
            "<item><title>A &amp;amp; &lt;i&gt;B&lt;/i&gt;</title><link>https://example.org/a/</link>"
            "<dc:creator>Ann</dc:creator><pubDate>Fri, 01 Mar 2024 10:00:00 +0100</pubDate>"
            f"<description>short</description><content:encoded><![CDATA[{WHOLE}]]></content:encoded></item>",
            "<language>en-us</language><generator>https://wordpress.org/?v=6.5</generator>",
        )
    )
    assert feed.entries == (
        Entry(
            "https://example.org/a/",
            "A & B",
            "Ann",
            "2024-03-01T09:00:00+00:00",
            "",
            "All & everything of the post.\n\nTo its end.",
        ),
    )
    assert (feed.title, feed.language, feed.wordpress, feed.older) == ("T", "en-us", True, ())


def test_atom_with_its_pages_author_and_licence() -> None:
    feed = parsed(
        '<feed xmlns="http://www.w3.org/2005/Atom"><title>T</title><author><name>Ann</name></author>'
        '<link rel="self" href="/feed.xml"/><link rel="next" href="/feed.xml?page=2"/>'
        '<link rel="prev-archive" href="https://example.org/2023.xml"/>'
        '<link rel="license" href="https://creativecommons.org/licenses/by/4.0/"/>'
        '<entry><title>A</title><link rel="alternate" href="/a"/><id>tag:x</id><updated>2024-03-01T10:00:00Z</updated>'
        '<content type="xhtml"><div xmlns="http://www.w3.org/1999/xhtml"><p>One</p><p>Two</p></div></content></entry>'
        "</feed>"
    )
    assert feed.older == ("https://example.org/feed.xml?page=2", "https://example.org/2023.xml")
    (entry,) = feed.entries
    assert (entry.url, entry.author, entry.date) == ("https://example.org/a", "Ann", "2024-03-01T10:00:00+00:00")
    assert entry.text == "One\n\nTwo"
    assert entry.licence == "CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/)"


@pytest.mark.parametrize(
    "item",
    [
        "<description>Only a description, however long it may be.</description>",
        "<content:encoded>It breaks off here…</content:encoded>",
        "<content:encoded>It breaks off [...]</content:encoded>",
        "<content:encoded>&lt;p&gt;It goes on&lt;/p&gt;&lt;a&gt;Continue reading A post →&lt;/a&gt;</content:encoded>",
        "<content:encoded>Some words (more…)</content:encoded>",
        "<content:encoded>Some words. &lt;a&gt;Read more »&lt;/a&gt;</content:encoded>",
        "<content:encoded></content:encoded>",
    ],
)
def test_a_summary_is_not_taken_for_the_text(item: str) -> None:
    (entry,) = parsed(rss(f"<item><link>https://example.org/a</link>{item}</item>")).entries
    assert entry.text is None


@pytest.mark.parametrize(
    "end", ["You should read more books.", "One more thing.", "the rest of it!", "See more in chapter 5."]
)
def test_a_sentence_about_more_does_not_cut_a_text(end: str) -> None:
    assert full_text(f"<p>{end}</p>") == end


def test_what_plug_ins_add_to_a_text_is_left_out() -> None:
    html = (
        '<p>Text.</p><div class="sharedaddy sd-block"><h3>Share this:</h3><ul><li>X</li></ul></div>'
        '<p>The post <a href="/a">A title</a> appeared first on <a href="/">A site</a>.</p>'
    )
    assert entry_text(html) == "Text."


@pytest.mark.parametrize(
    ("links", "url"),
    [
        ("<link>https://example.org/a</link>", "https://example.org/a"),
        ("<link>/relative</link>", "https://example.org/relative"),
        ("<link>https://news.example.com/x</link><guid>https://example.org/mine</guid>", "https://example.org/mine"),
        ("<link>https://news.example.com/x</link>", "https://news.example.com/x"),
        ("<guid isPermaLink='true'>https://example.org/g</guid>", "https://example.org/g"),
        (
            f"<link>https://feeds.example.net/~r/1</link><f:origLink {FEEDBURNER}>https://example.org/o</f:origLink>",
            "https://example.org/o",
        ),
    ],
)
def test_the_address_is_that_of_the_post_on_its_own_site(links: str, url: str) -> None:
    assert [entry.url for entry in parsed(rss(f"<item><title>A</title>{links}</item>")).entries] == [url]


@pytest.mark.parametrize(
    "links", ["", "<link>mailto:a@b.c</link>", "<guid isPermaLink='false'>17</guid>", "<link>http://[</link>"]
)
def test_entries_without_an_address_are_passed_over(links: str) -> None:
    assert parsed(rss(f"<item><title>A</title>{links}</item>")).entries == ()


def test_a_broken_feed_gives_what_can_be_read() -> None:
    broken = rss("<item><title>A</title><link>https://example.org/a?x=1&y=2</link></item><item><title>&nbsp;B & C")
    assert [entry.url for entry in parsed(broken).entries] == ["https://example.org/a?x=1&y=2"]


@pytest.mark.parametrize("encoding", ["utf-8", "iso-8859-1", "utf-16", "windows-1251"])
def test_encodings_are_those_of_the_declaration(encoding: str) -> None:
    title = "Привет" if encoding == "windows-1251" else "Grüße"
    text = rss(f"<item><title>{title}</title><link>https://example.org/a</link></item>")
    text = text.replace('version="1.0"', f'version="1.0" encoding="{encoding}"', 1)
    assert parsed(text.encode(encoding)).entries[0].title == title


@pytest.mark.parametrize(
    "data", [b"", b"text", b"<html><body>x</body></html>", b"\0\xff" * 99, b'{"version": "x"}', b"<urlset/>"]
)
def test_what_is_no_feed_is_none(data: bytes) -> None:
    assert parse_feed(data, URL) is None


def test_a_billion_laughs_are_none() -> None:
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else "lol"}">' for n in range(10))
    feed = parsed(
        f"<!DOCTYPE rss [{entities}]>" + rss("<item><title>&l9;</title><link>/a</link></item>").split("?>")[1]
    )
    assert [entry.url for entry in feed.entries] == ["https://example.org/a"]
    assert len(feed.entries[0].title) < 10


def test_a_file_of_the_name_is_not_opened() -> None:
    assert parse_feed(__file__.encode(), URL) is None
    assert parse_feed(b"http://127.0.0.1:1/feed", URL) is None
