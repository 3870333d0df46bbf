"""What the simulator does differently for some calls: faults, delays, literal answers.

A rule is data. Of the rules that match a call the first in order of addition is applied, alone; one whose
``skip`` or ``times`` says that it is not its turn passes the call on to the next.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

__all__ = ["KNOWN_FAULTS", "Match", "Rule", "RuleBook", "RuleError"]

KNOWN_FAULTS = {
    "authentication_error": "invalid_api_key",
    "context_length_exceeded": "context_length_exceeded",
    "insufficient_quota": "insufficient_quota",
    "invalid_api_key": "invalid_api_key",
    "model_not_found": "model_not_found",
    "not_found_error": "model_not_found",
    "overloaded_error": "overloaded",
    "rate_limit_error": "rate_limit",
    "rate_limit_exceeded": "rate_limit",
    "server_is_overloaded": "overloaded",
}
"""Error codes and types that say which fault is meant, so that a rule with one needs no status: the status,
and how the other provider says the same, follow from it."""


class RuleError(ValueError):
    """A rule is malformed; the message names the rule, the field and what is allowed."""


class Match(BaseModel):
    """Which calls a rule is for. A field left out matches every call; ``{}`` matches model listings, too."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: Literal["openai", "anthropic"] | None = None
    model: str | None = Field(default=None, description="the exact model name; a listing of models has none")
    path: str | None = Field(default=None, description="the exact path, such as /v1/models")
    contains: str | None = Field(
        default=None, description="text found anywhere in the prompt, system text too"
    )


class Rule(BaseModel):
    """What to do with the calls that match. Durations are in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    match: Match = Match()
    skip: int = Field(default=0, ge=0, description="let the first N matching calls through")
    times: int | None = Field(default=None, ge=0, description="then apply to N matching calls only")

    latency: float | None = Field(default=None, ge=0, description="before the answer; None: the server's own")
    slow_body: float = Field(default=0, ge=0, description="over which the body trickles out in pieces")
    drop: Literal["before", "headers", "body"] | None = Field(
        default=None,
        description="close the connection without a byte, after the headers, or after half the body",
    )

    status: int | None = Field(default=None, ge=200, le=599)
    error_type: str | None = None
    error_code: str | None = None
    message: str | None = None
    retry_after: float | None = Field(default=None, ge=0, description="becomes the Retry-After header")

    answer: str | None = Field(default=None, description="the literal text of the model's answer")
    answer_json: Any = Field(
        default=None, description="the answer is this as text, or as a forced tool's input"
    )
    refusal: bool = False
    finish_reason: str | None = Field(default=None, description="in either provider's words")
    usage: dict[str, Any] | None = Field(
        default=None, description="input_tokens, output_tokens, and further fields as the provider names them"
    )

    @property
    def has_answer_json(self) -> bool:
        """Whether ``answer_json`` was given: ``null`` is an answer, too."""
        return "answer_json" in self.model_fields_set

    @property
    def fault(self) -> str | None:
        """The fault that the error's code or type names, one of the values of ``KNOWN_FAULTS``."""
        return KNOWN_FAULTS.get(self.error_code or "") or KNOWN_FAULTS.get(self.error_type or "")

    @property
    def fails(self) -> bool:
        """Whether the call is answered with an error."""
        return self.fault is not None if self.status is None else self.status != 200

    @model_validator(mode="after")
    def _check(self) -> Rule:
        if self.status is not None and 200 < self.status < 400:
            raise ValueError(f"status {self.status} is none that a provider sends: use 200, or 400 to 599")
        if (self.error_type or self.error_code or self.message) and not self.fails:
            raise ValueError(
                "an error needs a status from 400 to 599, or an error_code or error_type out of: "
                + ", ".join(sorted(KNOWN_FAULTS))
            )
        for field in ("input_tokens", "output_tokens"):
            count = (self.usage or {}).get(field, 0)
            if type(count) is not int or count < 0:
                raise ValueError(f"usage.{field} must be a whole number of tokens, not {count!r}")
        return self


class _Entry:
    """A rule with the count of calls that it matched (``seen``) and that it was applied to."""

    def __init__(self, number: int, rule: Rule) -> None:
        self.number = number
        self.rule = rule
        self.seen = 0
        self.applied = 0


class RuleBook:
    """The rules in force. ``add`` and ``clear`` may be called from another thread than ``pick``."""

    def __init__(self) -> None:
        self._entries: tuple[_Entry, ...] = ()
        self._numbers = itertools.count(1)

    def add(self, rules: Sequence[Rule | Mapping[str, Any]]) -> list[int]:
        """Add rules, all or none of them, and return their numbers.

        Raises:
            RuleError: one of them is malformed.
        """
        checked = [_checked(position, rule) for position, rule in enumerate(rules)]
        entries = [_Entry(next(self._numbers), rule) for rule in checked]
        self._entries = (*self._entries, *entries)
        return [entry.number for entry in entries]

    def clear(self) -> int:
        """Remove every rule and return how many there were."""
        removed, self._entries = len(self._entries), ()
        return removed

    def pick(self, provider: str, path: str, model: str | None, prompt: str) -> tuple[int, Rule] | None:
        """Return the rule for a call with its number, and count the call in each rule that it matched."""
        for entry in self._entries:
            rule, match = entry.rule, entry.rule.match
            if (
                (match.provider is None or match.provider == provider)
                and (match.path is None or match.path == path)
                and (match.model is None or match.model == model)
                and (match.contains is None or match.contains in prompt)
            ):
                entry.seen += 1
                if entry.seen > rule.skip and (rule.times is None or entry.applied < rule.times):
                    entry.applied += 1
                    return entry.number, rule
        return None

    def as_json(self) -> list[dict[str, Any]]:
        """Return each rule as it was given, with its number and counts."""
        return [
            {
                "number": entry.number,
                "seen": entry.seen,
                "applied": entry.applied,
                "rule": entry.rule.model_dump(exclude_unset=True),
            }
            for entry in self._entries
        ]


def _checked(position: int, rule: Rule | Mapping[str, Any]) -> Rule:
    try:
        return Rule.model_validate(rule)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'rule'}: {fault['msg']}"
            for fault in error.errors(include_url=False)
        )
        raise RuleError(f"rule {position}: {faults}") from error
