"""A text to measure ``prepare`` on: prose and programs that every Python installation carries, in documents.

    python benchmarks/prepare_text.py OUT.jsonl [--megabytes 100] [--book FILE ...] [--seed 1]

Paragraphs of docstrings, documentation and licences, each kept once, then functions of programs, and new text that a
chain of words writes from the books. They are shuffled into documents of 1 to 10 kB, one JSON object a line. The same
seed on the same installation gives the same text.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = {".py", ".rst", ".txt", ".md"}
TRIPLE = re.compile(r'"""(.*?)"""', re.DOTALL)
BLANK_LINES = re.compile(r"\n\s*\n")
NO_SIGNS = re.compile(r"[^\w\s,.'\u2019-]|_")
INDENT = re.compile(r"\n[ \t]+")
LARGEST_FILE = 400_000
SHORTEST = 60
# Of the text: programs, and what the books give.
CODE_SHARE, BOOK_SHARE = 0.08, 0.5
DOCUMENT_CHARS = (1_000, 10_000)


def installed_texts(rng: random.Random) -> Iterator[tuple[str, str]]:
    """Yield (suffix, text) of the files of the standard library and of installed packages, shuffled."""
    paths = sysconfig.get_paths()
    roots = {Path(paths["stdlib"]), Path(paths["purelib"])}
    files = sorted(path for root in roots for path in root.rglob("*") if path.suffix in SUFFIXES)
    rng.shuffle(files)
    for path in files:
        try:
            text = path.read_text("utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        if len(text) <= LARGEST_FILE:
            yield path.suffix, text


def is_prose(paragraph: str) -> bool:
    """Say whether a paragraph has words and few signs."""
    plain = len(NO_SIGNS.sub("", paragraph))
    return len(paragraph) >= SHORTEST and plain > 0.95 * len(paragraph) < 0.95 * 12 * paragraph.count(" ")


def collect(rng: random.Random) -> tuple[list[str], list[str]]:
    """Return paragraphs of prose and pieces of programs, each different from all others."""
    prose: dict[str, None] = {}
    code: dict[str, None] = {}
    for suffix, text in installed_texts(rng):
        parts = TRIPLE.findall(text) if suffix == ".py" else [text]
        prose.update((INDENT.sub("\n", p).strip(), None) for part in parts for p in BLANK_LINES.split(part))
        if suffix == ".py":
            code.update((p, None) for p in re.split(r"\n(?=def |class |@)", text) if len(p) >= SHORTEST)
    return [p for p in prose if is_prose(p)], list(code)


def book_paragraphs(books: list[Path], rng: random.Random) -> Iterator[str]:
    """Yield paragraphs without end, of words each of which follows the two before it somewhere in the books."""
    words = [word for book in books for word in re.findall(r"\s*\S+", book.read_text("utf-8", "replace"))]
    after: dict[tuple[str, str], list[str]] = {}
    for one, two, three in zip(words, words[1:], words[2:], strict=False):
        after.setdefault((one, two), []).append(three)
    begins = list(after)
    while True:
        one, two = rng.choice(begins)
        paragraph = [one, two]
        while len(paragraph) < 120 and (one, two) in after:
            one, two = two, rng.choice(after[one, two])
            paragraph.append(two)
        yield "".join(paragraph).strip()


def build_documents(n_bytes: int, books: list[Path], seed: int) -> Iterator[str]:
    """Yield documents of ``n_bytes`` together; less where the installation has less text."""
    rng = random.Random(seed)
    prose, code = collect(rng)
    rng.shuffle(prose)
    rng.shuffle(code)
    shares = [(CODE_SHARE, iter(code))]
    if books:
        shares.append((BOOK_SHARE, book_paragraphs(books, rng)))
    sources = [(1 - sum(share for share, _ in shares), iter(prose)), *shares]
    size = 0
    while size < n_bytes and sources:
        length, parts = rng.randint(*DOCUMENT_CHARS), list[str]()
        (_, source), *_ = rng.choices(sources, [share for share, _ in sources])
        while sum(map(len, parts)) < length and (part := next(source, None)) is not None:
            parts.append(part)
        if not parts:
            sources = [(share, other) for share, other in sources if other is not source]
            continue
        text = "\n\n".join(parts)
        size += len(text.encode("utf-8", "replace"))
        yield text


def write_text(path: Path, megabytes: float, books: list[Path], seed: int) -> int:
    """Write the documents as lines of JSON; return how many."""
    count = 0
    with path.open("w", encoding="utf-8", errors="replace") as file:
        for text in build_documents(int(megabytes * 1e6), books, seed):
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            count += 1
    return count


def main() -> None:
    """Write the text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--book", type=Path, action="append", default=[])
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"{write_text(options.out, options.megabytes, options.book, options.seed):,} documents")


if __name__ == "__main__":
    main()
