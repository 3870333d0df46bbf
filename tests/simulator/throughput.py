"""How much the simulator takes on this machine: ``python tests/simulator/throughput.py``.

Runs the simulator as a process of its own and asks it over kept connections, on this machine only: first as
fast as it answers, then with many calls in flight at once. The processor time is the server's alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import uvloop

CALLS = 20_000
CONNECTIONS = 64
LATENCY = 2.0
IN_FLIGHT = (1000, 4000)
BODY = json.dumps(
    {"model": "gpt-4", "messages": [{"role": "user", "content": "Summarise this. " * 50}]}
).encode()
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: s\r\nauthorization: Bearer any\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)
)


async def ask(port: int, times: int) -> None:
    """Ask over one connection, one call after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(times):
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
    writer.close()


async def ask_all(port: int, connections: int, times: int) -> float:
    """Ask over many connections at once and return the seconds that it took."""
    started = time.monotonic()
    await asyncio.gather(*(ask(port, times) for _ in range(connections)))
    return time.monotonic() - started


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process so far (proc(5), fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def control(port: int, method: str, path: str, body: object = None) -> dict[str, int]:
    """Ask the control API."""
    url = f"http://127.0.0.1:{port}/control/{path}"
    asked = urllib.request.Request(url, data=json.dumps(body).encode(), method=method)
    with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310
        made: dict[str, int] = json.load(answer)
        return made


def main() -> None:
    """Measure and write one line per measurement."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    command = [sys.executable, "-m", "cognitionos_provider.simulator", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline().rpartition(":")[2])
            used = processor_seconds(server.pid)
            took = uvloop.run(ask_all(port, CONNECTIONS, CALLS // CONNECTIONS))
            used = processor_seconds(server.pid) - used
            sys.stdout.write(
                f"{CALLS} calls over {CONNECTIONS} connections: {CALLS / took:.0f}/s, "
                f"{1e6 * used / CALLS:.0f} us of processor time each\n"
            )
            control(port, "POST", "rules", {"latency": LATENCY})
            for count in IN_FLIGHT:
                control(port, "DELETE", "calls")
                took = uvloop.run(ask_all(port, count, 1))
                most = control(port, "GET", "stats")["max_in_flight"]
                sys.stdout.write(f"{count} calls of {LATENCY:g} s at once: {took:.2f} s, {most} in flight\n")
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
