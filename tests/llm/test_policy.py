from __future__ import annotations

from typing import get_args

import pytest

from cognitionos_provider.llm import Retry
from cognitionos_provider.llm.policy import (
    POLICY,
    Action,
    ErrorClass,
    Fault,
    action_for,
    backoff,
    rule_for,
    wait_before_pass,
)


def test_the_table_has_a_row_for_each_error_class_and_no_other() -> None:
    fault, reason = get_args(ErrorClass)
    assert set(POLICY) == {*get_args(fault), *get_args(reason)}
    assert set(get_args(Fault)) < set(POLICY)


def test_an_error_class_that_the_table_does_not_hold_is_not_tried_again() -> None:
    assert action_for("something new") is action_for(None) is Action.NEXT
    assert rule_for("something new").breaker == "nothing"


def test_a_request_may_change_what_a_fault_leads_to() -> None:
    assert action_for("refusal", {"refusal": Action.NEXT}) is Action.NEXT
    assert action_for("timeout", {"refusal": Action.NEXT}) is Action.RETRY


def test_backoff_grows_by_the_multiplier_up_to_the_limit_with_full_jitter() -> None:
    retry = Retry(backoff_seconds=2, backoff_multiplier=3, max_backoff_seconds=50)
    assert [backoff(retry, n, 1) for n in (1, 2, 3, 4)] == [2, 6, 18, 50]
    assert [backoff(retry, 2, chance) for chance in (0, 0.25, 0.5)] == [0, 1.5, 3]
    assert backoff(Retry(backoff_multiplier=1000.0), 20, 1) == 60


@pytest.mark.parametrize(
    ("ready_in", "wait"),
    [([], 1), ([-3, -1], 1), ([0.5], 1), ([30, -1, 7], 1), ([30, 7], 7), ([120, 90], 90)],
)
def test_a_pass_waits_for_the_first_candidate_that_will_be_ready(ready_in: list[float], wait: float) -> None:
    assert wait_before_pass(Retry(), 1, 1, ready_in) == wait
