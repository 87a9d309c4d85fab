"""The main text of a web page: what its author wrote there, without what the site puts around it.

trafilatura judges what is main text. Its judgement is laid over the page again, so that code, lists and line breaks are
as in the page, and lists and quotes between or right after what it kept are kept too. Asks no server.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gptcli.fetch.facts import PageFacts, tree_facts
from gptcli.fetch.html import (
    CELLS,
    LINES,
    PARAGRAPHS,
    SILENT,
    html_to_text,
    is_data_row,
    parse_whole,
    tree_text,
    without_tags,
)

# A page above this is a book: its text is taken whole.
MAX_JUDGED_CHARS = 1_500_000
# Judging takes time and memory by the element, and by how deep each of them is nested.
MAX_JUDGED_TAGS = 50_000
MAX_JUDGED_DEPTH = 200
# A block with this many letters is told apart from others by its words.
SOLID = 20
# A block with more of its letters in links than this is a menu or a list of other posts.
LINK_SHARE = 0.5
# The element that holds this share of what trafilatura kept is the text, and the rest of the page is not.
MAIN_SHARE = 0.8
# A title is looked for in so many lines.
HEAD_LINES = 40
# Pages of which trafilatura keeps less than this share of what is not chrome are threads and long reads it misjudges:
# on 511 real pages none of those that it judged well is below 0.3.
KEPT_SHARE = 0.25
# Below this share of trafilatura's text found again in the page, its text is taken as it is.
FOUND_SHARE = 0.7

BLOCKS = PARAGRAPHS | LINES | CELLS
CHROME = frozenset({"nav", "aside", "footer", "form", "button", "dialog", "menu"})
PROSE = frozenset({"p", "pre", "ul", "ol", "blockquote", "dl", "h1", "h2", "h3", "h4", "h5", "h6", "table", "center"})
PARTS = frozenset({"li", "pre", "td", "th", "dt", "dd", "blockquote"})
_CHROME_NAMES = re.compile(
    r"(?:^|[\s_-])(?:share|sharing|sharedaddy|social|addtoany|addthis|related|relatedposts|recommended|comments?"
    r"|commentlist|respond|disqus|newsletter|subscribe|subscription|sign-?up|breadcrumbs?|sidebar|widgets?|navigation"
    r"|pagination|pager|nav|navbar|menu|footer|byline|cookies?|consent|promo|adverts?|advertisement|ads?|sponsor|popup"
    r"|modal|tags|tag-?links|cat-?links|meta|author-?(?:bio|box|info)|about-?author|likes?|screen-reader-text|sr-only"
    r"|visually-hidden|skip-link|toc|print|copy|copyright|rating|votes?|toolbar|banner|outbrain|taboola|donate"
    r"|feedback|read-?next|more-?posts|latest|gutter|linenos?|line-numbers|lineno)(?:$|[\s_-])",
    re.IGNORECASE,
)
_CODE_NAMES = re.compile(r"highlight|rouge|code|lineno", re.IGNORECASE)
_NOT_LETTERS = re.compile(r"[\W_]+")
_DASHES = r"\u2013\u2014"
_SEPARATOR = re.compile(rf"\s+[{_DASHES}|·•:»«-]+\s+")
_MARKS = " |·•:»«\u2013\u2014-"
_BYLINE = re.compile(
    r"(?:(?:posted|published|written|updated|last\s+updated|by|on|in|at|min|mins|minutes?|read|reading\s+time|date"
    r"|comments?|words|\d|[ap]m|mon|tue|wed|thu|fri|sat|sun|(?:mon|tues|wednes|thurs|fri|satur|sun)day"
    r"|jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\b[\s,.:;|/·•()~\u2013\u2014-]*)+",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Extracted:
    """The main text of a page and what the page says of it; "" where it says nothing, ``date`` in ISO 8601."""

    text: str
    title: str = ""
    author: str = ""
    date: str = ""
    language: str = ""
    licence: str = ""


@dataclass(slots=True)
class _Run:
    """Words that stand in one block of a page without a break: ``links`` of its ``letters`` are links.

    ``nodes`` are the elements whose text, or with True the text after them, it is made of.
    """

    element: Any
    nodes: list[tuple[Any, bool]]
    letters: str = ""
    links: int = 0
    kept: bool = False


def extract(html: str, url: str) -> Extracted:
    """Return the main text of the page at ``url``, without its title, and what it says of itself.

    A page that is one long text comes whole. Where nothing looks like main text, it is all text but menus and forms.
    """
    from lxml import etree

    try:
        tree, whole = parse_whole(html)
        if tree is not None:
            return _extracted(html, url, tree, whole=whole)
    except (etree.LxmlError, ValueError, RecursionError):
        whole = False
    return Extracted("" if whole else without_tags(html))


def _extracted(html: str, url: str, tree: Any, *, whole: bool) -> Extracted:  # noqa: ANN401
    facts = tree_facts(tree, url)
    judged = None
    if _is_judged(html, tree):
        judged = _judge(tree, url)
        title = _title(tree, facts, {_letters(line) for line in tree_text(tree).split("\n")})
        text = _main_text(tree, _runs(tree), (judged.text if judged else "") or "") or html_to_text(html)
    else:
        text = tree_text(tree) if whole else without_tags(html)
        title = _title(tree, facts, {_letters(line) for line in text.split("\n")})
    author = facts.author or ((judged.author if judged else "") or "")
    return Extracted(
        text=_without_head(text, title, author),
        title=title,
        author=author,
        date=facts.date or ((judged.date if judged else "") or ""),
        language=facts.language,
        licence=facts.licence,
    )


def _is_judged(html: str, tree: Any) -> bool:  # noqa: ANN401
    """Say whether a page is small enough to look for its main text."""
    from lxml import etree

    if len(html) > MAX_JUDGED_CHARS or html.count("<") > MAX_JUDGED_TAGS:
        return False
    depth = 0
    for event, _ in etree.iterwalk(tree, events=("start", "end")):
        depth += 1 if event == "start" else -1
        if depth > MAX_JUDGED_DEPTH:
            return False
    return True


def _judge(tree: Any, url: str) -> Any:  # noqa: ANN401 - trafilatura and lxml are imported inside functions only
    """Return what trafilatura makes of a page, or None."""
    from lxml import etree
    from trafilatura import bare_extraction

    for name in ("trafilatura", "htmldate", "courlan", "justext"):
        if not (logger := logging.getLogger(name)).handlers:
            logger.addHandler(logging.NullHandler())
    _unwrap_tables(tree)
    html = etree.tostring(tree, encoding="unicode", method="html")
    try:
        return bare_extraction(
            html,
            url=url,
            favor_recall=True,
            include_comments=False,
            with_metadata=True,
            # No guessing from a copyright line.
            date_extraction_params={"extensive_search": False, "original_date": True},
        )
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, AssertionError, RecursionError):
        return None


def _unwrap_tables(tree: Any) -> None:  # noqa: ANN401
    """Turn tables that only lay out a page into blocks."""
    for table in list(tree.iter("table")):
        if _CODE_NAMES.search(table.get("class") or "") or all(is_data_row(row) for row in table.iter("tr")):
            continue
        for element in list(table.iter("table", "tbody", "thead", "tr", "td", "th")):
            element.tag = "div"


def _main_text(tree: Any, runs: list[_Run], judged: str) -> str:  # noqa: ANN401
    """Return the text of those runs of a page that are main text by the judgement and by their place."""
    wanted = _letters(judged)
    body = next(tree.iter("body"), tree)
    plain = [run for run in runs if not _is_menu(run) and not is_chrome(run.element, body)]
    if len(wanted) < KEPT_SHARE * sum(len(run.letters) for run in plain):
        for run in plain:
            run.kept = True
    else:
        for run in runs:
            run.kept = run.letters in wanted
        found = sum(len(run.letters) for run in runs if run.kept)
        top = _main_element(tree, runs)
        if top is None or found < FOUND_SHARE * len(wanted):
            return judged
        _choose(runs, top)
    for run in runs:
        for element, after in () if run.kept else run.nodes:
            setattr(element, "tail" if after else "text", None)
    return tree_text(tree)


def _runs(tree: Any) -> list[_Run]:  # noqa: ANN401
    """Return the runs of words of a page; blocks and two ``<br>`` in a row end one."""
    from lxml import etree

    found = [_Run(tree, [])]
    above = [tree]
    links = breaks = 0
    walk = etree.iterwalk(tree, events=("start", "end"))
    for event, element in walk:
        tag, starts = element.tag, event == "start"
        if tag in BLOCKS and element is not tree:
            above.append(element) if starts else above.pop()
            found.append(_Run(above[-1], []))
        links += (tag == "a") * (1 if starts else -1)
        breaks += tag == "br" and starts
        if starts and (tag in SILENT or element.get("hidden") is not None):
            walk.skip_subtree()
            continue
        text = element.text if starts else element.tail if element is not tree else None
        if text and not text.isspace():
            if breaks > 1:
                found.append(_Run(above[-1], []))
            breaks, letters = 0, _letters(text)
            found[-1].nodes.append((element, not starts))
            found[-1].letters += letters
            found[-1].links += len(letters) if links else 0
    return [run for run in found if run.nodes]


def _main_element(tree: Any, runs: list[_Run]) -> Any:  # noqa: ANN401
    """Return the smallest element that holds most of what is kept, or None where nothing is."""
    weights: dict[Any, int] = {}
    for run in runs:
        if run.kept and len(run.letters) >= SOLID:
            for element in (run.element, *run.element.iterancestors()):
                weights[element] = weights.get(element, 0) + len(run.letters)
    if not weights:
        return None
    enough = MAIN_SHARE * weights[tree]
    top = tree
    while (inner := next((child for child in top if weights.get(child, 0) >= enough), None)) is not None:
        top = inner
    return next((element for element in _up_to(top, tree) if element.tag in BLOCKS), tree)


def _choose(runs: list[_Run], top: Any) -> None:  # noqa: ANN401
    """Decide about each run by where the main element ``top`` is: outside of it only what is surely text stays."""
    inside = [run for run in runs if run.element is top or top in run.element.iterancestors()]
    _choose_inside(inside, top)
    known = {run.letters for run in inside}
    members = {id(run) for run in inside}
    for run in runs:
        if id(run) not in members:
            run.kept = run.kept and len(run.letters) >= SOLID and run.letters not in known and not _is_menu(run)
            known.add(run.letters)


def _choose_inside(inside: list[_Run], top: Any) -> None:  # noqa: ANN401
    """Decide about the runs of the main element: lists, code and quotes that were left out of the text are kept."""
    solid = [number for number, run in enumerate(inside) if run.kept and len(run.letters) >= SOLID]
    first, last = solid[0], solid[-1]
    kinds = {_kind(_branch(inside[number].element, top)) for number in solid}
    bodies = _bodies([inside[number].element for number in solid], top)
    ended = False
    for number, run in enumerate(inside):
        chrome = is_chrome(run.element, top)
        whole = not chrome and any(element in bodies for element in _up_to(run.element, top))
        ended = ended or (number > last and not whole and (chrome or _is_menu(run) or _is_heading(run)))
        if run.kept:
            run.kept = whole or len(run.letters) >= SOLID or (not chrome and first <= number <= last)
        elif not (chrome or ended or _is_menu(run)):
            run.kept = whole or run.element is top or _belongs(run, _branch(run.element, top), kinds, number < first)
    for run in reversed(inside):
        if run.kept and not _is_menu(run):
            break
        run.kept = False


def _bodies(elements: list[Any], top: Any) -> set[Any]:  # noqa: ANN401
    """Return those elements around kept runs that are texts and nothing else: all in them is prose or chrome."""
    judged: dict[Any, bool] = {}
    for element in elements:
        for above in _up_to(element, top):
            if above not in judged:
                judged[above] = all(_is_prose(child) or is_chrome(child, above) for child in above)
    return {element for element, whole in judged.items() if whole}


def _is_prose(element: Any) -> bool:  # noqa: ANN401
    """Say whether an element is a piece of text as authors write it, or stands in a line of it."""
    if (
        element.tag in PROSE
        or element.tag == "hr"
        or element.tag not in BLOCKS
        or next(element.iter("pre"), None) is not None
    ):
        return True
    named = element.get("class") or element.get("id")
    return (
        element.tag == "div"
        and not named
        and all(child.tag not in BLOCKS for child in element.iter() if child is not element)
    )


def _belongs(run: _Run, branch: Any, kinds: set[tuple[str, str]], before: bool) -> bool:  # noqa: ANN401
    """Say whether a run that trafilatura left out is text, by what kind of thing beside the text it stands in."""
    if not _is_prose(branch) and _kind(branch) not in kinds:
        return False
    if before:
        return len(run.letters) >= 2 * SOLID and branch.tag in {"p", "pre", "blockquote", "ul", "ol"}
    return run.element.tag in PARTS or len(run.letters) >= SOLID or _is_heading(run)


def _branch(element: Any, top: Any) -> Any:  # noqa: ANN401
    """Return the child of ``top`` that an element stands in, or the element where that is ``top``."""
    while element is not top and (parent := element.getparent()) is not top:
        element = parent
    return element


def _kind(element: Any) -> tuple[str, str]:  # noqa: ANN401
    return element.tag, element.get("class") or ""


def is_chrome(element: Any, top: Any) -> bool:  # noqa: ANN401
    """Say whether an element belongs to what sites put into their texts, by what it is called."""
    while element is not None and element is not top:
        names = f"{element.get('class') or ''} {element.get('id') or ''}"
        if element.tag in CHROME or (names != " " and _CHROME_NAMES.search(names)):
            return True
        element = element.getparent()
    return False


def _up_to(element: Any, top: Any) -> Iterator[Any]:  # noqa: ANN401
    """Yield an element and those around it, up to and with ``top``."""
    while element is not None:
        yield element
        element = None if element is top else element.getparent()


def _is_heading(run: _Run) -> bool:
    return run.element.tag in {"h1", "h2", "h3", "h4", "h5", "h6"}


def _is_menu(run: _Run) -> bool:
    return run.links > LINK_SHARE * len(run.letters)


def _letters(text: str) -> str:
    return _NOT_LETTERS.sub("", text)


def _title(tree: Any, facts: PageFacts, texts: set[str]) -> str:  # noqa: ANN401
    """Return the title of a page without the name of its site, which ``<title>`` often holds too.

    ``texts`` are the letters of each line of the page, to tell its title from the name of its site.
    """
    whole, site = facts.title, facts.site_name
    for heading in tree.iter("h1", "h2"):
        words = " ".join("".join(heading.itertext()).split())
        if len(words) > 3 and words != site and words in whole:
            return words
    parts = _SEPARATOR.split(whole)
    if len(parts) > 1 and site in {parts[0], parts[-1]}:
        return whole.removeprefix(site).removesuffix(site).strip(_MARKS)
    return next((part for part in (whole, parts[0], parts[-1]) if part != site and _letters(part) in texts), whole)


def _without_head(text: str, title: str, author: str) -> str:
    """Leave out the title at the head of a text with all before it, and the lines of dates and names after it."""
    lines = text.split("\n")
    wanted = _letters(title).lower()
    before = 0
    for number, line in enumerate(lines[:HEAD_LINES]):
        words = _letters(line).lower()
        if words and before < len(text) / 4 and (words == wanted or (len(words) > SOLID and wanted.startswith(words))):
            lines = lines[number + 1 :]
            break
        before += len(line)
    while lines and (not lines[0].strip() or _is_byline(lines[0], author)):
        lines.pop(0)
    return "\n".join(lines).rstrip()


def _is_byline(line: str, author: str) -> bool:
    words = line.replace(author, " ").strip() if author else line.strip()
    return len(line) < 100 and (
        not words or bool(_BYLINE.fullmatch(re.sub(r"\d+(?:st|nd|rd|th)?", " 1 ", words).strip()))
    )
