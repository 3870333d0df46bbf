"""Names and numbers that identify things: workflow ids, step ids, semantic versions."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from cognitionos_provider.definitions.violation import refusal
from cognitionos_provider.exceptions import DefinitionError

__all__ = ["RESERVED_WORKFLOW_IDS", "StepId", "Version", "WorkflowId", "version_key"]

RESERVED_WORKFLOW_IDS = frozenset({"execute", "executions", "validate"})
"""Path segments of the REST interface, so no workflow may be called like them."""

_WORKFLOW_ID = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,199}$"
_STEP_ID = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$"
# Nine digits keep each part below 2^31, the integer column that versions are sorted by.
_PART = r"(0|[1-9][0-9]{0,8})"
_VERSION = rf"^{_PART}\.{_PART}\.{_PART}$"
_SHAPE = "starts with a letter or digit and goes on with letters, digits, '_' and '-', at most {} in all"


def version_key(version: str) -> tuple[int, int, int]:
    """Return the parts of ``MAJOR.MINOR.PATCH`` as numbers, to sort versions by.

    Raises DefinitionError for anything else: pre-releases and build metadata of semver.org are not part of
    the contract, and neither are leading zeros or parts of more than nine digits.
    """
    match = re.fullmatch(_VERSION[1:-1], version)
    if match is None:
        raise DefinitionError([(("version",), _no_version(version))])
    major, minor, patch = match.groups()
    return int(major), int(minor), int(patch)


def _no_version(version: str) -> str:
    return (
        f"{version[:100]!r} is no version: write MAJOR.MINOR.PATCH, such as 1.0.0, without leading zeros "
        "and with at most 9 digits in each part"
    )


def _workflow_id(value: str) -> str:
    if not re.fullmatch(_WORKFLOW_ID[1:-1], value):
        msg = f"{value[:250]!r} is no workflow id: it {_SHAPE.format(200)}"
        raise refusal("workflow_id", msg)
    if value in RESERVED_WORKFLOW_IDS:
        msg = f"'{value}' is a reserved word of the REST interface; choose another workflow id"
        raise refusal("workflow_id", msg)
    return value


def _step_id(value: str) -> str:
    if not re.fullmatch(_STEP_ID[1:-1], value):
        msg = f"{value[:150]!r} is no step id: it {_SHAPE.format(100)}"
        raise refusal("step_id", msg)
    return value


def _version(value: str) -> str:
    if not re.fullmatch(_VERSION[1:-1], value):
        raise refusal("version", _no_version(value))
    return value


WorkflowId = Annotated[
    str, Field(strict=True, json_schema_extra={"pattern": _WORKFLOW_ID}), AfterValidator(_workflow_id)
]
StepId = Annotated[str, Field(strict=True, json_schema_extra={"pattern": _STEP_ID}), AfterValidator(_step_id)]
Version = Annotated[
    str, Field(strict=True, json_schema_extra={"pattern": _VERSION}), AfterValidator(_version)
]
