"""How settings are read from environment variables, and how a malformed one is told.

``config`` holds the settings themselves. Each field's ``description`` ends the sentence "<VARIABLE> must be
...", so that what documents a field is also its error.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

__all__ = [
    "CELERY_RULE",
    "FLAG_RULE",
    "HOST_RULE",
    "KEY_RULE",
    "LEVEL_RULE",
    "PORT_RULE",
    "TEXT_RULE",
    "URL_RULE",
    "CeleryAddress",
    "Directory",
    "Host",
    "HttpUrl",
    "Key",
    "LogFormat",
    "LogLevel",
    "Models",
    "Name",
    "Origins",
    "Port",
    "Provider",
    "Seconds",
    "Section",
    "read",
]

HOST_RULE = "a host name or an IP address, without scheme, port or path"
PORT_RULE = "a port, a whole number from 1 to 65535"
URL_RULE = "an http:// or https:// address without user, password, query or fragment"
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


def _http_url(value: str) -> str:
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
    if value != "*" and (urlsplit(_http_url(value)).path or value.endswith("/")):
        raise ValueError("not an origin")
    return value


def _model_name(value: str) -> str:
    if not re.fullmatch(r"[^\s:]+(:\S+)?", value):
        raise ValueError("not a model name")
    return value


def _key(value: SecretStr) -> SecretStr:
    # A key with a line end or a quote sign fails deep inside an SDK, in an error that quotes the key.
    key = value.get_secret_value().strip()
    if not re.fullmatch(r"[!-~]+", key):
        raise ValueError("not a header value")
    return SecretStr(key)


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


CeleryAddress = Annotated[SecretStr, AfterValidator(_celery_address)]
Directory = Annotated[Path, AfterValidator(_directory)]
Host = Annotated[str, AfterValidator(_host)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Key = Annotated[SecretStr, AfterValidator(_key)]
LogFormat = Annotated[Literal["json", "console"], BeforeValidator(_lower)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lower)]
# NoDecode: pydantic-settings would read a list as JSON.
Models = Annotated[tuple[Annotated[str, AfterValidator(_model_name)], ...], NoDecode, BeforeValidator(_split)]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(_split)]
Port = Annotated[int, Field(ge=1, le=65535)]
Provider = Annotated[Literal["openai", "anthropic"], BeforeValidator(_lower)]
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


def _problem(section: type[Section], error: Mapping[str, Any]) -> str:
    name = str(error["loc"][0])
    field = section.model_fields[name]
    variable = f"{section.model_config['env_prefix']}{name.upper()}"
    if "SecretStr" in str(field.annotation):
        shown = f"{variable} (a secret, so its value is not shown) is malformed"
    else:
        # What stands before an @ may be a password, what begins with "sk-" is a key: also in a variable that
        # should hold no such thing, when two were mixed up.
        value = re.sub(r".*@", "***@", str(error["input"]), flags=re.DOTALL)
        value = re.sub(r"sk-\S+", "sk-***", value)
        shown = f"{variable} {'holds' if len(error['loc']) > 1 else 'is'} {value!r}"
    default = field.get_default()
    otherwise = "its default"
    if isinstance(default, str | int | float | Path):
        otherwise = str(default).lower() if isinstance(default, bool) else str(default)
    return f"{shown}. It must be {field.description}. Set it to that, or unset it for {otherwise}."
