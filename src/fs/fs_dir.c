/* Names: lookup, creation, listing. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/log.h"
#include "fs/fs_internal.h"

struct name_task {
	struct io_task task; /* first */
	struct fs *fs;
	fuse_req_t req;
	enum file_kind kind;
	char name[256];
	char db_name[NAME_DB_MAX + 1];
	struct fuse_file_info fi;
};

static struct name_task *name_task_new(fuse_req_t req, const char *name, void (*run)(struct io_task *task))
{
	struct name_task *t = calloc(1, sizeof *t);

	if (!t) {
		fuse_reply_err(req, ENOMEM);
		return NULL;
	}
	t->task.run = run;
	t->fs = fuse_req_userdata(req);
	t->req = req;
	strncpy(t->name, name, sizeof t->name - 1);
	return t;
}

void fs_entry_of(struct fs *fs, const struct node *node, struct fuse_entry_param *ret)
{
	*ret = (struct fuse_entry_param){.ino = node->ino, .generation = 1};
	fs_attr_of(fs, node, &ret->attr);
	/* Journals come and go by our doing, too, and databases by LiteFS'. */
	if (node->kind != FILE_JOURNAL && node->kind != FILE_SUPER && node->kind != FILE_DATABASE)
		ret->entry_timeout = ATTR_TIMEOUT_S;
	ret->attr_timeout = fs_attr_timeout(node);
}

static void reply_entry(struct fs *fs, fuse_req_t req, const struct node *node)
{
	struct fuse_entry_param e;

	fs_entry_of(fs, node, &e);
	fuse_reply_entry(req, &e);
}

/* Of our own making: known without asking LiteFS. NULL and *ret_err. */
static struct node *find_ours(struct fs *fs, const char *name, enum file_kind kind, int *ret_err)
{
	struct node *node = node_by_name(fs->nodes, name);

	*ret_err = 0;
	if (!node)
		return NULL;
	if ((kind == FILE_WAL || kind == FILE_SHM) && db_mode(node->database->db) != DB_MODE_WAL) {
		*ret_err = ENOENT;
		return NULL;
	}
	return fs_is_through(node) ? NULL : node;
}

static void lookup_through(struct name_task *t)
{
	struct fuse_entry_param e = {.generation = 1};
	struct node probe = {.kind = t->kind, .name = t->name};
	struct node *node;
	int err = fs_attr_through(t->fs, &probe, &e.attr);

	if (!err)
		err = node_add(t->fs->nodes, t->kind, t->name, &node);
	/* An application's HALT is a lock of its database. */
	if (!err && t->kind == FILE_LOCK && !node->database)
		err = fs_database_get(t->fs, t->db_name, false, &node->database);
	if (err) {
		fuse_reply_err(t->req, err == -ENOTCONN ? EIO : -err);
		return;
	}
	e.ino = e.attr.st_ino = node->ino;
	fuse_reply_entry(t->req, &e); /* never cached: LiteFS decides what is there */
}

static void lookup_run(struct io_task *task)
{
	struct name_task *t = (struct name_task *)task;
	struct fs_database *database;
	struct node *node = NULL;
	int err;

	if (t->kind == FILE_POS || t->kind == FILE_LOCK || t->kind == FILE_NODE) {
		lookup_through(t);
	} else {
		err = -fs_database_get(t->fs, t->db_name, false, &database);
		if (!err && !db_exists(database->db))
			err = ENOENT;
		if (!err)
			node = find_ours(t->fs, t->name, t->kind, &err);
		if (node && fs_is_stale(node))
			db_refresh(node->database->db);
		if (node)
			reply_entry(t->fs, t->req, node);
		else
			fuse_reply_err(t->req, err ? err : ENOENT);
	}
	free(t);
}

void fs_op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fs *fs = fuse_req_userdata(req);
	char db_name[NAME_DB_MAX + 1];
	enum file_kind kind;
	struct name_task *t;
	struct node *node;
	int err = parent == FUSE_ROOT_INO ? -name_parse(name, &kind, db_name) : ENOTDIR;

	if (err) {
		fuse_reply_err(req, err == EINVAL ? ENOENT : err);
		return;
	}
	if (kind == FILE_JOURNAL || kind == FILE_SUPER) {
		node = node_by_name(fs->nodes, name);
		if (node && (kind == FILE_SUPER ? super_exists(fs->supers, name) : db_journal_exists(node->database->db)))
			reply_entry(fs, req, node);
		else
			fuse_reply_err(req, ENOENT);
		return;
	}
	if (kind == FILE_NODE && fs->settings->hide_primary && !strcmp(name, ".primary")) {
		fuse_reply_err(req, ENOENT);
		return;
	}
	if (kind == FILE_STATUS) {
		if (node_add(fs->nodes, kind, name, &node) == 0)
			reply_entry(fs, req, node);
		else
			fuse_reply_err(req, ENOMEM);
		return;
	}
	/* Whether a database is still there only LiteFS knows; its other files are ours while it is open. */
	node = kind == FILE_DATABASE ? NULL : find_ours(fs, name, kind, &err);
	if (node) {
		reply_entry(fs, req, node);
		return;
	}
	if (err) {
		fuse_reply_err(req, err);
		return;
	}
	t = name_task_new(req, name, lookup_run);
	if (!t)
		return;
	t->kind = kind;
	memcpy(t->db_name, db_name, sizeof t->db_name);
	io_pool_submit(fs->pool, &t->task);
}

static void reply_create(fuse_req_t req, struct node *node, struct fuse_file_info *fi)
{
	struct fuse_entry_param e;

	fs_entry_of(fuse_req_userdata(req), node, &e);
	fs_open(req, node, fi, &e);
}

/* A new name may become a database: it is an empty one here, and LiteFS' with its first transaction. */
static void create_run(struct io_task *task)
{
	struct name_task *t = (struct name_task *)task;
	struct fs_database *database;
	int err = fs_database_get(t->fs, t->db_name, true, &database);

	if (err)
		fuse_reply_err(t->req, -err);
	else
		reply_create(t->req, node_by_ino(t->fs->nodes, database->ino), &t->fi);
	free(t);
}

static int create_journal(struct fs *fs, const char *name, struct node **ret)
{
	struct node *node = node_by_name(fs->nodes, name);
	int err = node ? db_journal_create(node->database->db) : -EACCES;

	*ret = node;
	return err;
}

static int create_super(struct fs *fs, const char *name, struct node **ret)
{
	int err = node_add(fs->nodes, FILE_SUPER, name, ret);

	return err ? err : super_create(fs->supers, name);
}

/* "-wal" and "-shm" are there as soon as the journal mode is: asked for as new, they are opened. */
static int create_wal(struct fs *fs, const char *name, struct node **ret)
{
	struct node *node = node_by_name(fs->nodes, name);

	*ret = node;
	return node && db_mode(node->database->db) == DB_MODE_WAL ? 0 : -EACCES;
}

void fs_op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	char db_name[NAME_DB_MAX + 1];
	enum file_kind kind;
	struct name_task *t;
	struct node *node = NULL;
	int err = parent == FUSE_ROOT_INO ? name_parse(name, &kind, db_name) : -ENOTDIR;

	(void)mode;
	if (!err && kind == FILE_DATABASE) {
		t = name_task_new(req, name, create_run);
		if (!t)
			return;
		memcpy(t->db_name, db_name, sizeof t->db_name);
		t->fi = *fi;
		io_pool_submit(fs->pool, &t->task);
		return;
	}
	if (!err) {
		switch (kind) {
		case FILE_JOURNAL:
			err = create_journal(fs, name, &node);
			break;
		case FILE_SUPER:
			err = create_super(fs, name, &node);
			break;
		case FILE_WAL:
		case FILE_SHM:
			err = create_wal(fs, name, &node);
			break;
		default:
			err = -EACCES;
		}
	}
	if (err)
		fuse_reply_err(req, -err);
	else
		reply_create(req, node, fi);
}

/* ---- listing ---- */

struct listing {
	char *entries; /* as fuse_add_direntry makes them */
	size_t len, cap;
	off_t next_off;
};

static int add_entry(fuse_req_t req, struct listing *list, const char *name, mode_t mode)
{
	struct stat st = {.st_ino = UINT32_MAX, .st_mode = mode}; /* 0 would be skipped */
	size_t size = fuse_add_direntry(req, NULL, 0, name, NULL, 0);

	if (list->len + size > list->cap) {
		size_t cap = (list->cap + size) * 2;
		char *entries = realloc(list->entries, cap);

		if (!entries)
			return -ENOMEM;
		list->entries = entries;
		list->cap = cap;
	}
	/* The offset is where the next entry begins in this snapshot. */
	fuse_add_direntry(req, list->entries + list->len, size, name, &st, (off_t)(list->len + size));
	list->len += size;
	return 0;
}

static int add_name(struct name_task *t, struct listing *list, const char *name)
{
	char db_name[NAME_DB_MAX + 1], other[300];
	struct fs_database *database;
	enum file_kind kind;
	int err;

	if (name_parse(name, &kind, db_name) != 0 || kind == FILE_WAL || kind == FILE_SHM || kind == FILE_JOURNAL ||
	    kind == FILE_SUPER)
		return 0;
	if (kind == FILE_NODE && t->fs->settings->hide_primary && !strcmp(name, ".primary"))
		return 0;
	err = add_entry(t->req, list, name, S_IFREG);
	if (err || kind != FILE_DATABASE || fs_database_get(t->fs, name, false, &database) != 0 ||
	    db_mode(database->db) != DB_MODE_WAL)
		return err;
	snprintf(other, sizeof other, "%s-wal", name);
	err = add_entry(t->req, list, other, S_IFREG);
	snprintf(other, sizeof other, "%s-shm", name);
	return err ? err : add_entry(t->req, list, other, S_IFREG);
}

/* What LiteFS does not know: journals, and databases that were made here and are still empty. */
static int list_ours(struct name_task *t, struct listing *list)
{
	char name[300];
	int err = 0;

	for (struct fs_database *d = NULL; !err && (d = fs_database_next(t->fs, d)) != NULL;) {
		snprintf(name, sizeof name, "%s-journal", db_name(d->db));
		if (db_is_virgin(d->db))
			err = add_entry(t->req, list, db_name(d->db), S_IFREG);
		if (!err && db_journal_exists(d->db))
			err = add_entry(t->req, list, name, S_IFREG);
	}
	return err;
}

static int list_directory(struct name_task *t, struct listing *list)
{
	DIR *dir = opendir(t->fs->settings->litefs_dir);
	struct dirent *ent;
	int err;

	if (!dir)
		return -errno;
	err = add_entry(t->req, list, ".", S_IFDIR);
	if (!err)
		err = add_entry(t->req, list, "..", S_IFDIR);
	if (!err)
		err = add_entry(t->req, list, ".litefwd", S_IFREG);
	while (!err && (errno = 0, ent = readdir(dir)) != NULL)
		if (strcmp(ent->d_name, ".") != 0 && strcmp(ent->d_name, "..") != 0)
			err = add_name(t, list, ent->d_name);
	if (!err && errno)
		err = -errno;
	closedir(dir);
	return err ? err : list_ours(t, list);
}

static void opendir_run(struct io_task *task)
{
	struct name_task *t = (struct name_task *)task;
	struct listing *list = calloc(1, sizeof *list);
	int err = list ? list_directory(t, list) : -ENOMEM;

	t->fi.fh = (uintptr_t)list;
	if (err || fuse_reply_open(t->req, &t->fi) != 0) {
		if (err)
			fuse_reply_err(t->req, err == -ENOTCONN ? EIO : -err);
		if (list)
			free(list->entries);
		free(list);
	}
	free(t);
}

void fs_op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct name_task *t;

	if (ino != FUSE_ROOT_INO) {
		fuse_reply_err(req, ENOTDIR);
		return;
	}
	t = name_task_new(req, "", opendir_run);
	if (!t)
		return;
	t->fi = *fi;
	io_pool_submit(fs->pool, &t->task);
}

void fs_op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct listing *list = (struct listing *)(uintptr_t)fi->fh;
	size_t n = 0;

	(void)ino;
	if (off < 0 || (size_t)off >= list->len) {
		fuse_reply_buf(req, NULL, 0);
		return;
	}
	/* Whole entries only: an entry is 24 bytes and its name, padded to 8. */
	while ((size_t)off + n < list->len) {
		uint32_t name_len;
		size_t entry;

		memcpy(&name_len, list->entries + off + n + 16, sizeof name_len);
		entry = (24 + name_len + 7) & ~(size_t)7;
		if (n + entry > size)
			break;
		n += entry;
	}
	fuse_reply_buf(req, list->entries + off, n);
}

void fs_op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct listing *list = (struct listing *)(uintptr_t)fi->fh;

	(void)ino;
	free(list->entries);
	free(list);
	fuse_reply_err(req, 0);
}

static void statfs_run(struct io_task *task)
{
	struct name_task *t = (struct name_task *)task;
	struct statvfs st;

	if (statvfs(t->fs->settings->litefs_dir, &st) < 0)
		fuse_reply_err(t->req, errno == ENOTCONN ? EIO : errno);
	else
		fuse_reply_statfs(t->req, &st);
	free(t);
}

void fs_op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct fs *fs = fuse_req_userdata(req);
	struct name_task *t = name_task_new(req, "", statfs_run);

	(void)ino;
	if (t)
		io_pool_submit(fs->pool, &t->task);
}
