/*
 * locks: gets into one exact state of a database, says "ready" on stdout and stays there
 * until it is killed: the victim for kill -9 tests.
 *
 *   locks --db PATH --state STATE [--journal MODE]      table t(x) must exist
 *     read      a read transaction is open (READ lock held)
 *     write     BEGIN IMMEDIATE and an uncommitted row (WRITE held)
 *     spill     the same, with many uncommitted frames written to the WAL already
 *     before    inside COMMIT: every frame is written but the commit frame
 *     middle    inside COMMIT: the commit frame's header is written, its page is not
 *     commit    inside COMMIT: "ready", and then at once the write that commits
 *     after     inside COMMIT: the commit frame is written, the wal-index header is not
 *     end       rollback journal, inside COMMIT: every page is in the database file, the journal is not ended
 *     ending    the same: "ready", and then at once the call that ends it
 *     ended     the journal is ended, SQLite does not know it yet
 *     cut       rollback journal: every row is deleted, and a VACUUM is committed by the journal's end, but the
 *               database file is not cut to its new size yet (its old rows must have taken more than that)
 *     close     a committed row, and the last connection about to close: "ready", then sqlite3_close()
 *   locks --raw FILE --byte N [--length N] [--read]
 *     a plain POSIX lock (F_SETLK), exclusive unless --read
 *
 * The states inside COMMIT are reached by a VFS of our own between SQLite and the "unix" one,
 * which watches the writes to the WAL: a frame is a 24-byte header whose second word is not
 * zero in a commit frame, and then the page. A journal ends by its unlink, its truncation to nothing or a zeroed header.
 *
 * Exit: only if it could not get there (1, message on stderr) or the usage was wrong (2);
 * "commit", "ending" and "close" end with 0 when they are not killed.
 */
#include <fcntl.h>
#include <getopt.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *state;
static const char *journal_mode;
static bool armed; /* the next commit frame is the one */
static bool journal_ended;

static void ready(void)
{
	printf("ready\n");
	fflush(stdout);
}

static void stay(void)
{
	ready();
	for (;;)
		pause();
}

static int die(const char *what, const char *why)
{
	fprintf(stderr, "locks: %s: %s\n", what, why);
	exit(1);
}

/* ---- the VFS in between ---- */

struct shim_file {
	sqlite3_file base;
	bool is_wal;
	bool is_journal;
	bool is_database;
	bool commit_page_next;
	sqlite3_file *real; /* behind this struct, in the same allocation */
};

static sqlite3_vfs *real_vfs;

static sqlite3_file *real_of(sqlite3_file *file)
{
	return ((struct shim_file *)file)->real;
}

static int shim_close(sqlite3_file *file)
{
	return real_of(file)->pMethods->xClose(real_of(file));
}

static int shim_read(sqlite3_file *file, void *buf, int len, sqlite3_int64 at)
{
	return real_of(file)->pMethods->xRead(real_of(file), buf, len, at);
}

static void before_end(void)
{
	if (armed && !strcmp(state, "end"))
		stay();
	if (armed && !strcmp(state, "ending"))
		ready();
}

static void after_end(int rc)
{
	journal_ended = rc == SQLITE_OK;
	if (armed && !strcmp(state, "ended")) {
		if (rc != SQLITE_OK)
			die("journal", "its end failed");
		stay();
	}
}

static bool is_zero(const uint8_t *bytes, int len)
{
	for (int i = 0; i < len; i++)
		if (bytes[i])
			return false;
	return true;
}

static int shim_write(sqlite3_file *file, const void *buf, int len, sqlite3_int64 at)
{
	struct shim_file *shim = (struct shim_file *)file;
	const uint8_t *bytes = buf;
	bool commit_page = shim->commit_page_next;
	bool end = shim->is_journal && at == 0 && len == 28 && is_zero(bytes, len);
	int rc;

	shim->commit_page_next = false;
	if (armed && shim->is_wal && len == 24 && at > 0 && (bytes[4] | bytes[5] | bytes[6] | bytes[7])) {
		shim->commit_page_next = true;
		if (!strcmp(state, "before"))
			stay();
	}
	if (commit_page && !strcmp(state, "middle"))
		stay();
	if (commit_page && !strcmp(state, "commit"))
		ready();
	if (end)
		before_end();
	rc = shim->real->pMethods->xWrite(shim->real, buf, len, at);
	if (end)
		after_end(rc);
	if (commit_page && !strcmp(state, "after")) {
		if (rc != SQLITE_OK)
			die("commit frame", "write failed");
		stay();
	}
	return rc;
}

static int shim_truncate(sqlite3_file *file, sqlite3_int64 size)
{
	struct shim_file *shim = (struct shim_file *)file;
	bool end = shim->is_journal && size == 0;
	int rc;

	if (armed && shim->is_database && journal_ended && !strcmp(state, "cut"))
		stay();
	if (end)
		before_end();
	rc = real_of(file)->pMethods->xTruncate(real_of(file), size);
	if (end)
		after_end(rc);
	return rc;
}

static int shim_sync(sqlite3_file *file, int flags)
{
	return real_of(file)->pMethods->xSync(real_of(file), flags);
}

static int shim_size(sqlite3_file *file, sqlite3_int64 *ret)
{
	return real_of(file)->pMethods->xFileSize(real_of(file), ret);
}

static int shim_lock(sqlite3_file *file, int level)
{
	return real_of(file)->pMethods->xLock(real_of(file), level);
}

static int shim_unlock(sqlite3_file *file, int level)
{
	return real_of(file)->pMethods->xUnlock(real_of(file), level);
}

static int shim_reserved(sqlite3_file *file, int *ret)
{
	return real_of(file)->pMethods->xCheckReservedLock(real_of(file), ret);
}

static int shim_control(sqlite3_file *file, int op, void *arg)
{
	return real_of(file)->pMethods->xFileControl(real_of(file), op, arg);
}

static int shim_sector_size(sqlite3_file *file)
{
	return real_of(file)->pMethods->xSectorSize(real_of(file));
}

static int shim_characteristics(sqlite3_file *file)
{
	return real_of(file)->pMethods->xDeviceCharacteristics(real_of(file));
}

static int shim_shm_map(sqlite3_file *file, int page, int size, int extend, void volatile **ret)
{
	return real_of(file)->pMethods->xShmMap(real_of(file), page, size, extend, ret);
}

static int shim_shm_lock(sqlite3_file *file, int offset, int n, int flags)
{
	return real_of(file)->pMethods->xShmLock(real_of(file), offset, n, flags);
}

static void shim_shm_barrier(sqlite3_file *file)
{
	real_of(file)->pMethods->xShmBarrier(real_of(file));
}

static int shim_shm_unmap(sqlite3_file *file, int remove)
{
	return real_of(file)->pMethods->xShmUnmap(real_of(file), remove);
}

static const sqlite3_io_methods shim_methods = {
	.iVersion = 2,
	.xClose = shim_close,
	.xRead = shim_read,
	.xWrite = shim_write,
	.xTruncate = shim_truncate,
	.xSync = shim_sync,
	.xFileSize = shim_size,
	.xLock = shim_lock,
	.xUnlock = shim_unlock,
	.xCheckReservedLock = shim_reserved,
	.xFileControl = shim_control,
	.xSectorSize = shim_sector_size,
	.xDeviceCharacteristics = shim_characteristics,
	.xShmMap = shim_shm_map,
	.xShmLock = shim_shm_lock,
	.xShmBarrier = shim_shm_barrier,
	.xShmUnmap = shim_shm_unmap,
};

static int shim_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *ret_flags)
{
	struct shim_file *shim = (struct shim_file *)file;
	int rc;

	(void)vfs;
	memset(shim, 0, sizeof(*shim));
	shim->real = (sqlite3_file *)(shim + 1);
	shim->is_wal = flags & SQLITE_OPEN_WAL;
	shim->is_journal = flags & SQLITE_OPEN_MAIN_JOURNAL;
	shim->is_database = flags & SQLITE_OPEN_MAIN_DB;
	if (shim->is_journal)
		journal_ended = false;
	rc = real_vfs->xOpen(real_vfs, name, shim->real, flags, ret_flags);
	if (shim->real->pMethods)
		shim->base.pMethods = &shim_methods;
	return rc;
}

static int shim_delete(sqlite3_vfs *vfs, const char *name, int sync)
{
	size_t len = strlen(name);
	bool end = len > 8 && !strcmp(name + len - 8, "-journal");
	int rc;

	(void)vfs;
	if (end)
		before_end();
	rc = real_vfs->xDelete(real_vfs, name, sync);
	if (end)
		after_end(rc);
	return rc;
}

static void shim_register(void)
{
	static sqlite3_vfs shim;

	real_vfs = sqlite3_vfs_find("unix");
	shim = *real_vfs; /* everything but these takes no file and works on the copy alike */
	shim.zName = "watch";
	shim.szOsFile = (int)sizeof(struct shim_file) + real_vfs->szOsFile;
	shim.xOpen = shim_open;
	shim.xDelete = shim_delete;
	sqlite3_vfs_register(&shim, 0);
}

/* ---- the states ---- */

static void exec(sqlite3 *db, const char *sql)
{
	char *message = NULL;

	if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK)
		die(sql, message ? message : "failed");
}

static int into_state(const char *path)
{
	sqlite3 *db;

	shim_register();
	if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, "watch") != SQLITE_OK)
		die(path, sqlite3_errmsg(db));
	sqlite3_busy_timeout(db, 20000);
	if (journal_mode) {
		char *sql = sqlite3_mprintf("PRAGMA journal_mode = %Q", journal_mode);

		exec(db, sql);
		sqlite3_free(sql);
	}
	if (!strcmp(state, "read")) {
		exec(db, "BEGIN; SELECT count(*) FROM t;");
		stay();
	}
	if (!strcmp(state, "cut")) {
		exec(db, "DELETE FROM t;");
		armed = true;
		exec(db, "VACUUM;");
		die("VACUUM", "it cut nothing");
	}
	if (!strcmp(state, "spill"))
		exec(db, "PRAGMA cache_size = 5;");
	exec(db, "BEGIN IMMEDIATE; INSERT INTO t VALUES (randomblob(100));");
	if (!strcmp(state, "write"))
		stay();
	exec(db, "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 400)"
		 "INSERT INTO t SELECT randomblob(1000) FROM c;");
	if (!strcmp(state, "spill"))
		stay();
	armed = true;
	exec(db, "COMMIT;");
	if (!strcmp(state, "close"))
		ready();
	sqlite3_close(db);
	return 0;
}

static int raw_lock(const char *path, long long byte, long long length, bool read_only)
{
	struct flock lock = {.l_type = read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = length};
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		perror(path);
		return 1;
	}
	if (fcntl(fd, F_SETLK, &lock)) {
		perror("locks: F_SETLK");
		return 1;
	}
	stay();
	return 0;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"db", required_argument, NULL, 'd'},   {"state", required_argument, NULL, 's'},
		{"raw", required_argument, NULL, 'r'},  {"byte", required_argument, NULL, 'b'},
		{"length", required_argument, NULL, 'l'}, {"read", no_argument, NULL, 'R'},
		{"journal", required_argument, NULL, 'j'},
		{NULL, 0, NULL, 0},
	};
	static const char *const states[] = {"read", "write", "spill", "before", "middle", "commit", "after",
					      "end", "ending", "ended", "cut", "close"};
	const char *db = NULL, *raw = NULL;
	long long byte = -1, length = 1;
	bool read_only = false;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'd': db = optarg; break;
		case 's': state = optarg; break;
		case 'r': raw = optarg; break;
		case 'b': byte = atoll(optarg); break;
		case 'l': length = atoll(optarg); break;
		case 'j': journal_mode = optarg; break;
		case 'R': read_only = true; break;
		default: return 2;
		}
	}
	if (raw && byte >= 0)
		return raw_lock(raw, byte, length, read_only);
	for (size_t i = 0; db && state && i < sizeof(states) / sizeof(*states); i++)
		if (!strcmp(state, states[i]))
			return into_state(db);
	fprintf(stderr, "usage: locks --db PATH --state STATE [--journal MODE] | --raw FILE --byte N [--length N] [--read]\n");
	return 2;
}
