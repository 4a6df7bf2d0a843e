"""Web addresses and other text from servers: what is an address, what a relative one means, how it may be shown."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit, urlunsplit


def is_web_address(text: object) -> bool:
    """Return whether `text` is a well-formed http or https address."""
    try:
        parts = urlsplit(text) if isinstance(text, str) else None
        return parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port or an IPv6 host that is none
        return False


def joined(base: str, reference: object) -> str:
    """Return the address that `reference` means on the page `base`; empty when it is none."""
    try:
        target = urljoin(base, reference) if isinstance(reference, str) and reference else ""
    except ValueError:
        return ""
    return target if is_web_address(target) else ""


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Return (scheme, host, port) of `url`."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def shown(url: str) -> str:
    """Return `url` as a message may show it: without user, password and query, where secrets travel."""
    parts = urlsplit(url)
    return printable(urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")))


def printable(text: str) -> str:
    """Return `text` on one line without control characters, which could repaint a terminal."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def whole_number(text: str | None) -> int | None:
    """Return the number that a header says; None unless it is plain digits."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 20 else None
