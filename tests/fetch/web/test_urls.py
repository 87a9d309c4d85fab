from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.fetch.web.urls import (
    canonical,
    join,
    login,
    mirrored,
    origin,
    same_site,
    site,
    unmirrored,
    without_fragment,
    without_login,
)

# Text that is likely to be taken for a part of an address.
MESSY = st.text(st.one_of(st.sampled_from(":/?#[]@!$&'()*+,;=%.\\ \t\n"), st.characters()), max_size=40)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("HTTPS://Example.ORG", "https://example.org/"),
        ("http://example.org:80/a", "http://example.org/a"),
        ("https://example.org:443/a", "https://example.org/a"),
        ("http://example.org:443/a", "http://example.org:443/a"),
        ("http://[2001:DB8::1]:8080/a", "http://[2001:db8::1]:8080/a"),
        ("https://example.org/a#part", "https://example.org/a"),
        ("https://user:secret@example.org/a", "https://example.org/a"),
        ("https://example.org/a/./b/../c/", "https://example.org/a/c/"),
        ("https://example.org/../../a/..", "https://example.org/"),
        ("https://example.org/a/%2e%2e/b", "https://example.org/b"),
        ("https://example.org/%7euser/%c3%bc%2f", "https://example.org/~user/%C3%BC%2F"),
        ("https://example.org/ü b", "https://example.org/%C3%BC%20b"),
        ("https://example.org/?", "https://example.org/"),
        ("https://example.org/?b=2&utm_source=x&a=1&fbclid=9&", "https://example.org/?b=2&a=1"),
        ("https://example.org/?UTM_medium=x", "https://example.org/"),
        ("https://example.org/?q=a+b&q=%C3%BC&empty=", "https://example.org/?q=a+b&q=%C3%BC&empty="),
        ("https://example.org/a%", "https://example.org/a%"),
        (" https://example.org/a ", "https://example.org/a"),
        ("https://example.org//a//b", "https://example.org//a//b"),
        ("mailto:x@example.org", "mailto:x@example.org"),
        ("http://[::1", "http://[::1"),
    ],
)
def test_an_address_has_one_spelling(url: str, expected: str) -> None:
    assert canonical(url) == expected
    assert canonical(expected) == expected


@given(MESSY)
def test_any_text_has_a_spelling_that_stays(text: str) -> None:
    once = canonical(f"http://example.org/{text}")
    assert canonical(once) == once


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("b.html", "https://example.org/posts/b.html"),
        ("../c?x=1#y", "https://example.org/c?x=1"),
        ("/d", "https://example.org/d"),
        ("//other.org/e", "https://other.org/e"),
        ("?page=2", "https://example.org/posts/a.html?page=2"),
        ("#part", "https://example.org/posts/a.html"),
        ("", "https://example.org/posts/a.html"),
        ("  /lo\n\t ng ", "https://example.org/lo%20ng"),
        ("/ü?q=ß", "https://example.org/%C3%BC?q=%C3%9F"),
        ("HTTP://Other.org/F", "http://Other.org/F"),
        ("https://user:secret@other.org/", "https://other.org/"),
        ("/a\ud800b", "https://example.org/a%3Fb"),
    ],
)
def test_a_link_leads_somewhere(link: str, expected: str) -> None:
    assert join("https://example.org/posts/a.html", link) == expected


@pytest.mark.parametrize(
    "link",
    [
        *("mailto:a@b.org", "javascript:alert(1)", "data:text/plain,a", "ftp://a/b", "file:///etc/hostname", "tel:1"),
        *(
            "http://",
            "http:///a",
            "http://[::1",
            "http://a:99999/",
            "http://a:x/",
            "http://a:0/",
            "http://a b/",
            "http://a\\b/",
        ),
        "/" + "x" * 9000,
    ],
)
def test_a_link_may_lead_nowhere_on_the_web(link: str) -> None:
    assert join("https://example.org/", link) is None


@given(MESSY, st.sampled_from(["", "http:", "//", "https://"]))
def test_what_a_link_leads_to_is_always_an_address(text: str, before: str) -> None:
    found = join("http://example.org/a/b", before + text)
    if found is not None:
        assert site(found)
        assert urlsplit(found).scheme in {"http", "https"}
        assert found.isprintable()
        assert " " not in urlsplit(found).path


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://example.org/a", "http://www.example.org/b", True),
        ("https://EXAMPLE.org", "https://example.org:443", True),
        ("http://example.org:8080/", "https://example.org:8080/", True),
        ("http://example.org/", "http://example.org:8080/", False),
        ("http://example.org/", "http://blog.example.org/", False),
        ("http://example.org/", "http://example.org.evil.org/", False),
        ("nothing", "nothing", False),
        ("http://a:x/", "http://a:x/", False),
    ],
)
def test_a_site_is_a_host_with_its_port(one: str, other: str, same: bool) -> None:
    assert same_site(one, other) is same_site(other, one) is same


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://user:secret@example.org/a@b", "https://example.org/a@b"),
        ("https://user@example.org", "https://example.org"),
        ("https://us@er:sec@ret@example.org/", "https://example.org/"),
        ("https://user:sec/ret@example.org/", "https://example.org/"),
        ("https://user:sec?ret#@example.org/", "https://example.org/"),
        ("https://user:secret@[::1/", "https://[::1/"),
        ("https://user:secret@[::1]:80/", "https://[::1]:80/"),
        ("https://[::1]:80/@b", "https://[::1]:80/@b"),
        ("https://medium.com/@user/post", "https://medium.com/@user/post"),
        ("https://example.org:8080/@user", "https://example.org:8080/@user"),
        ("gutenberg:1513", "gutenberg:1513"),
        ("hf:owner/name@main", "hf:owner/name@main"),
    ],
)
def test_a_login_is_taken_out(url: str, expected: str) -> None:
    assert without_login(url) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://user:sec%40ret@example.org/", ("user", "sec@ret")),
        ("https://user@example.org/", ("user", "")),
        ("https://example.org/@user", None),
        ("https://user:secret@[::1", None),
    ],
)
def test_a_login_is_read_with_its_escapes_undone(url: str, expected: tuple[str, str] | None) -> None:
    assert login(url) == expected


def test_what_follows_the_hash_is_cut() -> None:
    assert without_fragment("https://example.org/a?b#c#d") == "https://example.org/a?b"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("HTTPS://Example.org:443/a", "https://example.org"),
        ("http://h:81", "http://h:81"),
        ("ftp://h/", ""),
        ("http://[::1", ""),
    ],
)
def test_the_origin_is_scheme_and_host(url: str, expected: str) -> None:
    assert origin(url) == expected


@pytest.mark.parametrize("base", ["http://127.0.0.1:8001/x", "http://127.0.0.1:8001/x/"])
@pytest.mark.parametrize("path", ["/", "/a/b.json?next=%2Fa&b#c", "/x/a", "//a", "?q=1", ""])
def test_an_address_of_the_host_has_its_place_on_the_mirror_and_back(path: str, base: str) -> None:
    on_mirror = mirrored(f"https://real.org{path}", "https://real.org", base)
    assert on_mirror == f"http://127.0.0.1:8001/x{path}"
    assert unmirrored(on_mirror, "https://real.org", base) == f"https://real.org{path}"


def test_a_mirror_stands_for_its_host_under_both_schemes_and_for_no_other() -> None:
    assert mirrored("http://REAL.org:80/a", "https://real.org/", "http://m") == "http://m/a"
    for url in (
        "https://www.real.org/a",
        "https://real.org:8443/a",
        "https://other.org/a",
        "no address",
        "http://[::1",
    ):
        assert mirrored(url, "https://real.org", "http://m") == url


@pytest.mark.parametrize(
    "url", ["http://m/xy", "http://m/", "http://m", "https://m/x/a", "http://n/x/a", "http://m:81/x/a", "http://[::1"]
)
def test_what_is_not_on_the_mirror_stands_for_nothing_else(url: str) -> None:
    assert unmirrored(url, "https://real.org", "http://m/x") == url


@given(MESSY)
def test_no_address_breaks_the_way_to_a_mirror_and_back(text: str) -> None:
    url = f"https://real.org/{text}"
    on_mirror = mirrored(url, "https://real.org", "http://m/x")
    assert unmirrored(on_mirror, "https://real.org", "http://m/x") == url
    assert unmirrored(mirrored(text, "https://real.org", "http://m/x"), "https://real.org", "http://m/x") == text
