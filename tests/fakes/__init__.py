# SPDX-License-Identifier: GPL-2.0-or-later
"""Stand-ins for what tests cannot have: the kernel's side of an SR-IOV card. Nothing of our own is faked."""
