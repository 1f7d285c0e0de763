/* undo: the first image of each page, for as many pages as there are. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>

#include "db/page_set.h"

static void image(uint8_t *page, uint32_t size, uint32_t pgno, uint32_t version)
{
	for (uint32_t i = 0; i + 8 <= size; i += 8) {
		memcpy(page + i, &pgno, 4);
		memcpy(page + i + 4, &version, 4);
	}
}

static void put__second_image__ignored(void **state)
{
	uint8_t page[512], want[512];
	struct page_set u;

	(void)state;
	page_set_init(&u, "/tmp", 1 << 20);
	page_set_reset(&u, 512);
	assert_false(page_set_has(&u, 7));
	assert_int_equal(page_set_get(&u, 7, page), -ENOENT);
	image(page, 512, 7, 1);
	assert_int_equal(page_set_add(&u, 7, page), 0);
	image(page, 512, 7, 2);
	assert_int_equal(page_set_add(&u, 7, page), 0);
	assert_int_equal(u.count, 1);
	assert_true(page_set_has(&u, 7));
	assert_false(page_set_has(&u, 8));
	assert_int_equal(page_set_get(&u, 8, page), -ENOENT);
	assert_int_equal(page_set_get(&u, 7, page), 0);
	image(want, 512, 7, 1);
	assert_memory_equal(page, want, 512);
	page_set_fini(&u);
}

/* Page numbers that fall together in the hash, far apart, and at both ends. */
static uint32_t nth(uint32_t i)
{
	switch (i % 4) {
	case 0:
		return i + 1;
	case 1:
		return i << 16;
	case 2:
		return UINT32_MAX - i;
	default:
		return i * 4096 + 3;
	}
}

static void put__many_pages__each_found_and_no_other(size_t threshold)
{
	enum { N = 20000 };
	uint8_t page[512], want[512];
	struct page_set u;

	page_set_init(&u, "/tmp", threshold);
	for (int round = 0; round < 2; round++) {
		page_set_reset(&u, 512);
		for (uint32_t i = 0; i < N; i++) {
			assert_false(page_set_has(&u, nth(i)));
			image(page, 512, nth(i), (uint32_t)round);
			assert_int_equal(page_set_add(&u, nth(i), page), 0);
		}
		assert_int_equal(u.count, N);
		for (uint32_t i = 0; i < N; i++) {
			assert_int_equal(page_set_get(&u, nth(i), page), 0);
			image(want, 512, nth(i), (uint32_t)round);
			assert_memory_equal(page, want, 512);
		}
		for (uint32_t i = 0; i < N; i++)
			assert_int_equal(u.pgnos[i], nth(i));
	}
	page_set_fini(&u);
}

static void put__many_in_memory__each_found(void **state)
{
	(void)state;
	put__many_pages__each_found_and_no_other(64 << 20);
}

static void put__many_spilled__each_found(void **state)
{
	(void)state;
	put__many_pages__each_found_and_no_other(100000);
}

static void reset__small_and_large__empty_and_of_the_new_size(void **state)
{
	static uint8_t page[65536], got[65536];
	struct page_set u;

	(void)state;
	page_set_init(&u, "/tmp", 1 << 20);
	for (uint32_t n = 1; n < 10000; n *= 7) {
		page_set_reset(&u, 512);
		for (uint32_t p = 1; p <= n; p++)
			assert_int_equal(page_set_add(&u, p, page), 0);
		page_set_reset(&u, 65536);
		for (uint32_t p = 1; p <= n; p++) {
			assert_false(page_set_has(&u, p));
			assert_int_equal(page_set_get(&u, p, got), -ENOENT);
		}
		image(page, 65536, n, n);
		assert_int_equal(page_set_add(&u, n, page), 0);
		assert_int_equal(page_set_get(&u, n, got), 0);
		assert_memory_equal(page, got, 65536);
	}
	page_set_fini(&u);
}

static void put__spool_fails__unchanged(void **state)
{
	uint8_t page[512], got[512];
	struct page_set u;

	(void)state;
	page_set_init(&u, "/nonexistent/dir", 1024);
	page_set_reset(&u, 512);
	for (uint32_t p = 1; p <= 2; p++) {
		image(page, 512, p, 0);
		assert_int_equal(page_set_add(&u, p, page), 0);
	}
	assert_int_equal(page_set_add(&u, 3, page), -ENOENT);
	assert_false(page_set_has(&u, 3));
	assert_int_equal(u.count, 2);
	for (uint32_t p = 1; p <= 2; p++) {
		image(page, 512, p, 0);
		assert_int_equal(page_set_get(&u, p, got), 0);
		assert_memory_equal(page, got, 512);
	}
	page_set_fini(&u);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(put__second_image__ignored),
		cmocka_unit_test(put__many_in_memory__each_found),
		cmocka_unit_test(put__many_spilled__each_found),
		cmocka_unit_test(reset__small_and_large__empty_and_of_the_new_size),
		cmocka_unit_test(put__spool_fails__unchanged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
