"""Settings from the environment: the specification's eight sections, read once.

::

    from cognitionos_provider.config import get_config

    config = get_config()
    config.database.url          # None: Airflow's own metadata database
    config.llm.default_models    # ("openai:...", "anthropic:...")

A variable that is set but empty counts as unset. Malformed ones raise ``ConfigurationError``, which names
each variable, its value (never that of a secret) and what to set instead.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from cognitionos_provider.environment import (
    CELERY_RULE,
    FLAG_RULE,
    HOST_RULE,
    KEY_RULE,
    LEVEL_RULE,
    PORT_RULE,
    PRICES_RULE,
    PROVIDER_RULE,
    TEXT_RULE,
    URL_RULE,
    CeleryAddress,
    Directory,
    Host,
    HttpUrl,
    Key,
    LogFormat,
    LogLevel,
    Models,
    Name,
    Origins,
    Port,
    Prices,
    Provider,
    Seconds,
    Section,
    read,
)
from cognitionos_provider.exceptions import ConfigurationError
from cognitionos_provider.observability.redaction import mask_secret

__all__ = [
    "APIConfig",
    "CeleryConfig",
    "Config",
    "DatabaseConfig",
    "LLMConfig",
    "ObservabilityConfig",
    "RabbitMQConfig",
    "RedisConfig",
    "SecurityConfig",
    "get_config",
    "get_llm_config",
    "get_redis_url_for_steps",
]

_log = logging.getLogger(__name__)

# The small, current model of each provider: a default spends its user's money, and a chain that falls back
# should meet an answer of about the same kind. Both have a price in genai-prices.
_DEFAULT_CHAIN = {"openai": "openai:gpt-6-luna", "anthropic": "anthropic:claude-haiku-5-5"}


def _quoted(text: str) -> str:
    # Python keeps bytes of the environment that are not UTF-8 as surrogates (PEP 383).
    return quote(text, safe="", errors="surrogateescape")


class _Server(Section):
    """A server that is configured as soon as any of its variables is set."""

    @property
    def configured(self) -> bool:
        """Whether any variable of this section is set."""
        return bool(self.model_fields_set)

    def _url(
        self, scheme: str, host: str, port: int, user: str, password: SecretStr | None, path: str
    ) -> str:
        secret = f":{_quoted(password.get_secret_value())}" if password else ""
        login = f"{_quoted(user)}{secret}@" if user or secret else ""
        address = f"[{host}]" if ":" in host else host
        return f"{scheme}://{login}{address}:{port}/{_quoted(path)}"


class DatabaseConfig(_Server):
    """PostgreSQL (``DB_*``). With none of them set, the tables live in Airflow's own metadata database."""

    model_config = SettingsConfigDict(env_prefix="DB_")

    host: Host = Field("localhost", description=HOST_RULE)
    port: Port = Field(5432, description=PORT_RULE)
    name: Name = Field("cognitionos", description="the name of a database")
    user: Name = Field("cognition", description="the name of a database user")
    password: SecretStr | None = Field(None, description=TEXT_RULE)

    @property
    def url(self) -> str | None:
        """``postgresql://user:password@host:port/name``, or None: Airflow's own metadata database.

        The scheme names no driver: the reader picks one (SQLAlchemy's default is psycopg2). User, password
        and name are percent-encoded. It holds the password: never print it.
        """
        if not self.configured:
            return None
        return self._url("postgresql", self.host, self.port, self.user, self.password, self.name)


class RedisConfig(_Server):
    """Redis (``REDIS_*``). With none of them set, there is none."""

    model_config = SettingsConfigDict(env_prefix="REDIS_")

    host: Host = Field("localhost", description=HOST_RULE)
    port: Port = Field(6379, description=PORT_RULE)
    db: int = Field(0, ge=0, description="the number of a Redis database, 0 or more")
    password: SecretStr | None = Field(None, description=TEXT_RULE)

    @property
    def url(self) -> str | None:
        """``redis://:password@host:port/db``, or None where Redis is not configured. Never print it."""
        if not self.configured:
            return None
        return self._url("redis", self.host, self.port, "", self.password, str(self.db))


class RabbitMQConfig(_Server):
    """RabbitMQ (``RABBITMQ_*``). With none of them set, there is none. The defaults are RabbitMQ's own."""

    model_config = SettingsConfigDict(env_prefix="RABBITMQ_")

    host: Host = Field("localhost", description=HOST_RULE)
    port: Port = Field(5672, description=PORT_RULE)
    user: Name = Field("guest", description="the name of a RabbitMQ user")
    password: SecretStr = Field(SecretStr("guest"), description=TEXT_RULE)
    vhost: Name = Field("/", description="the name of a virtual host")

    @property
    def url(self) -> str | None:
        """``amqp://user:password@host:port/vhost``, or None where it is not configured. Never print it."""
        if not self.configured:
            return None
        return self._url("amqp", self.host, self.port, self.user, self.password, self.vhost)


def _default_chain(data: Mapping[str, Any]) -> tuple[str, ...]:
    first = data.get("default_provider", "openai")
    return tuple(sorted(_DEFAULT_CHAIN.values(), key=lambda name: name.split(":")[0] != first))


class LLMConfig(Section):
    """Providers of language models (``LLM_*``). An Airflow Connection of our type wins over it, field by field.

    ``local`` is any server that speaks OpenAI Chat Completions; many need no key. ``default_models`` is the default
    agent's chain, asked in this order; without it, the chain is of one current model of OpenAI and one of
    Anthropic, that of ``default_provider`` first. ``timeout`` is in seconds and bounds one call. ``max_retries`` is
    how often one candidate is tried within one pass over the chain (a step makes up to ``retry.max_attempts``
    passes): with the default, 2, a call that failed of something that may get better is sent once more before the
    next candidate is asked.

    ``prices`` win over the price data that comes with the package; by ``provider:model`` or model name.
    ``max_in_flight`` (calls), ``requests_per_minute`` and ``tokens_per_minute`` (input and output together) hold
    for each model over each connection that is made of these variables; unset: no limit.
    """

    model_config = SettingsConfigDict(env_prefix="LLM_")

    openai_api_key: Key | None = Field(None, description=KEY_RULE)
    anthropic_api_key: Key | None = Field(None, description=KEY_RULE)
    local_api_key: Key | None = Field(None, description=KEY_RULE)
    openai_base_url: HttpUrl | None = Field(None, description=URL_RULE)
    anthropic_base_url: HttpUrl | None = Field(None, description=URL_RULE)
    local_base_url: HttpUrl | None = Field(None, description=URL_RULE)
    default_provider: Provider = Field("openai", description=PROVIDER_RULE)
    default_models: Models = Field(
        default_factory=_default_chain,
        description="a comma-separated list of models, such as " + ",".join(_DEFAULT_CHAIN.values()),
    )
    timeout: Seconds = Field(60.0, gt=0, description="a number of seconds above 0")
    max_retries: int = Field(2, ge=1, description="a whole number of tries, 1 or more")
    prices: Prices = Field({}, description=PRICES_RULE)
    max_in_flight: int | None = Field(None, ge=1, description="a whole number of calls, 1 or more")
    requests_per_minute: int | None = Field(None, ge=1, description="a whole number of requests, 1 or more")
    tokens_per_minute: int | None = Field(None, ge=1, description="a whole number of tokens, 1 or more")

    @property
    def api_keys(self) -> tuple[SecretStr, ...]:
        """The keys that are set."""
        keys = (self.openai_api_key, self.anthropic_api_key, self.local_api_key)
        return tuple(key for key in keys if key is not None)


class CeleryConfig(Section):
    """Celery (``CELERY_*``), for a stack with Airflow's CeleryExecutor. Both hold passwords, hence secret."""

    model_config = SettingsConfigDict(env_prefix="CELERY_")

    broker_url: CeleryAddress | None = Field(None, description=CELERY_RULE)
    result_backend: CeleryAddress | None = Field(None, description=CELERY_RULE)


class APIConfig(Section):
    """The facade (``API_*``). ``max_request_size`` is in bytes.

    ``execute_wait_seconds`` is how long an execute waits for the DAG of a workflow that was just posted.
    ``airflow_url`` is the base address of Airflow's api-server.
    """

    model_config = SettingsConfigDict(env_prefix="API_")

    host: Host = Field("0.0.0.0", description=HOST_RULE)  # noqa: S104 - the specification's; see SecurityConfig
    port: Port = Field(8100, description=PORT_RULE)
    debug: bool = Field(False, description=FLAG_RULE)
    log_level: LogLevel = Field("info", description=LEVEL_RULE)
    cors_origins: Origins = Field(
        (),
        description="a comma-separated list of origins such as http://localhost:3000, "
        "each without a path or a slash at its end, or *",
    )
    max_request_size: int = Field(10 * 1024 * 1024, ge=1, description="a whole number of bytes, 1 or more")
    execute_wait_seconds: Seconds = Field(15.0, ge=0, description="a number of seconds, 0 or more")
    airflow_url: HttpUrl = Field("http://127.0.0.1:8080", description=URL_RULE)


class SecurityConfig(Section):
    """Who may reach the facade (``SECURITY_*``). Who may do what there is Airflow's auth manager's to say.

    Without authentication everything listens on loopback only, whatever ``API_HOST`` says;
    ``allow_remote_without_auth`` is the explicit flag that lifts this.
    """

    model_config = SettingsConfigDict(env_prefix="SECURITY_")

    allow_remote_without_auth: bool = Field(False, description=FLAG_RULE)


class ObservabilityConfig(Section):
    """Logs (``OBSERVABILITY_*``). ``log_level`` is that of our commands; the facade has ``API_LOG_LEVEL``."""

    model_config = SettingsConfigDict(env_prefix="OBSERVABILITY_")

    service_name: Name = Field("cognitionos-v3", description=TEXT_RULE)
    environment: Name = Field("development", description=TEXT_RULE)
    log_format: LogFormat = Field("json", description="json or console")
    log_level: LogLevel = Field("info", description=LEVEL_RULE)


class _LocalStack(Section):
    model_config = SettingsConfigDict(env_prefix="COGNITIONOS_")

    home: Directory = Field(Path("~/.cognitionos"), description="the path of a directory")


class Config(BaseModel):
    """All settings. ``home`` (``COGNITIONOS_HOME``, absolute) is where the local stack keeps its state."""

    # Not BaseSettings: a field named ``home`` or ``database`` would then be read from HOME or DATABASE.
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    database: DatabaseConfig
    redis: RedisConfig
    rabbitmq: RabbitMQConfig
    llm: LLMConfig
    celery: CeleryConfig
    api: APIConfig
    security: SecurityConfig
    observability: ObservabilityConfig
    home: Path

    def secret_values(self) -> Iterator[str]:
        """Every secret that was set, as it must not appear in a log: keys, passwords, and URLs with one."""
        for server in (self.database, self.redis, self.rabbitmq):
            # A default password (RabbitMQ's "guest") is no secret, and masking it would garble logs.
            if "password" in server.model_fields_set and server.password:
                yield server.password.get_secret_value()
        for key in self.llm.api_keys:
            yield key.get_secret_value()
        for address in (self.celery.broker_url, self.celery.result_backend):
            # Celery takes several addresses, separated by semicolons.
            for url in address.get_secret_value().split(";") if address else ():
                login, at, _ = url.partition("://")[2].rpartition("@")
                if at and ":" in login:
                    password = login.split(":", 1)[1]
                    yield from (url, password, unquote(password))


@cache
def get_llm_config() -> LLMConfig:
    """The LLM section alone, for steps: they need no other, and must not fail of one.

    In Kubernetes, for one, a service that is named ``redis`` sets a ``REDIS_PORT`` that is no port.
    """
    problems: list[str] = []
    llm = read(LLMConfig, problems)
    if llm is None:
        raise ConfigurationError("\n".join(problems))
    for key in llm.api_keys:
        mask_secret(key.get_secret_value())
    return llm


@cache
def get_redis_url_for_steps() -> str | None:
    """Where steps share what they learn and spend, or None: each process then keeps that for itself.

    Like :func:`get_llm_config` it never fails: malformed ``REDIS_*`` variables, and a Redis without its client
    library, are told once, as a warning. The URL holds the password: never print it.
    """
    problems: list[str] = []
    redis = read(RedisConfig, problems)
    if redis is not None and not redis.configured:
        return None
    if redis is not None and find_spec("redis") is None:
        problems.append(
            "Its client library is not installed. Install cognitionos-provider[redis], or unset REDIS_*."
        )
    if redis is None or problems:
        _log.warning(
            "Redis is not used; breakers, limits and budgets hold for each process alone. %s",
            " ".join(problems),
        )
        return None
    if redis.password is not None:
        mask_secret(redis.password.get_secret_value())
    return redis.url


@cache
def get_config() -> Config:
    """The settings, read from the environment at the first call; ``get_config.cache_clear()`` forgets them.

    From then on, logs of this package mask their secrets (``cognitionos_provider.observability``).

    Raises ``ConfigurationError`` that names each malformed variable, its value unless secret, and the fix.
    """
    problems: list[str] = []
    sections = {
        name: read(field.annotation, problems)
        for name, field in Config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }
    stack = read(_LocalStack, problems)
    if problems or stack is None:
        # Raised here and not where they were caught: a ValidationError holds raw input, secrets among it.
        raise ConfigurationError("\n".join(problems))
    config = Config.model_validate({**sections, "home": stack.home})
    for value in config.secret_values():
        mask_secret(value)
    return config
