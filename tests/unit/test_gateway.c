/* The gateway's server: each verb and each row of its errors, waits, connections that end, bundles, authentication, limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "format/ltx.h"
#include "gateway_rig.h"

#define ALIKE "&peer=00000000000000aa&cluster=" RIG_CLUSTER
#define LOCK(id) "v=1&name=" RIG_NAME "&id=" #id
#define POS_NONE "0000000000000000-0000000000000000"
#define BEGIN(id) "/halt?" LOCK(id) "&pos=" POS_NONE "&wait=1000" ALIKE
#define TX(id) "/tx?" LOCK(id)
#define END(id) "/halt?" LOCK(id)

static int setup(void **state)
{
	*state = rig_new();
	return 0;
}

static int setup_started(void **state)
{
	setup(state);
	rig_start(*state);
	return 0;
}

static int teardown(void **state)
{
	rig_free(*state);
	return 0;
}

static int status_of(struct rig *rig, int fd, const char *method, const char *target)
{
	struct answer a = rig_call(rig, fd, method, target, NULL, 0);

	answer_fini(&a);
	return a.status;
}

static enum gw_code code_of(struct rig *rig, int fd, const char *method, const char *target, const char *body)
{
	enum gw_code code;
	int status;

	code = rig_code(rig_call(rig, fd, method, target, body, body ? strlen(body) : 0), &status);
	assert_int_equal(status, code ? gw_code_status(code) : 200);
	return code;
}

static void begin(struct rig *rig, int fd, const char *target)
{
	assert_int_equal(code_of(rig, fd, "POST", target, NULL), GW_OK);
}

/* The server has seen connections go: n are left. */
static bool gateway_is_down_to(struct rig *rig, unsigned n)
{
	for (int i = 0; i < 2000; i++) {
		unsigned conns = 0;

		pthread_mutex_lock(&rig->gw->mutex);
		for (struct gw_conn *c = rig->gw->conns; c; c = c->next)
			conns++;
		pthread_mutex_unlock(&rig->gw->mutex);
		if (conns == n)
			return true;
		clock_sleep_ns(10 * NS_PER_MS);
	}
	return false;
}

/* ---- info ---- */

static void info__primary__says_who_it_is(void **state)
{
	struct rig *rig = *state;
	int fd = rig_connect(rig);
	struct answer a = rig_call(rig, fd, "GET", "/info", NULL, 0);
	struct gw_info info;

	assert_int_equal(a.status, 200);
	assert_int_equal(gw_get_info(a.body, a.len, &info), 0);
	assert_true(info.is_primary);
	assert_string_equal(info.cluster, RIG_CLUSTER);
	assert_int_equal(info.server, RIG_NODE);
	assert_int_equal(strlen(info.nonce), 32);
	answer_fini(&a);
	close(fd);
}

/* ---- begin ---- */

static void begin__free__is_granted_with_position(void **state)
{
	struct rig *rig = *state;
	int fd = rig_connect(rig);
	struct answer a = rig_call(rig, fd, "POST", BEGIN(5), NULL, 0);
	struct gw_grant grant;
	size_t bundle;

	assert_int_equal(a.status, 200);
	assert_int_equal(gw_get_grant(a.body, a.len, &grant, &bundle), 0);
	assert_true(pos_equal(grant.pos, rig->db.pos));
	assert_int_equal(grant.lease_ms, GW_LEASE_MS);
	assert_int_equal(grant.waiting, 3);
	assert_int_equal(grant.server, RIG_NODE);
	assert_int_equal(grant.tx_count, 0);
	assert_int_equal(bundle, a.len);
	pthread_mutex_lock(&rig->db.mutex);
	assert_int_equal(rig->db.id, 5);
	assert_int_equal(rig->db.peer, 0xaa);
	pthread_mutex_unlock(&rig->db.mutex);
	answer_fini(&a);
	close(fd);
}

static void begin__database_is_open__no_other_thread_is_asked(void **state)
{
	struct rig *rig = *state;
	int fd = rig_connect(rig);

	rig->is_open = true;
	begin(rig, fd, BEGIN(5));
	assert_int_equal(rig->finds, 1);
	assert_int_equal(rig->gets, 0);
	assert_int_equal(code_of(rig, fd, "POST", TX(5), "x"), GW_OK);
	rig->is_open = false; /* or its opener is at work */
	begin(rig, fd, BEGIN(6));
	assert_int_equal(rig->gets, 1);
	close(fd);
}

static void begin__refused_by_db__is_told_why(void **state)
{
	static const struct {
		int result;
		enum gw_code code;
	} rows[] = {
		{-EAGAIN, GW_BUSY}, {-EALREADY, GW_BUSY}, {-EBUSY, GW_LIMIT}, {-EHOSTUNREACH, GW_NOT_PRIMARY},
		{-ECANCELED, GW_NOT_HELD}, {-EPERM, GW_NOT_HELD}, {-ENOTSUP, GW_UNSUPPORTED}, {-EIO, GW_UNSUPPORTED},
	};
	struct rig *rig = *state;
	int fd = rig_connect(rig);

	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		rig->db.begin_result = rows[i].result;
		assert_int_equal(code_of(rig, fd, "POST", BEGIN(5), NULL), rows[i].code);
	}
	close(fd);
}

static void begin__no_such_database__is_unsupported(void **state)
{
	struct rig *rig = *state;
	int fd = rig_connect(rig);

	assert_int_equal(code_of(rig, fd, "POST", "/halt?v=1&name=other&id=5&pos=" POS_NONE "&wait=1" ALIKE, NULL), GW_UNSUPPORTED);
	assert_int_equal(rig->db.begins, 0);
	close(fd);
}

static void begin__not_primary__is_refused_without_db(void **state)
{
	struct rig *rig = *state;
	int fd = rig_connect(rig);

	rig->role.state.kind = ROLE_REPLICA;
	assert_int_equal(code_of(rig, fd, "POST", BEGIN(5), NULL), GW_NOT_PRIMARY);
	rig->role.state.kind = ROLE_UNKNOWN;
	assert_int_equal(code_of(rig, fd, "POST", BEGIN(5), NULL), GW_NOT_PRIMARY);
	assert_int_equal(rig->gets, 0);
	close(fd);
}

static void begin__other_cluster__is_unsupported(void **state)
{
	struct rig *rig = *state;
	int fd = rig_connect(rig);

	strcpy(rig->role.state.cluster_id, "OTHER");
	assert_int_equal(code_of(rig, fd, "POST", BEGIN(5), NULL), GW_UNSUPPORTED);
	assert_int_equal(rig->gets, 0);
	rig->role.state.cluster_id[0] = 0; /* not known: nothing to compare */
	begin(rig, fd, BEGIN(5));
	close(fd);
}

static void begin__parked__is_answered_when_done(void **state)
{
	struct rig *rig = *state;
	int fd = rig_connect(rig), other = rig_connect(rig), status;

	rig->db.begin_result = DB_PARKED;
	rig_ask(rig, fd, "POST", BEGIN(5), NULL, 0, NULL);
	rig_wait(rig, &rig->db.begins, 1);
	/* The server's one thread does not wait with it. */
	assert_int_equal(status_of(rig, other, "GET", "/info"), 200);
	assert_int_equal(code_of(rig, other, "POST", BEGIN(5), NULL), GW_BUSY);
	rig_release_begin(rig, 0);
	assert_int_equal(rig_code(rig_answer(fd), &status), GW_OK);
	close(fd);
	close(other);
}

static void begin__wait_is_long__is_bounded(void **state)
{
	struct rig *rig = *state;
	int fd = rig_connect(rig);
	int64_t before = clock_now_ns();

	begin(rig, fd, "/halt?" LOCK(5) "&pos=" POS_NONE "&wait=9999999999" ALIKE);
	assert_true(rig->db.until_ns >= before + GW_WAIT_MAX_MS * NS_PER_MS);
	assert_true(rig->db.until_ns <= clock_now_ns() + GW_WAIT_MAX_MS * NS_PER_MS);
	close(fd);
}

static void begin__closed_while_waiting__ends_the_wait(void **state)
{
	struct rig *rig = *state;
	int fd = rig_connect(rig);

	rig->db.begin_result = DB_PARKED;
	rig_ask(rig, fd, "POST", BEGIN(5), NULL, 0, NULL);
	rig_wait(rig, &rig->db.begins, 1);
	close(fd);
	rig_wait(rig, &rig->db.ends, 1);
	assert_int_equal(rig->db.id, 5);
	assert_null(rig->db.begin_call);
}

/* Reset, so that the server finds an error as soon as it turns to the connection again. */
static void request__connection_reset_in_db__is_forgotten(void **state)
{
	const struct linger reset = {.l_onoff = 1};
	struct rig *rig = *state;
	int fd, other = rig_connect(rig);

	for (unsigned i = 1; i <= 10; i++) {
		rig->db.begin_result = DB_PARKED;
		fd = rig_connect(rig);
		rig_ask(rig, fd, "POST", BEGIN(5), NULL, 0, NULL);
		rig_wait(rig, &rig->db.begins, 2 * i - 1);
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
		close(fd);
		rig_wait(rig, &rig->db.ends, 2 * i - 1);
		assert_true(gateway_is_down_to(rig, 1));
		/* The same in a commit. */
		rig->db.begin_result = 0;
		rig->db.commit_result = DB_PARKED;
		fd = rig_connect(rig);
		begin(rig, fd, BEGIN(5));
		rig_ask(rig, fd, "POST", TX(5), "x", 1, NULL);
		rig_wait(rig, &rig->db.commits, i);
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
		close(fd);
		rig_release_commit(rig, -ESTALE);
		assert_true(gateway_is_down_to(rig, 1));
		rig_wait(rig, &rig->db.ends, 2 * i);
		assert_int_equal(status_of(rig, other, "GET", "/info"), 200);
	}
	pthread_mutex_lock(&rig->gw->mutex);
	assert_int_equal(rig->gw->waiting_count + rig->gw->open_count + rig->gw->uploads + rig->gw->session_count, 0);
	pthread_mutex_unlock(&rig->gw->mutex);
	close(other);
}

static void begin__ended_while_waiting__is_answered(void **state)
{
	struct rig *rig = *state;
	int fd = rig_connect(rig), other = rig_connect(rig), status;

	rig->db.begin_result = DB_PARKED;
	rig_ask(rig, fd, "POST", BEGIN(5), NULL, 0, NULL);
	rig_wait(rig, &rig->db.begins, 1);
	assert_int_equal(status_of(rig, other, "DELETE", END(5)), 200);
	assert_int_equal(rig_code(rig_answer(fd), &status), GW_NOT_HELD);
	close(fd);
	close(other);
}

static void held__connection_closed__lease_is_shortened(void **state)
{
	struct rig *rig = *state;
	int fd = rig_connect(rig);

	begin(rig, fd, BEGIN(5));
	close(fd);
	rig_wait(rig, &rig->db.shortens, 1);
	assert_int_equal(rig->db.id, 5);
	assert_int_equal(rig->db.grace_ms, GW_CLOSED_GRACE_MS);
}

static void held__renewed_elsewhere__first_connection_does_not_count(void **state)
{
	struct rig *rig = *state;
	int fd = rig_connect(rig), other = rig_connect(rig);

	begin(rig, fd, BEGIN(5));
	begin(rig, other, BEGIN(5));
	assert_int_equal(rig->gets, 1);
	close(fd);
	assert_true(gateway_is_down_to(rig, 1));
	begin(rig, other, BEGIN(6));
	close(other);
	rig_wait(rig, &rig->db.shortens, 2);
	gateway_stop(rig->gw);
	rig->gw = NULL;
	assert_int_equal(rig->db.shortens, 2);
}

/* ---- bundle ---- */

/* A begin of who is at txid with this checksum: LTX files that came, and that they are those of the directory. */
static unsigned bundle(struct rig *rig, uint64_t txid, uint64_t checksum)
{
	int fd = rig_connect(rig);
	struct gw_grant grant;
	struct answer a;
	struct ltx_header header;
	char target[300];
	size_t at;

	snprintf(target, sizeof target, "/halt?" LOCK(5) "&pos=%016llx-%016llx&wait=1000" ALIKE, (unsigned long long)txid,
		 (unsigned long long)checksum);
	a = rig_call(rig, fd, "POST", target, NULL, 0);
	assert_int_equal(a.status, 200);
	assert_int_equal(gw_get_grant(a.body, a.len, &grant, &at), 0);
	assert_true(pos_equal(grant.pos, rig->db.pos));
	for (unsigned i = 0; i < grant.tx_count; i++) {
		assert_int_equal(ltx_header_decode((const uint8_t *)a.body + at, &header), 0);
		assert_int_equal(header.min_txid, txid + 1 + i);
		at += grant.tx_size[i];
	}
	assert_int_equal(at, a.len);
	answer_fini(&a);
	close(fd);
	return grant.tx_count;
}

static void make_ltx(struct rig *rig, uint64_t from, uint64_t to, uint32_t pages)
{
	for (uint64_t i = from; i <= to; i++)
		rig_make_ltx(rig, i, SUM(i - 1), pages);
	rig->db.pos = (struct pos){to, SUM(to)};
}

static void bundle__caller_is_behind__brings_what_it_lacks(void **state)
{
	struct rig *rig = *state;

	make_ltx(rig, 5, 10, 2);
	assert_int_equal(bundle(rig, 6, SUM(6)), 4);
	assert_int_equal(bundle(rig, 9, SUM(9)), 1);
}

static void bundle__nothing_to_bring__is_empty(void **state)
{
	struct rig *rig = *state;

	make_ltx(rig, 5, 10, 2);
	assert_int_equal(bundle(rig, 10, SUM(10)), 0);
	assert_int_equal(bundle(rig, 11, SUM(11)), 0);
	assert_int_equal(bundle(rig, 0, 0), 0);
	assert_int_equal(bundle(rig, UINT64_MAX, SUM(1)), 0);
}

static void bundle__chain_does_not_fit__is_empty(void **state)
{
	struct rig *rig = *state;

	make_ltx(rig, 5, 10, 2);
	assert_int_equal(bundle(rig, 6, SUM(7)), 0); /* another history */
	assert_int_equal(bundle(rig, 3, SUM(3)), 0); /* the first is gone */
	rig_make_ltx(rig, 8, SUM(1), 2);
	assert_int_equal(bundle(rig, 6, SUM(6)), 0); /* a break in the middle */
	assert_int_equal(bundle(rig, 8, SUM(8)), 2);
	rig->db.pos.checksum = SUM(4);
	assert_int_equal(bundle(rig, 8, SUM(8)), 0); /* not where the lock is */
}

static void bundle__too_much__is_empty(void **state)
{
	struct rig *rig = *state;

	make_ltx(rig, 2, GW_TX_MAX + 3, 1);
	assert_int_equal(bundle(rig, 2, SUM(2)), 0);
	assert_int_equal(bundle(rig, 3, SUM(3)), GW_TX_MAX);
	make_ltx(rig, 100, 103, 100); /* 400 KiB each */
	assert_int_equal(bundle(rig, 100, SUM(100)), 0);
	assert_int_equal(bundle(rig, 101, SUM(101)), 2);
}

static void bundle__file_is_cut__is_empty(void **state)
{
	struct rig *rig = *state;
	char path[120];

	make_ltx(rig, 5, 10, 2);
	snprintf(path, sizeof path, "%s/%016x.ltx", rig->db.dir, 9);
	assert_int_equal(truncate(path, 50), 0);
	assert_int_equal(bundle(rig, 8, SUM(8)), 0);
}

/* ---- commit ---- */

static void commit__held__is_passed_on_and_told(void **state)
{
	struct rig *rig = *state;
	size_t len = 300000; /* more than the spool keeps in memory */
	uint8_t *body = malloc(len);
	int fd = rig_connect(rig);
	struct gw_result result;
	struct answer a;

	for (size_t i = 0; i < len; i++)
		body[i] = (uint8_t)(i * 7 + i / 256);
	begin(rig, fd, BEGIN(5));
	rig->db.yield = true;
	a = rig_call(rig, fd, "POST", TX(5), body, len);
	assert_int_equal(a.status, 200);
	assert_int_equal(gw_get_result(a.body, a.len, &result), 0);
	assert_false(result.unknown);
	assert_true(result.yield);
	assert_true(pos_equal(result.pos, (struct pos){11, SUM(11)}));
	assert_int_equal(rig->db.got_len, len);
	assert_memory_equal(rig->db.got, body, len);
	answer_fini(&a);
	assert_int_equal(code_of(rig, fd, "POST", TX(5), "next"), GW_OK);
	free(body);
	close(fd);
}

static void commit__parked__is_answered_when_done(void **state)
{
	struct rig *rig = *state;
	int fd = rig_connect(rig), other = rig_connect(rig), status;

	begin(rig, fd, BEGIN(5));
	rig->db.commit_result = DB_PARKED;
	rig_ask(rig, fd, "POST", TX(5), "x", 1, NULL);
	rig_wait(rig, &rig->db.commits, 1);
	assert_int_equal(code_of(rig, other, "POST", TX(5), "second"), GW_LIMIT);
	begin(rig, other, BEGIN(5)); /* renewed meanwhile */
	rig_release_commit(rig, 0);
	assert_int_equal(rig_code(rig_answer(fd), &status), GW_OK);
	assert_int_equal(rig->db.commits, 1);
	close(fd);
	close(other);
}

static void commit__not_committed__is_told_and_the_lock_is_gone(void **state)
{
	static const struct {
		int result;
		enum gw_code code;
	} rows[] = {{-EPERM, GW_NOT_HELD}, {-ESTALE, GW_REFUSED}, {-EBADMSG, GW_REFUSED}, {-ENOSPC, GW_REFUSED}};
	struct rig *rig = *state;
	int fd = rig_connect(rig);

	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		unsigned commits = rig->db.commits;

		begin(rig, fd, BEGIN(5));
		rig->db.commit_result = rows[i].result;
		assert_int_equal(code_of(rig, fd, "POST", TX(5), "x"), rows[i].code);
		assert_int_equal(rig->db.commits, commits + 1);
		assert_int_equal(code_of(rig, fd, "POST", TX(5), "x"), GW_NOT_HELD);
		assert_int_equal(rig->db.commits, commits + 1);
	}
	close(fd);
}

static void commit__unknown__is_told_as_such(void **state)
{
	struct rig *rig = *state;
	int fd = rig_connect(rig);
	struct gw_result result;
	struct answer a;

	begin(rig, fd, BEGIN(5));
	rig->db.commit_result = -EIO;
	rig->db.unknown = true;
	a = rig_call(rig, fd, "POST", TX(5), "x", 1);
	assert_int_equal(a.status, 500);
	assert_int_equal(gw_get_result(a.body, a.len, &result), 0);
	assert_true(result.unknown);
	answer_fini(&a);
	close(fd);
}

static void commit__never_begun__is_not_held(void **state)
{
	struct rig *rig = *state;
	int fd = rig_connect(rig);

	assert_int_equal(code_of(rig, fd, "POST", TX(5), "x"), GW_NOT_HELD);
	begin(rig, fd, BEGIN(6));
	assert_int_equal(code_of(rig, fd, "POST", TX(5), "x"), GW_NOT_HELD);
	assert_int_equal(rig->db.commits, 0);
	close(fd);
}

static void commit__cannot_be_kept__is_refused_and_the_lock_is_gone(void **state)
{
	struct rig *rig = *state;
	int fd = rig_connect(rig);
	char *body = calloc(1, 100001);

	memset(body, 'x', 100000);
	begin(rig, fd, BEGIN(5));
	rig->settings.spool_dir = (char *)"/nonexistent";
	assert_int_equal(code_of(rig, fd, "POST", TX(5), body), GW_REFUSED);
	assert_int_equal(rig->db.ends, 1);
	assert_int_equal(rig->db.commits, 0);
	free(body);
	close(fd);
}

/* ---- end ---- */

static void end__twice__is_fine(void **state)
{
	struct rig *rig = *state;
	int fd = rig_connect(rig);

	begin(rig, fd, BEGIN(5));
	assert_int_equal(status_of(rig, fd, "DELETE", END(5)), 200);
	assert_int_equal(rig->db.ends, 1);
	assert_int_equal(rig->puts, 1);
	assert_int_equal(status_of(rig, fd, "DELETE", END(5)), 200);
	assert_int_equal(rig->db.ends, 1);
	assert_int_equal(code_of(rig, fd, "POST", TX(5), "x"), GW_NOT_HELD);
	close(fd);
}

/* ---- what is no request ---- */

static void request__malformed__is_refused(void **state)
{
	static const struct {
		const char *method, *target;
		int status;
	} rows[] = {
		{"GET", "/", 404}, {"GET", "/halt?" LOCK(5), 404}, {"PUT", TX(5), 404}, {"POST", "/info", 404},
		{"GET", "/info/../tx", 404}, {"HEAD2", "/info", 404},
		{"POST", "/halt?name=t.db&id=5&pos=" POS_NONE "&wait=1" ALIKE, 505},
		{"POST", "/halt?v=2&name=t.db&id=5&pos=" POS_NONE "&wait=1" ALIKE, 505},
		{"POST", "/tx?v=01&name=t.db&id=5", 505}, {"DELETE", "/halt?v=&name=t.db&id=5", 505},
		{"DELETE", "/halt?v=1&id=5", 400}, {"DELETE", "/halt?v=1&name=&id=5", 400},
		{"DELETE", "/halt?v=1&name=../etc/passwd&id=5", 400}, {"DELETE", "/halt?v=1&name=%2e%2e%2fx&id=5", 400},
		{"DELETE", "/halt?v=1&name=t.db-wal&id=5", 400}, {"DELETE", "/halt?v=1&name=t.db%00x&id=5", 400},
		{"DELETE", "/halt?v=1&name=.primary&id=5", 400},
		{"DELETE", "/halt?v=1&name=t.db", 400}, {"DELETE", "/halt?v=1&name=t.db&id=0", 400},
		{"DELETE", "/halt?v=1&name=t.db&id=-1", 400}, {"DELETE", "/halt?v=1&name=t.db&id=9223372036854775808", 400},
		{"DELETE", "/halt?v=1&name=t.db&id=99999999999999999999999", 400}, {"DELETE", "/halt?v=1&name=t.db&id=5x", 400},
		{"POST", "/halt?" LOCK(5) "&wait=1" ALIKE, 400}, {"POST", "/halt?" LOCK(5) "&pos=5&wait=1" ALIKE, 400},
		{"POST", "/halt?" LOCK(5) "&pos=" POS_NONE ALIKE, 400},
		{"POST", "/halt?" LOCK(5) "&pos=" POS_NONE "&wait=-1" ALIKE, 400},
		{"POST", "/halt?" LOCK(5) "&pos=" POS_NONE "&wait=1&peer=xx", 400},
		{"POST", "/halt?" LOCK(5) "&pos=" POS_NONE "&wait=1", 400},
		{"POST", "/halt?" LOCK(5) "&pos=" POS_NONE "&wait=1&peer=00000000000000aa&cluster="
			 "0123456789012345678901234567890123456789012345678901234567890123", 400},
	};
	struct rig *rig = *state;

	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		int fd = rig_connect(rig), status;

		assert_int_equal(rig_code(rig_call(rig, fd, rows[i].method, rows[i].target, NULL, 0), &status),
				 rows[i].status == 505 ? GW_VERSION_UNKNOWN : GW_BAD_REQUEST);
		if (status != rows[i].status)
			fail_msg("%s %s: %d, not %d", rows[i].method, rows[i].target, status, rows[i].status);
		close(fd);
	}
	assert_int_equal(rig->gets, 0);
}

static void request__body_without_length__is_refused(void **state)
{
	static const char *const texts[] = {
		"POST " TX(5) " HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
		"POST " TX(5) " HTTP/1.1\r\nHost: h\r\n\r\n",
		"POST " BEGIN(5) " HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx",
		"GET /info HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	};
	struct rig *rig = *state;
	int status;

	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
		int fd = rig_connect(rig);

		rig_send(fd, texts[i], strlen(texts[i]));
		assert_int_equal(rig_code(rig_answer(fd), &status), GW_BAD_REQUEST);
		assert_int_equal(status, 400);
		close(fd);
	}
	assert_int_equal(rig->gets, 0);
}

static void request__head_is_huge__is_refused(void **state)
{
	struct rig *rig = *state;
	int fd = rig_connect(rig), other;
	char *junk = malloc(1000000);

	memset(junk, 'a', 1000000);
	rig_send(fd, "GET /info?", 10);
	rig_send(fd, junk, 1000000);
	assert_true(rig_is_closed(fd));
	close(fd);
	fd = rig_connect(rig);
	rig_send(fd, "GET /info HTTP/1.1\r\nX: ", 23);
	rig_send(fd, junk, 1000000);
	assert_true(rig_is_closed(fd));
	close(fd);
	other = rig_connect(rig);
	assert_int_equal(status_of(rig, other, "GET", "/info"), 200);
	close(other);
	free(junk);
}

/* ---- authentication ---- */

static void auth__right_secret__request_and_answer(void **state)
{
	struct rig *rig = *state;
	int fd;
	struct answer a;
	char mac[GW_MAC_HEX], hex[65];

	rig_start_with_secret(rig);
	fd = rig_connect(rig);
	rig_ask(rig, fd, "POST", BEGIN(5), NULL, 0, mac);
	a = rig_answer(fd);
	assert_int_equal(a.status, 200);
	gw_hash_once(a.body, a.len, hex);
	assert_int_equal(gw_auth_check_answer(&rig->secret, mac, a.status, hex, a.auth), 0);
	answer_fini(&a);
	rig_ask(rig, fd, "POST", TX(5), "hello", 5, mac);
	a = rig_answer(fd);
	assert_int_equal(a.status, 200);
	gw_hash_once(a.body, a.len, hex);
	assert_int_equal(gw_auth_check_answer(&rig->secret, mac, a.status, hex, a.auth), 0);
	answer_fini(&a);
	assert_memory_equal(rig->db.got, "hello", 5);
	/* An error is as trustworthy. */
	rig_ask(rig, fd, "POST", TX(99), "hello", 5, mac);
	a = rig_answer(fd);
	assert_int_equal(a.status, 409);
	gw_hash_once(a.body, a.len, hex);
	assert_int_equal(gw_auth_check_answer(&rig->secret, mac, a.status, hex, a.auth), 0);
	answer_fini(&a);
	close(fd);
}

static void auth__none_or_wrong__nothing_reaches_db(void **state)
{
	struct rig *rig = *state;
	struct gw_secret right;
	int fd;

	rig_start_with_secret(rig);
	right = rig->secret;
	fd = rig_connect(rig);
	rig->secret.len = 0;
	assert_int_equal(code_of(rig, fd, "POST", BEGIN(5), NULL), GW_AUTH);
	assert_int_equal(code_of(rig, fd, "DELETE", END(5), NULL), GW_AUTH);
	assert_int_equal(code_of(rig, fd, "POST", TX(5), "x"), GW_AUTH);
	assert_int_equal(code_of(rig, fd, "POST", "/halt?v=1", NULL), GW_AUTH);
	rig->secret = right;
	rig->secret.key[0] ^= 1;
	assert_int_equal(code_of(rig, fd, "POST", BEGIN(5), NULL), GW_AUTH);
	assert_int_equal(rig->gets, 0);
	rig->secret = right;
	begin(rig, fd, BEGIN(5));
	rig->secret.key[0] ^= 1;
	assert_int_equal(code_of(rig, fd, "POST", TX(5), "x"), GW_AUTH);
	assert_int_equal(code_of(rig, fd, "DELETE", END(5), NULL), GW_AUTH);
	assert_int_equal(rig->db.commits + rig->db.ends, 0);
	close(fd);
}

static void auth__replayed__is_refused(void **state)
{
	struct rig *rig = *state;
	int fd;

	rig_start_with_secret(rig);
	fd = rig_connect(rig);
	begin(rig, fd, BEGIN(5));
	assert_int_equal(code_of(rig, fd, "POST", TX(5), "x"), GW_OK);
	rig->counter--;
	assert_int_equal(code_of(rig, fd, "POST", TX(5), "x"), GW_AUTH);
	assert_int_equal(rig->db.commits, 1);
	close(fd);
}

static void auth__body_changed__is_refused(void **state)
{
	struct rig *rig = *state;
	char value[GW_AUTH_VALUE_MAX], mac[GW_MAC_HEX], hex[65], text[1000];
	int fd, status;

	rig_start_with_secret(rig);
	fd = rig_connect(rig);
	begin(rig, fd, BEGIN(5));
	gw_hash_once("good", 4, hex);
	gw_auth_request(&rig->secret, "POST", TX(5), hex, rig->nonce, rig->caller, ++rig->counter, value, mac);
	snprintf(text, sizeof text, "POST " TX(5) " HTTP/1.1\r\nHost: h\r\n" GW_AUTH_HEADER ": %s\r\nContent-Length: 4\r\n\r\nevil", value);
	rig_send(fd, text, strlen(text));
	assert_int_equal(rig_code(rig_answer(fd), &status), GW_AUTH);
	assert_int_equal(rig->db.commits, 0);
	close(fd);
}

/* ---- limits ---- */

static void limit__requests_per_second__beyond_is_refused(void **state)
{
	struct rig *rig = *state;
	int fd;
	unsigned refused = 0;

	rig->limits.requests_per_second = 1;
	rig_start(rig);
	fd = rig_connect(rig);
	begin(rig, fd, BEGIN(5));
	for (int i = 0; i < 1000 && !refused; i++)
		refused += code_of(rig, fd, "POST", BEGIN(5), NULL) == GW_LIMIT;
	assert_int_equal(refused, 1);
	close(fd);
}

static void limit__connections_of_an_address__beyond_are_closed(void **state)
{
	struct rig *rig = *state;
	int fds[4], fd;

	rig->limits.connections_per_address = 4;
	rig_start(rig);
	for (int i = 0; i < 4; i++) {
		fds[i] = rig_connect(rig);
		assert_int_equal(status_of(rig, fds[i], "GET", "/info"), 200);
	}
	fd = rig_connect(rig);
	assert_true(rig_is_closed(fd));
	close(fd);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(status_of(rig, fds[i], "GET", "/info"), 200);
		close(fds[i]);
	}
}

static void limit__size_of_a_transaction__beyond_is_refused(void **state)
{
	struct rig *rig = *state;
	int fd, other, third;

	rig->limits.upload_bytes = 1000;
	rig->limits.upload_bytes_all = 1500;
	rig_start(rig);
	fd = rig_connect(rig);
	other = rig_connect(rig);
	third = rig_connect(rig);
	begin(rig, fd, BEGIN(5));
	rig_send(other, "POST " TX(5) " HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n", strlen(TX(5)) + 49);
	{
		int status;

		assert_int_equal(rig_code(rig_answer(other), &status), GW_TOO_LARGE);
		assert_int_equal(status, 413);
	}
	close(other);
	/* 800 are announced and do not come: 800 more do not fit. */
	rig->db.commit_result = DB_PARKED;
	{
		char *body = calloc(1, 801);
		int status;

		memset(body, 'x', 800);
		rig_ask(rig, fd, "POST", TX(5), body, 800, NULL);
		rig_wait(rig, &rig->db.commits, 1);
		assert_int_equal(code_of(rig, third, "POST", TX(5), body), GW_LIMIT);
		rig_release_commit(rig, 0);
		rig_code(rig_answer(fd), &status);
		assert_int_equal(status, 200);
		rig->db.commit_result = 0;
		assert_int_equal(code_of(rig, fd, "POST", TX(5), body), GW_OK);
		free(body);
	}
	close(fd);
	close(third);
}

static void limit__locks__beyond_are_refused(void **state)
{
	struct rig *rig = *state;
	int fd;

	rig->limits.sessions = 2;
	rig_start(rig);
	fd = rig_connect(rig);
	begin(rig, fd, BEGIN(5));
	begin(rig, fd, BEGIN(6));
	assert_int_equal(code_of(rig, fd, "POST", BEGIN(7), NULL), GW_LIMIT);
	begin(rig, fd, BEGIN(5));
	assert_int_equal(status_of(rig, fd, "DELETE", END(6)), 200);
	begin(rig, fd, BEGIN(7));
	close(fd);
}

static void limit__request_never_becomes_whole__connection_is_closed(void **state)
{
	struct rig *rig = *state;
	int fd, n = 0;

	rig->limits.stuck_ms = 300;
	rig_start(rig);
	fd = rig_connect(rig);
	/* A byte now and then keeps any timeout of silence from passing. */
	while (send(fd, n ? "a" : "G", 1, MSG_NOSIGNAL) == 1 && n++ < 500)
		clock_sleep_ns(20 * NS_PER_MS);
	assert_true(n < 500);
	close(fd);
}

static void connection__closed_in_the_middle_of_a_request__is_given_up(void **state)
{
	struct rig *rig = *state;
	int fd = rig_connect(rig);

	rig_send(fd, "GET /info HTTP/1.1\r\nHost: h", 27);
	shutdown(fd, SHUT_WR);
	assert_true(rig_is_closed(fd));
	close(fd);
}

/* ---- life ---- */

static void start__bad_address__is_refused(void **state)
{
	static const char *const bad[] = {"", ":80", "localhost:80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:8x",
					  "127.0.0.1:-1", "::1:80", "[::1:80", "[::1]", "[127.0.0.1]:80", "1.2.3:80"};
	struct rig *rig = *state;
	char text[80];

	(void)rig;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		assert_int_equal(gw_listen(bad[i], true, text, sizeof text), -EINVAL);
}

static void start__not_loopback__needs_a_secret(void **state)
{
	char text[80];
	int fd;

	(void)state;
	assert_int_equal(gw_listen("0.0.0.0:0", false, text, sizeof text), -EPERM);
	assert_int_equal(gw_listen("10.0.0.1:0", false, text, sizeof text), -EPERM);
	assert_int_equal(gw_listen("[::]:0", false, text, sizeof text), -EPERM);
	fd = gw_listen("0.0.0.0:0", true, text, sizeof text);
	assert_true(fd >= 0);
	close(fd);
	fd = gw_listen("127.8.8.8:0", false, text, sizeof text);
	assert_true(fd >= 0);
	assert_memory_equal(text, "127.8.8.8:", 10);
	close(fd);
}

static void start__port_in_use__is_told(void **state)
{
	struct rig *rig = *state;
	char text[80];

	assert_int_equal(gw_listen(gateway_address(rig->gw), false, text, sizeof text), -EADDRINUSE);
}

static void stop__with_waits__answers_them(void **state)
{
	struct rig *rig = *state;
	int fd = rig_connect(rig), held = rig_connect(rig), idle = rig_connect(rig), status;

	begin(rig, held, BEGIN(6));
	rig->db.begin_result = DB_PARKED;
	rig_ask(rig, fd, "POST", BEGIN(5), NULL, 0, NULL);
	rig_wait(rig, &rig->db.begins, 2);
	gateway_stop(rig->gw);
	rig->gw = NULL;
	assert_int_equal(rig_code(rig_answer(fd), &status), GW_NOT_PRIMARY);
	assert_int_equal(rig->db.ends, 2);
	assert_int_equal(rig->puts, rig->gets);
	assert_true(rig_is_closed(held));
	assert_true(rig_is_closed(idle));
	close(fd);
	close(held);
	close(idle);
}

static void *stop_main(void *arg)
{
	gateway_stop(arg);
	return NULL;
}

static void stop__with_a_commit_in_progress__waits_for_its_outcome(void **state)
{
	struct rig *rig = *state;
	int fd = rig_connect(rig), status;
	pthread_t thread;

	begin(rig, fd, BEGIN(5));
	rig->db.commit_result = DB_PARKED;
	rig_ask(rig, fd, "POST", TX(5), "x", 1, NULL);
	rig_wait(rig, &rig->db.commits, 1);
	assert_int_equal(pthread_create(&thread, NULL, stop_main, rig->gw), 0);
	rig->gw = NULL;
	rig_wait(rig, &rig->db.ends, 1);
	rig_release_commit(rig, 0);
	assert_int_equal(rig_code(rig_answer(fd), &status), GW_OK);
	pthread_join(thread, NULL);
	close(fd);
}

static void status__says_what_was_answered(void **state)
{
	struct rig *rig = *state;
	int fd = rig_connect(rig);
	json_t *status;

	begin(rig, fd, BEGIN(5));
	assert_int_equal(code_of(rig, fd, "POST", TX(6), "x"), GW_NOT_HELD);
	status = gateway_status(rig->gw);
	assert_string_equal(json_string_value(json_object_get(status, "address")), gateway_address(rig->gw));
	assert_int_equal(json_integer_value(json_object_get(status, "held")), 1);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(status, "answers"), gw_code_name(GW_NOT_HELD))), 1);
	json_decref(status);
	close(fd);
}

/* ---- hostile ---- */

static uint64_t rng = 88172645463325252u;

static size_t pick(size_t n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (size_t)(rng % n);
}

/* A few bytes changed, taken out, doubled, or the end cut off. */
static size_t mutate(char *text, size_t len, size_t cap)
{
	for (size_t times = 1 + pick(4); times && len > 2; times--) {
		size_t at = pick(len), n = 1 + pick(len - at < 16 ? len - at : 16);

		switch (pick(5)) {
		case 0:
			text[at] = (char)pick(256);
			break;
		case 1:
			text[at] ^= (char)(1 << pick(8));
			break;
		case 2:
			memmove(text + at, text + at + n, len - at - n);
			len -= n;
			break;
		case 3:
			if (len + n <= cap) {
				memmove(text + at + n, text + at, len - at);
				len += n;
			}
			break;
		default:
			len = at ? at : 1;
		}
	}
	return len;
}

static void hostile__mutated_requests__server_lives(void **state)
{
	static const char *const bases[] = {
		"GET /info HTTP/1.1\r\nHost: h\r\n\r\n",
		"POST " BEGIN(5) " HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
		"POST " TX(5) " HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 20\r\n\r\n12345678901234567890",
		"DELETE " END(5) " HTTP/1.1\r\nHost: h\r\nLitefwd-Auth: v1 0123456789abcdef 1 ab\r\n\r\n",
		"POST " TX(5) " HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n"
		"GET /info HTTP/1.1\r\nHost: h\r\n\r\n",
	};
	struct rig *rig = *state;
	const struct linger reset = {.l_onoff = 1};
	unsigned answers = 0;
	char text[600];
	int fd;

	for (int i = 0; i < 2000; i++) {
		const char *base = bases[pick(sizeof bases / sizeof bases[0])];
		size_t len = strlen(base);

		memcpy(text, base, len);
		len = mutate(text, len, sizeof text);
		fd = rig_connect(rig);
		rig_send(fd, text, len);
		shutdown(fd, SHUT_WR);
		/* What is cut is not answered, and there is no need to wait until the server has given it up. */
		if (poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 3) > 0)
			answers += recv(fd, text, sizeof text, 0) > 0;
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
		close(fd);
	}
	assert_true(answers > 0);
	fd = rig_connect(rig);
	begin(rig, fd, BEGIN(5));
	assert_int_equal(code_of(rig, fd, "POST", TX(5), "x"), GW_OK);
	close(fd);
}

#define STARTED(test) cmocka_unit_test_setup_teardown(test, setup_started, teardown)
#define PLAIN(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		STARTED(info__primary__says_who_it_is),
		STARTED(begin__free__is_granted_with_position),
		STARTED(begin__database_is_open__no_other_thread_is_asked),
		STARTED(begin__refused_by_db__is_told_why),
		STARTED(begin__no_such_database__is_unsupported),
		STARTED(begin__not_primary__is_refused_without_db),
		STARTED(begin__other_cluster__is_unsupported),
		STARTED(begin__parked__is_answered_when_done),
		STARTED(begin__wait_is_long__is_bounded),
		STARTED(begin__closed_while_waiting__ends_the_wait),
		STARTED(request__connection_reset_in_db__is_forgotten),
		STARTED(begin__ended_while_waiting__is_answered),
		STARTED(held__connection_closed__lease_is_shortened),
		STARTED(held__renewed_elsewhere__first_connection_does_not_count),
		STARTED(bundle__caller_is_behind__brings_what_it_lacks),
		STARTED(bundle__nothing_to_bring__is_empty),
		STARTED(bundle__chain_does_not_fit__is_empty),
		STARTED(bundle__too_much__is_empty),
		STARTED(bundle__file_is_cut__is_empty),
		STARTED(commit__held__is_passed_on_and_told),
		STARTED(commit__parked__is_answered_when_done),
		STARTED(commit__not_committed__is_told_and_the_lock_is_gone),
		STARTED(commit__unknown__is_told_as_such),
		STARTED(commit__never_begun__is_not_held),
		STARTED(commit__cannot_be_kept__is_refused_and_the_lock_is_gone),
		STARTED(end__twice__is_fine),
		STARTED(request__malformed__is_refused),
		STARTED(request__body_without_length__is_refused),
		STARTED(request__head_is_huge__is_refused),
		PLAIN(auth__right_secret__request_and_answer),
		PLAIN(auth__none_or_wrong__nothing_reaches_db),
		PLAIN(auth__replayed__is_refused),
		PLAIN(auth__body_changed__is_refused),
		PLAIN(limit__requests_per_second__beyond_is_refused),
		PLAIN(limit__connections_of_an_address__beyond_are_closed),
		PLAIN(limit__size_of_a_transaction__beyond_is_refused),
		PLAIN(limit__locks__beyond_are_refused),
		PLAIN(limit__request_never_becomes_whole__connection_is_closed),
		STARTED(connection__closed_in_the_middle_of_a_request__is_given_up),
		PLAIN(start__bad_address__is_refused),
		PLAIN(start__not_loopback__needs_a_secret),
		STARTED(start__port_in_use__is_told),
		STARTED(stop__with_waits__answers_them),
		STARTED(stop__with_a_commit_in_progress__waits_for_its_outcome),
		STARTED(status__says_what_was_answered),
		STARTED(hostile__mutated_requests__server_lives),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
