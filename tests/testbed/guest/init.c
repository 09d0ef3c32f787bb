// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The guest's only program.
 *
 * It gives the NICs that the kernel command line names by MAC (net=MAC=ADDRESS/LENGTH,...) their IPv4 addresses. Every
 * second it writes a tick to the console, which shows the test bed that the guest runs, and then the state of its NICs,
 * which takes seconds on a host where the guest has just arrived. It sends frames only in reply. It is one process,
 * because a fork takes a tenth of a second under two layers of emulation; with churn=MIB, a second process writes that
 * much memory over and over.
 *
 * bond=PRIMARY,OTHER,ADDRESS/LENGTH (MACs) makes an active-backup bond of two NICs, which keep their MACs. A port that is
 * plugged in again is added to the bond again.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <limits.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NICS "/sys/class/net"
#define MAC_LENGTH 17
#define BOND "bond0"
#define PAGE 4096

static char command_line[4096];

/* The bond to make: its ports' MACs, the primary first; there is none when the length is 0. */
static struct {
	char ports[2][MAC_LENGTH + 1];
	struct in_addr address;
	int length;
} bond;

/* The first word of a file below a NIC's directory; empty when there is no such file. */
static void read_attribute(const char *nic, const char *name, char *value, size_t size)
{
	char path[sizeof(NICS) + 2 * (NAME_MAX + 1)];
	FILE *file;

	value[0] = '\0';
	snprintf(path, sizeof(path), NICS "/%s/%s", nic, name);
	file = fopen(path, "r");
	if (!file)
		return;
	if (fgets(value, size, file))
		value[strcspn(value, " \n")] = '\0';
	fclose(file);
}

static bool has_attribute(const char *nic, const char *name)
{
	char path[sizeof(NICS) + 2 * (NAME_MAX + 1)];

	snprintf(path, sizeof(path), NICS "/%s/%s", nic, name);
	return access(path, F_OK) == 0;
}

/* The address and prefix length that the command line has for a MAC; false when it has none. */
static bool wanted_address(const char *mac, struct in_addr *address, int *length)
{
	const char *entry = strstr(command_line, mac);
	char text[INET_ADDRSTRLEN];

	if (!entry || sscanf(entry + MAC_LENGTH, "=%15[0-9.]/%d", text, length) != 2)
		return false;
	return inet_pton(AF_INET, text, address) == 1 && *length > 0 && *length <= 32;
}

static void set_address(int control, struct ifreq *request, struct in_addr address, int length)
{
	struct sockaddr_in *slot = (struct sockaddr_in *)&request->ifr_addr;

	memset(slot, 0, sizeof(*slot));
	slot->sin_family = AF_INET;
	slot->sin_addr = address;
	if (ioctl(control, SIOCSIFADDR, request) < 0)
		perror("address");
	slot->sin_addr.s_addr = htonl(~0U << (32 - length));
	if (ioctl(control, SIOCSIFNETMASK, request) < 0)
		perror("netmask");
}

/*
 * Bring a NIC up that is down, with its address if it has one. A NIC that was plugged in again is down, so this finds it.
 * A port of another device (of net_failover's, for instance) has that device's MAC, and no address.
 */
static void configure(int control, const char *nic, const char *mac)
{
	struct ifreq request;
	struct in_addr address;
	int length;

	memset(&request, 0, sizeof(request));
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%.15s", nic);
	if (ioctl(control, SIOCGIFFLAGS, &request) < 0 || request.ifr_flags & IFF_UP)
		return;
	if (!has_attribute(nic, "master") && wanted_address(mac, &address, &length)) {
		set_address(control, &request, address, length);
		/* the flags and the address share a union */
		if (ioctl(control, SIOCGIFFLAGS, &request) < 0)
			return;
	}
	request.ifr_flags |= IFF_UP;
	if (ioctl(control, SIOCSIFFLAGS, &request) < 0)
		perror("up");
}

static void write_attribute(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");

	if (!file || fputs(text, file) < 0 || fflush(file) < 0)
		perror(path);
	if (file)
		fclose(file);
}

/* Make the bond, without ports; its settings can be changed while it is down. */
static void make_bond(int control)
{
	struct ifreq request;

	write_attribute(NICS "/bonding_masters", "+" BOND);
	write_attribute(NICS "/" BOND "/bonding/mode", "active-backup");
	write_attribute(NICS "/" BOND "/bonding/fail_over_mac", "active");
	write_attribute(NICS "/" BOND "/bonding/miimon", "50");
	memset(&request, 0, sizeof(request));
	strcpy(request.ifr_name, BOND);
	set_address(control, &request, bond.address, bond.length);
	if (ioctl(control, SIOCGIFFLAGS, &request) < 0)
		return;
	request.ifr_flags |= IFF_UP;
	if (ioctl(control, SIOCSIFFLAGS, &request) < 0)
		perror("up");
}

/* Put a NIC into the bond if it is one of its ports and not in it; the bond brings it up. */
static bool joined(const char *nic, const char *mac)
{
	char name[NAME_MAX + 2];
	bool primary = !strcmp(mac, bond.ports[0]);

	if (!bond.length || !strcmp(nic, BOND) || (!primary && strcmp(mac, bond.ports[1])))
		return false;
	if (!has_attribute(nic, "master")) {
		snprintf(name, sizeof(name), "+%s", nic);
		write_attribute(NICS "/" BOND "/bonding/slaves", name);
		if (primary)
			write_attribute(NICS "/" BOND "/bonding/primary", nic);
	}
	return true;
}

static void read_bond(void)
{
	const char *entry = strstr(command_line, "bond=");
	char text[INET_ADDRSTRLEN];

	if (!entry || sscanf(entry, "bond=%17[0-9a-f:],%17[0-9a-f:],%15[0-9.]/%d", bond.ports[0], bond.ports[1], text,
			     &bond.length) != 4 || inet_pton(AF_INET, text, &bond.address) != 1)
		bond.length = 0;
}

/* Write memory forever, page by page, so that every page is written many times a second. */
static void churn(void)
{
	const char *entry = strstr(command_line, "churn=");
	size_t size = entry ? strtoul(entry + strlen("churn="), NULL, 10) << 20 : 0;
	volatile char *memory;
	size_t at;
	char number;

	if (!size || fork() != 0)
		return;
	nice(10);
	memory = malloc(size);
	for (number = 1; memory; number++)
		for (at = 0; at < size; at += PAGE)
			memory[at] = number;
	_exit(1);
}

/* Look at every NIC: configure it, and append its state to the line. */
static void look_at_nics(int control, char *line, size_t size)
{
	DIR *folder = opendir(NICS);
	struct dirent *entry;

	while (folder && (entry = readdir(folder))) {
		const char *nic = entry->d_name;
		char mac[32], state[32];
		size_t used = strlen(line);

		if (nic[0] == '.' || !strcmp(nic, "lo") || !has_attribute(nic, "address"))
			continue;
		read_attribute(nic, "address", mac, sizeof(mac));
		if (!joined(nic, mac))
			configure(control, nic, mac);
		read_attribute(nic, "operstate", state, sizeof(state));
		snprintf(line + used, size - used, " %s=%s=%s", nic, mac, state);
	}
	if (folder)
		closedir(folder);
}

static void read_command_line(void)
{
	FILE *file = fopen("/proc/cmdline", "r");

	if (!file)
		return;
	if (!fgets(command_line, sizeof(command_line), file))
		command_line[0] = '\0';
	fclose(file);
}

int main(void)
{
	int control, number;

	mount("proc", "/proc", "proc", 0, NULL);
	mount("sys", "/sys", "sysfs", 0, NULL);
	read_command_line();
	puts("GUEST-UP");
	control = socket(AF_INET, SOCK_DGRAM, 0);
	read_bond();
	if (bond.length)
		make_bond(control);
	churn();
	for (number = 0; ; number++) {
		char line[1024], active[32] = "";
		struct timespec up;

		/* one write for each line, so that nobody reads half of one */
		clock_gettime(CLOCK_BOOTTIME, &up);
		printf("TICK %d uptime=%ld.%02ld\n", number, (long)up.tv_sec, up.tv_nsec / 10000000);
		fflush(stdout);
		snprintf(line, sizeof(line), "NICS %d", number);
		look_at_nics(control, line, sizeof(line));
		if (bond.length)
			read_attribute(BOND, "bonding/active_slave", active, sizeof(active));
		if (active[0])
			snprintf(line + strlen(line), sizeof(line) - strlen(line), " active=%s", active);
		puts(line);
		fflush(stdout);
		sleep(1);
	}
}
