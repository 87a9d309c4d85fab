"""A large text of real words for ``prepare_scale.py``: documents that a chain of words writes from books.

Each word follows the one before it somewhere in the books. The same seed and the same books give the same text.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np

DOCUMENT_BYTES = 5_000
CHAINS = 512
# Words of all chains that are drawn at a time.
ROUND = 1000


def write_corpus(folder: Path, megabytes: float, books: list[Path], seed: int) -> int:
    """Write ``documents.jsonl`` and ``source.json`` of a corpus with so much text; return the number of documents."""
    rng = np.random.default_rng(seed)
    words = [word for book in books for word in re.findall(r"\S+\s*", book.read_text("utf-8", "replace"))]
    vocabulary, ids = np.unique(np.array(words, object), return_inverse=True)
    # The successors of each word lie one after the other.
    order = np.argsort(ids[:-1], kind="stable")
    after = ids[1:][order]
    counts = np.bincount(ids[:-1], minlength=len(vocabulary))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    at = rng.integers(0, len(vocabulary), CHAINS)
    written = number = 0
    digest = hashlib.sha256()
    folder.mkdir(parents=True)
    with (folder / "documents.jsonl").open("wb") as file:
        while written < megabytes * 1e6:
            drawn = np.empty((CHAINS, ROUND), np.int64)
            for place in range(ROUND):
                drawn[:, place] = at
                n_after = counts[at]
                chosen = starts[at] + rng.integers(0, np.maximum(n_after, 1))
                at = np.where(n_after > 0, after[np.minimum(chosen, after.size - 1)], 0)
            for chain in drawn:
                text = f"{number} " + "".join(vocabulary[chain])
                document = {"id": hashlib.sha256(text.encode()).hexdigest()[:16], "text": text}
                line = json.dumps(document, ensure_ascii=False).encode() + b"\n"
                file.write(line)
                digest.update(line)
                written += len(text.encode())
                number += 1
    record = {
        "format_version": 1,
        "name": folder.name,
        "kind": "made",
        "source": "benchmarks/scale_text.py",
        "why": "it is made of words of books",
        "fetched_at": "2026-01-01T00:00:00+00:00",
        "sha256": digest.hexdigest(),
        "documents": number,
        "bytes": written,
        "licence": "",
        "notes": [],
    }
    (folder / "source.json").write_text(json.dumps(record), "utf-8")
    return number
