/* upstream_gateway: each answer of a gateway, honest or not, and what is known after it. The fake LiteFS plays the gateway. */
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
#include "base/random.h"
#include "fake/fake_litefs.h"
#include "litefs/api.h"
#include "litefs/gw_auth.h"
#include "litefs/gw_conns.h"
#include "litefs/gw_proto.h"
#include "litefs/upstream.h"

#define LONG_NS (20 * NS_PER_S) /* a bound that no passing test reaches */
#define RANDOM UINT64_C(0x1234)
#define ID "2330" /* half of it */
#define NONCE "0123456789abcdef0123456789abcdef"
#define INFO(v, primary, cluster) \
	"{\"litefwd\":" v ",\"is_primary\":" primary ",\"cluster\":\"" cluster "\",\"server\":\"00000000000000aa\",\"nonce\":\"" NONCE "\"}\n"
#define GRANT(pos, tx) \
	"{\"litefwd\":1,\"pos\":\"" pos "\",\"lease_ms\":5000,\"waiting\":0,\"server\":\"00000000000000aa\",\"tx\":[" tx "]}\n"
#define RESULT(pos, yield) "{\"litefwd\":1,\"outcome\":\"committed\",\"pos\":\"" pos "\",\"waiting\":0,\"yield\":" yield "}\n"
#define ENDED "{\"litefwd\":1}\n"
#define ERROR(code) "{\"litefwd\":1,\"error\":\"" code "\",\"text\":\"why\"}\n"
#define P5 "0000000000000005-8000000000000055"
#define P6 "0000000000000006-8000000000000066"
#define SIZE 1000

static const struct pos pos5 = {5, UINT64_C(0x8000000000000055)}, pos6 = {6, UINT64_C(0x8000000000000066)};
static const struct gw_secret secret = {.key = "0123456789abcdef", .len = 16};

struct role {
	pthread_mutex_t mutex;
	struct role_state state;
};

/* In place of src/litefs/role.c and src/base/random.c: answers can be signed before they are asked for. */
void role_get(struct role *role, struct role_state *ret)
{
	pthread_mutex_lock(&role->mutex);
	*ret = role->state;
	pthread_mutex_unlock(&role->mutex);
}

uint64_t random_u64(void)
{
	return RANDOM;
}

uint32_t random_u32(void)
{
	return (uint32_t)RANDOM;
}

struct ctx {
	struct fake *fake;
	struct role role;
	struct settings settings;
	struct gw_conns *conns;
	struct upstream *up, *other; /* other: of another database, or NULL */
	unsigned sent;
};

static int setup_with(void **state, const struct gw_secret *with)
{
	struct ctx *c = calloc(1, sizeof *c);
	struct upstream_config config = {.settings = &c->settings, .gw_secret = with, .name = "t.db", .node_id = 7, .role = &c->role};

	assert_int_equal(gw_conns_new(&c->conns), 0);
	config.gw_conns = c->conns;

	c->fake = fake_start(1);
	pthread_mutex_init(&c->role.mutex, NULL);
	c->role.state.kind = ROLE_REPLICA;
	c->role.state.epoch = 1;
	strcpy(c->role.state.cluster_id, "LFSC1");
	snprintf(c->role.state.gateway_url, sizeof c->role.state.gateway_url, "%s", fake_url(c->fake));
	*state = c;
	assert_int_equal(upstream_new(&config, UPSTREAM_GATEWAY, &c->up), 0);
	config.name = "other.db";
	return upstream_new(&config, UPSTREAM_GATEWAY, &c->other);
}

static int setup(void **state)
{
	return setup_with(state, NULL);
}

static int setup_secret(void **state)
{
	return setup_with(state, &secret);
}

static int teardown(void **state)
{
	struct ctx *c = *state;

	upstream_free(c->up);
	upstream_free(c->other);
	gw_conns_free(c->conns);
	fake_stop(c->fake);
	pthread_mutex_destroy(&c->role.mutex);
	free(c);
	return 0;
}

static void answer(struct ctx *c, enum fake_verb verb, int status, const char *body)
{
	fake_script(c->fake, verb, &(struct fake_step){FAKE_ANSWER, .status = status, .body = body});
}

static void does(struct ctx *c, enum fake_verb verb, enum fake_does what)
{
	fake_script(c->fake, verb, &(struct fake_step){.does = what});
}

static int begin(struct ctx *c, struct upstream_grant *grant)
{
	return upstream_begin(c->up, pos5, clock_now_ns() + LONG_NS, grant);
}

static ptrdiff_t body_read(void *ctx, void *buf, size_t len, uint64_t offset)
{
	(void)ctx;
	len = offset + len > SIZE ? SIZE - (size_t)offset : len;
	memset(buf, 'x', len);
	return (ptrdiff_t)len;
}

static void body_sent(void *ctx)
{
	((struct ctx *)ctx)->sent++;
}

static enum outcome commit(struct ctx *c)
{
	struct upstream_tx tx = {.before = pos5, .after = pos6, .size = SIZE, .read_at = body_read, .sent = body_sent, .ctx = c};

	c->sent = 0;
	return upstream_commit(c->up, &tx, clock_now_ns() + LONG_NS);
}

static void hold(struct ctx *c)
{
	struct upstream_grant grant;

	answer(c, FAKE_INFO, 200, INFO("1", "true", "LFSC1"));
	answer(c, FAKE_HALT, 200, GRANT(P5, ""));
	assert_int_equal(begin(c, &grant), 0);
	assert_true(pos_equal(grant.pos, pos5) && grant.tx_count == 0);
}

static void good_path__each_asked_once_and_bundle_brought(void **state)
{
	struct ctx *c = *state;
	struct upstream_grant grant;
	int64_t before = clock_now_ns();
	char head[4096];
	struct pos pos;

	answer(c, FAKE_INFO, 200, INFO("1", "true", "LFSC1"));
	fake_script(c->fake, FAKE_HALT, &(struct fake_step){FAKE_ANSWER, .body = GRANT(P5, "3,2") "a\0bcd",
							    .body_len = sizeof(GRANT(P5, "3,2") "a\0bcd") - 1});
	answer(c, FAKE_HALT, 200, GRANT(P5, ""));
	answer(c, FAKE_TX, 200, RESULT(P6, "true"));
	assert_int_equal(begin(c, &grant), 0);
	assert_int_equal(grant.tx_count, 2);
	assert_true(grant.tx_size[0] == 3 && grant.tx_size[1] == 2);
	assert_memory_equal(grant.ltx, "a\0bcd", 5);
	assert_true(upstream_hold_until(c->up) <= clock_now_ns() + 5 * NS_PER_S && upstream_hold_until(c->up) > before);
	assert_true(upstream_renew_at(c->up) < upstream_hold_until(c->up));
	fake_last_request(c->fake, FAKE_HALT, head, sizeof head);
	assert_non_null(strstr(head, "POST /halt?v=1&name=t.db&id=" ID "&pos=" P5 "&wait="));
	assert_non_null(strstr(head, "&peer=0000000000000007&cluster=LFSC1 "));
	assert_null(strstr(head, GW_AUTH_HEADER));
	assert_int_equal(upstream_renew(c->up, clock_now_ns() + LONG_NS, &pos), 0);
	assert_true(pos_equal(pos, pos5));
	assert_int_equal(commit(c), OUTCOME_COMMITTED);
	assert_int_equal(c->sent, 1);
	assert_true(upstream_yield(c->up));
	upstream_end(c->up);
	upstream_end(c->up);
	assert_false(upstream_yield(c->up));
	assert_int_equal(fake_count(c->fake, FAKE_INFO), 1);
	assert_int_equal(fake_count(c->fake, FAKE_HALT), 2);
	assert_int_equal(fake_count(c->fake, FAKE_UNHALT), 1);
	assert_int_equal(fake_connections(c->fake), 1);
	assert_true(upstream_rtt_ns(c->up) > 0 && upstream_max_tx_bytes(c->up) == UINT64_MAX);
}

static void several_databases__one_after_the_other__share_a_connection(void **state)
{
	struct ctx *c = *state;
	struct upstream_grant grant;
	char head[4096];

	hold(c);
	answer(c, FAKE_UNHALT, 200, ENDED);
	upstream_end(c->up);
	answer(c, FAKE_HALT, 200, GRANT(P6, ""));
	assert_int_equal(upstream_begin(c->other, pos6, clock_now_ns() + LONG_NS, &grant), 0);
	fake_last_request(c->fake, FAKE_HALT, head, sizeof head);
	assert_non_null(strstr(head, "name=other.db&"));
	answer(c, FAKE_UNHALT, 200, ENDED);
	upstream_end(c->other);
	assert_int_equal(fake_count(c->fake, FAKE_INFO), 1);
	assert_int_equal(fake_count(c->fake, FAKE_UNHALT), 2);
	assert_int_equal(fake_connections(c->fake), 1);
}

static void several_databases__at_once__each_has_its_own(void **state)
{
	struct ctx *c = *state;
	struct upstream_grant grant;

	hold(c);
	answer(c, FAKE_INFO, 200, INFO("1", "true", "LFSC1"));
	answer(c, FAKE_HALT, 200, GRANT(P5, ""));
	assert_int_equal(upstream_begin(c->other, pos5, clock_now_ns() + LONG_NS, &grant), 0);
	assert_int_equal(fake_connections(c->fake), 2);
	/* An abort is of one, and not of whoever has its connection later. */
	upstream_abort(c->other);
	answer(c, FAKE_TX, 200, RESULT(P6, "false"));
	assert_int_equal(commit(c), OUTCOME_COMMITTED);
	answer(c, FAKE_UNHALT, 200, ENDED);
	upstream_end(c->other);
	answer(c, FAKE_UNHALT, 200, ENDED);
	upstream_end(c->up);
	answer(c, FAKE_HALT, 200, GRANT(P5, ""));
	assert_int_equal(begin(c, &grant), 0);
	upstream_end(c->up);
}

static void begin__who_is_there__as_it_says(void **state)
{
	static const struct {
		int status;
		const char *body;
		int err;
	} rows[] = {
		{200, INFO("2", "true", "LFSC1"), -ENOTSUP},  {200, INFO("1", "true", "LFSC2"), -ENOTSUP},
		{200, INFO("1", "false", "LFSC1"), -EHOSTUNREACH}, {200, "rubbish", -ENOTSUP}, {200, "", -ENOTSUP},
		{404, "not found\n", -ENOTSUP},		      {500, INFO("1", "true", "LFSC1"), -ENOTSUP},
	};
	struct ctx *c = *state;
	struct upstream_grant grant;

	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		answer(c, FAKE_INFO, rows[i].status, rows[i].body);
		assert_int_equal(begin(c, &grant), rows[i].err);
	}
	fake_script(c->fake, FAKE_INFO, &(struct fake_step){FAKE_ANSWER, .body = "xxxxxxxx", .repeat = 100000});
	assert_int_equal(begin(c, &grant), -ENOTSUP);
	does(c, FAKE_INFO, FAKE_RAW);
	assert_int_equal(begin(c, &grant), -ENOTSUP);
	assert_int_equal(fake_count(c->fake, FAKE_HALT), 0);
	fake_set_up(c->fake, false);
	assert_int_equal(begin(c, &grant), -ENOTSUP);
	c->role.state.gateway_url[0] = 0;
	assert_int_equal(begin(c, &grant), -ENOTSUP);
}

static void begin__refused_or_hostile__mapped_and_nothing_held(void **state)
{
	static const struct {
		int status;
		const char *body;
		int err;
		unsigned ended; /* may have been granted: told */
	} rows[] = {
		{423, ERROR("busy"), -EAGAIN, 0},	  {429, ERROR("limit"), -EAGAIN, 0},
		{503, ERROR("not_primary"), -EHOSTUNREACH, 0}, {404, ERROR("unsupported"), -ENOTSUP, 0},
		{401, ERROR("auth"), -ENOTSUP, 0},	  {505, ERROR("version"), -ENOTSUP, 0},
		{423, ERROR("limit"), -ENOTSUP, 1},	  {200, ERROR("busy"), -ENOTSUP, 1},
		{502, "bad gateway", -ENOTSUP, 1},	  {200, GRANT(P5, "5") "abc", -ENOTSUP, 1},
		{200, GRANT(P5, "2000000"), -ENOTSUP, 1}, {200, GRANT(P5, "-1"), -ENOTSUP, 1},
	};
	struct ctx *c = *state;
	struct upstream_grant grant;

	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		unsigned ended = fake_count(c->fake, FAKE_UNHALT), infos = fake_count(c->fake, FAKE_INFO);

		answer(c, FAKE_INFO, 200, INFO("1", "true", "LFSC1"));
		c->role.state.epoch++;
		answer(c, FAKE_HALT, rows[i].status, rows[i].body);
		assert_int_equal(begin(c, &grant), rows[i].err);
		assert_int_equal(fake_count(c->fake, FAKE_UNHALT) - ended, rows[i].ended);
		assert_int_equal(fake_count(c->fake, FAKE_INFO) - infos, 1);
		assert_int_equal(commit(c), OUTCOME_REFUSED);
	}
	answer(c, FAKE_INFO, 200, INFO("1", "true", "LFSC1"));
	c->role.state.epoch++;
	fake_script(c->fake, FAKE_HALT, &(struct fake_step){FAKE_ANSWER, .body = "xxxxxxxx", .repeat = 1000000});
	assert_int_equal(begin(c, &grant), -ENOTSUP);
	answer(c, FAKE_INFO, 200, INFO("1", "true", "LFSC1"));
	does(c, FAKE_HALT, FAKE_CLOSE_AFTER_BODY);
	assert_int_equal(begin(c, &grant), -EHOSTUNREACH);
	assert_int_equal(fake_count(c->fake, FAKE_TX), 0);
}

static void *abort_when_asked(void *arg)
{
	struct ctx *c = arg;

	if (fake_wait_count(c->fake, FAKE_HALT, 1))
		upstream_abort(c->up);
	return NULL;
}

static void begin__aborted_in_the_queue__ecanceled_and_told(void **state)
{
	struct ctx *c = *state;
	struct upstream_grant grant;
	pthread_t thread;

	answer(c, FAKE_INFO, 200, INFO("1", "true", "LFSC1"));
	does(c, FAKE_HALT, FAKE_STALL);
	assert_int_equal(pthread_create(&thread, NULL, abort_when_asked, c), 0);
	assert_int_equal(begin(c, &grant), -ECANCELED);
	pthread_join(thread, NULL);
	assert_int_equal(fake_count(c->fake, FAKE_UNHALT), 1);
	hold(c);
}

static void renew__lost__nothing_held(void **state)
{
	static const struct {
		int status;
		const char *body;
		int err;
	} rows[] = {{200, GRANT(P6, ""), -EAGAIN}, {200, GRANT(P5, "1") "x", -EAGAIN}, {423, ERROR("busy"), -EAGAIN},
		    {503, ERROR("not_primary"), -EHOSTUNREACH}};
	struct ctx *c = *state;
	struct pos pos = {0};

	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		c->role.state.epoch++;
		hold(c);
		answer(c, FAKE_HALT, rows[i].status, rows[i].body);
		assert_int_equal(upstream_renew(c->up, clock_now_ns() + LONG_NS, &pos), rows[i].err);
		assert_int_equal(pos.txid, 0);
		assert_int_equal(commit(c), OUTCOME_REFUSED);
	}
	assert_int_equal(fake_count(c->fake, FAKE_TX), 0);
}

static void commit__each_answer__its_outcome(void **state)
{
	static const struct {
		enum fake_does what;
		int status;
		const char *body;
		enum outcome outcome;
	} rows[] = {
		{FAKE_ANSWER, 200, RESULT(P6, "false"), OUTCOME_COMMITTED},
		{FAKE_ANSWER, 200, RESULT(P5, "false"), OUTCOME_UNKNOWN},
		{FAKE_ANSWER, 200, "{\"litefwd\":1,\"outcome\":\"unknown\"}\n", OUTCOME_UNKNOWN},
		{FAKE_ANSWER, 500, "{\"litefwd\":1,\"outcome\":\"unknown\"}\n", OUTCOME_UNKNOWN},
		{FAKE_ANSWER, 200, "", OUTCOME_UNKNOWN},
		{FAKE_ANSWER, 200, ERROR("refused"), OUTCOME_UNKNOWN},
		{FAKE_ANSWER, 409, ERROR("not_held"), OUTCOME_REFUSED},
		{FAKE_ANSWER, 409, ERROR("refused"), OUTCOME_REFUSED},
		{FAKE_ANSWER, 400, ERROR("bad_request"), OUTCOME_REFUSED},
		{FAKE_ANSWER, 401, ERROR("auth"), OUTCOME_REFUSED},
		{FAKE_ANSWER_EARLY, 413, ERROR("too_large"), OUTCOME_REFUSED},
		{FAKE_ANSWER, 503, ERROR("not_primary"), OUTCOME_REFUSED},
		{FAKE_ANSWER, 500, ERROR("unknown"), OUTCOME_UNKNOWN},
		{FAKE_ANSWER, 400, ERROR("refused"), OUTCOME_UNKNOWN}, /* status and code disagree */
		{FAKE_ANSWER, 409, "{\"litefwd\":2,\"error\":\"refused\",\"text\":\"\"}\n", OUTCOME_UNKNOWN},
		{FAKE_ANSWER, 409, ERROR("of a later version"), OUTCOME_UNKNOWN},
		{FAKE_ANSWER, 502, "bad gateway", OUTCOME_UNKNOWN},
		{FAKE_RAW, 0, "rubbish", OUTCOME_UNKNOWN},
		{FAKE_CLOSE_BEFORE, 0, NULL, OUTCOME_UNKNOWN},
		{FAKE_CLOSE_AFTER_HEADER, 0, NULL, OUTCOME_UNKNOWN},
		{FAKE_CLOSE_AFTER_BODY, 0, NULL, OUTCOME_UNKNOWN},
	};
	struct ctx *c = *state;

	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		unsigned asked = fake_count(c->fake, FAKE_TX);

		c->role.state.epoch++;
		hold(c);
		fake_script(c->fake, FAKE_TX, &(struct fake_step){rows[i].what, .status = rows[i].status, .body = rows[i].body});
		if (commit(c) != rows[i].outcome)
			fail_msg("row %zu", i);
		assert_int_equal(fake_count(c->fake, FAKE_TX) - asked, 1); /* never twice */
		assert_false(upstream_yield(c->up));
		upstream_end(c->up);
	}
}

static void commit__connection_gone_before_it__asked_who_and_sent_once(void **state)
{
	struct ctx *c = *state;

	hold(c);
	fake_set_up(c->fake, false);
	assert_int_equal(commit(c), OUTCOME_REFUSED);
	assert_int_equal(c->sent, 0);
	upstream_end(c->up);
	fake_set_up(c->fake, true);
	hold(c);
	fake_set_up(c->fake, false);
	fake_set_up(c->fake, true);
	answer(c, FAKE_INFO, 200, INFO("1", "true", "LFSC1"));
	answer(c, FAKE_TX, 200, RESULT(P6, "false"));
	assert_int_equal(commit(c), OUTCOME_COMMITTED);
	assert_int_equal(fake_count(c->fake, FAKE_TX), 1);
}

static void *abort_the_commit(void *arg)
{
	struct ctx *c = arg;

	if (fake_wait_count(c->fake, FAKE_TX, 2))
		upstream_abort(c->up);
	return NULL;
}

static void commit__no_answer_in_time_or_aborted__unknown(void **state)
{
	struct upstream_tx tx = {.before = pos5, .after = pos6, .size = SIZE, .read_at = body_read};
	struct ctx *c = *state;
	pthread_t thread;

	hold(c);
	does(c, FAKE_TX, FAKE_STALL);
	assert_int_equal(upstream_commit(c->up, &tx, clock_now_ns() + 200 * NS_PER_MS), OUTCOME_UNKNOWN);
	upstream_end(c->up); /* over a connection of its own */
	assert_int_equal(fake_count(c->fake, FAKE_UNHALT), 1);
	hold(c);
	does(c, FAKE_TX, FAKE_STALL);
	assert_int_equal(pthread_create(&thread, NULL, abort_the_commit, c), 0);
	assert_int_equal(commit(c), OUTCOME_UNKNOWN);
	pthread_join(thread, NULL);
	upstream_end(c->up);
	assert_int_equal(fake_count(c->fake, FAKE_UNHALT), 2);
	assert_int_equal(fake_count(c->fake, FAKE_TX), 2);
}

/* ---- with a secret ---- */

static void signed_step(struct ctx *c, enum fake_verb verb, const char *target, const char *body, size_t len, uint64_t counter,
			const char *reply)
{
	char hash[65], value[GW_AUTH_VALUE_MAX], mac[GW_MAC_HEX], line[GW_AUTH_VALUE_MAX + 20];

	gw_hash_once(body, len, hash);
	assert_int_equal(gw_auth_request(&secret, "POST", target, hash, NONCE, RANDOM, counter, value, mac), 0);
	gw_hash_once(reply, strlen(reply), hash);
	assert_int_equal(gw_auth_answer(&secret, mac, 200, hash, value), 0);
	snprintf(line, sizeof line, GW_AUTH_HEADER ": %s", value);
	fake_script(c->fake, verb, &(struct fake_step){FAKE_ANSWER, .body = reply, .header = line});
}

static void hold_signed(struct ctx *c)
{
	struct upstream_grant grant;

	answer(c, FAKE_INFO, 200, INFO("1", "true", "LFSC1"));
	signed_step(c, FAKE_HALT, "/halt?v=1&name=t.db&id=" ID "&pos=" P5 "&wait=0&peer=0000000000000007&cluster=LFSC1", "", 0, 1,
		    GRANT(P5, ""));
	/* Asked at its deadline, so that "wait" is known: the gateway has some time all the same. */
	assert_int_equal(upstream_begin(c->up, pos5, clock_now_ns(), &grant), 0);
}

static void secret__signed_answers__believed(void **state)
{
	struct ctx *c = *state;
	char body[SIZE];

	memset(body, 'x', sizeof body);
	hold_signed(c);
	signed_step(c, FAKE_TX, "/tx?v=1&name=t.db&id=" ID, body, sizeof body, 2, RESULT(P6, "false"));
	assert_int_equal(commit(c), OUTCOME_COMMITTED);
}

static void secret__unsigned_answers__not_believed(void **state)
{
	struct ctx *c = *state;
	struct upstream_grant grant;

	answer(c, FAKE_INFO, 200, INFO("1", "true", "LFSC1"));
	answer(c, FAKE_HALT, 200, GRANT(P5, ""));
	assert_int_equal(begin(c, &grant), -ENOTSUP);
	assert_int_equal(commit(c), OUTCOME_REFUSED);
}

static void secret__unsigned_answer_to_commit__unknown(void **state)
{
	struct ctx *c = *state;

	hold_signed(c);
	answer(c, FAKE_TX, 409, ERROR("refused"));
	assert_int_equal(commit(c), OUTCOME_UNKNOWN);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define S(f) cmocka_unit_test_setup_teardown(f, setup_secret, teardown)

static int group_setup(void **state)
{
	(void)state;
	return api_global_init();
}

static int group_teardown(void **state)
{
	(void)state;
	api_global_fini();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(good_path__each_asked_once_and_bundle_brought),
		T(several_databases__one_after_the_other__share_a_connection),
		T(several_databases__at_once__each_has_its_own),
		T(begin__who_is_there__as_it_says),
		T(begin__refused_or_hostile__mapped_and_nothing_held),
		T(begin__aborted_in_the_queue__ecanceled_and_told),
		T(renew__lost__nothing_held),
		T(commit__each_answer__its_outcome),
		T(commit__connection_gone_before_it__asked_who_and_sent_once),
		T(commit__no_answer_in_time_or_aborted__unknown),
		S(secret__signed_answers__believed),
		S(secret__unsigned_answers__not_believed),
		S(secret__unsigned_answer_to_commit__unknown),
	};

	return cmocka_run_group_tests_name("upstream_gateway", tests, group_setup, group_teardown);
}
