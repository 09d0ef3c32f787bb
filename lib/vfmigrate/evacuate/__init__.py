# SPDX-License-Identifier: GPL-2.0-or-later
"""The evacuation of a host: plans the destination of each guest, and runs several migrations at once.

Part of the command. Each migration is done by `migrate`.
"""
