from __future__ import annotations

import pytest

from gptcli.fetch.formats.markdown import front_matter
from tests.fetch.formats.conftest import Read

BODY = "# Heading\n\nSome *text* with `code`.\n\n---\n\nAfter a rule.\n"


def test_front_matter_becomes_title_author_and_date(read: Read) -> None:
    block = (
        '---\ntitle: "Write like: Agatha"\ndate: 2023-10-04T14:24:06+05:30\nauthors:\n  - Ada\n  - name: Bob\n---\n\n'
    )
    (item,) = read("post.md", block + BODY).documents
    assert item.text == BODY
    assert (item.title, item.author, item.date) == ("Write like: Agatha", "Ada, Bob", "2023-10-04T14:24:06+05:30")


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("---\ntitle: A\ndate: 2020-01-02\n...\n", {"title": "A", "date": "2020-01-02"}),
        ("+++\ntitle = 'A'\ndate = 2020-01-02T00:00:00Z\nauthors = [\"Ada\"]\n+++\n\n", {
            "title": "A", "author": "Ada", "date": "2020-01-02T00:00:00Z"}),
        ("---\ntitle: Broken: yaml\nlang: en\n---\n", {"title": "Broken: yaml", "language": "en"}),
        ("---\r\ntitle: A\r\ntags: [a, b]\r\nlicense: MIT\r\n---\r\n", {"title": "A", "licence": "MIT"}),
        ("---\ndraft: true\n---\n", {}),
    ],
)  # fmt: skip
def test_each_kind_of_block_is_taken_off(read: Read, block: str, expected: dict[str, str]) -> None:
    (item,) = read("post.md", block + BODY).documents
    assert item.text == BODY
    found = {"title": item.title, "author": item.author, "date": item.date, "language": item.language}
    assert {**found, "licence": item.licence} == {
        "title": "post", "author": "", "date": "", "language": "", "licence": "", **expected
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        BODY,
        "---\n\nA text that begins with a rule.\n\n---\n\nAnd goes on.\n",
        "---\ntitle: never closed\n",
        "",
        "---\n---\n",
    ],
)
def test_what_is_no_front_matter_stays(text: str) -> None:
    assert front_matter(text) == ({}, 0)


def test_values_that_refer_to_one_another_without_end_do_no_harm(read: Read) -> None:
    laughs = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 'ha'}]" for n in range(20))
    (item,) = read("post.md", f"---\n{laughs}\ntitle: A\nauthor: *a19\n---\nText.\n").documents
    assert (item.title, item.text) == ("A", "Text.\n")
