/*
 * gateway: this node's litefwd answers other nodes' while it is the primary (litefs/gw_proto.h, ARCHITECTURE.md).
 *
 * An HTTP server (libmicrohttpd, one thread of its own that never waits for LiteFS or for a lock of a database: requests that must
 * wait are suspended, and resumed by db's workers). It knows the wire, who may ask and how much, and sessions' connections; what a
 * transaction is, db knows. Only gateway_http.c sees libmicrohttpd.
 *
 * Ownership: borrows its config until gateway_stop(). Threads: gateway_start and gateway_stop from main's.
 * Errors of gateway_start: negative errno, logged with what to do (address in use, no secret on an address that is not loopback, ...).
 */
#ifndef LITEFWD_GATEWAY_GATEWAY_H
#define LITEFWD_GATEWAY_GATEWAY_H

#include <stdint.h>

#include <jansson.h>

#include "base/settings.h"
#include "db/db.h"
#include "litefs/role.h"

struct gateway;

struct gateway_config {
	const struct settings *settings; /* gateway, gateway_secret, spool_dir, spool_threshold */
	struct role *role;
	uint64_t node_id; /* litefwd's; "server" in answers */
	/*
	 * The database of this name, opened if LiteFS has it: 0, -ENOENT, ... May block on the local LiteFS, so the gateway calls
	 * it from a thread of its own. It stays until put.
	 */
	int (*db_get)(void *ctx, const char *name, struct db **ret);
	/* The same where it is open already and nothing need be waited for, else -EAGAIN. Any thread; may be NULL. */
	int (*db_find)(void *ctx, const char *name, struct db **ret);
	void (*db_put)(void *ctx, struct db *db); /* does not block; may be NULL */
	void *ctx;
};

int gateway_start(const struct gateway_config *config, struct gateway **ret);
/* Calls in db are ended first (db_gw_end), then the server. NULL is harmless. */
void gateway_stop(struct gateway *gateway);

/* As it is bound: "127.0.0.1:20300", "[::1]:20300". Lives as long as the gateway. */
const char *gateway_address(const struct gateway *gateway);
/* Address, sessions and answers by their code; a new reference. Any thread. */
json_t *gateway_status(struct gateway *gateway);

#endif
