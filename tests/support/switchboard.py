"""Power commands for a rig: what the operator gives `disk-checker run`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.disk_rig import Rig, acked
from tests.support.process import wait_for

ENOUGH = 200


@contextmanager
def switchboard(
    rig: Rig, folder: Path, mode: str, state: Path | None = None
) -> Iterator[tuple[str, str]]:
    """Shell commands that cut the rig's power and give it back.

    The rig belongs to this process, so each command asks it, by a file that holds the run, and
    waits for the answer: an empty file, or the words of what went wrong, with which it fails.
    The cut waits until a cycle can prove something, however slow the machine is today.

    :param folder: for those files; one for each rig.
    :param state: the listener's; ``folder``/state if not given.
    """
    record = folder / "state" if state is None else state
    ended = threading.Event()

    def off(run: str) -> None:
        wait_for(
            lambda: acked(record, run) >= ENOUGH,
            f"{ENOUGH} acknowledged writes",
            timeout_s=60,
            every_s=0.05,
        )
        rig.cut()

    def on(_run: str) -> None:
        rig.restart(mode)
        rig.mount()

    switches: dict[str, Callable[[str], None]] = {"off": off, "on": on}

    def serve() -> None:
        while not ended.wait(0.02):
            for name, switch in switches.items():
                asked = folder / f"{name}.asked"
                if asked.exists():
                    run, said = asked.read_text().strip(), ""
                    asked.unlink()
                    try:
                        switch(run)
                    except Exception as error:
                        said = f"{name}: {error!r}"
                    new = folder / f"{name}.new"
                    new.write_text(said)
                    new.rename(folder / f"{name}.answered")

    def command(name: str) -> str:
        ask, answer = folder / f"{name}.ask", folder / f"{name}.answered"
        return (
            f'echo "$RUN" > {ask}; mv {ask} {ask}ed; while [ ! -e {answer} ]; do sleep 0.02; done; '
            f'said=$(cat {answer}); rm {answer}; [ -z "$said" ] || {{ echo "$said" >&2; exit 1; }}'
        )

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield command("off"), command("on")
    finally:
        ended.set()
        thread.join()
