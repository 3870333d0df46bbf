"""The DAG bundle that turns stored workflows into DAG files.

Airflow's DAG processor calls :meth:`WorkflowBundle.refresh` in its manager process, which may read the metadata
database; the process that then parses a file may not. So ``refresh`` writes what the database holds into files.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import structlog
from airflow.dag_processing.bundles.base import BaseDagBundle
from sqlalchemy.orm import Session

from cognitionos_provider.compiler.source import dag_file
from cognitionos_provider.store.workflows import Deployment, dag_file_name, deployments, load_definitions

__all__ = ["WorkflowBundle"]

log = structlog.get_logger(__name__)

SessionFactory = Callable[[], AbstractContextManager[Session]]


class WorkflowBundle(BaseDagBundle):
    """One file for each workflow version that is active or deprecated.

    The bundle is not versioned: a workflow version never changes, so there is nothing to version.
    """

    supports_versioning = False

    def __init__(
        self, *, refresh_interval: int = 30, session_factory: SessionFactory | None = None, **kwargs: Any
    ) -> None:
        super().__init__(refresh_interval=refresh_interval, **kwargs)
        self._session_factory = session_factory or _airflow_session
        self._markers: dict[str, str] | None = None

    @property
    def path(self) -> Path:
        """The folder of the files."""
        return self.base_dir

    def initialize(self) -> None:
        """Make the folder. Workers and triggerers call this too, without access to the database."""
        self.path.mkdir(parents=True, exist_ok=True)
        super().initialize()

    def get_current_version(self) -> None:
        """Return None: not versioned."""

    def refresh(self) -> None:
        """Write, replace and remove what changed since the last time; reads one narrow query when nothing did."""
        with self.lock(), self._session_factory() as session:
            wanted = {dag_file_name(found.dag_id): found for found in deployments(session)}
            there = {path.name for path in _dag_files(self.path)}
            if self._markers is None:
                self._markers = _read_markers(self.path)
            # What somebody removed (the default folder is a temporary one) is written again.
            self._markers = {name: marker for name, marker in self._markers.items() if name in there}
            stale = {
                name: found for name, found in wanted.items() if self._markers.get(name) != _marker(found)
            }
            definitions = load_definitions(session, [found.dag_id for found in stale.values()])
            for name, found in stale.items():
                text = definitions[found.dag_id]
                source = dag_file(
                    text, scheduled=found.scheduled, start_date=found.since, marker=_marker(found)
                )
                _write(self.path / name, source)
                self._markers[name] = _marker(found)
            gone = self._markers.keys() - wanted.keys()
            for name in gone:
                (self.path / name).unlink(missing_ok=True)
                del self._markers[name]
        if stale or gone:
            log.info(
                "workflows written as DAG files", written=len(stale), removed=len(gone), total=len(wanted)
            )


def _airflow_session() -> AbstractContextManager[Session]:
    from airflow.utils.session import create_session

    return create_session()


def _marker(found: Deployment) -> str:
    return f"content {found.content_hash} scheduled {found.scheduled} since {found.since.isoformat()}"


def _read_markers(folder: Path) -> dict[str, str]:
    """Read what the files in the folder were made from, so that a restart writes none of them again."""
    return {path.name: _second_line(path) for path in _dag_files(folder)}


def _dag_files(folder: Path) -> Iterable[Path]:
    with contextlib.suppress(FileNotFoundError):
        yield from folder.glob("*.py")


def _second_line(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        next(file, "")
        return next(file, "").strip().removeprefix("# ")


def _write(path: Path, text: str) -> None:
    """Replace a file in one step, so that a parsing process never sees half of it."""
    draft = path.with_suffix(".tmp")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
