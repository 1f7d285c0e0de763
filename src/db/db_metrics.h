/*
 * db_metrics: durations, of all databases of a mount together: a histogram for each database would be more series than anybody looks at.
 * What is counted per database is in db_status().
 *
 * Ownership: db_config's giver; zeroed at first. Threads: written by any (histogram.h); read without a lock.
 */
#ifndef LITEFWD_DB_DB_METRICS_H
#define LITEFWD_DB_DB_METRICS_H

#include <jansson.h>

#include "base/histogram.h"

/* Where a transaction goes, in enum upstream_kind's order; SERVED: another node's, which came by the gateway and is committed here. */
enum db_path { DB_PATH_HALT, DB_PATH_SELF, DB_PATH_OWN, DB_PATH_GATEWAY, DB_PATH_SERVED, DB_PATHS };
extern const char *const db_path_names[DB_PATHS];

/* NOT_SENT: it failed before a byte of it had left. REFUSED, NOT_COMMITTED: told, or found out. */
enum db_tx_outcome { DB_TX_COMMITTED, DB_TX_REFUSED, DB_TX_NOT_COMMITTED, DB_TX_UNKNOWN, DB_TX_NOT_SENT, DB_TX_OUTCOMES };
extern const char *const db_tx_outcome_names[DB_TX_OUTCOMES];

/* BUSY: others had it until halt_timeout. AWAY: nobody answers, or is the primary. */
enum db_begin_outcome { DB_BEGIN_HELD, DB_BEGIN_BUSY, DB_BEGIN_AWAY, DB_BEGIN_FAILED, DB_BEGIN_OUTCOMES };
extern const char *const db_begin_outcome_names[DB_BEGIN_OUTCOMES];

struct db_metrics {
	struct histogram begin[DB_PATH_SERVED][DB_BEGIN_OUTCOMES]; /* until upstream is held, or not */
	struct histogram hold[DB_PATH_SERVED]; /* how long it was held */
	struct histogram write_wait[2]; /* of clients for the right to write: granted, sent away with BUSY */
	struct histogram commit[DB_PATHS][DB_TX_OUTCOMES]; /* COMMIT, from its last write to its answer */
	struct histogram build, send, replicate; /* its parts, of those that were committed */
	struct histogram catch_up; /* readers held back until LiteFS here had what the primary has */
};

/* {"begin": [{"labels": {"upstream": "halt", "outcome": "held"}, "up_to": [...], "sum_ns": N}, ...], ...}; a new reference. */
json_t *db_metrics_json(const struct db_metrics *metrics);

#endif
