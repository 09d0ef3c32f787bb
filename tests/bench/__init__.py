# SPDX-License-Identifier: GPL-2.0-or-later
"""Measurements of the speed that the project promises. `make bench` runs them; no test depends on them."""
