# SPDX-License-Identifier: GPL-2.0-or-later
"""How a VF gets to another host: one package a strategy.

What distinguishes the strategies is in `model.strategy`; here is the code that only one of them needs. Strategy
vfio has no package: libvirt and QEMU do all of it once the VF is ready (`converge`).
"""
