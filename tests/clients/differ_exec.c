/* differ's hands: see differ.h. Runs commands, in this process or in workers, and says what SQLite said. */
#include "differ.h"

#include <errno.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SHOWN_ROWS = 12, SHOWN_BYTES = 240, KILL_NEVER = -1 };

struct side {
	sqlite3 *db;
	sqlite3_stmt *cursor;
	int64_t patient_until_ms; /* 0: not patient */
	uint32_t busy_calls;
	int kill_after;
};

struct slot {
	struct side side[2];
	pid_t pid; /* 0: in this process */
	int fd;
};

struct slots {
	struct exec_options options;
	int count;
	struct slot slot[MAX_SLOTS];
};

struct wire_request {
	uint32_t len;
	int32_t side, patient, kill_after;
};

struct wire_answer {
	int32_t ext, autocommit, txn_before, txn;
	uint32_t busy_calls, rows, len;
};

static void die(const char *what)
{
	fprintf(stderr, "differ: %s: %s\n", what, strerror(errno));
	exit(2);
}

/* ---- text, randomness ---- */

void text_add(struct text *t, const char *format, ...)
{
	va_list args;
	int n;

	for (;;) {
		size_t room = t->cap - t->len;

		va_start(args, format);
		n = vsnprintf(t->s ? t->s + t->len : NULL, room, format, args);
		va_end(args);
		if (n < 0)
			die("vsnprintf");
		if ((size_t)n < room)
			break;
		t->cap = (t->cap + (size_t)n + 1) * 2;
		t->s = realloc(t->s, t->cap);
		if (!t->s)
			die("realloc");
	}
	t->len += (size_t)n;
}

void text_clear(struct text *t)
{
	t->len = 0;
	text_add(t, "%s", "");
}

void text_free(struct text *t)
{
	free(t->s);
	*t = (struct text){0};
}

uint64_t rng_next(struct rng *r)
{
	uint64_t z = r->state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

uint32_t rng_below(struct rng *r, uint32_t below)
{
	return (uint32_t)((rng_next(r) >> 32) * below >> 32);
}

bool rng_percent(struct rng *r, uint32_t percent)
{
	return rng_below(r, 100) < percent;
}

/* ---- what a row looks like ---- */

static uint64_t fnv(uint64_t h, const void *data, size_t len)
{
	const unsigned char *p = data;

	while (len--)
		h = (h ^ *p++) * UINT64_C(0x100000001b3);
	return h;
}

static uint64_t hash_value(uint64_t h, sqlite3_stmt *stmt, int column)
{
	char type = (char)sqlite3_column_type(stmt, column);
	sqlite3_int64 i;
	double d;

	h = fnv(h, &type, 1);
	switch (type) {
	case SQLITE_INTEGER:
		i = sqlite3_column_int64(stmt, column);
		return fnv(h, &i, sizeof(i));
	case SQLITE_FLOAT:
		d = sqlite3_column_double(stmt, column);
		return fnv(h, &d, sizeof(d));
	case SQLITE_NULL:
		return h;
	default: {
		const void *data = type == SQLITE_BLOB ? sqlite3_column_blob(stmt, column) : sqlite3_column_text(stmt, column);
		int len = sqlite3_column_bytes(stmt, column);

		h = fnv(h, &len, sizeof(len));
		return fnv(h, data, (size_t)len);
	}
	}
}

static void show_value(struct text *t, sqlite3_stmt *stmt, int column)
{
	int type = sqlite3_column_type(stmt, column);
	const unsigned char *data;
	int len;

	switch (type) {
	case SQLITE_INTEGER:
	case SQLITE_FLOAT:
		text_add(t, "%s", sqlite3_column_text(stmt, column));
		return;
	case SQLITE_NULL:
		text_add(t, "NULL");
		return;
	default:
		data = type == SQLITE_BLOB ? sqlite3_column_blob(stmt, column) : sqlite3_column_text(stmt, column);
		len = sqlite3_column_bytes(stmt, column);
		text_add(t, "%s", type == SQLITE_BLOB ? "x'" : "'");
		for (int i = 0; i < len && i < SHOWN_BYTES; i++) {
			if (type == SQLITE_BLOB)
				text_add(t, "%02x", data[i]);
			else
				text_add(t, "%c", data[i] >= ' ' ? data[i] : '.');
		}
		text_add(t, len > SHOWN_BYTES ? "...'[%d]" : "'", len);
	}
}

/* Steps to the end, or for at most `limit` rows (< 0: all). Returns what the last step said. */
static int take_rows(sqlite3_stmt *stmt, int limit, struct answer *a)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);
	int rc = SQLITE_ROW;

	while (limit != 0 && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
		int columns = sqlite3_column_count(stmt);

		for (int i = 0; i < columns; i++) {
			if (a->rows < SHOWN_ROWS) {
				text_add(&a->text, i ? ", " : "\n    ");
				show_value(&a->text, stmt, i);
			}
			h = hash_value(h, stmt, i);
		}
		a->rows++;
		if (limit > 0)
			limit--;
	}
	text_add(&a->text, "\n    %u rows, hash %016llx", a->rows, (unsigned long long)h);
	return rc;
}

/* ---- commands ---- */

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int on_busy(void *arg, int count)
{
	struct side *side = arg;

	(void)count;
	side->busy_calls++;
	if (now_ms() >= side->patient_until_ms)
		return 0;
	usleep(500);
	return 1;
}

static int on_progress(void *arg)
{
	struct side *side = arg;

	if (side->kill_after != KILL_NEVER && --side->kill_after < 0)
		raise(SIGKILL);
	return 0;
}

static int run_sql(sqlite3 *db, const char *sql, struct answer *a)
{
	sqlite3_stmt *stmt;
	int rc = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL);

	if (rc != SQLITE_OK)
		return rc;
	rc = take_rows(stmt, -1, a);
	sqlite3_finalize(stmt);
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* Everything a reader can see, table by table. Stops at the first error, which is then part of the text. */
static int dump(const char *path, struct side *side, struct answer *a)
{
	static const char *const settings[] = {
		"PRAGMA integrity_check", "PRAGMA page_size", "PRAGMA encoding", "PRAGMA auto_vacuum", "PRAGMA user_version",
		"PRAGMA application_id", "PRAGMA page_count", "PRAGMA freelist_count",
		"SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema",
	};
	sqlite3 *db;
	sqlite3_stmt *names = NULL;
	int rc = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL);

	sqlite3_extended_result_codes(db, 1);
	sqlite3_busy_handler(db, on_busy, side);
	if (rc == SQLITE_OK)
		rc = run_sql(db, "BEGIN", a);
	for (size_t i = 0; rc == SQLITE_OK && i < sizeof(settings) / sizeof(*settings); i++) {
		a->rows = 0;
		rc = run_sql(db, settings[i], a);
	}
	if (rc == SQLITE_OK)
		rc = sqlite3_prepare_v2(db, "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name", -1, &names, NULL);
	while (rc == SQLITE_OK && (rc = sqlite3_step(names)) == SQLITE_ROW) {
		char *sql = sqlite3_mprintf("SELECT * FROM \"%w\"", sqlite3_column_text(names, 0));

		text_add(&a->text, "\n  %s", sqlite3_column_text(names, 0));
		a->rows = 0;
		rc = run_sql(db, sql, a);
		sqlite3_free(sql);
	}
	if (rc == SQLITE_DONE)
		rc = SQLITE_OK;
	if (rc != SQLITE_OK)
		text_add(&a->text, "\n    %s", sqlite3_errmsg(db));
	sqlite3_finalize(names);
	sqlite3_close(db);
	return rc;
}

static int open_side(struct side *side, const char *path)
{
	int rc;

	if (side->db)
		return SQLITE_MISUSE;
	rc = sqlite3_open_v2(path, &side->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL);
	sqlite3_extended_result_codes(side->db, 1);
	sqlite3_busy_handler(side->db, on_busy, side);
	return rc;
}

static int close_side(struct side *side)
{
	int rc;

	sqlite3_finalize(side->cursor);
	side->cursor = NULL;
	rc = sqlite3_close(side->db);
	if (rc == SQLITE_OK)
		side->db = NULL;
	return rc;
}

static int end_cursor(struct side *side)
{
	int rc = sqlite3_finalize(side->cursor);

	side->cursor = NULL;
	return rc;
}

static int next_rows(struct side *side, int limit, struct answer *a)
{
	int rc;

	if (!side->cursor)
		return SQLITE_OK;
	rc = take_rows(side->cursor, limit, a);
	if (rc == SQLITE_ROW)
		return SQLITE_OK;
	rc = end_cursor(side);
	text_add(&a->text, " to its end");
	return rc;
}

static int checkpoint(sqlite3 *db, const char *mode)
{
	static const char *const names[] = {"passive", "full", "restart", "truncate"};

	for (int i = 0; i < 4; i++) {
		if (!strcmp(mode, names[i])) {
			int rc = sqlite3_wal_checkpoint_v2(db, NULL, i, NULL, NULL);

			/* How far it got is each side's own affair; so is whether readers were in its way. */
			return rc == SQLITE_BUSY ? SQLITE_OK : rc;
		}
	}
	return SQLITE_MISUSE;
}

static int run_command(struct side *side, const char *path, const char *command, struct answer *a)
{
	if (command[0] != '#')
		return run_sql(side->db, command, a);
	if (!strcmp(command, "#open"))
		return open_side(side, path);
	if (!strcmp(command, "#close"))
		return close_side(side);
	if (!strcmp(command, "#end"))
		return end_cursor(side);
	if (!strcmp(command, "#dump"))
		return dump(path, side, a);
	if (!strncmp(command, "#checkpoint ", 12))
		return checkpoint(side->db, command + 12);
	if (!strncmp(command, "#next ", 6))
		return next_rows(side, atoi(command + 6), a);
	if (!strncmp(command, "#cursor ", 8)) {
		int rc;

		end_cursor(side);
		rc = sqlite3_prepare_v2(side->db, command + 8, -1, &side->cursor, NULL);
		return rc == SQLITE_OK ? next_rows(side, 1, a) : rc;
	}
	return SQLITE_MISUSE;
}

static void execute(const struct exec_options *options, struct slot *slot, const struct wire_request *r, const char *command,
		    struct answer *a)
{
	struct side *side = &slot->side[r->side];
	int total = side->db ? sqlite3_total_changes(side->db) : 0;

	text_clear(&a->text);
	a->rows = 0;
	a->dead = false;
	side->busy_calls = 0;
	side->patient_until_ms = r->patient ? now_ms() + options->patience_ms : 0;
	side->kill_after = r->kill_after;
	a->txn_before = side->db ? sqlite3_txn_state(side->db, NULL) : -1;
	if (side->db)
		sqlite3_progress_handler(side->db, r->kill_after == KILL_NEVER ? 0 : 1, on_progress, side);
	a->ext = run_command(side, options->path[r->side], command, a);
	if (r->kill_after != KILL_NEVER)
		raise(SIGKILL);
	a->busy_calls = side->busy_calls;
	a->autocommit = !side->db || sqlite3_get_autocommit(side->db);
	a->txn = side->db ? sqlite3_txn_state(side->db, NULL) : -1;
	if (side->db && a->ext != SQLITE_OK && command[0] != '#')
		text_add(&a->text, "\n    error: %s", sqlite3_errmsg(side->db));
	/*
	 * Not after what changed nothing: a BUSY resets changes() when it comes from sqlite3_step(), and not when it comes from
	 * sqlite3_prepare(), which reads the schema anew if an earlier BUSY came after SQLite had found it changed, or not if before.
	 */
	if (side->db && sqlite3_total_changes(side->db) != total)
		text_add(&a->text, "\n    changes %d", sqlite3_changes(side->db));
	if (side->db)
		text_add(&a->text, "\n    %s, total %d, rowid %lld, autocommit %d, transaction %d", sqlite3_errstr(a->ext),
			 sqlite3_total_changes(side->db), sqlite3_last_insert_rowid(side->db),
			 a->autocommit, a->txn);
	text_add(&a->text, "\n    result %d", a->ext);
}

/* ---- workers ---- */

static bool transfer(int fd, void *data, size_t len, bool out)
{
	char *p = data;

	while (len) {
		ssize_t n = out ? send(fd, p, len, MSG_NOSIGNAL) : recv(fd, p, len, 0);

		if (n <= 0 && errno == EINTR && n != 0)
			continue;
		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

static void worker(const struct exec_options *options, struct slot *slot, int fd)
{
	struct wire_request r;
	struct answer a = {0};

	while (transfer(fd, &r, sizeof(r), false)) {
		char *command = malloc(r.len + 1);
		struct wire_answer w;

		if (!command || !transfer(fd, command, r.len, false))
			_exit(2);
		command[r.len] = '\0';
		execute(options, slot, &r, command, &a);
		free(command);
		w = (struct wire_answer){a.ext, a.autocommit, a.txn_before, a.txn, a.busy_calls, a.rows, (uint32_t)a.text.len};
		if (!transfer(fd, &w, sizeof(w), true) || !transfer(fd, a.text.s, a.text.len, true))
			_exit(2);
	}
	_exit(0); /* the driver is gone */
}

static void start_worker(struct slots *slots, struct slot *slot)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds))
		die("socketpair");
	slot->pid = fork();
	if (slot->pid < 0)
		die("fork");
	if (slot->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (int i = 0; i < slots->count; i++)
			if (&slots->slot[i] != slot && slots->slot[i].pid > 0)
				close(slots->slot[i].fd);
		close(fds[0]);
		worker(&slots->options, slot, fds[1]);
	}
	close(fds[1]);
	slot->fd = fds[0];
}

static void reap_worker(struct slot *slot, int signal)
{
	if (signal)
		kill(slot->pid, signal);
	close(slot->fd);
	if (waitpid(slot->pid, NULL, 0) < 0)
		die("waitpid");
	slot->pid = 0;
}

struct slots *slots_new(const struct exec_options *options, int count)
{
	struct slots *slots = calloc(1, sizeof(*slots));

	if (!slots)
		die("calloc");
	slots->options = *options;
	slots->count = count;
	for (int i = 0; options->processes && i < count; i++)
		start_worker(slots, &slots->slot[i]);
	return slots;
}

void slots_run(struct slots *slots, int number, int side, const char *command, bool patient, int kill_after, struct answer *a)
{
	struct slot *slot = &slots->slot[number];
	struct wire_request r = {(uint32_t)strlen(command), side, patient, kill_after};
	struct wire_answer w;

	if (!slots->options.processes) {
		execute(&slots->options, slot, &r, command, a);
		return;
	}
	a->dead = !transfer(slot->fd, &r, sizeof(r), true) || !transfer(slot->fd, (char *)command, r.len, true) ||
		  !transfer(slot->fd, &w, sizeof(w), false);
	if (a->dead) {
		if (kill_after == KILL_NEVER) {
			fprintf(stderr, "differ: the worker of slot %d is gone, in: %s\n", number, command);
			exit(2);
		}
		return;
	}
	text_clear(&a->text);
	text_add(&a->text, "%*s", (int)w.len, "");
	if (!transfer(slot->fd, a->text.s, w.len, false))
		die("a worker is gone");
	a->ext = w.ext;
	a->autocommit = w.autocommit;
	a->txn_before = w.txn_before;
	a->txn = w.txn;
	a->busy_calls = w.busy_calls;
	a->rows = w.rows;
}

void slots_kill(struct slots *slots, int number)
{
	struct slot *slot = &slots->slot[number];

	reap_worker(slot, SIGKILL);
	start_worker(slots, slot);
}

void slots_kill_all(struct slots *slots)
{
	for (int i = 0; i < slots->count; i++)
		if (slots->slot[i].pid > 0)
			reap_worker(&slots->slot[i], SIGKILL);
	raise(SIGKILL);
}

void slots_free(struct slots *slots)
{
	for (int i = 0; i < slots->count; i++)
		if (slots->slot[i].pid > 0)
			reap_worker(&slots->slot[i], 0);
	free(slots);
}

int dump_main(const char *path, bool verbose)
{
	struct side side = {.patient_until_ms = now_ms() + 20000};
	struct answer a = {0};
	int rc = dump(path, &side, &a);

	if (verbose)
		puts(a.text.s);
	printf("{\"code\": %d, \"hash\": \"%016llx\"}\n", rc, (unsigned long long)fnv(UINT64_C(0xcbf29ce484222325), a.text.s, a.text.len));
	text_free(&a.text);
	return rc == SQLITE_OK ? 0 : 1;
}
