"""The parameters that services have: name, kind, default, roles, meaning.

All of the original's 55 are here, under their names and with their defaults, and a few of
the kit's own (`Tunable.own`).  What is not carried out is refused when it is set to anything
but its default, with the reason (`Tunable.refused`): a configuration never says something
that is not so.

Source: Perlbal 1.80, doc/service-parameters.txt.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Final

from lj_services.perlbal.tunables import every, others, reverse_proxy
from lj_services.perlbal.tunables.tunable import ROLES, Tunable

__all__ = ["ROLES", "TUNABLES", "Tunable", "nearest", "table"]

_ALL: Final = (*every.TUNABLES, *reverse_proxy.TUNABLES, *others.TUNABLES)

TUNABLES: Final[Mapping[str, Tunable]] = {tunable.name: tunable for tunable in _ALL}
"""By name."""


def nearest(name: str, known: Iterable[str], what: str) -> str:
    """A sentence about a name that is unknown, with the known ones that are most like it.

    Args:
        name: what was written.
        known: what may be written.
        what: is called so: ``service parameter``.
    """
    near = difflib.get_close_matches(name, list(known), n=3)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    return f"Unknown {what} '{name}'{hint}"


def table() -> str:
    """All parameters as a table in Markdown, for the guide."""
    lines = ["| parameter | role | default | meaning |", "|---|---|---|---|"]
    for tunable in _ALL:
        default = "" if tunable.default in (None, "", ()) else tunable.kind.show(tunable.default)
        unit = f" {tunable.unit}" if tunable.unit and default else ""
        doc = tunable.doc.replace("|", "\\|")
        doc += f" (refused: {tunable.refused})" if tunable.refused else ""
        doc += " (the kit's own)" if tunable.own else ""
        lines.append(f"| `{tunable.name}` | {tunable.role or 'all'} | {default}{unit} | {doc} |")
    return "\n".join(lines)
