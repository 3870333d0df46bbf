"""The simulator as an ASGI application: the providers' endpoints and ``/control``.

Plain ASGI instead of a framework: a call costs little more than its JSON, and a thousand can wait at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope, Send

from cognitionos_provider.simulator.answer import Question, RefusedError, Wire, compose
from cognitionos_provider.simulator.anthropic import ANTHROPIC
from cognitionos_provider.simulator.calls import Call, CallLog
from cognitionos_provider.simulator.openai import OPENAI
from cognitionos_provider.simulator.rules import Rule, RuleBook, RuleError

__all__ = ["SimulatorApp"]

_ANSWERING = {"/v1/chat/completions": OPENAI, "/v1/messages": ANTHROPIC}
_LISTING = "/v1/models"
_SLICES = 16
_KEPT_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class _Reply:
    """A response before it is sent. A stream has one piece per event, any other body is one piece."""

    status: int
    headers: list[tuple[bytes, bytes]]
    pieces: list[bytes]


class SimulatorApp:
    """The application, with its state in ``rules`` and ``calls``.

    Args:
        latency: seconds before each answer, where no rule says otherwise.
        missing_models: model names that are answered with 404.
    """

    def __init__(self, *, latency: float = 0.0, missing_models: Collection[str] = ("missing-model",)) -> None:
        self.rules = RuleBook()
        self.calls = CallLog()
        self._latency = latency
        self._missing = frozenset(missing_models)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. ``scope["state"]["transport"]`` is its connection (see server.py)."""
        body = await _received(receive)
        if body is None:
            return
        try:
            if scope["path"].startswith("/control/"):
                status, content = self._control(scope["method"], scope["path"], body)
                await _send(send, _whole(status, content))
            else:
                await self._serve(scope, body, receive, send)
        except asyncio.CancelledError:
            # The server is stopping and has cut the connection; uvicorn would log a traceback.
            return

    async def _serve(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        headers = dict(scope["headers"])
        speaks_anthropic = b"x-api-key" in headers or b"anthropic-version" in headers
        wire = _ANSWERING.get(path) or (ANTHROPIC if speaks_anthropic else OPENAI)
        call = self.calls.open(wire.provider, path)
        call.client_id = headers.get(b"x-client-request-id", b"").decode("latin-1")
        try:
            call.fingerprint = hashlib.blake2b(path.encode() + b"\n" + body, digest_size=16).hexdigest()
            rule = None
            try:
                _admit(wire, headers, scope["method"], path)
                question = None if path == _LISTING else _question(wire, call, body)
                rule = self._rule(call, question)
                if latency := self._latency if rule is None or rule.latency is None else rule.latency:
                    await asyncio.sleep(latency)
                if rule is not None and rule.drop == "before":
                    await self._hang_up(call, scope, receive)
                    return
                reply = self._reply(wire, call, question, rule)
            except RefusedError as refused:
                error = Rule(status=refused.status, error_code=refused.code, message=refused.message)
                reply = _failure(wire, call, error, refused.param)
            await self._deliver(reply, call, rule or Rule(), scope, receive, send)
        finally:
            # Still open only if the server is stopping.
            self.calls.close(call, "dropped")

    def _rule(self, call: Call, question: Question | None) -> Rule | None:
        prompt = "" if question is None else question.prompt
        picked = self.rules.pick(call.provider, call.path, call.model, prompt)
        if picked is None:
            return None
        call.rule, rule = picked
        return rule

    def _reply(self, wire: Wire, call: Call, question: Question | None, rule: Rule | None) -> _Reply:
        if rule is not None and rule.fails:
            return _failure(wire, call, rule)
        request_id = [(wire.id_header, _request_id(call))]
        if question is None:
            return _whole(200, wire.models(), request_id)
        if question.model in self._missing:
            raise RefusedError(f"model: {question.model}", "model", status=404, code="model_not_found")
        answer = compose(question, rule)
        self.calls.bill(call, answer.input_tokens, answer.output_tokens)
        if not question.stream:
            return _whole(200, wire.body(question, answer, call.fingerprint), request_id)
        kind = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-simulated", b"true")]
        return _Reply(200, kind + request_id, wire.events(question, answer, call.fingerprint))

    async def _deliver(
        self, reply: _Reply, call: Call, rule: Rule, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send the reply as fast and as far as the rule allows."""
        pieces = reply.pieces
        if rule.drop is not None:
            whole = b"".join(pieces)
            pieces = [b"" if rule.drop == "headers" else whole[: len(whole) // 2]]
        if not rule.slow_body:
            pieces = [b"".join(pieces)]
        elif len(pieces) == 1:
            size = max(1, -(-len(pieces[0]) // _SLICES))
            pieces = [pieces[0][i : i + size] for i in range(0, len(pieces[0]), size)] or [b""]
        transport: asyncio.Transport = scope["state"]["transport"]
        await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
        for left in range(len(pieces) - 1, -1, -1):
            if rule.slow_body:
                await asyncio.sleep(rule.slow_body / len(pieces))
            if transport.is_closing():
                self.calls.close(call, reply.status, disconnected=True)
                await _gone(receive)
                return
            ends = left == 0 and rule.drop is None
            if ends:
                self.calls.close(call, reply.status)
            await send({"type": "http.response.body", "body": pieces[-1 - left], "more_body": not ends})
        if rule.drop is not None:
            await self._hang_up(call, scope, receive)

    async def _hang_up(self, call: Call, scope: Scope, receive: Receive) -> None:
        self.calls.close(call, "dropped")
        scope["state"]["transport"].close()
        await _gone(receive)

    def _control(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Serve ``/control`` and return status and body.

        ``POST rules`` takes a rule or a list of rules and answers ``{"added": [number]}``, or 400 and
        ``{"error": ...}``. ``GET`` answers ``{"rules": [...]}`` (RuleBook), ``{"calls": [...]}`` (Call) or
        the totals (CallLog), ``DELETE`` ``{"removed": count}``.
        """
        match method, path:
            case "POST", "/control/rules":
                try:
                    given = json.loads(body)
                    return 200, {"added": self.rules.add(given if isinstance(given, list) else [given])}
                except (RuleError, ValueError, RecursionError) as error:
                    return 400, {"error": f"no rule was added: {error}"}
            case "GET", "/control/rules":
                return 200, {"rules": self.rules.as_json()}
            case "DELETE", "/control/rules":
                return 200, {"removed": self.rules.clear()}
            case "GET", "/control/calls":
                return 200, {"calls": self.calls.as_json()}
            case "DELETE", "/control/calls":
                return 200, {"removed": self.calls.clear()}
            case "GET", "/control/stats":
                return 200, self.calls.stats()
        return 404, {"error": f"{method} {path} is none of GET, POST, DELETE /control/rules, GET, DELETE "
                              "/control/calls, GET /control/stats"}  # fmt: skip


def _admit(wire: Wire, headers: Mapping[bytes, bytes], method: str, path: str) -> None:
    if not wire.key(headers):
        raise RefusedError("Simulated: no API key was given; any will do.", status=401)
    if method != ("GET" if path == _LISTING else "POST") or (path != _LISTING and path not in _ANSWERING):
        raise RefusedError(f"Simulated: there is no {method} {path} here.", status=404, code="unknown_url")


def _question(wire: Wire, call: Call, body: bytes) -> Question:
    try:
        content = json.loads(body)
        if not isinstance(content, dict):
            raise RefusedError("Simulated: the body must be a JSON object.")
        question = wire.parse(content)
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise RefusedError(f"Simulated: the body can't be understood: {error}") from error
    call.model, call.question = question.model, question.last[:_KEPT_CHARACTERS]
    return question


def _request_id(call: Call) -> bytes:
    return b"req_" + call.fingerprint[:24].encode()


def _failure(wire: Wire, call: Call, error: Rule, param: str | None = None) -> _Reply:
    status, content = wire.error(error, _request_id(call).decode(), param)
    headers = [(wire.id_header, _request_id(call))]
    if error.retry_after is not None:
        # RFC 9110 knows whole seconds only; for less, both providers send milliseconds beside them.
        headers.append((b"retry-after", str(math.ceil(error.retry_after)).encode()))
        if error.retry_after % 1:
            headers.append((b"retry-after-ms", str(round(error.retry_after * 1000)).encode()))
    return _whole(status, content, headers)


def _whole(status: int, content: dict[str, Any], headers: Collection[tuple[bytes, bytes]] = ()) -> _Reply:
    """Make a JSON reply. Its bytes are ASCII, so NUL and lone surrogates pass as escapes."""
    body = json.dumps(content).encode()
    common = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-simulated", b"true"),
    ]
    return _Reply(status, [*common, *headers], [body])


async def _send(send: Send, reply: _Reply) -> None:
    await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
    await send({"type": "http.response.body", "body": b"".join(reply.pieces)})


async def _received(receive: Receive) -> bytes | None:
    """Read the request's body; None if the client left before its end."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message["body"]
        if not message["more_body"]:
            return bytes(body)


async def _gone(receive: Receive) -> None:
    """Wait until uvicorn knows that the connection is closed; to return earlier is an error to it."""
    while (await receive())["type"] != "http.disconnect":
        pass
