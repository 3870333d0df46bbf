"""Workflows over HTTP: post, list, get."""

from concurrent.futures import ThreadPoolExecutor

import jsonschema
import pytest
from definitions.test_rules import GOOD, workflow
from sqlalchemy import select

from cognitionos_provider.store.tables import WorkflowRow

PATH = "/api/v3/workflows"


def test_a_posted_workflow_is_stored_and_comes_back_with_its_defaults_and_its_dag(client):
    answer = client.post(PATH, json=workflow(tags=["etl"], description="é"))
    assert answer.status_code == 201
    assert answer.headers["location"] == f"{PATH}/data-pipeline/1.0.0"
    body = answer.json()
    assert (body["dag_id"], body["created_by"]) == ("data-pipeline.v1.0.0", "Anonymous")
    assert body["deployment"] == {"state": "pending", "error": None}
    assert body["created_at"].endswith("Z")
    assert (body["status"], body["timezone"], body["steps"][0]["timeout_seconds"]) == ("active", "UTC", 300)
    assert client.get(answer.headers["location"]).json() == body


def test_a_posted_workflow_asks_the_dag_processor_for_its_file(client, rows):
    client.post(PATH, json=workflow(version="1.9.0"))
    assert rows.parsing_requests() == ["data-pipeline.v1.9.0.py"]
    rows.clear_requests()
    # The version before loses its schedule, so that its file has to be parsed again, too.
    client.post(PATH, json=workflow(version="1.10.0"))
    assert rows.parsing_requests() == ["data-pipeline.v1.10.0.py", "data-pipeline.v1.9.0.py"]


def test_a_draft_has_no_dag_to_ask_for(client, rows):
    assert client.post(PATH, json=workflow(status="draft")).json()["status"] == "draft"
    assert rows.parsing_requests() == []


def test_the_same_content_again_is_200_and_asks_again(client, rows):
    first = client.post(PATH, json=workflow())
    rows.clear_requests()
    again = client.post(PATH, json=dict(reversed(workflow().items())))
    assert again.status_code == 200
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    assert rows.parsing_requests() == ["data-pipeline.v1.0.0.py"]


def test_other_content_under_the_same_version_is_a_conflict_and_changes_nothing(client, problem):
    first = client.post(PATH, json=workflow()).json()
    detail = problem(client.post(PATH, json=workflow(name="Other")), 409)["detail"]
    assert "data-pipeline 1.0.0 exists with other content" in detail
    assert client.get(f"{PATH}/data-pipeline/1.0.0").json() == first


def test_the_same_workflow_posted_by_many_at_once_is_stored_once(client, rows):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post(PATH, json=workflow()), range(16)))
    assert sorted(answer.status_code for answer in answers) == [200] * 15 + [201]
    assert len({answer.text for answer in answers}) == 1


def test_a_dag_id_that_belongs_to_another_bundle_is_a_conflict(client, rows, problem):
    rows.dag("data-pipeline.v1.0.0", bundle="dags-folder")
    assert "from the bundle 'dags-folder'" in problem(client.post(PATH, json=workflow()), 409)["detail"]
    assert rows.all(WorkflowRow) == []
    assert rows.parsing_requests() == []


def test_the_deployment_follows_what_airflow_knows(client, rows):
    where = client.post(PATH, json=workflow()).headers["location"]
    rows.dag("data-pipeline.v1.0.0")
    assert client.get(where).json()["deployment"] == {"state": "runnable", "error": None}
    rows.import_error("data-pipeline.v1.0.0", "Traceback\nBroken: x\n")
    assert client.get(where).json()["deployment"] == {"state": "failed", "error": "Broken: x"}
    assert client.get(PATH).json()["workflows"][0]["deployment"]["state"] == "failed"


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("body", [body for body in GOOD.values() if "operator" not in body["steps"][0]])
def test_what_the_rules_allow_is_stored_and_shown_as_the_documentation_says(client, body):
    answer = client.post(PATH, json=body)
    assert answer.status_code == 201, answer.text
    document = client.get("/openapi.json").json()
    schema = {"$ref": "#/components/schemas/StoredWorkflow", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(answer.json())
    shown = client.get(answer.headers["location"]).json()
    assert {name: shown[name] for name in body if name != "steps"} == {
        k: body[k] for k in body if k != "steps"
    }


def test_operators_are_not_taken_from_callers(client, rows, problem):
    step = {"step_id": "a", "operator": "airflow.providers.standard.operators.bash.BashOperator"}
    body = problem(client.post(PATH, json=workflow(steps=[{"step_id": "b"}, step])), 422)
    assert body["errors"][0]["loc"] == ["body", "steps", 1, "operator"]
    assert rows.all(WorkflowRow) == []


def test_latest_is_the_highest_active_version(client):
    for version, status in (
        ("1.9.0", "active"),
        ("1.10.0", "active"),
        ("2.0.0", "draft"),
        ("1.2.0", "active"),
    ):
        client.post(PATH, json=workflow(version=version, status=status))
    assert client.get(f"{PATH}/data-pipeline/latest").json()["version"] == "1.10.0"


@pytest.mark.parametrize(
    ("path", "fragment"),
    [
        ("nothing/1.0.0", "There is no workflow 'nothing'"),
        ("data-pipeline/9.9.9", "has no version 9.9.9; it has 1.0.0"),
        ("data-pipeline/%00", "There is no workflow"),
        ("%00/1.0.0", "There is no workflow"),
        ("%ED%A0%80/1.0.0", "There is no workflow"),
        ("data-pipeline/" + "9" * 5000, "has no version 9999"),
        ("a" * 5000 + "/1.0.0", "There is no workflow"),
        ("%F0%9F%9A%80/%C3%A9", "There is no workflow '🚀'"),
        ("..%2F..%2Fetc/passwd", "There is nothing at"),
        ("data-pipeline/1.0.0/more", "There is nothing at"),
    ],
)
def test_a_workflow_that_is_not_there_is_404(client, post, problem, path, fragment):
    post(workflow())
    assert fragment in problem(client.get(f"{PATH}/{path}"), 404)["detail"]


def test_latest_of_drafts_alone_is_404(client, post, problem):
    post(workflow(status="draft"))
    assert "no active version" in problem(client.get(f"{PATH}/data-pipeline/latest"), 404)["detail"]


def listed(client, **query):
    answer = client.get(PATH, params=query)
    assert answer.status_code == 200, answer.text
    return [f"{item['workflow_id']} {item['version']}" for item in answer.json()["workflows"]]


def test_a_list_is_filtered_by_tag_status_and_text(client, post):
    post(workflow(workflow_id="a", tags=["etl", "x%"]))
    post(workflow(workflow_id="b", tags=["ETL"], name="The 100% one"))
    post(workflow(workflow_id="c", tags=["etl"], status="draft"))
    assert listed(client) == ["c 1.0.0", "b 1.0.0", "a 1.0.0"]
    assert listed(client, tag="etl") == ["c 1.0.0", "a 1.0.0"]
    assert listed(client, tag="x%") == ["a 1.0.0"]
    assert listed(client, tag="etl", status="active") == ["a 1.0.0"]
    assert listed(client, q="100%") == ["b 1.0.0"]
    assert listed(client, q="B") == ["b 1.0.0"]
    assert listed(client, status="archived") == []
    [shown] = client.get(PATH, params={"q": "100%"}).json()["workflows"]
    assert (shown["tags"], shown["dag_id"]) == (["ETL"], "b.v1.0.0")
    assert "steps" not in shown


def test_pages_hold_every_workflow_once_though_more_are_added(client, post):
    for number in range(5):
        post(workflow(workflow_id=f"w{number}"))
    first = client.get(PATH, params={"limit": 2}).json()
    assert (len(first["workflows"]), first["total"]) == (2, 5)
    post(workflow(workflow_id="new"))
    second = client.get(PATH, params={"limit": 2, "cursor": first["next_cursor"]}).json()
    third = client.get(PATH, params={"limit": 2, "cursor": second["next_cursor"]}).json()
    assert third["next_cursor"] is None
    pages = [first, second, third]
    assert [item["workflow_id"] for page in pages for item in page["workflows"]] == [
        "w4",
        "w3",
        "w2",
        "w1",
        "w0",
    ]


def test_what_is_stored_is_what_was_posted(client, post, session):
    post(workflow(metadata={"key": [1, "é", None]}))
    [row] = session.scalars(select(WorkflowRow))
    assert '"metadata":{"key":[1,"\\u00e9",null]}' in row.definition
    assert "timezone" not in row.definition
