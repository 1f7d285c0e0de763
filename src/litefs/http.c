/*
 * http.c: see http.h.
 *
 * One easy handle at a time, in one multi handle. The easy interface alone looks at its
 * callbacks about once a second while nothing moves, so that neither a deadline nor
 * an abort would act in time; the multi's poll waits for the socket, for our eventfd
 * (abort) and for the deadline together.
 *
 *	http_call:  options -> add -> [perform -> poll]* -> remove -> answer
 *
 * Whether a byte has left is told by the prereq callback: libcurl calls it when a
 * connection is there and before the first byte. A repetition by libcurl on a new
 * connection passes through open_socket(), which refuses when the call must not open one.
 *
 * Removing an unfinished easy handle closes its connection: that is how a call ends
 * early, and SO_LINGER 0 makes it a reset.
 */
#include "litefs/http.h"

#include <curl/curl.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "litefs/url.h"

#define HEADERS_MAX (64 * 1024) /* of one answer, all lines together */
#define SOCKETS_MAX 8 /* attempts at several addresses of one host go on side by side */
#define BODY_KEEP (64 * 1024) /* a larger answer's buffer is not kept */

struct http {
	CURL *easy; /* of the call in progress, or of the last one */
	CURLM *multi;
	bool fresh; /* the connection in multi is not to be used again */
	struct curl_slist *headers;
	int abort_fd;
	atomic_bool aborted;
	uint64_t serial;
	int sockets[SOCKETS_MAX]; /* open: one, but while a connection is being made */
	unsigned n_sockets;
	char *body;
	size_t body_cap;
	size_t base_len;
	char base[URL_MAX];
	char errbuf[CURL_ERROR_SIZE];

	/* of the call in progress */
	const struct http_request *req;
	struct http_answer *answer;
	uint64_t serial_at_start;
	uint64_t body_read; /* bytes of the request's body that libcurl took */
	size_t headers_len;
	int64_t start_ns;
	int cb_error; /* what one of our callbacks ended the call with */
	bool bad_server_id;
	unsigned auth_count;
	struct curl_slist extra; /* the request's own header, before all the others */
};

int http_global_init(void)
{
	return curl_global_init(CURL_GLOBAL_DEFAULT) ? -ENOMEM : 0;
}

void http_global_fini(void)
{
	curl_global_cleanup();
}

/* ---- libcurl's callbacks ---- */

static curl_socket_t open_socket(void *ctx, curlsocktype purpose, struct curl_sockaddr *addr)
{
	static const struct linger reset = {.l_onoff = 1, .l_linger = 0};
	struct http *http = ctx;
	int fd;

	(void)purpose;
	if (!http->req || http->req->no_open || http->n_sockets == SOCKETS_MAX)
		return CURL_SOCKET_BAD;
	fd = socket(addr->family, addr->socktype | SOCK_CLOEXEC, addr->protocol);
	if (fd < 0)
		return CURL_SOCKET_BAD;
	if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset) < 0) {
		close(fd);
		return CURL_SOCKET_BAD;
	}
	http->serial++;
	http->sockets[http->n_sockets++] = fd;
	return fd;
}

static int close_socket(void *ctx, curl_socket_t fd)
{
	struct http *http = ctx;

	for (unsigned i = 0; i < http->n_sockets; i++)
		if (http->sockets[i] == fd) {
			http->sockets[i] = http->sockets[--http->n_sockets];
			break;
		}
	return close(fd);
}

/*
 * True where an idle connection has something to say: its end, a reset, or bytes that nobody
 * asked for. libcurl 7.88 does not look closely enough before it uses a connection again.
 */
static bool connection_is_dead(const struct http *http)
{
	struct pollfd p[SOCKETS_MAX];

	for (unsigned i = 0; i < http->n_sockets; i++)
		p[i] = (struct pollfd){.fd = http->sockets[i], .events = POLLIN | POLLRDHUP};
	return http->n_sockets == 0 || poll(p, http->n_sockets, 0) != 0;
}

static int before_request(void *ctx, char *remote_ip, char *local_ip, int remote_port, int local_port)
{
	struct http *http = ctx;

	(void)remote_ip, (void)local_ip, (void)remote_port, (void)local_port;
	if (http->req->no_open &&
	    ((http->req->serial && http->req->serial != http->serial) || connection_is_dead(http))) {
		http->cb_error = http->answer->started ? -EIO : -ENOTCONN;
		return CURL_PREREQFUNC_ABORT;
	}
	http->answer->started = true;
	http->answer->reused = http->serial == http->serial_at_start;
	http->start_ns = clock_now_ns();
	return CURL_PREREQFUNC_OK;
}

static size_t read_body(char *buf, size_t size, size_t n, void *ctx)
{
	struct http *http = ctx;
	const struct http_request *req = http->req;
	uint64_t left = req->size - http->body_read;
	size_t len = size * n;
	ptrdiff_t got;

	if (!req->read || left == 0)
		return 0;
	if (len > left)
		len = (size_t)left;
	got = req->read(req->ctx, buf, len);
	if (got <= 0 || (size_t)got > len) { /* a short body would leave the server waiting for the rest */
		http->cb_error = got < 0 ? (int)got : -EIO;
		return CURL_READFUNC_ABORT;
	}
	http->body_read += (uint64_t)got;
	return (size_t)got;
}

static int refuse_seek(void *ctx, curl_off_t offset, int origin)
{
	(void)ctx, (void)offset, (void)origin;
	return CURL_SEEKFUNC_FAIL;
}

static int body_reserve(struct http *http, size_t need)
{
	size_t cap = http->body_cap ? http->body_cap : 4096;
	char *p;

	if (need <= http->body_cap)
		return 0;
	while (cap < need)
		cap *= 2;
	p = realloc(http->body, cap);
	if (!p)
		return -ENOMEM;
	http->body = p;
	http->body_cap = cap;
	return 0;
}

static size_t take_data(char *data, size_t size, size_t n, void *ctx)
{
	struct http *http = ctx;
	struct http_answer *answer = http->answer;
	size_t len = size * n;
	int err;

	if (http->req->on_data && answer->status == 200) {
		err = http->req->on_data(http->req->ctx, data, len);
	} else if (len > http->req->max_answer - answer->len) {
		snprintf(http->errbuf, sizeof http->errbuf, "answer longer than %zu bytes", http->req->max_answer);
		err = -EPROTO;
	} else {
		err = body_reserve(http, answer->len + len + 1);
		if (!err) {
			memcpy(http->body + answer->len, data, len);
			answer->len += len;
			http->body[answer->len] = 0;
			answer->body = http->body;
			return len;
		}
	}
	if (!err)
		return len;
	http->cb_error = err;
	return len + 1; /* anything but len ends the transfer */
}

/* 16 hex digits as LiteFS writes them, upper case. */
static bool parse_server_id(const char *value, size_t len, uint64_t *ret)
{
	uint64_t v = 0;

	if (len != 16)
		return false;
	for (size_t i = 0; i < len; i++) {
		char c = value[i];

		if (c >= '0' && c <= '9')
			v = v << 4 | (uint64_t)(c - '0');
		else if (c >= 'A' && c <= 'F')
			v = v << 4 | (uint64_t)(c - 'A' + 10);
		else
			return false;
	}
	*ret = v;
	return true;
}

/* The value of a header line "name: value\r\n", trimmed; NULL where it is another header. */
static const char *header_value(const char *line, size_t len, const char *name, size_t *ret_len)
{
	size_t n = strlen(name);

	if (len <= n || line[n] != ':' || strncasecmp(line, name, n) != 0)
		return NULL;
	line += n + 1;
	len -= n + 1;
	while (len && (*line == ' ' || *line == '\t'))
		line++, len--;
	while (len && (line[len - 1] == '\r' || line[len - 1] == '\n' || line[len - 1] == ' ' || line[len - 1] == '\t'))
		len--;
	*ret_len = len;
	return line;
}

static void take_date(struct http_answer *answer, const char *value, size_t len)
{
	char buf[64];
	time_t t;

	if (len >= sizeof buf)
		return;
	memcpy(buf, value, len);
	buf[len] = 0;
	t = curl_getdate(buf, NULL);
	if (t > 0)
		answer->date_ms = (int64_t)t * 1000;
}

static void take_auth(struct http *http, const char *value, size_t len)
{
	char *ret = http->answer->auth;

	ret[0] = 0;
	if (http->auth_count++ || len >= sizeof http->answer->auth)
		return;
	memcpy(ret, value, len);
	ret[len] = 0;
}

static size_t take_header(char *line, size_t size, size_t n, void *ctx)
{
	struct http *http = ctx;
	struct http_answer *answer = http->answer;
	size_t len = size * n, value_len;
	const char *value;

	http->headers_len += len;
	if (http->headers_len > HEADERS_MAX) {
		snprintf(http->errbuf, sizeof http->errbuf, "answer's headers longer than %d bytes", HEADERS_MAX);
		http->cb_error = -EPROTO;
		return len + 1;
	}
	if (len > 5 && !strncasecmp(line, "HTTP/", 5)) { /* in whichever case libcurl takes it */ /* a new answer: 100 Continue comes before the real one */
		long status = 0;

		curl_easy_getinfo(http->easy, CURLINFO_RESPONSE_CODE, &status);
		answer->status = (int)status;
		answer->has_server_id = false;
		http->bad_server_id = false;
		http->auth_count = 0;
		answer->auth[0] = 0;
		answer->date_ms = 0;
		return len;
	}
	value = header_value(line, len, "Litefs-Id", &value_len);
	if (value) {
		if (answer->has_server_id || !parse_server_id(value, value_len, &answer->server_id))
			http->bad_server_id = true;
		answer->has_server_id = true;
		return len;
	}
	value = header_value(line, len, "Litefwd-Auth", &value_len);
	if (value) {
		take_auth(http, value, value_len);
		return len;
	}
	value = header_value(line, len, "Date", &value_len);
	if (value)
		take_date(answer, value, value_len);
	return len;
}

/* ---- life ---- */

static int multi_open(struct http *http)
{
	http->multi = curl_multi_init();
	if (!http->multi)
		return -ENOMEM;
	curl_multi_setopt(http->multi, CURLMOPT_MAXCONNECTS, 1L);
	curl_multi_setopt(http->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING);
	return 0;
}

/* What no request changes. */
static int set_constant_options(struct http *http)
{
	CURL *e = http->easy;
	bool bad = false;

	bad |= curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http") != CURLE_OK;
	bad |= curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1) != CURLE_OK;
	bad |= curl_easy_setopt(e, CURLOPT_PROXY, "") != CURLE_OK; /* not even from the environment */
	bad |= curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L) != CURLE_OK;
	bad |= curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L) != CURLE_OK;
	bad |= curl_easy_setopt(e, CURLOPT_TCP_NODELAY, 1L) != CURLE_OK;
	bad |= curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L) != CURLE_OK;
	bad |= curl_easy_setopt(e, CURLOPT_TCP_KEEPIDLE, 15L) != CURLE_OK;
	bad |= curl_easy_setopt(e, CURLOPT_TCP_KEEPINTVL, 5L) != CURLE_OK;
	bad |= curl_easy_setopt(e, CURLOPT_NOPROGRESS, 1L) != CURLE_OK;
	bad |= curl_easy_setopt(e, CURLOPT_QUICK_EXIT, 1L) != CURLE_OK; /* do not wait for a name server at the end */
	bad |= curl_easy_setopt(e, CURLOPT_HTTPHEADER, http->headers) != CURLE_OK;
	bad |= curl_easy_setopt(e, CURLOPT_ERRORBUFFER, http->errbuf) != CURLE_OK;
	bad |= curl_easy_setopt(e, CURLOPT_OPENSOCKETFUNCTION, open_socket) != CURLE_OK;
	bad |= curl_easy_setopt(e, CURLOPT_OPENSOCKETDATA, http) != CURLE_OK;
	bad |= curl_easy_setopt(e, CURLOPT_CLOSESOCKETFUNCTION, close_socket) != CURLE_OK;
	bad |= curl_easy_setopt(e, CURLOPT_CLOSESOCKETDATA, http) != CURLE_OK;
	bad |= curl_easy_setopt(e, CURLOPT_PREREQFUNCTION, before_request) != CURLE_OK;
	bad |= curl_easy_setopt(e, CURLOPT_PREREQDATA, http) != CURLE_OK;
	bad |= curl_easy_setopt(e, CURLOPT_READFUNCTION, read_body) != CURLE_OK;
	bad |= curl_easy_setopt(e, CURLOPT_READDATA, http) != CURLE_OK;
	bad |= curl_easy_setopt(e, CURLOPT_SEEKFUNCTION, refuse_seek) != CURLE_OK;
	bad |= curl_easy_setopt(e, CURLOPT_SEEKDATA, http) != CURLE_OK;
	bad |= curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, take_data) != CURLE_OK;
	bad |= curl_easy_setopt(e, CURLOPT_WRITEDATA, http) != CURLE_OK;
	bad |= curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, take_header) != CURLE_OK;
	bad |= curl_easy_setopt(e, CURLOPT_HEADERDATA, http) != CURLE_OK;
	return bad ? -ENOMEM : 0;
}

static int add_header(struct http *http, const char *line)
{
	struct curl_slist *list = curl_slist_append(http->headers, line);

	if (!list)
		return -ENOMEM;
	http->headers = list;
	return 0;
}

int http_new(const char *base_url, const char *id_header, struct http **ret)
{
	/* A name without a value takes a header of libcurl's own out. */
	const char *const lines[] = {id_header, "Expect:", "Accept:", "Content-Type:"};
	struct http *http;
	int err = 0;

	if (!url_is_base(base_url))
		return -EINVAL;
	http = calloc(1, sizeof *http);
	if (!http)
		return -ENOMEM;
	atomic_init(&http->aborted, false);
	http->base_len = strlen(base_url);
	if (base_url[http->base_len - 1] == '/')
		http->base_len--;
	memcpy(http->base, base_url, http->base_len);
	http->abort_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (http->abort_fd < 0)
		err = -ENOMEM;
	for (size_t i = 0; !err && i < sizeof lines / sizeof lines[0]; i++)
		err = add_header(http, lines[i]);
	if (!err) {
		http->easy = curl_easy_init();
		err = http->easy ? set_constant_options(http) : -ENOMEM;
	}
	if (!err)
		err = multi_open(http);
	if (err) {
		http_free(http);
		return err;
	}
	*ret = http;
	return 0;
}

void http_free(struct http *http)
{
	if (!http)
		return;
	if (http->multi)
		curl_multi_cleanup(http->multi);
	if (http->easy)
		curl_easy_cleanup(http->easy);
	curl_slist_free_all(http->headers);
	if (http->abort_fd >= 0)
		close(http->abort_fd);
	free(http->body);
	free(http);
}

const char *http_url(const struct http *http)
{
	return http->base;
}

/* ---- one call ---- */

/*
 * A new easy handle for each call (under 1 us; connections are multi's). In libcurl 7.88 a handle that is used again remembers the last
 * header of the call before, which is freed: an answer whose first header line begins with a blank made it write there.
 */
static int renew_easy(struct http *http)
{
	CURL *old = http->easy;

	http->easy = curl_easy_init();
	if (http->easy && set_constant_options(http) == 0) {
		curl_easy_cleanup(old);
		return 0;
	}
	curl_easy_cleanup(http->easy);
	http->easy = old;
	return -ENOMEM;
}

static int set_request_options(struct http *http, const struct http_request *req)
{
	char url[URL_MAX + 2048];
	CURL *e = http->easy;
	CURLcode code;
	int n = snprintf(url, sizeof url, "%s%s", http->base, req->target);

	if (n < 0 || (size_t)n >= sizeof url)
		return -EINVAL;
	http->extra = (struct curl_slist){.data = (char *)(uintptr_t)req->header, .next = http->headers};
	code = curl_easy_setopt(e, CURLOPT_HTTPHEADER, req->header ? &http->extra : http->headers);
	if (!code)
		code = curl_easy_setopt(e, CURLOPT_FRESH_CONNECT, http->fresh ? 1L : 0L);
	if (!code)
		code = curl_easy_setopt(e, CURLOPT_URL, url);
	if (!code)
		code = curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, req->method == HTTP_DELETE ? "DELETE" : NULL);
	if (!code && req->method == HTTP_POST) {
		code = curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)req->size);
		if (!code) /* implies POST; NULL: the body comes from read_body() */
			code = curl_easy_setopt(e, CURLOPT_POSTFIELDS, req->read ? NULL : "");
		if (!code)
			code = curl_easy_setopt(e, CURLOPT_POST, 1L);
	} else if (!code) {
		code = curl_easy_setopt(e, CURLOPT_HTTPGET, 1L);
	}
	return code ? -ENOMEM : 0;
}

static void note_body_sent(struct http *http)
{
	curl_off_t n = 0;

	if (!http->req->read || http->answer->body_sent)
		return;
	if (http->body_read < http->req->size)
		return;
	if (curl_easy_getinfo(http->easy, CURLINFO_SIZE_UPLOAD_T, &n) || (uint64_t)n < http->req->size)
		return;
	http->answer->body_sent = true;
	if (http->req->sent)
		http->req->sent(http->req->ctx);
}

static int errno_of(const struct http *http, CURLcode code)
{
	bool started = http->answer->started;

	if (http->cb_error)
		return http->cb_error;
	switch (code) {
	case CURLE_OK:
		return 0;
	case CURLE_OUT_OF_MEMORY:
		return -ENOMEM;
	case CURLE_URL_MALFORMAT:
	case CURLE_UNSUPPORTED_PROTOCOL:
		/* The second is also what an answer in another protocol than HTTP/1 gives. */
		return started ? -EPROTO : -EINVAL;
	case CURLE_WEIRD_SERVER_REPLY:
	case CURLE_HTTP2:
	case CURLE_BAD_CONTENT_ENCODING:
		return -EPROTO;
	default:
		return started ? -EIO : -ENOTCONN;
	}
}

/* How long to sleep, ms; 0 past the first of deadline and tick. */
static int wait_ms(int64_t now, int64_t deadline_ns, int64_t tick_ns)
{
	int64_t until = deadline_ns, ms;

	if (until < 0 || (tick_ns >= 0 && tick_ns < until))
		until = tick_ns;
	if (until < 0)
		return 60000;
	if (until <= now)
		return 0;
	ms = (until - now + NS_PER_MS - 1) / NS_PER_MS;
	return ms > 60000 ? 60000 : (int)ms;
}

static int tick(const struct http_request *req, int64_t now, int64_t *tick_ns)
{
	if (*tick_ns < 0 || now < *tick_ns)
		return 0;
	*tick_ns = now + req->tick_ms * NS_PER_MS;
	return req->on_tick(req->ctx);
}

static void drain_abort_fd(struct http *http)
{
	uint64_t v;

	while (read(http->abort_fd, &v, sizeof v) < 0 && errno == EINTR)
		;
}

/* Until the transfer has ended, or deadline, abort or a callback ends it. */
static int drive(struct http *http, const struct http_request *req)
{
	struct curl_waitfd extra = {.fd = http->abort_fd, .events = CURL_WAIT_POLLIN};
	int64_t now = clock_now_ns();
	int64_t tick_ns = req->on_tick ? now + req->tick_ms * NS_PER_MS : -1;
	int running = 1, left, err;
	CURLMsg *msg;

	for (;;) {
		if (atomic_load(&http->aborted))
			return -ECANCELED;
		if (req->deadline_ns >= 0 && now >= req->deadline_ns)
			return -ETIMEDOUT;
		if (curl_multi_perform(http->multi, &running))
			return -ENOMEM;
		note_body_sent(http);
		if (!running)
			break;
		now = clock_now_ns();
		err = tick(req, now, &tick_ns);
		if (err)
			return err;
		if (curl_multi_poll(http->multi, &extra, 1, wait_ms(now, req->deadline_ns, tick_ns), NULL))
			return -ENOMEM;
		if (extra.revents && !atomic_load(&http->aborted))
			drain_abort_fd(http); /* a late wake-up of an abort that was cleared */
		now = clock_now_ns();
	}
	msg = curl_multi_info_read(http->multi, &left);
	return msg && msg->msg == CURLMSG_DONE ? errno_of(http, msg->data.result) : -EIO;
}

static void describe(struct http *http, int err)
{
	if (http->errbuf[0])
		return;
	snprintf(http->errbuf, sizeof http->errbuf, "%s",
		 err == -ETIMEDOUT  ? "no answer in time"
		 : err == -ECANCELED ? "aborted"
		 : err == -ENOTCONN  ? "no connection"
				     : strerror(-err));
}

int http_call(struct http *http, const struct http_request *req, struct http_answer *ret)
{
	int err;

	memset(ret, 0, sizeof *ret);
	ret->body = "";
	http->errbuf[0] = 0;
	http->req = req;
	http->answer = ret;
	http->serial_at_start = http->serial;
	http->body_read = 0;
	http->headers_len = 0;
	http->cb_error = 0;
	http->bad_server_id = false;
	http->auth_count = 0;
	http->start_ns = 0;
	if (http->body_cap > BODY_KEEP) {
		free(http->body);
		http->body = NULL;
		http->body_cap = 0;
	}
	err = renew_easy(http);
	if (!err)
		err = set_request_options(http, req);
	if (!err && curl_multi_add_handle(http->multi, http->easy))
		err = -ENOMEM;
	if (!err) {
		err = drive(http, req);
		if (!err && (ret->status < 100 || ret->status > 999)) /* libcurl's idea of a status line is wide */
			err = -EPROTO;
		if (!err)
			ret->elapsed_ns = clock_now_ns() - http->start_ns;
		curl_multi_remove_handle(http->multi, http->easy);
	}
	if (http->bad_server_id)
		ret->has_server_id = false;
	if (err == -ENOTCONN && req->no_open) /* libcurl would speak of a vain attempt to connect */
		snprintf(http->errbuf, sizeof http->errbuf, "the connection that it must go over is gone (%" PRIu64 " wanted, %" PRIu64 " there, %u sockets)",
			 req->serial, http->serial, http->n_sockets);
	if (err)
		describe(http, err);
	/* Whatever libcurl thinks of it: no later call may find it. */
	if (err && (ret->started || (err == -ENOTCONN && req->no_open)))
		http_disconnect(http);
	http->req = NULL;
	http->answer = NULL;
	return err;
}

void http_note_rtt(int64_t *rtt_ns, const struct http_answer *answer, bool may_wait)
{
	int64_t ns = answer->elapsed_ns;

	if (!answer->reused && *rtt_ns)
		return;
	if (*rtt_ns == 0) {
		if (!may_wait)
			*rtt_ns = ns;
	} else if (!may_wait || ns < *rtt_ns) {
		*rtt_ns += (ns - *rtt_ns) / 8;
	}
}

const char *http_error(const struct http *http)
{
	return http->errbuf;
}

uint64_t http_serial(const struct http *http)
{
	return http->serial;
}

void http_disconnect(struct http *http)
{
	CURLM *old = http->multi;

	/* A new serial, so that what remembers the old connection cannot match the next one. */
	http->serial++;
	if (multi_open(http) < 0) {
		http->multi = old;
		http->fresh = true;
		return;
	}
	http->fresh = false;
	curl_multi_cleanup(old);
	http->n_sockets = 0; /* whatever libcurl has lost sight of: it would pass for a dead connection at every call that may open none */
}

void http_abort(struct http *http)
{
	uint64_t one = 1;

	atomic_store(&http->aborted, true);
	while (write(http->abort_fd, &one, sizeof one) < 0 && errno == EINTR)
		;
}

void http_clear_abort(struct http *http)
{
	atomic_store(&http->aborted, false);
	drain_abort_fd(http);
}

bool http_aborted(const struct http *http)
{
	return atomic_load(&((struct http *)(uintptr_t)http)->aborted);
}
