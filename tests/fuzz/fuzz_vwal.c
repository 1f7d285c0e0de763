/*
 * Writes to the virtual WAL, page size 512: appended frames, writes at any offset, commits, our own frames, new generations.
 * Whatever a client writes, the pages of committed frames and the numbers that they have stay.
 */
#include <errno.h>
#include <stdbool.h>

#include "db/vwal.h"
#include "fuzz.h"

#define PAGE 512
#define FRAME (WAL_FRAME_HEADER_SIZE + PAGE)
#define MODEL_MAX 64

struct model {
	uint32_t pgno[MODEL_MAX + 1], commit[MODEL_MAX + 1];
	uint8_t pages[MODEL_MAX + 1][PAGE];
	uint32_t committed;
};

static void note(struct model *m, const struct vwal *wal)
{
	struct vwal_frame f;

	while (m->committed < wal->committed) {
		uint32_t frame = ++m->committed;

		MUST(vwal_frame(wal, frame, &f, m->pages[frame]) == 0);
		m->pgno[frame] = f.pgno;
		m->commit[frame] = f.commit;
	}
}

static void check(const struct model *m, const struct vwal *wal)
{
	uint8_t page[PAGE];
	struct vwal_frame f;
	uint32_t sum[2];

	MUST(m->committed == wal->committed && wal->written >= wal->committed);
	for (uint32_t frame = 1; frame <= m->committed; frame++) {
		int err = vwal_frame(wal, frame, &f, page);

		/* SQLite may fill in a salt: another one than ours hides the frame, and changes nothing in it. */
		MUST(err == 0 || err == -EBADMSG);
		if (!err)
			MUST(f.pgno == m->pgno[frame] && f.commit == m->commit[frame] && !memcmp(page, m->pages[frame], PAGE));
		MUST(wal->pgnos[frame - 1] == m->pgno[frame]);
	}
	for (uint32_t frame = 1; frame <= wal->written; frame++)
		MUST(vwal_frame_sum(wal, frame, sum) == 0);
	MUST(vwal_frame_sum(wal, wal->written + 1, sum) == -EBADMSG && vwal_frame_sum(wal, 0, sum) == -EBADMSG);
}

/* A frame as SQLite writes it, at the end of what is there. */
static void put_frame(struct vwal *wal, struct fuzz_in *in, uint32_t *ret_commit)
{
	uint8_t frame[FRAME];
	unsigned how = (unsigned)fuzz_take(in, 1);
	uint32_t at = how & 1 ? wal->committed + 1 : wal->written + 1;

	memset(frame, (int)fuzz_take(in, 1), sizeof frame);
	put_be32(frame, (uint32_t)fuzz_take(in, 1));
	put_be32(frame + 4, how & 2 ? (uint32_t)fuzz_take(in, 1) : 0);
	if (!(how & 4))
		memcpy(frame + 8, wal->salt.bytes, 8);
	if (how & 8)
		memset(frame + 8, 0, 16);
	if (how & 16) { /* header and page apart, as SQLite does it */
		if (vwal_write(wal, (uint64_t)wal_frame_offset(at, PAGE), frame, WAL_FRAME_HEADER_SIZE, ret_commit) == 0)
			vwal_write(wal, (uint64_t)wal_frame_offset(at, PAGE) + WAL_FRAME_HEADER_SIZE, frame + WAL_FRAME_HEADER_SIZE,
				   PAGE, ret_commit);
	} else {
		vwal_write(wal, (uint64_t)wal_frame_offset(at, PAGE), frame, sizeof frame, ret_commit);
	}
}

static void put_bytes(struct vwal *wal, struct fuzz_in *in, uint32_t *ret_commit)
{
	unsigned how = (unsigned)fuzz_take(in, 1);
	uint64_t off = fuzz_take(in, how & 1 ? 8 : 2);
	size_t len = (size_t)fuzz_take(in, 1), n;
	const uint8_t *data;
	uint8_t *copy;
	int err;

	if (how & 2)
		off += wal->bytes.size - (wal->bytes.size < off ? 0 : off);
	off &= INT64_MAX; /* as the kernel has it */
	if (len > INT64_MAX - off)
		len = INT64_MAX - off;
	data = fuzz_take_bytes(in, len, &n);
	copy = malloc(n + 1);
	MUST(copy);
	memcpy(copy, data, n);
	err = vwal_write(wal, off, copy, n, ret_commit);
	MUST(err == 0 || err == -EIO);
	if (err)
		*ret_commit = 0;
	free(copy);
}

/* What db asks of a transaction before it sends it (changeset_build): a header may have been spoiled after its frame was written. */
static bool is_transaction(const struct vwal *wal, uint32_t last)
{
	for (uint32_t frame = wal->committed + 1; frame <= last; frame++) {
		struct vwal_frame f;

		if (vwal_frame(wal, frame, &f, NULL) != 0 || !f.pgno || !f.commit != (frame != last))
			return false;
	}
	return true;
}

static bool step(struct vwal *wal, struct model *m, struct fuzz_in *in)
{
	uint8_t page[PAGE];
	uint32_t commit = 0, frame;

	switch (fuzz_take(in, 1) % 6) {
	case 0:
	case 1:
		put_frame(wal, in, &commit);
		break;
	case 2:
		put_bytes(wal, in, &commit);
		break;
	case 3:
		memset(page, (int)fuzz_take(in, 1), sizeof page);
		frame = wal->committed + (uint32_t)fuzz_take(in, 1) % 4;
		if (vwal_append(wal, frame, (uint32_t)fuzz_take(in, 1), frame & 1, page) == 0)
			MUST(wal->written == frame);
		break;
	case 4:
		memset(page, 0, sizeof page);
		MUST(vwal_restart(wal, page, PAGE, (uint32_t)fuzz_take(in, 1)) == 0);
		*m = (struct model){0};
		break;
	default:
		vwal_repeats(wal, wal->committed + (uint32_t)fuzz_take(in, 1) % 3);
		break;
	}
	if (commit) {
		MUST(commit > wal->committed && commit <= wal->written);
		if (is_transaction(wal, commit))
			wal->committed = commit; /* as db does when LiteFS has it */
	}
	return wal->committed < MODEL_MAX && wal->written < 4 * MODEL_MAX;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_in in = {data, size};
	struct model *m = calloc(1, sizeof *m);
	uint8_t page1[PAGE] = "SQLite format 3";
	struct vwal wal;

	MUST(m);
	vwal_init(&wal, "/nonexistent", (size_t)16 << 20);
	MUST(vwal_restart(&wal, page1, PAGE, 4) == 0);
	note(m, &wal);
	while (in.left && step(&wal, m, &in)) {
		note(m, &wal);
		check(m, &wal);
	}
	vwal_fini(&wal);
	free(m);
	return 0;
}
