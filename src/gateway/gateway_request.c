/* One request that is whole: whether it is authentic, db's part, and the answer. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "gateway/gateway_internal.h"

/* ---- whole ---- */

static bool is_authentic(struct gw_request *r)
{
	static const char *const methods[] = {"", "GET", "POST", "POST", "DELETE"};
	static struct log_limit limit;
	struct gateway *gw = r->gw;
	char hex[65];
	int err;

	if (!gw->secret->len || r->route == ROUTE_INFO)
		return true;
	if (r->hash)
		gw_hash_end(r->hash, hex);
	else
		gw_hash_once("", 0, hex);
	err = gw_auth_check_request(gw->secret, gw->callers, methods[r->route], r->target, hex, gw->nonce,
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
	size_t len;

	role_get(r->gw->config.role, &role);
	info.is_primary = role.kind == ROLE_PRIMARY;
	snprintf(info.cluster, sizeof info.cluster, "%s", role.cluster_id);
	memcpy(info.nonce, r->gw->nonce, sizeof info.nonce);
	len = gw_put_info(&info, line);
	gw_answer_line(r, GW_OK, 200, line, len);
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
		gw_request_refuse(r, GW_NOT_PRIMARY, gw->stopping ? "litefwd is stopping" : "this node is not the primary");
	else if (r->cluster[0] && role->cluster_id[0] && strcmp(r->cluster, role->cluster_id) != 0)
		gw_request_refuse(r, GW_UNSUPPORTED, "this is another cluster");
	else if (s && s->beginning)
		gw_request_refuse(r, GW_BUSY, "this lock is waited for already");
	else if (!s && gw->session_count >= gw->limits.sessions)
		gw_request_refuse(r, GW_LIMIT, "too many locks");
	else if (!s && !(s = gw_session_new_locked(gw, r->name, r->id)))
		gw_request_refuse(r, GW_LIMIT, "no memory");
	if (r->code)
		return;
	s->beginning = true;
	r->renewal = s->held;
	use_locked(r, s);
	if (!s->db && gw->config.db_find && gw->config.db_find(gw->config.ctx, r->name, &s->db) != 0)
		s->db = NULL;
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
		gw_request_refuse(r, GW_NOT_HELD, "no such lock");
	else if (s->committing)
		gw_request_refuse(r, GW_LIMIT, "a transaction of this lock is under way");
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
	case -EPERM:
	case -ECANCELED: return GW_NOT_HELD;
	default: return GW_UNSUPPORTED;
	}
}

static void answer_commit(struct gw_request *r)
{
	struct gw_result result = {.unknown = r->call.unknown, .pos = r->call.pos, .waiting = r->call.waiting,
				   .yield = r->call.yield};
	char line[GW_LINE_MAX];
	size_t len = gw_put_result(&result, line);

	if (r->result == 0 || r->call.unknown)
		gw_answer_line(r, r->call.unknown ? GW_UNKNOWN : GW_OK, r->call.unknown ? 500 : 200, line, len);
	else if (r->result == -EPERM)
		gw_answer_error(r, GW_NOT_HELD, "the lock is not, or no longer, the caller's");
	else
		gw_answer_error(r, GW_REFUSED, strerror(-r->result));
}

/*
 * No longer suspended, db has answered: what this means for the session. Not always on the way to an answer: a connection that
 * was reset meanwhile is closed as soon as it is resumed.
 */
static void leave_db_locked(struct gw_request *r)
{
	struct gateway *gw = r->gw;
	struct gw_session *s = r->session;

	r->left = true;
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
	/* gateway_stop() lets answers leave, and must not find nothing to wait for meanwhile. */
	gw->open_count++;
	if (--gw->waiting_count == 0)
		pthread_cond_broadcast(&gw->idle);
}

void gw_request_finish(struct gw_request *r)
{
	struct gateway *gw = r->gw;
	bool stopping;

	pthread_mutex_lock(&gw->mutex);
	leave_db_locked(r);
	stopping = gw->stopping;
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
		if (!r->left)
			leave_db_locked(r);
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
