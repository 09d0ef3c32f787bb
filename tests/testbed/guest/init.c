// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The guest's only program.
 *
 * It gives the NICs that the kernel command line names by MAC (net=MAC=ADDRESS/LENGTH,...) their IPv4 addresses, and
 * writes a tick a second to the console, so that its life can be watched from outside. It never sends a frame by
 * itself. It is one process that starts no other: a fork costs a tenth of a second under two layers of emulation.
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

static char command_line[4096];

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
 * Bring a NIC up that is down, with its address if it has one. A NIC that came anew is down, so this finds those that
 * were unplugged and plugged again. A port of another device (net_failover's, say) has that one's MAC, and no address
 * of its own.
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
		/* the flags were overwritten: they share their place with the address */
		if (ioctl(control, SIOCGIFFLAGS, &request) < 0)
			return;
	}
	request.ifr_flags |= IFF_UP;
	if (ioctl(control, SIOCSIFFLAGS, &request) < 0)
		perror("up");
}

/* Look at every NIC: configure it, and append its state to the tick. */
static void look_at_nics(int control, char *tick, size_t size)
{
	DIR *folder = opendir(NICS);
	struct dirent *entry;

	while (folder && (entry = readdir(folder))) {
		const char *nic = entry->d_name;
		char mac[32], state[32];
		size_t used = strlen(tick);

		if (nic[0] == '.' || !strcmp(nic, "lo") || !has_attribute(nic, "address"))
			continue;
		read_attribute(nic, "address", mac, sizeof(mac));
		configure(control, nic, mac);
		read_attribute(nic, "operstate", state, sizeof(state));
		snprintf(tick + used, size - used, " %s=%s=%s", nic, mac, state);
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
	for (number = 0; ; number++) {
		char tick[1024];
		struct timespec up;

		clock_gettime(CLOCK_BOOTTIME, &up);
		snprintf(tick, sizeof(tick), "TICK %d uptime=%ld.%02ld", number, (long)up.tv_sec, up.tv_nsec / 10000000);
		look_at_nics(control, tick, sizeof(tick));
		/* one write a line, so that nobody sees half of one */
		puts(tick);
		fflush(stdout);
		sleep(1);
	}
}
