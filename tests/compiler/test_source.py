"""The generated DAG file."""

import ast
import json
from datetime import UTC, datetime

from cognitionos_provider.compiler import dag_file

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def definition_in(source):
    call = ast.parse(source).body[-1].value
    return json.loads(call.args[0].value), call.keywords[0].value.value


def test_any_text_in_a_definition_stays_text():
    nasty = {
        "name": "''' + __import__('os').system('x') + r'''",
        "quotes": "\" ' \\ \\' \n \t \\u0027",
        "unicode": "é 漢 \u2028 🜚",
        "braces": "{scheduled} {0} {{x}} %s",
    }
    definition, scheduled = definition_in(
        dag_file(json.dumps(nasty), scheduled=False, marker="m", start_date=NOW)
    )
    assert definition == nasty
    assert scheduled is False


def test_the_same_definition_gives_the_same_bytes():
    one = dag_file('{"b": 1, "a": 2}', scheduled=True, marker="m", start_date=NOW)
    assert one == dag_file('{"a": 2, "b": 1}', scheduled=True, marker="m", start_date=NOW)
    assert one.isascii()


def test_airflows_safe_mode_finds_the_dag():
    source = dag_file("{}", scheduled=True, marker="m", start_date=NOW).lower()
    assert "airflow" in source
    assert "dag" in source
