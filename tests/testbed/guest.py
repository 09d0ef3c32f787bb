# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests: their images, and their domains as an administrator would write them."""
