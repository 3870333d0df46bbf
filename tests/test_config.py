from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from operator import attrgetter
from pathlib import Path
from typing import get_args

import pytest
from pydantic import SecretStr

from cognitionos_provider.config import Config, get_config, get_llm_config, get_redis_url_for_steps
from cognitionos_provider.environment import ModelPrice
from cognitionos_provider.exceptions import ConfigurationError

PREFIXES = (
    *("DB_", "REDIS_", "RABBITMQ_", "LLM_", "CELERY_", "API_", "SECURITY_", "OBSERVABILITY_"),
    "COGNITIONOS_",
)
CANARY = "canary-7f3a-secret"

Load = Callable[..., Config]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Read the settings from an environment with these variables and none other of ours."""
    for name in list(os.environ):
        if name.upper().startswith(PREFIXES):
            monkeypatch.delenv(name)

    def load(**variables: str) -> Config:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        get_config.cache_clear()
        return get_config()

    return load


@pytest.fixture(autouse=True)
def _forget_settings() -> object:
    yield
    for read in (get_config, get_llm_config, get_redis_url_for_steps):
        read.cache_clear()


NAMES = [
    ("DB_HOST", "db.example.com", "database.host", "db.example.com"),
    ("DB_PORT", "6543", "database.port", 6543),
    ("DB_NAME", "flows", "database.name", "flows"),
    ("DB_USER", "ada", "database.user", "ada"),
    ("DB_PASSWORD", " pad ", "database.password", SecretStr(" pad ")),
    ("REDIS_HOST", "10.0.0.7", "redis.host", "10.0.0.7"),
    ("REDIS_PORT", "6380", "redis.port", 6380),
    ("REDIS_DB", "3", "redis.db", 3),
    ("REDIS_PASSWORD", "pw", "redis.password", SecretStr("pw")),
    ("RABBITMQ_HOST", "::1", "rabbitmq.host", "::1"),
    ("RABBITMQ_PORT", "5673", "rabbitmq.port", 5673),
    ("RABBITMQ_USER", "ada", "rabbitmq.user", "ada"),
    ("RABBITMQ_PASSWORD", "pw", "rabbitmq.password", SecretStr("pw")),
    ("RABBITMQ_VHOST", "flows", "rabbitmq.vhost", "flows"),
    ("LLM_OPENAI_API_KEY", " sk-1\n", "llm.openai_api_key", SecretStr("sk-1")),
    ("LLM_ANTHROPIC_API_KEY", "sk-ant-1", "llm.anthropic_api_key", SecretStr("sk-ant-1")),
    ("LLM_LOCAL_API_KEY", "any", "llm.local_api_key", SecretStr("any")),
    ("LLM_LOCAL_BASE_URL", "http://localhost:11434/v1", "llm.local_base_url", "http://localhost:11434/v1"),
    ("LLM_OPENAI_BASE_URL", "http://localhost:9000/v1/", "llm.openai_base_url", "http://localhost:9000/v1"),
    (
        "LLM_ANTHROPIC_BASE_URL",
        "https://llm.example.com",
        "llm.anthropic_base_url",
        "https://llm.example.com",
    ),
    ("LLM_DEFAULT_PROVIDER", "Anthropic", "llm.default_provider", "anthropic"),
    ("LLM_DEFAULT_MODELS", "openai:gpt-4, gpt-4o", "llm.default_models", ("openai:gpt-4", "gpt-4o")),
    ("LLM_TIMEOUT", "2.5", "llm.timeout", 2.5),
    ("LLM_MAX_RETRIES", "4", "llm.max_retries", 4),
    (
        "LLM_PRICES",
        '{"openai:gpt-4": {"input": 30, "output": 0.1}, "llama": {"input": "0", "output": 0}}',
        "llm.prices",
        {
            "openai:gpt-4": ModelPrice(input=Decimal(30), output=Decimal("0.1")),
            "llama": ModelPrice(input=Decimal(0), output=Decimal(0)),
        },
    ),
    ("LLM_MAX_IN_FLIGHT", "20", "llm.max_in_flight", 20),
    ("LLM_REQUESTS_PER_MINUTE", "500", "llm.requests_per_minute", 500),
    ("LLM_TOKENS_PER_MINUTE", "90000", "llm.tokens_per_minute", 90_000),
    ("CELERY_BROKER_URL", "redis://h:6379/0", "celery.broker_url", SecretStr("redis://h:6379/0")),
    (
        "CELERY_RESULT_BACKEND",
        "db+postgresql://h/d",
        "celery.result_backend",
        SecretStr("db+postgresql://h/d"),
    ),
    ("API_HOST", "127.0.0.1", "api.host", "127.0.0.1"),
    ("API_PORT", "9100", "api.port", 9100),
    ("API_DEBUG", "true", "api.debug", True),
    ("API_LOG_LEVEL", "DEBUG", "api.log_level", "debug"),
    (
        "API_CORS_ORIGINS",
        "http://localhost:3000, http://localhost:8000",
        "api.cors_origins",
        ("http://localhost:3000", "http://localhost:8000"),
    ),
    ("API_MAX_REQUEST_SIZE", "1024", "api.max_request_size", 1024),
    ("API_EXECUTE_WAIT_SECONDS", "0", "api.execute_wait_seconds", 0.0),
    ("API_AIRFLOW_URL", "http://airflow:8080/base/", "api.airflow_url", "http://airflow:8080/base"),
    ("SECURITY_ALLOW_REMOTE_WITHOUT_AUTH", "1", "security.allow_remote_without_auth", True),
    ("OBSERVABILITY_SERVICE_NAME", "flows", "observability.service_name", "flows"),
    ("OBSERVABILITY_ENVIRONMENT", "production", "observability.environment", "production"),
    ("OBSERVABILITY_LOG_FORMAT", "console", "observability.log_format", "console"),
    ("OBSERVABILITY_LOG_LEVEL", "warning", "observability.log_level", "warning"),
    ("COGNITIONOS_HOME", "/srv/flows", "home", Path("/srv/flows")),
]


@pytest.mark.parametrize(("variable", "text", "path", "value"), NAMES, ids=[row[0] for row in NAMES])
def test_each_variable_sets_its_field(load: Load, variable: str, text: str, path: str, value: object) -> None:
    assert attrgetter(path)(load(**{variable: text})) == value


def test_the_table_above_names_every_field_there_is(load: Load) -> None:
    config = load()
    fields = {f"{section}.{name}" for section, part in config if section != "home" for name, _ in part}
    assert fields | {"home"} == {path for _, _, path, _ in NAMES}


def test_the_specifications_eight_sections_are_there_in_its_order() -> None:
    assert [field.annotation.__name__ for field in Config.model_fields.values()][:8] == [
        "DatabaseConfig",
        "RedisConfig",
        "RabbitMQConfig",
        "LLMConfig",
        "CeleryConfig",
        "APIConfig",
        "SecurityConfig",
        "ObservabilityConfig",
    ]


def test_defaults_are_those_of_the_contract(load: Load) -> None:
    config = load()
    assert config.database.url is None
    assert config.redis.url is None
    assert config.rabbitmq.url is None
    assert not any(part.configured for part in (config.database, config.redis, config.rabbitmq))
    assert (config.llm.openai_api_key, config.llm.anthropic_api_key) == (None, None)
    assert (config.llm.default_provider, config.llm.max_retries) == ("openai", 2)
    assert (config.llm.local_base_url, config.llm.prices) == (None, {})
    assert (config.llm.max_in_flight, config.llm.requests_per_minute, config.llm.tokens_per_minute) == (
        None,
        None,
        None,
    )
    assert (config.celery.broker_url, config.celery.result_backend) == (None, None)
    assert (config.api.host, config.api.port, config.api.debug) == ("0.0.0.0", 8100, False)
    assert (config.api.log_level, config.api.cors_origins) == ("info", ())
    assert (config.api.max_request_size, config.api.execute_wait_seconds) == (10_485_760, 15.0)
    assert config.api.airflow_url == "http://127.0.0.1:8080"
    assert config.security.allow_remote_without_auth is False
    assert config.observability.service_name == "cognitionos-v3"
    assert config.observability.environment == "development"
    assert (config.observability.log_format, config.observability.log_level) == ("json", "info")
    assert config.home == Path.home() / ".cognitionos"


def test_an_empty_variable_counts_as_unset(load: Load) -> None:
    config = load(DB_HOST="", LLM_OPENAI_API_KEY="", API_PORT="", API_CORS_ORIGINS="", LLM_DEFAULT_MODELS="")
    assert config.database.url is None
    assert config.llm.openai_api_key is None
    assert config.api.port == 8100
    assert config.api.cors_origins == ()
    assert len(config.llm.default_models) == 2


def test_the_settings_are_read_once_until_they_are_forgotten(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(API_PORT="9100")
    monkeypatch.setenv("API_PORT", "9200")
    assert get_config() is first
    get_config.cache_clear()
    assert get_config().api.port == 9200


def test_settings_cannot_be_changed_afterwards(load: Load) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().api.port = 1


def test_variables_without_our_prefix_are_not_read(load: Load) -> None:
    config = load(
        HOME="/somewhere", DATABASE="{}", API="{}", HOST="h", PORT="1", COGNITIONOS_HOME="/srv/flows"
    )
    assert config.home == Path("/srv/flows")
    assert config.api.port == 8100


def test_the_home_directory_is_absolute_and_knows_the_tilde(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert load(COGNITIONOS_HOME="~/state").home == Path("/home/ada/state")
    assert load(COGNITIONOS_HOME="state").home == Path.cwd() / "state"


# --- addresses of servers


def test_host_and_password_are_enough_for_a_database(load: Load) -> None:
    config = load(DB_HOST="localhost", DB_PASSWORD="changeme")
    assert config.database.url == "postgresql://cognition:changeme@localhost:5432/cognitionos"


def test_user_password_and_name_are_percent_encoded_in_addresses(load: Load) -> None:
    from sqlalchemy import make_url

    config = load(
        DB_USER="a@b:c",
        DB_PASSWORD="p@ss/w:rd %?#",
        DB_NAME="my db",
        RABBITMQ_VHOST="/",
        REDIS_PASSWORD="a/b@c",
    )
    url = make_url(config.database.url or "")
    assert (url.username, url.password, url.host) == ("a@b:c", "p@ss/w:rd %?#", "localhost")
    assert config.database.url == (
        "postgresql://a%40b%3Ac:p%40ss%2Fw%3Ard%20%25%3F%23@localhost:5432/my%20db"
    )
    assert config.redis.url == "redis://:a%2Fb%40c@localhost:6379/0"
    assert config.rabbitmq.url == "amqp://guest:guest@localhost:5672/%2F"


def test_an_address_without_password_has_none(load: Load) -> None:
    config = load(DB_HOST="h", REDIS_DB="2")
    assert config.database.url == "postgresql://cognition@h:5432/cognitionos"
    assert config.redis.url == "redis://localhost:6379/2"


def test_a_password_that_is_no_utf8_is_encoded_byte_for_byte(load: Load) -> None:
    assert load(DB_PASSWORD="a\udcffb").database.url == (
        "postgresql://cognition:a%FFb@localhost:5432/cognitionos"
    )


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_host_stands_in_brackets(load: Load, host: str) -> None:
    assert load(DB_HOST=host).database.url == "postgresql://cognition@[::1]:5432/cognitionos"


# --- models


def test_the_default_chain_is_openai_then_anthropic(load: Load) -> None:
    assert [name.split(":")[0] for name in load().llm.default_models] == ["openai", "anthropic"]


def test_the_default_provider_turns_the_default_chain_round(load: Load) -> None:
    ahead = load().llm.default_models
    assert load(LLM_DEFAULT_PROVIDER="anthropic").llm.default_models == ahead[::-1]


@pytest.mark.parametrize("provider", ["local", "groq", "open", "openai-chat"])
def test_a_default_provider_that_the_default_chain_does_not_hold_leaves_it_alone(
    load: Load, provider: str
) -> None:
    ahead = load().llm.default_models
    config = load(LLM_DEFAULT_PROVIDER=provider)
    assert (config.llm.default_provider, config.llm.default_models) == (provider, ahead)


def test_the_default_provider_leaves_a_given_chain_alone(load: Load) -> None:
    config = load(LLM_DEFAULT_PROVIDER="anthropic", LLM_DEFAULT_MODELS="openai:a,anthropic:b")
    assert config.llm.default_models == ("openai:a", "anthropic:b")


def test_both_default_models_have_a_price(load: Load) -> None:
    from genai_prices import Usage, calc_price

    for name in load().llm.default_models:
        provider, model = name.split(":")
        price = calc_price(Usage(input_tokens=1000, output_tokens=1000), model, provider_id=provider)
        assert price.input_price > 0, name
        assert price.output_price > 0, name
        assert not price.model.deprecated, name


def test_both_default_models_are_known_to_pydantic_ai(load: Load) -> None:
    from pydantic_ai.models import KnownModelName

    known = set(get_args(KnownModelName.__value__))
    openai, anthropic = load().llm.default_models
    assert openai.replace("openai:", "openai-chat:") in known
    assert anthropic in known


# --- malformed values

HOST = "a host name or an IP address"
URL = "an http:// or https:// address"
ORIGINS = "a comma-separated list of origins"
MODELS = "a comma-separated list of models"
PRICES = "a JSON object of prices in USD per million tokens, such as "
LEVEL = "one of debug, info, warning, error, critical"
MALFORMED = [
    ("DB_HOST", "db/x", "is 'db/x'", HOST, "localhost"),
    ("DB_HOST", "db:5432", "is 'db:5432'", HOST, "localhost"),
    ("DB_PORT", "many", "is 'many'", "from 1 to 65535", "5432"),
    ("DB_PORT", "65536", "is '65536'", "from 1 to 65535", "5432"),
    ("DB_NAME", " ", "is ' '", "the name of a database", "cognitionos"),
    ("DB_USER", " ", "is ' '", "the name of a database user", "cognition"),
    ("REDIS_HOST", "a b", "is 'a b'", HOST, "localhost"),
    ("REDIS_PORT", "tcp://10.0.0.1:6379", "is 'tcp://10.0.0.1:6379'", "from 1 to 65535", "6379"),
    ("REDIS_DB", "-1", "is '-1'", "0 or more", "0"),
    ("RABBITMQ_HOST", "amqp://h", "is 'amqp://h'", HOST, "localhost"),
    ("RABBITMQ_PORT", "0", "is '0'", "from 1 to 65535", "5672"),
    ("RABBITMQ_USER", " ", "is ' '", "the name of a RabbitMQ user", "guest"),
    ("RABBITMQ_VHOST", " ", "is ' '", "the name of a virtual host", "/"),
    ("LLM_OPENAI_BASE_URL", "llm.example.com", "is 'llm.example.com'", URL, "its default"),
    ("LLM_OPENAI_BASE_URL", "http://h:99999/v1", "is 'http://h:99999/v1'", URL, "its default"),
    ("LLM_OPENAI_BASE_URL", "http://h:0", "is 'http://h:0'", URL, "its default"),
    ("LLM_ANTHROPIC_BASE_URL", "https://h/v1?key=1", "is 'https://h/v1?key=1'", URL, "its default"),
    ("LLM_DEFAULT_PROVIDER", "open ai", "is 'open ai'", "such as openai, anthropic or local", "openai"),
    ("LLM_DEFAULT_MODELS", "openai:gpt-4,,x", "holds ''", MODELS, "its default"),
    ("LLM_DEFAULT_MODELS", "openai:", "holds 'openai:'", MODELS, "its default"),
    ("LLM_TIMEOUT", "0", "is '0'", "a number of seconds above 0", "60.0"),
    ("LLM_TIMEOUT", "inf", "is 'inf'", "a number of seconds above 0", "60.0"),
    ("LLM_MAX_RETRIES", "0", "is '0'", "1 or more", "2"),
    ("LLM_LOCAL_BASE_URL", "localhost:11434", "is 'localhost:11434'", URL, "its default"),
    ("LLM_MAX_IN_FLIGHT", "0", "is '0'", "a whole number of calls, 1 or more", "its default"),
    ("LLM_REQUESTS_PER_MINUTE", "many", "is 'many'", "a whole number of requests, 1 or more", "its default"),
    ("LLM_TOKENS_PER_MINUTE", "1.5", "is '1.5'", "a whole number of tokens, 1 or more", "its default"),
    ("LLM_PRICES", "gpt-4=30", "is 'gpt-4=30'", PRICES, "its default"),
    ("LLM_PRICES", "[1]", "is '[1]'", PRICES, "its default"),
    ("LLM_PRICES", '{"gpt-4": 30}', "holds '30' for 'gpt-4'", PRICES, "its default"),
    (
        "LLM_PRICES",
        '{"gpt-4": {"input": "a", "output": 1}}',
        "holds 'a' for 'input' of 'gpt-4'",
        PRICES,
        "its default",
    ),
    (
        "LLM_PRICES",
        '{"gpt-4": {"input": NaN, "output": 1}}',
        "holds 'NaN' for 'input' of 'gpt-4'",
        PRICES,
        "its default",
    ),
    (
        "LLM_PRICES",
        '{"gpt-4": {"input": -1, "output": 1}}',
        "holds '-1' for 'input' of 'gpt-4'",
        PRICES,
        "its default",
    ),
    ("LLM_PRICES", '{"gpt-4": {"input": 1}}', "lacks 'output' of 'gpt-4'", PRICES, "its default"),
    (
        "LLM_PRICES",
        '{"gpt-4": {"input": 1, "output": 1, "cached": 2}}',
        "holds '2' for 'cached' of 'gpt-4'",
        PRICES,
        "its default",
    ),
    (
        "LLM_PRICES",
        '{"gpt 4": {"input": 1, "output": 1}}',
        "holds 'gpt 4' for 'gpt 4'",
        PRICES,
        "its default",
    ),
    ("API_HOST", "http://0.0.0.0", "is 'http://0.0.0.0'", HOST, "0.0.0.0"),
    ("API_PORT", "8100x", "is '8100x'", "from 1 to 65535", "8100"),
    ("API_DEBUG", "maybe", "is 'maybe'", "true or false", "false"),
    ("API_LOG_LEVEL", "loud", "is 'loud'", LEVEL, "info"),
    ("API_CORS_ORIGINS", "http://a,http://b/", "holds 'http://b/'", ORIGINS, "its default"),
    ("API_CORS_ORIGINS", "http://a/path", "holds 'http://a/path'", ORIGINS, "its default"),
    ("API_CORS_ORIGINS", "localhost:3000", "holds 'localhost:3000'", ORIGINS, "its default"),
    ("API_MAX_REQUEST_SIZE", "10MB", "is '10MB'", "a whole number of bytes", "10485760"),
    ("API_EXECUTE_WAIT_SECONDS", "-1", "is '-1'", "a number of seconds, 0 or more", "15.0"),
    ("API_AIRFLOW_URL", "ftp://h", "is 'ftp://h'", URL, "http://127.0.0.1:8080"),
    ("SECURITY_ALLOW_REMOTE_WITHOUT_AUTH", "si", "is 'si'", "true or false", "false"),
    ("OBSERVABILITY_SERVICE_NAME", " ", "is ' '", "some text", "cognitionos-v3"),
    ("OBSERVABILITY_ENVIRONMENT", " ", "is ' '", "some text", "development"),
    ("OBSERVABILITY_LOG_FORMAT", "xml", "is 'xml'", "json or console", "json"),
    ("OBSERVABILITY_LOG_LEVEL", "trace", "is 'trace'", LEVEL, "info"),
    (
        "COGNITIONOS_HOME",
        "~no-such-user/x",
        "is '~no-such-user/x'",
        "the path of a directory",
        "~/.cognitionos",
    ),
]


@pytest.mark.parametrize(
    ("variable", "text", "shown", "rule", "default"),
    MALFORMED,
    ids=[f"{row[0]}={row[1]}" for row in MALFORMED],
)
def test_a_malformed_value_is_told_with_its_variable_and_the_fix(
    load: Load, variable: str, text: str, shown: str, rule: str, default: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(**{variable: text})
    [line] = str(caught.value).splitlines()
    assert line.startswith(f"{variable} {shown}. It must be ")
    assert rule in line
    assert line.endswith(f"Set it to that, or unset it for {default}.")


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("LLM_OPENAI_API_KEY", f"{CANARY} x"),
        ("LLM_OPENAI_API_KEY", f"“{CANARY}”"),
        ("LLM_ANTHROPIC_API_KEY", f"{CANARY}\nx"),
        ("CELERY_BROKER_URL", CANARY),
        ("CELERY_RESULT_BACKEND", f"://u:{CANARY}@h"),
    ],
)
def test_a_malformed_secret_is_told_without_its_value(load: Load, variable: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(**{variable: text})
    assert str(caught.value).startswith(
        f"{variable} (a secret, so its value is not shown) is malformed. It must"
    )
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("variable", "text", "shown"),
    [
        ("DB_HOST", f"postgresql://u:{CANARY}@h/d", "***@h/d"),
        ("LLM_OPENAI_BASE_URL", f"https://u:{CANARY}@h", "***@h"),
        ("LLM_ANTHROPIC_BASE_URL", f"sk-{CANARY}", "sk-***"),
        ("LLM_PRICES", f"sk-{CANARY}", "sk-***"),
    ],
)
def test_a_secret_that_landed_in_the_wrong_variable_is_not_shown(
    load: Load, variable: str, text: str, shown: str
) -> None:
    with pytest.raises(ConfigurationError, match=variable) as caught:
        load(**{variable: text})
    assert f"is '{shown}'" in str(caught.value)
    assert CANARY not in str(caught.value)


def test_all_malformed_variables_are_told_at_once(load: Load) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(API_PORT="x", DB_PORT="y", LLM_DEFAULT_PROVIDER="!", COGNITIONOS_HOME="~no-such-user")
    assert [line.split()[0] for line in str(caught.value).splitlines()] == [
        "DB_PORT",
        "LLM_DEFAULT_PROVIDER",
        "API_PORT",
        "COGNITIONOS_HOME",
    ]


def test_an_error_is_not_remembered(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError):
        load(API_PORT="x")
    monkeypatch.setenv("API_PORT", "9100")
    assert get_config().api.port == 9100


# --- secrets

SECRETS = {
    "DB_PASSWORD": f"{CANARY}-db",
    "REDIS_PASSWORD": f"{CANARY}-redis",
    "RABBITMQ_PASSWORD": f"{CANARY}-rabbit",
    "LLM_OPENAI_API_KEY": f"{CANARY}-openai",
    "LLM_ANTHROPIC_API_KEY": f"{CANARY}-anthropic",
    "LLM_LOCAL_API_KEY": f"{CANARY}-local",
    "CELERY_BROKER_URL": f"redis://:{CANARY}-broker@h:6379/0;redis://:{CANARY}-second@h:6379/0",
    "CELERY_RESULT_BACKEND": f"db+postgresql://u:{CANARY}%2Dbackend@h/d",
}


def test_no_secret_is_in_a_repr_a_str_or_a_dump(load: Load) -> None:
    config = load(**SECRETS)
    for part in (config, *(section for _, section in config)):
        assert CANARY not in repr(part)
        assert CANARY not in str(part)
    assert CANARY not in config.model_dump_json()
    assert CANARY not in repr(config.model_dump())


def test_every_secret_that_is_set_is_one_to_be_masked(load: Load) -> None:
    values = set(load(**SECRETS).secret_values())
    assert {
        f"{CANARY}-{name}" for name in ("db", "redis", "rabbit", "openai", "anthropic", "local")
    } <= values
    assert {f"{CANARY}-{name}" for name in ("broker", "second", "backend")} <= values
    assert f"redis://:{CANARY}-second@h:6379/0" in values
    assert f"{CANARY}%2Dbackend" in values


def test_a_default_password_and_an_address_without_one_are_no_secrets(load: Load) -> None:
    config = load(RABBITMQ_HOST="h", CELERY_BROKER_URL="redis://h:6379/0", CELERY_RESULT_BACKEND="amqp://u@h")
    assert list(config.secret_values()) == []


def test_reading_the_settings_masks_their_secrets_in_logs(load: Load) -> None:
    from cognitionos_provider.observability.redaction import redact

    load(LLM_OPENAI_API_KEY="sk-read-and-masked")
    assert redact("key sk-read-and-masked!") == "key ***!"


def test_a_secret_in_the_key_of_a_price_is_not_shown(load: Load) -> None:
    with pytest.raises(ConfigurationError, match="LLM_PRICES") as caught:
        load(LLM_PRICES=f'{{"sk-{CANARY}": {{"input": 1}}}}')
    assert "lacks 'output' of 'sk-***" in str(caught.value)
    assert CANARY not in str(caught.value)


# --- what steps read


def test_steps_read_the_settings_of_models_whatever_the_others_say(load: Load) -> None:
    with pytest.raises(ConfigurationError):
        load(API_PORT="x", LLM_LOCAL_API_KEY="sk-of-a-step")
    assert get_llm_config().local_api_key == SecretStr("sk-of-a-step")


def test_steps_share_what_redis_there_is(load: Load) -> None:
    load()
    assert get_redis_url_for_steps() is None
    get_redis_url_for_steps.cache_clear()
    load(REDIS_HOST="cache", REDIS_PASSWORD="p@ss-of-redis")
    assert get_redis_url_for_steps() == "redis://:p%40ss-of-redis@cache:6379/0"

    from cognitionos_provider.observability.redaction import redact

    assert redact("p@ss-of-redis p%40ss-of-redis") == "*** ***"


def test_a_malformed_redis_is_told_once_and_hinders_no_step(
    load: Load, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load()
    # In Kubernetes, a service named redis sets it.
    monkeypatch.setenv("REDIS_PORT", "tcp://10.0.0.1:6379")
    monkeypatch.setenv("REDIS_PASSWORD", CANARY)
    assert [get_redis_url_for_steps() for _ in range(3)] == [None] * 3
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "Redis is not used" in record.getMessage()
    assert "REDIS_PORT is 'tcp://10.0.0.1:6379'. It must be a port" in record.getMessage()
    assert CANARY not in record.getMessage()


def test_a_redis_without_its_client_library_is_told_once_and_hinders_no_step(
    load: Load, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load(REDIS_HOST="cache")
    monkeypatch.setitem(sys.modules, "redis", None)
    assert [get_redis_url_for_steps() for _ in range(3)] == [None] * 3
    [record] = caplog.records
    assert "Install cognitionos-provider[redis]" in record.getMessage()


# --- imports


def test_settings_and_logs_import_no_airflow_no_structlog_and_no_model_library() -> None:
    code = (
        "import sys, cognitionos_provider.config, cognitionos_provider.observability;"
        "heavy = 'airflow structlog openai anthropic pydantic_ai genai_prices sqlalchemy httpx'.split();"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
