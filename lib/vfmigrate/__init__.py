# SPDX-License-Identifier: GPL-2.0-or-later
"""vfmigrate: live migration of libvirt guests with SR-IOV virtual functions.

This file stays empty of code: the modules are imported by name, each for what it owns.
"""
