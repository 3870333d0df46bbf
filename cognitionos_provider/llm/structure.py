"""By which means a model is asked for an object: an output format of its provider, a tool's input, or words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import JsonValue
    from pydantic_ai.models import Model, ModelRequestParameters

__all__ = ["ask_for_object", "is_closed"]

# OpenAI's models from before its "structured outputs" (2024-08-06) refuse a JSON Schema as response format; they have
# tools. pydantic-ai's profile says of all of OpenAI's models that they take one.
_WITHOUT_FORMAT = re.compile(r"(ft:)?(gpt-3\.5|gpt-4(?![.o])|gpt-4o-2024-05-13|chatgpt-4o)")

# Keywords whose value holds schemas: one, a list of them, or some by name.
_ONE = ("items", "additionalItems", "contains", "not", "if", "then", "else", "propertyNames")
_SOME = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED = ("properties", "$defs", "definitions", "dependentSchemas")


def ask_for_object(model: Model, schema: dict[str, JsonValue]) -> ModelRequestParameters:
    """Say what a request has to say to get an object that satisfies ``schema``, by the best means there is."""
    from pydantic_ai.models import ModelRequestParameters
    from pydantic_ai.output import OutputObjectDefinition
    from pydantic_ai.tools import ToolDefinition

    profile = model.profile
    if (
        profile.get("supports_json_schema_output", False)
        and not (model.system == "openai" and _WITHOUT_FORMAT.match(model.model_name))
        and is_closed(schema)
    ):
        return ModelRequestParameters(
            output_mode="native", output_object=OutputObjectDefinition(json_schema=schema, name="answer")
        )
    if profile.get("supports_tools", True):
        tool = ToolDefinition(
            name="answer",
            description="Give the answer.",
            parameters_json_schema=schema,
            kind="output",
            # What is not closed would be closed by it.
            strict=None if is_closed(schema) else False,
        )
        return ModelRequestParameters(output_mode="tool", output_tools=[tool], allow_text_output=False)
    return ModelRequestParameters(
        output_mode="prompted", output_object=OutputObjectDefinition(json_schema=schema, name="answer")
    )


def is_closed(schema: object) -> bool:
    """Whether each object in a schema has properties with names, and allows no others.

    Output formats know no other objects: pydantic-ai makes ``{"type": "object"}`` one without any property, and a
    model can then answer nothing but ``{}``. An object that merely does not forbid others counts as closed.
    """
    if isinstance(schema, bool):
        return False
    if not isinstance(schema, Mapping):
        return True
    properties = schema.get("properties")
    kinds = schema.get("type")
    is_object = kinds == "object" or (isinstance(kinds, list) and "object" in kinds) or properties is not None
    if is_object:
        required = schema.get("required", [])
        if not isinstance(properties, Mapping) or not properties:
            return False
        if schema.get("additionalProperties", False) is not False or "patternProperties" in schema:
            return False
        if not isinstance(required, list) or not set(map(str, required)) <= set(properties):
            return False
    elif "type" not in schema and not any(word in schema for word in ("$ref", "enum", "const", *_SOME)):
        # Anything goes, an object of any kind too.
        return False
    return all(map(is_closed, _inner(schema)))


def _inner(schema: Mapping[str, Any]) -> list[object]:
    found: list[object] = [schema[word] for word in _ONE if word in schema]
    for word in _SOME:
        found += schema[word] if isinstance(schema.get(word), list) else []
    for word in _NAMED:
        found += schema[word].values() if isinstance(schema.get(word), Mapping) else []
    return found
