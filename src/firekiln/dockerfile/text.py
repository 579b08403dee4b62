"""Characters as Go sees them: Python's own `strip` knows other white space (0x1C to 0x1F) than Go's `unicode`.

Text is str; bytes that are no UTF-8 stand in it as surrogates (`surrogateescape`), so that nothing is lost.
"""

from __future__ import annotations

import re
import unicodedata

SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""Go's unicode.IsSpace."""

ASCII_SPACE = "\t\n\f\r "
r"""`\s` of Go's regular expressions."""

_UNDECODABLE = re.compile("[\ud800-\udfff]")
_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")


class MalformedError(ValueError):
    """A part of an instruction is refused; `span` is its text, for a caret under it."""

    def __init__(self, message: str, *, span: str) -> None:
        super().__init__(message)
        self.span = span


def span_of(error: ValueError) -> str | None:
    """What an error is about, where it tells."""
    return error.span if isinstance(error, MalformedError) else None


def decode(data: bytes) -> str:
    """Bytes of a file as text; never fails."""
    return data.decode(errors="surrogateescape")


def encode(text: str) -> bytes:
    """The bytes that `decode` had."""
    return text.encode(errors="surrogateescape")


def printable(text: str) -> str:
    """Text with U+FFFD for each byte that is no UTF-8, as Go writes such bytes to JSON and from rune to rune."""
    return text if text.isascii() else _UNDECODABLE.sub("\ufffd", text)


def visible(text: str) -> str:
    """Text that does not command a terminal: U+FFFD for control characters, but for tabs, and for undecodable bytes."""
    if text.isascii() and text.isprintable():
        return text
    cleaned = (c if c == "\t" or unicodedata.category(c) not in ("Cc", "Cf") else "\ufffd" for c in text)
    return printable("".join(cleaned))


def sound(text: str) -> str:
    """Text that `encode` takes: surrogates that stand for no byte become U+FFFD."""
    return text if text.isascii() else _NO_BYTE.sub("\ufffd", text)
