# SPDX-License-Identifier: Apache-2.0
"""Recipient addresses: one parser, one folding, one quoting for every key that an MTA or a directory gives.

Rules, and where they come from:

- The domain is what follows the last `@`. Postfix asks a map for the external form (`"a@b"@example.com`) and
  then for the internal one (`a@b@example.com`), the policy service gets only the internal one, Exim sends
  either; both are the same address here. A quoted string (RFC 5321 section 4.1.2) is unquoted; quotes
  elsewhere are ordinary characters of an internal form, and so is a backslash. Hence `"ann"` (needless
  quotes) is `ann`.
- The local part is folded by Unicode case folding and NFC, always: smtpd(8) folds its keys with ICU
  (`util/casefold.c`, ß becomes ss), trivial-rewrite(8) and cleanup(8) do not fold at all.
- The domain is folded to lower-case A-labels (RFC 5890), one trailing dot removed: U-label and A-label are
  one domain, which Postfix takes for two keys. Labels are mapped by RFC 3491 except for the four characters
  that IDNA2008 took back (RFC 5894 section 7.2): ß, ς, ZWJ and ZWNJ stay as they are, as
  `enable_idna2003_compatibility = no` in postconf(5) has it, so straße.example is not strasse.example.
  A-labels are taken as they are.
- Hopeless keys are None, never an exception: no local part, no domain, control characters, invalid UTF-8,
  over-long.

Pure, and on the hot path: plain ASCII keys take no regular expression.
"""

from __future__ import annotations

import re
from encodings.idna import nameprep
from typing import NamedTuple
from unicodedata import normalize

MAX_LOCAL = 512
"""Octets of a local part. RFC 5321 section 4.5.3.1.1 says 64, but SRS, BATV and VERP go beyond and Postfix
lets them; nothing real is longer than this."""

MAX_DOMAIN = 253
"""Octets of a domain as text without the trailing dot (RFC 1035 section 2.3.4: 255 on the wire)."""

_MAX_KEY = 2048  # octets, quotes and escapes included; longer keys are not even looked at
_MAX_KNOWN = 4096  # domains remembered; senders choose them, so the table is emptied when full

_LABELS = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_LITERAL = re.compile(r"\[[a-z0-9.:_-]{1,250}\]")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_ESCAPE = re.compile(r"\\(.)")
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# RFC 3490 section 3.1: these separate labels too
_DOTS = re.compile("[\u3002\uff0e\uff61]")
_DEVIATIONS = re.compile("([\u00df\u03c2\u200c\u200d])")
# What needs no quotes (RFC 5322 dot-atom), 8-bit text included, as Postfix's quote_822_local has it
_DOT_ATOM = re.compile(r'[^\x00-\x20\x7f()<>@,;:\\".\[\]]+(?:\.[^\x00-\x20\x7f()<>@,;:\\".\[\]]+)*')
_TO_ESCAPE = re.compile(r'(["\\])')
# split_addr(3): not split, whatever the delimiter
_RESERVED = frozenset(("postmaster", "mailer-daemon", "double-bounce"))

_known: dict[str, str | None] = {}


class Address(NamedTuple):
    """A parsed address.

    local: the local part folded, in internal (unquoted) form. domain: folded (`fold_domain`). original: the
    local part unquoted, in its own case and normalisation.
    """

    local: str
    domain: str
    original: str


def parse(key: str | bytes) -> Address | None:
    """The address that a key means, or None when it can be nobody's. Never raises, whatever the bytes are.

    key: one address in external or internal form; bytes are UTF-8 (RFC 6531). Blanks around it are not
    removed: they are part of it.
    """
    if isinstance(key, bytes):
        try:
            text = key.decode()
        except UnicodeDecodeError:
            return None
    else:
        text = key
    local, _, domain = text.rpartition("@")
    if not local or len(text) > _MAX_KEY:
        return None
    try:
        name = _known[domain]
    except KeyError:
        name = _remember(domain)
    if name is None:
        return None
    if local.isascii() and local.isprintable() and local[0] != '"' and len(local) <= MAX_LOCAL:
        return tuple.__new__(Address, (local.lower(), name, local))
    local = unquote(local)
    if not local or _FORBIDDEN.search(local):
        return None
    folded = fold_local(local)
    if len(folded.encode()) > MAX_LOCAL:
        return None
    return Address(folded, name, local)


def _remember(domain: str) -> str | None:
    """`fold_domain`, remembered for the next key of the same domain."""
    if len(domain) > 2 * MAX_DOMAIN:
        return None
    name = fold_domain(domain)
    if len(_known) >= _MAX_KNOWN:
        _known.clear()
    _known[domain] = name
    return name


def fold_domain(text: str) -> str | None:
    """A domain in lower-case A-labels without trailing dot, or an address literal in lower case; None if
    neither.

    Underscores and hyphens may stand anywhere in a label: Postfix's valid_hostname(3) lets the former, and a
    stricter parser would only make such mail somebody else's.
    """
    name = text.lower() if text.isascii() else _to_ascii(text)
    if name.endswith("."):
        name = name[:-1]
    if len(name) <= MAX_DOMAIN and _LABELS.fullmatch(name):
        return name
    return name if _LITERAL.fullmatch(name) else None


def _to_ascii(text: str) -> str:
    """Each U-label as A-label; "" when a label cannot be one."""
    if len(text) > MAX_DOMAIN + 1:  # an A-label is never shorter than its U-label
        return ""
    labels = []
    for label in _DOTS.sub(".", text).replace("\u1e9e", "\u00df").split("."):
        if label.isascii():
            labels.append(label.lower())
            continue
        try:
            parts = _DEVIATIONS.split(label)
            prepared = normalize("NFC", "".join(p if _DEVIATIONS.match(p) else nameprep(p) for p in parts))
            if prepared.isascii():
                labels.append(prepared)
            else:
                labels.append("xn--" + prepared.encode("punycode").decode("ascii"))
        except UnicodeError:
            return ""
    return ".".join(labels)


def fold_local(text: str) -> str:
    """A local part (internal form) as it is compared: case-folded and in NFC. Applying it twice changes
    nothing."""
    if text.isascii():
        return text.lower()
    folded = normalize("NFC", normalize("NFD", text).casefold())
    # A few Greek and Cherokee sequences need another round to come to rest.
    for _ in range(3):
        again = normalize("NFC", normalize("NFD", folded).casefold())
        if again == folded:
            break
        folded = again
    return folded


def unquote(local: str) -> str:
    """The internal form of a local part: a quoted string without its quotes and escapes, anything else as it
    is."""
    if local[:1] == '"' and _QUOTED.fullmatch(local):
        return _ESCAPE.sub(r"\1", local[1:-1])
    return local


def external(local: str, domain: str) -> str:
    """`local@domain` in external form: the local part (internal form) is quoted when it is no dot-atom."""
    if _DOT_ATOM.fullmatch(local):
        return f"{local}@{domain}"
    return f'"{_TO_ESCAPE.sub(_escape, local)}"@{domain}'


def _escape(match: re.Match[str]) -> str:
    return "\\" + match[0]


def forms(local: str, delimiters: str) -> tuple[tuple[str, str], ...]:
    """The forms under which a local part (folded, internal form) is looked up: (base, extension with
    delimiter).

    delimiters: `recipient_delimiter`, a set of characters; "" for none. First the whole local part, then what
    stands before the first delimiter. As Postfix's split_addr(3) has it, nothing is split when that would
    leave an empty base (`+ext`), nor postmaster, mailer-daemon and double-bounce, nor, with `-` among the
    delimiters, `owner-x` and `x-request` (postconf(5), owner_request_special = yes).
    """
    if len(delimiters) == 1:
        index = local.find(delimiters)
    else:
        index = next((i for i, char in enumerate(local) if char in delimiters), -1)
    if index <= 0 or local in _RESERVED:
        return ((local, ""),)
    if "-" in delimiters and (
        local.startswith("owner-") or (local.endswith("-request") and len(local) > len("-request"))
    ):
        return ((local, ""),)
    return ((local, ""), (local[:index], local[index:]))


def with_extension(address: str, extension: str) -> str:
    """An address (external form) with an extension, delimiter included, put behind its local part.

    It is what Postfix's mail_addr_crunch(3) does for `propagate_unmatched_extensions`: unquoted, extended
    before the last `@`, quoted again when needed. Case is kept.
    """
    if not extension:
        return address
    local, at, domain = address.rpartition("@")
    if not at:
        return address + extension
    return external(unquote(local) + extension, domain)


def unrouted(text: str) -> str:
    """A recipient (internal form) one step further on the way on which trivial-rewrite(8) resolves it, "" at the end.

    A domain that is the host itself is taken off what names another one, a trailing `%` too; then `host!user` and
    `user%host` are `user@host` (postconf(5), swap_bangpath, allow_percent_hack).
    """
    rest = (text.rpartition("@")[0] if "@" in text else text).rstrip("%@")
    if "@" in rest:
        return rest
    host, bang, user = rest.partition("!")
    if not bang:
        user, _, host = rest.rpartition("%")
    return f"{user}@{host}" if user and host else ""
