/*
 * upstream: where a database's transactions go. Remote: HALT and /tx on the primary.
 * Self: LiteFS' own locks on this node and /tx to the local LiteFS. Own: HALT and /tx on this node's LiteFS, while it is
 * the primary: how databases are created and dropped there (a drop under self's WRITE ends LiteFS: LITEFS.md, 14).
 * Gateway: the primary's litefwd. db asks begin, commit, end and does not care which it is.
 *
 *   begin --0--> held --commit*--> held --end--> idle        held: nobody else can commit this database
 *
 * begin returns the position that is the latest of the whole cluster while held.
 * Threads: one thread per object (db's upstream worker); upstream_abort() from any.
 * begin, commit and end block on the network and on LiteFS, bounded by the
 * deadlines given. Ownership: borrows everything in the config until upstream_free().
 * Errors of begin (nothing is held afterwards): -EAGAIN not had in time; -EHOSTUNREACH no
 * primary, or it does not answer or is not the primary, or did not a moment ago (breaker.h: then it is not asked);
 * -EUCLEAN (self) LiteFS' WAL is not empty, db must have it checkpointed first; -ENOTCONN (self) the files are of a LiteFS
 * that is gone; -ECANCELED upstream_abort(); -ENOTSUP (gateway) there is none, it does not answer, speaks another version or
 * cannot have this database: HALT may do it.
 */
#ifndef LITEFWD_LITEFS_UPSTREAM_H
#define LITEFWD_LITEFS_UPSTREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/settings.h"
#include "format/pos.h"
#include "litefs/breaker.h"
#include "litefs/guard.h"
#include "litefs/halt_record.h"
#include "litefs/role.h"

struct upstream;

/* What is known of a commit. It is not an error: UNKNOWN must not be folded into one. */
enum outcome {
	OUTCOME_COMMITTED, /* applied there, at exactly tx->after */
	OUTCOME_REFUSED, /* not applied, and never will be */
	OUTCOME_UNKNOWN, /* may be applied, now or later */
};

/*
 * OWN: begin waits for every lock of the database on this node, so nothing of ours may be held on LiteFS' files
 * (guard, WRITE, SHARED) until end. Its HALT creates a database that does not exist yet, at position 0.
 */
enum upstream_kind { UPSTREAM_REMOTE, UPSTREAM_SELF, UPSTREAM_OWN, UPSTREAM_GATEWAY };

/* One LTX file, ready to be sent and already verified. */
struct upstream_tx {
	struct pos before;
	struct pos after;
	uint64_t size;
	/* Up to len bytes at offset: all of them unless at the end; negative errno. */
	ptrdiff_t (*read_at)(void *ctx, void *buf, size_t len, uint64_t offset);
	/* The last byte is on its way (remote and own; may be NULL). */
	void (*sent)(void *ctx);
	void *ctx;
};

struct gw_secret;
struct upstream_config {
	const struct settings *settings;
	const struct gw_secret *gw_secret; /* gateway; NULL or of length 0: none */
	const char *name; /* database */
	uint64_t node_id; /* litefwd's, random per mount */
	struct role *role;
	struct halt_record *halts;
	struct breakers *breakers; /* remote, own, gateway; NULL: none */
	struct gw_conns *gw_conns; /* gateway; NULL: a connection of its own for each lock */
	struct guard *guard; /* self */
	/* Exclusive use of guard (db's token); never called by remote and own. */
	void (*guard_enter)(void *ctx);
	void (*guard_leave)(void *ctx);
	void *ctx;
};

int upstream_new(const struct upstream_config *config, enum upstream_kind kind, struct upstream **ret);
void upstream_free(struct upstream *up); /* ends what is held; NULL is harmless */

enum upstream_kind upstream_kind(const struct upstream *up);

/* What begin brings. ltx and tx_size: gateway only, the transactions from `have` to pos, or none; valid until the next call. */
struct upstream_grant {
	struct pos pos;
	unsigned tx_count;
	const uint64_t *tx_size;
	const uint8_t *ltx; /* LTX files, one after the other */
};

/* have: where the caller stands. */
int upstream_begin(struct upstream *up, struct pos have, int64_t until_ns, struct upstream_grant *ret);

/*
 * What is held, for longer, under a transaction that goes on: 0 and the position then. Default: end and begin.
 * After an error nothing is held.
 */
int upstream_renew(struct upstream *up, int64_t until_ns, struct pos *ret_pos);

/* After a commit: others wait, and this node's turn is over. Always false where the upstream cannot tell. */
bool upstream_yield(const struct upstream *up);

/*
 * tx->before must be begin's or the last committed position. REFUSED while nothing is held. For a large one until_ns
 * must leave upstream_tx_ns(), or it is cut off in the middle and UNKNOWN.
 */
enum outcome upstream_commit(struct upstream *up, const struct upstream_tx *tx, int64_t until_ns);

/*
 * After a commit, once its client has been answered: gives back what only the commit needed (self:
 * the READs, which costs as much as an HTTP call). Idempotent; end and the next commit do it too.
 */
void upstream_settle(struct upstream *up);

/* Idempotent. What could not be told to the primary is tried again by later calls, and expires there. */
void upstream_end(struct upstream *up);

/*
 * What the primary could not be told before: when to try again (INT64_MAX: nothing is left), and the try, while nothing is held.
 * Blocks for some seconds at most. A lock that was granted to a question that we had given up
 * (a primary that was stopped, or a network that was) keeps everybody else out for 30 s otherwise.
 */
int64_t upstream_tidy_at(const struct upstream *up);
void upstream_tidy(struct upstream *up);

/* Monotonic time at which what is held can no longer be trusted for a commit; INT64_MAX for self. */
int64_t upstream_hold_until(const struct upstream *up);

/* From when on what is held is to be given back and taken again, while its transaction goes on; INT64_MAX for self. */
int64_t upstream_renew_at(const struct upstream *up);

/*
 * Sizes, by the measured rate. tx_ns: how long a commit of that size may take; not begun with less left of the
 * lock's time. max_tx_bytes: what goes into the life of a lock that was just taken; UINT64_MAX for self.
 * As begin: from the object's own thread.
 */
int64_t upstream_tx_ns(const struct upstream *up, uint64_t size);
uint64_t upstream_max_tx_bytes(const struct upstream *up);

/*
 * Which node's LiteFS the last begin was about, a vain one, too: its transactions went there, or would have gone. After a failover it is
 * another one, and what that one has not says nothing of what the first one has.
 */
struct upstream_node {
	char hostname[256], url[512]; /* of the primary, as role has them; both "" for this node's */
};
void upstream_node_of(const struct role_state *role, struct upstream_node *ret); /* role's primary; role NULL: this node */
void upstream_node(const struct upstream *up, struct upstream_node *ret);
bool upstream_node_equal(const struct upstream_node *a, const struct upstream_node *b);

/*
 * Fresh evidence about an unknown commit: the position of the database where it was sent, obtained so that
 * nothing sent earlier can still be applied (a new HALT, or LiteFS' own locks). 0 or as begin.
 */
int upstream_probe(struct upstream *up, int64_t until_ns, struct pos *ret_pos);

/* Makes begin and commit in progress return soon. Stays in force until the next begin. */
void upstream_abort(struct upstream *up);

/* Smoothed round trip, ns; 0 when not known. */
int64_t upstream_rtt_ns(const struct upstream *up);

/* ---- for the implementations ---- */

struct upstream_ops {
	int (*begin)(struct upstream *up, struct pos have, int64_t until_ns, struct upstream_grant *ret);
	enum outcome (*commit)(struct upstream *up, const struct upstream_tx *tx, int64_t until_ns);
	void (*settle)(struct upstream *up); /* may be NULL */
	void (*end)(struct upstream *up);
	/* may be NULL, both: */
	int64_t (*tidy_at)(const struct upstream *up);
	void (*tidy)(struct upstream *up);
	int64_t (*rtt_ns)(const struct upstream *up);
	void (*abort)(struct upstream *up);
	void (*free)(struct upstream *up);
	int (*renew)(struct upstream *up, int64_t until_ns, struct pos *ret_pos); /* may be NULL */
	bool (*yield)(const struct upstream *up); /* may be NULL */
	/* NULL where what is held does not end: */
	int64_t (*hold_until)(const struct upstream *up);
	int64_t (*renew_at)(const struct upstream *up);
	int64_t (*tx_ns)(const struct upstream *up, uint64_t size);
	uint64_t (*max_tx_bytes)(const struct upstream *up);
};

struct upstream {
	const struct upstream_ops *ops;
	enum upstream_kind kind;
	struct upstream_config config;
	struct upstream_node node; /* by upstream_note_node() */
};

/* In begin. role NULL: this node. */
void upstream_note_node(struct upstream *up, const struct role_state *role);

/* tx's bytes in order, as api_tx wants them; begins at offset 0. */
struct upstream_body {
	const struct upstream_tx *tx;
	uint64_t offset;
};
ptrdiff_t upstream_body_read(void *body, void *buf, size_t len);
void upstream_body_sent(void *body); /* tells tx */

int upstream_remote_new(const struct upstream_config *config, enum upstream_kind kind, struct upstream **ret); /* and own */
int upstream_gateway_new(const struct upstream_config *config, struct upstream **ret);
int upstream_self_new(const struct upstream_config *config, struct upstream **ret);

#endif
