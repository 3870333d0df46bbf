"""What an Airflow connection says, and what the environment adds to it."""

import json
from decimal import Decimal

import pytest
from airflow.models.connection import Connection as StoredConnection
from airflow.sdk import Connection as AirflowConnection
from pydantic import SecretStr

from cognitionos_provider.config import LLMConfig
from cognitionos_provider.exceptions import ConfigurationError
from cognitionos_provider.hooks.connection import join_environment, read_accounts, secrets_of
from cognitionos_provider.llm import Connection, Limits, Price

CANARY = "sk-canary-51c9"


def read(extra=None, **fields):

    fields = {"conn_id": "team", "conn_type": "cognitionos_llm", **fields}
    return read_accounts(AirflowConnection(**fields, extra=None if extra is None else json.dumps(extra)))


def one(extra=None, **fields):
    (connection,) = read(extra, **fields).connections
    return connection


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch):
    for name in LLMConfig.model_fields:
        monkeypatch.delenv(f"LLM_{name.upper()}", raising=False)


# --- the fields of one connection


def test_a_connection_is_one_account_of_openai_unless_it_says_otherwise():
    assert one(password="sk-1") == Connection(name="team", provider="openai", api_key=SecretStr("sk-1"))
    assert one({"provider": " Groq "}, password="sk-1").provider == "groq"


def test_every_field_of_the_form_is_read():
    connection = one(
        {
            "provider": "anthropic",
            "default_model": "claude-haiku-5-5",
            "max_in_flight": 20,
            "requests_per_minute": 60,
            "tokens_per_minute": 90000,
            "prices": {"claude-haiku-5-5": {"input": 0.8, "output": 4}},
            "region": "eu",
        },
        password=" sk-ant-1\n",
        host="https://llm.example.com/anthropic/",
    )
    assert connection == Connection(
        name="team",
        provider="anthropic",
        api_key=SecretStr("sk-ant-1"),
        base_url="https://llm.example.com/anthropic",
        default_model="claude-haiku-5-5",
        limits=Limits(max_in_flight=20, requests_per_minute=60, tokens_per_minute=90000),
        prices={"claude-haiku-5-5": Price(input=Decimal("0.8"), output=Decimal(4))},
        options={"region": "eu"},
    )


def test_what_the_form_leaves_empty_is_not_set():
    empty = dict.fromkeys(("provider", "default_model", "fallback_conn_ids", "max_in_flight", "prices"))
    assert one(empty, password="", host="") == one()
    assert one(dict.fromkeys(empty, "")) == one()
    assert read(empty).fallback_conn_ids == ()


@pytest.mark.parametrize("kind", [AirflowConnection, StoredConnection])
def test_a_uri_gives_the_same_as_the_form(kind):
    uri = (
        "cognitionos-llm://:sk-1@api.example.com?provider=local&default_model=llama3.3%3A70b"
        "&max_in_flight=20&fallback_conn_ids=a,b&prices=%7B%22llama3.3:70b%22:%7B%22input%22:1,%22output%22:2%7D%7D"
    )
    given = read_accounts(kind(conn_id="team", uri=uri))
    assert given.fallback_conn_ids == ("a", "b")
    (connection,) = given.connections
    assert connection == one(
        {
            "provider": "local",
            "default_model": "llama3.3:70b",
            "max_in_flight": 20,
            "prices": {"llama3.3:70b": {"input": 1, "output": 2}},
        },
        password="sk-1",
        host="https://api.example.com",
    )


@pytest.mark.parametrize("kind", [AirflowConnection, StoredConnection])
@pytest.mark.parametrize(
    ("host", "extra"),
    [
        ("http://localhost:11434/v1", {"provider": "local", "max_in_flight": 3}),
        ("https://api.example.com", {"provider": "openai", "prices": {"m": {"input": 1, "output": 2}}}),
        (None, {"fallback_conn_ids": ["a", "b"]}),
    ],
)
def test_a_connection_survives_its_own_uri(kind, host, extra):
    """Airflow's test of a connection passes it on as one."""

    given = kind(
        conn_id="team", conn_type="cognitionos_llm", host=host, password="sk/1@x", extra=json.dumps(extra)
    )
    assert read_accounts(kind(conn_id="team", uri=given.get_uri())) == read_accounts(given)


@pytest.mark.parametrize(
    ("host", "port", "schema", "url"),
    [
        ("api.example.com", None, None, "https://api.example.com"),
        ("api.example.com/v1", None, "", "https://api.example.com/v1"),
        ("localhost:8080/v1", None, None, "https://localhost:8080/v1"),
        ("http://localhost/v1", 11434, None, "http://localhost:11434/v1"),
        ("http://localhost:80/v1", 11434, None, "http://localhost:11434/v1"),
        ("http://[::1]:80", 11434, None, "http://[::1]:11434"),
        ("http://[::1]", 11434, None, "http://[::1]:11434"),
        # So does Airflow take apart a URI such as cognitionos-llm://http://:key@localhost:11434/v1
        ("http://localhost", 11434, "v1", "http://localhost:11434/v1"),
        (" ", None, None, None),
    ],
)
def test_the_base_url_is_put_together_of_host_port_and_path(host, port, schema, url):
    assert one(host=host, port=port, schema=schema).base_url == url


@pytest.mark.parametrize(
    ("provider", "given", "model"),
    [
        ("openai", "gpt-4", "gpt-4"),
        ("openai", "openai:gpt-4", "gpt-4"),
        ("openai", "ft:gpt-4:org::id", "ft:gpt-4:org::id"),
        ("local", "llama3.3:70b", "llama3.3:70b"),
        ("local", "local:llama3.3:70b", "llama3.3:70b"),
        ("groq", "groq:llama", "llama"),
    ],
)
def test_a_default_model_may_be_told_with_its_provider(provider, given, model):
    assert one({"provider": provider, "default_model": given}).default_model == model


@pytest.mark.parametrize("value", ["a, b,,", '["a", "b"]', ["a", " b "]])
def test_fallbacks_are_named_with_commas_or_as_a_list(value):
    assert read({"fallback_conn_ids": value}).fallback_conn_ids == ("a", "b")


def test_prices_may_be_keyed_with_their_provider():
    prices = {"openai:gpt-4": {"input": "30", "output": 60}}
    assert one({"prices": prices}).prices == {"gpt-4": Price(input=30, output=60)}


def test_a_connection_named_like_another_provider_is_not_taken_for_it():
    assert one({"provider": "openai"}, conn_id="anthropic").name == "anthropic/openai"
    assert one({"provider": "openai"}, conn_id="openai").name == "openai"


# --- the earlier form


def test_a_connection_of_the_earlier_form_is_an_account_for_each_provider_it_names():
    given = read(
        {
            "openai_api_key": "sk-1",
            "anthropic_api_key": "sk-ant-1",
            "anthropic_base_url": "https://h",
            "max_in_flight": 2,
        }
    )
    limits = Limits(max_in_flight=2)
    assert given.connections == (
        Connection(name="team/openai", provider="openai", api_key=SecretStr("sk-1"), limits=limits),
        Connection(
            name="team/anthropic",
            provider="anthropic",
            api_key=SecretStr("sk-ant-1"),
            base_url="https://h",
            limits=limits,
        ),
    )


def test_one_of_the_earlier_form_with_a_single_provider_has_the_connections_name():
    assert one({"anthropic_api_key": "sk-ant-1"}) == one({"provider": "anthropic"}, password="sk-ant-1")


def test_both_forms_may_be_mixed_and_the_password_wins():
    given = read(
        {"provider": "openai", "openai_api_key": "sk-old", "anthropic_api_key": "sk-ant-1"}, password="sk-new"
    )
    assert list(secrets_of(given.connections)) == ["sk-new", "sk-ant-1"]


def test_the_earlier_form_may_have_any_type_of_connection():
    assert one({"openai_api_key": "sk-1"}, conn_type="generic").api_key == SecretStr("sk-1")


# --- what is wrong with one


@pytest.mark.parametrize(
    ("fields", "extra", "words"),
    [
        ({}, {"max_in_flight": CANARY}, "its max_in_flight must be a whole number, 1 or more"),
        ({}, {"max_in_flight": 0}, "its max_in_flight must be"),
        ({}, {"requests_per_minute": True}, "its requests_per_minute must be"),
        ({}, {"tokens_per_minute": 1.5}, "its tokens_per_minute must be"),
        ({}, {"prices": CANARY}, "its prices must be a JSON object"),
        ({}, {"prices": [1]}, "its prices must be a JSON object"),
        ({}, {"prices": {"gpt-4": {"input": CANARY, "output": 1}}}, "prices ('input' of 'gpt-4') must be"),
        ({}, {"prices": {"gpt-4": {"input": 1}}}, "prices ('output' of 'gpt-4') must be"),
        ({}, {"prices": {"gpt-4": {"input": -1, "output": 1}}}, "prices ('input' of 'gpt-4') must be"),
        ({}, {"provider": CANARY + "!"}, "its provider must be the name of a provider"),
        ({}, {"provider": 3}, "its provider must be text"),
        ({}, {"default_model": "anthropic:x"}, "one of its own provider, which is 'openai'"),
        ({}, {"fallback_conn_ids": 3}, "its fallback_conn_ids must be connection ids"),
        ({}, {"fallback_conn_ids": "[1]"}, "its fallback_conn_ids must be connection ids"),
        ({}, {"fallback_conn_ids": "[a"}, "its fallback_conn_ids must be connection ids"),
        ({}, {"openai_api_key": f"{CANARY}\nx"}, "its openai_api_key must be a key of printable ASCII"),
        ({}, {"openai_base_url": f"https://u:{CANARY}@h"}, "its openai_base_url must be an http://"),
        ({}, [CANARY], "its extra must be a JSON object"),
        ({"password": f"“{CANARY}”"}, {}, "its password must be a key of printable ASCII"),
        ({"host": f"https://u:{CANARY}@h"}, {}, "its host must be an http://"),
        ({"host": f"ftp://{CANARY}"}, {}, "its host must be an http://"),
        ({"host": f"h?key={CANARY}"}, {}, "its host must be an http://"),
        ({"port": 8080}, {}, "its host must be set where its port is"),
        ({"login": CANARY}, {}, "its login must be empty; an API key is its password"),
        ({"conn_type": "postgres", "password": CANARY}, {}, "is of type 'postgres'; only one of type"),
    ],
)
def test_a_malformed_connection_is_told_with_its_id_and_field_and_without_its_values(fields, extra, words):
    with pytest.raises(ConfigurationError) as caught:
        read(extra, **fields)
    assert words in str(caught.value)
    assert "'team'" in str(caught.value)
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_an_extra_that_is_no_json_is_told_without_its_text():
    with pytest.raises(ConfigurationError, match="its extra must be a JSON object"):
        read_accounts(AirflowConnection(conn_id="team", conn_type="cognitionos_llm", extra=CANARY))


def test_no_secret_of_a_connection_is_shown():
    connection = one(
        {"aws_secret_access_key": CANARY, "nested": {"private_key": CANARY}}, password=CANARY, host=CANARY
    )
    assert CANARY not in repr(connection)
    assert list(secrets_of([connection])) == [CANARY] * 3


# --- the environment


@pytest.fixture
def environment(monkeypatch):
    def make(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(f"LLM_{name}", value)
        return LLMConfig()

    return make


def test_what_a_connection_leaves_out_comes_from_the_environment(environment):
    llm = environment(OPENAI_API_KEY="sk-env", OPENAI_BASE_URL="https://env")
    (joined,) = join_environment([one(host="https://own", extra={"max_in_flight": 1})], llm)
    assert (joined.api_key, joined.base_url) == (SecretStr("sk-env"), "https://own")
    (joined,) = join_environment([one(password="sk-own")], llm)
    assert (joined.name, joined.api_key, joined.base_url) == ("team", SecretStr("sk-own"), "https://env")


def test_a_provider_that_no_connection_serves_is_the_environments(environment):
    llm = environment(
        OPENAI_API_KEY="sk-env",
        ANTHROPIC_API_KEY="sk-ant-env",
        LOCAL_BASE_URL="http://localhost:11434/v1",
        MAX_IN_FLIGHT="7",
    )
    joined = join_environment([one(password="sk-own")], llm)
    assert [each.name for each in joined] == ["team", "anthropic", "local"]
    assert [each.limits.max_in_flight for each in joined] == [None, 7, 7]
    assert joined[2].api_key is None


def test_an_empty_environment_adds_nothing(environment):
    assert join_environment([], environment()) == ()
