from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cognitionos_provider.observability import mask_secret
from cognitionos_provider.observability.redaction import clean, redact


def test_a_secret_is_masked_wherever_it_stands() -> None:
    mask_secret("hush-hush-1")
    assert redact("hush-hush-1, xhush-hush-1x and hush-hush-2") == "***, x***x and hush-hush-2"


@pytest.mark.parametrize(
    "spell", [quote_plus, json.dumps, repr, lambda text: json.dumps(text, ensure_ascii=False)]
)
def test_a_secret_is_masked_also_as_it_is_spelled_in_a_url_in_json_and_in_a_repr(spell: object) -> None:
    secret = "p@ss wörd\\\"'/%"
    mask_secret(secret)
    spelled = spell(secret)  # type: ignore[operator]
    assert redact(f"<{spelled}>").strip("<>\"'") == "***"


def test_of_two_secrets_where_one_begins_the_other_nothing_stays_readable() -> None:
    mask_secret("prefix-secret")
    mask_secret("prefix-secret-and-more")
    assert redact("a prefix-secret-and-more b prefix-secret c") == "a *** b *** c"


def test_a_secret_too_short_to_be_one_garbles_no_log() -> None:
    mask_secret("")
    mask_secret("in")
    assert redact("shut in") == "shut in"


def test_a_secret_that_is_no_utf8_is_masked() -> None:
    mask_secret("key-\udcff-key")
    assert redact("<key-\udcff-key>") == "<***>"


def test_what_a_database_or_utf8_cannot_hold_is_replaced() -> None:
    assert redact("a\x00b\ud800c\udfffd\U0001f600") == "a\ufffdb\ufffdc\ufffdd\U0001f600"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (1.5, 1.5),
        ("text", "text"),
        (HTTPStatus.OK, 200),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (Decimal("0.10"), "0.10"),
        (datetime(2026, 2, 14, tzinfo=UTC), "2026-02-14 00:00:00+00:00"),
        (Path("/srv"), "/srv"),
        (b"raw", "b'raw'"),
        ({"a"}, "{'a'}"),
        ((1, [2, {"k": (3,)}]), [1, [2, {"k": [3]}]]),
        (MappingProxyType({1: None}), {"1": None}),
    ],
)
def test_what_json_can_hold_stays_and_the_rest_becomes_text(value: object, shown: object) -> None:
    assert clean(value) == shown
    assert type(clean(value)) is type(shown)


def test_secrets_are_masked_in_keys_values_numbers_and_objects() -> None:
    mask_secret("hidden-value")
    mask_secret("9876543210")

    class Holder:
        def __str__(self) -> str:
            return "Holder(hidden-value)"

    assert clean({"hidden-value": ["hidden-value", {"k": Holder()}], "n": 98765432101}) == {
        "***": ["***", {"k": "Holder(***)"}],
        "n": "***1",
    }


def test_an_object_that_cannot_be_shown_is_named() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    assert clean([Broken()]) == ["<Broken that can't be shown>"]


def test_a_mapping_that_cannot_be_read_becomes_text() -> None:
    class Lazy(Mapping[str, int]):
        def __getitem__(self, key: str) -> int:
            raise OSError

        def __iter__(self) -> Iterator[str]:
            return iter(["k"])

        def __len__(self) -> int:
            return 1

        def __str__(self) -> str:
            return "Lazy"

    assert clean(Lazy()) == "Lazy"


def test_a_value_that_holds_itself_ends() -> None:
    loop: list[object] = [1]
    loop += [loop, loop]
    assert json.dumps(clean(loop)) == '[1, "[1, [...], [...]]", "[1, [...], [...]]"]'


def test_a_value_too_deep_or_a_number_too_long_does_not_break_a_line() -> None:
    deep: object = "bottom"
    for _ in range(5000):
        deep = [deep]
    json.dumps(clean(deep))
    assert clean([1, 10**5000]) == [1, "<int that can't be shown>"]


@given(
    st.recursive(
        st.none() | st.floats() | st.integers() | st.text() | st.binary(),
        lambda s: st.lists(s) | st.dictionaries(st.text() | st.integers(), s),
    )
)
def test_whatever_is_logged_is_json_that_utf8_and_jsonb_can_hold(value: object) -> None:
    text = json.dumps(clean(value), allow_nan=False, ensure_ascii=False)
    assert "\x00" not in text
    assert "\\u0000" not in text.replace("\\\\", "")
    text.encode()
