"""A run that somebody sent: whatever in it is text tries to be markup, script, a request or a command."""

from __future__ import annotations

import contextlib
import json
import shlex
from pathlib import Path
from typing import Any

from gptcli.config import DataConfig, RunProfile
from gptcli.documents import document, to_json
from gptcli.events import Notice, RunFailed, SampleDrawn, to_record
from gptcli.fetch.fetching import fetch
from gptcli.files import write_json
from gptcli.metrics import write_event
from gptcli.prepare import prepare
from gptcli.profiles import write_profile
from gptcli.runs import RunDir, create_run
from gptcli.shards import open_dataset
from gptcli.train import train

# What a browser would run, fetch, or show in another order.
ATTACKS = (
    '<script>document.title="owned"</script>',
    "<img src=x onerror=\"document.title='owned'\">",
    '<img src="http://tracker.example/pixel.png">',
    "</pre></style></svg></title><h1 class=owned>owned</h1>",
    '"><svg onload=alert(1)><a xlink:href="javascript:alert(1)">x</a></svg>',
    "' onmouseover='alert(1)",
    "<iframe srcdoc='<p>owned'></iframe><link rel=stylesheet href=//tracker.example/x.css><base href=//x>",
    "<!-- <![CDATA[ &lt;b&gt; {{x}} ]]>",
    "javascript:alert(1)",
    "url(http://tracker.example/) @import 'http://tracker.example/x.css';",
    "a\x1b[31mred\x00\x07\x9b2J \u202etxt.exe\u2066 \u2028end",
)
HOSTILE = " ".join(ATTACKS)


def make_honest_run(folder: Path, profile: RunProfile) -> RunDir:
    """Fetch a text, prepare it and train on it: the run ``folder/runs/r``."""
    (folder / "texts").mkdir(parents=True)
    (folder / "texts" / "rain.txt").write_text("One day it rained, and nobody went out. " * 200, "utf-8")
    fetch(str(folder / "texts"), name="stories", corpora_dir=folder / "corpora")
    tokens = prepare("stories", DataConfig(tokenizer="char", split_at=0.9), corpora_dir=folder / "corpora").folder
    run = create_run(profile, profile_name="tiny", dataset=open_dataset(tokens), runs_dir=folder / "runs", name="r")
    with contextlib.closing(train(run)) as events:
        list(events)
    return run


def make_hostile_run(folder: Path, profile: RunProfile) -> RunDir:
    """Make an honest run, and put ``HOSTILE`` into every place that holds text from outside."""
    run = make_honest_run(folder, profile)
    _change(run.dataset_path, {"manifest": {**_read(run.dataset_path)["manifest"], "licence": HOSTILE}})
    _change(run.environment_path, dict.fromkeys(("profile", "platform", "created_at", "gptcli"), HOSTILE))
    sample = run.profile().sample.model_copy(update={"prompt": "The " + HOSTILE.replace("\x00", "")})
    write_profile(run.profile_path, run.profile().model_copy(update={"description": "An attack", "sample": sample}))
    corpus = folder / "corpora" / "stories"
    items = [document("Text.", title=HOSTILE, author=HOSTILE, url="https://x.example/" + HOSTILE, licence=HOSTILE)]
    (corpus / "documents.jsonl").write_text("".join(f"{json.dumps(to_json(item))}\n" for item in items), "utf-8")
    source = _read(corpus / "source.json")
    dropped = {HOSTILE: 3, "too short": 2}
    command = shlex.join(["gptcli", "fetch", HOSTILE, "--name", "x", "--drop-lines", HOSTILE])
    fetched = {"kind": "web", "source": f"http://x.example/{HOSTILE}", "command": command}
    _change(corpus / "source.json", {**source, **fetched, "dropped": dropped})
    events = (SampleDrawn(5, HOSTILE, HOSTILE), Notice(5, HOSTILE), RunFailed(6, HOSTILE))
    with run.metrics_path.open("ab") as file:
        file.writelines(write_event(to_record(event)) for event in events)
    return run


def _read(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_bytes())
    assert isinstance(value, dict)
    return value


def _change(path: Path, changes: dict[str, Any]) -> None:
    write_json(path, {**_read(path), **changes})
