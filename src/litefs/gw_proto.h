/*
 * gw_proto: what a replica's litefwd and the primary's say to each other (ARCHITECTURE.md, "The gateway's protocol").
 *
 *   GET    /info                                       who is there
 *   POST   /halt?v=1&name=N&id=I&pos=P&wait=MS&peer=X&cluster=C    begin; held already: renewed
 *   POST   /tx?v=1&name=N&id=I        body: one LTX    commit
 *   DELETE /halt?v=1&name=N&id=I                       end
 *
 *   N database, percent-encoded   I 1..INT64_MAX, decimal, the caller's choice (random)   P what the caller has, TXID "-" checksum,
 *   16 hex digits each   MS how long to wait in the queue   X the caller's node id, 16 hex digits   C its LiteFS' cluster id
 *
 * Every answer's body is one line of JSON; after the line of a granted /halt come the LTX files that the caller lacks, one after
 * the other, in order, their sizes in "tx". Unknown members are ignored.
 *
 *   /info  {"litefwd":1,"is_primary":true,"cluster":C,"server":X,"nonce":"32 hex digits"}
 *   /halt  {"litefwd":1,"pos":"P","lease_ms":5000,"waiting":0,"server":X,"tx":[123,456]}
 *   /tx    {"litefwd":1,"outcome":"committed","pos":"P","waiting":2,"yield":true}   or, status 500, "outcome":"unknown"
 *   error  {"litefwd":1,"error":CODE,"text":"for people"}; codes below, with their HTTP status. Nothing was changed.
 *
 * A lease begins when its answer is made; C and texts are printable ASCII without quotes and backslashes.
 * Pure. Threads: any. Errors: -EBADMSG what is not this protocol (version included; no memory to decode it, too); outputs unchanged.
 */
#ifndef LITEFWD_LITEFS_GW_PROTO_H
#define LITEFWD_LITEFS_GW_PROTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/pos.h"

#define GW_VERSION 1
#define GW_TX_MAX 64 /* LTX files in one answer ... */
#define GW_BUNDLE_MAX ((size_t)1 << 20) /* ... and bytes of all of them */
#define GW_LINE_MAX 4096 /* the JSON line, newline included */
#define GW_LEASE_MS 5000
#define GW_POS_SIZE 34 /* a position as text, terminator included */

enum gw_code {
	GW_OK,
	GW_BAD_REQUEST, /* 400 */
	GW_AUTH, /* 401 */
	GW_UNSUPPORTED, /* 404 no such database, in a rollback mode, not to be had this way: HALT may do it */
	GW_NOT_HELD, /* 409 the lock is not, or no longer, the caller's */
	GW_REFUSED, /* 409 /tx: not applied (position, a malformed LTX, LiteFS said no); the lock is gone, too */
	GW_TOO_LARGE, /* 413 */
	GW_BUSY, /* 423 not had in `wait` */
	GW_LIMIT, /* 429 too many requests, or in the queue */
	GW_NOT_PRIMARY, /* 503 */
	GW_VERSION_UNKNOWN, /* 505 */
	GW_UNKNOWN, /* 500 /tx: may be applied */
};

int gw_code_status(enum gw_code code);
const char *gw_code_name(enum gw_code code);
/* GW_BAD_REQUEST for a name that is none. */
enum gw_code gw_code_by_name(const char *name);

struct gw_info {
	bool is_primary;
	char cluster[64];
	uint64_t server;
	char nonce[33];
};

struct gw_grant {
	struct pos pos;
	int64_t lease_ms;
	uint32_t waiting;
	uint64_t server;
	unsigned tx_count;
	uint64_t tx_size[GW_TX_MAX];
};

struct gw_result {
	bool unknown; /* else committed */
	struct pos pos;
	uint32_t waiting;
	bool yield; /* others wait, and the turn is used up: end when the writer lets go */
};

struct gw_error {
	enum gw_code code;
	char text[256];
};

/* ---- the server's half: a line with its newline into ret[GW_LINE_MAX]; its length. ---- */
size_t gw_put_info(const struct gw_info *info, char *ret);
size_t gw_put_grant(const struct gw_grant *grant, char *ret);
size_t gw_put_result(const struct gw_result *result, char *ret);
size_t gw_put_error(enum gw_code code, const char *text, char *ret);

/* "TXID-CHECKSUM" of a query: 33 characters. */
int gw_parse_pos(const char *text, struct pos *ret);
void gw_format_pos(struct pos pos, char ret[GW_POS_SIZE]);

/* ---- the client's half: body is all of an answer's; the status is for the caller to compare with gw_code_status(). ---- */
int gw_get_info(const char *body, size_t len, struct gw_info *ret);
/* *ret_bundle: offset of the first LTX; the sizes are checked against len. */
int gw_get_grant(const char *body, size_t len, struct gw_grant *ret, size_t *ret_bundle);
int gw_get_result(const char *body, size_t len, struct gw_result *ret);
int gw_get_error(const char *body, size_t len, struct gw_error *ret);

#endif
