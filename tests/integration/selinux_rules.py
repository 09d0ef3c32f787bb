# SPDX-License-Identifier: GPL-2.0-or-later
"""Prints, as JSON, what a policy allows some domains. Run by the interpreter of the system, which has setools.

    python3 selinux_rules.py POLICY DOMAIN...

For each domain: the permissions by "TYPE CLASS", and the type of what it makes by "TYPE CLASS". Of the file systems
that have no labels of their own: the types by "FILESYSTEM PATH". Rules that a boolean switches off are left out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import setools  # type: ignore[import-not-found]  # of the system


def is_on(rule: Any) -> bool:
    """Whether a rule is in force with the booleans as the policy has them."""
    try:
        condition = rule.conditional
    except AttributeError:
        return True
    return bool(
        condition.evaluate(**{str(each): each.state for each in condition.booleans}) == rule.conditional_block
    )


def types(target: Any, domain: str) -> Iterator[str]:
    """The types that a rule's target stands for."""
    if str(target) == "self":
        yield domain
    else:
        yield from map(str, target.expand())


def main() -> None:
    """Print what the policy says."""
    policy = setools.SELinuxPolicy(sys.argv[1])
    answer: dict[str, Any] = {"domains": {}, "genfs": {}, "types": sorted(map(str, policy.types()))}
    for domain in sys.argv[2:]:
        allowed: dict[str, set[str]] = {}
        made: dict[str, str] = {}
        query = setools.TERuleQuery(
            policy, ruletype=["allow", "type_transition"], source=domain, source_indirect=True
        )
        for rule in query.results():
            if not is_on(rule):
                continue
            if str(rule.ruletype) == "type_transition":
                if not hasattr(rule, "filename"):
                    made.update(
                        {f"{name} {rule.tclass}": str(rule.default) for name in types(rule.target, domain)}
                    )
                continue
            for name in types(rule.target, domain):
                allowed.setdefault(f"{name} {rule.tclass}", set()).update(map(str, rule.perms))
        answer["domains"][domain] = {
            "allowed": {key: sorted(value) for key, value in allowed.items()},
            "made": made,
        }
    for each in policy.genfscons():
        answer["genfs"][f"{each.fs} {each.path}"] = str(each.context.type_)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
