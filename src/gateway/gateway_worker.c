/*
 * The thread that may block: it opens databases, reads LTX files, and looks after connections, for libmicrohttpd does not see
 * a peer go away while a request is suspended, nor one that sends a byte a minute.
 */
#include <errno.h>
#include <poll.h>

#include "base/clock.h"
#include "gateway/gateway_internal.h"

#define LOOK_NS (100 * NS_PER_MS) /* while a request waits */
#define REST_NS NS_PER_S

void gw_worker_add(struct gw_request *r)
{
	struct gateway *gw = r->gw;

	r->next_job = NULL;
	pthread_mutex_lock(&gw->queue_mutex);
	*gw->queue_end = r;
	gw->queue_end = &r->next_job;
	pthread_cond_signal(&gw->queue_cond);
	pthread_mutex_unlock(&gw->queue_mutex);
}

static void open_and_begin(struct gw_request *r)
{
	struct gateway *gw = r->gw;
	struct gw_session *s = r->session;
	struct db *db = NULL;
	int err = gw->config.db_get(gw->config.ctx, r->name, &db);

	pthread_mutex_lock(&gw->mutex);
	if (!err)
		s->db = db;
	if (!err && s->ended)
		err = -ECANCELED;
	if (!err)
		gw_request_begin_locked(r);
	else
		r->result = err == -ENOENT ? -ENOTSUP : err;
	pthread_mutex_unlock(&gw->mutex);
	if (err)
		gw_http_resume(r);
}

static void work(struct gw_request *r)
{
	if (!r->granted) {
		open_and_begin(r);
		return;
	}
	gw_answer_bundle(r);
	gw_http_resume(r);
}

static bool is_closed(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLRDHUP};

	return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

/*
 * libmicrohttpd 0.9.75 with epoll misses the end of a stream that comes together with data, and would keep half a request's
 * connection for idle_s. Who only closes its own side has REST_NS to get its answer.
 */
static bool is_over(struct gw_conn *c, int64_t now_ns)
{
	if (c->deadline_ns == INT64_MAX)
		return false;
	if (!c->closed_ns && is_closed(c->fd))
		c->closed_ns = now_ns;
	return c->deadline_ns < now_ns || (c->closed_ns && now_ns - c->closed_ns >= REST_NS);
}

/* A socket stays open until http's thread has taken its request, or its connection, out of the list. */
static int64_t look_after(struct gateway *gw, int64_t now_ns)
{
	int64_t rest_ns;

	pthread_mutex_lock(&gw->mutex);
	for (struct gw_request *r = gw->waiting; r; r = r->next)
		if (r->route == ROUTE_BEGIN && is_closed(r->conn->fd))
			gw_session_end_locked(gw, r->session);
	for (struct gw_conn *c = gw->conns; c; c = c->next)
		if (is_over(c, now_ns))
			shutdown(c->fd, SHUT_RDWR);
	gw_session_sweep_locked(gw, now_ns);
	rest_ns = gw->waiting ? LOOK_NS : REST_NS;
	pthread_mutex_unlock(&gw->mutex);
	return rest_ns;
}

static void *worker_main(void *arg)
{
	struct gateway *gw = arg;
	int64_t look_ns = 0;

	pthread_mutex_lock(&gw->queue_mutex);
	while (!gw->worker_stop || gw->queue) {
		struct gw_request *r = gw->queue;
		int64_t now_ns = clock_now_ns();

		if (r) {
			gw->queue = r->next_job;
			if (!gw->queue)
				gw->queue_end = &gw->queue;
		}
		if (r || now_ns >= look_ns) {
			pthread_mutex_unlock(&gw->queue_mutex);
			if (r)
				work(r);
			if (now_ns >= look_ns)
				look_ns = now_ns + look_after(gw, now_ns);
			else if (look_ns > now_ns + LOOK_NS)
				look_ns = now_ns + LOOK_NS; /* what has just been parked is to be looked at */
			pthread_mutex_lock(&gw->queue_mutex);
			continue;
		}
		clock_cond_wait_until(&gw->queue_cond, &gw->queue_mutex, look_ns);
	}
	pthread_mutex_unlock(&gw->queue_mutex);
	return NULL;
}

int gw_worker_start(struct gateway *gw)
{
	int err = -pthread_create(&gw->worker, NULL, worker_main, gw);

	gw->worker_started = !err;
	return err;
}

void gw_worker_stop(struct gateway *gw)
{
	if (!gw->worker_started)
		return;
	pthread_mutex_lock(&gw->queue_mutex);
	gw->worker_stop = true;
	pthread_cond_signal(&gw->queue_cond);
	pthread_mutex_unlock(&gw->queue_mutex);
	pthread_join(gw->worker, NULL);
	gw->worker_started = false;
}
