/* Attributes: ours from memory, LiteFS' own files through its directory. */
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/fs_internal.h"

bool fs_is_through(const struct node *node)
{
	return node->kind == FILE_POS || node->kind == FILE_LOCK || node->kind == FILE_NODE;
}

static void common(struct fs *fs, struct stat *st)
{
	const struct settings *s = fs->settings;

	st->st_uid = s->uid == (uid_t)-1 ? getuid() : s->uid;
	st->st_gid = s->gid == (gid_t)-1 ? getgid() : s->gid;
	st->st_nlink = 1;
}

void fs_attr_of(struct fs *fs, const struct node *node, struct stat *ret)
{
	*ret = (struct stat){0};
	common(fs, ret);
	if (!node) {
		ret->st_ino = FUSE_ROOT_INO;
		ret->st_mode = S_IFDIR | (0777 & ~fs->settings->umask);
		ret->st_nlink = 2;
		return;
	}
	ret->st_ino = node->ino;
	if (node->kind == FILE_STATUS) {
		ret->st_mode = S_IFREG | 0444;
		return;
	}
	ret->st_mode = S_IFREG | (0666 & ~fs->settings->umask);
	if (node->kind == FILE_SUPER)
		ret->st_size = super_size(fs->supers, node->name) > 0 ? super_size(fs->supers, node->name) : 0;
	else
		ret->st_size = db_size(node->database->db, node->kind);
	ret->st_blocks = (ret->st_size + 511) / 512;
	ret->st_blksize = 4096;
}

int fs_attr_through(struct fs *fs, const struct node *node, struct stat *ret)
{
	char path[4096 + 300];
	int n = snprintf(path, sizeof path, "%s/%s", fs->settings->litefs_dir, node->name);

	if (n < 0 || (size_t)n >= sizeof path)
		return -ENAMETOOLONG;
	if (lstat(path, ret) < 0)
		return -errno;
	ret->st_ino = node->ino;
	ret->st_mode = S_IFREG | (node->kind == FILE_LOCK ? 0666 & ~fs->settings->umask : ret->st_mode & 0444);
	common(fs, ret);
	return 0;
}
