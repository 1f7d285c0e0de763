#include "rollback_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

/* In place of src/litefs/role.c. */
void role_get(struct role *role, struct role_state *ret)
{
	pthread_mutex_lock(&role->mutex);
	*ret = role->state;
	pthread_mutex_unlock(&role->mutex);
}

bool __wrap_lfs_dir_alive(const char *dir);

bool __wrap_lfs_dir_alive(const char *dir)
{
	return access(dir, F_OK) == 0;
}

/* ---- the local LiteFS ---- */

static void path_of(const struct local *l, const char *suffix, char ret[100])
{
	snprintf(ret, 100, "%s/lfs/%s%s", l->rig->dir, l->name, suffix);
}

static void run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static void run(const char *fmt, ...)
{
	char line[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	assert_int_equal(system(line), 0);
}

static int open_file(const struct local *l, const char *suffix)
{
	char path[100];
	int fd;

	path_of(l, suffix, path);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	if (fd < 0)
		abort();
	return fd;
}

static void set_pos(struct local *l, struct pos pos)
{
	char text[40];

	l->pos = pos;
	snprintf(text, sizeof text, "%016" PRIx64 "/%016" PRIx64 "\n", pos.txid, pos.checksum);
	if (pwrite(l->pos_fd, text, POS_TEXT_SIZE, 0) != POS_TEXT_SIZE)
		abort();
}

static void close_files(struct local *l)
{
	if (l->db_fd >= 0) {
		close(l->db_fd);
		close(l->shm_fd);
		close(l->pos_fd);
	}
	l->db_fd = l->shm_fd = l->pos_fd = -1;
}

static void remove_files(struct local *l)
{
	static const char *const suffixes[] = {"", "-pos", "-shm", "-wal"};
	char path[100];

	close_files(l);
	for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
		path_of(l, suffixes[i], path);
		unlink(path);
	}
}

static uint64_t checksum_of_file(struct local *l)
{
	uint64_t sum = 0;
	uint8_t page[PAGE];

	for (uint32_t p = 1; pread(l->db_fd, page, PAGE, (off_t)(p - 1) * PAGE) == PAGE; p++)
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

/* False: somebody is in the way. Open file description locks: POSIX locks of one process do not exclude each other. */
static bool lock_all(struct local *l, short type)
{
	struct flock shm = {.l_type = type, .l_start = WAL_WRITE_BYTE, .l_len = 8};
	struct flock db = {.l_type = type, .l_start = SQLITE_PENDING_BYTE, .l_len = 2 + SQLITE_SHARED_SIZE};

	if (fcntl(l->shm_fd, F_OFD_SETLK, &shm) < 0)
		return false;
	if (fcntl(l->db_fd, F_OFD_SETLK, &db) == 0)
		return true;
	shm.l_type = F_UNLCK;
	fcntl(l->shm_fd, F_OFD_SETLK, &shm);
	return false;
}

void rig_lock_write(struct local *l, bool yes)
{
	struct flock fl = {.l_type = yes ? F_WRLCK : F_UNLCK, .l_start = WAL_WRITE_BYTE, .l_len = 1};
	int64_t until = clock_now_ns() + LONG_NS;

	while (fcntl(l->shm_fd, F_OFD_SETLK, &fl) < 0)
		if (clock_now_ns() >= until)
			abort();
}

static void apply_locked(struct local *l, const uint8_t *ltx, size_t len)
{
	struct bytes b = {ltx, len, 0};
	struct ltx_decoder dec;
	struct ltx_trailer trailer;
	bool appears = l->db_fd < 0;
	uint8_t page[PAGE];
	char path[200];
	uint32_t pgno;
	int fd;

	if (ltx_decoder_init(&dec, read_bytes, &b))
		abort();
	snprintf(path, sizeof path, "%s/data/dbs/%s/ltx/%016" PRIx64 "-%016" PRIx64 ".ltx", l->rig->dir, l->name,
		 dec.header.min_txid, dec.header.max_txid);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || write(fd, ltx, len) != (ssize_t)len)
		abort();
	close(fd);
	if (appears)
		l->db_fd = open_file(l, "");
	while (ltx_decoder_page(&dec, &pgno, page) == 1)
		if (pwrite(l->db_fd, page, PAGE, (off_t)(pgno - 1) * PAGE) != PAGE)
			abort();
	if (ltx_decoder_finish(&dec, &trailer) || ftruncate(l->db_fd, (off_t)dec.header.commit * PAGE))
		abort();
	if (appears) {
		char temp[100];

		l->shm_fd = open_file(l, "-shm");
		path_of(l, "-new", temp);
		path_of(l, "-pos", path);
		l->pos_fd = open_file(l, "-new");
		set_pos(l, (struct pos){dec.header.max_txid, trailer.post_apply});
		if (rename(temp, path) < 0) /* whoever sees it sees all of it */
			abort();
	} else {
		set_pos(l, (struct pos){dec.header.max_txid, trailer.post_apply});
	}
	if (dec.header.commit == 0)
		remove_files(l);
	ltx_decoder_fini(&dec);
}

struct queued {
	struct queued *next;
	size_t len;
	uint8_t ltx[];
};

static void dequeue(struct local *l)
{
	struct queued *q = l->queue;

	l->ltx = malloc(q->len);
	memcpy(l->ltx, q->ltx, q->len);
	l->ltx_len = q->len;
	l->queue = q->next;
	free(q);
}

static void apply_next_locked(struct local *l)
{
	struct rig *r = l->rig;
	bool existed = l->db_fd >= 0;

	if (existed && !lock_all(l, F_WRLCK)) {
		pthread_mutex_unlock(&r->mutex);
		clock_sleep_ns(200 * NS_PER_US);
		pthread_mutex_lock(&r->mutex);
		return;
	}
	apply_locked(l, l->ltx, l->ltx_len);
	if (existed && l->db_fd >= 0)
		lock_all(l, F_UNLCK);
	free(l->ltx);
	l->ltx = NULL;
	r->applied++;
	pthread_cond_broadcast(&r->changed);
}

static void *applier_main(void *arg)
{
	struct rig *r = arg;

	pthread_mutex_lock(&r->mutex);
	while (!r->stop) {
		struct local *l;

		if (!r->a.ltx && r->a.queue)
			dequeue(&r->a);
		l = r->a.ltx ? &r->a : r->b.ltx ? &r->b : NULL;
		if (!l || r->hold)
			pthread_cond_wait(&r->changed, &r->mutex);
		else
			apply_next_locked(l);
	}
	pthread_mutex_unlock(&r->mutex);
	return NULL;
}

/* On the primary LiteFS applies in the call, under whatever locks its caller has taken. */
static void on_tx(void *arg, const char *name, const uint8_t *ltx, size_t len)
{
	struct rig *r = arg;
	struct local *l = strcmp(name, r->a.name) == 0 ? &r->a : &r->b;
	bool primary = r->role.state.kind == ROLE_PRIMARY;

	pthread_mutex_lock(&r->mutex);
	if (primary) {
		apply_locked(l, ltx, len);
		r->applied++;
	} else {
		free(l->ltx);
		l->ltx = malloc(len);
		memcpy(l->ltx, ltx, len);
		l->ltx_len = len;
	}
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->mutex);
	atomic_fetch_add(&r->received, 1);
	clock_sleep_ns(r->answer_delay_ms * NS_PER_MS);
}

void rig_forget_queue(struct local *l)
{
	struct rig *r = l->rig;

	pthread_mutex_lock(&r->mutex);
	while (l->queue) {
		struct queued *q = l->queue;

		l->queue = q->next;
		free(q);
	}
	free(l->ltx);
	l->ltx = NULL;
	pthread_mutex_unlock(&r->mutex);
}

void rig_queue(struct local *l, const uint8_t *ltx, size_t len)
{
	struct queued *q = malloc(sizeof *q + len), **tail = &l->queue;

	*q = (struct queued){.len = len};
	memcpy(q->ltx, ltx, len);
	pthread_mutex_lock(&l->rig->mutex);
	while (*tail)
		tail = &(*tail)->next;
	*tail = q;
	pthread_cond_broadcast(&l->rig->changed);
	pthread_mutex_unlock(&l->rig->mutex);
}

void rig_hold(struct rig *r, bool yes)
{
	pthread_mutex_lock(&r->mutex);
	r->hold = yes;
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->mutex);
}

void rig_wait_applied(struct rig *r, unsigned n)
{
	int64_t until = clock_now_ns() + LONG_NS;
	unsigned applied;

	pthread_mutex_lock(&r->mutex);
	while (r->applied < n && clock_now_ns() < until)
		clock_cond_wait_until(&r->changed, &r->mutex, until);
	applied = r->applied;
	pthread_mutex_unlock(&r->mutex);
	assert_true(applied >= n);
}

struct pos rig_pos(struct local *l)
{
	struct pos pos;

	pthread_mutex_lock(&l->rig->mutex);
	pos = l->pos;
	pthread_mutex_unlock(&l->rig->mutex);
	return pos;
}

int rig_file(struct local *l, uint32_t pgno)
{
	uint8_t byte;
	ssize_t n;

	pthread_mutex_lock(&l->rig->mutex);
	n = pread(l->db_fd, &byte, 1, (off_t)(pgno - 1) * PAGE);
	pthread_mutex_unlock(&l->rig->mutex);
	return n == 1 ? byte : -1;
}

uint32_t rig_file_pages(struct local *l)
{
	struct stat st = {0};

	pthread_mutex_lock(&l->rig->mutex);
	if (l->db_fd >= 0 && fstat(l->db_fd, &st) < 0)
		abort();
	pthread_mutex_unlock(&l->rig->mutex);
	return (uint32_t)(st.st_size / PAGE);
}

bool rig_is_exact(struct local *l)
{
	struct pos here, there;
	bool exact;

	pthread_mutex_lock(&l->rig->mutex);
	here = l->pos;
	exact = here.checksum == checksum_of_file(l);
	pthread_mutex_unlock(&l->rig->mutex);
	return exact && fake_get_pos(l->rig->primary, l->name, &there) && pos_equal(here, there);
}

/* ---- other nodes ---- */

struct sink {
	uint8_t data[3 * PAGE];
	size_t len;
};

static int sink_write(void *arg, const void *data, size_t len)
{
	struct sink *s = arg;

	assert_true(s->len + len <= sizeof s->data);
	memcpy(s->data + s->len, data, len);
	s->len += len;
	return 0;
}

/* No two transactions leave the same one: else caches of the one would be taken for the other's (seen_states.h). */
static void bump_change_counter(uint8_t page1[PAGE])
{
	static atomic_uint counter = 1000;

	put_be32(page1 + 24, atomic_fetch_add(&counter, 1));
}

static void fill_page1(uint8_t page[PAGE], uint32_t page_size, int version)
{
	memset(page, 0, PAGE);
	bump_change_counter(page);
	memcpy(page, "SQLite format 3", 16);
	page[16] = (uint8_t)(page_size >> 8);
	page[17] = (uint8_t)(page_size >> 16);
	page[18] = page[19] = (uint8_t)version;
}

/* One transaction upon what LiteFS has here, of the pages first..last: its position afterwards. */
static struct pos encode(struct local *l, uint32_t first, uint32_t last, uint32_t size, uint8_t fill, struct sink *sink)
{
	struct pos before = rig_pos(l);
	struct ltx_header h = {.page_size = PAGE, .commit = size, .min_txid = before.txid + 1, .max_txid = before.txid + 1,
			       .pre_apply = before.checksum, .node_id = 4711, .timestamp_ms = 1};
	uint64_t post = before.checksum;
	struct ltx_encoder enc;
	struct ltx_trailer t;

	*sink = (struct sink){.len = 0};
	assert_int_equal(ltx_encoder_init(&enc, &h, sink_write, sink), 0);
	for (uint32_t pgno = first; pgno <= last; pgno++) {
		uint8_t old[PAGE], page[PAGE];
		bool was_there = l->db_fd >= 0 && pread(l->db_fd, old, PAGE, (off_t)(pgno - 1) * PAGE) == PAGE;

		if (pgno == 1)
			fill_page1(page, PAGE, 1);
		else
			memset(page, fill, PAGE);
		if (was_there)
			post ^= ltx_page_checksum(pgno, old, PAGE);
		post ^= ltx_page_checksum(pgno, page, PAGE);
		assert_int_equal(ltx_encoder_page(&enc, pgno, page), 0);
	}
	post = size ? post | LTX_CHECKSUM_FLAG : LTX_CHECKSUM_FLAG;
	assert_int_equal(ltx_encoder_finish(&enc, post, &t), 0);
	ltx_encoder_fini(&enc);
	return (struct pos){h.max_txid, post};
}

void rig_make_ltx(struct local *l, uint8_t fill, struct spool *ret)
{
	struct sink sink;

	encode(l, 2, 2, rig_file_pages(l), fill, &sink);
	assert_int_equal(spool_append(ret, sink.data, sink.len), 0);
}

static void send_from_elsewhere(struct local *l, uint32_t first, uint32_t last, uint32_t size, uint8_t fill, bool here)
{
	struct sink sink;

	fake_set_pos(l->rig->primary, l->name, encode(l, first, last, size, fill, &sink));
	if (!here)
		return;
	pthread_mutex_lock(&l->rig->mutex);
	free(l->ltx);
	l->ltx = malloc(sink.len);
	memcpy(l->ltx, sink.data, sink.len);
	l->ltx_len = sink.len;
	pthread_cond_broadcast(&l->rig->changed);
	pthread_mutex_unlock(&l->rig->mutex);
}

void rig_foreign(struct local *l, uint8_t fill, bool here)
{
	send_from_elsewhere(l, l->rig->wal ? 2 : 1, 2, rig_file_pages(l), fill, here);
}

void rig_drop_here(struct local *l)
{
	send_from_elsewhere(l, 1, 0, 0, 0, true);
}

void rig_create_here(struct local *l, uint8_t fill)
{
	send_from_elsewhere(l, 1, 2, 2, fill, true);
}

/* ---- what db tells the kernel ---- */

static void event(struct rig *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void event(struct rig *r, const char *fmt, ...)
{
	va_list ap;
	size_t n;

	pthread_mutex_lock(&r->mutex);
	n = strlen(r->events);
	va_start(ap, fmt);
	vsnprintf(r->events + n, sizeof r->events - n, fmt, ap);
	va_end(ap);
	pthread_mutex_unlock(&r->mutex);
}

static void on_shm_store(void *arg, off_t off, const void *data, size_t len)
{
	(void)arg, (void)off, (void)data, (void)len;
}

static void on_invalidate(void *arg, off_t off, off_t len)
{
	event(arg, "inval %d+%d;", (int)off, (int)len);
}

static void on_mode_changed(void *arg)
{
	event(arg, "mode;");
}

void rig_take_events(struct rig *r, char ret[4000])
{
	pthread_mutex_lock(&r->mutex);
	memcpy(ret, r->events, sizeof r->events);
	r->events[0] = 0;
	pthread_mutex_unlock(&r->mutex);
}

long long rig_stat(struct local *l, const char *key)
{
	json_t *o = db_status(l->db);
	json_t *v = json_object_get(o, key);
	long long n = json_is_boolean(v) ? json_is_true(v) : json_integer_value(v);

	assert_non_null(v);
	json_decref(o);
	return n;
}

bool rig_wait_idle(struct local *l)
{
	int64_t until = clock_now_ns() + LONG_NS;

	for (;;) {
		json_t *o = db_status(l->db);
		bool idle = !strcmp(json_string_value(json_object_get(o, "upstream")), "idle");

		json_decref(o);
		if (idle || clock_now_ns() >= until)
			return idle;
		clock_sleep_ns(NS_PER_MS);
	}
}

/* ---- the rig ---- */

static void make_database(struct local *l)
{
	uint8_t page[PAGE];
	char path[100];
	sqlite3 *conn;

	path_of(l, "", path);
	assert_int_equal(sqlite3_open(path, &conn), SQLITE_OK);
	assert_int_equal(sqlite3_exec(conn, l->rig->wal ? "PRAGMA page_size=4096; PRAGMA journal_mode=WAL; CREATE TABLE t(a)"
							: "PRAGMA page_size=4096; CREATE TABLE t(a)",
				      NULL, NULL, NULL),
			 SQLITE_OK);
	assert_int_equal(sqlite3_close(conn), SQLITE_OK);
	l->db_fd = open_file(l, "");
	l->shm_fd = open_file(l, "-shm");
	l->pos_fd = open_file(l, "-pos");
	assert_int_equal(pread(l->db_fd, page, PAGE, 0), PAGE);
	put_be32(page + 28, PAGES);
	assert_int_equal(pwrite(l->db_fd, page, PAGE, 0), PAGE);
	memset(page, 'a', PAGE);
	for (uint32_t pgno = 2; pgno <= PAGES; pgno++)
		assert_int_equal(pwrite(l->db_fd, page, PAGE, (off_t)(pgno - 1) * PAGE), PAGE);
	set_pos(l, (struct pos){10, checksum_of_file(l)});
	fake_set_pos(l->rig->primary, l->name, l->pos);
}

static void make(struct rig *r, struct local *l, const char *name, bool as_new)
{
	*l = (struct local){.rig = r, .db_fd = -1, .shm_fd = -1, .pos_fd = -1};
	strncpy(l->name, name, sizeof l->name - 1);
	run("mkdir -p %s/data/dbs/%s/ltx", r->dir, name);
	if (!as_new)
		make_database(l);
}

void rig_make(struct rig *r, struct local *l, const char *name)
{
	make(r, l, name, false);
}

void rig_open(struct rig *r, struct local *l, const char *name, bool as_new)
{
	make(r, l, name, as_new);
	assert_int_equal(db_open(&r->config, name, as_new, r, &l->db), 0);
}

struct rig *rig_new(bool create)
{
	static const struct db_notify notify = {on_shm_store, on_invalidate, on_mode_changed, NULL};
	struct rig *r = calloc(1, sizeof *r);
	char path[80];

	strcpy(r->dir, "/tmp/test-rollback-XXXXXX");
	assert_non_null(mkdtemp(r->dir));
	run("mkdir -p %s/lfs", r->dir);
	pthread_mutex_init(&r->mutex, NULL);
	clock_cond_init(&r->changed);
	assert_int_equal(pthread_create(&r->applier, NULL, applier_main, r), 0);
	r->primary = fake_start(PRIMARY);
	fake_set_cluster(r->primary, "LFSC1", "/data");
	fake_on_tx(r->primary, on_tx, r);
	pthread_mutex_init(&r->role.mutex, NULL);
	r->role.state.kind = ROLE_REPLICA;
	r->role.state.epoch = 1;
	strcpy(r->role.state.cluster_id, "LFSC1");
	snprintf(r->role.state.primary_url, sizeof r->role.state.primary_url, "%s", fake_url(r->primary));
	snprintf(r->role.state.path, sizeof r->role.state.path, "%s/data", r->dir);
	snprintf(path, sizeof path, "%s/lfs", r->dir);
	r->settings = (struct settings){.litefs_dir = strdup(path), .litefs_url = strdup(fake_url(r->primary)),
					.spool_dir = strdup("/tmp"), .spool_threshold = 1 << 20, .halt_timeout_ms = 10000,
					.commit_timeout_ms = 15000, .halt_linger_ms = 10, .halt_max_hold_ms = 100,
					.halt_pause_ms = 1};
	r->config = (struct db_config){.settings = &r->settings, .role = &r->role, .node_id = OURS, .notify = &notify};
	assert_int_equal(super_table_new(&r->config.supers), 0);
	r->a.db_fd = r->b.db_fd = -1;
	if (create)
		rig_open(r, &r->a, "app.db", false);
	return r;
}

void rig_free(struct rig *r)
{
	struct local *const locals[] = {&r->a, &r->b};

	rig_hold(r, false);
	for (int i = 0; i < 2; i++)
		if (locals[i]->db) {
			db_stop(locals[i]->db);
			db_free(locals[i]->db);
		}
	fake_stop(r->primary);
	pthread_mutex_lock(&r->mutex);
	r->stop = true;
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->mutex);
	pthread_join(r->applier, NULL);
	for (int i = 0; i < 2; i++) {
		while (locals[i]->queue) {
			free(locals[i]->ltx);
			dequeue(locals[i]);
		}
		free(locals[i]->ltx);
		close_files(locals[i]);
	}
	super_table_free(r->config.supers);
	run("rm -r %s", r->dir);
	free(r->settings.litefs_dir);
	free(r->settings.litefs_url);
	free(r->settings.spool_dir);
	pthread_mutex_destroy(&r->mutex);
	free(r);
}

void rig_make_primary(struct rig *r)
{
	pthread_mutex_lock(&r->role.mutex);
	r->role.state.kind = ROLE_PRIMARY;
	r->role.state.epoch++;
	pthread_mutex_unlock(&r->role.mutex);
}

/* ---- a parked call ---- */

static void on_done(struct db_call *call, int result)
{
	struct waiting *w = (struct waiting *)call;

	pthread_mutex_lock(&w->mutex);
	w->done = true;
	w->result = result;
	pthread_cond_signal(&w->cond);
	pthread_mutex_unlock(&w->mutex);
}

void waiting_init(struct waiting *w)
{
	*w = (struct waiting){.call = {.done = on_done}};
	pthread_mutex_init(&w->mutex, NULL);
	clock_cond_init(&w->cond);
}

bool is_done(struct waiting *w)
{
	bool done;

	pthread_mutex_lock(&w->mutex);
	done = w->done;
	pthread_mutex_unlock(&w->mutex);
	return done;
}

int await(struct waiting *w)
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

int settled(int result, struct waiting *w)
{
	return result == DB_PARKED ? await(w) : result;
}

/* ---- clients ---- */

static pid_t tgid_of(uint64_t id)
{
	return (pid_t)(1000 + id);
}

void client_open(struct local *l, uint64_t id)
{
	db_handle_opened(l->db, tgid_of(id));
}

void client_die(struct local *l, uint64_t id)
{
	db_flush(l->db, false, id);
	db_handle_closed(l->db, tgid_of(id));
}

int client_lock(struct local *l, uint64_t id, short type, int64_t first, int64_t n, struct waiting *w)
{
	struct db_lock lock = {.type = type, .start = first, .end = n ? first + n - 1 : INT64_MAX, .owner = id,
			       .tgid = tgid_of(id), .handle = id};

	waiting_init(w);
	return db_lock(l->db, &lock, &w->call);
}

static int set_lock(struct local *l, uint64_t id, short type, int64_t first, int64_t n)
{
	struct waiting w;

	return settled(client_lock(l, id, type, first, n, &w), &w);
}

int client_try_shared(struct local *l, uint64_t id)
{
	int err = set_lock(l, id, F_RDLCK, SQLITE_PENDING_BYTE, 1);

	if (err)
		return err;
	err = set_lock(l, id, F_RDLCK, SQLITE_SHARED_FIRST, SQLITE_SHARED_SIZE);
	assert_int_equal(set_lock(l, id, F_UNLCK, SQLITE_PENDING_BYTE, 1), 0);
	return err;
}

void client_shared(struct local *l, uint64_t id)
{
	int64_t until = clock_now_ns() + LONG_NS;
	int err;

	while ((err = client_try_shared(l, id)) == -EAGAIN && clock_now_ns() < until)
		clock_sleep_ns(NS_PER_MS);
	assert_int_equal(err, 0);
}

void client_reserved(struct local *l, uint64_t id)
{
	int64_t until = clock_now_ns() + LONG_NS;
	int err;

	for (;;) {
		client_shared(l, id);
		err = set_lock(l, id, F_WRLCK, SQLITE_RESERVED_BYTE, 1);
		if (err != -EAGAIN || clock_now_ns() >= until)
			break;
		client_unlock(l, id);
		clock_sleep_ns(2 * NS_PER_MS);
	}
	assert_int_equal(err, 0);
}

int client_try_exclusive(struct local *l, uint64_t id)
{
	int err = set_lock(l, id, F_WRLCK, SQLITE_PENDING_BYTE, 1);

	return err ? err : set_lock(l, id, F_WRLCK, SQLITE_SHARED_FIRST, SQLITE_SHARED_SIZE);
}

/* By way of SHARED, as SQLite does it after a transaction. */
void client_unlock(struct local *l, uint64_t id)
{
	assert_int_equal(set_lock(l, id, F_RDLCK, SQLITE_SHARED_FIRST, SQLITE_SHARED_SIZE), 0);
	assert_int_equal(set_lock(l, id, F_UNLCK, SQLITE_PENDING_BYTE, 2), 0);
	assert_int_equal(set_lock(l, id, F_UNLCK, 0, 0), 0);
}

static int write_header(struct local *l, uint64_t id, uint32_t records)
{
	uint8_t header[512] = {0};
	struct waiting w;

	waiting_init(&w);
	memcpy(header, journal_magic, JOURNAL_MAGIC_SIZE);
	put_be32(header + 8, records);
	put_be32(header + 16, PAGES);
	put_be32(header + 20, 512);
	put_be32(header + 24, PAGE);
	return settled(db_journal_write(l->db, id, header, records ? 12 : 512, 0, &w.call), &w);
}

static int write_super(struct local *l, uint64_t id, const char *super)
{
	uint8_t tail[JOURNAL_SUPER_TAIL_SIZE], lock_page[4] = {0};
	off_t at = 512 + 8 + PAGE;
	uint32_t sum = 0, len = (uint32_t)strlen(super);
	struct waiting w;
	int err;

	for (uint32_t i = 0; i < len; i++)
		sum += (uint32_t)super[i];
	put_be32(tail, len);
	put_be32(tail + 4, sum);
	memcpy(tail + 8, journal_magic, JOURNAL_MAGIC_SIZE);
	waiting_init(&w);
	err = settled(db_journal_write(l->db, id, lock_page, 4, at, &w.call), &w);
	if (!err)
		err = settled(db_journal_write(l->db, id, super, len, at + 4, &w.call), &w);
	return err ? err : settled(db_journal_write(l->db, id, tail, sizeof tail, at + 4 + len, &w.call), &w);
}

int client_journal(struct local *l, uint64_t id, const char *super)
{
	uint8_t record[8 + PAGE] = {0, 0, 0, 2};
	struct waiting w;
	int err = db_journal_create(l->db);

	if (!err)
		err = write_header(l, id, 0);
	if (err)
		return err;
	waiting_init(&w);
	err = settled(db_journal_write(l->db, id, record, sizeof record, 512, &w.call), &w);
	if (!err && super)
		err = write_super(l, id, super);
	return err ? err : write_header(l, id, 1); /* after the sync: how many there are */
}

static bool read_file(struct local *l, uint32_t pgno, uint8_t page[PAGE])
{
	ssize_t n;

	pthread_mutex_lock(&l->rig->mutex);
	n = l->db_fd < 0 ? 0 : pread(l->db_fd, page, PAGE, (off_t)(pgno - 1) * PAGE);
	pthread_mutex_unlock(&l->rig->mutex);
	return n == PAGE;
}

int client_write(struct local *l, uint64_t id, uint32_t pgno, uint8_t fill)
{
	uint8_t page[PAGE], page1[PAGE];
	int err;

	memset(page, fill, PAGE);
	err = db_write(l->db, tgid_of(id), page, PAGE, (off_t)(pgno - 1) * PAGE);
	if (err || pgno == 1 || !read_file(l, 1, page1))
		return err;
	if (rig_file(l, pgno) != fill)
		bump_change_counter(page1);
	return db_write(l->db, tgid_of(id), page1, PAGE, 0);
}

int client_write_page1(struct local *l, uint64_t id, uint32_t page_size, int version)
{
	uint8_t page[PAGE];

	fill_page1(page, page_size, version);
	return db_write(l->db, tgid_of(id), page, PAGE, 0);
}

int client_write_size(struct local *l, uint64_t id, uint32_t pages)
{
	uint8_t page1[PAGE];

	assert_true(read_file(l, 1, page1));
	bump_change_counter(page1);
	memcpy(page1 + 92, page1 + 24, 4); /* version-valid-for: the size is to be believed */
	put_be32(page1 + 28, pages);
	return db_write(l->db, tgid_of(id), page1, PAGE, 0);
}

int client_read(struct local *l, uint64_t id, uint32_t pgno)
{
	uint8_t page[PAGE];
	ssize_t n = db_read(l->db, tgid_of(id), page, PAGE, (off_t)(pgno - 1) * PAGE);

	if (n < 0)
		return (int)n;
	if (n == 0)
		return -1;
	assert_int_equal(n, PAGE);
	for (int i = 1; pgno > 1 && i < PAGE; i++)
		assert_int_equal(page[i], page[0]);
	return page[0];
}

int client_start_end(struct local *l, uint64_t id, enum ending ending, struct waiting *w)
{
	static const uint8_t zeros[28];

	waiting_init(w);
	if (ending == UNLINKED)
		return db_journal_unlink(l->db, tgid_of(id), &w->call);
	if (ending == TRUNCATED)
		return db_journal_truncate(l->db, tgid_of(id), 0, &w->call);
	return db_journal_write(l->db, id, zeros, sizeof zeros, 0, &w->call);
}

int client_end(struct local *l, uint64_t id, enum ending ending)
{
	struct waiting w;

	return settled(client_start_end(l, id, ending, &w), &w);
}

void client_advance(struct local *l, uint64_t id, enum stage stage, uint8_t fill, struct waiting *w)
{
	if (stage >= SHARED)
		client_shared(l, id);
	if (stage >= RESERVED)
		client_reserved(l, id);
	if (stage >= CREATED)
		assert_int_equal(db_journal_create(l->db), 0);
	if (stage >= HOT)
		assert_int_equal(client_journal(l, id, NULL), 0);
	if (stage >= EXCLUSIVE)
		assert_int_equal(client_try_exclusive(l, id), 0);
	if (stage >= WRITTEN)
		assert_int_equal(client_write(l, id, 2, fill), 0);
	if (stage >= COMMITTING) {
		unsigned sent = fake_count(l->rig->primary, FAKE_TX);

		assert_int_equal(client_start_end(l, id, UNLINKED, w), DB_PARKED);
		assert_true(fake_wait_count(l->rig->primary, FAKE_TX, sent + 1));
	}
}

void client_commit(struct local *l, uint64_t id, uint8_t fill)
{
	client_advance(l, id, WRITTEN, fill, NULL);
	assert_int_equal(client_end(l, id, UNLINKED), 0);
	client_unlock(l, id);
}
