// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Preloaded into a program, this kills it with SIGKILL before its nth system call that writes, whichever thread makes
 * the call.
 *
 * KILL_AT names a file that is mapped. It holds two numbers of 64 bits: how many such calls were made, and the number of
 * the call before which the program is killed (0: never). Both can be changed from outside while the program runs. The
 * kernel traps the calls (seccomp(2), SECCOMP_RET_TRAP), so none is missed as it could be by the names of library
 * functions. The handler repeats a trapped call with one instruction, which the filter exempts by its address. x86-64
 * only. A program that is executed from here would inherit the filter without the handler, and be killed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

struct counter {
	uint64_t calls;
	uint64_t die_at;
};

static struct counter *counter;

/* System calls that change something outside of the process. Opening a file is one if it can create or empty it. */
static const unsigned int writing[] = {
	SYS_write, SYS_pwrite64, SYS_writev, SYS_pwritev, SYS_pwritev2, SYS_sendto, SYS_sendmsg, SYS_sendmmsg,
	SYS_sendfile, SYS_splice, SYS_copy_file_range, SYS_creat, SYS_truncate, SYS_ftruncate, SYS_fallocate,
	SYS_rename, SYS_renameat, SYS_renameat2, SYS_link, SYS_linkat, SYS_symlink, SYS_symlinkat, SYS_unlink,
	SYS_unlinkat, SYS_mkdir, SYS_mkdirat, SYS_rmdir, SYS_mknod, SYS_mknodat, SYS_chmod, SYS_fchmod,
	SYS_fchmodat, SYS_chown, SYS_fchown, SYS_lchown, SYS_fchownat, SYS_utimensat, SYS_setxattr, SYS_fsetxattr,
};
#define WRITING (sizeof(writing) / sizeof(writing[0]))

/* kill_shim_call(number, arguments[6]) makes the raw system call, which returns to the address kill_shim_made. */
extern char kill_shim_made[];
long kill_shim_call(long number, const greg_t *arguments);
__asm__(".text\n"
	".globl kill_shim_call\n"
	"kill_shim_call:\n"
	"	mov %rdi, %rax\n"
	"	mov %rsi, %r11\n"
	"	mov 0(%r11), %rdi\n"
	"	mov 8(%r11), %rsi\n"
	"	mov 16(%r11), %rdx\n"
	"	mov 24(%r11), %r10\n"
	"	mov 32(%r11), %r8\n"
	"	mov 40(%r11), %r9\n"
	"	syscall\n"
	".globl kill_shim_made\n"
	"kill_shim_made:\n"
	"	ret\n");

static void on_write(int number, siginfo_t *info, void *context)
{
	greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
	greg_t arguments[6] = {
		registers[REG_RDI], registers[REG_RSI], registers[REG_RDX],
		registers[REG_R10], registers[REG_R8], registers[REG_R9],
	};

	(void)number;
	if (__atomic_add_fetch(&counter->calls, 1, __ATOMIC_SEQ_CST) == counter->die_at)
		kill(getpid(), SIGKILL);
	registers[REG_RAX] = kill_shim_call(info->si_syscall, arguments);
}

static void add(struct sock_filter *program, unsigned short *length, struct sock_filter statement)
{
	program[(*length)++] = statement;
}

#define LOAD(member) \
	(struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (unsigned int)offsetof(struct seccomp_data, member))
#define LOAD_HIGH(member) \
	(struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (unsigned int)offsetof(struct seccomp_data, member) + 4)
#define RETURN(what) (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, what)
#define IF_EQUAL(value, yes, no) (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)
#define IF_ANY(bits, yes, no) (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bits, yes, no)

static int install_filter(void)
{
	struct sock_filter program[WRITING * 2 + 32];
	struct sock_fprog whole = { .filter = program };
	uint64_t exempt = (uint64_t)kill_shim_made;
	unsigned short length = 0;
	size_t each;

	add(program, &length, LOAD(arch));
	add(program, &length, IF_EQUAL(AUDIT_ARCH_X86_64, 1, 0));
	add(program, &length, RETURN(SECCOMP_RET_ALLOW));
	add(program, &length, LOAD(instruction_pointer));
	add(program, &length, IF_EQUAL((uint32_t)exempt, 0, 3));
	add(program, &length, LOAD_HIGH(instruction_pointer));
	add(program, &length, IF_EQUAL((uint32_t)(exempt >> 32), 0, 1));
	add(program, &length, RETURN(SECCOMP_RET_ALLOW));
	add(program, &length, LOAD(nr));
	for (each = 0; each < WRITING; each++) {
		add(program, &length, IF_EQUAL(writing[each], 0, 1));
		add(program, &length, RETURN(SECCOMP_RET_TRAP));
	}
	add(program, &length, IF_EQUAL(SYS_openat, 0, 3));
	add(program, &length, LOAD(args[2]));
	add(program, &length, IF_ANY(O_CREAT | O_TRUNC, 0, 1));
	add(program, &length, RETURN(SECCOMP_RET_TRAP));
	add(program, &length, LOAD(nr));
	add(program, &length, IF_EQUAL(SYS_open, 0, 3));
	add(program, &length, LOAD(args[1]));
	add(program, &length, IF_ANY(O_CREAT | O_TRUNC, 0, 1));
	add(program, &length, RETURN(SECCOMP_RET_TRAP));
	add(program, &length, RETURN(SECCOMP_RET_ALLOW));
	whole.len = length;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -1;
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &whole);
}

__attribute__((constructor)) static void set_up(void)
{
	const char *path = getenv("KILL_AT");
	struct sigaction action = { .sa_sigaction = on_write, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART };
	int file;

	if (!path)
		return;
	file = open(path, O_RDWR | O_CLOEXEC);
	if (file < 0)
		_exit(126);
	counter = mmap(NULL, sizeof(*counter), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	close(file);
	if (counter == MAP_FAILED || sigaction(SIGSYS, &action, NULL) || install_filter())
		_exit(126);
}
