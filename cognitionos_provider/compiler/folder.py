"""Workflow files (YAML or JSON) in a folder -> DAGs, for teams that keep their definitions in git."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml
from airflow.sdk import DAG
from pydantic import ValidationError

from cognitionos_provider.compiler.dag import dag_from_workflow
from cognitionos_provider.definitions import Workflow, as_definition_error, version_key
from cognitionos_provider.exceptions import DefinitionError

__all__ = ["BrokenWorkflowFile", "dags_from_folder", "load_workflow_file"]

SUFFIXES = (".json", ".yaml", ".yml")


def dags_from_folder(folder: Path, namespace: dict[str, Any]) -> None:
    """Put the DAG of each workflow file into a DAG file's globals.

    A draft is checked, and becomes none. Of several versions of a workflow, the highest follows the schedule. A file
    that can't be compiled becomes an import error of its own, under its own name, and hinders no other.
    """
    workflows: dict[str, Workflow] = {}
    names: dict[str, str] = {}
    for path in sorted(path for path in folder.glob("**/*") if path.suffix in SUFFIXES):
        name = path.relative_to(folder.parent).as_posix()
        try:
            workflow = load_workflow_file(path)
            if other := names.get(workflow.dag_id):
                raise DefinitionError(
                    [
                        (
                            ("workflow_id",),
                            f"{workflow.workflow_id} {workflow.version} is defined in {other}, too",
                        )
                    ]
                )
            names[workflow.dag_id] = name
            if workflow.status == "active":
                workflows[name] = workflow
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one file, the others are compiled
            namespace[f"dag_{name}"] = BrokenWorkflowFile(name, str(error) or repr(error))
    highest: dict[str, tuple[int, int, int]] = {}
    for workflow in workflows.values():
        version = version_key(workflow.version)
        highest[workflow.workflow_id] = max(version, highest.get(workflow.workflow_id, version))
    for name, workflow in workflows.items():
        try:
            scheduled = highest[workflow.workflow_id] == version_key(workflow.version)
            namespace[f"dag_{name}"] = dag_from_workflow(workflow, scheduled=scheduled)
        except Exception as error:  # noqa: BLE001
            namespace[f"dag_{name}"] = BrokenWorkflowFile(name, str(error) or repr(error))


def load_workflow_file(path: Path) -> Workflow:
    """Read a workflow file.

    :raises DefinitionError: it is no YAML or JSON, or no valid workflow; names the file and each wrong field.
    """
    text = path.read_text(encoding="utf-8")
    try:
        data = json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=yaml.CSafeLoader)
    except (ValueError, yaml.YAMLError) as error:
        raise DefinitionError([((), f"{path.name} can't be read: {error}")]) from error
    try:
        return Workflow.model_validate(data)
    except ValidationError as error:
        raise as_definition_error(error) from error


class BrokenWorkflowFile(DAG):
    """Stands for a workflow file that can't be compiled, and fails when Airflow serializes it.

    Airflow files an import error under the Python file that was parsed, and then takes *all* DAGs of that file
    away. Only an error in serialization is filed under the DAG's own ``relative_fileloc`` (``_serialize_dags`` in
    ``airflow/dag_processing/processor.py``); so that is where this one fails, under the workflow file's name.
    """

    def __init__(self, name: str, problem: str) -> None:
        self._name = name
        self._problem: str | None = None
        # A file's name need not be a DAG id.
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        super().__init__(f"broken.{digest}", schedule=None)
        self._problem = problem

    @property
    def relative_fileloc(self) -> str:
        """The workflow file, relative to the DAG folder."""
        return self._name

    @relative_fileloc.setter
    def relative_fileloc(self, value: object) -> None:
        """Ignore what Airflow sets: the path of the Python file."""

    @property
    def max_active_runs(self) -> int:
        """Airflow reads this to serialize the DAG; here is where it is told what is wrong."""
        if self._problem is not None:
            raise DefinitionError([((self._name,), self._problem)])
        return 1

    @max_active_runs.setter
    def max_active_runs(self, value: object) -> None:
        """Ignore what the DAG's own constructor sets."""
