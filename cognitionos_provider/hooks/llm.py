"""Gives operators and triggers an LLM router with the keys of an Airflow connection or the environment."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any, ClassVar

from airflow.sdk import BaseHook, conf
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import amask_secret
from pydantic import SecretStr

from cognitionos_provider.config import get_llm_config
from cognitionos_provider.llm import LLMRouter, create_llm_router
from cognitionos_provider.observability import get_trace_id, mask_secret

__all__ = ["LLMHook"]

CONNECTION_TTL = 30.0
"""Seconds for which a connection that was read is believed: hundreds of steps start in the same second."""


def _is_not_of_a_step(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or get_trace_id() is None


@dataclass(frozen=True, slots=True)
class _Settings:
    """All that a router is made of. Routers of equal settings are one router, and share its HTTP clients."""

    openai_api_key: str | None
    anthropic_api_key: str | None
    openai_base_url: str | None
    anthropic_base_url: str | None
    default_models: tuple[str, ...]
    timeout_seconds: float
    tries_per_model: int

    def __repr__(self) -> str:
        return f"_Settings(default_models={self.default_models})"

    def router(self) -> LLMRouter:
        # The HTTP client's line for each request shows its address, which may hold a secret, and the step's own log
        # says who is asked. A filter is added once, however often.
        logging.getLogger("httpx2").addFilter(_is_not_of_a_step)
        return create_llm_router(
            self.openai_api_key,
            self.anthropic_api_key,
            openai_base_url=self.openai_base_url,
            anthropic_base_url=self.anthropic_base_url,
            default_models=self.default_models,
            timeout_seconds=self.timeout_seconds,
            tries_per_model=self.tries_per_model,
        )


class LLMHook(BaseHook):
    """A hook to language models, with fallback from one provider to the next.

    Keys and base URLs come from the connection where it exists, field by field from the ``LLM_*`` environment
    variables otherwise. The connection holds them in its extra: ``openai_api_key``, ``anthropic_api_key``,
    ``openai_base_url``, ``anthropic_base_url``.

    :param llm_conn_id: id of a connection of type ``cognitionos_llm``; default: ``[cognitionos] llm_conn_id``.
    """

    conn_name_attr = "llm_conn_id"
    default_conn_name = "cognitionos_llm_default"
    conn_type = "cognitionos_llm"
    hook_name = "CognitionOS LLM"

    # One router for all steps of a process and event loop: its pooled connections are what makes many calls cheap.
    _routers: ClassVar[dict[tuple[int, _Settings], LLMRouter]] = {}
    _read: ClassVar[dict[str, tuple[float, _Settings]]] = {}
    _reading: ClassVar[dict[tuple[int, str], asyncio.Task[_Settings]]] = {}

    def __init__(self, llm_conn_id: str | None = None) -> None:
        super().__init__()
        self.llm_conn_id = llm_conn_id or conf.get(
            "cognitionos", "llm_conn_id", fallback=self.default_conn_name
        )

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Hide the fields of the connection form that mean nothing here."""
        return {
            "hidden_fields": ["host", "schema", "login", "password", "port"],
            "relabeling": {},
            "placeholders": {
                "extra": '{"openai_api_key": "...", "anthropic_api_key": "...", "openai_base_url": "..."}'
            },
        }

    async def aget_router(self) -> LLMRouter:
        """Return the router of this process and event loop, made at the first call."""
        settings = await self._asettings()
        key = (id(asyncio.get_running_loop()), settings)
        if key not in self._routers:
            self._routers[key] = settings.router()
        return self._routers[key]

    async def aclose(self) -> None:
        """Close the routers of this event loop, which is about to end."""
        loop = id(asyncio.get_running_loop())
        for key in [key for key in self._routers if key[0] == loop]:
            await self._routers.pop(key).aclose()

    async def _asettings(self) -> _Settings:
        known = self._read.get(self.llm_conn_id)
        if known is not None and time.monotonic() - known[0] <= CONNECTION_TTL:
            return known[1]
        # Of the many steps that start together, one reads; it is not to be cancelled with the step that began.
        key = (id(asyncio.get_running_loop()), self.llm_conn_id)
        if key not in self._reading:
            self._reading[key] = asyncio.create_task(self._read_settings())
            self._reading[key].add_done_callback(lambda _: self._reading.pop(key))
        return await asyncio.shield(self._reading[key])

    async def _read_settings(self) -> _Settings:
        try:
            extra = (await self.aget_connection(self.llm_conn_id)).extra_dejson
        except AirflowNotFoundException:
            extra = {}
        settings = _settings(extra)
        for secret in (settings.openai_api_key, settings.anthropic_api_key):
            if secret is not None:
                mask_secret(secret)
                # Airflow masks a connection's extra as one text, and writes the task's log itself.
                await amask_secret(secret)
        self._read[self.llm_conn_id] = (time.monotonic(), settings)
        return settings


def _settings(extra: dict[str, Any]) -> _Settings:
    llm = get_llm_config()
    return _Settings(
        openai_api_key=extra.get("openai_api_key") or _secret(llm.openai_api_key),
        anthropic_api_key=extra.get("anthropic_api_key") or _secret(llm.anthropic_api_key),
        openai_base_url=extra.get("openai_base_url") or llm.openai_base_url,
        anthropic_base_url=extra.get("anthropic_base_url") or llm.anthropic_base_url,
        default_models=tuple(llm.default_models),
        timeout_seconds=llm.timeout,
        tries_per_model=llm.max_retries,
    )


def _secret(key: SecretStr | None) -> str | None:
    return None if key is None else key.get_secret_value()
