"""Every level of a post, for every kind of visitor, on every page that could show it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from lj_services.journal.security import Security, clearance, may_see
from tests.support.journal import MakeJournal, Person, TestJournal

pytestmark = pytest.mark.unit

VIEWERS = ("anonymous", "stranger", "reader", "trusted", "owner")
"""reader: lists the owner, without being listed; trusted: both."""
ALLOWED = {
    "public": set(VIEWERS),
    "friends": {"trusted", "owner"},
    "private": {"owner"},
}


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("viewer", [None, 7, 8])
@pytest.mark.parametrize("trusted", [False, True])
def test_clearance(level: int, viewer: int | None, trusted: bool) -> None:
    owner = 7
    seen = may_see(level, clearance(owner, viewer, trusted=trusted))
    expected = level == 0 or viewer == owner or (level == 1 and trusted and viewer is not None)
    assert seen == expected


@pytest.mark.parametrize("level", [-1, 3, 255])
def test_a_level_that_is_none_is_open_to_nobody(level: int) -> None:
    assert not any(may_see(level, cleared) for cleared in Security)


@dataclass
class Scene:
    journal: TestJournal
    people: dict[str, Person]
    posts: dict[str, int]


@pytest.fixture(params=["cached", "uncached"])
def scene(make_journal: MakeJournal, request: pytest.FixtureRequest) -> Scene:
    journal = make_journal(cached=request.param == "cached")
    owner = journal.member("owner", cluster=1)
    people = {"anonymous": journal.visitor(), "owner": owner}
    for number, name in enumerate(("stranger", "reader", "trusted")):
        people[name] = journal.member(name, cluster=1 + number % 2)
    people["reader"].befriend(owner)
    people["trusted"].befriend(owner)
    owner.befriend(people["trusted"])
    posts = {level: owner.post(f"A {level} secret", security=level) for level in ALLOWED}
    return Scene(journal, people, posts)


def test_every_page(scene: Scene) -> None:
    for viewer, person in scene.people.items():
        journal_page = person.get("/~owner").text
        feed = person.get("/~owner/feed").text
        front = person.get("/").text
        friends = person.get("/friends").text
        for level, allowed in ALLOWED.items():
            title, case = f"A {level} secret", (viewer, level)
            seen = viewer in allowed
            address = f"/~owner/{scene.posts[level]}"
            page = person.get(address)
            assert (page.status_code, title in page.text) == ((200, True) if seen else (404, False))
            assert (title in journal_page) == seen, case
            assert (title in feed) == (level == "public"), case
            assert (title in front) == (level == "public"), case
            reads_owner = viewer in ("reader", "trusted")
            assert (title in friends) == (seen and reads_owner), case
            assert (person.get(f"{address}/edit").status_code == 200 and viewer != "anonymous") == (
                viewer == "owner"
            ), case


def test_commenting_needs_to_see(scene: Scene) -> None:
    for viewer, person in scene.people.items():
        for level, allowed in ALLOWED.items():
            address = f"/~owner/{scene.posts[level]}/comments"
            page = "/login" if viewer == "anonymous" else "/post"
            answer = person.send(address, {"body": f"By {viewer}"}, page=page)
            expected = 403 if viewer == "anonymous" else 200 if viewer in allowed else 404
            assert answer.status_code == expected, (viewer, level)


def test_only_the_owner_changes_and_deletes(scene: Scene) -> None:
    for viewer in ("stranger", "reader", "trusted"):
        for what in ("edit", "delete"):
            answer = scene.people[viewer].send(
                f"/~owner/{scene.posts['public']}/{what}", {"body": "Mine now", "subject": "x"}
            )
            assert answer.status_code == 403
    anonymous = scene.people["anonymous"]
    answer = anonymous.send(f"/~owner/{scene.posts['public']}/delete", page="/login")
    assert answer.status_code == 403
    assert "A public secret" in anonymous.get("/~owner").text


def test_a_hidden_post_s_comments_are_not_given_away(scene: Scene) -> None:
    for level in ALLOWED:
        answer = scene.people["owner"].send(
            f"/~owner/{scene.posts[level]}/comments", {"body": "Mine"}
        )
        there = answer.url.fragment.removeprefix("c")
        for viewer in ("stranger", "reader", "trusted"):
            told = [
                scene.people[viewer]
                .send(f"/~owner/{scene.posts[level]}/comments/{commentid}/delete")
                .status_code
                for commentid in (there, "999")
            ]
            assert told == [403 if viewer in ALLOWED[level] else 404, 404], (viewer, level)


def test_what_is_taken_back_is_gone_at_once(scene: Scene) -> None:
    owner, trusted = scene.people["owner"], scene.people["trusted"]
    assert "A friends secret" in trusted.get("/friends").text
    assert owner.send("/~trusted/unfriend").status_code == 200
    assert "A friends secret" not in trusted.get("/friends").text
    assert trusted.get(f"/~owner/{scene.posts['friends']}").status_code == 404


def test_a_post_made_private_leaves_friends_pages_at_once(scene: Scene) -> None:
    owner, reader = scene.people["owner"], scene.people["reader"]
    assert "A public secret" in reader.get("/friends").text
    owner.send(
        f"/~owner/{scene.posts['public']}/edit",
        {"subject": "A public secret", "body": "x", "security": "private"},
    )
    assert "A public secret" not in reader.get("/friends").text
    assert "A public secret" not in reader.get("/").text


def test_an_unknown_level_in_a_form_opens_nothing(journal: TestJournal) -> None:
    owner = journal.member("owner")
    answer = owner.send("/post", {"subject": "S", "body": "B", "security": "everyone"})
    assert answer.status_code == 422
    assert "Choose who may read it" in answer.text
    assert "Nothing here" in journal.visitor().get("/~owner").text
