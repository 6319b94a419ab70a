"""What a block's content says about the disk.

The rules.  Let A be the last acknowledged write of a block (0: none).  Writes to one
block are ordered, so a correct disk holds one of: write A, or a later one that was
intended but not acknowledged (in flight when the power went, or failed), each complete
or, for the later ones, mixed with each other and with A at sector granularity: a disk
promises whole sectors, not whole blocks.  Everything else is a fault.  The order of the
questions matters: damage is looked for first, since a damaged sector's fields prove
nothing; then sectors in a wrong place; only then is old told from torn.

    corrupted      a sector that no write ever produced: wrong checksum, foreign bytes
    misdirected    a sector of this run, right but for its place
    torn           acknowledged, yet some sectors are A or newer and some are older
    lost           acknowledged, yet all of it is older (zeros, an older write, an
                   older run)
    stale_metadata acknowledged, yet the file ends before it, or its name is gone
    unreadable     the disk returns an error
    reordered      of the lost, torn and stale: those that were acknowledged before a
                   write was even issued that survived
    torn_in_flight never acknowledged and mixed: allowed, told for information
    unrecorded     a later write than any that was announced, and right by its checksum: no
                   fault of the disk, the record has lost its end
    later_run      a later run wrote here: nothing can be said of this one
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal

from disk_checker.stamp import SECTOR, Kind, Sector, Stamper, read_block

FaultClass = Literal[
    "corrupted",
    "misdirected",
    "torn",
    "lost",
    "stale_metadata",
    "unreadable",
    "torn_in_flight",
    "unrecorded",
    "later_run",
]

FAULTS: tuple[str, ...] = (
    "lost",
    "torn",
    "misdirected",
    "corrupted",
    "stale_metadata",
    "unreadable",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One block that is not as it must be.

    ``expected`` and ``found`` are sentences; the hex is of the 16 bytes at ``offset``, where
    the first sector at fault first differs.
    """

    cls: FaultClass
    block: int
    offset: int
    seq: int
    acked_us: int
    expected: str
    found: str
    expected_hex: str = ""
    found_hex: str = ""
    newest_us: int = 0
    """submit time of the newest write of this run in the block, for the ordering"""

    @property
    def fault(self) -> bool:
        return self.cls in FAULTS

    def as_json(self) -> dict[str, Any]:
        return {
            "class": self.cls,
            "block": self.block,
            "offset": self.offset,
            "seq": self.seq,
            "acked_us": self.acked_us,
            "expected": self.expected,
            "found": self.found,
            "expected_hex": self.expected_hex,
            "found_hex": self.found_hex,
        }

    @staticmethod
    def unreadable(block: int, seq: int, acked_us: int, why: str, offset: int = 0) -> Finding:
        return Finding("unreadable", block, offset, seq, acked_us, f"write {seq}", why)

    @staticmethod
    def stale(block: int, offset: int, seq: int, acked_us: int, found: str) -> Finding:
        return Finding("stale_metadata", block, offset, seq, acked_us, f"write {seq}", found)


def describe(sector: Sector, run: int) -> str:
    """A sector in words."""
    if sector.kind is Kind.ZERO:
        return "zeros"
    if sector.kind is Kind.FOREIGN:
        return "bytes that disk-checker never wrote"
    if sector.kind is Kind.DAMAGED:
        return f"a damaged sector (checksum wrong; it claims write {sector.seq})"
    if sector.run != run:
        return f"write {sector.seq} of {'an older' if sector.run < run else 'a later'} run"
    return f"write {sector.seq} of block {sector.block}, sector {sector.index}"


def _summary(sectors: list[Sector], run: int) -> str:
    """Runs of like sectors: "sectors 0-27: write 9 of block 4; 28-31: zeros"."""
    parts: list[tuple[int, int, str]] = []
    for index, sector in enumerate(sectors):
        text = describe(sector, run)
        if sector.kind is Kind.STAMPED and sector.index == index:
            text = text.rpartition(", sector")[0] or text
        if parts and parts[-1][2] == text:
            parts[-1] = (parts[-1][0], index, text)
        else:
            parts.append((index, index, text))
    if len(parts) == 1:
        return parts[0][2]
    shown = [
        f"sector{'s' if a != b else ''} {a}{f'-{b}' if a != b else ''}: {text}"
        for a, b, text in parts[:4]
    ]
    return "; ".join(shown) + (f"; and {len(parts) - 4} more pieces" if len(parts) > 4 else "")


def judge_block(
    stamper: Stamper,
    block: int,
    data: bytes,
    acked: int,
    acked_us: int,
    newest: int | None,
    *,
    prior_unknown: bool = False,
    offset: int | None = None,
) -> Finding | None:
    """Judge one block by the rules above; None when it is as it must be.

    :param data: the block; shorter than a block where the target ends.
    :param acked: seq of the last acknowledged write, 0 for none; ``acked_us`` its time.
    :param newest: the highest seq that was intended; None: unknown.
    :param prior_unknown: before the run the target held data that was not ours.
    """
    run, size = stamper.run, stamper.block_size
    place = block * size if offset is None else offset
    if len(data) < size:
        if not acked:
            return None
        found = f"the target ends {len(data)} bytes into the block"
        return Finding.stale(block, place, acked, acked_us, found)
    sectors = [_counted(sector, run, size // SECTOR) for sector in read_block(data)]
    fates = Counter[str]()
    first_bad: dict[str, int] = {}
    newest_us = 0
    for index, sector in enumerate(sectors):
        fate = _fate(sector, run, block, index, acked, newest, prior_unknown)
        fates[fate] += 1
        first_bad.setdefault(fate, index)
        if fate in ("acked", "newer", "unrecorded"):
            newest_us = max(newest_us, sector.time_us)
    whole = len(sectors)
    cls: FaultClass
    if fates["later_run"]:
        cls = "later_run"
    elif fates["corrupted"]:
        cls = "corrupted"
    elif fates["misdirected"]:
        cls = "misdirected"
    elif acked and fates["old"]:
        cls = "lost" if fates["old"] == whole else "torn"
    elif fates["unrecorded"]:
        cls = "unrecorded"
    elif not acked or fates["acked"] == whole:
        return None
    elif len({sector.seq for sector in sectors}) > 1:
        cls = "torn_in_flight"
    else:
        return None
    key = {"lost": "old", "torn": "old", "torn_in_flight": "newer"}.get(cls, cls)
    bad = first_bad[key]
    found_sector = data[bad * SECTOR : (bad + 1) * SECTOR]
    expected_hex, differs = "", 0
    if acked and cls != "later_run":
        # The time of the write is not in the record: if this is that write, it says so itself.
        time_us = sectors[bad].time_us if sectors[bad].seq == acked else acked_us
        wanted = stamper.build(block, acked, time_us)[bad * SECTOR : (bad + 1) * SECTOR]
        pairs = zip(wanted, found_sector, strict=True)
        differs = next((at for at, (one, other) in enumerate(pairs) if one != other), 0) & ~15
        expected_hex = wanted[differs : differs + 16].hex(" ")
    return Finding(
        cls,
        block,
        place + bad * SECTOR + differs,
        acked,
        acked_us,
        f"write {acked} of block {block}" if acked else "no write of another block",
        _summary(sectors, run),
        expected_hex,
        found_sector[differs : differs + 16].hex(" "),
        newest_us,
    )


def _counted(sector: Sector, run: int, count: int) -> Sector:
    """A sector of this run that says that its block has another size is damaged there.

    The checksums do not cover that number, which is the same for all of a run.
    """
    if sector.kind is Kind.STAMPED and sector.run == run and sector.sectors != count:
        return replace(sector, kind=Kind.DAMAGED)
    return sector


def _fate(
    sector: Sector,
    run: int,
    block: int,
    index: int,
    acked: int,
    newest: int | None,
    prior_unknown: bool,
) -> str:
    """One sector: acked, newer, old, unrecorded, or a fault."""
    if sector.kind is Kind.STAMPED and sector.run == run:
        if (sector.block, sector.index) != (block, index):
            return "misdirected"
        if newest is not None and sector.seq > newest:
            return "unrecorded"
        if sector.seq == acked:
            return "acked"
        return "newer" if sector.seq > acked else "old"
    if sector.kind is Kind.STAMPED:
        return "later_run" if sector.run > run else "old"
    if sector.kind is Kind.ZERO:
        return "old"
    if sector.kind is Kind.DAMAGED and sector.run != run:
        # Damage to the run's id or an older run's sector: either way not this write.
        return "corrupted" if acked else "old"
    if sector.kind is Kind.FOREIGN and (prior_unknown or not acked):
        return "old"
    return "corrupted"
