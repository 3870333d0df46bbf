"""What the other tests stand on: a server that is there, or one of our own."""

import psycopg2
import pytest
import redis
import services
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine


@pytest.fixture(params=["reachable or own", "own"])
def server(request, monkeypatch):
    """Whatever this machine has, and then a server of our own."""
    for variable, lookup in (
        ("TEST_POSTGRES_URL", services._postgres_server),
        ("TEST_REDIS_URL", services._redis_server),
    ):
        if request.param == "own":
            monkeypatch.setenv(variable, "own")
        monkeypatch.setattr(services, lookup.__name__, lookup.__wrapped__)  # past its cache


@pytest.mark.usefixtures("server")
async def test_a_postgresql_database_is_fresh_and_gone_afterwards():
    with services.postgres_url() as url, services.postgres_url() as other:
        assert url != other
        engine = create_engine(url)
        with engine.begin() as connection:
            assert connection.scalar(text("select count(*) from pg_tables where schemaname = 'public'")) == 0
            connection.execute(text("create table here (x int)"))
        # Airflow opens the same address with asyncpg.
        async_engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))
        async with async_engine.connect() as connection:
            assert await connection.scalar(text("select count(*) from here")) == 0
        await async_engine.dispose()
        engine.dispose()
    with pytest.raises(psycopg2.OperationalError, match="does not exist"):
        psycopg2.connect(url)


def test_a_database_that_a_process_still_uses_is_dropped_all_the_same():
    with services.postgres_url() as url:
        left_open = psycopg2.connect(url)
    with pytest.raises(psycopg2.OperationalError), left_open.cursor() as cursor:
        cursor.execute("select 1")


@pytest.mark.usefixtures("server")
def test_a_redis_database_belongs_to_one_test_and_is_empty_afterwards():
    with services.redis_url() as url, services.redis_url() as other:
        assert url != other
        with redis.Redis.from_url(url) as client:
            client.set("left", "behind")
    with redis.Redis.from_url(url) as client:
        assert client.dbsize() == 0


def test_a_server_that_was_named_and_does_not_answer_is_an_error(monkeypatch):
    monkeypatch.setenv("TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:1/postgres")
    monkeypatch.setattr(services, "_postgres_server", services._postgres_server.__wrapped__)
    with pytest.raises(psycopg2.OperationalError, match="refused"), services.postgres_url():
        pass
