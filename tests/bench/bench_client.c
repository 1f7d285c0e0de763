/*
 * bench_client: one kept SQLite connection that runs what it is told and says how long each took.
 *
 *	bench_client [--halt FILE] DATABASE
 *
 * FILE is LiteFS' NAME-lock: each write transaction is put between F_OFD_SETLKW of byte 72 and its release, which is
 * how an application on a replica writes with LiteFS alone; the time includes both.
 *
 * Commands on stdin, one per line; N operations, or N transactions:
 *
 *	select N	one row by its key, autocommit
 *	read100 N	a transaction that reads 100 rows by their keys
 *	insert N	one row, autocommit
 *	insert100 N	a transaction that inserts 100 rows
 *	idle MS		nothing, for so long
 *
 * Answer: "ok T1 T2 ...\n", nanoseconds of each, or "error WHY\n" and exit 1. Statements are prepared once. The
 * database is made by bench.py: rows(id INTEGER PRIMARY KEY, v), 1..ROWS, and inserted(id INTEGER PRIMARY KEY, v).
 */
#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { HALT_BYTE = 72, VALUE_LEN = 100, BUSY_MS = 20000, PER_TRANSACTION = 100, N_MAX = 1000000 };

static sqlite3 *db;
static sqlite3_stmt *st_begin, *st_commit, *st_select, *st_insert;
static int halt_fd = -1;
static int64_t rows;
static uint64_t seed = 88172645463325252u;

static void die(const char *what)
{
	printf("error %s: %s\n", what, db ? sqlite3_errmsg(db) : strerror(errno));
	exit(1);
}

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static sqlite3_stmt *prepare(const char *sql)
{
	sqlite3_stmt *st;

	if (sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &st, NULL))
		die(sql);
	return st;
}

/* To the end; what must be there is one row. */
static void step(sqlite3_stmt *st, bool row)
{
	int rc = sqlite3_step(st);

	if (row && rc == SQLITE_ROW)
		rc = sqlite3_step(st);
	else if (row)
		die("no row");
	if (rc != SQLITE_DONE)
		die(sqlite3_sql(st));
	if (sqlite3_reset(st))
		die("reset");
}

static void select_one(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	sqlite3_bind_int64(st_select, 1, (int64_t)(seed % (uint64_t)rows) + 1);
	step(st_select, true);
}

static void halt(short type)
{
	struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = HALT_BYTE, .l_len = 1};

	if (halt_fd < 0)
		return;
	while (fcntl(halt_fd, F_OFD_SETLKW, &lock))
		if (errno != EINTR) {
			printf("error HALT: %s\n", strerror(errno));
			exit(1);
		}
}

static void do_select(void)
{
	select_one();
}

static void do_read100(void)
{
	step(st_begin, false);
	for (int i = 0; i < PER_TRANSACTION; i++)
		select_one();
	step(st_commit, false);
}

static void do_insert(void)
{
	halt(F_WRLCK);
	step(st_insert, false);
	halt(F_UNLCK);
}

static void do_insert100(void)
{
	halt(F_WRLCK);
	step(st_begin, false);
	for (int i = 0; i < PER_TRANSACTION; i++)
		step(st_insert, false);
	step(st_commit, false);
	halt(F_UNLCK);
}

static const struct operation {
	const char *name;
	void (*run)(void);
} operations[] = {
	{"select", do_select},
	{"read100", do_read100},
	{"insert", do_insert},
	{"insert100", do_insert100},
};

static const struct operation *find(const char *name)
{
	for (size_t i = 0; i < sizeof operations / sizeof *operations; i++)
		if (!strcmp(operations[i].name, name))
			return &operations[i];
	return NULL;
}

static void measure(const struct operation *op, int n)
{
	int64_t *took = calloc((size_t)n, sizeof *took);

	if (!took)
		die("calloc");
	for (int i = 0; i < n; i++) {
		int64_t start = now_ns();

		op->run();
		took[i] = now_ns() - start;
	}
	printf("ok");
	for (int i = 0; i < n; i++)
		printf(" %lld", (long long)took[i]);
	putchar('\n');
	free(took);
}

static void open_database(const char *path)
{
	static char value[VALUE_LEN + 1];
	sqlite3_stmt *count;

	memset(value, 'v', VALUE_LEN);
	if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL) || sqlite3_busy_timeout(db, BUSY_MS))
		die("open");
	count = prepare("SELECT max(id) FROM rows");
	if (sqlite3_step(count) != SQLITE_ROW || (rows = sqlite3_column_int64(count, 0)) < 1)
		die("rows");
	sqlite3_finalize(count);
	st_begin = prepare("BEGIN");
	st_commit = prepare("COMMIT");
	st_select = prepare("SELECT v FROM rows WHERE id = ?");
	st_insert = prepare("INSERT INTO inserted(v) VALUES(?)");
	sqlite3_bind_text(st_insert, 1, value, VALUE_LEN, SQLITE_STATIC);
}

static void serve(void)
{
	char line[100], name[20];
	int n;

	while (fgets(line, sizeof line, stdin)) {
		const struct operation *op;

		if (sscanf(line, "%19s %d", name, &n) != 2 || n < 1 || n > N_MAX) {
			printf("error what is '%s'?\n", strtok(line, "\n"));
			exit(1);
		}
		op = find(name);
		if (op) {
			measure(op, n);
		} else if (!strcmp(name, "idle")) {
			usleep((useconds_t)n * 1000);
			puts("ok");
		} else {
			printf("error no such operation: %s\n", name);
			exit(1);
		}
		fflush(stdout);
	}
}

int main(int argc, char **argv)
{
	const char *lock = argc == 4 && !strcmp(argv[1], "--halt") ? argv[2] : NULL;

	if (argc != 2 && !lock) {
		fprintf(stderr, "usage: bench_client [--halt FILE] DATABASE\n");
		return 2;
	}
	if (lock) {
		halt_fd = open(lock, O_RDWR | O_CLOEXEC);
		if (halt_fd < 0)
			die(lock);
	}
	open_database(argv[argc - 1]);
	puts("ok");
	fflush(stdout);
	serve();
	sqlite3_finalize(st_begin);
	sqlite3_finalize(st_commit);
	sqlite3_finalize(st_select);
	sqlite3_finalize(st_insert);
	sqlite3_close(db);
	return 0;
}
