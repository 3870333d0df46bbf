"""Ways out of Jinja's sandbox, and ways to use up a machine: none of them works here."""

from time import process_time
from typing import Any

import pytest

from cognitionos_provider.definitions import check, evaluate, render
from cognitionos_provider.exceptions import TemplateError

CONTEXT: dict[str, Any] = {
    "inputs": {"text": "abc", "n": 5, "rows": [{"a": 1}], "big": "x" * 220_000, "list": list(range(20_000))},
    "steps": {"a": {"output": {"x": 1}}},
    "item": "item",
    "run": {"execution_id": "e"},
}

ESCAPES = [
    "''.__class__",
    "''['__class__']",
    "''|attr('__class__')",
    "''.__class__.__mro__[1].__subclasses__()",
    "''.__class__.__base__.__subclasses__()[100].__init__.__globals__",
    "().__class__.__bases__[0]",
    "[].__class__",
    "{}.__class__",
    "(1).__class__",
    "1.5.__class__",
    "true.__class__",
    "inputs.__class__",
    "inputs.__init__.__globals__",
    "inputs.text.__class__.mro()",
    "inputs['__class__']",
    "inputs['\\x5f\\x5fclass\\x5f\\x5f']",
    "inputs.text['\\u005f\\u005fclass\\u005f\\u005f']",
    "inputs.text['__cla' ~ 'ss__']",
    "inputs.text['__cla' 'ss__']",
    "inputs.text[('_'|string)~'_class__']",
    "inputs.text['__ssalc__'|reverse]",
    "inputs.text['__CLASS__'|lower]",
    "inputs.text[['__','class','__']|join]",
    "inputs.get('text')",
    "inputs.items()",
    "inputs.pop('text')",
    "inputs.rows.append(1)",
    "inputs.rows.pop",
    "inputs.update({'a': 1})",
    "inputs.text.format",
    "inputs.text.format(1)",
    "'{0.__class__}'.format(inputs)",
    "'{a.__class__.__mro__}'.format_map(inputs)",
    "'%s'|format(inputs)",
    "'%(a)s' % inputs",
    "'%s' % ''",
    "inputs.rows|map(attribute='__class__')",
    "['a']|map(attribute='__class__')|first",
    "inputs.rows|map(attribute='a.__class__')",
    "inputs.rows|map('attr', '__class__')",
    "inputs.rows|selectattr('a')",
    "inputs.rows|rejectattr('__class__', 'equalto', 1)",
    "inputs.rows|select('callable')",
    "inputs.rows|groupby('__class__')",
    "inputs.rows|sort(attribute='__class__')",
    "inputs.rows|sum(attribute='__class__')",
    "inputs|xmlattr",
    "inputs.text|safe",
    "inputs.text|pprint",
    "inputs|dictsort",
    "inputs.text|filesizeformat",
    "inputs.text|wordwrap",
    "inputs.text|urlize",
    "inputs.text|escape",
    "range(10)",
    "lipsum",
    "lipsum()",
    "lipsum.__globals__['os'].popen('id').read()",
    "cycler.__init__.__globals__.os.popen('id').read()",
    "joiner.__init__.__globals__",
    "namespace.__init__.__globals__",
    "dict.__base__.__subclasses__()",
    "dict(a=1)",
    "self",
    "self.__init__.__globals__",
    "self._TemplateReference__context",
    "context",
    "loop",
    "caller",
    "varargs",
    "kwargs",
    "_",
    "gettext('x')",
    "config.items()",
    "request.application.__globals__",
    "url_for.__globals__",
    "get_flashed_messages.__globals__",
    "g.pop.__globals__",
    "var.value.secret",
    "conn.my_db.password",
    "macros.datetime.sys",
    "ti.xcom_pull()",
    "dag",
    "__import__('os')",
    "__builtins__",
    "eval('1')",
    "open('/etc/passwd').read()",
    "print",
    "inputs.text.upper()",
    "(inputs.text.upper)()",
    "inputs.text is callable",
    "inputs.text is filter",
    "inputs.text is sameas inputs.text",
    "inputs.text|upper()()",
    "inputs.text|attr('upper')",
    "steps.__class__",
    "steps.__class__.output",
    "steps['a'].output.__class__",
    "steps.a.__class__",
    "run.__class__",
    "run['execution_id'].__class__",
    "item.__class__",
    "item|attr(item)",
    "[].append(1)",
    "{}.setdefault",
    "inputs.text.__len__",
    "inputs.text.__doc__",
    "inputs.n.real",
    "inputs.n.to_bytes",
    "inputs.n.__add__",
    "none.__class__",
    "(none).x",
    "2 ** 10",
    "lambda: 1",
    "[x for x in inputs.rows]",
    "inputs.a := 1",
    "await inputs.text",
    "inputs.text if inputs else (yield)",
    "`id`",
    "inputs.text; inputs.n",
    "inputs.ｔext",
    "inputs.text.__ｃlass__",
    "𝓲nputs.text",
    "%}{{ inputs.text }}{%",
    "inputs.text }} {{ inputs.n",
    "inputs.text #}",
    "{% set x = 1 %}",
    "{% import 'os' %}",
    "''.__class__|default(1)",
    "''.__class__ is defined",
    "inputs.text.__class__ is undefined",
]


@pytest.mark.parametrize("escape", ESCAPES)
def test_an_escape_is_refused(escape: str) -> None:
    with pytest.raises(TemplateError):
        evaluate(escape, CONTEXT)
    with pytest.raises(TemplateError):
        render("{{ " + escape.replace("}} {{", "{{ }}") + " }}", CONTEXT)


@pytest.mark.parametrize(
    "statement", ["{% for x in ().__class__ %}{% endfor %}", "{# x #}", "{%- set a = 1 -%}"]
)
def test_a_statement_is_text(statement: str) -> None:
    check(statement)
    assert render(statement, CONTEXT) == statement


def test_names_of_python_attributes_are_keys_like_any_other() -> None:
    context = {"inputs": {"__class__": "a", "items": "b", "mro": {"__init__": "c"}}}
    assert render("{{ inputs.__class__ }}{{ inputs.items }}{{ inputs.mro.__init__ }}", context) == "abc"


BOMBS = [
    "'a' * 1000000000",
    "[0] * 1000000000",
    "10 * 'a' * 10",
    "'a'.center(1000000000)",
    "'a'|center(1000000000)",
    "'a'|indent(1000000000)",
    "'%1000000000d' % 1",
    "'%*d'|format(1000000000, 1)",
    "'{:>1000000000}'.format(1)",
    "range(1000000000)",
    "range(1000000000)|list",
    "9 ** 9 ** 9",
    "10 * " * 60 + "10",
    "9999999999999999999 * 9999999999999999999 * 9999999999999999999 * 9999999999999999999",
    "1e308 * 10",
    "1e308 + 1e308",
    "[1e308, 1e308] | sum",
    "lipsum(n=100000)",
    "inputs.big | replace('x', inputs.big)",
    "inputs.list | join(inputs.big)",
    "[" + "inputs.big," * 40 + "] | join",
    "[" + "inputs.big," * 40 + "]",
    "~".join(["inputs.big"] * 40),
    " + ".join(["inputs.big"] * 40),
    "inputs.big" + "|upper|lower" * 30,
    "[" + "inputs.big," * 40 + "] | tojson",
    "[" + "inputs.big," * 40 + "] | unique",
    "{'a': [" + "inputs.list," * 90 + "]}",
    "+".join(["inputs.list[:]"] * 90 + ["inputs.list"] * 9),
    "inputs.big|slice(1000000)",
    "inputs.big|batch(1)",
    "inputs.big|wordcount",
    "inputs.list|random",
    "1|round(1000000000)",
    "'9' * 5000 | int",
    "1" + "0" * 4000 + " * 10",
]


@pytest.mark.parametrize("bomb", BOMBS, ids=range(len(BOMBS)))
def test_a_bomb_is_refused_at_once(bomb: str) -> None:
    begun = process_time()
    with pytest.raises(TemplateError):
        evaluate(bomb, CONTEXT)
    assert process_time() - begun < 3


@pytest.mark.parametrize(
    "value",
    [
        "{{ inputs.big }}," * 40,
        ["{{ inputs.big }}"] * 40,
        {f"k{index}": "{{ inputs.list }}" for index in range(100)},
        ["{{ inputs.big | upper }} "] * 10,
    ],
    ids=["text", "list", "object", "filters"],
)
def test_all_that_one_rendering_makes_is_bounded_together(value: Any) -> None:
    begun = process_time()
    with pytest.raises(TemplateError, match="larger than 4,194,304 characters"):
        render(value, CONTEXT)
    assert process_time() - begun < 3


@pytest.mark.parametrize(
    "text",
    [
        "{{" * 200_000,
        "{{ '" + "\\'" * 400_000,
        '{{ "' + "'\"" * 300_000,
        "{{ " + "(" * 500_000,
        "{{ " + "a" * 900_000,
    ],
    ids=["openings", "escaped quotes", "mixed quotes", "brackets", "name"],
)
def test_a_text_made_to_be_slow_to_read_is_refused_at_once(text: str) -> None:
    begun = process_time()
    with pytest.raises(TemplateError):
        check(text)
    assert process_time() - begun < 3


def test_a_long_text_with_many_expressions_is_no_trouble() -> None:
    begun = process_time()
    assert render("{{ inputs.n }}," * 20_000, CONTEXT) == "5," * 20_000
    assert process_time() - begun < 3
