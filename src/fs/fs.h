/*
 * fs: the FUSE frontend. Decodes requests, calls db (L3), replies; no policy.
 *
 * Threads: fs_run() is the one FUSE thread: it never waits for LiteFS or the
 * network; what must wait goes to db's workers or fs' own I/O pool and is replied
 * to later. Errors: negative errno of fs_new (message logged, saying what to do).
 */
#ifndef LITEFWD_FS_FS_H
#define LITEFWD_FS_FS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/settings.h"
#include "format/pos.h"

struct fs;
struct role;

/* Mounts. opt and role are borrowed until fs_free(). */
int fs_new(const struct settings *opt, struct role *role, uint64_t node_id, struct fs **ret);

/* Serves until unmounted or fs_stop(): 0 or negative errno. */
int fs_run(struct fs *fs);

/* Async-signal-safe: makes fs_run() return soon. */
void fs_stop(struct fs *fs);

/*
 * The database of this name, opened as a lookup would: 0, -ENOENT, ... It stays until fs_free(). Blocks on the local LiteFS;
 * any thread.
 */
struct db;
int fs_db_get(struct fs *fs, const char *name, struct db **ret);
/* The same where it is open already and nothing need be waited for, else -EAGAIN. Any thread. */
int fs_db_find(struct fs *fs, const char *name, struct db **ret);

/*
 * Who else uses the databases (the gateway). stop: the databases are about to be; may block, is called at most once, while the
 * mount still serves or after it was unmounted (then by fs_free()). status: its part of .litefwd, a new reference or NULL.
 * Set between fs_new() and fs_run(); borrowed.
 */
struct fs_companion {
	void (*stop)(void *ctx);
	json_t *(*status)(void *ctx);
	void *ctx;
};
void fs_set_companion(struct fs *fs, const struct fs_companion *companion);

/* What status, /metrics and /healthz say, from memory alone; with durations for /metrics. A new reference, or NULL: no memory. Any thread. */
json_t *fs_status_json(struct fs *fs, bool durations);

/* role's on_tx lands here: as fs_role_changed(). */
void fs_litefs_moved(struct fs *fs, const char *name, struct pos pos);
/*
 * For a watchdog: the loop has come round since the call, and so has each worker that has nothing to do; who waits for LiteFS or
 * the network is alive. false by until_ns otherwise, with what does not answer; a lock of ours that nobody gives back: never returns.
 * fs_status_line: for people; does not block. Any thread but the loop's, between fs_new() and fs_free().
 */
bool fs_alive(struct fs *fs, int64_t until_ns, char *why, size_t size);
void fs_status_line(struct fs *fs, char *line, size_t size);

/* role's on_change lands here. Any thread; does not block. */
struct role_state;
void fs_role_changed(struct fs *fs, const struct role_state *state);

/* Unmounts, ends what upstreams hold, joins the workers. NULL is harmless. */
void fs_free(struct fs *fs);

#endif
