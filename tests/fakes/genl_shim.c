// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Preloaded into a program, this turns its NETLINK_GENERIC sockets into Unix
 * SEQPACKET sockets connected to the path in FAKE_GENL, where devlink_server.py
 * answers in place of the kernel. Other sockets are not changed, and none is
 * when FAKE_GENL is not set.
 *
 * The program does not see the difference: addresses that it passes are
 * dropped, addresses that it reads are netlink's, and options of SOL_NETLINK
 * are sent to the server as a packet of their own (type 0xffff, which netlink
 * does not use).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MAX_FD 4096
#define SET_OPTION 0xffff

static unsigned char faked[MAX_FD];

#define REAL(result, name, ...)                                       \
	static result (*real)(__VA_ARGS__);                           \
	if (!real)                                                    \
		real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static int is_faked(int fd)
{
	return fd >= 0 && fd < MAX_FD && faked[fd];
}

/* Return the address of the kernel (port 0), or the program's own. */
static void give_address(struct sockaddr *address, socklen_t *length, unsigned int port)
{
	struct sockaddr_nl netlink = { .nl_family = AF_NETLINK, .nl_pid = port };

	if (!address || !length)
		return;
	memcpy(address, &netlink, *length < sizeof(netlink) ? *length : sizeof(netlink));
	*length = sizeof(netlink);
}

static int connect_fake(int fd, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (fd >= MAX_FD || strlen(path) >= sizeof(address.sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(address.sun_path, path);
	return connect(fd, (struct sockaddr *)&address, sizeof(address));
}

int socket(int domain, int type, int protocol)
{
	REAL(int, "socket", int, int, int);
	const char *path = getenv("FAKE_GENL");
	int fd;

	if (domain != AF_NETLINK || protocol != NETLINK_GENERIC || !path)
		return real(domain, type, protocol);
	fd = real(AF_UNIX, SOCK_SEQPACKET | (type & (SOCK_CLOEXEC | SOCK_NONBLOCK)), 0);
	if (fd < 0)
		return fd;
	if (connect_fake(fd, path)) {
		close(fd);
		errno = EPROTONOSUPPORT; /* as a kernel without generic netlink */
		return -1;
	}
	faked[fd] = 1;
	return fd;
}

int close(int fd)
{
	REAL(int, "close", int);

	if (is_faked(fd))
		faked[fd] = 0;
	return real(fd);
}

int bind(int fd, const struct sockaddr *address, socklen_t length)
{
	REAL(int, "bind", int, const struct sockaddr *, socklen_t);

	return is_faked(fd) ? 0 : real(fd, address, length);
}

int getsockname(int fd, struct sockaddr *address, socklen_t *length)
{
	REAL(int, "getsockname", int, struct sockaddr *, socklen_t *);

	if (!is_faked(fd))
		return real(fd, address, length);
	give_address(address, length, getpid());
	return 0;
}

int setsockopt(int fd, int level, int option, const void *value, socklen_t length)
{
	REAL(int, "setsockopt", int, int, int, const void *, socklen_t);
	struct {
		struct nlmsghdr header;
		int option;
		int value;
	} told = { { .nlmsg_len = sizeof(told), .nlmsg_type = SET_OPTION }, option, 0 };

	if (!is_faked(fd) || level != SOL_NETLINK)
		return real(fd, level, option, value, length);
	if (length >= sizeof(told.value))
		memcpy(&told.value, value, sizeof(told.value));
	return write(fd, &told, sizeof(told)) == sizeof(told) ? 0 : -1;
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *address, socklen_t length)
{
	REAL(ssize_t, "sendto", int, const void *, size_t, int, const struct sockaddr *, socklen_t);

	if (!is_faked(fd))
		return real(fd, data, size, flags, address, length);
	return real(fd, data, size, flags | MSG_NOSIGNAL, NULL, 0);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	REAL(ssize_t, "sendmsg", int, const struct msghdr *, int);
	struct msghdr unaddressed = *message;

	if (!is_faked(fd))
		return real(fd, message, flags);
	unaddressed.msg_name = NULL;
	unaddressed.msg_namelen = 0;
	return real(fd, &unaddressed, flags | MSG_NOSIGNAL);
}

ssize_t recvfrom(int fd, void *data, size_t size, int flags, struct sockaddr *address, socklen_t *length)
{
	REAL(ssize_t, "recvfrom", int, void *, size_t, int, struct sockaddr *, socklen_t *);
	ssize_t got;

	if (!is_faked(fd))
		return real(fd, data, size, flags, address, length);
	got = real(fd, data, size, flags, NULL, NULL);
	give_address(address, length, 0);
	return got;
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
	REAL(ssize_t, "recvmsg", int, struct msghdr *, int);
	struct sockaddr *address = message->msg_name;
	socklen_t length = message->msg_namelen;
	ssize_t got;

	if (!is_faked(fd))
		return real(fd, message, flags);
	message->msg_name = NULL;
	message->msg_namelen = 0;
	got = real(fd, message, flags);
	give_address(address, &length, 0);
	message->msg_name = address;
	message->msg_namelen = address ? length : 0;
	return got;
}
