"""The commands of the configuration language and the console, by first word.

- ``configure.py``: what makes and changes services, pools and plug-ins
- ``show.py``: what there is, and what it is doing
- ``process.py``: the process: its sockets, its time, its end

Each is a function of the balancer and the `Command`; it answers through the command, or
raises `CommandError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from lj_services.perlbal.commands import configure, process, show
from lj_services.perlbal.language import Command

if TYPE_CHECKING:
    from lj_services.perlbal.balancer import Balancer

COMMANDS: Final[Mapping[str, Callable[[Balancer, Command], None]]] = {
    **configure.COMMANDS,
    **show.COMMANDS,
    **process.COMMANDS,
}
