/*
 * The primary's litefwd, which answers for its LiteFS (gw_proto.h).
 *
 *   begin   (GET /info, once per role epoch: version, nonce, is it the primary of our cluster)
 *           POST /halt, one that waits in the queue there; its answer brings what we lack
 *   renew   POST /halt with the same id
 *   commit  POST /tx, once, whole
 *   end     DELETE /halt; what could not be told ends with the lease
 *
 * Unlike HALT this lock needs no margin: whoever comes after its end is told so, and nothing was changed.
 */
#include "litefs/upstream.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/random.h"
#include "format/names.h"
#include "litefs/gw_auth.h"
#include "litefs/gw_proto.h"
#include "litefs/http.h"
#include "litefs/upload_rate.h"
#include "litefs/url.h"

#define INFO_TIMEOUT_NS (2 * NS_PER_S)
#define END_TIMEOUT_NS NS_PER_S
#define RENEW_TIMEOUT_NS (2 * NS_PER_S)
/* For the answer to a begin that has waited its time out. */
#define ANSWER_SPARE_NS NS_PER_S
#define WAIT_MAX_MS 30000
#define TARGET_MAX 1200

struct gateway_client {
	struct upstream base;
	struct http *http; /* NULL until the URL is known */
	struct http *side; /* for an end after an aborted or broken call */
	char url[512];
	uint64_t epoch; /* role epoch in which `info` was asked; 0: not */
	struct gw_info info;
	uint64_t caller, side_caller, counter;
	char cluster[64];
	bool held;
	uint64_t id;
	struct pos pos; /* where it stands, while held */
	int64_t hold_until_ns, renew_at_ns;
	bool yield;
	int64_t rtt_ns;
	struct upload_rate rate;
	uint64_t tx_size[GW_TX_MAX];
	_Atomic(struct http *) in_call; /* for abort */
	atomic_bool aborted;
};

static struct log_limit limit_away, limit_error;

static struct gateway_client *to_client(const struct upstream *up)
{
	return (struct gateway_client *)up;
}

/* ---- one call ---- */

struct call {
	enum http_method method;
	char target[TARGET_MAX];
	int64_t deadline_ns;
	bool side;
	bool no_open;
	struct upstream_body *body;
	char body_hash[65]; /* "": an empty body */
	size_t max_answer;
	/* results */
	struct http_answer answer;
	enum gw_code code; /* of an answer that is not 200 */
	bool authentic;
	char text[256];
};

static void body_sent(void *ctx)
{
	struct upstream_body *body = ctx;

	if (body->tx->sent)
		body->tx->sent(body->tx->ctx);
}

static bool has_secret(const struct gateway_client *g)
{
	return g->base.config.gw_secret && g->base.config.gw_secret->len;
}

/* 0: an authentic answer of the protocol, be it an error (call->code); else as http_call(), or -EPROTO, -EACCES. */
static int do_call(struct gateway_client *g, struct call *call)
{
	static const char *const methods[] = {[HTTP_GET] = "GET", [HTTP_POST] = "POST", [HTTP_DELETE] = "DELETE"};
	struct http *http = call->side ? g->side : g->http;
	char header[GW_AUTH_VALUE_MAX + 32], value[GW_AUTH_VALUE_MAX], mac[GW_MAC_HEX], hash[65];
	struct http_request req = {
		.method = call->method,
		.target = call->target,
		.deadline_ns = call->deadline_ns,
		.max_answer = call->max_answer ? call->max_answer : GW_LINE_MAX,
		.no_open = call->no_open,
	};
	bool sign = has_secret(g) && g->info.nonce[0];
	struct gw_error error;
	int err;

	if (call->body) {
		req.size = call->body->tx->size;
		req.read = upstream_body_read;
		req.sent = body_sent;
		req.ctx = call->body;
	}
	if (sign) {
		if (!call->body_hash[0])
			gw_hash_once("", 0, call->body_hash);
		err = gw_auth_request(g->base.config.gw_secret, methods[call->method], call->target, call->body_hash, g->info.nonce,
				      call->side ? g->side_caller : g->caller, ++g->counter, value, mac);
		if (err)
			return err;
		snprintf(header, sizeof header, GW_AUTH_HEADER ": %s", value);
		req.header = header;
	}
	call->code = GW_OK;
	snprintf(call->text, sizeof call->text, "%s", "");
	err = http_call(http, &req, &call->answer);
	if (err) {
		log_clean(call->text, sizeof call->text, http_error(http));
		return err;
	}
	if (sign) {
		gw_hash_once(call->answer.body, call->answer.len, hash);
		err = gw_auth_check_answer(g->base.config.gw_secret, mac, call->answer.status, hash,
					   call->answer.auth[0] ? call->answer.auth : NULL);
		/* Who does not know our nonce any more (it was restarted) or our secret cannot sign; it changed nothing, if it says so. */
		call->authentic = !err;
		if (err && call->answer.status != 401) {
			snprintf(call->text, sizeof call->text, "an answer that is not authentic");
			return -EACCES;
		}
	}
	if (call->answer.status == 200)
		return 0;
	if (gw_get_error(call->answer.body, call->answer.len, &error) != 0) {
		snprintf(call->text, sizeof call->text, "HTTP status %d, not a gateway's answer", call->answer.status);
		return -EPROTO;
	}
	call->code = error.code;
	log_clean(call->text, sizeof call->text, error.text);
	return 0;
}

static void note_rtt(struct gateway_client *g, const struct http_answer *answer, bool may_wait)
{
	int64_t ns = answer->elapsed_ns;

	if (!answer->reused && g->rtt_ns)
		return;
	if (g->rtt_ns == 0) {
		if (!may_wait)
			g->rtt_ns = ns;
	} else if (!may_wait || ns < g->rtt_ns) {
		g->rtt_ns += (ns - g->rtt_ns) / 8;
	}
}

static int make_target(struct gateway_client *g, const char *path, struct call *call)
{
	char escaped[NAME_DB_MAX * 3 + 1];

	if (url_escape(g->base.config.name, escaped, sizeof escaped))
		return -EINVAL;
	snprintf(call->target, sizeof call->target, "%s?v=%d&name=%s&id=%" PRIu64, path, GW_VERSION, escaped, g->id);
	return 0;
}

/* ---- begin ---- */

static int set_url(struct gateway_client *g, const char *url)
{
	struct http *http = NULL, *side = NULL;
	char id_header[64];
	int err;

	if (g->http && !strcmp(g->url, url))
		return 0;
	snprintf(id_header, sizeof id_header, "Litefs-Id: %016" PRIX64, g->base.config.node_id);
	err = http_new(url, id_header, &http);
	if (!err)
		err = http_new(url, id_header, &side);
	if (err) {
		http_free(http);
		return err;
	}
	http_free(g->http);
	http_free(g->side);
	g->http = http;
	g->side = side;
	g->epoch = 0;
	g->rtt_ns = 0;
	g->rate = (struct upload_rate){0};
	snprintf(g->url, sizeof g->url, "%s", url);
	return 0;
}

static void say_away(struct gateway_client *g, const char *text)
{
	if (log_allow(&limit_away, 10000))
		log_warn("gateway_away", "db=%s url=%s error=\"%s\" do=\"check the primary's litefwd (gateway=) and gateway_url=; writes go "
			 "by LiteFS' HALT lock meanwhile\"", g->base.config.name, g->url, text);
}

static int ask_info(struct gateway_client *g, const struct role_state *role)
{
	struct call call = {.method = HTTP_GET, .target = "/info", .deadline_ns = clock_now_ns() + INFO_TIMEOUT_NS};
	struct gw_info info;
	int err;

	g->info.nonce[0] = 0; /* this one is not signed */
	err = do_call(g, &call);
	if (err == -ECANCELED)
		return err;
	if (!err && call.code == GW_OK && gw_get_info(call.answer.body, call.answer.len, &info) != 0) {
		snprintf(call.text, sizeof call.text, "not a gateway, or of another version");
		err = -EPROTO;
	}
	if (err || call.code != GW_OK) {
		say_away(g, call.text);
		return -ENOTSUP;
	}
	note_rtt(g, &call.answer, false);
	if (role->cluster_id[0] && info.cluster[0] && strcmp(role->cluster_id, info.cluster) != 0) {
		say_away(g, "it is of another cluster");
		return -ENOTSUP;
	}
	if (!info.is_primary)
		return -ENOTSUP; /* it may not have heard of it yet; HALT asks LiteFS itself */
	g->info = info;
	g->epoch = role->epoch;
	snprintf(g->cluster, sizeof g->cluster, "%s", role->cluster_id);
	return 0;
}

static void note_lease(struct gateway_client *g, int64_t lease_ms)
{
	int64_t now = clock_now_ns();

	g->hold_until_ns = now - g->rtt_ns + lease_ms * NS_PER_MS;
	g->renew_at_ns = now - g->rtt_ns + lease_ms * NS_PER_MS / 3;
}

static int begin_error(struct gateway_client *g, const struct call *call)
{
	switch (call->code) {
	case GW_BUSY:
	case GW_LIMIT:
		return -EAGAIN;
	case GW_NOT_PRIMARY:
		g->epoch = 0;
		return -EHOSTUNREACH;
	case GW_AUTH: /* restarted: another nonce; or another secret */
		g->epoch = 0;
		say_away(g, call->text);
		return -ENOTSUP;
	case GW_UNSUPPORTED:
		return -ENOTSUP;
	default:
		say_away(g, call->text);
		return -ENOTSUP;
	}
}

static void send_end(struct gateway_client *g, bool side)
{
	struct call call = {.method = HTTP_DELETE, .side = side, .deadline_ns = clock_now_ns() + END_TIMEOUT_NS};

	if (make_target(g, "/halt", &call) == 0)
		do_call(g, &call);
}

/* POST /halt: a new lock, or what is held, for longer. */
static int halt(struct gateway_client *g, struct pos have, int64_t wait_ms, int64_t deadline_ns, struct gw_grant *ret, const uint8_t **ret_ltx)
{
	struct call call = {.method = HTTP_POST, .deadline_ns = deadline_ns, .max_answer = GW_LINE_MAX + GW_BUNDLE_MAX};
	char pos[34], cluster[sizeof g->cluster * 3 + 1];
	size_t offset = 0, len;
	int err = make_target(g, "/halt", &call);

	if (!err && url_escape(g->cluster, cluster, sizeof cluster))
		err = -EINVAL;
	if (err)
		return err;
	gw_format_pos(have, pos);
	len = strlen(call.target);
	snprintf(call.target + len, sizeof call.target - len, "&pos=%s&wait=%" PRId64 "&peer=%016" PRIx64 "&cluster=%s", pos, wait_ms,
		 g->base.config.node_id, cluster);
	err = do_call(g, &call);
	if (!err && call.code != GW_OK)
		return begin_error(g, &call);
	if (!err && gw_get_grant(call.answer.body, call.answer.len, ret, &offset) != 0)
		err = -EPROTO;
	if (err == -ENOTCONN || err == -EINVAL) {
		g->epoch = 0;
		say_away(g, call.text);
		return -ENOTSUP;
	}
	if (err) { /* it may be held, or be had in a moment */
		g->epoch = 0;
		if (err != -ECANCELED)
			say_away(g, call.text[0] ? call.text : "malformed answer");
		send_end(g, true);
		return err == -ECANCELED ? err : err == -ETIMEDOUT ? -EAGAIN : -ENOTSUP;
	}
	note_rtt(g, &call.answer, true);
	*ret_ltx = (const uint8_t *)call.answer.body + offset;
	return 0;
}

static int begin(struct gateway_client *g, const struct role_state *role, struct pos have, int64_t until_ns, struct upstream_grant *ret)
{
	struct gw_grant grant;
	int64_t wait_ms;
	int err = g->epoch == role->epoch ? 0 : ask_info(g, role);

	if (err)
		return err;
	wait_ms = (until_ns - clock_now_ns()) / NS_PER_MS;
	if (wait_ms < 0)
		return -EAGAIN;
	if (wait_ms > WAIT_MAX_MS)
		wait_ms = WAIT_MAX_MS;
	g->id = random_u64() >> 1;
	g->id += !g->id;
	err = halt(g, have, wait_ms, until_ns + ANSWER_SPARE_NS + 2 * g->rtt_ns, &grant, &ret->ltx);
	if (err)
		return err;
	g->held = true;
	g->yield = false;
	g->pos = grant.pos;
	note_lease(g, grant.lease_ms);
	memcpy(g->tx_size, grant.tx_size, sizeof g->tx_size);
	ret->pos = grant.pos;
	ret->tx_count = grant.tx_count;
	ret->tx_size = g->tx_size;
	return 0;
}

static int gateway_begin(struct upstream *up, struct pos have, int64_t until_ns, struct upstream_grant *ret)
{
	struct gateway_client *g = to_client(up);
	struct role_state *role = malloc(sizeof *role);
	int err;

	if (!role)
		return -ENOMEM;
	atomic_store(&g->aborted, false);
	role_get(up->config.role, role);
	err = role->kind == ROLE_REPLICA && role->gateway_url[0] ? set_url(g, role->gateway_url) : -ENOTSUP;
	if (!err) {
		http_clear_abort(g->http);
		atomic_store(&g->in_call, g->http);
		err = atomic_load(&g->aborted) ? -ECANCELED : begin(g, role, have, until_ns, ret);
		atomic_store(&g->in_call, NULL);
	}
	free(role);
	return err;
}

static int gateway_renew(struct upstream *up, int64_t until_ns, struct pos *ret_pos)
{
	struct gateway_client *g = to_client(up);
	int64_t deadline_ns = clock_now_ns() + RENEW_TIMEOUT_NS;
	struct gw_grant grant;
	const uint8_t *ltx;
	int err;

	if (!g->held)
		return -EHOSTUNREACH;
	if (deadline_ns > until_ns)
		deadline_ns = until_ns;
	atomic_store(&g->in_call, g->http);
	err = halt(g, g->pos, 0, deadline_ns, &grant, &ltx);
	atomic_store(&g->in_call, NULL);
	if (!err && !pos_equal(grant.pos, g->pos)) { /* another lock, had anew by this id */
		send_end(g, true);
		err = -EHOSTUNREACH;
	}
	if (err) {
		g->held = false;
		return err == -ENOTSUP ? -EHOSTUNREACH : err;
	}
	note_lease(g, grant.lease_ms);
	*ret_pos = grant.pos;
	return 0;
}

/* ---- commit ---- */

static int hash_body(const struct upstream_tx *tx, char ret_hex[65])
{
	uint8_t *buf = malloc(65536);
	struct gw_hash *hash = NULL;
	uint64_t offset = 0;
	ptrdiff_t n = 0;
	int err = buf ? gw_hash_new(&hash) : -ENOMEM;

	while (!err && offset < tx->size) {
		n = tx->read_at(tx->ctx, buf, 65536, offset);
		if (n <= 0) {
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

/* True: it is still the gateway that has given us the lock, and the next call goes over a connection that was just in use. */
static bool is_connected(struct gateway_client *g)
{
	struct call call = {.method = HTTP_GET, .target = "/info", .deadline_ns = clock_now_ns() + INFO_TIMEOUT_NS};
	struct gw_info info;

	return do_call(g, &call) == 0 && call.code == GW_OK && gw_get_info(call.answer.body, call.answer.len, &info) == 0 &&
	       info.server == g->info.server && !strcmp(info.nonce, g->info.nonce);
}

static enum outcome outcome_of(struct gateway_client *g, const struct upstream_tx *tx, int err, struct call *call)
{
	struct gw_result result;

	if (err)
		return call->answer.started ? OUTCOME_UNKNOWN : OUTCOME_REFUSED;
	if (call->code == GW_UNKNOWN || (call->code == GW_AUTH && !call->authentic))
		return OUTCOME_UNKNOWN;
	if (call->code != GW_OK) {
		/* All of them say that nothing was changed. */
		g->held = call->code != GW_NOT_HELD && call->code != GW_REFUSED && g->held;
		return OUTCOME_REFUSED;
	}
	if (gw_get_result(call->answer.body, call->answer.len, &result) != 0 || result.unknown || !pos_equal(result.pos, tx->after))
		return OUTCOME_UNKNOWN;
	g->yield = result.yield;
	g->pos = result.pos;
	note_lease(g, GW_LEASE_MS);
	return OUTCOME_COMMITTED;
}

static enum outcome gateway_commit(struct upstream *up, const struct upstream_tx *tx, int64_t until_ns)
{
	struct gateway_client *g = to_client(up);
	struct upstream_body body = {.tx = tx};
	struct call call = {.method = HTTP_POST, .deadline_ns = until_ns, .body = &body, .no_open = true};
	int64_t start = clock_now_ns();
	enum outcome outcome;
	int err;

	if (!g->held || make_target(g, "/tx", &call) != 0 || (has_secret(g) && hash_body(tx, call.body_hash) != 0))
		return OUTCOME_REFUSED;
	atomic_store(&g->in_call, g->http);
	err = do_call(g, &call);
	if (err == -ENOTCONN && !call.answer.started && is_connected(g)) { /* not one byte has left */
		body.offset = 0;
		err = do_call(g, &call);
	}
	atomic_store(&g->in_call, NULL);
	outcome = outcome_of(g, tx, err, &call);
	if (outcome == OUTCOME_COMMITTED) {
		note_rtt(g, &call.answer, tx->size > 65536);
		upload_rate_note(&g->rate, tx->size, clock_now_ns() - start, g->rtt_ns, clock_now_ns());
		return outcome;
	}
	g->epoch = 0; /* ask who it is before the next one */
	if (log_allow(&limit_error, 1000))
		log_warn("commit_not_acknowledged", "db=%s url=%s result=%s error=\"%s\"", up->config.name, g->url,
			 outcome == OUTCOME_UNKNOWN ? "ambiguous" : "refused", call.text);
	return outcome;
}

/* ---- the rest ---- */

static bool gateway_yield(const struct upstream *up)
{
	return to_client(up)->yield;
}

static void gateway_end(struct upstream *up)
{
	struct gateway_client *g = to_client(up);

	if (!g->held)
		return;
	g->held = false;
	send_end(g, atomic_load(&g->aborted));
}

static int64_t gateway_hold_until(const struct upstream *up)
{
	return to_client(up)->hold_until_ns;
}

static int64_t gateway_renew_at(const struct upstream *up)
{
	return to_client(up)->renew_at_ns;
}

static int64_t gateway_tx_ns(const struct upstream *up, uint64_t size)
{
	const struct gateway_client *g = to_client(up);

	return NS_PER_S + 4 * g->rtt_ns + upload_rate_time_ns(upload_rate_get(&g->rate, clock_now_ns()), size);
}

static uint64_t gateway_max_tx_bytes(const struct upstream *up)
{
	(void)up;
	return UINT64_MAX;
}

static int64_t gateway_rtt_ns(const struct upstream *up)
{
	return to_client(up)->rtt_ns;
}

static void gateway_abort(struct upstream *up)
{
	struct gateway_client *g = to_client(up);
	struct http *http;

	atomic_store(&g->aborted, true);
	http = atomic_load(&g->in_call);
	if (http)
		http_abort(http);
}

static void gateway_free(struct upstream *up)
{
	struct gateway_client *g = to_client(up);

	http_free(g->http);
	http_free(g->side);
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
	struct gateway_client *g = calloc(1, sizeof *g);

	if (!g)
		return -ENOMEM;
	g->base = (struct upstream){.ops = &ops, .kind = UPSTREAM_GATEWAY, .config = *config};
	g->caller = random_u64();
	g->side_caller = random_u64();
	*ret = &g->base;
	return 0;
}
