"""Pages that list posts: the links on them that lead to posts, and the page with older ones. Fetches nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from typing import Any

from gptcli.fetch.facts import MAX_DEPTH, MAX_LINKS, base_url, tree_facts
from gptcli.fetch.html import parse_html
from gptcli.fetch.site.addresses import is_common_page, is_front, is_no_post
from gptcli.fetch.web.urls import canonical, join, same_site

MAX_TITLE_CHARS = 300
MAX_TITLE_PARTS = 50
_HEADINGS = frozenset({"h1", "h2", "h3", "h4"})
_MENU_TAGS = frozenset({"nav", "aside", "footer", "form", "dialog"})
_MENU_NAMES = re.compile(
    r"(?:^|[\s_-])(?:sidebar|widgets?|footer|nav|navbar|navigation|menu|related|comments?|breadcrumbs?|popular|blogroll"
    r"|pagination|pager|share|social|tags?|categories)(?:$|[\s_-])",
    re.IGNORECASE,
)
_TITLE_NAMES = re.compile(
    r"(?:^|[\s_-])(?:entry|post|article|headline)?-?(?:title|headline|permalink|bookmark)(?:$|[\s_-])"
)
_OLDER = re.compile(
    r"\W*(?:(?:older|previous|earlier|more)\s+(?:posts?|entries|articles|stories)|older|next(?:\s+page)?"
    r"|(?:ältere|nächste|weitere)\s+\w+|página\s+siguiente|page\s+suivante)\W*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Listing:
    """The links of a page within its own site, each once: ``posts`` stand where titles stand, ``others`` elsewhere.

    ``older`` is the address of the page that goes on with the list, ``fronts`` those of other lists of all posts.
    """

    posts: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    older: str = ""
    fronts: tuple[str, ...] = ()


def read_listing(html: str, url: str) -> Listing:
    """Read the links of the page at ``url``; those to other sites, to lists of a tag and to pictures are left out."""
    from lxml import etree

    try:
        tree = parse_html(html)
        return Listing() if tree is None else _links(tree, url)
    except (etree.LxmlError, ValueError, RecursionError):
        return Listing()


def _links(tree: Any, url: str) -> Listing:  # noqa: ANN401 - lxml is imported inside functions only
    base = base_url(tree, url)
    body = next(tree.iter("body"), tree)
    posts: dict[str, None] = {}
    others: dict[str, None] = {}
    fronts: dict[str, None] = {}
    older = tree_facts(tree, url).next
    for link in islice(tree.iter("a"), MAX_LINKS):
        joined = join(base, link.get("href")) if link.get("href") else None
        if joined is None or not same_site(joined, url):
            continue
        address = canonical(joined)
        if not older and _OLDER.fullmatch("".join(islice(link.itertext(), MAX_TITLE_PARTS))[:MAX_TITLE_CHARS]):
            older = address
        if is_front(address):
            fronts[address] = None
        if not is_no_post(address) and "nofollow" not in (link.get("rel") or ""):
            (posts if _is_title(link, body) and not is_common_page(address) else others)[address] = None
    return Listing(
        tuple(posts),
        tuple(address for address in others if address not in posts),
        older if older and same_site(older, url) else "",
        tuple(fronts),
    )


def _is_title(link: Any, body: Any) -> bool:  # noqa: ANN401
    """Say whether a link is the title of a post: in a heading, or called so, and not in a menu."""
    titled = "bookmark" in (link.get("rel") or "").split()
    inside = True
    for element in (link, *islice(link.iterancestors(), MAX_DEPTH)):
        if element is body:
            break
        if element.tag in _MENU_TAGS or _MENU_NAMES.search(f"{element.get('class') or ''} {element.get('id') or ''}"):
            return False
        inside = inside and element.tag not in {"article", "section", "li", "td"}
        titled = titled or (
            inside and (element.tag in _HEADINGS or bool(_TITLE_NAMES.search(element.get("class") or "")))
        )
    return titled
