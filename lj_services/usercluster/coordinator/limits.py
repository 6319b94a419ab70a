"""How much moves may load a cluster, and how loaded it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, ValidationError

from lj_services.daemon import Settings


class Limits(Settings):
    """What moves may do on one side of a cluster."""

    moves: int = Field(default=4, ge=0, le=10_000, description="moves at once; 0: none")
    purges: int = Field(
        default=2, ge=0, le=10_000, description="earlier homes that are purged at once; 0: none"
    )
    rows_s: float = Field(
        default=0.0, ge=0, le=1e9, description="rows a second, of all moves together; 0: any number"
    )
    lag_s: float = Field(
        default=10.0,
        ge=0,
        le=86_400,
        description="seconds that a replica may be behind; 0: not looked at",
    )
    busy: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="share of the time that the disk may be busy; 1: not looked at",
    )


def changed(limits: Limits, values: Mapping[str, float]) -> Limits:
    """Limits with some of them changed.

    Raises:
        ValueError: one is unknown or out of its bounds; says which, and what is right.
    """
    whole: dict[str, Any] = {
        name: int(value) if name in ("moves", "purges") and value == int(value) else value
        for name, value in values.items()
    }
    try:
        return Limits.model_validate({**limits.model_dump(), **whole})
    except ValidationError as error:
        first = error.errors()[0]
        known = ", ".join(Limits.model_fields)
        raise ValueError(f"{first['loc'][0]}: {first['msg']} (there are: {known})") from None


@dataclass(frozen=True, slots=True)
class Condition:
    """How a cluster is at the moment; None: nobody tells.

    Attributes:
        lag_s: seconds that its worst replica is behind.
        lag_why: why that can't be said although it should: a replica that does not replicate.
        lag_of: which replica.
        busy: share of the time that its disk is busy.
        busy_of: which host says so.
    """

    lag_s: float | None = None
    lag_why: str | None = None
    lag_of: str = ""
    busy: float | None = None
    busy_of: str = ""

    def against(self, clusterid: int, limits: Limits) -> str | None:
        """Why moves must wait for the cluster; None: they need not."""
        if limits.lag_s:
            if self.lag_why is not None:
                return f"cluster {clusterid}: replica {self.lag_of}: {self.lag_why}"
            if self.lag_s is not None and self.lag_s > limits.lag_s:
                return (
                    f"cluster {clusterid}: replica {self.lag_of} is {self.lag_s:.0f} s behind "
                    f"(limit {limits.lag_s:g})"
                )
        if limits.busy < 1 and self.busy is not None and self.busy > limits.busy:
            return (
                f"cluster {clusterid}: its disk is {self.busy:.0%} busy, says {self.busy_of} "
                f"(limit {limits.busy:.0%})"
            )
        return None
