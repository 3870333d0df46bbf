"""What the LLM router costs, and what it does about faults, beside others: ``python -m benchmarks.llm``.

Starts simulators and the contenders as processes of their own, measures, prints Markdown, ends them. Talks to this
machine only, but for the installation of LiteLLM the first time.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contenders import CONTENDERS
from benchmarks.failures import measure_failures
from benchmarks.litellm_environment import EnvironmentMissingError, interpreter
from benchmarks.memory import measure_memory
from benchmarks.overhead import measure_overhead
from benchmarks.processes import BenchError, starter
from benchmarks.report import Report, machine, markdown

_MEASUREMENTS = ("overhead", "failures", "memory")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write. Exit status 1: a contender or the simulator failed, or it was interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.llm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", type=Path, metavar="PATH", help="write the Markdown document here, too")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the numbers here, as JSON")
    parser.add_argument(
        "--only", action="append", choices=_MEASUREMENTS, help="this measurement alone; may be given again"
    )
    options = parser.parse_args(arguments)
    # Children have the limit of their parent, and a thousand calls in flight are a thousand files.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    report: Report | None = None
    try:
        report = asyncio.run(_measure(options.only or _MEASUREMENTS))
    except* BenchError as failed:
        sys.stderr.writelines(f"{error}\n" for error in failed.exceptions)
    except* KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
    if report is None:
        return 1
    document = markdown(report)
    sys.stdout.write(document)
    for path, text in ((options.write, document), (options.json, report.model_dump_json(indent=2) + "\n")):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return 0


async def _measure(measurements: Sequence[str]) -> Report:
    interpreters = {"project": Path(sys.executable)}
    missing: dict[str, str] = {}
    try:
        interpreters["litellm"] = interpreter()
    except EnvironmentMissingError as error:
        missing["litellm"] = str(error)
    entries = [entry for entry in CONTENDERS if entry.environment in interpreters]
    report = Report(
        machine=machine(),
        left_out={entry.name: missing[entry.environment] for entry in CONTENDERS if entry not in entries},
    )
    if report.machine.load > report.machine.cores / 4:
        sys.stderr.write(
            f"The machine is busy (load average {report.machine.load:.1f}), and the times will show it\n"
        )
    start = starter(interpreters, report.contenders)
    begun = time.monotonic()
    for name in measurements:
        sys.stderr.write(f"{time.monotonic() - begun:4.0f} s: {name}\n")
        if name == "overhead":
            report.overhead = await measure_overhead(entries, start)
        elif name == "failures":
            report.trials = await measure_failures(entries, start)
        else:
            report.memory = await measure_memory(entries, start)
    report.took = time.monotonic() - begun
    return report


if __name__ == "__main__":
    sys.exit(main())
