"""Evaluates a checked expression: a walk over its tree, with every step bounded."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import nodes

from cognitionos_provider.definitions.expression import Expression, chain, path_of
from cognitionos_provider.definitions.filters import FILTERS, TESTS, contains, kind_of
from cognitionos_provider.definitions.rendering import Allowance, MissingValueError, bounded_number, to_text
from cognitionos_provider.definitions.violation import did_you_mean
from cognitionos_provider.exceptions import TemplateError

__all__ = ["evaluate_expression"]

_ARITHMETIC: dict[type[nodes.Expr], tuple[str, Callable[[Any, Any], Any]]] = {
    nodes.Add: ("+", operator.add),
    nodes.Sub: ("-", operator.sub),
    nodes.Mul: ("*", operator.mul),
    nodes.Div: ("/", operator.truediv),
    nodes.FloorDiv: ("//", operator.floordiv),
    nodes.Mod: ("%", operator.mod),
}
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "lteq": operator.le,
    "gt": operator.gt,
    "gteq": operator.ge,
    "in": lambda item, container: contains(container, item),
    "notin": lambda item, container: not contains(container, item),
}


def evaluate_expression(expression: Expression, context: Mapping[str, Any], allowance: Allowance) -> Any:
    """Return the JSON value of ``expression`` in ``context``; what it makes is taken from ``allowance``.

    A value that is only looked up is handed over as it is, not copied. Raises TemplateError, with the
    expression in its message, for missing values, wrong types and results past the bounds.
    """
    try:
        return _Evaluation(context, allowance).value(expression.tree)
    except TemplateError as error:
        problem = str(error)
    except RecursionError:
        problem = "The data is nested too deeply"
    except ZeroDivisionError:
        problem = "It divides by zero"
    except (TypeError, ValueError, OverflowError) as error:
        # Such as the order of a text and a number. Python's words name types, never values.
        problem = f"It can't be computed: {error}"
    raise TemplateError(f"{{{{ {expression.source.strip()[:200]} }}}}: {problem}")


class _Evaluation:
    __slots__ = ("allowance", "context")

    def __init__(self, context: Mapping[str, Any], allowance: Allowance) -> None:
        self.context = context
        self.allowance = allowance

    def value(self, node: Any) -> Any:
        """Return the value of any node that ``expression`` lets through."""
        self.allowance.take(1)
        match node:
            case nodes.Const():
                return node.value
            case nodes.Name():
                return self.root(node)
            case nodes.Getattr():
                return self.member(node, node.attr)
            case nodes.Getitem():
                if isinstance(node.arg, nodes.Slice):
                    return self.slice(node)
                return self.member(node, self.value(node.arg))
            case nodes.Filter():
                return self.filter(node)
            case nodes.Test():
                return self.test(node)
            case nodes.And():
                return self.value(node.left) and self.value(node.right)
            case nodes.Or():
                return self.value(node.left) or self.value(node.right)
            case nodes.Not():
                return not self.value(node.node)
            case nodes.Neg() | nodes.Pos():
                return self.signed(node)
            case nodes.Compare():
                return self.compare(node)
            case nodes.CondExpr():
                return self.value(node.expr1 if self.value(node.test) else node.expr2)
            case nodes.Concat():
                return "".join([to_text(self.value(part), self.allowance) for part in node.nodes])
            case nodes.List() | nodes.Tuple():
                return [self.value(item) for item in node.items]
            case nodes.Dict():
                return dict(self.pair(pair) for pair in node.items)
            case _:
                return self.arithmetic(node)

    def root(self, node: nodes.Name) -> Any:
        if node.name not in self.context:
            raise MissingValueError(f"'{node.name}' has no value here")
        return self.context[node.name]

    def member(self, node: nodes.Getattr | nodes.Getitem, key: Any) -> Any:
        """Look up a key of an object, or a position in a list or text. Nothing else has members."""
        container = self.value(node.node)
        if isinstance(container, Mapping):
            if isinstance(key, str) and key in container:
                return container[key]
            raise self.missing_key(node, key, container)
        whole = path_of(node.node)
        if isinstance(container, list | str) and isinstance(key, int) and not isinstance(key, bool):
            if -len(container) <= key < len(container):
                return container[key]
            raise MissingValueError(f"{whole}[{key}] is not there: it has {len(container)} items")
        wanted = f"has no {key[:100]!r}" if isinstance(key, str) else f"has no place for {kind_of(key)}"
        message = f"{whole} is {kind_of(container)}, which {wanted}"
        raise (MissingValueError if container is None else TemplateError)(message)

    def missing_key(
        self, node: nodes.Getattr | nodes.Getitem, key: Any, container: Mapping[str, Any]
    ) -> Exception:
        whole = path_of(node.node)
        if not isinstance(key, str):
            return TemplateError(f"The keys of {whole} are text, and this one is {kind_of(key)}")
        root, keys = chain(node)
        if isinstance(root, nodes.Name) and root.name == "steps" and len(keys) <= 2:
            return MissingValueError(f"{path_of(node)} has no value: that step was skipped or has not ended")
        known = [name for name in container if isinstance(name, str)][:200]
        hint = did_you_mean(key, known)
        if not hint:
            listed = ", ".join(f"'{name[:50]}'" for name in known[:10])
            hint = (
                f"; {whole} has {listed}{', ...' if len(container) > 10 else ''}"
                if known
                else f"; {whole} is empty"
            )
        return MissingValueError(f"{path_of(node)} is not there{hint}")

    def slice(self, node: nodes.Getitem) -> Any:
        whole = self.value(node.node)
        if not isinstance(whole, list | str):
            raise TemplateError(f"{path_of(node.node)} is {kind_of(whole)}; only a list or a text has parts")
        part: nodes.Slice = node.arg  # type: ignore[assignment]
        bounds = [None if end is None else self.value(end) for end in (part.start, part.stop, part.step)]
        result = whole[slice(*bounds)]
        self.allowance.take(len(result))
        return result

    def filter(self, node: nodes.Filter) -> Any:
        if node.name in ("default", "d"):
            return self.default(node)
        arguments, keywords = self.arguments(node)
        return FILTERS[node.name](self.allowance, self.value(node.node), *arguments, **keywords)

    def default(self, node: nodes.Filter) -> Any:
        given = dict(zip(("default_value", "boolean"), node.args, strict=False))
        given |= {str(keyword.key): keyword.value for keyword in node.kwargs}
        try:
            value = self.value(node.node)
            if value or "boolean" not in given or not self.value(given["boolean"]):
                return value
        except MissingValueError:
            pass
        return self.value(given["default_value"]) if "default_value" in given else ""

    def test(self, node: nodes.Test) -> bool:
        if node.name in ("defined", "undefined"):
            try:
                self.value(node.node)
            except MissingValueError:
                return node.name == "undefined"
            return node.name == "defined"
        arguments, keywords = self.arguments(node)
        return bool(TESTS[node.name](self.value(node.node), *arguments, **keywords))

    def arguments(self, node: nodes.Filter | nodes.Test) -> tuple[list[Any], dict[str, Any]]:
        keywords = {str(keyword.key): self.value(keyword.value) for keyword in node.kwargs}
        return [self.value(argument) for argument in node.args], keywords

    def pair(self, pair: nodes.Pair) -> tuple[str, Any]:
        key = self.value(pair.key)
        if not isinstance(key, str):
            raise TemplateError(f"The keys of an object are text, not {kind_of(key)}")
        return key, self.value(pair.value)

    def signed(self, node: nodes.Neg | nodes.Pos) -> Any:
        value = self.value(node.node)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise TemplateError(f"A sign needs a number, not {kind_of(value)}")
        return -value if isinstance(node, nodes.Neg) else value

    def compare(self, node: nodes.Compare) -> bool:
        left = self.value(node.expr)
        for operand in node.ops:
            right = self.value(operand.expr)
            if not _COMPARISONS[operand.op](left, right):
                return False
            left = right
        return True

    def arithmetic(self, node: nodes.BinExpr) -> Any:
        sign, compute = _ARITHMETIC[type(node)]
        left, right = self.value(node.left), self.value(node.right)
        kinds = kind_of(left), kind_of(right)
        if kinds == ("a number", "a number"):
            return bounded_number(compute(bounded_number(left), bounded_number(right)))
        if sign == "+" and kinds in (("text", "text"), ("a list", "a list")):
            self.allowance.take(len(left) + len(right))
            return compute(left, right)
        hint = "; join texts with '~'" if sign == "+" else ""
        raise TemplateError(f"'{sign}' can't be used with {kinds[0]} and {kinds[1]}{hint}")
