/*
 * fs: the FUSE frontend. Decodes requests, calls db (L3), replies; no policy.
 *
 * Threads: fs_run() is the one FUSE thread: it never waits for LiteFS or the
 * network; what must wait goes to db's workers or fs' own I/O pool and is replied
 * to later. Errors: negative errno of fs_new (message logged, saying what to do).
 */
#ifndef LITEFWD_FS_FS_H
#define LITEFWD_FS_FS_H

#include <stdint.h>

#include "base/settings.h"

struct fs;
struct role;

/* Mounts. opt and role are borrowed until fs_free(). */
int fs_new(const struct settings *opt, struct role *role, uint64_t node_id, struct fs **ret);

/* Serves until unmounted or fs_stop(): 0 or negative errno. */
int fs_run(struct fs *fs);

/* Async-signal-safe: makes fs_run() return soon. */
void fs_stop(struct fs *fs);

/* role's on_change lands here. Any thread; does not block. */
struct role_state;
void fs_role_changed(struct fs *fs, const struct role_state *state);

/* Unmounts, ends what upstreams hold, joins the workers. NULL is harmless. */
void fs_free(struct fs *fs);

#endif
