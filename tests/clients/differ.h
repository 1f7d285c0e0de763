/*
 * differ: one stream of random statements, run on a plain file and through litefwd, and every answer compared.
 *
 * Three parts: differ.c drives and judges, differ_gen.c invents statements, differ_exec.c runs them.
 *
 * A *slot* is one application connection: it has one SQLite connection to each side's file. All slots live in the
 * driver's process (where SQLite itself settles most conflicts between them), or each in a process of its own
 * (where the file system's locks do). The driver works strictly in lock step: one statement at a time, first on
 * the plain side, then through litefwd, so that a run is a function of its seed alone.
 *
 * Errors: what SQLite answers is data here, never an error. What the test cannot do without (memory, fork, a worker
 * that died unasked) ends the program with a message and status 2.
 */
#ifndef DIFFER_H
#define DIFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MAX_SLOTS = 8, SIDE_PLAIN = 0, SIDE_FWD = 1 };

/* ---- text that grows ---- */

struct text {
	char *s;
	size_t len, cap;
};

void text_add(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_clear(struct text *t);
void text_free(struct text *t);

/* ---- randomness: splitmix64, the same on every machine ---- */

struct rng {
	uint64_t state;
};

uint64_t rng_next(struct rng *r);
uint32_t rng_below(struct rng *r, uint32_t below);
bool rng_percent(struct rng *r, uint32_t percent);

/* ---- running (differ_exec.c) ---- */

/*
 * A command is SQL, or one of
 *   #open, #close     the slot's connection
 *   #cursor SQL       a statement that stays open; #next N rows of it; #end
 *   #checkpoint MODE  sqlite3_wal_checkpoint_v2; only its result code counts
 *   #dump             all content and the header's settings, by a connection of its own
 */
struct answer {
	int ext; /* extended result code, SQLITE_OK for rows and done */
	bool autocommit; /* after the command */
	int txn_before, txn; /* enum of sqlite3_txn_state */
	uint32_t busy_calls; /* of the busy handler */
	uint32_t rows;
	bool dead; /* the worker was killed by this command; nothing else is valid */
	struct text text; /* all that is compared, as text */
};

struct exec_options {
	const char *path[2];
	bool processes; /* each slot in a process of its own */
	int patience_ms; /* busy handler's bound while the other side has succeeded */
};

struct slots;

struct slots *slots_new(const struct exec_options *options, int count);
/*
 * patient: SQLite's busy handler waits, up to the bound. kill_after: >= 0, SIGKILL to the running process after that many
 * steps of SQLite's machine (or behind the command, if it is shorter). The answer's text is reused call by call.
 */
void slots_run(struct slots *slots, int slot, int side, const char *command, bool patient, int kill_after, struct answer *a);
void slots_kill(struct slots *slots, int slot); /* its process by SIGKILL; a new one, not open. Only with processes */
void slots_kill_all(struct slots *slots); /* every process and then this one, by SIGKILL */
void slots_free(struct slots *slots);

/* #dump for any path; prints it. */
int dump_main(const char *path, bool verbose);

/* ---- inventing (differ_gen.c) ---- */

struct gen_slot {
	bool in_txn; /* BEGIN or SAVEPOINT without its end */
	bool cursor;
	int txn; /* as sqlite3_txn_state said */
};

struct gen {
	struct rng rng;
	bool sabotage; /* values come out different, everything else as before */
	int page_size;
	bool wal;
	const char *journal; /* delete, truncate, persist; mix: any of them */
	bool may_switch; /* rollback to WAL, sometimes */
	char missing[2]; /* kind and number of a table or view that a statement did not find */
	int slots;
	struct gen_slot slot[MAX_SLOTS];
};

/* Next command of a slot. */
void gen_command(struct gen *g, int slot, struct text *out);
/* The i-th command behind #open; false when there are no more. */
bool gen_setting(struct gen *g, int i, struct text *out);
/* The i-th statement of the schema at the start. */
bool gen_schema(struct gen *g, int i, struct text *out);
void gen_write(struct gen *g, struct text *out); /* INSERT, UPDATE or DELETE */

#endif
