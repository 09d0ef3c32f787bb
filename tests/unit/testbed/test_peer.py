# SPDX-License-Identifier: GPL-2.0-or-later
"""Loss and silence as computed from a peer's record."""

from __future__ import annotations

import struct

from tests.testbed import peer

MS = 1_000_000


def record(sent: dict[int, int], heard: dict[int, int]) -> str:
    """A record with times in ms."""
    lines = [f"sent {number} {when * MS}" for number, when in sent.items()]
    return "\n".join([*lines, *(f"heard {number} {when * MS}" for number, when in heard.items())])


def test_a_guest_that_answers_each_request_has_no_losses() -> None:
    times = {number: 20 * number for number in range(10)}
    hearing = peer.hear(record(times, {number: when + 3 for number, when in times.items()}))
    # counted from the first answer on, so the request before it is not
    assert hearing == peer.Hearing(9, 0, longest_silence_ms=0.0, longest_wait_ms=20.0, silence_began=0.0)


def test_silence_lasts_while_nothing_is_answered() -> None:
    times = {number: 20 * number for number in range(100)}
    answered = {number: when + 1 for number, when in times.items() if not 10 <= number < 40 and number != 60}
    hearing = peer.hear(record(times, answered))
    assert hearing.lost == 31
    assert hearing.longest_silence_ms == 30 * 20
    assert hearing.silence_began == 0.2
    assert hearing.longest_wait_ms == 31 * 20


def test_late_answers_are_no_silence() -> None:
    hearing = peer.hear(record({0: 0, 1: 20, 2: 40, 3: 1000}, {0: 1, 1: 900, 2: 901, 3: 1001}))
    assert (hearing.lost, hearing.longest_silence_ms, hearing.longest_wait_ms) == (0, 0.0, 899.0)


def test_a_guest_that_does_not_return_is_silent_to_the_end() -> None:
    times = {number: 20 * number for number in range(100)}
    hearing = peer.hear(record(times, {0: 1, 1: 21}))
    assert (hearing.lost, hearing.longest_silence_ms, hearing.silence_began) == (98, 97 * 20, 0.04)


def test_requests_before_the_first_answer_do_not_count() -> None:
    times = {number: 20 * number for number in range(100)}
    answered = {number: when + 1 for number, when in times.items() if number >= 50}
    hearing = peer.hear(record(times, answered))
    assert (hearing.sent, hearing.lost, hearing.longest_silence_ms) == (49, 0, 0.0)


def test_a_guest_that_never_answers_has_only_losses() -> None:
    assert peer.hear(record({0: 0, 1: 20}, {})) == peer.Hearing(2, 2, 0.0, 0.0, 0.0)
    assert peer.hear("") == peer.Hearing(0, 0, 0.0, 0.0, 0.0)


def test_echo_request_has_a_valid_checksum() -> None:
    request = peer.echo_request(0x1234, 7)
    # the checksum over a message that holds its checksum is zero (RFC 1071)
    assert peer.checksum(request) == 0
    assert struct.unpack_from("!BBxxHH", request) == (8, 0, 0x1234, 7)
