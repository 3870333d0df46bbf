"""``python -m cognitionos_provider.simulator``: the simulator as a process of its own."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cognitionos_provider.simulator.app import SimulatorApp
from cognitionos_provider.simulator.server import bound_socket, server_for

__all__ = ["main"]

_EPILOG = """
Clients use the base URL http://HOST:PORT/v1 for OpenAI and http://HOST:PORT for Anthropic, with any API key.
POST /control/rules adds rules while it runs, GET /control/calls and /control/stats tell what was received.
A rule, for example: {"match": {"model": "gpt-4"}, "times": 2, "status": 429, "retry_after": 1}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Exit status 1: the address can't be listened on; 2: wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m cognitionos_provider.simulator",
        description="An offline LLM server that speaks OpenAI Chat Completions and Anthropic Messages.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=8765, help="port, 0 for a free one (default: %(default)s)"
    )
    parser.add_argument(
        "--latency", type=_seconds, default=0.0, help="seconds before each answer (default: 0)"
    )
    parser.add_argument("--rules", type=Path, metavar="FILE", help="JSON file with a rule or a list of rules")
    parser.add_argument(
        "--missing-model",
        action="append",
        metavar="NAME",
        help="a model that is answered with 404; may be given again (default: missing-model)",
    )
    options = parser.parse_args(arguments)
    app = SimulatorApp(latency=options.latency, missing_models=options.missing_model or ["missing-model"])
    if options.rules is not None:
        try:
            app.rules.add(_rules(options.rules))
        except (OSError, ValueError) as error:
            parser.error(f"--rules {options.rules}: {error}")
    try:
        listening = bound_socket(options.host, options.port)
    except (OSError, OverflowError) as error:
        sys.stderr.write(
            f"The simulator can't listen on {options.host} port {options.port}: {error}. "
            "Stop the process that has this port, or choose another with --port.\n"
        )
        return 1
    with listening:
        host, port = listening.getsockname()[:2]
        sys.stdout.write(f"Simulated LLM providers at http://{f'[{host}]' if ':' in host else host}:{port}\n")
        sys.stdout.flush()
        try:
            server_for(app).run([listening])
        except KeyboardInterrupt:
            # uvicorn raises the signal that stopped it once more.
            return 0
    return 0


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no duration in seconds")
    return seconds


def _rules(path: Path) -> list[Any]:
    given = json.loads(path.read_text(encoding="utf-8"))
    return given if isinstance(given, list) else [given]


if __name__ == "__main__":
    sys.exit(main())
