#include "prog/status.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "prog/options.h"
#include "status/health.h"

#define TIMEOUT_MS 10000
#define WATCH_NS NS_PER_S
#define STATUS_MAX ((size_t)64 << 20)

struct arguments {
	const char *mountpoint;
	bool json, watch;
	int64_t timeout_ms;
};

static volatile sig_atomic_t stopped;
static pid_t stuck; /* a child that was killed, and may not be gone; 0: none */

static void on_stop(int sig)
{
	(void)sig;
	stopped = 1;
}

/* ---- asking ---- */

/* By its device: a copy of the file in a backup must not look like a mount that is well. It asks the mount nothing that LiteFS must answer. */
static bool is_of_litefwd(int fd)
{
	FILE *table = fopen("/proc/self/mountinfo", "re");
	unsigned device_major, device_minor;
	char *line = NULL;
	size_t size = 0;
	struct stat st;
	bool found = false;

	if (table && fstat(fd, &st) == 0)
		while (!found && getline(&line, &size, table) > 0)
			found = sscanf(line, "%*d %*d %u:%u", &device_major, &device_minor) == 2 && device_major == major(st.st_dev) &&
				device_minor == minor(st.st_dev) && strstr(line, " - fuse.litefwd ");
	free(line);
	if (table)
		fclose(table);
	return found;
}

/* The child's: .litefwd to fd. An errno, or 0; ENODEV: what is there is no litefwd. */
static int copy_status(const char *mountpoint, int out)
{
	char path[4096 + 16], buf[65536];
	ssize_t n;
	int fd;

	if ((size_t)snprintf(path, sizeof path, "%s/.litefwd", mountpoint) >= sizeof path)
		return ENAMETOOLONG;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno;
	if (!is_of_litefwd(fd))
		return ENODEV;
	while ((n = read(fd, buf, sizeof buf)) > 0)
		for (ssize_t done = 0, w; done < n; done += w)
			if ((w = write(out, buf + done, (size_t)(n - done))) < 0)
				return errno;
	return n < 0 ? errno : 0;
}

/* Everything that fd gives until its end, malloc'ed and terminated; NULL: not in time, or too much. */
static char *read_until(int fd, int64_t until_ns)
{
	size_t len = 0, cap = 65536;
	char *text = malloc(cap);

	while (text) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		int64_t left_ms = (until_ns - clock_now_ns()) / NS_PER_MS;
		ssize_t n;

		if (left_ms <= 0 || len > STATUS_MAX)
			break;
		if (poll(&p, 1, left_ms < 1000 ? (int)left_ms : 1000) <= 0)
			continue;
		if (cap - len < 4096) {
			char *more = realloc(text, cap *= 2);

			if (!more)
				break;
			text = more;
		}
		n = read(fd, text + len, cap - len - 1);
		if (n < 0 && errno != EINTR)
			break;
		if (n == 0) {
			text[len] = 0;
			return text;
		}
		len += n > 0 ? (size_t)n : 0;
	}
	free(text);
	return NULL;
}

/* 0 and *ret; else an errno: ETIMEDOUT (no answer), or why the file cannot be read. */
static int ask(const struct arguments *a, json_t **ret)
{
	int64_t until = clock_now_ns() + a->timeout_ms * NS_PER_MS;
	int fds[2], status = 0;
	char *text;
	pid_t pid;

	if (stuck && waitpid(stuck, NULL, WNOHANG) == 0)
		return ETIMEDOUT; /* still */
	stuck = 0;
	fflush(NULL);
	if (pipe2(fds, O_CLOEXEC) < 0 || (pid = fork()) < 0)
		return errno;
	if (pid == 0) {
		signal(SIGINT, SIG_IGN); /* the terminal's is for the parent */
		_exit(copy_status(a->mountpoint, fds[1]));
	}
	close(fds[1]);
	text = read_until(fds[0], until);
	close(fds[0]);
	if (!text) {
		/* A request that its server has read and does not answer cannot even be killed: it is not waited for. */
		kill(pid, SIGKILL);
		stuck = pid;
		return ETIMEDOUT;
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	status = WIFEXITED(status) ? WEXITSTATUS(status) : EIO;
	if (!status) {
		*ret = json_loads(text, 0, NULL);
		status = *ret && json_is_string(json_object_get(*ret, "version")) ? 0 : EPROTO;
		if (status)
			json_decref(*ret);
	}
	free(text);
	return status;
}

/* ---- telling ---- */

static int complain(const struct arguments *a, int err)
{
	if (err == ETIMEDOUT)
		fprintf(stderr, "litefwd: %s: no answer within %lld ms: is its litefwd stopped, or this machine overloaded?\n", a->mountpoint,
			(long long)a->timeout_ms);
	else if (err == ENOTCONN || err == ECONNABORTED)
		fprintf(stderr, "litefwd: %s: the litefwd that was mounted there has died: start it again\n", a->mountpoint);
	else if (err == ENOENT || err == ENOTDIR || err == ENODEV || err == EPROTO)
		fprintf(stderr, "litefwd: %s: no litefwd is mounted there\n", a->mountpoint);
	else
		fprintf(stderr, "litefwd: %s: %s\n", a->mountpoint, strerror(err));
	return err == EACCES || err == EPERM || err == ENOMEM ? STATUS_UNKNOWN : STATUS_NOT_MOUNTED;
}

static int look(const struct arguments *a)
{
	json_t *status = NULL;
	int err = ask(a, &status), code;

	if (err)
		return complain(a, err);
	code = health_is_well(json_object_get(status, "health")) ? STATUS_WELL : STATUS_DEGRADED;
	if (a->json) { /* a line each, when watching: a stream of them can be read */
		json_dumpf(status, stdout, JSON_SORT_KEYS | (a->watch ? JSON_COMPACT : JSON_INDENT(2)));
		putchar('\n');
	} else {
		status_print(status, stdout);
	}
	json_decref(status);
	return fflush(stdout) || ferror(stdout) ? STATUS_UNKNOWN : code;
}

static int watch(const struct arguments *a)
{
	struct sigaction act = {.sa_handler = on_stop};
	int code = STATUS_UNKNOWN;

	sigaction(SIGINT, &act, NULL);
	sigaction(SIGTERM, &act, NULL);
	while (!stopped) {
		struct timespec pause = {.tv_sec = WATCH_NS / NS_PER_S};

		if (!a->json && isatty(STDOUT_FILENO))
			fputs("\033[H\033[2J", stdout);
		code = look(a);
		if (ferror(stdout))
			break; /* nobody reads any more */
		nanosleep(&pause, NULL); /* a signal ends it */
	}
	return code;
}

/* ---- the command line ---- */

static const char usage[] = "usage: litefwd status [--json] [--watch] [--timeout=TIME] MOUNTPOINT\n"
			    "\n"
			    "Says what the litefwd that is mounted at MOUNTPOINT is doing, and how well.\n"
			    "\n"
			    "  --json          all of it, as in the file MOUNTPOINT/.litefwd\n"
			    "  --watch         again every second, until it is interrupted; with --json a line each time\n"
			    "  --timeout=TIME  how long to wait for an answer (default 10s)\n"
			    "\n"
			    "Exit status, as a monitoring plugin's: 0 well, 1 degraded, 2 not mounted or no answer, 3 usage or cannot tell.\n";

/* 0; else an exit code + 1. */
static int parse(int argc, char **argv, struct arguments *a)
{
	for (int i = 2; i < argc; i++) {
		const char *arg = argv[i];

		if (!strcmp(arg, "--help") || !strcmp(arg, "-h")) {
			fputs(usage, stdout);
			return (fflush(stdout) ? STATUS_UNKNOWN : STATUS_WELL) + 1;
		}
		if (!strcmp(arg, "--json"))
			a->json = true;
		else if (!strcmp(arg, "--watch"))
			a->watch = true;
		else if (!strncmp(arg, "--timeout=", 10) && !options_parse_duration(arg + 10, &a->timeout_ms) && a->timeout_ms > 0)
			;
		else if (arg[0] != '-' && !a->mountpoint)
			a->mountpoint = arg;
		else
			goto bad;
	}
	if (a->mountpoint)
		return 0;
bad:
	fputs(usage, stderr);
	return STATUS_UNKNOWN + 1;
}

int command_status(int argc, char **argv)
{
	struct arguments a = {.timeout_ms = TIMEOUT_MS};
	int code = parse(argc, argv, &a);

	if (code)
		return code - 1;
	return a.watch ? watch(&a) : look(&a);
}
