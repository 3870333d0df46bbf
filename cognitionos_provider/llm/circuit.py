"""The rules of one breaker: in Python for one process, in Lua for all that share a Redis.

Both follow the same rules, and ``tests/llm/test_breaker.py`` holds one against the other. Closed, every call is sent.
Enough failures open it: calls go elsewhere until a cooldown ends. Then it is half-open: one call is the probe. Its
success closes the breaker; its failure opens it for the next, longer cooldown. What a call reports that was
admitted before the breaker opened changes nothing, but that a longer ``retry_after`` extends the cooldown.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "ADMIT",
    "ALLOWED",
    "CLOSE",
    "FAIL",
    "LEAVE",
    "PROBE",
    "SLOTS",
    "Admission",
    "BreakerSettings",
    "Circuit",
]

SLOTS = 60
"""The window of calls moves in so many steps."""

_POLL_SECONDS = 0.25
# SharedState waits less for an answer. One that is older than the one before by more than this is not late:
# Redis' clock was set back.
_LATE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When a breaker opens and for how long; times in seconds.

    It opens on ``consecutive`` failures in a row, or when ``share`` of the calls of the last ``window_seconds``
    (to within a sixtieth) failed and there were at least ``window_calls``. The first cooldown takes
    ``cooldown_seconds``, each further one twice the one before, up to ``max_cooldown_seconds``. A probe that has
    not reported after ``probe_seconds`` is given up, since its process may have died: that must be more than a
    call may take.
    """

    consecutive: int = 5
    share: float = 0.5
    window_calls: int = 20
    window_seconds: float = 60.0
    cooldown_seconds: float = 5.0
    max_cooldown_seconds: float = 120.0
    probe_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a call may be sent; ``wait`` is the seconds after which to ask again where it may not.

    ``probe`` says that it is the only call of a half-open breaker.
    """

    allowed: bool
    probe: bool = False
    wait: float = 0.0


ALLOWED = Admission(allowed=True)
PROBE = Admission(allowed=True, probe=True)


class Circuit:
    """One breaker, as this process knows it. Redis' scripts below follow the same rules: change both.

    ``ends`` is when the cooldown ends, None while it is closed; ``opened`` counts openings without a success.
    ``unsent`` are the successes that Redis has not been told of; ``seen`` is when this was last compared with
    Redis, ``at`` that moment by Redis' clock.
    """

    __slots__ = (
        "at", "ends", "opened", "probe_ends", "refresh", "seen", "shared_streak", "streak", "unsent", "window",
    )  # fmt: skip

    def __init__(self) -> None:
        self.unsent = self.shared_streak = 0
        self.seen = self.at = float("-inf")
        self.refresh: asyncio.Task[int | None] | None = None
        self.close()

    def close(self) -> None:
        """Forget every failure."""
        self.ends: float | None = None
        self.probe_ends: float | None = None
        self.opened = self.streak = 0
        self.window: deque[list[int]] = deque(maxlen=SLOTS)  # [slot, calls, failures]

    def admit(self, now: float, probe_seconds: float) -> Admission:
        """Let a call through if the rules do; it is then the probe if the cooldown is over."""
        if self.ends is None:
            return ALLOWED
        if now < self.ends or (self.probe_ends is not None and now < self.probe_ends):
            return self.refusal(now)
        self.probe_ends = now + probe_seconds
        return PROBE

    def refusal(self, now: float) -> Admission:
        """Refuse a call until the cooldown ends, or for a moment if a probe is under way."""
        if self.ends is not None and now < self.ends:
            return Admission(allowed=False, wait=self.ends - now)
        left = _POLL_SECONDS if self.probe_ends is None else max(0.0, self.probe_ends - now)
        return Admission(allowed=False, wait=min(_POLL_SECONDS, left))

    def succeeded(self, now: float, rules: BreakerSettings, *, probe: bool) -> None:
        """Count a success, or close after that of the probe."""
        if self.ends is None:
            self.streak = 0
            self._count(now, rules, failures=0)
        elif probe and self.probe_ends is not None:
            self.close()

    def failed(
        self, now: float, rules: BreakerSettings, *, probe: bool, at_once: bool, asked: float, least: float
    ) -> None:
        """Count a failure; open for at least ``least`` seconds if it is one too many, or the probe's."""
        if self.ends is None:
            self.streak += 1
            calls, failures = self._count(now, rules, failures=1)
            many = calls >= rules.window_calls and failures >= rules.share * calls
            if not (at_once or many or self.streak >= rules.consecutive):
                return
        elif not (probe and self.probe_ends is not None):
            if asked:
                self.ends = max(self.ends, now + asked)
            return
        self.opened += 1
        backoff = min(rules.max_cooldown_seconds, rules.cooldown_seconds * 2.0 ** min(self.opened - 1, 60))
        self.ends, self.probe_ends = now + max(backoff, least), None

    def _count(self, now: float, rules: BreakerSettings, failures: int) -> tuple[int, int]:
        slot = int(now // (rules.window_seconds / SLOTS))
        if not self.window or self.window[-1][0] != slot:
            self.window.append([slot, 0, 0])
        self.window[-1][1] += 1
        self.window[-1][2] += failures
        if not failures:
            return 0, 0  # nobody asks, and adding up takes a while
        recent = [counts for counts in self.window if counts[0] > slot - SLOTS]
        return sum(counts[1] for counts in recent), sum(counts[2] for counts in recent)

    def adopt(self, answer: Sequence[bytes | int], begun: float, now: float) -> None:
        """Become what Redis says, unless it was said before what is known."""
        _, streak, opened, ends, probe_ends, at = answer
        self.seen = max(self.seen, begun)
        if 0 < self.at - float(at) < _LATE_SECONDS:
            return
        self.at, self.shared_streak = float(at), int(streak)
        if ends:
            self.opened, self.ends = int(opened), now + float(ends)
            self.probe_ends = now + float(probe_ends) if probe_ends else None
        elif self.ends is not None:
            self.close()


# KEYS[1]: a hash of `streak` and `opened` (counts), `ends` and `probe_ends` (seconds of Redis' clock), `probe` (who
# has it), and a ring of 60 slots, `w<n>`: "number calls failures".
# ARGV: who asks, successes since it last asked, seconds per slot; then what the script takes.
# Answer: verdict (0: refused, 1: allowed, 2: the probe), streak, opened, seconds until the cooldown ends ('' if
# closed), until the probe is given up ('' if none is under way), Redis' clock.
_BEGIN = """
local key, who, width = KEYS[1], ARGV[1], tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local known = redis.call('HMGET', key, 'streak', 'opened', 'ends', 'probe', 'probe_ends')
local streak, opened = tonumber(known[1] or 0), tonumber(known[2] or 0)
local ends, probe, probe_ends = tonumber(known[3]), known[4], tonumber(known[5])
local slot = math.floor(now / width)

local function text(seconds) return seconds and string.format('%.6f', seconds) or '' end

local function keep()
  redis.call('EXPIRE', key, 3600 + math.ceil(math.max(0, (ends or now) - now)))
end

local function answer(verdict)
  return {verdict, streak, opened, text(ends and ends - now), text(probe_ends and probe_ends - now), text(now)}
end

local function count(calls, failures)
  local field = 'w' .. slot % 60
  local at, c, f = string.match(redis.call('HGET', key, field) or '', '(%d+) (%d+) (%d+)')
  if tonumber(at) ~= slot then c, f = 0, 0 end
  redis.call('HSET', key, 'streak', streak, field, string.format('%d %d %d', slot, c + calls, f + failures))
  keep()
end

if not ends and tonumber(ARGV[2]) > 0 then
  streak = 0
  count(ARGV[2], 0)
end
"""

ADMIT = f"""{_BEGIN}
local acquire, seconds = ARGV[4] == '1', ARGV[5]
if not ends then return answer(1) end
if not acquire or now < ends or (probe_ends and now < probe_ends) then return answer(0) end
probe_ends = now + seconds
redis.call('HSET', key, 'probe', who, 'probe_ends', text(probe_ends))
keep()
return answer(2)
"""

CLOSE = f"""{_BEGIN}
if ends and probe == who then
  redis.call('DEL', key)
  streak, opened, ends, probe_ends = 0, 0, nil, nil
end
return answer(1)
"""

FAIL = f"""{_BEGIN}
local is_probe, at_once, asked, least = ARGV[4] == '1', ARGV[5] == '1', tonumber(ARGV[6]), tonumber(ARGV[7])
local consecutive, share, window_calls = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local cooldown, most = tonumber(ARGV[11]), tonumber(ARGV[12])

local function open()
  opened = opened + 1
  ends = now + math.max(math.min(most, cooldown * 2 ^ math.min(opened - 1, 60)), least)
  probe_ends = nil
  redis.call('HSET', key, 'opened', opened, 'ends', text(ends))
  redis.call('HDEL', key, 'probe', 'probe_ends')
end

if not ends then
  streak = streak + 1
  count(1, 1)
  local calls, failures = 0, 0
  for _, counts in ipairs(redis.call('HVALS', key)) do
    local at, c, f = string.match(counts, '^(%d+) (%d+) (%d+)$')
    if at and tonumber(at) > slot - 60 then calls, failures = calls + c, failures + f end
  end
  local many = calls >= window_calls and failures >= share * calls
  if at_once or many or streak >= consecutive then open() end
elseif is_probe and probe == who then
  open()
elseif asked > 0 and now + asked > ends then
  ends = now + asked
  redis.call('HSET', key, 'ends', text(ends))
end
keep()
return answer(0)
"""

LEAVE = f"""{_BEGIN}
if probe == who then
  redis.call('HDEL', key, 'probe', 'probe_ends')
  probe_ends = nil
end
return answer(0)
"""
