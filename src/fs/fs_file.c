/* Open files: open, read, write, flush, release. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "fs/fs_internal.h"

pid_t fs_tgid_of(pid_t tid)
{
	char path[64], text[512];
	const char *line;
	ssize_t n;
	int fd;

	if (tid <= 0)
		return 0;
	snprintf(path, sizeof path, "/proc/%d/status", (int)tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, text, sizeof text - 1);
	close(fd);
	text[n > 0 ? n : 0] = 0;
	line = strstr(text, "\nTgid:");
	return line ? (pid_t)atoi(line + 6) : 0;
}

/* ---- open ---- */

struct open_task {
	struct io_task task;
	struct fs *fs;
	fuse_req_t req;
	struct handle *handle;
	struct fuse_file_info fi;
};

static void handle_link(struct fs *fs, struct handle *h)
{
	pthread_mutex_lock(&fs->handles_mutex);
	h->next = fs->handles;
	if (h->next)
		h->next->prev = h;
	fs->handles = h;
	pthread_mutex_unlock(&fs->handles_mutex);
}

static void handle_free(struct fs *fs, struct handle *h)
{
	pthread_mutex_lock(&fs->handles_mutex);
	if (h->next)
		h->next->prev = h->prev;
	if (h->prev)
		h->prev->next = h->next;
	else if (fs->handles == h)
		fs->handles = h->next;
	pthread_mutex_unlock(&fs->handles_mutex);
	if (h->fd >= 0)
		close(h->fd);
	free(h->text);
	free(h);
}

void fs_handles_free(struct fs *fs)
{
	while (fs->handles)
		handle_free(fs, fs->handles);
}

static void reply_open(fuse_req_t req, struct handle *h, struct fuse_file_info *fi, const struct fuse_entry_param *entry)
{
	struct fs *fs = fuse_req_userdata(req);

	handle_link(fs, h);
	fi->fh = (uintptr_t)h;
	if ((entry ? fuse_reply_create(req, entry, fi) : fuse_reply_open(req, fi)) == 0)
		return;
	/* The opener is gone: there will be no release. */
	if (h->node->kind == FILE_DATABASE)
		db_handle_closed(h->node->database->db, h->tgid);
	handle_free(fs, h);
}

static void open_through_run(struct io_task *task)
{
	struct open_task *t = (struct open_task *)task;
	char path[4096 + 300];
	int n = snprintf(path, sizeof path, "%s/%s", t->fs->settings->litefs_dir, t->handle->node->name);

	t->handle->fd = n > 0 && (size_t)n < sizeof path ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : -1;
	if (t->handle->fd < 0) {
		fuse_reply_err(t->req, errno == ENOTCONN ? EIO : errno);
		free(t->handle);
	} else {
		t->fi.direct_io = 1;
		reply_open(t->req, t->handle, &t->fi, NULL);
	}
	free(t);
}

static void open_status_run(struct io_task *task)
{
	struct open_task *t = (struct open_task *)task;

	t->handle->text = fs_status_text(t->fs, &t->handle->text_len);
	t->fi.direct_io = 1;
	reply_open(t->req, t->handle, &t->fi, NULL);
	free(t);
}

/* One that takes no lock, such as cp, must find the database as LiteFS has it now. */
static void open_database_run(struct io_task *task)
{
	struct open_task *t = (struct open_task *)task;

	db_refresh(t->handle->node->database->db);
	reply_open(t->req, t->handle, &t->fi, NULL);
	free(t);
}

static void open_later(fuse_req_t req, struct handle *h, struct fuse_file_info *fi, void (*run)(struct io_task *task))
{
	struct fs *fs = fuse_req_userdata(req);
	struct open_task *t = calloc(1, sizeof *t);

	if (!t) {
		if (h->node->kind == FILE_DATABASE)
			db_handle_closed(h->node->database->db, h->tgid);
		free(h);
		fuse_reply_err(req, ENOMEM);
		return;
	}
	*t = (struct open_task){{run, NULL}, fs, req, h, *fi};
	io_pool_submit(run == open_status_run ? fs->status_pool : fs->pool, &t->task);
}

void fs_open(fuse_req_t req, struct node *node, struct fuse_file_info *fi, const struct fuse_entry_param *entry)
{
	struct handle *h = calloc(1, sizeof *h);

	if (!h) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	h->node = node;
	h->fd = -1;
	h->tgid = fs_tgid_of(fuse_req_ctx(req)->pid);
	if (fs_is_through(node) || node->kind == FILE_STATUS) {
		open_later(req, h, fi, node->kind == FILE_STATUS ? open_status_run : open_through_run);
		return;
	}
	if (node->kind == FILE_DATABASE || node->kind == FILE_SHM) {
		fi->keep_cache = 1; /* exact: invalidated before a READ lock is granted */
	} else {
		/*
		 * No page cache: a write that waits for its commit would hold pages that readers want. And it brings
		 * the owner with each write.
		 */
		fi->direct_io = 1;
	}
	if (node->kind == FILE_DATABASE)
		db_handle_opened(node->database->db, h->tgid);
	if (!entry && fs_is_stale(node))
		open_later(req, h, fi, open_database_run);
	else
		reply_open(req, h, fi, entry);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct node *node = node_by_ino(fs->nodes, ino);

	if (!node) {
		fuse_reply_err(req, ENOENT);
		return;
	}
	/* SQLite never truncates by open; the kernel would believe the size of 0, and mappings die. */
	if ((fi->flags & O_TRUNC) && !(node->kind == FILE_DATABASE && db_is_virgin(node->database->db))) {
		fuse_reply_err(req, EACCES);
		return;
	}
	/* NAME-lock is opened for writing to be locked, and nothing else. */
	if ((fi->flags & O_ACCMODE) != O_RDONLY && node->kind != FILE_LOCK && (fs_is_through(node) || node->kind == FILE_STATUS)) {
		fuse_reply_err(req, EACCES);
		return;
	}
	fs_open(req, node, fi, NULL);
}

/* ---- read and write ---- */

struct read_task {
	struct io_task task;
	fuse_req_t req;
	struct handle *handle;
	size_t size;
	off_t off;
};

static void read_run(struct io_task *task)
{
	struct read_task *t = (struct read_task *)task;
	char *buf = malloc(t->size);
	ssize_t n = -ENOMEM;

	if (buf) {
		if (t->handle->fd >= 0) {
			n = pread(t->handle->fd, buf, t->size, t->off);
			n = n < 0 ? -errno : n;
		} else {
			n = db_read(t->handle->node->database->db, t->handle->tgid, buf, t->size, t->off);
		}
	}
	if (n < 0)
		fuse_reply_err(t->req, n == -ENOTCONN ? ESTALE : (int)-n);
	else
		fuse_reply_buf(t->req, buf, (size_t)n);
	free(buf);
	free(t);
}

static void read_memory(fuse_req_t req, struct handle *h, size_t size, off_t off)
{
	char *buf = malloc(size ? size : 1);
	ssize_t n = -ENOMEM;

	if (buf && h->node->kind == FILE_WAL)
		n = db_wal_read(h->node->database->db, buf, size, off);
	else if (buf && h->node->kind == FILE_JOURNAL)
		n = db_journal_read(h->node->database->db, buf, size, off);
	else if (buf && h->node->kind == FILE_SUPER)
		n = super_read(((struct fs *)fuse_req_userdata(req))->supers, h->node->name, buf, size, off);
	else if (buf)
		n = db_shm_read(h->node->database->db, buf, size, off);
	if (n < 0)
		fuse_reply_err(req, (int)-n);
	else
		fuse_reply_buf(req, buf, (size_t)n);
	free(buf);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct handle *h = handle_of(fi);
	struct read_task *t;

	(void)ino;
	if (h->node->kind == FILE_STATUS) {
		size_t at = off < 0 || (size_t)off > h->text_len ? h->text_len : (size_t)off;

		fuse_reply_buf(req, h->text ? h->text + at : NULL, h->text_len - at < size ? h->text_len - at : size);
	} else if (h->node->kind != FILE_DATABASE && !fs_is_through(h->node)) {
		read_memory(req, h, size, off);
	} else if (!(t = calloc(1, sizeof *t))) {
		fuse_reply_err(req, ENOMEM);
	} else {
		*t = (struct read_task){{read_run, NULL}, req, h, size, off};
		io_pool_submit(fs->pool, &t->task);
	}
}

struct write_call {
	struct db_call call; /* first */
	fuse_req_t req;
	size_t size;
};

static void write_done(struct db_call *call, int result)
{
	struct write_call *wc = (struct write_call *)call;

	if (result)
		fuse_reply_err(wc->req, -result);
	else
		fuse_reply_write(wc->req, wc->size);
	free(wc);
}

/* To what is kept in memory, and answered at once. DB_PARKED: not such a file. */
static int write_at_once(struct fs *fs, const struct handle *h, const char *buf, size_t size, off_t off)
{
	struct db *db = h->node->database ? h->node->database->db : NULL;

	switch (h->node->kind) {
	case FILE_DATABASE:
		return db_write(db, h->tgid, buf, size, off);
	case FILE_SHM:
		return db_shm_write(db, buf, size, off);
	case FILE_SUPER:
		return super_write(fs->supers, h->node->name, buf, size, off);
	case FILE_WAL:
	case FILE_JOURNAL:
		return DB_PARKED;
	default:
		return -EACCES;
	}
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct handle *h = handle_of(fi);
	struct write_call *wc;
	int err = write_at_once(fuse_req_userdata(req), h, buf, size, off);

	(void)ino;
	if (err != DB_PARKED) {
		if (err)
			fuse_reply_err(req, -err);
		else
			fuse_reply_write(req, size);
		return;
	}
	wc = calloc(1, sizeof *wc);
	if (!wc) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	wc->call.done = write_done;
	wc->req = req;
	wc->size = size;
	if (h->node->kind == FILE_WAL)
		err = db_wal_write(h->node->database->db, fi->lock_owner, buf, size, off, &wc->call);
	else
		err = db_journal_write(h->node->database->db, fi->lock_owner, buf, size, off, &wc->call);
	if (err != DB_PARKED)
		write_done(&wc->call, err);
}

/* ---- the end of a descriptor, and of a file ---- */

static void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct handle *h = handle_of(fi);
	enum lock_file file;

	(void)ino;
	if (fs_lock_file(h->node, &file))
		db_flush(h->node->database->db, file, fi->lock_owner);
	fuse_reply_err(req, 0);
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct handle *h = handle_of(fi);
	enum lock_file file;

	(void)ino;
	if (fs_lock_file(h->node, &file))
		db_release(h->node->database->db, file, fi->fh);
	if (h->node->kind == FILE_DATABASE)
		db_handle_closed(h->node->database->db, h->tgid);
	handle_free(fuse_req_userdata(req), h);
	fuse_reply_err(req, 0);
}

/* Durable already: a commit has returned once LiteFS here and upstream had it on disk. */
static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	(void)ino;
	(void)datasync;
	(void)fi;
	fuse_reply_err(req, 0);
}

static void op_access(fuse_req_t req, fuse_ino_t ino, int mask)
{
	(void)ino;
	(void)mask;
	fuse_reply_err(req, 0); /* default_permissions: the kernel has looked at the mode */
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	(void)ino;
	(void)nlookup;
	fuse_reply_none(req); /* nodes stay */
}

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	(void)userdata;
	conn->want |= conn->capable & (FUSE_CAP_POSIX_LOCKS | FUSE_CAP_EXPLICIT_INVAL_DATA | FUSE_CAP_ASYNC_READ);
	conn->want &= ~(unsigned)(FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE |
				  FUSE_CAP_SPLICE_MOVE | FUSE_CAP_FLOCK_LOCKS | FUSE_CAP_WRITEBACK_CACHE |
				  FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO);
}

static void refuse_name(fuse_req_t req)
{
	fuse_reply_err(req, EPERM); /* LiteFS is flat and knows neither links nor renames */
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	(void)parent, (void)name, (void)mode, (void)rdev;
	refuse_name(req);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	(void)parent, (void)name, (void)mode;
	refuse_name(req);
}

static void op_symlink(fuse_req_t req, const char *link, fuse_ino_t parent, const char *name)
{
	(void)link, (void)parent, (void)name;
	refuse_name(req);
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent, const char *newname,
		      unsigned int flags)
{
	(void)parent, (void)name, (void)newparent, (void)newname, (void)flags;
	refuse_name(req);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent, const char *newname)
{
	(void)ino, (void)newparent, (void)newname;
	refuse_name(req);
}

const struct fuse_lowlevel_ops fs_ops = {
	.init = op_init,
	.lookup = fs_op_lookup,
	.forget = op_forget,
	.getattr = fs_op_getattr,
	.setattr = fs_op_setattr,
	.mknod = op_mknod,
	.mkdir = op_mkdir,
	.symlink = op_symlink,
	.rename = op_rename,
	.link = op_link,
	.create = fs_op_create,
	.unlink = fs_op_unlink,
	.open = op_open,
	.read = op_read,
	.write = op_write,
	.flush = op_flush,
	.release = op_release,
	.fsync = op_fsync,
	.opendir = fs_op_opendir,
	.readdir = fs_op_readdir,
	.releasedir = fs_op_releasedir,
	.statfs = fs_op_statfs,
	.access = op_access,
	.getlk = fs_op_getlk,
	.setlk = fs_op_setlk,
};
