"""``python -m benchmarks.contenders.worker MODULE VARIANT``: a contender in a process of its own.

It takes a command per line from standard input, a JSON object, and answers each with a line on standard output;
the first line tells versions and settings. It ends when its input does, and reaches this machine only.

``{"do": "open", "route": {...}}`` makes the contender's client for a route and answers ``{}``.
``{"do": "ask", "calls": N, "at_once": N, "within": SECONDS}`` makes calls, none begun after that time, and
answers with what became of them (``Answers`` in processes.py). A command that fails is answered with ``{"error":
TEXT}``.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import ipaddress
import json
import os
import sys
import threading
import time
import traceback
from collections import Counter
from typing import Any, TextIO

from benchmarks.contenders.contender import TEXT, Contender, Route

_LOCAL_NAMES = {None, "", "localhost"}


class LoopbackOnly:
    """An audit hook that counts connections by port and lets none leave this machine."""

    def __init__(self) -> None:
        self.connections: Counter[int] = Counter()
        self.refused: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Judge a connection or a look-up (Python's audit events ``socket.connect`` and ``socket.getaddrinfo``)."""
        if event == "socket.connect" and isinstance(arguments[1], tuple):
            host, port = arguments[1][:2]
            self.connections[port] += 1
        elif event == "socket.getaddrinfo":
            host = arguments[0]
        else:
            return
        name = host.decode() if isinstance(host, bytes) else host
        if name not in _LOCAL_NAMES and not _is_loopback(name):
            self.refused.append(str(name))
            raise PermissionError(f"the benchmark reaches this machine only, not {name}")


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


async def _ask(contender: Contender, calls: int, at_once: int, within: float) -> dict[str, Any]:
    numbers = iter(range(calls))
    seconds: list[float] = []
    answered: Counter[str] = Counter()
    failed: Counter[str] = Counter()

    async def ask_one_after_the_other() -> None:
        for _ in numbers:
            begun = time.perf_counter()
            if begun - started > within:
                return
            try:
                answered[await contender.ask(TEXT)] += 1
            except Exception as error:  # noqa: BLE001 - a call that failed is a finding
                failed[type(error).__name__] += 1
            seconds.append(time.perf_counter() - begun)

    processor = time.process_time()
    started = time.perf_counter()
    await asyncio.gather(*(ask_one_after_the_other() for _ in range(at_once)))
    return {
        "took": time.perf_counter() - started,
        "processor_seconds": time.process_time() - processor,
        "seconds": seconds,
        "answered": answered,
        "failed": failed,
    }


def _follow_starter(loop: asyncio.AbstractEventLoop, commands: asyncio.Queue[str]) -> None:
    for line in sys.stdin:
        loop.call_soon_threadsafe(commands.put_nowait, line)
    # Whatever is going on: nobody waits for it any more.
    os._exit(0)


async def _serve(contender: Contender, channel: TextIO, network: LoopbackOnly) -> None:
    commands: asyncio.Queue[str] = asyncio.Queue()
    follower = threading.Thread(
        target=_follow_starter, args=(asyncio.get_running_loop(), commands), daemon=True
    )
    follower.start()
    opened = False
    while True:
        command = json.loads(await commands.get())
        network.connections.clear()
        try:
            if command.pop("do") == "open":
                if opened:
                    await contender.aclose()
                await contender.open(Route(**command["route"]))
                opened, answer = True, {}
            else:
                answer = await _ask(contender, **command)
                answer["connections"] = network.connections
            if network.refused:
                raise PermissionError(f"it reached for {', '.join(sorted(set(network.refused)))}")
        except Exception:  # noqa: BLE001 - told to the benchmark, which ends
            answer = {"error": traceback.format_exc()}
        channel.write(json.dumps(answer) + "\n")
        channel.flush()


def main() -> None:
    """Serve until the input ends."""
    # Libraries may print; that goes to the log instead of among the answers.
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    network = LoopbackOnly()
    sys.addaudithook(network)
    module, variant = sys.argv[1:]
    contender: Contender = importlib.import_module(f"benchmarks.contenders.{module}").create(variant)
    versions = {package: importlib.metadata.version(package) for package in contender.packages}
    channel.write(json.dumps({"versions": versions, "settings": list(contender.settings)}) + "\n")
    channel.flush()
    asyncio.run(_serve(contender, channel, network))


if __name__ == "__main__":
    main()
