"""What may stand in a log line: no secret, nothing that JSON or a database can't hold."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import isfinite
from threading import Lock
from urllib.parse import quote, quote_plus

__all__ = ["clean", "mask_secret", "redact"]

_MASK = "***"
# Shorter ones would blot out ordinary words. Airflow draws the line at the same length
# (``[logging] min_length_masked_secret``).
_SHORTEST_SECRET = 5
_DEEPEST = 16
# PostgreSQL's JSONB refuses NUL, and UTF-8 has no lone surrogates: many a log store refuses the whole line.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

_lock = Lock()
_spellings: set[str] = set()
_pattern: re.Pattern[str] | None = None


def mask_secret(value: str) -> None:
    """From now on, show ``value`` as ``***`` in every log line that goes through this package.

    Its spellings in an URL, in JSON and in a ``repr`` are masked, too. Secrets under 5 characters are not
    masked: they would blot out ordinary words.
    """
    global _pattern
    if len(value) < _SHORTEST_SECRET:
        return
    raw = value.encode(errors="surrogatepass")
    spellings = {value, quote(raw), quote(raw, safe=""), quote_plus(raw)}
    spellings |= {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], repr(value)[1:-1]}
    with _lock:
        _spellings.update(spellings)
        # The longest first: of two secrets where one begins the other, no rest may stay readable.
        longest_first = sorted(_spellings, key=lambda spelling: (-len(spelling), spelling))
        _pattern = re.compile("|".join(map(re.escape, longest_first)))


def redact(text: str) -> str:
    """``text`` with each known secret masked, and NULs and lone surrogates replaced by U+FFFD."""
    # Cleaned last: a secret may hold a lone surrogate (an environment variable that is not UTF-8 does).
    if _pattern is not None:
        text = _pattern.sub(_MASK, text)
    return _UNSTORABLE.sub("\ufffd", text)


def _text(value: object) -> str:
    try:
        return redact(str.__str__(value) if isinstance(value, str) else str(value))
    except Exception:  # noqa: BLE001 - any object may be logged, and its __str__ may raise anything
        return f"<{type(value).__name__} that can't be shown>"


def clean(value: object) -> object:
    """``value`` as something that JSON can hold, redacted: what has no form in JSON becomes its ``str``.

    It never raises, whatever ``value`` does when it is looked at.
    """
    try:
        return _clean(value, ())
    except Exception:  # noqa: BLE001 - a dict may change while it is read, a mapping may load things lazily
        return _text(value)


def _clean(value: object, above: tuple[int, ...]) -> object:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        number = int(value)
        # Python writes no number of more than 4300 digits. And a secret may be all digits.
        return number if number.bit_length() <= 1024 and redact(str(number)) == str(number) else _text(number)
    if isinstance(value, float) and isfinite(value):
        return float(value)
    if len(above) < _DEEPEST and id(value) not in above:
        inside = (*above, id(value))
        if isinstance(value, Mapping):
            return {_text(key): _clean(item, inside) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [_clean(item, inside) for item in value]
    return _text(value)
