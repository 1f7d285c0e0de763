#include "wal_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "litefs/dir.h"
#include "litefs/upstream.h"

/* ---- a LiteFS that can be gone, and a gateway ---- */

atomic_bool litefs_gone;

int __wrap_lfs_files_pos(const struct lfs_files *files, struct pos *ret);
int __real_lfs_files_pos(const struct lfs_files *files, struct pos *ret);
ssize_t __wrap_lfs_files_read(const struct lfs_files *files, void *buf, size_t len, off_t off);
ssize_t __real_lfs_files_read(const struct lfs_files *files, void *buf, size_t len, off_t off);
int __wrap_lfs_files_open_wal(struct lfs_files *files);
int __wrap_lfs_files_keep_wal(struct lfs_files *files, int64_t *ret_size);
int __wrap_upstream_gateway_new(const struct upstream_config *config, struct upstream **ret);

int __wrap_lfs_files_pos(const struct lfs_files *files, struct pos *ret)
{
	return atomic_load(&litefs_gone) ? -ENOTCONN : __real_lfs_files_pos(files, ret);
}

ssize_t __wrap_lfs_files_read(const struct lfs_files *files, void *buf, size_t len, off_t off)
{
	return atomic_load(&litefs_gone) ? -ENOTCONN : __real_lfs_files_read(files, buf, len, off);
}

int __wrap_lfs_files_open_wal(struct lfs_files *files)
{
	char path[200];

	snprintf(path, sizeof path, "%s/%s-wal", files->dir, files->name);
	if (files->wal_fd < 0)
		files->wal_fd = open(path, O_RDWR | O_CREAT, 0600);
	return files->wal_fd < 0 ? -errno : 0;
}

int __wrap_lfs_files_keep_wal(struct lfs_files *files, int64_t *ret_size)
{
	int err = __wrap_lfs_files_open_wal(files);

	return err ? err : lfs_files_wal_size(files, ret_size);
}

_Atomic(void (*)(void)) gateway_begun;
_Atomic int64_t gateway_tx_ns;
static const struct upstream_ops *remote_ops;

static int64_t tx_ns(const struct upstream *up, uint64_t size)
{
	(void)up;
	return size ? atomic_load(&gateway_tx_ns) : 0;
}

static int gateway_begin(struct upstream *up, struct pos have, int64_t until_ns, struct upstream_grant *ret)
{
	int err = remote_ops->begin(up, have, until_ns, ret);
	void (*begun)(void) = err ? NULL : atomic_exchange(&gateway_begun, NULL);

	if (begun)
		begun();
	return err;
}

int __wrap_upstream_gateway_new(const struct upstream_config *config, struct upstream **ret)
{
	static struct upstream_ops ops;
	int err = upstream_remote_new(config, UPSTREAM_REMOTE, ret);

	if (err)
		return err;
	remote_ops = (*ret)->ops;
	ops = *remote_ops;
	ops.begin = gateway_begin;
	ops.tx_ns = tx_ns;
	(*ret)->ops = &ops;
	(*ret)->kind = UPSTREAM_GATEWAY;
	return 0;
}

/* ---- clients, as SQLite in WAL mode ---- */

int wal_lock(struct local *l, uint64_t id, enum lock_file file, short type, int64_t first, int64_t n, struct waiting *w)
{
	struct db_lock lock = {.file = file, .type = type, .start = first, .end = first + n - 1, .owner = id, .tgid = (pid_t)(1000 + id),
			       .handle = id};

	waiting_init(w);
	return db_lock(l->db, &lock, &w->call);
}

int wal_shm_lock(struct local *l, uint64_t id, short type, int byte)
{
	struct waiting w;

	return settled(wal_lock(l, id, LOCK_FILE_SHM, type, byte, 1, &w), &w);
}

void wal_open(struct local *l, uint64_t id)
{
	struct waiting w;

	db_handle_opened(l->db, (pid_t)(1000 + id));
	assert_int_equal(settled(wal_lock(l, id, LOCK_FILE_DATABASE, F_RDLCK, SQLITE_SHARED_FIRST, SQLITE_SHARED_SIZE, &w), &w), 0);
}

void wal_die(struct local *l, uint64_t id)
{
	db_flush(l->db, LOCK_FILE_SHM, id);
	db_flush(l->db, LOCK_FILE_DATABASE, id);
	db_handle_closed(l->db, (pid_t)(1000 + id));
}

void wal_read(struct local *l, uint64_t id)
{
	int64_t until = clock_now_ns() + LONG_NS;
	int err;

	while ((err = wal_shm_lock(l, id, F_RDLCK, WAL_READ_BYTE(1))) == -EAGAIN && clock_now_ns() < until)
		clock_sleep_ns(NS_PER_MS);
	assert_int_equal(err, 0);
}

void wal_end(struct local *l, uint64_t id)
{
	wal_shm_lock(l, id, F_UNLCK, WAL_WRITE_BYTE);
	wal_shm_lock(l, id, F_UNLCK, WAL_READ_BYTE(1));
}

void wal_begin(struct local *l, uint64_t id)
{
	int64_t until = clock_now_ns() + LONG_NS;
	int err;

	for (;;) {
		wal_read(l, id);
		err = wal_shm_lock(l, id, F_WRLCK, WAL_WRITE_BYTE);
		if (err != -EAGAIN || clock_now_ns() >= until)
			break;
		wal_end(l, id);
		clock_sleep_ns(2 * NS_PER_MS);
	}
	assert_int_equal(err, 0);
}

/* part: only the frame's header. */
int wal_write(struct local *l, uint64_t id, uint8_t fill, bool part, struct waiting *w)
{
	uint8_t head[WAL_HEADER_SIZE], frame[WAL_FRAME_HEADER_SIZE], page[PAGE];
	uint32_t sum[2] = {0, 0};
	off_t off = wal_frame_offset((uint32_t)rig_stat(l, "wal_frames") + 1, PAGE);
	struct wal_salt salt;
	int err;

	waiting_init(w);
	memset(page, fill, PAGE);
	if (db_wal_read(l->db, head, sizeof head, 0) != sizeof head)
		return -EIO;
	memcpy(salt.bytes, head + 16, 8);
	wal_frame_encode(2, PAGES, salt, page, PAGE, sum, frame);
	err = db_wal_write(l->db, id, frame, sizeof frame, off, &w->call);
	return err || part ? err : db_wal_write(l->db, id, page, PAGE, off + (off_t)sizeof frame, &w->call);
}

int wal_commit(struct local *l, uint64_t id, uint8_t fill)
{
	struct waiting w;

	return settled(wal_write(l, id, fill, false, &w), &w);
}

/* Page 2 in the latest snapshot. */
int wal_latest(struct local *l, uint64_t id)
{
	uint8_t page[PAGE], head[WAL_FRAME_HEADER_SIZE];
	ssize_t n = 0;

	wal_read(l, id);
	for (uint32_t f = (uint32_t)rig_stat(l, "wal_frames"); f && !n; f--) {
		off_t off = wal_frame_offset(f, PAGE);

		assert_int_equal(db_wal_read(l->db, head, sizeof head, off), sizeof head);
		if (be32(head) == 2)
			n = db_wal_read(l->db, page, PAGE, off + (off_t)sizeof head);
	}
	if (!n)
		n = db_read(l->db, getpid(), page, PAGE, PAGE);
	wal_end(l, id);
	assert_int_equal(n, PAGE);
	for (int i = 1; i < PAGE; i++)
		assert_int_equal(page[i], page[0]);
	return page[0];
}
