"""Wall time and loss of training runs, from process start to exit: three rows, each chosen by its name.

    python benchmarks/time_to_loss.py first-result --nanogpt CHECKOUT --text input.txt [--pairs 5] [--cold-pairs 3]
    python benchmarks/time_to_loss.py ten-minutes --text input.txt [--pairs 5] [--to-target PROFILE]
                                                  [--nanogpt CHECKOUT]
    python benchmarks/time_to_loss.py book --nanogpt CHECKOUT --text 863-0.txt [--pairs 5] [--seconds 60]

first-result: the profile ``shakespeare-char-cpu`` beside nanoGPT's README command for a CPU, to a val loss of 1.88 on
tiny Shakespeare. Cold starts have empty caches (Python's bytecode, the compiler's kernels, XDG_CACHE_HOME), each run in
a folder of its own; warm ones are the second and later in one folder. The system's cache of files is not emptied.

ten-minutes: the profile ``laptop-10min``, and the minutes after which an evaluation of its own found a val loss of
1.4697 or less, nanoGPT's best on a GPU. ``--to-target`` names another profile for those. With ``--nanogpt`` its
configuration for a GPU runs on the CPU, ended after the same seconds, scored by its last checkpoint.

book: the profile ``macbook`` with ``--budget`` beside nanoGPT with GPT-2's BPE (4 layers, 64 wide, context 64, 12
sequences), whose steps alone are made to fill the same seconds: how many that are is measured first. Both get the
same text and split; bits per byte of the whole val text.

The sides run in turn in fresh processes from prepared tokens, seed by seed. One evaluator scores them afterwards:
every token of val, windows of the block size that do not overlap, float32. nanoGPT is copied first.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from side_by_side import Process, Spread, add_shared, environment, finish, in_turn, ratios, spread, table
from training_sides import ITERATION, Gptcli, NanoGPT, Trained, flags

from gptcli.tokenizer import gpt2_tokenizer

Run = Callable[[int], Trained]
Found = tuple[dict[str, list[Trained]], list[str]]


FIRST_RESULT, TEN_MINUTES = 1.88, 1.4697
SMALL = flags(eval_iters=20, log_interval=1, block_size=64, batch_size=12, n_layer=4, n_head=4, dropout=0.0)
README = [*SMALL, *flags(n_embd=128, max_iters=2000, lr_decay_iters=2000)]
README_INTERVAL = 250
BOOK = [*SMALL, *flags(n_embd=64, gradient_accumulation_steps=1, always_save_checkpoint=True)]
CALIBRATION_STEPS = 60
# nanoGPT evaluates 400 batches of 64 x 256 there, which would leave no time for training on a CPU.
GPU_INTERVAL = 25
GPU_CONFIG = flags(eval_interval=GPU_INTERVAL, eval_iters=1, always_save_checkpoint=True, log_interval=1)


def measure(sides: dict[str, Run], rounds: int) -> dict[str, list[Trained]]:
    """Run the sides in turn, the number of the round as the seed."""
    found: dict[str, list[Trained]] = {side: [] for side in sides}
    for number, side in in_turn(list(sides), rounds):
        found[side].append(sides[side](number))
    return found


class FirstResult:
    """The two sides of a first result, with caches that are warm or cold."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.threads, self.folder, self.quick = options.threads, folder, options.quick
        env = environment(self.threads, folder / "warm")
        self.nanogpt = NanoGPT(options.nanogpt, options.text, folder, "shakespeare_char", env)
        self.gptcli = Gptcli(options.text, folder, "shakespeare", ["--tokenizer", "char"], env)

    def theirs(self, number: int, cold: str = "") -> Trained:
        """Run nanoGPT's README command."""
        interval = 10 if self.quick else README_INTERVAL
        quick = flags(max_iters=20, eval_interval=interval) if self.quick else []
        caches = environment(self.threads, self.folder / (cold or "warm"))
        return self.nanogpt.trained(self.nanogpt.train(number, [*README, *quick], caches), interval)

    def ours(self, number: int, cold: str = "") -> Trained:
        """Run the profile."""
        quick = ["--set", "max_steps=20"] if self.quick else []
        arguments = ["--profile", "shakespeare-char-cpu", "--set", f"train.seed={number}", *quick]
        caches = environment(self.threads, self.folder / (cold or "warm"))
        return self.gptcli.train(f"{cold}run-{number}", arguments, caches)

    def warm_up(self) -> None:
        """Fill the warm caches."""
        env = environment(self.threads, self.folder / "warm")
        self.nanogpt.train(1, [*README, *flags(max_iters=2, eval_interval=1)], env)
        self.gptcli.train("first", ["--profile", "shakespeare-char-cpu", "--set", "max_steps=2"], env)


def first_result(options: argparse.Namespace, folder: Path) -> Found:
    """Return all runs of the row, and its table."""
    sides = FirstResult(options, folder)
    sides.warm_up()
    found = measure({"nanogpt, warm": sides.theirs, "gptcli, warm": sides.ours}, options.pairs)
    found |= measure(
        {
            "nanogpt, cold": lambda number: sides.theirs(number, f"cold-nanogpt-{number}"),
            "gptcli, cold": lambda number: sides.ours(number, f"cold-gptcli-{number}"),
        },
        options.cold_pairs,
    )
    found = {side: runs for side, runs in found.items() if runs}
    rows = []
    for side, runs in found.items():
        reached = sum(run.val_loss <= FIRST_RESULT for run in runs)
        rows.append([side, shown(runs, "seconds", 1), shown(runs, "val_loss", 3), f"{reached} of {len(runs)}"])
    lines = [table(["", "seconds", "val loss", f"reached {FIRST_RESULT}"], rows)]
    for kind in ("warm", "cold"):
        if f"gptcli, {kind}" in found:
            faster = ratios(*(figures(found[f"{side}, {kind}"], "seconds") for side in ("nanogpt", "gptcli")))
            lines.append(f"{kind} caches: {faster.shown(1)} times faster; must 8, aim 15")
    return found, lines


def ten_minutes(options: argparse.Namespace, folder: Path) -> Found:
    """Return all runs of the row, and its table."""
    env = environment(options.threads)
    gptcli = Gptcli(options.text, folder, "shakespeare", ["--tokenizer", "char"], env)
    quick = ["--set", "max_steps=4", "--set", "eval_interval=2"] if options.quick else []

    def trains(profile: str) -> Run:
        def ours(number: int) -> Trained:
            arguments = ["--profile", str(profile), *quick, "--set", f"train.seed={number}"]
            return gptcli.train(f"{Path(profile).stem}-{number}", arguments, env, TEN_MINUTES)

        return ours

    profiles = dict.fromkeys(named(profile) for profile in (options.profile, options.to_target))
    found = measure({profile: trains(profile) for profile in profiles}, options.pairs)
    if options.nanogpt is not None:
        nanogpt = NanoGPT(options.nanogpt, options.text, folder, "shakespeare_char", env)
        limit = spread(figures(found[named(options.profile)], "seconds")).median
        interval = 2 if options.quick else GPU_INTERVAL
        arguments = [*GPU_CONFIG, *(flags(eval_interval=interval, batch_size=4) if options.quick else [])]
        found |= measure(
            {"nanogpt": lambda number: nanogpt.trained(nanogpt.train(number, arguments, env, limit), interval)},
            options.pairs,
        )
    rows = []
    for side, runs in found.items():
        minutes = [run.minutes_to_target for run in runs if run.minutes_to_target is not None]
        when = f"{spread(minutes).shown(2)}; " if minutes else ""
        when += f"{len(minutes)} of {len(runs)}" if side != "nanogpt" else "-"
        rows.append([side, shown(runs, "seconds", 1), shown(runs, "val_loss", 4), when])
    lines = [table(["", "seconds", "val loss", f"minutes to {TEN_MINUTES}"], rows)]
    lines.append(f"nanoGPT's README has {TEN_MINUTES} on a GPU. Val loss must 1.44, aim 1.41; minutes must 5, aim 3")
    return found, lines


def named(profile: str) -> str:
    """Return a profile as a process in another folder finds it: a file by its whole path, others by name."""
    return str(Path(profile).resolve()) if Path(profile).suffix in (".yaml", ".yml") else profile


def book(options: argparse.Namespace, folder: Path) -> Found:
    """Return all runs of the row, and its table."""
    env = environment(options.threads)
    gptcli = Gptcli(options.text, folder, "book", ["--profile", named(options.profile)], env)
    nanogpt = same_text(gptcli, options.nanogpt, folder, env)

    def theirs(number: int) -> Trained:
        calibration = flags(max_iters=CALIBRATION_STEPS, eval_interval=CALIBRATION_STEPS)
        steps = max(2, int(options.seconds / step_seconds(nanogpt.train(number, [*BOOK, *calibration], env))))
        schedule = flags(max_iters=steps, lr_decay_iters=steps, eval_interval=steps, warmup_iters=min(100, steps // 10))
        return nanogpt.trained(nanogpt.train(number, [*BOOK, *schedule], env), steps)

    def ours(number: int) -> Trained:
        budget = ["--budget", f"{options.seconds:g}s"]
        arguments = ["--profile", named(options.profile), "--set", f"train.seed={number}", *budget]
        return gptcli.train(f"book-{number}", arguments, env)

    found = measure({"nanogpt": theirs, "gptcli": ours}, options.pairs)
    columns = {"bits_per_byte": 3, "training_seconds": 1, "seconds": 1, "steps": 0}
    rows = [[side, *(shown(runs, field, digits) for field, digits in columns.items())] for side, runs in found.items()]
    shares = ratios(*(figures(found[side], "bits_per_byte") for side in ("gptcli", "nanogpt")))
    lower = Spread(100 * (1 - shares.median), 100 * (1 - shares.high), 100 * (1 - shares.low))
    lines = [table(["", "bits per byte", "training seconds", "wall seconds", "steps"], rows)]
    lines.append(f"gptcli's tokens are {gptcli.dataset.manifest.tokenizer}, nanoGPT's those of GPT-2.")
    lines.append(f"{lower.shown(1)} % fewer bits per byte; must 15, aim 20")
    return found, lines


def same_text(gptcli: Gptcli, checkout: Path, folder: Path, env: dict[str, str]) -> NanoGPT:
    """Give nanoGPT the text that gptcli's tokens hold; raises where the two have not the same val text."""
    train, val = gptcli.text()
    (folder / "book.txt").write_text(train + val, "utf-8", newline="")
    nanogpt = NanoGPT(checkout, folder / "book.txt", folder, "shakespeare", env)
    theirs = gpt2_tokenizer().decode(nanogpt.val)
    if theirs != val:
        raise RuntimeError(f"The sides have different val texts, of {len(theirs)} and {len(val)} characters.")
    return nanogpt


def step_seconds(process: Process) -> float:
    """Return the median of nanoGPT's steps, the first left out."""
    return spread([float(milliseconds) for _, milliseconds in ITERATION.findall(process.stdout)][1:]).median / 1000


def figures(runs: Sequence[Trained], field: str) -> list[float]:
    """Return one figure of all runs."""
    return [getattr(run, field) for run in runs]


def shown(runs: Sequence[Trained], field: str, digits: int) -> str:
    """Return one figure of all runs for a table."""
    return spread(figures(runs, field)).shown(digits)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rows = parser.add_subparsers(dest="row", required=True)
    for name, work in (("first-result", first_result), ("ten-minutes", ten_minutes), ("book", book)):
        row = rows.add_parser(name)
        row.set_defaults(work=work)
        row.add_argument("--text", type=Path, required=True, help="tiny Shakespeare, or the book")
        row.add_argument("--nanogpt", type=Path, required=name != "ten-minutes", help="nanoGPT's checkout")
        row.add_argument("--quick", action="store_true", help="a few steps, to see that everything runs")
        add_shared(row)
        if name == "first-result":
            row.add_argument("--cold-pairs", type=int, default=3, help="how often with empty caches (default 3)")
        elif name == "ten-minutes":
            row.add_argument("--profile", default="laptop-10min", help="what runs for ten minutes")
            row.add_argument("--to-target", default="laptop-10min", help=f"what reaches {TEN_MINUTES} soonest")
        else:
            row.add_argument("--profile", default="macbook")
            row.add_argument("--seconds", type=float, default=60.0, help="of training, for both sides (default 60)")
    return parser.parse_args()


def main() -> None:
    """Run the row and print its table."""
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        found, lines = options.work(options, Path(folder))
    runs = {side: [run._asdict() for run in runs] for side, runs in found.items()}
    finish({"row": options.row, "threads": options.threads, "runs": runs}, lines, options.json)


if __name__ == "__main__":
    main()
