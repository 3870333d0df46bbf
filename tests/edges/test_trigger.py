"""The trigger: from a specification to the event that ends the task."""

import json
from types import SimpleNamespace

import pytest
from airflow.sdk.execution_time import comms
from airflow.triggers.base import DiscrimatedTriggerEvent, TaskFailedEvent, TaskSkippedEvent, TaskSuccessEvent
from pydantic import TypeAdapter

from cognitionos_provider.definitions import Workflow
from cognitionos_provider.hooks.llm import LLMHook
from cognitionos_provider.llm.journal import JOURNAL_KEY_PREFIX, read_history
from cognitionos_provider.output import decode_output, encode_output
from cognitionos_provider.step import StepSpec
from cognitionos_provider.triggers.llm import LLMStepTrigger

MODELS = {"models": ["openai:gpt-4", "anthropic:claude-3-haiku-20240307"]}


def trigger_of(step, *others, conf=None, params=None, clear_number=0, **fields):
    workflow = Workflow.model_validate(
        {
            **fields,
            "workflow_id": "w",
            "version": "1.0.0",
            "name": "W",
            "steps": [*others, {"step_id": "s", "llm": MODELS, **step}],
        }
    )
    path, kwargs = LLMStepTrigger(StepSpec.of(workflow, workflow.steps[-1]).canonical_json()).serialize()
    assert path == f"{LLMStepTrigger.__module__}.{LLMStepTrigger.__qualname__}"
    made = LLMStepTrigger(**kwargs)
    context = {
        "dag_run": SimpleNamespace(conf=conf, clear_number=clear_number),
        "params": params or conf or {},
    }
    made.task_instance = SimpleNamespace(
        dag_id="w.v1.0.0", run_id="r1", task_id="s", try_number=2, get_template_context=lambda: context
    )
    return made


def journal_of(channel):
    kept = sorted(
        (key, value) for (_, key), value in channel.xcoms.items() if key.startswith(JOURNAL_KEY_PREFIX)
    )
    assert all(key.startswith("cognitionos.journal.0002.00") for key, _ in kept)
    return read_history(value for _, value in kept)


async def event_of(trigger):
    (event,) = [event async for event in trigger.run()]
    return event


async def test_an_answer_ends_the_task_with_its_output_and_leaves_a_record(channel, sim):
    sim.configure({"answer": "hello"})
    event = await event_of(trigger_of({}, conf={"x": 1}))
    assert isinstance(event, TaskSuccessEvent)
    assert list(event.xcoms) == ["return_value"]
    assert decode_output(event.xcoms["return_value"]) == "hello"
    assert [(attempt.provider, attempt.outcome) for attempt in journal_of(channel).attempts()] == [
        ("openai", "ok")
    ]


async def test_outputs_of_steps_before_are_read_over_the_supervisors_channel(channel, sim):
    channel.xcoms["a", "return_value"] = json.dumps(encode_output({"n": [7]}))
    sim.configure({"match": {"contains": "n is 7"}, "answer": "seen"})
    step = {"depends_on": ["a"], "llm": {**MODELS, "prompt": "n is {{ steps.a.output.n[0] }}"}}
    event = await event_of(trigger_of(step, {"step_id": "a"}))
    assert decode_output(event.xcoms["return_value"]) == "seen"


async def test_a_false_condition_skips_the_task(channel, sim):
    assert isinstance(await event_of(trigger_of({"condition": "inputs.x"}, conf={"x": 0})), TaskSkippedEvent)


async def test_a_failure_fails_the_task_and_is_on_record(channel, sim):
    sim.configure({"status": 401})
    event = await event_of(trigger_of({}))
    assert isinstance(event, TaskFailedEvent)
    history = journal_of(channel)
    assert [attempt.http_status for attempt in history.attempts()] == [401, 401]
    assert "openai:gpt-4" in history.error


@pytest.mark.parametrize("spec", ["no JSON", "{}", '{"step": 1}'])
async def test_whatever_is_wrong_ends_the_task_here_and_never_on_a_worker(channel, sim, spec):
    made = trigger_of({})
    made.spec = spec
    assert isinstance(await event_of(made), TaskFailedEvent)


@pytest.mark.parametrize(
    "answer",
    [
        '{"__classname__": "x", "__version__": 1, "__data__": {}}',
        '{"__type": "dag", "__var": {}}',
        "nul \0 and half a pair \ud800",
    ],
)
async def test_the_event_of_a_hostile_answer_passes_the_supervisors_own_codec(channel, sim, answer):
    sim.configure({"answer": answer})
    event = await event_of(trigger_of({}))
    wire = comms._new_encoder().encode(event.model_dump())
    assert wire
    again = TypeAdapter(DiscrimatedTriggerEvent).validate_json(event.model_dump_json())
    expected = answer.replace("\0", "\ufffd").replace("\ud800", "\ufffd")
    assert decode_output(again.xcoms["return_value"]) == expected


def test_airflow_has_nothing_to_render():
    assert tuple(trigger_of({"inputs": {"x": "{{ inputs.y }}"}}).template_fields) == ()


@pytest.mark.parametrize(
    ("state", "clear_number", "counts"),
    [("success", 0, True), ("deferred", 0, True), (None, 0, False), (None, 1, True)],
)
async def test_a_budget_begins_with_what_other_steps_have_paid_also_before_they_were_cleared(
    channel, sim, state, clear_number, counts
):
    paid = {"provider": "openai", "model": "gpt-4", "outcome": "ok", "call_id": "c", "cost_usd": 0.99}
    batch = {"writer": "w", "entries": [{"kind": "attempt", "attempt": paid}], "last": True}
    channel.xcoms["a", "cognitionos.journal.0001.00"] = json.dumps(batch)
    channel.states = {"a": state, "s": "deferred"}
    run = {"execution_id": f"e-{state}-{clear_number}"}
    trigger = trigger_of(
        {}, {"step_id": "a"}, conf={"__cognitionos__": run}, clear_number=clear_number, budget_usd=1
    )
    event = await event_of(trigger)
    assert isinstance(event, TaskFailedEvent if counts else TaskSuccessEvent)
    assert len(sim.calls()) == (0 if counts else 1)


async def test_all_items_of_a_step_are_asked_over_one_router(channel, sim, monkeypatch):
    made = []
    aget_router = LLMHook.aget_router

    async def counted(hook):
        made.append(hook)
        return await aget_router(hook)

    monkeypatch.setattr(LLMHook, "aget_router", counted)
    event = await event_of(trigger_of({"for_each": "inputs.list"}, conf={"list": list(range(30))}))
    assert isinstance(event, TaskSuccessEvent)
    assert len(sim.calls()) == 30
    assert len(made) == 1
