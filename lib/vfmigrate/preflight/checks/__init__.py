# SPDX-License-Identifier: GPL-2.0-or-later
"""The preflight checks, one module for each subject. Pure: a snapshot in, results out."""
