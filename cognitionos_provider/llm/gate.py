"""The gate before one model in one process: whose turn it is, how many calls are in flight, what the rates allow."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from cognitionos_provider.llm.rates import Rates

__all__ = ["Gate"]


class Gate:
    """What ``limits.py`` lets calls through, one at a time; it bounds and counts, and knows no Redis.

    Groups have the turn round robin, and the calls of a group in the order they came.

    ``asleep_until`` is when the slot comes that the holder of the turn waits for; ``obstacle`` names what a
    waiting call waits for.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.rates = Rates()
        self.asleep_until = float("-inf")
        self.obstacle = ""
        self._taken = False
        self._holder = ""
        self._freed: asyncio.Future[None] | None = None
        # The group that is next comes first; a group without a waiting call is not there.
        self._groups: OrderedDict[str, OrderedDict[asyncio.Future[None], None]] = OrderedDict()

    async def turn(self, group: str, seconds: float) -> None:
        """Wait for the turn; raises TimeoutError. Whoever gets it must :meth:`pass_on`."""
        if not self._taken:
            self._taken, self._holder = True, group
            return
        called = asyncio.get_running_loop().create_future()
        waiting = self._groups.setdefault(group, OrderedDict())
        waiting[called] = None
        try:
            async with asyncio.timeout(seconds):
                await called
        except BaseException:
            if called.done() and not called.cancelled():
                self.pass_on()
            elif called in waiting:
                del waiting[called]
                if not waiting:
                    del self._groups[group]
            raise

    def pass_on(self) -> None:
        """Give the turn to the next group's first call."""
        self.asleep_until = float("-inf")
        if self._holder in self._groups:
            self._groups.move_to_end(self._holder)
        while self._groups:
            group, waiting = next(iter(self._groups.items()))
            called, _ = waiting.popitem(last=False)
            if not waiting:
                del self._groups[group]
            if not called.done():
                called.set_result(None)
                self._holder = group
                return
        self._taken = False

    async def place(self, capacity: int, seconds: float) -> None:
        """Wait until fewer than ``capacity`` calls are in flight; raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while self.in_flight >= capacity:
                self._freed = asyncio.get_running_loop().create_future()
                await self._freed

    def leave(self) -> None:
        """Free a place."""
        self.in_flight -= 1
        if self._freed is not None and not self._freed.done():
            self._freed.set_result(None)

    def idle(self, now: float) -> bool:
        """Whether it may be forgotten."""
        return not self._taken and self.in_flight == 0 and max(self.rates.due) <= now
