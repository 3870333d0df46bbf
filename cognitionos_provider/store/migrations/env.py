"""Alembic's environment for the tables of this package, on Airflow's own database connection."""

from typing import Any

from airflow import settings
from alembic import context

from cognitionos_provider.store.manager import CognitionOSDBManager
from cognitionos_provider.store.tables import metadata


def _is_ours(name: str | None, type_: str, parent_names: object) -> bool:
    """Keep Airflow's tables, which share the database, out of every comparison."""
    return type_ != "table" or name in metadata.tables


def _configure(**kwargs: Any) -> None:
    context.configure(
        target_metadata=metadata,
        compare_type=True,
        include_name=_is_ours,
        version_table=CognitionOSDBManager.version_table_name,
        render_as_batch=True,
        **kwargs,
    )


if context.is_offline_mode():
    _configure(url=settings.SQL_ALCHEMY_CONN, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    connection = context.config.attributes.get("connection")
    if connection is not None:
        _configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
    else:
        assert settings.engine is not None  # noqa: S101 - Airflow has set it up before it migrates
        with settings.engine.connect() as connection:
            _configure(connection=connection)
            with context.begin_transaction():
                context.run_migrations()
