"""Heads that have come before: they say what they would say if they were read again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from lj_services.perlbal.hooks import Hooks
from lj_services.perlbal.http import known
from lj_services.perlbal.http.head import Fields, RequestHead, ResponseHead
from lj_services.perlbal.http.parse import parse_request, parse_response
from lj_services.perlbal.parameters import Parameters
from lj_services.perlbal.proxy.headers import head_for_client, head_for_node, lines_for_node
from lj_services.perlbal.proxy.plain import PlainHeads

pytestmark = pytest.mark.unit

BROWSER = (
    b"Host: example.com\r\nUser-Agent: x\r\nCookie: a=1\r\nConnection: keep-alive, X-Hop\r\n"
    b"X-Hop: 1\r\nTE: trailers\r\nX_Forwarded_For: 1\r\nAccept: a\r\nAccept: b\r\n\r\n"
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nKeep-Alive: timeout=5\r\nVary: a\r\nVary: b\r\n\r\n"
)


@pytest.fixture(autouse=True)
def nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins with nothing remembered."""
    monkeypatch.setattr(known, "_requests", known.Known())
    monkeypatch.setattr(known, "_responses", known.Known())


def request(data: bytes) -> RequestHead:
    parsed = parse_request(data)
    assert parsed is not None
    assert parsed[1] == len(data)
    return parsed[0]


def response(data: bytes, method: bytes = b"GET") -> tuple[ResponseHead, int]:
    parsed = parse_response(data, method)
    assert parsed is not None
    return parsed


def said(head: Fields) -> dict[str, Any]:
    """All that a head says."""
    names = {name for kind in type(head).__mro__ for name in getattr(kind, "__slots__", ())}
    return {name: getattr(head, name) for name in names - {"kept"}} | {"kept": head.kept_block()}


@pytest.mark.parametrize(
    "fields",
    [
        BROWSER,
        b"Host: a\r\n\r\n",
        b"Host: a\r\nConnection: close\r\n\r\n",
        b"Host: a\r\nContent-Length: 0\r\n\r\n",
        b"Host: a\r\nExpect: 100-continue\r\n\r\n",
    ],
)
def test_a_request_with_known_fields_is_what_it_would_be(fields: bytes) -> None:
    again = b"HEAD /other?a=b HTTP/1.1\r\n" + fields
    read = said(request(again))
    assert known.known_request(again) is None
    request(b"GET /second HTTP/1.1\r\n" + fields)
    assert known.known_request(again) is not None
    assert said(request(again)) == read


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nx-host: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic YTpi\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * known.LONGEST + b"\r\n\r\n",
    ],
)
def test_what_is_not_plain_is_not_remembered(data: bytes) -> None:
    for _ in range(3):
        request(data)
    assert not known._requests.heads


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.0",
        b"GET http://b/ HTTP/1.1",
        b"GET /a#b HTTP/1.1",
        b"GET  / HTTP/1.1",
        b"GET /\x01 HTTP/1.1",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1",
        b"GET / HTTP/1.1\r\nX: y",
        b" GET / HTTP/1.1",
    ],
)
def test_an_unusual_line_is_read_though_its_fields_are_known(line: bytes) -> None:
    for _ in range(2):
        request(b"GET / HTTP/1.1\r\n" + BROWSER)
    assert known.known_request(b"GET / HTTP/1.1\r\n" + BROWSER) is not None
    assert known.known_request(line + b"\r\n" + BROWSER) is None


def test_a_request_behind_another_one_is_not_taken_for_a_part_of_it() -> None:
    data = b"GET /a HTTP/1.1\r\n" + BROWSER
    for _ in range(3):
        parsed = parse_request(data * 2)
        assert parsed is not None
        assert parsed[1] == len(data)
        request(data)


def test_who_changes_a_head_changes_no_other() -> None:
    data = b"GET /a HTTP/1.1\r\n" + BROWSER
    fresh = said(request(data))
    for _ in range(3):
        head = request(data)
        head.set(b"Host", b"elsewhere")
        head.remove(b"Accept")
        assert head.host == b"elsewhere"
        assert b"Accept" not in head.kept_block()
        assert said(request(data)) == fresh
        head = request(data)
        head.own()
        head.lines.append(b"X: y")
        head.fields[b"x"] = b"y"
        head.hop.clear()
        assert b"X: y\r\n" in head.kept_block()
        assert said(request(data)) == fresh


@pytest.mark.parametrize(
    "data",
    [
        ANSWER,
        b"HTTP/1.1 304 Not Modified\r\nETag: a\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
    ],
)
def test_a_known_response_is_what_it_would_be(data: bytes) -> None:
    fresh, used = response(data + b"hello")
    assert known.known_response(data) is None
    response(data)
    assert known.known_response(data) is not None
    for _ in range(2):
        again, used_again = response(data + b"other")
        assert (said(again), used_again) == (said(fresh), used)
        again.set(b"ETag", b"mine")


def test_answers_to_head_are_not_taken_for_those_to_get() -> None:
    for _ in range(3):
        assert response(ANSWER)[0].length == 5
        assert response(ANSWER, b"HEAD")[0].length == 0


def test_what_sets_cookies_or_is_no_answer_yet_is_not_remembered() -> None:
    for _ in range(3):
        response(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nSet-Cookie: a=b\r\n\r\n")
        response(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    assert not known._responses.heads


def test_what_is_remembered_is_bounded() -> None:
    for number in range(known.MOST + 1):
        for _ in range(2):
            request(b"GET / HTTP/1.1\r\nHost: a%d\r\n\r\n" % number)
            response(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % number)
    for what in (known._requests, known._responses):
        assert len(what.heads) == len(what._once) == 1
    assert request(b"GET / HTTP/1.1\r\nHost: a0\r\n\r\n").host == b"a0"


# -- what is passed on ----------------------------------------------------------------


def service(**settings: Any) -> Any:
    """As much of a service as decides about heads."""
    parameters = Parameters()
    insert, remove = settings.pop("insert", []), settings.pop("remove", [])
    for name, value in settings.items():
        setattr(parameters, name, value)
    return SimpleNamespace(parameters=parameters, insert=insert, remove=remove, hooks=Hooks())


def client(peer: str) -> Any:
    return SimpleNamespace(peer=peer)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"persist_backend": True},
        {"enable_reproxy": True, "insert": [(b"X-A", b"1"), (b"X-B", b"2")]},
        {"blind_proxy": True},
        {"always_trusted": True},
    ],
)
def test_a_head_in_one_piece_is_that_made_of_lines(settings: dict[str, Any]) -> None:
    whose = service(**settings)
    heads = PlainHeads(whose)
    persist = whose.parameters.persist_backend
    request(b"GET / HTTP/1.1\r\n" + BROWSER)
    for peer in ("192.0.2.1", "192.0.2.1", "2001:db8::1"):
        for target in (b"/", b"/other"):
            head = request(b"GET %b HTTP/1.1\r\n%b" % (target, BROWSER))
            lines = lines_for_node(client(peer), head, whose)
            made = head_for_node(head, lines, persist=persist, body=None)
            assert heads.head(head, client(peer)) == made


def test_a_head_is_made_of_lines_where_these_matter() -> None:
    request(b"GET / HTTP/1.1\r\n" + BROWSER)
    head = request(b"GET / HTTP/1.1\r\n" + BROWSER)
    whose = service(remove=[b"cookie"])
    assert PlainHeads(whose).head(head, client("192.0.2.1")) is None
    whose = service(insert=[(b"Cookie", b"x=1")])  # in the place of the browser's
    assert PlainHeads(whose).head(head, client("192.0.2.1")) is None
    whose = service()
    assert PlainHeads(whose).head(head, client("192.0.2.1")) is not None
    whose.hooks.register("x", "backend_client_assigned", lambda *_: False)
    assert PlainHeads(whose).head(head, client("192.0.2.1")) is None
    head.set(b"X", b"y")
    assert PlainHeads(service()).head(head, client("192.0.2.1")) is None


def test_what_a_service_adds_may_change() -> None:
    whose = service()
    heads = PlainHeads(whose)
    request(b"GET / HTTP/1.1\r\n" + BROWSER)
    head = request(b"GET / HTTP/1.1\r\n" + BROWSER)
    assert b"X-A: 1" not in cast(bytes, heads.head(head, client("192.0.2.1")))
    whose.insert.append((b"X-A", b"1"))
    heads.changed()
    assert b"X-A: 1" in cast(bytes, heads.head(head, client("192.0.2.1")))


def test_a_response_from_what_is_known_is_the_same_for_the_client() -> None:
    asked = request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    sent = {head_for_client(response(ANSWER)[0], asked, keep_alive=True) for _ in range(3)}
    assert sent == {
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nVary: a\r\nVary: b\r\n\r\n",
    }
