"""The specification's example, as the API's documentation shows it."""

from __future__ import annotations

from fastapi.openapi.models import Example

__all__ = ["DATA_PIPELINE", "EXECUTE_DATA_PIPELINE"]

DATA_PIPELINE = Example(
    summary="Two steps in a row",
    value={
        "workflow_id": "data-pipeline",
        "version": "1.0.0",
        "name": "Data Processing Pipeline",
        "description": "Extract, transform, load data",
        "steps": [
            {
                "step_id": "extract",
                "name": "Extract Data",
                "agent_capability": "data_extraction",
                "inputs": {"source": "s3://bucket/data.csv"},
                "depends_on": [],
            },
            {
                "step_id": "transform",
                "name": "Transform Data",
                "agent_capability": "data_transformation",
                "inputs": {},
                "depends_on": ["extract"],
            },
        ],
        "tags": ["data", "etl"],
    },
)

EXECUTE_DATA_PIPELINE = Example(
    summary="Run it with two inputs",
    value={
        "workflow_id": "data-pipeline",
        "workflow_version": "1.0.0",
        "inputs": {"data_source": "production", "batch_size": 1000},
    },
)
