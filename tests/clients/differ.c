/*
 * differ: random statements on a plain file and through litefwd, answers compared. See differ.h.
 *
 *   differ --plain PATH --fwd PATH --seed N --statements N --journal wal|delete|truncate|persist|mix
 *          [--page-size N] [--encoding NAME] [--auto-vacuum NAME] [--connections N] [--processes] [--patience-ms N]
 *          [--die-at N] [--sabotage value|lost|read|error] [--dump-every N] [--keep-going] [--trace]
 *   differ --dump PATH        hash of a database's content, as JSON
 *
 * A file that does not exist is created with the given settings; one that exists is gone on with (both, or neither: then the
 * contents must be the same at the start). Journal mix: rollback journals of all kinds, with a switch to WAL some time.
 *
 * What is equal: result codes, messages, rows, changes() of what changed something, total_changes(), last_insert_rowid(), the
 * transaction's state, and all content every some hundred statements and at the end. What need not be: when SQLITE_BUSY comes from
 * litefwd's way of taking the upstream's lock in the background, the statement is repeated, but only if
 *   - the plain side has already answered something else (BUSY_SNAPSHOT and a BUSY at the commit come after that lock),
 *   - nothing was written in that transaction, so that it is the beginning of a write,
 * or SQLite's own busy handler does that, also at the end of a rollback journal's transaction, if plain's was not called. What is
 * BUSY on the plain side must be BUSY through litefwd.
 *
 * --die-at N: SIGKILL at the first statement from N on at which a connection has written in an open transaction; in the middle of
 * a statement or between two, as the seed says. --sabotage changes one statement on litefwd's side: must be found.
 *
 * On stdout one JSON object with counts. Exit: 0 no difference, 1 differences (told on stderr), 2 usage or the test itself.
 */
#include "differ.h"

#include <getopt.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LAST = 40, CODES = 64, MAX_DIFFERENCES = 20 };

static struct {
	struct exec_options exec;
	struct gen gen;
	struct slots *slots;
	struct answer plain, fwd;
	struct text command, other;
	uint64_t seed;
	int statements, die_at, dump_every;
	const char *encoding, *auto_vacuum, *sabotage;
	bool keep_going, trace;

	int number; /* of the statement */
	int differences;
	bool sabotaged;
	char *last[LAST];
	int lines; /* that were put there */
	int64_t rows, writes, commits, busy, repeated, waits, dumps, kills;
	struct {
		int code;
		int count;
	} codes[CODES];
} d = {
	.exec = {.patience_ms = 20000},
	.gen = {.page_size = 4096, .journal = "wal", .slots = 3},
	.seed = 1,
	.statements = 1000,
	.dump_every = 250,
	.encoding = "UTF-8",
	.auto_vacuum = "NONE",
};

/* ---- telling ---- */

static void count_code(int code)
{
	int i = 0;

	while (i < CODES - 1 && d.codes[i].count && d.codes[i].code != code)
		i++;
	d.codes[i].code = code;
	d.codes[i].count++;
}

static void remember(int slot, const char *command)
{
	char *line = sqlite3_mprintf("%6d  slot %d  [%d]  %s", d.number, slot, d.plain.ext, command);

	if (d.trace)
		fprintf(stderr, "%s%s\n", line, d.plain.text.s);
	sqlite3_free(d.last[d.lines % LAST]);
	d.last[d.lines++ % LAST] = line;
}

/* A dump is long: some lines around the first that differs. */
static void tell(const char *side, const struct text *t, size_t from)
{
	enum { AROUND = 600 };
	size_t begin = from > AROUND ? from - AROUND : 0;
	int len = (int)(t->len - begin > 4 * AROUND ? 4 * AROUND : t->len - begin);

	fprintf(stderr, "  %s (result %d):%s%.*s\n", side, side[0] == 'p' ? d.plain.ext : d.fwd.ext, begin ? "\n  ..." : "", len, t->s + begin);
}

static void report(int slot, const char *command, const char *why)
{
	size_t from = 0;

	d.differences++;
	while (from < d.plain.text.len && from < d.fwd.text.len && d.plain.text.s[from] == d.fwd.text.s[from])
		from++;
	fprintf(stderr, "DIFFERENCE %s: seed %llu, statement %d, slot %d: %s\n", why, (unsigned long long)d.seed, d.number, slot, command);
	tell("plain", &d.plain.text, from);
	tell("litefwd", &d.fwd.text, from);
	fprintf(stderr, "  repeated %lld, before:\n", (long long)d.repeated);
	for (int i = d.lines > LAST ? d.lines - LAST : 0; d.differences == 1 && i < d.lines; i++)
		fprintf(stderr, "  %s\n", d.last[i % LAST]);
}

static int summary(void)
{
	printf("{\"seed\": %llu, \"statements\": %d, \"differences\": %d, \"rows\": %lld, \"writes\": %lld, \"commits\": %lld, \"busy\": %lld, "
	       "\"repeated\": %lld, \"waits\": %lld, \"dumps\": %lld, \"kills\": %lld, \"sabotaged\": %s, \"codes\": {",
	       (unsigned long long)d.seed, d.number, d.differences, (long long)d.rows, (long long)d.writes, (long long)d.commits,
	       (long long)d.busy, (long long)d.repeated, (long long)d.waits, (long long)d.dumps, (long long)d.kills,
	       d.sabotaged ? "true" : "false");
	for (int i = 0; i < CODES && d.codes[i].count; i++)
		printf("%s\"%d\": %d", i ? ", " : "", d.codes[i].code, d.codes[i].count);
	printf("}}\n");
	return d.differences ? 1 : 0;
}

/* ---- one command on both sides ---- */

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static bool same(void)
{
	return d.plain.ext == d.fwd.ext && d.plain.text.len == d.fwd.text.len && !memcmp(d.plain.text.s, d.fwd.text.s, d.fwd.text.len);
}

static void run_fwd(int slot, const char *command)
{
	/* Spilling, checkpoints and changes of the journal's mode succeed without a lock that they asked for: busy_calls knows. */
	bool patient = (d.plain.ext & 0xff) != SQLITE_BUSY && !d.plain.busy_calls;
	int64_t end = now_ms() + d.exec.patience_ms;

	for (;;) {
		slots_run(d.slots, slot, SIDE_FWD, command, patient, -1, &d.fwd);
		if (patient)
			d.waits += d.fwd.busy_calls;
		/* A BUSY that plain got at a later moment, such as the commit of one statement, is waited for, too. */
		if (d.fwd.ext != SQLITE_BUSY || d.fwd.txn_before == SQLITE_TXN_WRITE || same() || now_ms() >= end)
			return;
		/*
		 * Outside a transaction that means a snapshot that the connection still had (SQLite keeps one after INSERT OR ROLLBACK, for
		 * instance), and lets go of with this answer. So it does with BUSY: once more would be on a new one, and succeed.
		 */
		if (d.plain.ext == SQLITE_BUSY_SNAPSHOT && d.plain.txn == SQLITE_TXN_NONE && d.fwd.txn == SQLITE_TXN_NONE) {
			d.fwd.ext = d.plain.ext;
			text_clear(&d.fwd.text);
			text_add(&d.fwd.text, "%s", d.plain.text.s);
			return;
		}
		d.repeated++;
		usleep(1000);
	}
}

/* True when litefwd's side gets something else: what, is in d.other. */
static bool sabotage(const char *command, const struct gen *before)
{
	if (!d.sabotage || d.sabotaged || d.number < d.statements / 2)
		return false;
	text_clear(&d.other);
	if (!strcmp(d.sabotage, "error"))
		text_add(&d.other, "SELECT no_such_column");
	else if (!strcmp(d.sabotage, "read") && d.plain.rows && !strncmp(command, "SELECT", 6))
		text_add(&d.other, "SELECT * FROM (%s) LIMIT %u", command, d.plain.rows - 1);
	else if (!strcmp(d.sabotage, "lost") && !strcmp(command, "COMMIT") && d.plain.txn_before == SQLITE_TXN_WRITE && !d.plain.ext)
		text_add(&d.other, "ROLLBACK");
	else if (!strcmp(d.sabotage, "value") && !strncmp(command, "INSERT INTO t", 13) && d.plain.autocommit && !d.plain.ext) {
		struct gen again = *before;

		again.sabotage = true;
		for (int slot = 0; slot < again.slots; slot++) {
			again.rng = before->rng;
			gen_command(&again, slot, &d.other);
			if (!strncmp(d.other.s, command, 20) && strcmp(d.other.s, command))
				break;
			text_clear(&d.other);
		}
	}
	return d.sabotaged = d.other.len != 0;
}

static void both(int slot, const char *command, const struct gen *before)
{
	struct gen_slot *s = &d.gen.slot[slot];
	bool changed;

	slots_run(d.slots, slot, SIDE_PLAIN, command, false, -1, &d.plain);
	changed = before && sabotage(command, before);
	run_fwd(slot, changed ? d.other.s : command);
	if (strcmp(command, "#dump"))
		remember(slot, command);
	count_code(d.plain.ext);
	d.rows += d.plain.rows;
	d.busy += (d.plain.ext & 0xff) == SQLITE_BUSY;
	d.writes += d.plain.txn_before != SQLITE_TXN_WRITE && d.plain.txn == SQLITE_TXN_WRITE;
	d.commits += !strcmp(command, "COMMIT") && d.plain.txn_before == SQLITE_TXN_WRITE && d.plain.autocommit;
	s->in_txn = !d.plain.autocommit;
	s->txn = d.plain.txn;
	if (command[0] == '#' && (!strncmp(command, "#cursor", 7) || !strncmp(command, "#next", 5)))
		s->cursor = !d.plain.ext && !strstr(d.plain.text.s, " to its end");
	else if (!strcmp(command, "#end") || !strcmp(command, "#close"))
		s->cursor = false;
	if (d.plain.ext == SQLITE_ERROR) {
		const char *name = strstr(d.plain.text.s, "no such table: ");

		if (name)
			d.gen.missing[0] = name[15], d.gen.missing[1] = name[16];
	}
	if (!strcmp(command, "PRAGMA journal_mode = wal") && strstr(d.plain.text.s, "'wal'"))
		d.gen.wal = true;
	if (!same())
		report(slot, command, "of answers");
	if (changed && !strcmp(d.sabotage, "value"))
		both(slot, "#dump", NULL);
}

static void open_slot(int slot)
{
	struct text setting = {0};

	both(slot, "#open", NULL);
	for (int i = 0; text_clear(&setting), gen_setting(&d.gen, i, &setting); i++)
		both(slot, setting.s, NULL);
	text_free(&setting);
}

static void compare_content(int slot)
{
	d.dumps++;
	both(slot, "#dump", NULL);
}

/* ---- deaths ---- */

/* A hot journal waits until all readers are gone; litefwd has none. So the others end theirs before one dies. */
static void end_transactions(int except)
{
	for (int i = 0; i < d.gen.slots; i++) {
		if (i != except && d.gen.slot[i].cursor)
			both(i, "#end", NULL);
		if (i != except && d.gen.slot[i].in_txn)
			both(i, "ROLLBACK", NULL);
	}
}

static void kill_one(int slot)
{
	if (!d.gen.wal)
		end_transactions(slot);
	slots_kill(d.slots, slot);
	d.gen.slot[slot] = (struct gen_slot){.txn = -1};
	d.kills++;
	open_slot(slot);
}

static void die_if_due(void)
{
	for (int i = 0; d.die_at && d.number >= d.die_at && i < d.gen.slots; i++) {
		if (d.gen.slot[i].txn != SQLITE_TXN_WRITE || !d.gen.slot[i].in_txn)
			continue;
		fprintf(stderr, "died before statement %d, slot %d\n", d.number, i);
		if (rng_percent(&d.gen.rng, 60)) {
			text_clear(&d.command);
			gen_write(&d.gen, &d.command);
			slots_run(d.slots, i, SIDE_PLAIN, d.command.s, false, -1, &d.plain);
			slots_run(d.slots, i, SIDE_FWD, d.command.s, true, (int)rng_below(&d.gen.rng, 200), &d.fwd);
		}
		slots_kill_all(d.slots);
	}
}

/* ---- a run ---- */

/* What the file's header says: an earlier part of the run may have switched. */
static bool is_wal(const char *path)
{
	unsigned char versions[2] = {0};
	FILE *file = fopen(path, "rb");

	if (file) {
		if (fseek(file, 18, SEEK_SET) || fread(versions, 2, 1, file) != 1)
			versions[0] = 0;
		fclose(file);
	}
	return versions[0] == 2;
}

static void setup(void)
{
	struct stat plain, fwd;
	bool have_plain = !stat(d.exec.path[SIDE_PLAIN], &plain) && plain.st_size > 0;
	bool have_fwd = !stat(d.exec.path[SIDE_FWD], &fwd) && fwd.st_size > 0;
	struct answer a = {0};

	for (int side = 0; side < 2; side++) {
		if (side == SIDE_PLAIN ? have_plain : have_fwd)
			continue;
		text_clear(&d.command);
		text_add(&d.command, "PRAGMA page_size = %d|PRAGMA encoding = '%s'|PRAGMA auto_vacuum = %s|PRAGMA journal_mode = %s|CREATE TABLE base(x)",
			 d.gen.page_size, d.encoding, d.auto_vacuum, d.gen.wal ? "wal" : d.gen.journal[0] == 'm' ? "delete" : d.gen.journal);
		slots_run(d.slots, 0, side, "#open", true, -1, &a);
		for (char *sql = strtok(d.command.s, "|"); sql; sql = strtok(NULL, "|")) {
			int64_t end = now_ms() + d.exec.patience_ms;

			/* The change to WAL is a write that begins without SQLite's busy handler. */
			while (slots_run(d.slots, 0, side, sql, true, -1, &a), a.ext == SQLITE_BUSY && side == SIDE_FWD && now_ms() < end) {
				d.repeated++;
				usleep(1000);
			}
			if (a.ext) {
				fprintf(stderr, "differ: cannot create %s: %s: %s\n", d.exec.path[side], sql, a.text.s);
				exit(2);
			}
		}
		slots_run(d.slots, 0, side, "#close", true, -1, &a);
	}
	text_free(&a.text);
	d.gen.wal = is_wal(d.exec.path[SIDE_PLAIN]);
	compare_content(0);
	for (int i = 0; i < d.gen.slots; i++)
		open_slot(i);
	for (int i = 0; text_clear(&d.command), !have_plain && gen_schema(&d.gen, i, &d.command); i++)
		both(0, d.command.s, NULL);
}

static bool go_on(void)
{
	return !d.differences || (d.keep_going && d.differences < MAX_DIFFERENCES);
}

static void run(void)
{
	int slot = 0;

	setup();
	while (go_on() && d.number < d.statements) {
		struct gen before;

		d.number++;
		die_if_due();
		if (rng_percent(&d.gen.rng, 40))
			slot = (int)rng_below(&d.gen.rng, (uint32_t)d.gen.slots);
		if (d.exec.processes && rng_below(&d.gen.rng, 400) == 0)
			kill_one(slot);
		d.gen.may_switch = d.number > d.statements / 2;
		before = d.gen;
		gen_command(&d.gen, slot, &d.command);
		both(slot, d.command.s, &before);
		if (!strcmp(d.command.s, "#close") && go_on())
			open_slot(slot);
		if (d.number % d.dump_every == 0 || (d.sabotaged && !d.differences))
			compare_content(slot);
	}
	if (go_on()) {
		end_transactions(-1);
		compare_content(0);
	}
}

static void end(void)
{
	struct answer a = {0};

	for (int i = 0; i < d.gen.slots; i++)
		for (int side = 0; side < 2; side++)
			slots_run(d.slots, i, side, "#close", true, -1, &a);
	text_free(&a.text);
	slots_free(d.slots);
}

static int usage(void)
{
	fprintf(stderr, "usage: differ --plain PATH --fwd PATH [options]; see the top of differ.c\n");
	return 2;
}

enum { O_PLAIN = 256, O_FWD, O_SEED, O_STATEMENTS, O_JOURNAL, O_PAGE_SIZE, O_ENCODING, O_AUTO_VACUUM, O_CONNECTIONS, O_PROCESSES,
       O_PATIENCE, O_DIE_AT, O_SABOTAGE, O_DUMP_EVERY, O_KEEP_GOING, O_TRACE, O_DUMP };

static const struct option options[] = {
	{"plain", 1, NULL, O_PLAIN}, {"fwd", 1, NULL, O_FWD}, {"seed", 1, NULL, O_SEED}, {"statements", 1, NULL, O_STATEMENTS},
	{"journal", 1, NULL, O_JOURNAL}, {"page-size", 1, NULL, O_PAGE_SIZE}, {"encoding", 1, NULL, O_ENCODING},
	{"auto-vacuum", 1, NULL, O_AUTO_VACUUM}, {"connections", 1, NULL, O_CONNECTIONS}, {"processes", 0, NULL, O_PROCESSES},
	{"patience-ms", 1, NULL, O_PATIENCE}, {"die-at", 1, NULL, O_DIE_AT}, {"sabotage", 1, NULL, O_SABOTAGE},
	{"dump-every", 1, NULL, O_DUMP_EVERY}, {"keep-going", 0, NULL, O_KEEP_GOING}, {"trace", 0, NULL, O_TRACE}, {"dump", 1, NULL, O_DUMP}, {0},
};

int main(int argc, char **argv)
{
	const char *dump = NULL;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case O_PLAIN: d.exec.path[SIDE_PLAIN] = optarg; break;
		case O_FWD: d.exec.path[SIDE_FWD] = optarg; break;
		case O_SEED: d.seed = strtoull(optarg, NULL, 10); break;
		case O_STATEMENTS: d.statements = atoi(optarg); break;
		case O_JOURNAL: d.gen.journal = optarg; break;
		case O_PAGE_SIZE: d.gen.page_size = atoi(optarg); break;
		case O_ENCODING: d.encoding = optarg; break;
		case O_AUTO_VACUUM: d.auto_vacuum = optarg; break;
		case O_CONNECTIONS: d.gen.slots = atoi(optarg); break;
		case O_PROCESSES: d.exec.processes = true; break;
		case O_PATIENCE: d.exec.patience_ms = atoi(optarg); break;
		case O_DIE_AT: d.die_at = atoi(optarg); break;
		case O_SABOTAGE: d.sabotage = optarg; break;
		case O_DUMP_EVERY: d.dump_every = atoi(optarg); break;
		case O_KEEP_GOING: d.keep_going = true; break;
		case O_TRACE: d.trace = true; break;
		case O_DUMP: dump = optarg; break;
		default: return usage();
		}
	}
	if (dump)
		return dump_main(dump, d.trace);
	if (!d.exec.path[SIDE_PLAIN] || !d.exec.path[SIDE_FWD] || d.gen.slots < 1 || d.gen.slots > MAX_SLOTS || optind != argc)
		return usage();
	d.gen.wal = !strcmp(d.gen.journal, "wal");
	d.gen.rng.state = d.seed;
	d.slots = slots_new(&d.exec, d.gen.slots);
	run();
	end();
	return summary();
}
