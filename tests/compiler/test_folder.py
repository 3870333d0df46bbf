"""Workflow files kept in git, through Airflow's own DAG processing code."""

import shutil
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.dag_processing.processor import _serialize_dags

from cognitionos_provider.compiler.folder import dags_from_folder, load_workflow_file
from cognitionos_provider.exceptions import DefinitionError

REPOSITORY = Path(__file__).parents[2]
GOOD = "workflow_id: {0}\nversion: 1.0.0\nname: {0}\nsteps:\n  - step_id: a\n"


@pytest.fixture
def dags(tmp_path):
    shutil.copy(REPOSITORY / "dags" / "cognitionos_workflows.py", tmp_path)
    (tmp_path / "workflows").mkdir()
    return tmp_path


def parse(folder):
    """What the DAG processor's parsing process does with a file: DAGs, and import errors by file."""
    import structlog

    bag = DagBag(
        dag_folder=folder / "cognitionos_workflows.py",
        bundle_path=folder,
        bundle_name="b",
        load_op_links=False,
    )
    serialized, errors = _serialize_dags(bag, structlog.get_logger())
    return {dag.dag_id for dag in serialized}, {**bag.import_errors, **errors}


def test_the_shipped_examples_compile():
    found, errors = parse(REPOSITORY / "dags")
    assert "ticket-triage.v1.0.0" in found
    assert errors == {}


def test_yaml_and_json_files_become_dags(dags):
    (dags / "workflows" / "one.yaml").write_text(GOOD.format("one"))
    (dags / "workflows" / "sub").mkdir()
    (dags / "workflows" / "sub" / "two.json").write_text(
        '{"workflow_id": "two", "version": "1.0.0", "name": "two", "steps": [{"step_id": "a"}]}'
    )
    assert parse(dags) == ({"one.v1.0.0", "two.v1.0.0"}, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.format("bad").replace("step_id: a", "step_id: a\n    depends_on: [b]"), "'b'"),
        ("{unclosed", "bad.yaml can't be read"),
        ("just text", "JSON object"),
        (GOOD.format("good"), "is defined in workflows/a_good.yaml, too"),
    ],
)
def test_a_bad_file_is_one_import_error_under_its_own_name_and_hinders_no_other(dags, text, message):
    (dags / "workflows" / "a_good.yaml").write_text(GOOD.format("good"))
    (dags / "workflows" / "bad.yaml").write_text(text)
    (dags / "workflows" / "z_fine.yaml").write_text(GOOD.format("fine"))
    found, errors = parse(dags)
    assert found == {"good.v1.0.0", "fine.v1.0.0"}
    assert list(errors) == ["workflows/bad.yaml"]
    assert message in errors["workflows/bad.yaml"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("b ad (1).yaml", b"{unclosed"),
        ("latin.yaml", "workflow_id: \xe9".encode("latin-1")),
        ("deep.json", b"[" * 100_000),
    ],
)
def test_whatever_is_wrong_with_one_file_the_others_are_compiled(dags, name, content):
    (dags / "workflows" / name).write_bytes(content)
    (dags / "workflows" / "good.yaml").write_text(GOOD.format("good"))
    found, errors = parse(dags)
    assert found == {"good.v1.0.0"}
    assert list(errors) == [f"workflows/{name}"]


def test_a_draft_is_no_dag_and_only_the_highest_version_follows_the_schedule(dags):
    def write(version, more=""):
        text = GOOD.format("nightly").replace(
            "version: 1.0.0", f"version: {version}\nschedule: '@daily'\n{more}"
        )
        (dags / "workflows" / f"{version}.yaml").write_text(text)

    write("1.2.0")
    write("1.10.0")
    write("2.0.0", "status: draft")
    namespace = {}
    dags_from_folder(dags / "workflows", namespace)
    schedules = {dag.dag_id: dag.schedule is not None for dag in namespace.values()}
    assert schedules == {"nightly.v1.2.0": False, "nightly.v1.10.0": True}


def test_a_file_that_is_not_there_is_named(tmp_path):
    (tmp_path / "x.json").write_text("[1,")
    with pytest.raises(DefinitionError, match=r"x\.json can't be read"):
        load_workflow_file(tmp_path / "x.json")
