"""Web addresses as text: when two are the same, what a link leads to, and which part is nobody's business.

Asks no server and no resolver.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, quote, unquote_to_bytes, urljoin, urlsplit, urlunsplit

MAX_URL_CHARS = 8000
_DEFAULT_PORTS = {"http": 80, "https": 443}
_TRACKING = {"fbclid", "gclid", "dclid", "msclkid", "mc_cid", "mc_eid", "igshid", "yclid"}
_HOST = re.compile(r"""[^\x00-\x20\x7f"%<>\\^`{|}]+""")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def canonical(url: str) -> str:
    """Return the one spelling by which a discovered link is known; an address that is none comes back as it is.

    Scheme and host in lower case, no default port, no fragment, no login, dot segments resolved, escapes of plain
    characters undone and others in upper case, parameters that only track readers left out, ``/`` for no path.
    """
    plain = without_login(url.strip())
    parts = _split(plain)
    if parts is None:
        return url
    query = "&".join(item for item in parts.query.split("&") if item and not _tracks(item))
    path = _resolved(_escaped(parts.path)) or "/"
    return urlunsplit((parts.scheme.lower(), site(plain), path, _escaped(query), ""))


def join(base: str, link: str) -> str | None:
    """Return where a link on the page ``base`` leads, without fragment and login; None where that is not the web."""
    # Browsers drop these wherever they stand, and people break links over lines.
    cleaned = re.sub(r"[\t\r\n]", "", link).strip("".join(map(chr, range(33))))
    if len(cleaned) > MAX_URL_CHARS:
        return None
    try:
        parts = _split(without_login(urljoin(base, cleaned)))
    except ValueError:
        return None
    if parts is None:
        return None
    path = re.sub(r"[^\x21-\x7e]+", _quoted, parts.path)
    query = re.sub(r"[^\x21-\x7e]+", _quoted, parts.query)
    return urlunsplit((parts.scheme.lower(), parts.netloc, path, query, ""))


def same_site(one: str, other: str) -> bool:
    """Say whether two addresses have the same host, a leading ``www.`` aside, and both their default or one port."""
    hosts = [site(url).removeprefix("www.") for url in (one, other)]
    return hosts[0] == hosts[1] != ""


def site(url: str) -> str:
    """Return the host in lower case, with its port unless that is the scheme's own; nothing where there is none."""
    parts = _split(url)
    if parts is None or parts.hostname is None:
        return ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    default = parts.port in {None, _DEFAULT_PORTS[parts.scheme.lower()]}
    return host if default else f"{host}:{parts.port}"


def origin(url: str) -> str:
    """Return scheme and host of an address, as ``https://example.org``; nothing where there is no host."""
    host = site(url)
    return f"{urlsplit(url).scheme.lower()}://{host}" if host else ""


def mirrored(url: str, real: str, base: str) -> str:
    """Return where the mirror below ``base`` has an address of the host of ``real``; any other comes back as it is."""
    if not site(url) or site(url) != site(real):
        return url
    path = url.partition("://")[2][len(urlsplit(url).netloc) :]
    return base.rstrip("/") + path


def unmirrored(url: str, real: str, base: str) -> str:
    """Return which address of the host of ``real`` one below ``base`` stands for; any other comes back as it is."""
    if not site(url) or origin(url) != origin(base):
        return url
    top = urlsplit(base).path.rstrip("/")
    path = url.partition("://")[2][len(urlsplit(url).netloc) :]
    below = path[len(top) :]
    return origin(real) + below if path.startswith(top) and below[:1] in {"", "/", "?", "#"} else url


def without_fragment(url: str) -> str:
    """Return the address without ``#`` and what follows it, which servers never see."""
    return url.partition("#")[0]


def without_login(url: str) -> str:
    """Return the address without user name and password, which do not belong into files and messages."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    host, slash, _ = re.split(r"([/?#]|\Z)", rest, maxsplit=1)
    if "@" in host:
        return f"{scheme}://{rest[host.rindex('@') + 1 :]}"
    # A password may hold a bare slash: then what stands before it is no host, since its port is no number.
    if slash and "@" in rest and re.search(r":(?!\d*\Z)[^\]]*\Z", host):
        return f"{scheme}://{rest.rpartition('@')[2]}"
    return url


def login(url: str) -> tuple[str, str] | None:
    """Return the user name and password of an address, or None where it has none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if "@" not in parts.netloc:
        return None
    name, _, password = parts.netloc.rpartition("@")[0].partition(":")
    return unquote_to_bytes(name).decode("utf-8", "replace"), unquote_to_bytes(password).decode("utf-8", "replace")


def _split(url: str) -> SplitResult | None:
    """Return the parts of an address of the web, or None for what is none."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        known = parts.scheme.lower() in _DEFAULT_PORTS and _HOST.fullmatch(host) is not None and parts.port != 0
    except ValueError:  # brackets that do not match, a port that is no number
        return None
    return parts if known and host.isprintable() else None


def _tracks(parameter: str) -> bool:
    name = parameter.partition("=")[0].lower()
    return name.startswith("utm_") or name in _TRACKING


def _escaped(text: str) -> str:
    """Undo escapes of plain characters, write the others in upper case, and escape what may not stand bare."""

    def one(match: re.Match[str]) -> str:
        code = int(match[1], 16)
        return chr(code) if code in _UNRESERVED else f"%{code:02X}"

    plain = re.sub(r"%([0-9A-Fa-f]{2})", one, text)
    return re.sub(r"""[^\x21-\x7e]+|["<>`{}|\\^]""", _quoted, plain)


def _quoted(match: re.Match[str]) -> str:
    return quote(match[0], safe="", errors="replace")


def _resolved(path: str) -> str:
    """Resolve ``.`` and ``..`` as RFC 3986 does, section 5.2.4."""
    kept: list[str] = []
    pieces = path.split("/")
    for piece in pieces:
        if piece == "..":
            del kept[max(len(kept) - 1, 1) :]
        elif piece != ".":
            kept.append(piece)
    if pieces[-1] in {".", ".."}:
        kept.append("")
    return "/".join(kept)
