"""Every script of ``examples/`` as a person runs it: in an empty folder, by a shell, to its end, and once more.

Sources lie on loopback or on the disk, and profiles of the same names but of a few steps lie in ``./configs``. All else
is what the script says. Whatever is asked of a machine beyond loopback goes to a proxy that refuses it and is noted.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.conftest import SHARED_DATA
from tests.fetch.conftest import Page, Site, site
from tests.fetch.datasette_server import datasette_site
from tests.fetch.gutenberg_samples import ebook
from tests.fetch.hub_server import parquet, serve
from tests.loopback import serving

__all__ = ["site"]
# A script is a dozen processes that import torch.
pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("sh") is None, reason="needs a POSIX shell")]

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
TRAIN = """\
description: {name} cut to a few steps
model: {{n_layer: 1, n_head: 2, n_embd: 32, block_size: 16{shape}}}
data: {{tokenizer: "{tokenizer}"}}
train: {{batch_size: 2, max_steps: 6, warmup_steps: 1, log_interval: 2, eval_interval: 3, save_interval: 3,
        eval_tokens: 400, dtype: float32, compile: false, device: cpu}}
sample: {{max_new_tokens: 8, num_samples: 1}}
"""
TUNE = """\
description: {name} cut to a few steps
finetune: {{lora_rank: {rank}}}
model: {{block_size: 16}}
train: {{batch_size: 2, max_steps: 4, optimizer: adamw, learning_rate: 0.001, warmup_steps: 1, log_interval: 1,
        eval_interval: 2, save_interval: 2, eval_tokens: 200, dtype: float32, compile: false, device: cpu}}
sample: {{max_new_tokens: 8}}
"""
PROFILES = {
    "poirot": "bpe:300",
    "macbook": "auto",
    "laptop-2min": "char",
    "hitchhikers": "bpe:270",
    "rtx3070-openwebtext": "bpe:300",
    "gpt2-124m": "bpe:300",
}
STORY = [
    (0.0, 2.0, " Chapter one. The ship hung in the sky."),
    (2.0, 5.0, " It was made of bricks, and nobody asked why."),
    (8.0, 10.0, " Then somebody asked."),
]


def words(count: int = 60_000) -> str:
    """Real text that every Python carries."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))[:count]


def book(name: str) -> bytes:
    """A book as Project Gutenberg sends it: the real file where it is at hand."""
    real = SHARED_DATA / "gutenberg" / name
    return real.read_bytes() if real.is_file() else ebook(words()).encode()


@dataclass
class Workshop:
    """An empty folder to run a script in; ``beyond`` is what was asked of any machine but this one."""

    folder: Path
    proxy: str
    beyond: list[str] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TMPDIR") if name in os.environ}
        kept["PATH"] = f"{self.folder / 'bin'}{os.pathsep}{kept['PATH']}"
        proxies = {f"{kind}_proxy": self.proxy for kind in ("http", "https", "all")}
        own = {"HOME": self.folder / "home", "HF_HOME": self.folder / "home", "PYTHONPATH": ROOT, "PYTHONUTF8": "1"}
        quick = {"OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_XET": "1", "no_proxy": "127.0.0.1,localhost"}
        return {**kept, **proxies, **{name: str(value) for name, value in own.items()}, **quick}

    def sh(self, *command: object, **variables: object) -> subprocess.CompletedProcess[str]:
        """Run a command of the shell here, with these variables beside the environment."""
        return subprocess.run(
            [str(part) for part in command],
            cwd=self.folder,
            env={**self.environment(), **{name: str(value) for name, value in variables.items()}},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=400,
            check=False,
        )

    def run(self, name: str, **variables: object) -> str:
        """Run a script to its end and once more; returns what it printed, which the second time is not trained for."""
        first = self.sh("sh", EXAMPLES / f"{name}.sh", **variables)
        assert first.returncode == 0, first.stderr
        made = self.trained()
        assert made
        second = self.sh("sh", EXAMPLES / f"{name}.sh", **variables)
        assert second.returncode == 0, second.stderr
        assert self.trained() == made
        assert self.beyond == []
        return first.stdout

    def trained(self) -> dict[str, bytes]:
        """What the runs have learned: the weights of all checkpoints."""
        files = sorted(self.folder.glob("runs/*/checkpoints/*/*.safetensors"))
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in files}

    def holds(self, *names: str) -> bool:
        """Say whether all of these are there, and not empty."""
        paths = [self.folder / name for name in names]
        return all(any(path.iterdir()) if path.is_dir() else path.stat().st_size > 0 for path in paths)


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    """A folder with ``gptcli`` on its path, small profiles in ``configs``, and a proxy that lets nothing through."""
    (tmp_path / "home").mkdir()
    (tmp_path / "configs").mkdir()
    for name, tokenizer in PROFILES.items():
        shape = ", family: gpt2" if name == "gpt2-124m" else ""
        text = TRAIN.format(name=name, tokenizer=tokenizer, shape=shape)
        (tmp_path / "configs" / f"{name}.yaml").write_text(text, "utf-8")
    for name, rank in {"finetune-poirot": 2, "finetune-small": 0}.items():
        (tmp_path / "configs" / f"{name}.yaml").write_text(TUNE.format(name=name, rank=rank), "utf-8")
    command = tmp_path / "bin" / "gptcli"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gptcli "$@"\n', "utf-8")
    command.chmod(0o755)

    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.beyond.append(f"{self.command} {self.path}")
            self.send_error(403)

        do_CONNECT = do_HEAD = do_POST = do_GET  # noqa: N815 - the names that http.server looks for

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serving(Refuses) as proxy:
        made = Workshop(tmp_path, proxy)
        yield made


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of random weights as ``save_pretrained`` leaves it, with a tokenizer of its own."""
    from tests.bases.saved import GPT2, qwen_tokenizer, save_model, save_tokenizer_of_qwen

    folder = tmp_path_factory.mktemp("base")
    save_tokenizer_of_qwen(qwen_tokenizer([words()], 400), folder)
    save_model(GPT2.model_copy(update={"vocab_size": 410, "block_size": 32}), folder)
    return folder


@pytest.fixture
def hub(site: Site) -> Site:
    """A hub that has the first pages of OpenWebText: topics of the Python documentation."""
    from pydoc_data.topics import topics

    files = {"data/train-00000-of-00001.parquet": parquet({"text": [topics[name] for name in sorted(topics)][:40]})}
    serve(site, "Skylion007/openwebtext", files, card={"license": "cc0-1.0"})
    return site


def test_what_goes_beyond_loopback_is_noted(workshop: Workshop) -> None:
    done = workshop.sh("gptcli", "fetch", "http://example.org/book.txt", "--delay", "0")
    assert done.returncode == 1
    assert workshop.beyond


def test_agatha_christie(workshop: Workshop, site: Site, base: Path) -> None:
    site.pages["/8/6/863/863-0.txt"] = Page(book("863-0.txt"))
    mirror = f"--mirror {site.url} --delay 0"
    printed = workshop.run("agatha-christie", FETCH_OPTIONS=mirror, BASE=base)
    assert printed.count("The Affair of the Silver Inkstand") >= 2
    assert workshop.holds("corpora/poirot", "runs/poirot", "runs/poirot-tuned", "loss.png", "report.html", "prompt.txt")


def test_hitchhikers_audiobooks(workshop: Workshop, base: Path) -> None:
    from tests.fetch.recordings import save_wav, tone
    from tests.fetch.tiny_whisper import save_tiny_whisper

    whisper = save_tiny_whisper(workshop.folder / "whisper", STORY)
    (workshop.folder / "audiobooks").mkdir()
    for number in range(1, 6):
        save_wav(workshop.folder / "audiobooks" / f"Chapter {number}.wav", tone(200.0 + number, 30.0 * number))
    listening = f"--language en --whisper {whisper} --no-vad"
    printed = workshop.run("hitchhikers-audiobooks", FETCH_OPTIONS=listening, BASE=base, WRITER=base)
    assert printed.count("What is the answer to life") >= 3 + 5
    transcript = (workshop.folder / "corpora" / "hitchhikers" / "documents.jsonl").read_text("utf-8")
    assert "made of bricks" in transcript
    assert "Chapter one" not in transcript
    assert workshop.holds("runs/hitchhikers", "runs/hitchhikers-tuned", "loss.png", "texts")


def test_shakespeare(workshop: Workshop, site: Site) -> None:
    real = SHARED_DATA / "tinyshakespeare.txt"
    play = workshop.folder / "play.txt"
    play.write_text(real.read_text("utf-8")[:60_000] if real.is_file() else words(), "utf-8")
    site.pages["/1/5/1/1513/1513-0.txt"] = Page(book("1513-0.txt"))
    printed = workshop.run("shakespeare", SOURCE=play, FETCH_OPTIONS=f"--mirror {site.url} --delay 0")
    assert printed.count("ROMEO:") >= 2
    assert (workshop.folder / "corpora" / "book" / "tokens" / "char").is_dir()
    assert workshop.holds("corpora/shakespeare", "corpora/book", "runs/shakespeare", "runs/book", "loss.png")


def test_rtx3070_openwebtext(workshop: Workshop, hub: Site) -> None:
    small = {"LIMIT": "200kB", "BUDGET": "2s", "FETCH_OPTIONS": "--delay 0"}
    printed = workshop.run("rtx3070-openwebtext", HF_ENDPOINT=hub.url, **small)
    assert "Recipe for lasagna:" in printed
    assert "The city council voted" in printed
    assert workshop.holds("corpora/openwebtext", "runs/openwebtext", "loss.png", "prompts.jsonl")


def test_own_blog(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> None:
    with datasette_site(tmp_path_factory.mktemp("blog")) as blog:
        rows = f"{blog.table}?_col=title&_col=body&_shape=objects&_size=max"
        options = "--delay 0 --text-fields title,body"
        printed = workshop.run("own-blog", SOURCE=rows, FETCH_OPTIONS=options, MINUTES="0.2")
        asked = len(blog.requests)
    assert printed.count("Datasette is") >= 3
    assert asked < 2 * 17 + 2, "a run that is there is not fetched for again"
    assert workshop.holds("corpora/blog", "configs/blog.yaml", "runs/blog", "loss.png", "report.html")


def test_a_script_that_was_stopped_goes_on(workshop: Workshop) -> None:
    (workshop.folder / "book.txt").write_text(words(), "utf-8")
    longer = "--set max_steps=500 --set eval_interval=500 --set save_interval=500"
    variables = {"SOURCE": "book.txt", "BOOK": "book.txt", "TRAIN_OPTIONS": longer}
    command = ["sh", str(EXAMPLES / "shakespeare.sh")]
    env = {**workshop.environment(), **variables}
    process = subprocess.Popen(
        command, cwd=workshop.folder, env=env, stderr=subprocess.PIPE, start_new_session=True, encoding="utf-8"
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.split()[:1] == ["100"]:  # a row of the table
            break
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=100)
    assert process.returncode not in (0, None)
    done = workshop.sh(*command, **variables)
    assert done.returncode == 0, done.stderr
    assert "resumes  after step" in done.stderr
    assert done.stdout.count("ROMEO:") == 2


def test_gpt2_reproduction(workshop: Workshop, hub: Site, base: Path) -> None:
    small = {"BASE": base, "BASE_OPTIONS": "--device cpu", "FETCH_OPTIONS": "--delay 0"}
    printed = workshop.run("gpt2-reproduction", HF_ENDPOINT=hub.url, **small)
    assert printed.count("In a shocking finding, scientists discovered") >= 2
    assert workshop.holds("corpora/openwebtext", "runs/gpt2-124m", "runs/gpt2-published", "loss.png")


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.sh")), ids=lambda path: path.stem)
def test_every_script_says_what_it_costs_and_has_a_page_that_names_it(script: Path) -> None:
    text = script.read_text("utf-8")
    assert text.startswith("#!/bin/sh\n# ")
    assert all(f"\n# {word}:" in text for word in ("Costs", "Leaves", "Again"))
    assert os.access(script, os.X_OK)
    workflows = ROOT / "docs" / "workflows"
    assert f"examples/{script.name}" in (workflows / f"{script.stem}.md").read_text("utf-8")
    assert f"({script.stem}.md)" in (workflows / "README.md").read_text("utf-8")
