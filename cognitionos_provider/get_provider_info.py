"""What Airflow's provider manager is told about this package."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description, in the form of Airflow's ``provider_info.schema.json``.

    A literal: Airflow calls this while it is itself half imported.
    """
    return {
        "package-name": "cognitionos-provider",
        "name": "CognitionOS",
        "description": "Workflows of LLM steps, posted as data and run as Airflow DAGs.",
        "integrations": [
            {
                "integration-name": "CognitionOS",
                "external-doc-url": "https://airflow.apache.org/",
                "tags": ["service"],
            }
        ],
        "operators": [
            {
                "integration-name": "CognitionOS",
                "python-modules": ["cognitionos_provider.operators.llm"],
            }
        ],
        "hooks": [
            {
                "integration-name": "CognitionOS",
                "python-modules": ["cognitionos_provider.hooks.llm"],
            }
        ],
        "triggers": [
            {
                "integration-name": "CognitionOS",
                "python-modules": ["cognitionos_provider.triggers.llm"],
            }
        ],
        "bundles": [
            {
                "integration-name": "CognitionOS",
                "python-modules": ["cognitionos_provider.bundle"],
            }
        ],
        "connection-types": [
            {
                "connection-type": "cognitionos_llm",
                "hook-class-name": "cognitionos_provider.hooks.llm.LLMHook",
                "hook-name": "CognitionOS LLM",
                "conn-fields": {
                    "provider": {
                        "label": "Provider",
                        "description": (
                            "openai, anthropic, local (any server that speaks OpenAI Chat Completions), or any "
                            "provider of pydantic-ai or of an installed package. A key that is left out here is "
                            "taken from the environment (LLM_OPENAI_API_KEY, ...)."
                        ),
                        "schema": {
                            "type": ["string", "null"],
                            "default": "openai",
                            "pattern": "^[a-z][a-z0-9-]*$",
                        },
                    },
                    "default_model": {
                        "label": "Default model",
                        "description": "Asked where a step names no model, such as gpt-4.",
                        "schema": {"type": ["string", "null"]},
                    },
                    "fallback_conn_ids": {
                        "label": "Fallback connections",
                        "description": (
                            "Ids of connections of this type, separated by commas: asked in this order where "
                            "this one does not answer."
                        ),
                        "schema": {"type": ["string", "null"]},
                    },
                    "max_in_flight": {
                        "label": "Calls in flight",
                        "description": "Most calls at the same time, for each model. Empty: no limit.",
                        "schema": {"type": ["integer", "null"], "minimum": 1},
                    },
                    "requests_per_minute": {
                        "label": "Requests per minute",
                        "description": "For each model; further calls wait. Empty: no limit.",
                        "schema": {"type": ["integer", "null"], "minimum": 1},
                    },
                    "tokens_per_minute": {
                        "label": "Tokens per minute",
                        "description": (
                            "Input and output together, for each model; further calls wait. Empty: no limit."
                        ),
                        "schema": {"type": ["integer", "null"], "minimum": 1},
                    },
                    "prices": {
                        "label": "Prices",
                        "description": (
                            "USD per million tokens by model, in place of the known prices: "
                            '{"gpt-4": {"input": 30, "output": 60}}'
                        ),
                        "schema": {"type": ["object", "null"]},
                    },
                },
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "login", "port"],
                    "relabeling": {"host": "Base URL", "password": "API key"},
                    "placeholders": {
                        "host": "https://llm.example.com/v1 (empty: the provider's own)",
                        "password": "sk-...",
                    },
                },
            }
        ],
        "db-managers": ["cognitionos_provider.store.manager.CognitionOSDBManager"],
        "config": {
            "cognitionos": {
                "description": "How workflows that were posted as data are compiled and run.",
                "options": {
                    "execution_mode": {
                        "description": (
                            "Where the LLM steps run: ``triggerer`` (no worker slot is used) or ``worker``."
                        ),
                        "version_added": "3.0.0",
                        "type": "string",
                        "example": "worker",
                        "default": "triggerer",
                    },
                    "agents_queue": {
                        "description": "The queue of the LLM steps when ``execution_mode`` is ``worker``.",
                        "version_added": "3.0.0",
                        "type": "string",
                        "example": None,
                        "default": "agents",
                    },
                    "facade_url": {
                        "description": "Where the v3 REST facade is; Airflow's menu then links to it.",
                        "version_added": "3.0.0",
                        "type": "string",
                        "example": "http://localhost:8100",
                        "default": "",
                    },
                    "llm_conn_id": {
                        "description": (
                            "The Airflow connection (type ``cognitionos_llm``) that LLM steps use, with its "
                            "fallback connections. What it leaves out, or all of it where it does not exist, comes "
                            "from the ``LLM_*`` environment variables."
                        ),
                        "version_added": "3.0.0",
                        "type": "string",
                        "example": None,
                        "default": "cognitionos_llm_default",
                    },
                },
            }
        },
    }
