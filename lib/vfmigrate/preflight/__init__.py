# SPDX-License-Identifier: GPL-2.0-or-later
"""Preflight checks: what would block a migration.

Part of the command. `collect` asks both hosts; the checks are pure. Nothing here changes anything on any host.
"""
