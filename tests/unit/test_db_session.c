/*
 * db's half of the gateway: on the primary other nodes' sessions, their turns and commits; on a replica what begin brings,
 * with a scripted upstream in place of src/litefs/upstream_gateway.c. Everything else is rollback_rig's, in WAL mode.
 */
#include "rollback_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "litefs/api.h"
#include "litefs/dir.h"
#include "litefs/upstream.h"

#define PEER UINT64_C(0x1234)
/* As db_session.c has them. */
#define TURN_COMMITS 64
#define TURN_NS (120 * NS_PER_MS)
#define HOLD_LONE_NS NS_PER_S

#define MODEL_PAGES 8
#define HISTORY 16

struct tx {
	uint8_t *ltx;
	size_t len;
	struct pos before, after;
};

struct ctx {
	struct rig *r;
	struct local *l;
	/* the database as the primary has it */
	uint8_t model[MODEL_PAGES][PAGE];
	uint32_t pages;
	struct pos pos;
	/* the wal-index as a client's memory has it, and what was stored there */
	pthread_mutex_t mutex;
	uint8_t shm[2 * WALINDEX_BLOCK_SIZE];
	char stores[4000];
	/* the primary's gateway, as a replica sees it */
	struct tx history[HISTORY];
	unsigned txs;
	int begin_err; /* of the next begins */
	bool no_bundle, bad_bundle, yields, lose_answer;
	enum { STAYS, LOST_BEFORE, LOST_AFTER } view; /* LiteFS is restarted while begin is under way, or when it has its answer */
	pthread_mutex_t script; /* all of this, which belongs to the test's thread between two calls of the upstream */
	atomic_uint begins, commits, ends;
	struct pos have; /* begin's */
	struct upstream base;
	uint64_t sizes[HISTORY];
	uint8_t *bundle;
	atomic_bool held;
	int64_t commit_ns; /* what the last commit's answer is waited for */
	int64_t began_ns, ended_ns, held_ns, free_ns; /* script's: the last begin and end, and what was between them, in sum */
};

static struct ctx *the; /* of the case that runs */
static atomic_bool litefs_gone;
static atomic_bool litefs_restarted; /* what was opened before is of a LiteFS that is no more */

int __wrap_lfs_files_pos(const struct lfs_files *files, struct pos *ret);
int __real_lfs_files_pos(const struct lfs_files *files, struct pos *ret);

int __wrap_lfs_files_pos(const struct lfs_files *files, struct pos *ret)
{
	return atomic_load(&litefs_gone) ? -ENOTCONN : __real_lfs_files_pos(files, ret);
}

int __wrap_lfs_files_open_wal(struct lfs_files *files);
int __wrap_lfs_files_keep_wal(struct lfs_files *files, int64_t *ret_size);

/* The directory is no mount, and these ask for themselves whether it is one. */
static int open_wal(struct lfs_files *files)
{
	char path[200];

	snprintf(path, sizeof path, "%s/%s-wal", files->dir, files->name);
	if (files->wal_fd < 0)
		files->wal_fd = open(path, O_RDWR | O_CREAT, 0600);
	return files->wal_fd < 0 ? -errno : 0;
}

int __wrap_lfs_files_open_wal(struct lfs_files *files)
{
	return atomic_load(&litefs_restarted) && files->wal_fd >= 0 ? -ENOTCONN : open_wal(files);
}

int __wrap_lfs_files_keep_wal(struct lfs_files *files, int64_t *ret_size)
{
	int err = open_wal(files);

	return err ? err : lfs_files_wal_size(files, ret_size);
}

ssize_t __wrap_lfs_files_read(const struct lfs_files *files, void *buf, size_t len, off_t off);
ssize_t __real_lfs_files_read(const struct lfs_files *files, void *buf, size_t len, off_t off);

ssize_t __wrap_lfs_files_read(const struct lfs_files *files, void *buf, size_t len, off_t off)
{
	return atomic_load(&litefs_gone) ? -ENOTCONN : __real_lfs_files_read(files, buf, len, off);
}

/* ---- transactions ---- */

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

/* The model after it. */
static void apply_model(struct ctx *c, const uint8_t *ltx, size_t len)
{
	struct bytes b = {ltx, len, 0};
	struct ltx_decoder dec;
	struct ltx_trailer trailer;
	uint8_t page[PAGE];
	uint32_t pgno;

	if (ltx_decoder_init(&dec, read_bytes, &b))
		abort();
	while (ltx_decoder_page(&dec, &pgno, page) == 1)
		memcpy(c->model[pgno - 1], page, PAGE);
	if (ltx_decoder_finish(&dec, &trailer))
		abort();
	c->pages = dec.header.commit;
	c->pos = (struct pos){dec.header.max_txid, trailer.post_apply};
	ltx_decoder_fini(&dec);
}

/* As LiteFS here has it: the primary's. */
static void sync_model(struct ctx *c)
{
	c->pos = rig_pos(c->l);
	c->pages = rig_file_pages(c->l);
	for (uint32_t p = 0; p < c->pages; p++)
		assert_int_equal(pread(c->l->db_fd, c->model[p], PAGE, (off_t)p * PAGE), PAGE);
}

enum wrong { RIGHT, TXID, PRE, POST, PAGE_SIZE, MISSING, MODE, CUT, JUNK, WRONGS };

struct change {
	uint8_t fill;
	uint32_t size; /* pages after it; 0: as many */
	uint32_t first, last; /* pages that are filled; 0: 2 */
	enum wrong wrong;
};

struct sink {
	uint8_t data[(MODEL_PAGES + 2) * PAGE];
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

/* The LTX file over the model. */
static uint8_t *make_ltx(struct ctx *c, struct change ch, size_t *ret_len)
{
	uint32_t size = ch.size ? ch.size : c->pages, first = ch.first ? ch.first : 2, last = ch.last ? ch.last : first;
	uint32_t page_size = ch.wrong == PAGE_SIZE ? 1024 : PAGE;
	struct ltx_header h = {.page_size = page_size, .commit = size, .min_txid = c->pos.txid + 1, .max_txid = c->pos.txid + 1,
			       .pre_apply = c->pos.checksum, .node_id = PEER, .timestamp_ms = 1700000000000 + ch.fill};
	uint64_t sum = c->pos.checksum;
	struct sink *sink = calloc(1, sizeof *sink);
	struct ltx_encoder enc;
	struct ltx_trailer t;
	uint8_t *ret;

	if (ch.wrong == TXID)
		h.min_txid = ++h.max_txid;
	if (ch.wrong == PRE)
		h.pre_apply ^= 1;
	if (ch.wrong == MISSING) {
		size = h.commit = c->pages + 2;
		first = last = size;
	}
	if (ch.wrong == MODE)
		first = last = 1;
	assert_int_equal(ltx_encoder_init(&enc, &h, sink_write, sink), 0);
	for (uint32_t p = first; p <= last; p++) {
		uint8_t page[PAGE];

		memset(page, ch.fill, PAGE);
		if (p == 1) {
			memcpy(page, c->model[0], PAGE);
			page[18] = page[19] = 1;
		}
		if (p <= c->pages)
			sum ^= ltx_page_checksum(p, c->model[p - 1], PAGE);
		sum ^= ltx_page_checksum(p, page, page_size);
		assert_int_equal(ltx_encoder_page(&enc, p, page), 0);
	}
	for (uint32_t p = size + 1; p <= c->pages; p++)
		sum ^= ltx_page_checksum(p, c->model[p - 1], PAGE);
	assert_int_equal(ltx_encoder_finish(&enc, (sum ^ (ch.wrong == POST)) | LTX_CHECKSUM_FLAG, &t), 0);
	ltx_encoder_fini(&enc);
	if (ch.wrong == JUNK)
		memset(sink->data, 'x', sink->len);
	*ret_len = ch.wrong == CUT ? sink->len - 8 : sink->len;
	ret = malloc(sink->len);
	memcpy(ret, sink->data, sink->len);
	free(sink);
	return ret;
}

/* ---- the primary's gateway ---- */

static void remember(struct ctx *c, const uint8_t *ltx, size_t len)
{
	struct tx *tx = &c->history[c->txs++];

	assert_in_range(c->txs, 1, HISTORY);
	*tx = (struct tx){.ltx = malloc(len), .len = len, .before = c->pos};
	memcpy(tx->ltx, ltx, len);
	apply_model(c, ltx, len);
	tx->after = c->pos;
	fake_set_pos(c->r->primary, c->l->name, c->pos);
}

/* Another node's transaction, at the primary; LiteFS here is sent it (and applies it when it can). */
static void elsewhere(struct ctx *c, struct change ch)
{
	size_t len;
	uint8_t *ltx;

	pthread_mutex_lock(&c->script);
	ltx = make_ltx(c, ch, &len);
	remember(c, ltx, len);
	rig_queue(c->l, ltx, len);
	pthread_mutex_unlock(&c->script);
	free(ltx);
}

static int gw_begin_locked(struct upstream *up, struct pos have, int64_t until_ns, struct upstream_grant *ret)
{
	struct ctx *c = the;
	size_t total = 0;
	unsigned first;

	(void)up, (void)until_ns;
	c->have = have;
	c->began_ns = clock_now_ns();
	if (c->ended_ns)
		c->free_ns += c->began_ns - c->ended_ns;
	atomic_fetch_add(&c->begins, 1);
	if (c->begin_err)
		return c->begin_err;
	if (c->view == LOST_BEFORE) { /* a reader finds out */
		uint8_t byte;

		atomic_store(&litefs_gone, true);
		if (db_read(c->l->db, getpid(), &byte, 1, PAGE) != -ESTALE)
			abort();
		atomic_store(&litefs_gone, false);
	}
	ret->pos = c->pos;
	for (first = 0; first < c->txs && !pos_equal(c->history[first].before, have);)
		first++;
	free(c->bundle);
	c->bundle = malloc(1 << 20);
	for (unsigned i = first; i < c->txs && !c->no_bundle; i++) {
		memcpy(c->bundle + total, c->history[i].ltx, c->history[i].len);
		c->sizes[i - first] = c->history[i].len;
		total += c->history[i].len;
		ret->tx_count++;
	}
	if (c->bad_bundle && total)
		c->bundle[total - 1] ^= 1; /* of the last one */
	ret->tx_size = c->sizes;
	ret->ltx = c->bundle;
	atomic_store(&litefs_gone, c->view == LOST_AFTER);
	atomic_store(&c->held, true);
	return 0;
}

static int gw_begin(struct upstream *up, struct pos have, int64_t until_ns, struct upstream_grant *ret)
{
	int err;

	pthread_mutex_lock(&the->script);
	err = gw_begin_locked(up, have, until_ns, ret);
	pthread_mutex_unlock(&the->script);
	return err;
}

static enum outcome gw_commit(struct upstream *up, const struct upstream_tx *tx, int64_t until_ns)
{
	struct ctx *c = the;
	uint8_t *ltx = malloc(tx->size);
	enum outcome outcome;

	(void)up;
	c->commit_ns = until_ns - clock_now_ns();
	atomic_fetch_add(&c->commits, 1);
	if (!atomic_load(&c->held) || !pos_equal(tx->before, c->pos) ||
	    tx->read_at(tx->ctx, ltx, tx->size, 0) != (ptrdiff_t)tx->size)
		abort();
	tx->sent(tx->ctx);
	pthread_mutex_lock(&c->script);
	remember(c, ltx, tx->size);
	rig_queue(c->l, ltx, tx->size);
	free(ltx);
	outcome = c->lose_answer || !pos_equal(c->pos, tx->after) ? OUTCOME_UNKNOWN : OUTCOME_COMMITTED;
	pthread_mutex_unlock(&c->script);
	return outcome;
}

static void gw_end(struct upstream *up)
{
	(void)up;
	if (!atomic_exchange(&the->held, false))
		return;
	pthread_mutex_lock(&the->script);
	the->ended_ns = clock_now_ns();
	the->held_ns += the->ended_ns - the->began_ns;
	pthread_mutex_unlock(&the->script);
	atomic_fetch_add(&the->ends, 1);
}

static int64_t gw_hold_until(const struct upstream *up)
{
	(void)up;
	return clock_now_ns() + 5 * NS_PER_S;
}

static int64_t gw_rtt_ns(const struct upstream *up)
{
	(void)up;
	return NS_PER_MS;
}

static bool gw_yield(const struct upstream *up)
{
	(void)up;
	return the->yields;
}

static void gw_nothing(struct upstream *up)
{
	(void)up;
}

int __wrap_upstream_gateway_new(const struct upstream_config *config, struct upstream **ret);

int __wrap_upstream_gateway_new(const struct upstream_config *config, struct upstream **ret)
{
	static const struct upstream_ops ops = {.begin = gw_begin, .commit = gw_commit, .end = gw_end, .rtt_ns = gw_rtt_ns,
						.abort = gw_nothing, .free = gw_nothing, .hold_until = gw_hold_until,
						.yield = gw_yield};

	the->base = (struct upstream){.ops = &ops, .kind = UPSTREAM_GATEWAY, .config = *config};
	*ret = &the->base;
	return 0;
}

/* ---- what db tells the kernel ---- */

static void on_shm_store(void *arg, off_t off, const void *data, size_t len)
{
	struct ctx *c = the;
	size_t n;

	(void)arg;
	pthread_mutex_lock(&c->mutex);
	if (off + (off_t)len <= (off_t)sizeof c->shm)
		memcpy(c->shm + off, data, len);
	n = strlen(c->stores);
	snprintf(c->stores + n, sizeof c->stores - n, "%lld+%zu;", (long long)off, len);
	pthread_mutex_unlock(&c->mutex);
}

static void on_invalidate(void *arg, off_t off, off_t len)
{
	(void)arg, (void)off, (void)len;
}

static void on_mode_changed(void *arg)
{
	(void)arg;
}

static void forget_stores(struct ctx *c)
{
	pthread_mutex_lock(&c->mutex);
	c->stores[0] = 0;
	pthread_mutex_unlock(&c->mutex);
}

/* As SQLite reads it: again while its copies differ. */
static struct walindex_header header_of(struct ctx *c)
{
	int64_t until = clock_now_ns() + LONG_NS;
	struct walindex_header h;
	bool whole;

	do {
		pthread_mutex_lock(&c->mutex);
		whole = memcmp(c->shm, c->shm + 48, 48) == 0 && walindex_header_decode(c->shm, &h) == 0;
		pthread_mutex_unlock(&c->mutex);
	} while (!whole && clock_now_ns() < until);
	if (!whole)
		abort();
	return h;
}

/* ---- clients ---- */

static int lock_as(struct ctx *c, uint64_t id, enum lock_file file, short type, int64_t first, int64_t n, struct waiting *w)
{
	struct db_lock lock = {.file = file, .type = type, .start = first, .end = first + n - 1, .owner = id,
			       .tgid = (pid_t)(1000 + id), .handle = id};

	waiting_init(w);
	return db_lock(c->l->db, &lock, &w->call);
}

static int shm_lock(struct ctx *c, uint64_t id, short type, int byte)
{
	struct waiting w;

	return settled(lock_as(c, id, LOCK_FILE_SHM, type, byte, 1, &w), &w);
}

static void open_client(struct ctx *c, uint64_t id)
{
	struct waiting w;

	db_handle_opened(c->l->db, (pid_t)(1000 + id));
	assert_int_equal(settled(lock_as(c, id, LOCK_FILE_DATABASE, F_RDLCK, SQLITE_SHARED_FIRST, SQLITE_SHARED_SIZE, &w), &w), 0);
}

static void close_client(struct ctx *c, uint64_t id)
{
	db_flush(c->l->db, LOCK_FILE_SHM, id);
	db_flush(c->l->db, LOCK_FILE_DATABASE, id);
	db_handle_closed(c->l->db, (pid_t)(1000 + id));
}

static int try_read(struct ctx *c, uint64_t id)
{
	return shm_lock(c, id, F_RDLCK, WAL_READ_BYTE(1));
}

/* The snapshot: mxFrame. */
static uint32_t begin_read(struct ctx *c, uint64_t id)
{
	int64_t until = clock_now_ns() + LONG_NS;
	int err;

	while ((err = try_read(c, id)) == -EAGAIN && clock_now_ns() < until)
		clock_sleep_ns(NS_PER_MS);
	assert_int_equal(err, 0);
	return header_of(c).max_frame;
}

static void end_read(struct ctx *c, uint64_t id)
{
	assert_int_equal(shm_lock(c, id, F_UNLCK, WAL_READ_BYTE(1)), 0);
}

static int try_write(struct ctx *c, uint64_t id)
{
	return shm_lock(c, id, F_WRLCK, WAL_WRITE_BYTE);
}

/* As SQLite's busy handler. How often it was sent away. */
static int begin_write(struct ctx *c, uint64_t id)
{
	int64_t until = clock_now_ns() + LONG_NS;
	int err, away = 0;

	for (;; away++) {
		begin_read(c, id);
		err = try_write(c, id);
		if (err != -EAGAIN || clock_now_ns() >= until)
			break;
		end_read(c, id);
		clock_sleep_ns(2 * NS_PER_MS);
	}
	assert_int_equal(err, 0);
	return away;
}

static void end_write(struct ctx *c, uint64_t id)
{
	assert_int_equal(shm_lock(c, id, F_UNLCK, WAL_WRITE_BYTE), 0);
	end_read(c, id);
}

static int start_write_commit(struct ctx *c, uint64_t id, uint8_t fill, struct waiting *w)
{
	uint8_t head[WAL_HEADER_SIZE], frame[WAL_FRAME_HEADER_SIZE], page[PAGE];
	struct walindex_header h = header_of(c);
	uint32_t sum[2] = {h.frame_sum[0], h.frame_sum[1]};
	struct wal_salt salt;
	off_t off = wal_frame_offset(h.max_frame + 1, PAGE);
	int err;

	waiting_init(w);
	memset(page, fill, PAGE);
	assert_int_equal(db_wal_read(c->l->db, head, sizeof head, 0), sizeof head);
	memcpy(salt.bytes, head + 16, 8);
	wal_frame_encode(2, h.page_count, salt, page, PAGE, sum, frame);
	err = db_wal_write(c->l->db, id, frame, sizeof frame, off, &w->call);
	return err ? err : db_wal_write(c->l->db, id, page, PAGE, off + (off_t)sizeof frame, &w->call);
}

/* What a writer does after its commit, in its memory. */
static void publish_own(struct ctx *c)
{
	struct walindex_header h = header_of(c);
	uint8_t head[WALINDEX_HEADER_SIZE], frame[WAL_FRAME_HEADER_SIZE];

	h.change++;
	h.max_frame++;
	assert_int_equal(db_wal_read(c->l->db, frame, sizeof frame, wal_frame_offset(h.max_frame, PAGE)), sizeof frame);
	h.frame_sum[0] = be32(frame + 16);
	h.frame_sum[1] = be32(frame + 20);
	walindex_header_encode(&h, head);
	pthread_mutex_lock(&c->mutex);
	memcpy(c->shm, head, 96);
	pthread_mutex_unlock(&c->mutex);
}

static int write_commit(struct ctx *c, uint64_t id, uint8_t fill)
{
	struct waiting w;
	int err = settled(start_write_commit(c, id, fill, &w), &w);

	if (!err)
		publish_own(c);
	return err;
}

static void write_once(struct ctx *c, uint64_t id, uint8_t fill)
{
	begin_write(c, id);
	assert_int_equal(write_commit(c, id, fill), 0);
	end_write(c, id);
}

/* First byte of a page in the snapshot that ends with max_frame; -errno. */
static int page_at(struct ctx *c, uint32_t max_frame, uint32_t pgno)
{
	uint8_t page[PAGE], head[WAL_FRAME_HEADER_SIZE];
	ssize_t n;

	for (uint32_t f = max_frame; f; f--) {
		off_t off = wal_frame_offset(f, PAGE);

		assert_int_equal(db_wal_read(c->l->db, head, sizeof head, off), sizeof head);
		if (be32(head) != pgno)
			continue;
		assert_int_equal(db_wal_read(c->l->db, page, PAGE, off + (off_t)sizeof head), PAGE);
		goto out;
	}
	n = db_read(c->l->db, getpid(), page, PAGE, (off_t)(pgno - 1) * PAGE);
	if (n < 0)
		return (int)n;
	assert_int_equal(n, PAGE);
out:
	for (int i = 1; i < PAGE && pgno > 1; i++)
		assert_int_equal(page[i], page[0]);
	return page[0];
}

/* Page 2 as a new reader sees it. */
static int latest(struct ctx *c, uint64_t id)
{
	uint32_t max_frame = begin_read(c, id);
	int byte = page_at(c, max_frame, 2);

	end_read(c, id);
	return byte;
}

static void wait_stat(struct ctx *c, const char *key, long long at_least)
{
	int64_t until = clock_now_ns() + LONG_NS;

	while (rig_stat(c->l, key) < at_least && clock_now_ns() < until)
		clock_sleep_ns(NS_PER_MS);
	assert_true(rig_stat(c->l, key) >= at_least);
}

/* ---- sessions ---- */

struct session_call {
	struct db_gw_call gw;
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	bool done;
	int result;
};

static void on_session_done(struct db_call *call, int result)
{
	struct session_call *s = (struct session_call *)call;

	pthread_mutex_lock(&s->mutex);
	s->done = true;
	s->result = result;
	pthread_cond_signal(&s->cond);
	pthread_mutex_unlock(&s->mutex);
}

static bool session_done(struct session_call *s)
{
	bool done;

	pthread_mutex_lock(&s->mutex);
	done = s->done;
	pthread_mutex_unlock(&s->mutex);
	return done;
}

static int session_await(int result, struct session_call *s)
{
	int64_t until = clock_now_ns() + LONG_NS;
	bool done;

	if (result != DB_PARKED)
		return result;
	pthread_mutex_lock(&s->mutex);
	while (!s->done && clock_now_ns() < until)
		clock_cond_wait_until(&s->cond, &s->mutex, until);
	done = s->done;
	pthread_mutex_unlock(&s->mutex);
	assert_true(done);
	return s->result;
}

static void session_init(struct session_call *s)
{
	*s = (struct session_call){.gw.call.done = on_session_done};
	pthread_mutex_init(&s->mutex, NULL);
	clock_cond_init(&s->cond);
}

static int start_begin(struct ctx *c, uint64_t id, uint64_t peer, int64_t wait_ms, struct session_call *s)
{
	session_init(s);
	return db_gw_begin(c->l->db, id, peer, clock_now_ns() + wait_ms * NS_PER_MS, &s->gw);
}

static int session_begin(struct ctx *c, uint64_t id, uint64_t peer, int64_t wait_ms, struct session_call *s)
{
	return session_await(start_begin(c, id, peer, wait_ms, s), s);
}

static void must_begin(struct ctx *c, uint64_t id)
{
	struct session_call s;

	assert_int_equal(session_begin(c, id, PEER, 10000, &s), 0);
	assert_true(pos_equal(s.gw.pos, rig_pos(c->l)));
}

static int start_commit(struct ctx *c, uint64_t id, struct change ch, struct session_call *s)
{
	struct spool spool;
	size_t len;
	uint8_t *ltx;
	int result;

	sync_model(c);
	ltx = make_ltx(c, ch, &len);
	session_init(s);
	spool_init(&spool, "/tmp", 1 << 20);
	assert_int_equal(spool_append(&spool, ltx, len), 0);
	result = db_gw_commit(c->l->db, id, &spool, &s->gw);
	spool_fini(&spool);
	free(ltx);
	return result;
}

static int session_commit(struct ctx *c, uint64_t id, struct change ch, struct session_call *s)
{
	return session_await(start_commit(c, id, ch, s), s);
}

/* The session of this id is no more, and nothing was changed by asking. */
static void assert_gone(struct ctx *c, uint64_t id)
{
	unsigned sent = fake_count(c->r->primary, FAKE_TX);
	struct session_call s;

	assert_int_equal(session_commit(c, id, (struct change){.fill = '?'}, &s), -EPERM);
	assert_int_equal(fake_count(c->r->primary, FAKE_TX), sent);
}

/* Everything works: a client and a session write, and both are seen. */
static void assert_usable(struct ctx *c)
{
	struct session_call s;

	open_client(c, 91);
	write_once(c, 91, 'Y');
	assert_int_equal(latest(c, 91), 'Y');
	must_begin(c, 92);
	assert_int_equal(session_commit(c, 92, (struct change){.fill = 'Z'}, &s), 0);
	assert_false(s.gw.unknown);
	db_gw_end(c->l->db, 92);
	assert_int_equal(latest(c, 91), 'Z');
	assert_int_equal(rig_file(c->l, 2), 'Z');
	assert_true(rig_is_exact(c->l));
	close_client(c, 91);
}

/* ---- every test ---- */

static int setup(void **state, bool primary)
{
	static const struct db_notify notify = {on_shm_store, on_invalidate, on_mode_changed, NULL};
	struct ctx *c = calloc(1, sizeof *c);

	the = c;
	atomic_store(&litefs_gone, false);
	atomic_store(&litefs_restarted, false);
	pthread_mutex_init(&c->mutex, NULL);
	pthread_mutex_init(&c->script, NULL);
	c->r = rig_new(false);
	c->r->wal = true;
	c->r->config.notify = &notify;
	if (primary)
		rig_make_primary(c->r);
	else
		c->r->settings.gateway_url = strdup("http://{hostname}:1");
	c->l = &c->r->a;
	rig_open(c->r, c->l, "app.db", false);
	assert_true(db_shm_read(c->l->db, c->shm, sizeof c->shm, 0) > 0);
	open_client(c, 1);
	open_client(c, 2);
	begin_read(c, 1);
	end_read(c, 1);
	sync_model(c);
	*state = c;
	return 0;
}

static int setup_primary(void **state)
{
	return setup(state, true);
}

static int setup_replica(void **state)
{
	return setup(state, false);
}

static int teardown(void **state)
{
	struct ctx *c = *state;

	atomic_store(&litefs_gone, false);
	free(c->r->settings.gateway_url);
	rig_free(c->r);
	for (unsigned i = 0; i < c->txs; i++)
		free(c->history[i].ltx);
	free(c->bundle);
	free(c);
	return 0;
}

/* ---- begin and end ---- */

static void begin__free__held_at_the_position_until_end(void **state)
{
	struct ctx *c = *state;
	struct session_call s;
	struct waiting w;
	int result;

	assert_int_equal(session_begin(c, 7, PEER, 5000, &s), 0);
	assert_true(s.gw.pos.txid == 10 && pos_equal(s.gw.pos, rig_pos(c->l)));
	assert_int_equal(s.gw.waiting, 0);
	begin_read(c, 1);
	result = lock_as(c, 1, LOCK_FILE_SHM, F_WRLCK, WAL_WRITE_BYTE, 1, &w);
	assert_int_equal(result, DB_PARKED); /* WRITE is the session's */
	assert_int_equal(await(&w), -EAGAIN);
	end_read(c, 1);
	db_gw_end(c->l->db, 7);
	assert_gone(c, 7);
	write_once(c, 1, 'b');
	assert_int_equal(rig_file(c->l, 2), 'b');
	assert_int_equal(fake_count(c->r->primary, FAKE_HALT), 0);
	assert_usable(c);
}

static void begin__a_local_client_writes__waits_until_it_has_ended(void **state)
{
	struct ctx *c = *state;
	struct session_call s;

	begin_write(c, 1);
	assert_int_equal(start_begin(c, 7, PEER, 10000, &s), DB_PARKED);
	clock_sleep_ns(20 * NS_PER_MS);
	assert_false(session_done(&s));
	assert_int_equal(write_commit(c, 1, 'b'), 0);
	assert_false(session_done(&s));
	end_write(c, 1);
	assert_int_equal(session_await(DB_PARKED, &s), 0);
	assert_true(s.gw.pos.txid == 11);
	assert_int_equal(session_commit(c, 7, (struct change){.fill = 'c'}, &s), 0);
	db_gw_end(c->l->db, 7);
	assert_int_equal(latest(c, 1), 'c');
}

static void begin__not_had_in_time__eagain_and_gone(void **state)
{
	struct ctx *c = *state;
	struct session_call s;

	begin_write(c, 1);
	assert_int_equal(session_begin(c, 7, PEER, 30, &s), -EAGAIN);
	assert_gone(c, 7);
	end_write(c, 1);
	assert_usable(c);
}

static void begin__same_id_again__ealready_while_waiting_and_renewed_while_held(void **state)
{
	struct ctx *c = *state;
	struct session_call s, again;

	begin_write(c, 1);
	assert_int_equal(start_begin(c, 7, PEER, 10000, &s), DB_PARKED);
	assert_int_equal(session_begin(c, 7, PEER, 10000, &again), -EALREADY);
	assert_false(session_done(&s));
	end_write(c, 1);
	assert_int_equal(session_await(DB_PARKED, &s), 0);
	db_gw_shorten(c->l->db, 7, 1000);
	assert_int_equal(session_begin(c, 7, PEER, 10000, &again), 0);
	assert_true(pos_equal(again.gw.pos, rig_pos(c->l)));
	clock_sleep_ns(1100 * NS_PER_MS); /* longer than what it was shortened to */
	assert_int_equal(session_commit(c, 7, (struct change){.fill = 'c'}, &s), 0);
	db_gw_end(c->l->db, 7);
	assert_usable(c);
}

static void begin__more_than_the_queue_holds__ebusy(void **state)
{
	static struct session_call calls[64];
	struct ctx *c = *state;
	struct session_call s;

	begin_write(c, 1);
	for (uint64_t i = 0; i < 64; i++)
		assert_int_equal(start_begin(c, 100 + i, i % 5 + 1, 10000, &calls[i]), DB_PARKED);
	assert_int_equal(session_begin(c, 7, PEER, 10000, &s), -EBUSY);
	end_write(c, 1);
	for (int n = 0; n < 64; n++) { /* each gets it, in whatever order */
		int64_t until = clock_now_ns() + LONG_NS;
		int i;

		for (;;) {
			for (i = 0; i < 64 && !(calls[i].gw.id && session_done(&calls[i])); i++)
				;
			if (i < 64 || clock_now_ns() >= until)
				break;
			clock_sleep_ns(NS_PER_MS);
		}
		assert_in_range(i, 0, 63);
		assert_int_equal(calls[i].result, 0);
		db_gw_end(c->l->db, calls[i].gw.id);
		calls[i].gw.id = 0;
	}
	assert_usable(c);
}

static void begin__not_the_primary_or_no_such_database__refused(void **state)
{
	struct ctx *c = *state;
	struct session_call s;

	pthread_mutex_lock(&c->r->role.mutex);
	c->r->role.state.kind = ROLE_REPLICA;
	pthread_mutex_unlock(&c->r->role.mutex);
	assert_int_equal(session_begin(c, 7, PEER, 1000, &s), -EHOSTUNREACH);
	rig_make_primary(c->r);
	c->r->wal = false;
	rig_open(c->r, &c->r->b, "two.db", false);
	session_init(&s);
	assert_int_equal(db_gw_begin(c->r->b.db, 7, PEER, clock_now_ns() + NS_PER_S, &s.gw), -ENOTSUP);
	db_stop(c->r->b.db);
	db_free(c->r->b.db);
	rig_open(c->r, &c->r->b, "none.db", true);
	assert_int_equal(db_gw_begin(c->r->b.db, 7, PEER, clock_now_ns() + NS_PER_S, &s.gw), -ENOTSUP);
	assert_usable(c);
}

static void end__waiting_committing_or_unknown__gone_in_order(void **state)
{
	static const struct fake_step slow = {.delay_ms = 100};
	struct ctx *c = *state;
	struct session_call s;

	db_gw_end(c->l->db, 99); /* nobody's */
	db_gw_shorten(c->l->db, 99, 0);
	begin_write(c, 1);
	assert_int_equal(start_begin(c, 7, PEER, 10000, &s), DB_PARKED);
	db_gw_end(c->l->db, 7);
	assert_true(session_done(&s));
	assert_int_equal(s.result, -ECANCELED);
	end_write(c, 1);
	must_begin(c, 8);
	fake_script(c->r->primary, FAKE_TX, &slow);
	assert_int_equal(start_commit(c, 8, (struct change){.fill = 'b'}, &s), DB_PARKED);
	assert_true(fake_wait_count(c->r->primary, FAKE_TX, 1));
	db_gw_end(c->l->db, 8);
	assert_false(session_done(&s));
	assert_int_equal(session_await(DB_PARKED, &s), 0); /* ends first */
	assert_gone(c, 8);
	assert_int_equal(latest(c, 1), 'b');
	assert_usable(c);
}

/* ---- commit ---- */

static void commit__good__applied_published_and_old_readers_keep_theirs(void **state)
{
	struct ctx *c = *state;
	uint8_t frame[WAL_FRAME_HEADER_SIZE + PAGE];
	struct session_call s;
	uint32_t old, new;
	size_t n;

	old = begin_read(c, 1);
	assert_int_equal(page_at(c, old, 2), 'a');
	must_begin(c, 7);
	forget_stores(c);
	assert_int_equal(session_commit(c, 7, (struct change){.fill = 'b', .size = 6, .first = 4, .last = 6}, &s), 0);
	assert_true(s.gw.pos.txid == 11 && pos_equal(s.gw.pos, rig_pos(c->l)));
	assert_false(s.gw.unknown || s.gw.yield);
	assert_true(rig_is_exact(c->l));
	/* Frames: 4, 5, and 6 with the size. */
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(db_wal_read(c->l->db, frame, sizeof frame, wal_frame_offset(old + 1 + i, PAGE)), sizeof frame);
		assert_int_equal(be32(frame), 4 + i);
		assert_int_equal(be32(frame + 4), i == 2 ? 6 : 0);
		for (int k = 0; k < PAGE; k++)
			assert_int_equal(frame[WAL_FRAME_HEADER_SIZE + k], 'b');
	}
	/* The header last, its second copy first. */
	n = strlen(c->stores);
	assert_true(n > 12);
	assert_string_equal(c->stores + n - strlen("48+48;0+48;"), "48+48;0+48;");
	new = header_of(c).max_frame;
	assert_int_equal(new, old + 3);
	assert_int_equal(header_of(c).page_count, 6);
	assert_int_equal(page_at(c, old, 4), 'a'); /* undo: LiteFS' file has it changed */
	assert_int_equal(rig_file(c->l, 4), 'b');
	assert_int_equal(begin_read(c, 2), new);
	assert_int_equal(page_at(c, new, 4), 'b');
	assert_int_equal(page_at(c, new, 6), 'b');
	end_read(c, 2);
	/* And cut again. */
	assert_int_equal(session_commit(c, 7, (struct change){.fill = 'c', .size = 3, .first = 3, .last = 3}, &s), 0);
	assert_int_equal(header_of(c).page_count, 3);
	assert_int_equal(page_at(c, old, 4), 'a');
	assert_int_equal(page_at(c, new, 4), 'b');
	assert_int_equal(page_at(c, new, 3), 'a');
	db_gw_end(c->l->db, 7);
	assert_int_equal(rig_stat(c->l, "gateway_commits"), 2);
	assert_int_equal(page_at(c, old, 3), 'a');
	end_read(c, 1);
	assert_usable(c);
	wait_stat(c, "folds", 1);
	assert_int_equal(latest(c, 1), 'Z');
}

static void commit__after_a_clients_and_before_one__one_history(void **state)
{
	struct ctx *c = *state;
	struct session_call s;
	uint32_t snapshots[10];

	begin_read(c, 2); /* so that nothing is folded */
	for (int i = 0; i < 10; i++) {
		if (i % 2) {
			must_begin(c, 7);
			assert_int_equal(session_commit(c, 7, (struct change){.fill = (uint8_t)('b' + i)}, &s), 0);
			db_gw_end(c->l->db, 7);
		} else {
			write_once(c, 1, (uint8_t)('b' + i));
		}
		snapshots[i] = header_of(c).max_frame;
	}
	for (int i = 0; i < 10; i++)
		assert_int_equal(page_at(c, snapshots[i], 2), 'b' + i);
	assert_true(rig_is_exact(c->l));
	assert_true(rig_pos(c->l).txid == 20);
	end_read(c, 2);
	assert_usable(c);
}

static void commit__bad_file_of_every_kind__refused_and_gone(void **state)
{
	struct ctx *c = *state;

	for (enum wrong wrong = TXID; wrong < WRONGS; wrong++) {
		struct pos before = rig_pos(c->l);
		unsigned sent = fake_count(c->r->primary, FAKE_TX);
		struct session_call s;
		uint32_t snapshot;
		int sees;

		must_begin(c, 7);
		snapshot = begin_read(c, 1);
		sees = page_at(c, snapshot, 2);
		forget_stores(c);
		assert_int_equal(session_commit(c, 7, (struct change){.fill = '!', .wrong = wrong}, &s), -EBADMSG);
		assert_false(s.gw.unknown);
		assert_gone(c, 7);
		assert_int_equal(fake_count(c->r->primary, FAKE_TX), sent);
		assert_true(pos_equal(rig_pos(c->l), before));
		assert_string_equal(c->stores, "");
		assert_int_equal(page_at(c, snapshot, 2), sees);
		end_read(c, 1);
		assert_usable(c);
	}
	assert_int_equal(rig_stat(c->l, "refused"), WRONGS - 1);
}

static void commit__litefs_refuses__error_and_nothing_changed(void **state)
{
	static const struct fake_step refuse = {.does = FAKE_ANSWER, .status = 500, .body = "no\n"};
	struct ctx *c = *state;
	struct session_call s;

	must_begin(c, 7);
	fake_script(c->r->primary, FAKE_TX, &refuse);
	assert_true(session_commit(c, 7, (struct change){.fill = 'b'}, &s) < 0);
	assert_false(s.gw.unknown);
	assert_gone(c, 7);
	assert_true(rig_pos(c->l).txid == 10);
	assert_int_equal(latest(c, 1), 'a');
	assert_usable(c);
}

static void commit__lost_before_or_after_litefs_had_it__decided(void **state)
{
	static const struct fake_step steps[] = {{.does = FAKE_CLOSE_AFTER_BODY}, {.does = FAKE_LOSE_ANSWER}};
	struct ctx *c = *state;

	for (int i = 0; i < 2; i++) {
		struct session_call s;
		int err;

		must_begin(c, 7);
		fake_script(c->r->primary, FAKE_TX, &steps[i]);
		err = session_commit(c, 7, (struct change){.fill = (uint8_t)('b' + i)}, &s);
		assert_int_equal(err, i ? 0 : -EIO);
		assert_false(s.gw.unknown);
		if (i)
			assert_true(pos_equal(s.gw.pos, rig_pos(c->l)));
		db_gw_end(c->l->db, 7);
		assert_int_equal(latest(c, 1), i ? 'c' : 'a');
		assert_int_equal(rig_file(c->l, 2), i ? 'c' : 'a');
		assert_usable(c);
	}
}

static void commit__litefs_says_nothing__unknown(void **state)
{
	static const struct fake_step stall = {.does = FAKE_STALL};
	struct ctx *c = *state;
	struct session_call s;

	c->r->settings.commit_timeout_ms = 400;
	must_begin(c, 7);
	fake_script(c->r->primary, FAKE_TX, &stall);
	assert_int_equal(start_commit(c, 7, (struct change){.fill = 'b'}, &s), DB_PARKED);
	assert_true(fake_wait_count(c->r->primary, FAKE_TX, 1));
	fake_set_up(c->r->primary, false);
	assert_true(session_await(DB_PARKED, &s) < 0);
	/* Locks of LiteFS' own show the position before it, or not: both are answers. */
	assert_int_equal(s.gw.unknown, rig_stat(c->l, "unknown"));
	assert_int_equal(rig_stat(c->l, "unknown") + rig_stat(c->l, "not_committed"), 1);
	assert_gone(c, 7);
	fake_set_up(c->r->primary, true);
	c->r->settings.commit_timeout_ms = 15000;
	assert_usable(c);
}

/* A commit that is lost, and another's in its place while somebody reads. */
static void commit__another_one_in_its_place__poisoned_and_gone(void **state)
{
	static const struct fake_step stall = {.does = FAKE_STALL};
	struct ctx *c = *state;
	struct session_call s;
	uint32_t old;

	c->r->settings.commit_timeout_ms = 3000;
	old = begin_read(c, 2);
	must_begin(c, 7);
	fake_script(c->r->primary, FAKE_TX, &stall);
	assert_int_equal(start_commit(c, 7, (struct change){.fill = 'b'}, &s), DB_PARKED);
	assert_true(fake_wait_count(c->r->primary, FAKE_TX, 1));
	fake_set_up(c->r->primary, false);
	elsewhere(c, (struct change){.fill = 'x'});
	fake_set_up(c->r->primary, true);
	assert_true(session_await(DB_PARKED, &s) < 0);
	rig_wait_applied(c->r, 1);
	wait_stat(c, "poisons", 1);
	assert_int_equal(page_at(c, old, 2), -ESTALE);
	assert_gone(c, 7);
	assert_int_equal(page_at(c, old, 2), -ESTALE);
	end_read(c, 2);
	assert_int_equal(latest(c, 2), 'x');
}

/* ---- leases, roles, ends ---- */

static void lease__over__gone_and_nothing_changed(void **state)
{
	struct ctx *c = *state;

	for (int idle = 0; idle < 2; idle++) {
		must_begin(c, 7);
		db_gw_shorten(c->l->db, 7, 0);
		if (idle) { /* a client gets in */
			write_once(c, 1, 'b');
			assert_int_equal(latest(c, 1), 'b');
		}
		assert_gone(c, 7);
		assert_int_equal(rig_stat(c->l, "gateway_commits"), idle);
		assert_usable(c);
	}
}

static void lease__shortened__a_commit_in_time_renews_it(void **state)
{
	struct ctx *c = *state;
	struct session_call s;

	must_begin(c, 7);
	db_gw_shorten(c->l->db, 7, 1000);
	assert_int_equal(session_commit(c, 7, (struct change){.fill = 'b'}, &s), 0);
	clock_sleep_ns(1100 * NS_PER_MS);
	assert_int_equal(session_commit(c, 7, (struct change){.fill = 'c'}, &s), 0);
	db_gw_end(c->l->db, 7);
	assert_usable(c);
}

enum when { WAITING, HELD, IN_COMMIT, WHENS };

static void bring_to(struct ctx *c, enum when when, struct session_call *s)
{
	static const struct fake_step slow = {.delay_ms = 100};
	unsigned sent;

	if (when == WAITING) {
		begin_write(c, 1);
		assert_int_equal(start_begin(c, 7, PEER, 10000, s), DB_PARKED);
		return;
	}
	must_begin(c, 7);
	if (when == HELD)
		return;
	sent = fake_count(c->r->primary, FAKE_TX);
	fake_script(c->r->primary, FAKE_TX, &slow);
	assert_int_equal(start_commit(c, 7, (struct change){.fill = 'b'}, s), DB_PARKED);
	assert_true(fake_wait_count(c->r->primary, FAKE_TX, sent + 1));
}

static void role__changes_in_any_state__the_session_is_gone(void **state)
{
	struct ctx *c = *state;

	for (enum when when = WAITING; when < WHENS; when++) {
		struct session_call s;
		int64_t until;

		bring_to(c, when, &s);
		db_role_changed(c->l->db); /* to the primary that it was */
		if (when == WAITING) {
			assert_true(session_done(&s));
			assert_int_equal(s.result, -EHOSTUNREACH);
			end_write(c, 1);
		} else if (when == IN_COMMIT) { /* LiteFS has it, and says so */
			assert_int_equal(session_await(DB_PARKED, &s), 0);
			assert_int_equal(rig_file(c->l, 2), 'b');
		}
		/* G sees it. */
		until = clock_now_ns() + LONG_NS;
		begin_read(c, 2);
		while (try_write(c, 2) != 0 && clock_now_ns() < until) {
			end_read(c, 2);
			clock_sleep_ns(2 * NS_PER_MS);
			begin_read(c, 2);
		}
		end_write(c, 2);
		assert_gone(c, 7);
		assert_usable(c);
	}
}

static void stop__in_any_state__answered_and_nothing_held(void **state)
{
	struct ctx *c = *state;
	struct session_call s, other;

	for (enum when when = WAITING; when < WHENS; when++) {
		unsigned before = rig_pos(c->l).txid & 0xffff;

		if (when != WAITING) {
			db_free(c->l->db);
			assert_int_equal(db_open(&c->r->config, "app.db", false, c->r, &c->l->db), 0);
			assert_true(db_shm_read(c->l->db, c->shm, sizeof c->shm, 0) > 0);
			open_client(c, 1);
			fake_set_pos(c->r->primary, "app.db", rig_pos(c->l));
		}
		bring_to(c, when, &s);
		if (when == IN_COMMIT)
			assert_int_equal(start_begin(c, 8, PEER + 1, 10000, &other), DB_PARKED);
		db_stop(c->l->db);
		if (when == WAITING)
			assert_int_equal(session_await(DB_PARKED, &s), -EIO);
		if (when == IN_COMMIT) { /* it ends; LiteFS has it in any case */
			assert_int_equal(session_await(DB_PARKED, &s), 0);
			assert_true(rig_pos(c->l).txid == before + 1);
			assert_int_equal(session_await(DB_PARKED, &other), -EIO);
		}
		assert_gone(c, 7);
		assert_int_equal(session_begin(c, 9, PEER, 100, &other), -ENOTSUP);
		db_gw_end(c->l->db, 7);
	}
}

/* ---- others ---- */

static void begin__an_application_holds_halt__waits_for_it(void **state)
{
	struct ctx *c = *state;
	struct session_call s;
	struct waiting w;

	assert_int_equal(settled(lock_as(c, 1, LOCK_FILE_LOCK, F_WRLCK, LITEFS_HALT_BYTE, 1, &w), &w), 0);
	assert_int_equal(session_begin(c, 7, PEER, 50, &s), -EAGAIN);
	assert_int_equal(start_begin(c, 7, PEER, 10000, &s), DB_PARKED);
	write_once(c, 2, 'b'); /* this node's writers may */
	clock_sleep_ns(20 * NS_PER_MS);
	assert_false(session_done(&s));
	assert_int_equal(settled(lock_as(c, 1, LOCK_FILE_LOCK, F_UNLCK, LITEFS_HALT_BYTE, 1, &w), &w), 0);
	assert_int_equal(session_await(DB_PARKED, &s), 0);
	assert_int_equal(session_commit(c, 7, (struct change){.fill = 'c'}, &s), 0);
	db_gw_end(c->l->db, 7);
	assert_usable(c);
}

static int halt_lock(struct ctx *c, uint64_t id, short type, bool wait, struct waiting *w)
{
	struct db_lock lock = {.file = LOCK_FILE_LOCK, .type = type, .wait = wait, .start = LITEFS_HALT_BYTE,
			       .end = LITEFS_HALT_BYTE, .owner = id, .tgid = (pid_t)(1000 + id), .handle = id};

	waiting_init(w);
	return db_lock(c->l->db, &lock, &w->call);
}

/* HALT says that no other node writes meanwhile. */
static void halt__another_node_holds_the_lock__waits_for_its_end(void **state)
{
	struct ctx *c = *state;
	struct session_call s;
	struct waiting w;

	must_begin(c, 7);
	assert_int_equal(settled(halt_lock(c, 1, F_WRLCK, false, &w), &w), -EAGAIN);
	assert_int_equal(halt_lock(c, 1, F_WRLCK, true, &w), DB_PARKED);
	assert_int_equal(session_commit(c, 7, (struct change){.fill = 'b'}, &s), 0);
	assert_false(is_done(&w));
	db_gw_end(c->l->db, 7);
	assert_int_equal(await(&w), 0);
	assert_int_equal(session_begin(c, 8, PEER, 50, &s), -EAGAIN);
	write_once(c, 2, 'c');
	assert_int_equal(settled(halt_lock(c, 1, F_UNLCK, false, &w), &w), 0);
	assert_usable(c);
}

/* F_SETLKW has no end of its own. */
static void lock__waits_for_what_a_session_holds__answered_when_it_ends(void **state)
{
	struct ctx *c = *state;
	struct db_lock lock = {.file = LOCK_FILE_SHM, .type = F_WRLCK, .wait = true, .start = WAL_WRITE_BYTE, .end = WAL_WRITE_BYTE,
			       .owner = 1, .tgid = 1001, .handle = 1};
	struct waiting w;
	int result;

	must_begin(c, 7);
	begin_read(c, 1);
	waiting_init(&w);
	assert_int_equal(db_lock(c->l->db, &lock, &w.call), DB_PARKED);
	db_gw_end(c->l->db, 7);
	result = await(&w);
	assert_true(result == 0 || result == -EAGAIN);
	end_write(c, 1);
	assert_usable(c);
}

static void commit__a_reader_stays__many_go_on_and_it_keeps_its_snapshot(void **state)
{
	struct ctx *c = *state;
	struct session_call s;
	uint32_t old = begin_read(c, 2);

	for (int i = 0; i < 40; i++) {
		if (i % 4 == 0) {
			db_gw_end(c->l->db, 7);
			must_begin(c, 7);
		}
		assert_int_equal(session_commit(c, 7, (struct change){.fill = (uint8_t)('A' + i)}, &s), 0);
		assert_int_equal(latest(c, 1), 'A' + i);
		assert_int_equal(page_at(c, old, 2), 'a');
	}
	db_gw_end(c->l->db, 7);
	assert_int_equal(rig_stat(c->l, "folds"), 0);
	end_read(c, 2);
	assert_usable(c);
}

static void litefs__gone_while_held__gone_and_usable_again(void **state)
{
	struct ctx *c = *state;
	struct session_call s;

	must_begin(c, 7);
	atomic_store(&litefs_gone, true);
	assert_true(session_commit(c, 7, (struct change){.fill = 'b', .wrong = TXID}, &s) < 0);
	atomic_store(&litefs_gone, false);
	assert_gone(c, 7);
	assert_usable(c);
}

/* A client's READ would find out; here there is none. */
static void begin__litefs_was_restarted_and_nobody_reads__noticed_and_held(void **state)
{
	struct ctx *c = *state;

	must_begin(c, 6);
	db_gw_end(c->l->db, 6);
	assert_true(rig_wait_idle(c->l));
	atomic_store(&litefs_restarted, true);
	must_begin(c, 7);
	atomic_store(&litefs_restarted, false);
	db_gw_end(c->l->db, 7);
	assert_usable(c);
}

/* ---- turns ---- */

struct racer {
	struct ctx *c;
	uint64_t id, peer; /* 0: a client */
	unsigned commits, longest, yields;
	pthread_t thread;
};

static atomic_bool race_over;
static pthread_mutex_t race_mutex = PTHREAD_MUTEX_INITIALIZER;

static void race_session(struct racer *r)
{
	struct ctx *c = r->c;
	struct session_call s;
	unsigned turn = 0;

	if (session_begin(c, r->id, r->peer, 10000, &s) != 0)
		return;
	while (!atomic_load(&race_over)) {
		int result;

		pthread_mutex_lock(&race_mutex); /* the model is shared; who holds WRITE is alone anyway */
		result = start_commit(c, r->id, (struct change){.fill = (uint8_t)(r->id + r->commits)}, &s);
		pthread_mutex_unlock(&race_mutex);
		if (session_await(result, &s) != 0)
			abort();
		r->commits++;
		turn++;
		if (s.gw.yield) {
			r->yields++;
			break;
		}
	}
	if (turn > r->longest)
		r->longest = turn;
	db_gw_end(c->l->db, r->id);
}

static void *race(void *arg)
{
	struct racer *r = arg;

	while (!atomic_load(&race_over)) {
		if (r->peer) {
			race_session(r);
		} else {
			begin_write(r->c, r->id);
			if (write_commit(r->c, r->id, (uint8_t)(r->commits * 7 + 3)) != 0)
				abort();
			end_write(r->c, r->id);
			r->commits++;
		}
	}
	return NULL;
}

static void turns__a_client_and_two_peers__even_and_short(void **state)
{
	struct ctx *c = *state;
	struct racer racers[] = {{.c = c, .id = 2}, {.c = c, .id = 70, .peer = 1}, {.c = c, .id = 80, .peer = 2}};
	unsigned least = UINT32_MAX, most = 0, txids;

	atomic_store(&race_over, false);
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&racers[i].thread, NULL, race, &racers[i]), 0);
	clock_sleep_ns(3 * NS_PER_S);
	atomic_store(&race_over, true);
	for (int i = 0; i < 3; i++)
		pthread_join(racers[i].thread, NULL);
	for (int i = 0; i < 3; i++) {
		print_message("party %d: %u commits, longest turn %u, yields %u\n", i, racers[i].commits, racers[i].longest,
			      racers[i].yields);
		least = racers[i].commits < least ? racers[i].commits : least;
		most = racers[i].commits > most ? racers[i].commits : most;
		if (racers[i].peer)
			assert_true(racers[i].longest <= TURN_COMMITS && racers[i].yields > 0);
	}
	assert_true(least > 0 && most <= 2 * least + 2 * TURN_COMMITS);
	txids = racers[0].commits + racers[1].commits + racers[2].commits;
	/* The same bytes by chance, upon what another has written: nothing was sent. */
	txids -= (unsigned)rig_stat(c->l, "commits_empty");
	assert_true(rig_pos(c->l).txid == 10 + txids);
	assert_true(rig_is_exact(c->l));
	assert_usable(c);
}

static void turns__nobody_else__no_end(void **state)
{
	struct ctx *c = *state;
	struct session_call s;
	int64_t start = clock_now_ns();

	must_begin(c, 7);
	for (int i = 0; i < 2 * TURN_COMMITS; i++) {
		assert_int_equal(session_commit(c, 7, (struct change){.fill = (uint8_t)i}, &s), 0);
		/* Now and then for LiteFS' own waiters, which nobody sees. */
		assert_true(!s.gw.yield || clock_now_ns() - start >= HOLD_LONE_NS);
		assert_int_equal(s.gw.waiting, 0);
	}
	db_gw_end(c->l->db, 7);
	assert_usable(c);
}

static void turns__another_waits__yield_after_its_commits_or_its_time(void **state)
{
	struct ctx *c = *state;
	struct session_call s, other;
	int64_t start = clock_now_ns();
	int n = 0;

	must_begin(c, 7);
	assert_int_equal(start_begin(c, 8, PEER + 1, 10000, &other), DB_PARKED);
	do {
		assert_int_equal(session_commit(c, 7, (struct change){.fill = (uint8_t)n}, &s), 0);
		assert_int_equal(s.gw.waiting, 1);
		n++;
	} while (!s.gw.yield && n < 2 * TURN_COMMITS);
	assert_true(n == TURN_COMMITS || (n < TURN_COMMITS && clock_now_ns() - start >= TURN_NS));
	assert_false(session_done(&other)); /* it is the holder's to let go */
	db_gw_end(c->l->db, 7);
	assert_int_equal(session_await(DB_PARKED, &other), 0);
	assert_true(pos_equal(other.gw.pos, rig_pos(c->l)));
	db_gw_end(c->l->db, 8);
	assert_usable(c);
}

/* Of two that wait the one that was served least, whoever came first. */
static void turns__two_wait__the_one_served_least(void **state)
{
	struct ctx *c = *state;
	struct session_call s, first, second, again;

	must_begin(c, 7); /* of PEER */
	assert_int_equal(start_begin(c, 8, PEER + 1, 10000, &first), DB_PARKED);
	for (int i = 0; i < 3; i++)
		assert_int_equal(session_commit(c, 7, (struct change){.fill = (uint8_t)i}, &s), 0);
	assert_int_equal(start_begin(c, 6, PEER, 10000, &again), DB_PARKED); /* another of PEER's */
	assert_int_equal(start_begin(c, 9, PEER + 2, 10000, &second), DB_PARKED);
	db_gw_end(c->l->db, 7);
	assert_int_equal(session_await(DB_PARKED, &first), 0);
	assert_false(session_done(&second) || session_done(&again));
	db_gw_end(c->l->db, 8);
	assert_int_equal(session_await(DB_PARKED, &second), 0);
	assert_false(session_done(&again));
	db_gw_end(c->l->db, 9);
	assert_int_equal(session_await(DB_PARKED, &again), 0);
	db_gw_end(c->l->db, 6);
	assert_usable(c);
}

/* ---- a replica: what begin brings ---- */

static void assert_replica_usable(struct ctx *c)
{
	rig_hold(c->r, false);
	write_once(c, 1, 'Z');
	assert_int_equal(rig_file(c->l, 2), 'Z');
	assert_true(rig_is_exact(c->l));
	assert_int_equal(latest(c, 2), 'Z');
}

static void bundle__litefs_is_behind__published_and_written_upon(void **state)
{
	for (int n = 1; n <= 3; n++) {
		struct ctx *c = *state;
		struct waiting w;
		uint32_t old, new;
		int64_t start;

		c->txs = 0;
		old = begin_read(c, 2);
		rig_hold(c->r, true);
		for (int i = 0; i < n; i++)
			elsewhere(c, (struct change){.fill = (uint8_t)('b' + i), .first = (uint32_t)(i % 2 ? 3 : 2)});
		/* Sent away once, for its snapshot is old; then it writes, though LiteFS here has nothing yet. */
		start = clock_now_ns();
		assert_int_equal(begin_write(c, 1), 1);
		assert_true(clock_now_ns() - start < 5 * NS_PER_S);
		new = header_of(c).max_frame;
		assert_int_equal(new, old + (uint32_t)n);
		assert_int_equal(page_at(c, new, 2), n == 3 ? 'd' : 'b');
		if (n > 1)
			assert_int_equal(page_at(c, new, 3), 'c');
		assert_int_equal(page_at(c, old, 2), 'a');
		assert_int_equal(page_at(c, old, 3), 'a');
		assert_int_equal(rig_file(c->l, 2), 'a');
		assert_int_equal(start_write_commit(c, 1, 'w', &w), DB_PARKED);
		clock_sleep_ns(50 * NS_PER_MS);
		assert_false(is_done(&w));
		assert_int_equal(page_at(c, old, 3), 'a');
		rig_hold(c->r, false);
		assert_int_equal(await(&w), 0);
		publish_own(c);
		assert_int_equal(rig_file(c->l, 2), 'w');
		assert_true(rig_is_exact(c->l));
		assert_int_equal(page_at(c, old, 2), 'a');
		assert_int_equal(page_at(c, old, 3), 'a');
		assert_int_equal(page_at(c, new, 2), n == 3 ? 'd' : 'b');
		end_write(c, 1);
		end_read(c, 2);
		assert_int_equal(rig_stat(c->l, "bundle_transactions"), n);
		assert_int_equal(rig_stat(c->l, "commits_gateway"), 1);
		assert_int_equal(fake_count(c->r->primary, FAKE_HALT), 0);
		assert_int_equal(latest(c, 2), 'w');
		assert_replica_usable(c);
		teardown(state);
		setup_replica(state);
	}
}

static void bundle__no_write_after_it__folded_only_when_litefs_is_there(void **state)
{
	struct ctx *c = *state;
	long long resets = rig_stat(c->l, "resets");

	rig_hold(c->r, true);
	elsewhere(c, (struct change){.fill = 'b'});
	elsewhere(c, (struct change){.fill = 'c', .size = 6, .first = 5, .last = 6});
	begin_write(c, 1);
	end_write(c, 1);
	clock_sleep_ns(100 * NS_PER_MS); /* guard given, upstream ended */
	assert_int_equal(rig_stat(c->l, "folds"), 0);
	for (int i = 0; i < 10; i++) {
		assert_int_equal(latest(c, 2), 'b');
		clock_sleep_ns(5 * NS_PER_MS);
	}
	assert_int_equal(rig_stat(c->l, "folds"), 0);
	rig_hold(c->r, false);
	rig_wait_applied(c->r, 2);
	assert_int_equal(latest(c, 2), 'b');
	wait_stat(c, "folds", 1);
	assert_int_equal(rig_stat(c->l, "resets"), resets);
	assert_int_equal(latest(c, 2), 'b');
	assert_replica_usable(c);
}

/* LiteFS applies one of them, and stops there. */
static void bundle__litefs_half_way__the_same_for_everybody(void **state)
{
	struct ctx *c = *state;
	long long resets = rig_stat(c->l, "resets");
	size_t len;
	uint8_t *ltx;

	rig_hold(c->r, true);
	elsewhere(c, (struct change){.fill = 'b'});
	ltx = make_ltx(c, (struct change){.fill = 'c'}, &len);
	remember(c, ltx, len); /* comes later */
	begin_write(c, 1);
	end_write(c, 1);
	assert_int_equal(latest(c, 2), 'c');
	rig_hold(c->r, false);
	rig_wait_applied(c->r, 1);
	assert_int_equal(rig_file(c->l, 2), 'b');
	for (int i = 0; i < 5; i++) {
		assert_int_equal(latest(c, 2), 'c');
		clock_sleep_ns(5 * NS_PER_MS);
	}
	assert_int_equal(rig_stat(c->l, "poisons"), 0);
	rig_queue(c->l, ltx, len);
	free(ltx);
	rig_wait_applied(c->r, 2);
	assert_int_equal(latest(c, 2), 'c');
	assert_int_equal(rig_stat(c->l, "resets"), resets);
	assert_replica_usable(c);
}

static void bundle__bad__nothing_of_it_and_halt_for_a_while(void **state)
{
	struct ctx *c = *state;

	c->bad_bundle = true;
	rig_hold(c->r, true);
	elsewhere(c, (struct change){.fill = 'b'});
	begin_read(c, 1);
	assert_int_equal(try_write(c, 1), -EAGAIN);
	assert_int_equal(page_at(c, header_of(c).max_frame, 2), 'a');
	end_read(c, 1);
	rig_hold(c->r, false);
	begin_write(c, 1); /* in the end by HALT, when LiteFS has caught up */
	end_write(c, 1);
	assert_int_equal(rig_stat(c->l, "bundle_transactions"), 0);
	assert_int_equal(latest(c, 2), 'b');
	assert_true(rig_wait_idle(c->l));
	write_once(c, 1, 'c');
	assert_true(fake_count(c->r->primary, FAKE_HALT) > 0);
	assert_int_equal(rig_stat(c->l, "commits_remote"), 1);
	assert_int_equal(rig_file(c->l, 2), 'c');
	assert_true(rig_is_exact(c->l));
}

static void bundle__last_of_two_bad__the_state_between_is_nobodys_to_write_on(void **state)
{
	struct ctx *c = *state;
	uint32_t old = begin_read(c, 2);

	c->bad_bundle = true;
	elsewhere(c, (struct change){.fill = 'b'});
	elsewhere(c, (struct change){.fill = 'c'});
	begin_read(c, 1);
	assert_int_equal(try_write(c, 1), -EAGAIN);
	assert_int_equal(page_at(c, old, 2), 'a');
	end_read(c, 1);
	end_read(c, 2);
	rig_wait_applied(c->r, 2);
	begin_write(c, 1);
	assert_int_equal(page_at(c, header_of(c).max_frame, 2), 'c');
	assert_int_equal(write_commit(c, 1, 'd'), 0);
	end_write(c, 1);
	assert_true(rig_is_exact(c->l));
}

static void bundle__none__litefs_catches_up_first(void **state)
{
	struct ctx *c = *state;

	c->no_bundle = true;
	elsewhere(c, (struct change){.fill = 'b'});
	begin_write(c, 1);
	assert_int_equal(page_at(c, header_of(c).max_frame, 2), 'b');
	assert_int_equal(write_commit(c, 1, 'c'), 0);
	end_write(c, 1);
	assert_int_equal(rig_stat(c->l, "commits_gateway"), 1);
	assert_true(rig_is_exact(c->l));
	assert_replica_usable(c);
}

/* The clients have seen c; a LiteFS that was restarted is still at a. */
static void bundle__litefs_restarted_while_behind__nobody_sees_the_state_before(void **state)
{
	struct ctx *c = *state;
	int64_t until;
	int err;

	rig_hold(c->r, true);
	elsewhere(c, (struct change){.fill = 'b'});
	elsewhere(c, (struct change){.fill = 'c'});
	begin_write(c, 1);
	end_write(c, 1);
	assert_int_equal(latest(c, 2), 'c');
	assert_true(rig_wait_idle(c->l));
	until = clock_now_ns() + LONG_NS;
	while (rig_stat(c->l, "guard_held") && clock_now_ns() < until)
		clock_sleep_ns(NS_PER_MS);
	atomic_store(&litefs_gone, true);
	assert_int_equal(try_read(c, 2), -EAGAIN); /* finds out */
	atomic_store(&litefs_gone, false);
	for (int i = 0; i < 3; i++) {
		err = try_read(c, 2);
		if (!err) { /* only of the state that was seen */
			assert_int_equal(page_at(c, header_of(c).max_frame, 2), 'c');
			end_read(c, 2);
		} else {
			assert_int_equal(err, -EAGAIN);
		}
	}
	rig_hold(c->r, false);
	rig_wait_applied(c->r, 2);
	assert_int_equal(latest(c, 2), 'c');
	assert_replica_usable(c);
}

/* What was shown went with the primary that showed it. That is not found out by the next writer alone: there may be none. */
static void bundle__a_failover_drops_it_and_nobody_writes__not_shown_any_longer(void **state)
{
	struct ctx *c = *state;
	struct pos before = c->pos;
	int64_t until = clock_now_ns() + LONG_NS;

	rig_hold(c->r, true);
	elsewhere(c, (struct change){.fill = 'b'});
	begin_write(c, 1);
	end_write(c, 1);
	assert_int_equal(latest(c, 2), 'b');
	assert_true(rig_wait_idle(c->l));
	rig_forget_queue(c->l);
	pthread_mutex_lock(&c->script);
	c->txs = 0;
	memset(c->model[1], 'a', PAGE);
	c->pos = before;
	pthread_mutex_unlock(&c->script);
	fake_set_pos(c->r->primary, c->l->name, before);
	pthread_mutex_lock(&c->r->role.mutex);
	c->r->role.state.epoch++;
	pthread_mutex_unlock(&c->r->role.mutex);
	db_role_changed(c->l->db);
	while (latest(c, 2) != 'a' && clock_now_ns() < until)
		clock_sleep_ns(NS_PER_MS);
	assert_int_equal(latest(c, 2), 'a');
	assert_int_equal(atomic_load(&c->commits), 0);
	assert_replica_usable(c);
}

/* LiteFS is restarted while the begin is under way, or between its answer and the publishing. */
static void bundle__view_lost_meanwhile__nothing_published_and_usable_after(void **state)
{
	struct ctx *c = *state;

	for (int i = 0; i < 2; i++) {
		uint32_t old = begin_read(c, 2);
		int64_t until = clock_now_ns() + LONG_NS;
		int err;

		rig_hold(c->r, true);
		elsewhere(c, (struct change){.fill = (uint8_t)('b' + i)});
		c->view = i ? LOST_AFTER : LOST_BEFORE;
		begin_read(c, 1);
		forget_stores(c);
		err = try_write(c, 1);
		assert_int_equal(err, -EAGAIN);
		assert_int_equal(rig_stat(c->l, "bundle_transactions"), 0);
		assert_string_equal(c->stores, "");
		if (!i)
			assert_int_equal(page_at(c, old, 2), -ESTALE);
		c->view = STAYS;
		end_read(c, 1);
		end_read(c, 2);
		assert_true(rig_wait_idle(c->l));
		atomic_store(&litefs_gone, false);
		rig_hold(c->r, false);
		rig_wait_applied(c->r, (unsigned)(3 * i + 1));
		while (latest(c, 2) != 'b' + i && clock_now_ns() < until)
			clock_sleep_ns(NS_PER_MS);
		assert_int_equal(latest(c, 2), 'b' + i);
		assert_replica_usable(c);
		write_once(c, 1, 'a'); /* as before */
		assert_true(rig_wait_idle(c->l));
		db_refresh(c->l->db); /* so that the old pages are LiteFS' */
	}
}

static void commit__answer_lost_and_replicated__success(void **state)
{
	struct ctx *c = *state;

	c->lose_answer = true;
	begin_write(c, 1);
	assert_int_equal(write_commit(c, 1, 'b'), 0);
	assert_int_equal(rig_stat(c->l, "unknown"), 0);
	c->lose_answer = false;
	end_write(c, 1);
	assert_replica_usable(c);
}

/* The primary's litefwd waits for a direct reader there, as long as it may, and then says that nothing was committed. */
static void commit__gateway_takes_its_time__its_answer_is_waited_for(void **state)
{
	struct ctx *c = *state;

	c->r->settings.commit_timeout_ms = 600000;
	write_once(c, 1, 'b');
	assert_true(c->commit_ns > 300 * NS_PER_S && c->commit_ns < 600 * NS_PER_S);
	assert_replica_usable(c);
}

static void begin__gateway_cannot__halt_instead_and_later_again(void **state)
{
	struct ctx *c = *state;

	c->begin_err = -ENOTSUP;
	write_once(c, 1, 'b');
	assert_int_equal(c->begins, 1);
	assert_int_equal(fake_count(c->r->primary, FAKE_HALT), 1);
	assert_int_equal(rig_stat(c->l, "commits_remote"), 1);
	sync_model(c);
	c->begin_err = 0;
	db_role_changed(c->l->db); /* another primary: asked at once */
	write_once(c, 1, 'c');
	assert_int_equal(rig_stat(c->l, "commits_gateway"), 1);
	assert_replica_usable(c);
}

static void begin__gateway_refuses_for_want_of_time__busy_and_no_halt(void **state)
{
	struct ctx *c = *state;

	c->begin_err = -EAGAIN;
	begin_read(c, 1);
	assert_int_equal(try_write(c, 1), -EAGAIN);
	end_read(c, 1);
	assert_int_equal(fake_count(c->r->primary, FAKE_HALT), 0);
	c->begin_err = 0;
	assert_replica_usable(c);
}

static void commit__gateway_says_yield__given_back_when_the_writer_lets_go(void **state)
{
	struct ctx *c = *state;
	int64_t until = clock_now_ns() + LONG_NS;

	c->r->settings.halt_linger_ms = 60000;
	write_once(c, 1, 'b');
	write_once(c, 1, 'c');
	assert_int_equal(c->begins, 1);
	assert_int_equal(c->ends, 0);
	c->yields = true;
	begin_write(c, 1);
	assert_int_equal(write_commit(c, 1, 'd'), 0);
	clock_sleep_ns(20 * NS_PER_MS);
	assert_int_equal(c->ends, 0);
	end_write(c, 1);
	while (!c->ends && clock_now_ns() < until)
		clock_sleep_ns(NS_PER_MS);
	assert_int_equal(c->ends, 1);
	c->yields = false;
	assert_replica_usable(c);
}

/* A reader stays for as long as it likes: what others write comes in under it. */
static void refresh__a_reader_stays__replication_goes_on(void **state)
{
	struct ctx *c = *state;
	uint32_t old = begin_read(c, 2);

	elsewhere(c, (struct change){.fill = 'b'});
	elsewhere(c, (struct change){.fill = 'c'});
	rig_wait_applied(c->r, 2);
	assert_int_equal(rig_file(c->l, 2), 'c');
	assert_int_equal(page_at(c, old, 2), 'a');
	wait_stat(c, "refreshes", 1);
	assert_int_equal(page_at(c, old, 2), 'a');
	assert_int_equal(latest(c, 1), 'c');
	end_read(c, 2);
	assert_int_equal(fake_count(c->r->primary, FAKE_HALT), 0);
	assert_replica_usable(c);
}

/*
 * What a writer has written so far stands behind the last committed frame. Its lock is lost upstream, so it cannot commit; but
 * it goes on, and nothing may be put under it that would make what it writes next a transaction.
 */
static void bundle__a_writer_has_lost_the_lock__it_commits_nothing(void **state)
{
	struct ctx *c = *state;
	uint8_t head[WAL_HEADER_SIZE], frame[WAL_FRAME_HEADER_SIZE + PAGE];
	struct walindex_header h;
	uint32_t sum[2];
	struct wal_salt salt;
	struct waiting w, halt;
	int64_t until = clock_now_ns() + LONG_NS;
	int err;

	begin_write(c, 1);
	h = header_of(c);
	memcpy(sum, h.frame_sum, sizeof sum);
	assert_int_equal(db_wal_read(c->l->db, head, sizeof head, 0), sizeof head);
	memcpy(salt.bytes, head + 16, 8);
	memset(frame, 'x', sizeof frame);
	wal_frame_encode(3, 0, salt, frame + WAL_FRAME_HEADER_SIZE, PAGE, sum, frame);
	waiting_init(&w);
	assert_int_equal(db_wal_write(c->l->db, 1, frame, sizeof frame, wal_frame_offset(h.max_frame + 1, PAGE), &w.call), 0);
	db_role_changed(c->l->db);
	elsewhere(c, (struct change){.fill = 'b'});
	while (!c->ends && clock_now_ns() < until)
		clock_sleep_ns(NS_PER_MS);
	assert_int_equal(c->ends, 1);
	clock_sleep_ns(300 * NS_PER_MS); /* it stays, and with it the guard: this is the time of a refresh */
	waiting_init(&halt);
	err = lock_as(c, 2, LOCK_FILE_LOCK, F_WRLCK, LITEFS_HALT_BYTE, 1, &halt);
	err = settled(err, &halt);
	assert_true(err == 0 || err == -EAGAIN);
	memset(frame, 'x', sizeof frame);
	wal_frame_encode(2, h.page_count, salt, frame + WAL_FRAME_HEADER_SIZE, PAGE, sum, frame);
	err = db_wal_write(c->l->db, 1, frame, sizeof frame, wal_frame_offset(h.max_frame + 2, PAGE), &w.call);
	assert_int_equal(settled(err, &w), -EIO);
	assert_int_equal(c->commits, 0);
	assert_int_equal(page_at(c, h.max_frame + 1, 3), 'x'); /* to itself */
	lock_as(c, 2, LOCK_FILE_LOCK, F_UNLCK, LITEFS_HALT_BYTE, 1, &halt);
	end_write(c, 1);
	rig_wait_applied(c->r, 1);
	assert_int_equal(latest(c, 2), 'b');
	assert_replica_usable(c);
}

/* LiteFS here does not come: the others' lock is not taken for that again and again. */
static void refresh__in_vain__the_lock_is_left_to_others(void **state)
{
	struct ctx *c = *state;
	int64_t until = clock_now_ns() + LONG_NS;
	uint32_t old = begin_read(c, 2);

	rig_hold(c->r, true);
	elsewhere(c, (struct change){.fill = 'b'});
	while (c->begins < 3 && clock_now_ns() < until)
		clock_sleep_ns(NS_PER_MS);
	assert_true(c->begins >= 3);
	assert_true(c->free_ns >= 3 * c->held_ns);
	assert_int_equal(page_at(c, old, 2), 'a');
	assert_int_equal(latest(c, 1), 'b');
	end_read(c, 2);
	assert_replica_usable(c);
}

#define PRIMARY_TEST(f) cmocka_unit_test_setup_teardown(f, setup_primary, teardown)
#define REPLICA_TEST(f) cmocka_unit_test_setup_teardown(f, setup_replica, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		PRIMARY_TEST(begin__free__held_at_the_position_until_end),
		PRIMARY_TEST(begin__a_local_client_writes__waits_until_it_has_ended),
		PRIMARY_TEST(begin__not_had_in_time__eagain_and_gone),
		PRIMARY_TEST(begin__same_id_again__ealready_while_waiting_and_renewed_while_held),
		PRIMARY_TEST(begin__more_than_the_queue_holds__ebusy),
		PRIMARY_TEST(begin__not_the_primary_or_no_such_database__refused),
		PRIMARY_TEST(end__waiting_committing_or_unknown__gone_in_order),
		PRIMARY_TEST(commit__good__applied_published_and_old_readers_keep_theirs),
		PRIMARY_TEST(commit__after_a_clients_and_before_one__one_history),
		PRIMARY_TEST(commit__bad_file_of_every_kind__refused_and_gone),
		PRIMARY_TEST(commit__litefs_refuses__error_and_nothing_changed),
		PRIMARY_TEST(commit__lost_before_or_after_litefs_had_it__decided),
		PRIMARY_TEST(commit__litefs_says_nothing__unknown),
		PRIMARY_TEST(commit__another_one_in_its_place__poisoned_and_gone),
		PRIMARY_TEST(lease__over__gone_and_nothing_changed),
		PRIMARY_TEST(lease__shortened__a_commit_in_time_renews_it),
		PRIMARY_TEST(role__changes_in_any_state__the_session_is_gone),
		PRIMARY_TEST(stop__in_any_state__answered_and_nothing_held),
		PRIMARY_TEST(begin__an_application_holds_halt__waits_for_it),
		PRIMARY_TEST(halt__another_node_holds_the_lock__waits_for_its_end),
		PRIMARY_TEST(lock__waits_for_what_a_session_holds__answered_when_it_ends),
		PRIMARY_TEST(commit__a_reader_stays__many_go_on_and_it_keeps_its_snapshot),
		PRIMARY_TEST(litefs__gone_while_held__gone_and_usable_again),
		PRIMARY_TEST(begin__litefs_was_restarted_and_nobody_reads__noticed_and_held),
		PRIMARY_TEST(turns__a_client_and_two_peers__even_and_short),
		PRIMARY_TEST(turns__nobody_else__no_end),
		PRIMARY_TEST(turns__another_waits__yield_after_its_commits_or_its_time),
		PRIMARY_TEST(turns__two_wait__the_one_served_least),
		REPLICA_TEST(bundle__litefs_is_behind__published_and_written_upon),
		REPLICA_TEST(bundle__no_write_after_it__folded_only_when_litefs_is_there),
		REPLICA_TEST(bundle__litefs_half_way__the_same_for_everybody),
		REPLICA_TEST(bundle__bad__nothing_of_it_and_halt_for_a_while),
		REPLICA_TEST(bundle__last_of_two_bad__the_state_between_is_nobodys_to_write_on),
		REPLICA_TEST(bundle__none__litefs_catches_up_first),
		REPLICA_TEST(bundle__litefs_restarted_while_behind__nobody_sees_the_state_before),
		REPLICA_TEST(bundle__a_failover_drops_it_and_nobody_writes__not_shown_any_longer),
		REPLICA_TEST(bundle__view_lost_meanwhile__nothing_published_and_usable_after),
		REPLICA_TEST(commit__answer_lost_and_replicated__success),
		REPLICA_TEST(commit__gateway_takes_its_time__its_answer_is_waited_for),
		REPLICA_TEST(begin__gateway_cannot__halt_instead_and_later_again),
		REPLICA_TEST(begin__gateway_refuses_for_want_of_time__busy_and_no_halt),
		REPLICA_TEST(commit__gateway_says_yield__given_back_when_the_writer_lets_go),
		REPLICA_TEST(refresh__a_reader_stays__replication_goes_on),
		REPLICA_TEST(refresh__in_vain__the_lock_is_left_to_others),
		REPLICA_TEST(bundle__a_writer_has_lost_the_lock__it_commits_nothing),
	};
	int failed;

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	if (api_global_init())
		return 1;
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	api_global_fini();
	return failed;
}
