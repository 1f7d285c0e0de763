/* vwal: SQLite believes in the WAL that we begin, and each transaction that SQLite writes into it is seen, once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

#include "db/vwal.h"
#include "db/walindex.h"

/* ---- by hand ---- */

struct hand {
	struct vwal wal;
	uint32_t page_size;
	uint8_t *page, *got;
};

static void hand_init(struct hand *h, uint32_t page_size, size_t threshold)
{
	h->page_size = page_size;
	h->page = malloc(page_size);
	h->got = malloc(page_size);
	vwal_init(&h->wal, "/tmp", threshold);
	memset(h->page, 1, page_size);
	assert_int_equal(vwal_restart(&h->wal, h->page, page_size, 10), 0);
}

static void hand_fini(struct hand *h)
{
	vwal_fini(&h->wal);
	free(h->page);
	free(h->got);
}

static uint64_t end_of(const struct hand *h, uint32_t frame)
{
	return 32 + (uint64_t)frame * (24 + h->page_size);
}

static void frame_bytes(struct hand *h, uint32_t pgno, uint32_t commit, uint8_t fill, uint8_t *ret)
{
	uint32_t sum[2] = {1, 2};

	memset(ret + 24, fill, h->page_size);
	wal_frame_encode(pgno, commit, h->wal.salt, ret + 24, h->page_size, sum, ret);
}

static int put(struct hand *h, uint64_t off, const uint8_t *data, size_t len, uint32_t *ret_commit)
{
	*ret_commit = 77;
	return vwal_write(&h->wal, off, data, len, ret_commit);
}

/* As SQLite writes a frame: header, then page. What the second one completed. */
static uint32_t put_frame(struct hand *h, uint32_t frame, uint32_t pgno, uint32_t commit, uint8_t fill)
{
	uint8_t *f = malloc(24 + h->page_size);
	uint32_t done;

	frame_bytes(h, pgno, commit, fill, f);
	assert_int_equal(put(h, end_of(h, frame - 1), f, 24, &done), 0);
	assert_int_equal(done, 0);
	assert_int_equal(put(h, end_of(h, frame - 1) + 24, f + 24, h->page_size, &done), 0);
	free(f);
	return done;
}

static void expect_frame(struct hand *h, uint32_t frame, uint32_t pgno, uint32_t commit, uint8_t fill)
{
	struct vwal_frame f;

	memset(h->page, fill, h->page_size);
	assert_int_equal(vwal_frame(&h->wal, frame, &f, h->got), 0);
	assert_int_equal(f.pgno, pgno);
	assert_int_equal(f.commit, commit);
	assert_memory_equal(h->got, h->page, h->page_size);
}

static void restart__fresh_salts_and_one_committed_frame(void **state)
{
	struct hand h;
	struct wal_salt salt;
	uint32_t seq;

	(void)state;
	hand_init(&h, 512, 1 << 20);
	assert_int_equal(h.wal.committed, 1);
	assert_int_equal(h.wal.bytes.size, 32 + 24 + 512);
	expect_frame(&h, 1, 1, 10, 1);
	assert_int_equal(put_frame(&h, 2, 5, 9, 2), 2);
	salt = h.wal.salt;
	seq = h.wal.ckpt_seq;
	memset(h.page, 9, 512);
	assert_int_equal(vwal_restart(&h.wal, h.page, 512, 3), 0);
	assert_memory_not_equal(salt.bytes, h.wal.salt.bytes, 8);
	assert_int_equal(h.wal.ckpt_seq, seq + 1);
	assert_int_equal(h.wal.committed, 1);
	expect_frame(&h, 1, 1, 3, 9);
	assert_int_equal(h.wal.bytes.size, 32 + 24 + 512);
	hand_fini(&h);
}

static void write__header_and_page__commit_with_the_last_byte(void **state)
{
	struct hand h;

	(void)state;
	for (uint32_t size = 512; size <= 65536; size *= 2) {
		hand_init(&h, size, 4096);
		assert_int_equal(put_frame(&h, 2, 5, 0, 2), 0);
		assert_int_equal(put_frame(&h, 3, 6, 12, 3), 3);
		expect_frame(&h, 2, 5, 0, 2);
		expect_frame(&h, 3, 6, 12, 3);
		hand_fini(&h);
	}
}

/* However the bytes are cut, the commit is told by the write that brings the last one. */
static void write__cut_anywhere__one_commit_at_the_last_byte(void **state)
{
	enum { LEN = 3 * (24 + 512) };
	uint8_t bytes[LEN];
	struct hand h;
	uint32_t done;

	(void)state;
	for (int cut = 0; cut <= LEN; cut++) {
		hand_init(&h, 512, cut % 2 ? 100 : 1 << 20);
		frame_bytes(&h, 2, 0, 2, bytes);
		frame_bytes(&h, 3, 0, 3, bytes + 536);
		frame_bytes(&h, 4, 10, 4, bytes + 2 * 536);
		if (cut) {
			assert_int_equal(put(&h, end_of(&h, 1), bytes, (size_t)cut, &done), 0);
			assert_int_equal(done, cut == LEN ? 4 : 0);
		}
		if (cut < LEN) {
			assert_int_equal(put(&h, end_of(&h, 1) + (unsigned)cut, bytes + cut, (size_t)(LEN - cut), &done), 0);
			assert_int_equal(done, 4);
		}
		hand_fini(&h);
	}
}

static void write__byte_by_byte__one_commit(void **state)
{
	uint8_t bytes[536];
	struct hand h;
	uint32_t done;

	(void)state;
	hand_init(&h, 512, 1 << 20);
	frame_bytes(&h, 2, 10, 2, bytes);
	for (unsigned i = 0; i < sizeof bytes; i++) {
		assert_int_equal(put(&h, end_of(&h, 1) + i, bytes + i, 1, &done), 0);
		assert_int_equal(done, i == sizeof bytes - 1 ? 2 : 0);
	}
	hand_fini(&h);
}

static void write__frames_overwritten__the_last_image_counts(void **state)
{
	struct hand h;

	(void)state;
	hand_init(&h, 512, 1 << 20);
	for (uint32_t f = 2; f <= 6; f++)
		assert_int_equal(put_frame(&h, f, f, 0, (uint8_t)f), 0);
	/* Savepoint rolled back to frame 3: 4 is written again and ends it; 5 and 6 are left. */
	assert_int_equal(put_frame(&h, 4, 40, 10, 44), 4);
	expect_frame(&h, 4, 40, 10, 44);
	h.wal.committed = 4;
	/* The next transaction writes over what is left, and does not take it for its own. */
	assert_int_equal(put_frame(&h, 5, 50, 0, 55), 0);
	assert_int_equal(put_frame(&h, 6, 60, 11, 66), 6);
	expect_frame(&h, 5, 50, 0, 55);
	hand_fini(&h);
}

static void write__stale_commit_frame_beyond__not_told_again(void **state)
{
	struct hand h;
	uint32_t done;

	(void)state;
	hand_init(&h, 512, 1 << 20);
	assert_int_equal(put_frame(&h, 2, 2, 0, 2), 0);
	assert_int_equal(put_frame(&h, 3, 3, 10, 3), 3); /* refused upstream: committed stays 1 */
	assert_int_equal(put_frame(&h, 2, 9, 0, 9), 0);
	/* Its page alone is written again: SQLite does so with a page that was spilled. */
	memset(h.page, 8, 512);
	assert_int_equal(put(&h, end_of(&h, 1) + 24, h.page, 512, &done), 0);
	assert_int_equal(done, 0);
	assert_int_equal(put_frame(&h, 3, 4, 0, 4), 0);
	assert_int_equal(put_frame(&h, 4, 5, 10, 5), 4);
	hand_fini(&h);
}

static void write__other_generation__eio(void **state)
{
	uint8_t bytes[536];
	struct vwal_frame f;
	struct hand h;
	uint32_t done;

	(void)state;
	hand_init(&h, 512, 1 << 20);
	frame_bytes(&h, 2, 10, 2, bytes);
	bytes[8] ^= 1;
	/* It could be a commit: it must not pass for a frame of no meaning. */
	assert_int_equal(put(&h, end_of(&h, 1), bytes, sizeof bytes, &done), -EIO);
	assert_int_equal(done, 0);
	assert_int_equal(vwal_frame(&h.wal, 2, &f, NULL), -EBADMSG);
	assert_int_equal(vwal_frame(&h.wal, 3, &f, NULL), -EBADMSG);
	assert_int_equal(vwal_frame(&h.wal, UINT32_MAX, &f, NULL), -EBADMSG);
	hand_fini(&h);
}

/* SQLite leaves salt and checksum out until the commit frame is there, once it has written over one of its own frames. */
static void write__salt_and_sum_left_out__commit_told_and_filled_in_later(void **state)
{
	uint8_t bytes[2 * 536], whole[2 * 536];
	struct vwal_frame f;
	struct hand h;
	uint32_t done;

	(void)state;
	hand_init(&h, 512, 1 << 20);
	frame_bytes(&h, 2, 0, 2, whole);
	frame_bytes(&h, 3, 10, 3, whole + 536);
	memcpy(bytes, whole, sizeof bytes);
	memset(bytes + 8, 0, 16);
	memset(bytes + 536 + 8, 0, 16);
	assert_int_equal(put(&h, end_of(&h, 1), bytes, 536, &done), 0);
	assert_int_equal(done, 0);
	assert_int_equal(put(&h, end_of(&h, 2), bytes + 536, 24, &done), 0);
	assert_int_equal(done, 0);
	assert_int_equal(put(&h, end_of(&h, 2) + 24, bytes + 536 + 24, 512, &done), 0);
	assert_int_equal(done, 3);
	expect_frame(&h, 2, 2, 0, 2);
	expect_frame(&h, 3, 3, 10, 3);
	h.wal.committed = 3;
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(put(&h, end_of(&h, 1 + i), whole + i * 536, 24, &done), 0);
		assert_int_equal(done, 0);
	}
	expect_frame(&h, 2, 2, 0, 2);
	expect_frame(&h, 3, 3, 10, 3);

	/* A salt without a sum, or a sum without a salt, is nothing of SQLite's. */
	memcpy(bytes, whole, 536);
	memset(bytes + 8, 0, 8);
	assert_int_equal(put(&h, end_of(&h, 3), bytes, 536, &done), -EIO);
	assert_int_equal(vwal_frame(&h.wal, 4, &f, NULL), -EBADMSG);
	hand_fini(&h);
}

static void frame__incomplete__ebadmsg(void **state)
{
	uint8_t bytes[536];
	struct vwal_frame f;
	struct hand h;
	uint32_t done;

	(void)state;
	hand_init(&h, 512, 1 << 20);
	frame_bytes(&h, 2, 10, 2, bytes);
	assert_int_equal(put(&h, end_of(&h, 1), bytes, 23, &done), 0);
	assert_int_equal(vwal_frame(&h.wal, 2, &f, NULL), -EBADMSG);
	assert_int_equal(put(&h, end_of(&h, 1) + 23, bytes + 23, 512, &done), 0);
	assert_int_equal(done, 0);
	assert_int_equal(vwal_frame(&h.wal, 2, &f, NULL), 0);
	assert_int_equal(vwal_frame(&h.wal, 2, &f, h.got), -EBADMSG);
	hand_fini(&h);
}

static void write__checksums_of_committed_frames__taken_and_no_commit(void **state)
{
	uint8_t bytes[536];
	struct hand h;
	uint32_t done;

	(void)state;
	hand_init(&h, 512, 1 << 20);
	put_frame(&h, 2, 2, 0, 2);
	assert_int_equal(put_frame(&h, 3, 3, 10, 3), 3);
	h.wal.committed = 3;
	for (uint32_t f = 2; f <= 3; f++) {
		frame_bytes(&h, f, f == 3 ? 10 : 0, (uint8_t)f, bytes);
		memset(bytes + 16, 0xcc, 8);
		assert_int_equal(put(&h, end_of(&h, f - 1), bytes, 24, &done), 0);
		assert_int_equal(done, 0);
		expect_frame(&h, f, f, f == 3 ? 10 : 0, (uint8_t)f);
		assert_int_equal(spool_read(&h.wal.bytes, end_of(&h, f - 1), h.got, 24), 24);
		assert_memory_equal(h.got, bytes, 24);
	}
	/* The same bytes again, and on into a new frame. */
	{
		uint8_t two[2 * 536];

		frame_bytes(&h, 3, 10, 3, two);
		frame_bytes(&h, 4, 10, 4, two + 536);
		assert_int_equal(put(&h, end_of(&h, 2), two, sizeof two, &done), 0);
		assert_int_equal(done, 4);
	}
	hand_fini(&h);
}

/* The last frame repeated, to fill a sector: each one is a transaction that changes nothing. */
static void write__commit_frame_repeated__told_each_time(void **state)
{
	struct hand h;

	(void)state;
	hand_init(&h, 512, 1 << 20);
	for (uint32_t f = 2; f <= 6; f++) {
		assert_int_equal(put_frame(&h, f, 3, 10, 3), f);
		assert_int_equal(vwal_repeats(&h.wal, f), f > 2);
		h.wal.committed = f;
	}
	/* Another page, another image, another size: a transaction. */
	assert_int_equal(put_frame(&h, 7, 4, 10, 3), 7);
	assert_false(vwal_repeats(&h.wal, 7));
	assert_int_equal(put_frame(&h, 7, 3, 10, 4), 7);
	assert_false(vwal_repeats(&h.wal, 7));
	assert_int_equal(put_frame(&h, 7, 3, 11, 3), 7);
	assert_false(vwal_repeats(&h.wal, 7));
	hand_fini(&h);
}

static void write__committed_bytes__eio_and_unchanged(void **state)
{
	uint8_t before[32 + 3 * 536], after[sizeof before], byte;
	static uint8_t big[2 * 536];
	struct hand h;
	uint32_t done;

	(void)state;
	hand_init(&h, 512, 1 << 20);
	put_frame(&h, 2, 2, 0, 2);
	put_frame(&h, 3, 3, 10, 3);
	h.wal.committed = 3;
	assert_int_equal(spool_read(&h.wal.bytes, 0, before, sizeof before), sizeof before);
	for (unsigned off = 0; off < sizeof before; off++) {
		bool salt_or_sum = off >= 32 && (off - 32) % 536 >= 8 && (off - 32) % 536 < 24;

		byte = before[off] ^ 1;
		assert_int_equal(put(&h, off, &byte, 1, &done), salt_or_sum ? 0 : -EIO);
		assert_int_equal(done, 0);
		if (salt_or_sum)
			assert_int_equal(put(&h, off, before + off, 1, &done), 0);
	}
	/* The WAL header: a restart by SQLite, which we never let it reach. */
	assert_int_equal(put(&h, 0, before, 32, &done), -EIO);
	/* From committed bytes into new ones. */
	memset(big, 0x33, sizeof big);
	assert_int_equal(put(&h, end_of(&h, 2), big, sizeof big, &done), -EIO);
	assert_int_equal(spool_read(&h.wal.bytes, 0, after, sizeof after), sizeof after);
	assert_memory_equal(before, after, sizeof after);
	assert_int_equal(h.wal.bytes.size, sizeof before);
	hand_fini(&h);
}

static void write__hole__eio(void **state)
{
	struct hand h;
	uint32_t done;

	(void)state;
	hand_init(&h, 512, 1 << 20);
	assert_int_equal(put(&h, end_of(&h, 1) + 1, h.page, 10, &done), -EIO);
	assert_int_equal(put(&h, end_of(&h, 2), h.page, 10, &done), -EIO);
	assert_int_equal(h.wal.bytes.size, end_of(&h, 1));
	assert_int_equal(put(&h, end_of(&h, 1), h.page, 10, &done), 0);
	hand_fini(&h);
}

static void write__huge_offsets__eio(void **state)
{
	static const uint8_t bytes[536];
	static const uint64_t far[] = {UINT64_C(1) << 32, UINT64_C(1) << 40, INT64_MAX - 511, INT64_MAX, UINT64_MAX - 512,
				       UINT64_MAX - 511, UINT64_MAX};
	struct hand h;
	uint32_t done;

	(void)state;
	hand_init(&h, 512, 1 << 20);
	for (size_t i = 0; i < sizeof far / sizeof far[0]; i++)
		assert_int_equal(put(&h, far[i], h.page, 512, &done), -EIO);
	assert_int_equal(h.wal.bytes.size, end_of(&h, 1));
	/* Where frame numbers end. */
	h.wal.bytes.size = end_of(&h, UINT32_MAX - 1);
	h.wal.committed = UINT32_MAX - 1;
	assert_int_equal(put(&h, end_of(&h, UINT32_MAX - 1), bytes, sizeof bytes, &done), -EIO);
	h.wal.bytes.size = end_of(&h, 1);
	hand_fini(&h);
}

static void write__two_transactions_at_once__eio(void **state)
{
	uint8_t bytes[2 * 536];
	struct hand h;
	uint32_t done;

	(void)state;
	hand_init(&h, 512, 1 << 20);
	frame_bytes(&h, 2, 10, 2, bytes);
	frame_bytes(&h, 3, 10, 3, bytes + 536);
	assert_int_equal(put(&h, end_of(&h, 1), bytes, sizeof bytes, &done), -EIO);
	frame_bytes(&h, 3, 0, 3, bytes + 536);
	assert_int_equal(put(&h, end_of(&h, 1), bytes, sizeof bytes, &done), -EIO);
	assert_int_equal(h.wal.committed, 1);
	hand_fini(&h);
}

static void write__spool_fails__its_error_and_committed_kept(void **state)
{
	struct hand h;
	uint32_t done;

	(void)state;
	hand_init(&h, 512, 600);
	h.wal.bytes.dir = "/nonexistent/dir";
	assert_int_equal(put(&h, end_of(&h, 1), h.page, 512, &done), -ENOENT);
	assert_int_equal(done, 0);
	expect_frame(&h, 1, 1, 10, 1);
	hand_fini(&h);
}

static void write__page_numbers__kept_however_they_come(void **state)
{
	uint8_t bytes[3 * 536];
	struct hand h;
	uint32_t done;

	(void)state;
	for (unsigned cut = 1; cut < sizeof bytes; cut++) {
		hand_init(&h, 512, cut % 2 ? 100 : 1 << 20);
		for (uint32_t i = 0; i < 3; i++)
			frame_bytes(&h, 100000 + i, 0, 1, bytes + i * 536);
		assert_int_equal(put(&h, end_of(&h, 1), bytes, cut, &done), 0);
		assert_int_equal(h.wal.written, 1 + cut / 536);
		assert_int_equal(put(&h, end_of(&h, 1) + cut, bytes + cut, sizeof bytes - cut, &done), 0);
		assert_int_equal(h.wal.written, 4);
		assert_int_equal(h.wal.pgnos[0], 1);
		for (uint32_t i = 0; i < 3; i++)
			assert_int_equal(h.wal.pgnos[1 + i], 100000 + i);
		/* A frame given up is written again, by a header alone. */
		frame_bytes(&h, 77, 0, 1, bytes);
		assert_int_equal(put(&h, end_of(&h, 2), bytes, 24, &done), 0);
		assert_int_equal(h.wal.pgnos[2], 77);
		assert_int_equal(h.wal.written, 4);
		memset(h.page, 5, 512);
		assert_int_equal(vwal_restart(&h.wal, h.page, 512, 3), 0);
		assert_int_equal(h.wal.written, 1);
		assert_int_equal(h.wal.pgnos[0], 1);
		hand_fini(&h);
	}
}

/* The rest of a transaction that was given up must not follow ours. */
static void append__over_frames_given_up__they_are_gone(void **state)
{
	struct vwal_frame f;
	struct hand h;
	uint32_t writes;

	(void)state;
	for (int i = 0; i < 2; i++) {
		hand_init(&h, 512, i ? 100 : 1 << 20);
		for (uint32_t frame = 2; frame <= 9; frame++)
			assert_int_equal(put_frame(&h, frame, frame, 0, 2), 0);
		assert_int_equal(put_frame(&h, 10, 10, 10, 2), 10); /* refused */
		writes = (uint32_t)h.wal.client_writes;
		memset(h.page, 3, 512);
		assert_int_equal(vwal_append(&h.wal, 1, 5, 0, h.page), -EINVAL);
		assert_int_equal(vwal_append(&h.wal, 0, 5, 0, h.page), -EINVAL);
		assert_int_equal(vwal_append(&h.wal, 12, 5, 0, h.page), -EINVAL);
		assert_int_equal(h.wal.written, 10);
		assert_int_equal(vwal_append(&h.wal, 2, 50, 0, h.page), 0);
		assert_int_equal(h.wal.written, 2);
		assert_int_equal(vwal_append(&h.wal, 4, 5, 0, h.page), -EINVAL);
		assert_int_equal(vwal_append(&h.wal, 3, 60, 12, h.page), 0);
		assert_int_equal(h.wal.committed, 1);
		assert_int_equal(h.wal.client_writes, writes);
		assert_int_equal(vwal_frame(&h.wal, 4, &f, NULL), -EBADMSG);
		expect_frame(&h, 2, 50, 0, 3);
		expect_frame(&h, 3, 60, 12, 3);
		assert_int_equal(h.wal.pgnos[1], 50);
		assert_int_equal(h.wal.pgnos[2], 60);
		h.wal.committed = 3;
		assert_int_equal(put_frame(&h, 4, 9, 12, 9), 4);
		assert_true(h.wal.client_writes > writes);
		hand_fini(&h);
	}
}

static void restart__spool_fails__nothing_committed(void **state)
{
	struct vwal wal;
	uint8_t page[4096] = {0};
	struct vwal_frame f;

	(void)state;
	vwal_init(&wal, "/nonexistent/dir", 1024);
	assert_int_equal(vwal_restart(&wal, page, 512, 1), 0);
	assert_int_equal(vwal_restart(&wal, page, 4096, 1), -ENOENT);
	assert_int_equal(wal.committed, 0);
	assert_int_equal(vwal_frame(&wal, 1, &f, page), -EBADMSG);
	vwal_fini(&wal);
}

/* ---- with SQLite ---- */

struct lite {
	char dir[32], db[48], wal_path[52], shm_path[52];
	uint32_t page_size;
	sqlite3 *conn;
	struct vwal wal;
	/* every write that SQLite makes goes to wal too */
	sqlite3_io_methods methods;
	const sqlite3_io_methods *real;
	unsigned commits, rewrites, overwrites, writes;
	uint8_t *model; /* the database as our commits make it */
	uint32_t model_pages;
};

static struct lite *current; /* xWrite knows nothing else */

static size_t slurp(const char *path, uint8_t *buf, size_t size)
{
	int fd = open(path, O_RDONLY);
	size_t n = 0;
	ssize_t got;

	assert_true(fd >= 0);
	while ((got = read(fd, buf + n, size - n)) > 0)
		n += (size_t)got;
	close(fd);
	assert_true(n < size);
	return n;
}

static void spit(const char *path, const void *data, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), len);
	close(fd);
}

#define BUF_SIZE ((size_t)16 << 20)
static uint8_t buf[BUF_SIZE], buf2[BUF_SIZE];

static void run(struct lite *l, const char *sql)
{
	char *error = NULL;

	if (sqlite3_exec(l->conn, sql, NULL, NULL, &error) != SQLITE_OK)
		fail_msg("%s: %s", sql, error);
}

static int number(struct lite *l, const char *sql)
{
	sqlite3_stmt *st;
	int n;

	assert_int_equal(sqlite3_prepare_v2(l->conn, sql, -1, &st, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(st), SQLITE_ROW);
	n = sqlite3_column_int(st, 0);
	sqlite3_finalize(st);
	return n;
}

/* A closed WAL database, and beside it the WAL that we begin, whose page 1 is not the file's: user_version 4711. */
static void lite_init(struct lite *l, uint32_t page_size)
{
	char sql[60];
	size_t n;

	memset(l, 0, sizeof *l);
	strcpy(l->dir, "/tmp/test-vwal-XXXXXX");
	assert_non_null(mkdtemp(l->dir));
	snprintf(l->db, sizeof l->db, "%s/t.db", l->dir);
	snprintf(l->wal_path, sizeof l->wal_path, "%s-wal", l->db);
	snprintf(l->shm_path, sizeof l->shm_path, "%s-shm", l->db);
	l->page_size = page_size;
	assert_int_equal(sqlite3_open(l->db, &l->conn), SQLITE_OK);
	snprintf(sql, sizeof sql, "PRAGMA page_size=%u", page_size);
	run(l, sql);
	run(l, "PRAGMA journal_mode=WAL; CREATE TABLE t(a INTEGER PRIMARY KEY, b); INSERT INTO t VALUES(1, 'one')");
	assert_int_equal(sqlite3_close(l->conn), SQLITE_OK);
	l->conn = NULL;

	n = slurp(l->db, buf, BUF_SIZE);
	l->model = calloc(1, BUF_SIZE);
	memcpy(l->model, buf, n);
	l->model_pages = (uint32_t)(n / page_size);
	put_be32(buf + 60, 4711);
	memcpy(l->model, buf, page_size);
	vwal_init(&l->wal, "/tmp", 1 << 20);
	assert_int_equal(vwal_restart(&l->wal, buf, page_size, l->model_pages), 0);
	n = (size_t)spool_read(&l->wal.bytes, 0, buf, BUF_SIZE);
	assert_int_equal(n, 32 + 24 + page_size);
	spit(l->wal_path, buf, n);
}

static void lite_open(struct lite *l, const char *arg)
{
	char uri[80];

	snprintf(uri, sizeof uri, "file:%s?%s", l->db, arg);
	assert_int_equal(sqlite3_open_v2(uri, &l->conn, SQLITE_OPEN_READWRITE | SQLITE_OPEN_URI, NULL), SQLITE_OK);
	run(l, "PRAGMA wal_autocheckpoint=0");
}

static void lite_fini(struct lite *l)
{
	sqlite3_close(l->conn);
	vwal_fini(&l->wal);
	free(l->model);
	unlink(l->db);
	unlink(l->wal_path);
	unlink(l->shm_path);
	assert_int_equal(rmdir(l->dir), 0);
}

/* The frames after the last commit, onto the model: the last image of a page wins by coming last. */
static void model_commit(struct lite *l, uint32_t commit)
{
	for (uint32_t i = l->wal.committed + 1; i <= commit; i++) {
		struct vwal_frame f;

		assert_int_equal(vwal_frame(&l->wal, i, &f, buf2), 0);
		assert_in_range(f.pgno, 1, BUF_SIZE / l->page_size);
		assert_int_equal(f.commit != 0, i == commit);
		memcpy(l->model + (size_t)(f.pgno - 1) * l->page_size, buf2, l->page_size);
		if (f.commit)
			l->model_pages = f.commit;
	}
	l->wal.committed = commit;
	l->commits++;
}

static int hook_write(sqlite3_file *file, const void *data, int len, sqlite3_int64 off)
{
	struct lite *l = current;
	uint64_t committed_end = (uint64_t)wal_frame_offset(l->wal.committed + 1, l->page_size);
	uint64_t size = l->wal.bytes.size;
	uint32_t commit = 77;

	l->writes++;
	l->rewrites += (uint64_t)off < committed_end;
	l->overwrites += (uint64_t)off >= committed_end && (uint64_t)off < size;
	assert_int_equal(vwal_write(&l->wal, (uint64_t)off, data, (size_t)len, &commit), 0);
	if (commit)
		model_commit(l, commit);
	return l->real->xWrite(file, data, len, off);
}

static void watch_writes(struct lite *l)
{
	sqlite3_file *file = NULL;

	assert_int_equal(number(l, "SELECT count(*) FROM t"), 1); /* the WAL is open now */
	assert_int_equal(sqlite3_file_control(l->conn, "main", SQLITE_FCNTL_JOURNAL_POINTER, &file), SQLITE_OK);
	assert_non_null(file->pMethods);
	l->real = file->pMethods;
	l->methods = *l->real;
	l->methods.xWrite = hook_write;
	file->pMethods = &l->methods;
	current = l;
}

/* Everything that SQLite wrote is here, and what we understood of it is what SQLite's own checkpoint makes of it. */
static void compare_with_sqlite(struct lite *l)
{
	size_t n = slurp(l->wal_path, buf, BUF_SIZE);

	assert_int_equal(l->wal.bytes.size, n);
	assert_int_equal(spool_read(&l->wal.bytes, 0, buf2, BUF_SIZE), n);
	assert_memory_equal(buf, buf2, n);
	assert_int_equal(sqlite3_wal_checkpoint_v2(l->conn, NULL, SQLITE_CHECKPOINT_FULL, NULL, NULL), SQLITE_OK);
	n = slurp(l->db, buf, BUF_SIZE);
	assert_int_equal(n, (size_t)l->model_pages * l->page_size);
	assert_memory_equal(buf, l->model, n);
}

static void sqlite__recovers_our_wal(void **state)
{
	(void)state;
	for (uint32_t size = 512; size <= 65536; size *= 2) {
		struct walindex index;
		struct lite l;
		int log = -1, ckpt = -1;
		uint32_t zero = 0;

		lite_init(&l, size);
		assert_int_equal(walindex_init(&index), 0);
		walindex_restart(&index, &l.wal, l.model_pages);
		lite_open(&l, "");
		assert_int_equal(number(&l, "PRAGMA user_version"), 4711); /* frame 1, not the file */
		/* SQLite's recovery has made the same wal-index of it as we. */
		assert_true(slurp(l.shm_path, buf, BUF_SIZE) >= WALINDEX_BLOCK_SIZE);
		memcpy(index.data + 8, buf + 8, 4);
		{
			struct walindex_header h;

			assert_int_equal(walindex_header_decode(buf, &h), 0);
			walindex_header_encode(&h, index.data);
			assert_int_equal(h.max_frame, 1);
			assert_int_equal(h.page_count, l.model_pages);
			assert_int_equal(h.frame_sum[0], l.wal.frame_sum[0]);
			assert_int_equal(h.frame_sum[1], l.wal.frame_sum[1]);
			assert_memory_equal(h.salt.bytes, l.wal.salt.bytes, 8);
		}
		assert_memory_equal(buf, index.data, 120);
		memcpy(buf + 128, &zero, 4); /* nBackfillAttempted: only recovery sets it */
		assert_memory_equal(buf + 128, index.data + 128, WALINDEX_BLOCK_SIZE - 128);
		assert_int_equal(sqlite3_wal_checkpoint_v2(l.conn, NULL, SQLITE_CHECKPOINT_PASSIVE, &log, &ckpt), SQLITE_OK);
		assert_int_equal(log, 1);
		assert_int_equal(ckpt, 1);
		walindex_fini(&index);
		lite_fini(&l);
	}
}

/* Somebody has the shm open already: then SQLite takes our wal-index as it is, and never recovers. */
static void sqlite__reads_through_our_walindex(void **state)
{
	(void)state;
	for (uint32_t size = 512; size <= 65536; size *= 2) {
		struct walindex index;
		struct walindex_header h;
		struct lite l;
		int ready[2], quit[2];
		pid_t pid;
		char c;

		lite_init(&l, size);
		assert_int_equal(walindex_init(&index), 0);
		walindex_restart(&index, &l.wal, l.model_pages);
		spit(l.shm_path, index.data, index.size);
		assert_int_equal(pipe(ready), 0);
		assert_int_equal(pipe(quit), 0);
		pid = fork();
		if (pid == 0) {
			struct flock dms = {.l_type = F_RDLCK, .l_start = WAL_DMS_BYTE, .l_len = 1};
			int fd = open(l.shm_path, O_RDWR);

			close(quit[1]);
			if (fcntl(fd, F_SETLK, &dms) == 0 && write(ready[1], "k", 1) == 1)
				c = read(quit[0], &c, 1) == 0;
			_exit(0);
		}
		assert_true(pid > 0);
		close(quit[0]);
		close(ready[1]);
		assert_int_equal(read(ready[0], &c, 1), 1);
		lite_open(&l, "");
		assert_int_equal(number(&l, "PRAGMA user_version"), 4711);
		assert_int_equal(number(&l, "SELECT count(*) FROM t"), 1);
		slurp(l.shm_path, buf, BUF_SIZE);
		assert_int_equal(walindex_header_decode(buf, &h), 0);
		assert_int_equal(h.change, index.change); /* recovery would have begun anew at 0 */
		/* And goes on writing behind our frame. */
		watch_writes(&l);
		run(&l, "INSERT INTO t VALUES(2, 'two')");
		assert_int_equal(l.commits, 1);
		slurp(l.shm_path, buf, BUF_SIZE);
		assert_int_equal(walindex_header_decode(buf, &h), 0);
		assert_int_equal(h.change, index.change + 1);
		assert_int_equal(h.max_frame, l.wal.committed);
		close(quit[1]);
		close(ready[0]);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		compare_with_sqlite(&l);
		walindex_fini(&index);
		lite_fini(&l);
	}
}

static void sqlite__autocommits__one_commit_each(void **state)
{
	(void)state;
	for (uint32_t size = 512; size <= 65536; size *= 2) {
		struct lite l;

		lite_init(&l, size);
		lite_open(&l, "");
		watch_writes(&l);
		for (unsigned i = 0; i < 30; i++) {
			run(&l, "INSERT INTO t(b) VALUES(randomblob(700))");
			assert_int_equal(l.commits, i + 1);
		}
		run(&l, "BEGIN; INSERT INTO t(b) VALUES('x'); ROLLBACK");
		run(&l, "BEGIN; SELECT count(*) FROM t; COMMIT");
		assert_int_equal(l.commits, 30);
		compare_with_sqlite(&l);
		lite_fini(&l);
	}
}

/* A cache of few pages spills frames amid the transaction, and writes them over in place; checksums come again at the end. */
static void sqlite__spilled_and_rolled_back__one_commit_each(void **state)
{
	unsigned overwrites = 0, rewrites = 0;

	(void)state;
	for (uint32_t size = 512; size <= 4096; size *= 2) {
		struct lite l;
		unsigned before;

		lite_init(&l, size);
		lite_open(&l, "");
		run(&l, "PRAGMA cache_size=5");
		watch_writes(&l);
		run(&l, "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<300)"
			"INSERT INTO t(b) SELECT randomblob(300) FROM n");
		assert_int_equal(l.commits, 1);
		for (unsigned i = 0; i < 5; i++) {
			run(&l, "BEGIN; UPDATE t SET b = randomblob(300) WHERE a % 3; SAVEPOINT s;"
				"UPDATE t SET b = randomblob(299); ROLLBACK TO s; UPDATE t SET b = randomblob(301) WHERE a % 7 = 1;"
				"SAVEPOINT u; DELETE FROM t WHERE a % 5 = 2; RELEASE u; UPDATE t SET b = randomblob(300)");
			assert_int_equal(l.commits, i + 1);
			run(&l, "COMMIT");
			assert_int_equal(l.commits, i + 2);
		}
		/* Spilled, then given up: its frames are written over by the next one. */
		before = l.writes;
		run(&l, "BEGIN; UPDATE t SET b = randomblob(290); ROLLBACK");
		assert_true(l.writes > before);
		assert_int_equal(l.commits, 6);
		run(&l, "DELETE FROM t WHERE a = 3");
		assert_int_equal(l.commits, 7);
		run(&l, "DELETE FROM t WHERE a > 20; VACUUM");
		assert_int_equal(l.commits, 9);
		overwrites += l.overwrites;
		rewrites += l.rewrites;
		compare_with_sqlite(&l);
		lite_fini(&l);
	}
	/* It did happen. */
	assert_true(overwrites > 100);
	assert_true(rewrites > 100);
}

static void sqlite__sectors_filled_up__same_database(void **state)
{
	struct lite l;

	(void)state;
	lite_init(&l, 512);
	lite_open(&l, "psow=0");
	run(&l, "PRAGMA synchronous=FULL");
	watch_writes(&l);
	for (unsigned i = 0; i < 20; i++)
		run(&l, "INSERT INTO t(b) VALUES(randomblob(100))");
	assert_true(l.commits > 40); /* the last frame of each was repeated */
	compare_with_sqlite(&l);
	lite_fini(&l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(restart__fresh_salts_and_one_committed_frame),
		cmocka_unit_test(write__header_and_page__commit_with_the_last_byte),
		cmocka_unit_test(write__cut_anywhere__one_commit_at_the_last_byte),
		cmocka_unit_test(write__byte_by_byte__one_commit),
		cmocka_unit_test(write__frames_overwritten__the_last_image_counts),
		cmocka_unit_test(write__stale_commit_frame_beyond__not_told_again),
		cmocka_unit_test(write__other_generation__eio),
		cmocka_unit_test(write__salt_and_sum_left_out__commit_told_and_filled_in_later),
		cmocka_unit_test(frame__incomplete__ebadmsg),
		cmocka_unit_test(write__checksums_of_committed_frames__taken_and_no_commit),
		cmocka_unit_test(write__commit_frame_repeated__told_each_time),
		cmocka_unit_test(write__committed_bytes__eio_and_unchanged),
		cmocka_unit_test(write__hole__eio),
		cmocka_unit_test(write__huge_offsets__eio),
		cmocka_unit_test(write__two_transactions_at_once__eio),
		cmocka_unit_test(write__spool_fails__its_error_and_committed_kept),
		cmocka_unit_test(write__page_numbers__kept_however_they_come),
		cmocka_unit_test(append__over_frames_given_up__they_are_gone),
		cmocka_unit_test(restart__spool_fails__nothing_committed),
		cmocka_unit_test(sqlite__recovers_our_wal),
		cmocka_unit_test(sqlite__reads_through_our_walindex),
		cmocka_unit_test(sqlite__autocommits__one_commit_each),
		cmocka_unit_test(sqlite__spilled_and_rolled_back__one_commit_each),
		cmocka_unit_test(sqlite__sectors_filled_up__same_database),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
