/*
 * Sessions: who holds or waits for what. A lease is db's; here are only the references, and which connection it is whose
 * end gives a lock back sooner than its lease.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "gateway/gateway_internal.h"

struct gw_session *gw_session_find_locked(struct gateway *gw, const char *name, uint64_t id)
{
	for (struct gw_session *s = gw->sessions; s; s = s->next)
		if (s->id == id && !strcmp(s->name, name))
			return s;
	return NULL;
}

/* NULL: no memory. Not used by anybody yet. */
struct gw_session *gw_session_new_locked(struct gateway *gw, const char *name, uint64_t id)
{
	struct gw_session *s = calloc(1, sizeof *s);

	if (!s)
		return NULL;
	strcpy(s->name, name);
	s->id = id;
	s->used_ns = clock_now_ns();
	s->next = gw->sessions;
	gw->sessions = s;
	gw->session_count++;
	return s;
}

static void free_unused(struct gateway *gw, struct gw_session *s)
{
	if (!s->ended || s->uses)
		return;
	if (s->db && gw->config.db_put)
		gw->config.db_put(gw->config.ctx, s->db);
	free(s);
}

void gw_session_put_locked(struct gateway *gw, struct gw_session *s)
{
	s->uses--;
	s->used_ns = clock_now_ns();
	free_unused(gw, s);
}

void gw_session_end_locked(struct gateway *gw, struct gw_session *s)
{
	if (s->ended)
		return;
	s->ended = true;
	s->held = false;
	for (struct gw_session **p = &gw->sessions; *p; p = &(*p)->next) {
		if (*p == s) {
			*p = s->next;
			gw->session_count--;
			break;
		}
	}
	/* Who has yet to get the database sees `ended`. */
	if (s->db)
		gw->ops.end(s->db, s->id);
	free_unused(gw, s);
}

void gw_session_end_all_locked(struct gateway *gw)
{
	while (gw->sessions)
		gw_session_end_locked(gw, gw->sessions);
}

void gw_session_conn_closed_locked(struct gateway *gw, struct gw_conn *conn)
{
	for (struct gw_session *s = gw->sessions; s; s = s->next) {
		if (s->conn != conn)
			continue;
		s->conn = NULL;
		if (s->held)
			gw->ops.shorten(s->db, s->id, GW_CLOSED_GRACE_MS);
	}
}

void gw_session_sweep_locked(struct gateway *gw, int64_t now_ns)
{
	struct gw_session *next;

	for (struct gw_session *s = gw->sessions; s; s = next) {
		next = s->next;
		if (!s->uses && now_ns - s->used_ns > 2 * GW_LEASE_MS * NS_PER_MS)
			gw_session_end_locked(gw, s);
	}
}
