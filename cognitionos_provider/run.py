"""What one run is given: its inputs, its execution id, its trace id. Pure.

A run's ``conf`` *is* its inputs, so that Airflow's Trigger form and ``airflow dags trigger --conf`` need nothing
special. One reserved key carries what the facade adds.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from typing import Any, Self

from pydantic import JsonValue

__all__ = ["RESERVED_KEY", "RunContext", "begun_steps", "execution_id_of", "make_conf"]

RESERVED_KEY = "__cognitionos__"
"""The key of a run's conf that is not an input."""

# airflow/utils/state.py, TaskInstanceState
_NOT_BEGUN = (None, "scheduled", "queued")

_MOST_DOLLARS = Decimal(999_999_999)
_LEAST_DOLLARS = Decimal("0.000001")

_NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # RFC 9562, appendix: URLs


def begun_steps(states: Mapping[str, str | None], *, cleared: bool) -> list[str]:
    """Return the steps that have begun, so that they may have spent something, by the states of their tasks.

    Of a run of which something was ``cleared``, all: a task that was cleared looks as if it had never begun.
    """
    return sorted(step for step, state in states.items() if cleared or state not in _NOT_BEGUN)


def execution_id_of(dag_id: str, run_id: str) -> str:
    """Return the execution id of a run that was not started over the facade: a UUID v5 of DAG and run id."""
    return str(uuid.uuid5(_NAMESPACE, f"airflow://{dag_id}/{run_id}"))


def make_conf(
    inputs: Mapping[str, JsonValue], *, execution_id: str, trace_id: str, budget_usd: str | None = None
) -> dict[str, Any]:
    """Return the ``conf`` of a run that the facade starts."""
    ours = {"execution_id": execution_id, "trace_id": trace_id}
    if budget_usd is not None:
        ours["budget_usd"] = budget_usd
    return {**inputs, RESERVED_KEY: ours}


@dataclass(frozen=True, slots=True)
class RunContext:
    """What each step of a run knows about the run."""

    execution_id: str
    trace_id: str
    given: dict[str, JsonValue]
    """The inputs as they were given."""
    inputs: dict[str, JsonValue]
    """What templates see: the given inputs, and the default (or null) of each input that was not given."""
    budget_usd: Decimal | None = None
    """Most that the run may spend, where it says so itself; it can only lower what its workflow says."""

    @classmethod
    def of(
        cls, dag_id: str, run_id: str, conf: Mapping[str, Any] | None, params: Mapping[str, Any] | None = None
    ) -> Self:
        """Read a run's ``conf``.

        :param params: the DAG's params as Airflow merged them with the conf: they hold the defaults.
        """
        given = dict(conf or {})
        ours = given.pop(RESERVED_KEY, None)
        if not isinstance(ours, dict):
            ours = {}
        execution_id = str(ours.get("execution_id") or execution_id_of(dag_id, run_id))
        inputs = {key: value for key, value in (params or {}).items() if key != RESERVED_KEY}
        return cls(
            execution_id=execution_id,
            trace_id=str(ours.get("trace_id") or execution_id),
            given={key: value for key, value in given.items() if value is not None},
            inputs={**inputs, **given},
            budget_usd=_dollars(ours.get("budget_usd")),
        )


def _dollars(value: object) -> Decimal | None:
    """Read an amount that anybody who starts a run over Airflow may have written; what is none is no budget."""
    try:
        amount = Decimal(str(value))
    except ArithmeticError:
        return None
    if not amount.is_finite() or not 0 <= amount <= _MOST_DOLLARS:
        return None
    # An exponent of a million digits would hold up whoever calculates with it.
    return amount.quantize(_LEAST_DOLLARS, rounding=ROUND_DOWN)
