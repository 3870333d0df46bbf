"""Requests and tokens a minute, smoothed: in Python for one process, in Lua for all that share a Redis.

The rule is GCRA (generic cell rate algorithm, ITU-T I.371, annex A, as virtual scheduling): a rate earns allowance
at an even pace, a tenth of a minute's allowance may be spent at once, and a call that comes too early is told how
long to wait for the slot that it has booked. So an account may see up to 1.1 times its limit in the first minute
and not more than its limit in the long run. A call that takes more than a tenth passes alone.

Amounts are in seconds here: how long the rate takes to earn them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cognitionos_provider.llm.connection import Limits

__all__ = ["BOOK", "CORRECT", "NAMES", "Charge", "Cost", "Rates", "charge", "cost"]

NAMES = ("requests_per_minute", "tokens_per_minute")
"""The rates, in the order of everything in pairs here."""


class Cost(NamedTuple):
    """What a call takes of one rate, and how much of it may be spent at once; both 0 where there is no limit."""

    seconds: float
    burst: float


Charge = tuple[Cost, Cost]


def charge(limits: Limits, tokens: int) -> Charge | None:
    """Say what a call of so many tokens takes; None where no rate is limited."""
    if limits.requests_per_minute is None and limits.tokens_per_minute is None:
        return None
    return cost(limits.requests_per_minute, 1), cost(limits.tokens_per_minute, tokens)


def cost(limit: int | None, amount: int) -> Cost:
    """Turn an amount into seconds of a limit per minute."""
    if limit is None:
        return Cost(0.0, 0.0)
    return Cost(amount * 60 / limit, max(limit / 10, amount) * 60 / limit)


class Rates:
    """Two rates of one key, as this process knows them. The scripts below follow the same rules: change both.

    ``due`` is when each will have earned all that was spent (the algorithm's theoretical arrival time).
    """

    __slots__ = ("due",)

    def __init__(self) -> None:
        self.due = [float("-inf"), float("-inf")]

    def delays(self, now: float, charge: Charge) -> list[float]:
        """Tell how long a call would have to wait for each rate."""
        return [
            max(0.0, max(due, now) + seconds - burst - now) if seconds > 0 else 0.0
            for due, (seconds, burst) in zip(self.due, charge, strict=True)
        ]

    def book(self, now: float, charge: Charge, most: float) -> float | None:
        """Book the next slot and return the seconds until it; None, and nothing booked, if those are over ``most``."""
        delay = max(self.delays(now, charge))
        if delay > most:
            return None
        for rate, (seconds, _) in enumerate(charge):
            if seconds > 0:
                self.due[rate] = max(self.due[rate], now + delay) + seconds
        return delay

    def correct(self, now: float, requests: float, tokens: float) -> None:
        """Spend more, or less if negative."""
        for rate, seconds in enumerate((requests, tokens)):
            due = self.due[rate]
            self.due[rate] = (max(due, now) if seconds > 0 else due) + seconds

    def adopt(self, left: Sequence[bytes], now: float) -> None:
        """Become what Redis says; ``left`` are the seconds until each is due."""
        self.due = [now + float(seconds) for seconds in left]


# KEYS[1]: a hash of the two rates' `due`, in seconds of Redis' clock.
_BEGIN = """
local key, rates = KEYS[1], {'requests', 'tokens'}
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local due = redis.call('HMGET', key, rates[1], rates[2])
for i = 1, 2 do due[i] = tonumber(due[i]) or now end

local function text(seconds) return string.format('%.6f', seconds) end

local function spend(i, seconds)
  due[i] = due[i] + seconds
  redis.call('HSET', key, rates[i], text(due[i]))
  redis.call('EXPIRE', key, 60 + math.ceil(math.max(0, due[1] - now, due[2] - now)))
end
"""

BOOK = f"""{_BEGIN}
-- ARGV: seconds and burst of each rate, the longest delay. Answer: the delay ('' if too long), seconds until due.
local delay = 0
for i = 1, 2 do
  local seconds, burst = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  if seconds > 0 then delay = math.max(delay, math.max(due[i], now) + seconds - burst - now) end
end
local fits = delay <= tonumber(ARGV[5])
for i = 1, 2 do
  local seconds = tonumber(ARGV[2 * i - 1])
  if fits and seconds > 0 then
    due[i] = math.max(due[i], now + delay)
    spend(i, seconds)
  end
end
return {{fits and text(delay) or '', text(due[1] - now), text(due[2] - now)}}
"""

CORRECT = f"""{_BEGIN}
-- ARGV: the seconds of each rate to spend more, or less if negative.
for i = 1, 2 do
  local seconds = tonumber(ARGV[i])
  if seconds > 0 then due[i] = math.max(due[i], now) end
  if seconds ~= 0 then spend(i, seconds) end
end
"""
