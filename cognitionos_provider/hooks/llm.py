"""Gives operators and triggers an LLM router over Airflow connections and what the environment adds to them."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from airflow.sdk import BaseHook, conf
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import amask_secret
from airflow.sdk.log import mask_secret as mask_in_airflow

from cognitionos_provider.config import get_llm_config, get_redis_url_for_steps
from cognitionos_provider.exceptions import CognitionOSError, ConfigurationError
from cognitionos_provider.hooks.connection import (
    CONN_TYPE,
    AirflowConnection,
    join_environment,
    read_accounts,
    secrets_of,
)
from cognitionos_provider.hooks.trial import try_connections
from cognitionos_provider.llm import Connection, LLMRequest, LLMResponse, LLMRouter, Price, ProviderHealth
from cognitionos_provider.llm.shared import SharedState
from cognitionos_provider.observability import get_trace_id, mask_secret
from cognitionos_provider.observability.redaction import redact

__all__ = ["LLMHook"]

CONNECTION_TTL = 30.0
"""Seconds for which a connection that was read is believed: hundreds of steps start in the same second."""

RETIREMENT = 60.0
"""Seconds that a router whose settings have changed is kept for steps that were just given it."""


def _is_not_of_a_step(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or get_trace_id() is None


@dataclass(frozen=True)
class _Settings:
    """All that a router is made of. Equal settings share a router, and with it its HTTP clients."""

    connections: tuple[Connection, ...]
    default_models: tuple[str, ...]
    timeout_seconds: float
    tries_per_model: int
    prices: Mapping[str, Price]
    redis_url: str | None = field(repr=False)

    @classmethod
    def of(cls, connections: Sequence[Connection]) -> _Settings:
        llm = get_llm_config()
        return cls(
            connections=join_environment(connections, llm),
            default_models=llm.default_models,
            timeout_seconds=llm.timeout,
            tries_per_model=llm.max_retries,
            prices={
                name: Price(input=price.input, output=price.output) for name, price in llm.prices.items()
            },
            redis_url=get_redis_url_for_steps(),
        )


class _Router(LLMRouter):
    """A router that counts its calls, so that it is not closed under them."""

    _frozen = False

    def __init__(self, settings: _Settings) -> None:
        super().__init__(
            settings.connections,
            default_models=settings.default_models,
            timeout_seconds=settings.timeout_seconds,
            tries_per_model=settings.tries_per_model,
            prices=settings.prices,
            shared=None if settings.redis_url is None else SharedState(settings.redis_url),
        )
        self.calls = 0

    async def _connect(self, names: Sequence[str]) -> None:
        await super()._connect(names)
        if not _Router._frozen:
            _Router._frozen = True
            # Hundreds of thousands of objects of Airflow and the SDKs live as long as the process. A full collection
            # that looks at each of them holds the triggerer's loop for 0.15 to 0.45 s (measured; 0.014 s without).
            gc.freeze()

    async def generate(self, request: LLMRequest, **given: Any) -> LLMResponse:
        self.calls += 1
        try:
            return await super().generate(request, **given)
        finally:
            self.calls -= 1


@dataclass
class _Routers:
    """The routers of one event loop: those in use, and those of settings that have changed."""

    current: list[tuple[_Settings, _Router]] = field(default_factory=list)
    leaving: dict[_Router, asyncio.Task[None]] = field(default_factory=dict)

    def router(self, settings: _Settings, others: Sequence[_Settings]) -> _Router:
        """Find the router of ``settings`` or make it; one that neither these nor ``others`` name has to leave."""
        for own, router in self.current:
            if own is settings or own == settings:
                return router
        for own, router in self.current.copy():
            if own not in others:
                self.current.remove((own, router))
                self.leaving[router] = asyncio.create_task(self._leave(router))
        made = _Router(settings)
        self.current.append((settings, made))
        return made

    async def _leave(self, router: _Router) -> None:
        while True:
            await asyncio.sleep(RETIREMENT)
            if not router.calls:
                break
        await router.aclose()
        del self.leaving[router]

    async def aclose(self) -> None:
        for task in self.leaving.values():
            task.cancel()
        for router in [*self.leaving, *(router for _, router in self.current)]:
            await router.aclose()


class LLMHook(BaseHook):
    """A hook to language models, with fallback from one account or provider to the next.

    The router's connections are, in this order: the hook's own; those that it names as its fallbacks, then those
    that these name, each once; and the environment's (``LLM_*``), one for each provider that none of them serves.
    What a connection leaves out, its key for example, is taken from the environment where that has it. Where there
    is no connection at all, the environment serves alone. See ``hooks/connection.py`` for the fields of one.

    :param llm_conn_id: id of a connection of type ``cognitionos_llm``; default: ``[cognitionos] llm_conn_id``.
    """

    conn_name_attr = "llm_conn_id"
    default_conn_name = "cognitionos_llm_default"
    conn_type = CONN_TYPE
    hook_name = "CognitionOS LLM"

    # One router for all steps of a process and event loop: its pooled connections are what makes many calls cheap.
    _routers: ClassVar[dict[asyncio.AbstractEventLoop, _Routers]] = {}
    _read: ClassVar[dict[str, tuple[float, _Settings]]] = {}
    _reading: ClassVar[dict[tuple[asyncio.AbstractEventLoop, str], asyncio.Task[_Settings]]] = {}

    def __init__(self, llm_conn_id: str | None = None) -> None:
        super().__init__()
        self.llm_conn_id = llm_conn_id or conf.get(
            "cognitionos", "llm_conn_id", fallback=self.default_conn_name
        )

    async def aget_router(self) -> LLMRouter:
        """Return the router of this process and event loop, made at the first call.

        Raises :class:`ConfigurationError` that names the connection or variable that is wrong.
        """
        settings = await self._asettings()
        loop = asyncio.get_running_loop()
        if loop not in self._routers:
            for closed in [other for other in list(self._routers) if other.is_closed()]:
                del self._routers[closed]
            # The HTTP client's line for each request shows its address, which may hold a secret, and the step's
            # own log says who is asked. A filter is added once, however often.
            logging.getLogger("httpx2").addFilter(_is_not_of_a_step)
            self._routers[loop] = _Routers()
        return self._routers[loop].router(settings, [read for _, read in list(self._read.values())])

    async def agenerate(self, request: LLMRequest) -> LLMResponse:
        """Ask the models; see :meth:`LLMRouter.generate` for what it raises."""
        return await (await self.aget_router()).generate(request)

    def generate(self, request: LLMRequest) -> LLMResponse:
        """Ask the models from code that is not asynchronous, such as a PythonOperator's.

        Each call opens a router of its own and closes it; for many calls, use :meth:`agenerate`.
        """

        async def call() -> LLMResponse:
            try:
                return await self.agenerate(request)
            finally:
                await self.aclose()

        return asyncio.run(call())

    async def health_check_all(self) -> dict[str, ProviderHealth]:
        """Ask each connection that has a key for its models, which costs nothing; within 5 s."""
        return await (await self.aget_router()).health_check_all()

    def test_connection(self) -> tuple[bool, str]:
        """Ask the provider of this connection, and of none of its fallbacks, for its models; costs nothing.

        For Airflow's form and its command ``airflow connections test``. Never raises, and shows no key.
        """
        try:
            given: AirflowConnection = self.get_connection(self.llm_conn_id)
            own = read_accounts(given).connections
            connections = join_environment(own, get_llm_config())[: len(own)]
            for secret in secrets_of(connections):
                mask_secret(secret)
                mask_in_airflow(secret)
            good, text = try_connections(connections)
        except (CognitionOSError, AirflowNotFoundException) as error:
            good, text = False, str(error)
        except Exception as error:  # noqa: BLE001 - whatever a library raises; its text may quote a secret
            good, text = False, f"The connection can't be tested: {type(error).__name__}"
        return good, redact(text)

    async def aclose(self) -> None:
        """Close the routers of this event loop, which is about to end."""
        routers = self._routers.pop(asyncio.get_running_loop(), None)
        if routers is not None:
            await routers.aclose()

    async def _asettings(self) -> _Settings:
        known = self._read.get(self.llm_conn_id)
        if known is not None and time.monotonic() - known[0] <= CONNECTION_TTL:
            return known[1]
        # Of the many steps that start together, one reads; it is not to be cancelled with the step that began.
        key = (asyncio.get_running_loop(), self.llm_conn_id)
        if key not in self._reading:
            self._reading[key] = asyncio.create_task(self._read_settings())
            self._reading[key].add_done_callback(lambda _: self._reading.pop(key))
        return await asyncio.shield(self._reading[key])

    async def _read_settings(self) -> _Settings:
        settings = _Settings.of(await self._read_connections())
        secrets = list(secrets_of(settings.connections))
        if settings.redis_url is not None and (password := urlsplit(settings.redis_url).password):
            secrets += [password, unquote(password)]
        for secret in secrets:
            mask_secret(secret)
            # Airflow writes the task's log itself.
            await amask_secret(secret)
        self._read[self.llm_conn_id] = (time.monotonic(), settings)
        return settings

    async def _read_connections(self) -> list[Connection]:
        found: list[Connection] = []
        # Each connection id with the one that named it; breadth first, so that a list of fallbacks stays together.
        waiting: deque[tuple[str, str | None]] = deque([(self.llm_conn_id, None)])
        seen: set[str] = set()
        while waiting:
            conn_id, named_by = waiting.popleft()
            if conn_id in seen:
                continue
            seen.add(conn_id)
            try:
                accounts = read_accounts(await self.aget_connection(conn_id))
            except AirflowNotFoundException:
                if named_by is None:
                    continue
                raise ConfigurationError(
                    f"Connection {named_by!r} has {conn_id!r} among its fallback_conn_ids, and there is no such "
                    "connection: create it, or take it out there"
                ) from None
            found += accounts.connections
            waiting += [(fallback, conn_id) for fallback in accounts.fallback_conn_ids]
        return found
