/* notify, with this program as the service manager: what is said, when, and what keeps it from being said. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "prog/notify.h"

#define LONG_MS 20000
#define SHORT_MS 120

struct manager {
	int fd;
	char path[64], said[1024];
	struct notify *notify;
	struct notify_config config;
	atomic_bool alive;
	atomic_int asked;
	_Atomic(const char *) status;
};

static bool alive(void *ctx, int64_t until_ns, char *why, size_t size)
{
	struct manager *m = ctx;

	atomic_fetch_add(&m->asked, 1);
	while (!atomic_load(&m->alive)) {
		if (clock_now_ns() >= until_ns) {
			snprintf(why, size, "what the test stopped");
			return false;
		}
		clock_sleep_ns(NS_PER_MS);
	}
	return true;
}

static void status(void *ctx, char *line, size_t size)
{
	struct manager *m = ctx;

	snprintf(line, size, "%s", atomic_load(&m->status));
}

/* watchdog_ms 0: none. */
static struct manager *start(bool abstract, int watchdog_ms)
{
	struct manager *m = calloc(1, sizeof *m);
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char usec[32];
	socklen_t len;

	snprintf(m->path, sizeof m->path, abstract ? "@litefwd-notify-%d" : "/tmp/litefwd-notify-%d", (int)getpid());
	unlink(m->path);
	strcpy(address.sun_path, m->path);
	len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(m->path) + !abstract);
	if (abstract)
		address.sun_path[0] = 0;
	m->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(m->fd, (struct sockaddr *)&address, len), 0);
	setenv("NOTIFY_SOCKET", m->path, 1);
	snprintf(usec, sizeof usec, "%d", watchdog_ms * 1000);
	if (watchdog_ms)
		setenv("WATCHDOG_USEC", usec, 1);
	atomic_store(&m->alive, true);
	atomic_store(&m->status, "fine");
	m->config = (struct notify_config){.alive = alive, .status = status, .ctx = m};
	m->notify = notify_new();
	assert_non_null(m->notify);
	return m;
}

static void finish(struct manager *m)
{
	notify_free(m->notify);
	close(m->fd);
	unlink(m->path);
	free(m);
}

/* The next message, "" if none comes in time. */
static const char *hear(struct manager *m, int timeout_ms)
{
	struct pollfd fd = {.fd = m->fd, .events = POLLIN};
	ssize_t n = 0;

	if (poll(&fd, 1, timeout_ms) > 0)
		n = recv(m->fd, m->said, sizeof m->said - 1, 0);
	m->said[n > 0 ? n : 0] = 0;
	return m->said;
}

static void new__nobody_asked__nothing(void **state)
{
	(void)state;
	unsetenv("NOTIFY_SOCKET");
	assert_null(notify_new());
	notify_starting(NULL, "x", 1);
	assert_int_equal(notify_watch(NULL, NULL), 0);
	notify_poke(NULL);
	notify_stopping(NULL);
	notify_unwatch(NULL);
	notify_free(NULL);
}

static void new__address_unusable__nothing(void **state)
{
	static const char *const bad[] = {"", "/", "@", "relative", "vsock:2:1", NULL};
	char too_long[300];

	(void)state;
	memset(too_long, '/', sizeof too_long - 1);
	too_long[sizeof too_long - 1] = 0;
	for (int i = 0; bad[i]; i++) {
		setenv("NOTIFY_SOCKET", bad[i], 1);
		assert_null(notify_new());
	}
	setenv("NOTIFY_SOCKET", too_long, 1);
	assert_null(notify_new());
}

static void new__usable__environment_is_not_inherited(void **state)
{
	struct manager *m;

	(void)state;
	setenv("WATCHDOG_PID", "1", 1);
	m = start(false, 1000);
	assert_null(getenv("NOTIFY_SOCKET"));
	assert_null(getenv("WATCHDOG_USEC"));
	assert_null(getenv("WATCHDOG_PID"));
	finish(m);
}

static void starting__told__time_and_status(void **state)
{
	struct manager *m = start(false, 0);

	(void)state;
	notify_starting(m->notify, "waiting", 1500);
	assert_string_equal(hear(m, LONG_MS), "EXTEND_TIMEOUT_USEC=1500000\nSTATUS=waiting");
	notify_free(m->notify);
	m->notify = NULL;
	assert_string_equal(hear(m, 0), ""); /* it was never there: nothing stops */
	finish(m);
}

static void watch__either_address__ready_with_status_then_stopping(void **state)
{
	(void)state;
	for (int abstract = 0; abstract < 2; abstract++) {
		struct manager *m = start(abstract, 0);

		assert_int_equal(notify_watch(m->notify, &m->config), 0);
		assert_string_equal(hear(m, LONG_MS), "READY=1\nSTATUS=fine\n");
		notify_stopping(m->notify);
		assert_string_equal(hear(m, LONG_MS), "STOPPING=1\nSTATUS=stopping");
		notify_free(m->notify);
		m->notify = NULL;
		assert_string_equal(hear(m, 0), ""); /* once */
		finish(m);
	}
}

static void watch__ended_without_a_signal__stopping_is_said(void **state)
{
	struct manager *m = start(false, 0);

	(void)state;
	assert_int_equal(notify_watch(m->notify, &m->config), 0);
	assert_string_equal(hear(m, LONG_MS), "READY=1\nSTATUS=fine\n");
	notify_unwatch(m->notify);
	assert_string_equal(hear(m, 0), "STOPPING=1\nSTATUS=stopping");
	notify_unwatch(m->notify);
	assert_string_equal(hear(m, 0), "");
	finish(m);
}

static void watch__not_alive_yet__not_ready(void **state)
{
	struct manager *m = start(false, 30);

	(void)state;
	atomic_store(&m->alive, false);
	assert_int_equal(notify_watch(m->notify, &m->config), 0);
	assert_string_equal(hear(m, SHORT_MS), "");
	atomic_store(&m->alive, true);
	assert_string_equal(hear(m, LONG_MS), "READY=1\nSTATUS=fine\nWATCHDOG=1\n");
	finish(m);
}

static void watchdog__alive__sent_again_and_again(void **state)
{
	struct manager *m = start(false, 90);

	(void)state;
	assert_int_equal(notify_watch(m->notify, &m->config), 0);
	assert_string_equal(hear(m, LONG_MS), "READY=1\nSTATUS=fine\nWATCHDOG=1\n");
	for (int i = 0; i < 5; i++)
		assert_string_equal(hear(m, LONG_MS), "WATCHDOG=1\n");
	assert_true(atomic_load(&m->asked) >= 6); /* each was asked for */
	finish(m);
}

static void watchdog__no_longer_alive__silence_until_it_is_again(void **state)
{
	struct manager *m = start(false, 30);

	(void)state;
	assert_int_equal(notify_watch(m->notify, &m->config), 0);
	assert_string_equal(hear(m, LONG_MS), "READY=1\nSTATUS=fine\nWATCHDOG=1\n");
	atomic_store(&m->alive, false);
	while (*hear(m, SHORT_MS)) /* what was on its way */
		;
	assert_string_equal(hear(m, SHORT_MS), "");
	atomic_store(&m->alive, true);
	assert_string_equal(hear(m, LONG_MS), "WATCHDOG=1\n");
	finish(m);
}

static void watchdog__for_another_process__none(void **state)
{
	struct manager *m;

	(void)state;
	setenv("WATCHDOG_PID", "1", 1);
	m = start(false, 30);
	assert_int_equal(notify_watch(m->notify, &m->config), 0);
	assert_string_equal(hear(m, LONG_MS), "READY=1\nSTATUS=fine\n");
	assert_string_equal(hear(m, SHORT_MS), "");
	finish(m);
}

static void watchdog__no_number__none(void **state)
{
	static const char *const bad[] = {"", "x", "-5", "5x", "0", "99999999999999999999", NULL};

	(void)state;
	for (int i = 0; bad[i]; i++) {
		struct manager *m;

		setenv("WATCHDOG_USEC", bad[i], 1);
		m = start(false, 0);
		assert_int_equal(notify_watch(m->notify, &m->config), 0);
		assert_string_equal(hear(m, LONG_MS), "READY=1\nSTATUS=fine\n");
		finish(m);
	}
}

static void status__changed__said_at_once(void **state)
{
	struct manager *m = start(false, 0);

	(void)state;
	assert_int_equal(notify_watch(m->notify, &m->config), 0);
	assert_string_equal(hear(m, LONG_MS), "READY=1\nSTATUS=fine\n");
	notify_poke(m->notify); /* nothing new */
	assert_string_equal(hear(m, SHORT_MS), "");
	atomic_store(&m->status, "replica");
	notify_poke(m->notify);
	assert_string_equal(hear(m, 8000), "STATUS=replica\n"); /* by itself it looks every 10 s */
	finish(m);
}

static void say__manager_is_gone__the_program_goes_on(void **state)
{
	struct manager *m = start(false, 30);
	int asked;

	(void)state;
	assert_int_equal(notify_watch(m->notify, &m->config), 0);
	assert_string_equal(hear(m, LONG_MS), "READY=1\nSTATUS=fine\nWATCHDOG=1\n");
	close(m->fd);
	unlink(m->path);
	asked = atomic_load(&m->asked);
	for (int i = 0; i < LONG_MS && atomic_load(&m->asked) < asked + 3; i++)
		clock_sleep_ns(NS_PER_MS);
	assert_true(atomic_load(&m->asked) >= asked + 3);
	m->fd = -1;
	finish(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(new__nobody_asked__nothing),
		cmocka_unit_test(new__address_unusable__nothing),
		cmocka_unit_test(new__usable__environment_is_not_inherited),
		cmocka_unit_test(starting__told__time_and_status),
		cmocka_unit_test(watch__either_address__ready_with_status_then_stopping),
		cmocka_unit_test(watch__ended_without_a_signal__stopping_is_said),
		cmocka_unit_test(watch__not_alive_yet__not_ready),
		cmocka_unit_test(watchdog__alive__sent_again_and_again),
		cmocka_unit_test(watchdog__no_longer_alive__silence_until_it_is_again),
		cmocka_unit_test(watchdog__for_another_process__none),
		cmocka_unit_test(watchdog__no_number__none),
		cmocka_unit_test(status__changed__said_at_once),
		cmocka_unit_test(say__manager_is_gone__the_program_goes_on),
	};

	return cmocka_run_group_tests_name("notify", tests, NULL, NULL);
}
