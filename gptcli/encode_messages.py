"""Stretches and their tokens as bytes between two of our own processes: JSON, behind it texts and arrays as they are.

Nothing is pickled. Knows neither processes nor files.
"""

from __future__ import annotations

import json
from typing import IO, Any

import numpy as np

from gptcli import errors
from gptcli.copies.index import JobGrams
from gptcli.documents import Span
from gptcli.encode_job import Encoded, Stretch
from gptcli.errors import GptcliError
from gptcli.shards import SplitName
from gptcli.split import Before

# Shorter texts stay in the JSON.
LONG_TEXT = 64
BLOB = "blob"


def write_message(pipe: IO[bytes], value: object) -> None:
    """Write a value of dictionaries, lists, texts, numbers and arrays."""
    blobs: list[bytes] = []
    head = json.dumps(_flat(value, blobs)).encode()
    sizes = np.array([len(blobs), len(head), *map(len, blobs)], "<u8")
    pipe.writelines([sizes.tobytes(), head, *blobs])
    pipe.flush()


def read_message(pipe: IO[bytes]) -> Any:  # noqa: ANN401 - what was written
    """Read a value back, tuples as lists; raises ``EOFError`` where the other side has ended."""
    n_blobs, size = np.frombuffer(_read(pipe, 16), "<u8").tolist()
    sizes = np.frombuffer(_read(pipe, 8 * n_blobs), "<u8").tolist()
    head = json.loads(_read(pipe, size))
    return _full(head, [_read(pipe, size) for size in sizes])


def stretch_from(value: list[Any]) -> Stretch:
    """Return the stretch that was written."""
    span, before, sides, lengths = value
    return Stretch(Span(*span), Before(*before), sides, [(ordinal, length) for ordinal, length in lengths])


def encoded_from(value: dict[SplitName, list[Any]]) -> dict[SplitName, Encoded]:
    """Return the tokens that were written."""
    found: dict[SplitName, Encoded] = {}
    for split, (*rest, grams) in value.items():
        found[split] = Encoded._make((*rest, None if grams is None else JobGrams(*grams)))
    return found


def error_to(error: GptcliError) -> dict[str, str]:
    """Return an error as a value to write."""
    return {"kind": type(error).__name__, "message": error.message, "hint": error.hint}


def error_from(value: dict[str, str]) -> GptcliError:
    """Return the error that was written."""
    kind: type[GptcliError] = getattr(errors, value["kind"], GptcliError)
    return kind(value["message"], value["hint"])


def _flat(value: object, blobs: list[bytes]) -> object:
    """Return what JSON can hold of a value; long texts and arrays go to the blobs."""
    if isinstance(value, np.ndarray):
        blobs.append(value.tobytes())
        return {BLOB: len(blobs) - 1, "dtype": value.dtype.str, "shape": value.shape}
    if isinstance(value, str) and len(value) > LONG_TEXT:
        blobs.append(value.encode("utf-8", "surrogatepass"))
        return {BLOB: len(blobs) - 1}
    if isinstance(value, dict):
        return {key: _flat(inner, blobs) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_flat(inner, blobs) for inner in value]
    return value


def _full(value: object, blobs: list[bytearray]) -> object:
    if isinstance(value, list):
        return [_full(inner, blobs) for inner in value]
    if not isinstance(value, dict):
        return value
    if BLOB not in value:
        return {key: _full(inner, blobs) for key, inner in value.items()}
    blob = blobs[value[BLOB]]
    if "dtype" not in value:
        return blob.decode("utf-8", "surrogatepass")
    return np.frombuffer(blob, np.dtype(value["dtype"])).reshape(value["shape"])


def _read(pipe: IO[bytes], size: int) -> bytearray:
    data = bytearray(pipe.read(size))
    if len(data) < size:
        raise EOFError
    return data
