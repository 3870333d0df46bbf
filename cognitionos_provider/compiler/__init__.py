"""Workflow definition -> plain task specifications -> Airflow DAG.

Only :mod:`cognitionos_provider.compiler.dag` knows Airflow; the rest is pure.
"""

from cognitionos_provider.compiler.source import dag_file
from cognitionos_provider.compiler.spec import DagSpec, TaskSpec, compile_workflow

__all__ = ["DagSpec", "TaskSpec", "compile_workflow", "dag_file"]
