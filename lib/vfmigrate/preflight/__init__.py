# SPDX-License-Identifier: GPL-2.0-or-later
"""What `vfmigrate check` collects of both hosts, and how it judges that.

Part of the command. Collecting asks both hosts; judging is pure. Nothing here changes anything anywhere.
"""
