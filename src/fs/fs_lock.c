/*
 * Lock calls: decoded, given to db, answered now or by db's worker.
 *
 * Two of them are all that a read from a warm cache asks of us, so those that are answered at once do not go through
 * libfuse, whose part of such a call (allocations, lists, locks) is longer than ours.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "fs/fs_internal.h"

struct lock_call {
	struct db_call call; /* first */
	fuse_req_t req;
	struct db *db;
	struct lock_call *prev, *next;
};

/*
 * Calls that may be parked. libfuse takes an interrupt's callback and data under its own lock and calls it
 * later: by then db's worker may have answered and freed the call, so it is looked up here first.
 */
static pthread_mutex_t calls_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct lock_call *calls;

static struct lock_call *call_new(fuse_req_t req, struct db *db)
{
	struct lock_call *lc = calloc(1, sizeof *lc);

	if (!lc)
		return NULL;
	lc->req = req;
	lc->db = db;
	pthread_mutex_lock(&calls_mutex);
	lc->next = calls;
	if (lc->next)
		lc->next->prev = lc;
	calls = lc;
	pthread_mutex_unlock(&calls_mutex);
	return lc;
}

static void call_free(struct lock_call *lc)
{
	pthread_mutex_lock(&calls_mutex);
	if (lc->next)
		lc->next->prev = lc->prev;
	if (lc->prev)
		lc->prev->next = lc->next;
	else
		calls = lc->next;
	pthread_mutex_unlock(&calls_mutex);
	free(lc);
}

static void lock_done(struct db_call *call, int result)
{
	struct lock_call *lc = (struct lock_call *)call;

	fuse_reply_err(lc->req, -result);
	call_free(lc);
}

/* By libfuse, with the request's lock held. db compares the pointer with its parked calls and nothing else. */
static void lock_interrupted(fuse_req_t req, void *data)
{
	struct lock_call *lc = data, *c;
	struct db *db = NULL;

	pthread_mutex_lock(&calls_mutex);
	for (c = calls; c; c = c->next)
		if (c == lc && c->req == req)
			db = c->db;
	pthread_mutex_unlock(&calls_mutex);
	if (db)
		db_cancel(db, &lc->call);
}

bool fs_lock_file(const struct node *node, enum lock_file *ret)
{
	switch (node->kind) {
	case FILE_DATABASE:
		*ret = LOCK_FILE_DATABASE;
		break;
	case FILE_SHM:
		*ret = LOCK_FILE_SHM;
		break;
	case FILE_LOCK:
		*ret = LOCK_FILE_LOCK;
		break;
	default:
		return false;
	}
	return node->database != NULL;
}

static bool decode(struct node *node, struct fuse_file_info *fi, const struct flock *lock, struct db_lock *ret)
{
	enum lock_file file;

	if (!node || !fs_lock_file(node, &file))
		return false;
	*ret = (struct db_lock){
		.file = file,
		.type = lock->l_type,
		.start = lock->l_start,
		.end = lock->l_len ? lock->l_start + lock->l_len - 1 : INT64_MAX,
		.owner = fi->lock_owner,
		.tgid = lock->l_pid,
		.handle = fi->fh,
	};
	return true;
}

void fs_op_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock, int sleep)
{
	struct fs *fs = fuse_req_userdata(req);
	struct node *node = node_by_ino(fs->nodes, ino);
	struct db_lock dl;
	struct lock_call *lc;
	int result;

	if (!decode(node, fi, lock, &dl)) {
		fuse_reply_err(req, node && lock->l_type == F_UNLCK ? 0 : ENOSYS);
		return;
	}
	dl.wait = sleep;
	if (dl.type == F_UNLCK) {
		fuse_reply_err(req, -db_lock(node->database->db, &dl, NULL));
		return;
	}
	lc = call_new(req, node->database->db);
	if (!lc) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	lc->call.done = lock_done;
	/* Before the call can be parked: once it is, it may be answered and freed at any time. */
	fuse_req_interrupt_func(req, lock_interrupted, lc);
	result = db_lock(lc->db, &dl, &lc->call);
	if (result == DB_PARKED)
		return;
	fuse_req_interrupt_func(req, NULL, NULL);
	call_free(lc);
	fuse_reply_err(req, -result);
}

static void reply(struct fs *fs, uint64_t unique, int result)
{
	const struct fuse_out_header out = {.len = sizeof out, .error = result, .unique = unique};

	/* ENOENT: the request is gone; ENODEV: the connection is, which the next read says, too. */
	if (write(fuse_session_fd(fs->session), &out, sizeof out) < 0 && errno != ENOENT && errno != ENODEV)
		log_error("lock_reply", "error=\"%s\"", strerror(errno));
}

bool fs_lock_at_once(struct fs *fs, const struct fuse_buf *buf)
{
	const struct fuse_in_header *in = buf->mem;
	const struct fuse_lk_in *arg = (const void *)(in + 1);
	enum lock_file file;
	struct node *node;
	struct db_lock dl;
	int result;

	if ((buf->flags & FUSE_BUF_IS_FD) || buf->size != sizeof *in + sizeof *arg || in->opcode != FUSE_SETLK ||
	    (arg->lk_flags & FUSE_LK_FLOCK))
		return false;
	node = node_by_ino(fs->nodes, in->nodeid);
	if (!node || !fs_lock_file(node, &file))
		return false;
	dl = (struct db_lock){
		.file = file,
		.type = (short)arg->lk.type,
		.start = (int64_t)arg->lk.start,
		.end = (int64_t)arg->lk.end,
		.owner = arg->owner,
		.tgid = (pid_t)arg->lk.pid,
		.handle = arg->fh,
	};
	if (dl.type == F_UNLCK) {
		/* It cannot fail, and no other request is served before it is done: the client need not wait for it. */
		reply(fs, in->unique, 0);
		db_lock(node->database->db, &dl, NULL);
		return true;
	}
	result = db_lock(node->database->db, &dl, NULL);
	if (result == DB_PARKED)
		return false;
	reply(fs, in->unique, result);
	return true;
}

void fs_op_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock)
{
	struct fs *fs = fuse_req_userdata(req);
	struct node *node = node_by_ino(fs->nodes, ino);
	struct db_lock dl;

	if (!decode(node, fi, lock, &dl)) {
		fuse_reply_err(req, ENOSYS);
		return;
	}
	db_getlk(node->database->db, &dl);
	lock->l_type = dl.type;
	if (dl.type != F_UNLCK) {
		lock->l_pid = dl.tgid;
		lock->l_start = dl.start;
		lock->l_len = dl.end - dl.start + 1;
	}
	fuse_reply_lock(req, lock);
}
