/* sqlite_format: what SQLite itself has written is read, and written again to the byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <sqlite3.h>
#include <unistd.h>

#include "format/sqlite_format.h"

struct file {
	uint8_t *data;
	size_t size;
};

struct ctx {
	char dir[32];
	char db[48], wal[52], shm[52];
	sqlite3 *conn;
};

static struct file slurp(const char *path)
{
	struct file f = {0};
	FILE *in = fopen(path, "rb");
	size_t n;

	assert_non_null(in);
	f.data = malloc(4 << 20);
	while ((n = fread(f.data + f.size, 1, (4 << 20) - f.size, in)) > 0)
		f.size += n;
	fclose(in);
	assert_in_range(f.size, 1, (4 << 20) - 1);
	return f;
}

static int setup(void **state)
{
	struct ctx *c = calloc(1, sizeof *c);

	strcpy(c->dir, "/tmp/test-format-XXXXXX");
	assert_non_null(mkdtemp(c->dir));
	snprintf(c->db, sizeof c->db, "%s/t.db", c->dir);
	snprintf(c->wal, sizeof c->wal, "%s-wal", c->db);
	snprintf(c->shm, sizeof c->shm, "%s-shm", c->db);
	*state = c;
	return 0;
}

static void clean(struct ctx *c)
{
	sqlite3_close(c->conn);
	c->conn = NULL;
	unlink(c->db);
	unlink(c->wal);
	unlink(c->shm);
}

static int teardown(void **state)
{
	struct ctx *c = *state;

	clean(c);
	assert_int_equal(rmdir(c->dir), 0);
	free(c);
	return 0;
}

static void run(struct ctx *c, const char *sql)
{
	assert_int_equal(sqlite3_exec(c->conn, sql, NULL, NULL, NULL), SQLITE_OK);
}

/* A WAL of several transactions, some of several frames, as SQLite leaves it while the database is open. */
static void make(struct ctx *c, uint32_t page_size)
{
	char sql[100];

	assert_int_equal(sqlite3_open(c->db, &c->conn), SQLITE_OK);
	snprintf(sql, sizeof sql, "PRAGMA page_size=%u", page_size);
	run(c, sql);
	run(c, "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(a, b);");
	run(c, "INSERT INTO t VALUES(1, randomblob(10000))");
	run(c, "BEGIN; INSERT INTO t VALUES(2, randomblob(3000)); UPDATE t SET a = a + 1; COMMIT");
	run(c, "DELETE FROM t WHERE a = 2");
}

static void wal__written_by_sqlite__same_bytes(void **state)
{
	struct ctx *c = *state;

	for (uint32_t page_size = 512; page_size <= 65536; page_size *= 2) {
		struct file f;
		struct wal_salt salt;
		uint8_t head[WAL_HEADER_SIZE];
		uint32_t sum[2], frames = 0, commits = 0;

		make(c, page_size);
		f = slurp(c->wal);
		memcpy(salt.bytes, f.data + 16, 8);
		wal_header_encode(page_size, be32(f.data + 12), salt, head, sum);
		assert_memory_equal(head, f.data, sizeof head);
		for (;; frames++) {
			uint64_t off = (uint64_t)wal_frame_offset(frames + 1, page_size);
			const uint8_t *p = f.data + off;
			uint8_t frame[WAL_FRAME_HEADER_SIZE];

			if (off + sizeof frame + page_size > f.size)
				break;
			wal_frame_encode(be32(p), be32(p + 4), salt, p + sizeof frame, page_size, sum, frame);
			assert_memory_equal(frame, p, sizeof frame);
			commits += be32(p + 4) != 0;
		}
		assert_true(frames >= 4);
		assert_int_equal(commits, 4);
		assert_int_equal(wal_frame_offset(frames + 1, page_size), f.size);
		free(f.data);
		clean(c);
	}
}

static void walindex__written_by_sqlite__decoded_and_written_again(void **state)
{
	struct ctx *c = *state;

	for (uint32_t page_size = 512; page_size <= 65536; page_size *= 2) {
		struct file shm, wal;
		struct walindex_header h, copy;
		uint8_t out[WALINDEX_HEADER_SIZE];
		uint32_t last;

		make(c, page_size);
		wal = slurp(c->wal);
		shm = slurp(c->shm);
		assert_true(shm.size >= WALINDEX_BLOCK_SIZE);
		assert_int_equal(walindex_header_decode(shm.data, &h), 0);
		assert_int_equal(walindex_header_decode(shm.data + 48, &copy), 0);
		assert_memory_equal(&h, &copy, sizeof h);
		assert_int_equal(h.page_size, page_size);
		assert_int_equal(wal_frame_offset(h.max_frame + 1, page_size), wal.size);
		last = (uint32_t)wal_frame_offset(h.max_frame, page_size);
		assert_int_equal(h.page_count, be32(wal.data + last + 4));
		assert_int_equal(h.frame_sum[0], be32(wal.data + last + 16));
		assert_int_equal(h.frame_sum[1], be32(wal.data + last + 20));
		assert_memory_equal(h.salt.bytes, wal.data + 16, 8);
		walindex_header_encode(&h, out);
		assert_memory_equal(out, shm.data, 96);
		/* The first page of the first block is where SQLite looks for it. */
		{
			uint32_t pgno;
			uint16_t frame;

			memcpy(&pgno, shm.data + WALINDEX_PGNO_OFFSET, 4);
			assert_int_equal(pgno, be32(wal.data + 32));
			memcpy(&frame, shm.data + WALINDEX_HASH_OFFSET + 2 * walindex_hash(pgno), 2);
			assert_int_equal(frame, 1);
		}
		free(shm.data);
		free(wal.data);
		clean(c);
	}
}

static void walindex_decode__any_byte_wrong__ebadmsg_and_unchanged(void **state)
{
	struct walindex_header h = {.change = 5, .page_size = 4096, .max_frame = 7, .page_count = 9}, out, same;
	uint8_t buf[WALINDEX_HEADER_SIZE];

	(void)state;
	walindex_header_encode(&h, buf);
	assert_int_equal(walindex_header_decode(buf, &out), 0);
	assert_memory_equal(&out, &h, sizeof h);
	memset(&out, 0x77, sizeof out);
	same = out;
	for (int i = 0; i < 48; i++) {
		buf[i] ^= 0x10;
		assert_int_equal(walindex_header_decode(buf, &out), -EBADMSG);
		buf[i] ^= 0x10;
	}
	memset(buf, 0, sizeof buf);
	assert_int_equal(walindex_header_decode(buf, &out), -EBADMSG);
	assert_memory_equal(&out, &same, sizeof out);
}

static void walindex_decode__version_or_init_wrong_under_a_right_sum__ebadmsg(void **state)
{
	struct walindex_header h = {.change = 5, .page_size = 4096, .max_frame = 7, .page_count = 9}, out;
	uint8_t buf[WALINDEX_HEADER_SIZE];
	static const int at[] = {0, 12};

	(void)state;
	for (int i = 0; i < 2; i++) {
		uint32_t sum[2] = {0, 0};

		walindex_header_encode(&h, buf);
		buf[at[i]] ^= 1;
		wal_checksum(buf, 40, sum);
		memcpy(buf + 40, sum, 8);
		assert_int_equal(walindex_header_decode(buf, &out), -EBADMSG);
	}
}

static void header_parse__written_by_sqlite__page_size_mode_and_count(void **state)
{
	struct ctx *c = *state;

	for (uint32_t page_size = 512; page_size <= 65536; page_size *= 2) {
		for (int wal = 0; wal < 2; wal++) {
			struct sqlite_header h;
			struct file f;
			char sql[60];

			assert_int_equal(sqlite3_open(c->db, &c->conn), SQLITE_OK);
			snprintf(sql, sizeof sql, "PRAGMA page_size=%u", page_size);
			run(c, sql);
			if (wal)
				run(c, "PRAGMA journal_mode=WAL");
			run(c, "CREATE TABLE t(a); CREATE TABLE u(a); INSERT INTO t VALUES(randomblob(5000))");
			sqlite3_close(c->conn);
			c->conn = NULL;
			f = slurp(c->db);
			assert_int_equal(sqlite_header_parse(f.data, &h), 0);
			assert_int_equal(h.page_size, page_size);
			assert_int_equal(h.wal, wal);
			assert_int_equal(h.page_count, f.size / page_size);
			/* A writer that does not know the field leaves it behind: "version-valid-for" differs. */
			f.data[95] ^= 1;
			assert_int_equal(sqlite_header_parse(f.data, &h), 0);
			assert_int_equal(h.page_count, 0);
			free(f.data);
			clean(c);
		}
	}
}

static void header_parse__no_database__ebadmsg_and_unchanged(void **state)
{
	uint8_t page[100] = "SQLite format 3";
	struct sqlite_header h = {.page_size = 77, .wal = true, .page_count = 5};
	static const uint16_t bad[] = {0, 2, 256, 511, 513, 4097, 65535, 768};

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		page[16] = (uint8_t)(bad[i] >> 8);
		page[17] = (uint8_t)bad[i];
		assert_int_equal(sqlite_header_parse(page, &h), -EBADMSG);
	}
	page[16] = 16;
	page[17] = 0;
	for (int i = 0; i < 16; i++) {
		page[i] ^= 1;
		assert_int_equal(sqlite_header_parse(page, &h), -EBADMSG);
		page[i] ^= 1;
	}
	assert_true(h.page_size == 77 && h.wal && h.page_count == 5);
	page[18] = 2;
	page[19] = 1;
	assert_int_equal(sqlite_header_parse(page, &h), 0);
	assert_false(h.wal); /* both or none */
}

static void super_length__tail_of_a_journal__length_and_checksum(void **state)
{
	uint8_t tail[JOURNAL_SUPER_TAIL_SIZE];
	uint32_t sum = 7;

	(void)state;
	assert_int_equal(sizeof tail, 16);
	put_be32(tail, 4096);
	put_be32(tail + 4, 0xfedcba98);
	memcpy(tail + 8, journal_magic, sizeof journal_magic);
	assert_int_equal(journal_super_length(tail, &sum), 4096);
	assert_int_equal(sum, 0xfedcba98);
	put_be32(tail, 1);
	assert_int_equal(journal_super_length(tail, &sum), 1);
}

static void super_length__no_tail_or_no_length__ebadmsg_and_unchanged(void **state)
{
	static const uint32_t lengths[] = {0, 4097, UINT32_C(0x7fffffff), UINT32_C(0x80000000), UINT32_MAX};
	uint8_t tail[JOURNAL_SUPER_TAIL_SIZE];
	uint32_t sum = 7;

	(void)state;
	put_be32(tail, 20);
	put_be32(tail + 4, 1);
	memcpy(tail + 8, journal_magic, sizeof journal_magic);
	for (size_t i = 8; i < sizeof tail; i++) {
		tail[i] ^= 1;
		assert_int_equal(journal_super_length(tail, &sum), -EBADMSG);
		tail[i] ^= 1;
	}
	for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
		put_be32(tail, lengths[i]);
		assert_int_equal(journal_super_length(tail, &sum), -EBADMSG);
	}
	assert_int_equal(sum, 7);
}

static void frame_offset__last_frame_number__no_overflow(void **state)
{
	(void)state;
	assert_true(wal_frame_offset(1, 65536) == 32);
	assert_true(wal_frame_offset(UINT32_MAX, 65536) == 32 + INT64_C(0xfffffffe) * (24 + 65536));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(wal__written_by_sqlite__same_bytes),
		TEST(walindex__written_by_sqlite__decoded_and_written_again),
		TEST(walindex_decode__any_byte_wrong__ebadmsg_and_unchanged),
		TEST(walindex_decode__version_or_init_wrong_under_a_right_sum__ebadmsg),
		TEST(header_parse__written_by_sqlite__page_size_mode_and_count),
		TEST(header_parse__no_database__ebadmsg_and_unchanged),
		TEST(super_length__tail_of_a_journal__length_and_checksum),
		TEST(super_length__no_tail_or_no_length__ebadmsg_and_unchanged),
		TEST(frame_offset__last_frame_number__no_overflow),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
