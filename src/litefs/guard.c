#include "litefs/guard.h"

#include <errno.h>
#include <fcntl.h>

#include "format/sqlite_format.h"

static int set_lock(int fd, short type, off_t start, off_t len)
{
	struct flock fl = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};

	while (fcntl(fd, F_SETLK, &fl) < 0) {
		if (errno == EINTR)
			continue;
		return errno == EACCES ? -EAGAIN : -errno;
	}
	return 0;
}

static int set_shm(struct guard *guard, short type, int first, int n)
{
	return set_lock(guard->files->shm_fd, type, first, n);
}

static int take_shared_db(struct guard *guard)
{
	int err;

	if (guard->shared_db)
		return 0;
	err = set_lock(guard->files->db_fd, F_RDLCK, SQLITE_SHARED_FIRST, SQLITE_SHARED_SIZE);
	if (!err)
		guard->shared_db = true;
	return err;
}

static int drop_shared_db(struct guard *guard)
{
	if (!guard->shared_db || guard->readers || guard->writer)
		return 0;
	guard->shared_db = false;
	return set_lock(guard->files->db_fd, F_UNLCK, SQLITE_SHARED_FIRST, SQLITE_SHARED_SIZE);
}

void guard_init(struct guard *guard, struct lfs_files *files)
{
	*guard = (struct guard){.files = files};
}

int guard_take_readers(struct guard *guard)
{
	int err;

	if (guard->readers)
		return 0;
	err = set_shm(guard, F_RDLCK, WAL_READ_BYTE(0), 1);
	if (err)
		return err;
	err = take_shared_db(guard);
	if (err) {
		set_shm(guard, F_UNLCK, WAL_READ_BYTE(0), 1);
		return err;
	}
	guard->readers = true;
	return 0;
}

int guard_give_read0(struct guard *guard)
{
	if (!guard->readers)
		return 0;
	guard->readers = false;
	return set_shm(guard, F_UNLCK, WAL_READ_BYTE(0), 1);
}

int guard_give_readers(struct guard *guard)
{
	int err = guard_give_read0(guard);

	return err ? err : drop_shared_db(guard);
}

void guard_set_rollback(struct guard *guard, bool rollback)
{
	if (!guard->writer)
		guard->rollback = rollback;
}

static int set_db(struct guard *guard, short type, off_t byte)
{
	return set_lock(guard->files->db_fd, type, byte, 1);
}

static int take_write(struct guard *guard)
{
	int err = lfs_files_open_wal(guard->files);

	if (!err)
		err = set_shm(guard, F_RDLCK, WAL_DMS_BYTE, 1);
	if (err)
		return err;
	err = set_shm(guard, F_WRLCK, WAL_WRITE_BYTE, 1);
	if (err)
		set_shm(guard, F_UNLCK, WAL_DMS_BYTE, 1);
	return err;
}

static int take_reserved(struct guard *guard)
{
	int err = set_db(guard, F_WRLCK, SQLITE_RESERVED_BYTE);

	if (err)
		return err;
	err = set_db(guard, F_WRLCK, SQLITE_PENDING_BYTE);
	if (err)
		set_db(guard, F_UNLCK, SQLITE_RESERVED_BYTE);
	return err;
}

int guard_take_writer(struct guard *guard)
{
	int err;

	if (guard->writer)
		return 0;
	/* SHARED first: who closes last unlinks "-wal", for which it needs SHARED exclusively. */
	err = take_shared_db(guard);
	if (err)
		return err;
	err = guard->rollback ? take_reserved(guard) : take_write(guard);
	if (err) {
		drop_shared_db(guard);
		return err;
	}
	guard->writer = true;
	return 0;
}

int guard_unsettled(struct guard *guard, bool *ret)
{
	int64_t wal_size;
	int err;

	if (guard->rollback)
		return lfs_files_unsettled(guard->files, ret);
	/* Before WRITE was had another node's removal may have taken "-wal" away, which SHARED does not prevent. */
	err = lfs_files_keep_wal(guard->files, &wal_size);
	if (err)
		return err;
	*ret = true;
	return wal_size > 0 ? 0 : lfs_files_journal_is_hot(guard->files, ret);
}

static int keep_wal(struct guard *guard)
{
	int64_t size;

	return guard->rollback ? 0 : lfs_files_keep_wal(guard->files, &size);
}

int guard_give_writer(struct guard *guard)
{
	int err;

	if (!guard->writer)
		return 0;
	err = guard->exclusive ? guard_give_exclusive(guard) : 0;
	/* A direct client's removal of the database asks for no lock, and takes "-wal" away. */
	if (!err) {
		err = keep_wal(guard);
		if (err)
			return err;
	}
	if (!err)
		err = guard->rollback ? set_db(guard, F_UNLCK, SQLITE_PENDING_BYTE)
				      : set_shm(guard, F_UNLCK, WAL_WRITE_BYTE, 1);
	if (!err)
		err = guard->rollback ? set_db(guard, F_UNLCK, SQLITE_RESERVED_BYTE)
				      : set_shm(guard, F_UNLCK, WAL_DMS_BYTE, 1);
	guard->writer = false;
	return err ? err : drop_shared_db(guard);
}

/* Back to what the readers' lock says; also what mends a range lock that failed halfway (LITEFS.md, 10). */
static int restore_reads(struct guard *guard)
{
	int err = set_shm(guard, F_UNLCK, WAL_READ_BYTE(1), WAL_NREADER - 1);

	if (err)
		return err;
	return set_shm(guard, guard->readers ? F_RDLCK : F_UNLCK, WAL_READ_BYTE(0), 1);
}

int guard_take_exclusive(struct guard *guard)
{
	int err;

	if (guard->exclusive)
		return 0;
	if (guard->rollback) {
		err = set_lock(guard->files->db_fd, F_WRLCK, SQLITE_SHARED_FIRST, SQLITE_SHARED_SIZE);
		guard->exclusive = !err;
		return err;
	}
	err = set_shm(guard, F_WRLCK, WAL_READ_BYTE(0), WAL_NREADER);
	if (err) {
		int undo_err = restore_reads(guard);

		return undo_err ? undo_err : err;
	}
	guard->exclusive = true;
	return 0;
}

int guard_give_exclusive(struct guard *guard)
{
	if (!guard->exclusive)
		return 0;
	guard->exclusive = false;
	if (guard->rollback) /* writer is held, and needs it */
		return set_lock(guard->files->db_fd, F_RDLCK, SQLITE_SHARED_FIRST, SQLITE_SHARED_SIZE);
	return restore_reads(guard);
}

int guard_try_alone(struct guard *guard)
{
	int err;

	if (guard->readers || guard->writer || guard->shared_db)
		return -EAGAIN;
	err = set_lock(guard->files->db_fd, F_WRLCK, SQLITE_SHARED_FIRST, SQLITE_SHARED_SIZE);
	return err ? err : set_lock(guard->files->db_fd, F_UNLCK, SQLITE_SHARED_FIRST, SQLITE_SHARED_SIZE);
}

void guard_before_close(struct guard *guard)
{
	if (guard->writer)
		keep_wal(guard);
}

void guard_forget(struct guard *guard)
{
	guard_init(guard, guard->files);
}
