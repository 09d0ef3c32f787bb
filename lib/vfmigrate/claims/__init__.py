# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims: which VF belongs to which interface of which domain, as files below /run. The daemon is their only writer."""
