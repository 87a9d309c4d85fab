"""Models that know one text by heart, and a desk for the first of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gptcli.runs import RunDir
from gptcli.writing import WritingModel
from tests.chat.desks import ALPHABET, END, Desk, learned


@pytest.fixture(scope="session")
def backwards() -> WritingModel:
    """Goes on with the alphabet from its end to its beginning."""
    return learned(ALPHABET[::-1], characters=ALPHABET + "ABCDE \n,.:/", name="backwards")


@pytest.fixture(scope="session")
def actor() -> WritingModel:
    """Answers ``ok``, and goes on as the user instead of ending."""
    return learned(
        f"{END}User: hi\nAssistant: ok\nUser: yes\nAssistant: ok\nUser: yes\nAssistant: ok\n",
        characters=ALPHABET + "UA: \n?",
        chat=True,
        name="actor",
    )


@pytest.fixture
def desk(alphabet: WritingModel) -> Desk:
    return Desk(alphabet)


@pytest.fixture
def a_run(tmp_path: Path) -> RunDir:
    """A folder that stands for a run where only its place matters."""
    (tmp_path / "runs" / "parrot").mkdir(parents=True)
    return RunDir(tmp_path / "runs" / "parrot")
