"""The client's settings: the ``[memcached]`` table of the site file."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from lj_services.daemon import ByteSize, HostPort, Settings
from lj_services.memcached.keys import KeySpace
from lj_services.memcached.rings import RingName, Server
from lj_services.memcached.serializer import CompressionMethod


class ServerAddress(Settings):
    """One cache server."""

    address: HostPort = Field(description="where it listens, HOST:PORT")
    weight: int = Field(
        default=1, ge=1, le=10_000, description="its share of the keys, relative to the others"
    )

    def server(self) -> Server:
        """The same as the rings know it."""
        return Server(self.address.host, self.address.port, self.weight)


class ClientSettings(Settings):
    """Which servers there are and how long to wait for them."""

    servers: list[ServerAddress] = Field(
        min_length=1, description="the cache servers; every program lists them in the same order"
    )
    ring: RingName = Field(
        default="crc32",
        description="how keys are spread: crc32 (as Perl's Cache::Memcached) or ketama (as "
        "libmemcached, weighted); the same in every program that shares the cache",
    )
    rehash: bool = Field(
        default=True,
        description="keys of a dead server go to the living ones; false: they are misses",
    )
    namespace: str = Field(
        default="",
        description="put before every key on the wire; takes no part in the placement",
    )
    connect_timeout_s: float = Field(
        default=0.25, gt=0, le=60, description="seconds to wait for a connection"
    )
    timeout_s: float = Field(
        default=1.0, gt=0, le=60, description="seconds to wait for a server's whole answer"
    )
    dead_retry_s: float = Field(
        default=20.0,
        ge=0,
        description="seconds that a server that failed is left out, and up to half as much "
        "again, at random, so that not all programs come back at once",
    )
    compress_threshold: ByteSize = Field(
        default=4096, description="values from this size on are zipped, in bytes; 0: never"
    )
    compress_method: CompressionMethod = Field(
        default="zlib",
        description="zlib (pylibmc and pymemcache can read it) or gzip (Cache::Memcached can)",
    )
    max_idle_connections: int = Field(
        default=32, ge=1, description="connections kept open to each server while not in use"
    )

    @field_validator("namespace")
    @classmethod
    def _part_of_keys(cls, value: str) -> str:
        KeySpace(value)
        return value

    @model_validator(mode="after")
    def _no_server_twice(self) -> Self:
        addresses = [str(server.address) for server in self.servers]
        if twice := sorted({address for address in addresses if addresses.count(address) > 1}):
            raise ValueError(f"servers lists {', '.join(twice)} twice; give it a higher weight")
        return self
