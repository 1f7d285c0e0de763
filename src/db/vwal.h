/*
 * vwal: the WAL that litefwd's clients see. It begins with one committed frame
 * (page 1 of the base), so that nobody reads through READ0, and grows by what they write.
 *
 *   [header][frame 1: page 1, committed][frames .. committed][frames of the transaction in progress]
 *
 * It knows frames, not what a commit means. Pure but for the spool; the caller's lock.
 * Errors: the spool's; -ENOMEM; -EIO for a write that no writer of SQLite makes; contents
 * then unchanged up to `committed`.
 */
#ifndef LITEFWD_DB_VWAL_H
#define LITEFWD_DB_VWAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/spool.h"
#include "format/sqlite_format.h"

struct vwal {
	struct spool bytes;
	uint32_t page_size;
	uint32_t ckpt_seq;
	struct wal_salt salt;
	uint32_t committed; /* frames */
	uint32_t frame_sum[2]; /* of frame 1 */
	/*
	 * Frames 1..written are there whole; those beyond committed are of a transaction in progress or given up.
	 * pgnos[frame - 1]: what the header says, also of a frame whose page is yet to come.
	 */
	uint32_t written;
	uint32_t *pgnos;
	size_t pgno_cap;
	uint64_t client_writes; /* from 1; grows with each write of a client beyond committed, in any generation */
};

struct vwal_frame {
	uint32_t pgno;
	uint32_t commit; /* size in pages after this transaction; 0: not its last frame */
};

void vwal_init(struct vwal *wal, const char *spool_dir, size_t threshold);
void vwal_fini(struct vwal *wal);

/* A new generation with fresh salts: frame 1 is page1, committed, a database of page_count pages. */
int vwal_restart(struct vwal *wal, const uint8_t *page1, uint32_t page_size, uint32_t page_count);

/*
 * A client's write. *ret_commit: 0, or the frame that this write completed and whose
 * header ends a transaction. Committed frames may only be written as SQLite does it
 * after a commit: a header with another salt or checksum, or the same bytes.
 */
int vwal_write(struct vwal *wal, uint64_t off, const uint8_t *data, size_t len, uint32_t *ret_commit);

/*
 * A frame of litefwd's own, beyond committed, the one before it there: with this generation's salt, and a checksum
 * that continues that frame's. What was beyond is gone: it was of a transaction given up. Not committed.
 * -EINVAL: frame is not such a one.
 */
int vwal_append(struct vwal *wal, uint32_t frame, uint32_t pgno, uint32_t commit, const void *page);

/* The checksum in the frame's header, as SQLite holds it in the wal-index. -EBADMSG: not there. */
int vwal_frame_sum(const struct vwal *wal, uint32_t frame, uint32_t ret_sum[2]);

/* True if the frame is the last committed one once more: SQLite fills up a sector so (psow=0). */
bool vwal_repeats(const struct vwal *wal, uint32_t frame);

/* frame: from 1. -EBADMSG: not there, or of another generation. page may be NULL. */
int vwal_frame(const struct vwal *wal, uint32_t frame, struct vwal_frame *ret, void *page);

#endif
