from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.fetch import html as html_module
from gptcli.fetch.html import html_to_text, looks_like_html, parse_html

TEXTS = {
    "inline tags make no space": (
        "<p>Hello <b>big</b>, <i>wide</i>ly\n known &amp; loved</p>",
        "Hello big, widely known & loved",
    ),
    "paragraphs are apart": ("<p>One<p>Two</p>Three", "One\n\nTwo\n\nThree"),
    "br is a newline": ("<p>a<br>b<br/>c</p>", "a\nb\nc"),
    "two br are a blank line and more are no more": ("a<br><br>b<br><br><br>c", "a\n\nb\n\nc"),
    "divs are lines": ("<div>one</div><div>two</div>three", "one\ntwo\nthree"),
    "headings stand alone": ("<h1>T</h1>x<h2>U</h2>y", "T\n\nx\n\nU\n\ny"),
    "list items are marked, nested ones indented": (
        "<ul><li>a<li>b<ul><li>c</li></ul></li></ul><ol><li>d</ol>e",
        "- a\n- b\n  - c\n\n- d\n\ne",
    ),
    "empty items leave no mark": ("<ul><li></li><li>a</li><li> </li></ul>b", "- a\n\nb"),
    "table rows are lines": (
        "<table><tr><th>A<th>B</tr><tr><td>1</td><td><p>two words</p></td></tr></table>x",
        "A | B\n1 | two words\n\nx",
    ),
    "tables for layout are blocks": (
        "<table><tr><td><a>Menu</a></td><td><h1>T</h1><p>a</p><p>b</p></td></tr></table>",
        "Menu\n\nT\n\na\n\nb",
    ),
    "pre is kept as it is": (
        "<p>x</p><pre>\n  def f():\n\n\n    return  1\n</pre>y",
        "x\n\n  def f():\n\n\n    return  1\n\ny",
    ),
    "lines in pre may be blocks or end with br": ("<pre><div>a</div><div>b</div>c<br>d</pre>", "a\nb\nc\nd"),
    "scripts, styles and titles are left out": (
        "<head><title>T</title></head><script>if (a<b) '<p>'</script><style>p{}</style><p>a<noscript>n</noscript>b",
        "ab",
    ),
    "hidden parts and comments are left out": (
        "<p>a<template><p>t</p></template><svg><text>s</text></svg><p hidden>h</p><!-- c -->b",
        "a\n\nb",
    ),
    "entities of all kinds": ("<p>&lt;&eacute;&#8221;&#x1F600;&nbsp;&copy &unknown; AT&T", "<é”😀 © &unknown; AT&T"),
    "invisible characters go, spaces that do not break are spaces": (
        "<p>a&shy;b&#8203;c&nbsp;&nbsp;d\u00a0e",
        "abc d e",
    ),
    "quotation marks of q": ("He said <q>yes</q>.", "He said “yes”."),
    "pictures that are characters": (
        '<p>Hi <img class="emoji" alt="🎉"> <img src="a.png" alt="A cat">you',
        "Hi 🎉 you",
    ),
    "newlines count where there is no block": ("one\ntwo <i>x</i>\n\nthree", "one\ntwo x\n\nthree"),
    "a lone declaration of another encoding": ("<?xml version='1.0' encoding='utf-16'?><p>ä", "ä"),
    "a meta tag of another encoding": ("<meta charset=latin1><p>Grüße", "Grüße"),
    "crossed and unclosed tags": ("<b><p>a<i>b</b>c</p></div><td>d<", "abc\n\nd<"),
    "a text without tags": ("a < b &amp;&amp; c > d\n\n  e", "a < b && c > d\n\n  e"),
    "nothing": ("", ""),
    "tags alone": ("<p><br></p><ul><li></ul>", ""),
}


@pytest.mark.parametrize("name", TEXTS)
def test_html_becomes_text(name: str) -> None:
    html, text = TEXTS[name]
    assert html_to_text(html) == text


@pytest.mark.parametrize(
    "text",
    [
        "x <b>y</b>",
        "<p class='x'>",
        '<a href="/x?a=b&amp;c">',
        "Tom &amp; Jerry",
        "&#8217;",
        "&#x41;",
        "a<br>b",
        "<BR />",
        "</p>",
    ],
)
def test_tags_and_entities_are_seen(text: str) -> None:
    assert looks_like_html(text)


@pytest.mark.parametrize(
    "text",
    ["", "a < b", "1<2 & 3>2", "List<String>", "AT&T; R&D;", "if a<b and c>d", "<https://example.org>", "&&", "<3"],
)
def test_signs_are_not_taken_for_tags(text: str) -> None:
    assert not looks_like_html(text)


def test_what_is_nested_too_deep_for_the_parser_is_kept() -> None:
    assert html_to_text("<div>" * 5000 + "deep &amp; <b>down</b>") == "deep & down"


def test_a_surrogate_and_a_nul_are_no_obstacle() -> None:
    assert html_to_text("<p>a\ud800b\0c") == "a\ufffdbc"


@given(
    st.lists(st.sampled_from([*"ab <>/!&;=-\n\t'é", "<p>", "</p>", "<pre>", "<td>", "<li>", "<!--", "&lt;"])).map(
        "".join
    )
)
def test_nothing_breaks_it_and_no_tag_of_ours_is_left(html: str) -> None:
    text = html_to_text(html)
    if "&" not in html:
        assert not re.search(r"</?(?:p|pre|td|li)>", text)


def test_a_real_book_is_whole_and_has_no_tag_left(shared_data: Path) -> None:
    html = (shared_data / "gutenberg" / "1513-h.htm").read_text("utf-8-sig")
    plain = (shared_data / "gutenberg" / "1513-0.txt").read_text("utf-8-sig")
    text = html_to_text(html)
    assert "<" not in text
    assert "&" not in text.replace("&c", "")
    for speech in re.findall(r"(?m)^(JULIET\.\n.+)$", plain)[:20]:
        assert speech in text


def test_a_page_of_too_many_tags_is_read_without_a_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html_module, "MAX_TAGS", 3)
    page = (
        "Head<p class='a'>One &amp; 2 < 3<!-- not <b>this</b> --> two</p><script>if (a<b) x()</script>"
        "<style>p {}</style><p>three<br/>four<!-- no end <p>five"
    )
    assert parse_html(page) is None
    assert html_to_text(page) == "Head\nOne & 2 < 3 two\nthree\nfour"
    assert html_to_text("<p>" * 9) == ""
