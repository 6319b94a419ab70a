"""``dmap``: map a function over items, on whatever workers there are.

::

    from lj_services.gearman.dmap import dmap
    pages = dmap("shop.pages:render", entries, ["10.0.3.1:4730"], chunk=20)

is ``[render(entry) for entry in entries]``, except that workers on many machines do it,
in parallel.  They must have the function's module and allow it
(``lj gearman worker --dmap shop.pages``): what travels is the function's name, and items
and results as JSON.  Code and pickled objects are never sent, for a job server takes jobs
from everybody who can reach it.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from lj_services.gearman.client import Client
from lj_services.gearman.client_errors import BadTask
from lj_services.gearman.placement import Address
from lj_services.gearman.tasks import Priority
from lj_services.gearman.worker_jobs import Job

FUNCTION: Final = "dmap"
"""The Gearman function that workers offer."""


def function_name(function: Callable[..., Any] | str) -> str:
    """The name by which workers find a function: ``module:name``.

    Raises:
        BadTask: other programs can't import it.
    """
    if isinstance(function, str):
        module, colon, name = function.partition(":")
        if not (module and colon and name):
            raise BadTask(f"{function!r} is no function; write module:name")
        return function
    module = getattr(function, "__module__", None) or "__main__"
    name = getattr(function, "__qualname__", "<unknown>")
    if module == "__main__" or "<" in name:
        raise BadTask(
            f"workers can't import {module}:{name}; put the function at the top of a module"
        )
    return f"{module}:{name}"


def find_function(name: str) -> Callable[..., Any]:
    """Import the function that ``module:name`` names.

    Raises:
        LookupError: there is none.
    """
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise LookupError(f"{name!r} is no function; write module:name")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise LookupError(f"there is no function {name}: {error}") from error
    if not callable(found):
        raise LookupError(f"{name} is no function")
    return found  # type: ignore[no-any-return]


def dmap(
    function: Callable[[Any], Any] | str,
    items: Iterable[Any],
    servers: Sequence[Address] | Client,
    *,
    chunk: int = 1,
    timeout_s: float | None = None,
    retries: int = 1,
    priority: Priority = Priority.NORMAL,
    on_result: Callable[[int, Any], object] | None = None,
) -> list[Any]:
    """The function's results for `items`, in the same order.

    Args:
        function: at the top of a module that workers have, or its name ``module:name``.
            It is called with one item, and possibly more than once for an item.
        items: what JSON can say; tuples arrive as lists.
        servers: the job servers, or a client of them.
        chunk: items for one job; more for quick functions.
        timeout_s: longest time for everything, in seconds; None: as long as it takes,
            also when there is no worker.
        retries: how often a job is tried again after it failed or was lost.
        priority: which queued jobs are taken first.
        on_result: called with an item's index and its result as soon as that is there.

    Raises:
        BadTask: the function can't be found by others, or an item is nothing for JSON.
        GearmanError: a job failed in the end; as of `Client.do`.
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be 1 or more")
    if not isinstance(servers, Client):
        with Client(servers) as client:
            return dmap(
                function,
                items,
                client,
                chunk=chunk,
                timeout_s=timeout_s,
                retries=retries,
                priority=priority,
                on_result=on_result,
            )
    name = function_name(function)
    todo = list(items)
    results: list[Any] = [None] * len(todo)
    tasks = servers.task_set()
    for start in range(0, len(todo), chunk):

        def take(task: Any, start: int = start) -> None:
            for index, result in enumerate(json.loads(task.value()), start):
                results[index] = result
                if on_result is not None:
                    on_result(index, result)

        try:
            payload = json.dumps({"function": name, "items": todo[start : start + chunk]})
        except (TypeError, ValueError) as error:
            raise BadTask(f"items from {start} on can't be written as JSON: {error}") from None
        tasks.add(FUNCTION, payload, retries=retries, priority=priority, on_complete=take)
    for task in tasks.run(timeout_s):
        if task.failure is not None:
            raise task.failure
    return results


class DmapFunction:
    """What a worker offers so that `dmap` can use it: functions of the modules it allows."""

    def __init__(self, modules: Iterable[str]) -> None:
        """
        Args:
            modules: whose functions may be called; each with the modules below it.
        """
        self._modules = tuple(modules)

    def __call__(self, job: Job) -> str:
        """Call the function for each item of the job.

        Raises:
            PermissionError: it is not in an allowed module.
            LookupError: there is no such function.
        """
        asked = json.loads(job.payload)
        name, items = str(asked["function"]), asked["items"]
        module = name.partition(":")[0]
        if not any(module == one or module.startswith(f"{one}.") for one in self._modules):
            raise PermissionError(
                f"this worker does not do {name}; start it with --dmap {module} to allow that"
            )
        function = find_function(name)
        # What a module has imported from elsewhere is not its own.
        home = getattr(function, "__module__", None)
        if home is None or not any(
            home == one or home.startswith(f"{one}.") for one in self._modules
        ):
            raise PermissionError(f"this worker does not do {name}: it belongs to {home}")
        results = []
        for number, item in enumerate(items, 1):
            results.append(function(item))
            if number < len(items):
                job.progress(number, len(items))
        return json.dumps(results)
