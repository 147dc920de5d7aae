/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "transport/ssh2in.h"

enum {
	FDS_MAX = 16,         /* no further one, and poll() may name those that are there */
	STDERR_MAX = 1 << 20, /* what a host can make standard error grow to */
	MEMORY_MAX = 512u << 20,
};

static void limit(int resource, rlim_t n)
{
	const struct rlimit r = {.rlim_cur = n, .rlim_max = n};

	(void)setrlimit(resource, &r);
}

/* What libssh2, libcrypto and the loop over three descriptors need; nothing that names a file, a program or
 * an address. */
static const int allowed[] = {
	SCMP_SYS(read),
	SCMP_SYS(write),
	SCMP_SYS(readv),
	SCMP_SYS(writev),
	SCMP_SYS(recvfrom),
	SCMP_SYS(sendto),
	SCMP_SYS(recvmsg),
	SCMP_SYS(sendmsg),
	SCMP_SYS(poll),
	SCMP_SYS(ppoll),
	SCMP_SYS(select),
	SCMP_SYS(pselect6),
	SCMP_SYS(close),
	SCMP_SYS(shutdown),
	SCMP_SYS(fcntl),
	SCMP_SYS(fstat),
	SCMP_SYS(lseek),
	SCMP_SYS(futex),
	SCMP_SYS(munmap),
	SCMP_SYS(mremap),
	SCMP_SYS(madvise),
	SCMP_SYS(brk),
	SCMP_SYS(getpid),
	SCMP_SYS(gettid),
	SCMP_SYS(clock_gettime),
	SCMP_SYS(clock_nanosleep),
	SCMP_SYS(nanosleep),
	SCMP_SYS(gettimeofday),
	SCMP_SYS(time),
	SCMP_SYS(getrandom),
	SCMP_SYS(alarm),
	SCMP_SYS(setitimer),
	SCMP_SYS(rt_sigaction),
	SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn),
	SCMP_SYS(sigaltstack),
	SCMP_SYS(restart_syscall),
	SCMP_SYS(exit),
	SCMP_SYS(exit_group),
	SCMP_SYS(sched_yield),
	SCMP_SYS(getsockopt),
};

static void allow_memory(scmp_filter_ctx filter, int call)
{
	/* Memory, but none that could be run. */
	(void)seccomp_rule_add(filter, SCMP_ACT_ALLOW, call, 1,
			       SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
}

/* Refusals are errors, not death: a library that asks for more than it needs goes on without. */
static void filter_calls(void)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));

	if (!filter)
		return;
	for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++)
		(void)seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
	allow_memory(filter, SCMP_SYS(mmap));
	allow_memory(filter, SCMP_SYS(mprotect));
	/* A kernel without seccomp has the limits above alone. */
	(void)seccomp_load(filter);
	seccomp_release(filter);
}

void ssh2_jail(void)
{
	(void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	(void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	limit(RLIMIT_CORE, 0);
	limit(RLIMIT_NPROC, 0);
	limit(RLIMIT_NOFILE, FDS_MAX);
	limit(RLIMIT_FSIZE, STDERR_MAX);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	limit(RLIMIT_DATA, MEMORY_MAX);
#endif
	filter_calls();
}
