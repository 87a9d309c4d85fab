from __future__ import annotations

import pytest

from gptcli.errors import SourceError
from gptcli.fetch.hub.names import DataSet, hub_name, is_hub, parse_name


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("hf:roneneldan/TinyStories", DataSet("roneneldan/TinyStories")),
        ("hf:roneneldan/TinyStories:text", DataSet("roneneldan/TinyStories", column="text")),
        ("hf:wikimedia/wikipedia/20231101.en:text", DataSet("wikimedia/wikipedia", "main", "20231101.en", "text")),
        ("hf:squad", DataSet("squad")),
        ("hf:a/b@v1.0/data/x.parquet", DataSet("a/b", "v1.0", "data/x.parquet")),
        ("hf://datasets/a/b", DataSet("a/b")),
        ("hf://datasets/a/b@refs%2Fpr%2F1/x", DataSet("a/b", "refs/pr/1", "x")),
        ("https://huggingface.co/datasets/a/b", DataSet("a/b")),
        ("https://huggingface.co/datasets/a/b/", DataSet("a/b")),
        ("https://hf.co/datasets/a/b/tree/main/data", DataSet("a/b", "main", "data")),
        ("https://huggingface.co/datasets/a/b/blob/v2/data/x%20y.parquet", DataSet("a/b", "v2", "data/x y.parquet")),
        ("https://huggingface.co/datasets/a/b/viewer/en/train?row=3", DataSet("a/b", "main", "en")),
    ],
)
def test_a_data_set_has_many_names(where: str, expected: DataSet) -> None:
    assert is_hub(where)
    assert parse_name(where) == expected
    assert hub_name(where) == expected.repo.rpartition("/")[2]


@pytest.mark.parametrize(
    "where",
    [
        "https://huggingface.co/gpt2",
        "https://huggingface.co/datasets",
        "https://huggingface.co/datasets/a/b/resolve/main/x.parquet",
        "https://example.org/datasets/a/b",
        "a/b",
        "book.txt",
        "https://[",
    ],
)
def test_other_addresses_are_no_data_sets(where: str) -> None:
    assert not is_hub(where)


@pytest.mark.parametrize(
    "where", ["hf:", "hf:a b", "hf:../../x", "hf://models/gpt2", "hf:a/b@", "hf:a/b c", "hf::text"]
)
def test_what_cannot_be_a_name_is_refused(where: str) -> None:
    with pytest.raises(SourceError, match="is not the name of a data set"):
        parse_name(where)


def test_the_address_of_ones_own_hub_names_its_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_hub("http://hub.invalid:8080/datasets/a/b")
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid:8080")
    assert is_hub("http://hub.invalid:8080/datasets/a/b")


def test_a_name_is_said_as_it_is_typed() -> None:
    assert parse_name("hf://datasets/a/b@refs%2Fpr%2F1/x:text").name == "hf:a/b@refs%2Fpr%2F1/x"
