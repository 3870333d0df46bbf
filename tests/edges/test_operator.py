"""The operator where it does the whole step itself: worker mode, and ``airflow dags test``."""

import asyncio
import threading
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from cognitionos_provider.definitions import Workflow
from cognitionos_provider.llm.journal import read_history
from cognitionos_provider.operators.llm import LLMStepOperator
from cognitionos_provider.output import decode_output, encode_output
from cognitionos_provider.step import StepSpec


class StateStore(dict):
    def set(self, key, value, *, retention):
        self[key] = value


def execute(step, *others, conf=None, retries=0, store=None, try_number=1, **fields):
    step = {"step_id": "s", "llm": {"models": ["openai:gpt-4", "anthropic:claude-3-haiku-20240307"]}, **step}
    workflow = Workflow.model_validate(
        {"workflow_id": "w", "version": "1.0.0", "name": "W", "steps": [*others, step], **fields}
    )
    spec = StepSpec.of(workflow, workflow.steps[-1]).canonical_json()
    operator = LLMStepOperator(task_id="s", spec=spec, start_from_trigger=False, retries=retries)
    states = {"r": {"s": "running", "b": "success", "c": None}}
    ti = SimpleNamespace(
        dag_id="w.v1.0.0", run_id="r", task_id="s", try_number=try_number, get_task_states=lambda **_: states
    )
    store = StateStore() if store is None else store
    context = {
        "ti": ti,
        "dag_run": SimpleNamespace(conf=conf),
        "params": conf or {},
        "task_state_store": store,
    }
    operator.execute(context)
    return store


def test_the_whole_step_is_done_and_its_output_is_where_a_trigger_would_put_it(channel, sim):
    channel.xcoms["b", "return_value"] = encode_output(1)
    sim.configure({"match": {"contains": "'b'"}, "answer": "hello"})
    store = execute({"depends_on": ["b"]}, {"step_id": "b"})
    assert decode_output(channel.xcoms["s", "return_value"]) == "hello"
    assert [attempt.outcome for attempt in read_history(store.values()).attempts()] == ["ok"]


def test_under_a_budget_steps_tell_each_other_what_they_have_spent(channel, sim):
    sim.configure({"usage": {"input_tokens": 1000, "output_tokens": 500}})
    channel.xcoms["b", "cognitionos.spent"] = "0.5"
    execute({}, {"step_id": "b"}, budget_usd=1)
    # 30 and 60 USD per million tokens.
    assert channel.xcoms["s", "cognitionos.spent"] == "0.06"
    channel.xcoms["b", "cognitionos.spent"] = "0.99"
    with pytest.raises(AirflowFailException, match=r"The run's budget of \$1"):
        execute({}, {"step_id": "b"}, budget_usd=1)
    assert len(sim.calls()) == 1


def test_a_task_that_is_killed_closes_its_call(channel, sim):
    sim.configure({"latency": 2})
    step = {"step_id": "s", "llm": {"models": ["openai:gpt-4"]}}
    workflow = Workflow.model_validate({"workflow_id": "w", "version": "1.0.0", "name": "W", "steps": [step]})
    operator = LLMStepOperator(task_id="s", spec=StepSpec.of(workflow, workflow.steps[0]).canonical_json())
    operator.on_kill()
    ti = SimpleNamespace(dag_id="w.v1.0.0", run_id="r", task_id="s", try_number=1)
    context = {"ti": ti, "dag_run": SimpleNamespace(conf={}), "params": {}, "task_state_store": StateStore()}

    def kill():
        sim.wait_for(lambda totals: totals["calls"], timeout=30)
        operator.on_kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(asyncio.CancelledError):
        operator.execute(context)
    killer.join()
    sim.wait_for(lambda totals: totals["in_flight"] == 0)
    assert sim.calls()[0]["disconnected"]


def test_a_false_condition_skips(channel, sim):
    with pytest.raises(AirflowSkipException):
        execute({"condition": "inputs.x"}, conf={"x": False})


def test_where_airflow_makes_the_retries_a_try_is_one_pass_and_may_be_tried_again(channel, sim):
    sim.configure({"status": 503})
    with pytest.raises(AirflowException, match="No model answered") as raised:
        execute({"retry": {"max_attempts": 5, "backoff_seconds": 0}}, retries=4)
    assert not isinstance(raised.value, AirflowFailException)
    assert len(sim.calls()) == 2


def test_without_airflows_retries_the_step_makes_its_own_passes(channel, sim):
    sim.configure({"status": 503})
    with pytest.raises(AirflowException):
        execute({"retry": {"max_attempts": 2, "backoff_seconds": 0}})
    assert len(sim.calls()) == 4


def test_an_error_that_cannot_get_better_is_not_tried_again(channel, sim):
    sim.configure({"status": 400})
    with pytest.raises(AirflowFailException):
        execute({}, retries=4)
    assert len(sim.calls()) == 1


def test_a_step_that_starts_from_the_trigger_never_resumes_on_a_worker():
    operator = LLMStepOperator(task_id="s", spec="{}")
    assert operator.start_from_trigger
    assert operator.start_trigger_args.trigger_kwargs == {"spec": "{}"}
    assert operator.start_trigger_args.timeout is None
    assert not operator.template_fields
    with pytest.raises(AirflowFailException, match="never sends"):
        operator.execute_complete({}, {"odd": 1})


def test_a_later_try_on_a_worker_replays_what_an_earlier_one_was_answered(channel, sim):
    step = {"for_each": "inputs.list", "llm": {"models": ["openai:gpt-4"], "prompt": "item {{ item }}"}}
    conf = {"list": ["a", "b", "c"]}
    sim.configure({"match": {"contains": "item b"}, "status": 400, "times": 1})
    store = StateStore()
    with pytest.raises(AirflowException):
        execute(step, conf=conf, store=store)
    # Airflow deletes a task's XComs when a worker starts its next try.
    channel.xcoms.clear()
    execute(step, conf=conf, store=store, try_number=2)
    assert sorted(call["question"].split("\n")[0] for call in sim.calls()) == [
        "item a",
        "item b",
        "item b",
        "item c",
    ]
    assert len(decode_output(channel.xcoms["s", "return_value"])) == 3
