/* The databases in LITEFS_DIR, by their first page and what lies beside them. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/names.h"
#include "format/sqlite_format.h"
#include "prog/check.h"

/* Bytes of NAME + suffix; 0: none, or empty. */
static int64_t size_of(int dir, const char *name, const char *suffix)
{
	char path[NAME_DB_MAX + 16];
	struct stat st;

	snprintf(path, sizeof path, "%s%s", name, suffix);
	return fstatat(dir, path, &st, AT_SYMLINK_NOFOLLOW) == 0 ? (int64_t)st.st_size : 0;
}

/* A journal's header is not zeros: somebody writes, or has died. */
static bool has_hot_journal(int dir, const char *name)
{
	char path[NAME_DB_MAX + 16];
	uint8_t head[8] = {0};
	int fd;

	snprintf(path, sizeof path, "%s-journal", name);
	fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	if (pread(fd, head, sizeof head, 0) < 0)
		head[0] = 0;
	close(fd);
	return head[0] != 0;
}

static void check_database(int dir, const char *name, bool is_primary, int64_t *largest)
{
	uint8_t page1[512];
	struct sqlite_header header;
	struct stat st = {0};
	char subject[NAME_DB_MAX + 16];
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : pread(fd, page1, sizeof page1, 0);
	int err = n < 0 ? errno : 0;

	snprintf(subject, sizeof subject, "database %s", name);
	if (!err)
		err = fstat(fd, &st) < 0 ? errno : 0;
	if (fd >= 0)
		close(fd);
	if (st.st_size > *largest)
		*largest = (int64_t)st.st_size;
	if (err)
		check_say(CHECK_FAIL, subject, "cannot be read: %s", strerror(err));
	else if (n == 0)
		check_say(CHECK_OK, subject, "empty");
	else if (n < (ssize_t)sizeof page1 || sqlite_header_parse(page1, &header))
		check_say(CHECK_FAIL, subject, "not SQLite's format (encrypted?): it cannot be opened through litefwd");
	else if (is_primary && header.wal && size_of(dir, name, "-wal") > 0)
		check_say(CHECK_OK, subject, "WAL, pages of %u bytes, %" PRId64 " bytes; a direct client's WAL is checkpointed before litefwd uses it",
			  header.page_size, (int64_t)st.st_size);
	else if (is_primary && !header.wal && has_hot_journal(dir, name))
		check_say(CHECK_WARN, subject, "a journal lies beside it: a program writes in LiteFS' own directory, or has died there; "
			  "litefwd lets LiteFS play it back when nobody writes");
	else if (!header.wal)
		check_say(CHECK_OK, subject, "rollback journal (journal_mode MEMORY and OFF cannot write; by HALT even where there is a gateway), "
			  "pages of %u bytes, %" PRId64 " bytes", header.page_size, (int64_t)st.st_size);
	else
		check_say(CHECK_OK, subject, "WAL, pages of %u bytes, %" PRId64 " bytes", header.page_size, (int64_t)st.st_size);
}

void check_databases(const char *litefs_dir, bool is_primary, int64_t *ret_largest)
{
	char name[NAME_DB_MAX + 1];
	DIR *dir = opendir(litefs_dir);
	struct dirent *entry;
	enum file_kind kind;

	if (!dir) {
		check_say(CHECK_FAIL, "databases", "%s: %s", litefs_dir, strerror(errno));
		return;
	}
	while ((entry = readdir(dir)) != NULL)
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 && !name_parse(entry->d_name, &kind, name) &&
		    kind == FILE_DATABASE)
			check_database(dirfd(dir), name, is_primary, ret_largest);
	closedir(dir);
}
