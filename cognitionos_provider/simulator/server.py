"""Runs the simulator: in a thread of a test process, or as a process of its own (``python -m``)."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from cognitionos_provider.simulator.app import SimulatorApp
from cognitionos_provider.simulator.rules import Rule

__all__ = ["SimulatorServer", "bound_socket", "server_for"]

_BACKLOG = 4096
_START_SECONDS = 10.0


class _Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # a class that uvicorn chooses at import
    """uvicorn's protocol, with the connection within the application's reach.

    To drop a connection without a byte is beyond ASGI: an application that sends nothing makes uvicorn answer
    500. The least that lets the application close it is to hand it the transport, and the ``state`` of the
    scope is the one thing that a protocol class gives to the application as it is. ``Config(http=...)`` takes
    such a class by its documented interface, whichever parser it is based on. The same transport tells
    whether the client has gone, without a second task per call that waits for ``http.disconnect``.
    """

    app_state: dict[str, Any]

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


class _Server(uvicorn.Server):
    """A server that tells when it has started, and that stops at once, as a provider that dies."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.has_started.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        # Each connection notes its end before its task does, or uvicorn complains of a missing answer.
        while self.server_state.connections:  # noqa: ASYNC110 (uvicorn signals it by no event)
            await asyncio.sleep(0)


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a listening socket, on a free port for port 0.

    Raises:
        OSError: the port is taken, or the host is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)


def server_for(app: SimulatorApp) -> _Server:
    """Return a uvicorn server for the application, silent and without timeouts of its own."""
    return _Server(
        uvicorn.Config(
            app,
            http=_Connection,
            ws="none",
            interface="asgi3",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=_BACKLOG,
            # A pooled connection must not be closed by this side while a client reuses it.
            timeout_keep_alive=600,
        )
    )


class SimulatorServer:
    """A simulator in a thread of this process, as a context manager.

    Args:
        host: the address to listen on.
        port: the port; 0 takes a free one.
        latency: seconds before each answer, where no rule says otherwise.
        rules: rules in force from the start (see rules.py).
        missing_models: model names that are answered with 404.

    Raises:
        OSError: the port is taken.
        RuleError: a rule is malformed.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        latency: float = 0.0,
        rules: Sequence[Rule | Mapping[str, Any]] = (),
        missing_models: Collection[str] = ("missing-model",),
    ) -> None:
        self._app = SimulatorApp(latency=latency, missing_models=missing_models)
        self._app.rules.add(rules)
        self._socket = bound_socket(host, port)
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self._socket.getsockname()[1]}"
        self.openai_base_url = f"{self.url}/v1"
        self.anthropic_base_url = self.url
        self._server = server_for(self._app)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="simulator", daemon=True
        )

    def __enter__(self) -> SimulatorServer:
        self._thread.start()
        if not self._server.has_started.wait(_START_SECONDS):
            raise RuntimeError(f"the simulator at {self.url} did not start within {_START_SECONDS:g} s")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def configure(self, *rules: Rule | Mapping[str, Any], **rule: Any) -> list[int]:
        """Add rules, given as mappings or one as keywords, behind those in force, and return their numbers.

        Raises:
            RuleError: a rule is malformed; none was added.
        """
        return self._app.rules.add([*rules, rule] if rule else rules)

    def calls(self) -> list[dict[str, Any]]:
        """Return every call received, as ``GET /control/calls`` does."""
        return self._app.calls.as_json()

    def stats(self) -> dict[str, Any]:
        """Return the totals, as ``GET /control/stats`` does."""
        return self._app.calls.stats()

    def wait_for(self, condition: Callable[[dict[str, Any]], bool], timeout: float = 5.0) -> dict[str, Any]:
        """Wait until the totals meet a condition (``lambda stats: stats["in_flight"] == 0``); return them.

        Blocks; from a coroutine call it through ``asyncio.to_thread``.

        Raises:
            TimeoutError: they don't within ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while not condition(stats := self.stats()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the simulator's totals are still {stats} after {timeout:g} s")
            time.sleep(0.002)
        return stats

    def reset(self) -> None:
        """Remove all rules and forget all calls."""
        self._app.rules.clear()
        self._app.calls.clear()
