/*
 * health: is this mount well? Judges what status says (fs_status_json()), and nothing else: the status file, `litefwd status`, /healthz and
 * the metrics say the same, for they ask here.
 *
 * Degraded is what somebody should look at: writes get BUSY, reads fail, replication is held up, or an outcome is not known. What
 * litefwd gets over by itself within a moment is not. A server that did not answer counts for HEALTH_RECENT_MS: nobody asks it while
 * nobody writes, and then nobody knows.
 *
 * Pure; threads: any. Errors: none; what is missing in status is well.
 */
#ifndef LITEFWD_STATUS_HEALTH_H
#define LITEFWD_STATUS_HEALTH_H

#include <stdbool.h>

#include <jansson.h>

#define HEALTH_RECENT_MS 30000
#define HEALTH_LONG_READ_MS 60000

enum health_reason {
	HEALTH_LITEFS_GONE, /* the local LiteFS does not answer, or its mount is gone */
	HEALTH_NO_PRIMARY, /* LiteFS here is neither primary nor connected to one */
	HEALTH_NO_PRIMARY_URL, /* LiteFS knows the primary, and we do not know where it is */
	HEALTH_PRIMARY_AWAY, /* it does not answer: writes get BUSY */
	HEALTH_GATEWAY_AWAY, /* it does not answer: LiteFS' HALT is used meanwhile */
	HEALTH_UNKNOWN_OPEN, /* a commit was answered with an I/O error, and its outcome is still to be found */
	HEALTH_UNDECIDED, /* a commit whose answer was lost: the outcome is being looked for */
	HEALTH_POISONED, /* its readers get errors until they begin anew */
	HEALTH_LONG_READER, /* a read transaction holds up replication */
	HEALTH_REASONS
};

/* "litefs_gone", ...: as in status and in the metrics. */
const char *health_reason_name(enum health_reason reason);

/*
 * {"state": "well" or "degraded", "reasons": [{"reason": "primary_away", "db": "app.db" (or null), "text": "..."}]}, a new reference;
 * NULL: no memory.
 */
json_t *health_judge(const json_t *status);

bool health_is_well(const json_t *health);
/* "reason, reason (db)" into ret, cut off at size; "" when well. */
void health_summary(const json_t *health, char *ret, size_t size);

#endif
