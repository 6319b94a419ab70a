"""How ``lj balance`` shows clusters and plans."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from lj_services.cli.output import Output
from lj_services.usercluster.balance.plan import Forecast, Plan
from lj_services.usercluster.balance.snapshot import PINNED, Snapshot

SHOWN_MOVES = 20
"""Moves that a table shows; the file has them all."""


def print_clusters(out: Output, snapshot: Snapshot) -> None:
    """Print how full and how busy the clusters are."""
    users = snapshot.users
    rows = []
    for i, figures in enumerate(snapshot.clusters):
        here = users.cluster == i
        row: dict[str, Any] = {
            "cluster": figures.clusterid,
            "state": str(figures.state),
            "weight": figures.weight,
            "disk": figures.disk_total,
            "used": figures.disk_used,
            "busy": figures.busy,
            "users": int(np.count_nonzero(here)),
            "of users": int(users.size[here].sum()),
            "pinned": int(np.count_nonzero(users.flags[here] & PINNED)),
            "not surveyed": figures.unsurveyed,
        }
        if not out.as_json:
            row["used"] = _share(figures.disk_used / figures.disk_total)
            row["disk"], row["of users"] = (
                _size(figures.disk_total),
                _size(int(users.size[here].sum())),
            )
            row["busy"] = _share(figures.busy)
        rows.append(row)
    out.table(list(rows[0]) if rows else ["cluster"], rows)


def print_plan(out: Output, plan: Plan, file: Path | None) -> None:
    """Print a plan: what it leads to, its first moves, what it leaves undone."""
    if out.as_json:
        out.document(_document(plan))
        return
    rows = [_predicted(row) for row in plan.forecast]
    columns = ["cluster", "state", "disk", "target", "before", "after", "busy", "in", "out"]
    out.table(columns, rows)
    if not plan.moves:
        out.say("Nobody need move.")
    else:
        first = [
            {
                "userid": move.userid,
                "bytes": _size(move.size),
                "from": move.src,
                "to": move.dst,
                "why": str(move.why),
            }
            for move in plan.moves[:SHOWN_MOVES]
        ]
        title = f"{len(plan.moves)} moves" + (
            f", the first {SHOWN_MOVES}" if len(plan.moves) > SHOWN_MOVES else ""
        )
        out.table(["userid", "bytes", "from", "to", "why"], first, title=title)
        out.say(
            f"{_size(plan.bytes)} to move; to reach every target takes at least "
            f"{_size(plan.least_bytes)}.  The fullest cluster over the average: "
            f"{plan.spread_before:.2f} now, {plan.spread_after:.2f} after it, "
            f"{plan.best_spread:.2f} at best."
        )
    for text in plan.problems:
        out.say(f"Not reached: {text}")
    for text in plan.notes:
        out.say(f"Note: {text}")
    if file is not None:
        out.say(f"Written to {file}")


def _document(plan: Plan) -> dict[str, Any]:
    return {
        "moves": [
            {
                "userid": move.userid,
                "bytes": move.size,
                "rows": move.rows,
                "from": move.src,
                "to": move.dst,
                "why": str(move.why),
            }
            for move in plan.moves
        ],
        "clusters": [_forecast(row) for row in plan.forecast],
        "bytes": plan.bytes,
        "least_bytes": plan.least_bytes,
        "spread": {
            "before": plan.spread_before,
            "after": plan.spread_after,
            "best": plan.best_spread,
        },
        "problems": list(plan.problems),
        "notes": list(plan.notes),
    }


def _forecast(row: Forecast) -> dict[str, Any]:
    def finite(score: float) -> float | None:
        return score if math.isfinite(score) else None

    return {
        "cluster": row.clusterid,
        "state": str(row.state),
        "disk_total": row.disk_total,
        "disk_target": row.disk_target,
        "disk_before": row.disk_before,
        "disk_after": row.disk_after,
        "busy_target": row.busy_target,
        "busy_before": row.busy_before,
        "busy_after": row.busy_after,
        "users_in": row.users_in,
        "users_out": row.users_out,
        "bytes_in": row.bytes_in,
        "bytes_out": row.bytes_out,
        "score_before": finite(row.score_before),
        "score_after": finite(row.score_after),
    }


def _predicted(row: Forecast) -> dict[str, Any]:
    busy = _share(row.busy_before)
    if row.busy_after is not None:
        busy += f" -> {_share(row.busy_after)}"
    return {
        "cluster": row.clusterid,
        "state": str(row.state),
        "disk": _size(row.disk_total),
        "target": _share(row.disk_target / row.disk_total),
        "before": _share(row.disk_before / row.disk_total),
        "after": _share(row.disk_after / row.disk_total),
        "busy": busy,
        "in": row.users_in,
        "out": row.users_out,
    }


def _share(value: float | None) -> str:
    return "?" if value is None else f"{value:.1%}"


def _size(count: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"
