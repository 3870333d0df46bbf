"""The processes of a session: what a stack consists of, whatever its programs start.

A session is what holds them together. Process groups do not: Airflow's children leave those of their parents.
"""

from __future__ import annotations

import contextlib
import os

import psutil

__all__ = ["kill_session", "processes_of_session"]


def processes_of_session(session: int) -> list[psutil.Process]:
    """Return the living processes of a session."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def kill_session(session: int, *, spare: int | None = None) -> None:
    """SIGKILL to every process of a session but the one to ``spare``; returns when they are gone."""
    # A process that is being killed may still fork: look again until none is left.
    while left := [process for process in processes_of_session(session) if process.pid != spare]:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=1)
