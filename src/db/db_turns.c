/*
 * Whose turn it is to write, on the primary of a gateway. Parties are this node's clients (peer 0) and each other node.
 * Whoever was served least is next, counted in commits from when it began to wait (start-time fair queueing); it keeps WRITE for
 * TURN_COMMITS commits or TURN_NS while others wait, for each change of hands costs the next one a round trip and its clients
 * a new snapshot. The turn of this node's clients begins when WRITE can be had, and is kept for them for a while: who was
 * told to come again sleeps meanwhile.
 */
#include "db/db_internal.h"

#define TURN_COMMITS 64
#define TURN_NS (120 * NS_PER_MS)
/* A client of this node that was sent away is still there for so long: SQLite sleeps 100 ms at most, and is held back before and after. */
#define LOCAL_RECENT_NS (150 * NS_PER_MS)
/* What its turn waits for one of them to come again. */
#define LOCAL_KEEP_NS (40 * NS_PER_MS)

static struct db_party *party_of(struct db *db, uint64_t peer)
{
	struct db_party *oldest = &db->parties[0];

	for (int i = 0; i < PARTIES_MAX; i++) {
		struct db_party *p = &db->parties[i];

		if (p->peer == peer && p->seen_ns) {
			p->seen_ns = clock_now_ns();
			return p;
		}
		if (p->seen_ns < oldest->seen_ns)
			oldest = p;
	}
	*oldest = (struct db_party){.peer = peer, .served = db->turns_start, .seen_ns = clock_now_ns()};
	return oldest;
}

static uint64_t served_of(struct db *db, uint64_t peer)
{
	uint64_t served = party_of(db, peer)->served;

	return served > db->turns_start ? served : db->turns_start;
}

void db_turn_start_locked(struct db *db, uint64_t peer)
{
	struct db_party *p = party_of(db, peer);

	p->served = served_of(db, peer);
	db->turns_start = p->served;
	db->turn_peer = peer;
	db->turn_count = 0;
	db->turn_since_ns = clock_now_ns();
}

bool db_turn_is_over_locked(const struct db *db)
{
	return db->turn_count >= TURN_COMMITS || clock_now_ns() - db->turn_since_ns >= TURN_NS;
}

void db_note_turn_commit_locked(struct db *db)
{
	if (!db->sessions)
		return;
	db->turn_count++;
	party_of(db, db->turn_peer)->served++;
}

bool db_locals_wait_locked(const struct db *db)
{
	for (const struct db_call *c = db->parked; c; c = c->next)
		if (c->kind == PARK_WRITE || c->kind == PARK_HALT)
			return true;
	return clock_now_ns() - db->writer_sent_away_ns < LOCAL_RECENT_NS;
}

struct db_session *db_next_session_locked(struct db *db)
{
	struct db_session *best = NULL;

	for (struct db_session *s = db->sessions; s; s = s->next)
		if (!s->held && (!best || served_of(db, s->peer) < served_of(db, best->peer)))
			best = s;
	return best;
}

uint32_t db_count_waiting_locked(const struct db *db)
{
	uint32_t n = 0;

	for (const struct db_session *s = db->sessions; s; s = s->next)
		n += !s->held;
	return n;
}

/* LiteFS' WRITE is here, or may be asked for. */
static bool can_be_had_locked(const struct db *db, int64_t now)
{
	return db->up_state == UP_HELD || (db->up_state == UP_IDLE && now >= db->pause_until_ns);
}

bool db_session_is_next_locked(struct db *db)
{
	const struct db_session *s = db_next_session_locked(db);
	int64_t now = clock_now_ns();

	if (!s || db->holder)
		return false;
	if (db->turn_peer == 0 && !db->turn_count && db_locals_wait_locked(db) && !can_be_had_locked(db, now)) {
		db->turn_since_ns = now; /* its turn has yet to begin */
		db->local_until_ns = now + LOCAL_KEEP_NS;
		return false;
	}
	if (db->turn_peer == 0)
		return db_turn_is_over_locked(db) || now >= db->local_until_ns;
	if (!db_locals_wait_locked(db) || served_of(db, s->peer) <= served_of(db, 0))
		return true;
	db_turn_start_locked(db, 0);
	db->local_until_ns = now + LOCAL_KEEP_NS;
	return false;
}

void db_local_writer_locked(struct db *db)
{
	if (db->sessions && db->turn_peer != 0)
		db_turn_start_locked(db, 0);
}

void db_local_writer_left_locked(struct db *db)
{
	if (db->turn_peer == 0)
		db->local_until_ns = clock_now_ns() + db->config->settings->halt_linger_ms * NS_PER_MS;
}

bool db_local_turn_over_locked(struct db *db)
{
	return db->sessions && db->turn_peer == 0 && db_turn_is_over_locked(db) && db_next_session_locked(db);
}
