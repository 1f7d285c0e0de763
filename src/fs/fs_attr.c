/* Attributes: ours from memory, LiteFS' own files through its directory. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/fs_internal.h"

bool fs_is_through(const struct node *node)
{
	return node->kind == FILE_POS || node->kind == FILE_LOCK || node->kind == FILE_NODE;
}

bool fs_is_stale(const struct node *node)
{
	return node->kind == FILE_DATABASE && !db_is_fresh(node->database->db);
}

static void owner(struct fs *fs, struct stat *st)
{
	const struct settings *s = fs->settings;

	st->st_uid = s->uid == (uid_t)-1 ? getuid() : s->uid;
	st->st_gid = s->gid == (gid_t)-1 ? getgid() : s->gid;
	st->st_nlink = 1;
}

void fs_attr_of(struct fs *fs, const struct node *node, struct stat *ret)
{
	*ret = (struct stat){0};
	owner(fs, ret);
	ret->st_atim = ret->st_mtim = ret->st_ctim = fs->started;
	if (!node) {
		ret->st_ino = FUSE_ROOT_INO;
		ret->st_mode = S_IFDIR | (0777 & ~fs->settings->umask);
		ret->st_nlink = 2;
		return;
	}
	ret->st_ino = node->ino;
	if (node->kind == FILE_STATUS) {
		ret->st_mode = S_IFREG | 0444;
		return;
	}
	ret->st_mode = S_IFREG | (0666 & ~fs->settings->umask);
	if (node->kind == FILE_SUPER)
		ret->st_size = super_size(fs->supers, node->name) > 0 ? super_size(fs->supers, node->name) : 0;
	else
		ret->st_size = db_size(node->database->db, node->kind);
	if (node->database)
		ret->st_atim = ret->st_mtim = ret->st_ctim = db_changed(node->database->db);
	ret->st_blocks = (ret->st_size + 511) / 512;
	ret->st_blksize = 4096;
}

int fs_attr_through(struct fs *fs, const struct node *node, struct stat *ret)
{
	char path[4096 + 300];
	int n = snprintf(path, sizeof path, "%s/%s", fs->settings->litefs_dir, node->name);

	if (n < 0 || (size_t)n >= sizeof path)
		return -ENAMETOOLONG;
	if (lstat(path, ret) < 0)
		return -errno;
	ret->st_ino = node->ino;
	ret->st_mode = S_IFREG | (node->kind == FILE_LOCK ? 0666 & ~fs->settings->umask : ret->st_mode & 0444);
	owner(fs, ret);
	return 0;
}

/* ---- operations ---- */

struct attr_task {
	struct io_task task; /* first */
	struct fs *fs;
	fuse_req_t req;
	struct node *node;
};

/*
 * Some change without the kernel being told. Of a database it is told, but the kernel takes an answer in as "known again" before it takes
 * the size: of two threads that read behind what was the end, the second would believe that nothing is there, and SQLite
 * makes that a page of zeros [ran: ARCHITECTURE.md]. Not kept for any time, the size is asked for by each of them.
 */
double fs_attr_timeout(const struct node *node)
{
	return node->kind == FILE_STATUS || node->kind == FILE_JOURNAL || node->kind == FILE_SUPER || node->kind == FILE_DATABASE ?
		       0 : ATTR_TIMEOUT_S;
}

static void reply_attr(struct fs *fs, fuse_req_t req, const struct node *node)
{
	struct stat st;

	fs_attr_of(fs, node, &st);
	fuse_reply_attr(req, &st, node ? fs_attr_timeout(node) : ATTR_TIMEOUT_S);
}

static void attr_run(struct io_task *task)
{
	struct attr_task *t = (struct attr_task *)task;
	struct stat st;
	int err = 0;

	if (!fs_is_through(t->node)) {
		db_refresh(t->node->database->db);
		reply_attr(t->fs, t->req, t->node);
	} else {
		err = fs_attr_through(t->fs, t->node, &st);
		if (err)
			fuse_reply_err(t->req, err == -ENOTCONN ? EIO : -err);
		else
			fuse_reply_attr(t->req, &st, 0);
	}
	free(t);
}

void fs_op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct node *node = node_by_ino(fs->nodes, ino);
	struct attr_task *t;

	(void)fi;
	if (!node && ino != FUSE_ROOT_INO) {
		fuse_reply_err(req, ENOENT);
	} else if (!node || !(fs_is_through(node) || fs_is_stale(node))) {
		reply_attr(fs, req, node);
	} else if (!(t = calloc(1, sizeof *t))) {
		fuse_reply_err(req, ENOMEM);
	} else {
		*t = (struct attr_task){{attr_run, NULL}, fs, req, node};
		io_pool_submit(fs->pool, &t->task);
	}
}

/* Owner and mode are options of the mount: what changes nothing is answered, the rest refused. */
static int set_owner_and_mode(const struct stat *now, const struct stat *attr, int to_set)
{
	if (((to_set & FUSE_SET_ATTR_MODE) && (attr->st_mode & 07777) != (now->st_mode & 07777)) ||
	    ((to_set & FUSE_SET_ATTR_UID) && attr->st_uid != now->st_uid) ||
	    ((to_set & FUSE_SET_ATTR_GID) && attr->st_gid != now->st_gid))
		return -EPERM;
	return 0;
}

struct size_call {
	struct db_call call; /* first */
	fuse_req_t req;
	struct stat st; /* as it will be: when it is done, db's mutex is held */
};

static void size_done(struct db_call *call, int result)
{
	struct size_call *c = (struct size_call *)call;

	if (result)
		fuse_reply_err(c->req, -result);
	else
		fuse_reply_attr(c->req, &c->st, 0);
	free(c);
}

/* SQLite cuts its database at the end of a VACUUM, and its journal at the end of a transaction. Replies. */
static void set_size(fuse_req_t req, struct node *node, off_t size, struct fuse_file_info *fi)
{
	pid_t tgid = fi ? handle_of(fi)->tgid : fs_tgid_of(fuse_req_ctx(req)->pid);
	struct fs *fs = fuse_req_userdata(req);
	struct size_call *c;
	int result;

	if (node->kind == FILE_DATABASE) {
		result = db_truncate(node->database->db, tgid, size);
	} else {
		c = calloc(1, sizeof *c);
		if (!c) {
			fuse_reply_err(req, ENOMEM);
			return;
		}
		c->call.done = size_done;
		c->req = req;
		fs_attr_of(fs, node, &c->st);
		c->st.st_size = size;
		result = db_journal_truncate(node->database->db, tgid, size, &c->call);
		if (result == DB_PARKED)
			return;
		free(c);
	}
	if (result)
		fuse_reply_err(req, -result);
	else
		reply_attr(fs, req, node);
}

/*
 * Times are not kept: they say when the database changed, and touch gets no error. "-shm" and "-wal" are ours:
 * SQLite's first opener truncates the one and its checkpoints the other; both are answered with the size as it is.
 */
void fs_op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
	const int owner_and_mode = FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID;
	struct fs *fs = fuse_req_userdata(req);
	struct node *node = node_by_ino(fs->nodes, ino);
	bool sized = to_set & FUSE_SET_ATTR_SIZE;
	struct stat st;
	int err = 0;

	if (!node && ino != FUSE_ROOT_INO) {
		err = -ENOENT;
	} else if (node && fs_is_through(node)) {
		err = to_set & owner_and_mode ? -EPERM : sized ? -EACCES : 0;
	} else {
		fs_attr_of(fs, node, &st);
		err = set_owner_and_mode(&st, attr, to_set);
		if (!err && sized && (!node || node->kind == FILE_STATUS))
			err = -EACCES;
		else if (!err && sized && node->kind == FILE_SHM && attr->st_size > st.st_size)
			err = db_shm_write(node->database->db, "", 1, attr->st_size - 1);
	}
	if (err)
		fuse_reply_err(req, -err);
	else if (sized && (node->kind == FILE_DATABASE || node->kind == FILE_JOURNAL))
		set_size(req, node, attr->st_size, fi);
	else
		fs_op_getattr(req, ino, fi);
}
