from __future__ import annotations

from typing import get_args

import pytest

from cognitionos_provider.llm import Retry
from cognitionos_provider.llm.policy import POLICY, Action, ErrorClass, action_for, backoff, wait_before_pass


def test_the_table_has_a_row_for_each_error_class_and_no_other() -> None:
    assert set(POLICY) == set(get_args(ErrorClass))


def test_an_error_class_that_the_table_does_not_hold_is_not_tried_again() -> None:
    assert action_for("something new") is action_for(None) is Action.NEXT


def test_backoff_grows_by_the_multiplier_up_to_the_limit() -> None:
    retry = Retry(backoff_seconds=2, backoff_multiplier=3, max_backoff_seconds=50)
    assert [backoff(retry, n) for n in (1, 2, 3, 4)] == [2, 6, 18, 50]
    assert backoff(Retry(backoff_multiplier=1000.0), 20) == 60


@pytest.mark.parametrize(
    ("asked", "wait"), [([], 1), ([None, None], 1), ([0.5], 1), ([30, None, 7], 7), ([120, 90], 90)]
)
def test_a_pass_waits_for_the_first_provider_that_will_be_ready(
    asked: list[float | None], wait: float
) -> None:
    assert wait_before_pass(Retry(), 1, asked) == wait
