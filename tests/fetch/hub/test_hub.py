from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gptcli.errors import SourceError
from gptcli.fetch.hub import open_hub
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.source import Plan
from gptcli.fetch.web import FetchError, Web
from tests.fetch.conftest import Page, Site
from tests.fetch.hub.conftest import TALES, Fetched
from tests.fetch.hub_server import COMMIT, downloads, parquet, serve


def plan_of(folder: Path, where: str, **options: Any) -> Plan:  # noqa: ANN401
    settings = FetchOptions(**{"delay": 0.0, **options})
    with Web(folder / "corpora" / "tales", where, settings) as web:
        return open_hub(where, web, settings).plan()


def test_rows_of_the_training_split_are_documents_in_order(hub: Site, tmp_path: Path) -> None:
    fetched = Fetched(tmp_path, "hf:someone/tales")
    assert fetched.texts == TALES
    assert {item.licence for item in fetched.items} == {fetched.source.licence} == {"cc0-1.0"}
    assert downloads(hub) == [f"train-0000{n}-of-00003.parquet" for n in range(3)]
    assert fetched.source.notes == [
        f"someone/tales is read as of commit {COMMIT[:12]}.",
        "The split train of someone/tales is read; left alone with their files: test (1).",
        "The text is the column text.",
    ]
    assert set(fetched.source.fetched_at) >= {fetched.items[-1].id, fetched.items[-2].id}


def test_the_listing_is_read_to_its_end(hub: Site, tmp_path: Path) -> None:
    files = {f"{number:03d}.parquet": parquet({"text": [f"Text {number}."]}) for number in range(7)}
    serve(hub, "someone/tales", files, page_size=3)
    assert Fetched(tmp_path, "hf:someone/tales").texts == [f"Text {number}." for number in range(7)]


def test_a_mirror_whose_listing_leads_to_the_hub_itself_is_asked_on(hub: Site, tmp_path: Path) -> None:
    files = {f"{number:03d}.parquet": parquet({"text": [f"Text {number}."]}) for number in range(3)}
    serve(hub, "someone/tales", files, page_size=2)
    first = hub.pages[f"/api/datasets/someone/tales/tree/{COMMIT}?recursive=true"]
    assert isinstance(first, Page)
    first.headers = {"Link": first.headers["Link"].replace(hub.url, "https://huggingface.invalid")}
    assert len(Fetched(tmp_path, "hf:someone/tales").texts) == 3


def test_limit_bytes_ends_on_a_whole_document_and_asks_for_no_file_in_vain(hub: Site, tmp_path: Path) -> None:
    limit = len(TALES[0]) + len(TALES[1]) + 1
    fetched = Fetched(tmp_path, "hf:someone/tales:text", limit_bytes=limit)
    assert fetched.texts == TALES[:3]
    assert downloads(hub) == ["train-00000-of-00003.parquet"]
    assert fetched.source.notes[-1].startswith(f"--limit-bytes ended it after {len(''.join(TALES[:3]))} bytes of text")
    assert Fetched(tmp_path, "hf:someone/tales:text", limit_bytes=len(TALES[0])).texts == TALES[:1]


def test_a_long_row_comes_in_parts_and_the_limit_does_not_cut_it(hub: Site, tmp_path: Path) -> None:
    long = "Once upon a time. " * 500_000
    serve(hub, "someone/tales", {"a.parquet": parquet({"text": [long, "Never read."]})})
    fetched = Fetched(tmp_path, "hf:someone/tales", limit_bytes=100)
    assert [item.part for item in fetched.items] == [0, 1, 2]
    assert "".join(fetched.texts) == long


def test_texts_are_taken_as_they_are_and_empty_rows_counted(hub: Site, tmp_path: Path) -> None:
    rows = ["<p>a &amp; b</p>\r\n", None, "  ", "x < y"]
    serve(hub, "someone/tales", {"a.parquet": parquet({"text": rows})})
    fetched = Fetched(tmp_path, "hf:someone/tales")
    assert fetched.texts == ["<p>a &amp; b</p>\n", "x < y"]
    assert fetched.source.dropped == {"rows without text": 2}


def test_what_a_row_says_of_itself_comes_along(hub: Site, tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {
        "n": [1],
        "content": ["It was dark."],
        "title": ["A  night"],
        "url": ["https://example.org/a"],
        "language": ["en"],
        "license": ["mit"],
    }
    serve(hub, "someone/tales", {"a.parquet": parquet(columns)}, card={"license": ["cc0-1.0"]})
    (item,) = Fetched(tmp_path, "hf:someone/tales").items
    assert (item.text, item.title, item.url) == ("It was dark.", "A night", "https://example.org/a")
    assert (item.language, item.licence) == ("en", "mit")


def test_nested_columns_and_lists_can_be_the_text(hub: Site, tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {"translation": [{"en": "Good day.", "cy": "Dydd da."}], "lines": [["one", "two"]]}
    serve(hub, "someone/tales", {"a.parquet": parquet(columns)})
    assert Fetched(tmp_path / "1", "hf:someone/tales:translation.cy").texts == ["Dydd da."]
    assert Fetched(tmp_path / "2", "hf:someone/tales:lines").texts == ["one\ntwo"]
    assert Fetched(tmp_path / "3", "hf:someone/tales", text_fields=("translation.en", "lines")).texts == [
        "Good day.\n\none\ntwo"
    ]


def test_a_wrong_column_lists_those_there_are(hub: Site, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        Fetched(tmp_path, "hf:someone/tales:story")
    assert caught.value.message == "hf:someone/tales has no column 'story'; its columns are text."
    assert caught.value.hint == "Name one that is there: gptcli fetch hf:someone/tales:text"


def test_a_data_set_without_text_lists_its_columns(hub: Site, tmp_path: Path) -> None:
    serve(hub, "someone/tales", {"a.parquet": parquet({"label": [1], "score": [5]})})
    with pytest.raises(
        SourceError, match=r"hf:someone/tales: no column looks like text; its columns are label, score\."
    ):
        Fetched(tmp_path, "hf:someone/tales")


def test_files_without_rows_and_texts_that_begin_late_are_read(hub: Site, tmp_path: Path) -> None:
    import pyarrow as pa

    nothing = pa.array([], pa.string())
    late = pa.array([None] * 100 + ["At last."], pa.string())
    serve(hub, "someone/tales", {"a.parquet": parquet({"text": nothing}), "b.parquet": parquet({"text": late})})
    fetched = Fetched(tmp_path, "hf:someone/tales")
    assert fetched.texts == ["At last."]
    assert fetched.source.dropped == {"rows without text": 100}


def test_the_card_says_which_files_are_which(hub: Site, tmp_path: Path) -> None:
    files = {
        "en/part-0.parquet": parquet({"text": ["English."]}),
        "cy/part-0.parquet": parquet({"text": ["Cymraeg."]}),
        "cy/held-out.parquet": parquet({"text": ["Hidden."]}),
    }
    card = {
        "configs": [
            {"config_name": "en", "data_files": "en/*.parquet"},
            {
                "config_name": "cy",
                "default": True,
                "data_files": [
                    {"split": "test", "path": "cy/held-out.parquet"},
                    {"split": "train", "path": ["cy/part-*"]},
                ],
            },
        ]
    }
    serve(hub, "someone/tales", files, card=card)
    fetched = Fetched(tmp_path / "1", "hf:someone/tales")
    assert fetched.texts == ["Cymraeg."]
    assert fetched.source.notes[1] == (
        "Of the configurations of someone/tales this is cy; gptcli fetch hf:someone/tales/en reads another (en). "
        "The split train of someone/tales is read; left alone with their files: test (1)."
    )
    assert Fetched(tmp_path / "2", "hf:someone/tales/en").texts == ["English."]
    assert Fetched(tmp_path / "3", "hf:someone/tales/cy/held-out.parquet").texts == ["Hidden."]
    with pytest.raises(SourceError, match=r"has no configuration, folder or file called 'de'; it has cy, en\."):
        Fetched(tmp_path / "4", "hf:someone/tales/de")


def test_what_the_hub_has_converted_stands_in(hub: Site, tmp_path: Path) -> None:
    serve(hub, "someone/tales", {"tales.py": b"a loading script", "README.md": b"#"})
    converted = {
        "plain/partial-train/0000.parquet": parquet({"text": ["Converted."]}),
        "plain/test/0000.parquet": parquet({"text": ["Test."]}),
        "other/train/0000.parquet": parquet({"text": ["Other."]}),
        "default/train/0000.parquet": parquet({"text": ["Default."]}),
    }
    serve(hub, "someone/tales", converted, revision="refs/convert/parquet", commit="fedcba9876543210")
    fetched = Fetched(tmp_path / "1", "hf:someone/tales/plain")
    assert fetched.texts == ["Converted."]
    assert fetched.source.notes[0] == "someone/tales is read as of commit fedcba987654."
    assert "those are read that the hub has made of it. They hold only the first part of it." in fetched.source.notes[1]
    assert any("/revision/refs%2Fconvert%2Fparquet" in path for path in hub.asked)
    assert Fetched(tmp_path / "2", "hf:someone/tales").texts == ["Default."]


def test_files_of_other_kinds_are_read_where_there_is_no_parquet(hub: Site, tmp_path: Path) -> None:
    lines = "".join(json.dumps({"story": tale, "id": number}) + "\n" for number, tale in enumerate(TALES))
    serve(hub, "someone/tales", {"README.md": b"#", "train.jsonl": lines.encode(), "valid.jsonl": b"{}\n"})
    fetched = Fetched(tmp_path, "hf:someone/tales:story", limit_bytes=100)
    assert fetched.texts == TALES[:2]
    assert {item.licence for item in fetched.items} == {""}


def test_a_data_set_of_pictures_says_what_it_has(hub: Site, tmp_path: Path) -> None:
    serve(hub, "someone/tales", {f"{name}.png": b"\x89PNG" for name in "abcde"})
    with pytest.raises(SourceError) as caught:
        Fetched(tmp_path, "hf:someone/tales")
    assert caught.value.message == (
        "The data set someone/tales has no parquet files and no others that can be read; "
        "it has a.png, b.png, c.png and 2 more."
    )


@pytest.mark.parametrize("status", [404, 401])
def test_an_unknown_data_set_is_told(hub: Site, tmp_path: Path, status: int) -> None:
    hub.pages["/api/datasets/someone/tails"] = Page(status=status)
    with pytest.raises(
        SourceError, match=r"^There is no data set called 'someone/tails' on 127\.0\.0\.1, or it is not"
    ):
        Fetched(tmp_path, "hf:someone/tails")
    with pytest.raises(SourceError, match="called 'someone/tales' with a revision 'v9' on"):
        Fetched(tmp_path, "hf:someone/tales@v9")


@pytest.mark.parametrize(("token", "said"), [("", "HF_TOKEN is not set"), ("hf_abc", "the token in HF_TOKEN does not")])
def test_a_gated_data_set_says_what_opens_it(
    hub: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str, said: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    for path in [path for path in hub.pages if "/resolve/" in path]:
        hub.pages[path] = Page(status=403)
    with pytest.raises(SourceError) as caught:
        Fetched(tmp_path, "hf:someone/tales")
    assert caught.value.message.startswith("The data set someone/tales is gated: its terms have to be accepted, and ")
    assert said in caught.value.message
    assert "https://huggingface.co/datasets/someone/tales" in caught.value.hint
    assert "hf_abc" not in caught.value.message + caught.value.hint


def test_the_token_goes_to_the_hub_alone_and_is_kept_nowhere(
    hub: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    serve(
        hub,
        "someone/tales",
        {"a.parquet": parquet({"text": TALES})},
        cdn=hub.url.replace("127.0.0.1", "localhost"),
    )
    assert Fetched(tmp_path, "hf:someone/tales").texts == TALES
    for path, headers in hub.requests:
        assert headers.get("Authorization", "") == ("" if path.startswith("/cdn/") else "Bearer hf_secret")
    kept = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert kept
    assert not any(b"hf_secret" in body for body in kept)


@pytest.mark.parametrize("token", ["two words", "hf_ü"])
def test_a_token_that_is_none_is_told(hub: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(SourceError, match="HF_TOKEN is no token"):
        Fetched(tmp_path, "hf:someone/tales")


def test_a_mirror_is_asked_instead(hub: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert Fetched(tmp_path, "hf:someone/tales", mirror=f"{hub.url}/").texts == TALES


@pytest.mark.parametrize(("path", "body"), [("", b"[1]"), (f"/tree/{COMMIT}", b'{"error": "no"}')])
def test_what_is_no_hub_is_told(hub: Site, tmp_path: Path, path: str, body: bytes) -> None:
    hub.pages[f"/api/datasets/someone/tales{path}{'?recursive=true' if path else ''}"] = Page(body)
    with pytest.raises(SourceError, match=r"does not answer as the hub does: a (list|dict) was not expected"):
        Fetched(tmp_path, "hf:someone/tales")


def test_a_file_that_cannot_be_had_is_missing_with_those_after_it(hub: Site, tmp_path: Path) -> None:
    second = f"/cdn/someone/tales/{COMMIT}/data/train-00001-of-00003.parquet"
    page = hub.pages[second]
    hub.pages[second] = Page(status=503)
    fetched = Fetched(tmp_path, "hf:someone/tales")
    assert fetched.texts == TALES[:3]
    assert [missing.what for missing in fetched.source.missing] == ["data/train-00001-of-00003.parquet", "1 more file"]
    assert "503" in fetched.source.missing[0].why
    hub.pages[second] = page
    hub.requests.clear()
    again = Fetched(tmp_path, "hf:someone/tales")
    assert (again.texts, again.source.missing) == (TALES, [])
    assert downloads(hub) == ["train-00001-of-00003.parquet", "train-00002-of-00003.parquet"]
    assert not any("/api/" in path for path in hub.asked)


def test_a_first_file_that_cannot_be_had_is_an_error(hub: Site, tmp_path: Path) -> None:
    hub.pages[f"/cdn/someone/tales/{COMMIT}/data/train-00000-of-00003.parquet"] = Page(status=503)
    with pytest.raises(FetchError, match="503"):
        Fetched(tmp_path, "hf:someone/tales")


def test_a_damaged_file_is_missing_unless_it_is_the_first(hub: Site, tmp_path: Path) -> None:
    good = parquet({"text": TALES})
    half = good[:40] + b"\xff" * 40 + good[80:]
    serve(hub, "someone/tales", {"a.parquet": good, "b.parquet": b"PAR1 no", "c.parquet": half, "d.parquet": good})
    fetched = Fetched(tmp_path / "1", "hf:someone/tales")
    assert fetched.texts == TALES * 2
    assert [missing.what for missing in fetched.source.missing] == ["b.parquet", "c.parquet"]
    assert all("is damaged: " in missing.why for missing in fetched.source.missing)
    serve(hub, "someone/tales", {"b.parquet": b"PAR1 no"})
    with pytest.raises(SourceError, match=r"b\.parquet is damaged: "):
        Fetched(tmp_path / "2", "hf:someone/tales")


def test_a_later_file_without_the_column_is_missing(hub: Site, tmp_path: Path) -> None:
    files = {"a.parquet": parquet({"text": TALES}), "b.parquet": parquet({"words": ["x"]})}
    serve(hub, "someone/tales", files)
    fetched = Fetched(tmp_path, "hf:someone/tales")
    assert fetched.texts == TALES
    assert fetched.source.missing[0].why == "hf:someone/tales has no column 'text'; its columns are words."


def test_killed_and_run_again_nothing_is_asked_for_twice(hub: Site, tmp_path: Path) -> None:
    program = f"""
        import os, signal
        from pathlib import Path
        from gptcli.fetch.hub import open_hub
        from gptcli.fetch.options import FetchOptions
        from gptcli.fetch.web import Web

        options = FetchOptions(delay=0.0)
        with Web(Path({str(tmp_path)!r}) / "corpora" / "tales", "hf:someone/tales", options) as web:
            for number, item in enumerate(open_hub("hf:someone/tales", web, options).documents):
                if number == 4:
                    os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, timeout=60, env=os.environ)
    assert killed.returncode == -signal.SIGKILL
    assert downloads(hub) == [f"train-0000{n}-of-00003.parquet" for n in range(2)]
    hub.requests.clear()
    resumed = Fetched(tmp_path, "hf:someone/tales", finish=True)
    assert downloads(hub) == ["train-00002-of-00003.parquet"]
    assert resumed.requests == len(hub.requests) == 2  # the hub's redirect and the file
    assert resumed.items == Fetched(tmp_path / "other", "hf:someone/tales").items
    hub.requests.clear()
    offline = Fetched(tmp_path, "hf:someone/tales", offline=True)
    assert (offline.items, hub.requests) == (resumed.items, [])


def test_the_plan_says_how_much_it_is_and_downloads_nothing(hub: Site, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "hf:someone/tales:text")
    (step,) = plan.steps
    assert re.fullmatch(
        r"download 3 files of someone/tales, .+B, and read the column text of one after the other", step
    )
    assert (plan.requests, plan.seconds) == (3, None)
    assert plan.bytes is not None
    assert plan.bytes > 1000
    limited = plan_of(tmp_path, "hf:someone/tales", limit_bytes=10_000)
    assert limited.steps[1] == "end after 10,000 bytes of text"
    assert (limited.requests, limited.bytes) == (None, None)
    assert downloads(hub) == []


def test_memory_stays_flat_over_large_files(hub: Site, tmp_path: Path) -> None:
    import pyarrow as pa

    def rows() -> Iterator[str]:
        for number in range(30_000):
            yield f"{number} " + "Once upon a time there was a princess. " * 30

    serve(hub, "someone/tales", {"a.parquet": parquet({"text": list(rows())}, row_group_size=1000)})
    settings = FetchOptions(delay=0.0)
    with Web(tmp_path / "corpora" / "tales", "hf:someone/tales", settings) as web:
        source = open_hub("hf:someone/tales", web, settings)
        pa.default_memory_pool().release_unused()
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        count = arrow = 0
        for _ in source.documents:
            count += 1
            arrow = max(arrow, pa.total_allocated_bytes() - before)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert count == 30_000  # 35 MB of text
    assert peak < 8_000_000
    assert arrow < 8_000_000
    assert len(source.fetched_at) < 100
