"""Where a definition breaks a rule, and how several such places become one pydantic ``ValidationError``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from cognitionos_provider.exceptions import DefinitionError

__all__ = [
    "MAX_VIOLATIONS",
    "Loc",
    "Violation",
    "as_definition_error",
    "as_validation_error",
    "did_you_mean",
    "refusal",
]

Loc = tuple[str | int, ...]

# An error list is for a human. A hostile body of a megabyte could otherwise have half a million entries, each
# with a search for the nearest name.
MAX_VIOLATIONS = 50


class Violation(NamedTuple):
    """One broken rule: the path of the field, what is wrong with it, and the kind of error for programs."""

    loc: Loc
    msg: str
    kind: str = "definition"


def refusal(kind: str, msg: str) -> PydanticCustomError:
    """Return what a pydantic validator of one field raises: ``msg`` reaches the caller word for word."""
    # Without a context pydantic fills nothing in, so braces in the message are safe.
    return PydanticCustomError(kind, msg)


def as_validation_error(title: str, violations: Iterable[Violation]) -> ValidationError:
    """Make one error of ``violations``, each with its own ``loc``.

    Raised inside a pydantic validator it is merged into the error of the model around it, with the ``loc`` of
    that field put in front (``convert_err`` in pydantic-core's ``validators/function.rs``).
    """
    details = [
        InitErrorDetails(type=refusal(item.kind, item.msg), loc=item.loc, input=None) for item in violations
    ]
    return ValidationError.from_exception_data(title, details, hide_input=True)


def as_definition_error(error: ValidationError) -> DefinitionError:
    """Turn pydantic's error into the package's own, for callers that know no pydantic."""
    return DefinitionError([(item["loc"], item["msg"]) for item in error.errors(include_url=False)])


def did_you_mean(name: str, known: Sequence[str], quote: str = "'") -> str:
    """Return ``"; did you mean 'extract'?"`` for the nearest known name, or ``""`` where none is near."""
    near = difflib.get_close_matches(name[:200], known, n=1, cutoff=0.6)
    return f"; did you mean {quote}{near[0]}{quote}?" if near else ""
