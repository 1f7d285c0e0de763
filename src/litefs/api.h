/*
 * api: LiteFS' HTTP verbs (halt, tx, unhalt, info, /debug/vars) on one kept connection.
 *
 * One api object is one LiteFS base URL and at most one TCP connection (HTTP/1.1,
 * one libcurl easy handle). It knows the wire and its dangers (LITEFS.md, "The HTTP
 * API"); it refuses to know databases, locks on files and who is primary.
 *
 * Rules that keep a transaction from being executed twice or late:
 *  - api_tx() never opens a connection: it goes over the one that api_halt() used
 *    (or, with require_halt_connection false, any open one), and is sent once. The body's
 *    seek callback fails, so libcurl cannot send it again.
 *  - no redirects, no proxies from the environment, no "Expect: 100-continue", TCP_NODELAY.
 *  - answers are bounded: 1 MiB for JSON, 4 KiB for errors; the rest is a protocol error.
 *  - names are checked by name_is_database() and URL-encoded before anything is sent.
 *
 * Threads: one thread at a time per object; api_abort() from any. Every call but
 * api_new, api_free and api_abort blocks on the network, for at most its timeout.
 * Errors (closed set): -EINVAL a bad name or URL, nothing sent; -ENOTCONN could not
 * connect, or the connection that the call needs is gone, nothing sent; -ETIMEDOUT;
 * -EPROTO an answer that is not LiteFS'; -EREMOTEIO LiteFS answered an error (text in
 * api_error()); -ECANCELED api_abort(); -ENOMEM; -EIO any other loss of the connection.
 * Outputs are unchanged on error.
 */
#ifndef LITEFWD_LITEFS_API_H
#define LITEFWD_LITEFS_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/pos.h"

struct api;

/* Once per process, before the first thread / after the last. */
int api_global_init(void);
void api_global_fini(void);

/*
 * base_url: "http://host:port", borrowed for the call; nothing is connected yet.
 * node_id: sent as "Litefs-Id: %016X"; must not be a LiteFS node's own (random).
 */
int api_new(const char *base_url, uint64_t node_id, struct api **ret);
void api_free(struct api *api); /* closes the connection; NULL is harmless */
const char *api_url(const struct api *api);

/* Text of the last error, cleaned for the log; "" when there was none. Valid until the next call. */
const char *api_error(const struct api *api);

/* Makes a call in progress fail with -ECANCELED and its connection be reset. Stays in force until api_clear_abort(). */
void api_abort(struct api *api);
void api_clear_abort(struct api *api);

/* Closes the connection (SO_LINGER 0: a reset). The next call but api_tx connects anew. */
void api_disconnect(struct api *api);

struct api_info {
	bool is_primary;
	char cluster_id[64]; /* "" where LiteFS has none */
	char primary_hostname[256]; /* "" when unknown */
	char path[4096]; /* LiteFS' data directory */
	uint64_t server_id; /* Litefs-Id of the answer */
};
int api_info(struct api *api, int timeout_ms, struct api_info *ret);

struct api_halt {
	uint64_t id;
	struct pos pos;
	int64_t ttl_ms; /* from "expires" minus the answer's Date header; 30000 where that cannot be told */
	uint64_t server_id;
};

/*
 * POST /halt. id: 1..INT64_MAX. LiteFS waits up to 10 s for its locks, so -ETIMEDOUT
 * after timeout_ms is the normal way to give up a wait; the connection is then reset,
 * which ends the wait on the server, but the lock may have been taken: always api_unhalt().
 * sent_ns (may be NULL): clock_now_ns() from before the request was sent.
 */
int api_halt(struct api *api, const char *name, uint64_t id, int timeout_ms, struct api_halt *ret, int64_t *sent_ns);

/* DELETE /halt. Only for a name that api_halt() was sent for: LiteFS dereferences nil for an unknown one. */
int api_unhalt(struct api *api, const char *name, uint64_t id, int timeout_ms);

/*
 * What is known of a transaction after api_tx(). AMBIGUOUS: something was sent and
 * there is no 200 with the right Litefs-Id: it may be applied now, or later.
 */
enum api_tx_result {
	API_TX_APPLIED, /* 200 */
	API_TX_NOT_SENT, /* not one byte of the request left */
	API_TX_REFUSED, /* LiteFS answered an error whose text proves that nothing was applied (position or validation, before apply) */
	API_TX_AMBIGUOUS,
};

struct api_tx {
	const char *name;
	uint64_t lock_id;
	uint64_t server_id; /* what api_halt() showed; 0: do not compare */
	uint64_t size; /* Content-Length */
	/* The body, in order: up to len bytes; short only at the end; negative errno aborts. */
	ptrdiff_t (*read)(void *ctx, void *buf, size_t len);
	/* Called once, when the last byte was handed to the socket layer. May be NULL. */
	void (*sent)(void *ctx);
	void *ctx;
	bool require_halt_connection;
	int64_t deadline_ns; /* monotonic; past it the connection is reset and the result AMBIGUOUS (or NOT_SENT) */
};
enum api_tx_result api_tx(struct api *api, const struct api_tx *tx);

/* As LiteFS shows its locks: of all owners together, itself included. */
enum api_lock { API_UNLOCKED, API_SHARED, API_EXCLUSIVE };

struct api_debug_db {
	struct pos pos;
	/* A HALT is among the owners: of a WAL database it holds both (shared), of a rollback one SHARED exclusively. */
	enum api_lock shared, dms;
};

/*
 * What GET /debug/vars says of the database; -ENOENT where LiteFS does not list it. A debug page, of one moment: the
 * locks say whether somebody was there (in WAL mode a client holds both while it has the database open), not that nobody
 * comes. To know of clients ask while no HALT is held.
 */
int api_debug_db(struct api *api, const char *name, int timeout_ms, struct api_debug_db *ret);

/* Smoothed time of one request and answer on this connection, for small requests; 0 before the first. ns. */
int64_t api_rtt_ns(const struct api *api);

#endif
