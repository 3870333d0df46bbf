"""The local stack as one thing: start, wait, restart a part, stop."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from stack.errors import StackError
from stack.ports import require_free
from stack.processes import Supervisor
from stack.program import Program
from stack.programs import local_programs
from stack.settings import REPOSITORY, Settings

__all__ = ["LocalStack"]


class LocalStack:
    """Airflow and the facade on this machine; a context manager that starts and stops them.

    ``url`` is the facade's address, ``airflow_url`` that of Airflow's UI and API. ``programs`` is for those
    who want other programs than the local stack's (``stack.programs.local_programs``).
    """

    def __init__(self, settings: Settings, programs: Sequence[Program] | None = None) -> None:
        self.settings = settings
        self.url = settings.url
        self.airflow_url = settings.airflow_url
        self._supervisor = Supervisor(
            settings.home,
            local_programs(settings) if programs is None else programs,
            environment=settings.environment,
            directory=REPOSITORY,
        )

    @property
    def shell_file(self) -> Path:
        """The file that a shell sources to use Airflow's own commands on this stack."""
        return self.settings.home / "airflow.env"

    def start(self, on_progress: Callable[[str, float], None] | None = None, *, timeout: float = 180) -> None:
        """Start everything and wait until it is up; on any error nothing is left running.

        ``on_progress(name, seconds)`` is told of each part that is up. ``timeout`` (seconds) is for all parts
        together, after the database. Raises ``StackError`` for a taken port or home, and for a part that does
        not come up, with the end of its log.
        """
        tell = on_progress or _silent
        try:
            self._supervisor.acquire()
            require_free(self.settings.listeners)
            _write_private(self.shell_file, self.settings.shell())
            begin = time.monotonic()
            self._supervisor.run("database", [sys.executable, "-m", "airflow", "db", "migrate"])
            tell("database", time.monotonic() - begin)
            since = datetime.now(UTC)
            self._supervisor.start()
            self._supervisor.wait(self.programs, since=since, timeout=timeout, on_progress=tell)
        except BaseException:
            self.stop()
            raise

    @property
    def programs(self) -> list[str]:
        """The names of the programs."""
        return list(self._supervisor.programs)

    def stop(self) -> None:
        """Stop everything, within about ten seconds; harmless when nothing runs."""
        self._supervisor.stop()

    def restart(self, program: str, *, timeout: float = 60) -> None:
        """Restart one program and wait until it is up."""
        since = self._supervisor.restart(program)
        self._supervisor.wait([program], since=since, timeout=timeout, on_progress=_silent)

    def pid(self, program: str) -> int:
        """Return the process id of a program."""
        return self._supervisor.pid(program)

    def log(self, program: str) -> Path:
        """Return the path of a program's log."""
        return self._supervisor.log(program)

    def check(self) -> None:
        """Raise ``StackError`` if a program can't be kept running."""
        failed = self._supervisor.failed()
        if failed:
            raise StackError(f"{failed[0]} can't be kept running. {self._supervisor.explain(failed[0])}")

    def __enter__(self) -> LocalStack:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()


def _silent(name: str, seconds: float) -> None:
    pass


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
