# SPDX-License-Identifier: GPL-2.0-or-later
"""Emptying a host: which guest goes where, and the migrations one beside the other.

Part of the command. It decides and drives; each migration is `migrate`'s.
"""
