"""What the address of a page tells: which pages are one, and whether it is a post or a list of posts.

Reads addresses only; nothing here looks into a page.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote, urlsplit

from gptcli.fetch.web.urls import canonical, site

# Parts of a path below which there are lists of posts.
LISTS = frozenset(
    {
        *("tag", "tags", "tagged", "category", "categories", "author", "authors", "topic", "topics", "label", "labels"),
        *("kategorie", "schlagwort", "search", "feed", "feeds", "rss", "atom", "calendar", "comments", "trackback"),
        *("login", "wp-admin", "wp-login.php", "wp-content", "wp-includes", "wp-json", "cdn-cgi", "xmlrpc.php"),
    }
)
# Lists themselves; what is below them may be posts.
FRONTS = frozenset(
    {
        *("archive", "archives", "blog", "blogs", "posts", "post", "articles", "essays", "writing", "writings"),
        *("news", "all", "all-posts", "journal", "weblog", "diary", "notes", "stories", "entries", "index"),
    }
)
# Pages that most sites have and that are no posts.
PAGES = frozenset(
    {
        *("about", "about-me", "about-us", "author", "bio", "contact", "contact-me", "contact-us", "imprint", "legal"),
        *("impressum", "datenschutz", "privacy", "privacy-policy", "terms", "terms-of-service", "terms-of-use"),
        *("cookies", "cookie-policy", "disclaimer", "copyright", "license", "colophon", "now", "uses", "cv", "resume"),
        *("portfolio", "projects", "work", "talks", "speaking", "books", "publications", "software", "consulting"),
        *("services", "hire-me", "newsletter", "subscribe", "follow", "links", "blogroll", "bookmarks", "sitemap"),
        *("donate", "support", "sponsor", "faq", "help", "home", "start", "shop", "store", "cart", "checkout"),
        *("account", "register", "signup", "404", "thanks", "thank-you", "team", "jobs", "careers", "press", "media"),
        *("photos", "gallery", "guestbook", "events", "stats", "random", "ueber", "ueber-mich", "kontakt"),
    }
)
_MEDIA = re.compile(
    r"\.(?:jpe?g|png|gif|webp|svg|ico|bmp|tiff?|avif|mp3|mp4|m4[abv]|ogg|opus|wav|flac|webm|mov|avi|mkv|pdf|zip|t?gz|tar"
    r"|bz2|xz|7z|rar|exe|dmg|iso|css|js|mjs|json|xml|rss|atom|rdf|csv|docx?|xlsx?|pptx?|odt|epub|mobi|ics|woff2?|ttf|map"
    r"|txt)$",
    re.IGNORECASE,
)
_INDEX = re.compile(r"/(?:index|default)\.(?:x?html?|php|aspx?)$", re.IGNORECASE)
_PAGE_NUMBER = re.compile(r"(?:page|seite|p)[-_]?\d+(?:\.html?)?")
_YEAR = re.compile(r"(?:19|20)\d\d")
_NUMBER = re.compile(r"\d{1,2}")
_EXTENSION = re.compile(r"\.(?:x?html?|php\d?|aspx?|jsp|cfm|cgi|shtml)$", re.IGNORECASE)
# What may stand in the query of a post's address; anything else is a view of a list.
_POST_KEYS = frozenset(
    {"p", "id", "post", "postid", "post_id", "article", "aid", "entry", "story", "sid", "nid", "lang"}
)

Shape = tuple[str, ...]


def page_key(url: str) -> str:
    """Return by what a page is known however it is linked: without scheme, ``www.``, last slash and ``index.html``."""
    parts = urlsplit(canonical(url))
    path = _INDEX.sub("/", parts.path).rstrip("/")
    return f"{site(url).removeprefix('www.')}{path}" + (f"?{parts.query}" if parts.query else "")


def file_name(url: str) -> str:
    """Return the last part of the path of an address in lower case."""
    return urlsplit(url).path.rpartition("/")[2].lower()


def is_no_post(url: str) -> bool:
    """Say whether an address is surely no post: the front page, a list of tags, of a month, a picture, a search."""
    parts = urlsplit(url)
    path = unquote(_INDEX.sub("/", parts.path)).lower()
    segments = [segment for segment in path.split("/") if segment]
    if parts.query:
        keys = {key.lower() for key, _ in parse_qsl(parts.query, keep_blank_values=True)}
        if not keys <= _POST_KEYS:
            return True
    elif not segments:
        return True
    if not segments:
        return False
    last = _EXTENSION.sub("", segments[-1])
    return bool(
        _MEDIA.search(segments[-1])
        or LISTS & set(segments)
        or last in FRONTS
        or _PAGE_NUMBER.fullmatch(last)
        or (segments[-2:-1] in (["page"], ["pages"], ["seite"]) and last.isdecimal())
        or _is_date(segments)
    )


def is_front(url: str) -> bool:
    """Say whether an address is that of a list of all posts, such as an archive."""
    segments = [segment for segment in urlsplit(url).path.lower().split("/") if segment]
    return bool(segments) and len(segments) <= 2 and _EXTENSION.sub("", segments[-1]) in FRONTS


def is_common_page(url: str) -> bool:
    """Say whether an address is that of a page that most sites have, such as ``/about/``."""
    segments = [segment for segment in urlsplit(url).path.lower().split("/") if segment]
    return len(segments) == 1 and _EXTENSION.sub("", segments[0]) in PAGES | FRONTS


class Shapes:
    """The shapes that the addresses of known posts have, to tell other posts of the same site by."""

    def __init__(self) -> None:
        self._literals: dict[Shape, list[set[str]]] = {}

    def __bool__(self) -> bool:
        return bool(self._literals)

    def add(self, url: str) -> None:
        """Learn the shape of the address of a post."""
        kinds, literals = _shape(url)
        known = self._literals.setdefault(kinds, [set() for _ in literals])
        for names, name in zip(known, literals, strict=True):
            names.add(name)

    def fit(self, url: str) -> bool:
        """Say whether a known post has an address like this one.

        Where three posts have three names for a part of the path (a category, say), any name will do.
        """
        kinds, literals = _shape(url)
        known = self._literals.get(kinds)
        if known is None or is_common_page(url):
            return False
        return all(name in names or len(names) > 2 for names, name in zip(known, literals, strict=True))


def _shape(url: str) -> tuple[Shape, list[str]]:
    """Return of what kinds the parts of a path are, and those of them that are words."""
    parts = urlsplit(url)
    segments = [segment for segment in _INDEX.sub("/", parts.path).split("/") if segment]
    kinds, literals = [], []
    for segment in segments[:-1]:
        kind = "year" if _YEAR.fullmatch(segment) else "number" if segment.isdecimal() else "word"
        kinds.append(kind)
        if kind == "word":
            literals.append(segment.lower())
    if segments:
        extension = _EXTENSION.search(segments[-1])
        kinds.append(f"name{extension.group().lower() if extension else ''}")
    kinds.extend(sorted(f"?{key}" for key, _ in parse_qsl(parts.query, keep_blank_values=True)))
    return tuple(kinds), literals


def _is_date(segments: list[str]) -> bool:
    """Say whether a path ends with a year, a month or a day and nothing after it."""
    numbers = 0
    while numbers < len(segments) and segments[-1 - numbers].isdecimal():
        numbers += 1
    tail = segments[len(segments) - numbers :]
    return bool(tail) and bool(_YEAR.fullmatch(tail[0])) and all(map(_NUMBER.fullmatch, tail[1:]))
