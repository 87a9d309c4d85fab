"""HTML to plain text, whole: every visible word once, blocks on lines of their own, no tag left.

Knows nothing of the web, and does not judge what of a page is its main text; `extract` does that.
"""

from __future__ import annotations

import itertools
import re
from html import unescape
from html.entities import html5
from typing import Any

from gptcli.documents import well_formed

# No page that people read has more tags; a tree takes some 130 bytes for each, however short, so none is made.
MAX_TAGS = 500_000
# Elements whose content nobody reads as text. Not <head>: where <body> is left out, the parser puts <article> there.
SILENT = frozenset(
    {
        *("title", "script", "style", "template", "noscript", "svg", "iframe", "object", "embed", "applet", "canvas"),
        *("audio", "video", "map", "textarea", "select", "datalist", "button", "annotation", "annotation-xml"),
    }
)
# A blank line around these, a line break around those.
PARAGRAPHS = frozenset(
    {
        *("p", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "pre", "listing", "xmp", "ul", "ol", "dl", "menu"),
        *("dir", "table", "figure", "section", "article", "header", "footer", "main", "aside", "nav", "form", "hr"),
        *("fieldset", "details"),
    }
)
LINES = frozenset(
    {
        *("html", "body", "div", "center", "li", "dt", "dd", "tr", "caption", "figcaption", "address", "summary"),
        *("legend", "option"),
    }
)
VERBATIM = frozenset({"pre", "listing", "xmp"})
LISTS = frozenset({"ul", "ol", "menu", "dir"})
CELLS = frozenset({"td", "th"})
# Images that stand for characters.
GLYPH_CLASSES = frozenset({"emoji", "wp-smiley", "latex"})

_TAG_NAMES = (
    "a|abbr|article|b|big|blockquote|body|br|center|cite|code|dd|del|div|dl|dt|em|figcaption|figure|font|h[1-6]|head"
    "|header|hr|html|i|iframe|img|ins|kbd|li|mark|ol|p|pre|q|s|samp|script|section|small|span|strike|strong|style|sub"
    "|sup|table|tbody|td|th|thead|tr|tt|u|ul|var|video"
)
# Attributes need a value, so that "if a<b and c>d" is no tag.
_TAG = re.compile(
    rf"""<(?:/(?:{_TAG_NAMES})|(?:{_TAG_NAMES})(?:\s+[\w:-]+\s*=\s*(?:"[^"]*"|'[^']*'|[^\s<>"']+))*)\s*/?>""",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_MARKUP = re.compile(r"<[A-Za-z/!?]")
_BLOCK = re.compile(
    rf"<(?:{'|'.join(sorted((PARAGRAPHS | LINES | CELLS | {'br'}) - {'html', 'body'}))})[\s/>]", re.IGNORECASE
)
_PIECE = re.compile(r"<(!--|/?[A-Za-z]*)([^<]*)")
_SPACE = re.compile(r"[ \t\n\r\f\v\xa0]+")
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f\xad\u200b\ufeff]")


def looks_like_html(text: str) -> bool:
    """Say whether a text holds tags or entities of HTML; ``a < b``, ``List<String>`` and ``AT&T`` do not count."""
    if "<" in text and _TAG.search(text):
        return True
    return "&" in text and any(found[1] == "#" or found[1:] in html5 for found in _ENTITY.findall(text))


def html_to_text(html: str) -> str:
    """Return the visible text of a page or of a piece of HTML, however broken.

    Paragraphs, headings and other blocks have a blank line between them, ``<br>`` is a newline, list items begin with
    ``- ``, the cells of a table row are joined by `` | ``, and ``<pre>`` is kept as it is. Elsewhere runs of
    whitespace are one space, non-breaking ones too; where there is no block at all, newlines are kept. A text without
    any tag has its entities decoded and stays as it is otherwise.
    """
    if not _MARKUP.search(html):
        return _INVISIBLE.sub("", unescape(html)) if "&" in html else html
    tree, whole = parse_whole(html)
    if not whole:
        return without_tags(html)
    return "" if tree is None else tree_text(tree, newlines=not _BLOCK.search(html))


def parse_html(html: str) -> Any:  # noqa: ANN401 - lxml is imported inside functions only
    """Return the tree that lxml makes of a page or piece of HTML, without comments; None when it holds nothing.

    What is nested more than 2,000 elements deep is cut off, and of more than ``MAX_TAGS`` tags no tree is made.
    """
    return parse_whole(html)[0]


def parse_whole(html: str) -> tuple[Any, bool]:
    """Return the tree as `parse_html` does, and whether it is the whole of the page."""
    from lxml import etree

    if html.count("<") > MAX_TAGS:
        return None, False
    # As bytes: lxml refuses a str whose XML declaration names an encoding, and believes no <meta> this way.
    parser = etree.HTMLParser(
        encoding="utf-8", huge_tree=True, recover=True, no_network=True, remove_comments=True, remove_pis=True
    )
    try:
        tree = etree.fromstring(well_formed(html).replace("\0", "").encode(), parser)
    except etree.LxmlError:  # nothing but whitespace
        return None, True
    return tree, not any(entry.type_name == "ERR_RESOURCE_LIMIT" for entry in parser.error_log)


def without_tags(html: str) -> str:
    """Return the text of HTML with its tags, comments, scripts and styles left out, in one pass and without a tree."""
    marked = _BLOCK.sub(r"\n\g<0>", html)
    out = [marked.partition("<")[0]]
    ended_by = ""
    for found in _PIECE.finditer(marked):
        name, rest = found[1].lower(), found[2]
        if ended_by == "-->" or name == "!--":
            _, end, after = rest.partition("-->")
            ended_by = "" if end else "-->"
            out.append(after)
        elif ended_by and name != ended_by:
            continue
        elif name.strip("/") or rest[:1] in {"!", "?"}:
            ended_by = f"/{name}" if name in {"script", "style"} else ""
            out.append("" if ended_by else rest.partition(">")[2])
        else:
            out.append(found[0])
    return _INVISIBLE.sub("", unescape("".join(out))).strip()


def tree_text(tree: Any, *, newlines: bool = False) -> str:  # noqa: ANN401
    """Return the visible text below an element as `html_to_text` does; with ``newlines``, they are kept as breaks."""
    from lxml import etree

    text = _Text(newlines=newlines)
    walk = etree.iterwalk(tree, events=("start", "end"))
    skipped = False
    for event, element in walk:
        if event == "start":
            if element.tag in SILENT or element.get("hidden") is not None:
                walk.skip_subtree()
                skipped = True
            else:
                text.open(element)
                text.add(element.text)
            continue
        if not skipped:
            text.close(element.tag)
        skipped = False
        if element is not tree:
            text.add(element.tail)
    return text.result()


class _Text:
    """Text as it is written down while one walks through a tree."""

    def __init__(self, *, newlines: bool) -> None:
        self._newlines = newlines
        self._out: list[str] = []
        self._breaks = 0
        self._space = False
        self._marker = ""
        self._glue = ""
        self._verbatim = 0
        self._lists = 0
        # For each table row that is open: is it one line of data? Else it is there for the layout of the page.
        self._rows: list[bool] = []

    def open(self, element: Any) -> None:  # noqa: ANN401
        """Begin an element."""
        tag = element.tag
        if tag in CELLS:
            self._open_cell()
        elif tag == "tr":
            self._break(1)
            self._rows.append(is_data_row(element))
        elif tag in LISTS:
            self._break(1 if self._lists else 2)
            self._lists += 1
        elif tag in PARAGRAPHS or tag in LINES:
            self._break(2 if tag in PARAGRAPHS else 1)
            if tag == "li":
                self._marker = "  " * (self._lists - 1) + "- "
            self._verbatim += tag in VERBATIM
        elif tag == "br":
            self._newline()
        elif tag == "q":
            self._add_words("\u201c")
        elif tag == "img" and GLYPH_CLASSES & set(element.get("class", "").split()):
            self.add(element.get("alt"))

    def close(self, tag: str) -> None:
        """End an element."""
        if tag == "tr":
            self._rows.pop()
            self._break(1)
        elif tag in LISTS:
            self._lists -= 1
            self._break(1 if self._lists else 2)
        elif tag in PARAGRAPHS or tag in LINES:
            self._break(2 if tag in PARAGRAPHS else 1)
            self._verbatim -= tag in VERBATIM
            self._marker = ""
        elif tag == "q":
            self._add_words("\u201d")

    def add(self, text: str | None) -> None:
        """Add the text between two tags."""
        if not text:
            return
        text = _INVISIBLE.sub("", text)
        if self._verbatim:
            self._add_verbatim(text.replace("\r\n", "\n"))
        elif self._newlines:
            for number, line in enumerate(text.replace("\r\n", "\n").split("\n")):
                if number:
                    self._newline()
                self._add_words(line)
        else:
            self._add_words(text)

    def result(self) -> str:
        """Return what was written, without blank lines around it."""
        return "".join(self._out).strip("\n").rstrip()

    def _add_words(self, text: str) -> None:
        words = _SPACE.sub(" ", text)
        self._space = self._space or words[:1] == " "
        if words := words.strip(" "):
            self._begin()
            self._out.append(words)
            self._space = text[-1].isspace()

    def _add_verbatim(self, text: str) -> None:
        if self._breaks and self._out and self._out[-1].endswith("\n"):  # a block inside of <pre>
            self._breaks = 0
        elif self._breaks:
            text = text.removeprefix("\n")
        if text:
            self._begin()
            self._out.append(text)

    def _begin(self) -> None:
        """Write what stands between the text so far and the words that follow."""
        if self._breaks and self._out:
            self._out[-1] = self._out[-1].rstrip("\n") or self._out[-1]
            self._out.append("\n" * min(self._breaks, 2))
        elif self._glue:
            self._out.append(self._glue)
        elif self._space and self._out:
            self._out.append(" ")
        self._out.append(self._marker)
        self._breaks, self._space, self._glue, self._marker = 0, False, "", ""

    def _open_cell(self) -> None:
        if not self._rows or not self._rows[-1]:
            self._break(2)
        elif self._out and not self._breaks:
            self._glue = " | "

    def _newline(self) -> None:
        if self._verbatim:
            self._add_verbatim("\n")
        elif self._in_row():
            self._space = True
        else:
            self._breaks += 1

    def _break(self, lines: int) -> None:
        if self._in_row():
            self._space = True
        else:
            self._breaks = max(self._breaks, lines)
            self._space = False

    def _in_row(self) -> bool:
        return bool(self._rows) and self._rows[-1]


def is_data_row(row: Any) -> bool:  # noqa: ANN401
    """Say whether a table row is one line of data: nothing in its cells is longer than a paragraph."""
    cells = len(row)
    if (
        cells < 2
        or next(row.iter("h1", "h2", "h3", "h4", "table", "ul", "ol", "blockquote", "pre", "hr"), None) is not None
    ):
        return False
    return len(list(itertools.islice(row.iter("p", "div", "br"), cells + 1))) <= cells
