"""What a run is given."""

from decimal import Decimal

import pytest

from cognitionos_provider.run import RESERVED_KEY, RunContext, execution_id_of, make_conf


def test_a_run_that_the_facade_started_knows_its_execution_and_trace():
    conf = make_conf({"x": 1}, execution_id="e-1", trace_id="t-1", budget_usd="0.5")
    run = RunContext.of("d", "r", conf, {**conf})
    assert (run.execution_id, run.trace_id, run.given, run.inputs) == ("e-1", "t-1", {"x": 1}, {"x": 1})
    assert conf[RESERVED_KEY]["budget_usd"] == "0.5"


def test_a_run_from_the_ui_a_schedule_or_the_command_line_has_its_conf_as_inputs():
    run = RunContext.of("d", "r", {"x": 1}, {"x": 1, "y": "default", "z": None})
    assert run.given == {"x": 1}
    assert run.inputs == {"x": 1, "y": "default", "z": None}
    assert run.execution_id == run.trace_id == execution_id_of("d", "r")
    assert execution_id_of("d", "r") != execution_id_of("d", "r2")


def test_a_run_without_a_conf_has_no_inputs():
    run = RunContext.of("d", "r", None)
    assert (run.given, run.inputs) == ({}, {})


def test_an_input_that_the_trigger_form_left_empty_was_not_given():
    assert RunContext.of("d", "r", {"x": None, "y": 0}).given == {"y": 0}


def test_a_reserved_key_of_another_shape_is_no_input_and_harms_nothing():
    run = RunContext.of("d", "r", {RESERVED_KEY: "boo", "x": 1})
    assert run.inputs == {"x": 1}
    assert run.execution_id == execution_id_of("d", "r")


@pytest.mark.parametrize(
    ("told", "budget"),
    [
        ("0.5", Decimal("0.5")),
        (1, Decimal(1)),
        ("0.1234567", Decimal("0.123456")),
        ("1e30000000", None),
        ("1e-10000000", Decimal(0)),
        ("NaN", None),
        ("-1", None),
        ({"a": 1}, None),
        (None, None),
    ],
)
def test_a_budget_that_anybody_may_have_written_is_an_amount_or_none(told, budget):
    conf = {RESERVED_KEY: {"budget_usd": told}}
    assert RunContext.of("d", "r", conf).budget_usd == budget
