/* base: log lines are whole and single, limits hold across threads; the clock's waits end; random numbers differ. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/random.h"

/* ---- stderr into a file ---- */

static int saved_stderr, captured;

static void capture_begin(void)
{
	char path[] = "/tmp/test_log.XXXXXX";

	captured = mkstemp(path);
	assert_true(captured >= 0);
	unlink(path);
	fflush(stderr);
	saved_stderr = dup(STDERR_FILENO);
	assert_true(saved_stderr >= 0);
	/* its own file description in append mode, as a log file has */
	assert_int_equal(fcntl(captured, F_SETFL, O_APPEND), 0);
	assert_int_equal(dup2(captured, STDERR_FILENO), STDERR_FILENO);
}

/* Returns what was logged; the caller frees it. */
static char *capture_end(void)
{
	char *text;
	off_t len;

	dup2(saved_stderr, STDERR_FILENO);
	close(saved_stderr);
	len = lseek(captured, 0, SEEK_END);
	text = calloc(1, (size_t)len + 1);
	assert_non_null(text);
	assert_int_equal(pread(captured, text, (size_t)len, 0), len);
	close(captured);
	return text;
}

static void assert_captured(const char *want)
{
	char *text = capture_end();

	assert_string_equal(text, want);
	free(text);
}

static void log_event__keys_and_values__one_line(void **state)
{
	(void)state;
	log_init(false, LOG_LV_INFO);
	capture_begin();
	log_warn("commit_unknown", "db=%s txid=%016llx do=\"%s\"", "app.db", 42ULL, "look at status");
	log_error("plain", "%s", "");
	assert_captured("litefwd: warn commit_unknown db=app.db txid=000000000000002a do=\"look at status\"\n"
			"litefwd: error plain\n");
}

static void log_event__above_the_level__silent(void **state)
{
	(void)state;
	log_init(false, LOG_LV_WARN);
	capture_begin();
	log_info("a", "x=%d", 1);
	log_debug("b", "x=%d", 1);
	log_warn("c", "x=%d", 1);
	log_error("d", "x=%d", 1);
	assert_captured("litefwd: warn c x=1\nlitefwd: error d x=1\n");
	log_init(false, LOG_LV_DEBUG);
	capture_begin();
	log_debug("e", "x=%d", 1);
	assert_captured("litefwd: debug e x=1\n");
}

static void log_event__too_long__cut_to_one_whole_line(void **state)
{
	char value[5000];
	char *text;

	(void)state;
	memset(value, 'v', sizeof value - 1);
	value[sizeof value - 1] = 0;
	capture_begin();
	log_error("long", "v=%s", value);
	text = capture_end();
	assert_int_equal(strncmp(text, "litefwd: error long v=vvvv", 26), 0);
	assert_true(strlen(text) > 1900 && strlen(text) <= 2048);
	assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
	free(text);
}

static void log_event__line_break_in_a_value__stays_one_line(void **state)
{
	(void)state;
	capture_begin();
	log_error("split", "name=%s", "a\nlitefwd: error forged x=1\x1b[0m\x7f");
	assert_captured("litefwd: error split name=a?litefwd: error forged x=1?[0m?\n");
}

static void log_event__stderr_gone__dropped_and_errno_kept(void **state)
{
	int keep = dup(STDERR_FILENO);

	(void)state;
	assert_true(keep >= 0);
	close(STDERR_FILENO);
	errno = EDOM;
	log_error("lost", "x=%d", 1);
	assert_int_equal(errno, EDOM);
	assert_int_equal(dup2(keep, STDERR_FILENO), STDERR_FILENO);
	close(keep);
}

enum { THREADS = 4, LINES = 500 };

static void *write_lines(void *arg)
{
	for (int i = 0; i < LINES; i++)
		log_error("thread", "t=%d i=%d tail=abcdefghijklmnopqrstuvwxyz", *(int *)arg, i);
	return NULL;
}

static void log_event__many_threads__lines_whole(void **state)
{
	pthread_t threads[THREADS];
	int ids[THREADS], next[THREADS] = {0}, lines = 0;
	char *text, *line, *rest;

	(void)state;
	capture_begin();
	for (int i = 0; i < THREADS; i++) {
		ids[i] = i;
		assert_int_equal(pthread_create(&threads[i], NULL, write_lines, &ids[i]), 0);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	text = capture_end();
	for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest), lines++) {
		char want[200];
		int t = -1;

		assert_int_equal(sscanf(line, "litefwd: error thread t=%d", &t), 1);
		assert_true(t >= 0 && t < THREADS);
		snprintf(want, sizeof want, "litefwd: error thread t=%d i=%d tail=abcdefghijklmnopqrstuvwxyz", t,
			 next[t]++);
		assert_string_equal(line, want);
	}
	assert_int_equal(lines, THREADS * LINES);
	free(text);
}

static void log_clean__hostile_bytes__question_marks(void **state)
{
	char dst[64];

	(void)state;
	assert_ptr_equal(log_clean(dst, sizeof dst, "a\"b\\c\nd\x7f\x80\xff e~"), dst);
	assert_string_equal(dst, "a?b?c?d??? e~");
	assert_string_equal(log_clean(dst, sizeof dst, ""), "");
}

static void log_clean__each_size__cut_and_terminated(void **state)
{
	(void)state;
	for (size_t size = 0; size <= 8; size++) {
		char dst[16];

		memset(dst, 'X', sizeof dst);
		log_clean(dst, size, "abcde");
		assert_int_equal(dst[size], 'X');
		if (size)
			assert_int_equal(strlen(dst), size - 1 < 5 ? size - 1 : 5);
	}
}

static struct log_limit shared_limit;

static void *ask_limit(void *arg)
{
	long allowed = 0;

	(void)arg;
	for (int i = 0; i < LINES; i++)
		allowed += log_allow(&shared_limit, 3600 * 1000);
	return (void *)allowed;
}

static void log_allow__many_threads__once_and_the_rest_counted(void **state)
{
	pthread_t threads[THREADS];
	long allowed = 0;

	(void)state;
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, ask_limit, NULL), 0);
	for (int i = 0; i < THREADS; i++) {
		void *ret;

		pthread_join(threads[i], &ret);
		allowed += (long)ret;
	}
	assert_int_equal(allowed, 1);
	assert_int_equal(shared_limit.suppressed, THREADS * LINES - 1);
}

static void log_allow__interval_over__again(void **state)
{
	struct log_limit limit = {0};

	(void)state;
	assert_true(log_allow(&limit, 20));
	clock_sleep_ns(25 * NS_PER_MS);
	assert_true(log_allow(&limit, 3600 * 1000));
	assert_false(log_allow(&limit, 20));
	assert_int_equal(limit.suppressed, 1);
}

/* ---- clock ---- */

static void clock_cond_wait_until__time_over__etimedout_not_early(void **state)
{
	pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t cond;
	int64_t until;
	int err;

	(void)state;
	assert_int_equal(clock_cond_init(&cond), 0);
	pthread_mutex_lock(&mutex);
	until = clock_now_ns() + 20 * NS_PER_MS;
	do
		err = clock_cond_wait_until(&cond, &mutex, until);
	while (!err);
	assert_int_equal(err, -ETIMEDOUT);
	assert_true(clock_now_ns() >= until);
	assert_int_equal(clock_cond_wait_until(&cond, &mutex, clock_now_ns() - NS_PER_S), -ETIMEDOUT);
	assert_int_equal(clock_cond_wait_until(&cond, &mutex, 0), -ETIMEDOUT);
	pthread_mutex_unlock(&mutex);
	pthread_cond_destroy(&cond);
}

struct signal_me {
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	bool done;
};

static void *signal_it(void *arg)
{
	struct signal_me *s = arg;

	pthread_mutex_lock(&s->mutex);
	s->done = true;
	pthread_cond_signal(&s->cond);
	pthread_mutex_unlock(&s->mutex);
	return NULL;
}

static void clock_cond_wait_until__signalled__zero_with_and_without_limit(void **state)
{
	(void)state;
	for (int limited = 0; limited <= 1; limited++) {
		struct signal_me s = {.mutex = PTHREAD_MUTEX_INITIALIZER};
		pthread_t thread;

		assert_int_equal(clock_cond_init(&s.cond), 0);
		pthread_mutex_lock(&s.mutex);
		assert_int_equal(pthread_create(&thread, NULL, signal_it, &s), 0);
		while (!s.done)
			assert_int_equal(clock_cond_wait_until(&s.cond, &s.mutex,
							       limited ? clock_now_ns() + 3600 * NS_PER_S : -1),
					 0);
		pthread_mutex_unlock(&s.mutex);
		pthread_join(thread, NULL);
		pthread_cond_destroy(&s.cond);
	}
}

static volatile sig_atomic_t signals;

static void count_signal(int sig)
{
	(void)sig;
	signals = signals + 1;
}

static void clock_sleep_ns__interrupted__sleeps_on(void **state)
{
	struct sigaction sa = {.sa_handler = count_signal}, old;
	timer_t timer;
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
	struct itimerspec every = {.it_value.tv_nsec = 2000000, .it_interval.tv_nsec = 2000000};
	int64_t start;

	(void)state;
	assert_int_equal(sigaction(SIGUSR1, &sa, &old), 0);
	assert_int_equal(timer_create(CLOCK_MONOTONIC, &ev, &timer), 0);
	assert_int_equal(timer_settime(timer, 0, &every, NULL), 0);
	start = clock_now_ns();
	clock_sleep_ns(30 * NS_PER_MS);
	assert_true(clock_now_ns() - start >= 30 * NS_PER_MS);
	timer_delete(timer);
	sigaction(SIGUSR1, &old, NULL);
	assert_true(signals > 0);
	clock_sleep_ns(0);
	clock_sleep_ns(-5);
}

static void clock_wall_ms__now__milliseconds_of_this_era(void **state)
{
	int64_t before = (int64_t)time(NULL) * 1000, now = clock_wall_ms(), after = (int64_t)time(NULL) * 1000 + 1000;

	(void)state;
	/* time() may lag a clock tick behind */
	assert_true(now >= before && now <= after + 1000);
}

/* ---- random ---- */

static int compare_u64(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static void random_u64__many__all_different_and_every_bit_used(void **state)
{
	enum { N = 4096 };
	uint64_t v[N], any = 0, all = UINT64_MAX;

	(void)state;
	for (int i = 0; i < N; i++) {
		v[i] = random_u64();
		any |= v[i];
		all &= v[i];
	}
	qsort(v, N, sizeof v[0], compare_u64);
	for (int i = 1; i < N; i++)
		assert_true(v[i] != v[i - 1]);
	assert_true(any == UINT64_MAX);
	assert_true(all == 0);
}

static void random_u32__many__every_bit_used(void **state)
{
	uint32_t any = 0, all = UINT32_MAX;

	(void)state;
	for (int i = 0; i < 4096; i++) {
		uint32_t v = random_u32();

		any |= v;
		all &= v;
	}
	assert_true(any == UINT32_MAX);
	assert_true(all == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(log_event__keys_and_values__one_line),
		cmocka_unit_test(log_event__above_the_level__silent),
		cmocka_unit_test(log_event__too_long__cut_to_one_whole_line),
		cmocka_unit_test(log_event__line_break_in_a_value__stays_one_line),
		cmocka_unit_test(log_event__stderr_gone__dropped_and_errno_kept),
		cmocka_unit_test(log_event__many_threads__lines_whole),
		cmocka_unit_test(log_clean__hostile_bytes__question_marks),
		cmocka_unit_test(log_clean__each_size__cut_and_terminated),
		cmocka_unit_test(log_allow__many_threads__once_and_the_rest_counted),
		cmocka_unit_test(log_allow__interval_over__again),
		cmocka_unit_test(clock_cond_wait_until__time_over__etimedout_not_early),
		cmocka_unit_test(clock_cond_wait_until__signalled__zero_with_and_without_limit),
		cmocka_unit_test(clock_sleep_ns__interrupted__sleeps_on),
		cmocka_unit_test(clock_wall_ms__now__milliseconds_of_this_era),
		cmocka_unit_test(random_u64__many__all_different_and_every_bit_used),
		cmocka_unit_test(random_u32__many__every_bit_used),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
