"""Lets ``airflow db migrate`` create and migrate this package's tables (provider-info key ``db-managers``)."""

from __future__ import annotations

from pathlib import Path

from airflow.utils.db_manager import BaseDBManager

from cognitionos_provider.store.tables import metadata

__all__ = ["CognitionOSDBManager"]

_HERE = Path(__file__).parent


class CognitionOSDBManager(BaseDBManager):
    """Manages the ``cognitionos_*`` tables, with an alembic history of their own."""

    metadata = metadata
    migration_dir = str(_HERE / "migrations")
    alembic_file = str(_HERE / "alembic.ini")
    # Airflow's own is `alembic_version`; sharing it would make each of the two undo the other.
    version_table_name = "alembic_version_cognitionos"
    supports_table_dropping = True
