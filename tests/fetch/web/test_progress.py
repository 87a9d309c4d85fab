from __future__ import annotations

import pytest

from gptcli.fetch.web.progress import Progress, clock, megabytes


def test_progress_tells_counts_bytes_and_time_left() -> None:
    progress = Progress(60, "posts")
    for _ in range(12):
        progress.step(0.5, asked=True)
    assert progress.line(1_234_567) == "post 12 of 60, 1.2 MB, about 0:24 left"


def test_only_addresses_that_were_asked_for_tell_how_long_the_others_take() -> None:
    progress = Progress(100, "entries")
    for _ in range(50):
        progress.step(0.0, asked=False)
    assert progress.line(0) == "entry 50 of 100, 0 kB"
    progress.step(2.0, asked=True)
    assert progress.line(2500) == "entry 51 of 100, 2 kB, about 1:38 left"


def test_without_a_total_there_is_no_time_left() -> None:
    progress = Progress()
    progress.step(1.0, asked=True)
    assert progress.line(2_000_000_000) == "page 1, 2,000 MB"


def test_more_than_expected_is_told_as_it_is() -> None:
    progress = Progress(1, "files")
    for _ in range(2):
        progress.step(1.0, asked=True)
    assert progress.line(0) == "file 2 of 2, 0 kB"


@pytest.mark.parametrize(("seconds", "expected"), [(0.4, "0:00"), (59.6, "1:00"), (3725, "1:02:05")])
def test_times_are_clock_times(seconds: float, expected: str) -> None:
    assert clock(seconds) == expected


@pytest.mark.parametrize(("size", "expected"), [(999, "1 kB"), (1_500_000, "1.5 MB"), (12_400_000, "12 MB")])
def test_sizes_are_rounded(size: int, expected: str) -> None:
    assert megabytes(size) == expected
