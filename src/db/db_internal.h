/*
 * db_internal: the state of one database, shared by the db_*.c files and nobody else.
 *
 * One mutex, `mu`, guards everything below it. Never held across LiteFS (files, guard),
 * HTTP or notify. Who touches LiteFS' locks owns the token (`token`), one worker at a time.
 *
 * Workers
 *   guard worker G     takes and gives the readers' guard, validates, folds, resets, drains,
 *                      lets LiteFS in, answers parked calls whose time is over
 *   upstream worker U  begin, commit, end
 *
 * Lock order: fuse request -> mu -> libfuse session. The token is taken without mu held
 * (token_enter waits on a condition) and never by the FUSE thread.
 *
 * Invariants (cited as I1.. where they are kept)
 *   I1  A READ lock is granted only while the guard is held and the view is valid, or in the
 *       window (our own commit is being replicated back).
 *   I2  view(p) = undo[p], else LiteFS' page, for every p <= base_pages, at any position LiteFS
 *       can have while I1's readers are there: tip, or `pending` once it was sent.
 *   I3  base changes only while nobody reads and nobody writes: reset, fold.
 *   I4  undo holds a page before the LTX that overwrites it is sent.
 *   I5  WRITE is granted only while upstream is held and its position is tip.
 *   I6  tip moves only in commit_done() and in reset.
 *   (LiteFS' files are closed only with the token held and files_users 0.)
 *   I7  poison: no read succeeds until every reader has left; then reset.
 */
#ifndef LITEFWD_DB_DB_INTERNAL_H
#define LITEFWD_DB_DB_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "base/log.h"
#include "db/db.h"
#include "db/db_metrics.h"
#include "db/lock_table.h"
#include "db/page_set.h"
#include "db/seen_states.h"
#include "db/vjournal.h"
#include "db/vwal.h"
#include "db/walindex.h"
#include "litefs/guard.h"
#include "litefs/upstream.h"

/*
 * PARK_HALT: an application's own HALT. PARK_AGAIN: a journal write that waits for upstream (locking_mode EXCLUSIVE).
 * PARK_LOCK: F_SETLKW, while others hold what it wants; the rest wait for LiteFS or upstream.
 */
enum park_kind { PARK_READ, PARK_WRITE, PARK_COMMIT, PARK_AGAIN, PARK_HALT, PARK_LOCK };

/* How a rollback journal ends, when its transaction is committed; JOURNAL_KEPT: its super-journal ends instead. */
enum journal_end { JOURNAL_KEPT, JOURNAL_REMOVED, JOURNAL_TRUNCATED, JOURNAL_ZEROED };

/*
 *   IDLE --want_begin--> BEGIN --> HELD --commit frame--> COMMIT --> HELD ... --> END --> IDLE
 *                          |--> IDLE (not had)
 *                          `--> PUBLISH (what begin brought) --> HELD
 */
enum up_state { UP_IDLE, UP_BEGIN, UP_PUBLISH, UP_HELD, UP_COMMIT, UP_END };

struct db_stats {
	uint64_t commits_remote, commits_self, commits_gateway, commits_empty;
	uint64_t gateway_commits; /* of other nodes, here */
	uint64_t bundles, bundle_transactions, refreshes, lends;
	uint64_t refused, not_committed, unknown;
	uint64_t verdicts_committed, verdicts_not_committed, verdicts_none; /* of unknowns, later */
	uint64_t begins, begin_failed, renewals, catchups, catchups_failed;
	uint64_t busy_write, busy_away, busy_read, busy_gate;
	uint64_t resets, folds, mends, gates, gates_failed, poisons, checkpoints;
	uint64_t guard_taken, guard_waits, window_reads;
	uint64_t pages_sent, bytes_sent;
	uint64_t begin_ns, prepare_ns, send_ns, replicate_ns; /* sums over successful commits (begins) */
	uint64_t tx[DB_PATHS][DB_TX_OUTCOMES]; /* what became of transactions that had something to say */
	uint64_t histories_lost;
};

/* What a commit is at. */
enum commit_phase { PHASE_NONE, PHASE_BUILD, PHASE_SEND, PHASE_REPLICATE, PHASE_DECIDE };

/* What became of a transaction, as its client is told. Not an error: UNKNOWN is made one at the edge alone (db_commit()). */
enum verdict { VERDICT_COMMITTED, VERDICT_NOT_COMMITTED, VERDICT_UNKNOWN };

/* VERDICT_UNKNOWN was the answer; the verdict is looked for when LiteFS here has passed its TXID. */
struct db_unknown {
	struct pos after;
	uint64_t node_id;
	int64_t timestamp_ms;
	bool here; /* sent to this node's LiteFS: its file here proves nothing as long as the node may yet be found demoted */
	bool drop;
};
#define UNKNOWNS_MAX 32

/* Another node that has committed lately, by the NodeID of its LTX files. */
struct db_peer {
	uint64_t node_id;
	int64_t seen_ns;
};
#define PEERS_MAX 8
#define PEER_RECENT_NS (1500 * NS_PER_MS)

struct db_process {
	pid_t tgid;
	unsigned opens;
	bool has_read; /* in a rollback mode: it has a page cache */
	bool stale; /* its page caches may be of a history that is no more: it reads nothing until it has closed them all */
	struct db_process *next;
};

/* Another node that writes here (db_session.c). */
struct db_session {
	uint64_t id, peer;
	bool held, committing, ended;
	int64_t until_ns; /* of its wait */
	int64_t lease_ns; /* of what it holds: until then */
	struct db_gw_call *call; /* of the wait, or of the commit */
	struct db_session *next; /* in order of arrival */
};

struct db_party {
	uint64_t peer;
	uint64_t served; /* commits, in db's count */
	int64_t seen_ns;
};
#define PARTIES_MAX 16

/* Positions before tip that LiteFS may still be at. */
#define BEHIND_MAX 256
#define BEHIND_WAIT_NS (10 * NS_PER_S)

struct db {
	const struct db_config *config; /* borrowed */
	char name[NAME_DB_MAX + 1];
	void *notify_ctx;

	pthread_mutex_t mu;
	pthread_cond_t g_cond, u_cond; /* the workers */
	pthread_cond_t changed; /* token free, window closed, files unused, readers gone */
	pthread_t g_thread, u_thread;
	bool g_rests, u_rests; /* it waits for work, and for nothing else */
	bool g_called, u_called; /* db_alive() waits for it to come round */
	bool stop;
	int64_t stop_ns; /* since when */

	/* LiteFS */
	struct lfs_files files;
	struct lfs_ident ident; /* of the file that `files` stands for */
	bool files_ok;
	unsigned files_users;
	struct guard guard;
	bool token;
	/*
	 * LiteFS has no such database: an empty one, which needs no guard, and which `files` does not stand for
	 * (files_ok is false). The first commit creates it. created: it was made here, and is listed.
	 */
	bool absent, created;
	struct db_call *drop_call;

	/* the view */
	enum db_mode mode;
	enum db_mode told_mode; /* what the kernel's entries for "-wal" and "-shm" say */
	bool valid; /* the position was tip after the guard was taken, and no reset or fold is under way */
	bool restarting; /* a reset or fold is under way: no claims of read marks */
	int64_t restarted_ns; /* when the wal-index header was last made anew */
	bool spoiled; /* the kernel's pages may hold what was refused: G drops them */
	bool rebuild; /* what base..tip stands on is lost: begin anew even where the position has not moved */
	uint32_t page_size;
	struct pos base, tip;
	uint32_t base_pages, tip_pages;
	struct page_set undo;
	struct vwal wal;
	struct walindex index;
	struct page_map tip_frames; /* pages committed since base: the frame of the last image, which is LiteFS' page at tip */
	/* Rollback mode: the transaction that is being written (see db_rollback.c). */
	struct seen_states seen;
	bool writing;
	struct page_set overlay;
	uint32_t overlay_pages; /* size of the database as its writer sees it */
	struct vjournal journal;
	bool between; /* RESERVED is held over from the last transaction (locking_mode EXCLUSIVE): upstream may be given back */
	bool switching; /* committed a change to WAL mode: begin anew as soon as nobody reads, and let nobody in before */
	enum journal_end journal_end; /* of the commit in progress */
	uint64_t commit_seq;
	struct timespec changed_at; /* wall clock of tip */
	int64_t committed_ns; /* of the last commit here */
	bool want_fold; /* somebody looks at the database file itself */
	bool fold_in_vain; /* while nobody was here LiteFS has moved on: the next reader's view begins anew */
	uint8_t *scratch; /* one page, under mu */

	/* locks of clients */
	struct lock_table locks;
	struct db_process *processes;
	struct db_call *parked;
	bool gate_closed;
	bool poison;
	bool must_fold; /* the header in the clients' memory is not that of what is committed: nobody may write on it */
	bool unpublished; /* and all that is missing is its writer's part (it died after our commit): G publishes it under readers that stay */

	/* guard */
	bool guard_held;
	uint64_t guard_epoch; /* +1 whenever it is taken or given */
	int64_t guard_since_ns, idle_since_ns, gap_until_ns, gate_retry_ns;
	int gate_failures;
	int64_t returning_until_ns; /* see db_expect_return_locked() */
	bool reader_warned;
	bool want_guard, want_gap, need_ckpt;
	bool window; /* the guard is away, our own commit may come */
	bool lending; /* a window in which no commit of ours is on its way: new readers wait for its end */
	struct pos pending; /* in the window: the position after it */
	unsigned ckpt_failures; /* in a row */
	struct api *local_api; /* G's: checkpoint of LiteFS' WAL on the primary */

	/* upstream */
	enum up_state up_state;
	struct upstream *remote, *self;
	struct upstream *own; /* HALT on this node's LiteFS: creates databases where this node is the primary */
	struct upstream *up; /* the one that is in use; NULL when idle */
	bool up_is_self;
	bool up_rollback; /* self: holds RESERVED and PENDING, not WRITE */
	struct pos up_pos; /* begin's answer, then each commit's */
	int64_t rtt_ns;
	unsigned turns; /* full ones */
	int64_t long_pause_ns; /* the last pause, or time without a turn, that suffices for the longest waiter */
	bool long_gap; /* and the gap of the guard that goes with it is still to come */
	/* Commits of this turn, how many it may have (see set_quota), and where the last one ended. */
	uint32_t turn_commits, turn_quota;
	uint64_t turn_end_txid;
	int64_t turn_end_ns;
	bool settling; /* U gives back what the last commit needed; its client has its answer */
	bool want_begin, catching, doomed, end_wanted;
	bool away; /* the last begin found nobody: begins go on, but nobody waits for them */
	bool renewing; /* UP_HELD, but just now between two locks */
	bool yielding; /* the pause is for other nodes that were seen committing, on the primary */
	bool committed_in_hold; /* since WRITE was granted */
	int64_t hold_since_ns, hold_end_ns, hold_span_ns, up_idle_since_ns, keep_until_ns, pause_until_ns, begin_retry_ns;
	struct db_call *commit_call;
	uint32_t commit_frame;

	struct db_peer peers[PEERS_MAX];

	/* Gateway: other nodes' sessions here ... */
	struct db_session *sessions, *holder, *commit_session;
	struct db_party parties[PARTIES_MAX];
	uint64_t turns_start; /* what the party whose turn it is had been served when that began */
	uint64_t turn_peer;
	uint32_t turn_count;
	int64_t turn_since_ns, writer_sent_away_ns;
	int64_t local_until_ns; /* this node's clients have their turn, and are waited for until then */
	uint32_t append_frame; /* U's, while it appends what no client wrote */
	/* ... and this node's at the primary's. */
	struct upstream *gateway; /* NULL: none is configured */
	int64_t gateway_retry_ns;
	bool want_lend; /* a reader stays while LiteFS changes its role, for which it wants our locks */
	int64_t role_changed_ns;
	bool want_refresh; /* a reader stays, and keeps LiteFS here from applying what others write */
	int64_t refresh_retry_ns;
	bool turn_over; /* the gateway says that others wait, and this node has had its turn */
	/*
	 * LiteFS here may not have applied yet what came with begin's answer and is in the virtual WAL already: the positions, in order,
	 * that it may be at besides tip. All that lies between them is in tip_frames and undo.
	 */
	struct pos behind[BEHIND_MAX];
	unsigned behind_count;
	int64_t behind_lost_ns; /* since when a view that was lost waits for LiteFS to come to tip; 0: none */

	/* transactions whose outcome was not known when their clients were answered, oldest first */
	struct db_unknown unknowns[UNKNOWNS_MAX];
	unsigned unknown_count;
	struct pos sent; /* the last one that was built (its `after`) ... */
	int64_t sent_timestamp_ms; /* ... and its timestamp: db_timestamp_ms() */

	/* U's, while it commits */
	struct spool ltx;
	enum db_tx_outcome tx_outcome; /* DB_TX_OUTCOMES: there was nothing to send */

	struct db_stats stats;
	/* For db_status(): where LiteFS here was last seen, and the primary at our last begin or commit; TXID 0: not seen. */
	struct pos litefs_pos, primary_pos;
	int64_t away_ns; /* when a begin last found nobody; 0: not since the role changed or one was had */
	int64_t commit_since_ns;
	/* U's, read by others at any time: the commit in progress. */
	_Atomic(enum commit_phase) phase;
	_Atomic uint64_t upload_size, upload_sent; /* bytes of its LTX file, and those that HTTP has taken */
};

/* Tunables that no option names. */
#define GUARD_IDLE_NS (2 * NS_PER_MS)
/* SQLite's longest sleep between two tries for READ is 323 ms. */
#define RETRY_SLEEP_MAX_NS (330 * NS_PER_MS)
#define GUARD_HOLD_MAX_NS (50 * NS_PER_MS)
/* Every so often a pause that suffices for a waiter that LiteFS looks after only every 50 ms by now. */
#define LONG_PAUSE_EVERY 8
#define LONG_PAUSE_NS (60 * NS_PER_MS)
/* And this often where turns are short, but one node's lingering always meets another's waiting. */
#define LONG_PAUSE_PERIOD_NS NS_PER_S
#define LONE_GAP_NS (6 * NS_PER_MS)
#define GATE_WAIT_NS (120 * NS_PER_MS)
#define CATCHUP_WAIT_NS (400 * NS_PER_MS)
#define READ_PARK_NS (250 * NS_PER_MS)
#define READ_PARK_SINGLE_NS NS_PER_S
/* After so many vain checkpoints a direct reader is in the way, perhaps for ever: an error is better than silence. */
#define CKPT_PATIENCE 5
#define WRITE_PARK_SINGLE_NS (60 * NS_PER_MS)
#define WRITE_PARK_CREATE_NS (2 * NS_PER_S)
#define UPGRADE_NS (5 * NS_PER_MS)
#define WRITE_PARK_UPGRADE_NS NS_PER_S
#define WRITE_PARK_MIN_NS (3 * NS_PER_MS)
/* READ of who waits for WRITE in a queue of turns: with several connections, with one; and how long it counts as such. */
#define HOLD_BACK_NS (10 * NS_PER_MS)
#define HOLD_BACK_SINGLE_NS (60 * NS_PER_MS)
#define HOLD_BACK_RECENT_NS (150 * NS_PER_MS)
/* Of the self upstream, while sessions are there and no node that uses HALT is known. */
#define HOLD_LONE_NS NS_PER_S
#define WRITE_PARK_MAX_NS (20 * NS_PER_MS)
#define RECOVERIES_MAX 3
#define RECOVERY_NS (20 * NS_PER_MS)
#define GONE_WAIT_NS (2 * NS_PER_S)
#define REFRESH_NS (250 * NS_PER_MS)
/* What a commit in progress has, when the program ends, to find out that it was replicated. */
#define STOP_GRACE_NS (2 * NS_PER_S)
#define KEEP_NS (200 * NS_PER_MS)
#define FOLD_FRAMES 1000
/* After a fold each connection drops what it has cached: not before the writers have rested for so long. */
#define FOLD_IDLE_NS NS_PER_S
#define FOLD_RETRY_NS (50 * NS_PER_MS)
#define FOLD_BYTES (1u << 20)

/* db.c */
bool db_is_over(const struct db *db); /* stop, and its grace is over; without mu */
unsigned db_readers_locked(const struct db *db);
struct lock_owner *db_writer_locked(const struct db *db); /* holds WRITE, or RESERVED in a rollback mode */
enum lock_slot db_write_slot_locked(const struct db *db);
bool db_is_publishing_locked(const struct db *db); /* a commit, or what else gives the clients new pages, is under way */
bool db_reader_claims_locked(const struct db *db); /* somebody holds READ1..4 exclusively, to set its mark */
bool db_single_locked(const struct db *db, pid_t tgid); /* the process has at most one connection */

/* The two workers' wait for work, until next_ns; they come round when db_alive() calls. mu held, let go while waiting. */
void db_guard_rest_locked(struct db *db, int64_t next_ns);
void db_upstream_rest_locked(struct db *db, int64_t next_ns);

/* LiteFS' files may be used until files_put(); -ENOTCONN while LiteFS is gone. */
int db_files_get_locked(struct db *db);
void db_files_put_locked(struct db *db);
/* I7: who reads now gets errors until everybody has let go; then the view begins anew. */
void db_poison_locked(struct db *db);
/* A call to LiteFS failed in a way that means that it is gone. */
void db_files_gone_locked(struct db *db, int err);

/* Opens LiteFS' files of the database, and notes which file that is. mu not held. */
int db_files_open(struct db *db, struct lfs_files *ret, struct lfs_ident *ret_ident);
/* True if the name still stands for the file that is open. mu not held. */
bool db_files_current(struct db *db);

/* mu held; it is let go while waiting. token_leave with mu held too. */
void db_token_enter_locked(struct db *db);
void db_token_leave_locked(struct db *db);

/* db_status.c */
void db_measure(struct histogram *histogram, int64_t ns); /* histogram: of config->metrics, or NULL */
/* One of config->metrics, or NULL. */
#define DB_HISTOGRAM(db, which) ((db)->config->metrics ? &(db)->config->metrics->which : NULL)
enum db_path db_path_of(const struct upstream *up);
void db_set_phase(struct db *db, enum commit_phase phase); /* U's */
/* Counted and measured: the commit that ends. */
void db_note_tx_locked(struct db *db, bool served);

/* db_park.c */
void db_park_locked(struct db *db, struct db_call *call, enum park_kind kind, uint64_t owner, uint32_t slots,
		    int64_t deadline_ns);
void db_answer_reads_locked(struct db *db); /* those that can be granted now are; others stay */
void db_send_writers_away_locked(struct db *db); /* those that come again by themselves: -EAGAIN */
void db_answer_writes_locked(struct db *db, int result); /* 0: the first that may; else all */
void db_answer_locks_locked(struct db *db); /* after locks were released or downgraded */
void db_expire_locked(struct db *db, int64_t now_ns, int64_t *next_ns);

/* db_locks.c */
void db_session_unlock_locked(struct db *db, uint64_t id);
/* WRITE, when db_write_request_locked() or its like has found that it may be given: to a client here, or a session. */
void db_grant_write_locked(struct db *db, struct lock_owner *owner);
/* It was told BUSY, and comes again. owner NULL: it is gone. */
void db_note_refused_write_locked(struct db *db, struct lock_owner *owner);
int db_lock_request_locked(struct db *db, const struct db_lock *lock, struct db_call *call);
int db_read_request_locked(struct db *db, struct lock_owner *owner, uint32_t slots, bool parked);
int db_write_request_locked(struct db *db, struct lock_owner *owner);
bool db_is_upgrading_locked(const struct db *db, const struct lock_owner *owner);
int db_halt_request_locked(struct db *db, struct lock_owner *owner);

/*
 * READ was granted over a header that is newer than the one the reader has looked at: SQLite gives it back and comes
 * again, having slept for up to 0.3 s if it was refused before. The guard is kept for it, or it finds
 * yet another header then, and sleeps longer, for ever [seen: seven seconds beside two nodes that took turns].
 */
void db_expect_return_locked(struct db *db, struct lock_owner *owner);

/* db_turns.c */
bool db_session_is_next_locked(struct db *db); /* rather than this node's clients */
void db_local_writer_locked(struct db *db); /* WRITE is granted to a client of this node ... */
void db_local_writer_left_locked(struct db *db); /* ... or was given back by whomever */
bool db_local_turn_over_locked(struct db *db);
void db_note_turn_commit_locked(struct db *db);
void db_turn_start_locked(struct db *db, uint64_t peer);
bool db_turn_is_over_locked(const struct db *db);
bool db_locals_wait_locked(const struct db *db);
struct db_session *db_next_session_locked(struct db *db); /* the one that waits and was served least; of equals the first that came */
uint32_t db_count_waiting_locked(const struct db *db); /* sessions */

/* db_session.c. "offer": gives WRITE to the session whose turn it is, if it can be had now; true if one has it. */
bool db_offer_session_locked(struct db *db);
void db_refuse_sessions_locked(struct db *db, int result); /* those that wait */
void db_end_holder_locked(struct db *db); /* before LiteFS' WRITE is given back */
void db_tick_sessions_locked(struct db *db, int64_t now_ns, int64_t *next_ns);
void db_stop_sessions_locked(struct db *db);
/* U, around the answer to a commit. */
void db_end_session_commit_locked(struct db *db, struct db_session *session, enum verdict verdict);
void db_end_session_locked(struct db *db, struct db_session *session);

/* Nobody writes before G has folded, or (must_publish) has done what a writer left undone. */
void db_must_fold_locked(struct db *db);
void db_must_publish_locked(struct db *db);

/* db_publish.c: U; mu not held but where the name says so. */
/* G: publishes what is committed, while must_fold keeps everybody from writing. mu is let go. */
void db_mend_locked(struct db *db);
enum verdict db_commit_foreign(struct db *db, int *ret_reason); /* the LTX of commit_session; reason: where it is NOT_COMMITTED */
/* What begin brought: checked, in the virtual WAL, published. 0: tip is the grant's position. up_state is UP_PUBLISH. */
int db_publish_bundle(struct db *db, const struct upstream_grant *grant);
/*
 * While upstream is held nothing but what the clients have already can come: the guard goes, LiteFS applies up to tip under the
 * undo, and the guard is taken back. Readers go on.
 */
void db_let_litefs_catch_up(struct db *db);
/* LiteFS' position is tip, or one that it passes through on its way there; what it has passed is forgotten. */
bool db_pos_fits_locked(struct db *db, struct pos pos);

/* db_rollback.c */
/* Rollback mode: this is page 1 at tip now. */
void db_note_state_locked(struct db *db, const uint8_t *page1);
/* Whoever has the database open in a rollback mode may take an old page cache for a new one. */
void db_mark_stale_locked(struct db *db);
uint32_t db_database_pages_locked(const struct db *db);
/* The transaction in progress is lost: its journal is, too, and who reads gets errors until it lets go. */
void db_drop_transaction_locked(struct db *db);
void db_finish_journal_locked(struct db *db, enum journal_end end);

/* db_life.c */
/* WAL mode has ended under open connections: their locks mean nothing any more, and they read nothing until they close. */
void db_disown_connections_locked(struct db *db);
/*
 * A database that LiteFS did not have: has it now? Token held, mu not. 0: yes, and its files are open;
 * -ENOENT: still not; else LiteFS is gone. In the window already, where a commit of ours creates it.
 */
int db_appear(struct db *db, bool in_window);

/* LiteFS here is neither primary nor connected to one. Takes no lock of db's. */
bool db_role_moves(struct db *db);
void db_lend_guard(struct db *db); /* up_state is UP_PUBLISH, the guard is held */
/* The name has nothing behind it any more: an empty database, and no reader of it was there. */
void db_vanish_locked(struct db *db);
/* LiteFS' position after a drop: that of an empty database. */
bool db_pos_is_empty(struct pos pos);
void db_drop(struct db *db); /* U; mu held, let go inside */

/* db_guard.c, db_view.c: G */
int db_give_guard_locked(struct db *db); /* and U, before a drop. -EBUSY: readers are there */
int db_take_guard_locked(struct db *db); /* and U, for a session. mu is let go. Valid is what says so after it */
void *db_guard_main(void *arg);
int db_reset(struct db *db, struct pos pos); /* mu not held, guard held, nobody reads */
int db_fold(struct db *db);
int db_look_at_pos_locked(struct db *db, struct pos *ret); /* LiteFS' here, without its locks. mu is let go */
bool db_fold_wanted_locked(const struct db *db);

/* db_upstream.c, db_commit.c: U */
void db_note_peer(struct db *db, uint64_t txid); /* mu not held: who committed this foreign transaction? */
bool db_hold_is_over_locked(const struct db *db, int64_t now_ns); /* what is held upstream is for others now */
int db_peers_locked(const struct db *db, int64_t now_ns); /* nodes that committed lately */
void *db_upstream_main(void *arg);
void db_commit(struct db *db); /* mu held; let go inside */
/* What is held has too little time left for a transaction of this size, and a fresh lock would do: takes one. 0: go on. */
int db_renew_for_locked(struct db *db, uint64_t size);

/* db_outcome.c */
/* Remembered, counted, logged. */
void db_note_unknown_locked(struct db *db, const struct db_unknown *unknown);
/*
 * LiteFS here stands at pos: of which unknowns is the verdict to be had by now? Each is logged once and forgotten. mu is let go.
 * absent: LiteFS has no such database, so only a drop can have a verdict.
 */
void db_report_unknowns_locked(struct db *db, struct pos pos, bool absent);
/* At the end of the program: the last look, and what stays open is said. */
void db_give_up_unknowns_locked(struct db *db);
/*
 * Wall time for the LTX file that leads to `after`. Evidence knows a transaction of ours by node id, TXID and timestamp: no two
 * that were ever tried with one TXID have the same, whatever the clock does.
 */
int64_t db_timestamp_ms(struct db *db, struct pos before);

/* The header of the LTX file of this transaction in LiteFS' data directory; -ENOENT, ... */
struct ltx_header;
int db_ltx_header(struct db *db, uint64_t txid, struct ltx_header *ret);

/* True if the LTX file of this transaction in LiteFS' data directory is that one. 1, 0, or negative errno: cannot tell. */
int db_ltx_is_of(struct db *db, uint64_t txid, uint64_t node_id, int64_t timestamp_ms);

#endif
