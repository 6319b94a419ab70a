"""What to try, from what was found on the host.

Sources: hdparm(8), sdparm(8), ext4(5), xfs(5), the kernel's
Documentation/block/writeback_cache_control.rst, and the cards' own manuals.
"""

from __future__ import annotations

from typing import Any

from disk_checker.plan import DURABLE
from disk_checker.result import Result

_NO_BARRIER = ("nobarrier", "barrier=0")

_CARD_HINTS = {
    "megaraid_sas": "storcli64 /c0/vall set wrcache=wt; storcli64 /c0/vall set pdcache=off",
    "hpsa": "ssacli ctrl slot=0 modify drivewritecache=disable",
    "smartpqi": "ssacli ctrl slot=0 modify drivewritecache=disable",
    "aacraid": "arcconf setcache 1 logicaldrive 0 wt",
}


def no_barriers(facts: dict[str, Any]) -> bool:
    """Whether the file system was told not to flush the disk's cache."""
    mount = facts.get("mount")
    options = str(mount.get("options", "")).split(",") if isinstance(mount, dict) else []
    return any(option in _NO_BARRIER for option in options)


def advise(result: Result) -> list[str]:
    """Sentences with commands, the likeliest cure first."""
    if result.exit_code == 0:
        return []
    # How it was mounted when it wrote, not how it came back.
    facts: dict[str, Any] = {**result.facts, **result.plan.facts}
    advice: list[str] = []
    if not DURABLE[result.plan.sync]:
        advice.append(
            f"This is not the disk's fault: {result.method} does not flush the disk's cache. "
            "Test with --sync fsync."
        )
        return advice
    if no_barriers(facts):
        advice.append(
            "The file system is mounted without barriers, so fsync never reaches the disk: remove "
            "nobarrier (barrier=0) from /etc/fstab and test again, before blaming the disk."
        )
    if result.sync_errors:
        advice.append(
            "The disk reported I/O errors: look at dmesg, the cabling and `smartctl -a`; a "
            "program that goes on after a failed fsync has lost data without knowing it."
        )
        if any(note.get("second_sync") == "ok" for note in result.sync_errors):
            advice.append(
                "Here a second fsync after the failed one returned success: it proves nothing, "
                "the write stays lost."
            )
    if result.verdict not in ("lying", "damaged"):
        return advice
    advice += _caches(facts)
    for card in _cards(facts):
        hint = _CARD_HINTS.get(card.get("driver", ""), "see the card's manual")
        advice.append(
            f"A RAID card ({card.get('driver') or card.get('address')}) lies between: its cache "
            "may write back only with a battery or capacitor that is charged, and the disks' own "
            f"caches behind it must be off ({hint})."
        )
    if result.faults.keys() & {"corrupted", "misdirected", "unreadable"}:
        advice.append(
            "Damage or misplacement is no matter of settings: update the firmware of disk and "
            "controller, test the memory, replace the disk."
        )
    advice.append("Test again after each change; a disk that still loses must not hold data.")
    return advice


def _layers(facts: dict[str, Any]) -> list[dict[str, Any]]:
    layers = facts.get("layers")
    return [one for one in layers if isinstance(one, dict)] if isinstance(layers, list) else []


def _cards(facts: dict[str, Any]) -> list[dict[str, Any]]:
    cards = facts.get("raid_cards")
    return [one for one in cards if isinstance(one, dict)] if isinstance(cards, list) else []


def _caches(facts: dict[str, Any]) -> list[str]:
    advice = []
    for layer in _layers(facts):
        device = layer.get("disk") or layer.get("device")
        if layer.get("write_cache") == "write back" or layer.get("hdparm", "").startswith("1"):
            advice.append(
                f"{device} has its write cache on: turn it off with `hdparm -W 0 {device}` (SATA) "
                f"or `sdparm --set=WCE=0 --save {device}` (SAS)."
            )
        elif layer.get("write_cache") == "write through":
            advice.append(
                f"{device} says that it has no volatile cache, so the kernel never flushes it. If "
                "it has one after all (a virtual disk, a card that hides it), tell the kernel: "
                f"`echo 'write back' > /sys/block/{str(device).removeprefix('/dev/')}"
                "/queue/write_cache`."
            )
        if layer.get("mapping_type", "").startswith("LVM") or layer.get("raid_level"):
            advice.append(
                f"{device} is a software layer; kernels before 2.6.33 dropped barriers here: "
                "test the disks below it one by one."
            )
        if layer.get("backing_file"):
            advice.append(
                f"{device} is a loop device over {layer['backing_file']}: test what that lies on."
            )
    return advice


def suspicions(result: Result) -> list[str]:
    """Things that look wrong although nothing was lost."""
    found = []
    facts: dict[str, Any] = {**result.facts, **result.plan.facts}
    if no_barriers(facts):
        found.append("the file system was mounted without barriers")
    seconds = result.totals.last_ack_us / 1e6
    rate = result.totals.acked / seconds / result.plan.depth if seconds else 0.0
    spinning = any(layer.get("rotational") == "1" for layer in _layers(facts))
    named = any(layer.get("driver") == "sd" for layer in _layers(facts))
    if spinning and named and not _cards(facts) and result.plan.threads == 1 and rate > 400:
        found.append(
            f"{rate:.0f} syncs a second from one thread are more than a turning disk can do "
            "(about 120 at 7,200 rpm): some cache answers before the platter"
        )
    return found
