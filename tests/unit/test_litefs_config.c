/* litefs_config: what LiteFS would read from the same file, and files that are none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <unistd.h>

#include "litefs/litefs_config.h"

static int load(const char *text, size_t len, struct litefs_config *ret)
{
	char path[] = "/tmp/litefwd-test-config-XXXXXX";
	int fd = mkstemp(path), err;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, len), len);
	close(fd);
	err = litefs_config_load(path, true, ret);
	unlink(path);
	return err;
}

static int load_text(const char *text, struct litefs_config *ret)
{
	return load(text, strlen(text), ret);
}

static void load__usual_file__its_values(void **state)
{
	struct litefs_config c = {0};

	(void)state;
	assert_int_equal(load_text("# a comment\n"
				   "fuse:\n  dir: \"/litefs\"\n  allow-other: true\n"
				   "data:\n  dir: /var/lib/litefs # where\n  retention: \"10m\"\n"
				   "exec:\n  - cmd: 'myapp -addr :8081'\n    if-candidate: true\n"
				   "http:\n  addr: \":20203\"\n"
				   "proxy:\n  passthrough: [\"/debug/*\", \"*.png\"]\n"
				   "lease:\n  type: static\n  hostname: n1\n  advertise-url: http://n1:20203\n"
				   "  candidate: false\n  consul:\n    url: http://c:8500\n",
				   &c),
			 0);
	assert_string_equal(c.fuse_dir, "/litefs");
	assert_string_equal(c.data_dir, "/var/lib/litefs");
	assert_string_equal(c.local_url, "http://localhost:20203");
	assert_string_equal(c.lease_type, "static");
	assert_string_equal(c.lease_hostname, "n1");
	assert_string_equal(c.lease_advertise_url, "http://n1:20203");
	assert_string_equal(c.lease_consul_url, "http://c:8500");
	assert_null(c.lease_consul_key);
	litefs_config_fini(&c);
	assert_null(c.fuse_dir);
	litefs_config_fini(&c);
}

static void load__consul_lease__its_values_expanded(void **state)
{
	struct litefs_config c = {0};

	(void)state;
	setenv("LFT_CONSUL", "http://:tok@c:8500/p", 1);
	setenv("LFT_APP", "app", 1);
	assert_int_equal(load_text("lease:\n  type: consul\n  advertise-url: http://n1:20203\n"
				   "  consul:\n    url: \"${LFT_CONSUL}\"\n    key: \"litefs/${LFT_APP}\"\n    ttl: 10s\n",
				   &c),
			 0);
	assert_string_equal(c.lease_type, "consul");
	assert_string_equal(c.lease_consul_url, "http://:tok@c:8500/p");
	assert_string_equal(c.lease_consul_key, "litefs/app");
	litefs_config_fini(&c);
	assert_int_equal(load_text("lease: {type: consul, consul: ~}\n", &c), 0);
	assert_null(c.lease_consul_key);
	litefs_config_fini(&c);
}

static void load__little_or_null__defaults(void **state)
{
	static const char *const texts[] = {"{}", "fuse:\n", "fuse: ~\nhttp: null\n", "http: {addr: }\nlease: {type: ~}\n",
					    "---\nexec: x\n"};
	struct litefs_config c = {0};

	(void)state;
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
		assert_int_equal(load_text(texts[i], &c), 0);
		assert_string_equal(c.fuse_dir, "/litefs");
		assert_string_equal(c.data_dir, "/var/lib/litefs");
		assert_true(c.lease_candidate);
		assert_null(c.lease_type);
		assert_null(c.lease_hostname);
		assert_null(c.lease_advertise_url);
		assert_string_equal(c.local_url, "http://localhost:20202");
		litefs_config_fini(&c);
	}
}

static void load__http_addr__url_that_reaches_it(void **state)
{
	static const struct {
		const char *addr, *url;
	} cases[] = {
		{":20202", "http://localhost:20202"},
		{"127.0.0.1:31", "http://127.0.0.1:31"},
		{"0.0.0.0:31", "http://localhost:31"},
		{"[::]:31", "http://localhost:31"},
		{"[::1]:31", "http://[::1]:31"},
		{"node.internal:65535", "http://node.internal:65535"},
	};
	struct litefs_config c = {0};
	char text[200];

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		snprintf(text, sizeof text, "http: {addr: \"%s\"}", cases[i].addr);
		assert_int_equal(load_text(text, &c), 0);
		assert_string_equal(c.local_url, cases[i].url);
		litefs_config_fini(&c);
	}
}

static void load__http_addr_without_port__ebadmsg(void **state)
{
	static const char *const bad[] = {"20202", ":", ":0", ":http", ":65536", ":1x", "", "host", ":-1", ":99999999999"};
	struct litefs_config c = {0};
	char text[200];

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		snprintf(text, sizeof text, "http: {addr: \"%s\"}", bad[i]);
		assert_int_equal(load_text(text, &c), -EBADMSG);
		assert_non_null(strstr(c.message, "http.addr"));
		assert_null(c.local_url);
	}
}

static void load__environment__expanded_as_litefs_does(void **state)
{
	static const struct {
		const char *in, *out;
	} cases[] = {
		{"$LFT_A", "alpha"},
		{"${LFT_A}", "alpha"},
		{"x${ LFT_A }y", "xalphay"},
		{"$LFT_A-$LFT_A.$LFT_AA", "alpha-alpha."},
		{"a$LFT_NONE", "a"},
		{"a${LFT_NONE}", "a"},
		{"a$", "a$"},
		{"a$.b", "a$.b"},
		{"a${}b", "ab"},
		{"a$$b", "ab"},
		{"a$1b", "ab"},
		{"${LFT_A == 'alpha'}", "true"},
		{"${LFT_A=='alpha'}", "true"},
		{"${LFT_A == 'beta'}", "false"},
		{"${LFT_A != 'beta'}", "true"},
		{"${LFT_A == LFT_B}", "true"},
		{"${LFT_A != LFT_B}", "false"},
		{"${LFT_A == LFT_NONE}", "false"},
		{"${LFT_NONE == ''}", "true"},
		{"${LFT_Q == 'it's'}", "true"},
		{"a${LFT_A == }", "a"},
		{"a${LFT_A = 'alpha'}", "a"},
		{"a${== 'alpha'}", "a"},
		{"a${LFT_A == 'alpha' x}", "a"},
	};
	struct litefs_config c = {0};
	char text[200];

	(void)state;
	setenv("LFT_A", "alpha", 1);
	setenv("LFT_B", "alpha", 1);
	setenv("LFT_Q", "it's", 1);
	unsetenv("LFT_NONE");
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		snprintf(text, sizeof text, "fuse:\n  dir: %s\n", cases[i].in);
		assert_int_equal(load_text(text, &c), 0);
		assert_string_equal(c.fuse_dir, cases[i].out);
		litefs_config_fini(&c);
	}
	assert_int_equal(load_text("fuse:\n  dir: '${LFT_A == \"alpha\"}'\n", &c), 0);
	assert_string_equal(c.fuse_dir, "true");
	litefs_config_fini(&c);
	/* An unclosed one: "${" alone vanishes. */
	assert_int_equal(load_text("fuse:\n  dir: a${LFT_A", &c), 0);
	assert_string_equal(c.fuse_dir, "aLFT_A");
	litefs_config_fini(&c);
}

static void load__variable_not_set__named_where_it_matters(void **state)
{
	static const struct {
		const char *text, *unset;
	} cases[] = {
		{"fuse:\n  dir: /l\nexec: 'run $LFT_NONE'\n", ""},
		{"fuse:\n  dir: /l\nlease:\n  hostname: $LFT_NONE\n", "LFT_NONE"},
		{"lease:\n  consul:\n    key: \"litefs/${ LFT_NONE }\"\n", "LFT_NONE"},
		{"# é$LFT_A\n# $LFT_NONE\nlease:\n  hostname: é\n", ""},
		{"x: $LFT_NL\nlease:\n  hostname: ${LFT_NONE}-1\n", "LFT_NONE"},
		{"lease:\n  candidate: ${LFT_NONE == 'x'}\n  hostname: h\n", ""},
		{"lease:\n  hostname: a$1b$$c${}d\n", ""},
		{"lease:\n  hostname: '$LFT_EMPTY'\n", ""},
		{"lease:\n  hostname: $HOSTNAME\n", ""},
	};
	struct litefs_config c = {0};

	(void)state;
	setenv("LFT_A", "alpha", 1);
	setenv("LFT_NL", "|\n  a\n  b\n  c", 1);
	setenv("LFT_EMPTY", "", 1);
	unsetenv("LFT_NONE");
	unsetenv("HOSTNAME");
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		assert_int_equal(load_text(cases[i].text, &c), 0);
		assert_string_equal(c.unset, cases[i].unset);
		litefs_config_fini(&c);
	}
}

static void load__hostname_not_set__this_machines(void **state)
{
	struct litefs_config c = {0};
	char name[300] = "";

	(void)state;
	assert_int_equal(gethostname(name, sizeof name - 1), 0);
	unsetenv("HOSTNAME");
	assert_int_equal(load_text("lease: {hostname: \"$HOSTNAME\"}\n", &c), 0);
	assert_string_equal(c.lease_hostname, name);
	litefs_config_fini(&c);
	setenv("HOSTNAME", "other", 1);
	assert_int_equal(load_text("lease: {hostname: \"$HOSTNAME\"}\n", &c), 0);
	assert_string_equal(c.lease_hostname, "other");
	litefs_config_fini(&c);
}

static void load__candidate__as_litefs_reads_it(void **state)
{
	static const struct {
		const char *text;
		bool candidate;
	} cases[] = {{"true", true}, {"false", false}, {"~", true}, {"no", false}, {"On", true}, {"${LFT_A == 'alpha'}", true},
		     {"${LFT_A != 'alpha'}", false}};
	struct litefs_config c = {0};
	char text[100];

	(void)state;
	setenv("LFT_A", "alpha", 1);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		snprintf(text, sizeof text, "lease:\n  candidate: %s\n", cases[i].text);
		assert_int_equal(load_text(text, &c), 0);
		assert_true(c.lease_candidate == cases[i].candidate);
		litefs_config_fini(&c);
	}
	assert_int_equal(load_text("lease:\n  candidate: perhaps\n", &c), -EBADMSG);
	assert_non_null(strstr(c.message, "line 2: must be true or false"));
}

static void load__not_expanded__as_it_stands(void **state)
{
	struct litefs_config c = {0};
	char path[] = "/tmp/litefwd-test-config-XXXXXX";
	int fd = mkstemp(path);

	(void)state;
	assert_int_equal(write(fd, "fuse: {dir: /$LFT_A}\n", 21), 21);
	close(fd);
	assert_int_equal(litefs_config_load(path, false, &c), 0);
	assert_string_equal(c.fuse_dir, "/$LFT_A");
	assert_string_equal(c.unset, "");
	litefs_config_fini(&c);
	unlink(path);
}

static void load__aliases_and_merges__followed(void **state)
{
	struct litefs_config c = {0};

	(void)state;
	assert_int_equal(load_text("fuse: &f\n  dir: /a\ndata:\n  <<: *f\nlease:\n  <<: *f\n  type: static\n  hostname: &h h\n"
				   "  advertise-url: *h\n",
				   &c),
			 0);
	assert_string_equal(c.data_dir, "/a");
	assert_string_equal(c.lease_type, "static");
	assert_string_equal(c.lease_advertise_url, "h");
	litefs_config_fini(&c);
	/* Of a list the first that has it. */
	assert_int_equal(load_text("fuse: &f {dir: /a}\ndata: {<<: [{x: 1}, *f, {dir: /c}]}\n", &c), 0);
	assert_string_equal(c.data_dir, "/a");
	litefs_config_fini(&c);
}

static void load__no_litefs_yml__ebadmsg_and_unchanged(void **state)
{
	static const struct {
		const char *text, *says;
	} cases[] = {
		{"", "empty"},
		{"# nothing\n", "empty"},
		{"- a\n- b\n", "mapping"},
		{"just text", "mapping"},
		{"fuse: [1, 2]\n", "line 1"},
		{"fuse:\n  dir: [a]\n", "line 2"},
		{"lease:\n  consul: x\n", "line 2"},
		{"lease:\n  consul:\n    key: [a]\n", "line 3"},
		{"lease:\n  consul:\n    key: a\n    key: b\n", "twice"},
		{"fuse:\n  dir: {a: b}\n", "line 2"},
		{"fuse:\n  dir: /a\n  dir: /b\n", "twice"},
		{"fuse: {}\nhttp: {}\nfuse: {}\n", "twice"},
		{"fuse:\n\tdir: x\n", "line 2"},
		{"fuse: \"unclosed\n", "not YAML"},
		{"fuse: *nobody\n", "not YAML"},
		{"fuse:\n  dir: \"a\\0b\"\n", "zero byte"},
		{"{", "not YAML"},
		{"\xff\xfe\xff\xff", "not YAML"},
	};
	struct litefs_config c = {.fuse_dir = strdup("kept")};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		assert_int_equal(load_text(cases[i].text, &c), -EBADMSG);
		assert_non_null(strstr(c.message, cases[i].says));
		assert_string_equal(c.fuse_dir, "kept");
	}
	litefs_config_fini(&c);
}

static char *repeat(const char *s, size_t times, size_t *len)
{
	size_t n = strlen(s);
	char *all = malloc(n * times + 1);

	for (size_t i = 0; i < times; i++)
		memcpy(all + i * n, s, n);
	all[n * times] = 0;
	*len = n * times;
	return all;
}

static void load__hostile_sizes__bounded(void **state)
{
	/* "? " nests mappings, which is YAML and none of our business; it must only end. */
	static const struct {
		const char *unit;
		int want;
	} cases[] = {{"[", -EBADMSG},	     {"{a: ", -EBADMSG},	{"- ", -EBADMSG},
		     {"? ", 0},		     {"&a [*a, ", -EBADMSG}, {"# 01234567890123456789\n", -EBADMSG}};
	struct litefs_config c = {0};
	size_t len;

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		char *text = repeat(cases[i].unit, 10000, &len);

		assert_int_equal(load(text, len, &c), cases[i].want);
		litefs_config_fini(&c);
		free(text);
	}
	/* An expansion that would grow without bound. */
	{
		char *value = repeat("x", 100000, &len), *text = repeat("$LFT_BIG\n", 100, &len);

		setenv("LFT_BIG", value, 1);
		assert_int_equal(load(text, len, &c), -EBADMSG);
		assert_non_null(strstr(c.message, "longer"));
		unsetenv("LFT_BIG");
		free(value);
		free(text);
	}
}

static void load__every_prefix_of_a_file__no_crash(void **state)
{
	static const char text[] = "fuse: &f\n  dir: \"/l${LFT_A == 'x'}\"\nhttp: {addr: ':1'}\nlease:\n  <<: *f\n  type: static\n";
	struct litefs_config c = {0};
	unsigned good = 0;

	(void)state;
	for (size_t n = 0; n < sizeof text; n++)
		if (load(text, n, &c) == 0) {
			good++;
			litefs_config_fini(&c);
		}
	assert_in_range(good, 1, sizeof text - 1);
}

static void load__unreadable__errno(void **state)
{
	struct litefs_config c = {0};

	(void)state;
	assert_int_equal(litefs_config_load("/nonexistent/litefs.yml", true, &c), -ENOENT);
	assert_int_equal(litefs_config_load("/", true, &c), -EISDIR);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(load__usual_file__its_values),
		cmocka_unit_test(load__consul_lease__its_values_expanded),
		cmocka_unit_test(load__little_or_null__defaults),
		cmocka_unit_test(load__http_addr__url_that_reaches_it),
		cmocka_unit_test(load__http_addr_without_port__ebadmsg),
		cmocka_unit_test(load__environment__expanded_as_litefs_does),
		cmocka_unit_test(load__variable_not_set__named_where_it_matters),
		cmocka_unit_test(load__hostname_not_set__this_machines),
		cmocka_unit_test(load__candidate__as_litefs_reads_it),
		cmocka_unit_test(load__not_expanded__as_it_stands),
		cmocka_unit_test(load__aliases_and_merges__followed),
		cmocka_unit_test(load__no_litefs_yml__ebadmsg_and_unchanged),
		cmocka_unit_test(load__hostile_sizes__bounded),
		cmocka_unit_test(load__every_prefix_of_a_file__no_crash),
		cmocka_unit_test(load__unreadable__errno),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
