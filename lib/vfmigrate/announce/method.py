# SPDX-License-Identifier: GPL-2.0-or-later
"""How a MAC is announced from a port: the interface of a method, and the choice among them.

To add a method, add a module to `announce/methods` with a `METHOD`. Nothing else changes: it is found by being there,
and is taken for every port that it suits, before the one for all ports.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from vfmigrate.announce import methods
from vfmigrate.converge.observe import Host


@dataclass(frozen=True)
class BridgePort:
    """Where the frames of a VF enter a bridge."""

    bridge: str
    ofport: int


class Method(ABC):
    """One way to make the network learn where a MAC is."""

    #: for ports that no other method suits
    is_default = False

    @abstractmethod
    def suits(self, host: Host, port: BridgePort) -> bool:
        """Whether it is the method for this port. Called once for each announcement; may ask Open vSwitch.

        Raises HostError or Unreachable when that cannot be found out.
        """

    @abstractmethod
    def send(self, host: Host, port: BridgePort, mac: str, vlans: Sequence[int]) -> None:
        """Announce a MAC once in each of these VLANs; 0 is no tag. Raises HostError or Unreachable."""


@functools.cache
def known() -> tuple[Method, ...]:
    """The methods in the package, the default one last."""
    names = sorted(module.name for module in pkgutil.iter_modules(methods.__path__))
    modules = [importlib.import_module(f"{methods.__name__}.{name}") for name in names]
    found: list[Method] = [module.METHOD for module in modules if hasattr(module, "METHOD")]
    return tuple(sorted(found, key=lambda method: method.is_default))


def method_for(host: Host, port: BridgePort) -> Method:
    """The method for a port. Raises HostError or Unreachable when that cannot be found out."""
    return next(method for method in known() if method.suits(host, port))
