/*
 * db: one database between clients that are played by hand, a scripted primary, and a directory of
 * ordinary files that a thread changes as LiteFS does: under exclusive locks (OFD locks: POSIX locks of one process
 * do not exclude each other), pages first, then the position.
 */
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
#include <inttypes.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "db/db.h"
#include "fake/fake_litefs.h"
#include "format/ltx.h"
#include "format/sqlite_format.h"
#include "litefs/api.h"

#define PRIMARY UINT64_C(0xAAAA000000000001)
#define OURS UINT64_C(0xFEDCBA9876543210)
#define PAGE 4096
#define LONG_NS (20 * NS_PER_S) /* a bound that no passing test reaches */

struct role {
	pthread_mutex_t mutex;
	struct role_state state;
};

/* In place of src/litefs/role.c. */
void role_get(struct role *role, struct role_state *ret)
{
	pthread_mutex_lock(&role->mutex);
	*ret = role->state;
	pthread_mutex_unlock(&role->mutex);
}

struct ctx {
	char dir[40];
	struct fake *primary;
	struct role role;
	struct settings settings;
	struct db_config config;
	struct db *db;
	/* the local LiteFS */
	int db_fd, shm_fd, pos_fd;
	pthread_t applier;
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	bool stop, hold;
	uint8_t *ltx; /* to be applied */
	size_t ltx_len;
	unsigned applied;
	struct pos pos;
	char events[2000];
};

/* ---- the local LiteFS ---- */

static void set_pos(struct ctx *c, struct pos pos)
{
	char text[40];

	c->pos = pos;
	snprintf(text, sizeof text, "%016" PRIx64 "/%016" PRIx64 "\n", pos.txid, pos.checksum);
	assert_int_equal(pwrite(c->pos_fd, text, POS_TEXT_SIZE, 0), POS_TEXT_SIZE);
}

static uint64_t checksum_of_file(struct ctx *c)
{
	uint64_t sum = 0;
	uint8_t page[PAGE];

	for (uint32_t p = 1; pread(c->db_fd, page, PAGE, (off_t)(p - 1) * PAGE) == PAGE; p++)
		sum ^= ltx_page_checksum(p, page, PAGE);
	return sum | LTX_CHECKSUM_FLAG;
}

struct bytes {
	const uint8_t *data;
	size_t len, at;
};

static ptrdiff_t read_bytes(void *arg, void *buf, size_t len)
{
	struct bytes *b = arg;

	len = len < b->len - b->at ? len : b->len - b->at;
	memcpy(buf, b->data + b->at, len);
	b->at += len;
	return (ptrdiff_t)len;
}

/* False: a reader is in the way. */
static bool lock_all(struct ctx *c, short type)
{
	struct flock fl = {.l_type = type, .l_start = WAL_WRITE_BYTE, .l_len = 8};

	return fcntl(c->shm_fd, F_OFD_SETLK, &fl) == 0;
}

static void apply(struct ctx *c, const uint8_t *ltx, size_t len)
{
	struct bytes b = {ltx, len, 0};
	struct ltx_decoder dec;
	struct ltx_trailer trailer;
	uint8_t page[PAGE];
	char path[200];
	uint32_t pgno;
	int fd;

	if (ltx_decoder_init(&dec, read_bytes, &b))
		abort();
	snprintf(path, sizeof path, "%s/data/dbs/app.db/ltx/%016" PRIx64 "-%016" PRIx64 ".ltx", c->dir, dec.header.min_txid,
		 dec.header.max_txid);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || write(fd, ltx, len) != (ssize_t)len)
		abort();
	close(fd);
	while (ltx_decoder_page(&dec, &pgno, page) == 1)
		if (pwrite(c->db_fd, page, PAGE, (off_t)(pgno - 1) * PAGE) != PAGE)
			abort();
	if (ltx_decoder_finish(&dec, &trailer) || ftruncate(c->db_fd, (off_t)dec.header.commit * PAGE))
		abort();
	set_pos(c, (struct pos){dec.header.max_txid, trailer.post_apply});
	ltx_decoder_fini(&dec);
}

static void *applier_main(void *arg)
{
	struct ctx *c = arg;

	pthread_mutex_lock(&c->mutex);
	while (!c->stop) {
		if (!c->ltx || c->hold) {
			pthread_cond_wait(&c->changed, &c->mutex);
			continue;
		}
		if (!lock_all(c, F_WRLCK)) {
			pthread_mutex_unlock(&c->mutex);
			clock_sleep_ns(200 * NS_PER_US);
			pthread_mutex_lock(&c->mutex);
			continue;
		}
		apply(c, c->ltx, c->ltx_len);
		lock_all(c, F_UNLCK);
		free(c->ltx);
		c->ltx = NULL;
		c->applied++;
		pthread_cond_broadcast(&c->changed);
	}
	pthread_mutex_unlock(&c->mutex);
	return NULL;
}

static void replicate(void *arg, const char *name, const uint8_t *ltx, size_t len)
{
	struct ctx *c = arg;

	(void)name;
	pthread_mutex_lock(&c->mutex);
	free(c->ltx);
	c->ltx = malloc(len);
	memcpy(c->ltx, ltx, len);
	c->ltx_len = len;
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->mutex);
}

static void hold(struct ctx *c, bool yes)
{
	pthread_mutex_lock(&c->mutex);
	c->hold = yes;
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->mutex);
}

static void wait_applied(struct ctx *c, unsigned n)
{
	int64_t until = clock_now_ns() + LONG_NS;

	pthread_mutex_lock(&c->mutex);
	while (c->applied < n && clock_now_ns() < until)
		clock_cond_wait_until(&c->changed, &c->mutex, until);
	n = c->applied - n;
	pthread_mutex_unlock(&c->mutex);
	assert_int_equal(n, 0);
}

static struct pos pos_now(struct ctx *c)
{
	struct pos pos;

	pthread_mutex_lock(&c->mutex);
	pos = c->pos;
	pthread_mutex_unlock(&c->mutex);
	return pos;
}

struct sink {
	uint8_t data[3 * PAGE];
	size_t len;
};

static int sink_write(void *arg, const void *data, size_t len)
{
	struct sink *s = arg;

	memcpy(s->data + s->len, data, len);
	s->len += len;
	return 0;
}

/* A transaction of another node: page 2 filled with `fill`. To this node only when `here`. */
static void foreign(struct ctx *c, uint8_t fill, bool here)
{
	struct pos before = pos_now(c);
	struct ltx_header h = {.page_size = PAGE, .commit = 2, .min_txid = before.txid + 1, .max_txid = before.txid + 1,
			       .pre_apply = before.checksum, .node_id = 4711, .timestamp_ms = 1};
	uint8_t old[PAGE], page[PAGE];
	struct sink sink = {.len = 0};
	struct ltx_encoder enc;
	struct ltx_trailer t;
	uint64_t post;

	memset(page, fill, PAGE);
	assert_int_equal(pread(c->db_fd, old, PAGE, PAGE), PAGE);
	post = (before.checksum ^ ltx_page_checksum(2, old, PAGE) ^ ltx_page_checksum(2, page, PAGE)) | LTX_CHECKSUM_FLAG;
	assert_int_equal(ltx_encoder_init(&enc, &h, sink_write, &sink), 0);
	assert_int_equal(ltx_encoder_page(&enc, 2, page), 0);
	assert_int_equal(ltx_encoder_finish(&enc, post, &t), 0);
	ltx_encoder_fini(&enc);
	fake_set_pos(c->primary, "app.db", (struct pos){h.max_txid, post});
	if (here)
		replicate(c, "app.db", sink.data, sink.len);
}

/* ---- what db tells the kernel ---- */

static void event(struct ctx *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void event(struct ctx *c, const char *fmt, ...)
{
	va_list ap;
	size_t n;

	pthread_mutex_lock(&c->mutex);
	n = strlen(c->events);
	va_start(ap, fmt);
	vsnprintf(c->events + n, sizeof c->events - n, fmt, ap);
	va_end(ap);
	pthread_mutex_unlock(&c->mutex);
}

static void on_shm_store(void *arg, off_t off, const void *data, size_t len)
{
	(void)data;
	event(arg, "shm %d+%d;", (int)off, (int)len);
}

static void on_invalidate(void *arg, off_t off, off_t len)
{
	event(arg, "inval %d+%d;", (int)off, (int)len);
}

static void on_mode_changed(void *arg)
{
	event(arg, "mode;");
}

/* What was told since the last time. */
static void take_events(struct ctx *c, char ret[2000])
{
	pthread_mutex_lock(&c->mutex);
	memcpy(ret, c->events, sizeof c->events);
	c->events[0] = 0;
	pthread_mutex_unlock(&c->mutex);
}

/* ---- clients ---- */

struct waiting {
	struct db_call call;
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	bool done;
	int result;
};

static void on_done(struct db_call *call, int result)
{
	struct waiting *w = (struct waiting *)call;

	pthread_mutex_lock(&w->mutex);
	w->done = true;
	w->result = result;
	pthread_cond_signal(&w->cond);
	pthread_mutex_unlock(&w->mutex);
}

static void waiting_init(struct waiting *w)
{
	*w = (struct waiting){.call = {.done = on_done}};
	pthread_mutex_init(&w->mutex, NULL);
	clock_cond_init(&w->cond);
}

static bool is_done(struct waiting *w)
{
	bool done;

	pthread_mutex_lock(&w->mutex);
	done = w->done;
	pthread_mutex_unlock(&w->mutex);
	return done;
}

static int await(struct waiting *w)
{
	int64_t until = clock_now_ns() + LONG_NS;
	bool done;

	pthread_mutex_lock(&w->mutex);
	while (!w->done && clock_now_ns() < until)
		clock_cond_wait_until(&w->cond, &w->mutex, until);
	done = w->done;
	pthread_mutex_unlock(&w->mutex);
	assert_true(done);
	return w->result;
}

static int lock(struct ctx *c, uint64_t owner, bool shm, short type, int64_t first, int64_t n)
{
	struct db_lock l = {.file = shm ? LOCK_FILE_SHM : LOCK_FILE_DATABASE, .type = type, .start = first, .end = first + n - 1, .owner = owner,
			    .tgid = (pid_t)(1000 + owner), .handle = owner};
	struct waiting w;
	int result;

	waiting_init(&w);
	result = db_lock(c->db, &l, &w.call);
	return result == DB_PARKED ? await(&w) : result;
}

static int shm_lock(struct ctx *c, uint64_t owner, short type, int byte)
{
	return lock(c, owner, true, type, byte, 1);
}

static void open_client(struct ctx *c, uint64_t owner)
{
	db_handle_opened(c->db, (pid_t)(1000 + owner));
	assert_int_equal(lock(c, owner, false, F_RDLCK, SQLITE_SHARED_FIRST, SQLITE_SHARED_SIZE), 0);
}

static void close_client(struct ctx *c, uint64_t owner)
{
	db_flush(c->db, LOCK_FILE_SHM, owner);
	db_flush(c->db, LOCK_FILE_DATABASE, owner);
	db_handle_closed(c->db, (pid_t)(1000 + owner));
}

static void begin_read(struct ctx *c, uint64_t owner)
{
	int64_t until = clock_now_ns() + LONG_NS;
	int err;

	while ((err = shm_lock(c, owner, F_RDLCK, WAL_READ_BYTE(1))) == -EAGAIN && clock_now_ns() < until)
		clock_sleep_ns(NS_PER_MS);
	assert_int_equal(err, 0);
}

static void end_read(struct ctx *c, uint64_t owner)
{
	assert_int_equal(shm_lock(c, owner, F_UNLCK, WAL_READ_BYTE(1)), 0);
}

/* As SQLite's busy handler: lets go of its snapshot and comes again. */
static void begin_write(struct ctx *c, uint64_t owner)
{
	int64_t until = clock_now_ns() + LONG_NS;
	int err;

	for (;;) {
		begin_read(c, owner);
		err = shm_lock(c, owner, F_WRLCK, WAL_WRITE_BYTE);
		if (err != -EAGAIN || clock_now_ns() >= until)
			break;
		end_read(c, owner);
		clock_sleep_ns(2 * NS_PER_MS);
	}
	assert_int_equal(err, 0);
}

static void end_write(struct ctx *c, uint64_t owner)
{
	assert_int_equal(shm_lock(c, owner, F_UNLCK, WAL_WRITE_BYTE), 0);
	end_read(c, owner);
}

static json_int_t stat_of(struct ctx *c, const char *key)
{
	json_t *o = db_status(c->db);
	json_t *v = json_object_get(o, key);
	json_int_t n = json_is_boolean(v) ? json_is_true(v) : json_integer_value(v);

	assert_non_null(v);
	json_decref(o);
	return n;
}

/* Page 2 filled with `fill`, committed, as a database of two pages. What the last write says: not yet. */
static int start_commit(struct ctx *c, uint64_t owner, uint8_t fill, struct waiting *w)
{
	uint8_t head[WAL_HEADER_SIZE], frame[WAL_FRAME_HEADER_SIZE], page[PAGE];
	uint32_t sum[2] = {0, 0}, n = (uint32_t)stat_of(c, "wal_frames") + 1;
	struct wal_salt salt;
	off_t off = wal_frame_offset(n, PAGE);
	int err;

	waiting_init(w);
	memset(page, fill, PAGE);
	assert_int_equal(db_wal_read(c->db, head, sizeof head, 0), sizeof head);
	memcpy(salt.bytes, head + 16, 8);
	wal_frame_encode(2, 2, salt, page, PAGE, sum, frame);
	err = db_wal_write(c->db, owner, frame, sizeof frame, off, &w->call);
	return err ? err : db_wal_write(c->db, owner, page, PAGE, off + (off_t)sizeof frame, &w->call);
}

static int commit(struct ctx *c, uint64_t owner, uint8_t fill)
{
	struct waiting w;
	int err = start_commit(c, owner, fill, &w);

	return err == DB_PARKED ? await(&w) : err;
}

/* First byte of page 2 as a client without the WAL sees it: the view at its base. -errno. */
static int view(struct ctx *c)
{
	uint8_t page[PAGE];
	ssize_t n = db_read(c->db, getpid(), page, PAGE, PAGE);

	if (n < 0)
		return (int)n;
	assert_int_equal(n, PAGE);
	for (int i = 1; i < PAGE; i++)
		assert_int_equal(page[i], page[0]);
	return page[0];
}

static int file(struct ctx *c)
{
	uint8_t byte;

	assert_int_equal(pread(c->db_fd, &byte, 1, PAGE), 1);
	return byte;
}

/* ---- every test ---- */

static int make_file(struct ctx *c, const char *suffix)
{
	char path[80];
	int fd;

	snprintf(path, sizeof path, "%s/lfs/app.db%s", c->dir, suffix);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	assert_true(fd >= 0);
	return fd;
}

static void run(const char *cmd, const char *dir)
{
	char line[200];

	snprintf(line, sizeof line, cmd, dir);
	assert_int_equal(system(line), 0);
}

static int setup(void **state)
{
	static const struct db_notify notify = {on_shm_store, on_invalidate, on_mode_changed, NULL};
	struct ctx *c = calloc(1, sizeof *c);
	uint8_t page[PAGE];
	char path[80];
	sqlite3 *conn;

	strcpy(c->dir, "/tmp/test-db-XXXXXX");
	assert_non_null(mkdtemp(c->dir));
	run("mkdir -p %s/lfs", c->dir);
	run("mkdir -p %s/data/dbs/app.db/ltx", c->dir);
	snprintf(path, sizeof path, "%s/lfs/app.db", c->dir);
	assert_int_equal(sqlite3_open(path, &conn), SQLITE_OK);
	assert_int_equal(sqlite3_exec(conn, "PRAGMA page_size=4096; PRAGMA journal_mode=WAL; CREATE TABLE t(a)", NULL, NULL, NULL),
			 SQLITE_OK);
	assert_int_equal(sqlite3_close(conn), SQLITE_OK);

	pthread_mutex_init(&c->mutex, NULL);
	clock_cond_init(&c->changed);
	c->db_fd = make_file(c, "");
	c->shm_fd = make_file(c, "-shm");
	c->pos_fd = make_file(c, "-pos");
	memset(page, 'a', PAGE);
	assert_int_equal(pwrite(c->db_fd, page, PAGE, PAGE), PAGE);
	set_pos(c, (struct pos){10, checksum_of_file(c)});
	assert_int_equal(pthread_create(&c->applier, NULL, applier_main, c), 0);

	c->primary = fake_start(PRIMARY);
	fake_set_cluster(c->primary, "LFSC1", "/data");
	fake_set_pos(c->primary, "app.db", c->pos);
	fake_on_tx(c->primary, replicate, c);
	pthread_mutex_init(&c->role.mutex, NULL);
	c->role.state.kind = ROLE_REPLICA;
	c->role.state.epoch = 1;
	strcpy(c->role.state.cluster_id, "LFSC1");
	snprintf(c->role.state.primary_url, sizeof c->role.state.primary_url, "%s", fake_url(c->primary));
	snprintf(c->role.state.path, sizeof c->role.state.path, "%s/data", c->dir);

	snprintf(path, sizeof path, "%s/lfs", c->dir);
	c->settings = (struct settings){.litefs_dir = strdup(path), .litefs_url = strdup(fake_url(c->primary)),
					.spool_dir = strdup("/tmp"), .spool_threshold = 1 << 20, .halt_timeout_ms = 10000,
					.commit_timeout_ms = 15000, .halt_linger_ms = 10, .halt_max_hold_ms = 100,
					.halt_pause_ms = 1};
	c->config = (struct db_config){.settings = &c->settings, .role = &c->role, .node_id = OURS, .notify = &notify};
	assert_int_equal(db_open(&c->config, "app.db", false, c, &c->db), 0);
	*state = c;
	return 0;
}

static int teardown(void **state)
{
	struct ctx *c = *state;

	hold(c, false);
	db_stop(c->db);
	db_free(c->db);
	fake_stop(c->primary);
	pthread_mutex_lock(&c->mutex);
	c->stop = true;
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->mutex);
	pthread_join(c->applier, NULL);
	free(c->ltx);
	close(c->db_fd);
	close(c->shm_fd);
	close(c->pos_fd);
	run("rm -r %s", c->dir);
	free(c->settings.litefs_dir);
	free(c->settings.litefs_url);
	free(c->settings.spool_dir);
	free(c);
	return 0;
}

/* ---- tests ---- */

static void locks__what_would_harm__refused(void **state)
{
	struct ctx *c = *state;
	struct waiting w;

	open_client(c, 1);
	assert_int_equal(shm_lock(c, 1, F_WRLCK, WAL_WRITE_BYTE), -EAGAIN); /* without a snapshot */
	assert_int_equal(shm_lock(c, 1, F_WRLCK, WAL_CKPT_BYTE), -EAGAIN);
	assert_int_equal(shm_lock(c, 1, F_WRLCK, WAL_RECOVER_BYTE), -EAGAIN);
	assert_int_equal(lock(c, 1, false, F_WRLCK, SQLITE_SHARED_FIRST, SQLITE_SHARED_SIZE), -EAGAIN);
	assert_int_equal(lock(c, 1, false, F_WRLCK, 0, 10), -ENOLCK);
	begin_read(c, 1);
	assert_int_equal(start_commit(c, 1, 'b', &w), -EACCES); /* without WRITE */
	begin_write(c, 1);
	assert_int_equal(start_commit(c, 2, 'b', &w), -EACCES); /* somebody else's */
	end_write(c, 1);
	assert_int_equal(start_commit(c, 1, 'b', &w), -EACCES);
	assert_int_equal(fake_count(c->primary, FAKE_TX), 0);
	assert_int_equal(file(c), 'a');
	close_client(c, 1);
}

static void lock__asked_without_a_call__answered_at_once_or_not_parked(void **state)
{
	struct ctx *c = *state;
	struct db_lock l = {.file = LOCK_FILE_SHM, .type = F_WRLCK, .start = WAL_WRITE_BYTE, .end = WAL_WRITE_BYTE, .owner = 1,
			    .tgid = 1001, .handle = 1};
	json_int_t waits;
	struct waiting w;

	open_client(c, 1);
	begin_read(c, 1);
	fake_lock(c->primary, "app.db", true); /* a HALT is not had */
	waits = stat_of(c, "guard_waits");
	assert_int_equal(db_lock(c->db, &l, NULL), DB_PARKED);
	waiting_init(&w);
	assert_int_equal(db_lock(c->db, &l, &w.call), DB_PARKED);
	fake_lock(c->primary, "app.db", false);
	if (await(&w) == 0) {
		assert_int_equal(db_lock(c->db, &l, NULL), 0); /* has it already */
		l.type = F_UNLCK;
		assert_int_equal(db_lock(c->db, &l, NULL), 0);
	}
	l.start = l.end = WAL_READ_BYTE(1);
	l.type = F_UNLCK;
	assert_int_equal(db_lock(c->db, &l, NULL), 0);
	db_stop(c->db); /* would answer what was parked */
	assert_int_equal(stat_of(c, "guard_waits"), waits);
	l.type = F_RDLCK;
	assert_int_equal(db_lock(c->db, &l, NULL), -EIO);
	close_client(c, 1);
}

static void read__asked_without_a_call__guard_not_asked_for(void **state)
{
	struct ctx *c = *state;
	struct db_lock l = {.file = LOCK_FILE_SHM, .type = F_RDLCK, .start = WAL_READ_BYTE(1), .end = WAL_READ_BYTE(1), .owner = 1,
			    .tgid = 1001, .handle = 1};
	int64_t until = clock_now_ns() + LONG_NS;
	json_int_t waits;

	open_client(c, 1);
	while (stat_of(c, "guard_held") && clock_now_ns() < until)
		clock_sleep_ns(NS_PER_MS);
	waits = stat_of(c, "guard_waits");
	assert_int_equal(db_lock(c->db, &l, NULL), DB_PARKED);
	assert_int_equal(stat_of(c, "guard_waits"), waits);
	begin_read(c, 1); /* and nothing is left of it */
	assert_true(stat_of(c, "guard_waits") > waits);
	end_read(c, 1);
	close_client(c, 1);
}

static void commit__success_only_when_litefs_here_has_it(void **state)
{
	struct ctx *c = *state;
	struct waiting w;

	open_client(c, 1);
	begin_write(c, 1);
	hold(c, true);
	assert_int_equal(start_commit(c, 1, 'b', &w), DB_PARKED);
	assert_true(fake_wait_count(c->primary, FAKE_TX, 1));
	clock_sleep_ns(50 * NS_PER_MS);
	assert_false(is_done(&w)); /* the primary has it, this node has not */
	hold(c, false);
	assert_int_equal(await(&w), 0);
	assert_int_equal(pos_now(c).txid, 11);
	assert_int_equal(file(c), 'b');
	assert_true(pos_now(c).checksum == checksum_of_file(c));
	assert_int_equal(stat_of(c, "commits_remote"), 1);
	end_write(c, 1);
	close_client(c, 1);
}

static void commit__burst__one_halt(void **state)
{
	struct ctx *c = *state;

	c->settings.halt_linger_ms = c->settings.halt_max_hold_ms = 15000;
	open_client(c, 1);
	for (int i = 0; i < 5; i++) {
		begin_write(c, 1);
		assert_int_equal(commit(c, 1, (uint8_t)('b' + i)), 0);
		end_write(c, 1);
	}
	assert_int_equal(fake_count(c->primary, FAKE_HALT), 1);
	assert_int_equal(fake_count(c->primary, FAKE_TX), 5);
	assert_int_equal(pos_now(c).txid, 15);
	assert_true(pos_now(c).checksum == checksum_of_file(c));
	close_client(c, 1);
	db_stop(c->db);
	assert_true(fake_halted_by(c->primary, "app.db") == 0);
}

static void read__while_our_commits_come__the_base_stays(void **state)
{
	struct ctx *c = *state;

	open_client(c, 1);
	open_client(c, 2);
	begin_read(c, 2);
	assert_int_equal(view(c), 'a');
	for (int i = 1; i <= 3; i++) {
		begin_write(c, 1);
		assert_int_equal(commit(c, 1, (uint8_t)('a' + i)), 0);
		end_write(c, 1);
		assert_int_equal(file(c), 'a' + i);
		assert_int_equal(view(c), 'a'); /* undo */
	}
	end_read(c, 2);
	close_client(c, 1);
	close_client(c, 2);
}

static void read__while_litefs_applies_our_commit__the_base(void **state)
{
	struct ctx *c = *state;
	struct waiting w;

	open_client(c, 1);
	open_client(c, 2);
	begin_read(c, 2);
	begin_write(c, 1);
	hold(c, true);
	assert_int_equal(start_commit(c, 1, 'b', &w), DB_PARKED);
	assert_true(fake_wait_count(c->primary, FAKE_TX, 1));
	for (int i = 0; i < 20; i++)
		assert_int_equal(view(c), 'a');
	hold(c, false);
	while (!is_done(&w))
		assert_int_equal(view(c), 'a');
	assert_int_equal(await(&w), 0);
	assert_int_equal(view(c), 'a');
	end_write(c, 1);
	end_read(c, 2);
	close_client(c, 1);
	close_client(c, 2);
}

static void fold__all_gone__header_first_then_the_changed_pages(void **state)
{
	struct ctx *c = *state;
	int64_t start, until = clock_now_ns() + LONG_NS;
	char events[2000];

	open_client(c, 1);
	begin_write(c, 1);
	take_events(c, events);
	start = clock_now_ns();
	assert_int_equal(commit(c, 1, 'b'), 0);
	end_write(c, 1);
	close_client(c, 1);
	while (!stat_of(c, "folds") && clock_now_ns() < until)
		clock_sleep_ns(NS_PER_MS);
	assert_int_equal(stat_of(c, "folds"), 1);
	assert_true(clock_now_ns() - start >= NS_PER_S); /* until then connections keep what they have cached */
	take_events(c, events);
	/* Second copy with the marks, first copy, page 2. */
	assert_string_equal(events, "shm 48+88;shm 0+48;inval 4096+4096;");
	assert_int_equal(stat_of(c, "wal_frames"), 1);
	assert_int_equal(stat_of(c, "undo_pages"), 0);
	assert_int_equal(view(c), 'b');
}

static void fold__somebody_looks_at_the_file__at_once(void **state)
{
	struct ctx *c = *state;
	int64_t until = clock_now_ns() + LONG_NS;

	open_client(c, 1);
	for (unsigned i = 1; i <= 3; i++) {
		begin_write(c, 1);
		assert_int_equal(commit(c, 1, (char)('a' + i)), 0);
		end_write(c, 1);
		while (stat_of(c, "folds") < i && clock_now_ns() < until)
			db_refresh(c->db);
		assert_int_equal(stat_of(c, "folds"), i);
		assert_int_equal(stat_of(c, "wal_frames"), 1);
		assert_int_equal(view(c), 'a' + (int)i);
	}
	close_client(c, 1);
}

static void foreign__nobody_reads__found_at_the_next_lock(void **state)
{
	struct ctx *c = *state;
	char events[2000];

	open_client(c, 1);
	begin_read(c, 1);
	assert_int_equal(view(c), 'a');
	end_read(c, 1);
	take_events(c, events);
	foreign(c, 'x', true);
	wait_applied(c, 1);
	begin_read(c, 1);
	assert_int_equal(view(c), 'x');
	take_events(c, events);
	assert_string_equal(events, "shm 48+88;shm 0+48;inval 0+0;"); /* everything */
	end_read(c, 1);
	close_client(c, 1);
}

static void foreign__somebody_reads__kept_out(void **state)
{
	struct ctx *c = *state;

	open_client(c, 1);
	begin_read(c, 1);
	foreign(c, 'x', true);
	clock_sleep_ns(30 * NS_PER_MS);
	assert_int_equal(file(c), 'a');
	assert_int_equal(view(c), 'a');
	end_read(c, 1);
	wait_applied(c, 1); /* and now it gets in */
	begin_read(c, 1);
	assert_int_equal(view(c), 'x');
	end_read(c, 1);
	close_client(c, 1);
}

static void set_role(struct ctx *c, enum role_kind kind)
{
	pthread_mutex_lock(&c->role.mutex);
	c->role.state.kind = kind;
	c->role.state.local_alive = true;
	c->role.state.epoch++;
	pthread_mutex_unlock(&c->role.mutex);
	db_role_changed(c->db);
}

/* LiteFS' Recover: all locks of the database, for a moment, however long they must be waited for. */
static void recover(struct ctx *c)
{
	int64_t until = clock_now_ns() + LONG_NS;
	bool had = false;

	while (!had && clock_now_ns() < until) {
		had = lock_all(c, F_WRLCK);
		if (!had)
			clock_sleep_ns(2 * NS_PER_MS);
	}
	lock_all(c, F_UNLCK);
	assert_true(had);
}

/* The last lend is over, and none is to come. */
static void wait_idle(struct ctx *c)
{
	int64_t until = clock_now_ns() + LONG_NS;
	bool idle = false;

	while (!idle && clock_now_ns() < until) {
		json_t *o = db_status(c->db);

		idle = !strcmp(json_string_value(json_object_get(o, "upstream")), "idle") && json_is_true(json_object_get(o, "guard_held"));
		json_decref(o);
		clock_sleep_ns(NS_PER_MS);
	}
	assert_true(idle);
}

static void role_changes__reader_stays__litefs_gets_its_locks_and_the_snapshot_is_kept(void **state)
{
	struct ctx *c = *state;

	open_client(c, 1);
	open_client(c, 2);
	begin_read(c, 1);
	assert_int_equal(view(c), 'a');
	for (int i = 0; i < 3; i++) {
		set_role(c, ROLE_UNKNOWN);
		recover(c);
		recover(c); /* of the next attempt to find a primary */
		assert_int_equal(view(c), 'a');
		begin_read(c, 2); /* others begin to read meanwhile */
		end_read(c, 2);
		set_role(c, i == 1 ? ROLE_PRIMARY : ROLE_REPLICA);
		assert_int_equal(view(c), 'a');
	}
	assert_true(stat_of(c, "lends") > 0);
	wait_idle(c);
	foreign(c, 'x', true); /* the reader keeps it out again */
	clock_sleep_ns(30 * NS_PER_MS);
	assert_int_equal(file(c), 'a');
	assert_int_equal(view(c), 'a');
	end_read(c, 1);
	wait_applied(c, 1);
	begin_read(c, 1);
	assert_int_equal(view(c), 'x');
	end_read(c, 1);
	close_client(c, 1);
	close_client(c, 2);
}

static void role_changes__foreign_comes_meanwhile__reader_told(void **state)
{
	struct ctx *c = *state;

	open_client(c, 1);
	begin_read(c, 1);
	assert_int_equal(view(c), 'a');
	foreign(c, 'x', true); /* waits for the reader, but there is a lend to come */
	set_role(c, ROLE_UNKNOWN);
	wait_applied(c, 1);
	assert_int_equal(view(c), -ESTALE);
	end_read(c, 1);
	set_role(c, ROLE_REPLICA);
	begin_read(c, 1);
	assert_int_equal(view(c), 'x');
	end_read(c, 1);
	begin_write(c, 1);
	assert_int_equal(commit(c, 1, 'y'), 0);
	end_write(c, 1);
	close_client(c, 1);
}

static void write__behind_the_primary__busy_until_caught_up(void **state)
{
	struct ctx *c = *state;

	open_client(c, 1);
	begin_read(c, 1);
	hold(c, true);
	foreign(c, 'x', true);
	/* A transaction that has read must not write on what is no longer the latest. */
	assert_int_equal(shm_lock(c, 1, F_WRLCK, WAL_WRITE_BYTE), -EAGAIN);
	end_read(c, 1);
	hold(c, false);
	begin_write(c, 1);
	assert_int_equal(view(c), 'x');
	assert_int_equal(commit(c, 1, 'y'), 0);
	assert_int_equal(pos_now(c).txid, 12);
	assert_true(pos_now(c).checksum == checksum_of_file(c));
	end_write(c, 1);
	close_client(c, 1);
}

static void commit__lost_before_the_primary_had_it__eio_and_nothing_changed(void **state)
{
	static const struct fake_step lost = {.does = FAKE_CLOSE_AFTER_BODY};
	struct ctx *c = *state;

	open_client(c, 1);
	begin_write(c, 1);
	fake_script(c->primary, FAKE_TX, &lost);
	assert_int_equal(commit(c, 1, 'b'), -EIO);
	assert_int_equal(stat_of(c, "not_committed"), 1);
	assert_int_equal(stat_of(c, "unknown"), 0);
	assert_int_equal(fake_count(c->primary, FAKE_TX), 1);
	end_write(c, 1);
	assert_int_equal(file(c), 'a');
	assert_int_equal(pos_now(c).txid, 10);
	/* The next one is none the worse. */
	begin_write(c, 1);
	assert_int_equal(view(c), 'a');
	assert_int_equal(commit(c, 1, 'c'), 0);
	end_write(c, 1);
	assert_int_equal(pos_now(c).txid, 11);
	close_client(c, 1);
}

static void commit__answer_lost_and_replicated__success(void **state)
{
	static const struct fake_step lost = {.does = FAKE_LOSE_ANSWER};
	struct ctx *c = *state;

	open_client(c, 1);
	begin_write(c, 1);
	fake_script(c->primary, FAKE_TX, &lost);
	assert_int_equal(commit(c, 1, 'b'), 0);
	assert_int_equal(stat_of(c, "unknown"), 0);
	assert_int_equal(fake_count(c->primary, FAKE_TX), 1);
	assert_int_equal(file(c), 'b');
	end_write(c, 1);
	close_client(c, 1);
}

static void commit__primary_gone__eio_and_unknown(void **state)
{
	static const struct fake_step stall = {.does = FAKE_STALL};
	struct ctx *c = *state;
	struct waiting w;

	c->settings.commit_timeout_ms = 400;
	open_client(c, 1);
	begin_write(c, 1);
	fake_script(c->primary, FAKE_TX, &stall);
	assert_int_equal(start_commit(c, 1, 'b', &w), DB_PARKED);
	assert_true(fake_wait_count(c->primary, FAKE_TX, 1));
	fake_set_up(c->primary, false);
	assert_int_equal(await(&w), -EIO);
	assert_int_equal(stat_of(c, "unknown"), 1);
	assert_int_equal(stat_of(c, "not_committed"), 0);
	end_write(c, 1);
	close_client(c, 1);
}

/* Our transaction is lost, and another node's comes instead while somebody reads: no torn snapshot, an error. */
static void foreign__instead_of_our_commit__readers_poisoned_until_they_leave(void **state)
{
	static const struct fake_step lost = {.does = FAKE_STALL};
	struct ctx *c = *state;
	struct waiting w;

	c->settings.commit_timeout_ms = 3000;
	open_client(c, 1);
	open_client(c, 2);
	begin_read(c, 2);
	begin_write(c, 1);
	fake_script(c->primary, FAKE_TX, &lost);
	assert_int_equal(start_commit(c, 1, 'b', &w), DB_PARKED);
	assert_true(fake_wait_count(c->primary, FAKE_TX, 1));
	foreign(c, 'x', true);
	assert_int_equal(await(&w), -EIO);
	wait_applied(c, 1);
	assert_int_equal(file(c), 'x');
	assert_int_equal(view(c), -ESTALE);
	assert_int_equal(stat_of(c, "poisoned"), 1);
	end_write(c, 1);
	assert_int_equal(view(c), -ESTALE); /* 2 still reads */
	end_read(c, 2);
	begin_read(c, 2);
	assert_int_equal(view(c), 'x');
	end_read(c, 2);
	begin_write(c, 1);
	assert_int_equal(commit(c, 1, 'y'), 0);
	end_write(c, 1);
	close_client(c, 1);
	close_client(c, 2);
}

static void writer__dies_uncommitted__nothing_sent_and_lock_free(void **state)
{
	struct ctx *c = *state;
	struct waiting w;
	uint8_t junk[24] = {0};

	waiting_init(&w);
	open_client(c, 1);
	open_client(c, 2);
	begin_write(c, 1);
	assert_int_equal(db_wal_write(c->db, 1, junk, sizeof junk, wal_frame_offset(2, PAGE), &w.call), 0);
	close_client(c, 1);
	begin_write(c, 2);
	assert_int_equal(commit(c, 2, 'c'), 0);
	end_write(c, 2);
	assert_int_equal(fake_count(c->primary, FAKE_TX), 1);
	assert_int_equal(file(c), 'c');
	close_client(c, 2);
}

static void stop__while_a_call_waits__answered(void **state)
{
	struct ctx *c = *state;
	struct db_lock l = {.file = LOCK_FILE_SHM, .type = F_WRLCK, .start = WAL_WRITE_BYTE, .end = WAL_WRITE_BYTE, .owner = 1,
			    .tgid = 1001, .handle = 1};
	struct waiting w;

	waiting_init(&w);
	open_client(c, 1);
	begin_read(c, 1);
	fake_lock(c->primary, "app.db", true);
	assert_int_equal(db_lock(c->db, &l, &w.call), DB_PARKED);
	assert_true(fake_wait_count(c->primary, FAKE_HALT, 1));
	db_stop(c->db);
	assert_true(await(&w) == -EIO || w.result == -EAGAIN);
	assert_int_equal(db_lock(c->db, &l, &w.call), -EIO);
	fake_lock(c->primary, "app.db", false);
	clock_sleep_ns(30 * NS_PER_MS);
	assert_true(fake_halted_by(c->primary, "app.db") == 0);
}

/* ---- longer than the lock's life ---- */

static void wait_granted(struct ctx *c, unsigned n)
{
	int64_t until = clock_now_ns() + LONG_NS;

	while (fake_granted(c->primary) < n && clock_now_ns() < until)
		clock_sleep_ns(5 * NS_PER_MS);
	assert_true(fake_granted(c->primary) >= n);
}

/* A transaction that has begun, whose lock's renewal has to wait for somebody on the primary. */
static void begin_write_and_block_renewal(struct ctx *c)
{
	fake_set_ttl(c->primary, 4000, 10000);
	open_client(c, 1);
	begin_write(c, 1);
	fake_lock(c->primary, "app.db", true);
	assert_true(fake_wait_count(c->primary, FAKE_HALT, fake_count(c->primary, FAKE_HALT) + 1));
	assert_int_equal(fake_expired(c->primary), 0);
}

static void write_again(struct ctx *c, int sees, uint64_t txid)
{
	begin_write(c, 1);
	assert_int_equal(file(c), sees);
	assert_int_equal(commit(c, 1, 'z'), 0);
	end_write(c, 1);
	assert_int_equal(pos_now(c).txid, txid);
	assert_true(pos_now(c).checksum == checksum_of_file(c));
	assert_int_equal(fake_unhalted_tx(c->primary), 0);
	close_client(c, 1);
}

static void transaction__longer_than_the_ttl__renewed_and_committed(void **state)
{
	struct ctx *c = *state;

	fake_set_ttl(c->primary, 4000, 10000);
	open_client(c, 1);
	begin_write(c, 1);
	wait_granted(c, 4); /* by then the first is long over */
	assert_int_equal(commit(c, 1, 'b'), 0);
	end_write(c, 1);
	assert_int_equal(file(c), 'b');
	assert_true(stat_of(c, "renewals") >= 2);
	assert_int_equal(stat_of(c, "refused"), 0);
	write_again(c, 'b', 12);
}

static void transaction__longer_than_the_ttl_and_another_committed__fails_before_it_is_sent(void **state)
{
	struct ctx *c = *state;

	fake_set_ttl(c->primary, 4000, 10000);
	open_client(c, 1);
	begin_write(c, 1);
	foreign(c, 'x', true); /* as if it had come between the two locks */
	wait_granted(c, 2);
	assert_int_equal(commit(c, 1, 'b'), -EIO);
	assert_int_equal(fake_count(c->primary, FAKE_TX), 0);
	assert_int_equal(stat_of(c, "renewals"), 0);
	assert_int_equal(file(c), 'a');
	assert_int_equal(view(c), 'a'); /* its snapshot stays good */
	end_write(c, 1);
	write_again(c, 'x', 12);
}

static void commit__while_renewing__waits_for_the_new_lock(void **state)
{
	struct ctx *c = *state;
	struct waiting w;

	begin_write_and_block_renewal(c);
	assert_int_equal(start_commit(c, 1, 'b', &w), DB_PARKED);
	clock_sleep_ns(50 * NS_PER_MS);
	assert_false(is_done(&w));
	assert_int_equal(fake_count(c->primary, FAKE_TX), 0);
	fake_lock(c->primary, "app.db", false);
	assert_int_equal(await(&w), 0);
	end_write(c, 1);
	write_again(c, 'b', 12);
}

static void commit__while_renewing_and_another_committed__fails_before_it_is_sent(void **state)
{
	struct ctx *c = *state;
	struct waiting w;

	begin_write_and_block_renewal(c);
	assert_int_equal(start_commit(c, 1, 'b', &w), DB_PARKED);
	foreign(c, 'x', true);
	fake_lock(c->primary, "app.db", false);
	assert_int_equal(await(&w), -EIO);
	assert_int_equal(fake_count(c->primary, FAKE_TX), 0);
	assert_int_equal(file(c), 'a');
	end_write(c, 1);
	write_again(c, 'x', 12);
}

static void commit__while_renewing_and_never_had__fails_before_it_is_sent(void **state)
{
	struct ctx *c = *state;
	struct waiting w;

	c->settings.halt_timeout_ms = 500;
	begin_write_and_block_renewal(c);
	assert_int_equal(start_commit(c, 1, 'b', &w), DB_PARKED);
	assert_int_equal(await(&w), -EIO);
	assert_int_equal(fake_count(c->primary, FAKE_TX), 0);
	end_write(c, 1);
	c->settings.halt_timeout_ms = 10000;
	fake_lock(c->primary, "app.db", false);
	write_again(c, 'a', 11);
}

static void stop__while_renewing__not_after_the_whole_halt_timeout(void **state)
{
	struct ctx *c = *state;
	struct waiting w;
	int64_t start;

	c->settings.halt_timeout_ms = 600000;
	begin_write_and_block_renewal(c);
	assert_int_equal(start_commit(c, 1, 'b', &w), DB_PARKED);
	start = clock_now_ns();
	db_stop(c->db);
	assert_true(clock_now_ns() < start + LONG_NS);
	assert_int_equal(await(&w), -EIO);
	assert_int_equal(fake_count(c->primary, FAKE_TX), 0);
	fake_lock(c->primary, "app.db", false);
}

static void open__no_such_database_or_none_of_sqlites__error(void **state)
{
	struct ctx *c = *state;
	struct db *db = NULL;
	char path[100];
	int fd;

	assert_int_equal(db_open(&c->config, "none.db", false, c, &db), -ENOENT);
	assert_int_equal(db_open(&c->config, "../app.db", false, c, &db), -EINVAL);
	snprintf(path, sizeof path, "%s/lfs/bad.db", c->dir);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	assert_int_equal(ftruncate(fd, 8192), 0);
	close(fd);
	snprintf(path, sizeof path, "%s/lfs/bad.db-pos", c->dir);
	close(open(path, O_RDWR | O_CREAT, 0600));
	assert_int_equal(db_open(&c->config, "bad.db", false, c, &db), -EBADMSG);
	assert_null(db);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(locks__what_would_harm__refused),
		TEST(lock__asked_without_a_call__answered_at_once_or_not_parked),
		TEST(read__asked_without_a_call__guard_not_asked_for),
		TEST(commit__success_only_when_litefs_here_has_it),
		TEST(commit__burst__one_halt),
		TEST(read__while_our_commits_come__the_base_stays),
		TEST(read__while_litefs_applies_our_commit__the_base),
		TEST(fold__all_gone__header_first_then_the_changed_pages),
		TEST(fold__somebody_looks_at_the_file__at_once),
		TEST(foreign__nobody_reads__found_at_the_next_lock),
		TEST(foreign__somebody_reads__kept_out),
		TEST(role_changes__reader_stays__litefs_gets_its_locks_and_the_snapshot_is_kept),
		TEST(role_changes__foreign_comes_meanwhile__reader_told),
		TEST(write__behind_the_primary__busy_until_caught_up),
		TEST(commit__lost_before_the_primary_had_it__eio_and_nothing_changed),
		TEST(commit__answer_lost_and_replicated__success),
		TEST(commit__primary_gone__eio_and_unknown),
		TEST(foreign__instead_of_our_commit__readers_poisoned_until_they_leave),
		TEST(writer__dies_uncommitted__nothing_sent_and_lock_free),
		TEST(stop__while_a_call_waits__answered),
		TEST(transaction__longer_than_the_ttl__renewed_and_committed),
		TEST(transaction__longer_than_the_ttl_and_another_committed__fails_before_it_is_sent),
		TEST(commit__while_renewing__waits_for_the_new_lock),
		TEST(commit__while_renewing_and_another_committed__fails_before_it_is_sent),
		TEST(commit__while_renewing_and_never_had__fails_before_it_is_sent),
		TEST(stop__while_renewing__not_after_the_whole_halt_timeout),
		TEST(open__no_such_database_or_none_of_sqlites__error),
	};
	int failed;

	if (api_global_init())
		return 1;
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	api_global_fini();
	return failed;
}
