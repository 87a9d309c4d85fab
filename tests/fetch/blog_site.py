"""A blog as people have them, from the texts that every Python carries, so that the body of each post is known."""

from __future__ import annotations

import gzip
import html
import json
import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from urllib.parse import parse_qsl, urlsplit

from tests.fetch.blog_themes import LICENCE, Block, Post, body, page
from tests.fetch.conftest import Page, Site

LONG, SHORT = 220, 45
# The post that lists link without the last slash of its address.
WITHOUT_SLASH = 22
WORDPRESS_EXTRAS = (
    '<div class="sharedaddy sd-sharing-enabled"><h3 class="sd-title">Share this:</h3><ul><li>Twitter</li></ul></div>'
)


def blocks_of(topic: str) -> Iterator[Block]:
    """Cut a topic of Python's documentation into the blocks of a post."""
    for piece in filter(str.strip, re.split(r"\n\s*\n", topic)):
        lines = piece.split("\n")
        words = " ".join(piece.replace('"', "").split())
        if len(lines) == 2 and re.fullmatch(r"[*=~-]{4,}", lines[1]):
            yield Block("h2", lines[0].replace('"', ""))
        elif lines[0].startswith("   ") and re.search(r"[=(]|>>>", piece):
            yield Block("pre", textwrap.dedent(piece))
        elif lines[0].lstrip().startswith("* "):
            items = (" ".join(item.replace('"', "").split()) for item in re.split(r"(?m)^\s*\* ", piece))
            yield Block("ul", "\n".join(filter(None, items)))
        else:
            yield Block("blockquote" if lines[0].startswith("  ") else "p", words)


def posts(count: int, path: str = "/{year}/{month:02}/{slug}/") -> list[Post]:
    """Return posts of all lengths, oldest first, a few days apart; every ninth is as short as a remark."""
    from pydoc_data.topics import topics

    found: list[Post] = []
    for name in sorted(topics):
        title, *blocks = blocks_of(topics[name])
        chunk: list[Block] = []
        for block in blocks:
            if not chunk and block.kind in {"h2", "pre"}:
                continue
            chunk.append(block)
            wanted = SHORT if len(found) % 9 == 8 else LONG
            if sum(len(item.text.split()) for item in chunk) < wanted:
                continue
            number = len(found)
            if any(tuple(chunk) == post.blocks for post in found):  # topics are printed under several names
                chunk = []
                continue
            if number == count:
                return found
            year, month, day = 2019 + number // 36, number // 3 % 12 + 1, number % 3 * 9 + 1
            slug = re.sub(r"[^a-z0-9]+", "-", f"{name} {number}".lower()).strip("-")
            found.append(
                Post(
                    number,
                    path.format(year=year, month=month, slug=slug),
                    f"{title.text}: notes, part {number}",
                    f"{year}-{month:02}-{day:02}",
                    tuple(chunk),
                )
            )
            chunk = []
    raise AssertionError(f"the topics have only {len(found)} posts of that length")


def words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


def f1(found: str, known: str) -> float:
    """Return the F1 of the tokens (words and marks) of an extraction against the known body."""
    got, wanted = Counter(words(found)), Counter(words(known))
    shared = sum((got & wanted).values())
    return 2 * shared / (got.total() + wanted.total()) if shared else 0.0


@dataclass
class Blog:
    """A blog on a server: its posts oldest first, and the paths of those that robots.txt disallows."""

    url: str
    name: str
    posts: list[Post]
    disallowed: list[str]

    @property
    def allowed(self) -> list[Post]:
        return [post for post in self.posts if post.path not in self.disallowed]

    def page(self, post: Post, theme: str) -> Page:
        related = [self.posts[(post.number + step) % len(self.posts)] for step in (1, 2, 3, 5, 8)]
        return html_page(page(theme, post, self.url, self.name, related))


def html_page(text: str) -> Page:
    return Page(text.encode(), content_type="text/html; charset=utf-8")


def put_blog(site: Site, theme: str, count: int = 65) -> Blog:
    """Put a static blog on a server, of which no list is complete.

    Feed: the newest ten, every other one cut short. Sitemaps: the oldest forty, some of them compressed. Lists: all but
    the oldest twenty. Five posts are disallowed. Around them: tags, an archive that never ends, doubles, foreign links.
    """
    blog = Blog(site.url, "Notes by the sea", posts(count), [])
    blog.disallowed = [post.path for post in blog.posts[3::13]]
    for post in blog.posts:
        site.pages[post.path] = blog.page(post, theme)
    without_slash = blog.posts[WITHOUT_SLASH].path
    site.pages[without_slash.rstrip("/")] = site.pages[without_slash]
    rules = "".join(f"Disallow: {path}\n" for path in blog.disallowed)
    site.pages["/robots.txt"] = Page(f"User-agent: *\n{rules}Sitemap: {site.url}/sitemap.xml\n".encode())
    _put_sitemaps(site, blog)
    _put_lists(site, blog)
    site.pages["/feed.xml"] = rss(blog, blog.posts[:-11:-1])
    about = Post(0, "/about/", "About me", "2019-01-01", (Block("p", "I write programs and bake bread. " * 20),))
    for path in ("/about/", "/contact/", "/projects/", "/privacy/"):
        site.pages[path] = blog.page(about, theme)
    return blog


def _put_sitemaps(site: Site, blog: Blog) -> None:
    def urlset(paths: list[str]) -> bytes:
        urls = "".join(f"<url><loc>{site.url}{path}</loc><lastmod>2024-02-03</lastmod></url>" for path in paths)
        return (
            f'<?xml version="1.0"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{urls}</urlset>'.encode()
        )

    old = [post.path for post in blog.posts[:40]]
    children = {
        "/map-1.xml": urlset(["/", "/about/", *old[:20], "/2019/02/deleted-since/"]),
        "/map-2.xml.gz": gzip.compress(urlset([*old[20:], "/tags/python/", "/contact/"])),
    }
    index = "".join(f"<sitemap><loc>{site.url}{path}</loc></sitemap>" for path in children)
    site.pages["/sitemap.xml"] = Page(f"<sitemapindex>{index}</sitemapindex>".encode(), content_type="application/xml")
    for path, data in children.items():
        site.pages[path] = Page(data, content_type="application/octet-stream")


def _put_lists(site: Site, blog: Blog) -> None:
    newest = blog.posts[20:][::-1]
    pages = [newest[start : start + 10] for start in range(0, len(newest), 10)]
    for number, shown in enumerate(pages, 1):
        older = f"/page/{number + 1}/" if number < len(pages) else ""
        site.pages["/" if number == 1 else f"/page/{number}/"] = html_page(front(blog, shown, older))
    for tag in ("python", "notes"):
        site.pages[f"/tags/{tag}/"] = html_page(front(blog, blog.posts[:3], ""))

    def archive(path: str) -> bytes:
        month = int(path.partition("?month=")[2] or 0)
        return front(blog, newest[:1], f"/archive/?month={month + 1}").encode()

    site.pages["/archive/"] = Page(archive, content_type="text/html")


def front(blog: Blog, shown: Sequence[Post], older: str) -> str:
    """Write a page that lists posts, each linked in some of the ways that people link."""
    items = "".join(
        f'<article><h2><a href="{post.path}?utm_source=front&utm_medium=list">{html.escape(post.title)}</a></h2>'
        f"<time>{post.date}</time><p>{html.escape(post.blocks[0].text[:150])}…</p>"
        f'<a href="{post.path.rstrip("/") if post.number == WITHOUT_SLASH else post.path}#more">Read more</a></article>'
        for post in shown
    )
    following = f'<a rel="next" href="{older}">Older posts</a>' if older else ""
    return (
        f'<!doctype html><html lang="en"><head><title>{blog.name}</title>'
        f'<link rel="alternate" type="application/rss+xml" href="/feed.xml">'
        f'<link rel="alternate" type="application/rss+xml" title="Comments" href="/comments/feed/"></head><body>'
        f'<header><h1><a href="/">{blog.name}</a></h1><nav><a href="/about/">About</a> <a href="/archive/">Archive</a>'
        "</nav></header><main>" + items + following + "</main><aside><h2>Tags</h2><a href='/tags/python/'>python</a>"
        '<h2><a href="http://10.0.0.7/admin/">Router</a></h2><a href="https://example.com/2019/01/elsewhere/">Friends</a>'
        '<a href="/img/cat.jpg">A cat</a> <a href="mailto:maria@example.org">Mail</a></aside>'
        f'<footer>Text under <a rel="license" href="{LICENCE}">CC BY 4.0</a></footer></body></html>'
    )


def rss(blog: Blog, shown: Sequence[Post]) -> Page:
    """Write a feed in which every other post breaks off."""
    items = []
    for post in shown:
        text = body(post)
        if post.number % 2:
            text = f"<p>{html.escape(post.blocks[0].text[:200])}… <a href='{post.path}'>Continue reading</a></p>"
        day = datetime.fromisoformat(f"{post.date}T09:00:00+00:00")
        items.append(
            f"<item><title>{html.escape(post.title)}</title><link>{blog.url}{post.path}?utm_source=rss</link>"
            f"<pubDate>{format_datetime(day)}</pubDate><dc:creator>Maria Lopez</dc:creator>"
            f"<description>A summary</description><content:encoded><![CDATA[{text}]]></content:encoded></item>"
        )
    return Page(
        '<?xml version="1.0" encoding="UTF-8"?><rss version="2.0" xmlns:dc="http://purl.org/dc/elements/1.1/" '
        'xmlns:content="http://purl.org/rss/1.0/modules/content/"><channel>'
        f"<title>{blog.name}</title><link>{blog.url}</link><language>en</language>{''.join(items)}</channel></rss>".encode(),
        content_type="application/rss+xml",
    )


def put_atom_blog(site: Site, count: int = 30, a_page: int = 10) -> Blog:
    """Put a blog on a server whose feed has everything, on pages of which each names the next."""
    blog = Blog(site.url, "All in the feed", posts(count), [])
    newest = blog.posts[::-1]
    for start in range(0, count, a_page):
        entries = "".join(
            f'<entry><title>{html.escape(post.title)}</title><link href="{post.path}"/><id>{post.path}</id>'
            f"<published>{post.date}T08:00:00Z</published>"
            f"<content type='html'>{html.escape(body(post))}</content></entry>"
            for post in newest[start : start + a_page]
        )
        number = start // a_page + 1
        older = f'<link rel="next" href="/atom.xml?page={number + 1}"/>' if start + a_page < count else ""
        site.pages["/atom.xml" if start == 0 else f"/atom.xml?page={number}"] = Page(
            f'<feed xmlns="http://www.w3.org/2005/Atom" xml:base="{site.url}/"><title>{blog.name}</title>'
            f"<author><name>Maria Lopez</name></author>{older}{entries}</feed>".encode(),
            content_type="application/atom+xml",
        )
    links = "".join(f'<h3><a href="{post.path}">{html.escape(post.title)}</a></h3>' for post in newest)
    site.pages["/"] = html_page(f"<title>{blog.name}</title><body>{links}</body>")
    return blog


def put_wordpress_blog(site: Site, count: int = 120) -> Blog:
    """Put a blog of WordPress on a server, with its interface."""
    blog = Blog(site.url, "Just another weblog", posts(count), [])

    def answer(path: str) -> bytes:
        query = dict(parse_qsl(urlsplit(path).query))
        size, number = int(query["per_page"]), int(query["page"])
        return json.dumps(
            [
                {
                    "id": post.number,
                    "date_gmt": f"{post.date}T10:00:00",
                    "link": f"{site.url}{post.path}",
                    "title": {"rendered": html.escape(post.title)},
                    "content": {"rendered": body(post) + WORDPRESS_EXTRAS, "protected": False},
                    "_embedded": {"author": [{"name": "Maria Lopez"}]},
                }
                for post in blog.posts[(number - 1) * size : number * size]
            ]
        ).encode()

    headers = {"X-WP-Total": str(count), "X-WP-TotalPages": str(-(-count // 100))}
    site.pages["/wp-json/wp/v2/posts"] = Page(answer, content_type="application/json", headers=headers)
    site.pages["/"] = Page(
        front(blog, blog.posts[:-11:-1], "/page/2/").encode(),
        content_type="text/html",
        headers={"Link": f'<{site.url}/wp-json/>; rel="https://api.w.org/"'},
    )
    return blog
