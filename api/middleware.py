"""What happens to every request: a trace id, a line in the log, a limit to its size, an answer to errors."""

from __future__ import annotations

import re
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import problem_response
from cognitionos_provider.observability import get_logger, new_trace_id, trace_context

__all__ = ["BodyLimitMiddleware", "ErrorMiddleware", "TraceMiddleware"]

logger = get_logger("api.access")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
# W3C Trace Context, section 3.2: version-trace id-parent id-flags. Version ff and ids of zeros are invalid.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class TraceMiddleware:
    """Gives each request a trace id, answers with it, and logs the request."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = trace_id
            await send(message)

        with trace_context(_trace_id_of(Headers(scope=scope))) as trace_id:
            try:
                await self.app(scope, receive, send_with_id)
            finally:
                logger.info(
                    "%s %s -> %s",
                    scope["method"],
                    scope["path"],
                    status or "no answer",
                    extra={
                        "method": scope["method"],
                        "path": scope["path"],
                        "status": status,
                        "duration_ms": round((time.perf_counter() - started) * 1000, 1),
                    },
                )


def _trace_id_of(headers: Headers) -> str:
    """Return the caller's trace id, or a new one where it sent none that can be logged and sent back."""
    asked = headers.get("x-request-id", "")
    if _REQUEST_ID.fullmatch(asked):
        return asked
    parent = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    return parent[1] if parent else new_trace_id()


class ErrorMiddleware:
    """Logs an exception that nothing else has handled, and answers 500.

    A handler of the application would come too late: Starlette runs it around all middleware, where the
    request has no trace id any more, and raises the exception again.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request (ASGI)."""
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception as error:
            if scope["type"] != "http" or started:
                raise
            logger.error("The request failed", exc_info=error)
            answer = problem_response(500, "Something went wrong here; the log has more under this trace id")
            await answer(scope, receive, send)


class BodyLimitMiddleware:
    """Answers 413 to a body over ``limit`` bytes, without reading it to its end."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        # A length that is no number is the server's to refuse; what is read is counted in any case.
        if re.fullmatch("[0-9]{1,18}", length) and int(length) > self.limit:
            await self._refuse(scope, receive, send)
            return
        read = 0
        refused = started = False

        async def counted() -> Message:
            nonlocal read, refused
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.limit and not started:
                refused = True
                # To the route the client has gone: it stops reading, and what it answers is not sent.
                return {"type": "http.disconnect"}
            return message

        async def unless_refused(message: Message) -> None:
            nonlocal started
            if not refused:
                started = True
                await send(message)

        try:
            await self.app(scope, counted, unless_refused)
        except Exception:
            if not refused:
                raise
        if refused:
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = problem_response(
            413,
            f"The body is larger than {self.limit} bytes (API_MAX_REQUEST_SIZE)",
            headers={"Connection": "close"},
        )
        await answer(scope, receive, send)
