"""Programs under supervisord, in a session of their own, of which none is left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from stack.errors import StackError
from stack.program import Program, supervisord_configuration
from stack.session import kill_session

__all__ = ["Supervisor", "log_tail"]

Progress = Callable[[str, float], None]


class Supervisor:
    """Starts programs, restarts those that end, and stops them all.

    State, logs and the lock that keeps a second one out are in ``home``. The programs' working directory is
    ``directory``, their environment is ``environment``.
    """

    def __init__(
        self, home: Path, programs: Sequence[Program], *, environment: Mapping[str, str], directory: Path
    ) -> None:
        self.home = home
        self.programs = {program.name: program for program in programs}
        self.logs = home / "logs"
        self._environment = dict(environment)
        self._directory = directory
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket_folder: Path | None = None

    def acquire(self) -> None:
        """Take the home; raises ``StackError`` when a stack runs on it already. ``stop`` gives it back."""
        self.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.home / "stack.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(lock, 20, 0).decode().strip()
            os.close(lock)
            raise StackError(
                f"A stack runs on {self.home} already (process {owner}). Stop that one (Ctrl-C there, "
                f"or 'kill {owner}'), or set COGNITIONOS_HOME to another directory for a second stack."
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        self._lock = lock

    def run(self, name: str, command: Sequence[str]) -> None:
        """Run a command to its end, with its output in the log ``name``; ``StackError`` when it fails."""
        with self._fresh_log(name).open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own command
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                env=self._environment,
                start_new_session=True,
            )
        try:
            status = process.wait()
        finally:
            _end_session(process, patience=2)
        if status:
            raise StackError(f"{name} failed with exit status {status}. {self.explain(name)}")

    def start(self) -> None:
        """Start all programs, without waiting for them."""
        if self._lock is None:
            self.acquire()
        # Not in the home: the path of a Unix socket may be no longer than about 100 characters.
        self._socket_folder = Path(tempfile.mkdtemp(prefix="cognitionos-"))
        for name in self.programs:
            self._fresh_log(name)
        configuration = self.home / "supervisord.conf"
        text = supervisord_configuration(self.programs.values(), self._socket, self._directory)
        configuration.write_text(text)
        assert self._lock is not None  # noqa: S101 - for mypy
        with self._fresh_log("supervisord").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", "stack.lifeline", str(configuration)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                env=self._environment,
                start_new_session=True,
                pass_fds=(self._lock,),  # so that the home stays taken until supervisord has ended, too
            )

    def wait(self, names: Sequence[str], *, since: datetime, timeout: float, on_progress: Progress) -> None:
        """Wait until these programs are ready, and tell ``on_progress(name, seconds)`` as each becomes so.

        Raises ``StackError`` that names the one which ended or was not ready within ``timeout`` seconds, with
        the end of its log.
        """
        begin = time.monotonic()
        waiting = list(names)
        while waiting:
            for name in list(waiting):
                if self.programs[name].ready(since):
                    waiting.remove(name)
                    on_progress(name, time.monotonic() - begin)
            if not waiting:
                return
            broken = [name for name in self.failed() if name in self.programs]
            if broken:
                raise StackError(f"{broken[0]} ends as soon as it is started. {self.explain(broken[0])}")
            if time.monotonic() - begin > timeout:
                raise StackError(
                    f"{waiting[0]} was not ready within {timeout:g} s. {self.explain(waiting[0])}"
                )
            time.sleep(0.3)

    def failed(self) -> list[str]:
        """Names of programs that could not be kept running; raises ``StackError`` if supervisord is gone."""
        if self._process is None or self._process.poll() is not None:
            raise StackError(
                f"supervisord, which runs the programs, has ended. {self.explain('supervisord')}"
            )
        try:
            return [
                info["name"]
                for info in self._rpc().supervisor.getAllProcessInfo()
                if info["statename"] == "FATAL"
            ]
        except (OSError, xmlrpc.client.Fault):  # not listening yet, or about to end
            return []

    def pid(self, name: str) -> int:
        """Return the process id of a program that runs; raises ``StackError`` if it does not."""
        pid: int = self._info(name)["pid"]
        if not pid:
            raise StackError(f"{name} does not run. {self.explain(name)}")
        return pid

    def state(self, name: str) -> str:
        """Return supervisord's word for the state of a program: STARTING, RUNNING, BACKOFF, FATAL, ..."""
        state: str = self._info(name)["statename"]
        return state

    def restart(self, name: str) -> datetime:
        """Stop one program and start it again, without waiting until it is ready; returns when that was."""
        rpc, full = self._rpc().supervisor, self._full_name(name)
        with contextlib.suppress(xmlrpc.client.Fault):  # it may have ended by itself
            rpc.stopProcess(full)
        started = datetime.now(UTC)
        rpc.startProcess(full, False)
        return started

    def stop(self) -> None:
        """Stop everything, by force what does not stop within seconds. Harmless when nothing runs."""
        if self._process is not None:
            rounds: dict[bool, int] = {}  # supervisord ends the backing programs after the others
            for program in self.programs.values():
                rounds[program.backing] = max(program.stop_seconds, rounds.get(program.backing, 0))
            _end_session(self._process, patience=sum(rounds.values()) + 1.5)
            self._process = None
        if self._socket_folder is not None:
            shutil.rmtree(self._socket_folder, ignore_errors=True)
            self._socket_folder = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def log(self, name: str) -> Path:
        """Return the path of a program's log."""
        return self.logs / f"{name}.log"

    def explain(self, name: str) -> str:
        """Return the end of a program's log, and where the rest is, for an error message."""
        tail = log_tail(self.log(name))
        return f"The end of {self.log(name)}:\n{tail}" if tail else f"Its log {self.log(name)} is empty."

    def _fresh_log(self, name: str) -> Path:
        path = self.log(name)
        if path.exists():
            path.replace(path.with_suffix(".log.1"))
        return path

    @property
    def _socket(self) -> Path:
        if self._socket_folder is None:
            raise StackError("The stack does not run.")
        return self._socket_folder / "supervisor.sock"

    def _rpc(self) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)

    def _info(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._rpc().supervisor.getProcessInfo(self._full_name(name))
        return found

    def _full_name(self, name: str) -> str:
        if name not in self.programs:
            raise StackError(f"The stack has no program {name!r}. It has {', '.join(self.programs)}.")
        return f"{self.programs[name].group}:{name}"


def log_tail(path: Path, lines: int = 20) -> str:
    """Return the last lines of a log file, as far as they are in its last 16 KiB; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16384))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def _end_session(leader: subprocess.Popen[bytes], *, patience: float) -> None:
    """SIGTERM to the leader, which ends its children; then SIGKILL to whatever is left of its session."""
    with contextlib.suppress(ProcessLookupError):
        leader.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        leader.wait(patience)
    kill_session(leader.pid)
    leader.wait()
    if leader.stdin is not None:
        leader.stdin.close()
