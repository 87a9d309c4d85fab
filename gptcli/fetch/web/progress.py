"""The line that says how far a fetch is: counts, bytes, time left. Prints nothing itself."""

from __future__ import annotations

from dataclasses import dataclass

from gptcli.progress import Portion


@dataclass(slots=True)
class Progress:
    """Counts the addresses of a part of a fetch; without ``total`` it is not known how many there will be."""

    total: int = 0
    what: str = "pages"
    done: int = 0
    asked: int = 0
    seconds: float = 0.0

    def step(self, seconds: float, *, asked: bool) -> None:
        """Count an address that took so long, and whether somebody had to be asked for it."""
        self.done += 1
        self.asked += asked
        self.seconds += seconds

    def line(self, size: int) -> str:
        """Return the line; ``size`` is the bytes that came since the fetch was begun."""
        if not self.total:
            return f"{_singular(self.what)} {self.done:,}, {megabytes(size)}"
        parts = [f"{_singular(self.what)} {self.done:,} of {max(self.total, self.done):,}", megabytes(size)]
        if self.asked and self.done < self.total:
            parts.append(f"about {clock((self.total - self.done) * self.seconds / self.asked)} left")
        return Portion(", ".join(parts), self.done, self.total)


def megabytes(size: int) -> str:
    """Return a number of bytes as people read it: ``12 kB``, ``1.2 MB``, ``2,000 MB``."""
    if size < 1_000_000:
        return f"{size / 1e3:.0f} kB"
    return f"{size / 1e6:.1f} MB" if size < 10_000_000 else f"{size / 1e6:,.0f} MB"


def downloading(host: str | None, done: int, total: int | None) -> str:
    """Return the line for a body that is on its way: so many bytes of so many, where that is known."""
    of = f" of {megabytes(total)}" if total else ""
    line = f"downloading {host}: {megabytes(done)}{of}"
    return Portion(line, done, total) if total else line


def clock(seconds: float) -> str:
    """Return a time as ``0:40`` or ``2:05:00``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _singular(what: str) -> str:
    return f"{what[:-3]}y" if what.endswith("ies") else what.removesuffix("s")
