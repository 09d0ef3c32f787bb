# SPDX-License-Identifier: GPL-2.0-or-later
"""Values that every part speaks of. Imports nothing but the errors."""
