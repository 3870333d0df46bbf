"""Start, stop and load of the simulator, in a thread and as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cognitionos_provider.simulator import SimulatorServer
from cognitionos_provider.simulator.__main__ import main
from cognitionos_provider.simulator.rules import RuleError

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).encode()
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: s\r\nauthorization: Bearer any\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(BODY), BODY)
)


def ask(url: str, model: bytes = b"m") -> tuple[int, float]:
    """Return the status of one answer and how long it took."""
    body = BODY.replace(b'"m"', b'"%s"' % model)
    target = f"{url}/v1/chat/completions"
    asked = urllib.request.Request(target, body, {"authorization": "Bearer any"})  # noqa: S310
    started = time.monotonic()
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310
            status = answer.status
    except urllib.error.HTTPError as refused:
        status = refused.code
    return status, time.monotonic() - started


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the simulator's own process on a free port; yield it with its URL."""
    command = [sys.executable, "-m", "cognitionos_provider.simulator", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None
            yield started, started.stdout.readline().split()[-1]
        finally:
            started.kill()


def test_rules_latency_and_missing_models_can_be_given_at_start() -> None:
    with SimulatorServer(latency=0.4, rules=[{"latency": 0, "times": 1}], missing_models=["gone"]) as sim:
        assert ask(sim.url)[1] < 0.4
        assert ask(sim.url)[1] >= 0.4
        assert ask(sim.url, b"gone")[0] == 404
        assert (sim.openai_base_url, sim.anthropic_base_url) == (f"{sim.url}/v1", sim.url)


def test_a_malformed_rule_at_start_is_refused() -> None:
    with pytest.raises(RuleError, match="staus"):
        SimulatorServer(rules=[{"staus": 500}])


def test_a_taken_port_is_an_error_of_the_operating_system() -> None:
    with SimulatorServer() as sim, pytest.raises(OSError, match="Address already in use"):
        SimulatorServer(port=urlsplit(sim.url).port or 0)


def test_it_listens_on_ipv6() -> None:
    with SimulatorServer(host="::1") as sim:
        assert sim.url.startswith("http://[::1]:")
        assert ask(sim.url)[0] == 200


def test_stopping_cuts_the_calls_in_flight_at_once(caplog: pytest.LogCaptureFixture) -> None:
    with SimulatorServer(latency=60) as sim:
        address = urlsplit(sim.url)
        connection = socket.create_connection((address.hostname or "", address.port or 0), timeout=10)
        connection.sendall(REQUEST)
        sim.wait_for(lambda stats: stats["in_flight"] == 1)
        started = time.monotonic()
    assert time.monotonic() - started < 1
    with connection, contextlib.suppress(ConnectionResetError):
        assert connection.recv(1) == b""
    assert sim.calls()[0]["status"] == "dropped"
    assert sim.calls()[0]["billed"] is None
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


async def test_a_thousand_calls_can_be_in_flight_and_are_all_answered() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    with SimulatorServer() as sim:
        sim.configure(match={"model": "m"}, latency=2)
        address = urlsplit(sim.url)

        async def one() -> bytes:
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            writer.write(REQUEST)
            line = await reader.readline()
            writer.close()
            return line

        answers = await asyncio.gather(*(one() for _ in range(1200)))
        assert set(answers) == {b"HTTP/1.1 200 OK\r\n"}
        assert sim.stats()["max_in_flight"] == 1200
        assert sim.stats()["billed"]["calls"] == 1200


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_the_process_stops_at_once_on_a_signal(sent: signal.Signals) -> None:
    with process("--latency", "60") as (running, url):
        address = urlsplit(url)
        with socket.create_connection((address.hostname or "", address.port or 0), timeout=10) as connection:
            connection.sendall(REQUEST)
            while '"in_flight": 1' not in urllib.request.urlopen(f"{url}/control/stats").read().decode():  # noqa: S310
                pass
            started = time.monotonic()
            running.send_signal(sent)
            _, complaints = running.communicate(timeout=10)
        assert time.monotonic() - started < 1
        assert running.returncode in (0, -signal.SIGTERM)
        assert complaints == ""


def test_the_process_takes_latency_and_rules_from_its_command_line(tmp_path: Path) -> None:
    rules = tmp_path / "rules.json"
    rules.write_text(
        '[{"times": 1, "latency": 0, "answer": "as filed"}, {"match": {"model": "n"}, "status": 500}]'
    )
    with process("--latency", "0.4", "--rules", str(rules), "--missing-model", "gone") as (_, url):
        assert ask(url)[1] < 0.4
        assert ask(url)[1] >= 0.4
        assert ask(url, b"gone")[0] == 404
        assert ask(url, b"n")[0] == 500


def test_help_names_every_option_and_the_control_api(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["--help"])
    told = capsys.readouterr().out
    assert raised.value.code == 0
    for named in ("--host", "--port", "--latency", "--rules", "--missing-model", "/control/rules"):
        assert named in told


def test_a_taken_port_is_said_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with SimulatorServer() as sim:
        port = str(urlsplit(sim.url).port)
        assert main(["--port", port]) == 1
    told = capsys.readouterr().err
    assert f"127.0.0.1 port {port}" in told
    assert "already in use" in told
    assert "--port" in told


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "Expecting"), ('{"a": 1}', "rule 0: a: "), (None, "No such file"), ("5", "rule 0")],
)
def test_rules_that_cannot_be_read_are_said_with_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, reason: str
) -> None:
    path = tmp_path / "rules.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as raised:
        main(["--rules", str(path)])
    told = capsys.readouterr().err
    assert raised.value.code == 2
    assert "rules.json" in told
    assert reason in told


@pytest.mark.parametrize("seconds", ["-1", "inf", "nan", "soon"])
def test_a_latency_that_is_no_duration_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([f"--latency={seconds}"])
    assert "--latency" in capsys.readouterr().err
