# SPDX-License-Identifier: GPL-2.0-or-later
"""Namespaces that a run lives in, so that nothing of it can outlive it.

Processes, mounts and (for a run with hosts) the network are the run's own. When the run ends, however it
ends, the kernel kills what is left of its processes, and takes down its mounts and its network devices with
them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Callable, NoReturn, Optional

from tests.testbed.run import run

# include/uapi/linux/sched.h, prctl.h
CLONE_NEWNS = 0x00020000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# A directory of the run's own, on a tmpfs that only the run's processes see.
RUN = Path("/mnt")

LIBC = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Leave the namespaces in `flags` for new ones: Python has unshare only since 3.12."""
    if LIBC.unshare(flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)} (the test bed needs root)")


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def run_inside(main: Callable[[], int], network: bool, leaving: Sequence[int] = ()) -> int:
    """Run `main` in namespaces of its own and return its exit status.

    SIGINT, SIGTERM and SIGHUP are passed on to it, where they raise KeyboardInterrupt once. The file
    descriptors in `leaving` stay open in `main` alone.
    """
    return watch(fork(lambda: keep(main, network, leaving)), leaving)


def keep(main: Callable[[], int], network: bool, leaving: Sequence[int]) -> int:
    """Make the namespaces, start their first process and wait for it."""
    unshare(CLONE_NEWNS | CLONE_NEWPID | (CLONE_NEWNET if network else 0))
    return watch(fork(lambda: init(main, network, leaving)), leaving)


def init(main: Callable[[], int], network: bool, leaving: Sequence[int]) -> int:
    """Be the first process of the namespaces: set them up, start the run, reap orphans until it ends."""
    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "proc", "proc", "/proc")
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", RUN)
    if network:
        run("ip", "link", "set", "lo", "up")
    return watch(fork(lambda: interruptible(main)), leaving, reap=True)


def interruptible(main: Callable[[], int]) -> int:
    """Run `main`; the first stop signal raises KeyboardInterrupt in it, later ones are ignored."""

    def stop(number: int, frame: Optional[FrameType]) -> NoReturn:
        del frame
        for each in STOP_SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt(signal.Signals(number).name)

    for each in STOP_SIGNALS:
        signal.signal(each, stop)
    try:
        return main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def fork(main: Callable[[], int]) -> int:
    """Start a process that runs `main` and dies with this one; returns its pid."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        die_with_parent()
        status = main()
    except BaseException:  # noqa: BLE001 - whatever it was, it must not run on in a copy of the parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def let_go(descriptors: Sequence[int]) -> None:
    """Redirect file descriptors to /dev/null: who reads the other end must not wait for this process."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def watch(pid: int, leaving: Sequence[int], reap: bool = False) -> int:
    """Wait for a process, passing stop signals on to it; returns its exit status. `reap` reaps orphans, too."""

    def forward(number: int, frame: Optional[FrameType]) -> None:
        del number, frame
        os.kill(pid, signal.SIGTERM)

    let_go(leaving)
    for each in STOP_SIGNALS:
        signal.signal(each, forward)
    while True:
        found, status = os.waitpid(-1 if reap else pid, 0)
        if found == pid:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
