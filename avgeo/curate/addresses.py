"""Web addresses as strangers write them: whether they can be fetched, what of them may be shown, where they lead."""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

_LONGEST_URL = 4096


def bare_url(url: str) -> str:
    """An address without the user name and password that it may hold: they are nobody else's business."""
    return re.sub(r"^(\s*[a-z][a-z0-9+.-]*:)?//[^/?#]*@", r"\1//", url, flags=re.IGNORECASE)


def url_problem(url: str) -> str | None:
    """Why an address cannot be fetched, or None: it is absent, no http(s), has no host, or is no URL at all."""
    if not url:
        return "no address"
    if len(url) > _LONGEST_URL:
        return f"the address has {len(url)} characters, more than {_LONGEST_URL}"
    if any(character <= " " or character in "\x7f\\" or "\ud800" <= character <= "\udfff" for character in url):
        return "the address has characters that a URL cannot have"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "the address is not a URL"
    if "@" in parts.netloc:
        return "the address holds a user name"
    if parts.scheme.lower() not in ("http", "https"):
        return f"the address's scheme is {parts.scheme[:20] or 'absent'!r}: only http and https are fetched"
    return None if host else "the address has no host"


def host_of(url: str) -> str:
    """The host that an address names, for messages and rate limits; never credentials or keys."""
    return (urlsplit(url).hostname or "").lower()


def inside(address: str) -> bool:
    """Whether an IP address is private, loopback, link-local or otherwise not of the public internet; no for names."""
    try:
        found = ip_address(address.split("%")[0])
    except ValueError:
        return address == "localhost" or address.endswith(".localhost")
    return not (getattr(found, "ipv4_mapped", None) or found).is_global
