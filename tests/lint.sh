#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The checks that every commit must pass. `make lint` and .pre-commit-config.yaml both run them from here:
#
#     tests/lint.sh            run all checks
#     tests/lint.sh NAME...    run the checks of these names
#     tests/lint.sh --list     print the names
#     tests/lint.sh --fix      let ruff fix and format the sources
# shellcheck disable=SC2086 # $checks, $python and $shell are lists
set -eu
cd "$(dirname "$0")/.."
checks="ruff-check ruff-format import-linter mypy vermin shellcheck man news"
python="lib hooks/qemu vdsm_plugin vdsm_plugin/50_vfmigrate man tests"
shell="tests/lint.sh tests/packages.sh tests/venv.sh tests/integration/emulator.sh tests/integration/systemd_init.sh
    rpm/build.sh rpm/repo.sh completion/vfmigrate completion/vfmigrated completion/vfmigrate-guest .ci/run"

check() {
    case $1 in
        ruff-check) "$bin/ruff" check $python ;;
        ruff-format) "$bin/ruff" format --check $python ;;
        import-linter) PYTHONPATH=lib:vdsm_plugin "$bin/lint-imports" --no-cache ;;
        mypy)
            "$bin/mypy" lib/vfmigrate lib/vfmigrate_guest tests
            # Files without the suffix .py, and modules that are not in lib, are checked one by one.
            "$bin/mypy" --scripts-are-modules hooks/qemu
            MYPYPATH=vdsm_plugin "$bin/mypy" --scripts-are-modules -p vfmigrate_vdsm
            MYPYPATH=vdsm_plugin "$bin/mypy" --scripts-are-modules vdsm_plugin/50_vfmigrate
            ;;
        # man/write.py runs on developers' machines only
        vermin)
            "$bin/vermin" --quiet --no-tips --target=3.9- --violations --eval-annotations lib hooks/qemu vdsm_plugin \
                vdsm_plugin/50_vfmigrate tests
            ;;
        shellcheck) shellcheck $shell ;;
        man) PYTHONPATH=lib "$bin/python" man/write.py --check ;;
        # towncrier refuses fragments of unknown types
        news)
            said=$("$bin/towncrier" build --draft --version next 2>&1) || {
                echo "$said" >&2
                return 1
            }
            ;;
    esac
}

case ${1:-} in
    --list)
        printf '%s\n' $checks
        exit
        ;;
    --fix)
        bin=$(tests/venv.sh)/bin
        "$bin/ruff" check --fix $python && "$bin/ruff" format $python
        exit
        ;;
esac
[ $# -gt 0 ] || set -- $checks
for name; do
    case " $checks " in
        *" $name "*) ;;
        *)
            echo "tests/lint.sh: there is no check '$name'; the checks are: $checks" >&2
            exit 2
            ;;
    esac
done
bin=$(tests/venv.sh)/bin
for name; do
    echo "lint: $name"
    check "$name"
done
