"""What posts a site has, found from its home page alone: by its interface, its feeds, its sitemaps and its lists.

A straight-line program over ``Web.get`` that reads no post. What a post's text is, `blog` knows.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import IO, Literal
from urllib.parse import urlsplit

from gptcli.errors import SourceError
from gptcli.fetch.facts import PageFacts, page_facts
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.site import wordpress
from gptcli.fetch.site.addresses import Shapes, file_name, is_common_page, is_no_post, page_key
from gptcli.fetch.site.feeds import Entry, Feed, paged, parse_feed
from gptcli.fetch.site.listing import Listing, read_listing
from gptcli.fetch.site.sitemap import Sitemap, read_sitemap
from gptcli.fetch.source import Missing
from gptcli.fetch.web import PAGE_BYTES, FetchError, Response, Web
from gptcli.fetch.web.urls import canonical, join, same_site

FEED_PATHS = ("/feed/", "/rss.xml", "/atom.xml", "/feed.xml", "/index.xml")
SITEMAP_PATHS = ("/sitemap.xml", "/sitemap_index.xml")
# So many pages of a list, or of a feed, that bring nothing new are the end of it.
BARREN_PAGES = 10
# A plan follows lists so far.
PLANNED_PAGES = 10
MAX_FEEDS = 6
MAX_FRONTS = 5
MAX_SITEMAPS = 500
# Twice as many as one fetch asks for pages; looking at millions of addresses would take minutes for nothing.
MAX_MAPPED = 20_000
# Why a list cannot be had now, though there is one.
_LATER = frozenset({"transient", "too-large", "broken"})
# A list that nobody named, one that a link may lead to, one that the site says it has.
_Told = Literal["guessed", "linked", "named"]
_POSTS_NAME = re.compile(r"(?:^|[^a-z])(?:posts?|articles?|blog|entries|news|stories)(?:[^a-z]|$)")
_LISTS_NAME = re.compile(r"categor|tag|author|user|image|video|product|taxonom|archive|attachment")
_PAGES_NAME = re.compile(r"(?:^|[^a-z])pages?(?:[^a-z]|$)")


@dataclass(frozen=True, slots=True)
class Found:
    """A post that was found: what is known of it but its text, which is at ``text`` in `Texts`, and when that came."""

    entry: Entry
    text: int | None = None
    fetched_at: str = ""


class Texts:
    """Texts that came with lists of posts, in a temporary file until their turn comes; a context manager."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Texts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def keep(self, text: str) -> int:
        """Take a text in; returns where it is."""
        at = self._file.seek(0, 2)
        self._file.write(json.dumps(text).encode() + b"\n")
        return at

    def text(self, at: int) -> str:
        """Return the text that is there."""
        self._file.seek(at)
        return str(json.loads(self._file.readline()))


@dataclass(slots=True)
class Discovery:
    """What was found of a site; ``steps`` say in sentences how, ``notes`` what a user should know.

    ``posts`` are known by ``page_key``, in the order in which they were found. ``missing`` are lists that could not be
    had, so that posts may be missing too; with no post found, every list that failed is among them. ``others`` counts
    addresses of the site that were taken for no posts, ``abroad`` entries that lead to other sites, ``protected`` posts
    with a password. With ``whole`` False lists are followed for a few pages only: ``more`` says that there are more,
    ``unread`` how many of the interface.
    """

    home: Response
    web: Web
    options: FetchOptions
    texts: Texts
    whole: bool = True
    facts: PageFacts = field(default_factory=PageFacts)
    posts: dict[str, Found] = field(default_factory=dict)
    language: str = ""
    steps: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    protected: int = 0
    others: int = 0
    abroad: int = 0
    more: bool = False
    unread: int = 0
    # By page_key: addresses that stand where posts stand, all of the sitemaps, all that lists link.
    _told: dict[str, str] = field(default_factory=dict)
    _mapped: dict[str, str] = field(default_factory=dict)
    _linked: dict[str, str] = field(default_factory=dict)
    _says_posts: bool = False
    # A feed alone may be kept on another host than its posts.
    _anywhere: bool = False
    _shapes: Shapes = field(default_factory=Shapes)
    # What could not be had for a reason that many sites have for good.
    _doubtful: list[Missing] = field(default_factory=list)

    def run_feed(self) -> None:
        """Find the posts of a feed, where that is all that was asked for."""
        self._anywhere = True
        try:
            self.read_feed(self.home.final_url, self.home)
        except FetchError as error:
            self.missing.append(Missing(f"more posts of {self.home.url}", error.message))
        self.notes.append("A feed may hold the newest posts only; the address of the site's home page brings all.")

    def run(self) -> None:
        """Find the posts of a site."""
        html = self.home.text(self.options.encoding)
        self.facts = page_facts(html, self.home.final_url)
        try:
            if not self._by_interface():
                self._by_feeds()
                self._by_sitemaps()
                self._by_lists(read_listing(html, self.home.final_url))
        except FetchError as error:
            # The limit of the whole fetch; what was found before it is read all the same.
            self.missing.append(Missing(f"more posts of {self.home.url}", error.message))
        self._decide()

    def _get(self, url: str, told: _Told) -> Response | None:
        """Return what is at an address, or None where it cannot be had; raises ``FetchError`` at the fetch's limit."""
        try:
            return self.web.get(url, discovered=True, max_bytes=PAGE_BYTES)
        except FetchError as error:
            if error.reason == "limit":
                raise
            self._fail(url, error, told)
            return None

    def _fail(self, url: str, error: FetchError, told: _Told) -> None:
        """Take note of a list that cannot be had: as missing, but where a site means it to be out of reach."""
        missing = Missing(url, error.message)
        meant = {"named": {"robots", "private"}, "linked": {"robots", "private", "gone"}}
        if told != "guessed" and error.reason not in meant[told]:
            self.missing.append(missing)
            return
        if told != "guessed":
            self.notes.append(f"A list of posts could not be read: {error.message}")
        if told != "guessed" or error.reason != "gone":
            self._doubtful.append(missing)

    def _by_interface(self) -> bool:
        """Read all posts from WordPress's interface; False where there is none or it does not give all."""
        root = wordpress.api_root(self.home, self.facts)
        if root is None or not same_site(root, self.home.final_url):
            return False
        count = 0
        try:
            for page in wordpress.pages(self.web, root) if self.whole else [wordpress.first_page(self.web, root)]:
                self.protected += page.protected
                self._tell(page.entries, page.response)
                count = page.total or count + len(page.entries)
                self.unread = max(page.pages - 1, 0)
        except SourceError as error:
            if isinstance(error, FetchError) and error.reason == "limit":
                raise
            if count or (isinstance(error, FetchError) and error.reason in _LATER):
                self.missing.append(Missing(root, error.message))
            else:
                self._doubtful.append(Missing(root, error.message))
                self.notes.append(f"WordPress's interface does not tell all posts: {error.message}")
            return False
        if count:
            self.steps.append(f"read {count:,} posts with their texts from WordPress's interface {root}")
        return count > 0

    def _by_feeds(self) -> None:
        """Read the feeds that the home page links, or those at the usual places, with their older pages."""
        linked = [url for url in self.facts.feeds if same_site(url, self.home.final_url)] or list(self.facts.feeds)
        for url in linked[:MAX_FEEDS]:
            self.read_feed(url)
        for path in () if linked else FEED_PATHS:
            usual = join(self.home.final_url, path)
            if usual and self.read_feed(usual, guessed=True):
                break

    def read_feed(self, url: str, response: Response | None = None, *, guessed: bool = False) -> bool:
        """Read a feed and the older pages of it; False where there is no feed at this address."""
        response = response or self._get(url, "guessed" if guessed else "named")
        feed = _feed(response)
        if response is None or feed is None:
            if response is not None and not guessed:
                self._useless(url, f"{url} is linked as a feed, and its answer is none.")
            return False
        whole = sum(entry.text is not None for entry in feed.entries)
        posts = counted(len(feed.entries), "post")
        self.steps.append(f"read the feed {url}: {posts}, {whole:,} of them with the whole text")
        self.language = self.language or feed.language
        self._tell(feed.entries, response)
        seen, barren, number = {page_key(url)}, 0, 1
        while response is not None and feed is not None and barren < BARREN_PAGES:
            number += 1
            older = feed.older[0] if feed.older else paged(url, number) if feed.wordpress and feed.entries else ""
            if not older or page_key(older) in seen or not same_site(older, url):
                return True
            if not self.whole and number > PLANNED_PAGES:
                self.more = True
                return True
            seen.add(page_key(older))
            response = self._get(older, "named" if feed.older else "guessed")
            feed = _feed(response)
            if response is not None and feed is not None:
                barren = 0 if self._tell(feed.entries, response) else barren + 1
                # Servers that know no paging answer with the first page again.
                if barren and not feed.older:
                    return True
        if barren == BARREN_PAGES:
            self.notes.append(f"The feed {url} has no end: {BARREN_PAGES} pages in a row brought nothing new.")
        return True

    def _by_sitemaps(self) -> None:
        """Read the sitemaps that robots.txt names, or those at the usual places, and the ones that they name."""
        named = [url for url in self._named_sitemaps() if same_site(url, self.home.final_url)]
        usual = [join(self.home.final_url, path) or "" for path in SITEMAP_PATHS]
        waiting = [(url, False) for url in dict.fromkeys(named)] or [(url, True) for url in usual]
        seen: set[str] = set()
        addresses = read = 0
        cut = False
        while waiting and read < MAX_SITEMAPS and addresses < MAX_MAPPED:
            url, guessed = waiting.pop(0)
            if url in seen or (guessed and read):
                continue
            seen.add(url)
            found = self._sitemap(url, MAX_MAPPED - addresses, guessed=guessed)
            if found is None:
                continue
            read += 1
            addresses += len(found.pages)
            cut = cut or found.cut
            waiting[:0] = [
                (child, False)
                for child, _ in found.children
                if same_site(child, self.home.final_url) and not _LISTS_NAME.search(file_name(child))
            ]
            posts = bool(_POSTS_NAME.search(file_name(url)) and not _PAGES_NAME.search(file_name(url)))
            for page in (canonical(address) for address, _ in found.pages):
                if same_site(page, self.home.final_url):
                    self._mapped.setdefault(page_key(page), page)
                    if posts and not is_no_post(page):
                        self._says_posts = True
                        self._say(page)
        if cut or (waiting and addresses >= MAX_MAPPED):
            self.notes.append(f"The sitemaps have more than {MAX_MAPPED:,} addresses; the others were not read.")
        elif waiting and read == MAX_SITEMAPS:
            self.notes.append(f"The site has more than {MAX_SITEMAPS} sitemaps; the others were not read.")
        if read:
            self.steps.append(f"read {counted(read, 'sitemap')}: {counted(addresses, 'address', 'addresses')}")

    def _named_sitemaps(self) -> list[str]:
        try:
            return self.web.sitemaps(self.home.final_url)
        except FetchError as error:
            if error.reason == "limit":
                raise
            self.missing.append(Missing(error.url, error.message))
            return []

    def _sitemap(self, url: str, most: int, *, guessed: bool) -> Sitemap | None:
        response = self._get(url, "guessed" if guessed else "named")
        if response is None:
            return None
        if response.content_type in {"text/html", "application/xhtml+xml"}:
            if not guessed:
                self._useless(url, f"{url} is named as a sitemap, and its answer is a web page.")
            return None
        try:
            return read_sitemap(response.path, response.final_url, most)
        except SourceError as error:
            self._useless(url, error.message)
            return None

    def _useless(self, url: str, why: str) -> None:
        """Note that an answer was no use; the next fetch asks for it again."""
        self.web.forget(url)
        self.missing.append(Missing(url, why))

    def _by_lists(self, home: Listing) -> None:
        """Follow the lists of posts that begin at the home page, and those of an archive it links, to their ends."""
        pages = 1
        self._list(home)
        seen = {page_key(self.home.final_url)}
        for front in ("", *home.fronts[:MAX_FRONTS]):
            older: str = front or home.older
            barren = 0
            while older and page_key(older) not in seen:
                if not self.whole and pages > PLANNED_PAGES:
                    self.more = self.more or barren < PLANNED_PAGES // 3
                    break
                seen.add(page_key(older))
                response = self._get(older, "linked" if older == front else "named")
                if response is None:
                    break
                pages += 1
                listing = self._listing(response)
                barren = 0 if self._list(listing) else barren + 1
                if barren == BARREN_PAGES:
                    self.notes.append(
                        f"The list of posts that goes on at {older} has no end: {BARREN_PAGES} pages in a row "
                        "brought nothing new, so it was left there."
                    )
                    break
                older = listing.older
        self.steps.append(f"read {counted(pages, 'page')} that {'lists' if pages == 1 else 'list'} posts")

    def _listing(self, response: Response) -> Listing:
        try:
            return read_listing(response.text(self.options.encoding), response.final_url)
        except SourceError:  # not text at all
            return Listing()

    def _list(self, listing: Listing) -> bool:
        """Take the links of a list in; returns whether any of them may be a post that is new."""
        new = False
        for url in (*listing.posts, *listing.others):
            key, titled = page_key(url), url in listing.posts
            known = key in self.posts or key in self._told or key in self._mapped or key in self._linked
            new = new or (not known and (titled or not self._shapes or self._shapes.fit(url)))
            self._linked.setdefault(key, url)
            if titled:
                self._say(url)
        return new

    def _say(self, url: str) -> None:
        """Take an address in that stands where posts stand."""
        self._told.setdefault(page_key(url), url)
        self._shapes.add(url)

    def _tell(self, entries: Iterable[Entry], response: Response) -> bool:
        """Take posts in that somebody says are posts; returns whether any was new. Of two texts the first is kept."""
        new = False
        for entry in entries:
            entry = replace(entry, url=canonical(entry.url))
            if not self._anywhere and not same_site(entry.url, self.home.final_url):
                self.abroad += 1
                continue
            known = self.posts.get(page_key(entry.url))
            new = new or known is None
            self._shapes.add(entry.url)
            if known is None or (known.text is None and entry.text is not None):
                at = None if entry.text is None else self.texts.keep(entry.text)
                self.posts[page_key(entry.url)] = Found(replace(entry, text=None), at, response.fetched_at)
        return new

    def _decide(self) -> None:
        """Add the addresses that are posts by where they were found, or by their shape, to those that were told.

        Where nothing but a sitemap tells of posts, all of its pages are.
        """
        home, shapes = page_key(self.home.final_url), self._shapes
        # Of a host that several people share, only what lies below the home page is theirs.
        below = urlsplit(self.home.final_url).path.rpartition("/")[0] + "/"
        only_mapped = not self.posts and not self._says_posts and bool(self._mapped)
        for key, url in self._told.items():
            self.posts.setdefault(key, Found(Entry(url)))
        self.posts.pop(home, None)
        for key, url in {**self._mapped, **self._linked}.items():
            if key in self.posts or key == home:
                continue
            if (only_mapped and key in self._mapped) or not shapes:
                fits = not is_common_page(url) and urlsplit(url).path.startswith(below)
            else:
                fits = shapes.fit(url)
            if is_no_post(url) or not fits:
                self.others += 1
            else:
                self.posts[key] = Found(Entry(url))
        if not self.posts:
            self.missing.extend(self._doubtful)


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun: "1 post", "2 posts"."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def _feed(response: Response | None) -> Feed | None:
    return None if response is None else parse_feed(response.path.read_bytes(), response.final_url, response.charset)
