#!/bin/sh
# Process 1 of a virtual machine: the disk checker on a disk that device-mapper makes lie.
# /mnt has what the checker needs; /dev/vdc is the disk.
set -u
mount -t tmpfs tmpfs /tmp
mkdir -p /dev/shm
mount -t tmpfs tmpfs /dev/shm
mkdir -p /tmp/srv
ip link set lo up
modprobe dm-flakey
# Nobody else makes the devices' names here.
export DM_DISABLE_UDEV=1 PYTHONPATH=/mnt PYTHONDONTWRITEBYTECODE=1
sectors=$(blockdev --getsz /dev/vdc)
checker="python3 -m disk_checker.cli"
table() {
	dmsetup suspend --nolockfs flakey
	dmsetup load flakey --table "0 $sectors $1"
	dmsetup resume flakey
}
journal() { cat /tmp/state-"$1"/*.journal 2>/dev/null | wc -c; }
grow() {
	until [ "$(journal "$1")" -gt "$2" ]; do sleep 0.2; done
}

# A round: its name, and whether the disk drops writes while the checker still writes.
round() {
	dmsetup create flakey --table "0 $sectors linear /dev/vdc 0"
	mkfs.ext4 -q -F /dev/mapper/flakey
	mount /dev/mapper/flakey /tmp/srv
	dd if=/dev/zero of=/tmp/srv/target bs=1M count=8 conv=fsync status=none
	$checker listen --listen 127.0.0.1:"$3" --state /tmp/state-"$1" &
	listener=$!
	until [ -e /tmp/state-"$1"/lock ]; do sleep 0.2; done
	sleep 1
	$checker create 127.0.0.1:"$3" /tmp/srv/target 8M --block-size 4k --read-back 0 &
	writer=$!
	grow "$1" 20000
	if [ "$2" = drops ]; then
		table "flakey /dev/vdc 0 0 3600 1 drop_writes"
		grow "$1" $(($(journal "$1") + 20000))
	fi
	kill -STOP "$writer"
	table "flakey /dev/vdc 0 0 3600 1 drop_writes" # the power goes
	kill -KILL "$writer"
	wait "$writer"
	umount /tmp/srv
	dmsetup remove flakey
	dmsetup create flakey --table "0 $sectors linear /dev/vdc 0"
	mount /dev/mapper/flakey /tmp/srv
	$checker verify 127.0.0.1:"$3" /tmp/srv/target --same-boot
	echo "ROUND $1 $?"
	kill "$listener"
	wait "$listener"
	umount /tmp/srv
	dmsetup remove flakey
}

round honest keeps 5401
round lying drops 5402
echo o >/proc/sysrq-trigger
sleep 60
