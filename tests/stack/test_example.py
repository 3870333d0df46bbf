"""The demo's table, and its talk with the facade."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from cognitionos_provider.definitions import Workflow
from stack.errors import StackError
from stack.example import DEFINITION, INPUTS, run_example, summary, table

USAGE = {"prompt_tokens": 100, "completion_tokens": 25, "total_tokens": 125}
COMPLETED = {
    "step_id": "extract",
    "status": "completed",
    "started_at": "2026-02-14T05:00:00.100000Z",
    "completed_at": "2026-02-14T05:00:02.350000Z",
    "provider": "openai",
    "model": "gpt-4",
    "cost_usd": 0.0000246,
    "usage": USAGE,
    "error": None,
    "attempts": [],
}
NEVER_RUN = {"step_id": "load", "status": "skipped", "started_at": None, "error": "Not run: step 'x' failed"}
EXECUTION = {
    "execution_id": "e1",
    "workflow_id": "data-pipeline",
    "workflow_version": "1.0.0",
    "status": "completed",
    "started_at": "2026-02-14T05:00:00Z",
    "completed_at": "2026-02-14T05:00:03Z",
    "cost_usd": 0.0000246,
    "unpriced_calls": 0,
    "steps": [COMPLETED],
}


@pytest.fixture
def facade():
    """A server that answers with what the test puts into ``answers``, and keeps what it was sent."""
    answers, received = [], []

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            length = int(self.headers.get("Content-Length", 0))
            received.append((self.command, self.path, json.loads(self.rfile.read(length) or "null")))
            status, body = answers.pop(0)
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = answer  # noqa: N815 - http.server's names

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}", trust_env=False) as client:
            yield client, answers, received
        server.shutdown()


def test_the_table_has_a_line_per_step_in_the_order_they_ran():
    later = {**COMPLETED, "step_id": "a-later-one", "started_at": "2026-02-14T05:00:02.400000Z"}
    lines = table({**EXECUTION, "steps": [NEVER_RUN, later, COMPLETED]}).splitlines()
    assert lines[0].split() == ["step", "status", "provider", "model", "tokens", "cost", "seconds"]
    assert [line.split()[0] for line in lines[2:5]] == ["extract", "a-later-one", "load"]
    assert lines[2].split() == ["extract", "completed", "openai", "gpt-4", "125", "0.000025", "2.2"]
    assert lines[4].split() == ["load", "skipped", "-", "-", "-", "-", "-"]
    assert lines[5] == "load: Not run: step 'x' failed"


def test_numbers_are_aligned_to_the_right():
    big = {**COMPLETED, "step_id": "second", "usage": {**USAGE, "total_tokens": 1234567}}
    lines = table({**EXECUTION, "steps": [COMPLETED, big]}).splitlines()
    assert lines[2].index("125") + 3 == lines[3].index("1234567") + 7


def test_a_step_that_no_model_answered_shows_the_last_one_that_was_asked():
    asked = [{"provider": "openai", "model": "gpt-4"}, {"provider": "anthropic", "model": "claude-3"}]
    failed = {**COMPLETED, "status": "failed", "provider": None, "model": None, "attempts": asked}
    assert table({**EXECUTION, "steps": [failed]}).splitlines()[2].split()[2:4] == ["anthropic", "claude-3"]


def test_an_unknown_price_is_not_zero():
    assert table({**EXECUTION, "steps": [{**COMPLETED, "cost_usd": None}]}).splitlines()[2].split()[5] == "-"
    assert "and 2 calls of unknown price" in summary({**EXECUTION, "unpriced_calls": 2})


def test_the_summary_says_how_it_ended_how_long_it_took_and_what_it_cost():
    assert summary(EXECUTION) == "Run of data-pipeline 1.0.0: completed in 3.0 s for 0.000025 USD"


def test_the_example_is_a_valid_workflow_and_is_executed_until_its_end(facade):
    client, answers, received = facade
    running = {**EXECUTION, "status": "running"}
    answers += [(200, {}), (202, {**EXECUTION, "status": "pending"}), (200, running), (200, EXECUTION)]
    assert run_example(client) == EXECUTION
    posted, order, *looks = received
    Workflow.model_validate(posted[2])
    assert posted == ("POST", "/api/v3/workflows", DEFINITION)
    assert order[2] == {"workflow_id": "data-pipeline", "workflow_version": "1.0.0", "inputs": INPUTS}
    assert looks == [("GET", "/api/v3/workflows/executions/e1", None)] * 2


def test_a_refusal_is_shown_as_the_facade_says_it(facade):
    client, answers, _ = facade
    answers.append((409, {"detail": "Version 1.0.0 has other content"}))
    with pytest.raises(StackError, match=r"409 to POST /api/v3/workflows: .*has other content"):
        run_example(client)


def test_an_execution_that_does_not_end_is_told_with_its_address(facade):
    client, answers, _ = facade
    answers += [(200, {}), (202, {**EXECUTION, "status": "running"})]
    with pytest.raises(StackError, match=r"still running after 0 s; see http://.*/executions/e1"):
        run_example(client, timeout=0)


def test_a_facade_that_is_gone_is_told():
    gone = httpx.Client(base_url="http://127.0.0.1:1", trust_env=False)
    with gone, pytest.raises(StackError, match=r"127\.0\.0\.1:1.* does not answer"):
        run_example(gone)
