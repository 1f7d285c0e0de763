/*
 * gw_conns: connections to gateways, one set per mount. A database takes one for as long as it holds its lock, or asks for it,
 * and gives it back: so the next database that writes finds one on which the gateway has said who it is, and pays neither a
 * handshake nor that question; and as many are open as databases are written to at once, not as there are databases.
 * (Two locks cannot share one at the same time: HTTP/1.1 answers in order, and a begin's answer waits for its turn.)
 *
 * Threads: any; a mutex; never blocks. Ownership: a connection that was taken is its taker's alone. Errors: NULL, no memory.
 */
#ifndef LITEFWD_LITEFS_GW_CONNS_H
#define LITEFWD_LITEFS_GW_CONNS_H

#include <stdint.h>

#include "litefs/gw_proto.h"
#include "litefs/http.h"
#include "litefs/url.h"

struct gw_conns;

struct gw_conn {
	struct gw_conn *next; /* while nobody has it */
	struct http *http;
	char url[URL_MAX];
	uint64_t caller, counter; /* of gw_auth */
	struct gw_info info; /* what was said on it */
	uint64_t epoch, serial; /* role's, and the connection, in which `info` was asked; epoch 0: ask */
	int64_t rtt_ns; /* 0: not known */
};

int gw_conns_new(struct gw_conns **ret); /* 0 or -ENOMEM */
/* Nobody has one any more. NULL is harmless. */
void gw_conns_free(struct gw_conns *conns);

/* The one that was used last, or a new one, which opens when it is asked something. conns NULL: a new one. */
struct gw_conn *gw_conns_take(struct gw_conns *conns, const char *url, uint64_t node_id);
/* Some are kept, the rest is closed. NULL is harmless. */
void gw_conns_give(struct gw_conns *conns, struct gw_conn *conn);

#endif
