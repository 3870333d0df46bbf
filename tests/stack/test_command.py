"""``python -m stack``, as a user meets it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def stack(*arguments, home, **environ):
    return subprocess.run(
        [sys.executable, "-m", "stack", *arguments],
        env={**os.environ, "COGNITIONOS_HOME": str(home), **environ},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_help_tells_the_commands_and_the_variables(tmp_path):
    done = stack("--help", home=tmp_path)
    assert done.returncode == 0
    for word in ("up", "demo", "COGNITIONOS_HOME", "API_PORT", "AIRFLOW_PORT", "SIMULATOR_PORT"):
        assert word in done.stdout


def test_without_a_command_it_is_a_usage_error(tmp_path):
    done = stack(home=tmp_path)
    assert done.returncode == 2
    assert "COMMAND" in done.stderr


def test_a_malformed_variable_is_told_before_anything_is_made(tmp_path):
    home = tmp_path / "home"
    for environ in ({"AIRFLOW_PORT": "http"}, {"LLM_TIMEOUT": "soon"}):
        done = stack("up", home=home, **environ)
        assert done.returncode == 1
        assert next(iter(environ)) in done.stderr
        assert "Traceback" not in done.stderr
    assert not (home / "logs").exists()


def test_a_taken_port_is_told_without_a_traceback(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = stack("demo", "--once", home=tmp_path, API_PORT=str(server.getsockname()[1]))
    assert done.returncode == 1
    assert "API_PORT" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "airflow.db").exists()
