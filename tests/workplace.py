"""A folder in which every command of the docs can be typed, and the outside world of those commands on loopback.

In the folder: texts, notes, recordings, the corpus ``book``, runs, exports, a checkpoint of nanoGPT, and small versions
of all built-in profiles and recipes, since ./configs and ./corpora win. Outside: a blog, lists, a mirror of Gutenberg,
a hub of data sets and one of models.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcli.config import ModelConfig
from gptcli.profiles import builtin_folder
from gptcli.strict_yaml import dump_yaml, load_yaml
from tests.bases import model_hub
from tests.bases.model_hub import ModelHub
from tests.fetch.blog_site import put_blog
from tests.fetch.conftest import Page, Site, handler
from tests.fetch.gutenberg.test_catalog import ROWS, catalog
from tests.fetch.gutenberg_samples import ebook
from tests.fetch.hub_server import parquet
from tests.fetch.hub_server import serve as serve_data_set
from tests.loopback import serving
from tests.shell import Shell, open_shell

SMALL_TRAIN = {
    "batch_size": 2, "grad_accum_steps": 1, "max_steps": 4, "warmup_steps": 1, "log_interval": 1, "eval_interval": 2,
    "save_interval": 2, "sample_interval": 4, "eval_tokens": 400, "dtype": "float32", "device": "cpu", "compile": False,
}  # fmt: skip
SMALL_MODEL = {"n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 32}
DATA_SETS = ("roneneldan/TinyStories", "Skylion007/openwebtext")
# Corpora that the docs speak of as being there.
CORPORA = ("pg1513", "blog", "poirot", "shakespeare", "hitchhikers", "openwebtext", "tinystories")
# Runs that examples speak of, copies of ``my-run``.
RUNS = ("first", "second", "old-run")
GPT2S = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
QWENS = ("Qwen/Qwen3-0.6B-Base",)
TALKS = [
    {"messages": [{"role": "user", "content": f"What is {a} plus {b}?"}, {"role": "assistant", "content": f"{a + b}."}]}
    for a in range(8)
    for b in range(8)
]
# A file of nanoGPT's, and a checkpoint where its README has them.
NANOGPT_CONFIG = "out_dir = 'out'\ndataset = 'shakespeare_char'\nmax_iters = 2000\nbatch_size = 12\nblock_size = 64\n"


@dataclass(frozen=True, slots=True)
class Workplace:
    """A prepared folder, the shell to work in, and where the world outside is."""

    folder: Path
    shell: Shell
    site: str
    whisper: Path

    def run(self, line: str, place: Path) -> subprocess.CompletedProcess[str]:
        """Run a line in ``place``, a fresh copy of the prepared folder."""
        shutil.copytree(self.folder, place, dirs_exist_ok=True)
        return self.shell.run(line, place, "It was a dark\n/more\n")


@contextlib.contextmanager
def open_workplace(root: Path, vocabulary: Path | None) -> Iterator[Workplace]:
    """Prepare the folder and serve the world; ``vocabulary`` is tiktoken's cache with GPT-2's, if there is one."""
    folder, served = root / "work", root / "served"
    folder.mkdir()
    with _serve_site() as site, model_hub.serve() as hub:
        _fill_site(site)
        _fill_hub(hub, served)
        variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(root / "home"), "HF_HUB_DISABLE_XET": "1"}
        if vocabulary is not None:
            variables["TIKTOKEN_CACHE_DIR"] = str(vocabulary)
        whisper = _small_whisper(root)
        _write_inputs(folder, site.url, whisper)
        with open_shell(**variables) as shell:
            _make_corpora_and_runs(shell, folder)
            yield Workplace(folder, shell, site.url, whisper)


def real_text(begin: int, end: int) -> str:
    """Return a part of the documentation that every Python carries."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))[begin:end]


@contextlib.contextmanager
def _serve_site() -> Iterator[Site]:
    site = Site({}, "", [])
    with serving(handler(site)) as site.url:
        yield site


def _fill_site(site: Site) -> None:
    """Put a blog, lists, books and data sets on the site."""
    put_blog(site, "bare", 24)
    entries = [{"id": n, "title": f"Entry {n}", "body": real_text(900 * n, 900 * n + 900)} for n in range(12)]
    for path in ("/blog/entries.json", "/api/posts.json"):
        site.pages[path] = Page(json.dumps(entries).encode(), content_type="application/json")
    site.pages["/cache/epub/feeds/pg_catalog.csv.gz"] = Page(gzip.compress(catalog(*ROWS)))
    book = ebook(real_text(20_000, 40_000)).replace("\n", "\r\n").encode()
    for number in {row[0] for row in ROWS} | {58866, 69087, 70114, 72824}:
        site.pages[f"/cache/epub/{number}/pg{number}.txt"] = Page(book)
    for name in DATA_SETS:
        texts = [real_text(1000 * n, 1000 * n + 1000) for n in range(30)]
        serve_data_set(site, name, {"data/train-00000-of-00001.parquet": parquet({"text": texts})})


def _fill_hub(hub: ModelHub, folder: Path) -> None:
    """Serve random models under the names of published ones, with a vocabulary learned from our own text."""
    from tests.bases.saved import QWEN_ADDED, QWEN_SPECIAL, qwen_tokenizer, save_model, save_tokenizer_of_qwen

    tokenizer = qwen_tokenizer([real_text(0, 30_000)], 400)
    size = 400 + len(QWEN_SPECIAL) + len(QWEN_ADDED)
    shapes: dict[str, dict[str, Any]] = {"gpt2": {"family": "gpt2", "bias": True}, "qwen": {"family": "modern"}}
    for kind, shape in shapes.items():
        config = ModelConfig(n_layer=2, n_head=2, n_embd=16, block_size=64, vocab_size=size, **shape)
        save_model(config, folder / kind)
        save_tokenizer_of_qwen(tokenizer, folder / kind)
    for name in GPT2S:
        hub.repositories[name] = hub.repositories[f"openai-community/{name}"] = folder / "gpt2"
    for name in QWENS:
        hub.repositories[name] = folder / "qwen"


def _small_whisper(root: Path) -> Path:
    from tests.fetch.tiny_whisper import save_tiny_whisper

    (root / "whisper").mkdir()
    return save_tiny_whisper(root / "whisper", [(0.0, 2.0, " Chapter one."), (2.0, 4.0, " It was dark and it rained.")])


def _write_inputs(folder: Path, site: str, whisper: Path) -> None:
    """Write what a user brings along."""
    from tests.fetch.recordings import encode, tone

    (folder / "book.txt").write_text(real_text(0, 24_000), "utf-8")
    (folder / "letters.txt").write_bytes(f"Caf\xe9. {real_text(0, 9_000)}".encode("cp1252", "ignore"))
    (folder / "prompt.txt").write_text("It was a dark and\n", "utf-8")
    (folder / "prompts.jsonl").write_text('"Once"\n{"prompt": "Then", "temperature": 0.5, "seed": 7}\n', "utf-8")
    (folder / "chats.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in TALKS), "utf-8")
    (folder / "notes").mkdir()
    for number, name in enumerate(("monday", "tuesday", "wednesday")):
        text = real_text(5000 * number, 5000 * number + 5000)
        (folder / "notes" / f"{name}.md").write_text(f"# {name}\n\n{text}", "utf-8")
    for name in ("audiobooks", "speeches"):
        (folder / name).mkdir()
        for number in (1, 2):
            encode(folder / name / f"Part {number}.mp3", tone(300 * number, 4.0), "libmp3lame")
    (folder / "config").mkdir()
    (folder / "config" / "train_shakespeare_char.py").write_text(NANOGPT_CONFIG, "utf-8")
    _write_small_profiles(folder / "configs")
    _write_near_recipes(folder / "corpora", site, str(whisper))


def _write_small_profiles(folder: Path) -> None:
    """Write every built-in profile with a model and a length that a test has time for."""
    folder.mkdir()
    for path in builtin_folder("configs").glob("*.yaml"):
        values, _ = load_yaml(path.read_text("utf-8"))
        values.pop("expects", None)
        values["train"] = {**values["train"], **SMALL_TRAIN}
        data = values.setdefault("data", {})
        data.pop("val_fraction", None)  # a thousandth of a small text is nothing
        if data.get("tokenizer") == "gpt2":  # whose vocabulary may not be here
            data["tokenizer"] = "bpe:300"
        values["sample"] = {**values.get("sample", {}), "max_new_tokens": 8}
        if not path.stem.startswith("finetune"):
            values["model"] = {**values["model"], **SMALL_MODEL}
        elif "block_size" in values.get("model", {}):
            values["model"]["block_size"] = 32
        (folder / path.name).write_text(dump_yaml(values), "utf-8")
    for copy in (folder / "my.yaml", folder.parent / "mine.yaml"):
        shutil.copy(folder / "macbook.yaml", copy)


def _write_near_recipes(folder: Path, site: str, whisper: str) -> None:
    """Write every built-in recipe whose text lies on the network with a text that is near."""
    folder.mkdir()
    for path in builtin_folder("corpora").glob("*.yaml"):
        values, _ = load_yaml(path.read_text("utf-8"))
        if path.stem == "hitchhikers":
            values["whisper"] = whisper
        elif values.get("kind") == "json":
            values["source"] = f"{site}/api/posts.json"
        elif not values["source"].startswith("python:"):
            values = {key: value for key, value in values.items() if key != "sha256"} | {"source": "book.txt"}
        (folder / path.name).write_text(dump_yaml(values), "utf-8")


def _make_corpora_and_runs(shell: Shell, folder: Path) -> None:
    """Go the way of the README once; ``letters`` is a run of nanoGPT's kind, ``talker`` one that answers."""
    # In the cache before they are finetuned: the shapes of the published ones are known by heart.
    lines = [f'gptcli sample {name} --prompt "It" --max-new-tokens 1' for name in (*GPT2S[:3], *QWENS)]
    lines += [
        "gptcli fetch book.txt",
        "gptcli fetch notes",
        *(f"gptcli fetch notes/*.md --name {name}" for name in CORPORA),
        "gptcli fetch chats.jsonl",
        "gptcli prepare book --tokenizer char",
        "gptcli train book --profile macbook --run letters --set data.tokenizer=char --set family=gpt2 --quiet",
        "gptcli export letters --format nanogpt --output out --quiet",
        "cp -r out out-shakespeare-char",
        "gptcli finetune chats --from gpt2 --run talker --quiet",
        "gptcli train book --profile macbook --set data.tokenizer=bpe:300 --run my-run --quiet",
        *(f"cp -r runs/my-run runs/{name}" for name in RUNS),
    ]
    for line in lines:
        done = shell.run(line, folder, "")
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    _interrupt_a_run(folder)


def _interrupt_a_run(folder: Path) -> None:
    """Begin the run ``book-macbook``, and stop it by Ctrl-C before its last step."""
    from gptcli.profiles import load_profile
    from gptcli.runs import create_run
    from gptcli.shards import open_dataset
    from tests.training import interrupt

    dataset = open_dataset(folder / "corpora" / "book" / "tokens" / "bpe-300")
    profile = load_profile(folder / "configs" / "macbook.yaml", ["max_steps=8"])
    run = create_run(profile, profile_name="macbook", dataset=dataset, runs_dir=folder / "runs")
    assert run.name == "book-macbook"
    interrupt(run, 5)
