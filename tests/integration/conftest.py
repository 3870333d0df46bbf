"""Real Airflow processes, the facade and the simulator: on SQLite alone, and on PostgreSQL with Redis."""

from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
from integration_client import Client, start_stack
from services import postgres_url, redis_url


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def client(request, tmp_path_factory):
    # A triggerer that was killed is missed sooner than after Airflow's 30 s.
    settings = {
        "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "6",
    }
    with ExitStack() as stack:
        if request.param == "postgresql":
            settings["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = stack.enter_context(postgres_url())
            redis = urlsplit(stack.enter_context(redis_url()))
            settings["REDIS_HOST"], settings["REDIS_PORT"] = str(redis.hostname), str(redis.port)
            settings["REDIS_DB"] = redis.path.strip("/")
        local = stack.enter_context(start_stack(tmp_path_factory.mktemp(request.param), **settings))
        yield Client(local)


@pytest.fixture
def sim(client):
    client.rules()
    yield client
    client.rules()
