/*
 * Removal: of a journal (the end of a transaction), of a super-journal (the end of one that spans several databases), of
 * a database. None is answered before what it means is done.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "fs/fs_internal.h"

struct unlink_call {
	struct db_call call; /* first */
	struct io_task task;
	struct fs *fs;
	fuse_req_t req;
	struct fs_database *database; /* super-journal: the one that is being committed */
	int committed; /* and how many are */
	char first[NAME_DB_MAX + 1];
	char name[256];
};

static struct unlink_call *call_new(fuse_req_t req, const char *name)
{
	struct unlink_call *c = calloc(1, sizeof *c);

	if (!c) {
		fuse_reply_err(req, ENOMEM);
		return NULL;
	}
	c->fs = fuse_req_userdata(req);
	c->req = req;
	strncpy(c->name, name, sizeof c->name - 1);
	return c;
}

static void call_done(struct db_call *call, int result)
{
	struct unlink_call *c = (struct unlink_call *)call;

	fuse_reply_err(c->req, -result);
	free(c);
}

static void unlink_journal(struct fs *fs, fuse_req_t req, const char *name)
{
	struct node *node = node_by_name(fs->nodes, name);
	struct unlink_call *c;
	int result;

	if (!node) {
		fuse_reply_err(req, ENOENT);
		return;
	}
	c = call_new(req, name);
	if (!c)
		return;
	c->call.done = call_done;
	result = db_journal_unlink(node->database->db, fs_tgid_of(fuse_req_ctx(req)->pid), &c->call);
	if (result != DB_PARKED)
		call_done(&c->call, result);
}

static void unlink_database_run(struct io_task *task)
{
	struct unlink_call *c = (struct unlink_call *)((char *)task - offsetof(struct unlink_call, task));
	struct fs_database *database;
	int result = fs_database_get(c->fs, c->name, false, &database);

	if (!result)
		result = db_unlink(database->db, &c->call);
	if (result != DB_PARKED)
		call_done(&c->call, result);
}

/* ---- super-journals: one database after the other, each from the pool, for its answer comes with db's mutex held ---- */

static void super_done(struct db_call *call, int result);

static void super_run(struct io_task *task)
{
	struct unlink_call *c = (struct unlink_call *)((char *)task - offsetof(struct unlink_call, task));
	int result = 0;

	while (!result && (c->database = fs_database_next(c->fs, c->database)) != NULL) {
		result = db_commit_super(c->database->db, c->name, &c->call);
		if (result == DB_PARKED)
			return;
	}
	if (!result)
		result = super_unlink(c->fs->supers, c->name);
	call_done(&c->call, result);
}

static void super_done(struct db_call *call, int result)
{
	struct unlink_call *c = (struct unlink_call *)call;
	char clean[256];

	if (result && c->committed)
		log_error("transaction_in_parts",
			  "super_journal=%s committed=%s and_others=%d failed=%s do=\"SQLite takes the committed ones back, unless its program is dead; look at "
			  "the line of the failed one\"",
			  log_clean(clean, sizeof clean, c->name), c->first, c->committed - 1, db_name(c->database->db));
	if (result) {
		call_done(call, result);
		return;
	}
	if (!c->committed++)
		strcpy(c->first, db_name(c->database->db));
	io_pool_submit(c->fs->pool, &c->task);
}

void fs_op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fs *fs = fuse_req_userdata(req);
	char db_name[NAME_DB_MAX + 1];
	enum file_kind kind;
	struct unlink_call *c;
	int err = parent == FUSE_ROOT_INO ? -name_parse(name, &kind, db_name) : ENOTDIR;

	if (err) {
		fuse_reply_err(req, err == EINVAL ? ENOENT : err);
		return;
	}
	if (kind == FILE_JOURNAL) {
		unlink_journal(fs, req, name);
		return;
	}
	if (kind == FILE_WAL || kind == FILE_SHM) {
		struct node *node = node_by_name(fs->nodes, name);

		/* They are there while the database is, and in WAL mode. */
		fuse_reply_err(req, node && db_mode(node->database->db) == DB_MODE_WAL ? EBUSY : ENOENT);
		return;
	}
	if (kind != FILE_DATABASE && kind != FILE_SUPER) {
		fuse_reply_err(req, EPERM);
		return;
	}
	c = call_new(req, name);
	if (!c)
		return;
	c->call.done = kind == FILE_SUPER ? super_done : call_done;
	c->task.run = kind == FILE_SUPER ? super_run : unlink_database_run;
	io_pool_submit(fs->pool, &c->task);
}
