"""What the one box loads is in ansible-core: `make up` installs no collections."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.unit

CHECKOUT = Path(__file__).parents[3]
_ELSEWHERE = re.compile(
    r"^\s*(?:- )?((?!ansible\.builtin\.)[a-z_]+\.[a-z_]+\.[a-z_]+):", re.MULTILINE
)


def modules_from_elsewhere(role: str) -> set[str]:
    """The modules of a role that ansible-core does not have."""
    folder = CHECKOUT / "roles" / role
    files = [*folder.glob("tasks/*.yml"), *folder.glob("handlers/*.yml")]
    return {name for file in files for name in _ELSEWHERE.findall(file.read_text())}


def test_there_are_roles_that_need_collections() -> None:
    assert modules_from_elsewhere("common") == {"ansible.posix.sysctl"}


def test_they_are_loaded_only_by_sites_that_have_hosts_for_them() -> None:
    plays: list[dict[str, Any]] = yaml.safe_load((CHECKOUT / "playbooks/site.yml").read_text())
    loaded = {role["role"] for play in plays for role in play.get("roles", [])}
    assert {"runtime", "journal"} <= loaded
    assert {role: modules_from_elsewhere(role) for role in loaded} == {
        role: set() for role in loaded
    }
