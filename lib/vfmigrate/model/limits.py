# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits of input. In a module of their own, because a client of the daemon needs none of the modules that read it."""

from __future__ import annotations

#: a domain's XML; libvirt itself takes at most 10 MB through its RPC (VIR_NET_MESSAGE_STRING_MAX is 4 MB)
MAX_XML_BYTES = 8 * 1024 * 1024
#: a domain's name; libvirt keeps what it knows of a domain in a file of that name (NAME_MAX)
MAX_NAME_BYTES = 255
