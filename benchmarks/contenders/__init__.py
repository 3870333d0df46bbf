"""What the benchmark compares, and the one process that each of them is measured in.

A contender is a module with ``create(variant)``, which returns a
:class:`~benchmarks.contenders.contender.Contender`. Its worker (``python -m benchmarks.contenders.worker MODULE
VARIANT``) runs in its own interpreter, so nothing at module level here or there may import more than the standard
library.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CONTENDERS", "Entry"]


@dataclass(frozen=True)
class Entry:
    """A contender as the benchmark lists it.

    ``environment`` is ``project`` for this interpreter, or ``litellm`` for the one that the benchmark makes.
    ``baseline`` is the one that overheads are told over. A variant that differs only after a failure is left
    out of overhead and memory. ``retries_first`` says that it asks a failed primary again, with waits, before
    it falls back: it is then measured beside others, since nearly all of its time is waiting.
    """

    name: str
    module: str
    variant: str = "plain"
    environment: str = "project"
    baseline: bool = False
    falls_back: bool = True
    overhead_and_memory: bool = True
    retries_first: bool = False


CONTENDERS = (
    Entry("openai SDK, bare call", "openai_sdk", baseline=True, falls_back=False),
    Entry("CognitionOS router", "cognitionos"),
    Entry("CognitionOS router, intent and journal", "cognitionos", variant="journal", falls_back=False),
    Entry("pydantic-ai FallbackModel", "pydantic_ai"),
    Entry("LiteLLM Router", "litellm_router", variant="defaults", environment="litellm", retries_first=True),
    Entry(
        "LiteLLM Router, tuned",
        "litellm_router",
        variant="tuned",
        environment="litellm",
        overhead_and_memory=False,
    ),
)
