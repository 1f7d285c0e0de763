#include "prog/aborter.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the parent writes: the connection's number (the minor of st_dev), then the mountpoint. */
struct order {
	unsigned minor;
	char mountpoint[PATH_MAX];
};

static volatile sig_atomic_t parent_died;

static void on_parent_died(int sig)
{
	(void)sig;
	parent_died = 1;
}

static void abort_connection(const struct order *order)
{
	char path[128];
	struct statx stx;
	int fd;

	snprintf(path, sizeof path, "/sys/fs/fuse/connections/%u/abort", order->minor);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0 && write(fd, "1", 1) == 1)
		return;
	/*
	 * No fusectl mounted. A forced unmount aborts, too, but must not unmount: applications would write into the
	 * directory below. While we hold its root it is busy, and the unmount is refused after the abort.
	 */
	fd = open(order->mountpoint, O_PATH | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &stx) < 0 ||
	    stx.stx_dev_minor != order->minor)
		return;
	umount2(order->mountpoint, MNT_FORCE | UMOUNT_NOFOLLOW);
}

static void child_main(int fd, pid_t parent)
{
	struct sigaction sa = {.sa_handler = on_parent_died};
	struct order order;
	sigset_t all, waiting;
	size_t got = 0;
	int null_fd;

	/* Whatever is sent to a whole group is not for us: we go when the parent says so, or has died. */
	sigfillset(&all);
	waiting = all;
	sigdelset(&waiting, SIGUSR1);
	sigprocmask(SIG_SETMASK, &all, NULL);
	sigaction(SIGUSR1, &sa, NULL);
	prctl(PR_SET_NAME, "litefwd-abort");
	prctl(PR_SET_PDEATHSIG, SIGUSR1);
	if (getppid() != parent)
		_exit(0);
	/* Nothing of the parent's stays open here: neither its terminal nor its lock file. */
	null_fd = open("/dev/null", O_RDWR);
	for (int i = 0; i < 3; i++)
		dup2(null_fd, i);
	if (fd != 3)
		dup2(fd, 3);
	closefrom(4);
	if (chdir("/") < 0)
		_exit(0);
	for (;;) {
		struct pollfd pfd = {.fd = 3, .events = POLLIN};
		ssize_t n;

		if (parent_died) {
			if (got == sizeof order)
				abort_connection(&order);
			_exit(0);
		}
		if (ppoll(&pfd, 1, NULL, &waiting) < 0)
			continue;
		n = got < sizeof order ? read(3, (char *)&order + got, sizeof order - got) : read(3, &(char){0}, 1);
		if (n <= 0)
			_exit(0); /* the parent closed it: an orderly end */
		if (got == sizeof order)
			_exit(0);
		got += (size_t)n;
	}
}

int aborter_start(struct aborter *ret)
{
	int fds[2];
	pid_t parent = getpid(), pid;

	*ret = (struct aborter){0, -1};
	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid < 0) {
		int err = -errno;

		close(fds[0]);
		close(fds[1]);
		return err;
	}
	if (pid == 0) {
		close(fds[1]);
		child_main(fds[0], parent);
	}
	close(fds[0]);
	ret->pid = pid;
	ret->fd = fds[1];
	return 0;
}

void aborter_arm(struct aborter *aborter, const char *mountpoint)
{
	struct order order = {0};
	struct statx stx;

	/* Without asking the mount: nobody serves it yet. */
	if (!aborter->pid || strlen(mountpoint) >= sizeof order.mountpoint ||
	    statx(AT_FDCWD, mountpoint, AT_STATX_DONT_SYNC | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_TYPE, &stx) < 0)
		return;
	order.minor = stx.stx_dev_minor;
	strcpy(order.mountpoint, mountpoint);
	if (write(aborter->fd, &order, sizeof order) != (ssize_t)sizeof order)
		aborter_stop(aborter);
}

void aborter_stop(struct aborter *aborter)
{
	if (!aborter->pid)
		return;
	if (write(aborter->fd, "q", 1) < 0)
		kill(aborter->pid, SIGKILL);
	close(aborter->fd);
	while (waitpid(aborter->pid, NULL, 0) < 0 && errno == EINTR)
		;
	*aborter = (struct aborter){0, -1};
}
