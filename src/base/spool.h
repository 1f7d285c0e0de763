/*
 * spool: a byte array that lives in memory up to a threshold and in an unlinked file beyond it.
 *
 * Threads: the caller's lock. Blocks on a local file once it has spilled.
 * Errors: -ENOMEM, -ENOSPC and other errno of the file; the contents are unchanged
 * up to the old size (a failed write may have changed the range it was to write).
 */
#ifndef LITEFWD_BASE_SPOOL_H
#define LITEFWD_BASE_SPOOL_H

#include <stddef.h>
#include <stdint.h>

struct spool {
	const char *dir; /* borrowed */
	size_t threshold; /* bytes kept in memory */
	uint8_t *mem;
	size_t cap;
	uint64_t size;
	int fd; /* -1: in memory */
};

void spool_init(struct spool *spool, const char *dir, size_t threshold);
void spool_fini(struct spool *spool);

/* Empty again; memory beyond a small part is given back. */
void spool_reset(struct spool *spool);

/* Grows as needed; a gap reads as zeros. */
int spool_write(struct spool *spool, uint64_t off, const void *data, size_t len);

/* A sink for whoever writes in order: ctx is the spool. */
int spool_append(void *ctx, const void *data, size_t len);

/* Cuts off what lies beyond size; a larger size changes nothing. */
int spool_truncate(struct spool *spool, uint64_t size);

/* Bytes read: short at the end. */
ptrdiff_t spool_read(const struct spool *spool, uint64_t off, void *buf, size_t len);

/* A source for whoever reads in order: ctx is one of these, and moves on with each call. */
struct spool_reader {
	const struct spool *spool;
	uint64_t offset;
};
ptrdiff_t spool_reader_read(void *ctx, void *buf, size_t len);

#endif
