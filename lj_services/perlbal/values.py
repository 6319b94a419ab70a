"""The kinds of values that parameters have: text -> value, value -> text.

Every kind says in one sentence what it wants; the sentences are the original's where the
original has one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lj_services.perlbal.nodes import Address, parse_address

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})
_NOTHING: Final = frozenset({"none", "undef", "null"})
"""Words for no value, where a parameter can have none."""
_UNITS: Final = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20}


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    Attributes:
        name: for the tables.
        parse: (text, name of the parameter) -> value; ValueError with the sentence to answer.
        show: value -> text that `parse` reads back.
    """

    name: str
    parse: Callable[[str, str], Any]
    show: Callable[[Any], str] = str


def _bool(text: str, key: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(f"Expecting boolean value for parameter '{key}'")


def _int(text: str, key: str) -> int:
    if not re.fullmatch(r"\d{1,15}", text, re.ASCII):
        raise ValueError(f"Expecting integer value for parameter '{key}'")
    return int(text)


def _percent(text: str, _key: str) -> int:
    if not re.fullmatch(r"\d{1,3}", text, re.ASCII) or int(text) > 100:
        raise ValueError("Expecting integer value between 0 and 100, inclusive.")
    return int(text)


def parse_size(text: str, key: str) -> int:
    """A number of bytes, as ``4096``, ``256k`` or ``2m``.

    Raises:
        ValueError: it is none; names the parameter `key`.
    """
    match = re.fullmatch(r"(\d{1,15})([bkm]?)", text.lower(), re.ASCII)
    if match is None:
        raise ValueError(
            f"Expecting size unit value for parameter '{key}' in bytes, or suffixed with 'K' or 'M'"
        )
    return int(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True)
class Listen:
    """Where a service listens; `host` is empty for every IPv4 address."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host or "0.0.0.0"  # noqa: S104
        return f"{host}:{self.port}"


def _listen(text: str, _key: str) -> Listen:
    match = re.fullmatch(r"(?:(?:\[([^\]]+)\]|([\d.]+)):)?(\d{1,5})", text, re.ASCII)
    if match is not None and int(match[3]) < 65536:
        host = match[1] or match[2] or ""
        try:
            if host:
                ipaddress.ip_address(host)
        except ValueError:
            pass
        else:
            return Listen(host, int(match[3]))
    raise ValueError("Listen argument must be ip:port or port. e.g. 192.168.0.1:80, [::1]:80 or 81")


def _networks(text: str, _key: str) -> tuple[Network, ...]:
    words = [word for word in re.split(r"[\s,]+", text) if word]
    try:
        found = tuple(ipaddress.ip_network(word, strict=False) for word in words)
    except ValueError as error:
        raise ValueError(f"Error defining trusted upstream proxies: {error}") from None
    if not found:
        raise ValueError("Error defining trusted upstream proxies: None found")
    return found


def _words(text: str, _key: str) -> tuple[str, ...]:
    return tuple(word for word in re.split(r"[\s,]+", text) if word)


def _endpoints(text: str, key: str) -> tuple[Address, ...]:
    words = _words(text, key)
    if words == ("none",):
        return ()
    try:
        found = tuple(parse_address(word) for word in words)
    except ValueError:
        found = ()
    if not found:
        raise ValueError(f"Expecting ip:port, ... for parameter '{key}'")
    return found


def _prefixes(text: str, key: str) -> tuple[str, ...]:
    words = () if text.lower() in _NOTHING else _words(text, key)
    if not all(re.match(r"/|http://[^/]", word) for word in words):
        raise ValueError(f"Expecting /folder or http://host:port/path, ... for parameter '{key}'")
    return words


def _path(text: str, key: str) -> str:
    if text.lower() in _NOTHING:
        return ""
    if text and not re.fullmatch(r"\*|/[!-~]*", text):
        raise ValueError(f"Expecting /path or * for parameter '{key}'")
    return text


def _optional(text: str, _key: str) -> str:
    return "" if text.lower() in _NOTHING else text


def _folder(text: str, key: str) -> Path | None:
    if text.lower() in _NOTHING:
        return None
    path = Path(text)
    if not text or not path.is_dir():
        raise ValueError(f"Directory '{text}' not found for '{key}'")
    return path


def _file(text: str, key: str) -> Path | None:
    if text.lower() in _NOTHING:
        return None
    path = Path(text)
    if not text or not path.is_file():
        raise ValueError(f"File '{text}' not found for '{key}'")
    return path


def _schedule(text: str, key: str) -> tuple[float, ...]:
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(r"\d*\.?\d+", word, re.ASCII) for word in words):
        raise ValueError(f"Expecting seconds separated by commas for parameter '{key}'")
    return tuple(float(word) for word in words)


def _regexp(text: str, key: str) -> re.Pattern[bytes]:
    try:
        return re.compile(text.encode())
    except re.error as error:
        raise ValueError(f"Expecting a regular expression for parameter '{key}': {error}") from None


def _text(text: str, _key: str) -> str:
    return text


def _token(text: str, key: str) -> str:
    if text and not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", text, re.ASCII):
        raise ValueError(f"Expecting letters, digits and '-', '_' for parameter '{key}'")
    return "" if text.lower() in _NOTHING else text


BOOL = Kind("bool", _bool, lambda value: "on" if value else "off")
INT = Kind("int", _int)
PERCENT = Kind("percent", _percent)
SIZE = Kind("size", parse_size)
TEXT = Kind("text", _text)
TOKEN = Kind("token", _token)
LISTEN = Kind("address", _listen)
NETWORKS = Kind("networks", _networks, lambda value: ", ".join(map(str, value)))
WORDS = Kind("list", _words, ", ".join)
PREFIXES = Kind("prefixes", _prefixes, ", ".join)
PATH = Kind("path", _path)
OPTIONAL = Kind("optional", _optional)
ENDPOINTS = Kind("addresses", _endpoints, lambda value: ", ".join(map(str, value)))
FOLDER = Kind("folder", _folder)
FILE = Kind("file", _file)
SCHEDULE = Kind("seconds", _schedule, lambda value: ", ".join(f"{each:g}" for each in value))
REGEXP = Kind("regexp", _regexp, lambda value: value.pattern.decode())
