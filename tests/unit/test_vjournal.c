/* vjournal: when a journal is hot, which write ends it, and which super-journal its end names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>

#include "db/vjournal.h"
#include "format/sqlite_format.h"

static int setup(void **state)
{
	struct vjournal *j = calloc(1, sizeof *j);

	vjournal_init(j, "/tmp", 1 << 20);
	*state = j;
	return 0;
}

static int teardown(void **state)
{
	vjournal_fini(*state);
	free(*state);
	return 0;
}

static void make_hot(struct vjournal *j)
{
	vjournal_create(j);
	assert_int_equal(vjournal_write(j, 0, journal_magic, JOURNAL_MAGIC_SIZE), 0);
	assert_true(vjournal_is_hot(j));
}

static void life__created_written_removed__hot_only_with_the_whole_magic(void **state)
{
	struct vjournal *j = *state;

	assert_false(j->exists || vjournal_is_hot(j));
	vjournal_create(j);
	assert_true(j->exists);
	assert_int_equal(j->bytes.size, 0);
	assert_false(vjournal_is_hot(j));
	/* SQLite writes the header in one piece, but nothing promises that. */
	for (uint32_t n = 1; n <= JOURNAL_MAGIC_SIZE; n++) {
		assert_int_equal(vjournal_write(j, n - 1, journal_magic + n - 1, 1), 0);
		assert_int_equal(vjournal_is_hot(j), n == JOURNAL_MAGIC_SIZE);
	}
	vjournal_create(j); /* as it is */
	assert_true(vjournal_is_hot(j));
	vjournal_remove(j);
	assert_false(j->exists || vjournal_is_hot(j));
	assert_int_equal(j->bytes.size, 0);
	vjournal_remove(j);
	vjournal_create(j);
	assert_int_equal(j->bytes.size, 0);
}

/* PERSIST: the same file goes on, with zeros for a header between transactions. */
static void life__header_zeroed_and_written_again__cold_and_hot_again(void **state)
{
	static const uint8_t zeros[28];
	struct vjournal *j = *state;

	make_hot(j);
	assert_int_equal(vjournal_write(j, 512, "record", 6), 0);
	assert_int_equal(vjournal_write(j, 0, zeros, sizeof zeros), 0);
	assert_true(j->exists);
	assert_false(vjournal_is_hot(j));
	assert_int_equal(j->bytes.size, 518);
	make_hot(j);
}

static void write_ends__each_offset_and_byte__only_what_breaks_the_magic(void **state)
{
	struct vjournal *j = *state;
	uint8_t data[32];

	make_hot(j);
	for (uint64_t off = 0; off < 20; off++)
		for (size_t len = 0; len <= sizeof data; len++)
			for (size_t bad = 0; bad <= len; bad++) { /* bad == len: none */
				bool ends = bad < len && off + bad < JOURNAL_MAGIC_SIZE;

				for (size_t i = 0; i < len; i++)
					data[i] = off + i < JOURNAL_MAGIC_SIZE ? journal_magic[off + i] : 0;
				if (bad < len)
					data[bad] ^= 1;
				assert_int_equal(vjournal_write_ends(j, off, data, len), ends);
			}
	assert_false(vjournal_write_ends(j, UINT64_MAX, data, 1));
	assert_true(vjournal_is_hot(j)); /* it was only asked */
}

static void write_ends__cold_or_none__false(void **state)
{
	static const uint8_t zeros[28];
	struct vjournal *j = *state;

	assert_false(vjournal_write_ends(j, 0, zeros, sizeof zeros));
	vjournal_create(j);
	assert_false(vjournal_write_ends(j, 0, zeros, sizeof zeros));
	assert_int_equal(vjournal_write(j, 0, zeros, sizeof zeros), 0);
	assert_false(vjournal_write_ends(j, 0, zeros, sizeof zeros));
}

/* As SQLite's writeSuperJournal(): lock page number, path, its length, sum of its plain chars, magic. */
static void append_super(struct vjournal *j, const char *path, uint32_t len, uint32_t off_by)
{
	uint8_t tail[JOURNAL_SUPER_TAIL_SIZE], lock_page[4] = {0};
	uint64_t at = j->bytes.size;
	uint32_t sum = off_by;

	for (const char *p = path; *p; p++)
		sum += (uint32_t)*p;
	put_be32(tail, len);
	put_be32(tail + 4, sum);
	memcpy(tail + 8, journal_magic, JOURNAL_MAGIC_SIZE);
	assert_int_equal(vjournal_write(j, at, lock_page, 4), 0);
	assert_int_equal(vjournal_write(j, at + 4, path, strlen(path)), 0);
	assert_int_equal(vjournal_write(j, at + 4 + strlen(path), tail, sizeof tail), 0);
}

static void assert_super(struct vjournal *j, const char *want)
{
	char got[SUPER_NAME_MAX];

	memset(got, 'x', sizeof got);
	vjournal_super(j, got);
	assert_string_equal(got, want);
}

static void super__path_at_the_end__last_component(void **state)
{
	struct vjournal *j = *state;

	make_hot(j);
	assert_super(j, "");
	append_super(j, "/mnt/data/app.db-mj0123AB9CD", 28, 0);
	assert_super(j, "app.db-mj0123AB9CD");
	append_super(j, "app.db-mj0000009CD", 18, 0); /* without a slash; the last one counts */
	assert_super(j, "app.db-mj0000009CD");
	/* Bytes beyond ASCII: SQLite's sum is of plain chars, signed here. */
	append_super(j, "/m/\xc3\xa4.db-mj0000009CD", 20, 0);
	assert_super(j, "\xc3\xa4.db-mj0000009CD");
}

static void super__not_quite_at_the_end__none(void **state)
{
	struct vjournal *j = *state;

	make_hot(j);
	append_super(j, "/m/a-mj0123AB9CD", 16, 1); /* another sum */
	assert_super(j, "");
	append_super(j, "/m/a-mj0123AB9CD", 15, 0); /* another length: another sum */
	assert_super(j, "");
	append_super(j, "/m/a-mj0123AB9CD", 4096, 0); /* longer than the file */
	assert_super(j, "");
	append_super(j, "/m/a-mj0123AB9CD", 0, 0);
	assert_super(j, "");
	append_super(j, "/m/", 3, 0); /* names a folder */
	assert_super(j, "");
	append_super(j, "/m/a-mj0123AB9CD", 16, 0);
	assert_super(j, "a-mj0123AB9CD");
	assert_int_equal(vjournal_write(j, j->bytes.size, "record", 6), 0); /* the transaction went on */
	assert_super(j, "");
}

static void super__each_short_file__none_and_no_read_beyond(void **state)
{
	struct vjournal *j = *state;

	for (uint64_t n = 0; n < JOURNAL_SUPER_TAIL_SIZE + 5; n++) {
		vjournal_remove(j);
		vjournal_create(j);
		append_super(j, "a", 1, 0);
		assert_super(j, "a");
		assert_int_equal(spool_truncate(&j->bytes, n), 0);
		assert_super(j, "");
	}
}

static void super__name_of_each_length__longest_that_fits(void **state)
{
	struct vjournal *j = *state;

	vjournal_create(j);
	for (uint32_t n = SUPER_NAME_MAX - 3; n < SUPER_NAME_MAX + 3; n++) {
		char path[SUPER_NAME_MAX + 10] = "/m/";

		memset(path + 3, 'a', n);
		append_super(j, path, n + 3, 0);
		assert_super(j, n < SUPER_NAME_MAX ? path + 3 : "");
	}
}

static void write__spool_fails__error_and_still_hot(void **state)
{
	struct vjournal *j = *state;

	vjournal_fini(j);
	vjournal_init(j, "/nonexistent/dir", 512);
	make_hot(j);
	assert_int_equal(vjournal_write(j, 512, "x", 1), -ENOENT);
	assert_true(vjournal_is_hot(j));
	assert_int_equal(j->bytes.size, JOURNAL_MAGIC_SIZE);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(life__created_written_removed__hot_only_with_the_whole_magic),
		TEST(life__header_zeroed_and_written_again__cold_and_hot_again),
		TEST(write_ends__each_offset_and_byte__only_what_breaks_the_magic),
		TEST(write_ends__cold_or_none__false),
		TEST(super__path_at_the_end__last_component),
		TEST(super__not_quite_at_the_end__none),
		TEST(super__each_short_file__none_and_no_read_beyond),
		TEST(super__name_of_each_length__longest_that_fits),
		TEST(write__spool_fails__error_and_still_hot),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
