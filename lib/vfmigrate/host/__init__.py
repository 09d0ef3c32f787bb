# SPDX-License-Identifier: GPL-2.0-or-later
"""This host's kernel and services: sysfs, netlink, devlink, network devices, udev, systemd.

Each module is thread-safe and takes its root or socket as a parameter. Nothing outside imports pyroute2.
"""
