/*
 * pos: a LiteFS replication position, TXID and post-apply checksum.
 *
 * Text form (LiteFS' NAME-pos, its HTTP answers): 16 lower-case hex digits,
 * '/', 16 lower-case hex digits, '\n'. Position 0 / 0: no transaction yet.
 * Pure; threads: any. Errors: -EBADMSG, *ret unchanged.
 */
#ifndef LITEFWD_FORMAT_POS_H
#define LITEFWD_FORMAT_POS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pos {
	uint64_t txid;
	uint64_t checksum;
};

#define POS_TEXT_SIZE 34

static inline bool pos_equal(struct pos a, struct pos b)
{
	return a.txid == b.txid && a.checksum == b.checksum;
}

/* text need not be terminated; len must be POS_TEXT_SIZE, or one less (no newline). */
int pos_parse(const char *text, size_t len, struct pos *ret);

/* Exactly 16 hex digits. */
int pos_parse_hex16(const char *text, uint64_t *ret);

#endif
