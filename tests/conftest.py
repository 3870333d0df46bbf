"""One Airflow for the whole test run, in a temporary directory, untouched by the developer's own settings.

Airflow reads its environment when it is imported, and this file is imported before any test.
"""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile

import pytest

assert "airflow" not in sys.modules, "Airflow was imported before its settings for tests were made"

# TEST_* names the servers that tests may use; all else comes from the tests themselves.
_OURS = (
    "API_",
    "CELERY_",
    "COGNITIONOS_",
    "DB_",
    "LLM_",
    "OBSERVABILITY_",
    "RABBITMQ_",
    "REDIS_",
    "SECURITY_",
)
for _name in [name for name in os.environ if name.startswith((*_OURS, "AIRFLOW"))]:
    del os.environ[_name]

_home = tempfile.mkdtemp(prefix="cognitionos-airflow-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ |= {
    "AIRFLOW_HOME": _home,
    "AIRFLOW__API__SECRET_KEY": "the secret of the sessions in tests",
    "AIRFLOW__API_AUTH__JWT_SECRET": "the secret of the tokens in tests, long enough for HS512, which takes 64 bytes",
    "AIRFLOW__CORE__DAGS_FOLDER": f"{_home}/dags",
    "AIRFLOW__CORE__FERNET_KEY": "dGVzdHMgb25seSwgYW5kIHRoaXJ0eS10d28gYnl0ZXM=",
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__PLUGINS_FOLDER": f"{_home}/plugins",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_home}/airflow.db",
}


@pytest.fixture(scope="session")
def airflow_sqlite() -> str:
    """Make Airflow's and our tables in the SQLite database of this test run; returns its URL.

    By Airflow's own command, as a user does. It takes seconds, hence only once and for tests that ask for it.
    """
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
