# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's socket and its messages, and the same messages through the metadata of a libvirt network.

It moves messages and knows nothing of what they ask for.
"""
