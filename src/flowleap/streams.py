"""Standard output and standard error that escape characters that their encoding lacks as \\uXXXX."""

from __future__ import annotations

import codecs
import io
import sys

ESCAPE = "flowleap-escape"
"""An error handler for encoding: \\uXXXX, and two of them beyond U+FFFF, which a JSON string reads back as it was."""
ASCII = "flowleap_ascii"
FAILING = ("strict", "surrogateescape", "surrogatepass")


def keep_printing() -> None:
    """Make standard output and standard error escape characters that they cannot encode, instead of raising.

    This includes the surrogates of file names that are not UTF-8. Streams that replace or ignore such characters, as by
    PYTHONIOENCODING, stay as they are.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in FAILING:
            stream.reconfigure(errors=ESCAPE)


def keep_printing_ascii() -> None:
    """Keep ASCII streams ASCII; click would write UTF-8 to them, taking ASCII for a misconfiguration."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name == "ascii":
            stream.reconfigure(encoding=ASCII, errors=stream.errors)


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4)), error.end


def _named(name: str) -> codecs.CodecInfo | None:
    if name != ASCII:
        return None
    plain = codecs.lookup("ascii")
    return codecs.CodecInfo(
        plain.encode, plain.decode, plain.streamreader, plain.streamwriter,
        plain.incrementalencoder, plain.incrementaldecoder, name=ASCII,
    )  # fmt: skip


codecs.register_error(ESCAPE, _escape)
codecs.register(_named)
