/* api: each verb against a scripted LiteFS, with each way in which an answer can be wrong, late or lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>

#include "base/clock.h"
#include "fake/fake_litefs.h"
#include "litefs/api.h"

#define NODE UINT64_C(0x0123456789ABCDEF)
#define OURS UINT64_C(0xFEDCBA9876543210)
#define LONG_MS 20000 /* a bound that no passing test reaches */

struct ctx {
	struct fake *fake;
	struct api *api;
};

static int setup(void **state)
{
	struct ctx *c = calloc(1, sizeof *c);

	c->fake = fake_start(NODE);
	if (api_new(fake_url(c->fake), OURS, &c->api))
		return -1;
	*state = c;
	return 0;
}

static int teardown(void **state)
{
	struct ctx *c = *state;

	api_free(c->api);
	fake_stop(c->fake);
	free(c);
	return 0;
}

static void script(struct ctx *c, enum fake_verb verb, struct fake_step step)
{
	fake_script(c->fake, verb, &step);
}

static int info(struct ctx *c, struct api_info *ret)
{
	return api_info(c->api, LONG_MS, ret);
}

static int halt(struct ctx *c, uint64_t id, struct api_halt *ret)
{
	return api_halt(c->api, "a.db", id, LONG_MS, ret, NULL);
}

/* ---- objects and URLs ---- */

static void api_new__unusable_url__refused(void **state)
{
	static const char *const bad[] = {
		"",		       "localhost:20202",	"https://localhost:20202", "ftp://localhost",
		"http://",	       "http://:20202",		"http://a:0",		   "http://a:65536",
		"http://a:1x",	       "http://a/path",		"http://a?x",		   "http://a#x",
		"http://user@a:20202", "http://u:p@a:20202",	"http://a b",		   "http://a\r\nX: y",
		"http://[::1",	       "http://a:20202//",	"http://{hostname}:20202", "file:///etc/passwd",
		"http://a\x7f",	       " http://localhost:20202",
	};
	struct api *api = (struct api *)&api;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		assert_int_equal(api_new(bad[i], 1, &api), -EINVAL);
		assert_ptr_equal(api, &api);
	}
}

static void api_new__usable_url__kept_without_slash(void **state)
{
	struct api *api;

	(void)state;
	assert_int_equal(api_new("http://[::1]:20202/", 1, &api), 0);
	assert_string_equal(api_url(api), "http://[::1]:20202");
	assert_string_equal(api_error(api), "");
	assert_true(api_rtt_ns(api) == 0);
	api_free(api);
	api_free(NULL);
}

/* ---- info, and what all answers share ---- */

static void info__honest__every_field(void **state)
{
	struct ctx *c = *state;
	struct api_info i;
	char head[8192];

	fake_set_role(c->fake, false, "other");
	fake_set_cluster(c->fake, "LFSC1234", "/var/lib/x");
	assert_int_equal(info(c, &i), 0);
	assert_false(i.is_primary);
	assert_string_equal(i.primary_hostname, "other");
	assert_string_equal(i.cluster_id, "LFSC1234");
	assert_string_equal(i.path, "/var/lib/x");
	assert_true(i.server_id == NODE);
	fake_last_request(c->fake, FAKE_INFO, head, sizeof head);
	assert_non_null(strstr(head, "\r\nLitefs-Id: FEDCBA9876543210\r\n"));
	assert_non_null(strstr(head, "GET /info HTTP/1.1\r\n"));
	assert_null(strstr(head, "Upgrade"));
	assert_true(api_rtt_ns(c->api) > 0);
}

static void info__no_cluster_id__empty(void **state)
{
	struct ctx *c = *state;
	struct api_info i;

	fake_set_cluster(c->fake, "", "/p");
	assert_int_equal(info(c, &i), 0);
	assert_string_equal(i.cluster_id, "");
	assert_true(i.is_primary);
}

static void calls__many__one_connection(void **state)
{
	struct ctx *c = *state;
	struct api_info i;
	struct api_halt h;

	for (int n = 0; n < 50; n++) {
		assert_int_equal(info(c, &i), 0);
		assert_int_equal(halt(c, 7, &h), 0);
		assert_int_equal(api_unhalt(c->api, "a.db", 7, LONG_MS), 0);
	}
	assert_int_equal(fake_connections(c->fake), 1);
}

static void info__malformed_json__eproto_and_unchanged(void **state)
{
	static const char *const bad[] = {
		"",
		"null",
		"[]",
		"{",
		"{}",
		"{\"isPrimary\":1,\"path\":\"/x\",\"primary\":{\"hostname\":\"\"}}",
		"{\"isPrimary\":true,\"path\":7,\"primary\":{\"hostname\":\"\"}}",
		"{\"isPrimary\":true,\"path\":\"/x\",\"primary\":\"\"}",
		"{\"isPrimary\":true,\"path\":\"/x\",\"primary\":{\"hostname\":null}}",
		"{\"isPrimary\":true,\"path\":\"/x\",\"primary\":{\"hostname\":\"\"},\"clusterID\":[]}",
		"{\"isPrimary\":true,\"isPrimary\":false,\"path\":\"/x\",\"primary\":{\"hostname\":\"\"}}",
		"{\"isPrimary\":true,\"path\":\"/x\\u0000y\",\"primary\":{\"hostname\":\"\"}}",
		"{\"isPrimary\":true,\"path\":\"/x\",\"primary\":{\"hostname\":\"\"}} trailing",
		("{\"isPrimary\":true,\"path\":\"/x\",\"primary\":{\"hostname\":\"\"},\"clusterID\":\""
		 "0123456789012345678901234567890123456789012345678901234567890123\"}"),
		"\xff\xfe",
	};
	struct ctx *c = *state;
	struct api_info i, before;

	memset(&i, 0x5a, sizeof i);
	before = i;
	for (size_t n = 0; n < sizeof bad / sizeof bad[0]; n++) {
		script(c, FAKE_INFO, (struct fake_step){.does = FAKE_ANSWER, .body = bad[n]});
		assert_int_equal(info(c, &i), -EPROTO);
		assert_memory_equal(&i, &before, sizeof i);
		assert_true(api_error(c->api)[0] != 0);
	}
	assert_int_equal(info(c, &i), 0);
}

static void info__deeply_nested_json__eproto(void **state)
{
	struct ctx *c = *state;
	struct api_info i;

	script(c, FAKE_INFO, (struct fake_step){.does = FAKE_ANSWER, .body = "[", .repeat = 500000});
	assert_int_equal(info(c, &i), -EPROTO);
}

static void info__huge_answer__eproto_and_connection_dropped(void **state)
{
	static char block[64 * 1024];
	struct ctx *c = *state;
	struct api_info i;

	memset(block, ' ', sizeof block);
	script(c, FAKE_INFO,
	       (struct fake_step){.does = FAKE_ANSWER, .body = block, .body_len = sizeof block, .repeat = 128});
	assert_int_equal(info(c, &i), -EPROTO);
	assert_true(fake_wait_open(c->fake, 0));
	assert_int_equal(info(c, &i), 0);
}

static void info__endless_headers__eproto(void **state)
{
	static char headers[200 * 1024];
	size_t n = (size_t)sprintf(headers, "HTTP/1.1 200 OK\r\n");
	struct ctx *c = *state;
	struct api_info i;

	while (n < sizeof headers - 64)
		n += (size_t)sprintf(headers + n, "X-Filler: 0123456789012345678901234567\r\n");
	script(c, FAKE_INFO, (struct fake_step){.does = FAKE_RAW, .body = headers, .body_len = n});
	assert_int_equal(info(c, &i), -EPROTO);
}

static void info__no_or_two_ids__eproto(void **state)
{
	struct ctx *c = *state;
	struct api_info i;

	script(c, FAKE_INFO, (struct fake_step){.id = FAKE_ID_NONE});
	assert_int_equal(info(c, &i), -EPROTO);
	script(c, FAKE_INFO, (struct fake_step){.id = FAKE_ID_TWICE});
	assert_int_equal(info(c, &i), -EPROTO);
	script(c, FAKE_INFO, (struct fake_step){.id = FAKE_ID_NONE, .header = "Litefs-Id: 0123456789abcdeg"});
	assert_int_equal(info(c, &i), -EPROTO);
}

static void info__redirect__not_followed(void **state)
{
	struct ctx *c = *state;
	struct fake *other = fake_start(5);
	char location[128];
	struct api_info i;

	snprintf(location, sizeof location, "Location: %s/info", fake_url(other));
	for (int status = 301; status <= 308; status++) {
		script(c, FAKE_INFO, (struct fake_step){.does = FAKE_ANSWER, .status = status, .header = location});
		assert_int_equal(info(c, &i), -EPROTO);
	}
	assert_int_equal(fake_connections(other), 0);
	fake_stop(other);
}

static void info__error_answers__eremoteio_with_clean_text(void **state)
{
	struct ctx *c = *state;
	struct api_info i;

	script(c, FAKE_INFO,
	       (struct fake_step){.does = FAKE_ANSWER, .status = 503, .body = "no \"way\"\n\x1b[31m of it"});
	assert_int_equal(info(c, &i), -EREMOTEIO);
	assert_string_equal(api_error(c->api), "no ?way???[31m of it");
	script(c, FAKE_INFO,
	       (struct fake_step){.does = FAKE_ANSWER, .status = 503, .id = FAKE_ID_NONE, .body = "<html>proxy</html>"});
	assert_int_equal(info(c, &i), -EPROTO);
	script(c, FAKE_INFO, (struct fake_step){.does = FAKE_ANSWER, .status = 500, .body = "0123456789", .repeat = 1000});
	assert_int_equal(info(c, &i), -EPROTO);
	assert_int_equal(info(c, &i), 0);
	assert_string_equal(api_error(c->api), "");
}

static void info__wrong_lengths__never_accepted(void **state)
{
	struct ctx *c = *state;
	struct api_info i;
	const char *good = "{\"isPrimary\":true,\"path\":\"/x\",\"primary\":{\"hostname\":\"\"}}";

	script(c, FAKE_INFO,
	       (struct fake_step){.does = FAKE_ANSWER, .body = good, .content_length = 1000, .close_after = true});
	assert_int_equal(info(c, &i), -EIO);
	script(c, FAKE_INFO, (struct fake_step){.does = FAKE_ANSWER, .body = good, .content_length = 20});
	assert_int_equal(info(c, &i), -EPROTO);
	assert_int_equal(info(c, &i), 0);
}

static void info__not_http__no_success(void **state)
{
	static const struct {
		const char *raw;
		int err;
	} cases[] = {
		{"SSH-2.0-OpenSSH_9.2\r\n", -EPROTO},
		{"HTTP/1.1 garbage\r\n\r\n", -EPROTO},
		{"\n\n\n\n", -EPROTO},
		{"HTTP/1.1 200 OK\r\n", -EPROTO},
		{"", -EIO},
	};
	struct ctx *c = *state;
	struct api_info i;

	for (size_t n = 0; n < sizeof cases / sizeof cases[0]; n++) {
		script(c, FAKE_INFO, (struct fake_step){.does = FAKE_RAW, .body = cases[n].raw, .close_after = true});
		assert_int_equal(info(c, &i), cases[n].err);
	}
}

static void info__100_continue_first__final_answer_counts(void **state)
{
	struct ctx *c = *state;
	struct api_info i;

	script(c, FAKE_INFO,
	       (struct fake_step){.does = FAKE_RAW,
				  .body = "HTTP/1.1 100 Continue\r\nLitefs-Id: 0000000000000001\r\n\r\n"
					  "HTTP/1.1 200 OK\r\nLitefs-Id: 0000000000000002\r\nContent-Length: 57\r\n\r\n"
					  "{\"isPrimary\":true,\"path\":\"/x\",\"primary\":{\"hostname\":\"h\"}}"});
	assert_int_equal(info(c, &i), 0);
	assert_true(i.server_id == 2);
}

static void info__nobody_there__enotconn(void **state)
{
	struct ctx *c = *state;
	struct api_info i;

	fake_set_up(c->fake, false);
	assert_int_equal(info(c, &i), -ENOTCONN);
	fake_set_up(c->fake, true);
	assert_int_equal(info(c, &i), 0);
}

static void info__silence__etimedout_at_its_time(void **state)
{
	struct ctx *c = *state;
	int64_t before = clock_now_ns();
	struct api_info i;

	script(c, FAKE_INFO, (struct fake_step){.does = FAKE_STALL});
	assert_int_equal(api_info(c->api, 60, &i), -ETIMEDOUT);
	assert_true(clock_now_ns() - before >= 60 * NS_PER_MS);
	assert_true(clock_now_ns() - before < 10 * NS_PER_S);
	assert_true(fake_wait_open(c->fake, 0));
	assert_int_equal(info(c, &i), 0);
}

static void info__kept_connection_dead__opens_another(void **state)
{
	struct ctx *c = *state;
	struct api_info i;

	assert_int_equal(info(c, &i), 0);
	fake_set_up(c->fake, false);
	fake_set_up(c->fake, true);
	assert_int_equal(info(c, &i), 0);
	/* The server takes the request on the kept connection and dies: one more try is allowed here. */
	script(c, FAKE_INFO, (struct fake_step){.does = FAKE_CLOSE_BEFORE});
	assert_int_equal(info(c, &i), 0);
}

static void info__proxy_in_environment__ignored(void **state)
{
	struct ctx *c = *state;
	struct fake *proxy = fake_start(5);
	struct api_info i;

	setenv("http_proxy", fake_url(proxy), 1);
	setenv("ALL_PROXY", fake_url(proxy), 1);
	assert_int_equal(info(c, &i), 0);
	unsetenv("http_proxy");
	unsetenv("ALL_PROXY");
	assert_true(i.server_id == NODE);
	assert_int_equal(fake_connections(proxy), 0);
	fake_stop(proxy);
}

/* ---- abort ---- */

static void *abort_once_asked(void *arg)
{
	struct ctx *c = arg;

	if (fake_wait_count(c->fake, FAKE_HALT, 1))
		api_abort(c->api);
	return NULL;
}

static void abort__in_a_call__ecanceled_until_cleared(void **state)
{
	struct ctx *c = *state;
	struct api_halt h;
	struct api_info i;
	pthread_t t;

	script(c, FAKE_HALT, (struct fake_step){.does = FAKE_STALL});
	assert_int_equal(pthread_create(&t, NULL, abort_once_asked, c), 0);
	assert_int_equal(halt(c, 1, &h), -ECANCELED);
	pthread_join(t, NULL);
	assert_true(fake_wait_open(c->fake, 0));
	assert_int_equal(fake_resets(c->fake), 1);
	assert_int_equal(info(c, &i), -ECANCELED);
	assert_int_equal(fake_count(c->fake, FAKE_INFO), 0);
	api_clear_abort(c->api);
	assert_int_equal(info(c, &i), 0);
}

/* ---- halt ---- */

static void halt__honest__position_and_ttl(void **state)
{
	struct ctx *c = *state;
	int64_t before = clock_now_ns(), sent = 0;
	struct api_halt h;

	fake_set_pos(c->fake, "a.db", (struct pos){5, UINT64_C(0x8000000000000abc)});
	assert_int_equal(api_halt(c->api, "a.db", INT64_MAX, LONG_MS, &h, &sent), 0);
	assert_true(h.id == INT64_MAX);
	assert_true(h.pos.txid == 5 && h.pos.checksum == UINT64_C(0x8000000000000abc));
	assert_true(h.server_id == NODE);
	assert_true(h.ttl_ms >= 28000 && h.ttl_ms <= 30000);
	assert_true(sent >= before && sent <= clock_now_ns());
	assert_true(fake_halted_by(c->fake, "a.db") == INT64_MAX);
	assert_int_equal(api_unhalt(c->api, "a.db", INT64_MAX, LONG_MS), 0);
	assert_true(fake_halted_by(c->fake, "a.db") == 0);
}

static void halt__times_of_the_answer__ttl(void **state)
{
	static const struct {
		const char *date, *expires;
		int64_t ttl_ms;
	} cases[] = {
		{"Date: Tue, 02 Jan 2024 03:04:05 GMT", "2024-01-02T03:04:35.5Z", 29500},
		{"Date: Tue, 02 Jan 2024 03:04:05 GMT", "2024-01-02T03:04:35Z", 29000},
		{"Date: Tue, 02 Jan 2024 03:04:05 GMT", "2024-01-02T04:04:35.123456789+01:00", 29123},
		{"Date: Tue, 02 Jan 2024 03:04:05 GMT", "2024-01-01T21:34:35.999999-05:30", 29999},
		/* An old lock, by the same id again. */
		{"Date: Tue, 02 Jan 2024 03:04:05 GMT", "2024-01-02T03:04:06.2Z", 200},
		{"Date: Tue, 02 Jan 2024 03:04:05 GMT", "2024-01-02T03:04:05.2Z", 0},
		{"Date: Tue, 02 Jan 2024 03:04:05 GMT", "2023-01-02T03:04:05Z", 0},
		/* Cannot be told. */
		{"Date: Tue, 02 Jan 2024 03:04:05 GMT", "2034-01-02T03:04:05Z", 30000},
		{"Date: nonsense", "2024-01-02T03:04:35Z", 30000},
		{"X-No: date", "2024-01-02T03:04:35Z", 30000},
		{"Date: Tue, 02 Jan 2024 03:04:05 GMT", "", 30000},
		{"Date: Tue, 02 Jan 2024 03:04:05 GMT", "2024-13-02T03:04:35Z", 30000},
		{"Date: Tue, 02 Jan 2024 03:04:05 GMT", "2024-01-02T03:04:35", 30000},
		{"Date: Tue, 02 Jan 2024 03:04:05 GMT", "2024-01-02T03:04:35Zx", 30000},
		{"Date: Tue, 02 Jan 2024 03:04:05 GMT", "tomorrow", 30000},
	};
	struct ctx *c = *state;
	struct api_halt h;
	char body[256];

	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		snprintf(body, sizeof body,
			 "{\"id\":7,\"pos\":{\"TXID\":\"0000000000000001\",\"PostApplyChecksum\":\"8000000000000002\"},"
			 "\"expires\":\"%s\"}",
			 cases[i].expires);
		script(c, FAKE_HALT,
		       (struct fake_step){.does = FAKE_ANSWER, .body = body, .header = cases[i].date, .no_date = true});
		assert_int_equal(halt(c, 7, &h), 0);
		assert_true(h.ttl_ms == cases[i].ttl_ms);
	}
}

static void halt__malformed_answer__eproto_and_unchanged(void **state)
{
	static const char *const bad[] = {
		"{}",
		"{\"id\":8,\"pos\":{\"TXID\":\"0000000000000001\",\"PostApplyChecksum\":\"8000000000000002\"},\"expires\":\"\"}",
		"{\"id\":\"7\",\"pos\":{\"TXID\":\"0000000000000001\",\"PostApplyChecksum\":\"8000000000000002\"}}",
		"{\"id\":-7,\"pos\":{\"TXID\":\"0000000000000001\",\"PostApplyChecksum\":\"8000000000000002\"}}",
		"{\"id\":7,\"pos\":{\"TXID\":\"000000000000001\",\"PostApplyChecksum\":\"8000000000000002\"}}",
		"{\"id\":7,\"pos\":{\"TXID\":\"000000000000000g\",\"PostApplyChecksum\":\"8000000000000002\"}}",
		"{\"id\":7,\"pos\":{\"TXID\":1,\"PostApplyChecksum\":\"8000000000000002\"}}",
		"{\"id\":7,\"pos\":null}",
		"{\"id\":7}",
	};
	struct ctx *c = *state;
	struct api_halt h, before;

	memset(&h, 0x5a, sizeof h);
	before = h;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		script(c, FAKE_HALT, (struct fake_step){.does = FAKE_ANSWER, .body = bad[i]});
		assert_int_equal(halt(c, 7, &h), -EPROTO);
		assert_memory_equal(&h, &before, sizeof h);
	}
}

static void names__hostile__nothing_sent(void **state)
{
	static const char *const bad[] = {"", ".", "..", "../x", "a/b", ".primary", "x-wal", "x-journal", "x-shm", "x-pos",
					  "x-lock", "-wal", "x-shm-wal", "a\nb", "a\x7f", ".hidden"};
	struct ctx *c = *state;
	struct api_halt h;
	struct api_debug_db d;
	char longname[301];

	memset(longname, 'a', 300);
	longname[300] = 0;
	for (size_t i = 0; i <= sizeof bad / sizeof bad[0]; i++) {
		const char *name = i < sizeof bad / sizeof bad[0] ? bad[i] : longname;
		struct api_tx tx = {.name = name, .lock_id = 1, .size = 200, .deadline_ns = INT64_MAX};

		assert_int_equal(api_halt(c->api, name, 1, LONG_MS, &h, NULL), -EINVAL);
		assert_int_equal(api_unhalt(c->api, name, 1, LONG_MS), -EINVAL);
		assert_int_equal(api_debug_db(c->api, name, LONG_MS, &d), -EINVAL);
		assert_int_equal(api_tx(c->api, &tx), API_TX_NOT_SENT);
	}
	assert_int_equal(api_halt(c->api, NULL, 1, LONG_MS, &h, NULL), -EINVAL);
	assert_int_equal(api_halt(c->api, "a.db", 0, LONG_MS, &h, NULL), -EINVAL);
	assert_int_equal(api_halt(c->api, "a.db", UINT64_C(1) << 63, LONG_MS, &h, NULL), -EINVAL);
	assert_int_equal(fake_connections(c->fake), 0);
}

static void names__odd_but_valid__arrive_exactly(void **state)
{
	static const char *const odd[] = {"a b", "a&id=9", "a?b=c", "a%41", "a+b", "\xc3\xa4\xe2\x82\xac", "a#b", "a-", "a\"b\\c"};
	struct ctx *c = *state;
	struct api_halt h;
	char longest[248];

	for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
		assert_int_equal(api_halt(c->api, odd[i], 42, LONG_MS, &h, NULL), 0);
		assert_true(fake_halted_by(c->fake, odd[i]) == 42);
		assert_int_equal(api_unhalt(c->api, odd[i], 42, LONG_MS), 0);
		assert_true(fake_halted_by(c->fake, odd[i]) == 0);
	}
	memset(longest, 0xe4, sizeof longest - 1);
	longest[sizeof longest - 1] = 0;
	assert_int_equal(api_halt(c->api, longest, INT64_MAX, LONG_MS, &h, NULL), 0);
	assert_true(fake_halted_by(c->fake, longest) == INT64_MAX);
}

static void halt__same_id_again__same_lock(void **state)
{
	struct ctx *c = *state;
	struct api_halt a, b;

	assert_int_equal(halt(c, 3, &a), 0);
	assert_int_equal(halt(c, 3, &b), 0);
	assert_true(pos_equal(a.pos, b.pos));
	assert_true(b.ttl_ms <= a.ttl_ms);
}

static void halt__held_by_another__etimedout_and_wait_ended(void **state)
{
	struct ctx *c = *state;
	struct api_halt h;

	fake_lock(c->fake, "a.db", true);
	assert_int_equal(api_halt(c->api, "a.db", 3, 50, &h, NULL), -ETIMEDOUT);
	assert_true(fake_wait_open(c->fake, 0)); /* the reset ended the server's wait */
	fake_lock(c->fake, "a.db", false);
	assert_true(fake_halted_by(c->fake, "a.db") == 0);
	assert_int_equal(halt(c, 3, &h), 0);
}

static void halt__server_gives_up__eremoteio(void **state)
{
	struct ctx *c = *state;
	struct api_halt h;

	fake_set_ttl(c->fake, 30000, 20);
	fake_lock(c->fake, "a.db", true);
	assert_int_equal(halt(c, 3, &h), -EREMOTEIO);
	assert_non_null(strstr(api_error(c->api), "context deadline exceeded"));
}

static void halt__answer_lost__unhalt_frees(void **state)
{
	struct ctx *c = *state;
	struct api_halt h;

	script(c, FAKE_HALT, (struct fake_step){.does = FAKE_LOSE_ANSWER});
	assert_int_equal(halt(c, 3, &h), -EIO);
	assert_true(fake_halted_by(c->fake, "a.db") == 3);
	assert_int_equal(api_unhalt(c->api, "a.db", 3, LONG_MS), 0);
	assert_true(fake_halted_by(c->fake, "a.db") == 0);
}

static void unhalt__each_failure__told(void **state)
{
	struct ctx *c = *state;

	assert_int_equal(api_unhalt(c->api, "unknown.db", 3, LONG_MS), -EIO);
	script(c, FAKE_UNHALT, (struct fake_step){.does = FAKE_ANSWER, .id = FAKE_ID_NONE});
	assert_int_equal(api_unhalt(c->api, "a.db", 3, LONG_MS), -EPROTO);
	script(c, FAKE_UNHALT, (struct fake_step){.does = FAKE_STALL});
	assert_int_equal(api_unhalt(c->api, "a.db", 3, 20), -ETIMEDOUT);
}

static void rtt__a_waiting_halt__does_not_raise_it(void **state)
{
	struct ctx *c = *state;
	struct api_halt h;
	struct api_info i;
	int64_t rtt;

	assert_int_equal(info(c, &i), 0);
	assert_int_equal(info(c, &i), 0);
	rtt = api_rtt_ns(c->api);
	assert_true(rtt > 0);
	script(c, FAKE_HALT, (struct fake_step){.delay_ms = (int)(rtt / NS_PER_MS) + 50});
	assert_int_equal(halt(c, 1, &h), 0);
	assert_true(api_rtt_ns(c->api) <= rtt);
}

/* ---- tx ---- */

struct source {
	uint8_t *data;
	size_t len, at;
	size_t fail_at; /* 0: never */
	int fail_with;
	unsigned sent;
	unsigned reads;
	size_t most; /* bytes a read gives at most; 0: as asked */
};

static ptrdiff_t source_read(void *ctx, void *buf, size_t len)
{
	struct source *s = ctx;

	s->reads++;
	if (s->fail_at && s->at >= s->fail_at)
		return s->fail_with;
	if (len > s->len - s->at)
		len = s->len - s->at;
	if (s->most && len > s->most)
		len = s->most;
	if (s->fail_at && len > s->fail_at - s->at)
		len = s->fail_at - s->at;
	memcpy(buf, s->data + s->at, len);
	s->at += len;
	return (ptrdiff_t)len;
}

static void source_sent(void *ctx)
{
	struct source *s = ctx;

	s->sent++;
}

static void put64(uint8_t *p, uint64_t v)
{
	for (int i = 0; i < 8; i++)
		p[i] = (uint8_t)(v >> (56 - 8 * i));
}

/* As much of an LTX file as LiteFS looks at when it compares positions. */
static struct source *source_new(size_t len, uint64_t txid, uint64_t pre, uint64_t post)
{
	struct source *s = calloc(1, sizeof *s);

	s->data = malloc(len);
	s->len = len;
	for (size_t i = 0; i < len; i++)
		s->data[i] = (uint8_t)(i * 2654435761u >> 13);
	memcpy(s->data, "LTX1", 4);
	put64(s->data + 16, txid);
	put64(s->data + 24, txid);
	put64(s->data + 40, pre);
	put64(s->data + len - 16, post);
	return s;
}

static void source_free(struct source *s)
{
	free(s->data);
	free(s);
}

static struct api_tx tx_of(struct source *s)
{
	return (struct api_tx){
		.name = "a.db",
		.lock_id = 7,
		.server_id = NODE,
		.size = s->len,
		.read = source_read,
		.sent = source_sent,
		.ctx = s,
		.require_halt_connection = true,
		.deadline_ns = clock_now_ns() + LONG_MS * NS_PER_MS,
	};
}

#define PRE UINT64_C(0x8000000000000005)
#define POST UINT64_C(0x8000000000000006)

/* Halted at position 5, and the transaction that follows. */
static struct source *ready(struct ctx *c, size_t len)
{
	struct api_halt h;

	fake_set_pos(c->fake, "a.db", (struct pos){5, PRE});
	assert_int_equal(halt(c, 7, &h), 0);
	return source_new(len, 6, PRE, POST);
}

static void tx__honest__applied_once_over_the_halts_connection(void **state)
{
	struct ctx *c = *state;
	struct source *s = ready(c, 5000);
	struct api_tx tx = tx_of(s);
	char head[8192];
	struct pos p;
	size_t len;
	uint8_t *got;

	assert_int_equal(api_tx(c->api, &tx), API_TX_APPLIED);
	assert_int_equal(s->sent, 1);
	assert_true(fake_get_pos(c->fake, "a.db", &p));
	assert_true(p.txid == 6 && p.checksum == POST);
	got = fake_last_tx(c->fake, &len);
	assert_int_equal(len, s->len);
	assert_memory_equal(got, s->data, len);
	free(got);
	fake_last_request(c->fake, FAKE_TX, head, sizeof head);
	assert_non_null(strstr(head, "POST /tx?name=a.db&lockID=7 HTTP/1.1\r\n"));
	assert_non_null(strstr(head, "\r\nContent-Length: 5000\r\n"));
	assert_null(strstr(head, "Expect"));
	assert_null(strstr(head, "Transfer-Encoding"));
	assert_int_equal(fake_count(c->fake, FAKE_TX), 1);
	assert_int_equal(fake_connections(c->fake), 1);
	source_free(s);
}

/* By a name with several addresses, of which LiteFS listens on one. */
static void tx__by_name__applied_over_the_halts_connection(void **state)
{
	struct ctx *c = *state;
	struct source *s = source_new(5000, 6, PRE, POST);
	struct api_tx tx = tx_of(s);
	struct api_halt h;
	char url[64];

	snprintf(url, sizeof url, "http://localhost%s", strrchr(fake_url(c->fake), ':'));
	api_free(c->api);
	assert_int_equal(api_new(url, OURS, &c->api), 0);
	fake_set_pos(c->fake, "a.db", (struct pos){5, PRE});
	assert_int_equal(halt(c, 7, &h), 0);
	assert_int_equal(api_tx(c->api, &tx), API_TX_APPLIED);
	assert_int_equal(api_unhalt(c->api, "a.db", 7, LONG_MS), 0);
	assert_int_equal(fake_connections(c->fake), 1);
	source_free(s);
}

static void tx__large_and_in_pieces__intact(void **state)
{
	static const size_t sizes[][2] = {{120, 1}, {70000, 999}, {20 * 1024 * 1024 + 7, 0}};
	struct ctx *c = *state;

	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		struct source *s = ready(c, sizes[i][0]);
		struct api_tx tx = tx_of(s);
		size_t len;
		uint8_t *got;

		s->most = sizes[i][1];
		assert_int_equal(api_tx(c->api, &tx), API_TX_APPLIED);
		assert_int_equal(s->sent, 1);
		got = fake_last_tx(c->fake, &len);
		assert_int_equal(len, s->len);
		assert_memory_equal(got, s->data, len);
		free(got);
		source_free(s);
	}
	assert_int_equal(fake_connections(c->fake), 1);
}

static void expect_not_sent(struct ctx *c, const struct api_tx *tx)
{
	unsigned connections = fake_connections(c->fake), txs = fake_count(c->fake, FAKE_TX);
	struct source *s = tx->ctx;

	assert_int_equal(api_tx(c->api, tx), API_TX_NOT_SENT);
	assert_int_equal(fake_connections(c->fake), connections);
	assert_int_equal(fake_count(c->fake, FAKE_TX), txs);
	assert_int_equal(s->reads, 0);
	assert_int_equal(s->sent, 0);
}

static void tx__no_connection__not_sent(void **state)
{
	struct ctx *c = *state;
	struct source *s = source_new(500, 6, PRE, POST);
	struct api_tx tx = tx_of(s);

	expect_not_sent(c, &tx);
	tx.require_halt_connection = false;
	expect_not_sent(c, &tx);
	source_free(s);
}

static void tx__halts_connection_gone__not_sent(void **state)
{
	struct ctx *c = *state;
	struct source *s = ready(c, 500);
	struct api_tx tx = tx_of(s);
	struct api_info i;

	fake_set_up(c->fake, false);
	fake_set_up(c->fake, true); /* restarted: its HALT locks are gone */
	expect_not_sent(c, &tx);
	assert_int_equal(info(c, &i), 0); /* a connection, but not the HALT's */
	expect_not_sent(c, &tx);
	tx.require_halt_connection = false;
	assert_int_equal(info(c, &i), 0);
	assert_int_equal(api_tx(c->api, &tx), API_TX_APPLIED);
	source_free(s);
}

static void tx__after_disconnect_or_failed_halt__not_sent(void **state)
{
	struct ctx *c = *state;
	struct source *s = ready(c, 500);
	struct api_tx tx = tx_of(s);
	struct api_halt h;
	struct api_info i;

	api_disconnect(c->api);
	expect_not_sent(c, &tx);
	assert_int_equal(info(c, &i), 0);
	expect_not_sent(c, &tx);
	assert_int_equal(halt(c, 7, &h), 0);
	script(c, FAKE_HALT, (struct fake_step){.does = FAKE_ANSWER, .body = "{}"});
	assert_int_equal(halt(c, 7, &h), -EPROTO);
	expect_not_sent(c, &tx);
	source_free(s);
}

static void tx__deadline_passed_or_aborted_or_empty__not_sent(void **state)
{
	struct ctx *c = *state;
	struct source *s = ready(c, 500);
	struct api_tx tx = tx_of(s);

	tx.deadline_ns = clock_now_ns();
	expect_not_sent(c, &tx);
	tx = tx_of(s);
	tx.size = 0;
	expect_not_sent(c, &tx);
	tx = tx_of(s);
	api_abort(c->api);
	expect_not_sent(c, &tx);
	source_free(s);
}

static void tx__foreign_position__refused_by_litefs_own_words(void **state)
{
	struct ctx *c = *state;
	struct source *s = ready(c, 500);
	struct api_tx tx = tx_of(s);

	fake_set_pos(c->fake, "a.db", (struct pos){6, PRE});
	assert_int_equal(api_tx(c->api, &tx), API_TX_REFUSED);
	assert_non_null(strstr(api_error(c->api), "non-sequential"));
	s->at = 0;
	fake_set_pos(c->fake, "a.db", (struct pos){5, POST});
	assert_int_equal(api_tx(c->api, &tx), API_TX_REFUSED);
	assert_non_null(strstr(api_error(c->api), "pre-apply checksum mismatch"));
	source_free(s);
}

static void tx__large_and_refused_by_its_header__refused(void **state)
{
	static const size_t sizes[] = {256 * 1024, 256 * 1024 + 1, 32 * 1024 * 1024};
	struct ctx *c = *state;

	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		struct source *s = ready(c, sizes[i]);
		struct api_tx tx = tx_of(s);
		struct pos p;

		fake_set_pos(c->fake, "a.db", (struct pos){6, PRE});
		assert_int_equal(api_tx(c->api, &tx), API_TX_REFUSED);
		assert_true(fake_get_pos(c->fake, "a.db", &p));
		assert_true(p.txid == 6 && p.checksum == PRE);
		source_free(s);
	}
}

/* One scripted answer to a whole request, and what must be made of it. */
static void tx_case(struct ctx *c, struct fake_step step, enum api_tx_result want)
{
	struct source *s = ready(c, 3000);
	struct api_tx tx = tx_of(s);
	unsigned before = fake_count(c->fake, FAKE_TX), connections = fake_connections(c->fake);

	script(c, FAKE_TX, step);
	assert_int_equal(api_tx(c->api, &tx), want);
	assert_int_equal(fake_count(c->fake, FAKE_TX), before + 1); /* never sent twice */
	assert_int_equal(fake_connections(c->fake), connections);
	source_free(s);
}

static void tx__error_texts__refused_only_where_they_prove_it(void **state)
{
	static const struct {
		int status;
		const char *text;
		enum api_tx_result want;
	} cases[] = {
		{500, "write ltx file: non-sequential header minimum txid 01, expecting 02\n", API_TX_REFUSED},
		{500, "write ltx file: pre-apply checksum mismatch: 1, expecting 2\n", API_TX_REFUSED},
		{500, "write ltx file: read ltx header: n=5 unexpected EOF\n", API_TX_REFUSED},
		{500, "write ltx file: decode ltx header: invalid\n", API_TX_REFUSED},
		{500, "write ltx file: cannot create temp ltx file: no space\n", API_TX_REFUSED},
		{500, "write ltx file: write ltx file: unexpected EOF\n", API_TX_REFUSED},
		{500, "write ltx file: fsync ltx file: input/output error\n", API_TX_REFUSED},
		{500, "write ltx file: ltx validation error: x\n", API_TX_REFUSED},
		{404, "database not found: \"a.db\"\n", API_TX_REFUSED},
		{400, "cannot remotely halt self\n", API_TX_REFUSED},
		/* from the rename on */
		{500, "write ltx file: remove ltx except snapshot: x\n", API_TX_AMBIGUOUS},
		{500, "write ltx file: rename ltx file: x\n", API_TX_AMBIGUOUS},
		{500, "write ltx file: sync ltx dir: x\n", API_TX_AMBIGUOUS},
		{500, "cannot apply ltx: open file: x\n", API_TX_AMBIGUOUS},
		/* not LiteFS' texts or codes */
		{500, "", API_TX_AMBIGUOUS},
		{502, "write ltx file: non-sequential header minimum txid 01\n", API_TX_AMBIGUOUS},
		{500, " write ltx file: non-sequential header minimum txid 01\n", API_TX_AMBIGUOUS},
		{503, "<html>Service Unavailable</html>", API_TX_AMBIGUOUS},
		{404, "404 page not found\n", API_TX_AMBIGUOUS},
		{405, "method not allowed\n", API_TX_AMBIGUOUS},
		{204, "", API_TX_AMBIGUOUS},
		{201, "", API_TX_AMBIGUOUS},
		{200, "{}", API_TX_AMBIGUOUS},
		{302, "", API_TX_AMBIGUOUS},
	};
	struct ctx *c = *state;

	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
		tx_case(c, (struct fake_step){.does = FAKE_ANSWER, .status = cases[i].status, .body = cases[i].text},
			cases[i].want);
}

static void tx__answers_of_another_server__ambiguous(void **state)
{
	static const enum fake_id ids[] = {FAKE_ID_NONE, FAKE_ID_WRONG, FAKE_ID_TWICE};
	struct ctx *c = *state;

	for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
		tx_case(c, (struct fake_step){.does = FAKE_HONEST, .id = ids[i]}, API_TX_AMBIGUOUS);
		tx_case(c,
			(struct fake_step){.does = FAKE_ANSWER,
					   .status = 404,
					   .body = "database not found: \"a.db\"\n",
					   .id = ids[i]},
			API_TX_AMBIGUOUS);
	}
}

static void tx__lost_at_each_point__ambiguous_and_sent_once(void **state)
{
	static const enum fake_does losses[] = {FAKE_CLOSE_BEFORE, FAKE_CLOSE_AFTER_HEADER, FAKE_CLOSE_AFTER_BODY,
						FAKE_LOSE_ANSWER};
	struct ctx *c = *state;

	for (size_t i = 0; i < sizeof losses / sizeof losses[0]; i++)
		tx_case(c, (struct fake_step){.does = losses[i]}, API_TX_AMBIGUOUS);
	tx_case(c, (struct fake_step){.does = FAKE_RAW, .body = "HTTP/1.1 2", .close_after = true}, API_TX_AMBIGUOUS);
	tx_case(c, (struct fake_step){.does = FAKE_RAW, .body = "rubbish\r\n\r\n", .close_after = true}, API_TX_AMBIGUOUS);
	tx_case(c,
		(struct fake_step){.does = FAKE_ANSWER, .body = "x", .content_length = 9, .close_after = true},
		API_TX_AMBIGUOUS);
	tx_case(c, (struct fake_step){.does = FAKE_ANSWER, .status = 500, .body = "write ltx file: ", .repeat = 9999},
		API_TX_AMBIGUOUS);
}

static void tx__large_body_and_connection_lost__ambiguous_and_sent_once(void **state)
{
	static const enum fake_does losses[] = {FAKE_CLOSE_BEFORE, FAKE_CLOSE_AFTER_HEADER};
	struct ctx *c = *state;

	for (size_t i = 0; i < sizeof losses / sizeof losses[0]; i++) {
		struct source *s = ready(c, 32 * 1024 * 1024);
		struct api_tx tx = tx_of(s);
		unsigned before = fake_count(c->fake, FAKE_TX), connections = fake_connections(c->fake);

		script(c, FAKE_TX, (struct fake_step){.does = losses[i]});
		assert_int_equal(api_tx(c->api, &tx), API_TX_AMBIGUOUS);
		assert_int_equal(s->sent, 0);
		assert_int_equal(fake_count(c->fake, FAKE_TX), before + 1);
		assert_int_equal(fake_connections(c->fake), connections);
		source_free(s);
	}
}

static void tx__success_before_the_body__ambiguous(void **state)
{
	struct ctx *c = *state;
	struct source *s = ready(c, 32 * 1024 * 1024);
	struct api_tx tx = tx_of(s);

	script(c, FAKE_TX, (struct fake_step){.does = FAKE_ANSWER_EARLY});
	assert_int_equal(api_tx(c->api, &tx), API_TX_AMBIGUOUS);
	assert_int_equal(s->sent, 0);
	source_free(s);
}

static void tx__no_answer_by_the_deadline__ambiguous_and_reset(void **state)
{
	static const struct {
		enum fake_does does;
		size_t len;
	} cases[] = {{FAKE_STALL, 500}, {FAKE_STALL_BODY, 32 * 1024 * 1024}};
	struct ctx *c = *state;

	for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct source *s = ready(c, cases[i].len);
		struct api_tx tx = tx_of(s);
		int64_t before = clock_now_ns();

		script(c, FAKE_TX, (struct fake_step){.does = cases[i].does});
		tx.deadline_ns = before + 80 * NS_PER_MS;
		assert_int_equal(api_tx(c->api, &tx), API_TX_AMBIGUOUS);
		assert_true(clock_now_ns() >= tx.deadline_ns);
		assert_true(clock_now_ns() - before < 10 * NS_PER_S);
		assert_true(fake_wait_open(c->fake, 0));
		assert_int_equal(fake_resets(c->fake), i + 1);
		source_free(s);
	}
}

static void tx__source_fails_or_ends_early__ambiguous_and_reset(void **state)
{
	static const struct {
		size_t at;
		int with;
	} cases[] = {{1, -EIO}, {200, -ENOMEM}, {200, 0}, {499, -EIO}};
	struct ctx *c = *state;

	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct source *s = ready(c, 500);
		struct api_tx tx = tx_of(s);
		struct pos p;

		s->fail_at = cases[i].at;
		s->fail_with = cases[i].with;
		assert_int_equal(api_tx(c->api, &tx), API_TX_AMBIGUOUS);
		assert_int_equal(s->sent, 0);
		assert_true(fake_wait_open(c->fake, 0));
		assert_int_equal(fake_bodies(c->fake, FAKE_TX), 0);
		assert_true(fake_get_pos(c->fake, "a.db", &p));
		assert_true(p.txid == 5);
		source_free(s);
	}
}

static void *abort_once_tx(void *arg)
{
	struct ctx *c = arg;

	if (fake_wait_count(c->fake, FAKE_TX, 1))
		api_abort(c->api);
	return NULL;
}

static void tx__aborted__ambiguous_and_reset(void **state)
{
	struct ctx *c = *state;
	struct source *s = ready(c, 500);
	struct api_tx tx = tx_of(s);
	pthread_t t;

	tx.deadline_ns = -1;
	script(c, FAKE_TX, (struct fake_step){.does = FAKE_STALL});
	assert_int_equal(pthread_create(&t, NULL, abort_once_tx, c), 0);
	assert_int_equal(api_tx(c->api, &tx), API_TX_AMBIGUOUS);
	pthread_join(t, NULL);
	assert_true(fake_wait_open(c->fake, 0));
	assert_int_equal(fake_resets(c->fake), 1);
	source_free(s);
}

/* ---- /debug/vars ---- */

static void debug_db__honest__position_and_locks_or_enoent(void **state)
{
	struct ctx *c = *state;
	struct api_debug_db d = {.pos = {1, 2}, .dms = API_SHARED};

	assert_int_equal(api_debug_db(c->api, "a.db", LONG_MS, &d), -ENOENT);
	assert_true(d.pos.txid == 1 && d.pos.checksum == 2 && d.dms == API_SHARED);
	fake_set_pos(c->fake, "b.db", (struct pos){3, 4});
	fake_set_locks(c->fake, "b.db", "exclusive", "exclusive");
	fake_set_pos(c->fake, "a.db", (struct pos){UINT64_MAX, PRE});
	assert_int_equal(api_debug_db(c->api, "a.db", LONG_MS, &d), 0);
	assert_true(d.pos.txid == UINT64_MAX && d.pos.checksum == PRE);
	assert_true(d.shared == API_UNLOCKED && d.dms == API_UNLOCKED);
	fake_set_locks(c->fake, "a.db", "shared", "exclusive");
	assert_int_equal(api_debug_db(c->api, "a.db", LONG_MS, &d), 0);
	assert_true(d.shared == API_SHARED && d.dms == API_EXCLUSIVE);
}

static void debug_db__malformed__eproto(void **state)
{
#define DB(fields) "{\"store\":{\"dbs\":{\"a.db\":{" fields "}}}}"
#define POS "\"txid\":\"0000000000000001\",\"checksum\":\"8000000000000002\""
	static const char *const bad[] = {"null", "{}", "{\"store\":{}}", "{\"store\":null}", "{\"store\":{\"dbs\":[]}}",
					  "{\"store\":{\"dbs\":{\"a.db\":7}}}",
					  DB("\"txid\":\"0\",\"checksum\":\"0\",\"locks\":{\"shared\":\"shared\",\"dms\":\"shared\"}"),
					  DB(POS), DB(POS ",\"locks\":null"), DB(POS ",\"locks\":{\"shared\":\"shared\"}"),
					  DB(POS ",\"locks\":{\"shared\":\"shared\",\"dms\":1}"),
					  DB(POS ",\"locks\":{\"shared\":\"<unknown(3)>\",\"dms\":\"shared\"}")};
	static const char good[] = DB(POS ",\"locks\":{\"shared\":\"shared\",\"dms\":\"unlocked\"}");
	struct ctx *c = *state;
	struct api_debug_db d = {.pos = {1, 2}};

	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		script(c, FAKE_VARS, (struct fake_step){.does = FAKE_ANSWER, .body = bad[i]});
		assert_int_equal(api_debug_db(c->api, "a.db", LONG_MS, &d), -EPROTO);
	}
	assert_true(d.pos.txid == 1 && d.pos.checksum == 2);
	script(c, FAKE_VARS, (struct fake_step){.does = FAKE_ANSWER, .body = good});
	assert_int_equal(api_debug_db(c->api, "a.db", LONG_MS, &d), 0);
#undef DB
#undef POS
}

static void debug_db__huge_answer__eproto(void **state)
{
	struct ctx *c = *state;
	struct api_debug_db d;

	script(c, FAKE_VARS, (struct fake_step){.does = FAKE_ANSWER, .body = "          ", .repeat = 200 * 1024});
	assert_int_equal(api_debug_db(c->api, "a.db", LONG_MS, &d), -EPROTO);
}

/* LiteFS takes nothing off the socket: of a body that does not fit into memory only what the socket takes is read. */
static ptrdiff_t endless_read(void *ctx, void *buf, size_t len)
{
	memset(buf, 0, len);
	*(uint64_t *)ctx += len;
	return (ptrdiff_t)len;
}

static void tx__larger_than_memory_and_peer_slow__not_hoarded(void **state)
{
	struct ctx *c = *state;
	uint64_t taken = 0;
	struct api_tx tx = {.name = "a.db", .lock_id = 1, .size = UINT64_C(1) << 40, .read = endless_read, .ctx = &taken,
			    .require_halt_connection = true};
	struct api_halt h;

	assert_int_equal(halt(c, 1, &h), 0);
	script(c, FAKE_TX, (struct fake_step){.does = FAKE_STALL_BODY});
	tx.deadline_ns = clock_now_ns() + 300 * NS_PER_MS;
	assert_int_equal(api_tx(c->api, &tx), API_TX_AMBIGUOUS);
	assert_true(taken > 0 && taken < UINT64_C(64) << 20);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(api_new__unusable_url__refused),
		cmocka_unit_test(api_new__usable_url__kept_without_slash),
		TEST(info__honest__every_field),
		TEST(info__no_cluster_id__empty),
		TEST(calls__many__one_connection),
		TEST(info__malformed_json__eproto_and_unchanged),
		TEST(info__deeply_nested_json__eproto),
		TEST(info__huge_answer__eproto_and_connection_dropped),
		TEST(info__endless_headers__eproto),
		TEST(info__no_or_two_ids__eproto),
		TEST(info__redirect__not_followed),
		TEST(info__error_answers__eremoteio_with_clean_text),
		TEST(info__wrong_lengths__never_accepted),
		TEST(info__not_http__no_success),
		TEST(info__100_continue_first__final_answer_counts),
		TEST(info__nobody_there__enotconn),
		TEST(info__silence__etimedout_at_its_time),
		TEST(info__kept_connection_dead__opens_another),
		TEST(info__proxy_in_environment__ignored),
		TEST(abort__in_a_call__ecanceled_until_cleared),
		TEST(halt__honest__position_and_ttl),
		TEST(halt__times_of_the_answer__ttl),
		TEST(halt__malformed_answer__eproto_and_unchanged),
		TEST(names__hostile__nothing_sent),
		TEST(names__odd_but_valid__arrive_exactly),
		TEST(halt__same_id_again__same_lock),
		TEST(halt__held_by_another__etimedout_and_wait_ended),
		TEST(halt__server_gives_up__eremoteio),
		TEST(halt__answer_lost__unhalt_frees),
		TEST(unhalt__each_failure__told),
		TEST(rtt__a_waiting_halt__does_not_raise_it),
		TEST(tx__honest__applied_once_over_the_halts_connection),
		TEST(tx__by_name__applied_over_the_halts_connection),
		TEST(tx__large_and_in_pieces__intact),
		TEST(tx__no_connection__not_sent),
		TEST(tx__halts_connection_gone__not_sent),
		TEST(tx__after_disconnect_or_failed_halt__not_sent),
		TEST(tx__deadline_passed_or_aborted_or_empty__not_sent),
		TEST(tx__foreign_position__refused_by_litefs_own_words),
		TEST(tx__large_and_refused_by_its_header__refused),
		TEST(tx__error_texts__refused_only_where_they_prove_it),
		TEST(tx__answers_of_another_server__ambiguous),
		TEST(tx__lost_at_each_point__ambiguous_and_sent_once),
		TEST(tx__large_body_and_connection_lost__ambiguous_and_sent_once),
		TEST(tx__success_before_the_body__ambiguous),
		TEST(tx__no_answer_by_the_deadline__ambiguous_and_reset),
		TEST(tx__source_fails_or_ends_early__ambiguous_and_reset),
		TEST(tx__aborted__ambiguous_and_reset),
		TEST(tx__larger_than_memory_and_peer_slow__not_hoarded),
		TEST(debug_db__honest__position_and_locks_or_enoent),
		TEST(debug_db__malformed__eproto),
		TEST(debug_db__huge_answer__eproto),
	};
	int failed;

	if (api_global_init())
		return 1;
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	api_global_fini();
	return failed;
}
