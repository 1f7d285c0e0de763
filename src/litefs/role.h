/*
 * role: is this node the primary, and where is the primary otherwise.
 *
 * A thread of its own follows GET /events of the local LiteFS ("init",
 * "primaryChange"), asks /info when the stream begins or breaks, and resolves the
 * primary's URL from the sources of DESIGN: primary_url= (a template with
 * {hostname}), else litefs.yml's static lease, else what its Consul lease says of the
 * hostname that LiteFS names. It keeps the answer, so that asking
 * costs a mutex and no network. It refuses to know databases.
 *
 * Threads: role_get from any, never blocks on the network; on_change is called from
 * role's thread, must not call role_start/role_stop, and may take the caller's locks.
 * Errors of role_start: -ENOMEM, -EINVAL (a template without a usable URL, a Consul that cannot be asked).
 */
#ifndef LITEFWD_LITEFS_ROLE_H
#define LITEFWD_LITEFS_ROLE_H

#include <stdbool.h>
#include <stdint.h>

#include "format/pos.h"

struct role;

enum role_kind {
	ROLE_UNKNOWN, /* the local LiteFS does not answer, or knows no primary */
	ROLE_PRIMARY,
	ROLE_REPLICA,
};

struct role_state {
	enum role_kind kind;
	uint64_t epoch; /* +1 at every change of any field */
	bool local_alive; /* the local LiteFS answers */
	char primary_hostname[256]; /* on a replica; "" when unknown */
	char primary_url[512]; /* on a replica; "" when it cannot be resolved */
	char gateway_url[512]; /* the primary's litefwd, on a replica; "" when not configured, or it cannot be resolved */
	char cluster_id[64]; /* of the local LiteFS */
	char path[4096]; /* its data directory */
	uint64_t server_id; /* its Litefs-Id */
};

struct role_config {
	const char *litefs_url; /* local LiteFS; borrowed until role_stop, like the rest */
	const char *primary_url; /* template, or NULL */
	const char *gateway_url; /* template, or NULL */
	const char *lease_hostname; /* static lease of litefs.yml: lease.hostname and ... */
	const char *lease_url; /* ... lease.advertise-url; NULL: none */
	const char *consul_url; /* Consul lease of litefs.yml: lease.consul.url, may be NULL, and ... */
	const char *consul_key; /* ... lease.consul.key; NULL: none. Asked where primary_url is NULL */
	uint64_t node_id; /* ours, for Litefs-Id */
	void (*on_change)(void *ctx, const struct role_state *state);
	/* LiteFS here has applied a transaction; as on_change. May be NULL. */
	void (*on_tx)(void *ctx, const char *db, struct pos pos);
	void *ctx;
};

int role_start(const struct role_config *config, struct role **ret);
void role_stop(struct role *role); /* joins the thread, in bounded time; NULL is harmless */

void role_get(struct role *role, struct role_state *ret);

/* What most want to know of it. */
static inline enum role_kind role_kind_now(struct role *role)
{
	struct role_state state;

	role_get(role, &state);
	return state.kind;
}

/* The epoch alone, lock-free: cheap enough for every transaction. */
uint64_t role_epoch(const struct role *role);

/* Waits until the local LiteFS has answered: 0 or -ETIMEDOUT. */
int role_wait_local(struct role *role, int64_t deadline_ns);

/* Expands {hostname}: 0, -EINVAL (no usable URL), -ENAMETOOLONG, -ENOENT (template needs a hostname, none known). */
int role_expand_url(const char *tmpl, const char *hostname, char *ret, unsigned long size);

#endif
