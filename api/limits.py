"""How large a definition and a run's inputs may be.

Airflow sends the whole DAG and the run's conf to the triggerer for each step that starts.
"""

from __future__ import annotations

from fastapi import Request

from api.problems import Problem

__all__ = ["MAX_DEFINITION_BYTES", "MAX_INPUTS_BYTES", "small_definition", "small_inputs"]

MAX_DEFINITION_BYTES = 1 << 20
MAX_INPUTS_BYTES = 256 << 10


async def small_definition(request: Request) -> None:
    """Answer 413 to a definition over 1 MiB."""
    await _at_most(request, MAX_DEFINITION_BYTES, "A workflow definition", "1 MiB")


async def small_inputs(request: Request) -> None:
    """Answer 413 to a run's inputs over 256 KiB."""
    await _at_most(request, MAX_INPUTS_BYTES, "What a run is started with", "256 KiB")


async def _at_most(request: Request, limit: int, what: str, shown: str) -> None:
    size = len(await request.body())
    if size > limit:
        raise Problem(413, f"{what} may have at most {shown}, and this has {size:,} bytes")
