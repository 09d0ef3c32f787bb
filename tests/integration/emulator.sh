#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# What libvirt runs as <emulator> where there is no VFIO hardware: QEMU, with each VFIO device replaced by an emulated
# NIC at the same guest address. libvirt does all its work on the VF, and QEMU's migration is real; only the VF's own
# state is not. Two things are kept up for whoever looks from outside: the VF's VFIO group is held open as long as the
# guest runs, and a guest whose device cannot be loaded (/run/emulator/unmigratable exists) fails as a VF without
# migration support does, at the end of the incoming migration. /run/emulator/ballast, where it exists, is put into the
# guest's memory, so that there is something to copy when it migrates. Where VFs are to be plugged into running guests
# (/run/emulator/hotplug exists), QEMU's monitor is led through monitor_proxy.py, which replaces devices there, and ports
# are of the kind that lets go of a device in a guest that runs no code.
replacement='"driver":"e1000e","romfile":""'
[ -e /run/emulator/unmigratable ] && replacement='"driver":"e1000","romfile":""'
hotplug=()
guest=
for word; do
    shift
    if [[ -e /run/emulator/hotplug && $word =~ ^socket,id=charmonitor,fd=([0-9]+), ]]; then
        monitor=/run/emulator/monitor-$$
        /usr/bin/python3 -I /usr/local/lib/monitor_proxy.py "${BASH_REMATCH[1]}" "$monitor" $$ < /dev/null &
        word="socket,id=charmonitor,path=$monitor,server=on,wait=off"
        hotplug=(-global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off)
    fi
    [[ $word == guest=* ]] && guest=$word
    if [[ $word =~ '"driver":"vfio-pci","host":"'([0-9a-f:.]+)'"' ]]; then
        group=$(readlink "/sys/bus/pci/devices/${BASH_REMATCH[1]}/iommu_group")
        # shellcheck disable=SC2034 # the descriptor is for QEMU to inherit
        exec {held}<"/dev/vfio/${group##*/}"
        word=${word/"${BASH_REMATCH[0]}"/"$replacement"}
    fi
    set -- "$@" "$word"
done
# Without a name it is not a guest, but libvirt asking what QEMU can do: there is no memory then to put it into.
[[ -n $guest && -e /run/emulator/ballast ]] &&
    set -- "$@" -device loader,file=/run/emulator/ballast,addr=0x400000,force-raw=on
exec /usr/bin/qemu-system-x86_64 "$@" "${hotplug[@]}"
