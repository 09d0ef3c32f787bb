# SPDX-License-Identifier: GPL-2.0-or-later
"""The project's version, in the one place where it is written down."""

VERSION = "0.1.0"
