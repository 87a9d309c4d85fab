"""How blogs dress their posts: the pages in ``themes`` around one and the same body, which is known."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template

FOLDER = Path(__file__).parent / "themes"
THEMES = tuple(sorted(path.stem for path in FOLDER.glob("*.html")))
LICENCE = "https://creativecommons.org/licenses/by/4.0/"


@dataclass(frozen=True)
class Block:
    """A piece of a body: ``p``, ``h2``, ``pre``, ``ul`` (one item a line) or ``blockquote``."""

    kind: str
    text: str


@dataclass(frozen=True)
class Post:
    """A post and its known body; ``path`` is its address on the site."""

    number: int
    path: str
    title: str
    date: str
    blocks: tuple[Block, ...]

    @property
    def text(self) -> str:
        """The body as plain text, list items marked as readers see them."""
        texts = (re.sub("(?m)^", "- ", block.text) if block.kind == "ul" else block.text for block in self.blocks)
        return "\n\n".join(texts)


@dataclass(frozen=True)
class Style:
    """How a theme writes blocks; ``{}`` stands for their text."""

    p: str = "<p>{}</p>"
    h2: str = '<h2 id="part">{}</h2>'
    pre: str = '<pre><code class="language-python">{}</code></pre>'
    ul: str = "<ul>\n{}</ul>"
    blockquote: str = "<blockquote><p>{}</p></blockquote>"


STYLES = {
    "divs": Style(p="<div>{}</div>"),
    "tables": Style(p="{}<br><br>"),
    "modern": Style(
        h2='<h2 class="css-9xk" id="part">{}<a class="anchor" aria-hidden="true" href="#part">#</a></h2>',
        pre='<div class="css-code"><div class="css-bar"><i>python</i><button class="copy">Copy code</button></div>'
        '<pre><code class="language-python">{}</code></pre></div>',
    ),
}


def inline(text: str, number: int) -> str:
    """Write a paragraph with links, code and emphasis on some of its words."""
    words = html.escape(text, quote=False).split(" ")
    for at in range(number % 5 + 3, len(words), 17):
        tag = ("em", "strong", "code", f'a href="https://docs.example.org/{at}"')[at % 4]
        if words[at]:
            words[at] = f"<{tag}>{words[at]}</{tag.split()[0]}>"
    return " ".join(words)


def body(post: Post, style: Style | None = None) -> str:
    """Write the blocks of a post as HTML."""
    style = style or Style()
    pieces = []
    for block in post.blocks:
        if block.kind == "ul":
            text = "".join(f"<li>{inline(item, post.number)}</li>\n" for item in block.text.split("\n"))
        elif block.kind in {"pre", "h2"}:
            text = html.escape(block.text)
        else:
            text = inline(block.text, post.number)
        pieces.append(getattr(style, block.kind).format(text))
    return "\n".join(pieces)


def page(theme: str, post: Post, url: str, site: str, related: list[Post]) -> str:
    """Write the page of a post on the site at ``url``, with five other posts beside it."""
    words = {
        "url": url,
        "site": site,
        "path": post.path,
        "title": html.escape(post.title),
        "date": post.date,
        "number": str(post.number),
        "body": body(post, STYLES.get(theme)),
    }
    for number, other in enumerate(related, 1):
        words |= {f"path{number}": other.path, f"title{number}": html.escape(other.title)}
    return Template((FOLDER / f"{theme}.html").read_text("utf-8")).substitute(words)
