# SPDX-License-Identifier: GPL-2.0-or-later
"""Every call of libvirt-python; nothing outside this package imports it."""
