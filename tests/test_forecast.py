"""A plan with its time and its largest batch, for this machine and for cards that are elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gptcli.config import ModelConfig, RunProfile, TrainConfig
from gptcli.dry_run import Missing, memory_at, plan_training, settle
from gptcli.forecast import ASSUMED_MFU, SPARE, largest_batch, plan_run, with_rows
from gptcli.places import Place, find_place, place_here
from gptcli.plan import flops_per_token
from gptcli.shards import TokenDataset

OPENWEBTEXT = Missing("openwebtext", "gpt2", "gptcli prepare openwebtext")
SHAPE: dict[str, Any] = {"family": "gpt2", "n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 1024}
GPT2 = RunProfile(model=ModelConfig(**SHAPE), train=TrainConfig(batch_size=12, grad_accum_steps=40, optimizer="adamw"))


def place(word: str, memory: float | None = None) -> Place:
    found = find_place(GPT2.train, word)
    return found if memory is None else replace(found, memory=int(memory))


def test_gpt2_is_planned_for_a_card_elsewhere_without_a_corpus() -> None:
    facts = plan_run(GPT2, OPENWEBTEXT, place("A100"))
    assert (facts["n_params"], facts["vocab_size"]) == (124_337_664, 50_257)
    assert facts["tokens_per_step"] == 12 * 40 * 1024
    assert facts["tokens_per_parameter"] == pytest.approx(facts["tokens_seen"] / 124_337_664)
    assert (facts["train_tokens"], facts["epochs"]) == (None, None)
    assert "gptcli prepare openwebtext" in facts["unknown"][0]
    flops = flops_per_token(settle(GPT2, OPENWEBTEXT)[0].model)
    assert facts["step_seconds"] == pytest.approx(facts["tokens_per_step"] * flops / (ASSUMED_MFU * 312e12))
    assert (facts["evaluation_seconds"], len(facts["unknown"])) == (None, 2)
    assert "evaluation_seconds, which the time is without" in facts["unknown"][1]
    assert facts["seconds"] == pytest.approx(1000 * facts["step_seconds"])
    assert "35% of the 312 TFLOP/s" in facts["time_source"]
    assert facts["warnings"] == []


def test_evaluations_of_so_many_tokens_are_reckoned_by_their_arithmetic() -> None:
    profile = GPT2.model_copy(update={"train": GPT2.train.model_copy(update={"eval_tokens": 10**6})})
    facts = plan_run(profile, OPENWEBTEXT, place("A100"))
    scored = -(-1000 // profile.train.eval_interval) * 10**6
    assert facts["evaluation_seconds"] == pytest.approx(scored / facts["tokens_per_second"] / 3)
    assert facts["seconds"] == pytest.approx(1000 * facts["step_seconds"] + facts["evaluation_seconds"])
    assert len(facts["unknown"]) == 1


def test_weights_in_parts_are_planned_as_those_of_one_process_and_it_is_said() -> None:
    profile = GPT2.model_copy(update={"train": GPT2.train.model_copy(update={"parallel": "fsdp"})})
    assert "--nproc shares it" in plan_training(profile, OPENWEBTEXT, place("A100"))["unknown"][-1]


def test_a_vocabulary_that_nobody_knows_yet_is_taken_to_be_large_and_said_to_be_unknown() -> None:
    for tokenizer, size, said in (("bpe:512", 512, 1), ("gpt2", 50_257, 1), ("auto", 8192, 2), ("char", 256, 2)):
        facts = plan_training(GPT2, Missing("book", tokenizer, "gptcli prepare book"), place("A100"))
        assert (facts["vocab_size"], len(facts["unknown"])) == (size, said)


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    resolved, _ = settle(GPT2, OPENWEBTEXT)
    for card, gigabytes in (("RTX 3070", 6.0), ("H100", 40.0)):
        there = place(card, gigabytes * 1e9)
        rows = largest_batch(resolved, there)
        least, more = (memory_at(with_rows(resolved, count), there).peak for count in (rows, rows + 1))
        assert least <= (1 - SPARE) * gigabytes * 1e9 < more


def test_memory_for_no_batch_at_all_is_said_with_what_would_fit() -> None:
    resolved, _ = settle(GPT2, OPENWEBTEXT)
    one = memory_at(with_rows(resolved, 1), place("A100")).peak
    thrifty = memory_at(with_rows(resolved, 1, gradient_checkpointing=True), place("A100")).peak
    facts = plan_run(GPT2, OPENWEBTEXT, place("A100"), memory=(one + thrifty) // 2 * 10 // 9)
    assert facts["largest_batch_size"] == 0
    assert "--set gradient_checkpointing=true takes" in facts["warnings"][0]
    facts = plan_run(GPT2, OPENWEBTEXT, place("A100"), memory=10**9)
    assert "not even batch_size 1 fits 1.0 GB" in facts["warnings"][0]
    assert "A smaller model would" in facts["warnings"][0]


def test_a_run_that_does_not_fit_is_warned_of_with_a_batch_that_does() -> None:
    facts = plan_run(GPT2, OPENWEBTEXT, place("RTX 3070"))
    assert facts["memory_peak"] > facts["device_memory"]
    assert 0 < facts["largest_batch_size"] < 12
    assert "--set batch_size=1" in facts["warnings"][0]


def test_neither_time_nor_batch_are_made_up_for_a_card_that_nobody_knows() -> None:
    facts = plan_run(GPT2, OPENWEBTEXT, place("cuda:99"))
    assert (facts["seconds"], facts["step_seconds"], facts["largest_batch_size"]) == (None, None, None)
    assert "not known" in facts["time_source"]


def test_steps_are_timed_here_and_evaluations_reckoned(tiny_profile: RunProfile, tiny_dataset: TokenDataset) -> None:
    facts = plan_run(tiny_profile, tiny_dataset, place_here(tiny_profile.train))
    assert facts["step_seconds"] > 0
    assert facts["tokens_per_second"] == pytest.approx(64 / facts["step_seconds"])
    # Three evaluations by what the forward passes of a step took.
    scored = 3 * facts["val_tokens"]
    assert 0 < facts["evaluation_seconds"] < scored / facts["tokens_per_second"]
    assert facts["seconds"] == pytest.approx(12 * facts["step_seconds"] + facts["evaluation_seconds"])
    assert facts["time_source"] == "20 steps timed on this machine"


def test_a_part_of_a_step_is_timed_where_the_whole_is_too_much(tiny_profile: RunProfile) -> None:
    train = tiny_profile.train.model_copy(update={"grad_accum_steps": 1000})
    profile = tiny_profile.model_copy(update={"train": train})
    facts = plan_run(profile, Missing("book", "char", "gptcli prepare book"), place_here(profile.train))
    assert facts["time_source"] == "20 steps of 4 x 16 timed on this machine"


@pytest.mark.parametrize(("own", "asked"), [(10**6, None), (10**6, 8 * 10**12), (None, 10**6), (10**12, 10**6)])
def test_no_step_is_timed_that_takes_more_than_there_is_or_more_than_was_asked_for(
    tiny_profile: RunProfile, own: int | None, asked: int | None
) -> None:
    said: list[str] = []
    here = replace(place_here(tiny_profile.train, "cpu"), memory=own)
    facts = plan_run(tiny_profile, OPENWEBTEXT, here, memory=asked, on_progress=said.append)
    assert (facts["seconds"], said) == (None, [])
    assert facts["time_source"] == "not known: the model does not fit 1 MB, so no step was timed"
    assert (facts["largest_batch_size"] == 0) == (asked != 8 * 10**12)


def test_memory_that_was_asked_for_is_what_the_batch_is_planned_for(tiny_profile: RunProfile) -> None:
    book = Missing("book", "char", "gptcli prepare book")
    here = replace(place_here(tiny_profile.train, "cpu"), memory=10**9)
    more = plan_run(tiny_profile, book, here, memory=2 * 10**9)
    assert (more["machine_memory"], more["warnings"]) == (2 * 10**9, [])
    assert more["largest_batch_size"] > plan_run(tiny_profile, book, here)["largest_batch_size"]
    assert more["seconds"] > 0
    (less,) = plan_run(GPT2, OPENWEBTEXT, place("A100"), memory=10**10)["warnings"]
    assert "and what is planned for has 10.0" in less
