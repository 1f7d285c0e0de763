/*
 * wal_rig: rollback_rig's node with a database in WAL mode: clients that lock and write as SQLite does there, a LiteFS here that can be
 * gone, and an upstream that calls itself a gateway and is the scripted LiteFS' HALT (what of a gateway's HTTP is which outcome is
 * test_upstream_gateway's matter; what db makes of an outcome is not the same for a gateway).
 *
 * Must be linked with --wrap of lfs_dir_alive, lfs_files_pos, lfs_files_read, lfs_files_open_wal, lfs_files_keep_wal and
 * upstream_gateway_new.
 */
#ifndef LITEFWD_TESTS_WAL_RIG_H
#define LITEFWD_TESTS_WAL_RIG_H

#include "rollback_rig.h"

extern atomic_bool litefs_gone;
/* Called once, in the upstream worker, when the gateway's begin has just had it and nobody knows yet; then NULL again. */
extern _Atomic(void (*)(void)) gateway_begun;

int wal_lock(struct local *l, uint64_t id, enum lock_file file, short type, int64_t first, int64_t n, struct waiting *w);
int wal_shm_lock(struct local *l, uint64_t id, short type, int byte); /* waits */
void wal_open(struct local *l, uint64_t id);
void wal_die(struct local *l, uint64_t id);
void wal_read(struct local *l, uint64_t id);
void wal_begin(struct local *l, uint64_t id); /* READ and WRITE, as SQLite's busy handler */
void wal_end(struct local *l, uint64_t id);
/* Page 2, in a transaction of one frame. DB_PARKED or the result. part: only the frame's header. */
int wal_write(struct local *l, uint64_t id, uint8_t fill, bool part, struct waiting *w);
int wal_commit(struct local *l, uint64_t id, uint8_t fill);
int wal_latest(struct local *l, uint64_t id); /* first byte of page 2 in the latest snapshot */

#endif
