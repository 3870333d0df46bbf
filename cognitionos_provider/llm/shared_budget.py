"""The state of budgets in Redis: one hash per budget, and the four steps that change it.

Fields of a hash: ``spent``, ``reserved`` and ``lost`` (sums, in micro-dollars), ``r:<process>:<call>`` for what a
running call has reserved and until when, ``l:...`` for what was never settled in time, ``due`` (when the next
reservation expires), ``epoch`` (a random name, given whenever the state is built from the ledger; without it
nobody may reserve), and ``lock`` (who builds it now). Times are the server's, in milliseconds.

A reservation that expires moves to ``lost`` and counts as spent in full: the call may have been billed. A process
that finds another epoch than it knows first tells what its own running calls hold, so each step that comes late is
refused. Each step can be sent twice without harm: the client library does that when a connection breaks.

A step of several budgets has several keys. On a Redis Cluster they must have a hash tag in common: put braces
around the part of the budgets' keys that they share.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from enum import IntEnum
from typing import Any, NamedTuple

from cognitionos_provider.llm.purse import Claim, Purse
from cognitionos_provider.llm.shared import SharedState, SharedStateDown

__all__ = ["Answer", "SharedBudgets", "State", "turns"]

_KEEP_MS = 7 * 24 * 3600 * 1000
# A process that dies while it builds a state holds the others up for that long.
_LOCK_MS = 10_000


class Answer(IntEnum):
    """What Redis says to a step; the scripts hold the numbers."""

    DONE = 0
    WAIT = 1
    """It would fit if running calls cost less than they may."""
    NEVER = 2
    CHANGED = 3
    """The state is another one than this process knows, or there is none."""
    LOST = 4
    """It would not fit, but a part of what is spent is only feared to be: ask the ledger."""
    LOCKED = 5
    """Another process builds the state."""
    BUILD = 6
    """This process is to build the state."""
    NOTED = 7
    """There is no state; whoever builds it will count this."""
    UNKNOWN = 8
    """Redis holds no such reservation, or has settled it."""


class State(NamedTuple):
    """What Redis holds for one budget, with the answer to the step."""

    answer: Answer
    spent: int = 0
    reserved: int = 0
    epoch: int = 0


_COMMON = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function number(key, field)
  return tonumber(redis.call('HGET', key, field) or '0')
end

local function digits(value)
  return string.format('%.0f', value)
end

-- Count what has expired as spent, take out what belongs to `mine`, and add up the rest.
local function tidy(key, mine)
  local spent, reserved, lost, due = number(key, 'spent'), 0, 0, 0
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local kind, name = string.sub(all[i], 1, 2), string.sub(all[i], 3)
    if kind == 'r:' or kind == 'l:' then
      local amount, expires = string.match(all[i + 1], '^(%d+) (%d+)$')
      amount, expires = tonumber(amount), tonumber(expires)
      if mine and string.sub(name, 1, #mine) == mine then
        redis.call('HDEL', key, all[i])
        if kind == 'l:' then spent = spent - amount end
      elseif kind == 'l:' then
        lost = lost + amount
      elseif expires <= now then
        redis.call('HDEL', key, all[i])
        redis.call('HSET', key, 'l:' .. name, all[i + 1])
        spent, lost = spent + amount, lost + amount
      else
        reserved = reserved + amount
        if due == 0 or expires < due then due = expires end
      end
    end
  end
  redis.call('HSET', key, 'spent', digits(spent), 'reserved', digits(reserved), 'lost', digits(lost),
    'due', digits(due))
end

local function hold(key, name, amount, milliseconds)
  local expires, due = now + milliseconds, number(key, 'due')
  redis.call('HSET', key, 'r:' .. name, digits(amount) .. ' ' .. digits(expires))
  redis.call('HINCRBY', key, 'reserved', digits(amount))
  if due == 0 or expires < due then redis.call('HSET', key, 'due', digits(expires)) end
end

-- Hold what the arguments from `first` on name: name, amount, milliseconds, and so on.
local function hold_all(key, first)
  for i = first, #ARGV, 3 do
    hold(key, ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]))
  end
end
"""

# ARGV: how long to keep the key, name, amount, milliseconds; then epoch and limit for each key.
_RESERVE = (
    _COMMON
    + """
local name, amount = ARGV[2], tonumber(ARGV[3])
local answer, which, missing, figures = 0, 0, {}, {}
for i, key in ipairs(KEYS) do
  if redis.call('HGET', key, 'epoch') ~= ARGV[3 + 2 * i] then return {3, i} end
  local due = number(key, 'due')
  if due > 0 and due <= now then tidy(key) end
  if redis.call('HEXISTS', key, 'r:' .. name) == 0 then
    missing[#missing + 1] = key
    local spent, limit = number(key, 'spent'), tonumber(ARGV[4 + 2 * i])
    if spent + amount > limit then
      if number(key, 'lost') > 0 then return {4, i} end
      if answer ~= 2 then answer, which = 2, i end
    elseif spent + number(key, 'reserved') + amount > limit and answer == 0 then
      answer, which = 1, i
    end
  end
end
if answer == 0 then
  for _, key in ipairs(missing) do hold(key, name, amount, tonumber(ARGV[4])) end
end
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, ARGV[1])
  figures[#figures + 1] = number(key, 'spent')
  figures[#figures + 1] = number(key, 'reserved')
end
return {answer, which, unpack(figures)}
"""
)

# ARGV: how long to keep the key, name, spent; then the epoch for each key.
_SETTLE = (
    _COMMON
    + """
local name, spent, answers = ARGV[2], tonumber(ARGV[3]), {}
for i, key in ipairs(KEYS) do
  local answer, epoch = 0, redis.call('HGET', key, 'epoch')
  if not epoch then
    answer = 7
    redis.call('HINCRBY', key, 'spent', digits(spent))
  elseif epoch ~= ARGV[3 + i] then
    answer = 3
  else
    local held, lost = redis.call('HGET', key, 'r:' .. name), redis.call('HGET', key, 'l:' .. name)
    local amount = tonumber(string.match(held or lost or '0', '^%d+'))
    if held then
      redis.call('HINCRBY', key, 'reserved', digits(0 - amount))
      redis.call('HINCRBY', key, 'spent', digits(spent))
    elseif lost then
      redis.call('HINCRBY', key, 'lost', digits(0 - amount))
      redis.call('HINCRBY', key, 'spent', digits(spent - amount))
    else
      answer = 8
    end
    redis.call('HDEL', key, 'r:' .. name, 'l:' .. name)
  end
  redis.call('PEXPIRE', key, ARGV[1])
  answers[i] = {answer, number(key, 'spent'), number(key, 'reserved')}
end
return answers
"""
)

# ARGV: how long to keep the key, this process, whether to build in any case, how long to lock; then what it holds.
_OPEN = (
    _COMMON
    + """
local key, epoch = KEYS[1], redis.call('HGET', KEYS[1], 'epoch')
tidy(key, ARGV[2])
hold_all(key, 5)
redis.call('PEXPIRE', key, ARGV[1])
local answer = 0
if not epoch or ARGV[3] == '1' then
  local owner, expires = string.match(redis.call('HGET', key, 'lock') or '', '^(%S+) (%d+)$')
  if owner and owner ~= ARGV[2] and tonumber(expires) > now then return {5, 0, 0, 0} end
  redis.call('HSET', key, 'lock', ARGV[2] .. ' ' .. digits(now + ARGV[4]))
  answer = 6
end
return {answer, number(key, 'spent'), number(key, 'reserved'), tonumber(epoch or '0')}
"""
)

# ARGV: how long to keep the key, this process, the new epoch, what the ledger says, what `spent` was when it was
# asked; then what this process holds. What others have settled since then is added.
_BUILD = (
    _COMMON
    + """
local key = KEYS[1]
if redis.call('HGET', key, 'epoch') == ARGV[3] then
  return {0, number(key, 'spent'), number(key, 'reserved'), tonumber(ARGV[3])}
end
if string.match(redis.call('HGET', key, 'lock') or '', '^%S+') ~= ARGV[2] then return {3, 0, 0, 0} end
tidy(key, ARGV[2])
local spent = tonumber(ARGV[4]) + math.max(0, number(key, 'spent') - ARGV[5])
for _, field in ipairs(redis.call('HKEYS', key)) do
  if string.sub(field, 1, 2) == 'l:' then redis.call('HDEL', key, field) end
end
redis.call('HSET', key, 'spent', digits(spent), 'lost', '0', 'epoch', ARGV[3])
redis.call('HDEL', key, 'lock')
hold_all(key, 6)
redis.call('PEXPIRE', key, ARGV[1])
return {0, spent, number(key, 'reserved'), tonumber(ARGV[3])}
"""
)


@asynccontextmanager
async def turns(purses: Sequence[Purse]) -> AsyncIterator[None]:
    """Have the purses' turns, always in the same order, lest two calls wait for each other."""
    async with AsyncExitStack() as stack:
        for purse in sorted(purses, key=lambda each: each.key):
            await stack.enter_async_context(purse.turn)
        yield


class SharedBudgets:
    """The steps, for one process. Have the purses' turns for each; each raises SharedStateDown."""

    def __init__(self, shared: SharedState | None, clock: Callable[[], float]) -> None:
        self._shared = shared
        self._clock = clock
        self._process = secrets.token_hex(8) + ":"

    @property
    def connected(self) -> bool:
        """Whether Redis is to be asked."""
        return self._shared is not None and not self._shared.down

    async def reserve(self, claim: Claim) -> tuple[Answer, int]:
        """Reserve in each purse or in none; returns the answer and which purse it is about."""
        arguments: list[str | int] = [
            _KEEP_MS,
            self._process + claim.id,
            claim.amount,
            int(claim.seconds * 1000),
        ]
        for purse, limit in zip(claim.purses, claim.limits, strict=True):
            arguments += (purse.epoch or 0, limit)
        answer, which, *figures = await self._run(_RESERVE, claim.purses, arguments)
        for purse, spent, reserved in zip(claim.purses, figures[::2], figures[1::2], strict=False):
            purse.see(spent, reserved - (claim.amount if answer == Answer.DONE else 0))
        return Answer(answer), which - 1

    async def settle(self, claim_id: str, spent: int, purses: Sequence[Purse]) -> list[State]:
        """Put what a call has spent in the place of what it held, in each purse for itself."""
        epochs = [purse.epoch or 0 for purse in purses]
        arguments: list[str | int] = [_KEEP_MS, self._process + claim_id, spent, *epochs]
        answers = await self._run(_SETTLE, purses, arguments)
        return [State(Answer(answer), *figures) for answer, *figures in answers]

    async def open(self, purse: Purse, *, force: bool) -> State:
        """Tell what this process holds. BUILD asks it to build the state, always where it is forced."""
        arguments = [_KEEP_MS, self._process, int(force), _LOCK_MS, *self._held(purse)]
        answer, *figures = await self._run(_OPEN, [purse], arguments)
        return State(Answer(answer), *figures)

    async def build(self, purse: Purse, ledger: int, spent_before: int) -> State:
        """Begin a new epoch with what the ledger says; CHANGED where somebody else was faster."""
        epoch = secrets.randbits(52) + 1
        arguments = [_KEEP_MS, self._process, epoch, ledger, spent_before, *self._held(purse)]
        answer, *figures = await self._run(_BUILD, [purse], arguments)
        return State(Answer(answer), *figures)

    async def _run(self, script: str, purses: Sequence[Purse], arguments: Sequence[str | int]) -> Any:
        if self._shared is None:
            raise SharedStateDown
        return await self._shared.run(script, [f"budget/{purse.key}" for purse in purses], arguments)

    def _held(self, purse: Purse) -> list[str | int]:
        now = self._clock()
        held: list[str | int] = []
        for name, hold in purse.held.items():
            held += (self._process + name, hold.amount, max(0, int((hold.until - now) * 1000)))
        return held
