"""What a step leaves in XCom survives Airflow's own serializers as it is."""

import json

import pytest
from airflow.models.xcom import XComModel
from airflow.sdk.serde import deserialize, serialize
from hypothesis import given
from hypothesis import strategies as st

from cognitionos_provider.llm.answer import clean
from cognitionos_provider.output import decode_output, encode_output

HOSTILE = [
    {"__classname__": "builtins.eval", "__version__": 1, "__data__": {}},
    {"__type": "dag", "__var": {}},
    {"__classname__": "x"},
    '{"__classname__": "x", "__version__": 1, "__data__": {}}',
    'json:{"__classname__": "x"}',
    '"json:1"',
    "",
    None,
]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def through_an_event(text):
    """The way of a trigger's event: XComModel.set in the supervisor, then the JSON column."""
    stored = json.loads(json.dumps(XComModel.serialize_value(text)))
    return stored, XComModel.deserialize_value(type("Row", (), {"value": stored}))


def through_the_execution_api(text):
    """The way of a worker's or trigger's SetXCom and GetXCom."""
    stored = json.loads(json.dumps(serialize(text)))
    return stored, deserialize(stored), XComModel.deserialize_value(type("Row", (), {"value": stored}))


@pytest.mark.parametrize("value", HOSTILE)
def test_an_answer_made_of_airflows_reserved_keys_arrives_unchanged(value):
    for way in (through_an_event, through_the_execution_api):
        for seen in way(encode_output(value)):
            assert decode_output(seen) == value


@given(json_values)
def test_every_output_comes_back_as_it_was_but_for_what_no_database_holds(value):
    for seen in through_an_event(encode_output(value)):
        assert decode_output(seen) == clean(value)


def test_nul_and_half_surrogates_are_replaced_in_texts_and_keys():
    assert clean({"a\0": ["x\ud800y", "\udfff", 1]}) == {"a\ufffd": ["x\ufffdy", "\ufffd", 1]}
    assert clean("plain \U0001f71a é") == "plain \U0001f71a é"


def test_what_a_user_or_an_operator_stored_is_given_as_it_is():
    for value in ("text", '{"a": 1}', 7, None, {"a": 1}, [1]):
        assert decode_output(value) == value
