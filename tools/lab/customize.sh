#!/bin/bash
# Make a host of the lab out of a fresh Debian tree: customize.sh TREE.
set -euo pipefail
tree=$1

# What is a host's own comes on its second disk, as a tar archive, and is unpacked
# before anything reads it.
cat >"$tree/etc/systemd/system/lab-seed.service" <<'EOF'
[Unit]
Description=What makes this host of the lab out of the image
DefaultDependencies=no
ConditionPathExists=/dev/vdb
After=systemd-remount-fs.service
Before=sysinit.target systemd-networkd.service systemd-sysctl.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/tar --extract --file=/dev/vdb --directory=/
ExecStart=/bin/hostname --file /etc/hostname
[Install]
WantedBy=sysinit.target
EOF

# Nothing is resolved: a complete /etc/hosts comes with the seed, and a question to
# nobody is answered at once.
: >"$tree/etc/resolv.conf"
: >"$tree/etc/machine-id"
rm -f "$tree"/etc/ssh/ssh_host_*
echo '/dev/vda / ext4 noatime,errors=remount-ro 0 1' >"$tree/etc/fstab"
echo 'kernel.printk = 4 4 1 7' >"$tree/etc/sysctl.d/lab.conf"

# The roles decide what runs, as on a host that has just got the package.
chroot "$tree" systemctl enable lab-seed.service systemd-networkd.service ssh.service
for unit in apt-daily.timer apt-daily-upgrade.timer chrony.service drbd.service \
  e2scrub_all.timer fstrim.timer heartbeat.service mariadb.service mdmonitor.service \
  systemd-timesyncd.service watchdog.service; do
  chroot "$tree" systemctl disable --quiet "$unit" 2>/dev/null || true
done
# An isolated host never gets "online" the way the first waits for; the others only make
# an emulated host boot more slowly.
chroot "$tree" systemctl mask --quiet systemd-networkd-wait-online.service \
  e2scrub_reap.service getty@tty1.service systemd-binfmt.service \
  systemd-random-seed.service systemd-update-utmp.service sys-kernel-debug.mount \
  sys-kernel-tracing.mount dev-hugepages.mount dev-mqueue.mount

# An initial file system for these machines alone loads twice as fast.
echo 'MODULES=list' >"$tree/etc/initramfs-tools/conf.d/lab"
printf '%s\n' virtio_pci virtio_blk ext4 >>"$tree/etc/initramfs-tools/modules"
chroot "$tree" update-initramfs -u -k all
rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/*
