#!/bin/bash
# keep_copy.sh DISK FILE: keep a copy of a disk; run on the host by the role drbd, which has
# nobody write to it meanwhile.
#
# A file system, as it is read with `mount -t ext4 -o loop,ro,noload`.  Only a whole copy has
# the name FILE, and then it survives a loss of power: what it is a copy of is overwritten next.
set -euo pipefail
disk=$1 copy=$2
trap 'rm -f -- "$copy.part"' EXIT
# DRBD writes to the disk past its cache, in which old blocks may be; so no block is read from there.
blockdev --flushbufs "$disk"
dd if="$disk" of="$copy.part" bs=4M iflag=direct conv=sparse,fsync status=none
mv -- "$copy.part" "$copy"
sync -- "$(dirname "$copy")"
