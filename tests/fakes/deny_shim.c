// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Preloaded into a program, this denies it paths as SELinux does: calls with a
 * path that begins with a line of the file DENY fail with EACCES, for root
 * too. The file is read at each call, so that it can change meanwhile; nothing
 * is denied while it is empty or missing.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/un.h>
#include <unistd.h>

#define REAL(result, name, ...)                                       \
	static result (*real)(__VA_ARGS__);                           \
	if (!real)                                                    \
		real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static int is_denied(const char *path)
{
	const char *file = getenv("DENY");
	char text[1024];
	char *line, *rest;
	ssize_t size;
	int fd;

	if (!file || !path || path[0] != '/')
		return 0;
	fd = (int)syscall(SYS_openat, AT_FDCWD, file, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	size = syscall(SYS_read, fd, text, sizeof(text) - 1);
	syscall(SYS_close, fd);
	if (size <= 0)
		return 0;
	text[size] = 0;
	for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
		if (!strncmp(path, line, strlen(line))) {
			errno = EACCES;
			return 1;
		}
	return 0;
}

#define OPEN(symbol)                                                  \
	int symbol(const char *path, int flags, ...)                  \
	{                                                             \
		REAL(int, #symbol, const char *, int, ...);           \
		mode_t mode = 0;                                      \
		va_list more;                                         \
		if (flags & (O_CREAT | O_TMPFILE)) {                  \
			va_start(more, flags);                        \
			mode = va_arg(more, mode_t);                  \
			va_end(more);                                 \
		}                                                     \
		return is_denied(path) ? -1 : real(path, flags, mode); \
	}
OPEN(open)
OPEN(open64)

#define OPENAT(symbol)                                                \
	int symbol(int at, const char *path, int flags, ...)          \
	{                                                             \
		REAL(int, #symbol, int, const char *, int, ...);      \
		mode_t mode = 0;                                      \
		va_list more;                                         \
		if (flags & (O_CREAT | O_TMPFILE)) {                  \
			va_start(more, flags);                        \
			mode = va_arg(more, mode_t);                  \
			va_end(more);                                 \
		}                                                     \
		return is_denied(path) ? -1 : real(at, path, flags, mode); \
	}
OPENAT(openat)
OPENAT(openat64)

#define STAT(symbol, kind)                                            \
	int symbol(const char *restrict path, struct kind *restrict status) \
	{                                                             \
		REAL(int, #symbol, const char *, struct kind *);      \
		return is_denied(path) ? -1 : real(path, status);     \
	}
STAT(stat, stat)
STAT(lstat, stat)
STAT(stat64, stat64)
STAT(lstat64, stat64)

#define STATAT(symbol, kind)                                          \
	int symbol(int at, const char *restrict path, struct kind *restrict status, int flags) \
	{                                                             \
		REAL(int, #symbol, int, const char *, struct kind *, int); \
		return is_denied(path) ? -1 : real(at, path, status, flags); \
	}
STATAT(fstatat, stat)
STATAT(fstatat64, stat64)

ssize_t readlink(const char *restrict path, char *restrict buffer, size_t size)
{
	REAL(ssize_t, "readlink", const char *, char *, size_t);
	return is_denied(path) ? -1 : real(path, buffer, size);
}

ssize_t readlinkat(int at, const char *restrict path, char *restrict buffer, size_t size)
{
	REAL(ssize_t, "readlinkat", int, const char *, char *, size_t);
	return is_denied(path) ? -1 : real(at, path, buffer, size);
}

DIR *opendir(const char *path)
{
	REAL(DIR *, "opendir", const char *);
	return is_denied(path) ? NULL : real(path);
}

int connect(int fd, const struct sockaddr *address, socklen_t length)
{
	REAL(int, "connect", int, const struct sockaddr *, socklen_t);
	const struct sockaddr_un *name = (const struct sockaddr_un *)address;

	if (address->sa_family == AF_UNIX && length > offsetof(struct sockaddr_un, sun_path) && is_denied(name->sun_path))
		return -1;
	return real(fd, address, length);
}
