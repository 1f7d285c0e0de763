/*
 * walindex: headers that come late undo nothing, those that come in time are taken; and what we publish is found by
 * SQLite's readers, goes with what its writers do, and takes nothing from who reads meanwhile.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "db/walindex.h"
#include "format/sqlite_format.h"

static const struct vwal wal = {
	.page_size = 65536,
	.salt = {{1, 2, 3, 4, 5, 6, 7, 8}},
	.frame_sum = {0x11223344, 0x55667788},
	.client_writes = 1,
};

static struct walindex_header header_in(const struct walindex *index)
{
	struct walindex_header h, copy;

	assert_int_equal(walindex_header_decode(index->data, &h), 0);
	assert_int_equal(walindex_header_decode(index->data + 48, &copy), 0);
	assert_memory_equal(&h, &copy, sizeof h);
	return h;
}

/* What a client that has published `change` would write back: a whole page, read mark 2 of `mark`. */
static void client_page(const struct walindex *index, uint32_t change, uint32_t max_frame, uint32_t mark, uint8_t page[4096])
{
	struct walindex_header h = header_in(index);

	memcpy(page, index->data, 4096);
	h.change = change;
	h.max_frame = max_frame;
	walindex_header_encode(&h, page);
	memcpy(page + WALINDEX_READMARK_OFFSET + 8, &mark, 4);
	memset(page + 4000, 0x5a, 96);
}

static int setup(void **state)
{
	struct walindex *index = calloc(1, sizeof *index);

	assert_int_equal(walindex_init(index), 0);
	walindex_restart(index, &wal, 9);
	*state = index;
	return 0;
}

static int teardown(void **state)
{
	walindex_fini(*state);
	free(*state);
	return 0;
}

static uint32_t mark(const struct walindex *index, int i)
{
	uint32_t v;

	memcpy(&v, index->data + WALINDEX_READMARK_OFFSET + 4 * i, 4);
	return v;
}

static void restart__header_of_the_first_frame(void **state)
{
	struct walindex *index = *state;
	struct walindex_header h = header_in(index);
	uint32_t before = h.change;

	assert_int_equal(h.page_size, 65536);
	assert_int_equal(h.max_frame, 1);
	assert_int_equal(h.page_count, 9);
	assert_memory_equal(h.frame_sum, wal.frame_sum, 8);
	assert_memory_equal(h.salt.bytes, wal.salt.bytes, 8);
	assert_int_equal(h.change, index->change);
	assert_int_equal(mark(index, 0), 0);
	assert_int_equal(mark(index, 1), 1);
	for (int i = 2; i < 5; i++)
		assert_int_equal(mark(index, i), 0xffffffff);
	assert_true(index->size >= WALINDEX_BLOCK_SIZE);
	walindex_restart(index, &wal, 10);
	assert_true(header_in(index).change > before);
	assert_int_equal(header_in(index).page_count, 10);
}

/* Found as a reader finds it: from page 1's slot in aHash to frame 1 in aPgno. */
static void init__first_frame__in_the_hash_table(void **state)
{
	struct walindex *index = *state;
	uint16_t frame;
	uint32_t pgno;
	unsigned used = 0;

	memcpy(&frame, index->data + 16384 + 2 * 383, 2);
	assert_int_equal(frame, 1);
	memcpy(&pgno, index->data + 136, 4);
	assert_int_equal(pgno, 1);
	for (size_t i = 136; i < WALINDEX_BLOCK_SIZE; i++)
		used += index->data[i] != 0;
	assert_int_equal(used, 2);
}

static void restart__leaves_the_hash_table(void **state)
{
	struct walindex *index = *state;
	uint8_t page[4096];

	client_page(index, index->change + 1, 1, 3, page);
	assert_int_equal(walindex_write(index, &wal, 0, page, sizeof page), 0);
	walindex_restart(index, &wal, 4);
	assert_int_equal(index->data[136], 1);
	assert_int_equal(index->data[4000], 0x5a);
}

static void write__newer_header__taken(void **state)
{
	struct walindex *index = *state;
	uint8_t page[4096];

	client_page(index, index->change + 1, 17, 16, page);
	assert_int_equal(walindex_write(index, &wal, 0, page, sizeof page), 0);
	assert_int_equal(header_in(index).max_frame, 17);
	assert_int_equal(mark(index, 2), 16);
	assert_int_equal(index->data[4095], 0x5a);
}

static void write__same_header__taken(void **state)
{
	struct walindex *index = *state;
	uint8_t page[4096];

	/* A reader has set its mark; nothing was committed since. */
	client_page(index, index->change, 1, 1, page);
	assert_int_equal(walindex_write(index, &wal, 0, page, sizeof page), 0);
	assert_int_equal(mark(index, 2), 1);
}

static void write__late_with_an_older_header__header_and_marks_stay(void **state)
{
	struct walindex *index = *state;
	uint8_t page[4096], ours[WALINDEX_HEADER_SIZE];

	client_page(index, index->change, 17, 16, page);
	walindex_restart(index, &wal, 5);
	memcpy(ours, index->data, sizeof ours);
	assert_int_equal(walindex_write(index, &wal, 0, page, sizeof page), 0);
	assert_memory_equal(index->data, ours, sizeof ours);
	assert_int_equal(index->data[4000], 0x5a); /* the rest is taken */
	assert_int_equal(index->data[136], 1);
	/* Nothing but a header. */
	assert_int_equal(walindex_write(index, &wal, 0, page, WALINDEX_HEADER_SIZE), 0);
	assert_memory_equal(index->data, ours, sizeof ours);
}

static void write__change_wraps_around__newer_is_newer(void **state)
{
	struct walindex *index = *state;
	uint8_t page[4096], late[4096];

	client_page(index, index->change, 2, 2, late);
	index->change = UINT32_MAX - 18;
	walindex_restart(index, &wal, 5);
	assert_int_equal(header_in(index).change, UINT32_MAX - 2);
	client_page(index, UINT32_MAX - 1, 3, 3, page);
	assert_int_equal(walindex_write(index, &wal, 0, page, sizeof page), 0);
	assert_int_equal(header_in(index).max_frame, 3);
	client_page(index, 1, 4, 4, page);
	assert_int_equal(walindex_write(index, &wal, 0, page, sizeof page), 0);
	assert_int_equal(header_in(index).max_frame, 4);
	client_page(index, UINT32_MAX, 5, 5, page);
	assert_int_equal(walindex_write(index, &wal, 0, page, sizeof page), 0);
	assert_int_equal(header_in(index).max_frame, 4);
	walindex_restart(index, &wal, 5);
	assert_true((int32_t)(header_in(index).change - 1) > 0);
}

static void write__other_offsets__taken_as_they_are(void **state)
{
	struct walindex *index = *state;
	uint8_t page[4096], buf[4096];

	memset(page, 0xab, sizeof page);
	assert_int_equal(walindex_write(index, &wal, 4096, page, sizeof page), 0);
	assert_int_equal(walindex_read(index, 4096, buf, sizeof buf), sizeof buf);
	assert_memory_equal(buf, page, sizeof buf);
	header_in(index);
}

static void write__beyond_the_end__grows_by_blocks_of_zeros(void **state)
{
	struct walindex *index = *state;
	uint8_t buf[4096];

	assert_int_equal(walindex_write(index, &wal, 5 * WALINDEX_BLOCK_SIZE + 100, (const uint8_t *)"x", 1), 0);
	assert_int_equal(index->size, 6 * WALINDEX_BLOCK_SIZE);
	for (size_t off = WALINDEX_BLOCK_SIZE; off < index->size; off += sizeof buf) {
		assert_int_equal(walindex_read(index, off, buf, sizeof buf), sizeof buf);
		for (size_t i = 0; i < sizeof buf; i++)
			assert_int_equal(buf[i], off + i == 5 * WALINDEX_BLOCK_SIZE + 100 ? 'x' : 0);
	}
	header_in(index);
	assert_int_equal(walindex_write(index, &wal, index->size, (const uint8_t *)"", 1), 0);
	assert_int_equal(index->size, 7 * WALINDEX_BLOCK_SIZE);
}

static void write__far_away__efbig_and_unchanged(void **state)
{
	struct walindex *index = *state;
	const uint8_t page[4096] = {0};
	const uint64_t far[] = {UINT64_C(1) << 30, UINT64_C(1) << 40, INT64_MAX, UINT64_MAX, UINT64_MAX - 4095,
				UINT64_MAX - 4096, (UINT64_C(1) << 30) - 4095};

	for (size_t i = 0; i < sizeof far / sizeof far[0]; i++) {
		assert_int_equal(walindex_write(index, &wal, far[i], page, sizeof page), -EFBIG);
		assert_int_equal(index->size, WALINDEX_BLOCK_SIZE);
	}
	header_in(index);
}

static void read__at_the_end__short(void **state)
{
	struct walindex *index = *state;
	uint8_t buf[200];

	assert_int_equal(walindex_read(index, index->size - 100, buf, 200), 100);
	assert_int_equal(walindex_read(index, index->size, buf, 200), 0);
	assert_int_equal(walindex_read(index, UINT64_MAX, buf, 200), 0);
	assert_int_equal(walindex_read(index, 0, buf, 200), 200);
	assert_memory_equal(buf, index->data, 200);
}

static void close_gate__marks_but_0_unused_and_nothing_else(void **state)
{
	struct walindex *index = *state;
	uint8_t page[4096], want[WALINDEX_BLOCK_SIZE];

	client_page(index, index->change + 1, 17, 16, page);
	assert_int_equal(walindex_write(index, &wal, 0, page, sizeof page), 0);
	memcpy(want, index->data, sizeof want);
	memset(want + 104, 0xff, 16);
	walindex_close_gate(index);
	assert_memory_equal(index->data, want, sizeof want);
	assert_int_equal(mark(index, 0), 0);
}

/* ---- two nodes: what SQLite commits on one is published on the other ---- */

#define PAGE 512
#define BUF_SIZE ((size_t)24 << 20)
static uint8_t buf[BUF_SIZE], shm[1 << 20], late[1 << 20];

struct node {
	char dir[40], db[48], wal_path[56], shm_path[56];
	sqlite3 *conn, *reader;
	struct vwal wal;
	struct walindex index;
	uint32_t tx_first; /* of the last transaction */
	unsigned publishes, clean_ones, blocks, junk;
};

static size_t slurp(const char *path, uint8_t *data, size_t size)
{
	int fd = open(path, O_RDONLY);
	ssize_t n;
	size_t done = 0;

	assert_true(fd >= 0);
	while ((n = read(fd, data + done, size - done)) > 0)
		done += (size_t)n;
	close(fd);
	assert_true(done < size);
	return done;
}

static void put_bytes(const char *path, const void *data, size_t len, uint64_t off)
{
	int fd = open(path, O_WRONLY | O_CREAT, 0600);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, data, len, (off_t)off), len);
	close(fd);
}

static void run(sqlite3 *conn, const char *sql)
{
	char *error = NULL;

	if (sqlite3_exec(conn, sql, NULL, NULL, &error) != SQLITE_OK)
		fail_msg("%s: %s", sql, error);
}

static char *text(sqlite3 *conn, const char *sql)
{
	sqlite3_stmt *st;
	char *ret;

	assert_int_equal(sqlite3_prepare_v2(conn, sql, -1, &st, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(st), SQLITE_ROW);
	ret = strdup((const char *)sqlite3_column_text(st, 0));
	sqlite3_finalize(st);
	return ret;
}

#define CONTENTS "SELECT count(*) || group_concat(a || ':' || hex(substr(b, 1, 4)) || length(b)) FROM (SELECT * FROM t ORDER BY a)"

static void expect_same(sqlite3 *a, sqlite3 *b)
{
	char *x = text(a, CONTENTS), *y = text(b, CONTENTS);

	assert_string_equal(x, y);
	free(x);
	free(y);
}

static void open_conn(const struct node *node, sqlite3 **ret)
{
	assert_int_equal(sqlite3_open(node->db, ret), SQLITE_OK);
	run(*ret, "PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=5; PRAGMA synchronous=OFF");
}

static void make_dir(struct node *node)
{
	strcpy(node->dir, "/tmp/test-walindex-XXXXXX");
	assert_non_null(mkdtemp(node->dir));
	snprintf(node->db, sizeof node->db, "%s/t.db", node->dir);
	snprintf(node->wal_path, sizeof node->wal_path, "%s-wal", node->db);
	snprintf(node->shm_path, sizeof node->shm_path, "%s-shm", node->db);
}

/* base: a closed WAL database. SQLite recovers the WAL that we begin, so that its wal-index and ours are alike. */
static void node_init(struct node *node, const uint8_t *base, size_t size)
{
	struct walindex_header h;
	char *x;

	memset(node, 0, sizeof *node);
	make_dir(node);
	put_bytes(node->db, base, size, 0);
	vwal_init(&node->wal, "/tmp", 1 << 20);
	assert_int_equal(vwal_restart(&node->wal, base, PAGE, (uint32_t)(size / PAGE)), 0);
	assert_int_equal(spool_read(&node->wal.bytes, 0, buf, BUF_SIZE), 32 + 24 + PAGE);
	put_bytes(node->wal_path, buf, 32 + 24 + PAGE, 0);
	open_conn(node, &node->conn);
	x = text(node->conn, CONTENTS);
	free(x);
	open_conn(node, &node->reader);
	assert_int_equal(walindex_init(&node->index), 0);
	walindex_restart(&node->index, &node->wal, (uint32_t)(size / PAGE));
	slurp(node->shm_path, shm, sizeof shm);
	assert_int_equal(walindex_header_decode(shm, &h), 0);
	memcpy(node->index.data, shm, WALINDEX_HEADER_SIZE);
	node->index.change = h.change;
}

static void node_fini(struct node *node)
{
	sqlite3_close(node->conn);
	sqlite3_close(node->reader);
	vwal_fini(&node->wal);
	walindex_fini(&node->index);
	unlink(node->db);
	unlink(node->wal_path);
	unlink(node->shm_path);
	assert_int_equal(rmdir(node->dir), 0);
}

/* What SQLite has written into its WAL since. True: it has committed. */
static bool feed(struct node *node)
{
	size_t n = slurp(node->wal_path, buf, BUF_SIZE);
	bool committed = false;

	for (uint32_t f = node->wal.committed + 1; (size_t)wal_frame_offset(f + 1, PAGE) <= n; f++) {
		uint64_t off = (uint64_t)wal_frame_offset(f, PAGE);
		uint8_t old[24 + PAGE];
		uint32_t commit;

		if (spool_read(&node->wal.bytes, off, old, sizeof old) == sizeof old && memcmp(old, buf + off, sizeof old) == 0)
			continue;
		assert_int_equal(vwal_write(&node->wal, off, buf + off, 24, &commit), 0);
		assert_int_equal(vwal_write(&node->wal, off + 24, buf + off + 24, PAGE, &commit), 0);
		assert_int_equal(node->wal.pgnos[f - 1], be32(buf + off));
		assert_true(node->wal.written >= f);
		if (commit) {
			assert_false(committed);
			node->tx_first = node->wal.committed + 1;
			node->wal.committed = f;
			node->index.change++;
			committed = true;
		}
	}
	return committed;
}

/* As SQLite's walFindFrame(), for a reader whose snapshot ends with mx. */
static uint32_t find(const uint8_t *mem, uint32_t mx, uint32_t pgno)
{
	for (int64_t n = mx <= 4062 ? 0 : (mx - 4063) / 4096 + 1; n >= 0; n--) {
		const uint8_t *block = mem + n * WALINDEX_BLOCK_SIZE;
		uint32_t zero = n ? 4062 + (uint32_t)(n - 1) * 4096 : 0, found = 0, tries = 0;
		uint16_t slot;

		for (uint32_t key = pgno * 383 & 8191;; key = (key + 1) & 8191) {
			uint32_t there;

			assert_true(tries++ < 8192);
			memcpy(&slot, block + 16384 + 2 * key, 2);
			if (!slot)
				break;
			memcpy(&there, block + (n ? 0 : 136) + 4 * (slot - 1), 4);
			if (zero + slot <= mx && there == pgno)
				found = zero + slot;
		}
		if (found)
			return found;
	}
	return 0;
}

static void expect_found(const uint8_t *mem, const struct vwal *w, uint32_t mx)
{
	static uint32_t want[1 << 14];

	memset(want, 0, sizeof want);
	for (uint32_t f = 1; f <= mx; f++) {
		assert_in_range(w->pgnos[f - 1], 1, sizeof want / sizeof *want - 1);
		want[w->pgnos[f - 1]] = f;
	}
	for (uint32_t pgno = 1; pgno < 1500; pgno++)
		if (find(mem, mx, pgno) != want[pgno])
			fail_msg("page %u at %u: %u, not %u", pgno, mx, find(mem, mx, pgno), want[pgno]);
}

static void expect_index_as_shm(const struct node *node, uint32_t mx)
{
	size_t end = ((mx <= 4062 ? 0 : (mx - 4063) / 4096 + 1) + 1) * (size_t)WALINDEX_BLOCK_SIZE;

	assert_true(slurp(node->shm_path, shm, sizeof shm) >= end);
	assert_true(node->index.size >= end);
	for (size_t i = 136; i < end; i++)
		if (shm[i] != node->index.data[i])
			fail_msg("byte %zu at %u: %u, not %u", i, mx, node->index.data[i], shm[i]);
}

/* Pages written back, all or some. */
static void write_back(struct node *node, const uint8_t *mem, size_t n, unsigned every)
{
	for (size_t off = 0; off < n; off += 4096)
		if (rand() % every == 0)
			assert_int_equal(walindex_write(&node->index, &node->wal, off, mem + off, 4096), 0);
}

static void after_local(struct node *node)
{
	size_t n = slurp(node->shm_path, shm, sizeof shm);

	write_back(node, shm, n, 1 + (unsigned)rand() % 3);
}

/* from's last transaction comes to `to`. */
static void transfer(struct node *from, struct node *to)
{
	uint32_t first = to->wal.committed + 1, old = to->wal.committed, frame = first;
	uint32_t last = from->wal.committed;
	bool whole_check = rand() % 4 == 0;
	struct walindex_patch patch;
	struct walindex_header h;
	struct vwal_frame f;
	size_t n, late_size;

	for (uint32_t i = from->tx_first; i <= last; i++, frame++) {
		uint8_t page[PAGE], bytes[24 + PAGE];

		assert_int_equal(vwal_frame(&from->wal, i, &f, page), 0);
		assert_int_equal(vwal_append(&to->wal, frame, f.pgno, f.commit, page), 0);
		assert_int_equal(spool_read(&to->wal.bytes, (uint64_t)wal_frame_offset(frame, PAGE), bytes, sizeof bytes),
				 sizeof bytes);
		put_bytes(to->wal_path, bytes, sizeof bytes, (uint64_t)wal_frame_offset(frame, PAGE));
	}
	frame--;
	assert_int_equal(truncate(to->wal_path, wal_frame_offset(frame + 1, PAGE)), 0);
	assert_true(f.commit);
	assert_int_equal(to->wal.written, frame);
	late_size = slurp(to->shm_path, late, sizeof late);
	to->publishes++;
	to->clean_ones += to->wal.client_writes == to->index.clean_at;
	assert_int_equal(walindex_publish(&to->index, &to->wal, frame, f.commit, &patch), 0);
	/* One piece less for a new block, right after one that was full to its last entry. */
	assert_in_range(patch.count, old >= 4062 && (old - 4062) % 4096 == 0 ? 3 : 4, 80);
	memcpy(shm, late, late_size);
	for (size_t i = 0; i < patch.count; i++) {
		assert_true(patch.pieces[i].off + patch.pieces[i].len <= to->index.size);
		memcpy(shm + patch.pieces[i].off, patch.pieces[i].data, patch.pieces[i].len);
		put_bytes(to->shm_path, patch.pieces[i].data, patch.pieces[i].len, patch.pieces[i].off);
		to->blocks += patch.pieces[i].len == WALINDEX_BLOCK_SIZE;
		to->junk += patch.pieces[i].len == 16384 && patch.count == 4;
		if (whole_check || i == 0 || i == patch.count - 1)
			expect_found(shm, &to->wal, old);
	}
	assert_int_equal(patch.pieces[patch.count - 1].off, 0);
	assert_int_equal(patch.pieces[patch.count - 2].off, 48);
	walindex_patch_fini(&patch);
	to->wal.committed = frame;
	n = slurp(to->shm_path, shm, sizeof shm);
	assert_true(n >= late_size);
	assert_int_equal(walindex_header_decode(shm, &h), 0);
	assert_int_equal(h.max_frame, frame);
	assert_int_equal(h.change, to->index.change);
	expect_found(shm, &to->wal, frame);
	expect_found(shm, &to->wal, 1 + (uint32_t)rand() % frame);
	expect_index_as_shm(to, frame);
	if (rand() % 2) { /* what was under way with what was there before */
		write_back(to, late, late_size, 1 + (unsigned)rand() % 3);
		expect_index_as_shm(to, frame);
		assert_memory_equal(to->index.data, shm, 96);
	}
}

/* A process that dies amid a transaction, with pages spilled. */
static void die_amid(const struct node *node)
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		sqlite3 *conn;

		if (sqlite3_open(node->db, &conn) != SQLITE_OK ||
		    sqlite3_exec(conn, "PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=5; BEGIN; UPDATE t SET b = randomblob(280)", NULL,
				 NULL, NULL) != SQLITE_OK)
			_exit(1);
		raise(SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static size_t make_base(uint8_t *ret, size_t size)
{
	struct node node = {0};
	size_t n;

	make_dir(&node);
	assert_int_equal(sqlite3_open(node.db, &node.conn), SQLITE_OK);
	run(node.conn, "PRAGMA page_size=512; PRAGMA journal_mode=WAL; CREATE TABLE t(a INTEGER PRIMARY KEY, b);"
		       "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<250)"
		       "INSERT INTO t SELECT i, randomblob(280) FROM n");
	assert_int_equal(sqlite3_close(node.conn), SQLITE_OK);
	n = slurp(node.db, ret, size);
	unlink(node.db);
	assert_int_equal(rmdir(node.dir), 0);
	return n;
}

static const char *const transactions[] = {
	"UPDATE t SET b = randomblob(280) WHERE a = 7",
	"INSERT INTO t(b) VALUES(randomblob(100))",
	"UPDATE t SET b = randomblob(270) WHERE a % 40 = abs(random()) % 40",
	"UPDATE t SET b = randomblob(280)",
	"BEGIN; UPDATE t SET b = randomblob(280) WHERE a % 3 = 1; SAVEPOINT s; UPDATE t SET b = randomblob(279); ROLLBACK TO s;"
	"UPDATE t SET b = randomblob(278) WHERE a % 5 = 1; COMMIT",
	"DELETE FROM t WHERE a > 260",
	"UPDATE t SET b = randomblob(280) WHERE a BETWEEN 50 AND 60",
};

static void publish__transactions_of_sqlite_both_ways__each_reader_finds_its_own(void **state)
{
	static uint8_t base[1 << 20];
	size_t size = make_base(base, sizeof base);
	unsigned kept = 0;
	struct node nodes[2], copy = {0};
	char *snapshot = NULL;

	(void)state;
	srand(5); /* for what the test does, and what SQLite's random() has it do: "it did happen" must not be luck */
	sqlite3_test_control(SQLITE_TESTCTRL_PRNG_SEED, 5, NULL);
	for (int i = 0; i < 2; i++)
		node_init(&nodes[i], base, size);
	for (unsigned round = 0; round < 150; round++) {
		struct node *a = &nodes[rand() % 3 == 0], *b = a == nodes ? nodes + 1 : nodes;

		if (rand() % 8 == 0) { /* what is given up leaves entries, or none */
			struct node *who = &nodes[rand() % 2];

			if (rand() % 2)
				die_amid(who);
			else
				run(who->conn, "BEGIN; UPDATE t SET b = randomblob(281); ROLLBACK");
			assert_false(feed(who));
			assert_true(who->wal.written > who->wal.committed);
			after_local(who);
		}
		if (!snapshot) {
			run(nodes[1].reader, "BEGIN");
			snapshot = text(nodes[1].reader, CONTENTS);
		}
		run(a->conn, transactions[(unsigned)rand() % (sizeof transactions / sizeof *transactions)]);
		if (!feed(a))
			continue; /* changed nothing */
		after_local(a);
		transfer(a, b);
		expect_same(a->conn, b->conn);
		if (round % 10 < 9) {
			char *now = text(nodes[1].reader, CONTENTS);

			assert_string_equal(now, snapshot);
			free(now);
			kept++;
		} else {
			run(nodes[1].reader, "COMMIT");
			free(snapshot);
			snapshot = NULL;
			expect_same(nodes[1].reader, a->conn);
		}
	}
	free(snapshot);
	for (int i = 0; i < 2; i++) {
		char *ok;

		if (!sqlite3_get_autocommit(nodes[i].reader))
			run(nodes[i].reader, "COMMIT");
		ok = text(nodes[i].conn, "PRAGMA integrity_check");
		assert_string_equal(ok, "ok");
		free(ok);
		/* It did happen. */
		assert_true(nodes[i].wal.committed > 8158);
		assert_true(nodes[i].publishes > 20);
		assert_true(nodes[i].clean_ones > 5);
		assert_true(nodes[i].junk > 3);
		assert_true(nodes[i].blocks >= 1);
	}
	assert_true(kept > 50);
	/* Who recovers from the WAL alone finds every checksum right. */
	make_dir(&copy);
	put_bytes(copy.db, buf, slurp(nodes[1].db, buf, BUF_SIZE), 0);
	put_bytes(copy.wal_path, buf, slurp(nodes[1].wal_path, buf, BUF_SIZE), 0);
	open_conn(&copy, &copy.conn);
	expect_same(copy.conn, nodes[0].conn);
	sqlite3_close(copy.conn);
	unlink(copy.db);
	assert_int_equal(rmdir(copy.dir), 0);
	for (int i = 0; i < 2; i++)
		node_fini(&nodes[i]);
	sqlite3_test_control(SQLITE_TESTCTRL_PRNG_SEED, 0, NULL);
}

static void publish__not_there_or_twice__einval_and_unchanged(void **state)
{
	struct walindex *index = *state, before = *index;
	struct walindex_patch patch;
	uint8_t page[PAGE] = {1};
	struct vwal w;

	vwal_init(&w, "/tmp", 1 << 20);
	assert_int_equal(vwal_restart(&w, page, PAGE, 3), 0);
	walindex_restart(index, &w, 3);
	before = *index;
	assert_int_equal(walindex_publish(index, &w, 1, 3, &patch), -EINVAL);
	assert_int_equal(walindex_publish(index, &w, 2, 3, &patch), -EINVAL);
	assert_null(patch.pieces);
	assert_memory_equal(index, &before, sizeof before);
	assert_int_equal(vwal_append(&w, 2, 3, 3, page), 0);
	assert_int_equal(walindex_publish(index, &w, 2, 3, &patch), 0);
	assert_int_equal(index->change, before.change + 1);
	walindex_patch_fini(&patch);
	assert_int_equal(walindex_publish(index, &w, 2, 3, &patch), -EINVAL);
	/* The marks are the clients'. */
	assert_int_equal(mark(index, 1), 1);
	/* Few bytes where nothing else can be: a place in aPgno, a line of aHash, the header. */
	assert_int_equal(vwal_append(&w, 3, 2, 3, page), 0);
	assert_int_equal(walindex_publish(index, &w, 3, 3, &patch), 0);
	assert_int_equal(patch.count, 4);
	assert_int_equal(patch.pieces[0].off, 136 + 8);
	assert_int_equal(patch.pieces[0].len, 4);
	assert_int_equal(patch.pieces[1].len, 64);
	walindex_patch_fini(&patch);
	vwal_fini(&w);
}

/*
 * However it is cut: of the entries that we published nothing changes, of the writer's in progress all is taken, and what can be of no
 * frame that was written since is not: from a page that was copied before we cleared it.
 */
static void write__late_once_a_client_writes__published_entries_stay(void **state)
{
	static const size_t cuts[] = {1, 7, 4096, WALINDEX_BLOCK_SIZE};
	struct walindex *index = *state;
	uint8_t page[PAGE] = {1}, head[24], want[WALINDEX_BLOCK_SIZE], old[WALINDEX_BLOCK_SIZE];
	const uint32_t pgno = 9;
	const uint16_t ours = 2, theirs = 4, nobodys = 5;
	uint32_t sum[2] = {1, 2}, commit;

	for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
		struct walindex_patch patch;
		struct vwal w;

		vwal_init(&w, "/tmp", 1 << 20);
		assert_int_equal(vwal_restart(&w, page, PAGE, 3), 0);
		walindex_restart(index, &w, 3);
		memcpy(old, index->data, sizeof old);
		for (uint32_t f = 2; f <= 3; f++)
			assert_int_equal(vwal_append(&w, f, f + 1, f == 3 ? 9 : 0, page), 0);
		assert_int_equal(walindex_publish(index, &w, 3, 9, &patch), 0);
		walindex_patch_fini(&patch);
		w.committed = 3;
		wal_frame_encode(9, 0, w.salt, page, PAGE, sum, head);
		assert_int_equal(vwal_write(&w, (uint64_t)wal_frame_offset(4, PAGE), head, 24, &commit), 0);
		assert_int_equal(vwal_write(&w, (uint64_t)wal_frame_offset(4, PAGE) + 24, page, PAGE, &commit), 0);
		memcpy(want, index->data, sizeof want);
		memcpy(old + 16384 + 100, &ours, 2); /* of an earlier generation */
		for (int both = 0; both < 2; both++) {
			memcpy((both ? want : old) + 16384 + 200, &theirs, 2);
			memcpy((both ? want : old) + 136 + 3 * 4, &pgno, 4);
		}
		memcpy(old + 16384 + 300, &nobodys, 2);
		memcpy(old + 136 + 4 * 4, &pgno, 4);
		/* The header's own rule is another test's. */
		memcpy(old, want, WALINDEX_HEADER_SIZE);
		for (size_t off = 0; off < sizeof old; off += cuts[i])
			assert_int_equal(walindex_write(index, &w, off, old + off,
							cuts[i] < sizeof old - off ? cuts[i] : sizeof old - off), 0);
		assert_memory_equal(index->data, want, sizeof want);
		memset(index->data + 16384 + 200, 0, 2);
		vwal_fini(&w);
	}
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(restart__header_of_the_first_frame),
		TEST(init__first_frame__in_the_hash_table),
		TEST(restart__leaves_the_hash_table),
		TEST(write__newer_header__taken),
		TEST(write__same_header__taken),
		TEST(write__late_with_an_older_header__header_and_marks_stay),
		TEST(write__change_wraps_around__newer_is_newer),
		TEST(write__other_offsets__taken_as_they_are),
		TEST(write__beyond_the_end__grows_by_blocks_of_zeros),
		TEST(write__far_away__efbig_and_unchanged),
		TEST(read__at_the_end__short),
		TEST(publish__not_there_or_twice__einval_and_unchanged),
		TEST(publish__transactions_of_sqlite_both_ways__each_reader_finds_its_own),
		TEST(write__late_once_a_client_writes__published_entries_stay),
		TEST(close_gate__marks_but_0_unused_and_nothing_else),
	};

	mallopt(M_PERTURB, 0x5a); /* memory that was not cleared must not look as if it were */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
