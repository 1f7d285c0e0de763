/* privileges: what root keeps, and what a plain user is left. Each case in a child: nothing of it can be taken back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <linux/capability.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "prog/privileges.h"

#define KEPT (1u << CAP_SYS_ADMIN | 1u << CAP_DAC_OVERRIDE | 1u << CAP_DAC_READ_SEARCH | 1u << CAP_SYS_PTRACE)

/* A number of /proc/self/status; hex, as capabilities are. */
static uint64_t status(const char *key)
{
	FILE *file = fopen("/proc/self/status", "re");
	uint64_t ret = UINT64_MAX;
	char line[256];

	while (file && fgets(line, sizeof line, file))
		if (!strncmp(line, key, strlen(key)) && line[strlen(key)] == ':')
			ret = strtoull(line + strlen(key) + 1, NULL, 16);
	if (file)
		fclose(file);
	return ret;
}

/* what: 0 where all is as it should be, else where it was not. */
static void in_child(int (*what)(void))
{
	pid_t pid = fork();
	int result = 0;

	assert_true(pid >= 0);
	if (pid == 0)
		_exit(what());
	assert_int_equal(waitpid(pid, &result, 0), pid);
	assert_true(WIFEXITED(result));
	assert_int_equal(WEXITSTATUS(result), 0);
}

static int check(bool with_gateway)
{
	uint64_t kept = KEPT | (with_gateway ? 1u << CAP_NET_BIND_SERVICE : 0), had = status("CapPrm");
	bool root = geteuid() == 0, could_bound = had & 1u << CAP_SETPCAP;

	privileges_drop(with_gateway);
	if (!root) /* fusermount3 unmounts for it */
		return status("NoNewPrivs") != 0 ? 1 : status("CapPrm") != had ? 2 : 0;
	if (status("NoNewPrivs") != 1)
		return 3;
	if (status("CapPrm") != (had & kept) || status("CapEff") & ~kept || status("CapInh") || status("CapAmb"))
		return 4;
	if (could_bound && status("CapBnd") & ~kept)
		return 5;
	/* What it runs gets no more than that, root or not. */
	return system("test $((0x$(sed -n 's/^CapPrm:\t//p' /proc/self/status) & ~0x280006 & ~0x400)) = 0") ? 6 : 0;
}

static int without_gateway(void)
{
	return check(false);
}

static int with_gateway(void)
{
	return check(true);
}

static void drop__root_or_not__what_is_needed_stays(void **state)
{
	(void)state;
	in_child(without_gateway);
	in_child(with_gateway);
}

static int raise_files(void)
{
	struct rlimit limit;
	rlim_t hard;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_max < 100)
		return 1;
	hard = limit.rlim_max;
	limit.rlim_cur = 64;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		return 2;
	privileges_raise_files();
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_max != hard)
		return 3;
	return limit.rlim_cur == (hard < 65536 ? hard : 65536) ? 0 : 4;
}

static void raise_files__few__as_many_as_may_be(void **state)
{
	(void)state;
	in_child(raise_files);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(drop__root_or_not__what_is_needed_stays),
		cmocka_unit_test(raise_files__few__as_many_as_may_be),
	};

	return cmocka_run_group_tests_name("privileges", tests, NULL, NULL);
}
