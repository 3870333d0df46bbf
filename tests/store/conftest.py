"""A database with our tables in it: SQLite, and a real PostgreSQL."""

import pytest
from services import postgres_url
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from cognitionos_provider.store.tables import metadata


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request, tmp_path):
    if request.param == "sqlite":
        made = create_engine(f"sqlite:///{tmp_path}/store.db")
        yield made
        made.dispose()
        return
    with postgres_url() as url:
        made = create_engine(url)
        yield made
        made.dispose()


@pytest.fixture
def postgresql():
    with postgres_url() as url:
        made = create_engine(url)
        yield made
        made.dispose()


@pytest.fixture
def session(engine):
    metadata.create_all(engine)
    with Session(engine) as session:
        yield session
