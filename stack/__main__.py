"""``python -m stack up`` and ``python -m stack demo [--once]``."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

import httpx

from cognitionos_provider.config import get_config
from cognitionos_provider.exceptions import CognitionOSError
from stack.example import run_example, summary, table
from stack.local import LocalStack
from stack.settings import Settings, load_settings

__all__ = ["main"]

_EPILOG = """
environment:
  COGNITIONOS_HOME  where the stack keeps its state (default ~/.cognitionos)
  API_PORT          port of the facade (default 8100)
  AIRFLOW_PORT      port of Airflow's UI and API (default 8080)
  SIMULATOR_PORT    port of the LLM simulator (default 8765), which answers when no key is set
  LLM_OPENAI_API_KEY, LLM_ANTHROPIC_API_KEY
                    keys of real providers
  AIRFLOW__DATABASE__SQL_ALCHEMY_CONN
                    a database of your own, such as PostgreSQL (default: SQLite in the home)
Any other AIRFLOW__SECTION__OPTION that you set wins over the stack's own choice.
"""


class _StoppedError(BaseException):
    """The user, the system or the terminal asks us to end. No Exception: nothing may swallow it."""

    def __init__(self, signum: int) -> None:
        self.signum = signum


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stack until it is stopped; returns the process's exit status.

    0: stopped while it served, or ``demo --once`` saw its execution complete. 1: something failed; it is said
    on standard error. 128 + signal number: stopped before it served.
    """
    options = _parser().parse_args(arguments)
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _raise_stopped)
    serving = False
    stack: LocalStack | None = None
    try:
        settings = _settings()
        stack = LocalStack(settings)
        _say(f"Starting {', '.join(stack.programs)}. State and logs: {settings.home}")
        stack.start(lambda name, seconds: _say(f"  {name:<14}{seconds:6.1f} s"))
        execution = _demonstrate(settings) if options.command == "demo" else None
        _say(_addresses(stack, execution))
        if options.command == "demo" and options.once:
            return 0 if execution and execution["status"] == "completed" else 1
        serving = True
        _serve(stack)
    except CognitionOSError as error:
        sys.stdout.flush()
        print(f"\nThe stack can't run.\n{error}", file=sys.stderr)
        return 1
    except _StoppedError as stopped:
        with contextlib.suppress(OSError):  # the terminal may be gone
            _say("\nStopping.")
        return 0 if serving else 128 + stopped.signum
    finally:
        # A second Ctrl-C must not interrupt this: it ends by force, within seconds, what does not stop.
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        if stack is not None:
            stack.stop()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m stack",
        description="Airflow and the CognitionOS facade on this machine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("up", help="start everything and serve until Ctrl-C")
    demo = commands.add_parser("demo", help="the same, and run an example workflow first")
    demo.add_argument("--once", action="store_true", help="end after the example; status 0 if it completed")
    return parser


def _settings() -> Settings:
    environ = dict(os.environ)
    url = get_config().database.url  # and finds what is malformed before anything is started
    if url:
        environ.setdefault("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", url)
    return load_settings(environ)


def _demonstrate(settings: Settings) -> dict[str, Any]:
    with httpx.Client(base_url=settings.url, timeout=30, trust_env=False) as client:
        execution = run_example(client)
    _say(f"\n{table(execution)}\n\n{summary(execution)}")
    if settings.simulated:
        _say("The answers are simulated: no LLM key is set (LLM_OPENAI_API_KEY, LLM_ANTHROPIC_API_KEY).")
    return execution


def _addresses(stack: LocalStack, execution: dict[str, Any] | None) -> str:
    lines = [
        f"  API and its documentation  {stack.url}/docs",
        f"  Airflow                    {stack.airflow_url}",
    ]
    if execution:
        path = f"/api/v3/workflows/executions/{execution['execution_id']}"
        lines.append(f"  This execution             {stack.url}{path}")
    lines.append(f"  Airflow's own commands     . {stack.shell_file} && airflow dags list")
    return "\n".join(["", *lines])


def _serve(stack: LocalStack) -> NoReturn:
    """Watch the programs until a signal ends it; raises ``StackError`` when one can't be kept running."""
    if stack.settings.simulated:
        _say("\nNo LLM key is set: a simulator answers in the providers' place.")
    _say("\nServing until Ctrl-C.")
    while True:
        time.sleep(2)
        stack.check()


def _say(text: str) -> None:
    print(text, flush=True)


def _raise_stopped(signum: int, frame: FrameType | None) -> NoReturn:
    raise _StoppedError(signum)


if __name__ == "__main__":
    sys.exit(main())
