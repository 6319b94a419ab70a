"""What the commands of ``lj balance`` share: rules from options, known clusters, exit codes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from lj_services.cli.errors import told
from lj_services.cli.output import CommandError
from lj_services.cli.site import Site
from lj_services.daemon import ExitCode
from lj_services.usercluster import NoCluster, UserSettings
from lj_services.usercluster.balance import plan_file
from lj_services.usercluster.balance.loading import CapacityUnknown
from lj_services.usercluster.balance.plan import Plan
from lj_services.usercluster.balance.rules import BalanceRules, ClusterState, SurveyRules

R = TypeVar("R", BalanceRules, SurveyRules)


@contextmanager
def balance_told() -> Iterator[None]:
    """As `told`, with the exit codes of what only balancing refuses."""
    try:
        with told():
            yield
    except CommandError as error:
        cause = error.__cause__
        if isinstance(cause, plan_file.PlanFileError):
            raise CommandError(error.message, ExitCode.USAGE) from cause
        if isinstance(cause, CapacityUnknown):
            raise CommandError(error.message, ExitCode.CONFIG) from cause
        raise


def rules_with(model: type[R], rules: R, **changes: Any) -> R:
    """The rules with what was said on the command line.

    Raises:
        CommandError: a value is out of its bounds.
    """
    said = {name: value for name, value in changes.items() if value is not None}
    try:
        return model.model_validate({**rules.model_dump(), **said})
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).removesuffix("_s").replace("_", "-")
        raise CommandError(f"{option}: {first['msg']}", ExitCode.USAGE) from None


def known_clusters(site: Site, numbers: Sequence[int]) -> list[int]:
    """The same numbers, each once.

    Raises:
        NoCluster: there is no such cluster.
    """
    known = site.databases.clusters()
    for number in numbers:
        if number not in known:
            there = ", ".join(map(str, known)) or "none"
            raise NoCluster(f"there is no cluster {number}; there are: {there}")
    return list(dict.fromkeys(numbers))


def as_draining(settings: UserSettings, numbers: Sequence[int]) -> UserSettings:
    """The settings with some clusters draining."""
    changed = {
        number: settings.cluster(number).model_copy(update={"state": ClusterState.DRAINING})
        for number in numbers
    }
    return settings.model_copy(update={"clusters": {**settings.clusters, **changed}})


def write_plan(file: Path, plan: Plan) -> None:
    """Whole or not at all: a plan that is cut off must not take an older one's place."""
    part = file.with_name(file.name + ".part")
    try:
        with part.open("w", encoding="utf-8") as stream:
            stream.writelines(plan_file.write(plan, datetime.now(UTC)))
        part.replace(file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise CommandError(f"{file}: can't be written: {error.strerror}") from error
