"""What a tracker keeps of uploads."""

from __future__ import annotations

import pytest

from lj_services.perlbal.proxy import progress
from lj_services.perlbal.proxy.progress import KEPT_S, Tracker

pytestmark = pytest.mark.unit

TOLD = b"UPLOAD:%b:300:1000:1700000000:1700000005"


def test_the_last_word_about_an_upload_counts() -> None:
    tracker = Tracker()
    tracker.heard(TOLD % b"abcde", 1.0)
    tracker.heard(b"UPLOAD:abcde:900:1000:1700000000:1700000006", 2.0)
    told = b"{done:900,total:1000,starttime:1700000000,nowtime:1700000009}"
    assert tracker.status(b"abcde", 1700000009) == told
    assert tracker.status(b"other", 1700000009) == b"{}"


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"UPLOAD:abcd:1:2:3:4",
        b"UPLOAD:abcde:1:2:3",
        b"UPLOAD:abcde:1:2:3:4\n",
        b"UPLOAD:abcde:-1:2:3:4",
        b"UPLOAD:abcde:%b:2:3:4" % (b"9" * 19),
        b"UPLOAD:ab}de:1:2:3:4",
        b"x" * 65_000,
    ],
)
def test_what_is_no_message_is_not_looked_at(datagram: bytes) -> None:
    tracker = Tracker()
    tracker.heard(datagram, 1.0)
    assert tracker.status(b"abcde", 5) == b"{}"


def test_what_is_kept_is_bounded_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "MOST_KEPT", 2)
    tracker = Tracker()
    for second, session in enumerate([b"first", b"second", b"first", b"third"]):
        tracker.heard(TOLD % session, float(second))
    known = [s for s in (b"first", b"second", b"third") if tracker.status(s, 5) != b"{}"]
    assert known == [b"first", b"third"]
    tracker.forget(2.0 + KEPT_S)
    assert tracker.status(b"first", 5) == b"{}"
    assert tracker.status(b"third", 5) != b"{}"
