/* role: who is primary and where, as the local LiteFS tells it, changes it, goes away and comes back. */
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
#include "fake/fake_consul.h"
#include "fake/fake_litefs.h"
#include "litefs/api.h"
#include "litefs/role.h"

#define NODE UINT64_C(0x0123456789ABCDEF)
#define TEMPLATE "http://{hostname}:20202"

struct ctx {
	struct fake *fake;
	struct fake_consul *consul; /* started by use_consul() */
	struct role *role;
	struct role_config config;

	/* what on_change saw */
	pthread_mutex_t mutex;
	struct role_state last;
	unsigned changes;
	bool out_of_order;
	/* and on_tx */
	char tx_db[64];
	struct pos tx_pos;
};

static void on_change(void *arg, const struct role_state *s)
{
	struct ctx *c = arg;

	pthread_mutex_lock(&c->mutex);
	if (s->epoch != c->last.epoch + 1)
		c->out_of_order = true;
	c->last = *s;
	c->changes++;
	pthread_mutex_unlock(&c->mutex);
}

static void on_tx(void *arg, const char *db, struct pos pos)
{
	struct ctx *c = arg;

	pthread_mutex_lock(&c->mutex);
	snprintf(c->tx_db, sizeof c->tx_db, "%s", db);
	c->tx_pos = pos;
	pthread_mutex_unlock(&c->mutex);
}

static int setup(void **state)
{
	struct ctx *c = calloc(1, sizeof *c);

	c->fake = fake_start(NODE);
	pthread_mutex_init(&c->mutex, NULL);
	c->config = (struct role_config){.litefs_url = fake_url(c->fake),
					 .primary_url = TEMPLATE,
					 .node_id = 9,
					 .on_change = on_change,
					 .ctx = c};
	*state = c;
	return 0;
}

static int teardown(void **state)
{
	struct ctx *c = *state;

	role_stop(c->role);
	fake_stop(c->fake);
	fake_consul_stop(c->consul);
	pthread_mutex_destroy(&c->mutex);
	free(c);
	return 0;
}

static void start(struct ctx *c)
{
	assert_int_equal(role_start(&c->config, &c->role), 0);
}

/* Waits, bounded, until role says so; the state is in *s either way. */
static bool until(struct ctx *c, enum role_kind kind, const char *hostname, const char *url, struct role_state *s)
{
	int64_t end = clock_now_ns() + 20 * NS_PER_S;

	do {
		role_get(c->role, s);
		if (s->kind == kind && !strcmp(s->primary_hostname, hostname) && !strcmp(s->primary_url, url))
			return true;
		clock_sleep_ns(NS_PER_MS);
	} while (clock_now_ns() < end);
	return false;
}

static void events__transaction__told_with_its_position(void **state)
{
	struct ctx *c = *state;
	int64_t end = clock_now_ns() + 20 * NS_PER_S;
	struct pos pos = {7, UINT64_C(0x8000000000000077)};
	bool seen = false;

	c->config.on_tx = on_tx;
	start(c);
	while (!seen && clock_now_ns() < end) {
		fake_set_pos(c->fake, "a.db", pos); /* again, for the stream may not have begun */
		clock_sleep_ns(5 * NS_PER_MS);
		pthread_mutex_lock(&c->mutex);
		seen = !strcmp(c->tx_db, "a.db") && pos_equal(c->tx_pos, pos);
		pthread_mutex_unlock(&c->mutex);
	}
	assert_true(seen);
}

static void start__unusable_config__einval(void **state)
{
	struct ctx *c = *state;

	c->config.litefs_url = "localhost";
	assert_int_equal(role_start(&c->config, &c->role), -EINVAL);
	c->config.litefs_url = fake_url(c->fake);
	c->config.primary_url = "http://{host}:1";
	assert_int_equal(role_start(&c->config, &c->role), -EINVAL);
	c->config.primary_url = NULL;
	c->config.lease_url = "consul";
	assert_int_equal(role_start(&c->config, &c->role), -EINVAL);
	c->config.lease_url = NULL;
	c->config.consul_url = "https://c:8501";
	c->config.consul_key = "k";
	assert_int_equal(role_start(&c->config, &c->role), -EINVAL);
	assert_null(c->role);
	assert_int_equal(fake_connections(c->fake), 0);
	role_stop(NULL);
}

static void primary__told(void **state)
{
	struct ctx *c = *state;
	struct role_state s;

	fake_set_cluster(c->fake, "LFSC42", "/data/x");
	start(c);
	assert_int_equal(role_wait_local(c->role, clock_now_ns() + 20 * NS_PER_S), 0);
	assert_true(until(c, ROLE_PRIMARY, "", "", &s));
	assert_true(s.local_alive);
	assert_string_equal(s.cluster_id, "LFSC42");
	assert_string_equal(s.path, "/data/x");
	assert_true(s.server_id == NODE);
	assert_true(s.epoch >= 1);
	assert_true(role_epoch(c->role) == s.epoch);
}

static void replica__url_from_template(void **state)
{
	struct ctx *c = *state;
	struct role_state s;

	fake_set_role(c->fake, false, "n7");
	c->config.lease_url = "http://lease:1";
	start(c);
	assert_true(until(c, ROLE_REPLICA, "n7", "http://n7:20202", &s));
}

static void replica__url_from_lease(void **state)
{
	struct ctx *c = *state;
	struct role_state s;

	fake_set_role(c->fake, false, "n7");
	c->config.primary_url = NULL;
	c->config.lease_url = "http://lease:1";
	c->config.lease_hostname = "n7";
	start(c);
	assert_true(until(c, ROLE_REPLICA, "n7", "http://lease:1", &s));
	/* LiteFS names another than the litefs.yml that we read: its URL is not this one's. */
	fake_set_role(c->fake, false, "n8");
	assert_true(until(c, ROLE_REPLICA, "n8", "", &s));
	fake_set_role(c->fake, false, "");
	assert_true(until(c, ROLE_UNKNOWN, "", "", &s));
	assert_true(s.local_alive);
}

static void replica__no_source_or_bad_hostname__no_url(void **state)
{
	struct ctx *c = *state;
	struct role_state s;

	fake_set_role(c->fake, false, "user@evil");
	start(c);
	assert_true(until(c, ROLE_REPLICA, "user@evil", "", &s));
	role_stop(c->role);
	c->config.primary_url = NULL;
	c->last.epoch = 0;
	start(c);
	assert_true(until(c, ROLE_REPLICA, "user@evil", "", &s));
}

static void use_consul(struct ctx *c)
{
	c->consul = fake_consul_start();
	c->config.primary_url = NULL;
	c->config.consul_url = fake_consul_url(c->consul);
	c->config.consul_key = "litefs/primary";
}

static void consul__replica__url_of_the_name_that_litefs_tells(void **state)
{
	struct ctx *c = *state;
	struct role_state s;
	char host[32], url[64];

	use_consul(c);
	c->config.gateway_url = "http://{hostname}:3";
	fake_consul_primary(c->consul, "n7", "http://10.0.0.7:1");
	fake_set_role(c->fake, false, "n7");
	start(c);
	assert_true(until(c, ROLE_REPLICA, "n7", "http://10.0.0.7:1", &s));
	assert_string_equal(s.gateway_url, "http://n7:3");
	for (int i = 0; i < 10; i++) {
		snprintf(host, sizeof host, "h%d", i);
		snprintf(url, sizeof url, "http://10.0.1.%d:1", i);
		fake_consul_primary(c->consul, host, url);
		fake_set_role(c->fake, false, host);
		assert_true(until(c, ROLE_REPLICA, host, url, &s));
		fake_set_role(c->fake, true, "");
		assert_true(until(c, ROLE_PRIMARY, "", "", &s));
	}
	/* The same name at another address: after none, as a restart looks. */
	fake_consul_primary(c->consul, "h9", "http://10.0.2.9:1");
	fake_set_role(c->fake, false, "");
	assert_true(until(c, ROLE_UNKNOWN, "", "", &s));
	fake_set_role(c->fake, false, "h9");
	assert_true(until(c, ROLE_REPLICA, "h9", "http://10.0.2.9:1", &s));
	role_stop(c->role);
	c->role = NULL;
	assert_false(c->out_of_order);
}

/* What Consul says of another node is not believed of the one that LiteFS follows. */
static void consul__other_name_or_rubbish__no_url_until_it_fits(void **state)
{
	struct ctx *c = *state;
	struct role_state s;
	int64_t end = clock_now_ns() + 20 * NS_PER_S;

	use_consul(c);
	fake_consul_primary(c->consul, "other", "http://evil:1");
	fake_set_role(c->fake, false, "n1");
	start(c);
	assert_true(until(c, ROLE_REPLICA, "n1", "", &s));
	while (fake_consul_requests(c->consul) < 2 && clock_now_ns() < end) /* asked again by itself */
		clock_sleep_ns(5 * NS_PER_MS);
	assert_true(until(c, ROLE_REPLICA, "n1", "", &s));
	fake_consul_answer(c->consul, "200 OK", "{\"hostname\":\"n1\",\"advertise-url\":\"http://u@evil\"}", 49);
	fake_set_role(c->fake, false, "n2");
	assert_true(until(c, ROLE_REPLICA, "n2", "", &s));
	fake_consul_primary(c->consul, "n2", "http://n2:1");
	assert_true(until(c, ROLE_REPLICA, "n2", "http://n2:1", &s));
}

static void consul__gone__url_kept_and_role_told(void **state)
{
	struct ctx *c = *state;
	struct role_state s;
	unsigned requests;
	int64_t end;

	use_consul(c);
	fake_consul_primary(c->consul, "n1", "http://n1:1");
	fake_set_role(c->fake, false, "n1");
	start(c);
	assert_true(until(c, ROLE_REPLICA, "n1", "http://n1:1", &s));
	fake_consul_answer(c->consul, NULL, NULL, 0); /* a black hole */
	requests = fake_consul_requests(c->consul);
	fake_set_role(c->fake, false, "");
	assert_true(until(c, ROLE_UNKNOWN, "", "", &s));
	fake_set_role(c->fake, false, "n1");
	assert_true(until(c, ROLE_REPLICA, "n1", "http://n1:1", &s));
	fake_set_role(c->fake, true, "");
	assert_true(until(c, ROLE_PRIMARY, "", "", &s));
	fake_set_role(c->fake, false, "n3");
	assert_true(until(c, ROLE_REPLICA, "n3", "", &s));
	assert_true(fake_consul_requests(c->consul) > requests);
	fake_consul_primary(c->consul, "n3", "http://n3:1");
	end = clock_now_ns() + 60 * NS_PER_S;
	do {
		role_get(c->role, &s);
		clock_sleep_ns(5 * NS_PER_MS);
	} while (strcmp(s.primary_url, "http://n3:1") && clock_now_ns() < end);
	assert_string_equal(s.primary_url, "http://n3:1");
}

/* Not once a transaction, not once a tick: once for each time that LiteFS names a primary. */
static void consul__nothing_changes__not_asked(void **state)
{
	struct ctx *c = *state;
	struct role_state s;
	unsigned infos;

	use_consul(c);
	fake_consul_primary(c->consul, "n1", "http://n1:1");
	fake_set_role(c->fake, false, "n1");
	start(c);
	assert_true(until(c, ROLE_REPLICA, "n1", "http://n1:1", &s));
	assert_true(fake_wait_count(c->fake, FAKE_INFO, fake_count(c->fake, FAKE_INFO) + 1)); /* past the stream's first event */
	/* When it starts and with a stream's first event; a slow machine may need another stream. */
	assert_true(fake_consul_requests(c->consul) <= 2 * fake_count(c->fake, FAKE_EVENTS));
	infos = fake_count(c->fake, FAKE_INFO);
	assert_true(fake_wait_count(c->fake, FAKE_INFO, infos + 2));
	for (int i = 0; i < 1000; i++)
		role_get(c->role, &s);
	assert_true(fake_consul_requests(c->consul) <= 2 * fake_count(c->fake, FAKE_EVENTS));
}

static void consul__primary_url_given__never_asked(void **state)
{
	struct ctx *c = *state;
	struct role_state s;

	use_consul(c);
	c->config.primary_url = TEMPLATE;
	fake_set_role(c->fake, false, "n1");
	start(c);
	assert_true(until(c, ROLE_REPLICA, "n1", "http://n1:20202", &s));
	assert_int_equal(fake_consul_requests(c->consul), 0);
}

static void no_primary__unknown_and_alive(void **state)
{
	struct ctx *c = *state;
	struct role_state s;

	fake_set_role(c->fake, false, "");
	start(c);
	assert_int_equal(role_wait_local(c->role, clock_now_ns() + 20 * NS_PER_S), 0);
	assert_true(until(c, ROLE_UNKNOWN, "", "", &s));
	assert_true(s.local_alive);
}

static void replica__hostnames_unknown__fixed_url_kept(void **state)
{
	struct ctx *c = *state;
	struct role_state s;

	fake_set_role(c->fake, false, "");
	c->config.primary_url = "http://vip:20202";
	start(c);
	assert_true(until(c, ROLE_REPLICA, "", "http://vip:20202", &s));
	/* Once hostnames have been seen, none means no primary. */
	fake_set_role(c->fake, false, "n1");
	assert_true(until(c, ROLE_REPLICA, "n1", "http://vip:20202", &s));
	fake_set_role(c->fake, false, "");
	assert_true(until(c, ROLE_UNKNOWN, "", "", &s));
}

static void changes__followed_in_order(void **state)
{
	struct ctx *c = *state;
	struct role_state s;
	char host[32], url[64];
	uint64_t epoch;

	fake_set_role(c->fake, false, "h");
	start(c);
	assert_true(until(c, ROLE_REPLICA, "h", "http://h:20202", &s));
	for (int i = 0; i < 20; i++) {
		epoch = role_epoch(c->role);
		snprintf(host, sizeof host, "h%d", i);
		snprintf(url, sizeof url, "http://h%d:20202", i);
		fake_set_role(c->fake, false, host);
		assert_true(until(c, ROLE_REPLICA, host, url, &s));
		fake_set_role(c->fake, true, "me");
		assert_true(until(c, ROLE_PRIMARY, "", "", &s));
		assert_true(role_epoch(c->role) >= epoch + 2);
	}
	role_stop(c->role);
	c->role = NULL;
	assert_false(c->out_of_order);
	assert_true(c->changes == c->last.epoch);
	assert_int_equal(c->last.kind, ROLE_PRIMARY);
}

/* A primary that is down: LiteFS names it for the moment of each vain attempt to connect. */
static void primary_named_for_a_moment__not_told(void **state)
{
	static const char flap[] = "{\"type\":\"primaryChange\",\"data\":{\"isPrimary\":false,\"hostname\":\"n1\"}}\n"
				   "{\"type\":\"primaryChange\",\"data\":{\"isPrimary\":false}}\n";
	struct ctx *c = *state;
	struct role_state s;
	uint64_t epoch;

	fake_set_role(c->fake, false, "n1");
	start(c);
	assert_true(until(c, ROLE_REPLICA, "n1", "http://n1:20202", &s));
	fake_set_role(c->fake, false, "");
	assert_true(until(c, ROLE_UNKNOWN, "", "", &s));
	epoch = s.epoch;
	for (unsigned i = 0; i < 10; i++) {
		unsigned infos = fake_count(c->fake, FAKE_INFO);

		fake_send_event(c->fake, flap, sizeof flap - 1);
		assert_true(fake_wait_count(c->fake, FAKE_INFO, infos + 2)); /* one for each event */
	}
	fake_set_role(c->fake, true, "");
	assert_true(until(c, ROLE_PRIMARY, "", "", &s));
	assert_true(s.epoch == epoch + 1);
}

static void cluster_id__set_later__noticed(void **state)
{
	struct ctx *c = *state;
	struct role_state s;
	int64_t end;

	fake_set_cluster(c->fake, "", "/p");
	start(c);
	assert_true(until(c, ROLE_PRIMARY, "", "", &s));
	assert_string_equal(s.cluster_id, "");
	fake_set_cluster(c->fake, "LFSCLATE", "/p");
	end = clock_now_ns() + 20 * NS_PER_S;
	do {
		clock_sleep_ns(5 * NS_PER_MS);
		role_get(c->role, &s);
	} while (strcmp(s.cluster_id, "LFSCLATE") && clock_now_ns() < end);
	assert_string_equal(s.cluster_id, "LFSCLATE");
}

static void stream_breaks__litefs_alive__state_kept(void **state)
{
	struct ctx *c = *state;
	struct role_state s;
	unsigned streams;
	uint64_t epoch;
	int64_t end;

	fake_set_role(c->fake, false, "n1");
	start(c);
	assert_true(until(c, ROLE_REPLICA, "n1", "http://n1:20202", &s));
	assert_true(fake_wait_count(c->fake, FAKE_EVENTS, 1));
	for (int i = 0; i < 5; i++) {
		streams = fake_count(c->fake, FAKE_EVENTS);
		epoch = role_epoch(c->role);
		end = clock_now_ns() + 20 * NS_PER_S;
		while (fake_count(c->fake, FAKE_EVENTS) == streams && clock_now_ns() < end) {
			fake_break_events(c->fake); /* nothing to break before the stream has begun */
			clock_sleep_ns(5 * NS_PER_MS);
		}
		assert_true(fake_count(c->fake, FAKE_EVENTS) > streams);
		assert_true(role_epoch(c->role) == epoch);
	}
	fake_set_role(c->fake, false, "n2");
	assert_true(until(c, ROLE_REPLICA, "n2", "http://n2:20202", &s));
}

static void stream_rubbish__reconnects(void **state)
{
	static char endless[2 * 1024 * 1024];
	static const char *const rubbish[] = {"{}\n", "not json\n", "{\"type\":\"init\",\"data\":{}}\n"};
	struct ctx *c = *state;
	struct role_state s;
	unsigned streams;
	int64_t end;

	fake_set_role(c->fake, false, "n1");
	start(c);
	assert_true(until(c, ROLE_REPLICA, "n1", "http://n1:20202", &s));
	for (size_t i = 0; i < sizeof rubbish / sizeof rubbish[0]; i++) {
		assert_true(fake_wait_count(c->fake, FAKE_EVENTS, (unsigned)i + 1));
		streams = fake_count(c->fake, FAKE_EVENTS);
		/* The stream may not take bytes yet: send until it has ended. */
		end = clock_now_ns() + 20 * NS_PER_S;
		while (fake_count(c->fake, FAKE_EVENTS) == streams && clock_now_ns() < end) {
			fake_send_event(c->fake, rubbish[i], strlen(rubbish[i]));
			clock_sleep_ns(5 * NS_PER_MS);
		}
		assert_true(fake_count(c->fake, FAKE_EVENTS) > streams);
	}
	memset(endless, ' ', sizeof endless);
	streams = fake_count(c->fake, FAKE_EVENTS);
	fake_send_event(c->fake, endless, sizeof endless);
	assert_true(fake_wait_count(c->fake, FAKE_EVENTS, streams + 1));
	fake_set_role(c->fake, true, "");
	assert_true(until(c, ROLE_PRIMARY, "", "", &s));
}

static void litefs_goes_and_returns__unknown_then_known(void **state)
{
	struct ctx *c = *state;
	struct role_state s;

	fake_set_role(c->fake, false, "n1");
	start(c);
	assert_true(until(c, ROLE_REPLICA, "n1", "http://n1:20202", &s));
	fake_set_up(c->fake, false);
	assert_true(until(c, ROLE_UNKNOWN, "", "", &s));
	assert_false(s.local_alive);
	assert_int_equal(role_wait_local(c->role, clock_now_ns() + 10 * NS_PER_MS), -ETIMEDOUT);
	fake_set_role(c->fake, true, "me");
	fake_set_up(c->fake, true);
	assert_true(until(c, ROLE_PRIMARY, "", "", &s));
	assert_true(s.local_alive);
}

static void litefs_not_there_at_start__found_later(void **state)
{
	struct ctx *c = *state;
	struct role_state s;

	fake_set_up(c->fake, false);
	start(c);
	assert_int_equal(role_wait_local(c->role, clock_now_ns() + 30 * NS_PER_MS), -ETIMEDOUT);
	role_get(c->role, &s);
	assert_int_equal(s.kind, ROLE_UNKNOWN);
	fake_set_up(c->fake, true);
	assert_int_equal(role_wait_local(c->role, clock_now_ns() + 20 * NS_PER_S), 0);
}

static void silent_stream__given_up(void **state)
{
	struct ctx *c = *state;
	struct fake_step stall = {.does = FAKE_STALL};
	struct role_state s;

	fake_script(c->fake, FAKE_EVENTS, &stall);
	start(c);
	assert_true(until(c, ROLE_PRIMARY, "", "", &s)); /* by /info */
	assert_true(fake_wait_count(c->fake, FAKE_EVENTS, 2));
}

/* Ends within a bound whatever the thread is doing; the bound is far above the 100 ms meant, for slow machines. */
static void stop_in_time(struct ctx *c)
{
	int64_t before = clock_now_ns();

	role_stop(c->role);
	c->role = NULL;
	assert_true(clock_now_ns() - before < 1500 * NS_PER_MS);
}

static void stop__in_each_state__at_once(void **state)
{
	struct ctx *c = *state;
	struct fake_step stall = {.does = FAKE_STALL};
	struct role_state s;

	start(c);
	assert_true(until(c, ROLE_PRIMARY, "", "", &s));
	stop_in_time(c); /* following */
	fake_script(c->fake, FAKE_INFO, &stall);
	start(c);
	assert_true(fake_wait_count(c->fake, FAKE_INFO, 2));
	stop_in_time(c); /* in /info, or just before */
	fake_script(c->fake, FAKE_EVENTS, &stall);
	start(c);
	assert_true(fake_wait_count(c->fake, FAKE_EVENTS, 2));
	stop_in_time(c); /* waiting for the first event */
	use_consul(c);
	fake_consul_answer(c->consul, NULL, NULL, 0);
	fake_set_role(c->fake, false, "n1");
	start(c);
	assert_true(until(c, ROLE_REPLICA, "n1", "", &s));
	stop_in_time(c); /* in Consul, or just before */
	fake_set_up(c->fake, false);
	start(c);
	stop_in_time(c); /* backing off */
}

static void get__while_it_changes__consistent(void **state)
{
	struct ctx *c = *state;
	struct role_state s;
	int64_t end = clock_now_ns() + 300 * NS_PER_MS;
	uint64_t last = 0;

	start(c);
	for (int i = 0; clock_now_ns() < end; i++) {
		if (i % 50 == 0)
			fake_set_role(c->fake, i % 100 == 0, "n1");
		role_get(c->role, &s);
		assert_true(s.epoch >= last);
		assert_true(role_epoch(c->role) >= s.epoch);
		last = s.epoch;
		if (s.kind == ROLE_REPLICA)
			assert_string_equal(s.primary_url, "http://n1:20202");
		else
			assert_string_equal(s.primary_url, "");
		clock_sleep_ns(100 * NS_PER_US);
	}
	assert_true(last > 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(events__transaction__told_with_its_position),
		TEST(start__unusable_config__einval),
		TEST(primary__told),
		TEST(replica__url_from_template),
		TEST(replica__url_from_lease),
		TEST(replica__no_source_or_bad_hostname__no_url),
		TEST(consul__replica__url_of_the_name_that_litefs_tells),
		TEST(consul__other_name_or_rubbish__no_url_until_it_fits),
		TEST(consul__gone__url_kept_and_role_told),
		TEST(consul__nothing_changes__not_asked),
		TEST(consul__primary_url_given__never_asked),
		TEST(no_primary__unknown_and_alive),
		TEST(replica__hostnames_unknown__fixed_url_kept),
		TEST(changes__followed_in_order),
		TEST(primary_named_for_a_moment__not_told),
		TEST(cluster_id__set_later__noticed),
		TEST(stream_breaks__litefs_alive__state_kept),
		TEST(stream_rubbish__reconnects),
		TEST(litefs_goes_and_returns__unknown_then_known),
		TEST(litefs_not_there_at_start__found_later),
		TEST(silent_stream__given_up),
		TEST(stop__in_each_state__at_once),
		TEST(get__while_it_changes__consistent),
	};
	int failed;

	if (api_global_init())
		return 1;
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	api_global_fini();
	return failed;
}
