"""What a verification found, and the verdict that follows from it."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from disk_checker.answers import HOST_ERRORS
from disk_checker.classify import FAULTS, Finding
from disk_checker.errors import DAMAGED, HONEST, UNKNOWN
from disk_checker.fold import Totals
from disk_checker.ledger import run_name
from disk_checker.plan import DURABLE, Plan
from disk_checker.statistics import honest_probability
from disk_checker.workloads import largest_batch

MAX_EXAMPLES = 20
MIN_ACKED = 100
IDLE_US = 1_000_000
_BUCKET_US = 10_000
_EXACT = 100_000

_ENDS = {
    "listener": "the listener was ended while the run was under way, and the writer stops then: no "
    "write was in flight when the power went",
    "refused": "the listener stopped recording the run, and the writer stops then: no write was in "
    "flight when the power went",
    "closed": "the writer closed its connection, which no power cut does: it was ended before the "
    "power went, so nothing was in flight (if something between closed it, as a proxy or a virtual "
    "machine's user network does, have `disk-checker cut` say when the power goes)",
}
"""What the listener saw of a run's end that was no power cut."""


@dataclass
class Result:
    """Counts, examples and circumstances of one verification.

    ``gone`` is "missing" or "unmountable" with a sentence in ``gone_text`` when there was
    nothing left to read.
    """

    run: int
    plan: Plan
    totals: Totals
    counts: Counter[str] = field(default_factory=Counter)
    examples: list[Finding] = field(default_factory=list)
    checked: int = 0
    newer: int = 0
    bytes_read: int = 0
    seconds: float = 0.0
    gone: str = ""
    gone_text: str = ""
    doubts: list[str] = field(default_factory=list)
    """why this verification could not prove anything, even if nothing is lost"""
    remarks: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    min_acked: int = MIN_ACKED
    same_boot: bool = False
    """only the disk lost its power, the writer's host did not"""
    newest_survivor_us: int = 0
    newest_survivors: dict[int, int] = field(default_factory=dict)
    """thread of the plan: seq of its latest write that is on the disk"""
    _ages: Counter[int] = field(default_factory=Counter)
    _times: array[int] = field(default_factory=lambda: array("Q"))
    _writes: array[int] = field(default_factory=lambda: array("Q"))
    """thread and seq of each of these"""
    _shown: Counter[str] = field(default_factory=Counter)

    def add(self, finding: Finding) -> None:
        """Count a finding; keep the first of each class."""
        self.counts[finding.cls] += 1
        self.survivor(finding.newest_us)
        if finding.fault and finding.seq:
            if len(self._times) < _EXACT:
                self._times.append(finding.acked_us)
                self._writes.extend((finding.block % self.plan.threads, finding.seq))
            else:
                self._ages[finding.acked_us // _BUCKET_US] += 1
        self._shown[finding.cls] += 1
        if self._shown[finding.cls] <= MAX_EXAMPLES:
            self.examples.append(finding)

    def survivor(self, submitted_us: int, newest: Mapping[int, int] | None = None) -> None:
        """A write of this time is on the disk.

        :param newest: thread of the plan: seq of a write of its own that is on the disk.
        """
        if submitted_us > self.newest_survivor_us:
            self.newest_survivor_us = submitted_us
        for thread, seq in (newest or {}).items():
            if seq > self.newest_survivors.get(thread, 0):
                self.newest_survivors[thread] = seq

    @property
    def reordered(self) -> int:
        """Blocks at fault whose write was acknowledged before a surviving one was issued.

        Known by the time, and of the writes of one thread by their order: a later batch began
        when the earlier one was synced.  After a hundred thousand counted by the hundredth of a
        second, and never too many.
        """
        apart, newest, writes = largest_batch(self.plan), self.newest_survivors, self._writes
        last = self.newest_survivor_us // _BUCKET_US
        coarse = sum(count for bucket, count in self._ages.items() if bucket < last)
        exact = zip(self._times, writes[::2], writes[1::2], strict=True)
        return coarse + sum(
            acked < self.newest_survivor_us or seq + apart <= newest.get(thread, 0)
            for acked, thread, seq in exact
        )

    @property
    def histogram(self) -> dict[int, int]:
        """Blocks at fault by whole seconds before the last acknowledgement."""
        ages = Counter[int]()
        last = self.totals.last_ack_us
        for acked in self._times:
            ages[max(0, last - acked) // 1_000_000] += 1
        for bucket, count in self._ages.items():
            ages[max(0, last - bucket * _BUCKET_US) // 1_000_000] += count
        return dict(sorted(ages.items()))

    @property
    def sync_errors(self) -> list[dict[str, Any]]:
        """I/O errors of the run, without those that the cut itself caused."""
        return [note for note in self._failures if note.get("error") not in HOST_ERRORS]

    @property
    def _failures(self) -> list[dict[str, Any]]:
        notes = self.totals.notes
        return [one for one in notes if one.get("note") == "failed" and not one.get("after_cut")]

    @property
    def read_back(self) -> Counter[str]:
        """Faults found by reading back during the run, by class."""
        return Counter(
            str(note.get("class")) for note in self.totals.notes if note.get("note") == "read-back"
        )

    @property
    def faults(self) -> dict[str, int]:
        """Every class at fault and its count, before and after the cut."""
        found = {cls: self.counts[cls] + self.read_back[cls] for cls in FAULTS}
        found["reordered"] = self.reordered
        found["missing"] = found["unmountable"] = 0
        if self.gone:
            found[self.gone] = max(1, self.totals.acked)
        found["sync_error"] = len(self.sync_errors)
        return {cls: count for cls, count in found.items() if count}

    @property
    def all_doubts(self) -> list[str]:
        """Why a clean result would prove nothing."""
        totals, doubts = self.totals, list(self.doubts)
        if totals.acked < self.min_acked:
            doubts.append(
                f"only {totals.acked} writes were acknowledged, at least {self.min_acked} are "
                "needed: let it run longer before the cut"
            )
        if totals.stopped:
            doubts.append(
                "the writer was stopped before the power went, so nothing was in flight: cut the "
                "power while `disk-checker create` runs"
            )
        elif len(self._failures) > len(self.sync_errors):
            doubts.append(
                "the writer failed for a reason that is not the disk's (no room? see the notes): "
                "no write was in flight when the power went"
            )
        elif totals.ended in _ENDS and not totals.cut_us and not self._killed:
            doubts.append(_ENDS[totals.ended])
        elif totals.last_heard_us - totals.last_ack_heard_us > IDLE_US and not totals.cut_us:
            doubts.append(
                "the writer had been idle for more than a second when it was last heard: "
                "no write was in flight when the power went"
            )
        elif not totals.in_flight:
            doubts.append("no write was in flight when the power went")
        if not DURABLE[self.plan.sync]:
            doubts.append(f"{self.method} promises nothing, so nothing was put to the test")
        if totals.damaged or self.counts["unrecorded"]:
            doubts.append(
                "the record has lost a part of what the listener answered (is the disk of its "
                "--state one that lies?): begin a new run with a --state on a disk that you trust"
            )
        return doubts

    @property
    def _killed(self) -> bool:
        """Where the host stays alive, whoever cuts the disk's power ends the writer too."""
        return self.same_boot and self.totals.ended == "closed"

    @property
    def method(self) -> str:
        return "a run without any sync" if self.plan.sync == "none" else self.plan.sync

    @property
    def exit_code(self) -> int:
        if self.counts["later_run"]:
            return UNKNOWN
        if self.faults:
            return DAMAGED
        return UNKNOWN if self.all_doubts else HONEST

    @property
    def verdict(self) -> str:
        """One word: honest, lying, damaged, failing, not-durable, unknown."""
        if self.exit_code != DAMAGED:
            return "honest" if self.exit_code == HONEST else "unknown"
        faults = set(self.faults)
        if not DURABLE[self.plan.sync]:
            return "not-durable"
        if faults == {"sync_error"}:
            return "failing"
        if faults <= {"corrupted", "unreadable", "misdirected", "sync_error"}:
            return "damaged"
        return "lying"

    @property
    def headline(self) -> str:
        """The verdict in one line."""
        acked = f"{self.totals.acked:,} acknowledged writes"
        what = ", ".join(f"{count:,} {cls.replace('_', ' ')}" for cls, count in self.faults.items())
        if self.verdict == "honest":
            return f"HONEST: all of {acked} survived the cut."
        if self.verdict == "unknown":
            if self.counts["later_run"]:
                return "COULD NOT TELL: a later run wrote to this target; verify that one."
            return f"COULD NOT TELL: {self.all_doubts[0]}."
        if self.gone:
            what = self.gone_text
        if self.verdict == "not-durable":
            return f"NOT DURABLE: {self.method} promises nothing, and of {acked}: {what}."
        if self.verdict == "failing":
            return f"FAILING: the disk reported {what}; it does not lie, but it lost writes."
        word = {"lying": "LYING", "damaged": "DAMAGED"}[self.verdict]
        return f"{word}: of {acked}: {what}."

    def as_json(self) -> dict[str, Any]:
        """The report for machines; docs/disk-checker.md names its fields."""
        totals = self.totals.as_json()
        notes = totals.pop("notes")
        return {
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "headline": self.headline,
            "run": run_name(self.run),
            "plan": self.plan.model_dump(mode="json"),
            "totals": totals,
            "blocks_checked": self.checked,
            "blocks_newer": self.newer,
            "bytes_read": self.bytes_read,
            "seconds": round(self.seconds, 3),
            "faults": {
                cls: {
                    "count": count,
                    "honest_probability": None
                    if cls == "sync_error"
                    else honest_probability(cls, count, self.bytes_read),
                }
                for cls, count in self.faults.items()
            },
            "allowed": {"torn_in_flight": self.counts["torn_in_flight"]},
            "seconds_before_end": self.histogram,
            "doubts": self.all_doubts,
            "remarks": self.remarks,
            "examples": [finding.as_json() for finding in self.examples],
            "notes": notes[:MAX_EXAMPLES],
            "facts": self.facts,
        }
