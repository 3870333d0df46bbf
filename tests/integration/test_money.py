"""What is paid, and that it is paid once: against real Airflow processes that are killed in the middle."""

import json
import random
import signal
import sys
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal

import psutil
import pytest
from sqlalchemy import create_engine, text

from cognitionos_provider.llm.journal import JOURNAL_KEY_PREFIX, read_history
from cognitionos_provider.llm.pricing import price
from cognitionos_provider.llm.request import Usage

pytestmark = pytest.mark.integration

GPT, CLAUDE = "openai:gpt-4", "anthropic:claude-3-haiku-20240307"


def kill_triggerer(client):
    """SIGKILL the triggerer with its children; supervisord starts another one."""
    parent = psutil.Process(client.stack.pid("triggerer"))
    for process in [*parent.children(recursive=True), parent]:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs([parent], timeout=10)


def bill(call):
    """What the provider charges for a call, in USD: whoever got the answer."""
    if call["billed"] is None:
        return Decimal(0)
    tokens = call["billed"]["input_tokens"], call["billed"]["output_tokens"]
    usage = Usage(prompt_tokens=tokens[0], completion_tokens=tokens[1], total_tokens=sum(tokens))
    return price(call["provider"], call["model"], usage)


def ledger_of(execution):
    return [attempt for step in execution["steps"] for attempt in step["attempts"]]


def journals(client, dag_id):
    """Each row of a workflow's journals: its run, its text and when it was written."""
    engine = create_engine(client.stack.settings.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
    query = text(
        "SELECT run_id, value, timestamp FROM xcom WHERE dag_id = :dag AND key LIKE :prefix ORDER BY key"
    )
    with engine.connect() as connection:
        rows = connection.execute(query, {"dag": dag_id, "prefix": f"{JOURNAL_KEY_PREFIX}%"}).all()
    engine.dispose()
    return [
        (run, json.loads(value) if value.startswith('"') else value, _seconds(at)) for run, value, at in rows
    ]


def test_answers_that_came_before_the_triggerer_was_killed_are_not_asked_for_again(sim):
    sim.rules({"match": {"contains": "item slow"}, "latency": 60, "times": 1})
    items = [*(f"quick-{n}" for n in range(20)), "slow"]
    step = {
        "step_id": "each",
        "for_each": "inputs.items",
        "llm": {"models": [GPT], "prompt": "item {{ item }}"},
        "max_concurrency": 30,
    }
    # Steps whose answers have come, and whose tasks may not have ended: the triggerer's loop takes a second.
    beside = [
        {"step_id": f"beside-{n}", "llm": {"models": [GPT], "prompt": f"beside {n}"}} for n in range(10)
    ]
    sim.post("killed-after-answers", step, *beside)
    execution_id = sim.execute("killed-after-answers", {"items": items})

    def answered():
        steps = sim.status(execution_id)["steps"]
        return {s["step_id"]: sum(one["outcome"] == "ok" for one in s["attempts"]) for s in steps}

    sim.until(answered, lambda found: found["each"] == 20 and any(found[f"beside-{n}"] for n in range(10)))
    kill_triggerer(sim)
    at_death = answered()
    before = Counter(call["question"].split("\n")[0] for call in sim.calls())
    assert at_death["each"] == 20
    execution = sim.ended(execution_id, timeout=120)
    assert execution["status"] == "completed"
    after = Counter(call["question"].split("\n")[0] for call in sim.calls())
    paid = {f"item quick-{n}" for n in range(20)} | {
        f"beside {n}" for n in range(10) if at_death[f"beside-{n}"]
    }
    assert {question: after[question] for question in paid} == dict.fromkeys(paid, 1)
    assert (before["item slow"], after["item slow"]) == (1, 2)
    lost = [attempt for attempt in ledger_of(execution) if attempt["possibly_billed"]]
    assert "item slow" in {
        call["question"] for call in sim.calls() for one in lost if call["client_id"] == one["call_id"]
    }
    log = sim.task_log(execution["dag_id"], execution["dag_run_id"], "each")
    assert any("journal: nothing was paid" in str(line.get("event")) for line in log)


def test_a_rerun_of_a_run_pays_for_nothing_that_was_answered(sim):
    sim.rules({"match": {"contains": "item 7"}, "status": 400, "times": 1})
    step = {
        "step_id": "each",
        "for_each": "inputs.items",
        "llm": {"models": [GPT], "prompt": "item {{ item }}"},
    }
    execution = sim.run("rerun", step, inputs={"items": list(range(10))})
    assert execution["status"] == "failed"
    assert len(sim.calls()) == 10
    path = f"/api/v2/dags/{execution['dag_id']}"
    body = {"dag_run_id": execution["dag_run_id"], "only_failed": True, "dry_run": False}
    assert sim.airflow.post(f"{path}/clearTaskInstances", json=body).status_code == 200
    again = sim.ended(execution["execution_id"])
    assert again["status"] == "completed"
    assert len(sim.calls()) == 11
    assert Decimal(str(again["cost_usd"])) == sum(map(bill, sim.calls()))


def test_parallel_steps_can_not_overspend_the_budget_of_their_run(sim):
    # At most $0.12 a call by its bound, $0.066 by its bill: the cap is good for about twenty.
    sim.rules({"usage": {"input_tokens": 400, "output_tokens": 900}, "latency": 0.5})
    cap = Decimal("1.35")
    steps = [
        {
            "step_id": f"s{n}",
            "llm": {"models": [GPT], "prompt": "Tell.", "max_tokens": 1000},
            "retry": {"max_attempts": 5},
        }
        for n in range(50)
    ]
    execution = sim.run("budget", *steps, budget_usd=float(cap))
    assert execution["status"] == "failed"
    paid = [step for step in execution["steps"] if step["status"] == "completed"]
    refused = [step for step in execution["steps"] if step["status"] == "failed"]
    billed = sum(map(bill, sim.calls()))
    assert cap - Decimal("0.12") < billed <= cap
    assert len(paid) == len(sim.calls()) == billed / Decimal("0.066")
    assert 15 <= len(paid) <= 20
    assert len(paid) + len(refused) == 50
    for step in refused:
        assert step["error"].startswith("The run's budget of $1.35")
        assert [attempt["outcome"] for attempt in step["attempts"]] == ["skipped"]
        assert [attempt["error_class"] for attempt in step["attempts"]] == ["budget"]
    assert "budget of $1.35" in execution["error"]
    assert Decimal(str(execution["cost_usd"])) == billed


@pytest.mark.parametrize(
    ("runs", "items", "kills"),
    [(4, 50, 1), pytest.param(20, 100, 8, marks=pytest.mark.long)],
    ids=["short", "long"],
)
def test_what_was_billed_and_is_not_in_the_ledger_is_on_the_list_of_what_may_have_been(
    sim, runs, items, kills, request, capsys
):
    seed = random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)  # noqa: S311 - so that a round can be repeated
    faults = [
        {"status": 500},
        {"status": 429, "retry_after": 0.3},
        {"drop": "before"},
        {"drop": "headers"},
        {"drop": "body"},
        {"slow_body": 2},
        {"latency": 3},
        {"answer": ""},
    ]
    total = runs * items
    # Each hits one call, somewhere among the next ones.
    rules = [
        {"match": {}, "skip": chance.randrange(total), "times": 1, **chance.choice(faults)}
        for _ in range(total // 10)
    ]
    sim.rules({"match": {"path": "/v1/models"}}, *rules, {"latency": 0.2})
    step = {
        "step_id": "each",
        "for_each": "inputs.items",
        "llm": {"models": [GPT, CLAUDE], "prompt": "item {{ item }}", "max_tokens": 100},
        "max_concurrency": 25,
        "retry": {"max_attempts": 6, "backoff_seconds": 0.1, "max_backoff_seconds": 2},
    }
    name = f"chaos-{request.node.callspec.id}"
    sim.post(name, step)
    killed = 0
    executions = [sim.execute(name, {"items": [f"{run}/{n}" for n in range(items)]}) for run in range(runs)]
    while killed < kills:
        # In the middle of what runs.
        seen = len(sim.calls())
        sim.until(lambda: len(sim.calls()), lambda now, seen=seen: now > seen + chance.randrange(items), 120)
        kill_triggerer(sim)
        killed += 1
    ended = [sim.ended(execution_id, timeout=600) for execution_id in executions]
    sim.until(lambda: sim.simulator.get("/control/stats").json(), lambda stats: stats["in_flight"] == 0)
    assert [execution["status"] for execution in ended] == ["completed"] * runs, f"seed {seed}"

    calls = {call["client_id"]: call for call in sim.calls()}
    ledger = {
        attempt["call_id"]: attempt for one in ended for attempt in ledger_of(one) if attempt["call_id"]
    }
    paid = {call_id for call_id, attempt in ledger.items() if attempt["cost_usd"] is not None}
    listed = {call_id for call_id, attempt in ledger.items() if attempt["possibly_billed"]}
    assert set(calls) <= set(ledger), f"seed {seed}"
    assert not paid & listed
    billed = sum(map(bill, calls.values()))
    in_ledger = sum(Decimal(str(ledger[call_id]["cost_usd"])) for call_id in paid)
    on_the_list = sum(bill(calls[call_id]) for call_id in listed if call_id in calls)
    assert billed - in_ledger == on_the_list, f"seed {seed}"
    # No answer that is in a journal was asked for again.
    answers = Counter()
    for one in ended:
        assert len(one["outputs"]["each"]) == items
    lags = []
    for run, value, at in journals(sim, ended[0]["dag_id"]):
        for entry in read_history([value]).answers.values():
            answers[run, entry.item, entry.request] += 1
            lags.append(at - entry.at)
    assert set(answers.values()) == {1}, f"seed {seed}"
    assert len(answers) == total
    lags.sort()
    report = {
        "calls": len(calls),
        "billed": str(billed),
        "possibly_billed": len(listed),
        "on_the_list": str(on_the_list),
        "journal_median_ms": round(lags[len(lags) // 2] * 1000, 1),
        "journal_p99_ms": round(lags[int(len(lags) * 0.99)] * 1000, 1),
    }
    # The figures that docs/llm.md quotes.
    with capsys.disabled():
        sys.stdout.write(f"\n{json.dumps({'seed': seed, **report})}\n")


def _seconds(at):
    if isinstance(at, str):
        at = datetime.fromisoformat(at)
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return at.timestamp()
