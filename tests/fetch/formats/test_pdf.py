from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from gptcli.errors import SourceError
from gptcli.fetch.formats.pdf import mend_hyphens, without_running_lines
from tests.fetch.formats.conftest import Read


def pdf(pages: Sequence[Sequence[str]], *, title: str = "") -> bytes:
    """Return a PDF of lines in Helvetica, written by hand."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for lines in pages:
        shown = " ".join(f"({line}) Tj 0 -20 Td" for line in lines)
        stream = f"BT /F1 12 Tf 50 700 Td {shown} ET".encode() if lines else b""
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 500 800] /Resources << /Font << /F1 3 0 R >> >> "
            b"/Contents %d 0 R >>" % len(objects)
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    objects.append(f"<< /Title ({title}) /Author (Ada) >>".encode())
    body = b"%PDF-1.4\n"
    places = []
    for number, content in enumerate(objects, 1):
        places.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    trailer = b"<< /Size %d /Root 1 0 R /Info %d 0 R >>" % (len(objects) + 1, len(objects))
    return body + b"xref\n0 %d\n0000000000 65535 f \n%strailer\n%s\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1, table, trailer, len(body)
    )  # fmt: skip


PAGES = [
    ["The Great Book", "It was a dark and exam-", "ple night.", "1"],
    ["The Great Book", "The rain fell with-", "out end", "2"],
    ["The Great Book", "until the well-", "known morning came.", "3"],
    ["A well-known end.", "4"],
]


def test_the_pages_are_one_text_without_headers_and_page_numbers(read: Read) -> None:
    found = read("book.pdf", pdf(PAGES, title="The Book"))
    (item,) = found.documents
    assert item.text == (
        "It was a dark and example night.\n\nThe rain fell without end\nuntil the well-known morning came.\n\n"
        "A well-known end."
    )
    assert (item.title, item.author) == ("The Book", "Ada")
    assert found.dropped == {"running headers and page numbers": 7}


def test_a_title_that_a_program_made_up_is_not_one(read: Read) -> None:
    assert read("book.pdf", pdf(PAGES, title="Microsoft Word - draft.doc")).documents[0].title == "book"


def test_few_pages_keep_their_lines() -> None:
    pages = [["Head", "text", "1"], ["Head", "more", "2"]]
    assert without_running_lines(pages) == (pages, 0)


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ("exam-\nple", "example"),
        ("co-\nworker and co-worker", "co-worker and co-worker"),
        ("Anglo-\nSaxon", "Anglo-Saxon"),
        ("1914-\n1918", "1914-1918"),
        ("a dash -\nand more", "a dash -\nand more"),
    ],
)
def test_words_broken_at_the_end_of_a_line_are_mended(text: str, mended: str) -> None:
    assert mend_hyphens(text) == mended


def test_an_encrypted_file_is_refused_unless_anyone_may_read_it(tmp_path: Path, read: Read) -> None:
    from pypdf import PdfReader, PdfWriter

    (tmp_path / "plain.pdf").write_bytes(pdf(PAGES))
    for name, password in (("locked.pdf", "secret"), ("open.pdf", "")):
        writer = PdfWriter(clone_from=PdfReader(tmp_path / "plain.pdf"))
        writer.encrypt(user_password=password, algorithm="RC4-128")
        writer.write(tmp_path / name)
    with pytest.raises(SourceError, match=r"locked\.pdf is encrypted: it needs a password"):
        read("locked.pdf")
    assert "dark and example night" in read("open.pdf").texts[0]


def test_pages_of_images_have_no_text(read: Read) -> None:
    with pytest.raises(SourceError) as caught:
        read("scan.pdf", pdf([[], []]))
    assert caught.value.message == "scan.pdf has 2 pages and no text: they are images."
    assert "OCR" in caught.value.hint


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6])
def test_a_damaged_file_gets_a_sentence_and_nothing_else(
    read: Read, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    data = pdf(PAGES)
    with pytest.raises(SourceError, match=r"b\.pdf (is damaged|has \d pages? and no text)"):
        read("b.pdf", data[: int(len(data) * share)])
    assert caplog.records == []


def test_a_missing_extra_says_what_to_install(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(SourceError) as caught:
        read("b.pdf", pdf(PAGES))
    assert caught.value.message.endswith("needs a part that is not installed: pip install 'gptcli[pdf]'")


def test_a_pdf_is_known_by_its_first_bytes(read: Read) -> None:
    assert "example night" in read("download", pdf(PAGES)).texts[0]
