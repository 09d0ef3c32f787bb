// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Preloaded into a program, answers VFIO's requests on the files below the directory in FAKE_VFIO (that of the groups and
 * of the container) as the kernel answers them on device nodes.
 *
 * The file of a group or device says how its VF answers, in one line:
 *
 *     ADDRESS MIGRATION-FLAGS LOGS-DMA DATA-SIZE GROUP-FLAGS [REQUEST ERRNO]
 *
 * REQUEST is the number of a request, from VFIO_BASE on, that is refused with ERRNO; a DATA-SIZE of -1 is a driver that
 * has no such feature. The rules are those of drivers/vfio: group.c, container.c, device_cdev.c and vfio_main.c; a group
 * gives its device only after it has a container with an IOMMU, and a device node only after it is bound to IOMMUFD.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/vfio.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* newer than the headers of Debian 11 (Linux 5.10) and EL 9 (5.14) */
#ifndef VFIO_DEVICE_FEATURE_MIGRATION
#define VFIO_DEVICE_FEATURE_MIGRATION 1
#endif
#ifndef VFIO_DEVICE_FEATURE_DMA_LOGGING_START
#define VFIO_DEVICE_FEATURE_DMA_LOGGING_START 6
#endif
#ifndef VFIO_DEVICE_FEATURE_MIG_DATA_SIZE
#define VFIO_DEVICE_FEATURE_MIG_DATA_SIZE 9
#endif
#define BIND_IOMMUFD _IO(VFIO_TYPE, VFIO_BASE + 18)
struct bind_iommufd {
	__u32 argsz;
	__u32 flags;
	__s32 iommufd;
	__u32 out_devid;
};

#define MAX_FD 4096
enum kind { NOTHING, CONTAINER, GROUP, NODE, IOMMUFD };
/* of an open file: has it a container, an IOMMU or an IOMMUFD, or is it a device that the group gave? */
static struct {
	int container;
	int iommu;
	int granted;
} state[MAX_FD];

struct answer {
	char address[32];
	unsigned long long migration;
	int logs;
	long long size;
	unsigned int group;
	unsigned int refused;
	int error;
};

static enum kind kind_of(int fd)
{
	const char *folder = getenv("FAKE_VFIO");
	char link[64], path[PATH_MAX + 1];
	size_t length = folder ? strlen(folder) : 0;
	ssize_t got;

	if (!folder || fd < 0 || fd >= MAX_FD)
		return NOTHING;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	got = readlink(link, path, PATH_MAX);
	if (got <= 0 || path[0] != '/')
		return NOTHING;
	path[got] = '\0';
	if (!strcmp(strrchr(path, '/'), "/iommu"))
		return IOMMUFD;
	if (strncmp(path, folder, length) || path[length] != '/')
		return NOTHING;
	if (!strcmp(path + length, "/vfio"))
		return CONTAINER;
	return strncmp(path + length, "/devices/", 9) ? GROUP : NODE;
}

static int read_answer(int fd, struct answer *answer)
{
	char text[256];
	ssize_t got = pread(fd, text, sizeof(text) - 1, 0);

	memset(answer, 0, sizeof(*answer));
	if (got <= 0)
		return -1;
	text[got] = '\0';
	return sscanf(text, "%31s %llu %d %lld %u %u %d", answer->address, &answer->migration, &answer->logs, &answer->size,
		      &answer->group, &answer->refused, &answer->error) >= 5 ? 0 : -1;
}

static int fail(int error)
{
	errno = error;
	return -1;
}

/* vfio_check_feature(): 1 to go on, 0 for a probe that succeeds */
static int check_feature(const struct vfio_device_feature *feature, __u32 supported, size_t size)
{
	if (feature->flags & (VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET) & ~supported)
		return fail(EINVAL);
	if (feature->flags & VFIO_DEVICE_FEATURE_PROBE)
		return 0;
	if (!(feature->flags & (VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET)))
		return fail(EINVAL);
	return feature->argsz < sizeof(*feature) + size ? fail(EINVAL) : 1;
}

static int give_number(struct vfio_device_feature *feature, __u64 number)
{
	int go_on = check_feature(feature, VFIO_DEVICE_FEATURE_GET, sizeof(number));

	if (go_on == 1)
		memcpy(feature->data, &number, sizeof(number));
	return go_on < 0 ? -1 : 0;
}

static int device_feature(const struct answer *answer, struct vfio_device_feature *feature)
{
	if (feature->argsz < sizeof(*feature))
		return fail(EINVAL);
	switch (feature->flags & VFIO_DEVICE_FEATURE_MASK) {
	case VFIO_DEVICE_FEATURE_MIGRATION:
		return answer->migration ? give_number(feature, answer->migration) : fail(ENOTTY);
	case VFIO_DEVICE_FEATURE_MIG_DATA_SIZE:
		return answer->migration && answer->size >= 0 ? give_number(feature, answer->size) : fail(ENOTTY);
	case VFIO_DEVICE_FEATURE_DMA_LOGGING_START:
		if (!answer->logs)
			return fail(ENOTTY);
		/* nothing but a probe is expected here: it would log the writes of a device without memory */
		return check_feature(feature, VFIO_DEVICE_FEATURE_SET, 0) == 0 ? 0 : fail(EINVAL);
	}
	return fail(ENOTTY);
}

static int device(int fd, const struct answer *answer, unsigned long request, void *argument)
{
	struct bind_iommufd *bind = argument;

	if (request == BIND_IOMMUFD) {
		if (bind->argsz < sizeof(*bind) || bind->flags || kind_of(bind->iommufd) != IOMMUFD)
			return fail(EINVAL);
		state[fd].granted = 1;
		return 0;
	}
	if (!state[fd].granted)
		return fail(EINVAL);
	return request == VFIO_DEVICE_FEATURE ? device_feature(answer, argument) : fail(ENOTTY);
}

static int group(int fd, const struct answer *answer, unsigned long request, void *argument)
{
	struct vfio_group_status *status = argument;
	char link[64];
	int opened, container;

	switch (request) {
	case VFIO_GROUP_GET_STATUS:
		if (status->argsz < sizeof(*status))
			return fail(EINVAL);
		status->flags = answer->group;
		return 0;
	case VFIO_GROUP_SET_CONTAINER:
		container = *(int *)argument;
		if (kind_of(container) != CONTAINER)
			return fail(EINVAL);
		state[fd].container = container;
		state[container].container = fd;
		return 0;
	case VFIO_GROUP_GET_DEVICE_FD:
		if (!state[fd].container || !state[state[fd].container].iommu)
			return fail(EINVAL);
		if (strcmp(argument, answer->address))
			return fail(ENODEV);
		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		opened = open(link, O_RDWR | O_CLOEXEC);
		if (opened >= 0 && opened < MAX_FD)
			state[opened].granted = 1;
		return opened;
	}
	return fail(ENOTTY);
}

int ioctl(int fd, unsigned long request, ...)
{
	static int (*real)(int, unsigned long, ...);
	enum kind kind = kind_of(fd);
	struct answer answer;
	va_list arguments;
	void *argument;

	va_start(arguments, request);
	argument = va_arg(arguments, void *);
	va_end(arguments);
	request = (unsigned int)request;
	if (kind == CONTAINER) {
		if (request != VFIO_SET_IOMMU || !state[fd].container || (long)argument != VFIO_TYPE1v2_IOMMU)
			return fail(EINVAL);
		state[fd].iommu = 1;
		return 0;
	}
	if (kind == GROUP || kind == NODE) {
		if (read_answer(fd, &answer))
			return fail(ENODEV);
		if (answer.error && answer.refused == request - _IO(VFIO_TYPE, VFIO_BASE))
			return fail(answer.error);
		if (kind == NODE || state[fd].granted)
			return device(fd, &answer, request, argument);
		return group(fd, &answer, request, argument);
	}
	if (!real)
		real = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
	return real(fd, request, argument);
}

int close(int fd)
{
	static int (*real)(int);

	if (!real)
		real = (int (*)(int))dlsym(RTLD_NEXT, "close");
	if (fd >= 0 && fd < MAX_FD)
		memset(&state[fd], 0, sizeof(state[fd]));
	return real(fd);
}
