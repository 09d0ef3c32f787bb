# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of the claims: what an interrupted write left, and errors with the host, the file and the remedy."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from vfmigrate.claims.claim_files import ClaimFiles, failure
from vfmigrate.errors import HostError


@pytest.fixture
def files(tmp_path: Path) -> Iterator[ClaimFiles]:
    files = ClaimFiles(tmp_path / "claims")
    yield files
    files.close()


def test_a_written_claim_is_loaded_until_it_is_removed(files: ClaimFiles) -> None:
    files.write("0000:01:10.2", "text")
    files.write("0000:01:10.3", "other")
    assert list(files.load()) == [("0000:01:10.2", "text"), ("0000:01:10.3", "other")]
    files.remove("0000:01:10.2")
    files.remove("0000:01:10.2")  # it is gone, as it should be
    assert list(files.load()) == [("0000:01:10.3", "other")]


def test_the_file_of_an_interrupted_write_is_removed(files: ClaimFiles, tmp_path: Path) -> None:
    left = tmp_path / "claims" / "0000:01:10.2.new"
    left.write_text("{")
    assert list(files.load()) == []
    assert not left.exists()


def test_a_left_over_that_cannot_be_removed_is_no_obstacle(files: ClaimFiles, tmp_path: Path) -> None:
    (tmp_path / "claims" / "0000:01:10.2.new").mkdir()
    files.write("0000:01:10.3", "other")
    assert list(files.load()) == [("0000:01:10.3", "other")]


def test_a_file_that_cannot_be_removed_is_an_error_with_its_name(files: ClaimFiles, tmp_path: Path) -> None:
    path = tmp_path / "claims" / "0000:01:10.2.json"
    path.mkdir()
    with pytest.raises(HostError) as error:
        files.remove("0000:01:10.2")
    assert f"{socket.gethostname()}: cannot remove the claim on 0000:01:10.2: {path}: " in str(error.value)


def test_a_failed_write_keeps_the_former_claim(files: ClaimFiles, tmp_path: Path) -> None:
    files.write("0000:01:10.2", "before")
    (tmp_path / "claims" / "0000:01:10.2.new").mkdir()
    with pytest.raises(HostError, match="cannot write the claim on"):
        files.write("0000:01:10.2", "after")
    assert list(files.load()) == [("0000:01:10.2", "before")]


def test_a_lock_that_is_no_file_is_refused_with_its_remedy(tmp_path: Path) -> None:
    lock = tmp_path / "claims" / ".lock"
    lock.mkdir(mode=0o700, parents=True)
    with pytest.raises(HostError, match=f"{lock} is not a file; remove it: rm -r {lock}"):
        ClaimFiles(tmp_path / "claims")


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        HostError, match=r"cannot make the directory of the claims: .*/file/claims: Not a directory"
    ):
        ClaimFiles(tmp_path / "file" / "claims")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room on its file system: see df -h /run/vfmigrate/claims"),
        (errno.EDQUOT, "make room on its file system: see df -h /run/vfmigrate/claims"),
        (errno.EROFS, "make its file system writable: see findmnt -T /run/vfmigrate/claims"),
        (errno.EPERM, "run: chattr -R -i -a /run/vfmigrate/claims"),
        (errno.EACCES, "see ls -ldZ /run/vfmigrate/claims, and ausearch -m avc for SELinux"),
        (errno.EIO, "see dmesg and ls -la /run/vfmigrate/claims"),
    ],
)
def test_the_remedy_is_for_the_kernels_reason(number: int, remedy: str) -> None:
    path = Path("/run/vfmigrate/claims/0000:01:10.2.json")
    error = failure("cannot write the claim on 0000:01:10.2", path, OSError(number, ""))
    assert error.problem.endswith(f": {path}: {os.strerror(number)}")
    assert error.remedy.startswith(remedy)
