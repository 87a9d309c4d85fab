"""What the header of a Project Gutenberg text says of the work: title, author, language, date, number, licence.

Reads the headers of all times since 1991. Knows nothing of where the work itself begins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

PUBLIC_DOMAIN = "public domain in the USA (Project Gutenberg)"
COPYRIGHTED = "copyrighted, distributed by Project Gutenberg with permission"
_HEADER_CHARS = 20_000
# A line as long as this went on below because it was full, not because a subtitle begins.
_FULL_LINE = 60

_FIELD = re.compile(
    r"^(Titles?|Authors?|Language|Release Date|Posting Date|Date first posted)[ \t]*:[ \t]*(\S.*(?:\n[ \t]+\S.*)*)",
    re.IGNORECASE | re.MULTILINE,
)
_NUMBER = re.compile(r"\[e-?(?:book|text) ?# ?(\d+)\]", re.IGNORECASE)
_DATE = re.compile(r"\b([A-Z][a-z]{2,8})\.?(?: (\d{1,2}))?,? +(\d{4})\b")
_FIRST_LINE = re.compile(
    r"^\W*(?:the )?project gutenberg(?:['\u2019]s)?(?: e-?(?:text|book)(?: of|,)?)? +(?!is proud)(?P<title>[^\n]+)"
    r"(?P<rest>(?:\n[ \t]*\S[^\n]*)?)",
    re.IGNORECASE | re.MULTILINE,
)
_COPYRIGHTED = re.compile(
    r"this is a copyrighted project gutenberg e-?(?:text|book)|<<\s*this electronic version", re.IGNORECASE
)
_OWNER = re.compile(
    r"\bcopyright[ ,]*(?:\(c\)|©)?[ ,]*(?P<year>\d{4}(?:-\d{4})?)[ ,]+(?:by\s+)?(?P<owner>[^\n.;]{3,60})", re.IGNORECASE
)
_COMMONS = re.compile(r"creativecommons\.org/licenses/([a-z-]+)/(\d\.\d)", re.IGNORECASE)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# Languages as Project Gutenberg writes them, and their BCP 47 codes.
_LANGUAGE_CODES = (
    "afrikaans:af ancient-greek:grc arabic:ar asturian:ast basque:eu breton:br bulgarian:bg catalan:ca cebuano:ceb "
    "chinese:zh czech:cs danish:da dutch:nl english:en esperanto:eo estonian:et farsi:fa finnish:fi french:fr "
    "frisian:fy friulian:fur gaelic:gd galician:gl german:de greek:el hebrew:he hungarian:hu icelandic:is iloko:ilo "
    "interlingua:ia irish:ga italian:it japanese:ja khasi:kha korean:ko latin:la lithuanian:lt maori:mi "
    "middle-english:enm nahuatl:nah norwegian:no occitan:oc old-english:ang persian:fa polish:pl portuguese:pt "
    "romanian:ro russian:ru sanskrit:sa scots:sco serbian:sr slovenian:sl spanish:es swedish:sv tagalog:tl "
    "telugu:te ukrainian:uk welsh:cy yiddish:yi"
)
_LANGUAGES = dict(pair.split(":") for pair in _LANGUAGE_CODES.split())


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a work; ``date`` is the e-book's in ISO 8601, ``language`` BCP 47, ``number`` 0 if unknown.

    Names of several authors are joined by semicolons.
    """

    title: str = ""
    author: str = ""
    language: str = ""
    date: str = ""
    number: int = 0
    licence: str = PUBLIC_DOMAIN


def read_header(header: str, text: str = "") -> Header:
    """Read what stands above the work; ``text``, the whole, is looked through for who owns a copyrighted one."""
    header = header[:_HEADER_CHARS]
    fields: dict[str, list[str]] = {}
    for name, value in _FIELD.findall(header):
        fields.setdefault(name.lower().rstrip("s"), []).append(value)
    title, author = _old_title(header)
    languages = re.split(r",|;| and ", _joined(fields.get("language", [""])[0]).lower())
    released = fields.get("release date") or fields.get("posting date") or fields.get("date first posted") or []
    number = _NUMBER.search(header)
    return Header(
        title=_wrapped(fields["title"][0]) if "title" in fields else title,
        author=_names(fields["author"]) if "author" in fields else author,
        language=_LANGUAGES.get(languages[0].strip().replace(" ", "-"), ""),
        date=_iso_date(released[0] if released else _old_date(header)),
        number=int(number[1]) if number and len(number[1]) < 9 else 0,
        licence=_licence(header, text or header),
    )


def _licence(header: str, text: str) -> str:
    if not _COPYRIGHTED.search(header) and not _COPYRIGHTED.search(text[:_HEADER_CHARS]):
        return PUBLIC_DOMAIN
    if commons := _COMMONS.search(text):
        return f"CC-{commons[1].upper()}-{commons[2]}"
    owner = _OWNER.search(text[: 2 * _HEADER_CHARS])
    if owner is None:
        return COPYRIGHTED
    name = re.split(r",? AND IS\b", " ".join(owner["owner"].split()))[0].strip(" ,*")
    return f"{COPYRIGHTED}: © {owner['year']} {name}"


def _old_title(header: str) -> tuple[str, str]:
    """Read title and author of the first line, the only place where the etexts of the nineties have them."""
    first = _FIRST_LINE.search(header[:2000])
    if first is None:
        return "", ""
    title, rest = (part.strip(" *\t\n") for part in (first["title"], first["rest"]))
    if rest.lower().startswith("by "):
        title, rest = f"{title} {rest}", ""
    elif rest and (title.endswith((",", " by", " of", " the", " and")) or len(title) >= _FULL_LINE):
        title = f"{title} {rest}"
    parts = re.split(r",? +by +", title, flags=re.IGNORECASE)
    author = parts[-1] if len(parts) > 1 else ""
    return (", by ".join(parts[:-1]) or title).strip(" *,."), author.strip(" *,.")


def _old_date(header: str) -> str:
    """Return the line above the work that has a date and the etext's number, as ``March, 1997  [Etext #863]``."""
    lines = (line for line in header.split("\n") if _NUMBER.search(line) and _DATE.search(line))
    return next(lines, "")


def _wrapped(value: str) -> str:
    """Join the lines of a title; a colon stands where a subtitle begins."""
    title, *more = (_joined(line) for line in value.split("\n"))
    if more and len(title) < _FULL_LINE and not more[0][:1].islower() and title[-1:] not in ",;:-":
        title += ":"
    return " ".join([title, *more])


def _names(values: list[str]) -> str:
    return "; ".join(name for value in values for line in value.split("\n") if (name := _joined(line)))


def _joined(value: str) -> str:
    return " ".join(value.split())


def _iso_date(text: str) -> str:
    """Return the first date in the text as precisely as it is given, or nothing."""
    for month, day, year in _DATE.findall(text):
        if month[:3].lower() not in _MONTHS:
            continue
        number = _MONTHS.index(month[:3].lower()) + 1
        try:
            return datetime(int(year), number, int(day or 1)).strftime("%Y-%m-%d" if day else "%Y-%m")  # noqa: DTZ001
        except ValueError:
            continue
    return ""
