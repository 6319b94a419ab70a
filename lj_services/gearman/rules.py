"""What the queues may do, and how they say no."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lj_services.gearman.protocol import MAX_FUNCTION


class Refused(Exception):
    """Something that the server does not do now.

    Args:
        code: the word by which programs know it.
        text: why, for people.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Rules:
    """What the queues may do."""

    job_retries: int = -1
    """How often a job whose worker was lost is given to another one; -1: always."""
    on_timeout: Literal["fail", "retry"] = "fail"
    round_robin: bool = True
    """Whether the functions of a worker take turns; else the one it named first comes first."""
    max_queue: int = 0
    """Jobs of a function, beyond which more are refused; 0: any number."""
    max_data: int = 0
    """Bytes of all jobs' data, beyond which more are refused; 0: any number."""
    max_functions: int = 100_000


def check_function_name(name: bytes) -> None:
    """Refuse what can't be a function's name.

    Names stand in lines of words, and in lists that end with a line of one dot.

    Raises:
        Refused: it is empty, too long, or holds control characters.
    """
    if not 0 < len(name) <= MAX_FUNCTION or any(byte < 32 or byte == 127 for byte in name):
        raise Refused(
            "INVALID_FUNCTION_NAME",
            f"A function's name has 1 to {MAX_FUNCTION} bytes, and no control characters",
        )
