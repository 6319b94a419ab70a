"""Plug-ins: modules that add commands, parameters and hooks; how they are found by name.

``LOAD name`` imports ``lj_services.perlbal.plugins.name`` (the name in lower case), or a
module of that name from a folder that ``--plugin-path`` names, and takes the one object in
it that is called ``plugin``: an instance of a class derived from `Plugin`.  ``SET plugins =
name`` then has it work on a service.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lj_services.perlbal.errors import CommandError
from lj_services.perlbal.language import Command
from lj_services.perlbal.tunables import Tunable

if TYPE_CHECKING:
    from lj_services.perlbal.balancer import Balancer
    from lj_services.perlbal.service import Service

PACKAGE = "lj_services.perlbal.plugins"


class Plugin:
    """Base of all plug-ins; every method may be left as it is.

    Attributes:
        name: in lower case; the module's.
        title: as the original writes it, for answers.
        commands: console commands that it adds, by first word.
        tunables: parameters that it adds to services.
        roles: kinds of services that it adds, by name; the value makes the role.
    """

    name = ""
    title = ""

    def __init__(self) -> None:
        self.commands: Mapping[str, Callable[[Balancer, Command], None]] = {}
        self.tunables: tuple[Tunable, ...] = ()
        self.roles: Mapping[str, Callable[[Service], Any]] = {}

    def load(self, balancer: Balancer) -> None:
        """Called once, by LOAD."""

    def unload(self, balancer: Balancer) -> None:
        """Called by UNLOAD, when no service uses it any more."""

    def register(self, service: Service) -> None:
        """Work on a service: register hooks.

        Called again, without `unregister`, when the service is given other plug-ins beside this
        one: what is known of the service stays.

        Raises:
            CommandError: it can't work on this service.
        """

    def unregister(self, service: Service) -> None:
        """Stop to work on a service; its hooks are gone already."""

    def set(self, service: Service, key: str, value: str) -> bool:
        """Carry out ``SET service.name.key = value``; False if there is no such key.

        Raises:
            CommandError: the value is refused.
        """
        return False

    def dump(self, service: Service) -> list[str]:
        """The commands that would make it what it is for a service."""
        return []


def service_meant(balancer: Balancer, command: Command, name: str = "") -> Service:
    """The service that a plug-in's command is about: `name`, or the one created or used last.

    Raises:
        CommandError: there is none, or none was named.
    """
    name = name or command.context.last_created
    if not name:
        raise CommandError(
            "No service name in context from CREATE SERVICE <name> or USE <service_name>"
        )
    return balancer.service(name)


def regexp(text: str) -> re.Pattern[bytes]:
    """A regular expression that an operator has written, for bytes of requests.

    Raises:
        CommandError: it is none.
    """
    try:
        return re.compile(text.encode())
    except re.error as error:
        raise CommandError(f"invalid regular expression: '{text}': {error}") from None


def put(lines: list[bytes], name: bytes, value: bytes) -> None:
    """Put a field into a head's lines in place of all that have its name."""
    wanted = name.lower()
    lines[:] = [line for line in lines if line.partition(b":")[0].lower() != wanted]
    lines.append(b"%b: %b" % (name, value))


def find(name: str, folders: tuple[Path, ...] = ()) -> Plugin:
    """The plug-in called `name`.

    Raises:
        CommandError: there is none, it has no `plugin`, or it can't be imported.
    """
    if re.fullmatch(r"[a-z]\w*", name, re.ASCII) is None:
        raise CommandError(f"'{name}' is no name of a plugin")
    try:
        module = _import(name, folders)
    except ModuleNotFoundError as error:
        if error.name not in (f"{PACKAGE}.{name}", PACKAGE):
            raise CommandError(f"plugin {name} can't be loaded: {error}") from error
        raise CommandError(f"there is no plugin '{name}'; {_known(folders)}") from None
    except Exception as error:
        raise CommandError(f"plugin {name} can't be loaded: {error}") from error
    plugin = getattr(module, "plugin", None)
    if not isinstance(plugin, Plugin):
        raise CommandError(f"plugin {name}: its module has no object 'plugin' of class Plugin")
    plugin.name = name
    plugin.title = plugin.title or name
    return plugin


def _import(name: str, folders: tuple[Path, ...]) -> Any:
    for folder in folders:
        file = folder / f"{name}.py"
        if file.is_file():
            spec = importlib.util.spec_from_file_location(f"{PACKAGE}.{name}", file)
            if spec is None or spec.loader is None:
                break
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    return importlib.import_module(f"{PACKAGE}.{name}")


def _known(folders: tuple[Path, ...]) -> str:
    try:
        package = importlib.import_module(PACKAGE)
        places = [Path(path) for path in package.__path__]
    except ModuleNotFoundError:
        places = []
    names = {
        file.stem
        for place in (*places, *folders)
        for file in place.glob("*.py")
        if not file.stem.startswith("_")
    }
    return f"there are {', '.join(sorted(names))}" if names else "there are none"
