/*
 * rollback_rig: one node for tests of db in rollback mode: a scripted primary, a LiteFS directory of ordinary files
 * that a thread changes as LiteFS does (under exclusive locks, pages first, then the position; a database appears
 * with its first transaction and goes with one without pages), and clients that lock and write as SQLite does.
 *
 * Each test case makes one with rig_new(). Threads: the test's own. Whatever fails aborts the case.
 * Must be linked with -Wl,--wrap=lfs_dir_alive: the directory is no mount, so `alive` says what that would find.
 */
#ifndef LITEFWD_TESTS_ROLLBACK_RIG_H
#define LITEFWD_TESTS_ROLLBACK_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/clock.h"
#include "db/db.h"
#include "db/super_table.h"
#include "fake/fake_litefs.h"
#include "format/ltx.h"
#include "format/sqlite_format.h"

#define PRIMARY UINT64_C(0xAAAA000000000001)
#define OURS UINT64_C(0xFEDCBA9876543210)
#define PAGE 4096
#define PAGES 4 /* of a database at the beginning: page 1, and three of 'a' */
#define LONG_NS (20 * NS_PER_S) /* a bound that no passing test reaches */

struct role {
	pthread_mutex_t mutex;
	struct role_state state;
};

struct rig;

/* A database as the local LiteFS has it; descriptors are -1 where it does not. */
struct local {
	struct rig *rig;
	char name[16];
	int db_fd, shm_fd, pos_fd;
	struct pos pos; /* of a dropped one, too */
	uint8_t *ltx; /* to be applied */
	size_t ltx_len;
	struct queued *queue; /* and after it */
	struct db *db;
};

struct rig {
	char dir[40];
	struct fake *primary;
	struct role role;
	struct settings settings;
	struct db_config config;
	struct local a, b; /* app.db; two.db, where a test wants a second one */
	pthread_t applier;
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	bool stop, hold;
	bool wal; /* databases that are made are in WAL mode */
	int answer_delay_ms; /* the primary's LiteFS has applied a transaction, and says so later */
	atomic_uint received; /* transactions by the primary */
	unsigned applied;
	char events[4000];
};

/* create: app.db is there; else LiteFS has no database, and nothing is opened. */
struct rig *rig_new(bool create);
void rig_free(struct rig *rig);
/* Another database; as_new: LiteFS does not have it. */
void rig_open(struct rig *rig, struct local *l, const char *name, bool as_new);
/* LiteFS has it, and it is not opened. */
void rig_make(struct rig *rig, struct local *l, const char *name);
/* This node is the primary: what is sent is applied in the call. */
void rig_make_primary(struct rig *rig);

/* WAL mode: a direct client of this node's LiteFS writes. */
void rig_lock_write(struct local *l, bool yes);

/* LiteFS applies nothing meanwhile. */
void rig_hold(struct rig *rig, bool yes);
void rig_wait_applied(struct rig *rig, unsigned n);
/* Comes over the stream after what is there already. */
void rig_queue(struct local *l, const uint8_t *ltx, size_t len);
void rig_forget_queue(struct local *l); /* it never comes */
/* A transaction of another node: page 2 (and where not in WAL mode page 1) filled with `fill`. To this node only where `here`. */
void rig_foreign(struct local *l, uint8_t fill, bool here);
/* The LTX file of such a transaction upon what LiteFS has here, appended. */
void rig_make_ltx(struct local *l, uint8_t fill, struct spool *ret);
void rig_drop_here(struct local *l); /* by another node */
/* A database of that name, made by another node: page 1 and page 2 filled. */
void rig_create_here(struct local *l, uint8_t fill);
struct pos rig_pos(struct local *l);
/* LiteFS' own file: first byte of a page (they are all of one), -1 beyond its end; its size in pages; is its checksum the position's? */
int rig_file(struct local *l, uint32_t pgno);
uint32_t rig_file_pages(struct local *l);
bool rig_is_exact(struct local *l);
void rig_take_events(struct rig *rig, char ret[4000]);
long long rig_stat(struct local *l, const char *key);
bool rig_wait_idle(struct local *l); /* nothing is held upstream */

/* ---- a parked call ---- */

struct waiting {
	struct db_call call;
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	bool done;
	int result;
};
void waiting_init(struct waiting *w);
bool is_done(struct waiting *w);
int await(struct waiting *w);
int settled(int result, struct waiting *w); /* the call's result, waited for if it was parked */

/* ---- clients: each is one process with one connection ---- */

void client_open(struct local *l, uint64_t id);
void client_die(struct local *l, uint64_t id); /* all that the kernel does when it is killed */
int client_lock(struct local *l, uint64_t id, short type, int64_t first, int64_t n, struct waiting *w);
int client_try_shared(struct local *l, uint64_t id);
void client_shared(struct local *l, uint64_t id);
void client_reserved(struct local *l, uint64_t id); /* SHARED too; as SQLite's busy handler */
int client_try_exclusive(struct local *l, uint64_t id);
void client_unlock(struct local *l, uint64_t id);
/* A journal with one record, and `super` at its end unless NULL. */
int client_journal(struct local *l, uint64_t id, const char *super);
/* And page 1 with it, whose change counter rises; written back as LiteFS has it, the counter is, too: a rollback. */
int client_write(struct local *l, uint64_t id, uint32_t pgno, uint8_t fill);
int client_write_page1(struct local *l, uint64_t id, uint32_t page_size, int version);
/* Page 1, which says how many pages there are to be. */
int client_write_size(struct local *l, uint64_t id, uint32_t pages);
/* First byte of a page as the client reads it: all of it is one byte (but page 1's). -errno; -1 at the end. */
int client_read(struct local *l, uint64_t id, uint32_t pgno);

enum ending { UNLINKED, TRUNCATED, ZEROED, ENDINGS };
/* DB_PARKED or the result. */
int client_start_end(struct local *l, uint64_t id, enum ending ending, struct waiting *w);
int client_end(struct local *l, uint64_t id, enum ending ending);

/* From nothing to the state named; the last is that of a commit under way, of which *w says the result. */
enum stage { NOTHING, SHARED, RESERVED, CREATED, HOT, EXCLUSIVE, WRITTEN, COMMITTING };
void client_advance(struct local *l, uint64_t id, enum stage stage, uint8_t fill, struct waiting *w);
/* A transaction that must succeed. */
void client_commit(struct local *l, uint64_t id, uint8_t fill);

#endif
