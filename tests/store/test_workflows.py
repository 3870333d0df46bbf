"""What the store does with workflow versions."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.orm import Session

from cognitionos_provider.definitions import Workflow
from cognitionos_provider.exceptions import ConflictError, NotFoundError
from cognitionos_provider.store.paging import Cursor
from cognitionos_provider.store.tables import metadata
from cognitionos_provider.store.workflows import (
    add_workflow,
    deployments,
    get_workflow,
    list_workflows,
    load_definitions,
    newest_active,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def workflow(workflow_id="w", version="1.0.0", **fields):
    return Workflow.model_validate(
        {
            "workflow_id": workflow_id,
            "version": version,
            "name": workflow_id,
            "steps": [{"step_id": "a"}],
            **fields,
        }
    )


def add(session, *args, at=NOW, **fields):
    row, _ = add_workflow(session, workflow(*args, **fields), created_by="me", now=at)
    return row


def test_a_stored_workflow_comes_back_as_it_was_posted(session):
    posted = workflow(description="é '\"\\", metadata={"a": [1, None]})
    add_workflow(session, posted, created_by="me", now=NOW)
    session.commit()
    session.expire_all()
    row = get_workflow(session, "w", "1.0.0")
    assert Workflow.from_json(row.definition) == posted
    assert (row.created_by, row.created_at, row.status) == ("me", NOW, "active")
    assert row.content_hash == posted.content_hash()


def test_the_same_content_again_is_the_same_version_and_other_content_a_conflict(session):
    assert add_workflow(session, workflow(), created_by="me", now=NOW)[1] is True
    row, is_new = add_workflow(session, workflow(), created_by="you", now=NOW + timedelta(days=1))
    assert (is_new, row.created_by) == (False, "me")
    with pytest.raises(ConflictError, match=r"w 1\.0\.0 exists with other content.*higher version"):
        add_workflow(session, workflow(description="other"), created_by="me", now=NOW)


def test_of_many_that_post_the_same_version_at_once_one_stores_it_and_all_get_it(postgresql):
    metadata.create_all(postgresql)
    barrier = threading.Barrier(8)
    results = []

    def post():
        with Session(postgresql, expire_on_commit=False) as session:
            assert list_workflows(session, limit=1).total == 0
            barrier.wait()
            results.append(add_workflow(session, workflow(), created_by="me", now=NOW))
            session.commit()

    threads = [threading.Thread(target=post) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(is_new for _, is_new in results) == [False] * 7 + [True]
    assert {row.dag_id for row, _ in results} == {"w.v1.0.0"}


def test_latest_is_the_highest_active_version_by_number(session):
    for version in ("1.9.0", "1.10.0", "1.2.0"):
        add(session, "w", version)
    add(session, "w", "2.0.0", status="draft")
    assert get_workflow(session, "w", "latest").version == "1.10.0"
    assert newest_active(session, "other") is None


def test_what_is_not_there_is_named_with_what_is(session):
    with pytest.raises(NotFoundError, match="There is no workflow 'w'"):
        get_workflow(session, "w", "1.0.0")
    add(session, status="draft")
    with pytest.raises(NotFoundError, match=r"'w' has no version 2\.0\.0; it has 1\.0\.0"):
        get_workflow(session, "w", "2.0.0")
    with pytest.raises(NotFoundError, match="'w' has no active version"):
        get_workflow(session, "w", "latest")


def test_a_list_is_filtered_exactly(session):
    add(session, "apple", tags=["data", 'quo"te'], description="d", schedule="@daily")
    add(session, "pear", tags=["Data", "data2", "100%"])
    add(session, "plum_1", status="draft")

    def ids(**filters):
        page = list_workflows(session, limit=10, **filters)
        assert page.total == len(page.rows)
        return {row.workflow_id for row in page.rows}

    assert ids(tag="data") == {"apple"}
    assert ids(tag='quo"te') == {"apple"}
    assert ids(tag="100%") == {"pear"}
    assert ids(tag="dat") == set()
    assert ids(status="draft") == {"plum_1"}
    assert ids(status="draft", drafts=False) == set()
    assert ids(drafts=False) == {"apple", "pear"}
    assert ids(q="P") == {"apple", "pear", "plum_1"}
    assert ids(q="m_1") == {"plum_1"}
    assert ids(q="%") == set()


def test_pages_stay_right_while_rows_are_added(session):
    for number in range(7):
        add(session, f"w{number}", at=NOW + timedelta(seconds=number // 2))
    seen = []
    cursor = None
    while True:
        page = list_workflows(session, limit=3, cursor=cursor)
        seen += [row.workflow_id for row in page.rows]
        add(session, f"later{len(seen)}", at=NOW + timedelta(days=1))
        if page.next_cursor is None:
            break
        cursor = Cursor.decode(page.next_cursor)
    assert seen == ["w6", "w5", "w4", "w3", "w2", "w1", "w0"]


NO_ZONE = Cursor(datetime(2026, 1, 1), "a")  # noqa: DTZ001 - that is the point


@pytest.mark.parametrize("text", ["", "x", "!!!", "W10", NO_ZONE.encode()])
def test_a_made_up_cursor_is_refused(text):
    with pytest.raises(ValueError, match="is no cursor of this list"):
        Cursor.decode(text)


def test_active_and_deprecated_versions_are_deployed_and_only_the_highest_active_is_scheduled(session):
    add(session, "w", "1.0.0").status = "deprecated"
    add(session, "w", "1.1.0")
    add(session, "w", "1.2.0")
    add(session, "w", "3.0.0", status="draft")
    add(session, "w", "0.1.0").status = "archived"
    add(session, "v", "1.0.0")
    session.flush()
    assert {found.dag_id: found.scheduled for found in deployments(session)} == {
        "w.v1.0.0": False,
        "w.v1.1.0": False,
        "w.v1.2.0": True,
        "v.v1.0.0": True,
    }


def test_definitions_are_loaded_by_dag_id_however_many(session):
    for number in range(1100):
        add(session, f"w{number}")
    wanted = [f"w{number}.v1.0.0" for number in range(1100)] + ["other.v1.0.0"]
    found = load_definitions(session, wanted)
    assert len(found) == 1100
    assert Workflow.from_json(found["w7.v1.0.0"]).workflow_id == "w7"
