"""E-mail addresses and IP addresses. What documentation uses as an example belongs to nobody and stays."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

Span = tuple[int, int]

# ---------------------------------------------------------------- e-mail (RFC 5321, as people write it)

_AT = re.compile(r"@[^\W_]")
_LOCAL = re.compile(r"(?<![\w.+'%-])[^\W_](?:[\w.%+'-]{0,62}[\w-])?$|(?<![\w.+'%-])_[\w.%+-]{0,61}\w$")
_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.)+(?:[^\W\d_]{2,24}|xn--[a-z0-9-]{2,59})(?![\w@-])")
# Names that RFC 2606 and 6761 give to documentation, and forms that only look like an address.
_EXAMPLE_DOMAIN = re.compile(
    r"(?:^|\.)(?:example|invalid|test|localhost|local)$|(?:^|\.)example\.(?:com|org|net|edu)$", re.I
)
_NOT_PEOPLE = {"git", "svn", "hg"}  # git@github.com:owner/name is a place
_CODE_ENDINGS = ("py", "js", "mjs", "ts", "css", "scss", "json", "txt", "html", "md", "xml", "yaml", "yml", "so", "exe")
_FILE_ENDINGS = frozenset((*_CODE_ENDINGS, "dll", "png", "jpg", "jpeg", "gif", "svg", "webp", "zip", "gz", "whl"))


def emails(text: str) -> Iterator[Span]:
    """E-mail addresses, also with letters of any script; every `@` is looked at once, with the 64 characters before."""
    for anchor in _AT.finditer(text):
        at = anchor.start()
        # A slice, so that `$` can stand for the `@`; one character more than a local part may have, for the lookbehind.
        begin = max(0, at - 66)
        local = _LOCAL.search(text[begin:at])
        if local is not None and ".." not in local[0]:
            domain = _DOMAIN.match(text, at + 1)
            if domain is not None and _is_of_a_person(local[0], domain[0], text[domain.end() : domain.end() + 1]):
                yield begin + local.start(), domain.end()


def _is_of_a_person(local: str, domain: str, after: str) -> bool:
    is_place = local.lower() in _NOT_PEOPLE and after in (":", "/")
    is_file = domain.rpartition(".")[2].lower() in _FILE_ENDINGS
    return not (is_place or is_file or _EXAMPLE_DOMAIN.search(domain))


# ---------------------------------------------------------------- IP addresses

_IPV4 = re.compile(r"(?<![\w.-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w-]|\.[0-9])")
_IPV6 = re.compile(
    r"(?<![\w:.])(?=[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]*:)[0-9A-Fa-f]{1,4}:[0-9A-Fa-f:]{3,36}[0-9A-Fa-f](?![\w:])"
)
_IPV6_HEART = re.compile(r":[0-9A-Fa-f]{0,4}:")
_VERSION_WORD = re.compile(
    r"(?:\bversions?|\bver\.?|\brelease|\bv\.?|\bbuild|\bfirmware|\bdriver|\bsection|\bchapter|[=<>~^]=?|§|\boid)"
    r"\s*[:=]?\s*$",
    re.I,
)


def ipv4_addresses(text: str, start: int, end: int, *, private: bool) -> Iterator[Span]:
    """Addresses of the public internet between `start` and `end`; with `private` those of home networks too."""
    for match in _IPV4.finditer(text, start, end):
        before = text[max(0, match.start() - 16) : match.start()]
        if _is_a_hosts(match[0], private=private) and not _VERSION_WORD.search(before):
            yield match.span()


def ipv6_addresses(text: str, *, private: bool) -> Iterator[Span]:
    """Global unicast addresses; with `private` unique local and link-local ones too."""
    done = 0
    for heart in _IPV6_HEART.finditer(text):
        if heart.start() < done:
            continue
        for match in _IPV6.finditer(text, max(done, heart.start() - 4), heart.start() + 44):
            done = match.end()
            if _is_a_hosts(match[0], private=private):
                yield match.span()


def _is_a_hosts(address: str, *, private: bool) -> bool:
    """A host's own address: not loopback, multicast, reserved or for documentation (RFC 5737, 3849)."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if parsed.version == 4:
        if parsed.packed[0] in (10, 172, 192) and parsed.is_private and not parsed.packed.startswith(b"\xc0\x00\x02"):
            return private  # RFC 1918: the same in a million homes
        # 1.2.3.4 and the like are versions or section numbers far more often than hosts.
        return parsed.is_global and not parsed.is_multicast and max(parsed.packed) > 31
    if parsed.packed[0] in (0xFC, 0xFD) or parsed.is_link_local:
        return private
    return parsed.is_global and 0x20 <= parsed.packed[0] <= 0x3F
