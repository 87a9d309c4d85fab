from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from gptcli.errors import SourceError
from gptcli.fetch.site import sitemap
from gptcli.fetch.site.sitemap import Sitemap, read_sitemap

URL = "https://example.org/sitemap.xml"
NAMESPACE = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9" xmlns:image="http://www.google.com/schemas/image"'


def read(folder: Path, data: bytes | str) -> Sitemap:
    path = folder / "map"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return read_sitemap(path, URL)


def urlset(*locations: str) -> str:
    urls = "".join(f"<url><loc>{location}</loc></url>" for location in locations)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<urlset {NAMESPACE}>{urls}</urlset>'


def test_addresses_come_in_order_with_their_last_change(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        f"\n<urlset {NAMESPACE}><url><loc>\n https://example.org/b?x=1&amp;y=2 </loc><lastmod>2024-03-01</lastmod>"
        "<image:image><image:loc>https://example.org/i.jpg</image:loc></image:image></url>"
        "<url><loc>/relative</loc></url><url><lastmod>2024</lastmod></url><url><loc>mailto:x@y.z</loc></url>"
        "<url><loc><![CDATA[https://example.org/a]]></loc></url></urlset>",
    )
    assert found == Sitemap(
        pages=(
            ("https://example.org/b?x=1&y=2", "2024-03-01"),
            ("https://example.org/relative", ""),
            ("https://example.org/a", ""),
        )
    )


def test_an_index_names_other_sitemaps(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "<sitemapindex><sitemap><loc>https://example.org/a.xml.gz</loc><lastmod>2024-01-01</lastmod></sitemap></sitemapindex>",
    )
    assert found == Sitemap(children=(("https://example.org/a.xml.gz", "2024-01-01"),))


def test_gzip_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    plain = urlset(*(f"https://example.org/{number}" for number in range(2000)))
    assert len(read(tmp_path, gzip.compress(plain.encode())).pages) == 2000


def test_a_list_of_lines_is_a_sitemap(tmp_path: Path) -> None:
    found = read(tmp_path, "\ufeffhttps://example.org/a\r\nnothing\nhttps://example.org/b\n")
    assert [page for page, _ in found.pages] == ["https://example.org/a", "https://example.org/b"]


@pytest.mark.parametrize(
    "data", [b"", b"<", b"<urlset>", b"\x1f\x8b", b"\x1f\x8b\x08rubbish", b"\0\0\0", b"<html><p>no</html>", b"text"]
)
def test_what_is_none_is_empty(tmp_path: Path, data: bytes) -> None:
    assert read(tmp_path, data) == Sitemap()


@pytest.mark.parametrize("cut", ["text", "gzip"])
def test_of_a_broken_one_what_came_before_is_kept(tmp_path: Path, cut: str) -> None:
    whole = urlset(*(f"https://example.org/{number}/{number * 7919 % 10007}" for number in range(3000))).encode()
    data = whole[: len(whole) // 2] if cut == "text" else gzip.compress(whole)[: len(gzip.compress(whole)) // 2]
    assert 500 < len(read(tmp_path, data).pages) < 3000


def test_a_gzip_bomb_is_refused_at_the_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sitemap, "MAX_SITEMAP_BYTES", 1_000_000)
    with pytest.raises(SourceError, match=r"sitemap\.xml is larger than 1,000,000 bytes after decompression"):
        read(tmp_path, gzip.compress(b" " * 50_000_000))
    with pytest.raises(SourceError, match="larger than 1,000,000 bytes"):
        read(tmp_path, b" " * 1_000_001)


def test_a_billion_laughs_are_none(tmp_path: Path) -> None:
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else "lol"}">' for n in range(10))
    found = read(
        tmp_path, f"<!DOCTYPE urlset [{entities}]><urlset><url><loc>https://example.org/&l9;</loc></url></urlset>"
    )
    assert all(len(page) < 100 for page, _ in found.pages)


def test_no_file_is_read_through_an_entity(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("SECRET", "utf-8")
    entity = f'<!DOCTYPE urlset [<!ENTITY x SYSTEM "{secret.as_uri()}">]>'
    found = read(tmp_path, f"{entity}<urlset><url><loc>https://example.org/&x;</loc></url></urlset>")
    assert "SECRET" not in str(found)


def test_more_addresses_than_one_may_have_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sitemap, "MAX_ADDRESSES", 10)
    found = read(tmp_path, urlset(*(f"https://example.org/{number}" for number in range(20))))
    assert (len(found.pages), found.cut) == (10, True)
