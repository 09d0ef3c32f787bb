# SPDX-License-Identifier: GPL-2.0-or-later
"""The coverage-guided fuzzer: a separate program in a separate environment.

    python -m tests.soak.fuzz_target TARGET DIRECTORY RUNS SECONDS

The targets: `xml` (any XML, from pieces), `metadata` (whole XML with any marks), `socket`, `config`, `claim`. It writes
only to DIRECTORY. When an input breaks a rule of `hostile`, or takes longer than SECONDS_EACH, it exits with a status
other than 0 and leaves the input in a file there.
"""

from __future__ import annotations

import gc
import sys
import tempfile
from pathlib import Path
from xml.sax.saxutils import quoteattr

import atheris

with atheris.instrument_imports(include=["vfmigrate"]):
    from tests.soak import hostile
    from vfmigrate.config import (
        setting,  # noqa: F401  (instrumented)
    )
    from vfmigrate.rpc import protocol

SECONDS_EACH = 10
MARK_KEYS = ("mac", "address", "pool", "vlan", "trunks", "strategy", "psid", "firmware", "msix")
WORDS = (
    *("52:54:00:00:00:02", "0000:01:00.2", "data", "42", "43", "4094", "4095", "-1", "0", "vfio", "failover"),
    *(
        "replug",
        "MT_0000000892",
        "28.42.1000",
        "11",
        "0xffffffff",
        "\0",
        "\ud7ff",
        "\U0001f600",
        "&#0;",
        "&a;",
    ),
    *("<!DOCTYPE ", "<!ENTITY ", " SYSTEM ", "<![CDATA[", "]]>", "<?xml version='1.0' encoding='utf-16'?>"),
    *(" xmlns:v='urn:vfmigrate:domain:1'", "<interface type='hostdev'>", "<iommu model='intel'/>", "<vlan/>"),
    *(
        "<teaming type='transient' persistent='ua-1'/>",
        "<a>",
        "</devices>",
        "<devices>",
        "[pool a]\n",
        "vlans = ",
    ),
    *(
        '"request":"claim"',
        '"strategy":"vfio"',
        '"incoming":true',
        '"plug":true',
        "msix = ",
        "[daemon]\n",
        "%(a)s",
    ),
)


def pieces(provider: atheris.FuzzedDataProvider) -> list[tuple[int, int, str]]:
    """A few cuts in a text with their replacements, from the fuzzer's bytes."""
    cuts = []
    for _ in range(provider.ConsumeIntInRange(0, 6)):
        start, length = provider.ConsumeIntInRange(0, 4095), provider.ConsumeIntInRange(0, 80)
        if provider.ConsumeBool():
            piece = WORDS[provider.ConsumeIntInRange(0, len(WORDS) - 1)]
        else:
            piece = provider.ConsumeUnicodeNoSurrogates(provider.ConsumeIntInRange(0, 40))
        repeated = provider.ConsumeIntInRange(1, 2000) if provider.ConsumeIntInRange(0, 50) == 0 else 1
        cuts.append((start, length, piece * repeated))
    return cuts


class Targets:
    """The targets, over one host in memory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._rig = hostile.HostileRig(directory)

    def _operation(self, provider: atheris.FuzzedDataProvider) -> str:
        return hostile.OPERATIONS[provider.ConsumeIntInRange(0, len(hostile.OPERATIONS) - 1)]

    def xml(self, data: bytes) -> None:
        """Domain XML with arbitrary text anywhere."""
        provider = atheris.FuzzedDataProvider(data)
        operation = self._operation(provider)
        self._rig.hook(operation, hostile.spliced(hostile.DOMAIN, pieces(provider)))

    def metadata(self, data: bytes) -> None:
        """Well-formed XML with arbitrary metadata."""
        provider = atheris.FuzzedDataProvider(data)
        operation = self._operation(provider)
        marks = ""
        for _ in range(provider.ConsumeIntInRange(0, 4)):
            said = []
            for key in MARK_KEYS:
                choice = provider.ConsumeIntInRange(0, 2)
                if choice == 1:
                    said.append(f"{key}={quoteattr(WORDS[provider.ConsumeIntInRange(0, 14)])}")
                elif choice == 2:
                    text = provider.ConsumeUnicodeNoSurrogates(provider.ConsumeIntInRange(0, 70))
                    said.append(f"{key}={quoteattr(text)}")
            marks += f"<v:vf {' '.join(said)}/>"
        start = hostile.DOMAIN.index("<v:vf ")
        end = hostile.DOMAIN.index("</v:vfs>")
        self._rig.hook(operation, hostile.DOMAIN[:start] + marks + hostile.DOMAIN[end:])

    def socket(self, data: bytes) -> None:
        """A line on the socket: raw bytes, or a request with arbitrary values."""
        provider = atheris.FuzzedDataProvider(data)
        if provider.ConsumeBool():
            self._rig.request(provider.ConsumeBytes(provider.remaining_bytes()))
            return
        arguments = {
            "domain": hostile.UUID,
            "mac": "52:54:00:00:00:02",
            "strategy": "vfio",
            "pool": "data",
        }
        for key in (
            "domain",
            "mac",
            "strategy",
            "pool",
            "vf",
            "vlan",
            "name",
            "plug",
            "incoming",
            "msix",
            "psid",
        ):
            choice = provider.ConsumeIntInRange(0, 6)
            values = (
                WORDS[provider.ConsumeIntInRange(0, len(WORDS) - 1)] if choice == 1 else None,
                provider.ConsumeIntInRange(-5, 5000) if choice == 2 else None,
                provider.ConsumeUnicode(20) if choice == 3 else None,
                provider.ConsumeBool() if choice == 4 else None,
            )
            said = next((value for value in values if value is not None), None)
            if said is not None:
                arguments[key] = said
        names = sorted(protocol.RESERVING | protocol.READING | protocol.ROOT_ONLY)
        name = names[provider.ConsumeIntInRange(0, len(names) - 1)]
        self._rig.request(protocol.encode_request(name, arguments))

    def config(self, data: bytes) -> None:
        """A configuration file with arbitrary text anywhere, or raw bytes."""
        provider = atheris.FuzzedDataProvider(data)
        if provider.ConsumeIntInRange(0, 3) == 0:
            text = provider.ConsumeBytes(provider.remaining_bytes())
        else:
            text = hostile.spliced(hostile.CONFIGURATION, pieces(provider)).encode("utf-8", "surrogatepass")
        hostile.configuration(self._directory, text)

    def claim(self, data: bytes) -> None:
        """A claim's file with arbitrary text anywhere, or raw bytes."""
        provider = atheris.FuzzedDataProvider(data)
        if provider.ConsumeIntInRange(0, 3) == 0:
            hostile.claim(provider.ConsumeBytes(provider.remaining_bytes()))
            return
        text = hostile.spliced(hostile.CLAIM, pieces(provider))
        hostile.claim(text.encode("utf-8", "surrogatepass"))


def main() -> None:
    """Fuzz one target."""
    name, directory, runs, seconds = sys.argv[1:]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        target: hostile.Target = getattr(Targets(Path(place)), name)
        corpus = Path(directory, "corpus")
        corpus.mkdir(exist_ok=True)
        options = [
            f"-runs={runs}",
            f"-max_total_time={seconds}",
            f"-timeout={SECONDS_EACH}",
            "-max_len=4096",
            "-len_control=0",
            "-rss_limit_mb=2048",
            f"-artifact_prefix={directory}/",
            "-print_final_stats=1",
        ]
        atheris.Setup([sys.argv[0], *options, str(corpus)], target)
        gc.freeze()
        atheris.Fuzz()


if __name__ == "__main__":
    main()
