"""The migrations give the tables that the code declares, and undo them."""

import os
import subprocess
import sys

from airflow.utils.db_manager import RunDBManager
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect

from cognitionos_provider.store.manager import CognitionOSDBManager
from cognitionos_provider.store.tables import metadata


def configured(connection):
    config = Config(CognitionOSDBManager.alembic_file)
    config.set_main_option("script_location", CognitionOSDBManager.migration_dir)
    config.attributes["connection"] = connection
    return config


def difference(connection):
    context = MigrationContext.configure(
        connection,
        opts={
            "compare_type": True,
            "include_name": lambda name, kind, _: kind != "table" or name in metadata.tables,
        },
    )
    return compare_metadata(context, metadata)


def test_the_migrations_make_exactly_the_tables(engine):
    with engine.begin() as connection:
        assert difference(connection) != []
        command.upgrade(configured(connection), "head")
        assert difference(connection) == []


def test_a_downgrade_leaves_nothing_behind(engine):
    with engine.begin() as connection:
        command.upgrade(configured(connection), "head")
        command.downgrade(configured(connection), "base")
        assert set(inspect(connection).get_table_names()) <= {CognitionOSDBManager.version_table_name}


def test_airflow_accepts_the_manager():
    RunDBManager().validate()


def test_airflow_db_migrate_makes_our_tables_and_reset_drops_them(tmp_path):
    address = f"sqlite:///{tmp_path}/airflow.db"
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": address,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }

    def airflow(*arguments):
        subprocess.run(
            [sys.executable, "-m", "airflow", *arguments], env=environment, check=True, capture_output=True
        )
        return set(inspect(create_engine(address)).get_table_names())

    ours = {*metadata.tables, CognitionOSDBManager.version_table_name}
    assert ours <= airflow("db", "migrate")
    assert not ours & airflow("db", "reset", "--yes", "--skip-init")
