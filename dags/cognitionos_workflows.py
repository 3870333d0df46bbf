"""Makes an Airflow DAG of each workflow file in ``workflows/``: for teams that keep definitions in git."""

# The word airflow is here so that Airflow's safe mode looks into this file.
from pathlib import Path

from cognitionos_provider.compiler.folder import dags_from_folder

dags_from_folder(Path(__file__).parent / "workflows", globals())
