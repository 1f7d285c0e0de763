/* fs_internal: shared by fs.c (session, loop, notifications) and fs_*.c (operations). */
#ifndef LITEFWD_FS_FS_INTERNAL_H
#define LITEFWD_FS_FS_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include <fuse_lowlevel.h>

#include "base/clock.h"
#include "base/settings.h"
#include "db/db.h"
#include "db/db_metrics.h"
#include "db/super_table.h"
#include "litefs/breaker.h"
#include "fs/fs.h"
#include "fs/io_pool.h"
#include "fs/node.h"
#include "litefs/halt_record.h"
#include "litefs/role.h"

struct fs {
	const struct settings *settings;
	struct role *role;
	uint64_t node_id;
	struct db_config db_config;
	struct halt_record *halts;
	struct io_pool *pool;
	struct io_pool *status_pool; /* the other may be full of what waits for LiteFS */
	struct db_metrics metrics;
	struct node_table *nodes;
	struct super_table *supers;
	struct breakers *breakers;
	struct gw_conns *gw_conns;
	struct fuse_session *session;
	const struct fs_companion *companion; /* NULL: none; constant while the loop runs */
	atomic_bool companion_stopped;
	int64_t started_ns; /* monotonic */
	struct timespec started; /* the time that files without one of their own show */
	int stop_fd; /* eventfd: fs_stop(), the closer's end, and fs_alive() */
	atomic_bool stopping;
	atomic_uint beats_asked, beats; /* fs_alive(): the loop makes the second the first */

	/* New databases; held across LiteFS, so not for the FUSE thread, nor for status. Those that are there stay until the end. */
	pthread_mutex_t mutex;
	_Atomic(struct fs_database *) databases;
	pthread_mutex_t handles_mutex; /* never held across anything */
	struct handle *handles;
};

/* An open file of ours. */
struct handle {
	struct node *node;
	pid_t tgid;
	char *text; /* FILE_STATUS: what it said when it was opened; owned */
	size_t text_len;
	int fd; /* FILE_POS, FILE_LOCK, FILE_NODE: LiteFS' file; -1 */
	struct handle *prev, *next; /* all open ones: an unmount does not release them */
};

static inline struct handle *handle_of(const struct fuse_file_info *fi)
{
	return (struct handle *)(uintptr_t)fi->fh;
}

extern const struct fuse_lowlevel_ops fs_ops;

/* Finds or opens; blocks on LiteFS: pool only. create: one that LiteFS does not have is an empty one. */
int fs_database_get(struct fs *fs, const char *name, bool create, struct fs_database **ret);
/* The databases that are open, one after the other: NULL begins, NULL ends. Takes no lock. */
struct fs_database *fs_database_next(struct fs *fs, struct fs_database *after);

/* fs_file.c */
void fs_handles_free(struct fs *fs);
/* A handle for the node, and the reply: of open, or of create where entry is given. */
void fs_open(fuse_req_t req, struct node *node, struct fuse_file_info *fi, const struct fuse_entry_param *entry);
/* FUSE gives the thread; SQLite's locks and we count processes. 0: of another pid namespace, or gone. */
pid_t fs_tgid_of(pid_t tid);

/* fs_unlink.c */
void fs_op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);

/* fs_attr.c */
void fs_attr_of(struct fs *fs, const struct node *node, struct stat *ret); /* ours: never blocks */
double fs_attr_timeout(const struct node *node); /* for how many seconds the kernel may keep them */
int fs_attr_through(struct fs *fs, const struct node *node, struct stat *ret); /* LiteFS' file: blocks */
bool fs_is_through(const struct node *node);
bool fs_is_stale(const struct node *node); /* a database that may want db_refresh() before it is looked at */
void fs_op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void fs_op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi);

/* fs_dir.c */
void fs_entry_of(struct fs *fs, const struct node *node, struct fuse_entry_param *ret);
void fs_op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void fs_op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void fs_op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void fs_op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void fs_op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi);
void fs_op_statfs(fuse_req_t req, fuse_ino_t ino);

/* fs_lock.c */
bool fs_lock_file(const struct node *node, enum lock_file *ret); /* false: not one that is locked here */
void fs_op_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock);
void fs_op_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock, int sleep);
/* True: the request, as the kernel wrote it, was a lock call and has its answer. False: it is libfuse's. */
bool fs_lock_at_once(struct fs *fs, const struct fuse_buf *buf);

/* fs_watch.c: each time the loop comes round */
void fs_beat(struct fs *fs);

/* fs_status.c: JSON, malloc'ed; NULL: no memory */
char *fs_status_text(struct fs *fs, size_t *ret_len);

#define ATTR_TIMEOUT_S 1.0

#endif
