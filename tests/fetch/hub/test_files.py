from __future__ import annotations

from typing import Any

import pytest

from gptcli.fetch.hub.files import HubFile, choose_files


def chosen(
    paths: list[str], card: dict[str, Any] | None = None, inside: str = "", *, converted: bool = False
) -> list[str]:
    files = [HubFile(path, 1) for path in paths]
    return [file.path for file in choose_files(files, card or {}, inside, repo="a/b", converted=converted).files]


@pytest.mark.parametrize(
    ("paths", "read"),
    [
        (
            ["data/train-1.parquet", "data/train-0.parquet", "data/test-0.parquet"],
            ["data/train-0.parquet", "data/train-1.parquet"],
        ),
        (["a.parquet", "b.parquet"], ["a.parquet", "b.parquet"]),
        (["all/test/0.parquet", "all/training/0.parquet", "all/dev/0.parquet"], ["all/training/0.parquet"]),
        (
            ["latest.parquet", "contrast.parquet"],
            ["contrast.parquet", "latest.parquet"],
        ),  # words, not letters, name a split
        (["test.parquet"], ["test.parquet"]),  # better than nothing
        ([], []),
    ],
)
def test_without_a_card_names_tell_the_training_split(paths: list[str], read: list[str]) -> None:
    assert chosen(paths) == read


@pytest.mark.parametrize(
    "data_files",
    [
        "x/*.parquet",
        ["x/0.parquet", "x/1.parquet"],
        {"train": "x/*", "test": "y/*"},
        {"split": "train", "path": "./x/**/*.parquet"},
        [{"split": "test", "path": "y/*"}, {"split": "train", "path": ["x/0*", "x/1*", "x/*"]}],
    ],
)
def test_a_card_may_say_it_in_many_ways(data_files: object) -> None:
    card = {"configs": [{"config_name": "any", "data_files": data_files}]}
    assert chosen(["x/0.parquet", "x/1.parquet", "y/0.parquet"], card) == ["x/0.parquet", "x/1.parquet"]


@pytest.mark.parametrize("configs", ["any", [1], [{"data_files": "x"}], [{"config_name": "x", "data_files": 3}], None])
def test_a_card_that_says_nothing_of_use_is_passed_over(configs: object) -> None:
    assert chosen(["x/0.parquet"], {"configs": configs}) == ["x/0.parquet"]


def test_a_folder_can_be_asked_for() -> None:
    paths = ["en/train-0.parquet", "en/test-0.parquet", "cy/train-0.parquet"]
    assert chosen(paths, inside="en/") == ["en/train-0.parquet"]
