/* consul: where to ask, as LiteFS and Consul's client would, and what answers are believed. */
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

#include "base/clock.h"
#include "fake/fake_consul.h"
#include "litefs/consul.h"
#include "litefs/http.h"

static const char *const variables[] = {"CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN", "CONSUL_HTTP_TOKEN_FILE", "CONSUL_HTTP_AUTH",
					"CONSUL_HTTP_SSL", "CONSUL_NAMESPACE"};

static int clean_environment(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++)
		unsetenv(variables[i]);
	return 0;
}

static void parse(const char *url, const char *key, struct consul_target *ret)
{
	const char *problem = "";
	int err = consul_target_parse(url, key, ret, &problem);

	if (err)
		print_error("%s %s: %s\n", url ? url : "(none)", key, problem);
	assert_int_equal(err, 0);
}

static void target__urls_and_keys__as_litefs_reads_them(void **state)
{
	static const struct {
		const char *url, *key, *base, *path, *token;
	} rows[] = {
		{"http://c:8500", "litefs/primary", "http://c:8500", "/v1/kv/litefs/primary?raw", ""},
		{"http://c:8500/", "/litefs//primary/", "http://c:8500", "/v1/kv/litefs/primary?raw", ""},
		{"HTTP://c", "k", "http://c", "/v1/kv/k?raw", ""},
		{"http://[::1]:1/pre/fix?x=1#y", "./k", "http://[::1]:1", "/v1/kv/pre/fix/k?raw", ""},
		{"http://:t%40k@c:1/p%20q", "a b/\xc3\xa9?&", "http://c:1", "/v1/kv/p%20q/a%20b/%C3%A9%3F%26?raw", "X-Consul-Token: t@k"},
		{"http://user:a@b@c:1", "k", "http://c:1", "/v1/kv/k?raw", "X-Consul-Token: a@b"},
		{"http://user@c:1", "k", "http://c:1", "/v1/kv/k?raw", ""},
		{NULL, "k", "http://127.0.0.1:8500", "/v1/kv/k?raw", ""},
		{"", "k", "http://127.0.0.1:8500", "/v1/kv/k?raw", ""},
		{"http://:s@/p", "k", "http://127.0.0.1:8500", "/v1/kv/p/k?raw", "X-Consul-Token: s"},
	};
	struct consul_target t;

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		parse(rows[i].url, rows[i].key, &t);
		assert_string_equal(t.base, rows[i].base);
		assert_string_equal(t.path, rows[i].path);
		assert_string_equal(t.token, rows[i].token);
		assert_string_equal(t.auth, "");
	}
}

static void target__environment__as_consuls_client_reads_it(void **state)
{
	char file[] = "/tmp/test_consul.XXXXXX";
	int fd = mkstemp(file);
	struct consul_target t;

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(write(fd, " from-file\n", 11), 11);
	close(fd);
	setenv("CONSUL_HTTP_ADDR", "http://other:1", 1);
	setenv("CONSUL_HTTP_TOKEN", "from-env", 1);
	setenv("CONSUL_HTTP_AUTH", "me:pw", 1);
	setenv("CONSUL_NAMESPACE", "a&b", 1);
	parse(NULL, "k", &t);
	assert_string_equal(t.base, "http://other:1");
	assert_string_equal(t.token, "X-Consul-Token: from-env");
	assert_string_equal(t.auth, "Authorization: Basic bWU6cHc=");
	assert_string_equal(t.path, "/v1/kv/k?raw&ns=a%26b");
	parse("http://:from-url@c:1", "k", &t);
	assert_string_equal(t.base, "http://c:1");
	assert_string_equal(t.token, "X-Consul-Token: from-url");
	setenv("CONSUL_HTTP_TOKEN_FILE", file, 1);
	parse("http://:from-url@c:1", "k", &t);
	assert_string_equal(t.token, "X-Consul-Token: from-file");
	unlink(file);
	setenv("CONSUL_HTTP_AUTH", "me", 1);
	unsetenv("CONSUL_HTTP_TOKEN_FILE");
	parse("http://c:1", "k", &t);
	assert_string_equal(t.auth, "Authorization: Basic bWU6");
}

static void refuse(const char *url, const char *key, const char *what)
{
	struct consul_target t = {.base = "kept"};
	const char *problem = "";

	assert_int_equal(consul_target_parse(url, key, &t, &problem), -EINVAL);
	if (!strstr(problem, what))
		print_error("%s %s: %s\n", url ? url : "(none)", key ? key : "(none)", problem);
	assert_non_null(strstr(problem, what));
	assert_string_equal(t.base, "kept");
}

static void target__what_cannot_be_asked__refused_with_its_name(void **state)
{
	char lengthy[2000];

	(void)state;
	memset(lengthy, 'x', sizeof lengthy - 1);
	lengthy[sizeof lengthy - 1] = 0;
	refuse("https://c:8501", "k", "https");
	refuse("HTTPS://:secret@c", "k", "https");
	refuse("localhost:8500", "k", "lease.consul.url");
	refuse("unix:///run/consul.sock", "k", "lease.consul.url");
	refuse("http://c:99999", "k", "lease.consul.url");
	refuse("http://c d", "k", "lease.consul.url");
	refuse("http://c:1/%zz", "k", "lease.consul.url");
	refuse("http://:a%0d%0aX: y@c:1", "k", "lease.consul.url");
	refuse("http://c:1", NULL, "lease.consul.key");
	refuse("http://c:1", "", "lease.consul.key");
	refuse("http://c:1", "//", "lease.consul.key");
	refuse("http://c:1", "a/../b", "lease.consul.key");
	refuse("http://c:1/..", "b", "lease.consul.key");
	refuse("http://c:1", lengthy, "lease.consul.key");
	setenv("CONSUL_HTTP_TOKEN", "a\r\nHost: evil", 1);
	refuse("http://c:1", "k", "token");
	setenv("CONSUL_HTTP_TOKEN", lengthy, 1);
	refuse("http://c:1", "k", "token");
	unsetenv("CONSUL_HTTP_TOKEN");
	setenv("CONSUL_HTTP_TOKEN_FILE", "/nonexistent/token", 1);
	refuse("http://c:1", "k", "CONSUL_HTTP_TOKEN_FILE");
	unsetenv("CONSUL_HTTP_TOKEN_FILE");
	setenv("CONSUL_HTTP_AUTH", lengthy, 1);
	refuse("http://c:1", "k", "CONSUL_HTTP_AUTH");
	unsetenv("CONSUL_HTTP_AUTH");
	setenv("CONSUL_HTTP_ADDR", "https://c:1", 1);
	refuse(NULL, "k", "CONSUL_HTTP_ADDR");
	setenv("CONSUL_HTTP_ADDR", "c:1", 1);
	setenv("CONSUL_HTTP_SSL", "true", 1);
	refuse(NULL, "k", "https");
}

static void decode__what_litefs_writes__and_nothing_else(void **state)
{
	static const char *const bad[] = {
		"", "null", "[]", "\"x\"", "{}", "{\"hostname\":\"h\"}", "{\"advertise-url\":\"http://h:1\"}",
		"{\"hostname\":1,\"advertise-url\":\"http://h:1\"}", "{\"hostname\":\"\",\"advertise-url\":\"http://h:1\"}",
		"{\"hostname\":\"h\",\"advertise-url\":\"\"}", "{\"hostname\":\"h\",\"advertise-url\":\"https://h:1\"}",
		"{\"hostname\":\"h\",\"advertise-url\":\"http://h:1/path\"}", "{\"hostname\":\"h\",\"advertise-url\":\"http://u@h:1\"}",
		"{\"hostname\":\"h\",\"advertise-url\":\"file:///etc/passwd\"}",
		"{\"hostname\":\"h\\u0000x\",\"advertise-url\":\"http://h:1\"}",
		"{\"hostname\":\"h\",\"hostname\":\"i\",\"advertise-url\":\"http://h:1\"}",
		"{\"hostname\":\"h\",\"advertise-url\":\"http://h:1\"} x",
	};
	static const char good[] = "{\"hostname\":\"h\",\"advertise-url\":\"http://h:1\",\"more\":[1]}\n";
	struct consul_primary p = {.hostname = "kept"};
	char lengthy[1000];

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		if (consul_decode(bad[i], strlen(bad[i]), &p) != -EPROTO)
			print_error("believed: %s\n", bad[i]);
		assert_int_equal(consul_decode(bad[i], strlen(bad[i]), &p), -EPROTO);
	}
	snprintf(lengthy, sizeof lengthy, "{\"hostname\":\"%0300d\",\"advertise-url\":\"http://h:1\"}", 0);
	assert_int_equal(consul_decode(lengthy, strlen(lengthy), &p), -EPROTO);
	snprintf(lengthy, sizeof lengthy, "{\"hostname\":\"h\",\"advertise-url\":\"http://%0600d\"}", 0);
	assert_int_equal(consul_decode(lengthy, strlen(lengthy), &p), -EPROTO);
	assert_string_equal(p.hostname, "kept");
	for (size_t n = 0; n < strlen(good) - 2; n++) /* torn anywhere */
		assert_int_equal(consul_decode(good, n, &p), -EPROTO);
	assert_int_equal(consul_decode(good, strlen(good), &p), 0);
	assert_string_equal(p.hostname, "h");
	assert_string_equal(p.url, "http://h:1");
}

struct ctx {
	struct fake_consul *fake;
	struct consul *consul;
};

static int setup(void **state)
{
	struct ctx *c = calloc(1, sizeof *c);
	struct consul_target t;
	const char *problem;
	char url[128];

	clean_environment(state);
	c->fake = fake_consul_start();
	snprintf(url, sizeof url, "http://:s3cret@%s", fake_consul_url(c->fake) + 7);
	setenv("CONSUL_HTTP_AUTH", "me:pw", 1);
	assert_int_equal(consul_target_parse(url, "litefs/primary", &t, &problem), 0);
	assert_int_equal(consul_new(&t, &c->consul), 0);
	*state = c;
	return 0;
}

static int teardown(void **state)
{
	struct ctx *c = *state;

	consul_free(c->consul);
	fake_consul_stop(c->fake);
	free(c);
	return 0;
}

static void ask__answers__told_apart(void **state)
{
	struct ctx *c = *state;
	struct consul_primary p = {.hostname = "kept"};
	char head[8192];

	assert_int_equal(consul_primary(c->consul, 20000, &p), -ENOENT);
	fake_consul_answer(c->fake, "200 OK", "", 0);
	assert_int_equal(consul_primary(c->consul, 20000, &p), -ENOENT);
	fake_consul_answer(c->fake, "403 Forbidden", "Permission denied", 17);
	assert_int_equal(consul_primary(c->consul, 20000, &p), -EACCES);
	assert_non_null(strstr(consul_error(c->consul), "CONSUL_HTTP_TOKEN"));
	fake_consul_answer(c->fake, "500 Oops", "No cluster \"leader\"\n", 20);
	assert_int_equal(consul_primary(c->consul, 20000, &p), -EPROTO);
	assert_string_equal(consul_error(c->consul), "No cluster ?leader??");
	fake_consul_answer(c->fake, "302 Found\r\nLocation: http://evil/", "", 0);
	assert_int_equal(consul_primary(c->consul, 20000, &p), -EPROTO);
	fake_consul_answer(c->fake, "200 OK", "{}", 2);
	assert_int_equal(consul_primary(c->consul, 20000, &p), -EPROTO);
	assert_string_equal(p.hostname, "kept");
	fake_consul_primary(c->fake, "n1", "http://n1:20202");
	assert_int_equal(consul_primary(c->consul, 20000, &p), 0);
	assert_string_equal(p.hostname, "n1");
	assert_string_equal(p.url, "http://n1:20202");
	fake_consul_last(c->fake, head, sizeof head);
	assert_int_equal(strncmp(head, "GET /v1/kv/litefs/primary?raw HTTP/1.1\r\n", 40), 0);
	assert_non_null(strstr(head, "\r\nX-Consul-Token: s3cret\r\n"));
	assert_non_null(strstr(head, "\r\nAuthorization: Basic bWU6cHc=\r\n"));
	assert_null(strstr(head, "Litefs-Id"));
}

static void ask__hostile_answers__bounded_and_rejected(void **state)
{
	static char huge[1024 * 1024];
	struct ctx *c = *state;
	struct consul_primary p;

	memset(huge, ' ', sizeof huge);
	fake_consul_answer(c->fake, "200 OK", huge, sizeof huge);
	assert_int_equal(consul_primary(c->consul, 20000, &p), -EPROTO);
	fake_consul_answer_raw(c->fake, "not HTTP\r\n\r\n", 12);
	assert_true(consul_primary(c->consul, 20000, &p) < 0);
	fake_consul_answer_raw(c->fake, "", 0);
	assert_true(consul_primary(c->consul, 20000, &p) < 0);
	fake_consul_answer_raw(c->fake, "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{\"host", 45);
	assert_true(consul_primary(c->consul, 20000, &p) < 0);
	fake_consul_primary(c->fake, "n1", "http://n1:1");
	assert_int_equal(consul_primary(c->consul, 20000, &p), 0);
}

static void ask__silence_or_abort__ends(void **state)
{
	struct ctx *c = *state;
	struct consul_primary p;

	fake_consul_answer(c->fake, NULL, NULL, 0);
	assert_int_equal(consul_primary(c->consul, 50, &p), -ETIMEDOUT);
	consul_abort(c->consul);
	assert_int_equal(consul_primary(c->consul, 600000, &p), -ECANCELED);
	fake_consul_stop(c->fake);
	c->fake = NULL;
	consul_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(target__urls_and_keys__as_litefs_reads_them, clean_environment),
		cmocka_unit_test_setup(target__environment__as_consuls_client_reads_it, clean_environment),
		cmocka_unit_test_setup(target__what_cannot_be_asked__refused_with_its_name, clean_environment),
		cmocka_unit_test(decode__what_litefs_writes__and_nothing_else),
		cmocka_unit_test_setup_teardown(ask__answers__told_apart, setup, teardown),
		cmocka_unit_test_setup_teardown(ask__hostile_answers__bounded_and_rejected, setup, teardown),
		cmocka_unit_test_setup_teardown(ask__silence_or_abort__ends, setup, teardown),
	};
	int failed;

	if (http_global_init())
		return 1;
	failed = cmocka_run_group_tests_name("consul", tests, NULL, NULL);
	http_global_fini();
	return failed;
}
