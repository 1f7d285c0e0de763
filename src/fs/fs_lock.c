/* Lock calls: decoded, given to db, answered now or by db's worker. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

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
	if (dl.type != F_UNLCK)
		lock->l_pid = dl.tgid;
	fuse_reply_lock(req, lock);
}
