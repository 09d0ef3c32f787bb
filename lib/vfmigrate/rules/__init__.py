# SPDX-License-Identifier: GPL-2.0-or-later
"""Pure decisions: values in, a decision or a refusal out. Nothing here knows where a value came from."""
