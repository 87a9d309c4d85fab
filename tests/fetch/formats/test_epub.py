from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from gptcli.errors import SourceError
from tests.fetch.formats.conftest import Read

CONTAINER = """<?xml version="1.0"?>
<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">
  <rootfiles><rootfile full-path="OEBPS/content.opf" media-type="application/oebps-package+xml"/></rootfiles>
</container>"""
METADATA = """
    <dc:title>The Gate</dc:title>
    <dc:creator id="a">Ada Writer</dc:creator><meta refines="#a" property="role">aut</meta>
    <dc:creator id="b">Bob Binder</dc:creator><meta refines="#b" property="role">bkd</meta>
    <dc:date>1999-05-01</dc:date><dc:language>en-GB</dc:language><dc:rights>CC BY 4.0</dc:rights>"""
Files = dict[str, str | bytes]


def page(body: str, head: str = "<title>x</title>") -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE html>\n'
        f'<html xmlns="http://www.w3.org/1999/xhtml"><head>{head}</head><body>{body}</body></html>'
    )


def package(chapters: dict[str, str], metadata: str = METADATA, more: str = "") -> str:
    items = "".join(
        f'<item id="c{number}" href="{href}" media-type="application/xhtml+xml" {extra}/>'
        for number, (href, extra) in enumerate(chapters.items())
    )
    spine = "".join(f'<itemref idref="c{number}"/>' for number in range(len(chapters)))
    return (
        '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0">'
        f'<metadata xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:opf="http://www.idpf.org/2007/opf">{metadata}'
        f"</metadata><manifest>{items}{more}</manifest><spine>{spine}</spine></package>"
    )


def book(chapters: Mapping[str, str | bytes]) -> Files:
    """Return the files of a book whose spine has these chapters."""
    return {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": CONTAINER,
        "OEBPS/content.opf": package(dict.fromkeys(chapters, "")),
        **{f"OEBPS/{name}": text for name, text in chapters.items()},
    }


def write(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text, zipfile.ZIP_STORED if name == "mimetype" else None)
    return path


def test_a_book_is_its_chapters_in_the_order_of_the_spine(tmp_path: Path, read: Read) -> None:
    files = book({"z.xhtml": page("<h1>One</h1><p>First.</p>"), "a.xhtml": page("<h1>Two</h1><p>Second.</p>")})
    (item,) = read(write(tmp_path / "b.epub", files)).documents
    assert item.text == "One\n\nFirst.\n\nTwo\n\nSecond."
    assert (item.title, item.author, item.date) == ("The Gate", "Ada Writer", "1999-05-01")
    assert (item.language, item.licence) == ("en-GB", "CC BY 4.0")


def test_a_book_of_version_2_names_its_author_and_date_by_attributes(tmp_path: Path, read: Read) -> None:
    metadata = (
        '<dc:creator opf:role="ill">Ivy Ink</dc:creator><dc:creator opf:role="aut">Ada Writer</dc:creator>'
        '<dc:date opf:event="modification">2020</dc:date><dc:date opf:event="publication">1899</dc:date>'
    )
    files = book({"a.html": page("<p>Text.</p>")})
    files["OEBPS/content.opf"] = package({"a.html": ""}, metadata)
    (item,) = read(write(tmp_path / "old.epub", files)).documents
    assert (item.title, item.author, item.date) == ("old", "Ada Writer", "1899")


def test_contents_covers_and_pictures_are_passed_over(tmp_path: Path, read: Read) -> None:
    chapters = {
        "cover.xhtml": page('<img src="cover.png" alt="Cover"/>'),
        "nav.xhtml": page("<nav><ol><li>One</li></ol></nav>"),
        "one.xhtml": page("<p>One.</p>"),
    }
    files = book(chapters)
    files["OEBPS/content.opf"] = package({"cover.xhtml": "", "nav.xhtml": 'properties="nav"', "one.xhtml": ""})
    assert read(write(tmp_path / "b.epub", files)).texts == ["One."]


def test_pages_are_read_in_whatever_form_they_are(tmp_path: Path, read: Read) -> None:
    utf16 = page("<p>Größe &amp; Maß</p>").replace("utf-8", "utf-16")
    chapters: Files = {
        "wide.xhtml": utf16.encode("utf-16"),
        "old.xhtml": page("<p>caf\u00e9</p>").replace("utf-8", "iso-8859-1").encode("latin-1"),
        # In HTML a self-closing <title/> or <a/> would swallow what follows.
        "strict.xhtml": page('<p>one<a id="x"/> two&nbsp;&mdash; three</p>', "<title/><script src='x.js'/>"),
        "broken.xhtml": "<html><body><p>not <b>closed & open<p>at all",
    }
    (text,) = read(write(tmp_path / "b.epub", book(chapters))).texts
    assert text == "Größe & Maß\n\ncafé\n\none two — three\n\nnot closed & open\n\nat all"


def test_percent_encoded_and_wrongly_written_references_are_found(tmp_path: Path, read: Read) -> None:
    files = book({})
    files["OEBPS/content.opf"] = package({"Text/chap%20one.xhtml#start": "", "..\\two.xhtml": "", "100%25.xhtml": ""})
    files["OEBPS/Text/chap one.xhtml"] = page("<p>one</p>")
    files["two.xhtml"] = page("<p>two</p>")
    files["OEBPS/100%.xhtml"] = page("<p>three</p>")
    assert read(write(tmp_path / "b.epub", files)).texts == ["one\n\ntwo\n\nthree"]


@pytest.mark.parametrize(
    "href", ["../../secret.xhtml", "/etc/passwd.xhtml", "C:\\secret.xhtml", "file:///etc/x.xhtml", "link.xhtml"]
)
def test_a_reference_out_of_the_book_leads_nowhere(tmp_path: Path, read: Read, href: str) -> None:
    (tmp_path / "secret.xhtml").write_text(page("<p>secret</p>"))
    files = book({"one.xhtml": page("<p>One.</p>")})
    files["OEBPS/content.opf"] = package({"one.xhtml": "", href: ""})
    path = write(tmp_path / "b.epub", files)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("OEBPS/link.xhtml")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, str(tmp_path / "secret.xhtml"))
        archive.writestr("../../secret.xhtml", page("<p>secret</p>"))
    before = sorted(tmp_path.iterdir())
    found = read(path)
    assert found.texts == ["One."]
    assert found.dropped == {"chapters that are not inside the book": 1}
    assert found.notes == [f"b.epub: chapters are listed that are not inside the book: {href}."]
    assert sorted(tmp_path.iterdir()) == before


def encryption(algorithm: str) -> str:
    return (
        '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container" xmlns:enc="http://www.w3.org/2001/04/xmlenc#">'
        f'<enc:EncryptedData><enc:EncryptionMethod Algorithm="{algorithm}"/></enc:EncryptedData></encryption>'
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("META-INF/encryption.xml", encryption("http://www.w3.org/2001/04/xmlenc#aes128-cbc")),
        ("META-INF/rights.xml", "<rights/>"),
        ("META-INF/sinf.xml", "<sinf/>"),
    ],
)
def test_a_locked_book_is_refused(tmp_path: Path, read: Read, name: str, text: str) -> None:
    files = {**book({"a.xhtml": page("<p>One.</p>")}), name: text}
    with pytest.raises(SourceError) as caught:
        read(write(tmp_path / "b.epub", files))
    assert caught.value.message == f"b.epub is locked by DRM ({name}), so it cannot be read."
    assert "without DRM" in caught.value.hint


def test_scrambled_fonts_are_no_lock(tmp_path: Path, read: Read) -> None:
    files = book({"a.xhtml": page("<p>One.</p>")})
    files["META-INF/encryption.xml"] = encryption("http://www.idpf.org/2008/embedding")
    assert read(write(tmp_path / "b.epub", files)).texts == ["One."]


def test_a_zip_bomb_is_refused_while_it_inflates(tmp_path: Path, read: Read) -> None:
    files = book({"a.xhtml": page("<p>One.</p>"), "b.xhtml": b" " * 20_000_000})
    path = write(tmp_path / "b.epub", files)
    assert path.stat().st_size < 30_000
    with pytest.raises(SourceError, match=r"b\.epub inflates to more than 8,388,608 bytes, which no book does"):
        read(path)


def test_a_size_that_lies_does_not_help_a_bomb(tmp_path: Path, read: Read) -> None:
    path = write(tmp_path / "b.epub", book({"a.xhtml": b" " * 20_000_000}))
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<I", 20_000_000), struct.pack("<I", 1000)))
    with pytest.raises(SourceError, match=r"b\.epub is damaged: OEBPS/a\.xhtml inside it cannot be read"):
        read(path)


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;"><!ENTITY c SYSTEM "file:///etc/hostname">]>'


def test_entities_of_a_page_are_not_resolved(tmp_path: Path, read: Read) -> None:
    text = page("<p>One.</p><p>&b; &c;</p>").replace("<!DOCTYPE html>", LAUGHS)
    assert read(write(tmp_path / "b.epub", book({"a.xhtml": text}))).texts == ["One.\n\n&b; &c;"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"OEBPS/content.opf": LAUGHS + "<package/>"}, "OEBPS/content.opf inside it is not XML that can be read"),
        ({"OEBPS/content.opf": "no xml at all"}, "OEBPS/content.opf inside it is not XML that can be read"),
        ({"META-INF/container.xml": ""}, "META-INF/container.xml inside it is not XML that can be read"),
        ({"OEBPS/content.opf": "<package/>"}, "b.epub has no chapter with words in it"),
        ({"OEBPS/a.xhtml": page("<p> </p>")}, "b.epub has no chapter with words in it"),
    ],
)
def test_a_broken_book_gets_its_sentence(tmp_path: Path, read: Read, changes: Files, sentence: str) -> None:
    with pytest.raises(SourceError) as caught:
        read(write(tmp_path / "b.epub", {**book({"a.xhtml": page("<p>One.</p>")}), **changes}))
    assert sentence in caught.value.message


def test_a_book_without_a_package_document_is_refused(tmp_path: Path, read: Read) -> None:
    with pytest.raises(SourceError, match="has no package document"):
        read(write(tmp_path / "b.epub", {"mimetype": "application/epub+zip", "a.xhtml": page("<p>One.</p>")}))


def test_a_book_whose_container_is_missing_is_read_by_its_package(tmp_path: Path, read: Read) -> None:
    files = book({"a.xhtml": page("<p>One.</p>")})
    del files["META-INF/container.xml"]
    assert read(write(tmp_path / "b.epub", files)).texts == ["One."]


@pytest.mark.parametrize("size", [0.1, 0.5, 0.9, 0.999])
def test_a_book_that_breaks_off_is_refused(tmp_path: Path, read: Read, size: float) -> None:
    path = write(tmp_path / "b.epub", book({"a.xhtml": page("<p>One.</p>")}))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * size)])
    with pytest.raises(SourceError, match=r"b\.epub is damaged"):
        read(path)


def test_bytes_that_changed_are_noticed(tmp_path: Path, read: Read) -> None:
    path = write(tmp_path / "b.epub", book({"a.xhtml": page("<p>" + "One two three. " * 50 + "</p>")}))
    data = bytearray(path.read_bytes())
    at = data.rindex(b"OEBPS/a.xhtml", 0, data.index(b"PK\x01\x02")) + 30
    data[at] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"OEBPS/a\.xhtml inside it cannot be read"):
        read(path)


def test_a_file_that_is_no_archive_is_no_book(read: Read) -> None:
    with pytest.raises(SourceError, match=r"b\.epub is damaged: File is not a zip file"):
        read("b.epub", b"Once upon a time")


def test_a_book_is_known_by_its_first_bytes(tmp_path: Path, read: Read) -> None:
    path = write(tmp_path / "download", book({"a.xhtml": page("<p>One.</p>")}))
    assert read(path).texts == ["One."]
