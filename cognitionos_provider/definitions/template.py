"""The template language of definitions: ``{{ expression }}`` in text, with values from the run.

A value may hold templates in any of its texts. What stands between ``{{`` and ``}}`` is an expression over
``inputs``, ``steps.<id>.output``, ``item`` (in ``for_each``) and ``run.execution_id``, with Jinja's grammar
and a short list of its filters and tests. ``{%`` and ``{#`` mean nothing and stay as they are; a literal
``{{`` is written ``{{ '{{' }}``. Values that are put in are never looked at again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import JsonValue

from cognitionos_provider.definitions.evaluation import evaluate_expression
from cognitionos_provider.definitions.expression import MAX_LENGTH, Expression, Reference, parse
from cognitionos_provider.definitions.json_value import strings_in
from cognitionos_provider.definitions.rendering import Allowance, to_text
from cognitionos_provider.exceptions import TemplateError

__all__ = ["Reference", "check", "evaluate", "references", "render"]

# What matters for finding the end of an expression: whole strings, brackets, and a quote that is never
# closed.
_TOKEN = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[{}()\[\]'"]""", re.DOTALL)


def render(value: JsonValue, context: Mapping[str, Any]) -> JsonValue:
    """Fill in the templates in the texts of ``value``, at any depth; the keys of objects stay as they are.

    A text that is exactly one ``{{ expression }}`` becomes the value itself, with its type. In any other
    text a string stands as it is and everything else as JSON (``null``, ``true``, ``[1, 2]``). Values are
    handed over, not copied: don't change the result in place.

    Raises TemplateError for a bad expression, for a missing value (the output of a skipped step is one),
    and when the whole result is larger than 4 Mi characters.
    """
    try:
        return _render(value, context, Allowance())
    except RecursionError:
        raise TemplateError("The value is nested too deeply to be rendered") from None


def evaluate(expression: str, context: Mapping[str, Any]) -> JsonValue:
    """Return the value of one expression, as in ``condition`` and ``for_each``; the braces may be left out.

    Raises TemplateError as ``render`` does.
    """
    allowance = Allowance()
    result: JsonValue = evaluate_expression(_single(expression), context, allowance)
    allowance.take_value(result)
    return result


def references(value: JsonValue, *, expression: bool = False) -> set[Reference]:
    """Return what the templates in ``value`` read; with ``expression`` it is one, as in ``evaluate``.

    Raises TemplateError for a text that can't be parsed or that breaks a rule of the language. Which steps
    exist is not known here.
    """
    found: set[Reference] = set()
    if expression:
        if not isinstance(value, str):
            raise TemplateError("An expression is a text")
        return found.union(_single(value).references)
    for _, text in strings_in(value):
        for part in _parts(text):
            if isinstance(part, Expression):
                found |= part.references
    return found


def check(value: JsonValue, *, expression: bool = False) -> None:
    """Raise TemplateError unless every template in ``value`` is one that could be rendered."""
    references(value, expression=expression)


def _render(value: JsonValue, context: Mapping[str, Any], allowance: Allowance) -> JsonValue:
    if isinstance(value, str):
        return _render_text(value, context, allowance)
    if isinstance(value, list):
        return [_render(item, context, allowance) for item in value]
    if isinstance(value, dict):
        return {key: _render(item, context, allowance) for key, item in value.items()}
    return value


def _render_text(text: str, context: Mapping[str, Any], allowance: Allowance) -> JsonValue:
    parts = list(_parts(text))
    if len(parts) == 1 and isinstance(parts[0], Expression):
        value: JsonValue = evaluate_expression(parts[0], context, allowance)
        allowance.take_value(value)
        return value
    return "".join([_part_text(part, context, allowance) for part in parts])


def _part_text(part: str | Expression, context: Mapping[str, Any], allowance: Allowance) -> str:
    if isinstance(part, str):
        allowance.take(len(part))
        return part
    return to_text(evaluate_expression(part, context, allowance), allowance)


def _parts(text: str) -> Iterator[str | Expression]:
    """Split a text into what stays as it is and its expressions."""
    position = 0
    while (start := text.find("{{", position)) >= 0:
        if start > position:
            yield text[position:start]
        end = _end_of_expression(text, start + 2)
        yield _inner(text[start + 2 : end])
        position = end + 2
    if position < len(text):
        yield text[position:]


def _end_of_expression(text: str, start: int) -> int:
    """Return where the ``}}`` is that closes the expression at ``start``, past strings and brackets."""
    nesting = 0
    limit = start + MAX_LENGTH + 2
    for token in _TOKEN.finditer(text, start, limit):
        sign = token[0]
        if sign in "{([":
            nesting += 1
        elif sign == "}" and nesting <= 0 and text.startswith("}}", token.start()):
            return token.start()
        elif sign in "})]":
            nesting -= 1
        elif len(sign) == 1:
            break
    shown = text[start - 2 : start + 60]
    raise TemplateError(
        f"{shown!r} has no '}}}}' that closes it within {MAX_LENGTH:,} characters; "
        "a literal '{{' is written {{ '{{' }}"
    )


def _inner(source: str) -> Expression:
    if source.startswith(("-", "+")):
        raise TemplateError(
            f"'{{{{{source[0]}' has no meaning here: nothing is trimmed around an expression; "
            "put a space after the braces for a sign"
        )
    return parse(source)


def _single(expression: str) -> Expression:
    text = expression.strip()
    if not text.startswith("{{"):
        return parse(expression)
    parts = list(_parts(text))
    if len(parts) != 1 or not isinstance(parts[0], Expression):
        raise TemplateError(
            f"{text[:200]!r} is not one expression; write it without braces, such as inputs.a == inputs.b"
        )
    return parts[0]
