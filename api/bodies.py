"""Request bodies: how large they may be, and reading them without stopping other requests.

Airflow sends the whole DAG and the run's conf to the triggerer for each step that starts, hence the limits.
Checking a large definition takes up to seconds of Python, which on the event loop would stop everything else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, JsonValue, ValidationError

from api.problems import Problem

__all__ = [
    "MAX_DEFINITION_BYTES",
    "MAX_INPUTS_BYTES",
    "read_body",
    "refuse_large_inputs",
    "small_definition",
    "think",
]

MAX_DEFINITION_BYTES = 1 << 20
MAX_INPUTS_BYTES = 256 << 10

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

# Apart from the threads that wait for the database, which would otherwise be used up by hard bodies.
_thinkers = CapacityLimiter(4)


async def think(work: Callable[[], T]) -> T:
    """Do something that takes the processor and not the database, in one of a few threads of its own."""
    return await to_thread.run_sync(work, limiter=_thinkers)


async def small_definition(request: Request) -> None:
    """Answer 413 to a definition over 1 MiB."""
    size = len(await request.body())
    if size > MAX_DEFINITION_BYTES:
        raise Problem(413, f"A workflow definition may have at most 1 MiB, and this has {size:,} bytes")


def refuse_large_inputs(inputs: dict[str, JsonValue]) -> None:
    """Answer 413 to a run's inputs over 256 KiB, written as compact JSON."""
    size = len(json.dumps(inputs, ensure_ascii=False, separators=(",", ":")).encode())
    if size > MAX_INPUTS_BYTES:
        raise Problem(413, f"The inputs of a run may have at most 256 KiB, and these have {size:,} bytes")


async def read_body(model: type[M], body: object) -> M:
    """Make the model of a body that FastAPI has parsed and, by ``SkipValidation``, not validated.

    :raises RequestValidationError: it breaks a rule of the model.
    """
    if isinstance(body, bytes):
        # What FastAPI leaves of a body that does not say that it is JSON.
        error = {
            "loc": ("body",),
            "msg": "Send JSON, with 'Content-Type: application/json'",
            "type": "content_type",
        }
        raise RequestValidationError([error])

    def validate() -> M:
        try:
            return model.model_validate(body)
        except ValidationError as error:
            # Made here, too: the message of 50 errors about a large body is work as well.
            found = error.errors(include_url=False, include_context=False, include_input=False)
            raise RequestValidationError(
                [{**item, "loc": ("body", *item["loc"])} for item in found]
            ) from None

    return await think(validate)
