/* The server of /metrics and /healthz, asked over a bare socket. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "prog/metrics.h"

/* What status is: its text, or NULL where there is no memory for it. */
static const char *status_now;

static json_t *status(void *ctx)
{
	assert_ptr_equal(ctx, &status_now);
	return status_now ? json_loads(status_now, 0, NULL) : NULL;
}

static struct metrics *start(const char *status_text)
{
	struct metrics *m = NULL;

	status_now = status_text;
	assert_int_equal(metrics_start("127.0.0.1:0", status, &status_now, &m), 0);
	return m;
}

/* The answer to one request, whole, as it came; malloc'ed. */
static char *ask(const struct metrics *m, const char *request)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(strrchr(metrics_address(m), ':') + 1))};
	struct timeval limit = {.tv_sec = 60};
	size_t len = 0, size = 1 << 20;
	char *text = malloc(size);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	ssize_t n;

	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof addr), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	assert_int_equal(write(fd, request, strlen(request)), strlen(request));
	while ((n = read(fd, text + len, size - len - 1)) > 0)
		len += (size_t)n;
	assert_int_equal(n, 0); /* the server closed it */
	close(fd);
	text[len] = 0;
	return text;
}

static char *get(const struct metrics *m, const char *method, const char *path)
{
	char request[200];

	snprintf(request, sizeof request, "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", method, path);
	return ask(m, request);
}

static void assert_answer(const struct metrics *m, const char *method, const char *path, const char *code, const char *text)
{
	char *answer = get(m, method, path), line[40];

	snprintf(line, sizeof line, "HTTP/1.1 %s ", code);
	if (strncmp(answer, line, strlen(line)) != 0 || !strstr(answer, text))
		fail_msg("%s %s: not %s with \"%s\":\n%.2000s", method, path, code, text, answer);
	free(answer);
}

static void server__each_path__its_answer(void **state)
{
	struct metrics *m = start("{\"health\": {\"state\": \"well\", \"reasons\": []}}");

	(void)state;
	assert_answer(m, "GET", "/metrics", "200", "Content-Type: text/plain; version=0.0.4");
	assert_answer(m, "GET", "/metrics", "200", "\nlitefwd_healthy 1\n");
	assert_answer(m, "GET", "/metrics?x=1", "200", "\nlitefwd_healthy 1\n");
	assert_answer(m, "GET", "/healthz", "200", "\r\n\r\nwell\n");
	assert_answer(m, "GET", "/", "404", "/metrics and /healthz");
	assert_answer(m, "GET", "/metrics/", "404", "");
	assert_answer(m, "DELETE", "/metrics", "405", "Allow: GET, HEAD");
	assert_answer(m, "HEAD", "/metrics", "200", "\r\n\r\n");
	status_now = "{\"health\": {\"state\": \"degraded\", \"reasons\": [{\"reason\": \"no_primary\", \"db\": null}]}}";
	assert_answer(m, "GET", "/healthz", "503", "\r\n\r\ndegraded: no_primary\n");
	assert_answer(m, "GET", "/metrics", "200", "\nlitefwd_healthy 0\n");
	status_now = NULL;
	assert_answer(m, "GET", "/metrics", "503", "out of memory");
	metrics_stop(m);
}

static void server__head__no_body(void **state)
{
	struct metrics *m = start("{}");
	char *answer = get(m, "HEAD", "/metrics");

	(void)state;
	assert_string_equal(strstr(answer, "\r\n\r\n"), "\r\n\r\n");
	free(answer);
	metrics_stop(m);
}

static void server__request_with_a_body__read_and_refused(void **state)
{
	struct metrics *m = start("{}");
	char *answer = ask(m, "POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello");

	(void)state;
	assert_int_equal(strncmp(answer, "HTTP/1.1 405 ", 13), 0);
	free(answer);
	metrics_stop(m);
}

static void server__what_is_no_http__answered_and_closed(void **state)
{
	struct metrics *m = start("{}");
	char *answer = ask(m, "\x16\x03\x01 hello\r\n\r\n");

	(void)state;
	assert_null(strstr(answer, "litefwd_"));
	free(answer);
	assert_answer(m, "GET", "/metrics", "200", "litefwd_build_info");
	metrics_stop(m);
}

/* Half a request keeps its own connection alone, and the end does not wait for it. */
static void server__client_that_stays_silent__keeps_nobody(void **state)
{
	struct metrics *m = start("{}");
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(strrchr(metrics_address(m), ':') + 1))};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	(void)state;
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof addr), 0);
	assert_int_equal(write(fd, "GET /met", 8), 8);
	assert_answer(m, "GET", "/metrics", "200", "litefwd_build_info");
	metrics_stop(m);
	close(fd);
}

static void start__address__refused_or_taken(void **state)
{
	static const char *const bad[] = {"", ":1", "localhost:1", "1.2.3.4", "1.2.3.4:x", "[::1:1", "1.2.3.4:65536"};
	struct metrics *m = start("{}"), *other = NULL;
	char address[80];

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		assert_int_equal(metrics_start(bad[i], status, &status_now, &other), -EINVAL);
	snprintf(address, sizeof address, "%s", metrics_address(m));
	assert_int_equal(metrics_start(address, status, &status_now, &other), -EADDRINUSE);
	assert_int_equal(metrics_start("192.0.2.1:0", status, &status_now, &other), -EADDRNOTAVAIL);
	assert_null(other);
	metrics_stop(m);
	metrics_stop(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(server__each_path__its_answer),
		cmocka_unit_test(server__head__no_body),
		cmocka_unit_test(server__request_with_a_body__read_and_refused),
		cmocka_unit_test(server__what_is_no_http__answered_and_closed),
		cmocka_unit_test(server__client_that_stays_silent__keeps_nobody),
		cmocka_unit_test(start__address__refused_or_taken),
	};

	log_init(false, LOG_LV_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
