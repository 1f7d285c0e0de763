#include "litefs/dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "format/sqlite_format.h"

static int path_of(const struct lfs_files *files, const char *suffix, char *path, size_t size)
{
	int n = snprintf(path, size, "%s/%s%s", files->dir, files->name, suffix);

	return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

static int open_file(const struct lfs_files *files, const char *suffix, int flags)
{
	char path[4096 + 300];
	int err = path_of(files, suffix, path, sizeof path);
	int fd;

	if (err)
		return err;
	/* LiteFS has no symbolic links: one would lead to a file of somebody else's. */
	fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW, 0666);
	return fd < 0 ? -errno : fd;
}

/*
 * LiteFS makes "-shm" itself when it next applies a transaction; a create that
 * races with that answers EIO, and the next plain open finds it.
 */
static int open_or_create(const struct lfs_files *files, const char *suffix)
{
	int fd = -ENOENT;

	for (int i = 0; i < 20; i++) {
		fd = open_file(files, suffix, O_RDWR);
		if (fd != -ENOENT)
			return fd;
		fd = open_file(files, suffix, O_RDWR | O_CREAT);
		if (fd != -EIO && fd != -EEXIST && fd != -ENOENT)
			return fd;
		clock_sleep_ns(NS_PER_MS);
	}
	return fd;
}

int lfs_files_open(const char *dir, const char *name, struct lfs_files *ret)
{
	int err;

	*ret = (struct lfs_files){.shm_fd = -1, .db_fd = -1, .pos_fd = -1, .wal_fd = -1};
	ret->dir = strdup(dir);
	ret->name = strdup(name);
	if (!ret->dir || !ret->name) {
		err = -ENOMEM;
		goto fail;
	}
	/* A name that LiteFS does not know must not be created by asking for its "-shm". */
	err = ret->pos_fd = open_file(ret, "-pos", O_RDONLY);
	if (err >= 0)
		err = ret->shm_fd = open_or_create(ret, "-shm");
	/* Root opens a replica's 0444 file for writing, which fcntl's write locks ask for. */
	if (err >= 0)
		err = ret->db_fd = open_file(ret, "", O_RDWR);
	if (err >= 0)
		return 0;
fail:
	lfs_files_close(ret);
	return err;
}

void lfs_files_close(struct lfs_files *files)
{
	int *const fds[] = {&files->wal_fd, &files->shm_fd, &files->db_fd, &files->pos_fd};

	for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++) {
		if (*fds[i] >= 0)
			close(*fds[i]);
		*fds[i] = -1;
	}
	free(files->dir);
	free(files->name);
	files->dir = files->name = NULL;
}

int lfs_files_pos(const struct lfs_files *files, struct pos *ret)
{
	char text[POS_TEXT_SIZE]; /* not one byte more: that would ask LiteFS for the size each time */
	ssize_t n = pread(files->pos_fd, text, sizeof text, 0);

	if (n < 0)
		return -errno;
	return pos_parse(text, (size_t)n, ret);
}

ssize_t lfs_files_read(const struct lfs_files *files, void *buf, size_t len, off_t off)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(files->db_fd, (char *)buf + done, len - done, off + (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

int lfs_files_size(const struct lfs_files *files, int64_t *ret)
{
	struct stat st;

	if (fstat(files->db_fd, &st) < 0)
		return -errno;
	*ret = st.st_size;
	return 0;
}

int lfs_files_size_forced(const struct lfs_files *files, int64_t *ret)
{
	struct statx stx;

	if (statx(files->db_fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_SIZE, &stx) < 0)
		return -errno;
	*ret = (int64_t)stx.stx_size;
	return 0;
}

/* By name: kept open or not, the file may have been unlinked since. */
static int look_at_wal(const struct lfs_files *files, int sync, int64_t *ret_size)
{
	char path[4096 + 300];
	struct statx stx;
	int err = path_of(files, "-wal", path, sizeof path);

	if (err)
		return err;
	if (statx(AT_FDCWD, path, sync, STATX_SIZE, &stx) < 0)
		return -errno;
	*ret_size = (int64_t)stx.stx_size;
	return 0;
}

int lfs_files_wal_size(const struct lfs_files *files, int64_t *ret)
{
	int err = look_at_wal(files, AT_STATX_FORCE_SYNC, ret);

	if (err == -ENOENT)
		*ret = 0;
	return err == -ENOENT ? 0 : err;
}

/* A direct client that lives. (What this process holds itself is no conflict.) */
static bool another_holds_reserved(const struct lfs_files *files)
{
	struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = SQLITE_RESERVED_BYTE, .l_len = 1};

	return fcntl(files->db_fd, F_GETLK, &fl) == 0 && fl.l_type != F_UNLCK;
}

int lfs_files_journal_is_hot(const struct lfs_files *files, bool *ret)
{
	int fd = open_file(files, "-journal", O_RDONLY);
	char first = 0;
	ssize_t n;

	*ret = false;
	if (fd == -ENOENT)
		return 0;
	if (fd < 0)
		return fd;
	n = pread(fd, &first, 1, 0);
	if (n < 0)
		n = -errno;
	close(fd);
	/* SQLite's own criterion: a header, and nobody there whose it is. */
	*ret = n == 1 && first != 0 && !another_holds_reserved(files);
	return n < 0 ? (int)n : 0;
}

int lfs_files_unsettled(const struct lfs_files *files, bool *ret)
{
	int64_t wal_size;
	int err = lfs_files_wal_size(files, &wal_size);

	if (err)
		return err;
	*ret = true;
	return wal_size > 0 ? 0 : lfs_files_journal_is_hot(files, ret);
}

bool lfs_dir_alive(const char *dir)
{
	struct statfs st;

	return statfs(dir, &st) == 0 && st.f_type == FUSE_SUPER_MAGIC;
}

static int open_wal_again(struct lfs_files *files)
{
	int fd;

	/* Not in the bare directory under a LiteFS that is gone. */
	if (!lfs_dir_alive(files->dir))
		return -ENOTCONN;
	fd = open_or_create(files, "-wal");
	if (fd < 0)
		return fd;
	if (files->wal_fd >= 0)
		close(files->wal_fd);
	files->wal_fd = fd;
	return 0;
}

int lfs_files_open_wal(struct lfs_files *files)
{
	int64_t size;

	if (files->wal_fd >= 0 && look_at_wal(files, AT_STATX_DONT_SYNC, &size) == 0)
		return 0;
	return open_wal_again(files);
}

int lfs_files_keep_wal(struct lfs_files *files, int64_t *ret_size)
{
	int err;

	/* The kernel may still know a name that a removal has just taken away. */
	if (files->wal_fd >= 0 && look_at_wal(files, AT_STATX_FORCE_SYNC, ret_size) == 0)
		return 0;
	err = open_wal_again(files);
	return err ? err : look_at_wal(files, AT_STATX_FORCE_SYNC, ret_size);
}

void lfs_ident_get(const char *data_dir, const char *name, struct lfs_ident *ret)
{
	char path[4096 + 400];
	struct statx stx;
	int n = snprintf(path, sizeof path, "%s/dbs/%s/database", data_dir, name);

	*ret = (struct lfs_ident){0};
	if (!data_dir[0] || n < 0 || (size_t)n >= sizeof path)
		return;
	if (statx(AT_FDCWD, path, 0, STATX_INO | STATX_BTIME, &stx) < 0)
		return;
	ret->known = true;
	ret->dev = (uint64_t)stx.stx_dev_major << 32 | stx.stx_dev_minor;
	ret->ino = stx.stx_ino;
	if (stx.stx_mask & STATX_BTIME) {
		ret->born_s = stx.stx_btime.tv_sec;
		ret->born_ns = stx.stx_btime.tv_nsec;
	}
}

bool lfs_ident_equal(const struct lfs_ident *a, const struct lfs_ident *b)
{
	return a->known == b->known && a->dev == b->dev && a->ino == b->ino && a->born_s == b->born_s &&
	       a->born_ns == b->born_ns;
}

int lfs_files_is_primary(const struct lfs_files *files)
{
	struct stat st;

	if (fstat(files->db_fd, &st) < 0)
		return -errno;
	return (st.st_mode & 0222) != 0;
}
