"""Tags of `site.yml`: names of roles, and a part of the site for each."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.support.box import CHECKOUT

pytestmark = [pytest.mark.roles]


def tags_of(play: dict[str, Any]) -> set[str]:
    """Of a play, whether it says one or many."""
    tags = play.get("tags", [])
    return {tags} if isinstance(tags, str) else set(tags)


def test_every_play_has_the_names_of_roles_and_looking_comes_first_whatever_is_asked() -> None:
    first, *plays = yaml.safe_load((CHECKOUT / "playbooks/site.yml").read_text())
    assert tags_of(first) == {"always"}
    roles = {path.name for path in (CHECKOUT / "roles").iterdir()}
    for play in plays:
        assert tags_of(play), play["name"]
        assert tags_of(play) <= roles, play["name"]
        # What a play is named for is done when that role is asked for.
        assert {role["role"] for role in play.get("roles", [])} <= tags_of(play), play["name"]


def test_what_is_written_for_a_role_is_written_before_it_when_only_that_is_asked_for() -> None:
    plays = yaml.safe_load((CHECKOUT / "playbooks/site.yml").read_text())
    (clients,) = [play for play in plays if "database" in tags_of(play)]
    assert {"memcached", "gearmand", "gearman_worker", "mover"} <= tags_of(clients)
    after = set().union(*(tags_of(play) for play in plays[plays.index(clients) + 1 :]))
    assert {"gearman_worker", "mover"} <= after
