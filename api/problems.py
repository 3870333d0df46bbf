"""Errors as RFC 9457 problem documents."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as NoConnectionLeft
from starlette.exceptions import HTTPException

from cognitionos_provider.exceptions import ConflictError, DefinitionError, NotFoundError
from cognitionos_provider.observability import get_logger, get_trace_id

__all__ = ["Problem", "install_handlers", "problem_response"]

logger = get_logger(__name__)

Loc = Iterable[str | int]

MAX_ERRORS = 50
"""Most errors that one document lists."""


class Problem(Exception):  # noqa: N818 - RFC 9457's word
    """An answer that is an error.

    :param retry_after: seconds after which the same request may succeed.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Iterable[tuple[Loc, str]] = (),
        retry_after: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = list(errors)
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        if status == HTTPStatus.UNAUTHORIZED:
            self.headers["WWW-Authenticate"] = "Bearer"


class ProblemResponse(JSONResponse):
    """A problem document on the wire."""

    media_type = "application/problem+json"

    def render(self, content: object) -> bytes:
        """Write JSON. What was posted is quoted, and half of a surrogate pair in it has no UTF-8 form."""
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def problem_response(
    status: int,
    detail: str,
    *,
    errors: Iterable[tuple[Loc, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return a problem document."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "trace_id": get_trace_id(),
    }
    listed = [{"loc": list(loc), "msg": msg} for loc, msg in errors]
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        body["errors"] = listed[:MAX_ERRORS]
    return ProblemResponse(body, status, headers=headers)


def install_handlers(app: FastAPI) -> None:
    """Turn every exception that leaves a route and means something into a problem document."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(DefinitionError, _definition)
    app.add_exception_handler(NotFoundError, _not_found)
    app.add_exception_handler(ConflictError, _conflict)
    app.add_exception_handler(OperationalError, _database_down)
    app.add_exception_handler(InterfaceError, _database_down)
    app.add_exception_handler(NoConnectionLeft, _database_down)
    app.add_exception_handler(ProgrammingError, _no_tables)


def _invalid(errors: Sequence[tuple[Loc, str]]) -> JSONResponse:
    first = errors[0][1] if errors else "The request is not valid"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return problem_response(422, f"{first}{more}", errors=errors)


async def _problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)  # noqa: S101 - registered for this type only
    return problem_response(error.status, error.detail, errors=error.errors, headers=error.headers)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    detail = str(error.detail)
    if error.status_code == HTTPStatus.BAD_REQUEST:
        # All that FastAPI answers 400 to: what the JSON parser raised that is no JSONDecodeError.
        return _invalid([(("body",), f"The body can't be read: {_unreadable(error.__cause__)}")])
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = f"There is nothing at {request.url.path}; /docs lists what there is"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{request.method} is not possible at {request.url.path}; /docs lists what is"
    return problem_response(error.status_code, detail, headers=error.headers)


def _unreadable(error: BaseException | None) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeError):
        return "it is not UTF-8"
    if isinstance(error, ValueError):
        return "a number in it has too many digits"
    return "it did not arrive whole"


async def _invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    errors: list[tuple[Loc, str]] = []
    for item in error.errors():
        loc, msg = item["loc"], item["msg"]
        if item["type"] == "json_invalid":
            loc, msg = ("body",), f"The body is no JSON: {item.get('ctx', {}).get('error', msg)}"
        elif item["type"] == "extra_forbidden":
            msg = f"There is no field {loc[-1]!r} here"
        errors.append((loc, msg))
    return _invalid(errors)


async def _definition(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DefinitionError)  # noqa: S101
    return _invalid([(("body", *loc), msg) for loc, msg in error.errors])


async def _not_found(request: Request, error: Exception) -> JSONResponse:
    return problem_response(404, str(error))


async def _conflict(request: Request, error: Exception) -> JSONResponse:
    return problem_response(409, str(error))


async def _database_down(request: Request, error: Exception) -> JSONResponse:
    if "no such " in str(error):
        # SQLite's way to say that a table or a column is missing.
        return await _no_tables(request, error)
    # The message of the driver names host and user, and is for the log alone.
    logger.error("The database does not answer", exc_info=error)
    return problem_response(
        503, "The database does not answer; try again in a few seconds", headers={"Retry-After": "5"}
    )


async def _no_tables(request: Request, error: Exception) -> JSONResponse:
    logger.error("The database's tables are not those of this release", exc_info=error)
    return problem_response(
        503, "The database's tables are not those of this release; has 'airflow db migrate' been run?"
    )
