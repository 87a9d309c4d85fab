"""nanoGPT's character vocabulary: read out of ``meta.pkl`` without unpickling it, or rebuilt from the text.

It owns that file's format and the places where nanoGPT keeps it. It knows no weights, and a pickle that holds anything
else than dictionaries, strings and integers is refused: nothing in it is ever looked up, called or built.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from gptcli.errors import FormatError, TokenizerError

MAX_META_BYTES = 8 * 1024 * 1024
MAX_SHOWN = 60
# A vocabulary rounded up for speed has at most this many rows that stand for nothing.
MAX_PADDING = 1023

VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "INT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"}
PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
GETS = {"GET", "BINGET", "LONG_BINGET"}
FRAMES = {"PROTO", "FRAME", "STOP"}
MARK = object()


class Alphabet(NamedTuple):
    """The character behind each id, "" for the end of a text, and what a user should know about where it is from."""

    characters: tuple[str, ...]
    notes: tuple[str, ...]


def find_alphabet(
    checkpoint: Path, dataset: str | None, vocab_size: int, texts: Callable[[], Iterator[str]] | None
) -> Alphabet:
    """Find the characters of a checkpoint: in a ``meta.pkl``, else in the ``input.txt`` beside it, else in ``texts``.

    A ``meta.pkl`` may have up to 1,023 characters fewer than ``vocab_size``, which pads; a text has to have exactly as
    many. Raises ``TokenizerError`` that says where it looked and what was wrong there.
    """
    missing: list[str] = []
    refused: list[str] = []
    folders = _data_folders(checkpoint, dataset)
    for path in (folder / "meta.pkl" for folder in folders):
        if not path.exists():
            missing.append(f"{path}: there is no such file.")
            continue
        characters = _try(read_meta, path, refused)
        if characters and 0 <= vocab_size - len(characters) <= MAX_PADDING:
            return Alphabet(characters, (f"The {len(characters)} characters come from {path}.",))
        if characters:
            refused.append(f"{path}: it has {len(characters):,} characters.")
    found = [(str(path), _try(_characters_of_file, path, missing)) for path in (f / "input.txt" for f in folders)]
    if texts is not None:
        found.append(("the corpus", _sorted_characters(texts())))
    for where, characters in found:
        if characters and len(characters) == vocab_size:
            note = (
                f"No meta.pkl could be used: the {vocab_size} characters are those of {where}, numbered by their code "
                "points as nanoGPT's prepare.py does. Samples in gibberish mean that it was trained on another text."
            )
            return Alphabet(characters, (*refused, note))
        if characters:
            missing.append(f"{where}: it has {len(characters):,} characters.")
    listed = "\n".join(f"  {problem}" for problem in (*refused, *missing))
    raise TokenizerError(
        f"{checkpoint}: {vocab_size:,} tokens are not GPT-2's vocabulary, and the characters were not found:\n{listed}",
        f"Copy nanoGPT's data/{dataset or 'DATASET'}/meta.pkl, or the input.txt it was made of, beside {checkpoint}.",
    )


def _data_folders(checkpoint: Path, dataset: str | None) -> list[Path]:
    """Return where nanoGPT's data may lie: beside the checkpoint, or in ``data/`` of its or the working folder."""
    folders = [checkpoint.parent]
    if dataset and not Path(dataset).is_absolute() and ".." not in Path(dataset).parts:
        inside = Path("data") / dataset
        folders += [checkpoint.absolute().parent.parent / inside, inside]
    return folders


def _try(read: Callable[[Path], tuple[str, ...]], path: Path, problems: list[str]) -> tuple[str, ...]:
    """Return the characters of a file, or none and why."""
    try:
        return read(path)
    except FormatError as error:
        problems.append(error.message)
        return ()


def _characters_of_file(path: Path) -> tuple[str, ...]:
    """Return the sorted characters of a text; its line ends become ``\\n``, as nanoGPT reads them."""
    try:
        with path.open(encoding="utf-8") as file:
            return _sorted_characters(iter(lambda: file.read(1 << 20), ""))
    except FileNotFoundError as error:
        raise FormatError(f"{path}: there is no such file.") from error
    except OSError as error:
        raise FormatError(f"{path}: it cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: it is not UTF-8 text.") from error


def _sorted_characters(texts: Iterator[str]) -> tuple[str, ...]:
    found: set[str] = set()
    for text in texts:
        found.update(text)
    return tuple(sorted(found))


def read_meta(path: Path) -> tuple[str, ...]:
    """Return the characters of a ``meta.pkl`` by their ids; raises ``FormatError`` for anything but such a file."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_META_BYTES + 1)
    except OSError as error:
        raise FormatError(f"{path}: it cannot be read ({error.strerror}).") from error
    if len(data) > MAX_META_BYTES:
        raise FormatError(f"{path}: it is larger than {MAX_META_BYTES:,} bytes, so it was not read.")
    try:
        return _characters(plain_pickle(data))
    except ValueError as error:
        raise FormatError(f"{path}: it was not read, because {error}.") from error


def plain_pickle(data: bytes) -> object:
    """Return the dictionaries, strings and integers of a pickle; raises ``ValueError`` for one that holds more."""
    stack: list[object] = []
    marks: list[int] = []
    memo: dict[object, object] = {}
    try:
        for opcode, argument, _ in pickletools.genops(data):
            _apply(opcode.name, argument, stack, marks, memo)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise ValueError(str(error) if isinstance(error, _RefusedError) else "it is no whole pickle") from error
    if len(stack) != 1 or stack[0] is MARK:
        raise ValueError("it is no whole pickle")
    return stack[0]


class _RefusedError(ValueError):
    """The pickle is one, but not of plain data."""


def _apply(name: str, argument: object, stack: list[object], marks: list[int], memo: dict[object, object]) -> None:
    """Do what one opcode says; ``marks`` are the positions of ``MARK`` on the stack."""
    if name in VALUES:
        stack.append(argument)
    elif name in PUTS:
        memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
    elif name in GETS:
        stack.append(memo[argument])
    elif name == "MARK":
        marks.append(len(stack))
        stack.append(MARK)
    elif name == "EMPTY_DICT":
        stack.append({})
    elif name in ("SETITEM", "SETITEMS", "DICT"):
        _fill(stack, len(stack) - 2 if name == "SETITEM" else marks.pop() + 1, name)
    elif name not in FRAMES:
        wanted = _shown(argument).replace(" ", ".") if name in ("GLOBAL", "INST") else ""
        if name == "STACK_GLOBAL":
            wanted = ".".join(_shown(part) for part in stack[-2:])
        raise _RefusedError(f"it asks for {wanted!r}" if wanted else f"it holds more than plain data ({name})")


def _shown(value: object) -> str:
    """Return the beginning of a value; a dictionary may hold itself or be endless, so only its type is told."""
    if isinstance(value, str):
        return value[:MAX_SHOWN]
    return str(value)[:MAX_SHOWN] if isinstance(value, int) else f"a {type(value).__name__}"


def _fill(stack: list[object], start: int, name: str) -> None:
    """Put the keys and values from ``start`` on into the dictionary below them, or into a new one."""
    items = stack[start:]
    del stack[start if name == "SETITEM" else start - 1 :]
    if name == "DICT":
        stack.append({})
    target = stack[-1]
    # Larger whole numbers can be chosen so that a dictionary of them takes hours to fill.
    plain_keys = all(isinstance(key, str) or (isinstance(key, int) and 0 <= key < 1 << 31) for key in items[::2])
    if not isinstance(target, dict) or len(items) % 2 or not plain_keys or any(item is MARK for item in items):
        raise ValueError("no dictionary of plain keys")
    target.update(zip(items[::2], items[1::2], strict=True))


def _characters(meta: object) -> tuple[str, ...]:
    """Return the characters by id; raises ``ValueError`` where ``meta`` is not what prepare.py writes."""
    itos = meta.get("itos") if isinstance(meta, dict) else None
    if not isinstance(meta, dict) or not isinstance(itos, dict) or not itos:
        raise ValueError("it has no itos, the characters by their ids")
    if set(itos) != set(range(len(itos))):
        raise ValueError("its ids are not 0, 1, 2 ...")
    characters = tuple(itos[token_id] for token_id in range(len(itos)))
    for character in characters:
        if not isinstance(character, str) or len(character) > 1 or "\ud800" <= character <= "\udfff":
            raise ValueError(f"a token of it is no character: {_shown(character)!r}")
    if len(set(characters)) != len(characters) or not any(characters):
        raise ValueError("it has a character twice")
    stoi = {character: token_id for token_id, character in enumerate(characters) if character}
    if meta.get("stoi", stoi) != stoi or meta.get("vocab_size", len(characters)) != len(characters):
        raise ValueError("its itos, stoi and vocab_size contradict each other")
    return characters


def meta_pickle(characters: tuple[str, ...]) -> bytes:
    """Return the ``meta.pkl`` of characters by their ids, as ``pickle.load`` reads it; "" is the end of a text."""
    itos = b"".join(_integer(token_id) + _text(character) for token_id, character in enumerate(characters))
    stoi = b"".join(_text(character) + _integer(token_id) for token_id, character in enumerate(characters) if character)
    content = _text("vocab_size") + _integer(len(characters))
    content += _text("itos") + _dictionary(itos) + _text("stoi") + _dictionary(stoi)
    return b"\x80\x02" + _dictionary(content) + b"."


def _dictionary(items: bytes) -> bytes:
    return b"}(" + items + b"u"


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)
