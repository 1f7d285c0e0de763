/* gw_auth: who does not know the secret, or repeats what he heard, gets nothing. */
#include <errno.h>
#include <stdbool.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "litefs/gw_auth.h"

#define NONCE "0123456789abcdef0123456789abcdef"

static const struct gw_secret secret = {.key = "0123456789abcdef", .len = 16}, other = {.key = "0123456789abcdeF", .len = 16},
			      none = {.len = 0};

struct ctx {
	struct gw_callers *callers;
	char hash[65], value[GW_AUTH_VALUE_MAX], mac[GW_MAC_HEX];
};

static int setup(void **state)
{
	struct ctx *c = calloc(1, sizeof *c);

	gw_hash_once("body", 4, c->hash);
	*state = c;
	return gw_callers_new(&c->callers);
}

static int teardown(void **state)
{
	struct ctx *c = *state;

	gw_callers_free(c->callers);
	gw_callers_free(NULL);
	free(c);
	return 0;
}

static void make(struct ctx *c, uint64_t caller, uint64_t counter)
{
	assert_int_equal(gw_auth_request(&secret, "POST", "/tx?name=a", c->hash, NONCE, caller, counter, c->value, c->mac), 0);
}

static int check(struct ctx *c, const char *value)
{
	char mac[GW_MAC_HEX];

	return gw_auth_check_request(&secret, c->callers, "POST", "/tx?name=a", c->hash, NONCE, value, mac);
}

static void hash__in_pieces__as_at_once(void **state)
{
	struct ctx *c = *state;
	struct gw_hash *hash;
	char hex[65];

	gw_hash_once("", 0, hex);
	assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	assert_int_equal(gw_hash_new(&hash), 0);
	gw_hash_add(hash, "bo", 2);
	gw_hash_add(hash, "", 0);
	gw_hash_add(hash, "dy", 2);
	gw_hash_end(hash, hex);
	gw_hash_free(hash);
	gw_hash_free(NULL);
	assert_string_equal(hex, c->hash);
}

/* HMAC-SHA256 of the documented text, computed with another library. */
static void request__known__documented_mac(void **state)
{
	struct ctx *c = *state;

	make(c, 0xab, 7);
	assert_string_equal(c->value, "v1 00000000000000ab 7 e1f4563eaa946c7bae2d1aaf04d5e3224a7e77691a1aa62071d866cc12aebb1f");
	assert_string_equal(c->mac, "e1f4563eaa946c7bae2d1aaf04d5e3224a7e77691a1aa62071d866cc12aebb1f");
}

static void request_and_answer__both_ways__authentic(void **state)
{
	char mac[GW_MAC_HEX], answer[GW_AUTH_VALUE_MAX];
	struct ctx *c = *state;

	make(c, 1, 1);
	assert_int_equal(gw_auth_check_request(&secret, c->callers, "POST", "/tx?name=a", c->hash, NONCE, c->value, mac), 0);
	assert_string_equal(mac, c->mac);
	assert_int_equal(gw_auth_answer(&secret, mac, 200, c->hash, answer), 0);
	assert_int_equal(gw_auth_check_answer(&secret, c->mac, 200, c->hash, answer), 0);
	assert_int_equal(gw_auth_check_answer(&secret, c->mac, 500, c->hash, answer), -EACCES);
	assert_int_equal(gw_auth_check_answer(&other, c->mac, 200, c->hash, answer), -EACCES);
	assert_int_equal(gw_auth_check_answer(&secret, c->mac, 200, c->hash, NULL), -EACCES);
	gw_hash_once("bodY", 4, mac);
	assert_int_equal(gw_auth_check_answer(&secret, c->mac, 200, mac, answer), -EACCES);
	make(c, 1, 2); /* the answer to another request */
	assert_int_equal(gw_auth_check_answer(&secret, c->mac, 200, c->hash, answer), -EACCES);
	for (size_t n = 0; n < strlen(answer); n++) {
		char cut[GW_AUTH_VALUE_MAX] = "";

		memcpy(cut, answer, n);
		assert_int_equal(gw_auth_check_answer(&secret, c->mac, 200, c->hash, cut), -EBADMSG);
	}
}

static void request__anything_changed__refused(void **state)
{
	struct ctx *c = *state;
	char hash[65], mac[GW_MAC_HEX] = "x";

	gw_hash_once("bodY", 4, hash);
	make(c, 1, 1);
#define REFUSED(s, method, target, body, nonce) \
	assert_int_equal(gw_auth_check_request(s, c->callers, method, target, body, nonce, c->value, mac), -EACCES); \
	assert_string_equal(mac, "")
	REFUSED(&other, "POST", "/tx?name=a", c->hash, NONCE);
	REFUSED(&secret, "DELETE", "/tx?name=a", c->hash, NONCE);
	REFUSED(&secret, "POST", "/tx?name=b", c->hash, NONCE);
	REFUSED(&secret, "POST", "/tx?name=a", hash, NONCE);
	REFUSED(&secret, "POST", "/tx?name=a", c->hash, "1123456789abcdef0123456789abcdef");
	assert_int_equal(check(c, NULL), -EACCES);
	c->value[18] = '2'; /* another caller */
	assert_int_equal(check(c, c->value), -EACCES);
	c->value[18] = '1';
	c->value[20] = '2'; /* another counter */
	assert_int_equal(check(c, c->value), -EACCES);
	c->value[20] = '1';
	assert_int_equal(check(c, c->value), 0); /* what was refused used no counter up */
}

static void request__replayed_or_late__refused(void **state)
{
	char first[GW_AUTH_VALUE_MAX];
	struct ctx *c = *state;

	make(c, 1, 1);
	strcpy(first, c->value);
	make(c, 1, 5);
	assert_int_equal(check(c, c->value), 0);
	assert_int_equal(check(c, c->value), -EACCES);
	assert_int_equal(check(c, first), -EACCES);
	make(c, 2, 1); /* callers count for themselves; one chain of the table */
	assert_int_equal(check(c, c->value), 0);
	make(c, 4097, 1);
	assert_int_equal(check(c, c->value), 0);
	assert_int_equal(check(c, c->value), -EACCES);
	make(c, 1, UINT64_MAX);
	assert_int_equal(check(c, c->value), 0);
}

static void callers__more_than_the_table_holds__longest_unseen_forgotten(void **state)
{
	char kept[GW_AUTH_VALUE_MAX];
	struct ctx *c = *state;

	for (uint64_t caller = 0; caller < 4096; caller++) {
		make(c, caller * 64, 1);
		assert_int_equal(check(c, c->value), 0);
	}
	make(c, 0, 2); /* the first has just been seen */
	strcpy(kept, c->value);
	assert_int_equal(check(c, kept), 0);
	make(c, 1, 1);
	assert_int_equal(check(c, c->value), 0);
	assert_int_equal(check(c, kept), -EACCES);
	make(c, 128, 1); /* 64 has been forgotten, 128 not */
	assert_int_equal(check(c, c->value), -EACCES);
	make(c, 64, 1);
	assert_int_equal(check(c, c->value), 0);
}

static void request__malformed__refused(void **state)
{
	static const char *const bad[] = {"", "v1", "v1 ", "v2 0000000000000001 1 ", "v1 1 1 ", "v1 0000000000000001 01 ",
					  "v1 0000000000000001 -1 ", "v1 0000000000000001 18446744073709551616 ",
					  "v1 000000000000000A 1 ", "v1  0000000000000001 1 ", "v1 0000000000000001  "};
	struct ctx *c = *state;
	char value[400], mac[GW_MAC_HEX];

	make(c, 1, 1);
	for (size_t n = 0; n < strlen(c->value); n++) {
		snprintf(value, n + 1, "%s", c->value);
		assert_int_equal(check(c, value), -EBADMSG);
	}
	snprintf(value, sizeof value, "%s0", c->value);
	assert_int_equal(check(c, value), -EBADMSG);
	memset(value, '1', sizeof value - 1);
	value[sizeof value - 1] = 0;
	assert_int_equal(check(c, value), -EBADMSG);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		snprintf(value, sizeof value, "%s%s", bad[i], c->mac);
		assert_int_equal(check(c, value), -EBADMSG);
	}
	assert_int_equal(gw_auth_request(&secret, "POST", "/a\nb", c->hash, NONCE, 1, 1, value, mac), -EBADMSG);
}

static void secret__none__everything_authentic(void **state)
{
	struct ctx *c = *state;

	assert_int_equal(gw_auth_request(&none, "GET", "/", c->hash, "", 1, 1, c->value, c->mac), 0);
	assert_string_equal(c->value, "");
	assert_int_equal(gw_auth_check_request(&none, c->callers, "GET", "/", c->hash, "", NULL, c->mac), 0);
	assert_int_equal(gw_auth_answer(&none, c->mac, 200, c->hash, c->value), 0);
	assert_int_equal(gw_auth_check_answer(&none, c->mac, 200, c->hash, NULL), 0);
}

static void secret_file__rules__kept(void **state)
{
	static const struct {
		const char *text;
		mode_t mode;
		int err;
		size_t len;
	} rows[] = {
		{"0123456789abcdef", 0600, 0, 16},  {"0123456789abcdef \r\n\n", 0400, 0, 16}, {"0123456789abcdef", 0644, -EPERM, 0},
		{"0123456789abcdef", 0640, -EPERM, 0}, {"0123456789abcdef", 0602, -EPERM, 0}, {"", 0600, -EINVAL, 0},
		{"\n\n", 0600, -EINVAL, 0},	    {"0123456789abcde\n", 0600, -EINVAL, 0},  {" 123456789abcdef\t", 0600, 0, 16},
	};
	char path[] = "/tmp/test_gw_auth.XXXXXX", big[257];
	struct gw_secret got = {.len = 99};
	int fd = mkstemp(path);

	(void)state;
	assert_true(fd >= 0);
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		assert_int_equal(ftruncate(fd, 0), 0);
		assert_int_equal(pwrite(fd, rows[i].text, strlen(rows[i].text), 0), strlen(rows[i].text));
		assert_int_equal(fchmod(fd, rows[i].mode), 0);
		got.len = 99;
		assert_int_equal(gw_secret_read(path, &got), rows[i].err);
		assert_int_equal(got.len, rows[i].err ? 99 : rows[i].len);
		if (!rows[i].err)
			assert_memory_equal(got.key, rows[i].text, got.len);
	}
	memset(big, 'x', sizeof big);
	assert_int_equal(fchmod(fd, 0600), 0);
	assert_int_equal(pwrite(fd, big, 256, 0), 256);
	assert_int_equal(gw_secret_read(path, &got), 0);
	assert_int_equal(got.len, 256);
	assert_int_equal(pwrite(fd, big, 257, 0), 257);
	assert_int_equal(gw_secret_read(path, &got), -EINVAL);
	close(fd);
	unlink(path);
	assert_int_equal(gw_secret_read(path, &got), -ENOENT);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(gw_secret_read(path, &got), -EINVAL);
	unlink(path);
	assert_int_equal(gw_secret_read(NULL, &got), 0);
	assert_int_equal(got.len, 0);
}

static void secret_file__of_another_user__refused(void **state)
{
	char path[] = "/tmp/test_gw_auth.XXXXXX";
	struct gw_secret got = {.len = 99};
	int fd = mkstemp(path);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(write(fd, "0123456789abcdef", 16), 16);
	assert_int_equal(gw_secret_read(path, &got), 0);
	/* Only root can give a file away; whoever it is given to knows what is in it. */
	if (geteuid() == 0) {
		assert_int_equal(fchown(fd, 65534, 65534), 0);
		got.len = 99;
		assert_int_equal(gw_secret_read(path, &got), -EPERM);
		assert_int_equal(got.len, 99);
	}
	close(fd);
	unlink(path);
}

/* VmFlags of the mapping that holds p. */
static void flags_of(const void *p, char ret[256])
{
	FILE *file = fopen("/proc/self/smaps", "re");
	char line[512];
	bool inside = false;

	ret[0] = 0;
	assert_non_null(file);
	while (fgets(line, sizeof line, file)) {
		unsigned long from, to;

		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			inside = (uintptr_t)p >= from && (uintptr_t)p < to;
		else if (inside && !strncmp(line, "VmFlags:", 8))
			snprintf(ret, 256, "%.200s", line);
	}
	fclose(file);
}

static void secret_new__in_memory__in_no_core_dump(void **state)
{
	struct gw_secret *mine = gw_secret_new();
	char flags[256];
	int local = 0;

	(void)state;
	assert_non_null(mine);
	assert_int_equal(mine->len, 0);
	flags_of(mine, flags);
	assert_non_null(strstr(flags, " dd"));
	flags_of(&local, flags);
	assert_true(flags[0] && !strstr(flags, " dd"));
	gw_secret_free(mine);
	gw_secret_free(NULL);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(hash__in_pieces__as_at_once),
		T(request__known__documented_mac),
		T(request_and_answer__both_ways__authentic),
		T(request__anything_changed__refused),
		T(request__replayed_or_late__refused),
		T(callers__more_than_the_table_holds__longest_unseen_forgotten),
		T(request__malformed__refused),
		T(secret__none__everything_authentic),
		T(secret_file__rules__kept),
		T(secret_file__of_another_user__refused),
		T(secret_new__in_memory__in_no_core_dump),
	};

	return cmocka_run_group_tests_name("gw_auth", tests, NULL, NULL);
}
