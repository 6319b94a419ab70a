"""What dmap sends, and what a worker that offers it allows."""

from __future__ import annotations

import json
import os.path
from collections.abc import Callable
from typing import Any

import pytest

from lj_services.daemon import HostPort
from lj_services.gearman.client_errors import BadTask
from lj_services.gearman.dmap import DmapFunction, dmap, find_function, function_name
from lj_services.gearman.placement import parse_servers
from lj_services.gearman.protocol import PacketType
from lj_services.gearman.worker_jobs import Job
from lj_services.gearman.worker_link import Assignment

pytestmark = pytest.mark.unit


def job(function: str, *items: Any, sent: list[Any] | None = None) -> Job:
    def send(kind: PacketType, *args: bytes) -> None:
        if sent is not None:
            sent.append((kind, *args))

    payload = json.dumps({"function": function, "items": items}).encode()
    return Job(HostPort("a", 1), Assignment(b"H:1", b"dmap", b"", payload), send)


def test_functions_are_named_by_their_module() -> None:
    assert function_name(parse_servers) == "lj_services.gearman.placement:parse_servers"
    assert function_name(HostPort.parse) == "lj_services.daemon.config:HostPort.parse"
    assert function_name("shop.pages:render") == "shop.pages:render"


def _local() -> Callable[[Any], Any]:
    def inner(item: Any) -> Any:
        return item

    return inner


@pytest.mark.parametrize("wrong", [lambda item: item, _local(), "render", ":f", "m:"])
def test_functions_that_workers_cant_import(wrong: Any) -> None:
    with pytest.raises(BadTask):
        function_name(wrong)


@pytest.mark.parametrize("wrong", ["no_such_module:f", "json:no_such_name", "json", "json:__doc__"])
def test_functions_that_are_not_there(wrong: str) -> None:
    with pytest.raises(LookupError):
        find_function(wrong)


def test_a_worker_calls_the_function_for_each_item() -> None:
    sent: list[Any] = []
    name = function_name(parse_servers)
    answer = DmapFunction(["json"])(job("json:dumps", 1, "a", [2], sent=sent))
    assert json.loads(answer) == ["1", '"a"', "[2]"]
    assert [args[2:] for args in sent] == [(b"1", b"3"), (b"2", b"3")]
    with pytest.raises(PermissionError, match="--dmap lj_services"):
        DmapFunction(["json"])(job(name, ["a"]))


def test_a_module_allows_those_below_it_and_no_others_of_that_beginning() -> None:
    name = "lj_services.gearman.placement:key_hash"
    with pytest.raises(TypeError):  # called, with something that is no bytes
        DmapFunction(["lj_services.gearman"])(job(name, "text"))
    with pytest.raises(PermissionError):
        DmapFunction(["lj_services.gear"])(job(name, "text"))


def test_what_a_module_has_imported_is_not_allowed() -> None:
    assert callable(os.path.join)
    with pytest.raises(PermissionError, match="belongs to"):
        DmapFunction(["lj_services.gearman.worker"])(
            job("lj_services.gearman.worker:os.system", "true")
        )


def test_what_json_cant_say_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(BadTask, match="JSON"):
        dmap("m:f", [object()], ["127.0.0.1:1"])
    with pytest.raises(ValueError, match="chunk"):
        dmap("m:f", [1], ["127.0.0.1:1"], chunk=0)
