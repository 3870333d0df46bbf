"""When a workflow runs by itself: cron expressions and time zones."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator, Field

from cognitionos_provider.definitions.violation import did_you_mean, refusal

__all__ = ["PRESETS", "Schedule", "TimeZone"]

PRESETS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@quarterly": "0 0 1 */3 *",
    "@yearly": "0 0 1 1 *",
}
"""What Airflow takes instead of a cron expression (``cron_presets`` in ``airflow/utils/dates.py``)."""

# Only whether there is a next time at all is asked, so any fixed moment serves.
_SOME_TIME = datetime(2024, 1, 1, tzinfo=UTC)
# croniter's own additions: R draws a random minute in each process, H needs a seed.
_RANDOM_FIELD = re.compile(r"[rRhH](?![a-zA-Z])")


@lru_cache(maxsize=512)
def _schedule_problem(expression: str) -> str | None:
    """Say why ``expression`` is no schedule, or None. Five cron fields or one of Airflow's presets."""
    if expression.startswith("@"):
        if expression in PRESETS:
            return None
        return f"{expression!r} is no schedule; the presets are {', '.join(PRESETS)}"
    shown = repr(expression[:100])
    fields = expression.split()
    if len(fields) != 5:
        return (
            f"{shown} has {len(fields)} fields, but a cron expression has 5 (minute, hour, day of month, "
            "month, day of week), such as '0 6 * * 1-5'"
        )
    if any(_RANDOM_FIELD.match(part) for field in fields for part in field.split(",")):
        return f"{shown} is no cron expression: random ('R') and hashed ('H') fields are not supported"

    # 70 ms to import, and most definitions have no schedule.
    from croniter import CroniterBadDateError, croniter

    try:
        croniter(expression, _SOME_TIME).get_next()
    except CroniterBadDateError:
        return f"The schedule {shown} never comes: there is no such date"
    except (ValueError, KeyError, TypeError) as error:
        return f"{shown} is no cron expression: {error}"
    return None


def _schedule(value: str) -> str:
    if problem := _schedule_problem(value):
        raise refusal("schedule", problem)
    return value


@lru_cache(maxsize=1)
def _time_zones() -> frozenset[str]:
    from zoneinfo import available_timezones

    # The last two depend on the machine or mean "not set".
    return frozenset(available_timezones()) - {"localtime", "Factory"}


def _time_zone(value: str) -> str:
    if value != "UTC" and value not in _time_zones():
        near = did_you_mean(value, sorted(_time_zones()))
        msg = f"{value[:100]!r} is no IANA time zone{near or ', such as Europe/Berlin'}"
        raise refusal("timezone", msg)
    return value


Schedule = Annotated[str, Field(strict=True), AfterValidator(_schedule)]
"""A cron expression of five fields, or one of ``PRESETS``."""

TimeZone = Annotated[str, Field(strict=True), AfterValidator(_time_zone)]
"""A name of the IANA time zone database."""
