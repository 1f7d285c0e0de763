#include "db/db_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/probe.h"
#include "litefs/api.h"

const char *db_name(const struct db *db)
{
	return db->name;
}

enum db_mode db_mode(struct db *db)
{
	enum db_mode mode;

	pthread_mutex_lock(&db->mu);
	mode = db->mode;
	pthread_mutex_unlock(&db->mu);
	return mode;
}

int64_t db_size(struct db *db, enum file_kind kind)
{
	int64_t size;

	pthread_mutex_lock(&db->mu);
	if (kind == FILE_WAL)
		size = (int64_t)db->wal.bytes.size;
	else if (kind == FILE_SHM)
		size = (int64_t)db->index.size;
	else if (kind == FILE_JOURNAL)
		size = (int64_t)db->journal.bytes.size;
	else
		size = (int64_t)db_database_pages_locked(db) * db->page_size;
	pthread_mutex_unlock(&db->mu);
	return size;
}

struct timespec db_changed(struct db *db)
{
	struct timespec at;

	pthread_mutex_lock(&db->mu);
	at = db->changed_at;
	pthread_mutex_unlock(&db->mu);
	return at;
}

unsigned db_readers_locked(const struct db *db)
{
	if (db->mode == DB_MODE_WAL)
		return lock_readers(&db->locks) + (db->holder ? 1 : 0);
	return db->locks.shared_count[SLOT_SHARED] + (db->locks.exclusive[SLOT_SHARED] ? 1 : 0);
}

bool db_reader_claims_locked(const struct db *db)
{
	for (int slot = SLOT_READ0; slot <= SLOT_READ4; slot++)
		if (db->locks.exclusive[slot])
			return true;
	return false;
}

bool db_single_locked(const struct db *db, pid_t tgid)
{
	if (tgid <= 0)
		return false; /* of another pid namespace: cannot tell */
	for (const struct db_process *p = db->processes; p; p = p->next)
		if (p->tgid == tgid)
			return p->opens <= 1;
	return false;
}

void db_handle_opened(struct db *db, pid_t tgid)
{
	struct db_process *p;

	pthread_mutex_lock(&db->mu);
	for (p = db->processes; p && p->tgid != tgid; p = p->next)
		;
	if (!p) {
		p = calloc(1, sizeof *p);
		if (p) { /* without one the process counts as having several connections */
			p->tgid = tgid;
			p->next = db->processes;
			db->processes = p;
		}
	}
	if (p)
		p->opens++;
	pthread_mutex_unlock(&db->mu);
}

void db_handle_closed(struct db *db, pid_t tgid)
{
	struct db_process **pp;

	pthread_mutex_lock(&db->mu);
	for (pp = &db->processes; *pp && (*pp)->tgid != tgid; pp = &(*pp)->next)
		;
	if (*pp && --(*pp)->opens == 0) {
		struct db_process *gone = *pp;

		*pp = gone->next;
		free(gone);
	}
	pthread_mutex_unlock(&db->mu);
}

int db_files_get_locked(struct db *db)
{
	if (!db->files_ok)
		return db->absent ? -ENOENT : -ENOTCONN;
	db->files_users++;
	return 0;
}

void db_files_put_locked(struct db *db)
{
	assert(db->files_users > 0);
	if (--db->files_users == 0)
		pthread_cond_broadcast(&db->changed);
}

static void ident_now(struct db *db, struct lfs_ident *ret)
{
	struct role_state *role = calloc(1, sizeof *role);

	*ret = (struct lfs_ident){0};
	if (!role)
		return;
	role_get(db->config->role, role);
	lfs_ident_get(role->path, db->name, ret);
	free(role);
}

int db_files_open(struct db *db, struct lfs_files *ret, struct lfs_ident *ret_ident)
{
	struct lfs_ident before;
	int64_t size = 0;
	int err;

	ident_now(db, &before);
	err = lfs_files_open(db->config->settings->litefs_dir, db->name, ret);
	if (err)
		return err;
	err = lfs_files_size_forced(ret, &size);
	ident_now(db, ret_ident);
	if (!err && size == 0)
		err = -ENOENT; /* opened by a direct client, and never written: no position, nothing to lock */
	if (!err && !lfs_ident_equal(&before, ret_ident))
		err = -EAGAIN; /* re-created at this moment: the next try will do */
	if (err)
		lfs_files_close(ret);
	return err;
}

bool db_files_current(struct db *db)
{
	struct lfs_ident now;

	ident_now(db, &now);
	return lfs_ident_equal(&now, &db->ident);
}

bool db_is_over(const struct db *db)
{
	return db->stop && clock_now_ns() - db->stop_ns > STOP_GRACE_NS;
}

void db_poison_locked(struct db *db)
{
	db->valid = false;
	if (db_readers_locked(db) && !db->poison) {
		db->poison = true;
		db->stats.poisons++;
		PROBE1(poison, db->name);
	}
	pthread_cond_signal(&db->g_cond);
}

void db_files_gone_locked(struct db *db, int err)
{
	if (!db->files_ok)
		return;
	log_warn("litefs_gone", "db=%s error=\"%s\" do=\"litefwd reopens the database when LiteFS is back\"", db->name,
		 strerror(-err));
	db->files_ok = false;
	if (db->up_state == UP_BEGIN ? db->up == db->self : db->up_is_self && (db->up_state == UP_HELD || db->up_state == UP_COMMIT))
		db->doomed = true; /* LiteFS' WRITE went with it */
	db->rebuild = true;
	db->guard_held = false;
	db->guard_epoch++;
	db->window = false;
	db_poison_locked(db);
	pthread_cond_broadcast(&db->changed);
	pthread_cond_signal(&db->u_cond);
}

void db_token_enter_locked(struct db *db)
{
	while (db->token)
		pthread_cond_wait(&db->changed, &db->mu);
	db->token = true;
}

void db_token_leave_locked(struct db *db)
{
	assert(db->token);
	db->token = false;
	pthread_cond_broadcast(&db->changed);
}

static void upstream_guard_enter(void *ctx)
{
	struct db *db = ctx;

	pthread_mutex_lock(&db->mu);
	db_token_enter_locked(db);
	pthread_mutex_unlock(&db->mu);
}

static void upstream_guard_leave(void *ctx)
{
	struct db *db = ctx;

	pthread_mutex_lock(&db->mu);
	db_token_leave_locked(db);
	pthread_mutex_unlock(&db->mu);
}

/* What the first page says, before anybody has locked anything: the first reader's reset makes it exact. */
static int peek(struct db *db)
{
	uint8_t *page = calloc(1, 65536);
	struct sqlite_header header;
	int64_t size = 0;
	ssize_t n;
	int err;

	if (!page)
		return -ENOMEM;
	n = lfs_files_read(&db->files, page, 65536, 0);
	err = n < 0 ? (int)n : n < 512 ? -EBADMSG : sqlite_header_parse(page, &header);
	if (!err)
		err = lfs_files_size(&db->files, &size);
	if (!err) {
		db->mode = db->told_mode = header.wal ? DB_MODE_WAL : DB_MODE_ROLLBACK;
		db->page_size = header.page_size;
		db->base_pages = db->tip_pages = (uint32_t)(size / header.page_size);
		page_set_reset(&db->undo, header.page_size);
		err = vwal_restart(&db->wal, page, header.page_size, db->base_pages);
	}
	if (!err)
		walindex_restart(&db->index, &db->wal, db->base_pages);
	free(page);
	return err;
}

static void destroy(struct db *db)
{
	upstream_free(db->remote);
	upstream_free(db->self);
	upstream_free(db->own);
	upstream_free(db->gateway);
	api_free(db->local_api);
	if (db->files_ok)
		lfs_files_close(&db->files);
	free(db->scratch);
	page_set_fini(&db->undo);
	vwal_fini(&db->wal);
	page_map_fini(&db->tip_frames);
	page_set_fini(&db->overlay);
	vjournal_fini(&db->journal);
	spool_fini(&db->ltx);
	walindex_fini(&db->index);
	lock_table_fini(&db->locks);
	while (db->processes) {
		struct db_process *next = db->processes->next;

		free(db->processes);
		db->processes = next;
	}
	pthread_mutex_destroy(&db->mu);
	pthread_cond_destroy(&db->g_cond);
	pthread_cond_destroy(&db->u_cond);
	pthread_cond_destroy(&db->changed);
	free(db);
}

int db_open(const struct db_config *config, const char *name, bool create, void *notify_ctx, struct db **ret)
{
	const struct settings *s = config->settings;
	struct db *db;
	struct upstream_config up;
	int err;

	if (!name_is_database(name))
		return -EINVAL;
	db = calloc(1, sizeof *db);
	if (!db)
		return -ENOMEM;
	db->config = config;
	strncpy(db->name, name, sizeof db->name - 1);
	db->notify_ctx = notify_ctx;
	pthread_mutex_init(&db->mu, NULL);
	clock_cond_init(&db->g_cond);
	clock_cond_init(&db->u_cond);
	clock_cond_init(&db->changed);
	page_set_init(&db->undo, s->spool_dir, (size_t)s->spool_threshold);
	vwal_init(&db->wal, s->spool_dir, (size_t)s->spool_threshold);
	spool_init(&db->ltx, s->spool_dir, (size_t)s->spool_threshold);
	page_set_init(&db->overlay, s->spool_dir, (size_t)s->spool_threshold);
	vjournal_init(&db->journal, s->spool_dir, (size_t)s->spool_threshold);
	lock_table_init(&db->locks);
	guard_init(&db->guard, &db->files);
	db->scratch = malloc(65536);
	err = db->scratch ? walindex_init(&db->index) : -ENOMEM;
	if (!err)
		err = db_files_open(db, &db->files, &db->ident);
	db->files_ok = !err;
	db->rebuild = true;
	if (!err) {
		err = peek(db);
	} else if (err == -ENOENT && create && lfs_dir_alive(s->litefs_dir)) {
		db_vanish_locked(db); /* nobody knows it yet: no lock is needed */
		db->created = true;
		err = 0;
	}
	up = (struct upstream_config){
		.settings = s,
		.gw_secret = s->gw_secret,
		.name = db->name,
		.node_id = config->node_id,
		.role = config->role,
		.halts = config->halts,
		.breakers = config->breakers,
		.gw_conns = config->gw_conns,
		.guard = &db->guard,
		.guard_enter = upstream_guard_enter,
		.guard_leave = upstream_guard_leave,
		.ctx = db,
	};
	if (!err)
		err = upstream_new(&up, UPSTREAM_REMOTE, &db->remote);
	if (!err)
		err = upstream_new(&up, UPSTREAM_SELF, &db->self);
	if (!err)
		err = upstream_new(&up, UPSTREAM_OWN, &db->own);
	if (!err && s->gateway_url)
		err = upstream_new(&up, UPSTREAM_GATEWAY, &db->gateway);
	if (!err)
		err = api_new(s->litefs_url, config->node_id, &db->local_api);
	if (!err)
		err = -pthread_create(&db->g_thread, NULL, db_guard_main, db);
	if (err) {
		destroy(db);
		return err;
	}
	err = -pthread_create(&db->u_thread, NULL, db_upstream_main, db);
	if (err) {
		pthread_mutex_lock(&db->mu);
		db->stop = true;
		pthread_cond_signal(&db->g_cond);
		pthread_mutex_unlock(&db->mu);
		pthread_join(db->g_thread, NULL);
		destroy(db);
		return err;
	}
	*ret = db;
	return 0;
}

void db_stop(struct db *db)
{
	pthread_mutex_lock(&db->mu);
	if (db->stop) { /* once is enough */
		pthread_mutex_unlock(&db->mu);
		return;
	}
	db->stop_ns = clock_now_ns();
	db->stop = true;
	if (db->up && (db->up_state == UP_BEGIN || db->renewing))
		upstream_abort(db->up);
	api_abort(db->local_api);
	pthread_cond_broadcast(&db->g_cond);
	pthread_cond_broadcast(&db->u_cond);
	pthread_cond_broadcast(&db->changed);
	pthread_mutex_unlock(&db->mu);
	pthread_join(db->u_thread, NULL);
	pthread_join(db->g_thread, NULL);
	pthread_mutex_lock(&db->mu);
	while (db->parked) {
		struct db_call *call = db->parked;

		db->parked = call->next;
		call->done(call, -EIO);
	}
	db_stop_sessions_locked(db);
	db_give_up_unknowns_locked(db);
	if (db->drop_call)
		db->drop_call->done(db->drop_call, -EIO);
	db->drop_call = NULL;
	pthread_mutex_unlock(&db->mu);
}

void db_free(struct db *db)
{
	destroy(db);
}

/* ---- watchdog ---- */

static void rest(struct db *db, pthread_cond_t *cond, int64_t next_ns, bool *rests, bool *called)
{
	*rests = true;
	clock_cond_wait_until(cond, &db->mu, next_ns);
	*rests = false;
	if (*called)
		pthread_cond_broadcast(&db->changed);
	*called = false;
}

void db_guard_rest_locked(struct db *db, int64_t next_ns)
{
	rest(db, &db->g_cond, next_ns, &db->g_rests, &db->g_called);
}

void db_upstream_rest_locked(struct db *db, int64_t next_ns)
{
	rest(db, &db->u_cond, next_ns, &db->u_rests, &db->u_called);
}

bool db_alive(struct db *db, int64_t until_ns)
{
	bool ret;

	pthread_mutex_lock(&db->mu);
	db->g_called = db->g_rests;
	db->u_called = db->u_rests;
	pthread_cond_signal(&db->g_cond);
	pthread_cond_signal(&db->u_cond);
	while (!db->stop && (db->g_called || db->u_called) &&
	       clock_cond_wait_until(&db->changed, &db->mu, until_ns) != -ETIMEDOUT)
		;
	ret = db->stop || !(db->g_called || db->u_called);
	pthread_mutex_unlock(&db->mu);
	return ret;
}

void db_role_changed(struct db *db)
{
	pthread_mutex_lock(&db->mu);
	db->begin_retry_ns = 0;
	db->away = false;
	db->away_ns = 0;
	db->primary_pos = (struct pos){0}; /* of another one, perhaps */
	/* U gives it back at once: LiteFS waits for its locks before it follows anyone. A begin may have ended already, and its worker wait for mu. */
	if (db->up_state == UP_BEGIN || db->up_state == UP_HELD || db_is_publishing_locked(db))
		db->doomed = true;
	if ((db->up_state == UP_BEGIN || db->renewing) && db->up)
		upstream_abort(db->up);
	/* What the clients were shown before LiteFS here had it: has whoever is the primary now got it? There may be no writer to find out. */
	if (db->behind_count)
		db->want_begin = true;
	db_refuse_sessions_locked(db, -EHOSTUNREACH); /* they ask whoever is the primary now */
	db->gateway_retry_ns = 0;
	db->role_changed_ns = clock_now_ns();
	db->gate_retry_ns = 0;
	db->gate_failures = 0;
	pthread_cond_signal(&db->u_cond);
	pthread_cond_signal(&db->g_cond);
	pthread_mutex_unlock(&db->mu);
}
