"""The supervisor's channel as a dictionary: what Airflow's processes do with it is shown by tests/integration."""

import json

import pytest
from airflow.sdk.exceptions import ErrorType
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import (
    ConnectionResult,
    ErrorResponse,
    OKResponse,
    TaskStatesResult,
    XComResult,
)

from cognitionos_provider.config import get_llm_config, get_redis_url_for_steps
from cognitionos_provider.hooks.llm import LLMHook
from cognitionos_provider.simulator import SimulatorServer


class Channel:
    def __init__(self):
        self.xcoms = {}
        self.connections = {}
        self.asked = []
        self.masked = []
        self.states = {}

    def send(self, msg):
        self.asked.append(msg.type)
        if msg.type == "GetXCom":
            return XComResult(key=msg.key, value=self.xcoms.get((msg.task_id, msg.key)))
        if msg.type == "SetXCom":
            self.xcoms[msg.task_id, msg.key] = msg.value
            return OKResponse(ok=True)
        if msg.type == "GetConnection":
            if msg.conn_id in self.connections:
                fields = dict.fromkeys(("host", "schema", "login", "password", "port", "extra"))
                given = self.connections[msg.conn_id]
                # A text is an extra, and so is a dictionary below that name.
                fields |= {"extra": given} if isinstance(given, str) else given
                if isinstance(fields["extra"], dict):
                    fields["extra"] = json.dumps(fields["extra"])
                return ConnectionResult(**{"conn_id": msg.conn_id, "conn_type": "cognitionos_llm", **fields})
            return ErrorResponse(error=ErrorType.CONNECTION_NOT_FOUND)
        if msg.type == "GetTaskStates":
            return TaskStatesResult(task_states=dict.fromkeys(msg.run_ids, self.states))
        if msg.type == "MaskSecret":
            self.masked.append(msg.value)
            return None
        raise AssertionError(f"the triggerer does not serve {msg.type}")

    async def asend(self, msg):
        return self.send(msg)


@pytest.fixture
def channel(monkeypatch):
    made = Channel()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", made, raising=False)
    return made


@pytest.fixture(scope="session")
def server():
    with SimulatorServer() as made:
        yield made


@pytest.fixture
def sim(server, monkeypatch):
    server.reset()
    monkeypatch.setenv("LLM_OPENAI_API_KEY", "sk-from-the-environment")
    monkeypatch.setenv("LLM_ANTHROPIC_API_KEY", "sk-ant-from-the-environment")
    monkeypatch.setenv("LLM_OPENAI_BASE_URL", server.openai_base_url)
    monkeypatch.setenv("LLM_ANTHROPIC_BASE_URL", server.anthropic_base_url)
    # One call a candidate and pass: what the tries within a pass do is shown by tests/llm.
    monkeypatch.setenv("LLM_MAX_RETRIES", "1")
    get_llm_config.cache_clear()
    get_redis_url_for_steps.cache_clear()
    monkeypatch.setattr(LLMHook, "_routers", {})
    monkeypatch.setattr(LLMHook, "_read", {})
    monkeypatch.setattr(LLMHook, "_reading", {})
    yield server
    get_llm_config.cache_clear()
    get_redis_url_for_steps.cache_clear()
