# SPDX-License-Identifier: GPL-2.0-or-later
"""oVirt's engine: the vNIC profiles that name a pool.

Part of the command. Nothing else talks to the engine.
"""
