from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptcli.documents import Document
from gptcli.errors import CorpusError, FormatError, SourceError
from gptcli.fetch.audio import open_audio
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.source import Source
from tests.fetch.recordings import noise, save_wav, silence, tone
from tests.fetch.tiny_whisper import save_tiny_whisper

STORY = [(0.0, 2.0, " Chapter one. It was dark."), (2.0, 3.0, " It rained."), (6.0, 7.0, " A new day broke.")]
STORY_TEXT = "Chapter one. It was dark. It rained.\n\nA new day broke."


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that tells the same short story, whatever it hears."""
    return str(save_tiny_whisper(tmp_path_factory.mktemp("story"), STORY))


@pytest.fixture(scope="module")
def thanks(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that hears no speech and thanks for watching, as the real one does."""
    return str(
        save_tiny_whisper(tmp_path_factory.mktemp("thanks"), [(0.0, 2.0, " Thanks for watching!")], speech=False)
    )


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Three recordings whose names do not sort as their numbers do."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    for name, hertz in (("Chapter 10", 500), ("Chapter 9", 400), ("Chapter 1", 300)):
        save_wav(folder / f"{name}.wav", tone(hertz, 8.0))
    return folder


class Fetched:
    """What came of opening recordings and reading their documents; the corpus lies beside the recordings."""

    def __init__(self, paths: Sequence[Path], whisper: str, **options: Any) -> None:  # noqa: ANN401
        self.said: list[str] = []
        self.folder = paths[0].parent.parent / "corpora" / "shelf"
        self.source: Source = open_audio(
            [(path, path.name) for path in paths],
            "shelf",
            "shelf",
            self.folder,
            FetchOptions(**{"whisper": whisper, "vad": False, **options}),
            self.said.append,
        )

    def read(self) -> list[Document]:
        return list(self.source.documents)

    @property
    def transcripts(self) -> dict[str, dict[str, Any]]:
        found = [json.loads(path.read_bytes()) for path in (self.folder / "raw" / "transcripts").glob("*.json")]
        return {transcript["file"]: transcript for transcript in found}


def test_recordings_are_documents_in_the_order_of_their_numbers(shelf: Path, story: str) -> None:
    fetched = Fetched(sorted(shelf.iterdir()), story)
    items = fetched.read()
    assert [item.title for item in items] == ["Chapter 1", "Chapter 9", "Chapter 10"]
    assert {(item.text, item.language) for item in items} == {(STORY_TEXT, "en")}
    assert (fetched.source.kind, fetched.source.drops_lines, fetched.source.missing) == ("audio", True, [])
    assert fetched.source.notes == ["The language was detected: en (3 recordings). Pass --language to insist on one."]
    assert any(said.startswith("recording 2 of 3: Chapter 9.wav, 0:02 of 0:08, ") for said in fetched.said)


def test_a_transcript_keeps_what_was_heard_and_how_sure_that_is(shelf: Path, story: str) -> None:
    fetched = Fetched([shelf / "Chapter 1.wav"], story)
    fetched.read()
    (transcript,) = fetched.transcripts.values()
    assert (transcript["format_version"], transcript["seconds"], transcript["language"]) == (1, 8.0, "en")
    assert [(item["start"], item["end"], item["text"]) for item in transcript["segments"]] == STORY
    assert all(item["avg_logprob"] > -0.1 and item["no_speech_prob"] < 0.1 for item in transcript["segments"])
    assert all(item["compression_ratio"] > 0 for item in transcript["segments"])
    assert transcript["dropped"] == []
    assert [path.name[:8] for path in fetched.folder.rglob("*.json")] == [transcript["sha256"][:8]]


def test_sentences_are_dropped_when_the_transcript_is_read_and_told(shelf: Path, story: str) -> None:
    before = Fetched(sorted(shelf.iterdir()), story)
    before.read()
    fetched = Fetched(sorted(shelf.iterdir()), story, drop_lines=("^Chapter", "xyz"))
    assert {item.text for item in fetched.read()} == {"It was dark. It rained.\n\nA new day broke."}
    assert +fetched.source.dropped == {"lines with ^Chapter": 3}
    assert fetched.source.notes[1:] == [
        '--drop-lines ^Chapter removed 3 sentences: "Chapter one.", "Chapter one.", "Chapter one.".',
        "--drop-lines xyz is found in no sentence.",
    ]
    assert not any("recording" in said or "loading" in said for said in fetched.said[1:])  # nothing was heard again
    assert fetched.transcripts == before.transcripts


def test_another_model_or_language_makes_another_transcript(shelf: Path, story: str) -> None:
    paths = [shelf / "Chapter 1.wav"]
    items = Fetched(paths, story, language="de").read()
    assert [item.language for item in items] == ["de"]
    Fetched(paths, story).read()
    assert len(list((shelf.parent / "corpora").rglob("*.json"))) == 2


def test_the_same_model_elsewhere_is_the_same_model(shelf: Path, story: str, tmp_path: Path) -> None:
    Fetched([shelf / "Chapter 1.wav"], story).read()
    moved = shutil.copytree(story, tmp_path / "moved")
    fetched = Fetched([shelf / "Chapter 1.wav"], str(moved))
    fetched.read()
    assert fetched.said == ["looking at 1 recording"]


def test_what_was_finished_before_a_kill_is_not_heard_again(shelf: Path, story: str) -> None:
    program = f"""
        import os, signal
        from pathlib import Path
        from gptcli.fetch.audio import open_audio
        from gptcli.fetch.options import FetchOptions

        def said(line):
            if line.startswith("recording 2 of 3: Chapter 9.wav, 0:03"):
                os.kill(os.getpid(), signal.SIGKILL)

        folder = Path({str(shelf)!r})
        files = [(path, path.name) for path in sorted(folder.iterdir())]
        corpus = folder.parent / "corpora" / "shelf"
        list(open_audio(files, "", "", corpus, FetchOptions(whisper={story!r}, vad=False), said).documents)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    fetched = Fetched(sorted(shelf.iterdir()), story)
    assert list(fetched.transcripts) == ["Chapter 1.wav"]
    resumed = fetched.read()
    assert not any("1 of 3" in said for said in fetched.said)
    assert any("2 of 3" in said for said in fetched.said)
    shutil.rmtree(fetched.folder)
    assert Fetched(sorted(shelf.iterdir()), story).read() == resumed


def test_random_weights_hear_the_same_words_again(shelf: Path, tmp_path: Path) -> None:
    random = str(save_tiny_whisper(tmp_path / "random"))
    fetched = Fetched([shelf / "Chapter 1.wav"], random)
    items = fetched.read()
    assert all(word[0] == "w" and word[1:].isdecimal() for item in items for word in item.text.split())
    assert "the language is probably" in fetched.source.notes[0]
    heard = fetched.transcripts
    shutil.rmtree(fetched.folder)
    assert Fetched([shelf / "Chapter 1.wav"], random).read() == items
    assert fetched.transcripts == heard


def test_voice_detection_works_offline_and_times_stay_those_of_the_recording(shelf: Path, story: str) -> None:
    if shutil.which("espeak-ng") is None:
        pytest.skip("needs espeak-ng, which makes the speech")
    speech = shelf / "speech.wav"
    subprocess.run(["espeak-ng", "-w", str(speech), "It was a dark and stormy night."], check=True, timeout=20)
    import faster_whisper

    spoken = (faster_whisper.decode_audio(str(speech)) * 32767).astype(np.int16)
    save_wav(speech, np.concatenate([silence(5), spoken, silence(5)]))
    fetched = Fetched([speech], story, vad=True)
    assert [item.text for item in fetched.read()] == [STORY_TEXT]
    assert 4.0 < fetched.transcripts["speech.wav"]["segments"][0]["start"] < 5.5


@pytest.mark.parametrize("sound", [noise(2), silence(2)])
def test_nothing_is_heard_in_noise_and_silence(shelf: Path, story: str, sound: np.ndarray[Any, Any]) -> None:
    save_wav(shelf / "noise.wav", sound)
    with pytest.raises(SourceError) as caught:
        Fetched([shelf / "noise.wav"], story, vad=True).read()
    assert caught.value.message == "No speech was recognised in noise.wav."
    assert "--no-vad" in caught.value.hint


def test_a_recording_without_speech_among_others_is_counted(shelf: Path, story: str) -> None:
    paths = [shelf / "Chapter 1.wav", shelf / "Chapter 9.wav"]
    Fetched(paths, story).read()
    (path,) = (path for path in shelf.parent.rglob("*.json") if "Chapter 9" in path.read_text("utf-8"))
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "segments": []}), "utf-8")
    fetched = Fetched(paths, story)
    assert [item.title for item in fetched.read()] == ["Chapter 1"]
    assert +fetched.source.dropped == {"recordings without speech": 1}
    assert "No speech was recognised in 1 recording: Chapter 9.wav." in fetched.source.notes
    assert fetched.source.missing == []


def test_finished_transcripts_need_no_faster_whisper(shelf: Path, story: str, monkeypatch: pytest.MonkeyPatch) -> None:
    items = Fetched([shelf / "Chapter 1.wav"], story).read()
    for name in ("faster_whisper", "av", "ctranslate2"):
        monkeypatch.setitem(sys.modules, name, None)
    assert Fetched([shelf / "Chapter 1.wav"], story).read() == items


def test_what_whisper_makes_up_is_dropped_counted_and_listed(shelf: Path, thanks: str) -> None:
    fetched = Fetched([shelf / "Chapter 1.wav", shelf / "Chapter 9.wav"], thanks)
    assert fetched.read() == []
    assert +fetched.source.dropped == {"phrases that Whisper makes up": 2, "recordings without speech": 2}
    (note,) = (note for note in fetched.source.notes if "doubtful" in note)
    assert note.startswith("Left out: 2 doubtful segments; the transcripts in ")
    assert fetched.transcripts["Chapter 1.wav"]["dropped"] == [
        {"start": 0.0, "end": 2.0, "text": "Thanks for watching!", "why": "phrases that Whisper makes up"}
    ]
    with pytest.raises(SourceError, match=r"in Chapter 1\.wav \(.*\.json lists 1 doubtful segment\)"):
        Fetched([shelf / "Chapter 1.wav"], thanks).read()


def test_a_broken_recording_among_others_is_missing(shelf: Path, story: str) -> None:
    (shelf / "b.mp3").write_bytes(b"It was a dark and stormy night.")
    (shelf / "c.wav").write_bytes(b"")
    fetched = Fetched([shelf / "b.mp3", shelf / "c.wav", shelf / "Chapter 1.wav", shelf / "gone.wav"], story)
    assert [item.title for item in fetched.read()] == ["Chapter 1"]
    assert [missing.what for missing in fetched.source.missing] == ["b.mp3", "c.wav", "gone.wav"]
    assert fetched.source.missing[0].why.startswith("b.mp3 is no sound file that can be read (Invalid data")
    assert fetched.source.missing[2].why == "gone.wav cannot be read (No such file or directory)."


def test_nothing_but_broken_recordings_is_an_error(shelf: Path, story: str) -> None:
    (shelf / "b.mp3").write_bytes(b"text")
    (shelf / "c.wav").write_bytes(b"")
    with pytest.raises(SourceError, match=r"^b\.mp3 is no sound file that can be read"):
        Fetched([shelf / "b.mp3"], story).read()
    with pytest.raises(SourceError, match=r"^None of the 2 recordings can be read\. b\.mp3 is no sound file"):
        Fetched([shelf / "b.mp3", shelf / "c.wav"], story).read()


def test_a_recording_that_is_cut_short_is_told(shelf: Path, story: str) -> None:
    path = shelf / "Chapter 1.wav"
    path.write_bytes(path.read_bytes()[: 2 * 16_000 * 3 + 44])
    fetched = Fetched([path], story)
    length = fetched.source.plan().steps[0]
    fetched.read()
    if length == "1 recording, 0:08 together":  # the reader believes the header or the size of the file
        assert "Chapter 1.wav says that it is 0:08 long, but only 0:03 could be decoded." in fetched.source.notes


def test_the_plan_says_how_long_it_is_which_model_and_what_is_done(shelf: Path, story: str) -> None:
    fetched = Fetched(sorted(shelf.iterdir()), story)
    plan = fetched.source.plan()
    assert plan.steps == ("3 recordings, 0:24 together", f"transcribe with the Whisper model {story}, {HERE}")
    assert (plan.requests, plan.seconds) == (0, None)
    Fetched([shelf / "Chapter 9.wav"], story).read()
    assert fetched.source.plan().steps[1] == "1 of them transcribed before, which is kept"
    fetched.read()
    assert fetched.source.plan().steps == ("3 recordings, 0:24 together", "3 of them transcribed before, which is kept")


HERE = "which is on this machine"


@pytest.mark.parametrize(
    ("whisper", "sentence", "hint"),
    [
        (
            "smal",
            "There is no Whisper model called 'smal', and no folder of that name. The models are tiny, ",
            "small?",
        ),
        ("./nowhere/model", "There is no Whisper model called './nowhere/model'", "--whisper FOLDER"),
        (".", "has no model.bin and no config.json and no tokenizer.json; a Whisper model in", "ct2-transformers-"),
    ],
)
def test_what_is_no_model_is_refused(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, whisper: str, sentence: str, hint: str
) -> None:
    monkeypatch.chdir(shelf)
    with pytest.raises(SourceError) as caught:
        Fetched([shelf / "Chapter 1.wav"], whisper).read()
    assert sentence in caught.value.message
    assert hint in caught.value.hint


def test_a_damaged_model_is_refused(shelf: Path, story: str, tmp_path: Path) -> None:
    damaged = shutil.copytree(story, tmp_path / "damaged")
    (damaged / "model.bin").write_bytes(b"\x06\0\0\0" + b"x" * 1000)
    with pytest.raises(SourceError, match=r"damaged: the Whisper model cannot be read \("):
        Fetched([shelf / "Chapter 1.wav"], str(damaged)).read()


def test_a_model_that_cannot_be_downloaded_is_told_with_what_would_help(shelf: Path, tmp_path: Path) -> None:
    program = """
        from gptcli.errors import SourceError
        from pathlib import Path
        from gptcli.fetch.audio.whisper import choose_whisper, load_whisper

        for offline in (False, True):
            try:
                load_whisper(choose_whisper("turbo"), offline=offline, on_progress=print)
            except SourceError as error:
                print(error.message, error.hint, sep="\\n")
    """
    # The hub's library reads its environment when it is imported.
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        check=True,
        timeout=60,
        env=env,
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    hint = (
        "Connect once, or copy a folder with the model from elsewhere and give it: --whisper FOLDER. "
        "Smaller ones: --whisper tiny (75 MB), base (145 MB), small (484 MB), medium (1,530 MB)."
    )
    assert lines[0] == "downloading the Whisper model large-v3-turbo (about 1,620 MB)"
    assert lines[1].startswith(
        "The Whisper model large-v3-turbo (about 1,620 MB) is not on this machine and cannot be downloaded ("
    )
    model = "The Whisper model large-v3-turbo (about 1,620 MB)"
    assert lines[2:] == [hint, f"{model} is not on this machine and --offline forbids to download it.", hint]


def test_without_faster_whisper_the_extra_is_named(shelf: Path, story: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("faster_whisper", "av", "ctranslate2"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SourceError) as caught:
        Fetched([shelf / "Chapter 1.wav"], story).read()
    assert "faster-whisper, which is not installed" in caught.value.message
    assert caught.value.hint == "pip install 'gptcli[audio]'"


def test_an_unknown_language_is_refused(shelf: Path, story: str) -> None:
    with pytest.raises(SourceError, match="knows no language 'english'; it knows af, am, ar") as caught:
        Fetched([shelf / "Chapter 1.wav"], story, language="english").read()
    assert "--language de" in caught.value.hint


def test_a_pattern_that_is_none_is_refused_before_anything_is_heard(shelf: Path, story: str) -> None:
    with pytest.raises(SourceError, match=r"--drop-lines '\(' is not a regular expression \(missing \)"):
        Fetched([shelf / "Chapter 1.wav"], story, drop_lines=("(",))


def test_a_damaged_transcript_is_not_overwritten(shelf: Path, story: str) -> None:
    fetched = Fetched([shelf / "Chapter 1.wav"], story)
    fetched.read()
    (path,) = fetched.folder.rglob("*.json")
    for damage in (
        path.read_text("utf-8").replace('"seconds": 8.0', '"seconds": "8"'),
        path.read_text("utf-8").replace('"seconds": 8.0', f'"seconds": {10**400}'),
        path.read_text("utf-8").replace('"format_version": 1', '"format_version": 2'),
        path.read_text("utf-8")[:-3],
    ):
        path.write_text(damage, "utf-8")
        with pytest.raises(FormatError, match="the transcript of a recording"):
            Fetched([shelf / "Chapter 1.wav"], story).read()
        assert path.read_text("utf-8") == damage


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
@pytest.mark.parametrize("link", ["raw", "raw/transcripts"])
def test_transcripts_are_not_written_through_a_link_out_of_the_corpus(
    shelf: Path, story: str, tmp_path: Path, link: str
) -> None:
    place = tmp_path / "corpora" / "shelf" / link
    place.parent.mkdir(parents=True)
    (tmp_path / "victim").mkdir()
    place.symlink_to(tmp_path / "victim")
    with pytest.raises(FormatError, match="this is a symbolic link that leads out of"):
        Fetched([shelf / "Chapter 1.wav"], story).read()
    assert list((tmp_path / "victim").iterdir()) == []


def test_a_disk_that_takes_no_transcript_is_told(shelf: Path, story: str) -> None:
    fetched = Fetched([shelf / "Chapter 1.wav"], story)
    fetched.folder.mkdir(parents=True)
    (fetched.folder / "raw").write_text("a file where a folder has to be", "utf-8")
    with pytest.raises(CorpusError, match="cannot be written"):
        fetched.read()
