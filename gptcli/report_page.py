"""The page of a report: plain values as one HTML file that asks for nothing and runs nothing.

All that comes from outside is escaped in one place; the policy in the page's head forbids scripts and requests even so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from gptcli.figures import visible

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
CAPTION = (
    "Loss in nats a token by step: train thin, val thick with its standard error, a star at the best. It says how much "
    "the next token surprises the model; a nat is 1.44 bits, and less is better."
)
AGAIN = (
    "Save the profile below as <code>profile.yaml</code>. On a CPU of the same kind, with the same versions and number "
    "of threads, the same text gives the same weights, bit for bit."
)
EXPECT = "The texts above are a small model's: it makes up names and facts."
STYLE = """
:root{color-scheme:light dark;--page:#fbfbf9;--card:#fff;--ink:#1f2328;--faint:#6a737d;--grid:#e3e3e0;--curve:#0072b2;
--line:#d9d9d4;--code:#f3f3ef}
@media (prefers-color-scheme:dark){:root{--page:#15171a;--card:#1c1f23;--ink:#e4e6e8;--faint:#9aa2ab;--grid:#2d3136;
--curve:#5ab4f0;--line:#33383e;--code:#22262b}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:52rem;padding:1.5rem 1rem 4rem;background:var(--page);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.6rem;line-height:1.25;margin:.5rem 0}
h2{font-size:1.1rem;margin:2.2rem 0 .6rem}
.lead{font-size:1.08rem;margin:0 0 1.2rem}
.figures{display:flex;flex-wrap:wrap;gap:.6rem;margin:0 0 1.2rem;padding:0}
.figures div{flex:1 1 auto;background:var(--card);border:1px solid var(--line);border-radius:.5rem;
padding:.5rem .8rem}
.figures dt{color:var(--faint);font-size:.82rem}
.figures dd{margin:0;font-weight:600;white-space:nowrap;font-variant-numeric:tabular-nums}
figure{margin:0;padding:.6rem;background:var(--card);border:1px solid var(--line);border-radius:.5rem}
figure svg{display:block;width:100%;height:auto}
figcaption{color:var(--faint);font-size:.85rem;padding:.2rem .4rem}
.facts{display:grid;grid-template-columns:minmax(7rem,max-content) 1fr;gap:.25rem 1rem;margin:0}
.facts dt{color:var(--faint)}
.facts dd{margin:0}
pre{background:var(--code);border:1px solid var(--line);border-radius:.5rem;padding:.8rem;overflow-x:auto;
margin:.4rem 0;font:13.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.sample{white-space:pre-wrap}
.sample b{color:var(--curve)}
h3{font-size:.95rem;margin:1rem 0 .2rem;color:var(--faint);font-weight:600}
summary{cursor:pointer;color:var(--curve)}
footer{margin-top:3rem;color:var(--faint);font-size:.85rem}
@media (max-width:32rem){.facts{grid-template-columns:1fr;gap:0}.facts dd{margin-bottom:.5rem}}
@media print{body{max-width:none}details{display:block}}
"""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and pairs of label and text below it."""

    title: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Page:
    """What the page of a run says; every text may come from outside but ``picture``, which is SVG of our own."""

    title: str
    lead: str
    picture: str
    figures: tuple[tuple[str, str], ...]
    samples: tuple[tuple[str, str, str], ...]
    """Title, prompt and text of each."""
    sections: tuple[Section, ...]
    profile: str
    commands: tuple[str, ...]
    notes: tuple[str, ...]
    made_with: str


def write_page(page: Page) -> str:
    """Return the page as HTML."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<title>{inert(page.title)}</title><link rel="icon" href="data:,"><style>{STYLE}</style></head><body>',
        f"<header><h1>{inert(page.title)}</h1>",
        f'<p class="lead">{inert(page.lead)}</p></header>',
        '<dl class="figures">',
        *(f"<div><dt>{inert(label)}</dt><dd>{inert(text)}</dd></div>" for label, text in page.figures),
        f"</dl><figure>{page.picture}<figcaption>{CAPTION}</figcaption></figure>",
        *_samples(page),
        *(part for section in page.sections for part in _section(section)),
        *(_notes(page.notes) if page.notes else ()),
        "<h2>How to do it again</h2>",
        f"<p>{AGAIN}</p>",
        f"<pre>{inert(chr(10).join(page.commands))}</pre>",
        f"<details><summary>profile.yaml</summary><pre>{inert(page.profile)}</pre></details>",
        f"<footer>Made with {inert(page.made_with)}. {EXPECT}</footer></body></html>",
    ]
    return "\n".join(parts) + "\n"


def inert(text: str) -> str:
    """Return ``text`` so that a browser shows it as it is: no markup, no control characters, no marks that reorder."""
    return escape(visible(text), quote=True)


def _samples(page: Page) -> Iterable[str]:
    if not page.samples:
        return
    yield "<h2>What it writes</h2>"
    for title, prompt, text in page.samples:
        begin = f"<b>{inert(prompt)}</b>" if prompt else ""
        yield f'<h3>{inert(title)}</h3><pre class="sample">{begin}{inert(text)}</pre>'


def _section(section: Section) -> Iterable[str]:
    yield f'<h2>{inert(section.title)}</h2><dl class="facts">'
    yield from (f"<dt>{inert(label)}</dt><dd>{inert(text)}</dd>" for label, text in section.facts)
    yield "</dl>"


def _notes(notes: Iterable[str]) -> Iterable[str]:
    yield "<h2>What was noted</h2><ul>"
    yield from (f"<li>{inert(note)}</li>" for note in notes)
    yield "</ul>"
