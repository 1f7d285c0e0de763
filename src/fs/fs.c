/*
 * The session: mount, the one FUSE thread's loop, notifications to the kernel, and the end.
 *
 * At the end the loop goes on serving while a closer thread stops the databases, for
 * their workers may wait in a notification for a page that only a served request unlocks.
 */
#include "fs/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "fs/fs_internal.h"
#include "litefs/api.h"
#include "litefs/gw_conns.h"

#define POOL_THREADS 8
/* A thread that must be woken costs about as much again as the request: look for a while first. */
#define SPIN_NS (40 * NS_PER_US)
/*
 * After a vain look, for so long at most: it has taken half a percent of a processor, and not to look when the clients
 * begin anew on another one costs them two thirds of their speed, for so long.
 */
#define SPIN_BACK_OFF_MIN_NS (NS_PER_MS / 2)
#define SPIN_BACK_OFF_MAX_NS (8 * NS_PER_MS)

/* ---- what db tells the kernel ---- */

static void notify_shm_store(void *ctx, off_t off, const void *data, size_t len)
{
	struct fs_database *d = ctx;
	struct fuse_bufvec buf = FUSE_BUFVEC_INIT(len);

	buf.buf[0].mem = (void *)data;
	/* -ENOENT: nobody has it open, the next one reads it from db. */
	fuse_lowlevel_notify_store(d->fs->session, d->ino + 2, off, &buf, 0);
}

static void notify_invalidate(void *ctx, off_t off, off_t len)
{
	struct fs_database *d = ctx;

	fuse_lowlevel_notify_inval_inode(d->fs->session, d->ino, off, len);
}

static void notify_mode_changed(void *ctx)
{
	struct fs_database *d = ctx;
	char name[300];

	for (int i = 0; i < 2; i++) {
		snprintf(name, sizeof name, "%s%s", db_name(d->db), i ? "-shm" : "-wal");
		fuse_lowlevel_notify_inval_entry(d->fs->session, FUSE_ROOT_INO, name, strlen(name));
	}
}

static void notify_commit_failed(void *ctx, pid_t tgid)
{
	struct fs_database *failed = ctx;

	for (struct fs_database *d = NULL; (d = fs_database_next(failed->fs, d)) != NULL;)
		if (d != failed && db_committed_by(d->db, tgid))
			log_error("transaction_in_parts",
				  "pid=%d committed=%s failed=%s do=\"the part of the first stays: in WAL mode SQLite commits attached "
				  "databases one after the other\"",
				  (int)tgid, db_name(d->db), db_name(failed->db));
}

static const struct db_notify notify = {notify_shm_store, notify_invalidate, notify_mode_changed, notify_commit_failed};

/* ---- databases ---- */

static struct fs_database *find_locked(struct fs *fs, const char *name)
{
	for (struct fs_database *d = fs->databases; d; d = d->next)
		if (!strcmp(db_name(d->db), name))
			return d;
	return NULL;
}

struct fs_database *fs_database_next(struct fs *fs, struct fs_database *after)
{
	return after ? after->next : atomic_load(&fs->databases); /* they stay until the end, and new ones come before the first */
}

int fs_database_get(struct fs *fs, const char *name, bool create, struct fs_database **ret)
{
	struct fs_database *d;
	int err = 0;

	/* Held across LiteFS: pool and role threads only, never the FUSE thread. */
	pthread_mutex_lock(&fs->mutex);
	d = find_locked(fs, name);
	if (!d && atomic_load(&fs->stopping))
		err = -EIO;
	if (!d && !err) {
		d = calloc(1, sizeof *d);
		err = d ? 0 : -ENOMEM;
		if (!err) {
			d->fs = fs;
			err = db_open(&fs->db_config, name, create, d, &d->db);
		}
		if (!err) {
			err = node_add_database(fs->nodes, d, name);
			if (err) {
				db_stop(d->db);
				db_free(d->db);
			}
		}
		if (err) {
			free(d);
			d = NULL;
		} else {
			d->next = fs->databases;
			fs->databases = d;
		}
	}
	pthread_mutex_unlock(&fs->mutex);
	if (!err && d) {
		if (create)
			db_create(d->db);
		*ret = d;
	}
	return err == -ENOTCONN ? -EIO : err;
}

int fs_db_get(struct fs *fs, const char *name, struct db **ret)
{
	struct fs_database *d;
	int err = fs_database_get(fs, name, false, &d);

	if (!err)
		*ret = d->db;
	return err;
}

int fs_db_find(struct fs *fs, const char *name, struct db **ret)
{
	struct fs_database *d;

	if (pthread_mutex_trylock(&fs->mutex) != 0)
		return -EAGAIN; /* held across LiteFS */
	d = find_locked(fs, name);
	pthread_mutex_unlock(&fs->mutex);
	if (!d)
		return -EAGAIN;
	*ret = d->db;
	return 0;
}

void fs_set_companion(struct fs *fs, const struct fs_companion *companion)
{
	fs->companion = companion;
}

static void stop_companion(struct fs *fs)
{
	if (fs->companion && !atomic_exchange(&fs->companion_stopped, true))
		fs->companion->stop(fs->companion->ctx);
}

void fs_litefs_moved(struct fs *fs, const char *name, struct pos pos)
{
	for (struct fs_database *d = NULL; (d = fs_database_next(fs, d)) != NULL;)
		if (!strcmp(db_name(d->db), name))
			db_note_litefs_pos(d->db, pos);
}

void fs_role_changed(struct fs *fs, const struct role_state *state)
{
	(void)state;
	pthread_mutex_lock(&fs->mutex);
	for (struct fs_database *d = fs->databases; d; d = d->next)
		db_role_changed(d->db);
	pthread_mutex_unlock(&fs->mutex);
}

/* ---- HALTs of a predecessor that was killed ---- */

static int unhalt_stale(void *ctx, const char *url, const char *name, uint64_t id)
{
	struct fs *fs = ctx;
	struct api *api;
	int err = api_new(url, fs->node_id, &api);

	if (err)
		return err;
	err = api_unhalt(api, name, id, 2000);
	log_info("stale_halt", "db=%s url=%s freed=%d", name, url, err == 0);
	api_free(api);
	return err;
}

static void open_halt_record(struct fs *fs)
{
	const struct settings *s = fs->settings;
	char path[4096];
	uint64_t hash = 14695981039346656037u;
	int n, err;

	for (const char *p = s->litefs_dir; *p; p++)
		hash = (hash ^ (unsigned char)*p) * 1099511628211u;
	n = snprintf(path, sizeof path, "%s/halts-%016llx", s->state_dir, (unsigned long long)hash);
	err = n < 0 || (size_t)n >= sizeof path ? -ENAMETOOLONG : halt_record_open(path, &fs->halts);
	if (err) {
		log_warn("halt_record", "error=\"%s\" do=\"check state_dir; after a crash a HALT may last 30 s\"", strerror(-err));
		return;
	}
	halt_record_free_stale(fs->halts, unhalt_stale, fs);
}

/* ---- session ---- */

static int make_session(struct fs *fs)
{
	const struct settings *s = fs->settings;
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	char fsname[4200];
	int err = 0;

	/* As fstab has it: `mount -a` compares, and mounts again what it does not find. */
	snprintf(fsname, sizeof fsname, "fsname=%s", s->source ? s->source : s->litefs_dir);
	for (char *p = fsname + 7; *p; p++)
		if (*p == ',')
			*p = '?';
	if (fuse_opt_add_arg(&args, "litefwd") || fuse_opt_add_arg(&args, "-o") || fuse_opt_add_arg(&args, fsname) ||
	    fuse_opt_add_arg(&args, "-o") || fuse_opt_add_arg(&args, "subtype=litefwd,default_permissions") ||
	    (s->allow_other && (fuse_opt_add_arg(&args, "-o") || fuse_opt_add_arg(&args, "allow_other"))) ||
	    (s->no_exec && (fuse_opt_add_arg(&args, "-o") || fuse_opt_add_arg(&args, "noexec"))) ||
	    (s->ro && (fuse_opt_add_arg(&args, "-o") || fuse_opt_add_arg(&args, "ro"))))
		err = -ENOMEM;
	if (!err) {
		fs->session = fuse_session_new(&args, &fs_ops, sizeof fs_ops, fs);
		err = fs->session ? 0 : -EINVAL;
	}
	fuse_opt_free_args(&args);
	if (!err && fuse_session_mount(fs->session, s->mountpoint) != 0) {
		log_error("mount_failed", "mountpoint=%s do=\"see the line above; are you root, is fuse3 installed?\"", s->mountpoint);
		fuse_session_destroy(fs->session);
		fs->session = NULL;
		err = -EIO;
	}
	return err;
}

int fs_new(const struct settings *settings, struct role *role, uint64_t node_id, struct fs **ret)
{
	struct fs *fs = calloc(1, sizeof *fs);
	int err;

	if (!fs)
		return -ENOMEM;
	fs->settings = settings;
	fs->role = role;
	fs->node_id = node_id;
	fs->started_ns = clock_now_ns();
	clock_gettime(CLOCK_REALTIME, &fs->started);
	fs->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init(&fs->mutex, NULL);
	pthread_mutex_init(&fs->handles_mutex, NULL);
	err = fs->stop_fd < 0 ? -errno : node_table_new(&fs->nodes);
	if (!err)
		err = super_table_new(&fs->supers);
	if (!err)
		err = breakers_new(&fs->breakers);
	if (!err)
		err = gw_conns_new(&fs->gw_conns);
	if (!err)
		err = io_pool_new(POOL_THREADS, &fs->pool);
	if (!err)
		err = io_pool_new(1, &fs->status_pool);
	if (!err)
		open_halt_record(fs);
	fs->db_config = (struct db_config){.settings = settings, .role = role, .halts = fs->halts, .breakers = fs->breakers,
					   .gw_conns = fs->gw_conns, .metrics = &fs->metrics, .supers = fs->supers, .node_id = node_id,
					   .notify = &notify};
	if (!err)
		err = make_session(fs);
	if (err) {
		fs_free(fs);
		return err;
	}
	*ret = fs;
	return 0;
}

static void *closer_main(void *arg)
{
	struct fs *fs = arg;
	uint64_t one = 1;

	stop_companion(fs);
	pthread_mutex_lock(&fs->mutex);
	for (struct fs_database *d = fs->databases; d; d = d->next) {
		pthread_mutex_unlock(&fs->mutex);
		db_stop(d->db);
		pthread_mutex_lock(&fs->mutex);
	}
	pthread_mutex_unlock(&fs->mutex);
	fuse_session_exit(fs->session);
	if (write(fs->stop_fd, &one, sizeof one) < 0)
		log_error("stop", "error=\"%s\"", strerror(errno));
	return NULL;
}

/* 1: a request may be there; 0: look at the flags. */
static int wait_for_request(struct fs *fs)
{
	struct pollfd fds[2] = {{.fd = fuse_session_fd(fs->session), .events = POLLIN},
				{.fd = fs->stop_fd, .events = POLLIN}};
	uint64_t count;

	if (poll(fds, 2, -1) < 0)
		return 0;
	if (fds[1].revents && read(fs->stop_fd, &count, sizeof count) < 0)
		return 0;
	return fds[0].revents != 0;
}

static int loop(struct fs *fs)
{
	struct fuse_buf buf = {0};
	pthread_t closer;
	bool closing = false;
	int64_t spin_until = 0, no_spin_until = 0, back_off = SPIN_BACK_OFF_MIN_NS;
	int res = 0;

	while (!fuse_session_exited(fs->session)) {
		fs_beat(fs);
		if (atomic_load(&fs->stopping) && !closing) {
			closing = pthread_create(&closer, NULL, closer_main, fs) == 0;
			if (!closing)
				break;
		}
		res = fuse_session_receive_buf(fs->session, &buf);
		if (res > 0) {
			if (!fs_lock_at_once(fs, &buf))
				fuse_session_process_buf(fs->session, &buf);
			if (spin_until > 1)
				back_off = SPIN_BACK_OFF_MIN_NS; /* it has paid */
			spin_until = 0;
			continue;
		}
		if (res == 0)
			break; /* unmounted */
		if (res != -EAGAIN && res != -EINTR)
			break;
		if (!spin_until)
			spin_until = clock_now_ns() < no_spin_until ? 1 : clock_now_ns() + SPIN_NS;
		if (clock_now_ns() < spin_until)
			continue;
		if (spin_until > 1) {
			/* In vain: the client may be waiting for this very processor. */
			no_spin_until = clock_now_ns() + back_off;
			if (back_off < SPIN_BACK_OFF_MAX_NS)
				back_off *= 2;
		}
		wait_for_request(fs);
		spin_until = 1;
		res = 0;
	}
	free(buf.mem);
	if (closing)
		pthread_join(closer, NULL);
	return res < 0 && res != -EAGAIN && res != -EINTR ? res : 0;
}

int fs_run(struct fs *fs)
{
	int fd = fuse_session_fd(fs->session);

	if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0)
		return -errno;
	return loop(fs);
}

void fs_stop(struct fs *fs)
{
	uint64_t one = 1;
	ssize_t n;

	atomic_store(&fs->stopping, true);
	n = write(fs->stop_fd, &one, sizeof one);
	(void)n;
}

void fs_free(struct fs *fs)
{
	if (!fs)
		return;
	atomic_store(&fs->stopping, true);
	stop_companion(fs);
	for (struct fs_database *d = fs->databases; d; d = d->next)
		db_stop(d->db);
	io_pool_free(fs->status_pool);
	io_pool_free(fs->pool); /* its tasks reply on the session, whose descriptor the unmount closes */
	if (fs->session) {
		fuse_session_unmount(fs->session);
		fuse_session_destroy(fs->session);
	}
	fs_handles_free(fs);
	while (fs->databases) {
		struct fs_database *d = fs->databases;

		fs->databases = d->next;
		db_free(d->db);
		free(d);
	}
	halt_record_close(fs->halts);
	node_table_free(fs->nodes);
	super_table_free(fs->supers);
	breakers_free(fs->breakers);
	gw_conns_free(fs->gw_conns);
	if (fs->stop_fd >= 0)
		close(fs->stop_fd);
	pthread_mutex_destroy(&fs->mutex);
	pthread_mutex_destroy(&fs->handles_mutex);
	free(fs);
}
