"""An offline LLM server that speaks OpenAI Chat Completions and Anthropic Messages, with faults on request.

The demo runs it in place of the providers (``python -m cognitionos_provider.simulator``); tests run it in a
thread and talk to it over the wire::

    with SimulatorServer() as sim:
        sim.configure(match={"model": "gpt-4"}, status=429, retry_after=2, times=1)
        client = openai.AsyncOpenAI(base_url=sim.openai_base_url, api_key="any")

Every answer says that it is simulated (``[simulated openai:gpt-4] ...``, header ``x-simulated: true``).
"""

from __future__ import annotations

from cognitionos_provider.simulator.server import SimulatorServer

__all__ = ["SimulatorServer"]
