"""``python -m bench [module ...] [--quick]``: see the package's docstring."""

from __future__ import annotations

import importlib
import pkgutil
import signal
import sys

import click

import bench
from bench.harness import QUICK_ROUNDS, ROUNDS, Comparison, Outcome, compare, section, write_page


def module_names() -> list[str]:
    """The benchmark modules there are."""
    names = [module.name for module in pkgutil.iter_modules(bench.__path__)]
    return [name for name in names if name != "harness" and not name.startswith("_")]


def _end(number: int, _frame: object) -> None:
    """End a run as Ctrl-C does: by an exception, so that everything is cleaned up."""
    sys.exit(128 + number)


@click.command()
@click.argument("modules", nargs=-1)
@click.option("--quick", is_flag=True, help="Fewer and shorter runs; prints, writes no page.")
def main(modules: tuple[str, ...], quick: bool) -> None:
    """Run the benchmark MODULES (all without a name) and write docs/benchmarks.md."""
    signal.signal(signal.SIGTERM, _end)  # servers, loop devices and scratch files go with it
    known = module_names()
    for name in modules:
        if name not in known:
            raise click.UsageError(f"no module {name}; there are {', '.join(known)}")
    sections: dict[str, str] = {}
    try:
        for name in modules or known:
            sections[name] = _measured(name, quick)
    finally:  # what was measured before something failed is not lost
        if sections and not quick:
            write_page(sections)


def _measured(name: str, quick: bool) -> str:
    """Run a module; gives its section."""
    module = importlib.import_module(f"bench.{name}")
    print(f"{module.TITLE}", flush=True)
    rounds = QUICK_ROUNDS if quick else getattr(module, "ROUNDS", ROUNDS)
    results: list[tuple[Comparison, list[Outcome]]] = []
    for comparison in module.comparisons(quick):
        print(f" {comparison.title}", flush=True)
        results.append((comparison, compare(comparison, rounds)))
    return section(name, module.TITLE, results, f"python -m bench {name}")


if __name__ == "__main__":
    sys.exit(main())
