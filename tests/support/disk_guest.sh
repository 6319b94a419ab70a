#!/bin/sh
# Process 1 of a virtual machine whose disk, /dev/vdc, goes without power together with it:
#   run write PORT     writes until then
#   run verify PORT    prints what is left, and how the checker ended
# /mnt has what the checker needs; its listener is on the machine that has this one.
set -u
mount -t tmpfs tmpfs /tmp
mkdir -p /dev/shm
mount -t tmpfs tmpfs /dev/shm
mkdir -p /tmp/srv
modprobe virtio_net
until ip link set eth0 up; do sleep 0.2; done
ip address add 10.0.2.15/24 dev eth0
export PYTHONPATH=/mnt PYTHONDONTWRITEBYTECODE=1
checker="python3 -m disk_checker.cli"
mount /dev/vdc /tmp/srv
case $1 in
write) $checker create 10.0.2.2:"$2" /tmp/srv/target 8M --force --block-size 4k --read-back 0 ;;
verify)
	$checker verify 10.0.2.2:"$2" /tmp/srv/target
	echo "ENDED $?"
	;;
esac
echo o >/proc/sysrq-trigger
sleep 60
