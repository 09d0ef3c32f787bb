# SPDX-License-Identifier: GPL-2.0-or-later
"""The methods by which a MAC is announced: every module here with a `METHOD` is one (announce/method.py)."""
