// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Preloaded into a program, this adds to the PF's network device what only an
 * SR-IOV driver provides: MAC and VLAN of its VFs in rtnetlink. FAKE_RTNL names
 * the Unix socket of the process that simulates the card (vf_netlink.py).
 *
 * A request to the kernel that concerns VFs is sent there first:
 *
 * - RTM_SETLINK with IFLA_VFINFO_LIST: if the card accepts the change, the
 *   kernel gets the request without that list and acknowledges it; if not, the
 *   kernel gets the unchanged request and refuses it (EOPNOTSUPP), because its
 *   device has no VFs.
 * - RTM_GETLINK that requests VFs: the card's list is added to the answer.
 *
 * Acknowledgements and sequence numbers are always those of the kernel.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MAX_FD 4096
#define MAX_LIST 8192

/* What to add to the next answer on a descriptor: an IFLA_VFINFO_LIST. */
static struct {
	char *list;
	size_t length;
} pending[MAX_FD];

/* Send a request to the card; returns the length of its answer, -1 for none. */
static ssize_t ask_card(const void *request, size_t length, void *answer)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const char *path = getenv("FAKE_RTNL");
	ssize_t got = -1;
	int fd;

	if (!path || strlen(path) >= sizeof(address.sun_path))
		return -1;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	if (!connect(fd, (struct sockaddr *)&address, sizeof(address)) &&
	    send(fd, request, length, MSG_NOSIGNAL) == (ssize_t)length)
		got = recv(fd, answer, MAX_LIST, 0);
	close(fd);
	return got;
}

/* Find an attribute of a link message; NULL when it has none of this type. */
static struct rtattr *find(struct nlmsghdr *header, unsigned short type)
{
	struct ifinfomsg *link = NLMSG_DATA(header);
	int left = IFLA_PAYLOAD(header);

	for (struct rtattr *attribute = IFLA_RTA(link); RTA_OK(attribute, left);
	     attribute = RTA_NEXT(attribute, left))
		if ((attribute->rta_type & NLA_TYPE_MASK) == type)
			return attribute;
	return NULL;
}

static void set_pending(int fd, const char *list, ssize_t length)
{
	free(pending[fd].list);
	pending[fd].list = NULL;
	if (length <= 0)
		return;
	pending[fd].list = malloc(length);
	pending[fd].length = length;
	memcpy(pending[fd].list, list, length);
}

/* Whether this is one whole netlink message from a netlink socket. */
static int is_link_request(int fd, const struct msghdr *message)
{
	const struct nlmsghdr *header;
	int domain;
	socklen_t size = sizeof(domain);

	if (!getenv("FAKE_RTNL") || fd < 0 || fd >= MAX_FD || message->msg_iovlen != 1 ||
	    message->msg_iov[0].iov_len < NLMSG_LENGTH(sizeof(struct ifinfomsg)))
		return 0;
	header = message->msg_iov[0].iov_base;
	if (header->nlmsg_len != message->msg_iov[0].iov_len ||
	    (header->nlmsg_type != RTM_SETLINK && header->nlmsg_type != RTM_GETLINK))
		return 0;
	return !getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) && domain == AF_NETLINK;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	static ssize_t (*real)(int, const struct msghdr *, int);
	struct msghdr changed = *message;
	struct nlmsghdr *header;
	struct rtattr *attribute;
	char answer[MAX_LIST];
	struct iovec part;
	ssize_t length;

	if (!real)
		real = dlsym(RTLD_NEXT, "sendmsg");
	if (!is_link_request(fd, message))
		return real(fd, message, flags);
	header = message->msg_iov[0].iov_base;
	if (header->nlmsg_type == RTM_GETLINK) {
		attribute = find(header, IFLA_EXT_MASK);
		length = attribute ? ask_card(header, header->nlmsg_len, answer) : 0;
		set_pending(fd, answer, length);
		return real(fd, message, flags);
	}
	attribute = find(header, IFLA_VFINFO_LIST);
	if (!attribute || ask_card(header, header->nlmsg_len, answer) <= 0)
		return real(fd, message, flags);
	/* The card accepted it. libvirt puts the list last: the kernel gets what precedes it. */
	part.iov_base = memcpy(answer, header, (char *)attribute - (char *)header);
	part.iov_len = (char *)attribute - (char *)header;
	((struct nlmsghdr *)answer)->nlmsg_len = part.iov_len;
	changed.msg_iov = &part;
	length = real(fd, &changed, flags);
	return length < 0 ? length : (ssize_t)header->nlmsg_len;
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
	static ssize_t (*real)(int, struct msghdr *, int);
	struct nlmsghdr *header;
	ssize_t length, total;

	if (!real)
		real = dlsym(RTLD_NEXT, "recvmsg");
	length = real(fd, message, flags);
	if (length < (ssize_t)sizeof(*header) || fd < 0 || fd >= MAX_FD || !pending[fd].list)
		return length;
	header = message->msg_iov[0].iov_base;
	if (header->nlmsg_type != RTM_NEWLINK)
		return length;
	total = NLMSG_ALIGN(length) + pending[fd].length;
	if (total <= (ssize_t)message->msg_iov[0].iov_len) {
		memcpy((char *)header + NLMSG_ALIGN(length), pending[fd].list, pending[fd].length);
		header->nlmsg_len = total;
	} else {
		message->msg_flags |= MSG_TRUNC;
	}
	if (!(flags & MSG_PEEK))
		set_pending(fd, NULL, 0);
	return total;
}
