# SPDX-License-Identifier: GPL-2.0-or-later
"""Making the host match the claims: wanted, observed, and the steps from one to the other.

Part of the daemon. It keeps no record of what it did.
"""
