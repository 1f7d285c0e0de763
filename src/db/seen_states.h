/*
 * seen_states: what connections in a rollback mode may still have in their page caches.
 *
 * Such a connection takes its cache for good as long as bytes 24..39 of page 1 are the same (change counter, size, free
 * list). Within one history of a database they are not; but LiteFS may give up a part of its history (a failover, an
 * import), and the other one may come to the same bytes. Then nobody who has the database open can be trusted to notice.
 *
 * Remembers the last states, oldest forgotten first. Pure; the caller's lock.
 */
#ifndef LITEFWD_DB_SEEN_STATES_H
#define LITEFWD_DB_SEEN_STATES_H

#include <stdbool.h>
#include <stdint.h>

#include "format/pos.h"

#define SEEN_STATES_MAX 512
#define SEEN_STATE_OFFSET 24
#define SEEN_STATE_SIZE 16

struct seen_states {
	struct {
		uint8_t bytes[SEEN_STATE_SIZE];
		struct pos pos;
	} states[SEEN_STATES_MAX]; /* a ring */
	uint32_t count;
};

/* Notes a state. True: the same bytes stood for another content before; that one is forgotten. */
bool seen_states_add(struct seen_states *seen, const uint8_t *page1, struct pos pos);

#endif
