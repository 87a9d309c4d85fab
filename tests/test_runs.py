from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from gptcli.chat_template import ChatTemplate
from gptcli.config import DataConfig, RunProfile
from gptcli.errors import CorpusError, FormatError, ProfileError, RunError
from gptcli.fetch.fetching import fetch
from gptcli.metrics import base_val_loss, read_events, truncate_metrics, write_event
from gptcli.prepare import prepare
from gptcli.profiles import build_profile, load_profile
from gptcli.runs import (
    RunDir,
    begin_command,
    change_run,
    check_run_name,
    create_run,
    find_run,
    run_names,
)
from gptcli.shards import TokenDataset, open_dataset
from gptcli.tokenizer import char_tokenizer, save_tokenizer


@pytest.fixture
def run(tmp_path: Path, tiny_dataset: TokenDataset, tiny_profile: RunProfile) -> RunDir:
    return create_run(tiny_profile, profile_name="tiny", dataset=tiny_dataset, runs_dir=tmp_path / "runs", name="r")


def test_a_new_run_holds_the_resolved_profile_the_tokenizer_and_its_dataset(
    run: RunDir, tiny_dataset: TokenDataset
) -> None:
    profile = run.profile()
    assert profile.model.vocab_size == tiny_dataset.manifest.vocab_size
    assert (profile.data.corpus, profile.data.tokenizer, profile.data.split_at) == ("tiny", "char", 0.9)
    assert run.tokenizer().fingerprint == tiny_dataset.manifest.fingerprint
    assert run.manifest() == tiny_dataset.manifest
    assert json.loads(run.environment_path.read_text())["torch"]


def test_runs_without_a_name_are_called_after_corpus_and_profile(
    tmp_path: Path, tiny_dataset: TokenDataset, tiny_profile: RunProfile
) -> None:
    names = [
        create_run(tiny_profile, profile_name="my profile", dataset=tiny_dataset, runs_dir=tmp_path / "runs").name
        for _ in range(2)
    ]
    assert names == ["tiny-my-profile", "tiny-my-profile-2"]


@pytest.mark.parametrize(
    ("profile_name", "name"), [("tiny", "tiny"), ("tiny-5min", "tiny-5min"), ("tinyish", "tiny-tinyish")]
)
def test_a_profile_called_after_its_corpus_does_not_say_it_twice(
    profile_name: str, name: str, tmp_path: Path, tiny_dataset: TokenDataset, tiny_profile: RunProfile
) -> None:
    run = create_run(tiny_profile, profile_name=profile_name, dataset=tiny_dataset, runs_dir=tmp_path / "runs")
    assert run.name == name


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../up", "a b", "-x", "x" * 101])
def test_a_name_that_cannot_be_a_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be a run's name"):
        check_run_name(name, tmp_path)


def test_an_existing_name_says_how_to_go_on(run: RunDir, tiny_dataset: TokenDataset, tiny_profile: RunProfile) -> None:
    with pytest.raises(RunError, match="exists already") as caught:
        create_run(tiny_profile, profile_name="tiny", dataset=tiny_dataset, runs_dir=run.path.parent, name="r")
    assert "gptcli train --resume --run r" in caught.value.hint


def test_the_newest_run_is_found_without_a_name_and_others_by_theirs(
    run: RunDir, tiny_dataset: TokenDataset, tiny_profile: RunProfile
) -> None:
    runs_dir = run.path.parent
    other = create_run(tiny_profile, profile_name="tiny", dataset=tiny_dataset, runs_dir=runs_dir, name="other")
    os.utime(other.profile_path, (1, 1))
    assert run_names(runs_dir) == ["r", "other"]
    assert find_run(None, runs_dir).name == "r"
    assert find_run("other", runs_dir) == other
    assert find_run(str(other.path), Path("elsewhere")) == other
    with pytest.raises(RunError, match="no run called 'othr'") as caught:
        find_run("othr", runs_dir)
    assert "Did you mean other" in caught.value.hint
    with pytest.raises(RunError, match="no run in"):
        find_run(None, runs_dir / "none")


def test_only_training_and_sampling_may_change_while_a_run_goes_on_and_nothing_is_written(run: RunDir) -> None:
    before = run.profile_path.read_bytes()
    changed = change_run(run, ["max_steps=99", "sample.temperature=0"])
    assert (changed.train.max_steps, changed.sample.temperature) == (99, 0)
    assert changed.expects.val_loss is None, "what was promised belonged to the old number of steps"
    with pytest.raises(ProfileError, match=r"model\.n_layer, train\.seed, train\.optimizer cannot change") as caught:
        change_run(run, ["n_layer=3", "train.seed=4", "optimizer=adamw"])
    assert caught.value.hint.endswith("gptcli train tiny --run NEW_NAME --set ...")
    with pytest.raises(ProfileError) as caught:
        change_run(run, ["dropoutt=3", "max_iters=4"])
    assert len(caught.value.problems) == 2, "all mistakes at once"
    assert run.profile_path.read_bytes() == before


@pytest.mark.parametrize(("split", "block_size"), [("train", 200_000), ("val", 20_000)])
def test_a_split_without_one_whole_window_is_refused_with_what_would_fit(
    tmp_path: Path, tiny_dataset: TokenDataset, tiny_profile: RunProfile, split: str, block_size: int
) -> None:
    profile = build_profile(tiny_profile.model_dump(mode="json"), [f"block_size={block_size}"])
    with pytest.raises(CorpusError, match=f"The {split} split of 'tiny' has") as caught:
        create_run(profile, profile_name="tiny", dataset=tiny_dataset, runs_dir=tmp_path / "runs")
    fitting = int(re.findall(r"--set block_size=(\d+)", caught.value.hint)[0])
    windows = len(tiny_dataset.val) / fitting
    assert 8 <= windows < 16, "as the diagnosis says"
    assert ("--set split_at=0.8" in caught.value.hint) == (split == "val")
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_a_vocabulary_that_is_not_the_tokenizers_is_refused(
    tmp_path: Path, tiny_dataset: TokenDataset, tiny_profile: RunProfile
) -> None:
    profile = build_profile(tiny_profile.model_dump(mode="json"), ["vocab_size=7"])
    with pytest.raises(ProfileError, match=r"model\.vocab_size is 7, but the tokenizer char"):
        create_run(profile, profile_name="tiny", dataset=tiny_dataset, runs_dir=tmp_path / "runs")


def test_another_tokenizer_in_the_run_is_an_error_that_names_both_fingerprints(run: RunDir) -> None:
    other = char_tokenizer(["abc"], end_of_text=False)
    save_tokenizer(other, run.tokenizer_path)
    with pytest.raises(RunError, match=f"{other.fingerprint}.*{run.manifest().fingerprint}"):
        run.tokenizer()


def test_tokens_that_are_gone_or_changed_are_named(
    run: RunDir, tiny_dataset: TokenDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    value = json.loads(run.dataset_path.read_text())
    run.dataset_path.write_text(json.dumps({**value, "checksum": None, "folder": str(tmp_path / "gone" / "char")}))
    with pytest.raises(CorpusError, match="are gone") as caught:
        run.dataset()
    assert "gptcli prepare tiny --tokenizer char --split-at 0.9" in caught.value.hint
    shutil.copytree(tiny_dataset.folder, tmp_path / "corpora" / "tiny" / "tokens" / "char")
    assert run.dataset().manifest == tiny_dataset.manifest, (
        "the corpora folder of the working directory is looked at too"
    )
    manifest = {**value["manifest"], "corpus_sha256": "0" * 64}
    run.dataset_path.write_text(json.dumps({**value, "checksum": None, "manifest": manifest}))
    with pytest.raises(CorpusError, match="are not those the run 'r' began with"):
        run.dataset()


@pytest.mark.parametrize("given", [True, False])
def test_commands_quote_what_the_files_of_a_run_say(given: bool, run: RunDir, tmp_path: Path) -> None:
    moved = RunDir(run.path.rename(tmp_path / "my $(run)"))
    value = json.loads(moved.dataset_path.read_text())
    manifest = {**value["manifest"], "corpus": "book; touch x", "given_tokenizer": given}
    value |= {"checksum": None, "folder": str(tmp_path / "gone" / "char"), "manifest": manifest}
    moved.dataset_path.write_text(json.dumps(value))
    with pytest.raises(CorpusError, match="are gone") as caught:
        moved.dataset()
    assert "--name 'book; touch x')" in caught.value.hint
    assert "gptcli eval 'my $(run)' --text" in caught.value.hint
    how = "--run 'my $(run)'" if given else "--tokenizer char --split-at 0.9"
    assert f"gptcli prepare 'book; touch x' {how}" in caught.value.hint


def test_the_command_that_begins_a_run_again_is_quoted() -> None:
    profile = build_profile({"data": {"corpus": "book; touch x"}})
    assert begin_command(profile) == "gptcli train 'book; touch x'"
    tuned = build_profile({"data": {"corpus": "book; touch x"}, "finetune": {"base": "b | sh"}})
    assert begin_command(tuned) == "gptcli finetune 'book; touch x' --from 'b | sh'"
    assert begin_command(build_profile({})) == "gptcli train CORPUS"


@pytest.mark.parametrize("corpus", ["../../../../etc", "/etc", "a/b"])
def test_a_run_looks_for_its_corpus_inside_of_the_corpora_alone(corpus: str, run: RunDir) -> None:
    value = json.loads(run.dataset_path.read_text())
    value |= {"checksum": None, "manifest": {**value["manifest"], "corpus": corpus}}
    run.dataset_path.write_text(json.dumps(value))
    for look in (run.dataset, run.documents_path):
        with pytest.raises(FormatError, match=r"dataset\.json: the manifest of the tokens is damaged at 'corpus'"):
            look()


def test_a_run_on_a_corpus_given_by_its_path_names_it_without_and_reads_back(
    tmp_path: Path, tiny_profile: RunProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("To be, or not to be: that is the question. " * 40, "utf-8")
    fetch("text.txt", name="tiny", corpora_dir=tmp_path / "far")
    (tmp_path / "far" / "tiny").rename(tmp_path / "far" / "My book: a test")
    made = prepare("far/My book: a test", DataConfig(tokenizer="char", split_at=0.9))
    run = create_run(tiny_profile, profile_name="tiny", dataset=open_dataset(made.folder), name="r")
    assert RunDir(run.path).profile().data.corpus == run.manifest().corpus == "My book: a test"
    assert run.dataset().folder == made.folder.resolve()
    assert begin_command(run.profile()) == "gptcli train 'My book: a test'"


def test_tokens_of_another_split_are_not_the_runs_own(run: RunDir, tiny_dataset: TokenDataset) -> None:
    value = json.loads(run.dataset_path.read_text())
    value["manifest"]["train"]["shards"][0]["sha256"] = "0" * 64
    run.dataset_path.write_text(json.dumps({**value, "checksum": None}))
    with pytest.raises(CorpusError, match="train split, cut by the text is cut at character"):
        run.dataset()


@pytest.mark.parametrize("name", ["tokenizer.json", "dataset.json"])
@pytest.mark.parametrize("content", [None, "", "[]", '{"format_version": 1}', '{"format_version": 1, "kind": "char"'])
def test_damaged_file_of_a_run_is_to_be_restored(run: RunDir, name: str, content: str | None) -> None:
    if content is None:
        (run.path / name).unlink()
    else:
        (run.path / name).write_text(content, "utf-8")
    with pytest.raises(FormatError, match=name) as caught:
        run.tokenizer()
    assert caught.value.hint == "Restore the file from a copy of the run."


@pytest.mark.parametrize("folder", ["b" * 5000, "/" + "a/" * 5000, "/x\0y", "gone/.."])
def test_a_folder_that_cannot_be_is_gone(folder: str, run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.path)
    value = json.loads(run.dataset_path.read_text())
    run.dataset_path.write_text(json.dumps({**value, "checksum": None, "folder": folder}))
    with pytest.raises(CorpusError, match="are gone"):
        run.dataset()
    assert run.documents_path() is None


@pytest.mark.parametrize("folder", ["", "/"])
def test_a_folder_without_a_name_holds_no_tokens(folder: str, run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.path)
    value = json.loads(run.dataset_path.read_text())
    run.dataset_path.write_text(json.dumps({**value, "checksum": None, "folder": folder}))
    with pytest.raises(CorpusError, match="There are no tokens in"):
        run.dataset()


@pytest.mark.parametrize("content", ['{"format_version": 1}', '{"format_version": 1, "folder": 3, "manifest": {}}'])
def test_a_damaged_dataset_file_is_named(run: RunDir, content: str) -> None:
    run.dataset_path.write_text(content)
    with pytest.raises(FormatError, match=r"dataset\.json"):
        run.dataset()


def test_metrics_after_the_checkpoint_and_a_torn_line_are_dropped(run: RunDir) -> None:
    lines = [{"event": "step_logged", "step": n} for n in (1, 2, 3)] + [{"event": "run_finished", "step": 2}]
    run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"event": "st')
    truncate_metrics(run.metrics_path, 2, {})
    assert [json.loads(line)["step"] for line in run.metrics_path.read_text().splitlines()] == [1, 2]


@pytest.mark.parametrize(
    "line", ["5", "[]", "null", '"run_finished"', "[" * 100_000, '{"event": [], "step": "x"}', "{", "\ufffd"]
)
def test_a_damaged_last_line_of_the_metrics_is_no_end_and_no_trouble(line: str, run: RunDir) -> None:
    finished = json.dumps({"event": "run_finished", "step": 1, "reason": "completed"})
    evaluated = json.dumps({"event": "evaluated", "step": 0, "val_loss": 2.5})
    run.metrics_path.write_text(f"{finished}\n")
    ended = run.has_ended
    run.metrics_path.write_text(f'{evaluated}\n{finished}\n{line} "evaluated"\n{line}\n', "utf-8")
    assert (ended, run.has_ended) == (True, False)
    assert base_val_loss(run.metrics_path) == 2.5
    run.metrics_path.write_text(f'["evaluated"]\n{evaluated}\n{line}\n', "utf-8")
    assert base_val_loss(run.metrics_path) == 2.5
    run.metrics_path.write_text(f"{evaluated}\n{line}\n{evaluated}\n", "utf-8")
    truncate_metrics(run.metrics_path, 2, {})
    assert run.metrics_path.read_text("utf-8") == f"{evaluated}\n{evaluated}\n"


def test_the_profile_of_a_run_is_checked_there_and_may_be_copied_and_changed(run: RunDir, tmp_path: Path) -> None:
    changed = run.profile_path.read_text("utf-8").replace("n_layer: 1", "n_layer: 3")
    copy = tmp_path / "mine.yaml"
    copy.write_text(changed, "utf-8")
    assert load_profile(copy).model.n_layer == 3
    run.profile_path.write_text(changed, "utf-8")
    with pytest.raises(ProfileError, match="damaged or was changed by hand") as caught:
        run.profile()
    assert "deleting the first line" in caught.value.hint
    run.profile_path.write_text(changed.partition("\n")[2], "utf-8")
    assert run.profile().model.n_layer == 3


def test_lines_of_before_there_were_checksums_stay_when_a_run_goes_on(run: RunDir) -> None:
    run.metrics_path.write_bytes(b'{"event": "evaluated", "step": 0, "val_loss": 4.5}\n')
    with run.metrics_path.open("ab") as file:
        file.write(write_event({"event": "evaluated", "step": 4, "val_loss": 4.0}))
        file.write(b'{"event": "evaluated", "step": 8, "val_loss": 3.0}\n')
    damaged = list[int]()
    assert [event["step"] for event in read_events(run.metrics_path, damaged.append)] == [0, 4]
    assert (damaged, base_val_loss(run.metrics_path)) == ([3], 4.5)


def test_the_dataset_of_a_run_opens(run: RunDir, tiny_dataset: TokenDataset) -> None:
    assert len(run.dataset().train) == len(open_dataset(tiny_dataset.folder).train)


def test_tokens_made_again_for_a_run_are_found_and_named_where_a_name_does_not_say_which(
    run: RunDir, tiny_dataset: TokenDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    value = json.loads(run.dataset_path.read_text())
    manifest = {**value["manifest"], "given_tokenizer": True}
    gone = str(tmp_path / "gone" / "char")
    run.dataset_path.write_text(json.dumps({**value, "checksum": None, "folder": gone, "manifest": manifest}))
    with pytest.raises(CorpusError, match="are gone") as caught:
        run.dataset()
    assert "gptcli prepare tiny --run r" in caught.value.hint
    folder = f"char-{tiny_dataset.manifest.fingerprint[:8]}"
    shutil.copytree(tiny_dataset.folder, tmp_path / "corpora" / "tiny" / "tokens" / folder)
    assert run.dataset().folder.name == folder


def test_a_run_knows_its_chat_template(run: RunDir) -> None:
    assert run.chat_template is None
    value = json.loads(run.dataset_path.read_text())
    value["manifest"]["chat"] = asdict(ChatTemplate(user_start="Q: "))
    for split in ("train", "val"):
        for shard in value["manifest"][split]["shards"]:
            shard["mask_sha256"] = "0" * 64
    run.dataset_path.write_text(json.dumps({**value, "checksum": None}))
    assert RunDir(run.path).chat_template == ChatTemplate(user_start="Q: ")
    with pytest.raises(CorpusError, match="train split"):
        run.dataset()  # without masks they are other tokens


def test_a_finetune_that_cannot_go_on_is_begun_again_as_one(new_finetune: Callable[..., RunDir]) -> None:
    run = new_finetune("tuned", "lora_rank=2")
    with pytest.raises(ProfileError, match=r"finetune\.lora_rank cannot change") as caught:
        change_run(run, ["finetune.lora_rank=4"])
    assert caught.value.hint.endswith("gptcli finetune tiny --from tiny-base --run NEW_NAME --set ...")
    (run.base_path / "base.json").unlink()
    with pytest.raises(RunError) as lost:
        run.base()
    assert lost.value.hint.endswith("gptcli finetune tiny --from tiny-base")
    value = json.loads(run.dataset_path.read_text())
    value["manifest"]["train"]["shards"][0]["sha256"] = "0" * 64
    run.dataset_path.write_text(json.dumps({**value, "checksum": None}))
    with pytest.raises(CorpusError) as changed:
        run.dataset()
    assert changed.value.hint.endswith("Else start a new run: gptcli finetune tiny --from tiny-base")


def test_a_split_too_short_for_any_window_worth_its_name_needs_text(
    tmp_path: Path, tiny_profile: RunProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("abcdefgh " * 40 + "\n\n" + "x y z\n", "utf-8")
    fetch("short.txt", name="short")
    prepared = prepare("short", DataConfig(tokenizer="char", split_at=0.97))
    with pytest.raises(CorpusError, match="The val split of 'short' has") as caught:
        create_run(tiny_profile, profile_name="tiny", dataset=open_dataset(prepared.folder))
    assert caught.value.hint == "Add text, or give val more of it: --set split_at=0.8."


def test_a_run_has_the_index_of_its_tokens_and_is_not_made_without_it(
    run: RunDir, tmp_path: Path, tiny_dataset: TokenDataset, tiny_profile: RunProfile
) -> None:
    index = tiny_dataset.folder / "ngrams.bin"
    assert (run.path / "ngrams.bin").read_bytes() == index.read_bytes()
    folder = tmp_path / "corpora" / "tiny"
    shutil.copytree(tiny_dataset.folder.parent.parent, folder)
    dataset = open_dataset(folder / "tokens" / "char")
    (dataset.folder / "ngrams.bin").write_bytes(index.read_bytes()[:-1])
    with pytest.raises(FormatError, match="are needed") as caught:
        create_run(tiny_profile, profile_name="tiny", dataset=dataset, runs_dir=tmp_path / "runs", name="other")
    assert caught.value.hint.startswith("gptcli prepare tiny --tokenizer char --force")
    assert not (tmp_path / "runs" / "other").exists()


def test_the_documents_of_a_run_are_those_here_and_only_the_very_text(
    run: RunDir, tmp_path: Path, tiny_dataset: TokenDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tiny_dataset.folder.parent.parent / "documents.jsonl"
    assert run.documents_path() == there
    monkeypatch.chdir(tmp_path)
    shutil.copytree(there.parent, tmp_path / "corpora" / "tiny")
    here = Path("corpora/tiny/documents.jsonl")
    assert run.documents_path() == here
    here.write_bytes(here.read_bytes().replace(b"the", b"teh", 1))
    assert run.documents_path() == there
    dataset = json.loads(run.dataset_path.read_text("utf-8"))
    run.dataset_path.write_text(json.dumps({**dataset, "checksum": None, "folder": "/"}), "utf-8")
    assert run.documents_path() is None
