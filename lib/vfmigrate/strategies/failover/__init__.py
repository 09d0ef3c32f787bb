# SPDX-License-Identifier: GPL-2.0-or-later
"""Failover pairs: the `<teaming>` pair in a definition, in a running guest, and which half carries the guest."""
