"""What a stack runs, and how supervisord is told of it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

__all__ = ["Program", "supervisord_configuration"]


@dataclass(frozen=True)
class Program:
    """A process that is kept running.

    ``ready`` is asked again and again until it says yes; it is given the moment of the start and must not
    raise. A ``backing`` program serves the others (a database, say): it stops after them. ``stop_seconds``
    is what it gets between SIGTERM and SIGKILL. One that ends within ``start_seconds`` (Airflow's commands
    need some to find out that they can't work) is a failed start, of which three end the matter; one that
    ends later is started again for ever.
    """

    name: str
    command: tuple[str, ...]
    ready: Callable[[datetime], bool]
    backing: bool = False
    stop_seconds: int = 6
    start_seconds: int = 10

    @property
    def group(self) -> str:
        """The group of programs that stop together."""
        return "backing" if self.backing else "stack"


def supervisord_configuration(programs: Iterable[Program], socket: Path, directory: Path) -> str:
    """Return the text of a supervisord.conf, for a supervisord that runs in the stack's home.

    It listens on the Unix socket ``socket``; the programs run in ``directory``, and write to ``logs/NAME.log``.
    """
    sections: dict[str, dict[str, object]] = {
        "supervisord": {
            "silent": "true",
            # Relative to the home: supervisord expands the % of some of its options twice, so that no
            # escaping helps a path that holds one.
            "logfile": "logs/supervisord.log",
            "pidfile": "supervisord.pid",
            "childlogdir": "logs",
            # Without a user, supervisord warns of running as root.
            **({"user": "root"} if os.getuid() == 0 else {}),
        },
        "unix_http_server": {"file": socket, "chmod": "0700"},
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
    }
    groups: dict[str, list[str]] = {}
    for program in programs:
        groups.setdefault(program.group, []).append(program.name)
        sections[f"program:{program.name}"] = {
            "command": shlex.join(program.command),
            "directory": directory,
            "autorestart": "true",
            "startsecs": program.start_seconds,
            "startretries": 2,
            "stopwaitsecs": program.stop_seconds,
            "stopasgroup": "true",
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": f"logs/{program.name}.log",
            "stdout_logfile_maxbytes": "10MB",
            "stdout_logfile_backups": 1,
        }
    # supervisord stops groups one after the other, from the highest priority to the lowest, and the
    # programs of a group together.
    for group, names in groups.items():
        sections[f"group:{group}"] = {
            "programs": ",".join(names),
            "priority": 1 if group == "backing" else 2,
        }
    return "\n".join(
        line
        for title, options in sections.items()
        for line in (f"[{title}]", *(f"{key} = {_escaped(value)}" for key, value in options.items()), "")
    )


def _escaped(value: object) -> str:
    return str(value).replace("%", "%%")
