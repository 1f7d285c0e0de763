/*
 * The primary's litefwd, which answers for its LiteFS (gw_proto.h).
 *
 *   begin   (GET /info, once per role epoch and connection: it must be the primary of our cluster)
 *           POST /halt, one question that waits in the gateway's queue; the answer brings what we lack
 *   renew   POST /halt with the same id, which must find the position unchanged
 *   commit  POST /tx, once, whole
 *   end     DELETE /halt, once; a lease that could not be ended ends by itself
 *
 * Only /info opens connections: whatever else goes over one on which the gateway has said who it is, so no request is
 * repeated by libcurl, and none is signed for another gateway's nonce. Nothing depends on a lease's end being known to the
 * nanosecond: the gateway checks it, and the position, at each call.
 */
#include "litefs/upstream.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/random.h"
#include "format/names.h"
#include "litefs/gw_auth.h"
#include "litefs/gw_conns.h"
#include "litefs/gw_proto.h"
#include "litefs/http.h"
#include "litefs/upload_rate.h"
#include "litefs/url.h"

#define INFO_TIMEOUT_MS 2000
#define END_TIMEOUT_MS 1000
#define ANSWER_SLACK_NS (2 * NS_PER_S) /* what the gateway may take beyond the wait that it was allowed */
#define RENEW_SLACK_NS (2 * NS_PER_S)
#define TARGET_MAX 1536
#define PAUSE_MAX_NS (3 * NS_PER_S) /* HALT does meanwhile */
/* Per outage something like a line of each. */
#define LOG_MS 60000
#define HASH_CHUNK (64 * 1024)

struct gateway {
	struct upstream base;
	struct gw_conn *conn; /* from begin to end; NULL: nothing is held, and nothing asked */
	char url[URL_MAX];
	char error[200]; /* of the last call, for the log */
	struct gw_secret none;

	bool held;
	bool silent; /* begin: it did not answer, or not as a gateway */
	uint64_t id;
	struct pos pos;
	struct gw_grant grant;
	uint8_t *bundle; /* of the grant */
	bool yield;
	int64_t hold_until_ns, renew_at_ns;

	int64_t rtt_ns;
	struct upload_rate rate;
	struct breaker *breaker; /* of url */
	atomic_bool aborted;
	pthread_mutex_t call_mutex; /* nothing is locked under it */
	struct http *in_call; /* for abort; call_mutex */
};

static struct log_limit limit_unreachable, limit_refused;

static struct gateway *to_gateway(const struct upstream *up)
{
	return (struct gateway *)up;
}

static const struct gw_secret *secret_of(const struct gateway *g)
{
	return g->base.config.gw_secret ? g->base.config.gw_secret : &g->none;
}

static int fail(struct gateway *g, int err, const char *text)
{
	log_clean(g->error, sizeof g->error, text);
	return err;
}

/* ---- calls ---- */

/*
 * One signed call. 0: an answer, and it is the gateway's. -EKEYREJECTED: one that is not. Else as http_call().
 * body_hex NULL: of no body.
 */
static int call(struct gateway *g, struct gw_conn *conn, struct http_request *req, const char *body_hex,
		struct http_answer *answer)
{
	static const char *const methods[] = {[HTTP_GET] = "GET", [HTTP_POST] = "POST", [HTTP_DELETE] = "DELETE"};
	const struct gw_secret *secret = secret_of(g);
	char value[GW_AUTH_VALUE_MAX], mac[GW_MAC_HEX], hash[65] = "";
	char header[sizeof GW_AUTH_HEADER + 2 + GW_AUTH_VALUE_MAX];
	int err;

	memset(answer, 0, sizeof *answer);
	g->error[0] = 0;
	if (!body_hex) {
		if (secret->len)
			gw_hash_once("", 0, hash);
		body_hex = hash;
	}
	err = gw_auth_request(secret, methods[req->method], req->target, body_hex, conn->info.nonce, conn->caller,
			      ++conn->counter, value, mac);
	if (err)
		return fail(g, err, "cannot sign");
	snprintf(header, sizeof header, GW_AUTH_HEADER ": %s", value);
	req->header = value[0] ? header : NULL;
	err = http_call(conn->http, req, answer);
	if (err)
		return fail(g, err, http_error(conn->http));
	if (secret->len)
		gw_hash_once(answer->body, answer->len, hash);
	if (gw_auth_check_answer(secret, mac, answer->status, hash, answer->auth[0] ? answer->auth : NULL))
		return fail(g, -EKEYREJECTED, answer->status == 401 ? "it refuses our secret" : "its answer is not authentic");
	return 0;
}

/* The error that an answer is, if it is one of the protocol's and its status says the same. */
static int error_of(struct gateway *g, const struct http_answer *answer, struct gw_error *ret)
{
	struct gw_error error;

	if (gw_get_error(answer->body, answer->len, &error) || gw_code_status(error.code) != answer->status)
		return fail(g, -EBADMSG, "its answer is not a gateway's of this version");
	fail(g, 0, error.text);
	*ret = error;
	return 0;
}

static void log_unreachable(struct gateway *g)
{
	if (log_allow(&limit_unreachable, LOG_MS))
		log_warn("gateway_unreachable", "db=%s url=%s error=\"%s\" do=\"check gateway= and gateway_secret= of the primary's "
			 "litefwd and gateway_url= here; LiteFS' HALT is used meanwhile\"", g->base.config.name, g->url, g->error);
}

static void set_url(struct gateway *g, const char *url)
{
	if (!strcmp(g->url, url))
		return;
	g->breaker = breaker_get(g->base.config.breakers, "gateway", url, PAUSE_MAX_NS);
	g->rtt_ns = 0;
	g->rate = (struct upload_rate){0};
	snprintf(g->url, sizeof g->url, "%s", url);
}

static void take_conn(struct gateway *g)
{
	g->conn = gw_conns_take(g->base.config.gw_conns, g->url, g->base.config.node_id);
	if (!g->conn)
		return;
	http_clear_abort(g->conn->http);
	if (!g->rtt_ns)
		g->rtt_ns = g->conn->rtt_ns;
}

static void give_conn(struct gateway *g)
{
	if (g->conn)
		g->conn->rtt_ns = g->rtt_ns;
	gw_conns_give(g->base.config.gw_conns, g->conn);
	g->conn = NULL;
}

/* Between the two gateway_abort() ends what is waited for, and nothing of whoever has the connection next. */
static void enter_call(struct gateway *g)
{
	pthread_mutex_lock(&g->call_mutex);
	g->in_call = g->conn->http;
	pthread_mutex_unlock(&g->call_mutex);
}

static void leave_call(struct gateway *g)
{
	pthread_mutex_lock(&g->call_mutex);
	g->in_call = NULL;
	pthread_mutex_unlock(&g->call_mutex);
}

/* Asks who is there, on a new connection where there is none. Errors as begin's. */
static int ask_info(struct gateway *g, const struct role_state *role)
{
	struct http_request req = {.method = HTTP_GET, .target = "/info", .max_answer = GW_LINE_MAX,
				   .deadline_ns = clock_now_ns() + INFO_TIMEOUT_MS * NS_PER_MS};
	struct http_answer answer;
	struct gw_info info;
	int err;

	g->conn->epoch = 0;
	err = http_call(g->conn->http, &req, &answer);
	if (err == -ECANCELED)
		return err;
	if (err)
		fail(g, err, http_error(g->conn->http));
	else if (answer.status != 200 || gw_get_info(answer.body, answer.len, &info))
		err = fail(g, -EBADMSG, "no gateway of this version answers there");
	else if (role->cluster_id[0] && info.cluster[0] && strcmp(role->cluster_id, info.cluster) != 0)
		err = fail(g, -EBADMSG, "it is of another cluster");
	if (err) {
		g->silent = true;
		log_unreachable(g);
		return -ENOTSUP;
	}
	http_note_rtt(&g->rtt_ns, &answer, false);
	g->conn->info = info;
	if (info.is_primary)
		breaker_good(g->breaker); /* the others need not wait for our lock */
	else
		g->silent = true;
	if (!info.is_primary) {
		if (log_allow(&limit_refused, LOG_MS))
			log_warn("gateway_not_the_primary", "db=%s url=%s do=\"check gateway_url=\"", g->base.config.name, g->url);
		return -EHOSTUNREACH;
	}
	g->conn->epoch = role->epoch;
	g->conn->serial = http_serial(g->conn->http);
	return 0;
}

static bool info_is_fresh(const struct gateway *g, const struct role_state *role)
{
	return g->conn->epoch == role->epoch && g->conn->serial == http_serial(g->conn->http);
}

static int make_target(const struct gateway *g, const char *path, uint64_t id, char *ret)
{
	char name[NAME_DB_MAX * 3 + 1];

	if (!name_is_database(g->base.config.name) || url_escape(g->base.config.name, name, sizeof name))
		return -EINVAL;
	snprintf(ret, TARGET_MAX, "%s?v=%d&name=%s&id=%" PRIu64, path, GW_VERSION, name, id);
	return 0;
}

/* ---- end ---- */

static void tell_end_aside(struct gateway *g, struct http_request *req)
{
	struct gw_conn *side = gw_conns_take(g->base.config.gw_conns, g->url, g->base.config.node_id);
	struct http_answer answer;

	if (!side)
		return;
	http_clear_abort(side->http);
	if (!side->epoch)
		side->info = g->conn->info; /* the same gateway's */
	req->no_open = false;
	call(g, side, req, NULL, &answer);
	gw_conns_give(g->base.config.gw_conns, side);
}

/* One try: over ours where it can still tell, or another connection. What is not told expires there. */
static void tell_end(struct gateway *g, bool over_ours)
{
	char target[TARGET_MAX];
	struct http_request req = {.method = HTTP_DELETE, .target = target, .max_answer = GW_LINE_MAX, .no_open = true,
				   .deadline_ns = clock_now_ns() + END_TIMEOUT_MS * NS_PER_MS};
	struct http_answer answer;
	int err = -ENOTCONN;

	if (make_target(g, "/halt", g->id, target))
		return;
	if (over_ours) {
		err = call(g, g->conn, &req, NULL, &answer);
		if (!err)
			http_note_rtt(&g->rtt_ns, &answer, false);
	}
	if (err == -ENOTCONN)
		tell_end_aside(g, &req);
}

static void forget(struct gateway *g)
{
	g->held = false;
	g->hold_until_ns = g->renew_at_ns = 0;
	g->yield = false;
}

static void gateway_end(struct upstream *up)
{
	struct gateway *g = to_gateway(up);

	if (!g->held)
		return;
	forget(g);
	tell_end(g, !atomic_load(&g->aborted));
	give_conn(g);
}

/* ---- begin and renew ---- */

static int errno_of_code(enum gw_code code)
{
	switch (code) {
	case GW_BUSY:
	case GW_LIMIT:
		return -EAGAIN;
	case GW_NOT_PRIMARY:
		return -EHOSTUNREACH;
	default:
		return -ENOTSUP;
	}
}

/* POST /halt for g->id. *ret_left: the question, or its answer, may have left something held there. */
static int ask_halt(struct gateway *g, const struct role_state *role, struct pos have, int64_t wait_ns, int64_t slack_ns,
		    struct http_answer *answer, size_t *ret_bundle, bool *ret_left)
{
	char target[TARGET_MAX], cluster[sizeof role->cluster_id * 3], pos[GW_POS_SIZE];
	struct http_request req = {.method = HTTP_POST, .target = target, .max_answer = GW_LINE_MAX + GW_BUNDLE_MAX, .no_open = true};
	struct gw_error error;
	int64_t wait_ms = wait_ns > 0 ? wait_ns / NS_PER_MS : 0;
	size_t n;
	int err;

	*ret_left = false;
	answer->started = false;
	if (make_target(g, "/halt", g->id, target) || url_escape(role->cluster_id, cluster, sizeof cluster))
		return -ENOTSUP;
	gw_format_pos(have, pos);
	n = strlen(target);
	snprintf(target + n, sizeof target - n, "&pos=%s&wait=%" PRId64 "&peer=%016" PRIx64 "&cluster=%s", pos, wait_ms,
		 g->base.config.node_id, cluster);
	req.deadline_ns = clock_now_ns() + wait_ms * NS_PER_MS + slack_ns + g->rtt_ns;
	err = call(g, g->conn, &req, NULL, answer);
	g->silent = err && err != -ENOTCONN && err != -ECANCELED;
	if (err && !answer->started)
		return err == -ENOTCONN || err == -ECANCELED ? err : err == -ETIMEDOUT ? -EAGAIN : -ENOTSUP;
	*ret_left = true;
	if (err) {
		g->conn->epoch = 0;
		if (err == -EPROTO || err == -EKEYREJECTED) {
			log_unreachable(g);
			return -ENOTSUP;
		}
		return err == -ECANCELED ? err : err == -ETIMEDOUT ? -EAGAIN : -EHOSTUNREACH;
	}
	if (answer->status == 200 && gw_get_grant(answer->body, answer->len, &g->grant, ret_bundle) == 0) {
		http_note_rtt(&g->rtt_ns, answer, true);
		return 0;
	}
	if (answer->status == 200)
		err = fail(g, -EBADMSG, "its answer is not a gateway's of this version");
	else
		err = error_of(g, answer, &error);
	if (!err) { /* nothing is held */
		*ret_left = false;
		err = errno_of_code(error.code);
	} else {
		err = -ENOTSUP;
	}
	if (err != -EAGAIN)
		g->conn->epoch = 0;
	if (err == -ENOTSUP && (*ret_left || error.code != GW_UNSUPPORTED))
		log_unreachable(g);
	return err;
}

/* A lease of which `since` is not before its beginning's earliest time. */
static void note_lease(struct gateway *g, int64_t since_ns)
{
	int64_t lease_ns = g->grant.lease_ms * NS_PER_MS;

	g->hold_until_ns = since_ns + lease_ns;
	g->renew_at_ns = since_ns + lease_ns / 3;
}

static int keep_bundle(struct gateway *g, const struct http_answer *answer, size_t offset)
{
	size_t len = answer->len - offset;

	free(g->bundle);
	g->bundle = NULL;
	if (!len)
		return 0;
	g->bundle = malloc(len);
	if (!g->bundle)
		return -ENOMEM;
	memcpy(g->bundle, answer->body + offset, len);
	return 0;
}

static int begin(struct gateway *g, const struct role_state *role, struct pos have, int64_t until_ns)
{
	struct http_answer answer;
	bool left = false;
	size_t offset = 0;
	int err = 0;

	g->id = random_u64() >> 1;
	g->id = g->id ? g->id : 1;
	/* Twice: a kept connection may turn out to be gone, and then nothing has been asked. */
	for (int i = 0; i < 2; i++) {
		if (i || !info_is_fresh(g, role))
			err = ask_info(g, role);
		if (err)
			return err;
		err = ask_halt(g, role, have, until_ns - clock_now_ns(), ANSWER_SLACK_NS, &answer, &offset, &left);
		if (left || err != -ENOTCONN)
			break;
	}
	if (!err)
		err = keep_bundle(g, &answer, offset);
	if (err) {
		if (left)
			tell_end(g, false);
		return err == -ENOTCONN ? -EHOSTUNREACH : err;
	}
	note_lease(g, clock_now_ns() - g->rtt_ns);
	g->pos = g->grant.pos;
	g->yield = false;
	g->held = true;
	return 0;
}

static int begin_by_breaker(struct gateway *g, const struct role_state *role, struct pos have, int64_t until_ns)
{
	enum breaker_entry entry = breaker_enter(g->breaker, role->epoch);
	int err;

	if (entry == BREAKER_DENIED)
		return -ENOTSUP;
	if (entry == BREAKER_PROBE)
		g->conn->epoch = 0;
	g->silent = false;
	err = begin(g, role, have, until_ns);
	if (g->silent)
		breaker_bad(g->breaker, role->epoch, g->error);
	else if (err == -ECANCELED || err == -ENOMEM)
		breaker_untold(g->breaker);
	else
		breaker_good(g->breaker);
	return err;
}

static int gateway_begin(struct upstream *up, struct pos have, int64_t until_ns, struct upstream_grant *ret)
{
	struct gateway *g = to_gateway(up);
	struct role_state *role = malloc(sizeof *role);
	int err;

	if (!role)
		return -ENOMEM;
	gateway_end(up);
	atomic_store(&g->aborted, false);
	role_get(up->config.role, role);
	upstream_note_node(up, role);
	if (role->gateway_url[0]) {
		set_url(g, role->gateway_url);
		take_conn(g);
		err = g->conn ? 0 : -ENOMEM;
	} else {
		err = -ENOTSUP;
	}
	if (!err) {
		enter_call(g);
		err = atomic_load(&g->aborted) ? -ECANCELED : begin_by_breaker(g, role, have, until_ns);
		leave_call(g);
	}
	if (err)
		give_conn(g);
	free(role);
	if (!err)
		*ret = (struct upstream_grant){.pos = g->grant.pos, .tx_count = g->grant.tx_count, .tx_size = g->grant.tx_size,
					       .ltx = g->bundle};
	return err;
}

/* Only on the connection and in the role that it was begun in: elsewhere it is not held. */
static int gateway_renew(struct upstream *up, int64_t until_ns, struct pos *ret_pos)
{
	struct gateway *g = to_gateway(up);
	struct role_state *role;
	struct http_answer answer;
	int64_t sent_ns = clock_now_ns(), slack_ns = until_ns - sent_ns;
	size_t offset;
	bool left = true;
	int err;

	if (!g->held)
		return -EAGAIN;
	role = malloc(sizeof *role);
	if (!role)
		return -ENOMEM;
	role_get(up->config.role, role);
	enter_call(g);
	err = info_is_fresh(g, role) ? 0 : ask_info(g, role);
	if (!err)
		err = ask_halt(g, role, g->pos, 0, slack_ns < RENEW_SLACK_NS ? slack_ns : RENEW_SLACK_NS, &answer, &offset, &left);
	leave_call(g);
	free(role);
	if (!err && (g->grant.tx_count || !pos_equal(g->grant.pos, g->pos)))
		err = -EAGAIN; /* it had expired, and others wrote */
	if (err) {
		gateway_end(up);
		return err == -ENOTCONN ? -EHOSTUNREACH : err;
	}
	note_lease(g, sent_ns);
	*ret_pos = g->pos;
	return 0;
}

/* ---- commit ---- */

/* The hash goes before the body: it is read twice. */
static int hash_tx(const struct upstream_tx *tx, char ret_hex[65])
{
	struct gw_hash *hash = NULL;
	uint8_t *buf = malloc(HASH_CHUNK);
	uint64_t offset = 0;
	int err = buf ? gw_hash_new(&hash) : -ENOMEM;

	while (!err && offset < tx->size) {
		uint64_t want = tx->size - offset < HASH_CHUNK ? tx->size - offset : HASH_CHUNK;
		ptrdiff_t n = tx->read_at(tx->ctx, buf, (size_t)want, offset);

		if (n <= 0 || (uint64_t)n > want) {
			err = n < 0 ? (int)n : -EIO;
			break;
		}
		gw_hash_add(hash, buf, (size_t)n);
		offset += (uint64_t)n;
	}
	if (!err)
		gw_hash_end(hash, ret_hex);
	gw_hash_free(hash);
	free(buf);
	return err;
}

static int send_once(struct gateway *g, const struct upstream_tx *tx, const char *hash, int64_t until_ns,
		     struct http_answer *answer)
{
	char target[TARGET_MAX];
	struct upstream_body body = {.tx = tx};
	struct http_request req = {
		.method = HTTP_POST,
		.target = target,
		.deadline_ns = until_ns,
		.max_answer = GW_LINE_MAX,
		.size = tx->size,
		.read = upstream_body_read,
		.sent = upstream_body_sent,
		.ctx = &body,
		.no_open = true,
	};

	memset(answer, 0, sizeof *answer);
	if (make_target(g, "/tx", g->id, target))
		return -EINVAL;
	return call(g, g->conn, &req, hash, answer);
}

/* Not one byte sent: once more, over a connection of which the gateway has said that it is there. */
static int send_tx(struct gateway *g, const struct upstream_tx *tx, const char *hash, int64_t until_ns,
		   struct http_answer *answer)
{
	struct role_state *role;
	int err = send_once(g, tx, hash, until_ns, answer);

	if (answer->started || err != -ENOTCONN)
		return err;
	role = malloc(sizeof *role);
	if (!role)
		return -ENOMEM;
	role_get(g->base.config.role, role);
	err = ask_info(g, role);
	free(role);
	return err ? err : send_once(g, tx, hash, until_ns, answer);
}

/* Of an authentic answer. Every error of the protocol says that nothing was changed. */
static enum outcome verdict(struct gateway *g, const struct upstream_tx *tx, const struct http_answer *answer)
{
	struct gw_result result;
	struct gw_error error;

	if (answer->status == 200) {
		if (gw_get_result(answer->body, answer->len, &result) || result.unknown || !answer->body_sent) {
			fail(g, 0, "its answer is not a gateway's of this version");
			return OUTCOME_UNKNOWN;
		}
		if (!pos_equal(result.pos, tx->after)) {
			fail(g, 0, "committed at another position");
			return OUTCOME_UNKNOWN;
		}
		g->pos = tx->after;
		g->yield = result.yield;
		return OUTCOME_COMMITTED;
	}
	if (answer->status == 500 && gw_get_result(answer->body, answer->len, &result) == 0) {
		fail(g, 0, "the gateway does not know");
		return OUTCOME_UNKNOWN;
	}
	if (error_of(g, answer, &error) || error.code == GW_UNKNOWN)
		return OUTCOME_UNKNOWN;
	return OUTCOME_REFUSED;
}

static enum outcome gateway_commit(struct upstream *up, const struct upstream_tx *tx, int64_t until_ns)
{
	struct gateway *g = to_gateway(up);
	struct http_answer answer = {0};
	int64_t start = clock_now_ns(), now;
	char hash[65] = "";
	enum outcome outcome;
	int err = 0;

	if (!g->held || tx->size == 0 || tx->size > INT64_MAX)
		return OUTCOME_REFUSED;
	g->yield = false;
	if (secret_of(g)->len)
		err = hash_tx(tx, hash);
	if (err) {
		fail(g, err, "the transaction cannot be read");
	} else {
		enter_call(g);
		err = send_tx(g, tx, hash, until_ns, &answer);
		leave_call(g);
	}
	if (err)
		outcome = answer.started ? OUTCOME_UNKNOWN : OUTCOME_REFUSED;
	else
		outcome = verdict(g, tx, &answer);
	now = clock_now_ns();
	if (outcome == OUTCOME_COMMITTED) {
		upload_rate_note(&g->rate, tx->size, now - start, g->rtt_ns, now);
		note_lease(g, start);
		return outcome;
	}
	if (outcome == OUTCOME_UNKNOWN)
		upload_rate_note_cut(&g->rate, tx->size, now - start, now);
	g->conn->epoch = 0; /* ask who it is before the next one */
	log_warn("commit_not_acknowledged", "db=%s url=%s upstream=gateway result=%s error=\"%s\"", up->config.name, g->url,
		 outcome == OUTCOME_UNKNOWN ? "ambiguous" : "refused", g->error);
	return outcome;
}

/* ---- the rest ---- */

static bool gateway_yield(const struct upstream *up)
{
	return to_gateway(up)->yield;
}

static int64_t gateway_hold_until(const struct upstream *up)
{
	return to_gateway(up)->hold_until_ns;
}

static int64_t gateway_renew_at(const struct upstream *up)
{
	return to_gateway(up)->renew_at_ns;
}

static int64_t gateway_tx_ns(const struct upstream *up, uint64_t size)
{
	const struct gateway *g = to_gateway(up);

	return 4 * g->rtt_ns + upload_rate_time_ns(upload_rate_get(&g->rate, clock_now_ns()), size);
}

static uint64_t gateway_max_tx_bytes(const struct upstream *up)
{
	(void)up;
	return UINT64_MAX;
}

static int64_t gateway_rtt_ns(const struct upstream *up)
{
	return to_gateway(up)->rtt_ns;
}

static void gateway_abort(struct upstream *up)
{
	struct gateway *g = to_gateway(up);

	atomic_store(&g->aborted, true);
	pthread_mutex_lock(&g->call_mutex);
	if (g->in_call)
		http_abort(g->in_call);
	pthread_mutex_unlock(&g->call_mutex);
}

static void gateway_free(struct upstream *up)
{
	struct gateway *g = to_gateway(up);

	give_conn(g);
	pthread_mutex_destroy(&g->call_mutex);
	free(g->bundle);
	free(g);
}

int upstream_gateway_new(const struct upstream_config *config, struct upstream **ret)
{
	static const struct upstream_ops ops = {
		.begin = gateway_begin,
		.renew = gateway_renew,
		.commit = gateway_commit,
		.yield = gateway_yield,
		.end = gateway_end,
		.hold_until = gateway_hold_until,
		.renew_at = gateway_renew_at,
		.tx_ns = gateway_tx_ns,
		.max_tx_bytes = gateway_max_tx_bytes,
		.rtt_ns = gateway_rtt_ns,
		.abort = gateway_abort,
		.free = gateway_free,
	};
	struct gateway *g = calloc(1, sizeof *g);

	if (!g)
		return -ENOMEM;
	g->base = (struct upstream){.ops = &ops, .kind = UPSTREAM_GATEWAY, .config = *config};
	pthread_mutex_init(&g->call_mutex, NULL);
	*ret = &g->base;
	return 0;
}
