# SPDX-License-Identifier: GPL-2.0-or-later
"""The preflight checks, one module for each kind of thing they judge. Pure: a snapshot in, lines out."""
