"""The demo's workflow: post it, run it, show what became of it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from stack.errors import StackError

__all__ = ["DEFINITION", "INPUTS", "run_example", "summary", "table"]

DEFINITION: dict[str, Any] = json.loads(Path(__file__).with_name("data-pipeline.json").read_text())
"""The specification's ``data-pipeline`` (section "Create a Workflow")."""

INPUTS = {"data_source": "production", "batch_size": 1000}
"""The inputs of its run (section "Execute a Workflow")."""

_HEADINGS = ("step", "status", "provider", "model", "tokens", "cost", "seconds")
_ENDED = ("completed", "failed", "cancelled")


def run_example(client: httpx.Client, *, timeout: float = 120) -> dict[str, Any]:
    """Post the workflow, execute it, and wait until the execution has ended; returns the execution.

    ``client`` has the facade as its base URL. Raises ``StackError`` when the facade refuses something, or
    when the execution has not ended within ``timeout`` seconds.
    """
    _sent(client, "POST", "/api/v3/workflows", json=DEFINITION)
    order = {
        "workflow_id": DEFINITION["workflow_id"],
        "workflow_version": DEFINITION["version"],
        "inputs": INPUTS,
    }
    execution = _sent(client, "POST", "/api/v3/workflows/execute", json=order)
    path = f"/api/v3/workflows/executions/{execution['execution_id']}"
    begin = time.monotonic()
    while execution["status"] not in _ENDED:
        if time.monotonic() - begin > timeout:
            raise StackError(
                f"The execution is still {execution['status']} after {timeout:g} s; see "
                f"{client.base_url}{path[1:]}"
            )
        time.sleep(0.25)
        execution = _sent(client, "GET", path)
    return execution


def table(execution: Mapping[str, Any]) -> str:
    """Show the steps of an execution in columns, those that were run in the order in which they started."""
    rows = [_HEADINGS, *map(_row, sorted(execution["steps"], key=_start))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    rows.insert(1, tuple("-" * width for width in widths))
    text = "\n".join(_line(row, widths) for row in rows)
    errors = [f"{step['step_id']}: {step['error']}" for step in execution["steps"] if step.get("error")]
    return "\n".join([text, *errors])


def summary(execution: Mapping[str, Any]) -> str:
    """Say in a line how the execution ended and what it cost."""
    cost = f"{_money(execution['cost_usd'])} USD"
    if execution.get("unpriced_calls"):
        cost += f" and {execution['unpriced_calls']} calls of unknown price"
    return (
        f"Run of {execution['workflow_id']} {execution['workflow_version']}: {execution['status']} in "
        f"{_seconds(execution) or '?'} s for {cost}"
    )


def _row(step: Mapping[str, Any]) -> tuple[str, ...]:
    usage = step.get("usage")
    # Of a step that no model answered, the last one that was asked.
    asked = [step, *reversed(step.get("attempts") or [])]
    return (
        step["step_id"],
        step["status"],
        next((part["provider"] for part in asked if part.get("provider")), "-"),
        next((part["model"] for part in asked if part.get("model")), "-"),
        str(usage["total_tokens"]) if usage else "-",
        _money(step.get("cost_usd")),
        _seconds(step) or "-",
    )


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    # Text to the left, numbers to the right.
    cells = [
        cell.rjust(width) if column > 3 else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _money(cost: float | None) -> str:
    return "-" if cost is None else f"{cost:.6f}"


def _seconds(part: Mapping[str, Any]) -> str:
    begin, end = part.get("started_at"), part.get("completed_at")
    if not begin or not end:
        return ""
    return f"{(datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds():.1f}"


def _start(step: Mapping[str, Any]) -> str:
    return step.get("started_at") or "~"  # sorts after every time: steps that were never run come last


def _sent(client: httpx.Client, method: str, path: str, *, json: object = None) -> dict[str, Any]:
    try:
        response = client.request(method, path, json=json)
    except httpx.TransportError as error:
        raise StackError(f"{client.base_url} does not answer: {error!r}") from error
    if not response.is_success:
        raise StackError(f"The facade answered {response.status_code} to {method} {path}: {response.text}")
    answer: dict[str, Any] = response.json()
    return answer
