/* upstream_remote (both of its kinds): HALT, /tx and their end against a scripted primary. Whatever happens, no HALT is left behind. */
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
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "fake/fake_litefs.h"
#include "format/ltx.h"
#include "litefs/api.h"
#include "litefs/upstream.h"

#define NODE_A UINT64_C(0xAAAA000000000001)
#define NODE_B UINT64_C(0xBBBB000000000002)
#define OURS UINT64_C(0xFEDCBA9876543210)
#define LONG_NS (20 * NS_PER_S) /* a bound that no passing test reaches */

struct role {
	pthread_mutex_t mutex;
	struct role_state state;
};

/* In place of src/litefs/role.c: upstream_remote asks nothing else of it. */
void role_get(struct role *role, struct role_state *ret)
{
	pthread_mutex_lock(&role->mutex);
	*ret = role->state;
	pthread_mutex_unlock(&role->mutex);
}

struct ctx {
	struct fake *a, *b;
	struct role role;
	struct settings settings;
	struct halt_record *halts;
	char dir[40], path[60];
	struct upstream *up;
	/* the transaction */
	struct upstream_tx tx;
	uint8_t file[2000];
	size_t file_size, pad; /* pad: zeros between the LTX header and the rest */
	unsigned sent;
	int read_error;
};

static void set_primary(struct ctx *c, const char *url)
{
	pthread_mutex_lock(&c->role.mutex);
	c->role.state.kind = ROLE_REPLICA;
	c->role.state.epoch++;
	snprintf(c->role.state.primary_url, sizeof c->role.state.primary_url, "%s", url);
	pthread_mutex_unlock(&c->role.mutex);
}

static int setup_kind(void **state, enum upstream_kind kind)
{
	struct ctx *c = calloc(1, sizeof *c);
	struct upstream_config config = {0};

	c->a = fake_start(NODE_A);
	c->b = fake_start(NODE_B);
	pthread_mutex_init(&c->role.mutex, NULL);
	fake_set_cluster(c->a, "LFSC1", "/data/a");
	fake_set_cluster(c->b, "LFSC1", "/data/b");
	fake_set_pos(c->a, "t.db", (struct pos){5, UINT64_C(0x8000000000000055)});
	fake_set_pos(c->b, "t.db", (struct pos){9, UINT64_C(0x8000000000000099)});
	strcpy(c->role.state.cluster_id, "LFSC1");
	set_primary(c, fake_url(c->a));
	strcpy(c->dir, "/tmp/test-upstream-XXXXXX");
	if (!mkdtemp(c->dir))
		return -1;
	snprintf(c->path, sizeof c->path, "%s/halts", c->dir);
	config = (struct upstream_config){.settings = &c->settings, .name = "t.db", .node_id = OURS, .role = &c->role};
	if (halt_record_open(c->path, &c->halts))
		return -1;
	config.halts = c->halts;
	*state = c;
	if (kind == UPSTREAM_OWN) {
		c->role.state.kind = ROLE_PRIMARY;
		c->role.state.primary_url[0] = 0;
		c->settings.litefs_url = strdup(fake_url(c->a));
	}
	return upstream_new(&config, kind, &c->up);
}

static int setup(void **state)
{
	return setup_kind(state, UPSTREAM_REMOTE);
}

static int setup_own(void **state)
{
	return setup_kind(state, UPSTREAM_OWN);
}

static int count_stale(void *arg, const char *url, const char *name, uint64_t id)
{
	(void)url;
	(void)name;
	(void)id;
	++*(int *)arg;
	return -1;
}

/* HALTs that are noted on disk. */
static int noted(struct ctx *c)
{
	struct halt_record *rec;
	int n = 0;

	assert_int_equal(halt_record_open(c->path, &rec), 0);
	assert_int_equal(halt_record_free_stale(rec, count_stale, &n), 0);
	halt_record_close(rec);
	return n;
}

/* Waits, bounded, until LiteFS' side has noticed that its client went. */
static bool nothing_held(struct fake *fake)
{
	int64_t end = clock_now_ns() + LONG_NS;

	while (fake_halted_by(fake, "t.db") && clock_now_ns() < end)
		clock_sleep_ns(NS_PER_MS);
	return !fake_halted_by(fake, "t.db");
}

static void no_leak(struct ctx *c)
{
	upstream_free(c->up);
	c->up = NULL;
	/* Every question has had its turn. */
	assert_true(fake_wait_open(c->a, 0));
	assert_true(fake_wait_open(c->b, 0));
	assert_true(fake_halted_by(c->a, "t.db") == 0);
	assert_true(fake_halted_by(c->b, "t.db") == 0);
	assert_int_equal(noted(c), 0);
}

static int teardown(void **state)
{
	struct ctx *c = *state;

	upstream_free(c->up);
	fake_stop(c->a);
	fake_stop(c->b);
	halt_record_close(c->halts);
	unlink(c->path);
	rmdir(c->dir);
	pthread_mutex_destroy(&c->role.mutex);
	free(c->settings.litefs_url);
	free(c);
	return 0;
}

static void script(struct fake *fake, enum fake_verb verb, struct fake_step step)
{
	fake_script(fake, verb, &step);
}

static int begin_at(struct upstream *up, int64_t until_ns, struct pos *ret_pos)
{
	struct upstream_grant grant;
	int err = upstream_begin(up, (struct pos){0}, until_ns, &grant);

	if (!err)
		*ret_pos = grant.pos;
	return err;
}

static int begin(struct ctx *c, struct pos *ret)
{
	return begin_at(c->up, clock_now_ns() + LONG_NS, ret);
}

static int file_write(void *arg, const void *data, size_t len)
{
	struct ctx *c = arg;

	assert_true(c->file_size + len <= sizeof c->file);
	memcpy(c->file + c->file_size, data, len);
	c->file_size += len;
	return 0;
}

static ptrdiff_t file_read(void *arg, void *buf, size_t len, uint64_t offset)
{
	struct ctx *c = arg;

	if (c->read_error)
		return c->read_error;
	if (offset >= LTX_HEADER_SIZE && offset < LTX_HEADER_SIZE + c->pad) {
		len = len < LTX_HEADER_SIZE + c->pad - offset ? len : LTX_HEADER_SIZE + c->pad - (size_t)offset;
		memset(buf, 0, len);
		return (ptrdiff_t)len;
	}
	if (offset < LTX_HEADER_SIZE)
		len = len < LTX_HEADER_SIZE - offset ? len : LTX_HEADER_SIZE - (size_t)offset;
	else
		offset -= c->pad;
	len = offset >= c->file_size ? 0 : len < c->file_size - offset ? len : c->file_size - (size_t)offset;
	memcpy(buf, c->file + offset, len);
	return (ptrdiff_t)len;
}

static void file_sent(void *arg)
{
	((struct ctx *)arg)->sent++;
}

/* One page on top of before; a new database of one page where there was none. */
static const struct upstream_tx *make_tx(struct ctx *c, struct pos before)
{
	uint32_t pgno = before.txid ? 2 : 1;
	struct ltx_header header = {.page_size = 512, .commit = pgno, .min_txid = before.txid + 1, .max_txid = before.txid + 1,
				    .pre_apply = before.checksum, .node_id = OURS};
	uint8_t page[512] = {7};
	uint64_t after = before.txid ? before.checksum ^ 0x1234 : ltx_page_checksum(1, page, sizeof page);
	struct ltx_encoder enc;
	struct ltx_trailer trailer;

	c->file_size = c->pad = 0;
	c->sent = 0;
	c->tx = (struct upstream_tx){.before = before, .after = {before.txid + 1, after | LTX_CHECKSUM_FLAG},
				     .read_at = file_read, .sent = file_sent, .ctx = c};
	assert_int_equal(ltx_encoder_init(&enc, &header, file_write, c), 0);
	assert_int_equal(ltx_encoder_page(&enc, pgno, page), 0);
	assert_int_equal(ltx_encoder_finish(&enc, c->tx.after.checksum, &trailer), 0);
	ltx_encoder_fini(&enc);
	c->tx.size = c->file_size;
	return &c->tx;
}

static enum outcome commit(struct ctx *c, struct pos before)
{
	return upstream_commit(c->up, make_tx(c, before), clock_now_ns() + LONG_NS);
}

/* No page more, but so many bytes: the fake looks at header and trailer only. */
static enum outcome commit_large(struct ctx *c, struct pos before, size_t size)
{
	make_tx(c, before);
	c->pad = size - c->file_size;
	c->tx.size = size;
	return upstream_commit(c->up, &c->tx, clock_now_ns() + LONG_NS);
}

static struct pos pos_of(struct fake *fake)
{
	struct pos pos = {0};

	assert_true(fake_get_pos(fake, "t.db", &pos));
	return pos;
}

static void last_id(struct fake *fake, enum fake_verb verb, char ret[40])
{
	char head[8192], *p;

	fake_last_request(fake, verb, head, sizeof head);
	p = strstr(head, "id=");
	assert_non_null(p);
	snprintf(ret, 40, "%.*s", (int)strspn(p + 3, "0123456789"), p + 3);
}

/* ---- the good path ---- */

static void begin_commit_end__each_asked_once(void **state)
{
	struct ctx *c = *state;
	int64_t before = clock_now_ns();
	struct pos pos = {0};
	uint8_t *body;
	size_t len;

	assert_int_equal(upstream_kind(c->up), UPSTREAM_REMOTE);
	assert_true(upstream_rtt_ns(c->up) == 0);
	assert_int_equal(begin(c, &pos), 0);
	assert_true(pos_equal(pos, pos_of(c->a)));
	assert_true(fake_halted_by(c->a, "t.db") != 0);
	assert_int_equal(noted(c), 1);
	/* 30 s from before it was asked, less a margin. */
	assert_true(upstream_hold_until(c->up) > before + 20 * NS_PER_S);
	assert_true(upstream_hold_until(c->up) < clock_now_ns() + 30 * NS_PER_S);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(commit(c, pos), OUTCOME_COMMITTED);
		assert_int_equal(c->sent, 1);
		pos = c->tx.after;
		assert_int_equal(pos_of(c->a).txid, pos.txid);
		body = fake_last_tx(c->a, &len);
		assert_int_equal(len, c->file_size);
		assert_memory_equal(body, c->file, len);
		free(body);
	}
	upstream_end(c->up);
	assert_true(fake_halted_by(c->a, "t.db") == 0);
	upstream_end(c->up); /* idempotent */
	assert_int_equal(fake_count(c->a, FAKE_UNHALT), 1);
	assert_int_equal(fake_count(c->a, FAKE_HALT), 1);
	assert_int_equal(fake_count(c->a, FAKE_INFO), 1);
	assert_int_equal(fake_count(c->a, FAKE_TX), 3);
	assert_true(upstream_rtt_ns(c->up) > 0);
	no_leak(c);
}

static void begin__again__other_id_and_no_question_who_it_is(void **state)
{
	struct ctx *c = *state;
	char id[5][40];
	struct pos pos;

	for (int i = 0; i < 5; i++) {
		assert_int_equal(begin(c, &pos), 0);
		last_id(c->a, FAKE_HALT, id[i]);
		upstream_end(c->up);
		for (int k = 0; k < i; k++)
			assert_string_not_equal(id[i], id[k]);
	}
	assert_int_equal(fake_count(c->a, FAKE_INFO), 1);
	set_primary(c, fake_url(c->a)); /* something about the role has changed: ask again */
	assert_int_equal(begin(c, &pos), 0);
	assert_int_equal(fake_count(c->a, FAKE_INFO), 2);
	no_leak(c);
}

static void free__while_held__ended(void **state)
{
	struct ctx *c = *state;
	struct pos pos;

	assert_int_equal(begin(c, &pos), 0);
	no_leak(c);
	assert_int_equal(fake_count(c->a, FAKE_UNHALT), 1);
	upstream_free(NULL);
}

static void probe__position_and_nothing_held(void **state)
{
	struct ctx *c = *state;
	struct pos pos = {0};

	assert_int_equal(upstream_probe(c->up, clock_now_ns() + LONG_NS, &pos), 0);
	assert_true(pos_equal(pos, pos_of(c->a)));
	assert_true(fake_halted_by(c->a, "t.db") == 0);
	no_leak(c);
}

/* ---- who is asked ---- */

static void begin__not_a_replica_or_no_url__ehostunreach_and_nothing_asked(void **state)
{
	struct ctx *c = *state;
	struct pos pos;

	c->role.state.kind = ROLE_UNKNOWN;
	assert_int_equal(begin(c, &pos), -EHOSTUNREACH);
	c->role.state.kind = ROLE_PRIMARY;
	assert_int_equal(begin(c, &pos), -EHOSTUNREACH);
	set_primary(c, "");
	assert_int_equal(begin(c, &pos), -EHOSTUNREACH);
	assert_int_equal(fake_connections(c->a), 0);
	no_leak(c);
}

static void begin__target_is_a_replica__never_halted(void **state)
{
	struct ctx *c = *state;
	struct pos pos = {1, 2};

	fake_set_role(c->a, false, "other");
	for (int i = 0; i < 3; i++)
		assert_int_equal(begin(c, &pos), -EHOSTUNREACH);
	assert_int_equal(fake_count(c->a, FAKE_INFO), 3);
	assert_int_equal(fake_count(c->a, FAKE_HALT), 0);
	assert_true(pos.txid == 1 && pos.checksum == 2);
	fake_set_role(c->a, true, "");
	assert_int_equal(begin(c, &pos), 0);
	no_leak(c);
}

static void begin__other_cluster__never_halted(void **state)
{
	struct ctx *c = *state;
	struct pos pos;

	fake_set_cluster(c->a, "LFSC2", "/data/a");
	assert_int_equal(begin(c, &pos), -EHOSTUNREACH);
	fake_set_cluster(c->a, "", "/data/a");
	assert_int_equal(begin(c, &pos), -EHOSTUNREACH);
	assert_int_equal(fake_count(c->a, FAKE_HALT), 0);
	no_leak(c);
}

static void begin__halt_answered_by_another_node__given_back(void **state)
{
	struct ctx *c = *state;
	struct pos pos;

	script(c->a, FAKE_HALT, (struct fake_step){FAKE_HONEST, .id = FAKE_ID_WRONG});
	assert_int_equal(begin(c, &pos), -EHOSTUNREACH);
	assert_true(nothing_held(c->a));
	assert_int_equal(begin(c, &pos), 0);
	assert_int_equal(fake_count(c->a, FAKE_INFO), 2); /* and asked who it is */
	no_leak(c);
}

static void begin__primary_moved__the_new_one_and_the_old_ones_lock_freed(void **state)
{
	struct ctx *c = *state;
	struct pos pos;

	assert_int_equal(begin(c, &pos), 0);
	script(c->a, FAKE_UNHALT, (struct fake_step){FAKE_ANSWER, .status = 500, .body = "no\n"});
	upstream_end(c->up);
	assert_true(fake_halted_by(c->a, "t.db") != 0);
	set_primary(c, fake_url(c->b));
	assert_int_equal(begin(c, &pos), 0);
	assert_int_equal(pos.txid, 9);
	assert_true(fake_halted_by(c->a, "t.db") == 0);
	assert_true(fake_halted_by(c->b, "t.db") != 0);
	assert_int_equal(commit(c, pos), OUTCOME_COMMITTED);
	assert_int_equal(fake_count(c->a, FAKE_TX), 0);
	no_leak(c);
}

static void begin__primary_dead__ehostunreach_then_found_again(void **state)
{
	struct ctx *c = *state;
	struct pos pos;

	fake_set_up(c->a, false);
	assert_int_equal(begin(c, &pos), -EHOSTUNREACH);
	assert_int_equal(noted(c), 0);
	fake_set_up(c->a, true);
	assert_int_equal(begin(c, &pos), 0);
	upstream_end(c->up);
	/* It dies with our kept connection. */
	fake_set_up(c->a, false);
	assert_int_equal(begin(c, &pos), -EHOSTUNREACH);
	fake_set_up(c->a, true);
	assert_int_equal(begin(c, &pos), 0);
	no_leak(c);
}

static void begin__rubbish_for_an_answer__ehostunreach_and_given_back(void **state)
{
	static const struct fake_step bad[] = {
		{FAKE_ANSWER, .body = "{\"id\":1"},
		{FAKE_ANSWER, .status = 404, .body = "not found\n"},
		{FAKE_ANSWER, .status = 500, .body = "oh\n"},
		{FAKE_RAW, .body = "rubbish"},
	};
	struct ctx *c = *state;
	struct pos pos;

	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		fake_script(c->a, FAKE_HALT, &bad[i]);
		assert_int_equal(begin(c, &pos), -EHOSTUNREACH);
		assert_true(nothing_held(c->a));
		assert_int_equal(noted(c), 0);
	}
	assert_int_equal(begin(c, &pos), 0);
	no_leak(c);
}

/* libcurl may ask again on another connection: with the same id that is the same lock. */
static void begin__answer_lost__had_or_given_back(void **state)
{
	static const enum fake_does ways[] = {FAKE_LOSE_ANSWER, FAKE_CLOSE_BEFORE, FAKE_CLOSE_AFTER_BODY};
	struct ctx *c = *state;
	struct pos pos;

	for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
		int err;

		for (int k = 0; k < 3; k++)
			script(c->a, FAKE_HALT, (struct fake_step){.does = ways[i]});
		err = begin(c, &pos);
		if (err)
			assert_int_equal(err, -EHOSTUNREACH);
		else
			assert_true(fake_halted_by(c->a, "t.db") != 0);
		upstream_end(c->up);
		assert_true(nothing_held(c->a));
		assert_int_equal(noted(c), 0);
		while (begin(c, &pos)) /* the rest of the script */
			assert_true(nothing_held(c->a));
		upstream_end(c->up);
	}
	no_leak(c);
}

/* ---- waiting ---- */

struct unlocker {
	struct ctx *c;
	unsigned after;
	char first[40];
};

static void *unlock_after(void *arg)
{
	struct unlocker *u = arg;

	if (!fake_wait_count(u->c->a, FAKE_HALT, 1))
		return u;
	last_id(u->c->a, FAKE_HALT, u->first);
	if (!fake_wait_count(u->c->a, FAKE_HALT, u->after))
		return u;
	fake_lock(u->c->a, "t.db", false);
	return NULL;
}

static void begin__must_wait__asked_again_with_the_same_id(void **state)
{
	struct ctx *c = *state;
	struct unlocker u = {.c = c, .after = 4};
	char id[40];
	pthread_t t;
	struct pos pos;
	void *bad;

	fake_lock(c->a, "t.db", true);
	assert_int_equal(pthread_create(&t, NULL, unlock_after, &u), 0);
	assert_int_equal(begin(c, &pos), 0);
	pthread_join(t, &bad);
	assert_null(bad);
	last_id(c->a, FAKE_HALT, id);
	assert_string_equal(id, u.first);
	assert_true(fake_halted_by(c->a, "t.db") == strtoull(id, NULL, 10));
	assert_int_equal(commit(c, pos), OUTCOME_COMMITTED);
	assert_true(fake_wait_open(c->a, 1)); /* every question that was given up has had its turn */
	no_leak(c);
}

static void begin__never_free__eagain_in_time_and_nothing_left(void **state)
{
	struct ctx *c = *state;
	struct pos pos = {1, 2};
	int64_t start, time = 200 * NS_PER_MS;
	unsigned asked;

	fake_lock(c->a, "t.db", true);
	do { /* a question's time depends on the round trip's */
		start = clock_now_ns();
		asked = fake_count(c->a, FAKE_HALT);
		assert_int_equal(begin_at(c->up, start + time, &pos), -EAGAIN);
		assert_true(clock_now_ns() >= start + time);
		time *= 2;
	} while (fake_count(c->a, FAKE_HALT) < asked + 2);
	assert_true(fake_count(c->a, FAKE_UNHALT) >= 1);
	assert_int_equal(pos.txid, 1);
	assert_int_equal(begin_at(c->up, clock_now_ns(), &pos), -EAGAIN);
	no_leak(c);
}

static void begin__given_up_and_delete_fails__told_later(void **state)
{
	struct ctx *c = *state;
	unsigned unhalts;
	struct pos pos;

	fake_lock(c->a, "t.db", true);
	for (int i = 0; i < 2; i++)
		script(c->a, FAKE_UNHALT, (struct fake_step){FAKE_ANSWER, .status = 500, .body = "no\n"});
	assert_int_equal(begin_at(c->up, clock_now_ns() + 100 * NS_PER_MS, &pos), -EAGAIN);
	assert_int_equal(noted(c), 1);
	unhalts = fake_count(c->a, FAKE_UNHALT);
	assert_int_equal(unhalts, 2); /* a wait that was given up may have been granted after the first */
	no_leak(c);
	assert_int_equal(fake_count(c->a, FAKE_UNHALT), unhalts + 1);
}

/* One question, which LiteFS has read, and which is given up before LiteFS does anything about it. */
static void give_up_one(struct ctx *c, int delay_ms)
{
	struct pos pos;

	script(c->a, FAKE_HALT, (struct fake_step){FAKE_HONEST, .delay_ms = delay_ms});
	do /* time may be over before it could be asked */
		assert_int_equal(begin_at(c->up, clock_now_ns() + 30 * NS_PER_MS, &pos), -EAGAIN);
	while (!fake_count(c->a, FAKE_HALT));
	assert_int_equal(fake_count(c->a, FAKE_HALT), 1);
}

/* As db does when there is nothing else to do; until so many locks were granted and none is held. */
static void tidy_until_freed(struct ctx *c, unsigned granted)
{
	int64_t end = clock_now_ns() + LONG_NS;

	while (!(fake_granted(c->a) == granted && !fake_halted_by(c->a, "t.db")) && clock_now_ns() < end)
		if (upstream_tidy_at(c->up) > clock_now_ns())
			clock_sleep_ns(NS_PER_MS);
		else
			upstream_tidy(c->up);
	assert_int_equal(fake_granted(c->a), granted);
	assert_true(fake_halted_by(c->a, "t.db") == 0);
	assert_int_equal(fake_expired(c->a), 0);
}

/* LiteFS is slow (load; a large WAL to checkpoint): it grants what was given up after it has been told twice that nobody wants it. */
static void begin__given_up_and_granted_after_its_deletes__freed(void **state)
{
	struct ctx *c = *state;

	give_up_one(c, 600);
	tidy_until_freed(c, 1);
	no_leak(c);
}

/* The same, and the next begin waits for that very lock. */
static void begin__lock_of_an_earlier_begin_in_the_way__freed_and_had(void **state)
{
	struct ctx *c = *state;
	struct pos pos;

	give_up_one(c, 300);
	assert_true(fake_wait_open(c->a, 1));
	assert_int_equal(fake_granted(c->a), 1);
	assert_int_equal(begin(c, &pos), 0);
	assert_int_equal(fake_granted(c->a), 2);
	assert_int_equal(fake_expired(c->a), 0);
	assert_true(fake_wait_open(c->a, 2)); /* every question that was given up has had its turn */
	no_leak(c);
}

/* Had with the second question; the first, which nobody waits for, is granted when the lock is free again. */
static void end__earlier_question_granted_after_it__freed(void **state)
{
	struct ctx *c = *state;
	struct pos pos;
	unsigned granted;

	do { /* until it comes after the end */
		granted = fake_granted(c->a);
		script(c->a, FAKE_HALT, (struct fake_step){FAKE_HONEST, .delay_ms = 600});
		assert_int_equal(begin(c, &pos), 0);
		upstream_end(c->up);
		assert_int_equal(noted(c), 0);
		assert_true(fake_wait_open(c->a, 1));
	} while (fake_granted(c->a) == granted + 1);
	assert_true(fake_halted_by(c->a, "t.db") != 0);
	tidy_until_freed(c, granted + 2);
	no_leak(c);
}

/* The DELETE of the last lock, told again, takes all of the time that there is: nobody is there, and that is not BUSY. */
static void begin__what_was_held_cannot_be_given_back__not_taken_for_busy(void **state)
{
	struct ctx *c = *state;
	struct pos pos;

	assert_int_equal(begin(c, &pos), 0);
	for (int i = 0; i < 2; i++)
		script(c->a, FAKE_UNHALT, (struct fake_step){.does = FAKE_STALL});
	upstream_end(c->up);
	assert_int_equal(begin_at(c->up, clock_now_ns() + 500 * NS_PER_MS, &pos), -EHOSTUNREACH);
	assert_int_equal(fake_count(c->a, FAKE_HALT), 1);
	assert_int_equal(begin(c, &pos), 0); /* and it is asked again */
	no_leak(c);
}

/* Granted, and the answer comes when nobody waits for it: asked for again, it is the same lock. */
static void begin__granted_and_answered_late__that_lock_is_had(void **state)
{
	struct ctx *c = *state;
	struct pos pos;

	script(c->a, FAKE_HALT, (struct fake_step){FAKE_HONEST, .delay_ms = 300});
	assert_int_equal(begin(c, &pos), 0);
	assert_true(fake_count(c->a, FAKE_HALT) >= 2);
	/* Every question that was given up has had its turn. */
	assert_true(fake_wait_open(c->a, 1));
	assert_int_equal(commit(c, pos), OUTCOME_COMMITTED);
	no_leak(c);
}

/* The first question is given up; the answer to the second shows a lock that is not new. */
static void begin__granted_long_ago__given_back_for_a_new_one(void **state)
{
	struct ctx *c = *state;
	time_t later = time(NULL) + 22;
	char date[80], freed[40], id[40];
	struct pos pos;

	strftime(date, sizeof date, "Date: %a, %d %b %Y %H:%M:%S GMT", gmtime(&later));
	script(c->a, FAKE_HALT, (struct fake_step){.does = FAKE_STALL});
	script(c->a, FAKE_HALT, (struct fake_step){.does = FAKE_HONEST, .header = date, .no_date = true});
	assert_int_equal(begin(c, &pos), 0);
	assert_int_equal(fake_granted(c->a), 2);
	last_id(c->a, FAKE_UNHALT, freed);
	last_id(c->a, FAKE_HALT, id);
	assert_string_not_equal(id, freed);
	assert_true(upstream_hold_until(c->up) > clock_now_ns() + 20 * NS_PER_S);
	no_leak(c);
}

/* ---- the lock's life ---- */

static void hold__litefs_30_s__margins(void **state)
{
	struct ctx *c = *state;
	int64_t before = clock_now_ns();
	struct pos pos;

	assert_int_equal(begin(c, &pos), 0);
	assert_true(upstream_hold_until(c->up) > before + 25 * NS_PER_S);
	assert_true(upstream_hold_until(c->up) < clock_now_ns() + 27 * NS_PER_S + 1);
	assert_int_equal(upstream_hold_until(c->up) - upstream_renew_at(c->up), 8 * NS_PER_S);
	/* 64 MiB as the first one. */
	assert_true(upstream_max_tx_bytes(c->up) >= UINT64_C(64) << 20);
	assert_true(upstream_tx_ns(c->up, 64 << 20) < upstream_hold_until(c->up) - clock_now_ns());
	no_leak(c);
}

static void hold__short_ttl__scaled(void **state)
{
	struct ctx *c = *state;
	int64_t before = clock_now_ns();
	struct pos pos;

	fake_set_ttl(c->a, 6000, 10000);
	assert_int_equal(begin(c, &pos), 0);
	assert_int_equal(fake_granted(c->a), 1); /* 6 s are all of a life that is that short */
	assert_true(upstream_hold_until(c->up) > before + 4 * NS_PER_S);
	assert_true(upstream_hold_until(c->up) < clock_now_ns() + 5400 * NS_PER_MS + 1);
	assert_int_equal(upstream_hold_until(c->up) - upstream_renew_at(c->up), 1600 * NS_PER_MS);
	assert_true(upstream_max_tx_bytes(c->up) < UINT64_C(24) << 20);
	assert_int_equal(commit(c, pos), OUTCOME_COMMITTED);
	assert_int_equal(fake_unhalted_tx(c->a), 0);
	no_leak(c);
}

static void hold__expired__nothing_sent_any_more(void **state)
{
	struct ctx *c = *state;
	int64_t until = clock_now_ns() + LONG_NS;
	struct pos pos;

	fake_set_ttl(c->a, 3000, 10000);
	assert_int_equal(begin(c, &pos), 0);
	assert_true(upstream_hold_until(c->up) < clock_now_ns() + 3 * NS_PER_S);
	while (!fake_expired(c->a) && clock_now_ns() < until)
		clock_sleep_ns(10 * NS_PER_MS);
	assert_int_equal(fake_expired(c->a), 1);
	assert_int_equal(commit(c, pos), OUTCOME_REFUSED);
	assert_int_equal(fake_count(c->a, FAKE_TX), 0);
	upstream_end(c->up);
	assert_int_equal(begin(c, &pos), 0);
	assert_int_equal(commit(c, pos), OUTCOME_COMMITTED);
	assert_int_equal(fake_unhalted_tx(c->a), 0);
	no_leak(c);
}

static void commit__nothing_held__refused_and_not_sent(void **state)
{
	struct ctx *c = *state;
	struct pos pos = pos_of(c->a);

	upstream_end(c->up); /* harmless */
	assert_int_equal(commit(c, pos), OUTCOME_REFUSED);
	assert_int_equal(begin(c, &pos), 0);
	upstream_end(c->up);
	assert_int_equal(commit(c, pos), OUTCOME_REFUSED);
	/* Nor after a begin that failed over the connection that held a lock before. */
	fake_lock(c->a, "t.db", true);
	assert_int_equal(begin_at(c->up, clock_now_ns() + 50 * NS_PER_MS, &pos), -EAGAIN);
	assert_int_equal(commit(c, pos), OUTCOME_REFUSED);
	fake_set_role(c->a, false, "other");
	set_primary(c, fake_url(c->a));
	assert_int_equal(begin(c, &pos), -EHOSTUNREACH);
	assert_int_equal(commit(c, pos), OUTCOME_REFUSED);
	assert_int_equal(fake_count(c->a, FAKE_TX), 0);
	no_leak(c);
}

/* ---- the rate ---- */

/* What the log says while f runs. */
static void logged(struct ctx *c, void (*f)(struct ctx *c), char *ret, size_t size)
{
	char path[] = "/tmp/test-upstream-log-XXXXXX";
	int fd = mkstemp(path), saved = dup(STDERR_FILENO);
	ssize_t n;

	assert_true(fd >= 0 && saved >= 0);
	unlink(path);
	dup2(fd, STDERR_FILENO);
	f(c);
	dup2(saved, STDERR_FILENO);
	close(saved);
	n = pread(fd, ret, size - 1, 0);
	close(fd);
	assert_true(n >= 0);
	ret[n] = 0;
}

static void commit_20_mib(struct ctx *c)
{
	assert_int_equal(commit_large(c, pos_of(c->a), 20 << 20), OUTCOME_REFUSED);
}

static void commit__larger_than_the_measured_rate_allows__refused_with_the_limit(void **state)
{
	struct ctx *c = *state;
	char line[2000], want[80];
	struct pos pos;
	unsigned sent;
	uint64_t limit;

	assert_int_equal(begin(c, &pos), 0);
	fake_set_rate(c->a, 1 << 20);
	assert_int_equal(commit_large(c, pos, 512 << 10), OUTCOME_COMMITTED);
	limit = upstream_max_tx_bytes(c->up);
	assert_true(limit < 20 << 20); /* it was more before: 64 MiB, at least */
	sent = fake_count(c->a, FAKE_TX);
	logged(c, commit_20_mib, line, sizeof line);
	assert_int_equal(fake_count(c->a, FAKE_TX), sent);
	snprintf(want, sizeof want, " limit_bytes=%llu ", (unsigned long long)limit);
	assert_non_null(strstr(line, "reason=halt_time size=20971520 "));
	assert_non_null(strstr(line, want));
	assert_non_null(strstr(line, " rate_bytes_per_s="));
	assert_non_null(strstr(line, "smaller than limit_bytes"));
	/* Small ones go on, and larger ones when it is found to be faster. */
	fake_set_rate(c->a, 0);
	for (int i = 0; upstream_max_tx_bytes(c->up) < 21 << 20; i++) {
		assert_true(i < 100);
		assert_int_equal(commit_large(c, pos_of(c->a), 512 << 10), OUTCOME_COMMITTED);
	}
	assert_int_equal(commit_large(c, pos_of(c->a), 20 << 20), OUTCOME_COMMITTED);
	assert_int_equal(fake_unhalted_tx(c->a), 0);
	no_leak(c);
}

static void commit__64_mib_as_the_first__committed(void **state)
{
	struct ctx *c = *state;
	struct pos pos;

	assert_int_equal(begin(c, &pos), 0);
	assert_int_equal(commit_large(c, pos, 64 << 20), OUTCOME_COMMITTED);
	assert_int_equal(c->sent, 1);
	assert_int_equal(fake_unhalted_tx(c->a), 0);
	no_leak(c);
}

static void *abort_after_halt(void *arg)
{
	struct ctx *c = arg;

	if (!fake_wait_count(c->a, FAKE_HALT, 1))
		return c;
	upstream_abort(c->up);
	return NULL;
}

static void abort__during_the_wait__ecanceled_and_nothing_left(void **state)
{
	struct ctx *c = *state;
	struct pos pos;
	pthread_t t;
	void *bad;

	fake_lock(c->a, "t.db", true);
	assert_int_equal(pthread_create(&t, NULL, abort_after_halt, c), 0);
	assert_int_equal(begin(c, &pos), -ECANCELED);
	pthread_join(t, &bad);
	assert_null(bad);
	assert_true(fake_count(c->a, FAKE_UNHALT) >= 1);
	fake_lock(c->a, "t.db", false);
	/* Over with the next begin. */
	assert_int_equal(begin(c, &pos), 0);
	no_leak(c);
}

/* ---- commits ---- */

static void commit__position_not_the_primarys__refused(void **state)
{
	struct ctx *c = *state;
	struct pos pos, was = pos_of(c->a);

	assert_int_equal(begin(c, &pos), 0);
	pos.checksum ^= 1;
	assert_int_equal(commit(c, pos), OUTCOME_REFUSED);
	assert_true(pos_equal(pos_of(c->a), was));
	no_leak(c);
}

static void commit__answer_lost_in_any_way__unknown(void **state)
{
	static const struct {
		struct fake_step step;
		bool applied;
	} ways[] = {
		{{.does = FAKE_LOSE_ANSWER}, true},
		{{.does = FAKE_CLOSE_AFTER_HEADER}, false},
		{{.does = FAKE_CLOSE_AFTER_BODY}, false},
		{{FAKE_ANSWER, .status = 503, .body = "?\n"}, false},
		{{FAKE_HONEST, .id = FAKE_ID_WRONG}, true},
		{{FAKE_HONEST, .id = FAKE_ID_NONE}, true},
	};
	struct ctx *c = *state;

	for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
		unsigned infos, txs = fake_count(c->a, FAKE_TX);
		struct pos pos, now;

		assert_int_equal(begin(c, &pos), 0);
		infos = fake_count(c->a, FAKE_INFO);
		fake_script(c->a, FAKE_TX, &ways[i].step);
		assert_int_equal(commit(c, pos), OUTCOME_UNKNOWN);
		assert_int_equal(fake_count(c->a, FAKE_TX), txs + 1); /* never twice */
		upstream_end(c->up);
		assert_int_equal(upstream_probe(c->up, clock_now_ns() + LONG_NS, &now), 0);
		assert_int_equal(now.txid, pos.txid + (ways[i].applied ? 1 : 0));
		assert_int_equal(fake_count(c->a, FAKE_INFO), infos + 1); /* who is it, now? */
	}
	no_leak(c);
}

static void commit__time_nearly_over_for_its_size__refused_and_not_sent(void **state)
{
	struct ctx *c = *state;
	struct pos pos;

	fake_set_ttl(c->a, 15000, 10000);
	assert_int_equal(begin(c, &pos), 0);
	make_tx(c, pos);
	c->tx.size = UINT64_C(100) << 20;
	assert_int_equal(upstream_commit(c->up, &c->tx, clock_now_ns() + LONG_NS), OUTCOME_REFUSED);
	assert_int_equal(fake_count(c->a, FAKE_TX), 0);
	assert_int_equal(c->sent, 0);
	/* A small one still goes. */
	assert_int_equal(commit(c, pos), OUTCOME_COMMITTED);
	no_leak(c);
}

static void commit__connection_of_the_halt_gone__refused_and_not_sent(void **state)
{
	struct ctx *c = *state;
	struct pos pos;

	assert_int_equal(begin(c, &pos), 0);
	fake_set_up(c->a, false);
	fake_set_up(c->a, true); /* a LiteFS that knows nothing of our HALT */
	assert_int_equal(commit(c, pos), OUTCOME_REFUSED);
	assert_int_equal(fake_count(c->a, FAKE_TX), 0);
	no_leak(c);
}

static void commit__no_answer_until_the_deadline__unknown_and_reset(void **state)
{
	struct ctx *c = *state;
	struct pos pos;

	assert_int_equal(begin(c, &pos), 0);
	script(c->a, FAKE_TX, (struct fake_step){.does = FAKE_STALL});
	make_tx(c, pos);
	assert_int_equal(upstream_commit(c->up, &c->tx, clock_now_ns() + 150 * NS_PER_MS), OUTCOME_UNKNOWN);
	assert_int_equal(c->sent, 1);
	upstream_end(c->up);
	assert_true(fake_halted_by(c->a, "t.db") == 0);
	for (int64_t end = clock_now_ns() + LONG_NS; !fake_resets(c->a) && clock_now_ns() < end;)
		clock_sleep_ns(NS_PER_MS);
	assert_true(fake_resets(c->a) >= 1);
	no_leak(c);
}

static void *abort_after_tx(void *arg)
{
	struct ctx *c = arg;

	if (!fake_wait_count(c->a, FAKE_TX, 1))
		return c;
	upstream_abort(c->up);
	return NULL;
}

static void abort__during_a_commit__unknown_soon(void **state)
{
	struct ctx *c = *state;
	struct pos pos;
	pthread_t t;
	void *bad;

	assert_int_equal(begin(c, &pos), 0);
	script(c->a, FAKE_TX, (struct fake_step){.does = FAKE_STALL});
	assert_int_equal(pthread_create(&t, NULL, abort_after_tx, c), 0);
	assert_int_equal(commit(c, pos), OUTCOME_UNKNOWN);
	pthread_join(t, &bad);
	assert_null(bad);
	upstream_end(c->up); /* may be too late to be told now, but not later than with the next begin */
	assert_int_equal(begin(c, &pos), 0);
	no_leak(c);
}

static void commit__file_cannot_be_read__not_committed(void **state)
{
	struct ctx *c = *state;
	struct pos pos;

	assert_int_equal(begin(c, &pos), 0);
	c->read_error = -EIO;
	assert_int_not_equal(commit(c, pos), OUTCOME_COMMITTED);
	assert_int_equal(c->sent, 0);
	assert_true(pos_equal(pos_of(c->a), pos));
	no_leak(c);
}

/* ---- the end ---- */

static void end__delete_fails__told_again_by_the_next_begin(void **state)
{
	struct ctx *c = *state;
	char first[40], freed[40];
	struct pos pos;

	assert_int_equal(begin(c, &pos), 0);
	last_id(c->a, FAKE_HALT, first);
	script(c->a, FAKE_UNHALT, (struct fake_step){FAKE_ANSWER, .status = 500, .body = "no\n"});
	upstream_end(c->up);
	assert_true(fake_halted_by(c->a, "t.db") == strtoull(first, NULL, 10));
	assert_int_equal(noted(c), 1); /* should we be killed now */
	assert_int_equal(begin(c, &pos), 0);
	last_id(c->a, FAKE_UNHALT, freed);
	assert_string_equal(freed, first);
	assert_int_equal(noted(c), 1);
	no_leak(c);
}

static void end__delete_fails__told_again_when_freed(void **state)
{
	struct ctx *c = *state;
	struct pos pos;

	assert_int_equal(begin(c, &pos), 0);
	script(c->a, FAKE_UNHALT, (struct fake_step){FAKE_ANSWER, .status = 500, .body = "no\n"});
	upstream_end(c->up);
	assert_true(fake_halted_by(c->a, "t.db") != 0);
	no_leak(c);
}

static void end__primary_dead__bounded_and_forgotten_in_the_end(void **state)
{
	struct ctx *c = *state;
	struct pos pos;

	assert_int_equal(begin(c, &pos), 0);
	fake_set_up(c->a, false);
	upstream_end(c->up);
	assert_int_equal(noted(c), 1);
	upstream_free(c->up); /* nothing more can be done: the record is for the next litefwd */
	c->up = NULL;
	assert_int_equal(noted(c), 1);
}

/* ---- this node's own LiteFS ---- */

static void set_kind(struct ctx *c, enum role_kind kind)
{
	pthread_mutex_lock(&c->role.mutex);
	c->role.state.kind = kind;
	c->role.state.epoch++;
	pthread_mutex_unlock(&c->role.mutex);
}

static void own__primary__begin_commit_end(void **state)
{
	struct ctx *c = *state;
	struct pos pos = {0};

	assert_int_equal(upstream_kind(c->up), UPSTREAM_OWN);
	upstream_end(c->up); /* before any begin */
	assert_int_equal(begin(c, &pos), 0);
	assert_true(pos_equal(pos, pos_of(c->a)));
	assert_true(fake_halted_by(c->a, "t.db") != 0);
	assert_int_equal(noted(c), 1);
	assert_true(upstream_hold_until(c->up) > clock_now_ns() + 20 * NS_PER_S);
	assert_int_equal(commit(c, pos), OUTCOME_COMMITTED);
	assert_int_equal(commit(c, c->tx.after), OUTCOME_COMMITTED);
	upstream_end(c->up);
	upstream_end(c->up);
	assert_int_equal(fake_count(c->a, FAKE_UNHALT), 1);
	assert_int_equal(fake_unhalted_tx(c->a), 0);
	no_leak(c);
}

static void own__no_such_database__created_at_position_0(void **state)
{
	struct ctx *c = *state;
	struct pos pos = {1, 2};

	fake_set_pos(c->a, "t.db", (struct pos){0});
	assert_int_equal(begin(c, &pos), 0);
	assert_true(pos.txid == 0 && pos.checksum == 0);
	assert_int_equal(commit(c, pos), OUTCOME_COMMITTED);
	assert_int_equal(pos_of(c->a).txid, 1);
	no_leak(c);
}

static void own__not_the_primary__nothing_asked(void **state)
{
	static const enum role_kind kinds[] = {ROLE_REPLICA, ROLE_UNKNOWN};
	struct ctx *c = *state;
	struct pos pos = {1, 2};

	strcpy(c->role.state.primary_url, fake_url(c->b));
	for (size_t i = 0; i < 2; i++) {
		set_kind(c, kinds[i]);
		assert_int_equal(begin(c, &pos), -EHOSTUNREACH);
	}
	assert_int_equal(fake_connections(c->a), 0);
	assert_int_equal(fake_connections(c->b), 0);
	assert_int_equal(pos.txid, 1);
	no_leak(c);
}

static void own__litefs_says_otherwise__never_halted(void **state)
{
	struct ctx *c = *state;
	struct pos pos;

	fake_set_role(c->a, false, "other");
	assert_int_equal(begin(c, &pos), -EHOSTUNREACH);
	fake_set_role(c->a, true, "");
	fake_set_cluster(c->a, "LFSC2", "/data/a");
	assert_int_equal(begin(c, &pos), -EHOSTUNREACH);
	assert_int_equal(fake_count(c->a, FAKE_HALT), 0);
	no_leak(c);
}

static void own__role_lost_while_held__refused_and_given_back(void **state)
{
	struct ctx *c = *state;
	struct pos pos;

	assert_int_equal(begin(c, &pos), 0);
	set_kind(c, ROLE_REPLICA);
	assert_int_equal(commit(c, pos), OUTCOME_REFUSED);
	assert_int_equal(fake_count(c->a, FAKE_TX), 0);
	upstream_end(c->up);
	assert_true(fake_halted_by(c->a, "t.db") == 0);
	assert_int_equal(begin(c, &pos), -EHOSTUNREACH);
	no_leak(c);
}

static void demote(void *arg, const char *name, const uint8_t *ltx, size_t len)
{
	(void)name, (void)ltx, (void)len;
	fake_set_role(((struct ctx *)arg)->a, false, "other");
}

/* LiteFS takes /tx as a replica too, and loses it. */
static void own__demoted_in_the_commit__unknown(void **state)
{
	struct ctx *c = *state;
	struct pos pos;

	assert_int_equal(begin(c, &pos), 0);
	fake_on_tx(c->a, demote, c);
	assert_int_equal(commit(c, pos), OUTCOME_UNKNOWN);
	assert_int_equal(fake_count(c->a, FAKE_TX), 1);
	upstream_end(c->up);
	assert_true(fake_halted_by(c->a, "t.db") == 0);
	assert_int_equal(begin(c, &pos), -EHOSTUNREACH);
	no_leak(c);
}

static void own__clients_in_the_way__eagain_and_nothing_left(void **state)
{
	struct ctx *c = *state;
	struct pos pos;

	fake_lock(c->a, "t.db", true);
	assert_int_equal(begin_at(c->up, clock_now_ns() + 200 * NS_PER_MS, &pos), -EAGAIN);
	upstream_end(c->up);
	fake_lock(c->a, "t.db", false);
	assert_int_equal(begin(c, &pos), 0);
	no_leak(c);
}

#define OWN_TEST(f) cmocka_unit_test_setup_teardown(f, setup_own, teardown)
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(begin_commit_end__each_asked_once),
		TEST(begin__again__other_id_and_no_question_who_it_is),
		TEST(free__while_held__ended),
		TEST(probe__position_and_nothing_held),
		TEST(begin__not_a_replica_or_no_url__ehostunreach_and_nothing_asked),
		TEST(begin__target_is_a_replica__never_halted),
		TEST(begin__other_cluster__never_halted),
		TEST(begin__halt_answered_by_another_node__given_back),
		TEST(begin__primary_moved__the_new_one_and_the_old_ones_lock_freed),
		TEST(begin__primary_dead__ehostunreach_then_found_again),
		TEST(begin__rubbish_for_an_answer__ehostunreach_and_given_back),
		TEST(begin__answer_lost__had_or_given_back),
		TEST(begin__must_wait__asked_again_with_the_same_id),
		TEST(begin__never_free__eagain_in_time_and_nothing_left),
		TEST(begin__given_up_and_delete_fails__told_later),
		TEST(begin__given_up_and_granted_after_its_deletes__freed),
		TEST(begin__lock_of_an_earlier_begin_in_the_way__freed_and_had),
		TEST(end__earlier_question_granted_after_it__freed),
		TEST(begin__what_was_held_cannot_be_given_back__not_taken_for_busy),
		TEST(begin__granted_and_answered_late__that_lock_is_had),
		TEST(begin__granted_long_ago__given_back_for_a_new_one),
		TEST(hold__litefs_30_s__margins),
		TEST(hold__short_ttl__scaled),
		TEST(hold__expired__nothing_sent_any_more),
		TEST(commit__nothing_held__refused_and_not_sent),
		TEST(commit__larger_than_the_measured_rate_allows__refused_with_the_limit),
		TEST(commit__64_mib_as_the_first__committed),
		TEST(abort__during_the_wait__ecanceled_and_nothing_left),
		TEST(commit__position_not_the_primarys__refused),
		TEST(commit__answer_lost_in_any_way__unknown),
		TEST(commit__time_nearly_over_for_its_size__refused_and_not_sent),
		TEST(commit__connection_of_the_halt_gone__refused_and_not_sent),
		TEST(commit__no_answer_until_the_deadline__unknown_and_reset),
		TEST(abort__during_a_commit__unknown_soon),
		TEST(commit__file_cannot_be_read__not_committed),
		TEST(end__delete_fails__told_again_by_the_next_begin),
		TEST(end__delete_fails__told_again_when_freed),
		TEST(end__primary_dead__bounded_and_forgotten_in_the_end),
		OWN_TEST(own__primary__begin_commit_end),
		OWN_TEST(own__no_such_database__created_at_position_0),
		OWN_TEST(own__not_the_primary__nothing_asked),
		OWN_TEST(own__litefs_says_otherwise__never_halted),
		OWN_TEST(own__role_lost_while_held__refused_and_given_back),
		OWN_TEST(own__demoted_in_the_commit__unknown),
		OWN_TEST(own__clients_in_the_way__eagain_and_nothing_left),
	};
	int failed;

	if (api_global_init())
		return 1;
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	api_global_fini();
	return failed;
}
