/*
 * dir: one database's files in a LiteFS directory, read only, for the life of the process.
 *
 * Descriptors matter: LiteFS drops POSIX locks when *any* descriptor of a file
 * is closed, so there is exactly one per file, "-shm" is opened before the
 * database (at death the kernel closes in that order, and WRITE must go before SHARED),
 * and lfs_files_close() is only for a database or LiteFS that is gone.
 * It refuses to know locks (guard.h) and views.
 *
 * Threads: reads from any; open and close from one, while nobody reads.
 * Every call may block on LiteFS. Errors: negative errno as LiteFS answered
 * (-ENOTCONN, -EIO, -ENOENT: it is gone); -EBADMSG for text that is no position.
 */
#ifndef LITEFWD_LITEFS_DIR_H
#define LITEFWD_LITEFS_DIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "format/pos.h"

struct lfs_files {
	char *dir; /* owned */
	char *name; /* owned */
	int shm_fd;
	int db_fd;
	int pos_fd;
	int wal_fd; /* kept for self: its existence is what LiteFS needs; -1 until lfs_files_open_wal() */
};

/* Borrows dir and name. ret is zeroed and closed on error. */
int lfs_files_open(const char *dir, const char *name, struct lfs_files *ret);
void lfs_files_close(struct lfs_files *files);

/* LiteFS' position of the database: 34 bytes from the page cache when nothing changed. */
int lfs_files_pos(const struct lfs_files *files, struct pos *ret);

/* Bytes read (0 at the end) or negative errno. */
ssize_t lfs_files_read(const struct lfs_files *files, void *buf, size_t len, off_t off);

/*
 * Size of the database file now, as LiteFS has told the kernel: exact while it tells of each change, which it does
 * not of a file's creation. forced: asked of LiteFS, and known to the kernel from then on.
 */
int lfs_files_size_forced(const struct lfs_files *files, int64_t *ret);
int lfs_files_size(const struct lfs_files *files, int64_t *ret);

/*
 * Which file the name stands for in LiteFS' data directory. After a drop and a re-creation LiteFS' handle goes on
 * reading the deleted file, while its size and position are those of the new one.
 */
struct lfs_ident {
	bool known; /* false where the data directory cannot be read */
	uint64_t dev, ino;
	int64_t born_s;
	uint32_t born_ns;
};
void lfs_ident_get(const char *data_dir, const char *name, struct lfs_ident *ret);
bool lfs_ident_equal(const struct lfs_ident *a, const struct lfs_ident *b); /* both unknown: true */

/* 1: this node's LiteFS is the primary now, by the mode that it shows for the database; 0; or negative errno. */
int lfs_files_is_primary(const struct lfs_files *files);

/* Size of NAME-wal now; 0 where it does not exist. */
int lfs_files_wal_size(const struct lfs_files *files, int64_t *ret);

/*
 * True if the database file alone is not the truth: NAME-wal is not empty, or NAME-journal has a header (of a direct
 * client that is writing, or has died). Asks LiteFS twice.
 */
int lfs_files_unsettled(const struct lfs_files *files, bool *ret);

/* The second of the two. */
int lfs_files_journal_is_hot(const struct lfs_files *files, bool *ret);

/* True if this directory is a FUSE mount that answers: what it does not list does not exist. */
bool lfs_dir_alive(const char *dir);

/* NAME-wal is there, as far as the kernel knows, and open (created if need be): LiteFS exits when WRITE is released without it. */
int lfs_files_open_wal(struct lfs_files *files);

/*
 * The same, asked of LiteFS itself: under WRITE, and before it is released (a removal by a direct client takes no lock).
 * ret_size: the file's; under WRITE nobody else changes it.
 */
int lfs_files_keep_wal(struct lfs_files *files, int64_t *ret_size);

#endif
