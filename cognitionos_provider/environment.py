"""How settings are read from environment variables, and how a malformed one is told.

``config`` holds the settings themselves. Each field's ``description`` ends the sentence "<VARIABLE> must be
...", so that what documents a field is also its error.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

__all__ = [
    "CELERY_RULE",
    "FLAG_RULE",
    "HOST_RULE",
    "KEY_RULE",
    "LEVEL_RULE",
    "PORT_RULE",
    "PRICES_RULE",
    "PROVIDER_RULE",
    "TEXT_RULE",
    "URL_RULE",
    "CeleryAddress",
    "Directory",
    "Host",
    "HttpUrl",
    "Key",
    "LogFormat",
    "LogLevel",
    "ModelPrice",
    "Models",
    "Name",
    "Origins",
    "Port",
    "Prices",
    "Provider",
    "Seconds",
    "Section",
    "http_url",
    "key_text",
    "provider_name",
    "read",
]

HOST_RULE = "a host name or an IP address, without scheme, port or path"
PORT_RULE = "a port, a whole number from 1 to 65535"
URL_RULE = "an http:// or https:// address without user, password, query or fragment"
PROVIDER_RULE = (
    "the name of a provider, such as openai, anthropic or local: lower-case letters, digits and hyphens"
)
PRICES_RULE = (
    'a JSON object of prices in USD per million tokens, such as {"openai:gpt-4": {"input": 30, "output": 60}}'
)
KEY_RULE = "a key of printable ASCII characters, without white space inside"
CELERY_RULE = "an address with a scheme, such as redis://localhost:6379/0"
FLAG_RULE = "true or false"
LEVEL_RULE = "one of debug, info, warning, error, critical"
TEXT_RULE = "some text"


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _host(value: str) -> str:
    if ":" in value:
        ipaddress.IPv6Address(value.strip("[]"))
        return value.strip("[]")
    if not re.fullmatch(r"[^\s/@?#\[\]]+", value):
        raise ValueError("not a host")
    return value


def http_url(value: str) -> str:
    """Return the address without a slash at its end. Raises ValueError if it breaks ``URL_RULE``."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("not an http(s) address")
    if parts.query or parts.fragment or re.search(r"\s", value):
        raise ValueError("not a base address")
    if parts.port == 0:  # a port that is none at all raises ValueError here
        raise ValueError("not a port")
    return value.rstrip("/")


def _origin(value: str) -> str:
    # RFC 6454, section 7: scheme, host and port. A browser sends no path, so one with a path never matches.
    if value != "*" and (urlsplit(http_url(value)).path or value.endswith("/")):
        raise ValueError("not an origin")
    return value


def _model_name(value: str) -> str:
    if not re.fullmatch(r"[^\s:]+(:\S+)?", value):
        raise ValueError("not a model name")
    return value


def provider_name(value: str) -> str:
    """Return the name of a provider in lower case. Raises ValueError if it breaks ``PROVIDER_RULE``."""
    name = value.strip().lower()
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise ValueError("not a provider's name")
    return name


def key_text(value: str) -> str:
    """Return a key without white space around it. Raises ValueError if it breaks ``KEY_RULE``.

    A key with a line end or a quote sign fails deep inside an SDK, in an error that quotes the key.
    """
    key = value.strip()
    if not re.fullmatch(r"[!-~]+", key):
        raise ValueError("not a header value")
    return key


def _key(value: SecretStr) -> SecretStr:
    return SecretStr(key_text(value.get_secret_value()))


def _json(value: object) -> object:
    return json.loads(value, parse_float=Decimal, parse_constant=Decimal) if isinstance(value, str) else value


def _celery_address(value: SecretStr) -> SecretStr:
    address = value.get_secret_value().strip()
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://\S*", address):
        raise ValueError("not an address")
    return SecretStr(address)


def _directory(value: Path) -> Path:
    try:
        return value.expanduser().absolute()
    except RuntimeError as error:  # "~someone" where there is no such user
        raise ValueError(str(error)) from error


class ModelPrice(BaseModel):
    """What a model costs, in USD per million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    input: Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]
    output: Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]


CeleryAddress = Annotated[SecretStr, AfterValidator(_celery_address)]
Directory = Annotated[Path, AfterValidator(_directory)]
Host = Annotated[str, AfterValidator(_host)]
HttpUrl = Annotated[str, AfterValidator(http_url)]
Key = Annotated[SecretStr, AfterValidator(_key)]
LogFormat = Annotated[Literal["json", "console"], BeforeValidator(_lower)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lower)]
# NoDecode: pydantic-settings would read a list as JSON.
Models = Annotated[tuple[Annotated[str, AfterValidator(_model_name)], ...], NoDecode, BeforeValidator(_split)]
Prices = Annotated[
    Mapping[Annotated[str, AfterValidator(_model_name)], ModelPrice], NoDecode, BeforeValidator(_json)
]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(_split)]
Port = Annotated[int, Field(ge=1, le=65535)]
Provider = Annotated[str, AfterValidator(provider_name)]
Seconds = Annotated[float, Field(allow_inf_nan=False)]


class Section(BaseSettings):
    """Settings whose variables share a prefix. A variable that is set but empty counts as unset."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, hide_input_in_errors=True)


_S = TypeVar("_S", bound=Section)


def read(section: type[_S], problems: list[str]) -> _S | None:
    """The section as the environment has it, or None if a variable is malformed.

    ``problems`` then gets a sentence for each: the variable, its value unless secret, the rule, what to do.
    """
    try:
        return section()
    except ValidationError as error:
        problems += [
            _problem(section, item)
            for item in error.errors(include_url=False, include_context=False)
            # Follows from another field's error: the default of default_models needs default_provider.
            if item["type"] != "default_factory_not_called"
        ]
        return None


def _without_secrets(text: str) -> str:
    # What stands before an @ may be a password, what begins with "sk-" is a key: also in a variable that should
    # hold no such thing, when two were mixed up.
    return re.sub(r"sk-\S+", "sk-***", re.sub(r".*@", "***@", text, flags=re.DOTALL))


def _problem(section: type[Section], error: Mapping[str, Any]) -> str:
    name = str(error["loc"][0])
    field = section.model_fields[name]
    variable = f"{section.model_config['env_prefix']}{name.upper()}"
    if "SecretStr" in str(field.annotation):
        shown = f"{variable} (a secret, so its value is not shown) is malformed"
    else:
        value = _without_secrets(str(error["input"]))
        # Where in a JSON object; pydantic writes "[key]" behind a key that is itself malformed.
        path = [part for part in error["loc"][1:] if isinstance(part, str) and part != "[key]"]
        place = _without_secrets(" of ".join(map(repr, reversed(path))))
        if path and error["type"] == "missing":
            shown = f"{variable} lacks {place}"
        elif path:
            shown = f"{variable} holds {value!r} for {place}"
        else:
            shown = f"{variable} {'holds' if len(error['loc']) > 1 else 'is'} {value!r}"
    default = field.get_default()
    otherwise = "its default"
    if isinstance(default, str | int | float | Path):
        otherwise = str(default).lower() if isinstance(default, bool) else str(default)
    return f"{shown}. It must be {field.description}. Set it to that, or unset it for {otherwise}."
