# SPDX-License-Identifier: GPL-2.0-or-later
"""The kinds of events in the log: what each means and what to do. Values only; `journal` writes entries."""
