# SPDX-License-Identifier: GPL-2.0-or-later
"""Fakes of what tests cannot have: the kernel's side of an SR-IOV card. No code of vfmigrate is faked."""
