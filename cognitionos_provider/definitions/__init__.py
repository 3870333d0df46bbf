"""Workflow definitions: models with every rule of the REST contract, graph functions, the template language.

Pure: nothing here knows Airflow or a database.
"""

from cognitionos_provider.definitions.graph import execution_order, upstream_of
from cognitionos_provider.definitions.identifier import RESERVED_WORKFLOW_IDS, version_key
from cognitionos_provider.definitions.template import Reference, check, evaluate, references, render
from cognitionos_provider.definitions.violation import as_definition_error
from cognitionos_provider.definitions.workflow import LLMOverrides, Step, Workflow, check_inputs, sinks

__all__ = [
    "RESERVED_WORKFLOW_IDS",
    "LLMOverrides",
    "Reference",
    "Step",
    "Workflow",
    "as_definition_error",
    "check",
    "check_inputs",
    "evaluate",
    "execution_order",
    "references",
    "render",
    "sinks",
    "upstream_of",
    "version_key",
]
