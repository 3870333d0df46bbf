"""The documentation that the facade gives of itself."""

import json
from pathlib import Path

import jsonschema
import pytest
from jsonschema import Draft202012Validator

from api.examples import DATA_PIPELINE, EXECUTE_DATA_PIPELINE
from api.schemas import ExecuteRequest
from cognitionos_provider.definitions import Workflow

PATH = "/api/v3/workflows"

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def document(client, recwarn):
    found = client.get("/openapi.json").json()
    assert not [str(warning.message) for warning in recwarn if "schema" in str(warning.message).lower()]
    return found


def operations(document):
    return {
        (method, path): item for path, items in document["paths"].items() for method, item in items.items()
    }


@pytest.mark.parametrize("page", ["/docs", "/redoc", "/openapi.json"])
def test_the_pages_are_there(client, page):
    assert client.get(page).status_code == 200


def test_it_holds_the_specifications_endpoints(document):
    assert set(operations(document)) == {
        ("post", PATH),
        ("get", PATH),
        ("get", f"{PATH}/{{workflow_id}}/{{version}}"),
        ("post", f"{PATH}/execute"),
        ("get", f"{PATH}/executions/{{execution_id}}"),
        ("get", "/health"),
    }
    assert document["info"]["version"] == "3.0.0"


def test_each_operation_says_what_it_does_and_how_it_fails(document):
    for operation in operations(document).values():
        assert operation["summary"]
        assert operation["description"]
        assert operation["tags"]
        assert list(operation["responses"]["default"]["content"]) == ["application/problem+json"]
        assert "HTTPValidationError" not in json.dumps(operation)


def test_each_reference_leads_somewhere(document):
    def references(value):
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for item in value.values():
                yield from references(item)
        elif isinstance(value, list):
            for item in value:
                yield from references(item)

    found = set(references(document))
    assert found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


def test_a_problem_is_what_the_schema_says(client, document):
    schema = operations(document)["get", PATH]["responses"]["default"]["content"]["application/problem+json"][
        "schema"
    ]
    for answer in (client.get(f"{PATH}?limit=0"), client.get("/nowhere")):
        Draft202012Validator(schema).validate(answer.json())


def test_the_bodies_are_described_though_they_are_read_later(document):
    for path, required in ((PATH, "steps"), (f"{PATH}/execute", "workflow_id")):
        [schema] = [
            content["schema"]
            for content in operations(document)["post", path]["requestBody"]["content"].values()
        ]
        assert required in schema["required"]
        assert schema["additionalProperties"] is False
    version = schema["properties"]["workflow_version"]
    assert (version["type"], version["default"]) == ("string", "latest")


def test_the_examples_are_the_specifications_and_are_right(client, document, rows):
    for path, model, example in (
        (PATH, Workflow, DATA_PIPELINE),
        (f"{PATH}/execute", ExecuteRequest, EXECUTE_DATA_PIPELINE),
    ):
        body = operations(document)["post", path]["requestBody"]["content"]["application/json"]
        [shown] = body["examples"].values()
        assert shown == example
        model.model_validate(shown["value"])
        schema = {**body["schema"], "components": document["components"]}
        jsonschema.validate(shown["value"], schema)
    assert client.post(PATH, json=DATA_PIPELINE["value"]).status_code == 201
    rows.dag("data-pipeline.v1.0.0")
    assert client.post(f"{PATH}/execute", json=EXECUTE_DATA_PIPELINE["value"]).status_code == 202


def test_the_example_is_the_one_that_the_demo_posts(rows):
    posted = json.loads((Path(__file__).parents[2] / "stack" / "data-pipeline.json").read_text())
    assert posted == DATA_PIPELINE["value"]


def test_health_is_what_the_schema_says(client, document):
    answer = client.get("/health")
    schema = {"$ref": "#/components/schemas/Health", "components": document["components"]}
    Draft202012Validator(schema).validate(answer.json())
