"""Whether accounts work, as Airflow's connection form and command line ask: of synchronous code, in any process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from cognitionos_provider.llm import Connection, ProviderHealth
from cognitionos_provider.llm.client import Client
from cognitionos_provider.llm.health import check

__all__ = ["try_connections"]

_ANSWER_SECONDS = 5.0
# For importing an SDK beforehand, which takes seconds the first time in a process.
_LOAD_SECONDS = 30.0


def try_connections(connections: Sequence[Connection]) -> tuple[bool, str]:
    """Ask each provider for its models, all at once; True if none has refused.

    An answer is waited for 5 s. The text may quote what a library's error says.
    """
    clients = [Client(each, max_connections=1) for each in connections]
    asked = [_ask(client) for client in clients]
    found = [_finding(client, future) for client, future in zip(clients, asked, strict=True)]
    text = "; ".join(
        f"{client.connection.provider}: {said}" for client, (_, said) in zip(clients, found, strict=True)
    )
    return all(good for good, _ in found), text


def _ask(client: Client) -> Future[ProviderHealth | None]:
    """Ask in a thread, which has no event loop yet; None where the client can't be used."""
    future: Future[ProviderHealth | None] = Future()

    async def ask() -> None:
        # Told at once: the end of the loop waits for a look-up of a name that hangs.
        future.set_result(await check(client, _ANSWER_SECONDS))
        await client.aclose()

    def run() -> None:
        try:
            client.connect()
            if client.closed_to is None:
                asyncio.run(ask())
            else:
                future.set_result(None)
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            if not future.done():
                future.set_exception(error)

    # A daemon must not hold up the end of the process.
    threading.Thread(target=run, name="trial of an LLM connection", daemon=True).start()
    return future


def _finding(client: Client, future: Future[ProviderHealth | None]) -> tuple[bool, str]:
    try:
        health = future.result(_LOAD_SECONDS + _ANSWER_SECONDS)
    except TimeoutError:
        return False, f"its SDK was not loaded within {_LOAD_SECONDS:g} s on this machine; try again"
    if health is None:
        return False, client.closed_to or "it can't be used"
    if health.error is None:
        if health.authorised:
            return True, f"the key is accepted, {health.latency_ms} ms"
        return True, "the client is ready; the key was not tried, since there is no call that costs nothing"
    if health.authorised is False:
        return False, f"{health.error}; set another one on the connection"
    where = "and the way there from this machine" if not health.reachable else "which must be that of an API"
    return False, f"{health.error}; check the base URL, {where}"
