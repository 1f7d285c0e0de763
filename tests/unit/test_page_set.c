/* page_set: the first image of each page (undo), or the last one (overlay), for as many pages as there are. */
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

static void add__second_image__ignored(void **state)
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

static void add_many_pages(size_t threshold)
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

static void add__many_in_memory__each_found(void **state)
{
	(void)state;
	add_many_pages(64 << 20);
}

static void add__many_spilled__each_found(void **state)
{
	(void)state;
	add_many_pages(100000);
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

static void add__spool_fails__unchanged(void **state)
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

/* Against an array of versions; 0: not there. */
static void put_and_cut_at_random(size_t threshold)
{
	enum { PAGES = 300, SLOTS = 4000 };
	static uint32_t version[PAGES + 1], slot_of[PAGES + 1];
	uint8_t page[512], want[512];
	unsigned seed = 11, cuts = 0;
	struct page_set u;

	memset(version, 0, sizeof version);
	page_set_init(&u, "/tmp", threshold);
	page_set_reset(&u, 512);
	for (uint32_t i = 1; i < SLOTS; i++) {
		uint32_t pgno = 1 + (uint32_t)rand_r(&seed) % PAGES, count = u.count;

		if (rand_r(&seed) % 50 == 0) {
			page_set_cut(&u, pgno);
			memset(version + pgno + 1, 0, sizeof version[0] * (PAGES - pgno));
			assert_int_equal(u.count, count);
			cuts++;
			continue;
		}
		image(page, 512, pgno, i);
		assert_int_equal(page_set_put(&u, pgno, page), 0);
		/* Written again it keeps its slot; cut off and written again it has a new one. */
		assert_int_equal(u.count, version[pgno] ? count : count + 1);
		if (!version[pgno])
			slot_of[pgno] = count;
		version[pgno] = i;
	}
	for (uint32_t pgno = 1; pgno <= PAGES; pgno++) {
		assert_int_equal(page_set_has(&u, pgno), version[pgno] != 0);
		assert_int_equal(page_set_get(&u, pgno, page), version[pgno] ? 0 : -ENOENT);
		if (!version[pgno])
			continue;
		image(want, 512, pgno, version[pgno]);
		assert_memory_equal(page, want, 512);
	}
	for (uint32_t slot = 0; slot < u.count; slot++)
		assert_int_equal(page_set_slot_is_current(&u, slot),
				 version[u.pgnos[slot]] != 0 && slot_of[u.pgnos[slot]] == slot);
	assert_true(cuts > 10);
	assert_int_equal(u.pages.fd >= 0, threshold < 100000);
	page_set_fini(&u);
}

static void put__again_and_after_cuts__the_last_image_in_one_current_slot(void **state)
{
	(void)state;
	put_and_cut_at_random(64 << 20);
	put_and_cut_at_random(10000);
}

static void cut__at_the_last_page_or_beyond__nothing_lost(void **state)
{
	uint8_t page[512];
	struct page_set u;

	(void)state;
	page_set_init(&u, "/tmp", 1 << 20);
	page_set_reset(&u, 512);
	page_set_cut(&u, 0); /* of nothing */
	for (uint32_t pgno = 1; pgno <= 3; pgno++) {
		image(page, 512, pgno, 1);
		assert_int_equal(page_set_put(&u, pgno, page), 0);
	}
	page_set_cut(&u, 3);
	page_set_cut(&u, UINT32_MAX);
	for (uint32_t pgno = 1; pgno <= 3; pgno++)
		assert_true(page_set_has(&u, pgno) && page_set_slot_is_current(&u, pgno - 1));
	page_set_cut(&u, 0);
	for (uint32_t pgno = 1; pgno <= 3; pgno++)
		assert_false(page_set_has(&u, pgno) || page_set_slot_is_current(&u, pgno - 1));
	page_set_reset(&u, 512);
	assert_int_equal(u.count, 0);
	assert_int_equal(page_set_put(&u, 2, page), 0);
	assert_true(page_set_slot_is_current(&u, 0));
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
		assert_int_equal(page_set_put(&u, p, page), 0);
	}
	assert_int_equal(page_set_put(&u, 3, page), -ENOENT);
	assert_false(page_set_has(&u, 3));
	assert_int_equal(u.count, 2);
	image(page, 512, 1, 9);
	assert_int_equal(page_set_put(&u, 1, page), 0); /* there is room for what is there */
	assert_int_equal(page_set_get(&u, 1, got), 0);
	assert_memory_equal(page, got, 512);
	page_set_fini(&u);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(add__second_image__ignored),
		cmocka_unit_test(add__many_in_memory__each_found),
		cmocka_unit_test(add__many_spilled__each_found),
		cmocka_unit_test(reset__small_and_large__empty_and_of_the_new_size),
		cmocka_unit_test(add__spool_fails__unchanged),
		cmocka_unit_test(put__again_and_after_cuts__the_last_image_in_one_current_slot),
		cmocka_unit_test(cut__at_the_last_page_or_beyond__nothing_lost),
		cmocka_unit_test(put__spool_fails__unchanged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
