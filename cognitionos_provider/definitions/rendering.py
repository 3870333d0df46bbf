"""How values become text, and how much a rendering may make."""

from __future__ import annotations

import json
import math
from typing import Any

from cognitionos_provider.exceptions import TemplateError

__all__ = ["MAX_RENDERED", "Allowance", "MissingValueError", "bounded_number", "to_text"]

MAX_RENDERED = 4 * 1024 * 1024
"""Characters and items that one rendering may make, in all its steps together."""

_MAX_NUMBER_BITS = 128


class MissingValueError(TemplateError):
    """A path leads to nothing. ``default`` and ``is defined`` catch it; nothing else does."""


class Allowance:
    """What one rendering may still make. Whatever builds text or a list takes its size from it beforehand."""

    __slots__ = ("left",)

    def __init__(self, size: int = MAX_RENDERED) -> None:
        self.left = size

    def take(self, size: int) -> None:
        """Take ``size`` characters or items; raises TemplateError when nothing is left."""
        self.left -= size
        if self.left < 0:
            raise TemplateError(
                f"The result is larger than {MAX_RENDERED:,} characters; use less of the data"
            )

    def take_value(self, value: object) -> None:
        """Take about as much as ``value`` has as JSON text, and make sure that it is a JSON value."""
        stack = [value]
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                self.take(len(item) + 2)
            elif item is None or isinstance(item, bool):
                self.take(4)
            elif isinstance(item, int):
                self.take(item.bit_length() // 3 + 1)
            elif isinstance(item, float):
                self.take(8)
                if not math.isfinite(item):
                    raise TemplateError("NaN and Infinity are no JSON numbers")
            elif isinstance(item, list):
                self.take(len(item) + 2)
                stack.extend(item)
            elif isinstance(item, dict):
                self.take(sum(len(str(key)) + 4 for key in item) + 2)
                stack.extend(item.values())
            else:
                raise TemplateError(f"A value of type {type(item).__name__} can't be used in a template")


def to_text(value: Any, allowance: Allowance) -> str:
    """Return ``value`` as it stands in a text: a string as it is, anything else as JSON.

    Not escaped for HTML and in the characters it has, since prompts are read by models.
    """
    allowance.take_value(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)


def bounded_number(value: Any) -> Any:
    """Return the result of arithmetic; raises TemplateError if it is beyond any reasonable size."""
    if isinstance(value, int) and value.bit_length() > _MAX_NUMBER_BITS:
        raise TemplateError(f"The number is larger than {_MAX_NUMBER_BITS} bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise TemplateError("The number is too large for a JSON number")
    return value
