"""Where the site's job servers are: the table [gearman] of the site file."""

from __future__ import annotations

from pydantic import Field

from lj_services.daemon import HostPort, Settings


class ClientSettings(Settings):
    """What programs that call functions read."""

    servers: tuple[HostPort, ...] = Field(
        min_length=1,
        description="the job servers, in the same order everywhere: a unique key's place in the "
        "list decides where its job goes",
    )
