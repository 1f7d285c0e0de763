/*
 * mount_check: can LITEFS_DIR be served at MOUNTPOINT here? Looks before anything is mounted, and says what to do.
 *
 * It refuses to know LiteFS' API and FUSE's: it sees mount tables, directories and lock files.
 *
 * Ownership: works on settings in place (the two paths are resolved); returns an owned descriptor.
 * Threads: before the first one. Blocks: on the disk; mount_check_litefs_dir up to settings.wait_ms.
 * Errors: negative errno, with a message on stderr that says what to do; settings unchanged then.
 */
#ifndef LITEFWD_PROG_MOUNT_CHECK_H
#define LITEFWD_PROG_MOUNT_CHECK_H

#include <stdbool.h>
#include <stddef.h>

#include "base/settings.h"

/* /dev/fuse is there, and whoever is not root may mount as asked (fusermount3, user_allow_other). -ENODEV, -EPERM. */
int mount_check_fuse(const struct settings *opt);

/*
 * Waits until litefs_dir is the root of a living LiteFS mount and replaces it by its resolved path.
 * -ENODEV: it is not, and wait_ms has passed.
 */
int mount_check_litefs_dir(struct settings *opt);

/*
 * mountpoint is a directory, neither in litefs_dir nor around it, and no litefwd is mounted there; a dead one
 * is unmounted first. Replaces it by its resolved path. -ENOENT, -ENOTDIR, -EINVAL, -EBUSY, or as umount2 fails.
 */
int mount_check_mountpoint(struct settings *opt);

/*
 * Makes state_dir and takes the lock file that stands for litefs_dir, until the descriptor is closed: -EBUSY when
 * another litefwd has it and keeps it, for wait_ms and 3 s at most. Call after mount_check_litefs_dir().
 */
int mount_check_lock(const struct settings *opt, int *ret_fd);

/*
 * What is there of state_dir, without making or locking anything: 0 it can be used; 1: it is to be made, and can be; -EPERM, -EACCES, ...
 */
int mount_check_look_at_state_dir(const char *path);

/* Messages go there instead of stderr; NULL: to stderr again. Before the first thread. */
void mount_check_tell(void (*tell)(void *ctx, const char *message), void *ctx);

/* ---- the parts, for tests ---- */

/* True if path is dir or lies in it; both absolute and resolved. */
bool mount_check_is_inside(const char *path, const char *dir);

/* What mountinfo (a file as /proc/self/mountinfo) says is mounted last at path. */
struct mount_entry {
	char fstype[64];
	char source[256];
};

/* 1: found; 0: nothing is mounted at path; -EIO: mountinfo cannot be read. */
int mount_check_find(const char *mountinfo, const char *path, struct mount_entry *ret);

/* True if fuse_conf (a file as /etc/fuse.conf) has the line user_allow_other. */
bool mount_check_user_allow_other(const char *fuse_conf);

#endif
