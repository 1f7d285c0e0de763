/* One request until it is whole: what it asks for, whether that can be, and the body of a transaction. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "gateway/gateway_internal.h"

void gw_request_refuse(struct gw_request *r, enum gw_code code, const char *text)
{
	if (r->code)
		return;
	r->code = code;
	snprintf(r->text, sizeof r->text, "%s", text);
}

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
		gw_request_refuse(r, GW_BAD_REQUEST, "name: not that of a database");
	else
		snprintf(r->name, sizeof r->name, "%s", name);
	if (parse_decimal(gw_http_query(r, "id"), &r->id) || !r->id)
		gw_request_refuse(r, GW_BAD_REQUEST, "id: not a number from 1 to 2^63-1");
}

static void parse_begin(struct gw_request *r)
{
	const char *pos = gw_http_query(r, "pos"), *peer = gw_http_query(r, "peer");
	const char *cluster = gw_http_query(r, "cluster");
	uint64_t wait_ms = 0;

	if (!pos || gw_parse_pos(pos, &r->pos))
		gw_request_refuse(r, GW_BAD_REQUEST, "pos: not a position");
	if (!peer || strlen(peer) != 16 || pos_parse_hex16(peer, &r->peer))
		gw_request_refuse(r, GW_BAD_REQUEST, "peer: not 16 hex digits");
	if (parse_decimal(gw_http_query(r, "wait"), &wait_ms))
		gw_request_refuse(r, GW_BAD_REQUEST, "wait: not a number of milliseconds");
	if (cluster && strlen(cluster) >= sizeof r->cluster)
		gw_request_refuse(r, GW_BAD_REQUEST, "cluster: too long");
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
		gw_request_refuse(r, GW_NOT_HELD, "no such lock");
	} else if (gw->uploads >= gw->limits.uploads || r->size > gw->limits.upload_bytes_all - gw->upload_bytes) {
		gw_request_refuse(r, GW_LIMIT, "too many transactions at once");
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
		gw_request_refuse(r, GW_LIMIT, "too many requests");
	if (r->route != ROUTE_INFO)
		parse_lock(r);
	if (r->route == ROUTE_BEGIN)
		parse_begin(r);
	if (r->route == ROUTE_COMMIT) {
		admit_upload(r);
		if (gw->secret->len && gw_hash_new(&r->hash)) {
			gw_answer_error(r, GW_LIMIT, "no memory");
			return true;
		}
	}
	return false;
}

/* A body may take longer than a lease: it is its holder's sign of life (whose id nobody else knows). */
static void extend_lease(struct gw_request *r)
{
	struct gateway *gw = r->gw;
	struct gw_session *s;
	int64_t now = clock_now_ns();

	if (!r->extended_ns)
		r->extended_ns = now;
	if (now - r->extended_ns < NS_PER_S)
		return;
	r->extended_ns = now;
	pthread_mutex_lock(&gw->mutex);
	s = gw_session_find_locked(gw, r->name, r->id);
	if (s && s->held)
		gw->ops.extend(s->db, s->id);
	pthread_mutex_unlock(&gw->mutex);
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
		gw_request_refuse(r, GW_REFUSED, strerror(-err));
		spool_fini(&r->spool);
		return;
	}
	extend_lease(r);
}
