"""One expression of the template language: parsed by Jinja, checked against a short list of what is allowed.

Jinja supplies the grammar only. Its tree is never compiled to Python and none of its run-time is used: the
evaluator (``evaluation``) walks the few kinds of node that are allowed here, so there is no attribute
lookup on a Python object, no call and no global that an escape could start from.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cognitionos_provider.definitions.filters import FILTERS, TESTS
from cognitionos_provider.definitions.json_value import text_problem
from cognitionos_provider.definitions.violation import did_you_mean
from cognitionos_provider.exceptions import TemplateError

__all__ = ["MAX_LENGTH", "ROOTS", "Expression", "Reference", "chain", "parse", "path_of"]

MAX_LENGTH = 10_000
"""Characters of one expression."""

ROOTS = ("inputs", "steps", "item", "run")
"""The names that an expression may start from."""

_MAX_NESTING = 100
_RUN_KEYS = ("execution_id",)

_BRANCHES = (
    *(nodes.And, nodes.Or, nodes.Not, nodes.Compare, nodes.Operand, nodes.CondExpr),
    *(
        nodes.Neg,
        nodes.Pos,
        nodes.Add,
        nodes.Sub,
        nodes.Mul,
        nodes.Div,
        nodes.FloorDiv,
        nodes.Mod,
        nodes.Concat,
    ),
    *(nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Slice, nodes.Getattr, nodes.Getitem),
    *(nodes.Filter, nodes.Test, nodes.Keyword),
)
_FORBIDDEN: dict[type[nodes.Node], str] = {
    nodes.Call: "nothing can be called in an expression; use a filter, such as {{ inputs.x | upper }}",
    nodes.Pow: "'**' is not part of the language",
}
_DASHED_STEP = re.compile(r"\bsteps\.([A-Za-z0-9_]+(?:-[A-Za-z0-9_]+)+|[0-9][A-Za-z0-9_]*)")

# Sandboxed although nothing is ever compiled in it: should a later change compile something, it stays inside.
_ENVIRONMENT = ImmutableSandboxedEnvironment(autoescape=False, optimized=False, cache_size=0)
for _names in (_ENVIRONMENT.globals, _ENVIRONMENT.filters, _ENVIRONMENT.tests):
    _names.clear()


class Reference(NamedTuple):
    """What an expression reads: a root name, and for ``steps`` which step."""

    root: str
    step: str | None = None


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression: its text, its tree, and what it reads."""

    source: str
    tree: nodes.Expr
    references: frozenset[Reference]


def parse(source: str) -> Expression:
    """Parse and check one expression, without the braces around it.

    Raises TemplateError that quotes the expression, names what is wrong and, where it can, the fix.
    """
    # Refused before the cache, which would keep it.
    if len(source) > MAX_LENGTH:
        raise TemplateError(
            f"An expression of {len(source):,} characters is too long; at most {MAX_LENGTH:,}"
        )
    return _parse(source)


@lru_cache(maxsize=1024)
def _parse(source: str) -> Expression:
    references: set[Reference] = set()
    try:
        if not source.strip():
            raise TemplateError("there is no expression")
        parser = Parser(_ENVIRONMENT, source, state="variable")
        tree = parser.parse_expression()
        if not parser.stream.eos:
            found = source.splitlines()[0] if parser.stream.current.lineno == 1 else source
            raise TemplateError(f"unexpected {str(parser.stream.current.value)[:50]!r} in {found[:100]!r}")
        _check(tree, references, 0)
    except TemplateError as error:
        raise TemplateError(_explained(source, str(error))) from None
    except TemplateSyntaxError as error:
        raise TemplateError(_explained(source, error.message or "it can't be parsed")) from None
    except RecursionError:
        raise TemplateError(_explained(source, "it is nested too deeply")) from None
    except ValueError:
        raise TemplateError(_explained(source, "a number in it has too many digits")) from None
    return Expression(source, tree, frozenset(references))


def _explained(source: str, problem: str) -> str:
    message = f"{{{{ {source.strip()[:200]} }}}}: {problem}"
    if match := _DASHED_STEP.search(source):
        message += f" (a step id with '-' or a digit in front is written steps['{match[1]}'].output)"
    return message


def _check(node: nodes.Node, references: set[Reference], nesting: int) -> None:
    if nesting > _MAX_NESTING:
        raise TemplateError("it is nested too deeply")
    if isinstance(node, nodes.Getattr | nodes.Getitem):
        root, keys = chain(node)
        _check_root(root, keys, references)
        for below in keys:
            _check(below, references, nesting + 1)
        if not isinstance(root, nodes.Name):
            _check(root, references, nesting + len(keys))
        return
    if isinstance(node, nodes.Name):
        _check_root(node, [], references)
        return
    if isinstance(node, nodes.Const):
        _check_constant(node.value)
    elif not isinstance(node, _BRANCHES):
        kind = type(node).__name__
        raise TemplateError(_FORBIDDEN.get(type(node), f"{kind!r} is not part of the language"))
    if isinstance(node, nodes.CondExpr) and node.expr2 is None:
        raise TemplateError("an 'if' needs an 'else'")
    if isinstance(node, nodes.Filter | nodes.Test):
        _check_arguments(node)
    for child in node.iter_child_nodes():
        _check(child, references, nesting + 1)


def chain(node: nodes.Node) -> tuple[nodes.Node, list[nodes.Node]]:
    """Take ``a.b['c'][i]`` apart into ``a`` and its keys from left to right; ``.b`` is the constant 'b'."""
    keys: list[nodes.Node] = []
    while isinstance(node, nodes.Getattr | nodes.Getitem):
        if len(keys) > _MAX_NESTING:
            raise TemplateError("it is nested too deeply")
        keys.append(nodes.Const(node.attr) if isinstance(node, nodes.Getattr) else node.arg)
        node = node.node
    return node, keys[::-1]


def _check_root(root: nodes.Node, keys: list[nodes.Node], references: set[Reference]) -> None:
    if not isinstance(root, nodes.Name):
        return
    if root.name not in ROOTS:
        near = did_you_mean(root.name, ROOTS) or f"; there are {', '.join(ROOTS)}"
        raise TemplateError(f"'{root.name[:100]}' is unknown{near}")
    constants = [key.value if isinstance(key, nodes.Const) else None for key in keys[:2]]
    step = None
    if root.name == "run" and (not constants or constants[0] not in _RUN_KEYS):
        raise TemplateError(f"'run' has only {', '.join(f'run.{key}' for key in _RUN_KEYS)}")
    if root.name == "steps":
        step = constants[0] if constants else None
        if not isinstance(step, str):
            raise TemplateError("a step is named in the expression itself, such as steps['extract'].output")
        if len(constants) < 2 or constants[1] != "output":
            raise TemplateError(f"of a step only its output can be used: steps['{step}'].output")
    references.add(Reference(root.name, step))


def _check_constant(value: object) -> None:
    if isinstance(value, str) and (problem := text_problem(value)):
        raise TemplateError(f"a text in it {problem}")
    if isinstance(value, float) and not math.isfinite(value):
        raise TemplateError("a number in it is too large")


def _check_arguments(node: nodes.Filter | nodes.Test) -> None:
    what = "filter" if isinstance(node, nodes.Filter) else "test"
    signatures = _signatures()[what]
    if node.name not in signatures:
        near = did_you_mean(node.name, sorted(signatures)) or f"; there are {', '.join(sorted(signatures))}"
        raise TemplateError(f"there is no {what} '{node.name[:100]}'{near}")
    if node.dyn_args is not None or node.dyn_kwargs is not None:
        raise TemplateError(f"the arguments of {what} '{node.name}' have to be written out")
    try:
        keywords = {str(keyword.key): None for keyword in node.kwargs}
        signatures[node.name].bind(*node.args, **keywords)
    except TypeError as error:
        raise TemplateError(f"{what} '{node.name}': {error}") from None


def _default(default_value: object = "", boolean: object = False) -> None:
    """Carry the signature of the filter ``default``."""


def _defined() -> None:
    """Carry the signature of the tests ``defined`` and ``undefined``."""


@lru_cache(maxsize=1)
def _signatures() -> dict[str, dict[str, inspect.Signature]]:
    def without(
        functions: Iterable[tuple[str, Callable[..., Any]]], given: int
    ) -> dict[str, inspect.Signature]:
        signatures = {}
        for name, function in functions:
            parameters = list(inspect.signature(function).parameters.values())
            signatures[name] = inspect.Signature(parameters[given:])
        return signatures

    return {
        "filter": without(FILTERS.items(), 2) | without([("default", _default), ("d", _default)], 0),
        "test": without(TESTS.items(), 1) | without([("defined", _defined), ("undefined", _defined)], 0),
    }


def path_of(node: nodes.Node) -> str:
    """Return how an expression wrote a path: ``inputs.rows[0]``; ``the value`` for anything computed."""
    root, keys = chain(node)
    path = root.name if isinstance(root, nodes.Name) else "the value"
    for key in keys:
        value = key.value if isinstance(key, nodes.Const) else "..."
        is_word = isinstance(value, str) and value.isidentifier()
        path += f".{value}" if is_word else f"[{value!r}]"
    return path[:300]
