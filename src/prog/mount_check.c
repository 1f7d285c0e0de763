#include "prog/mount_check.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

#define MOUNTINFO "/proc/self/mountinfo"
#define FUSE_CONF "/etc/fuse.conf"
#define WAIT_POLL_NS (100 * NS_PER_MS)

/* umount(8) returns before the litefwd behind it has ended, and who mounts again at once should not be told that it is served. */
#define LOCK_WAIT_MAX_MS 3000

/* A mountpoint can carry several dead mounts, one for each crash; more than this is not that. */
#define STALE_MAX 16

static void complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static void (*tell)(void *ctx, const char *message);
static void *tell_ctx;

void mount_check_tell(void (*new_tell)(void *ctx, const char *message), void *ctx)
{
	tell = new_tell;
	tell_ctx = ctx;
}

static void complain(const char *fmt, ...)
{
	char message[2 * PATH_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(message, sizeof message, fmt, ap);
	va_end(ap);
	if (tell)
		tell(tell_ctx, message);
	else
		fprintf(stderr, "litefwd: %s\n", message);
}

static void replace(char **field, char *owned)
{
	free(*field);
	*field = owned;
}

/* ---- mount table ---- */

/* In place: the kernel writes blank, tab, newline and backslash as \ooo. */
static void unescape(char *text)
{
	char *to = text;

	for (const char *from = text; *from;) {
		if (from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] >= '0' && from[2] <= '7' &&
		    from[3] >= '0' && from[3] <= '7') {
			*to++ = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'));
			from += 4;
		} else {
			*to++ = *from++;
		}
	}
	*to = 0;
}

/*
 * One line: "36 35 98:0 ROOT POINT OPTIONS [optional fields...] - FSTYPE SOURCE SUPEROPTIONS".
 * False if it is not shaped like that. Cuts the line up.
 */
static bool split_line(char *line, char **ret_point, char **ret_fstype, char **ret_source)
{
	char *save = NULL, *word = strtok_r(line, " \n", &save);

	for (int i = 0; word && i < 4; i++)
		word = strtok_r(NULL, " \n", &save);
	*ret_point = word;
	while (word && strcmp(word, "-") != 0)
		word = strtok_r(NULL, " \n", &save);
	*ret_fstype = word ? strtok_r(NULL, " \n", &save) : NULL;
	*ret_source = *ret_fstype ? strtok_r(NULL, " \n", &save) : NULL;
	return *ret_source != NULL;
}

int mount_check_find(const char *mountinfo, const char *path, struct mount_entry *ret)
{
	FILE *file = fopen(mountinfo, "re");
	char *line = NULL, *point, *fstype, *source;
	size_t size = 0;
	int found = 0;

	if (!file)
		return -EIO;
	while (getline(&line, &size, file) > 0) {
		if (!split_line(line, &point, &fstype, &source))
			continue;
		unescape(point);
		if (strcmp(point, path) != 0)
			continue;
		/* Later lines lie over earlier ones. */
		unescape(source);
		snprintf(ret->fstype, sizeof ret->fstype, "%s", fstype);
		snprintf(ret->source, sizeof ret->source, "%s", source);
		found = 1;
	}
	if (ferror(file))
		found = -EIO;
	free(line);
	fclose(file);
	return found;
}

static bool is_fuse(const struct mount_entry *entry)
{
	return !strcmp(entry->fstype, "fuse") || !strncmp(entry->fstype, "fuse.", 5);
}

static bool is_litefs(const struct mount_entry *entry)
{
	return is_fuse(entry) && !strcmp(entry->source, "litefs");
}

static bool is_litefwd(const struct mount_entry *entry)
{
	return is_fuse(entry) && (!strcmp(entry->fstype, "fuse.litefwd") || !strcmp(entry->source, "litefwd"));
}

bool mount_check_is_inside(const char *path, const char *dir)
{
	size_t len = strlen(dir);

	/* "/" is the one directory whose name ends with a slash. */
	if (len && dir[len - 1] == '/')
		len--;
	return !strncmp(path, dir, len) && (path[len] == 0 || path[len] == '/');
}

/*
 * Does the file system at path answer? 0 or negative errno. Asks it: the kernel goes on
 * answering stat() from its cache for a while after a FUSE server has died.
 */
static int probe(const char *path, struct statx *ret)
{
	if (statx(AT_FDCWD, path, AT_STATX_FORCE_SYNC, STATX_TYPE | STATX_INO, ret) < 0)
		return -errno;
	return 0;
}

/* ---- /dev/fuse and what plain users may do ---- */

bool mount_check_user_allow_other(const char *fuse_conf)
{
	FILE *file = fopen(fuse_conf, "re");
	char *line = NULL;
	size_t size = 0;
	bool found = false;

	if (!file)
		return false;
	while (!found && getline(&line, &size, file) > 0) {
		char word[32], rest[2];

		found = sscanf(line, " %31s %1s", word, rest) == 1 && !strcmp(word, "user_allow_other");
	}
	free(line);
	fclose(file);
	return found;
}

static bool in_path(const char *program)
{
	const char *path = getenv("PATH");
	char *copy = strdup(path && *path ? path : "/usr/bin:/bin"), *save = NULL, candidate[PATH_MAX];
	bool found = false;

	for (char *dir = copy ? strtok_r(copy, ":", &save) : NULL; dir && !found; dir = strtok_r(NULL, ":", &save)) {
		int len = snprintf(candidate, sizeof candidate, "%s/%s", dir, program);

		found = len > 0 && (size_t)len < sizeof candidate && !access(candidate, X_OK);
	}
	free(copy);
	return found;
}

int mount_check_fuse(const struct settings *opt)
{
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		int err = errno;

		if (err == ENOENT || err == ENODEV || err == ENXIO)
			complain("/dev/fuse is missing: load the kernel module (modprobe fuse), "
				 "or give the container the device (--device /dev/fuse --cap-add SYS_ADMIN)");
		else
			complain("/dev/fuse cannot be opened: %s: run as a user who may, or as root", strerror(err));
		return err == EACCES || err == EPERM ? -EPERM : -ENODEV;
	}
	close(fd);
	if (geteuid() == 0)
		return 0;
	if (!in_path("fusermount3")) {
		complain("fusermount3 is missing, which mounts for users other than root: install the package fuse3");
		return -ENODEV;
	}
	if (opt->allow_other && !mount_check_user_allow_other(FUSE_CONF)) {
		complain("allow_other is not for users other than root here: "
			 "put the line \"user_allow_other\" into " FUSE_CONF ", or leave the option out");
		return -EPERM;
	}
	return 0;
}

/* ---- LITEFS_DIR ---- */

static const char not_allowed[] = "this user may not enter it (LiteFS lets other users in with fuse.allow-other: true)";

/* 0 and *ret_resolved (owned), or -EACCES or -ENODEV, and why (static). */
static int look_at_litefs_dir(const char *path, char **ret_resolved, const char **ret_why)
{
	struct mount_entry entry;
	struct statx st;
	char *resolved = realpath(path, NULL);
	int ret;

	if (!resolved) {
		ret = errno == EACCES ? -EACCES : -ENODEV;
		*ret_why = ret == -EACCES ? not_allowed : "it does not exist";
		return ret;
	}
	ret = mount_check_find(MOUNTINFO, resolved, &entry);
	*ret_why = ret < 0 ? "the mount table " MOUNTINFO " cannot be read" : "nothing is mounted there";
	if (ret <= 0)
		goto fail;
	*ret_why = "what is mounted there is not LiteFS";
	if (!is_litefs(&entry))
		goto fail;
	ret = probe(resolved, &st);
	if (ret == 0) {
		*ret_resolved = resolved;
		return 0;
	}
	*ret_why = ret == -EACCES ? not_allowed : "its LiteFS has died and left the mount behind";
	free(resolved);
	return ret == -EACCES ? -EACCES : -ENODEV;
fail:
	free(resolved);
	return -ENODEV;
}

int mount_check_litefs_dir(struct settings *opt)
{
	int64_t deadline_ns = clock_now_ns() + opt->wait_ms * NS_PER_MS;
	bool told = false;
	const char *why;
	char *resolved;
	int ret;

	while ((ret = look_at_litefs_dir(opt->litefs_dir, &resolved, &why))) {
		/* Waiting gives nobody a right. */
		if (ret == -EACCES || clock_now_ns() >= deadline_ns) {
			complain("%s is no LiteFS mount: %s: LITEFS_DIR must be the fuse.dir of a running LiteFS",
				 opt->litefs_dir, why);
			return -ENODEV;
		}
		if (!told)
			complain("waiting for LiteFS at %s: %s", opt->litefs_dir, why);
		told = true;
		clock_sleep_ns(WAIT_POLL_NS);
	}
	replace(&opt->litefs_dir, resolved);
	return 0;
}

/* ---- MOUNTPOINT ---- */

/* What plain users have instead of umount2(). */
static int run_fusermount(const char *path)
{
	char *argv[] = {(char[]){"fusermount3"}, (char[]){"-u"}, (char[]){"-z"}, (char[]){"--"}, NULL, NULL};
	extern char **environ;
	char *copy = strdup(path);
	int status, err;
	pid_t pid;

	if (!copy)
		return -ENOMEM;
	argv[4] = copy;
	err = posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ);
	free(copy);
	if (err)
		return -err;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EPERM;
}

static int unmount_stale(const char *path)
{
	if (umount2(path, MNT_FORCE | MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
		return 0;
	return errno == EPERM && geteuid() != 0 ? run_fusermount(path) : -errno;
}

/* While what is mounted at path is a dead FUSE mount, unmounts it. 0 or negative errno. */
static int recover_stale(const char *path)
{
	struct mount_entry entry;
	struct statx st;
	int ret;

	for (int i = 0; i < STALE_MAX; i++) {
		ret = probe(path, &st);
		if (ret != -ENOTCONN && ret != -ECONNABORTED)
			return 0; /* other errors are reported by who looks at it next */
		ret = mount_check_find(MOUNTINFO, path, &entry);
		if (ret == 1 && is_litefs(&entry)) {
			complain("%s is the mount of a LiteFS that has died: "
				 "are LITEFS_DIR and MOUNTPOINT the right way round?", path);
			return -EBUSY;
		}
		if (ret == 1 && is_fuse(&entry))
			ret = unmount_stale(path);
		else
			ret = -ENOTCONN;
		if (ret) {
			complain("%s does not answer (a mount whose server has died) and cannot be unmounted: %s: "
				 "try umount -l %s", path, strerror(-ret), path);
			return ret;
		}
		complain("unmounted what a litefwd that died had left at %s", path);
	}
	complain("%s: a dead mount comes back each time it is unmounted: look into " MOUNTINFO, path);
	return -EBUSY;
}

/*
 * realpath() of all but the last component: the last one may be a dead mount. (It is no symbolic link
 * then. Otherwise the caller resolves it.)
 */
static int resolve_parent(const char *path, char **ret)
{
	char *copy = strdup(path), *slash, *parent = NULL;
	size_t len;
	int err;

	if (!copy)
		return -ENOMEM;
	for (len = strlen(copy); len > 1 && copy[len - 1] == '/'; len--)
		copy[len - 1] = 0;
	slash = strrchr(copy, '/');
	if (!strcmp(slash, "/") || !strcmp(slash, "/.") || !strcmp(slash, "/..")) {
		*ret = copy;
		return 0;
	}
	*slash = 0;
	parent = realpath(slash == copy ? "/" : copy, NULL);
	err = parent ? 0 : errno;
	if (!err && asprintf(ret, "%s/%s", strcmp(parent, "/") ? parent : "", slash + 1) < 0)
		err = ENOMEM;
	free(parent);
	free(copy);
	return -err;
}

int mount_check_mountpoint(struct settings *opt)
{
	struct mount_entry entry;
	struct statx st;
	char *path = NULL, *resolved;
	int ret = resolve_parent(opt->mountpoint, &path);

	if (!ret)
		ret = recover_stale(path);
	else
		complain("mountpoint %s: %s", opt->mountpoint, strerror(-ret));
	if (ret)
		goto fail;
	resolved = realpath(path, NULL);
	ret = resolved ? 0 : -errno;
	free(path);
	path = resolved;
	if (!ret)
		ret = recover_stale(path); /* a symbolic link led elsewhere */
	if (!ret)
		ret = probe(path, &st);
	if (ret) {
		complain("mountpoint %s: %s%s", opt->mountpoint, strerror(-ret),
			 ret == -ENOENT ? ": make it with mkdir" : "");
		goto fail;
	}
	if (!S_ISDIR(st.stx_mode)) {
		complain("mountpoint %s is no directory", path);
		ret = -ENOTDIR;
		goto fail;
	}
	if (mount_check_is_inside(path, opt->litefs_dir) || mount_check_is_inside(opt->litefs_dir, path)) {
		complain("mountpoint %s and LITEFS_DIR %s must not lie in each other: choose a directory elsewhere",
			 path, opt->litefs_dir);
		ret = -EINVAL;
		goto fail;
	}
	if (mount_check_find(MOUNTINFO, path, &entry) == 1 && (is_litefwd(&entry) || is_litefs(&entry))) {
		complain("%s is mounted already, by %s: unmount it first (fusermount3 -u %s)", path,
			 is_litefs(&entry) ? "LiteFS" : "litefwd", path);
		ret = -EBUSY;
		goto fail;
	}
	replace(&opt->mountpoint, path);
	return 0;
fail:
	free(path);
	return ret;
}

/* ---- one litefwd per LITEFS_DIR ---- */

/*
 * What stands for litefs_dir, as long as it exists: the directory that holds it (device and inode) and its name
 * there. Not its own device, which is a new one after each restart of LiteFS; nor its path, which is the same one in
 * every container that shares a state_dir.
 */
static int identify(const char *litefs_dir, uint64_t *ret)
{
	const char *name = strrchr(litefs_dir, '/') + 1;
	char *parent = strndup(litefs_dir, (size_t)(name - litefs_dir));
	uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
	char key[PATH_MAX + 64];
	struct stat st;
	int err;

	if (!parent)
		return -ENOMEM;
	err = stat(parent, &st) < 0 ? errno : 0;
	free(parent);
	if (err)
		return -err;
	snprintf(key, sizeof key, "%" PRIu64 ":%" PRIu64 ":%s", (uint64_t)st.st_dev, (uint64_t)st.st_ino, name);
	for (const char *p = key; *p; p++)
		hash = (hash ^ (unsigned char)*p) * UINT64_C(0x100000001b3);
	*ret = hash;
	return 0;
}

/* mkdir -p, the last one for us alone; what exists is fine. */
static int make_dirs(const char *path)
{
	char *copy = strdup(path);
	int ret = 0;

	if (!copy)
		return -ENOMEM;
	for (char *p = copy + 1; !ret; p++) {
		char c = *p;

		if (c && c != '/')
			continue;
		*p = 0;
		if (mkdir(copy, c ? 0755 : 0700) < 0 && errno != EEXIST)
			ret = -errno;
		*p = c;
		if (!c)
			break;
	}
	free(copy);
	return ret;
}

/* Who can replace files there could have two litefwd serve one directory, and this one ask anybody for anything. */
static int check_state_dir(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return -errno;
	if (!S_ISDIR(st.st_mode))
		return -ENOTDIR;
	return (st.st_mode & S_IWOTH) && !(st.st_mode & S_ISVTX) ? -EPERM : 0;
}

int mount_check_look_at_state_dir(const char *path)
{
	char *parent;
	int err;

	if (access(path, F_OK) == 0)
		return access(path, W_OK | X_OK) ? -errno : check_state_dir(path);
	if (errno != ENOENT)
		return -errno;
	parent = strdup(path);
	if (!parent)
		return -ENOMEM;
	do {
		char *slash = strrchr(parent, '/');

		slash[slash == parent] = 0;
		err = access(parent, W_OK | X_OK) ? errno : 0;
	} while (err == ENOENT && strcmp(parent, "/") != 0);
	free(parent);
	return err ? -err : 1;
}

/* flock(2) asks for no right but to open: a file that others can read is one that they can lock. 0 or -EPERM. */
static int check_lock_file(int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid())
		return -EPERM;
	if ((st.st_mode & 077) && fchmod(fd, 0600) < 0)
		return -EPERM;
	return 0;
}

/* The lock, within the wait for LiteFS, for a litefwd that is just ending. 0 or negative errno. */
static int take_lock(int fd, int64_t wait_ms)
{
	int64_t deadline_ns = clock_now_ns() + (wait_ms < LOCK_WAIT_MAX_MS ? wait_ms : LOCK_WAIT_MAX_MS) * NS_PER_MS;

	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK)
			return -errno;
		if (clock_now_ns() >= deadline_ns)
			return -EBUSY;
		clock_sleep_ns(WAIT_POLL_NS / 10);
	}
	return 0;
}

int mount_check_lock(const struct settings *opt, int *ret_fd)
{
	char path[PATH_MAX];
	uint64_t id = 0;
	int fd, len, ret = make_dirs(opt->state_dir);

	if (ret) {
		complain("state_dir=%s cannot be made: %s: choose another directory", opt->state_dir, strerror(-ret));
		return ret;
	}
	ret = check_state_dir(opt->state_dir);
	if (ret) {
		complain("state_dir=%s: %s", opt->state_dir,
			 ret == -EPERM ? "everybody may write to it: chmod 700 it, or choose another" : strerror(-ret));
		return ret;
	}
	ret = identify(opt->litefs_dir, &id);
	if (ret) {
		complain("%s: %s", opt->litefs_dir, strerror(-ret));
		return ret;
	}
	len = snprintf(path, sizeof path, "%s/%016" PRIx64 ".lock", opt->state_dir, id);
	if (len < 0 || (size_t)len >= sizeof path) {
		complain("state_dir=%s: %s", opt->state_dir, strerror(ENAMETOOLONG));
		return -ENAMETOOLONG;
	}
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0) {
		ret = -errno;
		complain("%s: %s: choose a state_dir= that this user may write to", path, strerror(-ret));
		return ret;
	}
	if (check_lock_file(fd)) {
		complain("%s is no file of this user's: remove it, or choose another state_dir=", path);
		close(fd);
		return -EPERM;
	}
	ret = take_lock(fd, opt->wait_ms);
	if (ret) {
		if (ret == -EBUSY)
			complain("another litefwd serves %s already (it holds %s)", opt->litefs_dir, path);
		else
			complain("%s: %s", path, strerror(-ret));
		close(fd);
		return ret;
	}
	*ret_fd = fd;
	return 0;
}
