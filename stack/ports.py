"""TCP ports of this machine: what is free, and whose it would be."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass

from stack.errors import StackError

__all__ = ["Listener", "free_port", "require_free"]


@dataclass(frozen=True)
class Listener:
    """A program that wants ``port`` on ``host``; ``variable`` is what the user sets to change it."""

    title: str
    host: str
    port: int
    variable: str


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that is free on this address now."""
    with socket.socket() as server:
        server.bind((host, 0))
        port: int = server.getsockname()[1]
        return port


def require_free(listeners: Iterable[Listener]) -> None:
    """Raise ``StackError`` that names each port which is taken, who wanted it, and the variable to change."""
    wanted: dict[int, Listener] = {}
    problems = []
    for listener in listeners:
        other = wanted.setdefault(listener.port, listener)
        if other is not listener:
            problems.append(
                f"Port {listener.port} is wanted by {other.title} ({other.variable}) and by {listener.title} "
                f"({listener.variable}). Set one of them to another port."
            )
        elif _taken(listener.host, listener.port):
            problems.append(
                f"Port {listener.port}, which {listener.title} wants, is taken by another program. Stop that "
                f"program, or set {listener.variable} to a free port, such as {free_port()}."
            )
    if problems:
        raise StackError("\n".join(problems))


def _taken(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as server:
        # As servers do it: a connection that ended a moment ago must not count as a listener.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((host, port))
        except OSError:
            return True
    # macOS lets a program bind 127.0.0.1 beside one that listens on all addresses; both could answer then.
    with socket.socket(family) as client:
        client.settimeout(0.5)
        return client.connect_ex((host, port)) == 0
