"""Ports that are taken are told before anything is started."""

import socket

import psutil
import pytest

from stack.errors import StackError
from stack.local import LocalStack
from stack.ports import Listener, free_port, require_free
from stack.settings import load_settings


@pytest.fixture(params=["127.0.0.1", "0.0.0.0"])
def taken(request):
    """A port on which another program listens, on this address or on all."""
    with socket.create_server((request.param, 0)) as server:
        yield server.getsockname()[1]


def test_a_taken_port_is_told_with_who_wanted_it_and_what_to_set(taken):
    with pytest.raises(StackError) as caught:
        require_free([Listener("the facade", "127.0.0.1", taken, "API_PORT")])
    assert f"Port {taken}, which the facade wants, is taken" in str(caught.value)
    assert "set API_PORT to a free port" in str(caught.value)


def test_every_taken_port_is_told_at_once(taken):
    with pytest.raises(StackError) as caught:
        require_free(
            [
                Listener("the facade", "127.0.0.1", taken, "API_PORT"),
                Listener("Airflow's api-server", "127.0.0.1", taken, "AIRFLOW_PORT"),
            ]
        )
    assert "API_PORT" in str(caught.value)
    assert f"Port {taken} is wanted by the facade (API_PORT) and by Airflow's api-server" in str(caught.value)


def test_a_port_that_was_in_use_a_moment_ago_is_free():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), server.accept()[0]:
            pass  # we close first: the connection stays in TIME_WAIT
    require_free([Listener("the facade", "127.0.0.1", port, "API_PORT")])


def test_a_stack_with_a_taken_port_starts_nothing(tmp_path, taken):
    environ = {"COGNITIONOS_HOME": str(tmp_path), "API_PORT": str(free_port()), "AIRFLOW_PORT": str(taken)}
    stack = LocalStack(load_settings({**environ, "SIMULATOR_PORT": str(free_port())}))
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    with pytest.raises(StackError, match="AIRFLOW_PORT"):
        stack.start()
    assert {process.pid for process in psutil.Process().children(recursive=True)} == before
    assert not (tmp_path / "airflow.db").exists()
    assert not list((tmp_path / "logs").iterdir())
