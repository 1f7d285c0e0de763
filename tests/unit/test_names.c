/* names: what LiteFS' flat names mean, and what may never be sent to it as one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>

#include "format/names.h"

/* A buffer of exactly the promised size, with a sentinel that shows whether it was touched. */
struct out {
	enum file_kind kind;
	char db[NAME_DB_MAX + 1];
	char guard[300];
};

static int parse(const char *name, struct out *o)
{
	memset(o, 0x5a, sizeof *o);
	o->kind = (enum file_kind)77;
	return name_parse(name, &o->kind, o->db);
}

static void assert_untouched(const struct out *o)
{
	const char *p = o->db;

	assert_int_equal((int)o->kind, 77);
	for (size_t i = 0; i < sizeof *o - offsetof(struct out, db); i++)
		assert_int_equal(p[i], 0x5a);
}

static void assert_parsed(const char *name, enum file_kind kind, const char *db)
{
	struct out o;

	assert_int_equal(parse(name, &o), 0);
	assert_int_equal((int)o.kind, (int)kind);
	assert_string_equal(o.db, db);
	assert_int_equal(o.guard[0], 0x5a);
}

static void assert_refused(const char *name, int err)
{
	struct out o;

	assert_int_equal(parse(name, &o), err);
	assert_untouched(&o);
	assert_false(name_is_database(name));
}

static void name_parse__each_kind__database_and_kind(void **state)
{
	(void)state;
	assert_parsed("app.db", FILE_DATABASE, "app.db");
	assert_parsed("app.db-journal", FILE_JOURNAL, "app.db");
	assert_parsed("app.db-wal", FILE_WAL, "app.db");
	assert_parsed("app.db-shm", FILE_SHM, "app.db");
	assert_parsed("app.db-pos", FILE_POS, "app.db");
	assert_parsed("app.db-lock", FILE_LOCK, "app.db");
	assert_parsed("app.db-mj0123AB9CD", FILE_SUPER, "app.db");
	assert_parsed(".primary", FILE_NODE, "");
	assert_parsed(".lag", FILE_NODE, "");
	assert_parsed(".litefwd", FILE_STATUS, "");
}

static void name_parse__suffix_inside_or_changed__is_a_database(void **state)
{
	(void)state;
	assert_parsed("a-wal.db", FILE_DATABASE, "a-wal.db");
	assert_parsed("a-WAL", FILE_DATABASE, "a-WAL");
	assert_parsed("wal", FILE_DATABASE, "wal");
	assert_parsed("a-mj0123ABCD", FILE_DATABASE, "a-mj0123ABCD");
	assert_parsed("a b\xc3\xa4", FILE_DATABASE, "a b\xc3\xa4");
}

/* SQLite's are "-mj", six hexadecimal digits, 9, two more: no other name is taken from an application. */
static void name_parse__nearly_a_super_journal__is_a_database(void **state)
{
	static const char *const names[] = {
		"a-mj0123AB8CD",
		"a-mj0123ab9cd",
		"a-mj0123AG9CD",
		"a-mj0123AB9CDx",
		"a-mj0123AB9C",
		"a-mj00123AB9CD",
		"a-mJ0123AB9CD",
		"a_mj0123AB9CD",
		"mj0123AB9CD",
		"a-mj0123AB9CD.db",
	};

	(void)state;
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		assert_parsed(names[i], FILE_DATABASE, names[i]);
	assert_parsed("a-mjFFFFFF9FF", FILE_SUPER, "a");
	assert_parsed("a-mj9999999999", FILE_DATABASE, "a-mj9999999999");
	assert_parsed("a-mj999999999", FILE_SUPER, "a");
}

static void name_parse__hostile_name__refused_and_outputs_unchanged(void **state)
{
	static const char *const names[] = {
		"",	     ".",	   "..",	"../x",	      "a/b",   "/",	 ".hidden",    ".primary2",
		"-mj0123AB9CD", "x-wal-mj0123AB9CD", "x-mj0123AB9CD-wal", "x-mj0123AB9CD-mj0123AB9CD",
		".lag-wal",  ".primary-wal", "-wal",	"-journal",   "-lock", "-pos",	 "-shm",       "x-shm-wal",
		"x-wal-wal", "a\nb",	   "a\x7f",	"\x01",	      "...",   ".litefwd-shm",
	};

	(void)state;
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		assert_refused(names[i], -EINVAL);
}

static void name_parse__each_length__fits_or_too_long(void **state)
{
	static const struct {
		const char *suffix;
		enum file_kind kind;
	} kinds[] = {
		{"", FILE_DATABASE}, {"-journal", FILE_JOURNAL}, {"-wal", FILE_WAL},
		{"-shm", FILE_SHM},  {"-pos", FILE_POS},	 {"-lock", FILE_LOCK},
		{"-mj0123AB9CD", FILE_SUPER},
	};

	(void)state;
	for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++)
		for (size_t len = 240; len <= 300; len++) {
			char name[320], db[320];

			memset(db, 'a', len);
			db[len] = 0;
			strcpy(name, db);
			strcat(name, kinds[k].suffix);
			/* A super-journal's suffix is longer than what the databases' length leaves room for. */
			if (len <= NAME_DB_MAX && strlen(name) <= 255)
				assert_parsed(name, kinds[k].kind, db);
			else
				assert_refused(name, -ENAMETOOLONG);
		}
}

static void name_is_database__suffixed_or_node_file__false(void **state)
{
	(void)state;
	assert_true(name_is_database("app.db"));
	assert_false(name_is_database("x-wal"));
	assert_false(name_is_database("x-journal"));
	assert_false(name_is_database("x-lock"));
	assert_false(name_is_database("x-mj0123AB9CD"));
	assert_false(name_is_database(".primary"));
	assert_false(name_is_database(".litefwd"));
	assert_false(name_is_database("../x"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(name_parse__each_kind__database_and_kind),
		cmocka_unit_test(name_parse__suffix_inside_or_changed__is_a_database),
		cmocka_unit_test(name_parse__nearly_a_super_journal__is_a_database),
		cmocka_unit_test(name_parse__hostile_name__refused_and_outputs_unchanged),
		cmocka_unit_test(name_parse__each_length__fits_or_too_long),
		cmocka_unit_test(name_is_database__suffixed_or_node_file__false),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
