from __future__ import annotations

import re
from pathlib import Path

import pytest

from gptcli.fetch.site import boilerplate
from gptcli.fetch.site.boilerplate import Draft, Drafts, Dropped
from tests.fetch.blog_site import posts


def cleaned(texts: list[str]) -> tuple[list[str], Dropped]:
    """Return the texts without boilerplate in their order, and what went."""
    dropped = Dropped()
    with Drafts() as drafts:
        for number, text in enumerate(texts):
            assert drafts.add(Draft(text, {"url": f"{number:04}"}))
        return [draft.text for draft in drafts.cleaned(dropped)], dropped


def test_lines_around_the_posts_go_and_the_posts_stay() -> None:
    bodies = [post.text for post in posts(40)]
    texts = [
        f"{number % 7 + 2} min read\n\n{body}\n\nShare this:\n\n- Twitter\n- Facebook\n\n{number} comments"
        for number, body in enumerate(bodies)
    ]
    found, dropped = cleaned(texts)
    assert found == bodies
    assert dropped.lines == 5 * 40
    assert dropped.examples() == [("- Facebook", 40), ("- Twitter", 40), ("Share this:", 40)]


def test_a_box_in_the_midst_of_posts_goes() -> None:
    box = "Enjoying this post? Subscribe to the newsletter and never miss another one."
    halves = [(post.text.split("\n\n")[:3], post.text.split("\n\n")[3:]) for post in posts(30)]
    texts = ["\n\n".join([*first * 3, box, *second * 3]) for first, second in halves]
    found, dropped = cleaned(texts)
    assert found == ["\n\n".join([*first * 3, *second * 3]) for first, second in halves]
    assert dropped.counts == {box: 30}


@pytest.mark.parametrize("count", [4, 6, 10, 25, 80])
def test_nothing_of_known_bodies_goes(count: int) -> None:
    bodies = [post.text for post in posts(count)]
    found, dropped = cleaned(bodies)
    assert found == bodies
    assert dropped.lines == 0


@pytest.mark.parametrize("book", ["863-0.txt", "1513-0.txt"])
@pytest.mark.parametrize("paragraphs", [3, 8, 15])
def test_nothing_of_a_book_cut_into_posts_goes_not_even_the_names_of_speakers(
    shared_data: Path, book: str, paragraphs: int
) -> None:
    text = (shared_data / "gutenberg" / book).read_text("utf-8-sig")
    pieces = re.split(r"\n\s*\n", text)
    texts = ["\n\n".join(pieces[start : start + paragraphs]) for start in range(0, len(pieces), paragraphs)]
    dropped = Dropped()
    with Drafts() as drafts:
        for number, piece in enumerate(texts):
            drafts.add(Draft(piece, {"url": f"{number:04}"}))
        assert "".join(draft.text for draft in drafts.cleaned(dropped)) == "".join(dict.fromkeys(texts))
    assert dropped.lines == 0


def test_code_and_lines_without_words_may_repeat() -> None:
    bodies = [f"Post {'abcdefghij'[number]}\n\n    import os\n\n***\n\n}}\n\n    return 1" for number in range(10)]
    found, dropped = cleaned(bodies)
    assert (found, dropped.lines) == (bodies, 0)


def test_few_texts_have_no_boilerplate() -> None:
    texts = [f"{word}\n\nThe end" for word in ("one", "two", "three", "four")]
    assert cleaned(texts) == (texts, Dropped())


def test_lines_that_share_a_bucket_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boilerplate, "_BUCKETS", 2)
    bodies = [post.text for post in posts(20)]
    found, dropped = cleaned([f"{body}\n\nShare this:" for body in bodies])
    assert found == bodies
    assert dropped.counts == {"Share this:": 20}


def test_texts_come_oldest_first_and_undated_ones_last() -> None:
    with Drafts() as drafts:
        for date, url in [
            ("", "b"),
            ("2024-01-02", "z"),
            ("2024-01-01T10:00:00+00:00", "y"),
            ("", "a"),
            ("2024-01-01", "x"),
        ]:
            drafts.add(Draft(f"text of {url}", {"date": date, "url": url}, "2024-05-05T00:00:00+00:00"))
        found = list(drafts.cleaned(Dropped()))
    assert [draft.origin["url"] for draft in found] == ["x", "y", "z", "a", "b"]
    assert {draft.fetched_at for draft in found} == {"2024-05-05T00:00:00+00:00"}


def test_a_text_that_is_there_already_is_refused() -> None:
    with Drafts() as drafts:
        assert drafts.add(Draft("one  two\n", {}))
        assert not drafts.add(Draft("one two", {"url": "x"}))
        assert len(drafts) == 1


def test_lone_surrogates_do_no_harm() -> None:
    with Drafts() as drafts:
        assert drafts.add(Draft("a\ud800b", {}))
        assert [draft.text for draft in drafts.cleaned(Dropped())] == ["a\ufffdb"]
