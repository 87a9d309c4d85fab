"""Records to documents: which fields of a JSON object, a CSV row or a parquet row are the text, the title and so on.

Knows nothing of where records come from, of pages or of files.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timezone
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any

from gptcli.documents import Document, Origin, document, normalize_newlines
from gptcli.errors import SourceError
from gptcli.fetch.html import html_to_text, looks_like_html
from gptcli.fetch.web.urls import join

MAX_DEPTH = 4
MAX_KEYS_SHOWN = 20
MAX_DATE = 40

# What fields are called, the likeliest first, written as `plain_name` writes them.
TEXT_NAMES = (
    *("body", "content", "content_html", "body_html", "html", "content_text", "body_text", "body_markdown"),
    *("markdown", "full_text", "text", "plaintext", "article", "selftext", "story_text", "comment_text", "cooked"),
    *("message", "lyrics", "transcript", "extract"),
)
ROLE_NAMES: Mapping[str, tuple[str, ...]] = {
    "title": ("title", "headline", "name", "subject", "heading"),
    "author": ("author", "authors", "author_name", "creator", "byline", "user", "username", "by"),
    "url": ("html_url", "permalink", "canonical_url", "web_url", "absolute_url", "link", "url", "uri"),
    "date": (
        *("date_published", "published_at", "published", "pub_date", "publication_date", "date", "created_at"),
        *("created", "created_utc", "posted_at", "timestamp", "datetime", "year"),
    ),
    "id": ("id", "rowid", "pk", "uuid", "guid", "key"),
    "language": ("language", "lang"),
    "licence": ("licence", "license"),
}
# Of an object in the place of a text, the part that is the text (WordPress, XML turned into JSON).
_INNER = ("rendered", "html", "value", "text", "$t", "#text")
_PERSON = ("name", "display_name", "login", "username")
_NO_TEXT = re.compile(
    r"https?://\S+|[\w.+-]+@[\w.-]+|[\dT:.,+\-/ Z%]+|[0-9a-fA-F-]{16,}|true|false|null", re.IGNORECASE
)
_CODE_FENCE = re.compile(r"^(```|~~~).*?(?:^\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_PARAGRAPHS = re.compile(r"<(?:p|br|div)\b", re.IGNORECASE)
_OTHER_BLOCKS = re.compile(r"<(?:h[1-6]|ul|ol|pre|blockquote|table|hr)\b", re.IGNORECASE)
_BLANK_LINE = re.compile(r"<(/?)(pre|script|style|textarea)\b|\n[ \t]*\n", re.IGNORECASE)


class NoFieldError(SourceError):
    """The records can be read, but none of their fields is the text; the message lists them."""


@dataclass(frozen=True, slots=True)
class TextFields:
    """Dotted paths into a record; "" where it has none. ``text`` are joined, ``instead`` is read where they are empty.

    The value of ``id`` is different in each record of the sample that they were chosen from; it may be the address.
    """

    text: tuple[str, ...]
    title: str = ""
    author: str = ""
    url: str = ""
    date: str = ""
    id: str = ""
    language: str = ""
    licence: str = ""
    instead: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """All paths that are read."""
        said = (self.title, self.author, self.url, self.date, self.id, self.language, self.licence)
        return tuple(filter(None, (*self.text, self.instead, *said)))

    @property
    def shown(self) -> str:
        """The fields of the text in a sentence."""
        return " and ".join(self.text)


def choose_fields(sample: Sequence[Mapping[str, Any]], wanted: tuple[str, ...], label: str) -> TextFields:
    """Choose the fields of records that look like the sample: ``wanted`` for the text, else by name, else the longest.

    ``label`` names the source in errors. Raises ``NoFieldError`` that lists the fields when a wanted one is in none of
    the records, or none looks like text.
    """
    if wanted:
        absent = [path for path in wanted if not any(has_path(record, path) for record in sample)]
        if absent and sample:
            raise NoFieldError(
                f"{label}: no record has a field {absent[0]!r}. The fields are {shown_fields(sample)}.",
                "Name fields that are there: --text-fields title,body",
            )
        text, instead = wanted, ""
    else:
        text, instead = _guess_text(sample, label)
    roles = _roles(sample, text[0].rpartition(".")[0])
    chosen = TextFields(text, instead=instead, **roles)
    key = next((path for path in (chosen.id, chosen.url) if path and _unique(sample, path)), "")
    return replace(chosen, id=key)


def choose_origin(sample: Sequence[Mapping[str, Any]]) -> TextFields:
    """Choose the fields of records beside their text, which is none of them; people in it are no authors."""
    return replace(TextFields((), **_roles(sample, "")), author="", id="")


def record_document(
    record: Mapping[str, Any], fields: TextFields, *, base_url: str = "", licence: str = ""
) -> Document | None:
    """Make a document of one record; None where its text is null or empty.

    HTML becomes plain text, the record's address is made absolute with ``base_url``. The text may be longer than one
    part: ``document_parts([item.text], **origin_of(item))`` cuts it.
    """
    text = "\n\n".join(filter(None, (clean_text(value_at(record, path), path) for path in fields.text)))
    if not text and fields.instead:
        text = clean_text(value_at(record, fields.instead), fields.instead)
    if not text:
        return None
    return document(text, **record_origin(record, fields, base_url=base_url, licence=licence))


def record_origin(record: Mapping[str, Any], fields: TextFields, *, base_url: str = "", licence: str = "") -> Origin:
    """Return what a record says of itself beside its text, its address made absolute with ``base_url``."""
    link = _one_line(value_at(record, fields.url))
    return Origin(
        title=_one_line(value_at(record, fields.title)),
        author=_person(value_at(record, fields.author)),
        url=(join(base_url, link) or "") if link else "",
        date=_date(value_at(record, fields.date)),
        language=_one_line(value_at(record, fields.language)),
        licence=_one_line(value_at(record, fields.licence)) or licence,
    )


def value_at(record: object, path: str) -> Any:  # noqa: ANN401 - the value of a field has any type
    """Return what is at a dotted path, where numbers index lists; None where there is nothing, or no path."""
    return next(_found(record, path), None) if path else None


def has_path(record: object, path: str) -> bool:
    """Say whether there is anything at the dotted path, null included."""
    return next((True for _ in _found(record, path)), False)


def _found(record: object, path: str) -> Iterator[Any]:
    """Yield what the path may mean: a key may have dots itself, as ``@odata.nextLink`` has."""
    if isinstance(record, Mapping):
        if path in record:
            yield record[path]
        for dot in (match.start() for match in re.finditer(r"\.", path)):
            if path[:dot] in record:
                yield from _found(record[path[:dot]], path[dot + 1 :])
    elif isinstance(record, list):
        head, _, rest = path.partition(".")
        if head.isdecimal() and len(head) < 10 and int(head) < len(record):
            item = record[int(head)]
            yield from _found(item, rest) if rest else iter([item])


def clean_text(value: object, name: str = "") -> str:
    """Return the value of a field as plain text, "" for null; ``name`` may say that it is no HTML."""
    text = normalize_newlines(_text_of(value))
    plain = plain_name(name.rpartition(".")[2])
    if plain in {"content_text", "body_text", "plaintext"}:
        return text.strip()
    if text.lstrip()[:1] != "<" and _CODE_FENCE.search(text):
        return _clean_markdown(text)
    return _from_html(text).strip() if looks_like_html(text) else text.strip()


def _clean_markdown(text: str) -> str:
    """Clean what stands between the code blocks; what is inside them is no HTML of this text."""
    pieces, at = [], 0
    for block in _CODE_FENCE.finditer(text):
        before = text[at : block.start()]
        pieces += [_from_html(before).strip() if looks_like_html(before) else before.strip(), block.group().strip()]
        at = block.end()
    after = text[at:]
    pieces.append(_from_html(after).strip() if looks_like_html(after) else after.strip())
    return "\n\n".join(filter(None, pieces))


def _from_html(text: str) -> str:
    if _OTHER_BLOCKS.search(text) and not _PARAGRAPHS.search(text):
        # Blog systems store such text: blocks as tags, and paragraphs as blank lines.
        text = _with_paragraphs(text)
    return html_to_text(text)


def _with_paragraphs(html: str) -> str:
    pieces, at, inside = [], 0, ""
    for found in _BLANK_LINE.finditer(html):
        closes, tag = found.groups()
        if tag is None and not inside:
            pieces += [html[at : found.start()], "\n<p>"]
            at = found.end()
        elif tag is not None:
            inside = (inside if inside != tag.lower() else "") if closes else inside or tag.lower()
    return "".join([*pieces, html[at:]])


def _text_of(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return ""
    if isinstance(value, (list, tuple)):
        return "\n".join(item for item in value if isinstance(item, str))
    if isinstance(value, Mapping):
        return next((_text_of(value[key]) for key in _INNER if isinstance(value.get(key), str)), "")
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        return ""
    try:
        return str(value) if math.isfinite(value) else ""
    except (ValueError, OverflowError):  # a number of thousands of digits, or none of a decimal's
        return ""


def _one_line(value: object) -> str:
    text = _text_of(value)
    return " ".join((html_to_text(text) if looks_like_html(text) else text).split())


def _person(value: object) -> str:
    """Return the name of a person or of several; numbers that stand for people say nothing."""
    if isinstance(value, (list, tuple)):
        return ", ".join(filter(None, (_person(item) for item in value if not isinstance(item, (list, tuple)))))
    if isinstance(value, Mapping):
        value = next((value[key] for key in _PERSON if isinstance(value.get(key), str)), None)
    return _one_line(value) if isinstance(value, str) and not value.isdecimal() else ""


def _date(value: object) -> str:
    """Return a date as ISO 8601 where it is one, from seconds or milliseconds since 1970 or the form of e-mails too."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 1e8 <= value < 1e13:
        seconds = value / 1000 if value >= 1e11 else value
        return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
    text = _one_line(value)[:MAX_DATE]
    if re.match(r"[A-Z][a-z]{2}, \d|\d{1,2} [A-Z][a-z]{2} \d{4}", text):
        try:
            return parsedate_to_datetime(text).isoformat(timespec="seconds")
        except (ValueError, IndexError, TypeError, OverflowError):
            return text
    return text


def plain_name(name: str) -> str:
    """Write a field's name as the tables above do: ``contentHtml``, ``Content HTML`` are ``content_html``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[\W_]+", "_", spaced).strip("_").lower()


def _guess_text(sample: Sequence[Mapping[str, Any]], label: str) -> tuple[tuple[str, ...], str]:
    """Return the path of the text, and the one that has it where the first is empty."""
    sizes: Counter[str] = Counter()
    for record in sample:
        for path, value in _leaves(record):
            sizes[path] += len(value.strip())
    named = [path for path in sizes if _text_rank(path) < len(TEXT_NAMES)]
    named.sort(key=lambda path: (sizes[path] == 0, path.count("."), _text_rank(path)))
    if named:
        instead = next((path for path in named[1:] if _twins(named[0], path)), "")
        return (named[0],), instead
    texts = [path for path in sizes if sizes[path] and not _is_fact(sample, path)]
    if not texts:
        raise NoFieldError(
            f"{label}: no field of the records looks like text. The fields are {shown_fields(sample)}.",
            "Name the fields that are the text: --text-fields title,body",
        )
    return (max(texts, key=lambda path: sizes[path]),), ""


def _leaves(record: object, prefix: str = "", depth: int = 1) -> Iterator[tuple[str, str]]:
    """Yield the paths in a record that hold strings, with them; null counts as an empty string."""
    for key, value in record.items() if isinstance(record, Mapping) else ():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and depth < MAX_DEPTH:
            yield from _leaves(value, f"{path}.", depth + 1)
        elif value is None or isinstance(value, (str, bytes)) or _is_lines(value):
            yield path, _text_of(value)


def _is_lines(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _text_rank(path: str) -> int:
    """Return how likely the name of a field is one of a text: the lower the likelier."""
    parts = path.split(".")
    if len(parts) > 1 and parts[-1] in _INNER:
        parts.pop()
    name = plain_name(parts[-1])
    return TEXT_NAMES.index(name) if name in TEXT_NAMES else len(TEXT_NAMES)


def _twins(first: str, second: str) -> bool:
    """Say whether a record has its text in either of two fields, as JSON Feed allows."""
    names = {plain_name(first.rpartition(".")[2]), plain_name(second.rpartition(".")[2])}
    return names in ({"content_html", "content_text"}, {"body_html", "body_text"})


def _is_fact(sample: Sequence[Mapping[str, Any]], path: str) -> bool:
    """Say whether a field holds addresses, dates, numbers or keys instead of words."""
    texts = (_text_of(value_at(record, path)).strip() for record in sample)
    return all(_NO_TEXT.fullmatch(text) for text in texts if text)


def _roles(sample: Sequence[Mapping[str, Any]], wrapper: str) -> dict[str, str]:
    """Find the fields of the other roles, beside the text first, else at the top of the record."""
    paths: dict[str, str] = {}
    for prefix in dict.fromkeys((wrapper, "")):
        for record in sample:
            inside = value_at(record, prefix) if prefix else record
            for key in inside if isinstance(inside, Mapping) else ():
                if inside[key] not in (None, ""):
                    paths.setdefault(plain_name(str(key)), f"{prefix}.{key}" if prefix else str(key))
    return {role: next((paths[name] for name in names if name in paths), "") for role, names in ROLE_NAMES.items()}


def _unique(sample: Sequence[Mapping[str, Any]], path: str) -> bool:
    """Say whether a field tells the records apart; one that came twice altogether does not count against it."""
    seen: dict[str, Mapping[str, Any]] = {}
    for record in sample:
        value = value_at(record, path)
        if value is None or isinstance(value, (Mapping, list)) or seen.setdefault(repr(value), record) != record:
            return False
    return True


def shown_fields(sample: Sequence[Mapping[str, Any]]) -> str:
    """Return the names of the fields as a list in a sentence."""
    names = list(dict.fromkeys(str(key) for record in sample for key in record))
    more = f" and {len(names) - MAX_KEYS_SHOWN} more" if len(names) > MAX_KEYS_SHOWN else ""
    return (", ".join(name[:60] for name in names[:MAX_KEYS_SHOWN]) or "none") + more
