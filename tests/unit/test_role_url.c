/* role_expand_url, and the decoding of the event stream: pure parts of role. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>

#include "litefs/role.h"
#include "litefs/role_events.h"
#include "litefs/url.h"

static void expand__good_templates__url(void **state)
{
	static const struct {
		const char *tmpl, *hostname, *want;
	} cases[] = {
		{"http://{hostname}:20202", "node-1.internal", "http://node-1.internal:20202"},
		{"http://{hostname}:20202/", "127.0.0.2", "http://127.0.0.2:20202/"},
		{"http://{hostname}.{hostname}", "x", "http://x.x"},
		{"http://[{hostname}]:1", "fd00::1", "http://[fd00::1]:1"},
		{"http://{hostname}:1", "[fd00::1]", "http://[fd00::1]:1"},
		{"http://primary:20202", "other", "http://primary:20202"},
		{"http://primary:20202", "", "http://primary:20202"},
		{"http://primary:20202", NULL, "http://primary:20202"},
	};
	char url[512];

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		assert_int_equal(role_expand_url(cases[i].tmpl, cases[i].hostname, url, sizeof url), 0);
		assert_string_equal(url, cases[i].want);
	}
}

static void expand__bad_templates__error_and_unchanged(void **state)
{
	static const struct {
		const char *tmpl, *hostname;
		int want;
	} cases[] = {
		{"http://{hostname}:20202", "", -ENOENT},
		{"http://{hostname}:20202", NULL, -ENOENT},
		{"http://{hostname}:20202", "a/b", -EINVAL},
		{"http://{hostname}:20202", "user@evil", -EINVAL},
		{"http://{hostname}:20202", "a b", -EINVAL},
		{"http://{hostname}:20202", "a?b", -EINVAL},
		{"http://{hostname}:20202", "a\r\nX: y", -EINVAL},
		{"http://{hostname}:20202", "a:1", -EINVAL},
		{"http://{host}:20202", "a", -EINVAL},
		{"https://{hostname}:20202", "a", -EINVAL},
		{"{hostname}", "a", -EINVAL},
		{"", "a", -EINVAL},
		{"http://{hostname}:{hostname}", "a", -EINVAL},
		{"http://{hostname}/path", "a", -EINVAL},
	};
	char url[512] = "untouched";

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		assert_int_equal(role_expand_url(cases[i].tmpl, cases[i].hostname, url, sizeof url), cases[i].want);
		assert_string_equal(url, "untouched");
	}
}

static void expand__too_long__enametoolong(void **state)
{
	char tmpl[700], url[512] = "untouched", small[10] = "small";

	(void)state;
	memset(tmpl, 'a', sizeof tmpl);
	memcpy(tmpl, "http://", 7);
	tmpl[sizeof tmpl - 1] = 0;
	assert_int_equal(role_expand_url(tmpl, "h", url, sizeof url), -ENAMETOOLONG);
	assert_int_equal(role_expand_url("http://{hostname}", tmpl + 7, url, sizeof url), -ENAMETOOLONG);
	assert_string_equal(url, "untouched");
	assert_int_equal(role_expand_url("http://abc", "h", small, sizeof small), -ENAMETOOLONG);
	assert_string_equal(small, "small");
	assert_int_equal(role_expand_url("http://ab", "h", small, sizeof small), 0);
}

static void escape__each_byte__reversible(void **state)
{
	char src[256], escaped[800], small[4];

	(void)state;
	for (int i = 1; i < 256; i++)
		src[i - 1] = (char)i;
	src[255] = 0;
	assert_int_equal(url_escape(src, escaped, sizeof escaped), 0);
	for (size_t i = 0, n = 0; i < 255; i++) {
		unsigned v;

		if (escaped[n] == '%') {
			assert_int_equal(sscanf(escaped + n + 1, "%2x", &v), 1);
			n += 3;
		} else {
			v = (unsigned char)escaped[n++];
			assert_null(strchr("&=?#+ /;%", (int)v));
		}
		assert_int_equal(v, i + 1);
	}
	assert_int_equal(url_escape("ab", small, 3), 0);
	assert_int_equal(url_escape("abc", small, 3), -ENAMETOOLONG);
	assert_int_equal(url_escape("/", small, 3), -ENAMETOOLONG);
	assert_string_equal(small, "ab");
}

/* ---- events ---- */

struct seen {
	unsigned n;
	struct role_event last;
	int fail_with;
};

static int see(void *ctx, const struct role_event *event)
{
	struct seen *s = ctx;

	s->n++;
	s->last = *event;
	return s->fail_with;
}

static int parse(const char *line, struct role_event *ret)
{
	return role_event_parse(line, strlen(line), ret);
}

static void event_parse__known__decoded(void **state)
{
	struct role_event e;

	(void)state;
	assert_int_equal(parse("{\"type\":\"init\",\"data\":{\"isPrimary\":true}}", &e), 0);
	assert_int_equal(e.kind, ROLE_EVENT_INIT);
	assert_true(e.is_primary);
	assert_string_equal(e.hostname, "");
	assert_int_equal(parse("{\"type\":\"primaryChange\",\"data\":{\"isPrimary\":false,\"hostname\":\"h\"}}", &e), 0);
	assert_int_equal(e.kind, ROLE_EVENT_PRIMARY_CHANGE);
	assert_false(e.is_primary);
	assert_string_equal(e.hostname, "h");
	assert_int_equal(parse("{\"type\":\"tx\",\"db\":\"a.db\",\"data\":{\"txID\":\"000000000000001f\",\"postApplyChecksum\":"
			       "\"89fe000000000001\",\"pageSize\":4096}}", &e), 0);
	assert_int_equal(e.kind, ROLE_EVENT_TX);
	assert_string_equal(e.db, "a.db");
	assert_int_equal(e.pos.txid, 0x1f);
	assert_int_equal(e.pos.checksum, 0x89fe000000000001);
	/* What cannot be read is no position, and no reason to end the stream. */
	assert_int_equal(parse("{\"type\":\"tx\",\"db\":\"a\",\"data\":{\"txID\":\"1\"}}", &e), 0);
	assert_int_equal(e.kind, ROLE_EVENT_OTHER);
	assert_int_equal(parse("{\"type\":\"tx\",\"db\":\"../a\",\"data\":{\"txID\":\"000000000000001f\",\"postApplyChecksum\":"
			       "\"89fe000000000001\"}}", &e), 0);
	assert_int_equal(e.kind, ROLE_EVENT_OTHER);
	assert_int_equal(parse("{\"type\":\"new in a later release\"}", &e), 0);
	assert_int_equal(e.kind, ROLE_EVENT_OTHER);
}

static void event_parse__malformed__eproto_and_unchanged(void **state)
{
	static const char *const bad[] = {
		"x", "{}", "[]", "7", "{\"type\":7}", "{\"type\":\"init\"}", "{\"type\":\"init\",\"data\":null}",
		"{\"type\":\"init\",\"data\":{\"isPrimary\":\"true\"}}",
		"{\"type\":\"init\",\"data\":{\"isPrimary\":false,\"hostname\":7}}",
		"{\"type\":\"init\",\"data\":{\"isPrimary\":false,\"hostname\":\"a\\u0000b\"}}",
		"{\"type\":\"init\",\"data\":{\"isPrimary\":true}}{\"type\":\"init\",\"data\":{\"isPrimary\":false}}",
	};
	struct role_event e = {.kind = ROLE_EVENT_OTHER, .hostname = "untouched"};
	char longname[400];

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		assert_int_equal(parse(bad[i], &e), -EPROTO);
	snprintf(longname, sizeof longname, "{\"type\":\"init\",\"data\":{\"isPrimary\":false,\"hostname\":\"%0300d\"}}", 0);
	assert_int_equal(parse(longname, &e), -EPROTO);
	assert_string_equal(e.hostname, "untouched");
}

static void events_feed__any_cut__same_events(void **state)
{
	static const char stream[] = "{\"type\":\"init\",\"data\":{\"isPrimary\":true}}\n"
				     "\n"
				     "{\"type\":\"tx\",\"db\":\"a\",\"data\":{}}\n"
				     "{\"type\":\"primaryChange\",\"data\":{\"isPrimary\":false,\"hostname\":\"h\"}}\n";
	size_t len = sizeof stream - 1;

	(void)state;
	for (size_t step = 1; step <= len; step++) {
		struct role_events events = {0};
		struct seen seen = {0};

		for (size_t at = 0; at < len; at += step) {
			size_t n = len - at < step ? len - at : step;

			assert_int_equal(role_events_feed(&events, stream + at, n, see, &seen), 0);
		}
		assert_int_equal(seen.n, 3);
		assert_string_equal(seen.last.hostname, "h");
		role_events_fini(&events);
	}
}

static void events_feed__endless_line__eproto(void **state)
{
	struct role_events events = {0};
	struct seen seen = {0};
	char block[4096];
	size_t fed = 0;
	int err = 0;

	(void)state;
	memset(block, ' ', sizeof block);
	while (!err && fed <= 2 * ROLE_EVENT_MAX) {
		err = role_events_feed(&events, block, sizeof block, see, &seen);
		fed += sizeof block;
	}
	assert_int_equal(err, -EPROTO);
	assert_int_equal(fed, ROLE_EVENT_MAX + sizeof block);
	assert_int_equal(seen.n, 0);
	role_events_fini(&events);
	role_events_fini(&events);
}

static void events_feed__callback_fails__passed_on(void **state)
{
	static const char line[] = "{\"type\":\"tx\"}\n{\"type\":\"tx\"}\n";
	struct role_events events = {0};
	struct seen seen = {.fail_with = -ECANCELED};

	(void)state;
	assert_int_equal(role_events_feed(&events, line, sizeof line - 1, see, &seen), -ECANCELED);
	assert_int_equal(seen.n, 1);
	role_events_fini(&events);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(expand__good_templates__url),
		cmocka_unit_test(expand__bad_templates__error_and_unchanged),
		cmocka_unit_test(expand__too_long__enametoolong),
		cmocka_unit_test(escape__each_byte__reversible),
		cmocka_unit_test(event_parse__known__decoded),
		cmocka_unit_test(event_parse__malformed__eproto_and_unchanged),
		cmocka_unit_test(events_feed__any_cut__same_events),
		cmocka_unit_test(events_feed__endless_line__eproto),
		cmocka_unit_test(events_feed__callback_fails__passed_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
