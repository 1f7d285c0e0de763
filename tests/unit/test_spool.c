/* spool: the same bytes whether they lie in memory or in a file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/spool.h"

static void write_read__random__as_an_array(size_t threshold)
{
	static uint8_t model[100000], buf[100000];
	struct spool s;
	uint64_t size = 0;
	unsigned seed = 7;

	memset(model, 0, sizeof model);
	spool_init(&s, "/tmp", threshold);
	for (int i = 0; i < 3000; i++) {
		uint64_t off = (uint64_t)rand_r(&seed) % 90000;
		size_t len = (size_t)rand_r(&seed) % (i % 100 ? 300 : 10000), n;
		uint64_t limit = (uint64_t)(i + 1) * 60; /* it grows slowly: the threshold is crossed amid the run */

		off %= limit;
		for (size_t k = 0; k < len; k++)
			buf[k] = (uint8_t)rand_r(&seed);
		assert_int_equal(spool_write(&s, off, buf, len), 0);
		memcpy(model + off, buf, len);
		size = off + len > size ? off + len : size;
		assert_int_equal(s.size, size);

		off = (uint64_t)rand_r(&seed) % (size + 100);
		len = (size_t)rand_r(&seed) % 5000;
		n = off >= size ? 0 : len < size - off ? len : (size_t)(size - off);
		memset(buf, 0xee, len + 1);
		assert_int_equal(spool_read(&s, off, buf, len), n);
		assert_memory_equal(buf, model + (n ? off : 0), n);
		assert_int_equal(buf[n], 0xee);
	}
	assert_int_equal(s.fd >= 0, threshold < size);
	assert_true(s.fd >= 0 || s.cap >= size);
	assert_true(s.fd < 0 || !s.mem);
	spool_fini(&s);
}

static void write_read__in_memory__as_an_array(void **state)
{
	(void)state;
	write_read__random__as_an_array(1 << 20);
}

static void write_read__spilled_midway__as_an_array(void **state)
{
	(void)state;
	write_read__random__as_an_array(20000);
}

static void write_read__no_memory_allowed__as_an_array(void **state)
{
	(void)state;
	write_read__random__as_an_array(0);
}

static void write__gap__reads_as_zeros(void **state)
{
	(void)state;
	for (int spilled = 0; spilled < 2; spilled++) {
		struct spool s;
		uint8_t buf[20];

		spool_init(&s, "/tmp", spilled ? 0 : 4096);
		/* Memory that was used before, and is kept by reset, is not the gap. */
		memset(buf, 0xff, sizeof buf);
		assert_int_equal(spool_write(&s, 0, buf, 20), 0);
		spool_reset(&s);
		assert_int_equal(s.size, 0);
		assert_int_equal(spool_read(&s, 0, buf, 20), 0);
		assert_int_equal(spool_write(&s, 10, "x", 1), 0);
		assert_int_equal(spool_read(&s, 0, buf, 20), 11);
		assert_memory_equal(buf, "\0\0\0\0\0\0\0\0\0\0x", 11);
		spool_fini(&s);
	}
}

static int files_in(const char *dir)
{
	DIR *d = opendir(dir);
	int n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

static void spill__file_has_no_name(void **state)
{
	char dir[] = "/tmp/test-spool-XXXXXX";
	struct spool s;

	(void)state;
	assert_non_null(mkdtemp(dir));
	spool_init(&s, dir, 4);
	assert_int_equal(spool_write(&s, 0, "abcd", 4), 0);
	assert_true(s.fd < 0); /* the threshold itself is still memory */
	assert_int_equal(spool_write(&s, 4, "e", 1), 0);
	assert_true(s.fd >= 0);
	assert_int_equal(files_in(dir), 0);
	spool_fini(&s);
	assert_true(s.fd < 0);
	assert_int_equal(s.size, 0);
	assert_int_equal(rmdir(dir), 0);
}

static void reset__much_memory__given_back(void **state)
{
	struct spool s;
	static const uint8_t zero[1 << 20];

	(void)state;
	spool_init(&s, "/tmp", 8 << 20);
	assert_int_equal(spool_write(&s, 0, zero, sizeof zero), 0);
	spool_reset(&s);
	assert_true(s.cap <= (size_t)256 << 10);
	spool_fini(&s);
}

static void write__no_directory__error_and_contents_kept(void **state)
{
	struct spool s;
	char buf[8];

	(void)state;
	spool_init(&s, "/nonexistent/dir", 4);
	assert_int_equal(spool_write(&s, 0, "abc", 3), 0);
	assert_int_equal(spool_write(&s, 2, "defg", 4), -ENOENT);
	assert_int_equal(s.size, 3);
	assert_int_equal(spool_read(&s, 0, buf, 8), 3);
	assert_memory_equal(buf, "abc", 3);
	assert_int_equal(spool_write(&s, 3, "d", 1), 0);
	spool_fini(&s);
}

/* A full disk, as far as a process can make one for itself. */
static void write__file_may_not_grow__error_and_old_bytes_kept(void **state)
{
	struct rlimit old, limit;
	struct spool s;
	char buf[16];
	int err;

	(void)state;
	spool_init(&s, "/tmp", 0);
	assert_int_equal(spool_write(&s, 0, "abcdefgh", 8), 0);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	signal(SIGXFSZ, SIG_IGN);
	limit = (struct rlimit){10, old.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	err = spool_write(&s, 8, "ijklmnop", 8);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	signal(SIGXFSZ, SIG_DFL);
	assert_int_equal(err, -EFBIG);
	assert_int_equal(s.size, 8);
	assert_int_equal(spool_read(&s, 0, buf, 16), 8);
	assert_memory_equal(buf, "abcdefgh", 8);
	assert_int_equal(spool_write(&s, 8, "ijkl", 4), 0);
	assert_int_equal(spool_read(&s, 0, buf, 16), 12);
	assert_memory_equal(buf, "abcdefghijkl", 12);
	spool_fini(&s);
}

static void truncate__then_written_beyond__zeros_between(void **state)
{
	static const size_t thresholds[] = {0, 4096, 30};

	(void)state;
	for (size_t i = 0; i < sizeof thresholds / sizeof thresholds[0]; i++) {
		struct spool s;
		char buf[60];

		spool_init(&s, "/tmp", thresholds[i]);
		assert_int_equal(spool_truncate(&s, 0), 0); /* of nothing */
		assert_int_equal(spool_write(&s, 0, "abcdefghijklmnopqrst", 20), 0);
		assert_int_equal(spool_truncate(&s, 21), 0); /* never longer */
		assert_int_equal(spool_truncate(&s, 20), 0);
		assert_int_equal(s.size, 20);
		assert_int_equal(spool_truncate(&s, 5), 0);
		assert_int_equal(s.size, 5);
		assert_int_equal(spool_read(&s, 5, buf, 10), 0);
		assert_int_equal(spool_read(&s, 0, buf, sizeof buf), 5);
		assert_memory_equal(buf, "abcde", 5);
		/* Where bytes had been; the second time over the last threshold, so that it spills with the hole in it. */
		assert_int_equal(spool_write(&s, 10, "X", 1), 0);
		assert_int_equal(spool_write(&s, 40, "Y", 1), 0);
		assert_int_equal(s.fd >= 0, thresholds[i] < 41);
		memset(buf, 0xee, sizeof buf);
		assert_int_equal(spool_read(&s, 0, buf, sizeof buf), 41);
		assert_memory_equal(buf, "abcde\0\0\0\0\0X", 11);
		for (int k = 11; k < 40; k++)
			assert_int_equal(buf[k], 0);
		assert_int_equal(buf[40], 'Y');
		assert_int_equal(spool_truncate(&s, 0), 0);
		assert_int_equal(s.size, 0);
		assert_int_equal(spool_write(&s, 2, "Z", 1), 0);
		assert_int_equal(spool_read(&s, 0, buf, sizeof buf), 3);
		assert_memory_equal(buf, "\0\0Z", 3);
		spool_fini(&s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(write_read__in_memory__as_an_array),
		cmocka_unit_test(write_read__spilled_midway__as_an_array),
		cmocka_unit_test(write_read__no_memory_allowed__as_an_array),
		cmocka_unit_test(write__gap__reads_as_zeros),
		cmocka_unit_test(truncate__then_written_beyond__zeros_between),
		cmocka_unit_test(spill__file_has_no_name),
		cmocka_unit_test(reset__much_memory__given_back),
		cmocka_unit_test(write__no_directory__error_and_contents_kept),
		cmocka_unit_test(write__file_may_not_grow__error_and_old_bytes_kept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
