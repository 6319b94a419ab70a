"""How qemu runs a guest's instructions: by the processor (kvm), or by translating them (tcg).

That a /dev/kvm exists says little: there are machines where guests start with it and
hang.  So a guest is tried: the kernel is booted with a program that ends at once as its
process 1, at which it panics, resets, and qemu ends.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tools.lab.image import Image

PROBE_S = 20.0
"""With a working kvm the probe takes about a second."""


def kvm_works(image: Image, seconds: float = PROBE_S) -> bool:
    """Whether a guest boots with kvm on this machine."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    words: list[str | Path] = [
        *("qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-m", "256", "-nodefaults"),
        *("-display", "none", "-no-reboot", "-kernel", image.kernel, "-initrd", image.initrd),
        *("-append", "panic=-1 quiet rdinit=/bin/true"),
    ]
    try:
        return (
            subprocess.run(words, capture_output=True, timeout=seconds, check=False).returncode == 0
        )
    except subprocess.TimeoutExpired:
        return False


def accelerator(image: Image, cache: Path) -> str:
    """``kvm`` or ``tcg``; what the probe found is remembered until the machine boots again.

    Args:
        image: what the probe boots.
        cache: folder to remember it in.
    """
    memory = cache / "accelerator"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    if memory.exists():
        asked, answer = memory.read_text().split()
        if asked == boot:
            return answer
    answer = "kvm" if kvm_works(image) else "tcg"
    memory.write_text(f"{boot} {answer}\n")
    return answer
