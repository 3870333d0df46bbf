"""From the user's environment to the environment of the stack's processes."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cognitionos_provider.exceptions import ConfigurationError
from stack.keys import Keys
from stack.ports import Listener

__all__ = ["Settings", "home_of", "load_settings", "settings_from"]

REPOSITORY = Path(__file__).resolve().parent.parent

_LOOPBACK = "127.0.0.1"
_PROVIDERS = ("OPENAI", "ANTHROPIC", "LOCAL")
_BUNDLES = (
    ("dags-folder", "airflow.dag_processing.bundles.local.LocalDagBundle"),
    ("cognitionos", "cognitionos_provider.bundle.WorkflowBundle"),
)


@dataclass(frozen=True)
class Settings:
    """One stack: where it keeps its state, where it listens, and its processes' environment.

    ``own`` is what the stack decides, or what the user decided in its place; ``environment`` is that on top
    of the user's whole environment. Both hold secrets and stay out of the ``repr``.
    """

    home: Path
    host: str
    api_port: int
    airflow_port: int
    simulator_port: int
    simulated: bool
    own: Mapping[str, str] = field(repr=False)
    environment: Mapping[str, str] = field(repr=False)

    @property
    def url(self) -> str:
        """Address of the facade, as this machine reaches it."""
        return f"http://{_reachable(self.host)}:{self.api_port}"

    @property
    def airflow_url(self) -> str:
        """Address of Airflow's api-server and UI, as this machine reaches it."""
        return f"http://{_reachable(self.host)}:{self.airflow_port}"

    @property
    def simulator_url(self) -> str:
        """Address of the simulator; nothing answers there unless ``simulated``."""
        return f"http://{_LOOPBACK}:{self.simulator_port}"

    @property
    def listeners(self) -> list[Listener]:
        """Every port that the stack opens."""
        found = [
            Listener("the facade", self.host, self.api_port, "API_PORT"),
            Listener("Airflow's api-server", self.host, self.airflow_port, "AIRFLOW_PORT"),
        ]
        if self.simulated:
            found.append(Listener("the LLM simulator", _LOOPBACK, self.simulator_port, "SIMULATOR_PORT"))
        return found

    def shell(self) -> str:
        """Lines for a shell to source, after which the ``airflow`` command works on this stack."""
        lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(self.own.items())]
        return "\n".join(
            ["# Source this: airflow commands in that shell then work on the local stack.", *lines, ""]
        )


def home_of(environ: Mapping[str, str]) -> Path:
    """Where the stack of this environment keeps its state (``COGNITIONOS_HOME``), absolute."""
    return Path(environ.get("COGNITIONOS_HOME") or "~/.cognitionos").expanduser().absolute()


def load_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings; makes the home and its keys at the first call.

    Raises ``ConfigurationError`` for a malformed variable and ``StackError`` for an unusable home.
    """
    return settings_from(environ, Keys.load(home_of(environ)))


def settings_from(environ: Mapping[str, str], keys: Keys) -> Settings:
    """Work out the settings; reads nothing but its arguments.

    What the user set wins, also as ``..._CMD`` or ``..._SECRET``, but for ``AIRFLOW_HOME`` (which is likely
    to be that of another Airflow) and the addresses to listen on: authentication is off here, so these are
    the loopback's unless ``SECURITY_ALLOW_REMOTE_WITHOUT_AUTH`` is true.
    """
    home = home_of(environ)
    remote = environ.get("SECURITY_ALLOW_REMOTE_WITHOUT_AUTH", "").strip().lower() in (
        "1",
        "true",
        "yes",
        "on",
    )
    host = (environ.get("API_HOST") or "0.0.0.0").strip() if remote else _LOOPBACK  # noqa: S104 - asked for
    ports = {
        "api_port": _port(environ, "API_PORT", 8100),
        "airflow_port": _port(environ, "AIRFLOW_PORT", 8080),
        "simulator_port": _port(environ, "SIMULATOR_PORT", 8765),
    }
    # A server of the user's own, which may need no key, counts like a key.
    simulated = not any(
        environ.get(f"LLM_{name}_{what}") for name in _PROVIDERS for what in ("API_KEY", "BASE_URL")
    )

    own = {
        "AIRFLOW_HOME": str(home / "airflow"),
        "API_HOST": host,
        "AIRFLOW__API__HOST": host,
        "API_PORT": str(ports["api_port"]),
        "COGNITIONOS_HOME": str(home),
        # The repository's own packages (api, stack) are not installed, only cognitionos_provider is.
        "PYTHONPATH": _joined(str(REPOSITORY), environ.get("PYTHONPATH"), os.pathsep),
        "PATH": _joined(str(Path(sys.executable).parent), environ.get("PATH"), os.pathsep),
        # Behind a proxy, the processes would else look for each other there.
        **{name: _joined(environ.get(name), "127.0.0.1,localhost", ",") for name in ("NO_PROXY", "no_proxy")},
    }
    defaults = _airflow(home, keys, host, ports["airflow_port"])
    defaults["API_AIRFLOW_URL"] = f"http://{_reachable(host)}:{ports['airflow_port']}"
    if simulated:
        url = f"http://{_LOOPBACK}:{ports['simulator_port']}"
        defaults |= {
            "LLM_OPENAI_BASE_URL": f"{url}/v1",
            "LLM_ANTHROPIC_BASE_URL": url,
            "LLM_OPENAI_API_KEY": "simulated",
            "LLM_ANTHROPIC_API_KEY": "simulated",
        }
    for name, value in defaults.items():
        chosen = _chosen(environ, name)
        own |= chosen or {name: value}
    return Settings(
        home=home, host=host, simulated=simulated, own=own, environment={**environ, **own}, **ports
    )


def _airflow(home: Path, keys: Keys, host: str, port: int) -> dict[str, str]:
    address = f"http://{_reachable(host)}:{port}"
    bundles = [{"name": name, "classpath": path, "kwargs": {}} for name, path in _BUNDLES]
    found = {
        # What it is.
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(home / "bundles"),
        # SQLite has one writer at a time; the others wait, and Python's default of 5 s is short for that.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}?timeout=30",
        # Addresses and secrets.
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "AIRFLOW__API__SECRET_KEY": keys.api_secret,
        "AIRFLOW__API_AUTH__JWT_SECRET": keys.jwt,
        "AIRFLOW__CORE__FERNET_KEY": keys.fernet,
        # Started without log servers (see programs.py): the port 9 of nobody refuses at once, where the
        # defaults may be another Airflow's.
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": "9",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": "9",
        # Responsive: a step waits for the scheduler's loop, which else sleeps 1 s between two rounds.
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
        # A new file in dags/ is seen within seconds, where the default is five minutes.
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
        # Small: LocalExecutor forks this many workers at its start, 32 by default. LLM steps need none.
        "AIRFLOW__CORE__PARALLELISM": "8",
        "AIRFLOW__API__WORKERS": "1",
        # `airflow db migrate` has run just before; no process needs to look again.
        "AIRFLOW__DATABASE__CHECK_MIGRATIONS": "False",
        # No look-up in DNS for the machine's full name, which can take seconds on a laptop.
        "AIRFLOW__CORE__HOSTNAME_CALLABLE": "socket.gethostname",
        # Log files without escape codes.
        "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
        # glibc gives each thread an arena of its own, which the api-server's many threads never give back.
        "MALLOC_ARENA_MAX": "2",
    }
    if host == _LOOPBACK:  # else the address that others use is not known here
        found["AIRFLOW__API__BASE_URL"] = address
    return found


def _chosen(environ: Mapping[str, str], name: str) -> dict[str, str]:
    variants = (name, f"{name}_CMD", f"{name}_SECRET")  # Airflow reads an option from any of them
    return {variant: environ[variant] for variant in variants if environ.get(variant)}


def _port(environ: Mapping[str, str], name: str, default: int) -> int:
    text = (environ.get(name) or str(default)).strip()
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise ConfigurationError(
            f"{name} is {text!r}. It must be a port, a whole number from 1 to 65535. Set it to that, or "
            f"unset it for {default}."
        )
    return int(text)


def _reachable(host: str) -> str:
    if host in ("0.0.0.0", "::"):  # noqa: S104 - not bound here
        return _LOOPBACK
    return f"[{host}]" if ":" in host else host


def _joined(first: str | None, second: str | None, separator: str) -> str:
    return separator.join(part for part in (first, second) if part)
