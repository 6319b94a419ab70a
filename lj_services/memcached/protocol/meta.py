"""Meta commands: their flags read, checked and kept in order.

A flag is a word: a letter and, for some, an argument without a space between
(``T30``).  The order matters, because replies echo it; a letter may come once.
Source: memcached's doc/protocol.txt as of 1.6.18, "Meta Commands".
"""

from __future__ import annotations

import base64
import binascii
from typing import Final, NamedTuple

from lj_services.memcached.protocol import replies
from lj_services.memcached.protocol.commands import (
    MAX_KEY,
    UINT32_MAX,
    MetaArithmetic,
    MetaDebug,
    MetaDelete,
    MetaFlags,
    MetaGet,
    Refused,
)
from lj_services.memcached.protocol.numbers import signed, unsigned

MAX_WORDS: Final = 19
"""Most words on the line of a meta command."""

MAX_OPAQUE: Final = 32
"""Longest opaque word (``O...``), in bytes, its letter included."""

_LETTERS: Final = frozenset(b"bcfhkqstuvlICDFJLMNOPRT")
_MODES: Final = {b"ms": frozenset(b"EAPRSeaprs"), b"ma": frozenset(b"ID+-id")}

_BAD_TOKEN: Final = Refused(replies.client_error("bad token in command line format"))
_BAD_LINE: Final = Refused(replies.BAD_LINE)
_ERROR: Final = Refused(replies.ERROR)
_TOO_LONG: Final = Refused(replies.client_error("options flags are too long"))
_DUPLICATE: Final = Refused(replies.client_error("duplicate flag"))
_INVALID: Final = Refused(replies.client_error("invalid flag"))
_OPAQUE: Final = Refused(replies.client_error("opaque token too long"))
_BAD_KEY: Final = Refused(replies.client_error("error decoding key"))
_BAD_INITIAL: Final = Refused(replies.client_error("invalid numeric initial value"))
_BAD_DELTA: Final = Refused(replies.client_error("invalid numeric delta value"))
_BAD_MODE_LENGTH: Final = Refused(replies.client_error("incorrect length for M token"))


class KeyAndFlags(NamedTuple):
    """What every meta command has."""

    key: bytes
    flags: MetaFlags


def read_key_and_flags(words: list[bytes], first_flag: int) -> KeyAndFlags | Refused:
    """Read and check what follows the verb.

    Args:
        words: the whole line, verb and key first.
        first_flag: index of the first flag.
    """
    if len(words) < 2:
        return _ERROR
    if len(words[1]) > MAX_KEY:
        return _BAD_LINE
    if len(words) > MAX_WORDS:
        return _TOO_LONG
    flags: dict[bytes, bytes] = {}
    for word in words[first_flag:]:
        letter = word[:1]
        if letter in flags:
            return _DUPLICATE
        if word[0] not in _LETTERS:
            return _INVALID
        flags[letter] = word[1:]
    refusal = _check_arguments(words[0], flags)
    if refusal is not None:
        return refusal
    key = words[1]
    if b"b" in flags:
        try:
            key = base64.b64decode(key, validate=True)
        except binascii.Error:
            key = b""
        if not key:
            return _BAD_KEY
    return KeyAndFlags(key, flags)


def _check_arguments(verb: bytes, flags: MetaFlags) -> Refused | None:
    for letter, argument in flags.items():
        match letter:
            case b"T" | b"N" | b"R":
                if signed(argument) is None:
                    return _BAD_TOKEN
            case b"C":
                if unsigned(argument) is None:
                    return _BAD_TOKEN
            case b"F":
                if unsigned(argument, UINT32_MAX) is None:
                    return _BAD_TOKEN
            case b"J":
                if unsigned(argument) is None:
                    return _BAD_INITIAL
            case b"D":
                if unsigned(argument) is None:
                    return _BAD_DELTA
            case b"M":
                if len(argument) != 1:
                    return _BAD_MODE_LENGTH
                if verb in _MODES and argument[0] not in _MODES[verb]:
                    return Refused(
                        replies.client_error(f"invalid mode for {verb.decode()} M token")
                    )
            case b"O":
                if len(argument) >= MAX_OPAQUE:
                    return _OPAQUE
    return None


_INVALID_OR_DUPLICATE: Final = Refused(replies.client_error("invalid or duplicate flag"))
_FLAG_ERRORS: Final = frozenset(
    (_INVALID, _DUPLICATE, _BAD_TOKEN, _BAD_KEY, _BAD_INITIAL, _BAD_DELTA, _BAD_MODE_LENGTH)
)  # md and ma don't tell them apart
_KINDS: Final[dict[bytes, type[MetaGet | MetaDelete | MetaArithmetic]]] = {
    b"mg": MetaGet,
    b"md": MetaDelete,
    b"ma": MetaArithmetic,
}


def read_meta(words: list[bytes]) -> MetaGet | MetaDelete | MetaArithmetic | Refused:
    """``mg key flags*``, ``md key flags*`` and ``ma key flags*``."""
    meta = read_key_and_flags(words, 2)
    if isinstance(meta, Refused):
        return _INVALID_OR_DUPLICATE if words[0] != b"mg" and meta in _FLAG_ERRORS else meta
    return _KINDS[words[0]](meta.key, meta.flags)


def read_meta_debug(words: list[bytes]) -> MetaDebug | Refused:
    """``me key [b]``."""
    if len(words) < 2 or len(words[1]) > MAX_KEY:
        return _BAD_LINE
    base64_key = words[2:3] == [b"b"]
    meta = read_key_and_flags([*words[:2], b"b"] if base64_key else words[:2], 2)
    return _BAD_LINE if isinstance(meta, Refused) else MetaDebug(meta.key, base64_key)
