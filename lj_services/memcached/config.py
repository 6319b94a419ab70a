"""Settings of the embedded memcached server."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from lj_services.daemon import ByteSize, HostPort, TextCommandSettings

LEAST_ITEMS = 4
"""The memory limit holds at least this many items of the largest size."""


class ServerSettings(TextCommandSettings):
    """What ``lj memcached serve`` reads."""

    listen: HostPort = Field(
        default=HostPort("127.0.0.1", 11211),
        description="address that clients connect to, HOST:PORT",
    )
    memory_limit: ByteSize = Field(
        default=64 << 20,
        ge=1 << 20,
        description="bytes that items may take, all that they cost counted (64m, 2g)",
    )
    max_item_size: ByteSize = Field(
        default=1 << 20,
        ge=1 << 10,
        le=128 << 20,
        description="longest key and value together, in bytes; at most a quarter of memory_limit",
    )

    @model_validator(mode="after")
    def _limit_holds_some_items(self) -> Self:
        if self.memory_limit < LEAST_ITEMS * self.max_item_size:
            raise ValueError(
                f"memory_limit must be at least {LEAST_ITEMS} times max_item_size: raise it to "
                f"{LEAST_ITEMS * self.max_item_size}, or lower max_item_size"
            )
        return self
