"""A whole site from its home page: each post is a document, its text from the best place, without boilerplate.

How posts are found is `discovery`'s business, what repeats over the site `boilerplate`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

from gptcli.documents import Document, Origin
from gptcli.errors import SourceError
from gptcli.fetch.extract import extract
from gptcli.fetch.facts import PageFacts, page_facts
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.site.addresses import is_no_post, page_key
from gptcli.fetch.site.boilerplate import Draft, Drafts, Dropped
from gptcli.fetch.site.discovery import Discovery, Found, Texts, counted
from gptcli.fetch.site.listing import read_listing
from gptcli.fetch.site.page import HTML_TYPES, page_documents, page_origin
from gptcli.fetch.source import Missing, Plan, Source
from gptcli.fetch.web import PAGE_BYTES, FetchError, Response, Web, lost
from gptcli.fetch.web.urls import canonical, same_site, without_login

# A page that links so many posts by their titles is a list of them.
MIN_TITLES = 3
EMPTY_HINT = "--as page reads the page alone."
AGAIN_HINT = "Run the same command again later, with a larger limit if one was reached: what came is kept."


def is_home_page(where: str, response: Response) -> str | None:  # noqa: ARG001
    """Say in a sentence why a web page is the front of a site whose posts are wanted; None for a single page."""
    html = response.text()
    url = response.final_url
    facts = page_facts(html, url)
    parts = urlsplit(url)
    if page_key(url) == page_key(f"{parts.scheme}://{parts.netloc}/"):
        return "it is the front page of a site" + (", which has a feed" if facts.feeds else "")
    if facts.article:
        return None
    titles = len(read_listing(html, url).posts)
    if titles < MIN_TITLES:
        return None
    if facts.feeds:
        return f"it lists {titles} posts and links a feed"
    return f"it lists {titles} posts and links a page with older ones" if facts.next else None


def open_blog(where: str, home: Response, web: Web, options: FetchOptions) -> Source:
    """Open the site whose home page the address ``where`` answered with; posts come oldest first, undated ones last.

    Asks for nothing before its documents or its plan are read. Where no posts are found, the home page is the document.
    """
    return _opened(where, home, web, options, feed=False)


def open_feed(where: str, response: Response, web: Web, options: FetchOptions) -> Source:
    """Open the feed that the address ``where`` answered with: its posts, and those of its older pages."""
    return _opened(where, response, web, options, feed=True)


def _opened(where: str, home: Response, web: Web, options: FetchOptions, *, feed: bool) -> Source:
    host = (urlsplit(home.final_url).hostname or "blog").removeprefix("www.")
    source = Source("blog", host, without_login(where))
    reading = _Reading(source, home, web, options, feed=feed)
    source.plan = reading.plan
    source.documents = reading.documents()
    return source


class _Reading:
    """The reading of one site."""

    def __init__(self, source: Source, home: Response, web: Web, options: FetchOptions, *, feed: bool) -> None:
        self.source = source
        self.home = home
        self.web = web
        self.options = options
        self.feed = feed
        self._done: set[str] = set()
        self._late: list[FetchError] = []

    def plan(self) -> Plan:
        """Look for posts, following lists for a few pages only, and say what that and reading them takes."""
        before = self.web.requests
        with Texts() as texts:
            found = self._discovered(texts, whole=False)
        pages = [post.entry.url for post in found.posts.values() if post.text is None]
        asked = [url for url in pages if not self.web.stored(url)]
        pages_of = (
            f"ask for the page{'s' * (len(asked) != 1)} of {'at least ' * found.more}{counted(len(asked), 'post')}"
        )
        steps = [*found.steps, pages_of if asked else "ask for no page of a post"]
        if found.more:
            steps.append("follow the older pages of the lists, which may lead to more posts")
        requests = self.web.requests - before + found.unread + len(asked)
        return Plan(tuple(steps), requests, self.web.seconds(requests, self.home.url), at_least=found.more)

    def documents(self) -> Iterator[Document]:
        """Yield the documents; what cannot be had is told in ``source.missing`` or counted in ``source.dropped``."""
        with Texts() as texts, Drafts() as drafts:
            found = self._discovered(texts, whole=True)
            self._tell(found)
            # Else a site whose lists fail for a day would be its home page from then on.
            if not found.posts and not self.source.missing:
                self._add_home(drafts)
            self.web.expect(sum(post.text is None for post in found.posts.values()), "posts")
            for key, post in found.posts.items():
                self._add(drafts, key, post, found)
            if self._late:
                what = f"{counted(len(self._late), 'post')} of {self.source.where}"
                self.source.missing.append(Missing(what, self._late[0].message))
            if not len(drafts):
                hint = AGAIN_HINT if self.source.missing else EMPTY_HINT
                raise SourceError(f"No post of {self.source.where} could be read{self._why()}.", hint)
            dropped = Dropped()
            for draft in drafts.cleaned(dropped):
                yield from page_documents(self.source, draft.text, draft.origin, draft.fetched_at)
            self._tell_dropped(dropped)

    def _discovered(self, texts: Texts, *, whole: bool) -> Discovery:
        found = Discovery(self.home, self.web, self.options, texts, whole=whole)
        if self.feed:
            found.run_feed()
        else:
            found.run()
        return found

    def _tell(self, found: Discovery) -> None:
        self.source.notes.extend(found.notes)
        self.source.missing.extend(found.missing)
        self.source.licence = found.facts.licence
        counts = {
            "addresses that are no posts": found.others,
            "posts of other sites": found.abroad,
            "posts with a password": found.protected,
        }
        self.source.dropped.update(Counter(counts))

    def _add(self, drafts: Drafts, key: str, post: Found, found: Discovery) -> None:
        """Take the text of a post in: the one that came with the list of posts, or that of its page."""
        if key in self._done:
            self.source.dropped["pages that are others by another address"] += 1
            return
        try:
            # Also for texts that came with a list: what robots.txt keeps from us we take from nowhere.
            if post.text is None or same_site(post.entry.url, self.home.final_url):
                self.web.permit(post.entry.url)
            draft = self._read(post, found) if post.text is None else self._listed(post, found, post.text)
        except FetchError as error:
            if error.reason == "limit":
                self._late.append(error)
            else:
                lost(self.source, error)
            return
        except SourceError:
            self.source.dropped["addresses that are no web pages"] += 1
            return
        self._done.add(key)
        if draft is not None and not drafts.add(draft):
            self.source.dropped["posts with the text of another"] += 1

    def _listed(self, post: Found, found: Discovery, at: int) -> Draft:
        """Return a post whose text came with the list of posts."""
        entry = post.entry
        origin = Origin(
            title=entry.title,
            author=entry.author,
            url=entry.url,
            date=entry.date,
            language=found.facts.language or found.language,
            licence=entry.licence,
        )
        return Draft(found.texts.text(at), origin, post.fetched_at)

    def _read(self, post: Found, found: Discovery) -> Draft | None:
        """Return the main text of a post's page; None for what is no page of this site, or was read before."""
        entry = post.entry
        response = self.web.get(entry.url, discovered=True, max_bytes=PAGE_BYTES)
        if response.content_type not in HTML_TYPES:
            self.source.dropped["addresses that are no web pages"] += 1
            return None
        if not self.feed and not same_site(response.final_url, self.home.final_url):
            self.source.dropped["pages that lead to another site"] += 1
            return None
        html = response.text(self.options.encoding)
        url = _address(response, page_facts(html, response.final_url), self.home)
        if page_key(url) in self._done or page_key(url) == page_key(self.home.final_url):
            self.source.dropped["pages that are others by another address"] += 1
            return None
        self._done.add(page_key(url))
        self.source.encodings[response.encoding(self.options.encoding).name] += 1
        origin = page_origin(extracted := extract(html, response.final_url), url)
        origin |= Origin(
            title=entry.title or extracted.title,
            author=entry.author or extracted.author,
            date=entry.date or extracted.date,
            language=extracted.language or found.facts.language or found.language,
            licence=entry.licence or extracted.licence,
        )
        return Draft(extracted.text, origin, response.fetched_at)

    def _add_home(self, drafts: Drafts) -> None:
        """Take the home page itself in, of a site that has nothing else."""
        extracted = extract(self.home.text(self.options.encoding), self.home.final_url)
        if not self.feed and extracted.text.strip():
            drafts.add(Draft(extracted.text, page_origin(extracted, self.home.final_url), self.home.fetched_at))
            self.source.notes.append(f"No posts were found on {self.source.where}, so its home page is all there is.")

    def _tell_dropped(self, dropped: Dropped) -> None:
        if not dropped.lines:
            return
        self.source.dropped["lines that repeat over the site"] += dropped.lines
        examples = ", ".join(f'"{line[:80]}" (in {count:,} posts)' for line, count in dropped.examples())
        self.source.notes.append(f"Lines that repeat over the site were left out {dropped.lines:,} times: {examples}.")

    def _why(self) -> str:
        reasons = [f"{what}: {count:,}" for what, count in (+self.source.dropped).items()]
        reasons += [item.why.rstrip(".") for item in self.source.missing[:1]]
        return f" ({'; '.join(reasons)})" if reasons else ""


def _address(response: Response, facts: PageFacts, home: Response) -> str:
    """Return the address that a page says it has, where that is one of this site and not that of its home page."""
    stated = facts.canonical
    # Broken themes name the home page or a list, the same one on each page.
    trusted = stated and same_site(stated, home.final_url) and not is_no_post(stated)
    return canonical(stated if trusted else response.final_url)
