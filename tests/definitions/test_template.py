import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from cognitionos_provider.definitions import Reference, check, evaluate, references, render
from cognitionos_provider.definitions import template as template_module
from cognitionos_provider.exceptions import TemplateError

CONTEXT: dict[str, Any] = {
    "inputs": {
        "name": "Ada",
        "count": 3,
        "ratio": 0.5,
        "yes": True,
        "nothing": None,
        "words": ["pear", "apple", "fig", "apple"],
        "rows": [{"id": 1, "user": {"name": "x"}}, {"id": 2, "user": {"name": "y"}}],
        "items": "a key",
        "keys": {"values": "another"},
        "a-b": "dashed",
        "evil": "{{ inputs.name }} {% x %}",
        "empty": [],
    },
    "steps": {"extract": {"output": {"rows": [10, 20]}}, "get-data": {"output": "text"}, "late": {}},
    "item": {"id": 7},
    "run": {"execution_id": "e-1"},
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


@given(json_values)
def test_one_expression_keeps_the_value_with_its_type(value: JsonValue) -> None:
    rendered = render({"x": ["{{ inputs.v }}"]}, {"inputs": {"v": value}})
    assert rendered == {"x": [value]}
    assert isinstance(rendered, dict)
    assert isinstance(rendered["x"], list)
    assert type(rendered["x"][0]) is type(value)


@given(json_values.filter(lambda value: not isinstance(value, str)))
def test_in_a_text_everything_but_text_stands_as_json(value: JsonValue) -> None:
    rendered = render("<{{ inputs.v }}>", {"inputs": {"v": value}})
    assert isinstance(rendered, str)
    assert json.loads(rendered[1:-1]) == value


@given(st.text())
def test_a_value_that_is_put_in_is_never_rendered_again(text: str) -> None:
    value = "{{ inputs.secret }}" + text + "{{"
    context = {"inputs": {"v": value, "secret": "s"}}
    assert render("{{ inputs.v }}", context) == value
    assert render("a {{ inputs.v }} b", context) == f"a {value} b"
    assert render(["{{ inputs.v ~ '{{ inputs.secret }}' }}"], context) == [value + "{{ inputs.secret }}"]


@given(st.text().filter(lambda text: "{{" not in text))
def test_a_text_without_an_expression_stays_as_it_is(text: str) -> None:
    assert render(text, {}) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Hello {{ inputs.name }}!", "Hello Ada!"),
        ("{{ inputs.count }} {{ inputs.ratio }} {{ inputs.yes }} {{ inputs.nothing }}", "3 0.5 true null"),
        ("{{ inputs.words }}", ["pear", "apple", "fig", "apple"]),
        ("rows: {{ inputs.rows[0] }}", 'rows: {"id": 1, "user": {"name": "x"}}'),
        (" {{ inputs.count }}", " 3"),
        ("{{inputs.count}}{{inputs.count}}", "33"),
        ("{{\n inputs\n.count }}", 3),
        ("{% for x in y %} {# note #} {{ inputs.count }} }} {", "{% for x in y %} {# note #} 3 }} {"),
        ("{{ '{{' }} and {{ '}}' }}", "{{ and }}"),
        ("{{ {'a': {'b': 1}} }}", {"a": {"b": 1}}),
        ("{{ {'a': {'b': 1}}}}", {"a": {"b": 1}}),
        ('{{ "it\'s \\"}}\\"" }}', 'it\'s "}}"'),
        ("{{ inputs.items }} {{ inputs.keys.values }}", "a key another"),
        ("{{ inputs['a-b'] }}", "dashed"),
        ("{{ inputs.rows[0].user['name'] }}", "x"),
        ("{{ inputs.rows.1.id }}", 2),
        ("{{ inputs.rows[-1].id }}", 2),
        ("{{ inputs.words[1:3] }}", ["apple", "fig"]),
        ("{{ inputs.name[0] ~ inputs.name[1:] }}", "Ada"),
        ("{{ steps.extract.output.rows[0] }}", 10),
        ("{{ steps['get-data'].output }}", "text"),
        ("{{ steps['get-data']['output'] }}", "text"),
        ("{{ item.id }} {{ run.execution_id }}", "7 e-1"),
        ("{{ inputs.evil }}", "{{ inputs.name }} {% x %}"),
        ("é 日本 {{ inputs.name }}", "é 日本 Ada"),
    ],
)
def test_a_template_gives(text: str, value: JsonValue) -> None:
    assert render(text, CONTEXT) == value


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("inputs.count + 1 - 2 * 3", -2),
        ("7 / 2", 3.5),
        ("7 // 2 + 7 % 4", 6),
        ("-inputs.count + +1", -2),
        ("'a' + 'b' ~ 1", "ab1"),
        ("[1] + [2]", [1, 2]),
        ("inputs.count > 2 and inputs.name == 'Ada'", True),
        ("1 < inputs.count <= 3", True),
        ("1 < inputs.count < 3", False),
        ("not inputs.yes or inputs.nothing", None),
        ("'ear' in inputs.words[0]", True),
        ("'fig' in inputs.words and 'kiwi' not in inputs.words", True),
        ("'name' in inputs and 5 not in inputs", True),
        ("'many' if inputs.count > 2 else 'few'", "many"),
        ("(1, 'a', none, true)", [1, "a", None, True]),
        ("inputs.words | sort | unique | join(', ')", "apple, fig, pear"),
        ("inputs.words | sort(reverse=true) | first", "pear"),
        ("inputs.words | last | upper | lower | trim('a')", "pple"),
        ("inputs.words | length + inputs.words | count", 8),
        ("inputs | length", 12),
        ("inputs.rows | map(attribute='id') | sum", 3),
        ("inputs.rows | map(attribute='nope', default=0) | sum", 0),
        ("inputs.rows | map(attribute='user') | map(attribute='name') | list_", "no filter"),
        ("[3, 1, 2] | min + [3, 1, 2] | max", 4),
        ("[3, 1] | reverse", [1, 3]),
        ("'abc' | reverse", "cba"),
        ("'abc' | first ~ 'abc' | last", "ac"),
        ("' a ' | trim", "a"),
        ("'a-b-c' | replace('-', '+')", "a+b+c"),
        ("inputs.rows[0].user | tojson", '{"name": "x"}'),
        ("'<é>' | tojson", '"<é>"'),
        ("inputs.count | string", "3"),
        ("'42' | int + '0.5' | float", 42.5),
        ("'x' | int(default=none)", None),
        ("[1] | float(0)", 0),
        ("2.567 | round(1)", 2.6),
        ("-inputs.count | abs", 3),
        ("(-3) | abs", 3),
        ("inputs.missing | default('d')", "d"),
        ("inputs.missing.deeper | d('d')", "d"),
        ("inputs.missing | default", ""),
        ("inputs.nothing.deeper | default(1)", 1),
        ("inputs.nothing | default(1)", None),
        ("inputs.nothing | default(1, true)", 1),
        ("inputs.nothing | default(1, boolean=false)", None),
        ("inputs.name | default(inputs.missing)", "Ada"),
        ("inputs.missing | default(default_value=inputs.name)", "Ada"),
        ("inputs.empty | first | default('none')", "none"),
        ("inputs.empty | max | default(0)", 0),
        ("steps.late.output | default('skipped')", "skipped"),
        ("steps.never.output is defined", False),
        ("inputs.name is defined and inputs.nope is undefined", True),
        ("inputs.name is not defined", False),
        ("inputs.nothing is none and inputs.name is string and inputs.count is number", True),
        ("inputs is mapping and inputs.words is sequence and inputs.yes is boolean", True),
        ("inputs.yes is number or inputs.yes is integer", False),
        ("inputs.ratio is float and inputs.count is integer", True),
        ("inputs.yes is true and inputs.yes is not false", True),
        ("3 is eq 3 and 3 is equalto(3) and 3 is ne 4 and 3 is lt 4 and 3 is le 3", True),
        ("3 is gt 2 and 3 is ge 3 and 3 is in [1, 3]", True),
        ("{{ inputs.count }}", 3),
        ("  {{ inputs.words }}\n", ["pear", "apple", "fig", "apple"]),
    ],
)
def test_an_expression_gives(expression: str, value: JsonValue) -> None:
    if value == "no filter":
        with pytest.raises(TemplateError, match="no filter"):
            evaluate(expression, CONTEXT)
        return
    result = evaluate(expression, CONTEXT)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("expression", "fragment"),
    [
        ("inputs.nmae", "inputs.nmae is not there; did you mean 'name'?"),
        ("inputs.rows[0].zzz", "inputs.rows[0].zzz is not there; inputs.rows[0] has 'id', 'user'"),
        ("item.qqq.deeper", "item.qqq is not there; item has 'id'"),
        (
            "inputs.zzzzzzz",
            "'name', 'count', 'ratio', 'yes', 'nothing', 'words', 'rows', 'items', 'keys', 'a-b', ...",
        ),
        ("inputs.rows[9]", "inputs.rows[9] is not there: it has 2 items"),
        ("inputs.nothing.a", "inputs.nothing is null, which has no 'a'"),
        ("inputs.name.upper", "inputs.name is text, which has no 'upper'"),
        ("inputs.words.append", "inputs.words is a list, which has no 'append'"),
        ("inputs.words['0']", "inputs.words is a list, which has no '0'"),
        ("inputs.words[true]", "no place for true or false"),
        ("inputs[1]", "The keys of inputs are text, and this one is a number"),
        ("inputs.count[0]", "inputs.count is a number"),
        ("inputs.count[1:]", "only a list or a text has parts"),
        ("inputs.words[::0]", "slice step cannot be zero"),
        ("steps.never.output", "steps.never has no value: that step was skipped or has not ended"),
        ("steps.late.output.rows", "steps.late.output has no value: that step was skipped"),
        ("(inputs.words | map(attribute='a'))", "item 0 is text"),
        ("inputs.rows | map(attribute='zzz')", "item 0 has no 'zzz'"),
        ("inputs.rows | map('upper')", "filter 'map'"),
        ("inputs.name + 1", "'+' can't be used with text and a number; join texts with '~'"),
        ("inputs.name * 3", "'*' can't be used with text and a number"),
        ("inputs.yes + 1", "true or false"),
        ("1 / 0", "divides by zero"),
        ("1 < 'a'", "can't be computed"),
        ("1 in 2", "'in' needs a list"),
        ("1 in 'a'", "'in' needs text"),
        ("-inputs.name", "A sign needs a number"),
        ("{1: 2}", "The keys of an object are text"),
        ("'x' | int", "can't make a number of 'x'; give a default"),
        ("'nan' | float", "can't make a number"),
        ("none | int", "can't make a number of null"),
        ("'a' | abs", "needs a number"),
        ("'a' | round", "needs a number"),
        ("1 | round(99)", "precision"),
        ("1 | length", "'length' needs text, a list or an object"),
        ("'abc' | join(',')", "'join' needs a list, not text"),
        ("['a'] | sum", "list of numbers"),
        ("[1, 'a'] | sort", "can't be computed"),
        ("1 | upper", "'upper' needs text, not a number"),
        ("'a' | replace('', 'b')", "can't look for an empty text"),
        ("inputs.empty | first", "the value is empty"),
        ("inputs.empty | min", "empty list"),
        ("run.user", "'run' has only run.execution_id"),
        ("run", "'run' has only run.execution_id"),
        ("steps", "named in the expression itself"),
        ("steps.extract", "steps['extract'].output"),
        ("steps.get-data.output", "written steps['get-data'].output"),
        ("input.name", "'input' is unknown; did you mean 'inputs'?"),
        ("zzz", "'zzz' is unknown; there are inputs, steps, item, run"),
        ("'a' if inputs.yes", "an 'if' needs an 'else'"),
        ("inputs.name | uper", "no filter 'uper'; did you mean 'upper'?"),
        ("inputs.name is strung", "no test 'strung'; did you mean 'string'?"),
        ("inputs.name | zzzzzz", "there are abs, count, d, default"),
        ("inputs.name | replace('a')", "filter 'replace': missing a required argument"),
        ("inputs.name | join(*inputs.words)", "have to be written out"),
        ("inputs.name | upper(x=1)", "filter 'upper'"),
        ("inputs.", "{{ inputs. }}"),
        ("'open", "{{ 'open }}"),
        ("1, 2", "unexpected ','"),
        ("1\n2", "unexpected 2"),
        ("'\\0'", "NUL"),
        ("'\\ud800'", "surrogate"),
        ("1e999", "too large"),
        ("9" * 5000, "too many digits"),
        ("a" * 10_001, "too long"),
        ("(" * 4000, "nested too deeply"),
        ("inputs" + ".a" * 3000, "nested too deeply"),
        ("1" + " + 1" * 2000, "nested too deeply"),
        ("not " * 2000 + "true", "nested too deeply"),
        ("{{ inputs.a }} {{ inputs.b }}", "is not one expression"),
        ("{{ inputs.a }} and 1", "is not one expression"),
        ("", "there is no expression"),
    ],
)
def test_a_wrong_expression_is_an_error_that_says_why(expression: str, fragment: str) -> None:
    with pytest.raises(TemplateError) as caught:
        evaluate(expression, CONTEXT)
    assert fragment.replace("unexpected 2", "unexpected '2'") in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("a {{ inputs.name", "no '}}' that closes it"),
        ("{{ 'a }}", "no '}}' that closes it"),
        ("{{ (inputs.name }}", "no '}}' that closes it"),
        ("{{- inputs.name }}", "put a space after the braces"),
        ("{{+ inputs.count }}", "put a space after the braces"),
        ("{{ }}", "there is no expression"),
        ("{{ inputs.name -}}", "{{ inputs.name - }}"),
        ("{{ {% x %} }}", "{{ {% x %} }}"),
    ],
)
def test_a_wrong_template_is_an_error_before_anything_runs(text: str, fragment: str) -> None:
    with pytest.raises(TemplateError) as caught:
        check({"a": [text]})
    assert fragment in str(caught.value)


def test_the_error_names_the_expression() -> None:
    with pytest.raises(TemplateError, match=r"^\{\{ inputs\.nmae \}\}: "):
        render("Hello {{ inputs.nmae }}", CONTEXT)


def test_a_root_that_the_context_lacks_is_missing() -> None:
    with pytest.raises(TemplateError, match="'item' has no value here"):
        render("{{ item }}", {"inputs": {}})


def test_references_name_all_that_a_value_reads() -> None:
    value: JsonValue = {
        "a": [
            "{{ steps.extract.output[inputs.index] }}",
            "no {{ item }} and {{ steps['b-c'].output | length }}",
        ],
        "{{ steps.key.output }}": 1,
    }
    assert references(value) == {
        Reference("steps", "extract"),
        Reference("steps", "b-c"),
        Reference("inputs"),
        Reference("item"),
    }
    assert references("steps.a.output == run.execution_id", expression=True) == {
        Reference("steps", "a"),
        Reference("run"),
    }
    assert references("{{ inputs.a }}", expression=True) == {Reference("inputs")}
    assert references("plain inputs.a") == set()
    with pytest.raises(TemplateError, match="is a text"):
        references(["inputs.a"], expression=True)


def test_keys_of_objects_and_values_that_are_no_text_stay_as_they_are() -> None:
    value: JsonValue = {"{{ inputs.name }}": [1, None, True, 1.5, {"a": "{{ inputs.name }}"}]}
    assert render(value, CONTEXT) == {"{{ inputs.name }}": [1, None, True, 1.5, {"a": "Ada"}]}


def test_rendering_changes_neither_the_value_nor_the_context() -> None:
    value: JsonValue = {"a": ["{{ inputs.words | sort }}", "{{ inputs.words | reverse }}"]}
    before = json.dumps([value, CONTEXT])
    render(value, CONTEXT)
    assert json.dumps([value, CONTEXT]) == before


def test_data_that_is_no_json_can_not_come_out() -> None:
    for value in (object(), {1, 2}, float("nan"), [b"bytes"], {"a": print}):
        for text in ("{{ inputs.v }}", "a {{ inputs.v }}"):
            with pytest.raises(TemplateError):
                render(text, {"inputs": {"v": value}})


def test_data_nested_without_end_is_an_error_and_no_crash() -> None:
    deep: Any = []
    other: Any = []
    for _ in range(100_000):
        deep, other = [deep], [other]
    context = {"inputs": {"v": deep, "w": other}}
    for text in ("a {{ inputs.v }}", "{{ inputs.v | tojson }}", "{{ inputs.v == inputs.w }}"):
        with pytest.raises(TemplateError, match="nested too deeply"):
            render(text, context)
    with pytest.raises(TemplateError, match="nested too deeply"):
        render(deep, context)


def test_the_module_names_its_interface() -> None:
    assert all(hasattr(template_module, name) for name in template_module.__all__)
