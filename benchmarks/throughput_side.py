"""gptcli's side of ``throughput.py``: steps of a real run, timed in a fresh process; prints one JSON object.

python benchmarks/throughput_side.py '{"what": "steps", "tokens": "...", "runs": "...", "profile": {...}, ...}'
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from gptcli.events import StepLogged
from gptcli.profiles import build_profile
from gptcli.runs import RunDir, create_run
from gptcli.shards import open_dataset
from gptcli.train import train
from gptcli.trainer import Trainer


def main() -> None:
    """Do what the first argument says and print the answer."""
    spec = json.loads(sys.argv[1])
    profile = build_profile(spec["profile"], spec["set"])
    dataset = open_dataset(Path(spec["tokens"]))
    run = create_run(profile, profile_name="throughput", dataset=dataset, runs_dir=Path(spec["runs"]))
    print(json.dumps(steps(run, spec["warm_up"], spec["steps"]) if spec["what"] == "steps" else clock(run)))


def steps(run: RunDir, warm_up: int, n_steps: int) -> dict[str, Any]:
    """Time ``n_steps`` steps one by one, after some that are not timed; seconds."""
    trainer = Trainer(run)
    for _ in range(warm_up):
        trainer.update()
    seconds = []
    for _ in range(n_steps):
        begin = time.perf_counter()
        trainer.update()
        seconds.append(time.perf_counter() - begin)
    return {"seconds": seconds, "dtype": str(trainer.setup.dtype).removeprefix("torch.")}


def clock(run: RunDir) -> dict[str, Any]:
    """Train, and set each report of the pace against the time that passed here since the event before it.

    Between those two lie the steps that are reported on and nothing else; the first report, which leaves a step out,
    is left out.
    """
    pairs, before, last = [], 0, time.perf_counter()
    with contextlib.closing(train(run)) as events:
        for event in events:
            now = time.perf_counter()
            if isinstance(event, StepLogged):
                pairs.append((event.tokens_per_second, (event.tokens_seen - before) / (now - last)))
                before = event.tokens_seen
            last = time.perf_counter()
    return {"product_and_outside": pairs[1:]}


if __name__ == "__main__":
    main()
