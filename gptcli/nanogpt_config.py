"""nanoGPT's configuration files (``config/*.py``) as run profiles: read as syntax, never executed.

It owns what nanoGPT's keys and their defaults mean here. It knows assignments of literals and arithmetic on them;
every other statement is told with its line and left out.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from gptcli.config import GPT2_NAMES
from gptcli.errors import ProfileError
from gptcli.profiles import build_profile
from gptcli.strict_yaml import KeyPath

Value = int | float | str | bool | None
Setting = tuple[KeyPath, Value]

GPT2_BLOCK_SIZE = 1024
MAX_BYTES = 1 << 20
MAX_BITS = 128  # of a whole number, written or worked out
MAX_TEXT = 100_000
IMPORT_HINT = "gptcli profiles import config/train_shakespeare_char.py reads a file of nanoGPT's config folder."

# What nanoGPT's train.py starts from; those of None have no fixed value there, or none that fits every machine.
DEFAULTS: dict[str, Value] = {
    "out_dir": "out",
    "eval_interval": 2000,
    "log_interval": 1,
    "eval_iters": 200,
    "eval_only": False,
    "always_save_checkpoint": True,
    "init_from": "scratch",
    "dataset": "openwebtext",
    "gradient_accumulation_steps": 40,
    "batch_size": 12,
    "block_size": 1024,
    "n_layer": 12,
    "n_head": 12,
    "n_embd": 768,
    "dropout": 0.0,
    "bias": False,
    "learning_rate": 6e-4,
    "max_iters": 600_000,
    "weight_decay": 0.1,
    "beta1": 0.9,
    "beta2": 0.95,
    "grad_clip": 1.0,
    "decay_lr": True,
    "warmup_iters": 2000,
    "lr_decay_iters": 600_000,
    "min_lr": 6e-5,
    "backend": "nccl",
    "device": None,
    "dtype": None,
    "compile": None,
}
# Keys of its sample.py that mean the same here.
SAMPLE_KEYS = {
    "start": "prompt",
    "num_samples": "num_samples",
    "max_new_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_k": "top_k",
    "seed": "seed",
}
SAME_KEYS = ("batch_size", "learning_rate", "weight_decay", "beta1", "beta2", "grad_clip", "eval_interval")
# The datasets that nanoGPT prepares itself.
DATASETS: dict[str, dict[str, Value]] = {
    "shakespeare_char": {"corpus": "shakespeare", "tokenizer": "char", "split_at": 0.9},
    "shakespeare": {"corpus": "shakespeare", "tokenizer": "gpt2", "split_at": 0.9},
    "openwebtext": {"corpus": "openwebtext", "tokenizer": "gpt2", "split": "document", "val_fraction": 0.0005},
}

BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}
UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
}


@dataclass(frozen=True, slots=True)
class ImportedProfile:
    """The keys of a profile, by section, and what a user should know about the way there, each a sentence.

    Where the profile goes, and so how it is used, is known to the caller.
    """

    values: dict[str, Any]
    notes: tuple[str, ...]


class _UnknownValueError(Exception):
    """An expression whose value cannot be told without running it."""


def import_config(path: Path) -> ImportedProfile:
    """Return the profile that a configuration file of nanoGPT asks for; keys it does not set have nanoGPT's defaults.

    Raises ``ProfileError`` for a file that cannot be read or is not Python, and for all values that cannot be at once.
    """
    reading = _Reading(path.name)
    for statement in _statements(path):
        reading.read(statement)
    return _Translation(path, reading).profile()


def _statements(path: Path) -> list[ast.stmt]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ProfileError(f"{path} is larger than {MAX_BYTES:,} bytes, so it was not read.", IMPORT_HINT)
        text = path.read_text("utf-8-sig")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in strings
            return ast.parse(text).body
    except OSError as error:
        raise ProfileError(f"{path} cannot be read ({error.strerror}).", IMPORT_HINT) from error
    except UnicodeDecodeError as error:
        raise ProfileError(f"{path} is not UTF-8 text.", IMPORT_HINT) from error
    except SyntaxError as error:
        raise ProfileError(f"{path}:{error.lineno or 1}: this is not Python ({error.msg}).", IMPORT_HINT) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ProfileError(f"{path}: this is not Python that can be read.", IMPORT_HINT) from error


class _Reading:
    """The values that a file's assignments leave behind, the line of each, and what could not be followed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.values: dict[str, Value] = {}
        self.lines: dict[str, int] = {}
        self.lost: set[str] = set()
        self.assigned: set[str] = set()
        self.used: set[str] = set()
        self.notes: list[str] = []

    def note(self, line: int, text: str) -> None:
        self.notes.append(f"{self.name}:{line}: {text}")

    def read(self, statement: ast.stmt) -> None:
        """Follow one statement, or note why not; what it would assign is unknown then."""
        if isinstance(statement, ast.Pass) or (
            isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        ):
            return
        assignments = _assignments(statement)
        if not assignments:
            stored = list(_assigned(statement))
            lost = [name for name in stored if _is_known(name)]
            missing = f"; what it does to {', '.join(lost)} is not known" if lost else ""
            self.note(
                statement.lineno, f"`{_shown(statement)}` was left out, because nothing of the file is run{missing}."
            )
            self._lose(stored)
        # As Python does, all values are worked out before the first is kept.
        for names, outcome in [self._outcome(*assignment) for assignment in assignments]:
            self._keep(names, outcome, statement.lineno)

    def _outcome(self, names: list[str], expression: ast.expr) -> tuple[list[str], Value | _UnknownValueError]:
        """Return the value that names get; if there is none, the expression's own names are lost with them."""
        try:
            return names, self._evaluate(expression)
        except _UnknownValueError as error:
            return [*names, *_assigned(expression)], error

    def _keep(self, names: list[str], outcome: Value | _UnknownValueError, line: int) -> None:
        """Give names a value, or note why they have none now."""
        self.assigned.update(names)
        if not isinstance(outcome, _UnknownValueError):
            self.lost.difference_update(names)
            for name in names:
                self.values[name], self.lines[name] = outcome, line
            return
        self._lose(names)
        if not all(name.startswith("wandb_") for name in names):
            self.note(line, f"{', '.join(names)} was left out: {outcome}.")

    def _lose(self, names: Iterable[str]) -> None:
        """Forget what names stand for: they have neither a value nor nanoGPT's default until they are assigned."""
        for name in names:
            self.values.pop(name, None)
            self.lost.add(name)

    def _evaluate(self, node: ast.expr) -> Value:
        """Return the value of literals, earlier names and arithmetic on them."""
        try:
            value: Value = self._value(node)
        except (ArithmeticError, TypeError, ValueError, RecursionError) as error:
            raise _UnknownValueError(f"`{_shown(node)}` has no value here") from error
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise _UnknownValueError("its text is too long")
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise _UnknownValueError("its number is too large")
        return value

    def _value(self, node: ast.expr) -> Any:  # noqa: ANN401 - Value, on which arithmetic is only tried
        if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, int | float | str)):
            return node.value
        if isinstance(node, ast.Name) and self._knows(node.id):
            self.used.add(node.id)
            return self.values.get(node.id, DEFAULTS.get(node.id))
        if isinstance(node, ast.Name) and node.id in self.lost:
            raise _UnknownValueError(f"what {node.id} is by then is not known")
        if isinstance(node, ast.UnaryOp) and type(node.op) in UNARY:
            return UNARY[type(node.op)](self._value(node.operand))
        if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
            left, right = self._value(node.left), self._value(node.right)
            _check_bounds(node.op, left, right)
            return BINARY[type(node.op)](left, right)
        raise _UnknownValueError(f"`{_shown(node)}` would have to be run")

    def _knows(self, name: str) -> bool:
        """Say whether a name has a value: one of the file, or one of train.py, inside of which nanoGPT runs it."""
        return name in self.values or (name not in self.lost and DEFAULTS.get(name) is not None)


def _shown(node: ast.AST) -> str:
    """Return the beginning of a piece of the file."""
    try:
        return ast.unparse(node).partition("\n")[0][:60]
    except (RecursionError, ValueError):  # too deep, or a number of too many digits
        return "..."


def _check_bounds(op: ast.operator, left: object, right: object) -> None:
    """Raise ``ValueError`` for arithmetic on text other than joining it, and for results without end."""
    if isinstance(left, str) or isinstance(right, str):
        if not isinstance(op, ast.Add) or len(str(left)) + len(str(right)) > MAX_TEXT:
            raise ValueError
    elif isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * abs(right) if isinstance(op, ast.Pow) else left.bit_length() + right.bit_length()
        if bits > MAX_BITS:
            raise ValueError
    elif isinstance(op, ast.Pow) and isinstance(left, int | float) and left < 0:
        raise ValueError  # a complex number


def _assignments(statement: ast.stmt) -> list[tuple[list[str], ast.expr]]:
    """Return which names a statement assigns which expressions to; none where it is no such statement."""
    if isinstance(statement, ast.Assign):
        return _unpacked(statement.targets, statement.value)
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
        return [([statement.target.id], statement.value)]
    if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
        name = ast.copy_location(ast.Name(statement.target.id, ast.Load()), statement)
        return [([statement.target.id], ast.copy_location(ast.BinOp(name, statement.op, statement.value), statement))]
    return []


def _unpacked(targets: list[ast.expr], value: ast.expr) -> list[tuple[list[str], ast.expr]]:
    """Pair names with expressions: all with the one, or tuples of names with a tuple of as many expressions."""
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    if len(names) == len(targets):
        return [(names, value)]
    sides = [side.elts for side in (*targets, value) if isinstance(side, ast.Tuple | ast.List)]
    if len(sides) != len(targets) + 1 or len({len(side) for side in sides}) != 1:
        return []
    pairs = [_unpacked([side[i] for side in sides[:-1]], each) for i, each in enumerate(sides[-1])]
    return [pair for found in pairs for pair in found] if all(pairs) else []


def _assigned(node: ast.AST) -> Iterator[str]:
    """Yield the names that a piece of the file may assign anywhere inside."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store | ast.Del):
            yield inner.id
        elif isinstance(inner, ast.alias):
            yield inner.asname or inner.name
        elif isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield inner.name


def _is_known(name: str) -> bool:
    return name in DEFAULTS or name in SAMPLE_KEYS or name.startswith("wandb_")


class _Translation:
    """nanoGPT's keys on their way to ours."""

    def __init__(self, path: Path, reading: _Reading) -> None:
        self.path = path
        self.reading = reading
        self.notes = list(reading.notes)
        self.given = reading.values
        self.lines: dict[KeyPath, int] = {}
        self.values: dict[str, Any] = {}

    def profile(self) -> ImportedProfile:
        """Return the profile, checked as a profile file is."""
        self._set("description", f"Imported from nanoGPT's {self.path.name}")
        base = self._begin()
        self._data(base)
        self._train()
        for theirs, ours in SAMPLE_KEYS.items():
            if theirs in self.given and not (theirs == "start" and self._prompt_file()):
                self._set(f"sample.{ours}", self._of(theirs, kind=float if ours == "temperature" else None), theirs)
        self._tell_the_rest()
        build_profile(
            {key: dict(value) if isinstance(value, dict) else value for key, value in self.values.items()},
            where=str(self.path),
            lines=self.lines,
        )
        return ImportedProfile(self.values, tuple(self.notes))

    def _of(self, key: str, *, kind: type | None = None) -> Any:  # noqa: ANN401 - checked with the profile
        """Return the value of nanoGPT's key, or its default; 1 may stand for 1.0 there, and 5e3 for 5000."""
        default = DEFAULTS.get(key)
        value = self.given.get(key, default)
        kind = kind or type(default)
        if kind is float and type(value) is int:
            return float(value)
        return int(value) if kind is int and isinstance(value, float) and value.is_integer() else value

    def _set(self, path: str, value: Value, theirs: str = "") -> None:
        section, _, key = path.rpartition(".")
        (self.values.setdefault(section, {}) if section else self.values)[key] = value
        if theirs in self.reading.lines:
            self.lines[tuple(path.split("."))] = self.reading.lines[theirs]

    def _note(self, key: str, text: str) -> None:
        """Note what a key that the file sets has become, with its line."""
        if key in self.given:
            self.notes.append(f"{self.path.name}:{self.reading.lines[key]}: {key} = {self.given[key]!r}: {text}")

    def _begin(self) -> str | None:
        """Settle what training begins from; return the published model, if it is one."""
        begin, block_size = self._of("init_from"), self._of("block_size")
        if isinstance(begin, str) and begin.startswith("gpt2"):
            if begin not in GPT2_NAMES:
                self._note("init_from", f"gptcli knows {', '.join(GPT2_NAMES)}; finetune.base is left as it is.")
            self._set("finetune.base", begin, "init_from")
            if isinstance(block_size, int) and block_size > GPT2_BLOCK_SIZE:
                self._note("block_size", f"left out; {begin} has {GPT2_BLOCK_SIZE:,}.")
            elif block_size != GPT2_BLOCK_SIZE:
                self._set("model.block_size", block_size, "block_size")
            self._set("model.dropout", self._of("dropout"), "dropout")
            for key in ("n_layer", "n_head", "n_embd", "bias"):
                self._note(key, f"left out; the shape is that of {begin}.")
            return begin
        if begin == "resume":
            self._note("init_from", "gptcli train --resume goes on with a run, and gptcli finetune CORPUS --from ")
            self.notes[-1] += f"{quote('nanogpt:{}/ckpt.pt'.format(self._of('out_dir')))} with a checkpoint of nanoGPT."
        elif begin != "scratch":
            self._note("init_from", "not known; the profile trains from scratch.")
        self._set("model.family", "gpt2")
        for key in ("n_layer", "n_head", "n_embd", "block_size", "dropout", "bias"):
            self._set(f"model.{key}", self._of(key), key)
        self._set("model.gelu", "exact")
        return None

    def _data(self, base: str | None) -> None:
        """Settle text and tokenizer; a published model brings its own."""
        dataset = self._of("dataset")
        known = DATASETS.get(dataset) if isinstance(dataset, str) else None
        if known is None:
            known = {"corpus": dataset}
            if isinstance(dataset, str) and dataset.endswith("_char"):
                known["tokenizer"] = "char"
            name = quote(str(dataset))
            self._note("dataset", f"no recipe has this name; fetch its text first: gptcli fetch FILE --name {name}.")
            if base is None and "tokenizer" not in known:
                self.notes[-1] += " The file does not say what its tokens are, and auto chooses; nanoGPT prepares "
                self.notes[-1] += "--set data.tokenizer=char or gpt2."
        for key, value in known.items():
            self._set(f"data.{key}", value, "dataset")

    def _train(self) -> None:
        for key in SAME_KEYS:
            self._set(f"train.{key}", self._of(key), key)
        steps = self._of("max_iters")
        self._set("train.grad_accum_steps", self._of("gradient_accumulation_steps"), "gradient_accumulation_steps")
        self._set("train.max_steps", steps, "max_iters")
        self._set("train.optimizer", "adamw")
        self._set("train.log_interval", self._of("log_interval"), "log_interval")
        often = self._of("always_save_checkpoint")
        self._set("train.save_interval", self._of("eval_interval") if often else steps, "eval_interval")
        for key in ("device", "dtype", "compile"):
            if self.given.get(key) is not None:
                self._set(f"train.{key}", self.given[key], key)
        self._schedule(steps)
        if "gradient_accumulation_steps" not in self.given:
            self.notes.append(
                "gradient_accumulation_steps is not set: nanoGPT's default of 40 applies, and every step takes 40 "
                "micro-batches; --set grad_accum_steps=1 is 40 times faster a step."
            )

    def _schedule(self, steps: object) -> None:
        """Settle the learning rate over time."""
        rate, low, end, warmup = (
            self._of(key) for key in ("learning_rate", "min_lr", "lr_decay_iters", "warmup_iters")
        )
        if not self._of("decay_lr"):
            self._set("train.schedule", "constant", "decay_lr")
            self._set("train.warmup_steps", 0)  # nanoGPT warms up only where it decays
            return
        self._set("train.schedule", "cosine", "decay_lr")
        self._set("train.warmup_steps", warmup, "warmup_iters")
        if isinstance(low, float) and isinstance(rate, float) and low > rate:
            self.notes.append(f"min_lr {low:g} is above learning_rate {rate:g}, which the learning rate stays at.")
            low = rate
        self._set("train.min_lr", low, "min_lr")
        if end != steps:
            self.notes.append(
                f"lr_decay_iters is {end!r} and max_iters {steps!r}; here the learning rate always reaches min_lr at "
                "the last step."
            )
        if isinstance(warmup, int) and isinstance(steps, int) and 2 * warmup > steps:
            self.notes.append(f"warmup_iters is {warmup} of {steps} steps; here at most half of them warm up.")

    def _prompt_file(self) -> bool:
        start = self.given.get("start")
        if isinstance(start, str) and start.startswith("FILE:"):
            self._note("start", f"left out; gptcli sample --prompt-file {quote(start[5:])}")
            return True
        return False

    def _tell_the_rest(self) -> None:
        lost = [
            f"{name} {value}" for name, value in DEFAULTS.items() if value is not None and name in self.reading.lost
        ]
        if lost:
            self.notes.append(f"Not known, and so as nanoGPT begins with them: {', '.join(lost)}.")
        self._note("eval_iters", "left out; the whole val split is scored, unless train.eval_tokens is set.")
        self._note("out_dir", "left out; a run is named with --run, and lies in runs/.")
        if self.given.get("eval_only"):
            self._note("eval_only", "left out; gptcli eval RUN scores a run, and the first row of a finetune its base.")
        if self.given.get("always_save_checkpoint") is False:
            self._note("always_save_checkpoint", "the best and the last step are always saved.")
        self._note("backend", "left out; gptcli trains in one process, and nothing divides grad_accum_steps.")
        if any(name.startswith("wandb_") for name in self.reading.assigned):
            self.notes.append("wandb_*: left out; a run keeps its own metrics.jsonl and loss.png.")
        for name in self.given:
            if not _is_known(name) and name not in self.reading.used:
                self._note(name, "no key of nanoGPT; left out.")
