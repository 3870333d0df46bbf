"""The results of ``make bench-llm``: as data, and as the document docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import psutil
from pydantic import BaseModel

from benchmarks.contenders.contender import TEXT
from benchmarks.failures import NO_PRIMARY, RATE_LIMITED, REFUSED, SETTLED_CALLS, SILENT, Scenario, Trial
from benchmarks.memory import IN_FLIGHT, LATENCY, Memory
from benchmarks.overhead import CALLS_PER_ROUND, WARM_UP_CALLS, Overhead
from benchmarks.processes import About

__all__ = ["Machine", "Report", "machine", "markdown"]

_COMMAND = 'make bench-llm ARGS="--write docs/benchmarks.md"'


class Machine(BaseModel):
    """Where and when it was measured. ``load`` is the machine's load of the minute before."""

    date: date
    cores: int
    processor: str
    memory_bytes: int
    system: str
    python: str
    commit: str | None
    load: float


class Report(BaseModel):
    """All that was measured. ``left_out`` says why a contender is missing; ``took`` is in seconds."""

    machine: Machine
    contenders: dict[str, About] = {}
    left_out: dict[str, str] = {}
    overhead: list[Overhead] = []
    trials: list[Trial] = []
    memory: list[Memory] = []
    took: float = 0.0


def machine() -> Machine:
    """Look at this machine."""
    return Machine(
        date=datetime.now(UTC).date(),
        cores=os.cpu_count() or 1,
        processor=_processor(),
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        commit=_commit(),
        load=os.getloadavg()[0],
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parents[1]), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None


def markdown(report: Report) -> str:
    """Write the document: what was measured on, how, and a table for each measurement there is."""
    sections = [_head(report)]
    if report.overhead:
        sections.append(_overhead(report.overhead))
    if report.trials:
        sections += [_dead_primary(report.trials), _rate_limited(report.trials)]
    if report.memory:
        sections.append(_memory(report.memory))
    sections.append(_contenders(report))
    return "\n".join(sections)


def _head(report: Report) -> str:
    on = report.machine
    commit = f", commit {on.commit}" if on.commit else ""
    return f"""# Benchmarks of the LLM router

Written by `{_COMMAND}`, which anybody can repeat: it takes about five minutes and, once
it has installed LiteLLM, talks to this machine only.

Measured on {on.date.isoformat()}{commit}, in {report.took:.0f} s: {on.cores} cores of {on.processor}, \
{on.memory_bytes / 2**30:.0f} GiB of memory, {on.system}, {on.python}; load average {on.load:.1f} before the start.

The server is the simulator (`cognitionos_provider.simulator`), a process of its own on 127.0.0.1. Each contender
runs in a process of its own, on asyncio's own event loop, and sends the same user message of {len(TEXT)} characters
over connections that are kept. The primary speaks OpenAI Chat Completions, the fallback Anthropic Messages.
Versions and settings are at the end.
"""


def _overhead(rows: Sequence[Overhead]) -> str:
    baseline = next(row for row in rows if row.baseline)
    opened = sum(row.connections for row in rows)
    table = _table(
        ("", "median", "p99", "median over bare", "p99 over bare", "processor time per call"),
        (
            (
                row.contender,
                _ms(row.median),
                _ms(row.p99),
                "" if row.baseline else f"{(row.median - baseline.median) * 1000:+.2f} ms",
                "" if row.baseline else f"{(row.p99 - baseline.p99) * 1000:+.2f} ms",
                _ms(row.processor),
            )
            for row in rows
        ),
    )
    return f"""## Overhead per call

The server answers at once. {rows[0].calls:,} calls each, one after the other, {CALLS_PER_ROUND} by each contender
in turn, after {WARM_UP_CALLS} calls to warm up. Connections opened while measuring: {opened}. The processor time is
that of the contender's process, with what it does after it has given its answer. What they do for it differs: the
bare call reads the answer; pydantic-ai makes it independent of the provider; CognitionOS and LiteLLM also bound,
record and price the call.

{table}"""


def _dead_primary(trials: Sequence[Trial]) -> str:
    scenarios = (NO_PRIMARY, REFUSED, SILENT)
    by_name = _by_contender(trials)
    heads = [f"{name}: {which}" for name in ("no primary", "refused", "silent") for which in ("1st", "100th")]
    table = _table(
        ("", *heads, "attempts at the primary: refused", "silent"),
        (
            (
                name,
                *(
                    time
                    for scenario in scenarios
                    for time in (_time(of[scenario.name].first), _settled(of[scenario.name], scenario))
                ),
                *(_attempts(of[scenario.name], scenario) for scenario in (REFUSED, SILENT)),
            )
            for name, of in by_name.items()
        ),
    )
    cut = any(of[scenario.name].calls < scenario.calls for of in by_name.values() for scenario in scenarios)
    note = (
        f"\n\\* After {REFUSED.within:.0f} s no call was begun any more: the time is that of the last ones, and the "
        "attempts are those of so many calls.\n"
        if cut
        else ""
    )
    failed = _failed(trials, scenarios)
    return f"""## Time to an answer while the primary is dead

Refused: nothing listens on its port. Silent: it accepts the request and never answers, and an attempt may take
{SILENT.attempt_seconds:g} s. For comparison, the fallback alone. {REFUSED.calls} calls, one after the other, through
one client, in a process that has made calls before but has met no fault. The 100th is the median of the last
{SETTLED_CALLS}. Contenders that wait for seconds did so beside each other; the others had the machine for themselves.

{table}{note}{failed}"""


def _rate_limited(trials: Sequence[Trial]) -> str:
    table = _table(
        ("", "calls sent to the primary", "requests answered", "total time"),
        (
            (
                name,
                str(of[RATE_LIMITED.name].to_primary),
                f"{of[RATE_LIMITED.name].answered} of {RATE_LIMITED.calls}",
                f"{of[RATE_LIMITED.name].took:.1f} s",
            )
            for name, of in _by_contender(trials).items()
        ),
    )
    return f"""## Calls sent to a rate-limited primary

The primary answers every call with 429 and `Retry-After: 2`; the fallback takes 0.25 s to answer.
{RATE_LIMITED.calls} requests, {RATE_LIMITED.at_once} at a time. The calls are counted by the simulator.

{table}{_failed(trials, (RATE_LIMITED,))}"""


def _memory(rows: Sequence[Memory]) -> str:
    table = _table(
        ("", "before", "peak", "per call", "in flight at most", "answered", "total time"),
        (
            (
                row.contender,
                f"{row.before / 2**20:.0f} MiB",
                f"{row.peak / 2**20:.0f} MiB",
                f"{(row.peak - row.before) / IN_FLIGHT / 2**10:.0f} KiB",
                f"{row.in_flight:,}",
                f"{row.answered:,} of {IN_FLIGHT:,}",
                f"{row.took:.1f} s",
            )
            for row in rows
        ),
    )
    return f"""## Memory with {IN_FLIGHT:,} calls in flight

{IN_FLIGHT:,} calls begun at once, each answered after {LATENCY:g} s. Resident memory of the contender's process,
before and at most; how many calls were in flight is told by the simulator.

{table}"""


def _contenders(report: Report) -> str:
    lines = ["## Versions and settings", ""]
    for about in report.contenders.values():
        versions = ", ".join(f"{package} {version}" for package, version in about.versions.items())
        lines.append(f"- **{about.contender}** ({versions}): {'; '.join(about.settings)}.")
    lines += [f"- **{name}** is left out: {reason}." for name, reason in report.left_out.items()]
    return "\n".join(lines) + "\n"


def _by_contender(trials: Iterable[Trial]) -> Mapping[str, Mapping[str, Trial]]:
    by_name: dict[str, dict[str, Trial]] = {}
    for trial in trials:
        by_name.setdefault(trial.contender, {})[trial.scenario] = trial
    return by_name


def _settled(trial: Trial, scenario: Scenario) -> str:
    return (
        _time(trial.settled)
        if trial.calls == scenario.calls
        else f"{_time(trial.settled)} (no. {trial.calls})*"
    )


def _attempts(trial: Trial, scenario: Scenario) -> str:
    return str(trial.to_primary) if trial.calls == scenario.calls else f"{trial.to_primary}*"


def _failed(trials: Iterable[Trial], scenarios: Iterable[Scenario]) -> str:
    names = [scenario.name for scenario in scenarios]
    lines = [
        f"- {trial.contender}, {trial.scenario}: {count} calls failed with {error}."
        for trial in trials
        if trial.scenario in names
        for error, count in trial.failed.items()
    ]
    return "\n" + "\n".join(lines) + "\n" if lines else ""


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.5 else f"{seconds * 1000:.1f} ms"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
