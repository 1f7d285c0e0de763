/*
 * fake_litefs: a LiteFS for tests, inside the test's process, that obeys a script.
 *
 * An HTTP/1.1 server in threads on a loopback port that the kernel chooses. Each
 * request of a verb takes the next step of that verb's script; with the script empty
 * it is answered "honestly": as LiteFS v0.5.14 does, with positions, HALT locks and
 * their TTL kept, and with LiteFS' missing checks missing too (no primary check and no
 * HALT check on /tx, the position compared when the header arrives).
 *
 * Ownership: copies what a step points to. Threads: every function from any.
 * fake_stop() closes every connection with a reset, joins all threads and frees.
 * Failures of the fake itself abort the test.
 */
#ifndef LITEFWD_TESTS_FAKE_LITEFS_H
#define LITEFWD_TESTS_FAKE_LITEFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/pos.h"

struct fake;

enum fake_verb { FAKE_INFO, FAKE_HALT, FAKE_UNHALT, FAKE_TX, FAKE_EVENTS, FAKE_VARS, FAKE_OTHER, FAKE_VERBS };

enum fake_does {
	FAKE_HONEST, /* as without a step, but for delay, id and close below */
	FAKE_ANSWER, /* body read, then status and body of the step */
	FAKE_ANSWER_EARLY, /* the same without reading the request's body */
	FAKE_RAW, /* body read, then the step's body as the whole answer, headers included */
	FAKE_CLOSE_BEFORE, /* header read, closed */
	FAKE_CLOSE_AFTER_HEADER, /* header and the first 100 bytes of the body read, closed */
	FAKE_CLOSE_AFTER_BODY, /* all read, nothing done, closed */
	FAKE_LOSE_ANSWER, /* done honestly, closed instead of the answer */
	FAKE_STALL, /* all read, nothing answered until the client goes */
	FAKE_STALL_BODY, /* header read; the body is left in the socket until the client goes */
};

enum fake_id { FAKE_ID_OWN, FAKE_ID_NONE, FAKE_ID_WRONG, FAKE_ID_TWICE };

struct fake_step {
	enum fake_does does;
	int delay_ms; /* before the answer */
	int status; /* 0: 200 */
	const char *body; /* of FAKE_ANSWER, FAKE_RAW; NULL: empty */
	size_t body_len; /* 0: strlen(body) */
	long long content_length; /* 0: right; else this is claimed */
	const char *header; /* one more header line without line end, e.g. "Location: http://..." */
	size_t repeat; /* the body is sent so many times; 0: once */
	enum fake_id id;
	bool close_after; /* the connection, after an answer (FIN) */
	bool no_date;
};

/* node_id: its Litefs-Id. Starts as primary, without databases, TTL 30 s, acquire timeout 10 s. */
struct fake *fake_start(uint64_t node_id);
void fake_stop(struct fake *fake);

const char *fake_url(const struct fake *fake); /* "http://127.0.0.1:PORT" */
uint64_t fake_node_id(const struct fake *fake);

/* Appends a step for the next request of that verb that has none yet. */
void fake_script(struct fake *fake, enum fake_verb verb, const struct fake_step *step);

/* The node: told to open event streams as primaryChange. hostname: of the primary, "" none. */
void fake_set_role(struct fake *fake, bool is_primary, const char *hostname);
void fake_set_cluster(struct fake *fake, const char *cluster_id, const char *path);
void fake_set_ttl(struct fake *fake, int ttl_ms, int acquire_timeout_ms);

/* Any bytes to every open event stream. */
void fake_send_event(struct fake *fake, const char *bytes, size_t len);
/* Ends every open event stream: as LiteFS going away in order. */
void fake_break_events(struct fake *fake);
/* Closes every connection (a reset) and refuses new ones, as a dead LiteFS; true: is there again, its HALT locks gone. */
void fake_set_up(struct fake *fake, bool up);

/* A database's position; creates it. What a node of its own would have done: tx event, waiting readers. */
void fake_set_pos(struct fake *fake, const char *db, struct pos pos);
bool fake_get_pos(struct fake *fake, const char *db, struct pos *ret);
/* The id of the HALT lock held on it, 0 none. */
uint64_t fake_halted_by(struct fake *fake, const char *db);
/* Frees it as LiteFS' sweep does. Otherwise it ends when its TTL is over, to the millisecond (LiteFS: up to 5 s later). */
void fake_expire_halt(struct fake *fake, const char *db);
/* HALT locks granted anew (the same id asked for again is not), and those whose time was over before their DELETE. */
unsigned fake_granted(struct fake *fake);
unsigned fake_expired(struct fake *fake);
/* Of the /tx applied: those during which the HALT of their lockID was not held from header to end. LiteFS does not care. */
unsigned fake_unhalted_tx(struct fake *fake);
/* As /debug/vars prints them; "unlocked" until then. Strings are kept, not copied. */
void fake_set_locks(struct fake *fake, const char *db, const char *shared, const char *dms);
/* A lock of its own (a local writer): /halt waits until it is gone. */
void fake_lock(struct fake *fake, const char *db, bool locked);

/* Called after an honest /tx was checked and before its answer; ltx: the whole body. Position is set after it. */
void fake_on_tx(struct fake *fake, void (*applied)(void *ctx, const char *db, const uint8_t *ltx, size_t len), void *ctx);

/* How many requests of the verb were read (header complete), bodies complete, connections accepted, and open now. */
unsigned fake_count(struct fake *fake, enum fake_verb verb);
unsigned fake_bodies(struct fake *fake, enum fake_verb verb);
unsigned fake_connections(struct fake *fake);
unsigned fake_open(struct fake *fake);
/* Connections that the client ended with a reset. */
unsigned fake_resets(struct fake *fake);
/* Bounded wait (10 s) until that many requests of the verb were read: false when not. */
bool fake_wait_count(struct fake *fake, enum fake_verb verb, unsigned n);
bool fake_wait_open(struct fake *fake, unsigned n);

/* The last request's header block of the verb ("" none), copied. */
void fake_last_request(struct fake *fake, enum fake_verb verb, char *ret, size_t size);
/* Bodies of /tx are read at so many bytes per second (0: at once); a slow link, or a slow LiteFS. */
void fake_set_rate(struct fake *fake, unsigned bytes_per_s);
/* The last complete body of /tx: owned by the caller; NULL none. */
uint8_t *fake_last_tx(struct fake *fake, size_t *ret_len);

#endif
