# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt's XML: domains and networks read into values, and edited without touching another byte. Pure."""
