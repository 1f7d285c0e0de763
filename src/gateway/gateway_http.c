/*
 * libmicrohttpd: one thread with epoll. It calls in here; what must wait is suspended.
 *
 * A request is made with the first line (on_target), for only there is the target as it was sent; ends with on_completed,
 * whatever came of it. libmicrohttpd puts header and body into one write, and sets TCP_NODELAY on what it accepts.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <microhttpd.h>

#include "base/clock.h"
#include "base/log.h"
#include "gateway/gateway_internal.h"

const char *gw_http_query(struct gw_request *r, const char *key)
{
	const char *value = NULL;
	size_t len = 0;

	if (MHD_lookup_connection_value_n(r->mhd, MHD_GET_ARGUMENT_KIND, key, strlen(key), &value, &len) != MHD_YES || !value)
		return NULL;
	return strlen(value) == len ? value : NULL;
}

const char *gw_http_header(struct gw_request *r, const char *key)
{
	return MHD_lookup_connection_value(r->mhd, MHD_HEADER_KIND, key);
}

void gw_http_suspend(struct gw_request *r)
{
	MHD_suspend_connection(r->mhd);
}

void gw_http_resume(struct gw_request *r)
{
	MHD_resume_connection(r->mhd);
}

static struct gw_conn *conn_of(struct MHD_Connection *mhd)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	return info ? info->socket_context : NULL;
}

static void set_deadline(struct gw_conn *c, int64_t ms)
{
	pthread_mutex_lock(&c->gw->mutex);
	c->deadline_ns = ms < 0 ? INT64_MAX : clock_now_ns() + ms * NS_PER_MS;
	pthread_mutex_unlock(&c->gw->mutex);
}

/* ---- requests ---- */

static void *on_target(void *cls, const char *target, struct MHD_Connection *mhd)
{
	struct gw_request *r = calloc(1, sizeof *r);

	if (!r)
		return NULL;
	r->gw = cls;
	r->mhd = mhd;
	r->conn = conn_of(mhd);
	spool_init(&r->spool, r->gw->config.settings->spool_dir, (size_t)r->gw->config.settings->spool_threshold);
	r->target = strdup(target);
	if (!r->target || !r->conn) {
		gw_request_free(r, false);
		return NULL;
	}
	return r;
}

static enum MHD_Result answer(struct gw_request *r)
{
	struct MHD_Response *response;
	enum MHD_Result ret;

	r->stage = STAGE_ANSWER;
	set_deadline(r->conn, r->gw->limits.stuck_ms);
	if (!r->body)
		return MHD_NO;
	response = MHD_create_response_from_buffer(r->len, r->body, MHD_RESPMEM_MUST_FREE);
	if (!response)
		return MHD_NO;
	r->body = NULL; /* the response's */
	ret = MHD_add_response_header(response, "Content-Type", "application/json");
	if (ret == MHD_YES && r->auth[0])
		ret = MHD_add_response_header(response, GW_AUTH_HEADER, r->auth);
	if (ret == MHD_YES)
		ret = MHD_queue_response(r->mhd, (unsigned)r->status, response);
	MHD_destroy_response(response);
	return ret;
}

/* MHD_NO closes the connection. */
static enum MHD_Result on_request(void *cls, struct MHD_Connection *mhd, const char *path, const char *method,
				  const char *version, const char *data, size_t *len, void **context)
{
	struct gw_request *r = *context;

	(void)cls, (void)mhd, (void)version;
	if (!r)
		return MHD_NO;
	switch (r->stage) {
	case STAGE_HEAD:
		if (gw_request_head(r, method, path))
			return answer(r);
		/* A body has as long as it takes at 100 kB/s. */
		set_deadline(r->conn, r->gw->limits.stuck_ms + (int64_t)(r->size / 100));
		r->stage = STAGE_BODY;
		return MHD_YES;
	case STAGE_BODY:
		if (*len) {
			gw_request_body(r, data, *len);
			*len = 0;
			return MHD_YES;
		}
		set_deadline(r->conn, -1);
		r->stage = STAGE_WAIT;
		return gw_request_run(r) ? answer(r) : MHD_YES;
	case STAGE_WAIT:
		gw_request_finish(r);
		return answer(r);
	case STAGE_ANSWER:
		break;
	}
	return MHD_NO;
}

static void on_completed(void *cls, struct MHD_Connection *mhd, void **context, enum MHD_RequestTerminationCode code)
{
	struct gw_request *r = *context;

	(void)cls, (void)mhd;
	if (!r)
		return;
	*context = NULL;
	set_deadline(r->conn, r->gw->limits.stuck_ms);
	gw_request_free(r, code == MHD_REQUEST_TERMINATED_COMPLETED_OK);
}

/* ---- connections ---- */

static void *conn_opened(struct gateway *gw, struct MHD_Connection *mhd)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
	struct gw_conn *c = calloc(1, sizeof *c);
	int one = 1;

	if (!c || !info) {
		free(c);
		return NULL;
	}
	c->gw = gw;
	c->fd = info->connect_fd;
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
	gw_address_key(info ? info->client_addr : NULL, c->addr);
	c->deadline_ns = clock_now_ns() + gw->limits.stuck_ms * NS_PER_MS;
	pthread_mutex_lock(&gw->mutex);
	c->next = gw->conns;
	if (c->next)
		c->next->prev = c;
	gw->conns = c;
	pthread_mutex_unlock(&gw->mutex);
	return c;
}

/* libmicrohttpd closes the socket after this. */
static void conn_closed(struct gw_conn *c)
{
	struct gateway *gw = c->gw;

	pthread_mutex_lock(&gw->mutex);
	if (c->next)
		c->next->prev = c->prev;
	*(c->prev ? &c->prev->next : &gw->conns) = c->next;
	gw_session_conn_closed_locked(gw, c);
	pthread_mutex_unlock(&gw->mutex);
	free(c);
}

static void on_connection(void *cls, struct MHD_Connection *mhd, void **context, enum MHD_ConnectionNotificationCode code)
{
	if (code == MHD_CONNECTION_NOTIFY_STARTED) {
		*context = conn_opened(cls, mhd);
	} else if (*context) {
		conn_closed(*context);
		*context = NULL;
	}
}

/* ---- life ---- */

int gw_http_start(struct gateway *gw, int listen_fd)
{
	const struct gateway_limits *l = &gw->limits;

	gw->daemon = MHD_start_daemon(
		MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_request, gw,
		MHD_OPTION_LISTEN_SOCKET, (MHD_socket)listen_fd, MHD_OPTION_CONNECTION_LIMIT, l->connections,
		MHD_OPTION_PER_IP_CONNECTION_LIMIT, l->connections_per_address, MHD_OPTION_CONNECTION_TIMEOUT, l->idle_s,
		MHD_OPTION_CONNECTION_MEMORY_LIMIT, l->head_bytes, MHD_OPTION_STRICT_FOR_CLIENT, 1,
		MHD_OPTION_URI_LOG_CALLBACK, on_target, gw, MHD_OPTION_NOTIFY_COMPLETED, on_completed, gw,
		MHD_OPTION_NOTIFY_CONNECTION, on_connection, gw, MHD_OPTION_END);
	if (gw->daemon)
		return 0;
	log_error("gateway_server", "error=\"libmicrohttpd did not start\" do=\"look at the limits of open files and of threads\"");
	return -EAGAIN;
}

/* Who connects now is refused. */
void gw_http_quiesce(struct gateway *gw)
{
	MHD_socket fd = MHD_quiesce_daemon(gw->daemon);

	if (fd != MHD_INVALID_SOCKET)
		close(fd);
}

void gw_http_stop(struct gateway *gw)
{
	MHD_stop_daemon(gw->daemon);
	gw->daemon = NULL;
}
