from __future__ import annotations

import socket

from cognitionos_provider.llm.failure import read_failure, root_cause, short


def test_a_message_is_one_short_printable_line_without_secrets() -> None:
    assert short("a\n\tb\0 k3y \ud800", ["k3y"]) == "a b ***"
    assert len(short("x" * 1_000, [])) == 300


def test_the_reason_of_a_failed_connection_is_named() -> None:
    error = RuntimeError("Connection error.")
    error.__cause__ = RuntimeError("All attempts failed.")
    error.__cause__.__context__ = ConnectionResetError(104, "Connection reset by peer")
    assert root_cause(error) == "connection reset by peer"
    assert root_cause(socket.gaierror(-2, "Name or service not known")) == "Name or service not known"
    assert root_cause(RuntimeError()) == "RuntimeError"


def test_an_error_of_no_known_kind_is_named_by_its_type() -> None:
    failure = read_failure(KeyError("choices"), seconds=1, secrets=())
    assert (failure.error_class, failure.message) == ("unexpected", "KeyError: 'choices'")


def test_the_typed_errors_of_pydantic_ai_without_a_status_are_classified() -> None:
    from pydantic_ai import exceptions as ai

    errors = {
        ai.ContentFilterError("blocked"): "refusal",
        ai.UnexpectedModelBehavior("odd"): "bad_answer",
        ai.ModelAPIError("m", "odd"): "bad_answer",
        ai.ModelTimeoutError("m", "slow", phase="connect"): "timeout",
        ai.ModelRequestTimeout("m", 3): "timeout",
        ai.ModelConnectionError("m", "gone"): "connection",
    }
    found = {type(error): read_failure(error, seconds=2, secrets=()) for error in errors}
    assert [failure.error_class for failure in found.values()] == list(errors.values())
    assert found[ai.ModelTimeoutError].message == "no answer within 2 s while connecting"
