/*
 * role_events: the stream of GET /events, cut into lines and decoded.
 *
 * LiteFS writes one JSON object a line: {"type":"init","data":{"isPrimary":true}},
 * "primaryChange" with the same data, "tx" with a database and its new position, and perhaps others one day, which are
 * OTHER, as is a "tx" without a position that we can read. data.hostname is left out where it is empty, and on the primary itself.
 * Ownership: keeps an unfinished line. Threads: one at a time.
 * Errors: -EPROTO a line that is no such object, or longer than ROLE_EVENT_MAX; -ENOMEM.
 */
#ifndef LITEFWD_LITEFS_ROLE_EVENTS_H
#define LITEFWD_LITEFS_ROLE_EVENTS_H

#include <stdbool.h>
#include <stddef.h>

#include "format/names.h"
#include "format/pos.h"

#define ROLE_EVENT_MAX (1024 * 1024)

enum role_event_kind { ROLE_EVENT_INIT, ROLE_EVENT_PRIMARY_CHANGE, ROLE_EVENT_TX, ROLE_EVENT_OTHER };

struct role_event {
	enum role_event_kind kind;
	bool is_primary;
	char hostname[256];
	/* TX: */
	char db[NAME_DB_MAX + 1];
	struct pos pos;
};

struct role_events {
	char *line;
	size_t len, cap;
};

/* One line, without its end. */
int role_event_parse(const char *line, size_t len, struct role_event *ret);

/* Takes the next bytes; on_event for each whole line, whose non-zero result ends the call with it. */
int role_events_feed(struct role_events *events, const char *data, size_t len,
		     int (*on_event)(void *ctx, const struct role_event *event), void *ctx);

/* Forgets an unfinished line. Zeroed is empty; twice is harmless. */
void role_events_fini(struct role_events *events);

#endif
