/* breaker: who is let through when, with a clock and a log of the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "litefs/breaker.h"

#define URL "http://10.0.0.1:20202"

static int64_t now_ns;
static unsigned away_lines, back_lines;

int64_t __wrap_clock_now_ns(void);
void __wrap_log_event(enum log_level level, const char *event, const char *fmt, ...);

int64_t __wrap_clock_now_ns(void)
{
	return now_ns;
}

void __wrap_log_event(enum log_level level, const char *event, const char *fmt, ...)
{
	(void)level, (void)fmt;
	away_lines += !strcmp(event, "server_away");
	back_lines += !strcmp(event, "server_back");
}

static int setup(void **state)
{
	struct breakers *t = NULL;

	now_ns = 1000 * NS_PER_S;
	away_lines = back_lines = 0;
	assert_int_equal(breakers_new(&t), 0);
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	breakers_free(*state);
	return 0;
}

static struct breaker *one(void **state)
{
	return breaker_get(*state, "litefs", URL, NS_PER_S);
}

static void enter__closed__everybody(void **state)
{
	struct breaker *b = one(state);

	for (int i = 0; i < 5; i++)
		assert_int_equal(breaker_enter(b, 1), BREAKER_ALLOWED);
	breaker_good(b);
	assert_int_equal(breaker_enter(b, 1), BREAKER_ALLOWED);
}

static void get__same_url__same_one_and_another_kind_another(void **state)
{
	assert_ptr_equal(one(state), one(state));
	assert_ptr_not_equal(one(state), breaker_get(*state, "gateway", URL, NS_PER_S));
	assert_ptr_not_equal(one(state), breaker_get(*state, "litefs", URL "0", NS_PER_S));
}

static void enter__open__denied_until_its_pause_is_over_then_one(void **state)
{
	struct breaker *b = one(state);

	breaker_bad(b, 1, "gone");
	assert_int_equal(breaker_enter(b, 1), BREAKER_DENIED);
	now_ns += 100 * NS_PER_MS - 1;
	assert_int_equal(breaker_enter(b, 1), BREAKER_DENIED);
	now_ns++;
	assert_int_equal(breaker_enter(b, 1), BREAKER_PROBE);
	assert_int_equal(breaker_enter(b, 1), BREAKER_DENIED); /* one at a time */
	now_ns += 3600 * NS_PER_S;
	assert_int_equal(breaker_enter(b, 1), BREAKER_DENIED);
	breaker_good(b);
	assert_int_equal(breaker_enter(b, 1), BREAKER_ALLOWED);
}

static void bad__again_and_again__pauses_double_up_to_the_bound(void **state)
{
	static const int64_t pauses_ms[] = {100, 200, 400, 800, 1000, 1000};
	struct breaker *b = one(state);

	for (size_t i = 0; i < sizeof pauses_ms / sizeof pauses_ms[0]; i++) {
		breaker_bad(b, 1, "gone");
		now_ns += pauses_ms[i] * NS_PER_MS - 1;
		assert_int_equal(breaker_enter(b, 1), BREAKER_DENIED);
		now_ns++;
		assert_int_equal(breaker_enter(b, 1), BREAKER_PROBE);
	}
	breaker_good(b);
	breaker_bad(b, 1, "gone"); /* and begins anew */
	now_ns += 100 * NS_PER_MS;
	assert_int_equal(breaker_enter(b, 1), BREAKER_PROBE);
}

static void untold__probe_given_up__the_next_one_probes(void **state)
{
	struct breaker *b = one(state);

	breaker_untold(b);
	assert_int_equal(breaker_enter(b, 1), BREAKER_ALLOWED);
	breaker_bad(b, 1, "gone");
	now_ns += NS_PER_S;
	assert_int_equal(breaker_enter(b, 1), BREAKER_PROBE);
	breaker_untold(b);
	assert_int_equal(breaker_enter(b, 1), BREAKER_PROBE);
}

static void enter__role_has_changed__asked_at_once_but_by_one(void **state)
{
	struct breaker *b = one(state);

	breaker_bad(b, 1, "gone");
	assert_int_equal(breaker_enter(b, 2), BREAKER_PROBE);
	assert_int_equal(breaker_enter(b, 2), BREAKER_DENIED);
	breaker_bad(b, 2, "gone");
	assert_int_equal(breaker_enter(b, 2), BREAKER_DENIED);
}

static void log__outage_of_a_day__a_line_at_each_end(void **state)
{
	struct breaker *b = one(state);

	breaker_bad(b, 1, "gone"); /* a lost connection */
	now_ns += NS_PER_S;
	breaker_good(b);
	assert_int_equal(away_lines + back_lines, 0);
	for (int i = 0; i < 86400; i++) {
		breaker_bad(b, 1, "gone");
		now_ns += NS_PER_S;
		assert_int_equal(breaker_enter(b, 1), BREAKER_PROBE);
	}
	breaker_good(b);
	breaker_good(b);
	assert_int_equal(away_lines, 1);
	assert_int_equal(back_lines, 1);
}

static void status__open__says_since_when_and_how_often(void **state)
{
	struct breaker *b = one(state);
	json_t *list, *o;

	breaker_bad(b, 1, "gone");
	breaker_enter(b, 1);
	breaker_bad(b, 1, "gone");
	now_ns += 1500 * NS_PER_MS;
	breaker_enter(b, 1);
	list = breakers_status(*state);
	assert_int_equal(json_array_size(list), 1);
	o = json_array_get(list, 0);
	assert_string_equal(json_string_value(json_object_get(o, "url")), URL);
	assert_string_equal(json_string_value(json_object_get(o, "state")), "probing");
	assert_int_equal(json_integer_value(json_object_get(o, "failures")), 2);
	assert_int_equal(json_integer_value(json_object_get(o, "opened")), 1);
	assert_int_equal(json_integer_value(json_object_get(o, "denied")), 1);
	assert_int_equal(json_integer_value(json_object_get(o, "probes")), 1);
	assert_int_equal(json_integer_value(json_object_get(o, "away_ms")), 1500);
	json_decref(list);
}

static void table__full_or_none__lets_everybody_through(void **state)
{
	char url[64];
	struct breaker *b = NULL;
	int n = 0;

	do {
		snprintf(url, sizeof url, "http://10.0.0.1:%d", ++n);
		b = breaker_get(*state, "litefs", url, NS_PER_S);
	} while (b && n < 10000);
	assert_null(b);
	assert_true(n > 8);
	breaker_bad(b, 1, "gone");
	assert_int_equal(breaker_enter(b, 1), BREAKER_ALLOWED);
	breaker_good(b);
	breaker_untold(b);
	assert_null(breaker_get(NULL, "litefs", URL, NS_PER_S));
	assert_non_null(breaker_get(*state, "litefs", "http://10.0.0.1:1", NS_PER_S));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(enter__closed__everybody),
		TEST(get__same_url__same_one_and_another_kind_another),
		TEST(enter__open__denied_until_its_pause_is_over_then_one),
		TEST(bad__again_and_again__pauses_double_up_to_the_bound),
		TEST(untold__probe_given_up__the_next_one_probes),
		TEST(enter__role_has_changed__asked_at_once_but_by_one),
		TEST(log__outage_of_a_day__a_line_at_each_end),
		TEST(status__open__says_since_when_and_how_often),
		TEST(table__full_or_none__lets_everybody_through),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
