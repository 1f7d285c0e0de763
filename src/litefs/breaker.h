/*
 * breaker: which of the servers that upstreams use do not answer. One per mount, shared by its databases: when one has found
 * out, the others need not wait for the same timeout, and one question at a time finds out when the server is back.
 *
 *   CLOSED --bad--> OPEN --its pause is over, and somebody enters--> PROBING --good--> CLOSED
 *                    ^----------------bad: a longer pause----------------'
 *
 * It asks nobody anything itself: whoever wants to begin does, and what it finds it says here. Clients do not wait for that
 * (db answers BUSY while its last begin found nobody, and begins in the background).
 * Threads: any; a mutex; never blocks. Ownership: copies URLs; a breaker lives as long as its table. Errors: none. A breaker
 * that is NULL (no table, no memory, a table that is full) lets everybody through.
 */
#ifndef LITEFWD_LITEFS_BREAKER_H
#define LITEFWD_LITEFS_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

struct breakers;
struct breaker;

int breakers_new(struct breakers **ret);
void breakers_free(struct breakers *breakers); /* NULL is harmless */

/* what: "litefs" or "gateway", a constant. pause_max_ns: how often it is asked while it is away. */
struct breaker *breaker_get(struct breakers *breakers, const char *what, const char *url, int64_t pause_max_ns);

/* PROBE: alone; before anything else it is to be asked whether it is there. To be followed by one of the three below. */
enum breaker_entry { BREAKER_DENIED, BREAKER_ALLOWED, BREAKER_PROBE };

/* epoch: role's. With another one than that of the last failure the cluster has changed, and waiting has no point. */
enum breaker_entry breaker_enter(struct breaker *b, uint64_t epoch);
void breaker_good(struct breaker *b); /* it has answered */
void breaker_bad(struct breaker *b, uint64_t epoch, const char *error); /* it has not, or is not what it should be */
void breaker_untold(struct breaker *b); /* of a PROBE that was given up; else nothing */

/* [{"url", "what", "state", "failures" (in a row), "opened", "denied", "probes", "away_ms"}, ...]; a new reference, or NULL. */
json_t *breakers_status(struct breakers *breakers);

#endif
