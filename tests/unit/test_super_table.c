/* super_table: a few small files by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>

#include "db/super_table.h"

#define NAME "app.db-mj0123AB9CD"
#define LIMIT (1 << 20)

static int setup(void **state)
{
	struct super_table *table;

	assert_int_equal(super_table_new(&table), 0);
	*state = table;
	return 0;
}

static int teardown(void **state)
{
	super_table_free(*state);
	return 0;
}

static void any__no_such_name__enoent(void **state)
{
	struct super_table *t = *state;
	char buf[4];

	assert_int_equal(super_create(t, "other"), 0);
	assert_false(super_exists(t, NAME));
	assert_int_equal(super_size(t, NAME), -ENOENT);
	assert_int_equal(super_write(t, NAME, "x", 1, 0), -ENOENT);
	assert_int_equal(super_write(t, NAME, "x", 0, 0), -ENOENT);
	assert_int_equal(super_read(t, NAME, buf, 4, 0), -ENOENT);
	assert_int_equal(super_unlink(t, NAME), -ENOENT);
	assert_true(super_exists(t, "other"));
}

static void create__exists__as_it_was(void **state)
{
	struct super_table *t = *state;
	char buf[8];

	assert_int_equal(super_create(t, NAME), 0);
	assert_int_equal(super_size(t, NAME), 0);
	assert_int_equal(super_read(t, NAME, buf, sizeof buf, 0), 0);
	assert_int_equal(super_write(t, NAME, "abc", 3, 0), 0);
	assert_int_equal(super_create(t, NAME), 0);
	assert_int_equal(super_read(t, NAME, buf, sizeof buf, 0), 3);
	assert_memory_equal(buf, "abc", 3);
}

static void write__at_offsets__as_a_file(void **state)
{
	struct super_table *t = *state;
	char buf[32];

	assert_int_equal(super_create(t, NAME), 0);
	assert_int_equal(super_write(t, NAME, "abcdef", 6, 4), 0); /* after a hole */
	assert_int_equal(super_write(t, NAME, "XY", 2, 5), 0); /* within */
	assert_int_equal(super_write(t, NAME, "12", 2, 9), 0); /* over the end */
	assert_int_equal(super_size(t, NAME), 11);
	assert_int_equal(super_read(t, NAME, buf, sizeof buf, 0), 11);
	assert_memory_equal(buf, "\0\0\0\0aXYde12", 11);
	assert_int_equal(super_read(t, NAME, buf, 3, 4), 3);
	assert_memory_equal(buf, "aXY", 3);
	assert_int_equal(super_read(t, NAME, buf, 3, 10), 1);
	assert_int_equal(super_read(t, NAME, buf, 3, 11), 0);
	assert_int_equal(super_read(t, NAME, buf, 3, INT64_MAX), 0);
	assert_int_equal(super_read(t, NAME, buf, 3, -1), 0);
}

static void write__beyond_the_limit__efbig_and_unchanged(void **state)
{
	struct super_table *t = *state;

	assert_int_equal(super_create(t, NAME), 0);
	assert_int_equal(super_write(t, NAME, "x", 1, LIMIT), -EFBIG);
	assert_int_equal(super_write(t, NAME, "x", 1, INT64_MAX), -EFBIG);
	assert_int_equal(super_write(t, NAME, "x", 1, -1), -EFBIG);
	assert_int_equal(super_write(t, NAME, "xx", 2, LIMIT - 1), -EFBIG);
	assert_int_equal(super_write(t, NAME, "x", SIZE_MAX, 1), -EFBIG);
	assert_int_equal(super_size(t, NAME), 0);
	assert_int_equal(super_write(t, NAME, "x", 1, LIMIT - 1), 0);
	assert_int_equal(super_size(t, NAME), LIMIT);
}

static void unlink__among_others__that_one_alone(void **state)
{
	static const char *const names[] = {"a", "b", "c"};
	struct super_table *t = *state;

	for (int gone = 0; gone < 3; gone++) {
		char buf[4];

		for (int i = 0; i < 3; i++) {
			assert_int_equal(super_create(t, names[i]), 0);
			assert_int_equal(super_write(t, names[i], names[i], 1, 0), 0);
		}
		assert_int_equal(super_unlink(t, names[gone]), 0);
		for (int i = 0; i < 3; i++) {
			assert_int_equal(super_exists(t, names[i]), i != gone);
			if (i == gone)
				continue;
			assert_int_equal(super_read(t, names[i], buf, 4, 0), 1);
			assert_int_equal(buf[0], names[i][0]);
		}
	}
	/* Made again it is empty. */
	assert_int_equal(super_create(t, "c"), 0);
	assert_int_equal(super_size(t, "c"), 0);
}

static void free__null__harmless(void **state)
{
	(void)state;
	super_table_free(NULL);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(any__no_such_name__enoent),
		TEST(create__exists__as_it_was),
		TEST(write__at_offsets__as_a_file),
		TEST(write__beyond_the_limit__efbig_and_unchanged),
		TEST(unlink__among_others__that_one_alone),
		TEST(free__null__harmless),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
