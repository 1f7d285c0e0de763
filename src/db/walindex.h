/*
 * walindex: what backs the clients' "-shm": the bytes that the kernel reads pages
 * from and writes them back to. The pages that clients have mapped are the truth
 * while they are cached; db writes a header or a transaction here first and then into
 * the cached pages (notify_store), and a write-back that was under way meanwhile must not
 * undo that. Of whom to believe:
 *
 *   header                        ordered by iChange, which only grows; the newer one
 *   entries 1..published          ours: aPgno and aHash follow from the WAL's frames
 *   entries beyond, while no      nothing: we have cleared them in the clients' memory, and who appends an
 *     client has written a frame  entry has written its frame to us before. A write-back that has some is late
 *     since we published last
 *   entries beyond, else          the clients': local writers' entries, and what they left of transactions given up; once we have
 *                                 published, up to the last frame that is there
 *
 * Why the last ones are not derived from the WAL too: pages leave the kernel's cache one at a time, and must come back as they
 * were. A writer sends its frames first and appends their entries afterwards; at each it looks whether its place in aPgno
 * is free, and if not clears all beyond the mxFrame that the batch began with. Were it to find an entry there that it has not
 * appended yet, it would clear the ones that it has, and publish frames that nobody finds. And aHash with entries that
 * a ROLLBACK has cleared, beside an aPgno without them, is not cleaned when it is written to: a later cleanup then
 * leaves holes in chains, behind which valid entries are lost. Nor is anything of this lost by not deriving: clients' changes
 * make a page dirty, so it is written back before it goes.
 *
 * Pure; the caller's lock. Errors: -ENOMEM, -EFBIG; unchanged.
 */
#ifndef LITEFWD_DB_WALINDEX_H
#define LITEFWD_DB_WALINDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "db/vwal.h"

struct walindex {
	uint8_t *data;
	size_t size; /* at least WALINDEX_BLOCK_SIZE, so that SQLite finds a valid header and never recovers */
	uint32_t change; /* iChange of the last header known to be published */
	uint32_t published; /* frame up to which we have put every entry into the clients' memory */
	uint64_t clean_at; /* wal->client_writes when nothing was beyond; 0: something may be */
};

/* What to store into the clients' pages, in this order. */
struct walindex_piece {
	uint64_t off;
	size_t len;
	const uint8_t *data;
};

struct walindex_patch {
	struct walindex_piece *pieces;
	size_t count;
	uint8_t *bytes; /* what the pieces' data points into */
};

int walindex_init(struct walindex *index);
void walindex_fini(struct walindex *index);

/* A header for a WAL that holds its first frame alone. (The hash table has that frame from walindex_init() on.) */
void walindex_restart(struct walindex *index, const struct vwal *wal, uint32_t page_count);

/* Every read mark but 0 unused: whoever wants to read must claim a slot first (the gate). */
void walindex_close_gate(struct walindex *index);

/*
 * What a writing process does after its commit: the frames up to last_frame become visible, those that local
 * writers have committed before among them. Nobody else may be writing (the caller holds WRITE for whoever this is),
 * and none of the frames before may still be undecided. Not touched: nBackfill and aReadMark, which are the clients'.
 *
 * ret: owned by the caller. The pieces may be stored while others read: an entry that a reader can have in its
 * snapshot is stored with the value that it has; the header comes last, its second copy first, as SQLite does it.
 * Only whole lines of 64 bytes of aHash are stored: the kernel copies two bytes one by one, and half a slot is another's.
 *
 * -EINVAL: last_frame is not there, or published already. Errors: unchanged, ret empty.
 */
int walindex_publish(struct walindex *index, const struct vwal *wal, uint32_t last_frame, uint32_t page_count,
		     struct walindex_patch *ret);
void walindex_patch_fini(struct walindex_patch *patch);

/* wal: the WAL that the entries belong to. */
int walindex_write(struct walindex *index, const struct vwal *wal, uint64_t off, const uint8_t *data, size_t len);
size_t walindex_read(const struct walindex *index, uint64_t off, void *buf, size_t len);

#endif
