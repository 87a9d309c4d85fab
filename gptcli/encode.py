"""A corpus to token files: stretches of it are encoded by workers, and what comes is written in order, in flat memory.

Between two stretches all that is known can be put down, and gone on with later.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from gptcli.copies.index import IndexWriter
from gptcli.documents import Span
from gptcli.encode_job import Encoded, Stretch
from gptcli.shard_writer import ShardWriter
from gptcli.shards import Conversations, SplitName
from gptcli.split import Before, SplitPlan
from gptcli.survey import Ints


@dataclass(slots=True)
class SplitTotals:
    """What has gone into one split so far."""

    documents: int = 0
    bytes: int = 0
    answers: int = 0
    lengths: array[int] = field(default_factory=lambda: array("q"))
    """Of each conversation, in tokens."""
    ended: bool = False
    """Whether end-of-text stands last already."""

    def conversations(self, scored_tokens: int) -> Conversations:
        """Sum the conversations up."""
        lengths = np.sort(np.array(self.lengths, np.int64)) if self.lengths else np.zeros(1, np.int64)
        median, most = (int(lengths[int(share * (lengths.size - 1))]) for share in (0.5, 0.9))
        return Conversations(len(self.lengths), self.answers, scored_tokens, median, most, int(lengths[-1]))


Totals = Mapping[SplitName, SplitTotals]


def no_totals() -> Totals:
    """Return the totals of splits into which nothing has gone yet."""
    return {"train": SplitTotals(), "val": SplitTotals()}


def stretches(plan: SplitPlan, begins: Ints, n_bytes: int, first: int = 0) -> Iterator[Stretch]:
    """Yield the stretches of a corpus file of ``n_bytes`` between the places where reading may begin."""
    ends = [*begins[1:, 0].tolist(), n_bytes]
    last = [*begins[1:, 2].tolist(), len(plan.sides) - 1]
    for number in range(first, len(begins)):
        start, line, ordinal, kept, of_document = begins[number].tolist()
        base = max(ordinal, 0)
        ordinals = range(base, last[number] + 1)
        yield Stretch(
            Span(start, ends[number], line),
            Before(ordinal - base, kept, of_document),
            np.frombuffer(plan.sides, np.uint8, len(ordinals), base),
            [(one - base, plan.lengths[one]) for one in ordinals if one in plan.lengths],
        )


def write_encoded(
    encoded: Iterable[dict[SplitName, Encoded]],
    writers: Mapping[SplitName, ShardWriter],
    totals: Totals,
    index: IndexWriter,
) -> Iterator[int]:
    """Write what stretches gave, in their order; yield after each how many bytes of text there are so far.

    No end-of-text stands before the first document of a split, nor behind another. The text of train goes into
    ``index`` too.
    """
    for parts in encoded:
        for split, part in parts.items():
            total = totals[split]
            skipped = int(part.separated and (total.bytes == 0 or total.ended))
            writers[split].write(part.ids[skipped:], None if part.scored is None else part.scored[skipped:])
            total.documents += part.documents
            total.bytes += part.n_bytes
            total.answers += part.answers
            total.ended = part.ended
            total.lengths.extend(part.lengths)
            if part.grams is not None:
                index.add(part.grams)
        yield sum(total.bytes for total in totals.values())
