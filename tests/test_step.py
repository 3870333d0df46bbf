"""One step from its inputs to its outcome: a real router, over the wire, to the simulator."""

import asyncio
import json
from decimal import Decimal

import pytest

from cognitionos_provider.definitions import Workflow
from cognitionos_provider.llm import create_llm_router
from cognitionos_provider.llm.journal import Intent, Journal, read_history
from cognitionos_provider.run import RunContext
from cognitionos_provider.simulator import SimulatorServer
from cognitionos_provider.step import StepSpec, run_step


@pytest.fixture(scope="module")
def server():
    with SimulatorServer() as server:
        yield server


@pytest.fixture
def sim(server):
    server.reset()
    return server


def router_of(sim, tries):
    return create_llm_router(
        "sk-test",
        "sk-ant-test",
        openai_base_url=sim.openai_base_url,
        anthropic_base_url=sim.anthropic_base_url,
        default_models=("openai:gpt-4", "anthropic:claude-3-haiku-20240307"),
        tries_per_model=tries,
    )


@pytest.fixture
async def router(sim):
    async with router_of(sim, tries=1) as router:
        yield router


@pytest.fixture
async def patient_router(sim):
    async with router_of(sim, tries=2) as router:
        yield router


class Edge:
    """Keeps in memory what Airflow would keep."""

    def __init__(self, router, outputs=None):
        self._router = router
        self.outputs = outputs or {}
        self.kept = {}
        self.spent = Decimal(0)
        self.try_number = 1
        self.lines = []

    @property
    def history(self):
        return read_history(self.kept[key] for key in sorted(self.kept))

    @property
    def attempts(self):
        return self.history.attempts()

    async def output_of(self, step_id):
        return self.outputs[step_id]

    async def router(self):
        return self._router

    async def read(self, key):
        return self.kept.get(key)

    async def write(self, key, text):
        self.kept[key] = text

    async def spent_by_others(self, reserved, agent_id=None):
        return self.spent

    def log(self, level, event, **fields):
        self.lines.append((level, event))


def spec_of(step, *others, **fields):
    body = {"workflow_id": "w", "version": "1.0.0", "name": "W", "steps": [*others, {"step_id": "s", **step}]}
    workflow = Workflow.model_validate({**body, **fields})
    return StepSpec.model_validate_json(StepSpec.of(workflow, workflow.steps[-1]).canonical_json())


def run_of(**inputs):
    return RunContext("e-1", "t-1", inputs, inputs)


async def test_the_default_agent_is_told_the_step_its_inputs_and_what_came_before(sim, router):
    spec = spec_of(
        {
            "name": "Sum up",
            "agent_capability": "summaries",
            "inputs": {"n": "{{ inputs.n }}"},
            "depends_on": ["before"],
        },
        {"step_id": "before"},
    )
    edge = Edge(router, {"before": {"rows": [1, 2]}})
    sim.configure({"match": {"contains": "Sum up"}, "answer": "done"})
    outcome = await run_step(spec, run_of(n=3), edge)
    assert (outcome.state, outcome.output) == ("success", "done")
    assert [attempt.outcome for attempt in edge.attempts] == ["ok"]
    asking, answered = edge.lines
    assert asking == ("info", "asking openai:gpt-4")
    assert answered[1].startswith("openai:gpt-4 answered in")
    for told in ("Sum up", "summaries", '"n": 3', '"rows"', "Output of step 'before'"):
        sim.reset()
        sim.configure({"match": {"contains": told}, "answer": f"saw {told}"})
        assert (await run_step(spec, run_of(n=3), Edge(router, edge.outputs))).output.startswith("saw")


async def test_a_prompt_of_the_steps_own_takes_the_place_of_all_that(sim, router):
    spec = spec_of({"llm": {"prompt": "Say {{ inputs.word }}", "system_prompt": "Be {{ inputs.how }}"}})
    sim.configure({"match": {"contains": "Say {{ hi }}"}, "answer": "heard"})
    outcome = await run_step(spec, run_of(word="{{ hi }}", how="brief"), Edge(router))
    assert outcome.output == "heard"


async def test_a_false_condition_skips_the_step_and_asks_nobody(sim, router):
    spec = spec_of({"condition": "inputs.go"})
    assert (await run_step(spec, run_of(go=False), Edge(router))).state == "skipped"
    assert sim.calls() == []
    assert (await run_step(spec, run_of(go=True), Edge(router))).state == "success"


async def test_a_template_without_a_value_fails_the_step_and_names_it(sim, router):
    outcome = await run_step(spec_of({"inputs": {"x": "{{ inputs.nope }}"}}), run_of(), Edge(router))
    assert outcome.state == "failed"
    assert "'s'" in outcome.error
    assert "nope" in outcome.error
    assert sim.calls() == []


async def test_for_each_asks_once_for_each_item_and_keeps_the_order(sim, router):
    spec = spec_of({"for_each": "inputs.list", "llm": {"prompt": "item {{ item }}"}, "max_concurrency": 3})
    for item in "abcde":
        sim.configure({"match": {"contains": f"item {item}"}, "answer": item.upper(), "latency": 0.05})
    edge = Edge(router)
    outcome = await run_step(spec, run_of(list=list("abcde")), edge)
    assert outcome.output == list("ABCDE")
    assert len(edge.attempts) == 5
    assert sim.stats()["max_in_flight"] <= 3


async def test_a_failed_item_fails_the_step_after_all_have_run_or_is_kept(sim, router):
    sim.configure({"match": {"contains": "item b"}, "status": 400, "message": "no b"})
    step = {"for_each": "inputs.list", "llm": {"prompt": "item {{ item }}"}, "retry": {"max_attempts": 1}}
    outcome = await run_step(spec_of(step), run_of(list=["a", "b", "c"]), Edge(router))
    assert outcome.state == "failed"
    assert "1 of 3 items failed; item 1" in outcome.error
    assert len(sim.calls()) == 3
    kept = await run_step(
        spec_of({**step, "on_item_error": "keep"}), run_of(list=["a", "b", "c"]), Edge(router)
    )
    assert kept.state == "success"
    assert "no b" in kept.output[1]["error"]


@pytest.mark.parametrize(
    ("value", "message"),
    [("text", "gives str, and a list is needed"), ([1, 2, 3], "3 items, and max_items is 2")],
)
async def test_for_each_over_something_else_or_too_much_fails(sim, router, value, message):
    spec = spec_of({"for_each": "inputs.list", "max_items": 2})
    outcome = await run_step(spec, run_of(list=value), Edge(router))
    assert outcome.state == "failed"
    assert message in outcome.error


async def test_an_answer_that_breaks_the_schema_is_asked_for_again_with_the_reason(sim, patient_router):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    sim.configure({"times": 1, "answer": "no JSON"})
    sim.configure({"match": {"contains": "does not satisfy"}, "answer": '```json\n{"n": 4}\n```'})
    edge = Edge(patient_router)
    outcome = await run_step(spec_of({"output_schema": schema}), run_of(), edge)
    assert outcome.output == {"n": 4}
    assert [(attempt.provider, attempt.error_class) for attempt in edge.attempts] == [
        ("openai", "schema"),
        ("openai", None),
    ]
    assert all(attempt.cost_usd for attempt in edge.attempts)


async def test_models_that_never_keep_the_schema_fail_the_step(sim, patient_router):
    sim.configure({"answer": '{"n": "four"}'})
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    retry = {"max_attempts": 2, "backoff_seconds": 0}
    edge = Edge(patient_router)
    outcome = await run_step(spec_of({"output_schema": schema, "retry": retry}), run_of(), edge)
    assert outcome.state == "failed"
    assert "n: 'four' is not of type 'integer'" in outcome.error
    # Passes by models by tries.
    assert len(sim.calls()) == 2 * 2 * 2
    # None of them is an answer that a later try would replay.
    assert edge.history.answers == {}


async def test_both_providers_down_fails_the_step_with_each_ones_last_failure(sim, router):
    sim.configure(
        {"match": {"provider": "openai"}, "status": 500}, {"match": {"provider": "anthropic"}, "status": 529}
    )
    edge = Edge(router)
    outcome = await run_step(spec_of({"retry": {"max_attempts": 2, "backoff_seconds": 0}}), run_of(), edge)
    assert outcome.state == "failed"
    assert outcome.can_retry
    assert "openai:gpt-4" in outcome.error
    assert "500" in outcome.error
    assert "anthropic:claude-3-haiku-20240307" in outcome.error
    assert "529" in outcome.error
    assert edge.history.error == outcome.error
    assert len(edge.attempts) == len(sim.calls()) == 4


async def test_a_bad_request_is_sent_once_whatever_max_attempts_says(sim, router):
    sim.configure({"status": 400, "message": "bad"})
    outcome = await run_step(
        spec_of({"retry": {"max_attempts": 20, "backoff_seconds": 0}}), run_of(), Edge(router)
    )
    assert outcome.state == "failed"
    assert not outcome.can_retry
    assert len(sim.calls()) == 1


async def test_the_deadline_ends_the_step_however_slow_the_provider_is(sim, router):
    await router.warm_up()
    sim.configure({"latency": 2})
    loop = asyncio.get_running_loop()
    started = loop.time()
    edge = Edge(router)
    outcome = await run_step(spec_of({"timeout_seconds": 0.4}), run_of(), edge)
    assert 0.35 < loop.time() - started < 1.5
    assert outcome.state == "failed"
    assert outcome.can_retry
    assert "0.4 s" in outcome.error
    assert [attempt.error_class for attempt in edge.attempts] == ["timeout"]


async def test_one_pass_is_made_where_somebody_else_makes_the_retries(sim, router):
    sim.configure({"status": 503})
    outcome = await run_step(spec_of({}), run_of(), Edge(router), passes=1)
    assert outcome.can_retry
    assert len(sim.calls()) == 2


async def test_inputs_that_break_the_input_schema_fail_the_first_step(sim, router):
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "additionalProperties": False}
    spec = spec_of({}, input_schema=schema)
    assert (await run_step(spec, RunContext("e", "t", {"x": 1}, {"x": 1}), Edge(router))).state == "success"
    outcome = await run_step(spec, run_of(y=1), Edge(router))
    assert outcome.state == "failed"
    assert "'y' is no property here" in outcome.error


async def test_an_input_that_was_left_empty_is_not_held_against_the_schema(sim, router):
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    run = RunContext("e", "t", {}, {"x": None})
    assert (await run_step(spec_of({}, input_schema=schema), run, Edge(router))).state == "success"


async def test_whatever_breaks_in_the_edge_is_the_outcome_and_never_an_exception(router):
    class Broken(Edge):
        async def output_of(self, step_id):
            raise RuntimeError("the supervisor is gone")

        async def write(self, key, text):
            raise RuntimeError("and so is the database")

    spec = spec_of({"depends_on": ["a"], "retry": {"backoff_seconds": 0}}, {"step_id": "a"})
    outcome = await run_step(spec, run_of(), Broken(router))
    assert outcome.state == "failed"
    assert "RuntimeError: the supervisor is gone" in outcome.error


async def test_an_answer_that_no_database_can_hold_is_cleaned_on_its_way_to_the_next_model(sim, router):
    spec = spec_of({"llm": {"prompt": "{{ steps.a.output }}"}, "depends_on": ["a"]}, {"step_id": "a"})
    outcome = await run_step(spec, run_of(), Edge(router, {"a": "x\0y\ud800z"}))
    assert outcome.state == "success"
    assert json.dumps(outcome.output)


async def test_a_cancelled_step_closes_its_call(sim, router):
    await router.warm_up()
    sim.configure({"latency": 1})
    task = asyncio.create_task(run_step(spec_of({}), run_of(), Edge(router)))
    async with asyncio.timeout(10):
        while not sim.calls():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # The simulator notices when it would have answered.
        while sim.calls()[0]["finished"] is None:
            await asyncio.sleep(0.01)
    assert [call["disconnected"] for call in sim.calls()] == [True]


async def test_an_airflow_that_does_not_answer_at_once_is_asked_again(sim, router):
    class Hesitant(Edge):
        asked = 0

        async def output_of(self, step_id):
            self.asked += 1
            if self.asked < 3:
                raise ConnectionError("the database is away")
            return "there"

    spec = spec_of({"depends_on": ["a"], "retry": {"backoff_seconds": 0}}, {"step_id": "a"})
    edge = Hesitant(router)
    assert (await run_step(spec, run_of(), edge)).state == "success"
    assert [level for level, _ in edge.lines].count("warning") == 2


async def test_a_try_that_another_process_began_goes_on_with_its_journal(sim, router):
    edge = Edge(router)
    before = Journal(edge, 1)
    await before.open()
    intent = Intent(call_id="c1", request="h", connection="openai", provider="openai", model="gpt-4", at=1.0)
    await before.intend(intent)
    assert (await run_step(spec_of({}), run_of(), edge)).state == "success"
    assert [attempt.possibly_billed for attempt in edge.attempts] == [True, False]


async def test_a_journal_that_can_not_be_read_fails_the_step_and_nothing_is_sent(sim, router):
    class Unreadable(Edge):
        async def read(self, key):
            raise ValueError("garbage")

    outcome = await run_step(spec_of({"retry": {"backoff_seconds": 0}}), run_of(), Unreadable(router))
    assert outcome.state == "failed"
    assert "garbage" in outcome.error
    assert sim.calls() == []


async def test_a_rerun_replays_what_was_answered_and_pays_for_the_rest_only(sim, router):
    step = {"for_each": "inputs.list", "llm": {"prompt": "item {{ item }}"}, "retry": {"max_attempts": 1}}
    sim.configure({"match": {"contains": "item b"}, "status": 400, "times": 1})
    edge = Edge(router)
    assert (await run_step(spec_of(step), run_of(list=["a", "b", "c"]), edge)).state == "failed"
    assert len(sim.calls()) == 3
    edge.try_number = 2
    outcome = await run_step(spec_of(step), run_of(list=["a", "b", "c"]), edge)
    assert outcome.state == "success"
    assert len(sim.calls()) == 4
    assert [attempt.outcome for attempt in edge.attempts].count("ok") == 3
    replayed = [line for _, line in edge.lines if "journal: nothing was paid" in line]
    assert len(replayed) == 2


async def test_a_budget_that_is_used_up_fails_the_step_and_nothing_is_sent(sim, router):
    edge = Edge(router)
    edge.spent = Decimal("0.49")
    outcome = await run_step(spec_of({}, budget_usd=0.5), run_of(), edge)
    assert outcome.state == "failed"
    assert not outcome.can_retry
    assert "The run's budget of $0.50" in outcome.error
    assert sim.calls() == []
    # A run's own budget can only lower it.
    run = RunContext("e-2", "t", {}, {}, Decimal(5))
    assert (await run_step(spec_of({}, budget_usd=0.5), run, edge)).state == "failed"
    run = RunContext("e-3", "t", {}, {}, Decimal("0.4"))
    assert "$0.40" in (await run_step(spec_of({}, budget_usd=0.5), run, edge)).error


async def test_the_budget_of_an_agent_bounds_it_too(sim, router):
    spec = spec_of({}).model_copy(update={"agent_id": "writer", "agent_budget_usd": 0.01})
    outcome = await run_step(spec, run_of(), Edge(router))
    assert "The budget of agent 'writer' of $0.01" in outcome.error


async def test_under_a_budget_a_model_without_a_price_is_refused_unless_allowed(sim, router):
    step = {"llm": {"models": ["openai:in-house"]}}
    refused = await run_step(spec_of(step, budget_usd=1), run_of(), Edge(router))
    assert refused.state == "failed"
    assert "price is not known" in refused.error
    assert sim.calls() == []
    run = RunContext("e-4", "t", {}, {})
    allowed = await run_step(spec_of(step, budget_usd=1, unpriced="allow"), run, Edge(router))
    assert allowed.state == "success"


async def test_a_step_may_say_what_a_refusal_leads_to(sim, router):
    sim.configure({"match": {"provider": "openai"}, "refusal": True})
    assert (await run_step(spec_of({}), run_of(), Edge(router))).state == "failed"
    llm = {"on_refusal": "fallback"}
    assert (await run_step(spec_of({"llm": llm}), run_of(), Edge(router))).state == "success"
    llm = {"policy": {"refusal": "next"}}
    assert (await run_step(spec_of({"llm": llm}), run_of(), Edge(router))).state == "success"


async def test_an_answer_may_serve_other_runs_for_a_while(sim, router):
    spec = spec_of({"llm": {"cache_ttl_seconds": 60, "temperature": 0}})
    first = await run_step(spec, run_of(), Edge(router))
    edge = Edge(router)
    second = await run_step(spec, run_of(), edge)
    assert first.output == second.output
    assert len(sim.calls()) == 1
    assert [attempt.error_class for attempt in edge.attempts] == ["cached"]


async def test_what_no_database_can_hold_is_cleaned_from_structured_answers_too(sim, router):
    sim.configure({"answer": '{"a": "x\\u0000y\\ud800"}'})
    outcome = await run_step(spec_of({"output_schema": {"type": "object"}}), run_of(), Edge(router))
    assert outcome.output == {"a": "x\ufffdy\ufffd"}
    assert len(sim.calls()) == 1


async def test_an_item_whose_answer_is_nested_without_end_does_not_take_the_others_with_it(sim, router):
    sim.configure({"match": {"contains": "item b"}, "answer": "[" * 100_000})
    sim.configure({"answer": "{}"})
    step = {
        "for_each": "inputs.list",
        "llm": {"prompt": "item {{ item }}"},
        "output_schema": {"type": "object"},
        "on_item_error": "keep",
        "retry": {"max_attempts": 1},
    }
    outcome = await run_step(spec_of(step), run_of(list=["a", "b", "c"]), Edge(router))
    assert outcome.state == "success"
    assert [sorted(item) for item in outcome.output] == [[], ["error"], []]


async def test_where_somebody_else_makes_the_retries_a_broken_answer_is_worth_one(sim, router):
    sim.configure({"answer": "no JSON"})
    outcome = await run_step(spec_of({"output_schema": {"type": "object"}}), run_of(), Edge(router), passes=1)
    assert outcome.can_retry
    assert len(sim.calls()) == 2


async def test_a_journal_whose_first_write_fails_is_written_again(sim, router):
    class Flaky(Edge):
        failed = False

        async def write(self, key, text):
            if not self.failed:
                self.failed = True
                raise ConnectionError("the database is away")
            await super().write(key, text)

    edge = Flaky(router)
    assert (await run_step(spec_of({}), run_of(), edge)).state == "success"
    assert edge.failed
    assert [attempt.outcome for attempt in edge.attempts] == ["ok"]


async def test_when_the_time_is_up_the_items_that_are_done_are_kept_and_no_other_is_begun(sim, router):
    await router.warm_up()
    sim.configure({"latency": 0.15})
    step = {
        "for_each": "inputs.list",
        "llm": {"prompt": "item {{ item }}"},
        "on_item_error": "keep",
        "max_concurrency": 2,
        "timeout_seconds": 0.5,
    }
    edge = Edge(router)
    outcome = await run_step(spec_of(step), run_of(list=list(range(300))), edge)
    assert outcome.state == "success"
    answered = [item for item in outcome.output if isinstance(item, str)]
    assert 2 <= len(answered) <= 8
    assert "The time was up" in outcome.output[-1]["error"]
    assert len(sim.calls()) <= len(answered) + 2
    assert len(edge.attempts) <= len(answered) + 2


async def test_a_journal_that_hangs_does_not_keep_the_step_for_ever(sim, router, monkeypatch):
    class Hanging(Edge):
        async def write(self, key, text):
            await asyncio.Event().wait()

    await router.warm_up()
    monkeypatch.setattr("cognitionos_provider.step._LAST_WRITE_SECONDS", 0.2)
    began = asyncio.get_running_loop().time()
    outcome = await run_step(spec_of({"timeout_seconds": 0.3}), run_of(), Hanging(router))
    assert outcome.state == "failed"
    assert asyncio.get_running_loop().time() - began < 2
    assert sim.calls() == []


async def test_a_journal_that_is_away_for_a_while_costs_no_more_than_that_while(sim, router):
    class Away(Edge):
        until = 0.0

        async def write(self, key, text):
            self.until = self.until or asyncio.get_running_loop().time() + 1.2
            if asyncio.get_running_loop().time() < self.until:
                raise ConnectionError("the database is away")
            await super().write(key, text)

    edge = Away(router)
    assert (await run_step(spec_of({}), run_of(), edge)).state == "success"
    assert len(sim.calls()) == 1


async def test_an_answer_that_was_cut_off_is_told_in_the_log(sim, router):
    edge = Edge(router)
    assert (await run_step(spec_of({"llm": {"max_tokens": 1}}), run_of(), edge)).state == "success"
    assert any("cut off at max_tokens" in line for _, line in edge.lines)
