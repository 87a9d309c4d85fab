"""Where in a JSON answer the records are, and what they are as objects. Knows nothing of pages, fields or documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from gptcli.errors import SourceError
from gptcli.fetch.records import has_path, value_at

MAX_DEPTH = 3
MAX_KEYS_SHOWN = 20
SAMPLE = 20
# An object with more keys than this is no error, whatever its message says.
MAX_ERROR_KEYS = 6
# A list of strings is taken for texts when they are about a sentence long.
MIN_TEXT_CHARS = 20
LIST_NAMES = frozenset(
    {
        *("rows", "items", "posts", "entries", "articles", "results", "records", "data", "hits", "docs", "documents"),
        *("nodes", "edges", "objects", "children", "list", "values", "value", "stories", "messages", "comments"),
        *("pages", "content", "books", "poems", "quotes", "lyrics"),
    }
)


class _Found(NamedTuple):
    """A place that may hold the records; the greatest is the likeliest."""

    of_objects: bool
    named: bool
    chars: int
    path: str


def find_items(body: object, wanted: str | None, label: str) -> str:
    """Return the dotted path of the list of records in an answer, "" for the answer itself; ``wanted`` is ``--items``.

    Objects by their ids are a list too. Raises ``SourceError`` that shows the keys, or the server's own error.
    """
    refuse_error(body, label)
    if wanted:
        if not has_path(body, wanted):
            raise SourceError(f"{label} has nothing at {wanted!r}. {_keys(body)}", _items_hint(body, label))
        if not _is_listing(value_at(body, wanted), strict=False):
            what = kind_of(value_at(body, wanted))
            raise SourceError(f"{label}: what is at {wanted!r} is {what}, not a list.", _items_hint(body, label))
        return wanted
    if isinstance(body, list) or _is_listing(body):
        return ""
    if not isinstance(body, Mapping):
        raise SourceError(f"{label} is {kind_of(body)}, and a list of records was expected.", "Check the address.")
    _refuse_database(body, label)
    best = max(_places(body), default=None)
    alone = sum(len(value) for value in body.values() if isinstance(value, str))
    if best is None or (not best.named and alone > best.chars):
        refuse_error(body, label, at_all=True)
        raise SourceError(
            f"{label} is a single JSON object, and a list of records was expected. {_keys(body)}",
            _items_hint(body, label),
        )
    return best.path


def records_at(body: object, path: str, label: str) -> tuple[list[Mapping[str, Any]], int]:
    """Return the records at a path as objects, and how many others (numbers, nulls) were left out.

    Rows that are lists take the names of the columns beside them; see ``as_record`` for other elements. Raises
    ``SourceError`` when there is no list there, or the server tells of an error.
    """
    refuse_error(body, label)
    listing = value_at(body, path) if path else body
    if isinstance(listing, Mapping):
        listing = [{"id": key, **value} for key, value in listing.items() if isinstance(value, Mapping)]
    if not isinstance(listing, list):
        refuse_error(body, label, at_all=True)
        raise SourceError(f"{label} has no list at {path or 'its top'!r}, as the first page has. {_keys(body)}")
    parent = path.rpartition(".")[0]
    columns = value_at(body, f"{parent}.columns" if parent else "columns")
    records = [as_record(value, columns) for value in listing]
    kept = [record for record in records if record is not None]
    return kept, len(records) - len(kept)


def as_record(value: object, columns: object = None) -> Mapping[str, Any] | None:
    """Return an element of a list as an object; None for numbers, nulls and truth values.

    A string, or a list of nothing but strings (such as title and body), is one ``text``; the values of other lists
    are called by ``columns``, else by their numbers.
    """
    if isinstance(value, Mapping):
        return value
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, list):
        return None
    if isinstance(columns, list) and len(columns) == len(value):
        return {str(name): item for name, item in zip(columns, value, strict=True)}
    if not all(isinstance(item, str) for item in value):
        return {str(number): item for number, item in enumerate(value)}
    title = value[0] if len(value) == 2 and "\n" not in value[0] else ""
    return {"title": title, "text": "\n\n".join(value)}


def refuse_error(body: object, label: str, *, at_all: bool = False) -> None:
    """Raise ``SourceError`` with the server's own words when the answer is an error of an API.

    With ``at_all``, an error that comes without ``"ok": false`` counts too.
    """
    if not isinstance(body, Mapping) or not (body.get("ok") is False or at_all):
        return
    names = ("error", "errors", "message", "detail") if len(body) <= MAX_ERROR_KEYS else ("error", "errors")
    for words in (_words(body.get(name)) for name in names):
        if words:
            raise SourceError(f"{label} answered with an error: {words[:300].rstrip('.')}.", "Check the address.")
    if body.get("ok") is False:
        raise SourceError(f"{label} answered with an error. {_keys(body)}", "Check the address.")


def _refuse_database(body: Mapping[str, Any], label: str) -> None:
    tables = body.get("tables")
    if not isinstance(body.get("database"), str) or not isinstance(tables, list) or "rows" in body:
        return
    names = [str(table["name"]) for table in tables if isinstance(table, Mapping) and "name" in table]
    raise SourceError(
        f"{label} is a whole database of Datasette; its tables are {', '.join(names[:MAX_KEYS_SHOWN]) or 'none'}.",
        f"Fetch one of them: gptcli fetch {label.partition('?')[0].removesuffix('.json')}/TABLE.json",
    )


def kind_of(value: object) -> str:
    """Return what a JSON value is, for a sentence."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    kinds: dict[type, str] = {str: "a text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)


def _words(error: object) -> str:
    if isinstance(error, list) and error:
        error = error[0]
    if isinstance(error, Mapping):
        error = next((error[name] for name in ("message", "detail", "title") if error.get(name)), "")
    return " ".join(error.split()) if isinstance(error, str) else ""


def _places(body: Mapping[str, Any], prefix: str = "", depth: int = 1) -> Iterator[_Found]:
    for key, value in body.items():
        path = f"{prefix}{key}"
        if key in {"error", "errors"}:
            continue
        if _is_listing(value, "columns" in body or key in LIST_NAMES):
            elements = list(value.values() if isinstance(value, Mapping) else value[:SAMPLE])
            chars = sum(_chars(element) for element in elements[:SAMPLE])
            yield _Found(not isinstance(elements[0], str) if elements else False, key in LIST_NAMES, chars, path)
        elif isinstance(value, Mapping) and depth < MAX_DEPTH:
            yield from _places(value, f"{path}.", depth + 1)
        elif value == [] and key in LIST_NAMES:
            yield _Found(of_objects=False, named=True, chars=0, path=path)


def _is_listing(value: object, columns: bool = False, *, strict: bool = True) -> bool:
    """Say whether a value may be the records; ``strict`` is for values that nobody has pointed at."""
    if isinstance(value, list):
        head = value[:SAMPLE]
        rows = columns or not strict
        if any(isinstance(item, Mapping) or (rows and isinstance(item, list)) for item in head):
            return True
        texts = [item for item in head if isinstance(item, str)]
        return not strict or (bool(texts) and sum(map(len, texts)) >= MIN_TEXT_CHARS * len(head))
    if not isinstance(value, Mapping) or not value or not all(isinstance(item, Mapping) for item in value.values()):
        return False
    if not strict or all(str(key).isdecimal() for key in value):
        return True
    shared = set.intersection(*(set(item) for item in value.values()))
    return len(value) > 1 and len(shared) > 1


def _chars(value: object, depth: int = 1) -> int:
    """Return how much text a record holds."""
    if isinstance(value, str):
        return len(value)
    if depth > MAX_DEPTH or not isinstance(value, (Mapping, list)):
        return 0
    return sum(_chars(item, depth + 1) for item in (value.values() if isinstance(value, Mapping) else value))


def _keys(body: object) -> str:
    if not isinstance(body, Mapping):
        return f"It is {kind_of(body)}."
    names = [f"{str(key)[:60]} ({kind_of(value)})" for key, value in list(body.items())[:MAX_KEYS_SHOWN]]
    more = f" and {len(body) - MAX_KEYS_SHOWN} more" if len(body) > MAX_KEYS_SHOWN else ""
    return f"Its keys are {', '.join(names)}{more}." if names else "It has no keys."


def _items_hint(body: object, label: str) -> str:
    found = (
        next((str(key) for key, value in body.items() if isinstance(value, list)), "")
        if isinstance(body, Mapping)
        else ""
    )
    return f"Say where the list is, by a dotted path: gptcli fetch {label} --items {found or 'data.items'}"
