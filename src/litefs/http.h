/*
 * http: blocking HTTP/1.1 calls to one base URL over at most one kept connection.
 *
 * The only module that sees libcurl. It knows what makes a request dangerous to
 * repeat (whether a byte of it may have left, on which connection) and reports it;
 * it refuses to know what the requests mean, but for three answer headers.
 *
 * The body of a request is sent once: its seek callback fails, so libcurl cannot
 * rewind it. Without a body libcurl may repeat a request on a new connection when a
 * kept one turns out to be dead. Every close is a reset (SO_LINGER 0), so that
 * nothing that was written and not answered stays on its way.
 *
 * Ownership: copies base URL and headers; borrows a request for the call; an
 * answer's body lives until the next call.
 * Threads: one at a time per object; http_abort() and http_clear_abort() from any.
 * http_call() blocks until its deadline at most; the deadline and http_abort() act
 * within milliseconds.
 * Errors of http_call (closed set but for what callbacks return): -ENOTCONN nothing
 * was sent; -ETIMEDOUT; -ECANCELED; -EPROTO not HTTP, or beyond a bound; -EIO the
 * connection was lost; -EINVAL a URL that libcurl refuses; -ENOMEM. After any
 * error with answer.started the connection is closed.
 */
#ifndef LITEFWD_LITEFS_HTTP_H
#define LITEFWD_LITEFS_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct http;

/* Once per process. 0 or -ENOMEM. */
int http_global_init(void);
void http_global_fini(void);

/* id_header: a whole header line sent with every request. -EINVAL: not url_is_base(). */
int http_new(const char *base_url, const char *id_header, struct http **ret);
void http_free(struct http *http);
const char *http_url(const struct http *http);

enum http_method { HTTP_GET, HTTP_POST, HTTP_DELETE };

struct http_request {
	enum http_method method;
	const char *target; /* "/path?query", encoded */
	const char *header; /* one more line, whole; NULL: none */
	int64_t deadline_ns; /* < 0: none */
	size_t max_answer; /* a longer body is -EPROTO */

	/* Body of a POST; read NULL: empty. */
	uint64_t size;
	ptrdiff_t (*read)(void *ctx, void *buf, size_t len); /* as api_tx.read */
	void (*sent)(void *ctx); /* last byte handed to the socket; may be NULL */

	/* An answer that never ends: with status 200 its bytes go here, not into answer->body. Non-zero ends the call with it. */
	int (*on_data)(void *ctx, const char *data, size_t len);
	int (*on_tick)(void *ctx); /* every tick_ms while it goes on */
	int tick_ms;
	void *ctx;

	/* Never open a connection; with serial != 0 only that one (http_serial()) will do. -ENOTCONN. */
	bool no_open;
	uint64_t serial;
};

#define HTTP_AUTH_MAX 160

struct http_answer {
	bool started; /* a connection was there and the request may have begun to leave; false: not one byte did */
	bool reused; /* on a connection that was there before the call */
	bool body_sent; /* the request's body has left, whole */
	int status; /* 0: no answer */
	const char *body; /* any bytes, terminated by a 0 that is not counted; "" when there is none */
	size_t len;
	bool has_server_id; /* exactly one well-formed Litefs-Id */
	uint64_t server_id;
	char auth[HTTP_AUTH_MAX]; /* Litefwd-Auth; "": none, more than one, or too long */
	int64_t date_ms; /* Date header, ms since 1970; 0: none */
	int64_t elapsed_ns; /* from the first byte that could leave to the end of the answer */
};

/* *ret is filled on errors too, as far as it came. */
int http_call(struct http *http, const struct http_request *request, struct http_answer *ret);

/*
 * A round trip as answers show it, smoothed like TCP's: an eighth of the new sample; *rtt_ns 0: not known yet. may_wait: the
 * server may have waited, so only a lower sample says something.
 */
void http_note_rtt(int64_t *rtt_ns, const struct http_answer *answer, bool may_wait);

/* Text of the last error, from libcurl; "" where there is none. Valid until the next call. */
const char *http_error(const struct http *http);

/* Names the connection that the last call used; changes with every connection opened. */
uint64_t http_serial(const struct http *http);

/* Closes the connection now (a reset). */
void http_disconnect(struct http *http);

void http_abort(struct http *http);
void http_clear_abort(struct http *http);
bool http_aborted(const struct http *http);

#endif
