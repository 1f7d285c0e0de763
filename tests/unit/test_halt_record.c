/* halt_record: what one litefwd noted, the next one frees. */
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
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#include "litefs/halt_record.h"

struct ctx {
	char dir[40], path[60];
	struct halt_record *rec;
	/* what free_stale asked for */
	char asked[100000];
	unsigned calls;
	uint64_t refuse; /* this id cannot be freed */
};

static int setup(void **state)
{
	struct ctx *c = calloc(1, sizeof *c);

	strcpy(c->dir, "/tmp/test-halts-XXXXXX");
	assert_non_null(mkdtemp(c->dir));
	snprintf(c->path, sizeof c->path, "%s/halts", c->dir);
	assert_int_equal(halt_record_open(c->path, &c->rec), 0);
	*state = c;
	return 0;
}

static int teardown(void **state)
{
	struct ctx *c = *state;

	halt_record_close(c->rec);
	unlink(c->path);
	assert_int_equal(rmdir(c->dir), 0);
	free(c);
	return 0;
}

static int unhalt(void *arg, const char *url, const char *name, uint64_t id)
{
	struct ctx *c = arg;
	size_t n = strlen(c->asked);

	c->calls++;
	snprintf(c->asked + n, sizeof c->asked - n, "[%" PRIu64 " %s %s]", id, name, url);
	return id == c->refuse ? -EHOSTUNREACH : 0;
}

/* The process dies and another one starts. */
static void again(struct ctx *c)
{
	halt_record_close(c->rec);
	c->asked[0] = 0;
	c->calls = 0;
	assert_int_equal(halt_record_open(c->path, &c->rec), 0);
	assert_int_equal(halt_record_free_stale(c->rec, unhalt, c), 0);
}

static void free_stale__nothing_noted__nothing_asked(void **state)
{
	struct ctx *c = *state;
	struct stat st;

	again(c);
	assert_int_equal(c->calls, 0);
	assert_int_equal(stat(c->path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
}

static void free_stale__noted_and_not_deleted__asked_once(void **state)
{
	struct ctx *c = *state;
	int a, b;

	a = halt_record_add(c->rec, "http://one:20202", "a.db", 1);
	b = halt_record_add(c->rec, "http://two:20202", "b.db", INT64_MAX);
	assert_true(a >= 0 && b >= 0 && a != b);
	assert_true(halt_record_add(c->rec, "http://[::1]:1", "c.db", 3) >= 0);
	halt_record_del(c->rec, a);
	again(c);
	assert_string_equal(c->asked, "[9223372036854775807 b.db http://two:20202][3 c.db http://[::1]:1]");
	again(c);
	assert_string_equal(c->asked, "");
}

static void free_stale__primary_away__kept_and_not_overwritten(void **state)
{
	struct ctx *c = *state;

	halt_record_add(c->rec, "http://p:1", "a.db", 5);
	halt_record_add(c->rec, "http://p:1", "a.db", 6);
	c->refuse = 5;
	again(c);
	assert_string_equal(c->asked, "[5 a.db http://p:1][6 a.db http://p:1]");
	assert_true(halt_record_add(c->rec, "http://q:1", "d.db", 9) >= 0);
	c->refuse = 0;
	again(c);
	assert_string_equal(c->asked, "[5 a.db http://p:1][9 d.db http://q:1]");
	again(c);
	assert_int_equal(c->calls, 0);
}

static void add__shorter_over_longer__no_remains(void **state)
{
	struct ctx *c = *state;
	int slot = halt_record_add(c->rec, "http://a-long-host-name.example:20202", "a-long-name.db", INT64_MAX);

	halt_record_del(c->rec, slot);
	assert_int_equal(halt_record_add(c->rec, "http://h", "s", 1), slot);
	again(c);
	assert_string_equal(c->asked, "[1 s http://h]");
}

static void add__more_than_there_are_slots__goes_on_without(void **state)
{
	struct ctx *c = *state;
	int last = -2, n = 0;

	for (uint64_t id = 1; id <= 300; id++) {
		int slot = halt_record_add(c->rec, "http://p:1", "a.db", id);

		if (slot >= 0)
			last = slot, n++;
		else
			assert_int_equal(slot, -1);
	}
	assert_int_equal(n, 256);
	halt_record_del(c->rec, -1);
	halt_record_del(c->rec, last);
	assert_int_equal(halt_record_add(c->rec, "http://p:1", "z.db", 999), last);
	again(c);
	assert_int_equal(c->calls, 256);
	assert_non_null(strstr(c->asked, "[999 z.db http://p:1]"));
}

static void add__cannot_be_noted__refused(void **state)
{
	struct ctx *c = *state;
	char url[1100];

	memset(url, 'u', sizeof url);
	url[sizeof url - 1] = 0;
	assert_int_equal(halt_record_add(NULL, "http://p:1", "a.db", 1), -1);
	assert_int_equal(halt_record_add(c->rec, url, "a.db", 1), -1);
	assert_int_equal(halt_record_add(c->rec, "http://p:1", "a b.db", 1), -1);
	halt_record_del(NULL, 0);
	again(c);
	assert_int_equal(c->calls, 0);
}

/* The longest URL and name there are come back whole, or the wrong primary is asked. */
static void add__longest__whole(void **state)
{
	struct ctx *c = *state;
	char url[512], name[256], want[1000];

	memset(url, 'u', sizeof url - 1);
	url[511] = 0;
	memset(name, 'n', sizeof name - 1);
	name[255] = 0;
	assert_true(halt_record_add(c->rec, url, name, 1) >= 0);
	again(c);
	snprintf(want, sizeof want, "[1 %s %s]", name, url);
	assert_string_equal(c->asked, want);
}

static void free_stale__rubbish_in_the_file__skipped(void **state)
{
	struct ctx *c = *state;
	static uint8_t rubbish[3000];
	int fd = open(c->path, O_WRONLY);

	assert_true(fd >= 0);
	memset(rubbish, 'x', sizeof rubbish);
	memcpy(rubbish, "17 ", 3); /* an id, and no end to the name */
	memcpy(rubbish + 1024, "18 a.db http://p:1\n", 20);
	assert_int_equal(write(fd, rubbish, sizeof rubbish), sizeof rubbish);
	close(fd);
	again(c);
	assert_string_equal(c->asked, "[18 a.db http://p:1]");
}

static void open__symlink_or_no_directory__error(void **state)
{
	struct ctx *c = *state;
	struct halt_record *rec = NULL;
	char link[80];

	snprintf(link, sizeof link, "%s/link", c->dir);
	assert_int_equal(symlink(c->path, link), 0);
	assert_int_equal(halt_record_open(link, &rec), -ELOOP);
	unlink(link);
	assert_int_equal(halt_record_open("/nonexistent/dir/halts", &rec), -ENOENT);
	assert_null(rec);
	halt_record_close(NULL);
}

static void *add_and_del(void *arg)
{
	struct ctx *c = arg;

	for (int i = 0; i < 500; i++) {
		int a = halt_record_add(c->rec, "http://p:1", "a.db", 1), b = halt_record_add(c->rec, "http://p:1", "b.db", 2);

		if (a < 0 || b < 0 || a == b)
			return c;
		halt_record_del(c->rec, a);
		halt_record_del(c->rec, b);
	}
	return NULL;
}

static void add__from_threads__slots_of_their_own(void **state)
{
	struct ctx *c = *state;
	pthread_t t[4];

	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&t[i], NULL, add_and_del, c), 0);
	for (int i = 0; i < 4; i++) {
		void *bad;

		pthread_join(t[i], &bad);
		assert_null(bad);
	}
	assert_int_equal(halt_record_add(c->rec, "http://p:1", "a.db", 7), 0);
	again(c);
	assert_string_equal(c->asked, "[7 a.db http://p:1]");
}

/* Who can write the file could have a litefwd send requests to wherever it likes. */
static void open__others_may_write_it__eperm(void **state)
{
	struct ctx *c = *state;
	struct halt_record *rec = NULL;
	char link_path[80];

	snprintf(link_path, sizeof link_path, "%s/link", c->dir);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(chmod(c->path, i ? 0620 : 0602), 0);
		assert_int_equal(halt_record_open(c->path, &rec), -EPERM);
	}
	assert_int_equal(chmod(c->path, 0600), 0);
	assert_int_equal(link(c->path, link_path), 0);
	assert_int_equal(halt_record_open(c->path, &rec), -EPERM);
	assert_int_equal(unlink(link_path), 0);
	assert_int_equal(mkfifo(link_path, 0600), 0);
	assert_int_equal(halt_record_open(link_path, &rec), -EPERM);
	assert_int_equal(unlink(link_path), 0);
	if (geteuid() == 0) {
		assert_int_equal(chown(c->path, 65534, 65534), 0);
		assert_int_equal(halt_record_open(c->path, &rec), -EPERM);
		assert_int_equal(chown(c->path, 0, 0), 0);
	}
	assert_null(rec);
	assert_int_equal(halt_record_open(c->path, &rec), 0);
	halt_record_close(rec);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(free_stale__nothing_noted__nothing_asked),
		TEST(free_stale__noted_and_not_deleted__asked_once),
		TEST(free_stale__primary_away__kept_and_not_overwritten),
		TEST(add__shorter_over_longer__no_remains),
		TEST(add__more_than_there_are_slots__goes_on_without),
		TEST(add__cannot_be_noted__refused),
		TEST(add__longest__whole),
		TEST(free_stale__rubbish_in_the_file__skipped),
		TEST(open__symlink_or_no_directory__error),
		TEST(open__others_may_write_it__eperm),
		TEST(add__from_threads__slots_of_their_own),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
