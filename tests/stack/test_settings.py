"""The environment of the stack's processes, worked out from the user's."""

import json
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from cognitionos_provider.exceptions import ConfigurationError
from stack.errors import StackError
from stack.keys import Keys
from stack.settings import load_settings, settings_from

KEYS = Keys(fernet="f-secret", jwt="j-secret", api_secret="a-secret")


def settings(**environ):
    return settings_from({"COGNITIONOS_HOME": "/srv/flows", "PATH": "/usr/bin", **environ}, KEYS)


def test_without_any_setting_it_is_sqlite_in_the_home_and_a_simulator():
    found = settings_from({}, KEYS)
    home = Path.home() / ".cognitionos"
    assert found.home == home
    assert found.environment["AIRFLOW_HOME"] == f"{home}/airflow"
    assert found.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].startswith(f"sqlite:///{home}/airflow.db")
    assert (found.url, found.airflow_url) == ("http://127.0.0.1:8100", "http://127.0.0.1:8080")
    assert found.simulated
    assert found.environment["LLM_OPENAI_BASE_URL"] == "http://127.0.0.1:8765/v1"
    assert found.environment["LLM_ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8765"
    assert [listener.port for listener in found.listeners] == [8100, 8080, 8765]


def test_each_address_follows_its_port():
    found = settings(API_PORT="1100", AIRFLOW_PORT="1080", SIMULATOR_PORT="1765")
    environment = found.environment
    assert environment["API_PORT"] == "1100"
    assert environment["API_AIRFLOW_URL"] == environment["AIRFLOW__API__BASE_URL"] == "http://127.0.0.1:1080"
    assert environment["AIRFLOW__API__PORT"] == "1080"
    assert environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:1080/execution/"
    assert environment["LLM_ANTHROPIC_BASE_URL"] == found.simulator_url == "http://127.0.0.1:1765"


@pytest.mark.parametrize("port", ["0", "65536", "-1", "eighty", "8.0", "８０"])
def test_a_malformed_port_is_named_with_its_default(port):
    with pytest.raises(ConfigurationError, match=r"AIRFLOW_PORT is .* from 1 to 65535.* unset it for 8080"):
        settings(AIRFLOW_PORT=port)


def test_an_empty_variable_counts_as_unset():
    found = settings(API_PORT="", LLM_OPENAI_API_KEY="", AIRFLOW__CORE__EXECUTOR="")
    assert found.api_port == 8100
    assert found.simulated
    assert found.environment["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"


@pytest.mark.parametrize(
    "variable",
    ["LLM_OPENAI_API_KEY", "LLM_ANTHROPIC_API_KEY", "LLM_OPENAI_BASE_URL", "LLM_ANTHROPIC_BASE_URL"],
)
def test_with_a_provider_of_the_users_there_is_no_simulator(variable):
    found = settings(**{variable: "http://127.0.0.1:1/mine"})
    assert not found.simulated
    assert found.environment[variable] == "http://127.0.0.1:1/mine"
    assert {name for name in found.environment if name.startswith("LLM_")} == {variable}
    assert [listener.variable for listener in found.listeners] == ["API_PORT", "AIRFLOW_PORT"]


def test_what_the_user_sets_of_airflow_wins():
    url = "postgresql://me@db/airflow"
    found = settings(AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=url, AIRFLOW__CORE__PARALLELISM="64")
    assert found.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == url
    assert found.environment["AIRFLOW__CORE__PARALLELISM"] == "64"


@pytest.mark.parametrize("suffix", ["_CMD", "_SECRET"])
def test_a_setting_that_airflow_fetches_by_itself_is_not_covered_by_ours(suffix):
    found = settings(**{f"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN{suffix}": "cat /run/db"})
    assert "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" not in found.environment
    assert found.environment[f"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN{suffix}"] == "cat /run/db"


def test_the_airflow_home_of_another_airflow_is_left_alone():
    found = settings(AIRFLOW_HOME="/home/ada/airflow")
    assert found.environment["AIRFLOW_HOME"] == "/srv/flows/airflow"


def test_it_listens_on_loopback_whatever_the_hosts_say():
    found = settings(API_HOST="0.0.0.0", AIRFLOW__API__HOST="0.0.0.0")
    assert found.environment["API_HOST"] == found.environment["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert {listener.host for listener in found.listeners} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("host", "url"),
    [
        (None, "http://127.0.0.1:8100"),
        ("0.0.0.0", "http://127.0.0.1:8100"),
        ("10.0.0.7", "http://10.0.0.7:8100"),
        ("::1", "http://[::1]:8100"),
    ],
)
def test_it_listens_for_others_when_that_is_asked_for(host, url):
    asked = {"API_HOST": host} if host else {}
    found = settings(SECURITY_ALLOW_REMOTE_WITHOUT_AUTH="true", **asked)
    expected = host or "0.0.0.0"
    assert found.environment["API_HOST"] == found.environment["AIRFLOW__API__HOST"] == expected
    assert found.url == url
    assert "AIRFLOW__API__BASE_URL" not in found.environment
    simulator = found.listeners[-1]
    assert (simulator.variable, simulator.host) == ("SIMULATOR_PORT", "127.0.0.1")


def test_both_bundles_are_named():
    bundles = json.loads(settings().environment["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"])
    assert [bundle["name"] for bundle in bundles] == ["dags-folder", "cognitionos"]


def test_the_processes_find_each_other_past_a_proxy_and_the_repository_past_an_installation():
    found = settings(NO_PROXY="corp.example", HTTP_PROXY="http://proxy:1", PYTHONPATH="/mine")
    assert found.environment["NO_PROXY"] == "corp.example,127.0.0.1,localhost"
    assert found.environment["no_proxy"] == "127.0.0.1,localhost"
    assert found.environment["HTTP_PROXY"] == "http://proxy:1"
    repository, mine = found.environment["PYTHONPATH"].split(":")
    assert (Path(repository) / "api").is_dir()
    assert mine == "/mine"
    assert found.environment["PATH"].endswith(":/usr/bin")


def test_secrets_stay_out_of_the_repr():
    found = settings(AIRFLOW__DATABASE__SQL_ALCHEMY_CONN="postgresql://me:hunter2@db/airflow")
    shown = f"{found!r} {KEYS!r}"
    assert found.environment["AIRFLOW__CORE__FERNET_KEY"] == "f-secret"
    assert not [secret for secret in ("f-secret", "j-secret", "a-secret", "hunter2") if secret in shown]


def test_a_shell_that_sources_the_lines_has_the_same_settings():
    found = settings(AIRFLOW__CORE__INSTANCE="it's $HOME; `x`", API_PORT="1100")
    odd = settings(AIRFLOW__DATABASE__SQL_ALCHEMY_CONN="postgresql://o'hara:$x`y`@db/a b")
    for case in (found, odd):
        script = case.shell() + 'printf "%s" "$AIRFLOW__DATABASE__SQL_ALCHEMY_CONN|$API_PORT"'
        shown = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True).stdout
        own = case.own
        assert shown == f"{own['AIRFLOW__DATABASE__SQL_ALCHEMY_CONN']}|{own['API_PORT']}"


def test_the_shell_lines_hold_no_key_of_the_user():
    found = settings(LLM_OPENAI_API_KEY="sk-live")
    assert "sk-live" not in found.shell()
    assert shlex.quote(found.own["AIRFLOW__CORE__DAGS_FOLDER"]) in found.shell()


def test_keys_are_made_once_and_kept_for_their_owner_only(tmp_path):
    environ = {"COGNITIONOS_HOME": str(tmp_path / "new" / "home")}
    first, second = load_settings(environ), load_settings(environ)
    assert first == second
    assert (
        first.own["AIRFLOW__CORE__FERNET_KEY"]
        != load_settings({"COGNITIONOS_HOME": str(tmp_path)}).own["AIRFLOW__CORE__FERNET_KEY"]
    )
    assert stat.S_IMODE((first.home / "keys.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(first.home.stat().st_mode) == 0o700
    assert [path.name for path in first.home.iterdir()] == ["keys.json"]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"fernet": "", "jwt": "x", "api_secret": "y"}', '{"fernet": "x"}']
)
def test_damaged_keys_are_not_replaced(tmp_path, content):
    (tmp_path / "keys.json").write_text(content)
    with pytest.raises(StackError, match=r"keys\.json .*[Rr]emove it"):
        load_settings({"COGNITIONOS_HOME": str(tmp_path)})
    assert (tmp_path / "keys.json").read_text() == content


def test_a_home_that_can_not_be_made_is_told_with_the_variable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StackError, match="Set COGNITIONOS_HOME"):
        load_settings({"COGNITIONOS_HOME": str(tmp_path / "file" / "home")})
