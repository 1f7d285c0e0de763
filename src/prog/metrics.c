#include "prog/metrics.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <microhttpd.h>

#include "base/log.h"
#include "litefs/listen.h"
#include "status/health.h"
#include "status/metrics_text.h"

#define CONNECTIONS 32u
#define IDLE_S 30u
#define HEAD_BYTES ((size_t)8192)

struct metrics {
	struct MHD_Daemon *daemon;
	json_t *(*status)(void *ctx);
	void *ctx;
	char address[80];
};

/* body: malloc'ed and taken, NULL: no memory. MHD_NO closes the connection. */
static enum MHD_Result answer(struct MHD_Connection *connection, unsigned code, const char *type, char *body, size_t len)
{
	struct MHD_Response *response = body ? MHD_create_response_from_buffer(len, body, MHD_RESPMEM_MUST_FREE) : NULL;
	enum MHD_Result ret = MHD_NO;

	if (!response) {
		free(body);
		return MHD_NO;
	}
	if (MHD_add_response_header(response, "Content-Type", type) == MHD_YES &&
	    MHD_add_response_header(response, "Cache-Control", "no-store") == MHD_YES &&
	    (code != 405 || MHD_add_response_header(response, "Allow", "GET, HEAD") == MHD_YES))
		ret = MHD_queue_response(connection, code, response);
	MHD_destroy_response(response);
	return ret;
}

static enum MHD_Result answer_text(struct MHD_Connection *connection, unsigned code, const char *text)
{
	char *line = NULL;
	int len = asprintf(&line, "%s\n", text);

	return answer(connection, code, "text/plain; charset=utf-8", len < 0 ? NULL : line, len < 0 ? 0 : (size_t)len);
}

static enum MHD_Result answer_health(struct MHD_Connection *connection, const json_t *status)
{
	const json_t *health = json_object_get(status, "health");
	char text[1024] = "degraded: ";

	if (health_is_well(health))
		return answer_text(connection, 200, "well");
	health_summary(health, text + strlen(text), sizeof text - strlen(text));
	return answer_text(connection, 503, text);
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *path, const char *method, const char *version,
				  const char *data, size_t *len, void **context)
{
	static int seen; /* whose address says that the head was looked at */
	struct metrics *m = cls;
	bool metrics = !strcmp(path, "/metrics"), health = !strcmp(path, "/healthz");
	enum MHD_Result ret;
	json_t *status;
	size_t text_len = 0;

	(void)version, (void)data;
	if (!*context) { /* an answer before the end of a request's body would end the connection */
		*context = &seen;
		return MHD_YES;
	}
	if (*len) {
		*len = 0;
		return MHD_YES;
	}
	if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
		return answer_text(connection, 405, "only GET and HEAD");
	if (!metrics && !health)
		return answer_text(connection, 404, "there are /metrics and /healthz");
	status = m->status(m->ctx);
	if (!status) {
		ret = answer_text(connection, 503, "out of memory");
	} else if (metrics) {
		char *text = metrics_text(status, &text_len);

		ret = answer(connection, 200, METRICS_CONTENT_TYPE, text, text_len);
	} else {
		ret = answer_health(connection, status);
	}
	json_decref(status);
	return ret;
}

static int start(struct metrics *m, const char *address)
{
	union listen_address a;
	char clean[80];
	int fd;

	log_clean(clean, sizeof clean, address);
	if (listen_parse(address, &a)) {
		log_error("metrics_address", "metrics=%s do=\"give an IP address and a port, as 127.0.0.1:20204 or [::1]:20204\"", clean);
		return -EINVAL;
	}
	fd = listen_open(&a, m->address, sizeof m->address);
	if (fd < 0) {
		log_error("metrics_bind", "metrics=%s error=\"%s\" do=\"%s\"", clean, strerror(-fd), listen_advice(fd));
		return fd;
	}
	m->daemon = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD, 0, NULL, NULL, on_request, m, MHD_OPTION_LISTEN_SOCKET, (MHD_socket)fd,
				     MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_S,
				     MHD_OPTION_CONNECTION_MEMORY_LIMIT, HEAD_BYTES, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_END);
	if (!m->daemon) {
		close(fd);
		log_error("metrics_server", "error=\"libmicrohttpd did not start\" do=\"look at the limits of open files and of threads\"");
		return -EAGAIN;
	}
	log_info("metrics_listening", "metrics=%s open=%d", m->address, !listen_is_loopback(&a));
	return 0;
}

int metrics_start(const char *address, json_t *(*status)(void *ctx), void *ctx, struct metrics **ret)
{
	struct metrics *m = calloc(1, sizeof *m);
	int err;

	if (!m)
		return -ENOMEM;
	m->status = status;
	m->ctx = ctx;
	err = start(m, address);
	if (err) {
		free(m);
		return err;
	}
	*ret = m;
	return 0;
}

void metrics_stop(struct metrics *m)
{
	if (!m)
		return;
	MHD_stop_daemon(m->daemon);
	free(m);
}

const char *metrics_address(const struct metrics *m)
{
	return m->address;
}
