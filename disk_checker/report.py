"""The report for people."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from disk_checker.advice import advise, suspicions
from disk_checker.ledger import run_name
from disk_checker.result import Result

_STYLE = {0: "bold green", 1: "bold red", 2: "bold yellow"}
_SHOWN = 3

_MEANING = {
    "lost": "acknowledged, but the block holds something older",
    "torn": "acknowledged, but the block is part new, part old",
    "misdirected": "right content in a wrong place",
    "corrupted": "content that was never written",
    "stale_metadata": "acknowledged, but the file is too short or the name is gone",
    "unreadable": "the disk returns an error",
    "reordered": "of these: acknowledged before a write was issued that survived",
    "missing": "the target itself is gone",
    "unmountable": "the file system is gone",
    "sync_error": "errors the disk reported during the run; never counted as acknowledged",
}


def chance(probability: float | None) -> str:
    """A probability as people read it."""
    if probability is None:
        return "-"
    if probability < 1e-12:
        return "< 1e-12"
    return f"{probability:.2g}"


def print_report(result: Result, console: Console) -> None:
    """Print verdict, counts, first cases, advice."""
    report, plan, totals = result.as_json(), result.plan, result.totals
    console.print(escape(result.headline), style=_STYLE[result.exit_code], soft_wrap=True)
    seconds = totals.last_ack_us / 1e6
    lines = [
        f"run {run_name(result.run)} on {plan.target} of {plan.hostname}: {plan.workload}, "
        f"{result.method}{', O_DIRECT' if plan.direct else ''}, blocks of {plan.block_size} bytes, "
        f"{plan.threads} thread{'s' if plan.threads > 1 else ''}, depth {plan.depth}",
        f"{totals.acked:,} writes acknowledged in {seconds:.1f} s "
        f"({totals.acked / seconds if seconds else 0:,.0f}/s), {totals.in_flight:,} announced and "
        "not acknowledged",
        f"{result.checked:,} blocks as they must be ({result.newer:,} newer than acknowledged), "
        f"{result.bytes_read / 1e6:,.0f} MB read in {result.seconds:.1f} s",
    ]
    for line in lines:
        console.print("  " + escape(line), soft_wrap=True, highlight=False)
    if report["faults"]:
        table = Table(title="Faults", title_justify="left", show_edge=False)
        table.add_column("class", no_wrap=True)
        table.add_column("count", justify="right")
        table.add_column("an honest disk shows this", justify="right")
        table.add_column("what it means")
        for cls, fault in report["faults"].items():
            table.add_row(
                cls.replace("_", " "),
                f"{fault['count']:,}",
                chance(fault["honest_probability"]),
                _MEANING[cls],
            )
        console.print(table)
    shown: dict[str, int] = {}
    for finding in result.examples:
        shown[finding.cls] = shown.get(finding.cls, 0) + 1
        if not finding.fault or shown[finding.cls] > _SHOWN:
            continue
        age = (totals.last_ack_us - finding.acked_us) / 1e6
        console.print(
            f"  {finding.cls.replace('_', ' ')}: block {finding.block}, offset {finding.offset} "
            f"({finding.offset:#x}), {max(0.0, age):.3f} s before the end\n"
            f"    expected {escape(finding.expected)}  {finding.expected_hex}\n"
            f"    found    {escape(finding.found)}  {finding.found_hex}",
            soft_wrap=True,
            highlight=False,
        )
    for note in totals.notes[:_SHOWN]:
        text = note.get("text") or f"read back block {note.get('block')}: {note.get('class')}"
        console.print(f"  during the run: {escape(str(text))}", soft_wrap=True, highlight=False)
    if result.histogram:
        console.print("  Histogram of seconds before end:")
        for age, count in list(result.histogram.items())[:20]:
            console.print(f"  {age:4d} {count:6d}", highlight=False)
    if result.counts["torn_in_flight"]:
        console.print(
            f"  {result.counts['torn_in_flight']} blocks in flight are torn: allowed, "
            "and why databases write twice"
        )
    for title, texts in (
        ("Doubt", result.all_doubts if result.exit_code == 2 else []),
        ("Note", [*result.remarks, *suspicions(result)]),
        ("Try", advise(result)),
    ):
        for text in texts:
            console.print(f"  {title}: {escape(text)}", soft_wrap=True, highlight=False)
