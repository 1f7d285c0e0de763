/* gw_proto: what is put is got; what is not the protocol is refused, whatever its sender wants. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "litefs/gw_proto.h"

#define POS "0000000000000005-8000000000000055"

static void codes__each__name_and_back(void **state)
{
	(void)state;
	for (int code = GW_OK; code <= GW_UNKNOWN; code++) {
		assert_int_equal(gw_code_by_name(gw_code_name((enum gw_code)code)), code);
		assert_in_range(gw_code_status((enum gw_code)code), code == GW_OK ? 200 : 400, 599);
	}
	assert_int_equal(gw_code_by_name("of a later version"), GW_BAD_REQUEST);
}

static void pos__both_ways__same(void **state)
{
	static const char *const bad[] = {"", "0", POS "0", "0000000000000005/8000000000000055", "000000000000000g-8000000000000055",
					  "0000000000000005-800000000000005", "0000000000000005-800000000000005A"};
	struct pos pos = {0};
	char text[GW_POS_SIZE];

	(void)state;
	assert_int_equal(gw_parse_pos(POS, &pos), 0);
	assert_true(pos.txid == 5 && pos.checksum == UINT64_C(0x8000000000000055));
	gw_format_pos(pos, text);
	assert_string_equal(text, POS);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		assert_int_equal(gw_parse_pos(bad[i], &pos), -EBADMSG);
	assert_int_equal(pos.txid, 5);
}

static void info__both_ways__same(void **state)
{
	struct gw_info in = {.is_primary = true, .cluster = "LFSC\"\\\n", .server = UINT64_MAX,
			     .nonce = "0123456789abcdef0123456789abcdef"}, out = {0};
	char line[GW_LINE_MAX];
	size_t len = gw_put_info(&in, line);

	(void)state;
	assert_int_equal(gw_get_info(line, len, &out), 0);
	assert_true(out.is_primary && out.server == in.server);
	assert_string_equal(out.cluster, "LFSC???"); /* cannot break out of its quotes */
	assert_string_equal(out.nonce, in.nonce);
}

static void grant__both_ways__same_and_bundle_found(void **state)
{
	struct gw_grant in = {.pos = {7, 8}, .lease_ms = 5000, .waiting = UINT32_MAX, .server = 1}, out = {0};
	char *body = calloc(1, GW_LINE_MAX + GW_BUNDLE_MAX);
	size_t len, bundle = 0;

	(void)state;
	assert_non_null(body);
	for (unsigned i = 0; i < GW_TX_MAX; i++)
		in.tx_size[i] = GW_BUNDLE_MAX / GW_TX_MAX;
	for (unsigned n = 0; n <= GW_TX_MAX; n += GW_TX_MAX / 2) {
		in.tx_count = n;
		len = gw_put_grant(&in, body);
		assert_int_equal(gw_get_grant(body, len + n * in.tx_size[0], &out, &bundle), 0);
		assert_int_equal(bundle, len);
		assert_true(pos_equal(out.pos, in.pos) && out.lease_ms == 5000 && out.waiting == UINT32_MAX && out.server == 1);
		assert_int_equal(out.tx_count, n);
		for (unsigned i = 0; i < n; i++)
			assert_int_equal(out.tx_size[i], in.tx_size[i]);
		/* one byte too many, one too few */
		assert_int_equal(gw_get_grant(body, len + n * in.tx_size[0] + 1, &out, &bundle), -EBADMSG);
		assert_int_equal(gw_get_grant(body, len + n * in.tx_size[0] - 1, &out, &bundle), -EBADMSG);
	}
	free(body);
}

static void result__both_ways__same(void **state)
{
	struct gw_result in = {.pos = {7, 8}, .waiting = 3, .yield = true}, out = {0};
	char line[GW_LINE_MAX];
	size_t len = gw_put_result(&in, line);

	(void)state;
	assert_int_equal(gw_get_result(line, len, &out), 0);
	assert_true(!out.unknown && pos_equal(out.pos, in.pos) && out.waiting == 3 && out.yield);
	in.unknown = true;
	len = gw_put_result(&in, line);
	assert_int_equal(gw_get_result(line, len, &out), 0);
	assert_true(out.unknown);
}

static void error__both_ways__same_and_text_cut(void **state)
{
	struct gw_error out;
	char line[GW_LINE_MAX], text[1000];
	size_t len;

	(void)state;
	memset(text, '"', sizeof text - 1);
	text[sizeof text - 1] = 0;
	for (int code = GW_BAD_REQUEST; code <= GW_UNKNOWN; code++) {
		len = gw_put_error((enum gw_code)code, text, line);
		assert_int_equal(gw_get_error(line, len, &out), 0);
		assert_int_equal(out.code, code);
		assert_int_equal(strlen(out.text), sizeof out.text - 1);
	}
	len = gw_put_error(GW_OK, "", line);
	assert_int_equal(gw_get_error(line, len, &out), -EBADMSG);
}

#define HALT(v, pos, lease, waiting, server, tx) \
	"{\"litefwd\":" v ",\"pos\":" pos ",\"lease_ms\":" lease ",\"waiting\":" waiting ",\"server\":" server ",\"tx\":" tx "}\n"
#define P "\"" POS "\""
#define S "\"00000000000000aa\""

static void grant__hostile__refused_and_unchanged(void **state)
{
	static const char *const bad[] = {
		"", "\n", "{}\n", "[]\n", "null\n", "{\"litefwd\":1}\n", "rubbish",
		HALT("2", P, "1", "0", S, "[]"), HALT("\"1\"", P, "1", "0", S, "[]"), HALT("1.0", P, "1", "0", S, "[]"),
		HALT("1", "5", "1", "0", S, "[]"), HALT("1", "\"5\"", "1", "0", S, "[]"), HALT("1", P, "0", "0", S, "[]"),
		HALT("1", P, "-1", "0", S, "[]"), HALT("1", P, "99999999999999999999", "0", S, "[]"),
		HALT("1", P, "9223372036854775807", "0", S, "[]"), HALT("1", P, "1", "-1", S, "[]"),
		HALT("1", P, "1", "4294967296", S, "[]"), HALT("1", P, "1", "0", "\"aa\"", "[]"), HALT("1", P, "1", "0", "1", "[]"),
		HALT("1", P, "1", "0", S, "{}"), HALT("1", P, "1", "0", S, "null"), HALT("1", P, "1", "0", S, "[0]"),
		HALT("1", P, "1", "0", S, "[-1]"), HALT("1", P, "1", "0", S, "[\"3\"]") "abc", HALT("1", P, "1", "0", S, "[2.0]") "ab",
		HALT("1", P, "1", "0", S, "[2]"), HALT("1", P, "1", "0", S, "[2]") "abc", HALT("1", P, "1", "0", S, "[]") "x",
		HALT("1", P, "1", "0", S, "[9223372036854775807,9223372036854775807,4]") "ab",
		HALT("1", P, "1", "0", S, "[3,-1]") "ab", "{\"litefwd\":1," HALT("1", P, "1", "0", S, "[]"),
		HALT("1", P, "1", "0", S, "[]") HALT("1", P, "1", "0", S, "[]"),
	};
	struct gw_grant grant = {.waiting = 77};
	size_t bundle = 99;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		if (gw_get_grant(bad[i], strlen(bad[i]), &grant, &bundle) != -EBADMSG)
			fail_msg("accepted: %s", bad[i]);
		assert_true(grant.waiting == 77 && bundle == 99);
	}
	assert_int_equal(gw_get_grant(HALT("1", P, "1", "0", S, "[2,1]") "abc", strlen(HALT("1", P, "1", "0", S, "[2,1]")) + 3,
				      &grant, &bundle), 0);
}

static void grant__too_many_or_too_long__refused(void **state)
{
	char *body = calloc(1, GW_LINE_MAX + GW_BUNDLE_MAX + 1);
	struct gw_grant grant;
	size_t bundle, n;

	(void)state;
	assert_non_null(body);
	n = (size_t)sprintf(body, "{\"litefwd\":1,\"pos\":" P ",\"lease_ms\":1,\"waiting\":0,\"server\":" S ",\"tx\":[1");
	for (int i = 0; i < GW_TX_MAX; i++)
		n += (size_t)sprintf(body + n, ",1");
	n += (size_t)sprintf(body + n, "]}\n");
	assert_int_equal(gw_get_grant(body, n + GW_TX_MAX + 1, &grant, &bundle), -EBADMSG);
	n = (size_t)sprintf(body, HALT("1", P, "1", "0", S, "[1048577]"));
	assert_int_equal(gw_get_grant(body, n + GW_BUNDLE_MAX + 1, &grant, &bundle), -EBADMSG);
	/* a line without an end */
	memset(body, ' ', GW_LINE_MAX);
	body[GW_LINE_MAX] = '\n';
	assert_int_equal(gw_get_grant(body, GW_LINE_MAX + 1, &grant, &bundle), -EBADMSG);
	free(body);
}

static void json__deep__refused(void **state)
{
	char body[GW_LINE_MAX];
	struct gw_error error;
	struct gw_info info;

	(void)state;
	for (const char *c = "[{"; *c; c++) {
		memset(body, *c, sizeof body);
		body[sizeof body - 1] = '\n';
		assert_int_equal(gw_get_error(body, sizeof body, &error), -EBADMSG);
		assert_int_equal(gw_get_info(body, sizeof body, &info), -EBADMSG);
	}
}

static void info_result_error__hostile__refused(void **state)
{
#define N "\"0123456789abcdef0123456789abcdef\""
#define INFO(primary, cluster, server, nonce) \
	"{\"litefwd\":1,\"is_primary\":" primary ",\"cluster\":" cluster ",\"server\":" server ",\"nonce\":" nonce "}\n"
	static const char *const infos[] = {
		INFO("1", "\"c\"", S, N), INFO("true", "5", S, N), INFO("true", "\"a\\u0000b\"", S, N), INFO("true", "\"c\"", S, "\"0\""),
		INFO("true", "\"c\"", S, "\"0123456789abcdef0123456789abcdeX\""), INFO("true", "\"c\"", S, "null"),
		INFO("true", "\"0123456789012345678901234567890123456789012345678901234567890123\"", S, N),
		INFO("true", "\"c\"", S, N) "x", "{\"is_primary\":true,\"cluster\":\"c\",\"server\":" S ",\"nonce\":" N "}\n",
	};
	static const char *const results[] = {
		"{\"litefwd\":1}\n", "{\"litefwd\":1,\"outcome\":true}\n", "{\"litefwd\":1,\"outcome\":\"refused\"}\n",
		"{\"litefwd\":1,\"outcome\":\"committed\"}\n", "{\"litefwd\":2,\"outcome\":\"unknown\"}\n",
		"{\"litefwd\":1,\"outcome\":\"committed\",\"pos\":" P ",\"waiting\":0,\"yield\":0}\n",
		"{\"litefwd\":1,\"outcome\":\"committed\",\"pos\":" P ",\"yield\":true}\n",
		"{\"litefwd\":1,\"outcome\":\"unknown\",\"outcome\":\"committed\"}\n", "{\"litefwd\":1,\"outcome\":\"unknown\"}",
	};
	static const char *const errors[] = {
		"{\"litefwd\":1,\"error\":\"busy\"}\n", "{\"litefwd\":1,\"error\":5,\"text\":\"\"}\n",
		"{\"litefwd\":1,\"text\":\"\"}\n", "{\"litefwd\":0,\"error\":\"busy\",\"text\":\"\"}\n",
	};
	struct gw_result result;
	struct gw_error error;
	struct gw_info info;

	(void)state;
	assert_int_equal(gw_get_info(INFO("true", "\"c\"", S, N), strlen(INFO("true", "\"c\"", S, N)), &info), 0);
	for (size_t i = 0; i < sizeof infos / sizeof infos[0]; i++)
		assert_int_equal(gw_get_info(infos[i], strlen(infos[i]), &info), -EBADMSG);
	for (size_t i = 0; i < sizeof results / sizeof results[0]; i++)
		assert_int_equal(gw_get_result(results[i], strlen(results[i]), &result), -EBADMSG);
	for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
		assert_int_equal(gw_get_error(errors[i], strlen(errors[i]), &error), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(codes__each__name_and_back),
		cmocka_unit_test(pos__both_ways__same),
		cmocka_unit_test(info__both_ways__same),
		cmocka_unit_test(grant__both_ways__same_and_bundle_found),
		cmocka_unit_test(result__both_ways__same),
		cmocka_unit_test(error__both_ways__same_and_text_cut),
		cmocka_unit_test(grant__hostile__refused_and_unchanged),
		cmocka_unit_test(grant__too_many_or_too_long__refused),
		cmocka_unit_test(json__deep__refused),
		cmocka_unit_test(info_result_error__hostile__refused),
	};

	return cmocka_run_group_tests_name("gw_proto", tests, NULL, NULL);
}
