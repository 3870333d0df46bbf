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
                            "The Airflow connection (type ``cognitionos_llm``) that holds the providers' keys "
                            "and base URLs. Where it does not exist, the ``LLM_*`` environment variables are used."
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
