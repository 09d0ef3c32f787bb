#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The first process of a host under systemd (systemd_host.py), in namespaces of its own: lays the host out over the root
# LOWER below the empty directory PLACE, tells its process ID as the outside sees it, and becomes systemd.
#
#     systemd_init.sh LOWER PLACE
set -eu
read -r pid _ < /proc/self/stat
root=$2/root
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$2"
mkdir "$2/upper" "$2/work" "$root"
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" overlay "$root"
mount -t proc proc "$root/proc"
# the kernel is the machine's: systemd-sysctl must not set it up
mount --bind -o ro "$root/proc/sys" "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
hostname host-s
echo 0123456789abcdef0123456789abcdef > "$root/etc/machine-id"
for unit in systemd-networkd.service systemd-networkd.socket systemd-udevd.service systemd-udevd-control.socket \
    systemd-udevd-kernel.socket systemd-logind.service systemd-sysctl.service systemd-modules-load.service \
    kmod-static-nodes.service getty@tty1.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
# virtlogd wants locks that an overlay in memory does not have
printf 'stdio_handler = "file"\nuser = "root"\ngroup = "root"\nsecurity_driver = "none"\nnamespaces = [ ]\n' \
    > "$root/etc/libvirt/qemu.conf"
echo "$pid"
exec chroot "$root" env -i container=vfmigrate-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --show-status=0 < /dev/null > /dev/null 2>&1
