"""What a parameter is: its name, the values that it takes, and who has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from lj_services.perlbal.errors import CommandError
from lj_services.perlbal.values import Kind

ROLES: Final = ("reverse_proxy", "web_server", "selector", "management", "upload_tracker")
"""What a service can be; plug-ins may add to it."""


@dataclass(frozen=True)
class Tunable:
    """One parameter of a service.

    Attributes:
        name: as in ``SET name = value``.
        kind: what values it takes.
        default: its value unless it is set.
        doc: what it does, for the operator.
        role: the only role that has it; empty: every role.
        unit: of a number.
        refused: why it is not carried out; empty: it is.
        own: whether the original does not have it.
    """

    name: str
    kind: Kind
    default: Any
    doc: str
    role: str = ""
    unit: str = ""
    refused: str = ""
    own: bool = False

    def parse(self, text: str, role: str) -> Any:
        """The value that `text` says, for a service of the role `role`.

        Raises:
            CommandError: the role has no such parameter, the value is none of its kind, or
                it asks for what is not carried out.
        """
        if self.role and role != self.role:
            raise CommandError(
                f"The '{self.name}' option can only be set on a '{self.role}' service"
            )
        try:
            value = self.kind.parse(text, self.name)
        except ValueError as error:
            # What was never set may be set to nothing, as a file's default path is.
            raise CommandError(str(error)) from None
        if self.refused and value != self.default:
            raise CommandError(f"'{self.name}' is not carried out: {self.refused}")
        return value
