#include "prog/privileges.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"

/* More is of no use, and a limit of "unlimited" makes some programs loop over all of them. */
#define FILES_MAX 65536

static uint64_t bit(int cap)
{
	return UINT64_C(1) << cap;
}

static int restrict_to(uint64_t keep)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &head, data) < 0)
		return -errno;
	/* The bounding set first: that takes CAP_SETPCAP. Where it is not there (EPERM), no_new_privs says the same. */
	for (int cap = 0; cap <= CAP_LAST_CAP; cap++)
		if (!(keep & bit(cap)))
			prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	for (int i = 0; i < 2; i++) {
		data[i].effective &= (uint32_t)(keep >> (32 * i));
		data[i].permitted &= (uint32_t)(keep >> (32 * i));
		data[i].inheritable = 0;
	}
	return syscall(SYS_capset, &head, data) < 0 ? -errno : 0;
}

void privileges_drop(bool with_listener)
{
	uint64_t keep = bit(CAP_SYS_ADMIN) | bit(CAP_DAC_OVERRIDE) | bit(CAP_DAC_READ_SEARCH) | bit(CAP_SYS_PTRACE);
	int err;

	if (geteuid() != 0)
		return;
	if (with_listener)
		keep |= bit(CAP_NET_BIND_SERVICE);
	err = restrict_to(keep);
	if (!err && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		err = -errno;
	if (err)
		log_warn("privileges_kept", "error=\"%s\" do=\"litefwd goes on with all that it has\"", strerror(-err));
}

void privileges_raise_files(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= FILES_MAX)
		return;
	limit.rlim_cur = limit.rlim_max < FILES_MAX ? limit.rlim_max : FILES_MAX;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		log_warn("descriptors", "error=\"%s\" do=\"litefwd goes on with few\"", strerror(errno));
}
