#include "prog/notify.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

/* Without a watchdog: how often the status is looked at. */
#define STATUS_NS (10 * NS_PER_S)
/* Of each WATCHDOG_USEC: two may be late or lost. */
#define BEATS 3
#define BEAT_MIN_NS (10 * NS_PER_MS)
#define SILENCE_LOG_MS 10000

struct notify {
	struct sockaddr_un address;
	socklen_t address_len;
	int socket;
	int wake_fd; /* eventfd: poke, stop */
	int64_t watchdog_ns; /* 0: none is wanted */
	atomic_bool stopping, ended;
	bool watching, said_ready, said_stopping;
	char said[NOTIFY_TEXT_MAX]; /* the last status */
	struct notify_config config;
	pthread_t thread;
	struct log_limit limit_send, limit_silence;
};

/* "/run/...", or "@name" for one in the abstract namespace. */
static int parse_address(struct notify *n, const char *text)
{
	size_t len = strlen(text);

	if ((text[0] != '/' && text[0] != '@') || len < 2 || len >= sizeof n->address.sun_path)
		return -EINVAL;
	n->address.sun_family = AF_UNIX;
	memcpy(n->address.sun_path, text, len);
	if (text[0] == '@')
		n->address.sun_path[0] = 0;
	/* An abstract name ends where the length says. */
	n->address_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + (text[0] == '/'));
	return 0;
}

/* WATCHDOG_PID: for whom it is, where that is not everybody. */
static int64_t parse_watchdog_ns(const char *usec, const char *pid)
{
	char *end;
	unsigned long long value;

	if (!usec)
		return 0;
	if (pid && *pid) {
		value = strtoull(pid, &end, 10);
		if (*end || value != (unsigned long long)getpid())
			return 0;
	}
	errno = 0;
	value = strtoull(usec, &end, 10);
	if (errno || end == usec || *end || *usec == '-' || !value || value > INT64_MAX / 1000) {
		log_warn("notify_watchdog", "do=\"WATCHDOG_USEC is no number of microseconds: no watchdog\"");
		return 0;
	}
	return (int64_t)value * NS_PER_US;
}

static void say(struct notify *n, const char *text)
{
	ssize_t sent;

	do
		sent = sendto(n->socket, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&n->address, n->address_len);
	while (sent < 0 && errno == EINTR);
	if (sent < 0 && log_allow(&n->limit_send, SILENCE_LOG_MS))
		log_warn("notify_failed", "error=\"%s\"", strerror(errno));
}

struct notify *notify_new(void)
{
	const char *address = getenv("NOTIFY_SOCKET");
	struct notify *n = address ? calloc(1, sizeof *n) : NULL;

	if (n) {
		n->wake_fd = -1;
		n->watchdog_ns = parse_watchdog_ns(getenv("WATCHDOG_USEC"), getenv("WATCHDOG_PID"));
		n->socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		if (n->socket >= 0)
			n->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (n->wake_fd < 0 || parse_address(n, address)) {
			log_warn("notify_address", "do=\"NOTIFY_SOCKET is not usable: nobody is told anything\"");
			notify_free(n);
			n = NULL;
		}
	}
	/* Not for fusermount3. */
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
	return n;
}

void notify_starting(struct notify *n, const char *what, int64_t timeout_ms)
{
	char text[NOTIFY_TEXT_MAX];

	if (!n)
		return;
	snprintf(text, sizeof text, "EXTEND_TIMEOUT_USEC=%" PRId64 "\nSTATUS=%s", timeout_ms * 1000, what);
	say(n, text);
}

static void say_stopping(struct notify *n)
{
	if (n->said_stopping)
		return;
	n->said_stopping = true;
	say(n, "STOPPING=1\nSTATUS=stopping");
}

/* What has changed, and that we live: one datagram. Returns when to look again, from now. */
static int64_t look(struct notify *n)
{
	int64_t beat_ns = n->watchdog_ns ? n->watchdog_ns / BEATS : STATUS_NS;
	char why[128] = "", line[NOTIFY_TEXT_MAX / 2] = "", text[NOTIFY_TEXT_MAX];
	int len = 0;

	if (beat_ns < BEAT_MIN_NS)
		beat_ns = BEAT_MIN_NS;
	if (!n->config.alive(n->config.ctx, clock_now_ns() + beat_ns, why, sizeof why)) {
		if (!atomic_load(&n->stopping) && log_allow(&n->limit_silence, SILENCE_LOG_MS))
			log_warn("silence", "what=\"%s\" do=\"nothing: a watchdog ends litefwd if it stays\"", why);
		return BEAT_MIN_NS; /* it has waited already */
	}
	if (!n->said_ready)
		len += snprintf(text + len, sizeof text - (size_t)len, "READY=1\n");
	n->said_ready = true;
	n->config.status(n->config.ctx, line, sizeof line);
	if (strcmp(line, n->said) != 0)
		len += snprintf(text + len, sizeof text - (size_t)len, "STATUS=%s\n", line);
	strcpy(n->said, line);
	if (n->watchdog_ns)
		len += snprintf(text + len, sizeof text - (size_t)len, "WATCHDOG=1\n");
	if (len)
		say(n, text);
	return beat_ns;
}

static void *notify_main(void *arg)
{
	struct notify *n = arg;
	struct pollfd fd = {.fd = n->wake_fd, .events = POLLIN};
	uint64_t count;

	while (!atomic_load(&n->ended)) {
		int64_t next_ns = STATUS_NS;

		if (atomic_load(&n->stopping))
			say_stopping(n);
		else
			next_ns = look(n);
		if (poll(&fd, 1, (int)(next_ns / NS_PER_MS)) > 0 && read(n->wake_fd, &count, sizeof count) < 0 && errno != EAGAIN)
			log_warn("notify_wake", "error=\"%s\"", strerror(errno));
	}
	return NULL;
}

int notify_watch(struct notify *n, const struct notify_config *config)
{
	int err;

	if (!n)
		return 0;
	n->config = *config;
	err = -pthread_create(&n->thread, NULL, notify_main, n);
	n->watching = !err;
	return err;
}

void notify_poke(struct notify *n)
{
	uint64_t one = 1;
	ssize_t written = n ? write(n->wake_fd, &one, sizeof one) : 0;

	(void)written; /* EAGAIN: it is awake anyhow */
}

void notify_stopping(struct notify *n)
{
	if (n)
		atomic_store(&n->stopping, true);
	notify_poke(n);
}

void notify_unwatch(struct notify *n)
{
	if (!n || !n->watching)
		return;
	atomic_store(&n->stopping, true);
	atomic_store(&n->ended, true);
	notify_poke(n);
	pthread_join(n->thread, NULL);
	n->watching = false;
	say_stopping(n);
}

void notify_free(struct notify *n)
{
	if (!n)
		return;
	notify_unwatch(n);
	if (n->wake_fd >= 0)
		close(n->wake_fd);
	if (n->socket >= 0)
		close(n->socket);
	free(n);
}
