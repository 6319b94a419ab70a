"""Typed settings from a TOML file and the command line.

Precedence, lowest first: the model's defaults, the file, ``--set KEY=VALUE``.
Whatever is wrong is reported once, for all keys together, in the operator's
words: which file, which key, what would be right.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError, core_schema


class ConfigError(Exception):
    """Settings that can't be used; the message names the file, the key and the remedy."""


SECRET = "secret"  # noqa: S105
"""Type of a validation error (`PydanticCustomError`) whose value must not be shown."""


class Settings(BaseModel):
    """Base of every settings model: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class HostPort:
    """A listening or remote TCP address, written ``HOST:PORT`` or ``[IPv6]:PORT``."""

    __slots__ = ("host", "port")

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port

    @classmethod
    def parse(cls, text: str) -> HostPort:
        """Read ``127.0.0.1:11211``, ``cache1:11211`` or ``[::1]:11211``.

        Raises:
            ValueError: it is not of that form, or the port is not in 0..65535.
        """
        match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]]+)):(\d{1,5})", text)
        if match is None or int(match[3]) > 65535:
            raise ValueError(f"{text!r} is no address: write HOST:PORT, for example 127.0.0.1:8080")
        return cls(match[1] or match[2], int(match[3]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"HostPort({self.host!r}, {self.port})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HostPort):
            return NotImplemented
        return (self.host, self.port) == (other.host, other.port)

    def __hash__(self) -> int:
        return hash((self.host, self.port))

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> core_schema.CoreSchema:
        def read(value: Any) -> HostPort:
            if isinstance(value, HostPort):
                return value
            try:
                return cls.parse(str(value))
            except ValueError as error:
                raise PydanticCustomError("address", "{why}", {"why": str(error)}) from None

        return core_schema.no_info_plain_validator_function(
            read, serialization=core_schema.to_string_ser_schema()
        )


_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def _bytes(value: Any) -> Any:
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+)\s*([kmgt]?)(?:i?b)?", value.strip().lower())
        if match is None:
            raise PydanticCustomError("size", "write a size as 65536, 64k, 512m or 2g")
        return int(match[1]) * _UNITS[match[2]]
    return value


ByteSize = Annotated[int, BeforeValidator(_bytes), Field(ge=0)]
"""A number of bytes; a string may carry a binary unit: ``64k``, ``512m``, ``2g``."""


class ServiceSettings(Settings):
    """The settings that everything has which runs until it is told to stop."""

    metrics_listen: HostPort | None = Field(
        default=None,
        description="address of /metrics (Prometheus) and /health, HOST:PORT; unset: off",
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="log lines for people (text) or for machines (json)"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the least important kind of event that is logged"
    )
    drain_timeout_s: float = Field(
        default=10.0, ge=0, description="seconds that work in flight may take after SIGTERM"
    )


class DaemonSettings(ServiceSettings):
    """The settings that every daemon has; a daemon's own model adds to them."""

    listen: HostPort = Field(description="address that clients connect to, HOST:PORT")
    max_connections: int = Field(
        default=10_000, ge=1, description="client connections at once; more are refused"
    )
    idle_timeout_s: float = Field(
        default=0.0, ge=0, description="seconds of silence before a client is cut off; 0: never"
    )


class TextCommandSettings(DaemonSettings):
    """Settings of a daemon that takes an administrator's commands on its clients' port."""

    shutdown_command: bool = Field(
        default=False, description="whether a client may end the server with `shutdown`"
    )


S = TypeVar("S", bound=Settings)


def load_settings(
    model: type[S],
    file: Path | None = None,
    overrides: Sequence[str] = (),
    base: Mapping[str, Any] | None = None,
) -> S:
    """Read the settings of a daemon or a site.

    Args:
        model: the `Settings` class to fill.
        file: a TOML file; None takes the defaults.
        overrides: ``KEY=VALUE`` words, the key dotted for tables (``pool.size=8``);
            the value is TOML, or plain text where that is no TOML.
        base: values under the file's, as a daemon's own defaults.

    Raises:
        ConfigError: the file can't be read or is no TOML, a key is unknown, a
            value is out of bounds; the message names all that is wrong.
    """
    values: dict[str, Any] = dict(base or {})
    if file is not None:
        _merge(values, _read_toml(file))
    for word in overrides:
        _override(values, word)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        where = str(file) if file is not None else "settings"
        lines = [_explain(model, details) for details in error.errors()]
        raise ConfigError("\n".join(f"{where}: {line}" for line in lines)) from None


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}; name a file that exists") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not TOML: {error}") from None


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _override(values: dict[str, Any], word: str) -> None:
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {word}: write KEY=VALUE, for example --set log_format=json")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *tables, last = key.split(".")
    for table in tables:
        inner = values.setdefault(table, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {word}: {table} is a value, not a table")
        values = inner
    values[last] = value


def _explain(model: type[BaseModel], details: ErrorDetails) -> str:
    key = ".".join(str(part) for part in details["loc"])
    if details["type"] == "extra_forbidden":
        known = _known_keys(model, details["loc"][:-1])
        near = difflib.get_close_matches(str(details["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(sorted(known))}"
        return f"{key}: unknown key; {hint}"
    if details["type"] == "missing":
        return f"{key}: missing; it must be set"
    message = details["msg"]
    shown = not isinstance(details["input"], dict) and details["type"] != SECRET
    got = f" (got {details['input']!r})" if shown else ""
    return f"{key or 'the whole'}: {message[:1].lower()}{message[1:]}{got}"


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The keys that the table at `path` may have, as far as the model tells."""
    current: Any = model
    for part in path:
        if not (isinstance(current, type) and issubclass(current, BaseModel)):
            return []
        if (field := current.model_fields.get(str(part))) is None:
            continue  # the name of an entry in a table of tables
        current = _inner_model(field.annotation)
    if isinstance(current, type) and issubclass(current, BaseModel):
        return list(current.model_fields)
    return []


def _inner_model(annotation: Any) -> Any:
    """The settings model inside ``X``, ``X | None``, ``list[X]`` or ``dict[str, X]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := _inner_model(argument)) is not None:
            return found
    return None
