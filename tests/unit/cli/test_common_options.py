# SPDX-License-Identifier: GPL-2.0-or-later
"""Options that several verbs have: one help text each, and values within limits."""

from __future__ import annotations

import argparse

import pytest

from vfmigrate.cli import common_options, examples, main


@pytest.mark.parametrize("text", ["1", "2147483647"])
def test_a_positive_integer_is_accepted(text: str) -> None:
    assert common_options.positive(text) == int(text)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", "", "2147483648", "٣"])
def test_an_invalid_integer_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a positive integer"):
        common_options.positive(text)


@pytest.mark.parametrize("text", ["0", "4095", "x"])
def test_an_invalid_vlan_is_refused(text: str) -> None:
    assert common_options.vlan("4094") == 4094
    with pytest.raises(argparse.ArgumentTypeError, match="is not a number from 1 to 4094"):
        common_options.vlan(text)


def test_an_option_has_the_same_value_name_in_every_verb() -> None:
    metavars: dict[str, set[object]] = {}
    for verb in examples.verbs(main.arguments()):
        for action in verb._actions:
            for name in action.option_strings:
                metavars.setdefault(name, set()).add(action.metavar)
    assert {name: found for name, found in metavars.items() if len(found) > 1} == {}
