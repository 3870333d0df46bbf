"""What an Airflow connection of type ``cognitionos_llm`` says, and what the environment adds to it. Pure.

The standard fields hold an account at one provider: ``password`` is the API key, ``host`` (with or without scheme,
``port`` and ``schema``, which is a path here) the base URL. The extra holds the rest: ``provider`` (default:
openai), ``default_model``, ``fallback_conn_ids``, ``max_in_flight``, ``requests_per_minute``,
``tokens_per_minute``, ``prices`` (as ``LLM_PRICES``, by model name); all else there goes to the provider as its
options. In a connection from a URI, all of these are text.

An earlier form still works, where one connection holds the keys of two providers in its extra:
``openai_api_key``, ``openai_base_url``, ``anthropic_api_key``, ``anthropic_base_url``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from pydantic import SecretStr, TypeAdapter, ValidationError

from cognitionos_provider.config import LLMConfig
from cognitionos_provider.environment import (
    KEY_RULE,
    PRICES_RULE,
    PROVIDER_RULE,
    URL_RULE,
    http_url,
    key_text,
    provider_name,
)
from cognitionos_provider.exceptions import ConfigurationError
from cognitionos_provider.llm import Connection, Limits, Price
from cognitionos_provider.llm.provider import BUILT_IN

__all__ = ["CONN_TYPE", "Accounts", "AirflowConnection", "join_environment", "read_accounts", "secrets_of"]

CONN_TYPE = "cognitionos_llm"

_LIMITS = ("max_in_flight", "requests_per_minute", "tokens_per_minute")
_OLD = {f"{name}_{what}": name for name in ("openai", "anthropic") for what in ("api_key", "base_url")}
_PRICES = TypeAdapter(dict[str, Price])
_OURS = {"provider", "default_model", "fallback_conn_ids", "prices", *_LIMITS, *_OLD}


class AirflowConnection(Protocol):
    """The part of Airflow's two Connection classes that is read here."""

    conn_id: str
    conn_type: str | None
    host: str | None
    schema: str | None
    login: str | None
    password: str | None
    port: int | None
    extra: str | None


@dataclass(frozen=True, slots=True)
class Accounts:
    """What one Airflow connection gives: a connection for each provider it names, and who comes after it."""

    connections: tuple[Connection, ...]
    fallback_conn_ids: tuple[str, ...]


def read_accounts(given: AirflowConnection) -> Accounts:
    """Read an Airflow connection.

    Raises :class:`ConfigurationError` that names the connection and the field, and shows no value.
    """
    extra = _extra(given)
    old = {name for key, name in _OLD.items() if extra.get(key)}
    if given.conn_type not in (None, "", CONN_TYPE, CONN_TYPE.replace("_", "-")) and not old:
        # Named by mistake, it would have its password sent to a provider.
        raise ConfigurationError(
            f"Connection {given.conn_id!r} is of type {given.conn_type!r}; only one of type {CONN_TYPE!r} is asked"
        )
    main = _provider(given, extra)
    keys = {main: _key(given, "password", given.password)}
    urls = {main: _base_url(given)}
    default_model = _default_model(given, extra, main)
    if given.login and keys[main] is None and not old:
        raise _wrong(given, "login", "empty; an API key is its password (in a URI, with a colon before it)")
    if old and not any((extra.get("provider"), keys[main], urls[main], default_model)):
        keys, urls = {}, {}
    for name in dict.fromkeys(_OLD.values()):
        if name in old:
            keys[name] = keys.get(name) or _key(given, f"{name}_api_key", extra.get(f"{name}_api_key"))
            urls[name] = urls.get(name) or _old_url(given, f"{name}_base_url", extra.get(f"{name}_base_url"))
    limits = Limits(**{name: _limit(given, name, extra.get(name)) for name in _LIMITS})
    options = {key: value for key, value in extra.items() if key not in _OURS}
    return Accounts(
        connections=tuple(
            Connection(
                name=_name(given.conn_id, provider, alone=len(keys) == 1),
                provider=provider,
                api_key=key,
                base_url=urls[provider],
                default_model=default_model if provider == main else None,
                limits=limits,
                prices=_prices(given, extra.get("prices"), provider),
                options=options if provider == main else {},
            )
            for provider, key in keys.items()
        ),
        fallback_conn_ids=_conn_ids(given, extra.get("fallback_conn_ids")),
    )


def join_environment(connections: Sequence[Connection], llm: LLMConfig) -> tuple[Connection, ...]:
    """Add what the environment knows and Airflow does not: keys, base URLs, and providers that none serves.

    A connection of the environment has its provider's name.
    """
    known = {each.provider: each for each in _from_environment(llm)}
    joined = []
    for each in connections:
        other = known.get(each.provider, each)
        joined.append(
            each.model_copy(
                update={
                    "api_key": each.api_key or other.api_key,
                    "base_url": each.base_url or other.base_url,
                }
            )
        )
    served = {each.provider for each in connections}
    return (*joined, *(each for provider, each in known.items() if provider not in served))


def secrets_of(connections: Iterable[Connection]) -> Iterator[str]:
    """Give every text that no log may show: keys, and options whose names tell that they are secret."""
    for each in connections:
        if each.api_key is not None:
            yield each.api_key.get_secret_value()
        yield from _secret_options("", each.options)


def _secret_options(name: str, value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _secret_options(str(key), part)
    elif isinstance(value, str) and re.search("key|secret|token|password|credential", name, re.IGNORECASE):
        yield value


def _from_environment(llm: LLMConfig) -> Iterator[Connection]:
    found = {
        "openai": (llm.openai_api_key, llm.openai_base_url),
        "anthropic": (llm.anthropic_api_key, llm.anthropic_base_url),
        "local": (llm.local_api_key, llm.local_base_url),
    }
    limits = Limits(**{name: getattr(llm, name) for name in _LIMITS})
    for provider, (key, url) in found.items():
        if key is not None or url is not None:
            yield Connection(name=provider, provider=provider, api_key=key, base_url=url, limits=limits)


def _wrong(given: AirflowConnection, field: str, rule: str) -> ConfigurationError:
    return ConfigurationError(f"Connection {given.conn_id!r}: its {field} must be {rule}")


def _name(conn_id: str, provider: str, *, alone: bool) -> str:
    # By a provider's name alone goes what the environment has of that provider.
    taken = conn_id in BUILT_IN and conn_id != provider
    return conn_id if alone and not taken else f"{conn_id}/{provider}"


def _extra(given: AirflowConnection) -> dict[str, Any]:
    try:
        extra = json.loads(given.extra or "{}")
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise _wrong(given, "extra", "a JSON object")
    # An input of Airflow's form that was left empty.
    return {key: value for key, value in extra.items() if value not in (None, "")}


def _text(given: AirflowConnection, field: str, value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise _wrong(given, field, "text")
    return (value or "").strip() or None


def _provider(given: AirflowConnection, extra: Mapping[str, Any]) -> str:
    try:
        return provider_name(_text(given, "provider", extra.get("provider")) or "openai")
    except ValueError:
        raise _wrong(given, "provider", PROVIDER_RULE) from None


def _key(given: AirflowConnection, field: str, value: object) -> SecretStr | None:
    text = _text(given, field, value)
    try:
        return None if text is None else SecretStr(key_text(text))
    except ValueError:
        raise _wrong(given, field, KEY_RULE) from None


def _base_url(given: AirflowConnection) -> str | None:
    host = (given.host or "").strip()
    if not host:
        if given.port:
            raise _wrong(given, "host", "set where its port is")
        return None
    try:
        parts = urlsplit(host if "://" in host else f"https://{host}")
        address = parts.netloc
        if given.port:
            own = f":{parts.port}" if parts.port is not None else ""
            address = f"{address.removesuffix(own)}:{given.port}"
        path = "/".join([parts.path.rstrip("/"), *filter(None, [(given.schema or "").strip("/")])])
        return http_url(parts._replace(netloc=address, path=path).geturl())
    except ValueError:
        raise _wrong(given, "host", URL_RULE) from None


def _old_url(given: AirflowConnection, field: str, value: object) -> str | None:
    text = _text(given, field, value)
    try:
        return None if text is None else http_url(text)
    except ValueError:
        raise _wrong(given, field, URL_RULE) from None


def _default_model(given: AirflowConnection, extra: Mapping[str, Any], provider: str) -> str | None:
    text = _text(given, "default_model", extra.get("default_model"))
    # Others may have a colon in their own names of models, such as "llama3.3:70b".
    for name in {provider, *BUILT_IN}:
        if text is not None and text.startswith(f"{name}:"):
            if name != provider:
                raise _wrong(given, "default_model", f"one of its own provider, which is {provider!r}")
            return text.removeprefix(f"{name}:") or None
    return text


def _conn_ids(given: AirflowConnection, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else value.split(",")
        except ValueError:
            value = None
    elif value is None:
        value = []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise _wrong(given, "fallback_conn_ids", "connection ids, separated by commas or as a JSON list")
    return tuple(each.strip() for each in value if each.strip())


def _limit(given: AirflowConnection, field: str, value: object) -> int | None:
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise _wrong(given, field, "a whole number, 1 or more, or empty for no limit")


def _prices(given: AirflowConnection, value: object, provider: str) -> dict[str, Price]:
    if value is None:
        return {}
    rule = PRICES_RULE.replace("openai:", "")
    try:
        prices = _PRICES.validate_python(json.loads(value) if isinstance(value, str) else value)
    except ValidationError as error:
        place = " of ".join(repr(part) for part in reversed(error.errors()[0]["loc"]))
        raise _wrong(given, f"prices ({place})" if place else "prices", rule) from None
    except ValueError:
        raise _wrong(given, "prices", rule) from None
    return {model.removeprefix(f"{provider}:"): price for model, price in prices.items()}
