"""One simulator per test module, emptied before each test."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from cognitionos_provider.simulator import SimulatorServer

Post = Callable[..., tuple[int, dict[str, str], bytes]]


@pytest.fixture(scope="module")
def running() -> Iterator[SimulatorServer]:
    with SimulatorServer() as server:
        yield server


@pytest.fixture
def sim(running: SimulatorServer) -> Iterator[SimulatorServer]:
    running.reset()
    yield running
    running.reset()


@pytest.fixture
def connect(sim: SimulatorServer) -> Callable[..., socket.socket]:
    """Open a connection and send one request over it; the caller reads the answer, or doesn't."""
    opened: list[socket.socket] = []

    def connect(method: str, path: str, body: Any = None, **headers: str) -> socket.socket:
        address = urlsplit(sim.url)
        assert address.hostname is not None
        connection = socket.create_connection((address.hostname, address.port or 0), timeout=10)
        opened.append(connection)
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        sent = {"host": "simulator", "content_length": str(len(content)), **headers}
        lines = [f"{method} {path} HTTP/1.1"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in sent.items()]
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
        return connection

    yield connect
    for connection in opened:
        connection.close()


@pytest.fixture
def call(connect: Callable[..., socket.socket]) -> Post:
    """Send one request and return status, headers and body of the answer."""

    def call(method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        received = b""
        connection = connect(method, path, body, connection="close", **headers)
        while data := connection.recv(65536):
            received += data
        head, _, content = received.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        given = dict(line.lower().split(": ", 1) for line in lines[1:])
        return int(lines[0].split()[1]), given, content

    return call
