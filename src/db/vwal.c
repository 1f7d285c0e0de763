#include "db/vwal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"

#define KEEP_PGNOS 16384 /* entries: a small WAL's array survives a restart */

void vwal_init(struct vwal *wal, const char *spool_dir, size_t threshold)
{
	*wal = (struct vwal){0};
	spool_init(&wal->bytes, spool_dir, threshold);
	wal->ckpt_seq = random_u32();
	wal->client_writes = 1;
}

void vwal_fini(struct vwal *wal)
{
	spool_fini(&wal->bytes);
	free(wal->pgnos);
	wal->pgnos = NULL;
	wal->pgno_cap = 0;
}

static int reserve_pgnos(struct vwal *wal, uint64_t frames)
{
	size_t cap = wal->pgno_cap ? wal->pgno_cap : 64;
	uint32_t *pgnos;

	if (frames <= wal->pgno_cap)
		return 0;
	while (cap < frames)
		cap *= 2;
	pgnos = realloc(wal->pgnos, cap * sizeof *pgnos);
	if (!pgnos)
		return -ENOMEM;
	wal->pgnos = pgnos;
	wal->pgno_cap = cap;
	return 0;
}

int vwal_restart(struct vwal *wal, const uint8_t *page1, uint32_t page_size, uint32_t page_count)
{
	uint64_t salt = random_u64();
	uint8_t head[WAL_HEADER_SIZE + WAL_FRAME_HEADER_SIZE];
	int err;

	spool_reset(&wal->bytes);
	wal->page_size = page_size;
	wal->ckpt_seq++;
	wal->committed = wal->written = 0;
	if (wal->pgno_cap > KEEP_PGNOS) {
		free(wal->pgnos);
		wal->pgnos = NULL;
		wal->pgno_cap = 0;
	}
	err = reserve_pgnos(wal, 1);
	if (err)
		return err;
	memcpy(wal->salt.bytes, &salt, 8);
	wal_header_encode(page_size, wal->ckpt_seq, wal->salt, head, wal->frame_sum);
	wal_frame_encode(1, page_count, wal->salt, page1, page_size, wal->frame_sum, head + WAL_HEADER_SIZE);
	err = spool_write(&wal->bytes, 0, head, sizeof head);
	if (!err)
		err = spool_write(&wal->bytes, sizeof head, page1, page_size);
	if (!err) {
		wal->committed = wal->written = 1;
		wal->pgnos[0] = 1;
	}
	return err;
}

int vwal_frame(const struct vwal *wal, uint32_t frame, struct vwal_frame *ret, void *page)
{
	static const uint8_t zero[16];
	uint8_t head[WAL_FRAME_HEADER_SIZE];
	uint64_t off = (uint64_t)wal_frame_offset(frame, wal->page_size);

	if (spool_read(&wal->bytes, off, head, sizeof head) != (ptrdiff_t)sizeof head)
		return -EBADMSG;
	/*
	 * SQLite leaves salt and checksum zero once a transaction has overwritten one of its own frames, and
	 * fills them in when the commit frame is written: after our commit. SQLite 3.40 does not even then, if a ROLLBACK TO
	 * went back to before the overwritten frame (it begins to rewrite there, behind the last frame).
	 */
	if (memcmp(head + 8, wal->salt.bytes, 8) != 0 && memcmp(head + 8, zero, sizeof zero) != 0)
		return -EBADMSG;
	ret->pgno = be32(head);
	ret->commit = be32(head + 4);
	if (page && spool_read(&wal->bytes, off + sizeof head, page, wal->page_size) != (ptrdiff_t)wal->page_size)
		return -EBADMSG;
	return 0;
}

/* Bytes before `end` that are already committed may change in the frames' salt and checksum alone. */
static int check_committed(const struct vwal *wal, uint64_t off, const uint8_t *data, uint64_t end)
{
	uint64_t frame_size = WAL_FRAME_HEADER_SIZE + wal->page_size;

	while (off < end) {
		uint8_t old[512];
		size_t n = end - off < sizeof old ? (size_t)(end - off) : sizeof old;

		if (off < WAL_HEADER_SIZE || spool_read(&wal->bytes, off, old, n) != (ptrdiff_t)n)
			return -EIO;
		for (size_t i = 0; i < n; i++) {
			uint64_t in_frame = (off + i - WAL_HEADER_SIZE) % frame_size;

			if (data[i] != old[i] && (in_frame < 8 || in_frame >= WAL_FRAME_HEADER_SIZE))
				return -EIO;
		}
		off += n;
		data += n;
	}
	return 0;
}

/* The headers that a write of [off, off + len) has made whole or has changed. */
static int note_headers(struct vwal *wal, uint64_t off, const uint8_t *data, size_t len)
{
	uint64_t frame_size = WAL_FRAME_HEADER_SIZE + wal->page_size;
	uint64_t end = off + len, frame = (off - WAL_HEADER_SIZE) / frame_size;
	uint64_t whole = (wal->bytes.size - WAL_HEADER_SIZE) / frame_size;

	for (uint64_t at = WAL_HEADER_SIZE + frame * frame_size; at < end; at += frame_size, frame++) {
		uint8_t pgno[4];

		if (off >= at + WAL_FRAME_HEADER_SIZE || at + WAL_FRAME_HEADER_SIZE > wal->bytes.size)
			continue;
		if (at >= off && at + sizeof pgno <= end)
			memcpy(pgno, data + (at - off), sizeof pgno);
		else if (spool_read(&wal->bytes, at, pgno, sizeof pgno) != (ptrdiff_t)sizeof pgno)
			return -EIO;
		wal->pgnos[frame] = be32(pgno);
	}
	if (whole > wal->written)
		wal->written = (uint32_t)whole;
	return 0;
}

int vwal_write(struct vwal *wal, uint64_t off, const uint8_t *data, size_t len, uint32_t *ret_commit)
{
	uint64_t frame_size = WAL_FRAME_HEADER_SIZE + wal->page_size;
	uint64_t committed_end = (uint64_t)wal_frame_offset(wal->committed + 1, wal->page_size);
	uint64_t end = off + len;
	uint64_t first, last;
	int err;

	*ret_commit = 0;
	if (off < committed_end) {
		err = check_committed(wal, off, data, end < committed_end ? end : committed_end);
		if (err)
			return err;
	}
	/* Frame numbers are 32 bits, and SQLite leaves no hole. */
	if (off > wal->bytes.size || (end - WAL_HEADER_SIZE) / frame_size >= UINT32_MAX)
		return -EIO;
	if (end > committed_end)
		wal->client_writes++;
	err = reserve_pgnos(wal, (end - WAL_HEADER_SIZE) / frame_size + 1);
	if (!err)
		err = spool_write(&wal->bytes, off, data, len);
	if (!err)
		err = note_headers(wal, off, data, len);
	if (err || end < committed_end + frame_size)
		return err;
	/* Frames whose last byte lies in [off, end). */
	first = (off - WAL_HEADER_SIZE) / frame_size + 1;
	last = (end - WAL_HEADER_SIZE) / frame_size;
	if (first <= wal->committed)
		first = (uint64_t)wal->committed + 1;
	for (uint64_t frame = first; frame <= last; frame++) {
		struct vwal_frame f;

		/* A frame that we cannot read could be a commit: it must not pass for none. */
		if (vwal_frame(wal, (uint32_t)frame, &f, NULL) != 0)
			return -EIO;
		if (f.commit) {
			if (*ret_commit || frame != last)
				return -EIO; /* two transactions in one write: not SQLite */
			*ret_commit = (uint32_t)frame;
		}
	}
	return 0;
}

int vwal_frame_sum(const struct vwal *wal, uint32_t frame, uint32_t ret_sum[2])
{
	uint8_t sum[8];
	uint64_t off = (uint64_t)wal_frame_offset(frame, wal->page_size) + 16;

	if (!frame || frame > wal->written || spool_read(&wal->bytes, off, sum, sizeof sum) != (ptrdiff_t)sizeof sum)
		return -EBADMSG;
	ret_sum[0] = be32(sum);
	ret_sum[1] = be32(sum + 4);
	return 0;
}

int vwal_append(struct vwal *wal, uint32_t frame, uint32_t pgno, uint32_t commit, const void *page)
{
	uint64_t off = (uint64_t)wal_frame_offset(frame, wal->page_size);
	uint8_t head[WAL_FRAME_HEADER_SIZE];
	uint32_t sum[2];
	int err;

	if (frame <= wal->committed || frame > UINT32_MAX - 1 || vwal_frame_sum(wal, frame - 1, sum) != 0)
		return -EINVAL;
	err = reserve_pgnos(wal, frame);
	if (!err)
		err = spool_truncate(&wal->bytes, off);
	if (err)
		return err;
	wal->written = frame - 1;
	wal_frame_encode(pgno, commit, wal->salt, page, wal->page_size, sum, head);
	err = spool_write(&wal->bytes, off, head, sizeof head);
	if (!err)
		err = spool_write(&wal->bytes, off + sizeof head, page, wal->page_size);
	if (!err) {
		wal->pgnos[frame - 1] = pgno;
		wal->written = frame;
	}
	return err;
}

bool vwal_repeats(const struct vwal *wal, uint32_t frame)
{
	struct vwal_frame a, b;
	uint8_t *pages;
	bool same;

	if (frame != wal->committed + 1 || !wal->committed)
		return false;
	pages = malloc(2 * (size_t)wal->page_size);
	if (!pages)
		return false;
	same = vwal_frame(wal, wal->committed, &a, pages) == 0 && vwal_frame(wal, frame, &b, pages + wal->page_size) == 0 &&
	       a.pgno == b.pgno && a.commit == b.commit && memcmp(pages, pages + wal->page_size, wal->page_size) == 0;
	free(pages);
	return same;
}
