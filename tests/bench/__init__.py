# SPDX-License-Identifier: GPL-2.0-or-later
"""Measurements of what the project promises about speed; `make bench` runs them, no test depends on them."""
