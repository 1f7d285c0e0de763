/* walindex: headers that come late undo nothing, those that come in time are taken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <malloc.h>

#include "db/walindex.h"
#include "format/sqlite_format.h"

static const struct vwal wal = {
	.page_size = 65536,
	.salt = {{1, 2, 3, 4, 5, 6, 7, 8}},
	.frame_sum = {0x11223344, 0x55667788},
};

static struct walindex_header header_in(const struct walindex *index)
{
	struct walindex_header h, copy;

	assert_int_equal(walindex_header_decode(index->data, &h), 0);
	assert_int_equal(walindex_header_decode(index->data + 48, &copy), 0);
	assert_memory_equal(&h, &copy, sizeof h);
	return h;
}

/* What a client that has published `change` would write back: a whole page, read mark 2 of `mark`. */
static void client_page(const struct walindex *index, uint32_t change, uint32_t max_frame, uint32_t mark, uint8_t page[4096])
{
	struct walindex_header h = header_in(index);

	memcpy(page, index->data, 4096);
	h.change = change;
	h.max_frame = max_frame;
	walindex_header_encode(&h, page);
	memcpy(page + WALINDEX_READMARK_OFFSET + 8, &mark, 4);
	memset(page + 4000, 0x5a, 96);
}

static int setup(void **state)
{
	struct walindex *index = calloc(1, sizeof *index);

	assert_int_equal(walindex_init(index), 0);
	walindex_restart(index, &wal, 9);
	*state = index;
	return 0;
}

static int teardown(void **state)
{
	walindex_fini(*state);
	free(*state);
	return 0;
}

static uint32_t mark(const struct walindex *index, int i)
{
	uint32_t v;

	memcpy(&v, index->data + WALINDEX_READMARK_OFFSET + 4 * i, 4);
	return v;
}

static void restart__header_of_the_first_frame(void **state)
{
	struct walindex *index = *state;
	struct walindex_header h = header_in(index);
	uint32_t before = h.change;

	assert_int_equal(h.page_size, 65536);
	assert_int_equal(h.max_frame, 1);
	assert_int_equal(h.page_count, 9);
	assert_memory_equal(h.frame_sum, wal.frame_sum, 8);
	assert_memory_equal(h.salt.bytes, wal.salt.bytes, 8);
	assert_int_equal(h.change, index->change);
	assert_int_equal(mark(index, 0), 0);
	assert_int_equal(mark(index, 1), 1);
	for (int i = 2; i < 5; i++)
		assert_int_equal(mark(index, i), 0xffffffff);
	assert_true(index->size >= WALINDEX_BLOCK_SIZE);
	walindex_restart(index, &wal, 10);
	assert_true(header_in(index).change > before);
	assert_int_equal(header_in(index).page_count, 10);
}

/* Found as a reader finds it: from page 1's slot in aHash to frame 1 in aPgno. */
static void init__first_frame__in_the_hash_table(void **state)
{
	struct walindex *index = *state;
	uint16_t frame;
	uint32_t pgno;
	unsigned used = 0;

	memcpy(&frame, index->data + 16384 + 2 * 383, 2);
	assert_int_equal(frame, 1);
	memcpy(&pgno, index->data + 136, 4);
	assert_int_equal(pgno, 1);
	for (size_t i = 136; i < WALINDEX_BLOCK_SIZE; i++)
		used += index->data[i] != 0;
	assert_int_equal(used, 2);
}

static void restart__leaves_the_hash_table(void **state)
{
	struct walindex *index = *state;
	uint8_t page[4096];

	client_page(index, index->change + 1, 1, 3, page);
	assert_int_equal(walindex_write(index, 0, page, sizeof page), 0);
	walindex_restart(index, &wal, 4);
	assert_int_equal(index->data[136], 1);
	assert_int_equal(index->data[4000], 0x5a);
}

static void write__newer_header__taken(void **state)
{
	struct walindex *index = *state;
	uint8_t page[4096];

	client_page(index, index->change + 1, 17, 16, page);
	assert_int_equal(walindex_write(index, 0, page, sizeof page), 0);
	assert_int_equal(header_in(index).max_frame, 17);
	assert_int_equal(mark(index, 2), 16);
	assert_int_equal(index->data[4095], 0x5a);
}

static void write__same_header__taken(void **state)
{
	struct walindex *index = *state;
	uint8_t page[4096];

	/* A reader has set its mark; nothing was committed since. */
	client_page(index, index->change, 1, 1, page);
	assert_int_equal(walindex_write(index, 0, page, sizeof page), 0);
	assert_int_equal(mark(index, 2), 1);
}

static void write__late_with_an_older_header__header_and_marks_stay(void **state)
{
	struct walindex *index = *state;
	uint8_t page[4096], ours[WALINDEX_HEADER_SIZE];

	client_page(index, index->change, 17, 16, page);
	walindex_restart(index, &wal, 5);
	memcpy(ours, index->data, sizeof ours);
	assert_int_equal(walindex_write(index, 0, page, sizeof page), 0);
	assert_memory_equal(index->data, ours, sizeof ours);
	assert_int_equal(index->data[4000], 0x5a); /* the rest is taken */
	assert_int_equal(index->data[136], 1);
	/* Nothing but a header. */
	assert_int_equal(walindex_write(index, 0, page, WALINDEX_HEADER_SIZE), 0);
	assert_memory_equal(index->data, ours, sizeof ours);
}

static void write__change_wraps_around__newer_is_newer(void **state)
{
	struct walindex *index = *state;
	uint8_t page[4096], late[4096];

	client_page(index, index->change, 2, 2, late);
	index->change = UINT32_MAX - 18;
	walindex_restart(index, &wal, 5);
	assert_int_equal(header_in(index).change, UINT32_MAX - 2);
	client_page(index, UINT32_MAX - 1, 3, 3, page);
	assert_int_equal(walindex_write(index, 0, page, sizeof page), 0);
	assert_int_equal(header_in(index).max_frame, 3);
	client_page(index, 1, 4, 4, page);
	assert_int_equal(walindex_write(index, 0, page, sizeof page), 0);
	assert_int_equal(header_in(index).max_frame, 4);
	client_page(index, UINT32_MAX, 5, 5, page);
	assert_int_equal(walindex_write(index, 0, page, sizeof page), 0);
	assert_int_equal(header_in(index).max_frame, 4);
	walindex_restart(index, &wal, 5);
	assert_true((int32_t)(header_in(index).change - 1) > 0);
}

static void write__other_offsets__taken_as_they_are(void **state)
{
	struct walindex *index = *state;
	uint8_t page[4096], buf[4096];

	memset(page, 0xab, sizeof page);
	assert_int_equal(walindex_write(index, 4096, page, sizeof page), 0);
	assert_int_equal(walindex_read(index, 4096, buf, sizeof buf), sizeof buf);
	assert_memory_equal(buf, page, sizeof buf);
	header_in(index);
}

static void write__beyond_the_end__grows_by_blocks_of_zeros(void **state)
{
	struct walindex *index = *state;
	uint8_t buf[4096];

	assert_int_equal(walindex_write(index, 5 * WALINDEX_BLOCK_SIZE + 100, (const uint8_t *)"x", 1), 0);
	assert_int_equal(index->size, 6 * WALINDEX_BLOCK_SIZE);
	for (size_t off = WALINDEX_BLOCK_SIZE; off < index->size; off += sizeof buf) {
		assert_int_equal(walindex_read(index, off, buf, sizeof buf), sizeof buf);
		for (size_t i = 0; i < sizeof buf; i++)
			assert_int_equal(buf[i], off + i == 5 * WALINDEX_BLOCK_SIZE + 100 ? 'x' : 0);
	}
	header_in(index);
	assert_int_equal(walindex_write(index, index->size, (const uint8_t *)"", 1), 0);
	assert_int_equal(index->size, 7 * WALINDEX_BLOCK_SIZE);
}

static void write__far_away__efbig_and_unchanged(void **state)
{
	struct walindex *index = *state;
	const uint8_t page[4096] = {0};
	const uint64_t far[] = {UINT64_C(1) << 30, UINT64_C(1) << 40, INT64_MAX, UINT64_MAX, UINT64_MAX - 4095,
				UINT64_MAX - 4096, (UINT64_C(1) << 30) - 4095};

	for (size_t i = 0; i < sizeof far / sizeof far[0]; i++) {
		assert_int_equal(walindex_write(index, far[i], page, sizeof page), -EFBIG);
		assert_int_equal(index->size, WALINDEX_BLOCK_SIZE);
	}
	header_in(index);
}

static void read__at_the_end__short(void **state)
{
	struct walindex *index = *state;
	uint8_t buf[200];

	assert_int_equal(walindex_read(index, index->size - 100, buf, 200), 100);
	assert_int_equal(walindex_read(index, index->size, buf, 200), 0);
	assert_int_equal(walindex_read(index, UINT64_MAX, buf, 200), 0);
	assert_int_equal(walindex_read(index, 0, buf, 200), 200);
	assert_memory_equal(buf, index->data, 200);
}

static void close_gate__marks_but_0_unused_and_nothing_else(void **state)
{
	struct walindex *index = *state;
	uint8_t page[4096], want[WALINDEX_BLOCK_SIZE];

	client_page(index, index->change + 1, 17, 16, page);
	assert_int_equal(walindex_write(index, 0, page, sizeof page), 0);
	memcpy(want, index->data, sizeof want);
	memset(want + 104, 0xff, 16);
	walindex_close_gate(index);
	assert_memory_equal(index->data, want, sizeof want);
	assert_int_equal(mark(index, 0), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(restart__header_of_the_first_frame),
		TEST(init__first_frame__in_the_hash_table),
		TEST(restart__leaves_the_hash_table),
		TEST(write__newer_header__taken),
		TEST(write__same_header__taken),
		TEST(write__late_with_an_older_header__header_and_marks_stay),
		TEST(write__change_wraps_around__newer_is_newer),
		TEST(write__other_offsets__taken_as_they_are),
		TEST(write__beyond_the_end__grows_by_blocks_of_zeros),
		TEST(write__far_away__efbig_and_unchanged),
		TEST(read__at_the_end__short),
		TEST(close_gate__marks_but_0_unused_and_nothing_else),
	};

	mallopt(M_PERTURB, 0x5a); /* memory that was not cleared must not look as if it were */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
