"""Figures as plain text: losses, counts, bytes, durations, and text from outside made inert.

One place for how a number looks. Knows no terminal and no event.
"""

from __future__ import annotations

import re

# Controls but newline and tab, marks that reorder or break lines, and halves of surrogate pairs (from file names).
HOSTILE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Return ``text`` with every character that could command a terminal replaced by one that shows it.

    C0 controls become their pictures (ESC is U+241B), C1 and bidi controls and line separators ``<U+202E>``.
    Newlines and tabs stay.
    """
    return HOSTILE.sub(_picture, text)


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"<U+{code:04X}>"


def loss_text(loss: float | None) -> str:
    """A loss in nats: 1.2345; three decimals from 10 on, 1.2e+09 where that is too wide; empty when there is none."""
    if loss is None:
        return ""
    if not abs(loss) < 1000:
        return f"{loss:.1e}"
    return f"{loss:.4f}" if loss < 10 else f"{loss:.3f}"


def loss_error_text(loss: float | None, stderr: float | None) -> str:
    """A loss with its standard error: 1.2345 ± 0.0123."""
    return loss_text(loss) if loss is None or stderr is None else f"{loss_text(loss)} ± {loss_text(stderr)}"


def promise_text(promised: float, best: float | None, *, ended: bool) -> str:
    """Say whether the val_loss that a profile promises was reached; a run that has not ended may still do so."""
    if best is not None and best <= promised:
        return f"val_loss {promised:g}: reached"
    if not ended:
        return f"val_loss {promised:g}: not yet, the run is not complete"
    missed = "" if best is None else f", missed by {best - promised:.4f}"
    return f"val_loss {promised:g}: not reached{missed}"


def count_text(number: float) -> str:
    """A large number in three digits: 999, 1.20k, 12.3k, 124M, 1.56B."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:
            return f"{number / size:#.3g}".rstrip(".") + unit
    return f"{number:.0f}"


def bytes_text(number: int) -> str:
    """Bytes in a unit that fits: 512 bytes, 12 kB, 3.4 GB."""
    units = ((1e9, "GB", 1), (1e6, "MB", 0), (1e3, "kB", 0))
    found = next(((size, unit, digits) for size, unit, digits in units if number >= size), None)
    return f"{number} bytes" if found is None else f"{number / found[0]:.{found[2]}f} {found[1]}"


def duration_text(seconds: float) -> str:
    """Seconds as 9s, 1m 05s, 2h 07m or 3d 04h."""
    whole = max(0, round(seconds)) if seconds < 1e12 else 0
    minutes, rest = divmod(whole, 60)
    if whole < 60:
        return f"{rest}s"
    if whole < 3600:
        return f"{minutes}m {rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if whole < 86_400:
        return f"{hours}h {minutes:02d}m"
    return f"{hours // 24}d {hours % 24:02d}h"
