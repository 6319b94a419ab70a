"""Every variable of every role is declared, so that a wrong one is refused before anything is
changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.unit

ROLES = Path(__file__).parents[3] / "roles"
NAMES = sorted(role.name for role in ROLES.iterdir())


def read(role: str, file: str) -> dict[str, Any]:
    path = ROLES / role / file
    return yaml.safe_load(path.read_text()) or {} if path.exists() else {}


@pytest.mark.parametrize("role", NAMES)
def test_every_default_is_declared_with_type_and_meaning(role: str) -> None:
    entries = read(role, "meta/argument_specs.yml")["argument_specs"].values()
    declared = {name: said for entry in entries for name, said in entry.get("options", {}).items()}
    assert set(read(role, "defaults/main.yml")) <= set(declared)
    for entry in entries:
        assert entry["short_description"]
    for name, said in declared.items():
        assert said.get("type"), name
        assert said.get("description"), name


@pytest.mark.parametrize("role", NAMES)
def test_variables_are_named_for_their_role(role: str) -> None:
    strangers = [name for name in read(role, "defaults/main.yml") if not name.startswith(role)]
    assert not strangers
