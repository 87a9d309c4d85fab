from __future__ import annotations

from gptcli.chat.page import Step
from gptcli.chat.replies import N_SEEDS, Drawing, Offer, Seeds
from gptcli.config import SampleConfig
from gptcli.sample import Piece


def settings(seed: int, n: int = 1) -> SampleConfig:
    return SampleConfig(seed=seed, num_samples=n)


def test_each_reply_takes_the_next_seed() -> None:
    seeds = Seeds()
    for expected in (7, 8, 9):
        assert seeds.free(7) == expected
        seeds.use(settings(expected))


def test_several_at_once_take_seeds_in_a_row_that_drew_nothing_yet() -> None:
    seeds = Seeds()
    seeds.use(settings(9))
    assert seeds.free(7, 2) == 7
    assert seeds.free(7, 4) == 10
    seeds.use(settings(10, 4))
    assert [seeds.free(7), seeds.free(9), seeds.free(7, 3)] == [7, 14, 14]
    seeds.clear()
    assert seeds.free(9) == 9


def test_seeds_begin_again_behind_the_largest() -> None:
    seeds = Seeds()
    seeds.use(settings(N_SEEDS - 1))
    assert seeds.free(N_SEEDS - 1) == 0


def test_pieces_are_sorted_into_their_replies() -> None:
    drawing = Drawing(settings(3, 2))
    pieces = [Piece(0, "a", 1), Piece(1, "x", 2), Piece(0, "b", 3, "stop"), Piece(1, "", 4)]
    assert list(drawing.follow(iter(pieces))) == pieces
    assert [(reply.text, reply.tokens, reply.finish_reason) for reply in drawing.replies] == [
        ("ab", 2, "stop"),
        ("x", 2, "interrupted"),
    ]
    assert drawing.tokens == 4


def test_each_choice_has_its_own_seed() -> None:
    offer = Offer(Step(), settings(5, 3), Drawing(settings(5, 3)))
    assert offer.settings_of(2) == settings(7)
