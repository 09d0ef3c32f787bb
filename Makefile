# SPDX-License-Identifier: GPL-2.0-or-later
# Entry points for developers, packagers and .ci/run. `make` without a target lists the targets.

SHELL = /bin/sh
DESTDIR ?=
PREFIX ?= /usr
SYSCONFDIR ?= /etc
PYTHON3 ?= /usr/bin/python3
BINDIR ?= $(PREFIX)/bin
SBINDIR ?= $(PREFIX)/sbin
LIBEXECDIR ?= $(PREFIX)/libexec
MANDIR ?= $(PREFIX)/share/man
UNITDIR ?= $(PREFIX)/lib/systemd/system
PRESETDIR ?= $(PREFIX)/lib/systemd/system-preset
TMPFILESDIR ?= $(PREFIX)/lib/tmpfiles.d
COMPLETIONDIR ?= $(PREFIX)/share/bash-completion/completions
CATALOGDIR ?= $(PREFIX)/lib/systemd/catalog
UDEVRULESDIR ?= $(PREFIX)/lib/udev/rules.d
# where PYTHON3 finds the distribution's own packages
SITELIB ?= $(shell $(PYTHON3) -Ic 'import sysconfig as s; n = s.get_scheme_names(); \
	print(s.get_path("purelib", next(x for x in ("deb_system", "rpm_prefix", "posix_prefix") if x in n)))')
HOOKDIR ?= $(SYSCONFDIR)/libvirt/hooks/qemu.d
VDSMHOOKSDIR ?= $(PREFIX)/libexec/vdsm/hooks
VDSMPLUGINDIR = $(PREFIX)/share/vfmigrate/vdsm_plugin
# the hook points of vdsm that the plugin uses (vdsm_plugin/vfmigrate_vdsm/points.py)
VDSM_POINTS = before_device_create before_vm_start before_nic_hotplug after_nic_hotplug after_nic_hotplug_fail \
	after_nic_hotunplug before_vm_migrate_source before_vm_migrate_destination after_vm_destroy after_get_caps \
	after_get_stats
HOST ?= a
SCENARIOS ?=
# the seed of the scenarios' order ("random": any order); RESUME=1: skip those that passed with the same tree
SHUFFLE ?=
RESUME ?=
# how many test files run at the same time; most of them wait for servers most of the time
TEST_JOBS ?= 3

# Expanded where it is used, so that only targets that need the environment make it.
VENV = $(shell tests/venv.sh)
PY = $(VENV)/bin/python

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 20

.PHONY: demo
demo: packages ## show a VF migrating between two test hosts, there and back
	@$(PY) -m tests.testbed demo

.PHONY: test
test: packages ## run every test that needs no VM
	$(PY) -m pytest --numprocesses=$(TEST_JOBS) --dist=loadfile $(PYTEST_ARGS)

# which cells of the matrix run, by name; all of them by default
CELLS ?=
.PHONY: matrix
matrix: packages ## test on hosts of other releases (CELLS="forky bookworm")
	@$(PY) -m tests.matrix $(CELLS)

.PHONY: testbed
testbed: packages ## run scenarios on two host VMs (SCENARIOS="a b", RESUME=1)
	@$(PY) -m tests.testbed run $(if $(RESUME),--resume) $(if $(SHUFFLE),--shuffle=$(SHUFFLE)) $(SCENARIOS)

.PHONY: testbed-up
testbed-up: packages ## start the two host VMs and leave them running
	@$(PY) -m tests.testbed up

.PHONY: testbed-shell
testbed-shell: ## open a root shell on a running test host (HOST=a or b)
	@$(PY) -m tests.testbed shell $(HOST)

.PHONY: testbed-down
testbed-down: ## stop what testbed-up started
	@$(PY) -m tests.testbed down

.PHONY: bench
bench: packages ## measure the promised speed; writes build/bench/report.json
	@PYTHONPATH=lib $(PY) -m tests.bench

SOAK_ARGS ?=
.PHONY: soak
soak: packages ## try thousands of faults and inputs; writes build/soak/
	@PYTHONPATH=lib $(PY) -m tests.soak $(SOAK_ARGS)

.PHONY: lint
lint: packages ## run every check of tests/lint.sh (tests/lint.sh NAME: one)
	tests/lint.sh

.PHONY: format
format: packages ## let ruff fix and format the sources
	tests/lint.sh --fix

.PHONY: hooks
hooks: packages ## have git run these checks before each commit (pre-commit)
	$(VENV)/bin/pre-commit install

.PHONY: news
news: packages ## move newsfragments/ into CHANGELOG.md, for a release
	$(VENV)/bin/towncrier build --yes --version "$$(sed -n 's/^VERSION = "\(.*\)"$$/\1/p' lib/vfmigrate/version.py)"

.PHONY: install
install: install-library install-host ## install on a host below DESTDIR, for other distributions

.PHONY: install-library
install-library:
	cd lib && find vfmigrate -name '*.py' -exec install -Dpm 0644 {} $(abspath $(DESTDIR)$(SITELIB))/{} \;

# Everything on a host except the library. rpm/vfmigrate.spec installs the library as a wheel and calls this.
.PHONY: install-host
install-host:
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(SBINDIR) $(DESTDIR)$(LIBEXECDIR) $(DESTDIR)$(UNITDIR) $(DESTDIR)$(UDEVRULESDIR)
	printf '#!%s -I\nimport sys\nfrom vfmigrate.daemon.main import main\nsys.exit(main())\n' $(PYTHON3) > $(DESTDIR)$(SBINDIR)/vfmigrated
	printf '#!%s -I\nimport sys\nfrom vfmigrate.cli.main import main\nsys.exit(main())\n' $(PYTHON3) > $(DESTDIR)$(BINDIR)/vfmigrate
	printf '#!%s -I\nimport sys\nfrom vfmigrate.daemon.pci_reader import main\nsys.exit(main())\n' $(PYTHON3) > $(DESTDIR)$(LIBEXECDIR)/vfmigrate-pci
	chmod 0755 $(DESTDIR)$(SBINDIR)/vfmigrated $(DESTDIR)$(BINDIR)/vfmigrate $(DESTDIR)$(LIBEXECDIR)/vfmigrate-pci
	install -Dpm 0755 hooks/qemu $(DESTDIR)$(HOOKDIR)/50-vfmigrate
	install -pm 0644 $(wildcard systemd/*.service systemd/*.socket) $(DESTDIR)$(UNITDIR)/
	$(if $(wildcard udev/*.rules),install -pm 0644 $(wildcard udev/*.rules) $(DESTDIR)$(UDEVRULESDIR)/)
	install -Dpm 0644 systemd/85-vfmigrate.preset $(DESTDIR)$(PRESETDIR)/85-vfmigrate.preset
	install -Dpm 0644 systemd/vfmigrate.tmpfiles $(DESTDIR)$(TMPFILESDIR)/vfmigrate.conf
	install -Dpm 0644 systemd/vfmigrate.conf $(DESTDIR)$(SYSCONFDIR)/vfmigrate/vfmigrate.conf
	install -d $(DESTDIR)$(SYSCONFDIR)/vfmigrate/vfmigrate.conf.d
	install -Dpm 0644 -t $(DESTDIR)$(MANDIR)/man5 man/vfmigrate.conf.5
	install -Dpm 0644 -t $(DESTDIR)$(MANDIR)/man8 man/vfmigrate.8 man/vfmigrated.8
	install -Dpm 0644 -t $(DESTDIR)$(COMPLETIONDIR) completion/vfmigrate completion/vfmigrated
	install -Dpm 0644 -t $(DESTDIR)$(CATALOGDIR) catalog/vfmigrate.catalog

.PHONY: install-vdsm
install-vdsm: ## install the plugin for oVirt's vdsm below DESTDIR
	install -Dpm 0644 -t $(DESTDIR)$(VDSMPLUGINDIR)/vfmigrate_vdsm vdsm_plugin/vfmigrate_vdsm/*.py
	sed 's,/usr/share/vfmigrate/vdsm_plugin,$(VDSMPLUGINDIR),' vdsm_plugin/50_vfmigrate > $(DESTDIR)$(VDSMPLUGINDIR)/50_vfmigrate
	touch -r vdsm_plugin/50_vfmigrate $(DESTDIR)$(VDSMPLUGINDIR)/50_vfmigrate
	for point in $(VDSM_POINTS); do \
		install -Dpm 0755 $(DESTDIR)$(VDSMPLUGINDIR)/50_vfmigrate $(DESTDIR)$(VDSMHOOKSDIR)/$$point/50_vfmigrate || exit 1; \
	done
	rm $(DESTDIR)$(VDSMPLUGINDIR)/50_vfmigrate
	install -Dpm 0644 vdsm_plugin/vdsm.conf $(DESTDIR)$(SYSCONFDIR)/vfmigrate/vfmigrate.conf.d/50-vdsm.conf

# A guest gets this and nothing else; a host gets none of it.
.PHONY: install-guest
install-guest: ## install vfmigrate-guest below DESTDIR
	install -d $(DESTDIR)$(SITELIB)/vfmigrate_guest $(DESTDIR)$(BINDIR)
	install -pm 0644 lib/vfmigrate_guest/*.py $(DESTDIR)$(SITELIB)/vfmigrate_guest/
	printf '#!%s -I\nimport sys\nfrom vfmigrate_guest.cli import main\nsys.exit(main())\n' $(PYTHON3) > $(DESTDIR)$(BINDIR)/vfmigrate-guest
	chmod 0755 $(DESTDIR)$(BINDIR)/vfmigrate-guest
	install -Dpm 0644 -t $(DESTDIR)$(MANDIR)/man8 man/vfmigrate-guest.8
	install -Dpm 0644 -t $(DESTDIR)$(COMPLETIONDIR) completion/vfmigrate-guest

.PHONY: man
man: packages ## write manual pages, completion and catalogue from the code
	PYTHONPATH=lib $(PY) man/write.py

# Debian's tools come from tests/packages.sh; elsewhere rpm/build.sh says what is missing.
ifneq ($(wildcard /etc/debian_version),)
RPM_TOOLS = packages
RPM_OPTIONS = --define "vfmigrate_test_python $(PY)"
endif

.PHONY: srpm
srpm: $(RPM_TOOLS) ## build the source package in build/rpm
	@rpm/build.sh source

.PHONY: rpm
rpm: $(RPM_TOOLS) ## build the packages in build/rpm, with their %check
	@rpm/build.sh all $(RPM_OPTIONS)

# where hosts find the repository
REPO_URL ?= file://$(CURDIR)/build/repo
.PHONY: repo
repo: rpm ## make a repository of the packages (REPO_URL=...)
	@rpm/repo.sh build/repo "$(REPO_URL)" build/rpm/*.noarch.rpm

# pyenv has it on machines whose distribution does not
OLD_PYTHON ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.9.*/bin/python3.9) python3.9)
# tests of what uses the libraries: the unit tests, and the doors against real servers and the kernel
LIBRARY_TESTS = tests/unit --ignore=tests/unit/testbed --ignore=tests/unit/docs/test_manual.py tests/integration/test_ovs.py \
	tests/integration/test_ovs_bridge.py tests/integration/test_devlink_encoding.py tests/integration/test_links.py

.PHONY: floors
floors: ## test with the oldest accepted libraries (OLD_PYTHON=...)
	$(OLD_PYTHON) -m venv --clear build/floors
	build/floors/bin/pip -q install -r tests/floors.txt
	build/floors/bin/python -m pytest -p no:cacheprovider $(LIBRARY_TESTS)

.PHONY: newest
newest: ## test with the newest libraries on PyPI
	$(PY) -m venv --clear build/newest
	build/newest/bin/pip -q install -r tests/newest.txt
	build/newest/bin/python -m pytest -p no:cacheprovider $(LIBRARY_TESTS)

.PHONY: packages
packages:
	@tests/packages.sh

.PHONY: venv
venv: packages ## make the test environment and print its path
	@tests/venv.sh

.PHONY: clean
clean: ## remove what was built in this clone, not the shared cache
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info lib/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
