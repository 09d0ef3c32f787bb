# SPDX-License-Identifier: GPL-2.0-or-later
"""vNIC profiles of oVirt's engine.

Part of the command. No other package connects to the engine.
"""
