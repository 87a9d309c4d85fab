"""What a web page says of itself: title, date, author, licence, and where its feeds and its next page are.

Reads declarations only (``<head>``, ``rel``, JSON-LD); what a page looks like, `extract` judges.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timezone
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any

from gptcli.fetch.html import parse_html
from gptcli.fetch.web.urls import join

FEED_TYPES = frozenset({"application/rss+xml", "application/atom+xml", "application/rdf+xml"})
ARTICLE_TYPES = frozenset(
    {"Article", "BlogPosting", "NewsArticle", "TechArticle", "Report", "ScholarlyArticle", "SocialMediaPosting"}
)
MAX_JSON_LD = 1 << 20
# No page declares anything after so many links.
MAX_LINKS = 20_000
# No author nests elements so deep, and looking at what is around each link of a page costs as much as they are deep.
MAX_DEPTH = 200
_DATES = (
    *("article:published_time", "og:published_time", "datepublished", "dc.date.issued", "dcterms.created"),
    *("dcterms.date", "dc.date", "date", "pubdate", "publish-date", "parsely-pub-date", "sailthru.date"),
)
_AUTHORS = ("author", "article:author", "dc.creator", "dcterms.creator", "parsely-author", "sailthru.author")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d):(\d\d)(?::(\d\d))?(?:[.,]\d+)?\s*(?:([+-]\d\d):?(\d\d)|[Zz]|UTC)?")
_CREATIVE_COMMONS = re.compile(
    r"https?://(?:www\.)?creativecommons\.org/(?:licenses/([a-z-]+)/([\d.]+)|publicdomain/(zero|mark)/([\d.]+))"
)


@dataclass(frozen=True, slots=True)
class PageFacts:
    """The declarations of a page; "" where it says nothing, addresses absolute.

    ``date`` is ISO 8601, ``language`` a tag of BCP 47. ``feeds`` has none of comments. ``wordpress`` is the root of
    WordPress's REST interface. ``article`` says that the page declares to be one article.
    """

    title: str = ""
    site_name: str = ""
    canonical: str = ""
    feeds: tuple[str, ...] = ()
    next: str = ""
    language: str = ""
    author: str = ""
    date: str = ""
    generator: str = ""
    wordpress: str = ""
    licence: str = ""
    article: bool = False


def page_facts(html: str, url: str) -> PageFacts:
    """Read what the page at ``url`` says of itself; never fails on broken markup."""
    tree = parse_html(html)
    return PageFacts() if tree is None else tree_facts(tree, url)


def tree_facts(tree: Any, url: str) -> PageFacts:  # noqa: ANN401 - lxml is imported inside functions only
    """Read what the page of a parsed tree says of itself; nothing where that cannot be read."""
    from lxml import etree

    try:
        return _declared(tree, url)
    except (etree.LxmlError, ValueError, RecursionError):
        return PageFacts()


def _declared(tree: Any, url: str) -> PageFacts:  # noqa: ANN401
    base = base_url(tree, url)
    meta = _meta(tree)
    data = next(_articles(tree), {})
    rels = [
        (set(element.get("rel").lower().split()), address, element)
        for element in islice(tree.iter("link", "a", "area"), MAX_LINKS)
        if element.get("rel") and element.get("href") and (address := join(base, element.get("href")))
    ]

    def linked(rel: str) -> str:
        return next((address for names, address, _ in rels if rel in names), "")

    return PageFacts(
        title=_text(data.get("headline")) or meta.get("og:title", "") or _words(next(tree.iter("title"), None)),
        site_name=meta.get("og:site_name", ""),
        canonical=linked("canonical") or (join(base, meta["og:url"]) if "og:url" in meta else "") or "",
        feeds=tuple(dict.fromkeys(address for names, address, link in rels if _is_feed(names, address, link))),
        next=linked("next"),
        language=(tree.get("lang") or meta.get("og:locale", "")).strip().replace("_", "-"),
        author=_person(data.get("author")) or next((meta[key] for key in _AUTHORS if _is_name(meta.get(key))), ""),
        date=_published(tree, meta, data),
        generator=meta.get("generator", ""),
        wordpress=linked("https://api.w.org/"),
        licence=_licence(tree, base, linked("license")),
        article=bool(data) or meta.get("og:type", "").lower() == "article" or "article:published_time" in meta,
    )


def base_url(tree: Any, url: str) -> str:  # noqa: ANN401
    """Return the address that the links of a page are relative to."""
    base = next(tree.iter("base"), None)
    return url if base is None else join(url, base.get("href") or "") or url


def iso_date(text: str) -> str:
    """Return a date in ISO 8601, with a time of day in UTC where there is one; "" for what is no date.

    Reads ISO 8601 and the dates of mails and RSS. A time without a zone is taken for UTC.
    """
    text = " ".join(text.split())
    try:
        if _DATE.fullmatch(text):
            return date.fromisoformat(text).isoformat()
        if found := _TIME.fullmatch(text):
            day, hour, minute, second, zone_hour, zone_minute = found.groups()
            zone = f"{zone_hour or '+00'}:{zone_minute or '00'}"
            return in_utc(datetime.fromisoformat(f"{day}T{hour}:{minute}:{second or '00'}{zone}"))
        return in_utc(parsedate_to_datetime(text)) if re.search(r"\d{4}", text) else ""
    except (ValueError, TypeError, OverflowError, IndexError):
        return ""


def in_utc(moment: datetime) -> str:
    """Return a time as ISO 8601 in UTC, to the second; one without a zone is in UTC already."""
    moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return moment.astimezone(timezone.utc).isoformat(timespec="seconds")


def licence_name(url: str) -> str:
    """Return what a licence is called that is known by its address: that of Creative Commons, else the address."""
    found = _CREATIVE_COMMONS.match(url.lower())
    if found is None:
        return url
    kind, version, dedication, number = found.groups()
    name = (
        f"CC {kind.upper()} {version}"
        if kind
        else f"{'CC0' if dedication == 'zero' else 'Public Domain Mark'} {number}"
    )
    return f"{name} ({url})"


def _meta(tree: Any) -> dict[str, str]:  # noqa: ANN401
    meta: dict[str, str] = {}
    for element in tree.iter("meta"):
        name = element.get("property") or element.get("name") or element.get("itemprop") or ""
        if value := " ".join((element.get("content") or "").split()):
            meta.setdefault(name.lower(), value)
    return meta


def _articles(tree: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401
    """Yield the articles that JSON-LD declares; lists of them, as front pages have, do not count."""
    for script in tree.iter("script"):
        if (script.get("type") or "").lower() != "application/ld+json" or len(script.text or "") > MAX_JSON_LD:
            continue
        try:
            value = json.loads(script.text or "", strict=False)
        except (ValueError, RecursionError):
            continue
        graph = value.get("@graph", [value]) if isinstance(value, dict) else value
        for item in graph if isinstance(graph, list) else []:
            types = item.get("@type") if isinstance(item, dict) else None
            if ARTICLE_TYPES & set(types if isinstance(types, list) else [types]):
                yield item


def _published(tree: Any, meta: dict[str, str], data: dict[str, Any]) -> str:  # noqa: ANN401
    declared = [_text(data.get("datePublished")), *(meta.get(key, "") for key in _DATES)]
    marked = _first_time(tree, _is_marked)
    # A single <time> in the head of the only article is its date; several are those of other articles too.
    articles = list(islice(tree.iter("article"), 2))
    inside = _first_time(articles[0], lambda _: True) if len(articles) == 1 else ""
    return next((found for text in [*declared, marked, inside] if (found := iso_date(str(text)))), "")


def _first_time(element: Any, wanted: Callable[[Any], bool]) -> str:  # noqa: ANN401
    """Return what the first wanted ``<time>`` below an element says that says anything."""
    return next((time.get("datetime") for time in element.iter("time") if time.get("datetime") and wanted(time)), "")


def _is_marked(time: Any) -> bool:  # noqa: ANN401
    published = "published" in (time.get("class") or "")
    return published or time.get("pubdate") is not None or time.get("itemprop") == "datePublished"


def _licence(tree: Any, base: str, linked: str) -> str:  # noqa: ANN401
    """Return the licence that a page links with ``rel``, else the one of Creative Commons that it speaks of."""
    if linked:
        return licence_name(linked)
    links = (
        join(base, link.get("href")) or ""
        for link in islice(tree.iter("a"), MAX_LINKS)
        if "creativecommons.org" in (link.get("href") or "").lower() and "figure" not in _above(link)
    )
    found = dict.fromkeys(link for link in links if _CREATIVE_COMMONS.match(link.lower()))
    names = {licence_name(link).partition(" (")[0] for link in found}
    return licence_name(next(iter(found))) if len(names) == 1 else ""


def _above(element: Any) -> set[str]:  # noqa: ANN401
    return {above.tag for above in islice(element.iterancestors(), MAX_DEPTH)}


def _is_feed(rels: set[str], address: str, link: Any) -> bool:  # noqa: ANN401
    kind = (link.get("type") or "").partition(";")[0].strip().lower()
    about = f"{link.get('title') or ''} {address}".lower()
    return link.tag == "link" and "alternate" in rels and kind in FEED_TYPES and "comment" not in about


def _person(value: object) -> str:
    """Return the names in an author of JSON-LD: a string, an object with a name, or a list of them."""
    if isinstance(value, list):
        return ", ".join(filter(None, (_person(item) for item in value[:10])))
    return _text(value.get("name")) if isinstance(value, dict) else _text(value)


def _is_name(text: str | None) -> bool:
    return bool(text) and "://" not in str(text)


def _text(value: object) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""


def _words(element: Any) -> str:  # noqa: ANN401
    return "" if element is None else " ".join("".join(element.itertext()).split())
