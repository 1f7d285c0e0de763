/* One request: what it asks for, whether it may, db's part, and the answer. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "gateway/gateway_internal.h"

/* The first reason counts. Told when the body has come: only then is it known who asks. */
static void refuse(struct gw_request *r, enum gw_code code, const char *text)
{
	if (r->code)
		return;
	r->code = code;
	snprintf(r->text, sizeof r->text, "%s", text);
}

/* ---- head ---- */

static enum gw_route route_of(const char *method, const char *path)
{
	if (!strcmp(path, "/info") && !strcmp(method, "GET"))
		return ROUTE_INFO;
	if (!strcmp(path, "/tx") && !strcmp(method, "POST"))
		return ROUTE_COMMIT;
	if (!strcmp(path, "/halt") && !strcmp(method, "POST"))
		return ROUTE_BEGIN;
	if (!strcmp(path, "/halt") && !strcmp(method, "DELETE"))
		return ROUTE_END;
	return ROUTE_NONE;
}

/* Digits only: 0 or -EINVAL, also beyond INT64_MAX. */
static int parse_decimal(const char *text, uint64_t *ret)
{
	uint64_t v = 0;

	if (!text || !*text || strlen(text) > 19)
		return -EINVAL;
	for (const char *p = text; *p; p++) {
		if (*p < '0' || *p > '9')
			return -EINVAL;
		v = v * 10 + (uint64_t)(*p - '0');
	}
	if (v > INT64_MAX)
		return -EINVAL;
	*ret = v;
	return 0;
}

static void parse_lock(struct gw_request *r)
{
	const char *name = gw_http_query(r, "name");

	if (!name || !name_is_database(name))
		refuse(r, GW_BAD_REQUEST, "name: not that of a database");
	else
		snprintf(r->name, sizeof r->name, "%s", name);
	if (parse_decimal(gw_http_query(r, "id"), &r->id) || !r->id)
		refuse(r, GW_BAD_REQUEST, "id: not a number from 1 to 2^63-1");
}

static void parse_begin(struct gw_request *r)
{
	const char *pos = gw_http_query(r, "pos"), *peer = gw_http_query(r, "peer");
	const char *cluster = gw_http_query(r, "cluster");
	uint64_t wait_ms = 0;

	if (!pos || gw_parse_pos(pos, &r->pos))
		refuse(r, GW_BAD_REQUEST, "pos: not a position");
	if (!peer || strlen(peer) != 16 || pos_parse_hex16(peer, &r->peer))
		refuse(r, GW_BAD_REQUEST, "peer: not 16 hex digits");
	if (parse_decimal(gw_http_query(r, "wait"), &wait_ms))
		refuse(r, GW_BAD_REQUEST, "wait: not a number of milliseconds");
	if (cluster && strlen(cluster) >= sizeof r->cluster)
		refuse(r, GW_BAD_REQUEST, "cluster: too long");
	r->wait_ms = wait_ms < GW_WAIT_MAX_MS ? (int64_t)wait_ms : GW_WAIT_MAX_MS;
	snprintf(r->cluster, sizeof r->cluster, "%s", cluster ? cluster : "");
}

/* A body that nobody will look at is read all the same, for the answer to be one that the caller can trust. */
static void admit_upload(struct gw_request *r)
{
	struct gateway *gw = r->gw;

	pthread_mutex_lock(&gw->mutex);
	if (r->code) {
		;
	} else if (!gw_session_find_locked(gw, r->name, r->id)) {
		refuse(r, GW_NOT_HELD, "no such lock");
	} else if (gw->uploads >= gw->limits.uploads || r->size > gw->limits.upload_bytes_all - gw->upload_bytes) {
		refuse(r, GW_LIMIT, "too many transactions at once");
	} else {
		r->counted = true;
		gw->uploads++;
		gw->upload_bytes += r->size;
	}
	pthread_mutex_unlock(&gw->mutex);
}

/* What is wrong whoever asks, and cannot wait for a body. */
static bool head_is_wrong(struct gw_request *r)
{
	const char *length = gw_http_header(r, "Content-Length"), *v = gw_http_query(r, "v");
	bool chunked = gw_http_header(r, "Transfer-Encoding") != NULL;

	if (r->route == ROUTE_NONE)
		gw_answer_error(r, GW_BAD_REQUEST, "no such call");
	else if (r->route != ROUTE_INFO && (!v || strcmp(v, "1") != 0))
		gw_answer_error(r, GW_VERSION_UNKNOWN, "this is version 1");
	else if (length && parse_decimal(length, &r->size))
		gw_answer_error(r, GW_BAD_REQUEST, "Content-Length: not a number");
	else if (chunked || (r->route == ROUTE_COMMIT && !length))
		gw_answer_error(r, GW_BAD_REQUEST, "a body needs a Content-Length");
	else if (r->route != ROUTE_COMMIT && r->size)
		gw_answer_error(r, GW_BAD_REQUEST, "no body is expected");
	else if (r->size > r->gw->limits.upload_bytes)
		gw_answer_error(r, GW_TOO_LARGE, "the transaction is too large");
	else
		return false;
	return true;
}

bool gw_request_head(struct gw_request *r, const char *method, const char *path)
{
	struct gateway *gw = r->gw;

	r->route = route_of(method, path);
	if (head_is_wrong(r))
		return true;
	if (!gw_limits_allow(gw, r->conn->addr))
		refuse(r, GW_LIMIT, "too many requests");
	if (r->route != ROUTE_INFO)
		parse_lock(r);
	if (r->route == ROUTE_BEGIN)
		parse_begin(r);
	if (r->route == ROUTE_COMMIT) {
		admit_upload(r);
		if (gw->secret.len && gw_hash_new(&r->hash)) {
			gw_answer_error(r, GW_LIMIT, "no memory");
			return true;
		}
	}
	return false;
}

void gw_request_body(struct gw_request *r, const char *data, size_t len)
{
	int err;

	if (r->hash)
		gw_hash_add(r->hash, data, len);
	if (r->code)
		return;
	err = spool_append(&r->spool, data, len);
	if (err) {
		refuse(r, GW_REFUSED, strerror(-err));
		spool_fini(&r->spool);
	}
}

/* ---- whole ---- */

static bool is_authentic(struct gw_request *r)
{
	static const char *const methods[] = {"", "GET", "POST", "POST", "DELETE"};
	static struct log_limit limit;
	struct gateway *gw = r->gw;
	char hex[65];
	int err;

	if (!gw->secret.len || r->route == ROUTE_INFO)
		return true;
	if (r->hash)
		gw_hash_end(r->hash, hex);
	else
		gw_hash_once("", 0, hex);
	err = gw_auth_check_request(&gw->secret, gw->callers, methods[r->route], r->target, hex, gw->nonce,
				    gw_http_header(r, GW_AUTH_HEADER), r->mac);
	if (!err)
		return true;
	r->mac[0] = 0;
	if (log_allow(&limit, 10000))
		log_warn("gateway_auth", "gateway=%s error=\"%s\" do=\"give the same gateway_secret= to all nodes\"", gw->address,
			 strerror(-err));
	return false;
}

static void answer_info(struct gw_request *r)
{
	struct gw_info info = {.server = r->gw->config.node_id};
	struct role_state role;
	char line[GW_LINE_MAX];

	role_get(r->gw->config.role, &role);
	info.is_primary = role.kind == ROLE_PRIMARY;
	snprintf(info.cluster, sizeof info.cluster, "%s", role.cluster_id);
	memcpy(info.nonce, r->gw->nonce, sizeof info.nonce);
	gw_answer_line(r, GW_OK, 200, line, gw_put_info(&info, line));
}

static void answer_end(struct gw_request *r)
{
	static const char line[] = "{\"litefwd\":1}\n";
	struct gateway *gw = r->gw;
	struct gw_session *s;

	pthread_mutex_lock(&gw->mutex);
	s = gw_session_find_locked(gw, r->name, r->id);
	if (s)
		gw_session_end_locked(gw, s);
	pthread_mutex_unlock(&gw->mutex);
	gw_answer_line(r, GW_OK, 200, line, sizeof line - 1);
}

/* ---- db ---- */

/* From db's worker, db's mutex held, or from within db_gw_*(). */
static void on_done(struct db_call *call, int result)
{
	struct gw_request *r = (struct gw_request *)((char *)call - offsetof(struct gw_request, call.call));
	uint64_t from = r->pos.txid, to = r->call.pos.txid;

	r->result = result;
	r->granted = r->route == ROUTE_BEGIN && result == 0;
	if (r->granted && from && from < to && to - from <= GW_TX_MAX)
		gw_worker_add(r);
	else
		gw_http_resume(r);
}

void gw_request_begin_locked(struct gw_request *r)
{
	int ret;

	r->call.call.done = on_done;
	ret = r->gw->ops.begin(r->session->db, r->id, r->peer, clock_now_ns() + r->wait_ms * NS_PER_MS, &r->call);
	if (ret != DB_PARKED)
		on_done(&r->call.call, ret);
}

static void use_locked(struct gw_request *r, struct gw_session *s)
{
	struct gateway *gw = r->gw;

	r->session = s;
	s->uses++;
	s->conn = r->conn;
	r->next = gw->waiting;
	if (r->next)
		r->next->prev = r;
	gw->waiting = r;
	gw->waiting_count++;
	gw_http_suspend(r);
}

static void begin_locked(struct gw_request *r, const struct role_state *role)
{
	struct gateway *gw = r->gw;
	struct gw_session *s = gw_session_find_locked(gw, r->name, r->id);

	if (gw->stopping || role->kind != ROLE_PRIMARY)
		refuse(r, GW_NOT_PRIMARY, gw->stopping ? "litefwd is stopping" : "this node is not the primary");
	else if (r->cluster[0] && role->cluster_id[0] && strcmp(r->cluster, role->cluster_id) != 0)
		refuse(r, GW_UNSUPPORTED, "this is another cluster");
	else if (s && s->beginning)
		refuse(r, GW_BUSY, "this lock is waited for already");
	else if (!s && gw->session_count >= gw->limits.sessions)
		refuse(r, GW_LIMIT, "too many locks");
	else if (!s && !(s = gw_session_new_locked(gw, r->name, r->id)))
		refuse(r, GW_LIMIT, "no memory");
	if (r->code)
		return;
	s->beginning = true;
	r->renewal = s->held;
	use_locked(r, s);
	if (s->db)
		gw_request_begin_locked(r);
	else
		gw_worker_add(r);
}

static void commit_locked(struct gw_request *r)
{
	struct gateway *gw = r->gw;
	struct gw_session *s = gw_session_find_locked(gw, r->name, r->id);
	int ret;

	if (gw->stopping || !s || !s->held)
		refuse(r, GW_NOT_HELD, "no such lock");
	else if (s->committing)
		refuse(r, GW_LIMIT, "a transaction of this lock is under way");
	if (r->code)
		return;
	s->committing = true;
	use_locked(r, s);
	r->call.call.done = on_done;
	ret = gw->ops.commit(s->db, r->id, &r->spool, &r->call);
	if (ret != DB_PARKED)
		on_done(&r->call.call, ret);
}

/* A transaction that came and could not be kept is refused as db refuses one: the lock is gone. */
static void end_refused_locked(struct gw_request *r)
{
	struct gw_session *s = r->code == GW_REFUSED ? gw_session_find_locked(r->gw, r->name, r->id) : NULL;

	if (s && !s->committing)
		gw_session_end_locked(r->gw, s);
}

bool gw_request_run(struct gw_request *r)
{
	struct gateway *gw = r->gw;
	struct role_state role = {0};

	if (!is_authentic(r)) {
		gw_answer_error(r, GW_AUTH, "not authentic");
		return true;
	}
	if (r->route == ROUTE_BEGIN)
		role_get(gw->config.role, &role);
	pthread_mutex_lock(&gw->mutex);
	if (!r->code && r->route == ROUTE_BEGIN)
		begin_locked(r, &role);
	else if (!r->code && r->route == ROUTE_COMMIT)
		commit_locked(r);
	else
		end_refused_locked(r);
	pthread_mutex_unlock(&gw->mutex);
	if (r->session)
		return false;
	if (r->code)
		gw_answer_error(r, r->code, r->text);
	else if (r->route == ROUTE_INFO)
		answer_info(r);
	else
		answer_end(r);
	return true;
}

/* ---- db has answered ---- */

static enum gw_code begin_code(int result)
{
	switch (result) {
	case -EAGAIN: return GW_BUSY;
	case -EALREADY: return GW_BUSY;
	case -EBUSY: return GW_LIMIT;
	case -EHOSTUNREACH: return GW_NOT_PRIMARY;
	case -ECANCELED: return GW_NOT_HELD;
	default: return GW_UNSUPPORTED;
	}
}

static void answer_commit(struct gw_request *r)
{
	struct gw_result result = {.unknown = r->call.unknown, .pos = r->call.pos, .waiting = r->call.waiting,
				   .yield = r->call.yield};
	char line[GW_LINE_MAX];

	if (r->result == 0 || r->call.unknown)
		gw_answer_line(r, r->call.unknown ? GW_UNKNOWN : GW_OK, r->call.unknown ? 500 : 200, line,
			       gw_put_result(&result, line));
	else if (r->result == -EPERM)
		gw_answer_error(r, GW_NOT_HELD, "the lock is not, or no longer, the caller's");
	else
		gw_answer_error(r, GW_REFUSED, strerror(-r->result));
}

void gw_request_finish(struct gw_request *r)
{
	struct gateway *gw = r->gw;
	struct gw_session *s = r->session;
	bool stopping;

	pthread_mutex_lock(&gw->mutex);
	if (r->next)
		r->next->prev = r->prev;
	*(r->prev ? &r->prev->next : &gw->waiting) = r->next;
	if (r->route == ROUTE_BEGIN) {
		s->beginning = false;
		if (!r->result && s->ended)
			r->result = -ECANCELED;
		s->held = !r->result;
	} else {
		s->committing = false;
	}
	if (r->result || r->call.unknown)
		gw_session_end_locked(gw, s);
	stopping = gw->stopping;
	/* gateway_stop() lets answers leave, and must not find nothing to wait for meanwhile. */
	gw->open_count++;
	if (--gw->waiting_count == 0)
		pthread_cond_broadcast(&gw->idle);
	pthread_mutex_unlock(&gw->mutex);
	if (r->route == ROUTE_COMMIT)
		answer_commit(r);
	else if (r->result && stopping)
		gw_answer_error(r, GW_NOT_PRIMARY, "litefwd is stopping");
	else if (r->result)
		gw_answer_error(r, begin_code(r->result),
				r->result == -EAGAIN ? "the lock was not free in time" : strerror(-r->result));
	else if (!r->body)
		gw_answer_grant(r);
}

void gw_request_free(struct gw_request *r, bool delivered)
{
	struct gateway *gw = r->gw;

	pthread_mutex_lock(&gw->mutex);
	if (r->counted) {
		gw->uploads--;
		gw->upload_bytes -= r->size;
	}
	if (r->session) {
		/* A lock that nobody has heard of. */
		if (r->granted && !r->renewal && !delivered)
			gw_session_end_locked(gw, r->session);
		gw_session_put_locked(gw, r->session);
		if (--gw->open_count == 0)
			pthread_cond_broadcast(&gw->idle);
	}
	pthread_mutex_unlock(&gw->mutex);
	spool_fini(&r->spool);
	gw_hash_free(r->hash);
	free(r->bundle);
	free(r->body);
	free(r->target);
	free(r);
}
