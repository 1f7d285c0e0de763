/* upload_rate: never more than half of what was seen, never for ever less. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "litefs/upload_rate.h"

#define MIB (UINT64_C(1) << 20)

static void rate__nothing_known__default(void **state)
{
	struct upload_rate r = {0};

	(void)state;
	assert_int_equal(upload_rate_get(&r, 5), 4 * MIB);
	/* 64 MiB as the very first one must go into 30 s, less margins. */
	assert_true(upload_rate_time_ns(upload_rate_get(&r, 5), 64 * MIB) < 20 * NS_PER_S);
}

static void rate__small_ones__tell_nothing(void **state)
{
	struct upload_rate r = {0};

	(void)state;
	upload_rate_note(&r, UPLOAD_RATE_TELLING - 1, 100 * NS_PER_S, 0, 5);
	upload_rate_note_cut(&r, UPLOAD_RATE_TELLING - 1, 100 * NS_PER_S, 5);
	assert_int_equal(upload_rate_get(&r, 5), UPLOAD_RATE_DEFAULT);
}

static void rate__measured__half_of_it(void **state)
{
	struct upload_rate r = {0};

	(void)state;
	upload_rate_note(&r, 100 * MIB, NS_PER_S, 0, 5);
	assert_in_range(upload_rate_get(&r, 5), 49 * MIB, 50 * MIB);
	/* High measures do not age: the default is for where nothing is known. */
	assert_in_range(upload_rate_get(&r, 5 + 3600 * NS_PER_S), 49 * MIB, 50 * MIB);
}

static void rate__round_trip_in_it__taken_off_but_never_more_than_half(void **state)
{
	struct upload_rate r = {0}, s = {0};

	(void)state;
	upload_rate_note(&r, 10 * MIB, NS_PER_S, 200 * NS_PER_MS, 5);
	assert_in_range(upload_rate_get(&r, 5), 6 * MIB, 6400 * 1024);
	upload_rate_note(&s, 10 * MIB, NS_PER_S, 900 * NS_PER_MS, 5);
	assert_in_range(upload_rate_get(&s, 5), 9 * MIB, 10 * MIB);
}

static void rate__slower_than_before__followed_within_a_few(void **state)
{
	struct upload_rate r = {0};

	(void)state;
	for (int i = 0; i < 20; i++)
		upload_rate_note(&r, MIB, 10 * NS_PER_MS, 0, 5);
	assert_true(upload_rate_get(&r, 5) > 40 * MIB);
	upload_rate_note(&r, MIB, NS_PER_S, 0, 5);
	assert_true(upload_rate_get(&r, 5) < 3 * MIB);
	for (int i = 0; i < 60; i++)
		upload_rate_note(&r, MIB, 10 * NS_PER_MS, 0, 5);
	assert_true(upload_rate_get(&r, 5) > 40 * MIB);
}

static void rate__large_and_small__the_large_ones_weigh(void **state)
{
	struct upload_rate r = {0};

	(void)state;
	upload_rate_note(&r, 64 * MIB, NS_PER_S, 0, 5);
	upload_rate_note(&r, MIB / 4, 50 * NS_PER_MS, 0, 5); /* 5 MiB/s: fixed costs */
	assert_true(upload_rate_get(&r, 5) > 25 * MIB);
}

/* A stall of 20 s over 256 KiB would forbid everything that could show that it is over. */
static void rate__stalled_once__believed_again_in_time(void **state)
{
	struct upload_rate r = {0};
	uint64_t last;

	(void)state;
	upload_rate_note(&r, MIB / 4, 20 * NS_PER_S, 0, 5);
	last = upload_rate_get(&r, 5);
	assert_true(last < 8 * 1024);
	for (int i = 1; i <= 10; i++) {
		uint64_t now = upload_rate_get(&r, 5 + i * 15 * NS_PER_S);

		assert_true(now == last * 2 || now == UPLOAD_RATE_DEFAULT);
		last = now;
	}
	assert_int_equal(last, UPLOAD_RATE_DEFAULT);
}

static void rate__cut_off__only_ever_lowers(void **state)
{
	struct upload_rate r = {0};

	(void)state;
	upload_rate_note_cut(&r, 64 * MIB, 100 * NS_PER_MS, 5); /* the connection was lost: not a measure */
	assert_int_equal(upload_rate_get(&r, 5), UPLOAD_RATE_DEFAULT);
	upload_rate_note_cut(&r, 27 * MIB, 27 * NS_PER_S, 5);
	assert_in_range(upload_rate_get(&r, 5), MIB / 2 - 1, MIB / 2);
}

static void rate__extremes__no_overflow(void **state)
{
	struct upload_rate r = {0};

	(void)state;
	assert_true(upload_rate_time_ns(1, UINT64_MAX) > 3600 * NS_PER_S);
	assert_true(upload_rate_time_ns(UINT64_MAX, UINT64_MAX) == NS_PER_S);
	assert_int_equal(upload_rate_time_ns(1000, 1500), 1500 * NS_PER_MS);
	assert_int_equal(upload_rate_bytes_in(1000, -1), 0);
	assert_int_equal(upload_rate_bytes_in(1000, 1500 * NS_PER_MS), 1500);
	for (int i = 0; i < 100; i++)
		upload_rate_note(&r, 64 << 20, 0, 0, 5);
	assert_true(upload_rate_get(&r, 5) > 0);
	upload_rate_note(&r, UPLOAD_RATE_TELLING, INT64_MAX / 4, 0, 5);
	assert_true(upload_rate_get(&r, 5) >= 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rate__nothing_known__default),
		cmocka_unit_test(rate__small_ones__tell_nothing),
		cmocka_unit_test(rate__measured__half_of_it),
		cmocka_unit_test(rate__round_trip_in_it__taken_off_but_never_more_than_half),
		cmocka_unit_test(rate__slower_than_before__followed_within_a_few),
		cmocka_unit_test(rate__large_and_small__the_large_ones_weigh),
		cmocka_unit_test(rate__stalled_once__believed_again_in_time),
		cmocka_unit_test(rate__cut_off__only_ever_lowers),
		cmocka_unit_test(rate__extremes__no_overflow),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
