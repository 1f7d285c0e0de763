/*
 * lock_table: who holds which of SQLite's lock bytes of one database, by POSIX record-lock rules.
 *
 * One owner is what FUSE calls a lock owner: a process (its connections are merged
 * by SQLite) or, for OFD locks, an open file. It decides nothing: db does.
 * Pure; the caller's lock. Errors: -ENOMEM, table unchanged.
 */
#ifndef LITEFWD_DB_LOCK_TABLE_H
#define LITEFWD_DB_LOCK_TABLE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum lock_slot {
	SLOT_PENDING,
	SLOT_RESERVED,
	SLOT_SHARED,
	SLOT_WRITE,
	SLOT_CKPT,
	SLOT_RECOVER,
	SLOT_READ0,
	SLOT_READ1,
	SLOT_READ2,
	SLOT_READ3,
	SLOT_READ4,
	SLOT_DMS,
	SLOT_HALT, /* an application's own HALT */
	SLOT_COUNT,
};

/* The files of a database that are locked. */
enum lock_file { LOCK_FILE_DATABASE, LOCK_FILE_SHM, LOCK_FILE_LOCK, LOCK_FILE_COUNT };

#define SLOT_BIT(slot) (1u << (slot))
#define SLOTS_READ (SLOT_BIT(SLOT_READ0) | SLOT_BIT(SLOT_READ1) | SLOT_BIT(SLOT_READ2) | SLOT_BIT(SLOT_READ3) | SLOT_BIT(SLOT_READ4))
#define SLOTS_DATABASE (SLOT_BIT(SLOT_PENDING) | SLOT_BIT(SLOT_RESERVED) | SLOT_BIT(SLOT_SHARED))
#define SLOTS_SHM (((1u << SLOT_COUNT) - 1) & ~SLOTS_DATABASE & ~SLOT_BIT(SLOT_HALT))
/* All slots of a file. */
uint32_t lock_file_slots(enum lock_file file);

struct lock_owner {
	uint64_t id;
	pid_t tgid;
	uint32_t shared; /* slots */
	uint32_t exclusive;
	uint64_t handle[LOCK_FILE_COUNT]; /* the last one that it locked that file through */
	/* db's own: */
	uint64_t read_seq; /* commit count when READ was granted */
	int64_t read_ns; /* and when that was */
	int64_t sent_away_ns; /* when it was last told to come again for READ; 0: it was not */
	int64_t retry_ns; /* how long it stays away then */
	uint32_t recoveries; /* times that it asked for WRITE, to recover, since it last read ... */
	int64_t recovery_ns; /* ... and when it did so first */
	int64_t write_refused_ns; /* when it was last told to come again for WRITE; 0: it has had it since */
	int64_t hold_back_ns; /* READ is not given before, unless WRITE can be had: see db_locks.c */
	bool refused; /* asked for EXCLUSIVE of a WAL database since it last read */
	bool disowned; /* see db_disown_connections_locked() */
	struct lock_owner *next;
};

struct lock_table {
	struct lock_owner *owners;
	uint16_t shared_count[SLOT_COUNT];
	struct lock_owner *exclusive[SLOT_COUNT];
};

void lock_table_init(struct lock_table *table);
void lock_table_fini(struct lock_table *table);

/* Slots that the byte range [start, end] of a file touches. */
uint32_t lock_slots(enum lock_file file, int64_t start, int64_t end);

/* Found or made (tgid is noted when made). NULL: no memory. */
struct lock_owner *lock_owner_get(struct lock_table *table, uint64_t id, pid_t tgid);
struct lock_owner *lock_owner_find(const struct lock_table *table, uint64_t id);

/* Somebody else who stands in the way, and over which slot; NULL: nobody. */
struct lock_owner *lock_conflict(const struct lock_table *table, const struct lock_owner *owner, uint32_t slots,
				 bool exclusive, enum lock_slot *ret_slot);

/* The bytes, end inclusive, around a slot that owner holds in the same way: what F_GETLK answers. */
void lock_extent(const struct lock_owner *owner, enum lock_slot slot, int64_t *ret_start, int64_t *ret_end);

/* Replaces what the owner held on these slots. No conflict may exist. */
void lock_grant(struct lock_table *table, struct lock_owner *owner, uint32_t slots, bool exclusive);

/* Returns the slots that were given up. An owner without locks stays until lock_owner_forget(). */
uint32_t lock_release(struct lock_table *table, struct lock_owner *owner, uint32_t slots);
void lock_owner_forget(struct lock_table *table, struct lock_owner *owner);

/* Owners with a shared READ lock. */
unsigned lock_readers(const struct lock_table *table);

#endif
