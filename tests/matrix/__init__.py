# SPDX-License-Identifier: GPL-2.0-or-later
"""The integration tests on hosts of several releases of Debian: `make matrix`."""
