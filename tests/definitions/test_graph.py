from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cognitionos_provider.definitions import execution_order, upstream_of
from cognitionos_provider.definitions.graph import find_cycles, graph_violations, sinks_of
from cognitionos_provider.exceptions import DefinitionError


@dataclass(frozen=True)
class Node:
    step_id: str
    depends_on: Sequence[str] = ()


def nodes(**edges: str) -> list[Node]:
    return [Node(name, tuple(needed.split())) for name, needed in edges.items()]


@st.composite
def acyclic(draw: st.DrawFn) -> list[Node]:
    """Steps that depend on some of those before them, in any order of definition."""
    size = draw(st.integers(1, 12))
    made = []
    for index in range(size):
        needed = draw(st.sets(st.integers(0, index - 1), max_size=4)) if index else set()
        made.append(Node(f"s{index}", tuple(f"s{number}" for number in sorted(needed))))
    return draw(st.permutations(made))


@given(acyclic())
def test_an_order_has_each_step_once_and_after_all_it_needs(steps: list[Node]) -> None:
    order = execution_order(steps)
    assert sorted(order) == sorted(step.step_id for step in steps)
    for step in steps:
        assert all(order.index(needed) < order.index(step.step_id) for needed in step.depends_on)


@given(acyclic())
def test_upstream_is_what_is_reached_by_following_dependencies(steps: list[Node]) -> None:
    by_id = {step.step_id: step for step in steps}
    for step_id, found in upstream_of(steps).items():
        pending, reached = list(by_id[step_id].depends_on), set()
        while pending:
            name = pending.pop()
            reached.add(name)
            pending.extend(by_id[name].depends_on)
        assert found == reached


@given(acyclic(), st.data())
def test_an_edge_back_is_always_reported_with_a_path_that_is_one(
    steps: list[Node], data: st.DataObject
) -> None:
    pairs = [(later, earlier) for later, names in upstream_of(steps).items() for earlier in sorted(names)]
    if not pairs:
        assert find_cycles(steps) == []
        return
    later, earlier = data.draw(st.sampled_from(pairs))
    broken = [
        Node(step.step_id, (*step.depends_on, later)) if step.step_id == earlier else step for step in steps
    ]
    [cycle] = find_cycles(broken)
    needs = {step.step_id: step.depends_on for step in broken}
    assert cycle[0] == cycle[-1]
    assert len(set(cycle)) == len(cycle) - 1
    assert all(right in needs[left] for left, right in pairwise(cycle))
    with pytest.raises(DefinitionError, match="->"):
        execution_order(broken)
    [violation] = graph_violations(broken, "w 1.0.0")
    _, index, _, position = violation.loc
    assert isinstance(index, int)
    assert isinstance(position, int)
    assert broken[index].depends_on[position] == cycle[1]


def test_ties_keep_the_order_of_definition() -> None:
    assert execution_order(nodes(c="", a="", b="c")) == ["c", "a", "b"]
    assert execution_order(nodes(d="a", b="", a="", c="")) == ["b", "a", "d", "c"]


def test_a_cycle_is_refused_and_its_path_is_named() -> None:
    assert find_cycles(nodes(x="", a="x c", b="a", c="b")) == [["a", "c", "b", "a"]]


def test_each_group_of_waiting_steps_gives_its_shortest_cycle() -> None:
    steps = nodes(a="c", b="a", c="b a", d="e", e="d c")
    assert find_cycles(steps) == [["a", "c", "a"], ["d", "e", "d"]]


def test_a_very_long_cycle_is_named_by_its_ends() -> None:
    steps = [Node(f"s{index}", (f"s{(index + 1) % 500}",)) for index in range(500)]
    [violation] = graph_violations(steps, "w 1.0.0")
    assert "s0 -> s1" in violation.msg
    assert "(461 more)" in violation.msg
    assert violation.msg.count("->") < 50


@pytest.mark.parametrize(
    "steps", [nodes(a="b"), nodes(a="a"), [Node("a"), Node("a")]], ids=["unknown", "own", "same id twice"]
)
def test_a_broken_graph_has_no_order(steps: list[Node]) -> None:
    with pytest.raises(DefinitionError):
        execution_order(steps)


def test_a_cycle_among_steps_of_the_same_name_is_reported_without_harm() -> None:
    steps = [Node("a", ("b",)), Node("b", ("a",)), Node("a", ())]
    assert [violation.loc for violation in graph_violations(steps, "w")] == [
        ("steps", 2, "step_id"),
        ("steps", 0, "depends_on", 0),
    ]


def test_sinks_are_what_nothing_depends_on() -> None:
    assert sinks_of(nodes(a="", b="a", c="a", d="")) == ["b", "c", "d"]


def test_a_chain_and_a_full_graph_of_500_steps_are_no_trouble() -> None:
    chain = [Node(f"s{index}", (f"s{index - 1}",) if index else ()) for index in range(500)]
    full = [Node(f"s{index}", tuple(f"s{before}" for before in range(index))) for index in range(500)]
    begun = process_time()
    for steps in (chain, full):
        assert execution_order(steps)[-1] == "s499"
        assert len(upstream_of(steps)["s499"]) == 499
        assert graph_violations(steps, "w") == []
    assert process_time() - begun < 2
