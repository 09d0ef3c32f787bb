# SPDX-License-Identifier: GPL-2.0-or-later
"""vfmigrate's plugin for oVirt's vdsm: a client of vfmigrated, run as user vdsm. Standard library only."""
