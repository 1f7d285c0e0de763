/*
 * db in WAL mode: every fault in every state, for each upstream: the failure matrix of ARCHITECTURE.md. Its rows are the tables
 * below; each cell is a test case, COMMIT of a row's fault or STATE by fault, named after the upstream, too.
 *
 * A cell is a process of its own, some of them at a time: they mostly wait for timeouts. Over a gateway the transactions go to
 * the scripted LiteFS, too, by an upstream that calls itself a gateway: what of a gateway's HTTP is which outcome is
 * test_upstream_gateway's matter, and what db makes of an outcome is not the same for a gateway.
 */
#include "wal_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "litefs/api.h"
#include "litefs/breaker.h"

#define AT_A_TIME 10

enum up { SELF, REMOTE, GATEWAY, UPS }; /* the slowest first */
static const char *const up_names[UPS] = {"self", "remote", "gateway"};

/* ---- memory that runs out for what db writes ---- */

static atomic_bool spool_full, no_memory;

int __wrap_spool_append(void *spool, const void *data, size_t len);
int __real_spool_append(void *spool, const void *data, size_t len);

int __wrap_spool_append(void *spool, const void *data, size_t len)
{
	return atomic_load(&no_memory) ? -ENOMEM : atomic_load(&spool_full) ? -ENOSPC : __real_spool_append(spool, data, len);
}

/* ---- the node ---- */

struct cell {
	enum up up;
	struct rig *r;
	struct local *l;
	unsigned sent; /* /tx before the fault */
	long long unknown, not_committed, refused;
};

static struct cell start(enum up up)
{
	struct cell c = {.up = up, .r = rig_new(false)};

	c.r->wal = true;
	assert_int_equal(breakers_new(&c.r->config.breakers), 0);
	if (up == SELF)
		rig_make_primary(c.r);
	if (up == GATEWAY)
		c.r->settings.gateway_url = strdup("http://{hostname}:1");
	c.l = &c.r->a;
	rig_open(c.r, c.l, "app.db", false);
	wal_open(c.l, 1);
	wal_open(c.l, 2);
	return c;
}

static void note(struct cell *c)
{
	c->sent = fake_count(c->r->primary, FAKE_TX);
	c->unknown = rig_stat(c->l, "unknown");
	c->not_committed = rig_stat(c->l, "not_committed");
	c->refused = rig_stat(c->l, "refused");
}

/* How the next transaction begins: well, or with what was held for it and is gone, which is found out at its COMMIT. */
enum next { GOOD, REFUSED_ONCE, EITHER };

/* The next transaction of somebody else goes through, and everybody has it, exactly. */
static void must_go_on(struct cell *c, int sees, enum next next)
{
	int result;

	assert_int_equal(wal_latest(c->l, 2), sees);
	wal_begin(c->l, 2);
	result = wal_commit(c->l, 2, 'Z');
	wal_end(c->l, 2);
	if (next == REFUSED_ONCE || (next == EITHER && result)) {
		assert_int_equal(result, -EIO);
		assert_int_equal(wal_latest(c->l, 2), sees);
		wal_begin(c->l, 2);
		result = wal_commit(c->l, 2, 'Z');
		wal_end(c->l, 2);
	}
	assert_int_equal(result, 0);
	assert_int_equal(wal_latest(c->l, 2), 'Z');
	assert_int_equal(rig_file(c->l, 2), 'Z');
	assert_true(rig_is_exact(c->l));
	if (c->up != GATEWAY) /* ends at once */
		assert_true(rig_wait_idle(c->l));
}

static void end(struct cell *c)
{
	struct breakers *breakers = c->r->config.breakers;

	atomic_store(&litefs_gone, false);
	if (c->l->db) {
		db_stop(c->l->db);
		assert_true(fake_halted_by(c->r->primary, "app.db") == 0);
	}
	free(c->r->settings.gateway_url);
	rig_free(c->r);
	breakers_free(breakers);
}

/* ---- COMMIT: what happens between its last write and the answer ---- */

enum then { ALONE, PRIMARY_DIES, FOREIGN_COMES };

struct commit_row {
	const char *fault;
	struct fake_step step;
	enum then then;
	bool has_step;
	bool *full;
	int commit_timeout_ms;
	/* expected: result, what is seen then, was it sent, and where it is counted */
	int result;
	char sees;
	bool sent;
	const char *counted;
};

static const struct commit_row commits[] = {
	{.fault = "none", .result = 0, .sees = 'b', .sent = true},
	{.fault = "refused", .has_step = true, .result = -EIO, .sees = 'a', .sent = true, .counted = "refused",
	 .step = {.does = FAKE_ANSWER, .status = 500, .body = "write ltx file: pre-apply checksum mismatch: 1 <> 2\n"}},
	{.fault = "error_500", .has_step = true, .result = -EIO, .sees = 'a', .sent = true, .counted = "not_committed",
	 .step = {.does = FAKE_ANSWER, .status = 500, .body = "boom\n"}},
	{.fault = "answer_garbage", .has_step = true, .result = -EIO, .sees = 'a', .sent = true, .counted = "not_committed",
	 .step = {.does = FAKE_RAW, .body = "\x01\x02garbage"}},
	{.fault = "lost_before", .has_step = true, .result = -EIO, .sees = 'a', .sent = true, .counted = "not_committed",
	 .step = {.does = FAKE_CLOSE_BEFORE}},
	{.fault = "lost_in_the_body", .has_step = true, .result = -EIO, .sees = 'a', .sent = true, .counted = "not_committed",
	 .step = {.does = FAKE_CLOSE_AFTER_HEADER}},
	{.fault = "lost_after_the_body", .has_step = true, .result = -EIO, .sees = 'a', .sent = true, .counted = "not_committed",
	 .step = {.does = FAKE_CLOSE_AFTER_BODY}},
	{.fault = "answer_lost", .has_step = true, .result = 0, .sees = 'b', .sent = true, .step = {.does = FAKE_LOSE_ANSWER}},
	{.fault = "answer_late", .has_step = true, .result = 0, .sees = 'b', .sent = true,
	 .step = {.does = FAKE_HONEST, .delay_ms = 300}},
	{.fault = "stalled", .has_step = true, .commit_timeout_ms = 5000, .result = -EIO, .sees = 'a', .sent = true,
	 .counted = "unknown", .step = {.does = FAKE_STALL}},
	{.fault = "stalled_in_the_body", .has_step = true, .commit_timeout_ms = 5000, .result = -EIO, .sees = 'a', .sent = true,
	 .counted = "unknown", .step = {.does = FAKE_STALL_BODY}},
	{.fault = "stalled_and_primary_dies", .has_step = true, .then = PRIMARY_DIES, .commit_timeout_ms = 1000, .result = -EIO,
	 .sees = 'a', .sent = true, .counted = "unknown", .step = {.does = FAKE_STALL}},
	{.fault = "another_instead", .has_step = true, .then = FOREIGN_COMES, .commit_timeout_ms = 3000, .result = -EIO, .sees = 'x',
	 .sent = true, .step = {.does = FAKE_STALL}},
	{.fault = "spool_full", .result = -ENOSPC, .sees = 'a'},
	{.fault = "no_memory", .result = -ENOMEM, .sees = 'a'},
};

/* On this node LiteFS is given 20 s, whatever commit_timeout is: what it applies it applies without a lock of its own. */
static int await_long(struct waiting *w)
{
	int64_t until = clock_now_ns() + 60 * NS_PER_S;

	while (!is_done(w) && clock_now_ns() < until)
		clock_sleep_ns(5 * NS_PER_MS);
	return await(w);
}

static void commit_cell(enum up up, const struct commit_row *row)
{
	struct cell c = start(up);
	struct waiting w;
	int result;

	wal_begin(c.l, 1);
	note(&c);
	if (row->commit_timeout_ms)
		c.r->settings.commit_timeout_ms = row->commit_timeout_ms + (row->then ? 0 : up == SELF ? 22000 : up == GATEWAY ? 11000 : 0);
	if (row->has_step)
		fake_script(c.r->primary, FAKE_TX, &row->step);
	atomic_store(&spool_full, !strcmp(row->fault, "spool_full"));
	atomic_store(&no_memory, !strcmp(row->fault, "no_memory"));
	result = wal_write(c.l, 1, 'b', false, &w);
	if (row->then) {
		assert_int_equal(result, DB_PARKED);
		assert_true(fake_wait_count(c.r->primary, FAKE_TX, c.sent + 1));
	}
	if (row->then == PRIMARY_DIES)
		fake_set_up(c.r->primary, false);
	if (row->then == FOREIGN_COMES && up == SELF) /* its locks keep everybody out as long as it lives */
		fake_set_up(c.r->primary, false);
	if (row->then == FOREIGN_COMES)
		rig_foreign(c.l, 'x', true);
	if (row->then == FOREIGN_COMES && up == SELF)
		fake_set_up(c.r->primary, true);
	result = result == DB_PARKED ? await_long(&w) : result;
	atomic_store(&spool_full, false);
	atomic_store(&no_memory, false);
	c.r->settings.commit_timeout_ms = 15000;
	if (row->then == PRIMARY_DIES)
		fake_set_up(c.r->primary, true);
	assert_int_equal(result, row->result);
	assert_int_equal(fake_count(c.r->primary, FAKE_TX) - c.sent, row->sent);
	if (row->counted && !(up == SELF && row->then == PRIMARY_DIES)) {
		assert_int_equal(rig_stat(c.l, "unknown") - c.unknown, !strcmp(row->counted, "unknown"));
		assert_int_equal(rig_stat(c.l, "not_committed") - c.not_committed, !strcmp(row->counted, "not_committed"));
		assert_int_equal(rig_stat(c.l, "refused") - c.refused, !strcmp(row->counted, "refused"));
	}
	wal_end(c.l, 1);
	if (row->then == FOREIGN_COMES)
		rig_wait_applied(c.r, 1);
	must_go_on(&c, row->sees, GOOD);
	end(&c);
}

/* ---- every state ---- */

enum state { IDLE, BEGIN, HELD, FRAMES, SENT, UNREPLICATED, LINGERING, STATES };
static const char *const state_names[STATES] = {"idle", "begin", "held", "frames", "sent", "unreplicated", "lingering"};

enum what { ROLE_CHANGES, PRIMARY_GONE, PRIMARY_RESTARTS, LITEFS_GONE, CLIENT_KILLED, STOPPED, FOREIGN_THERE, WHATS };
static const char *const what_names[WHATS] = {"role_changes", "primary_gone", "primary_restarts", "litefs_here_gone", "client_killed",
					      "stopped", "another_comes"};

/*
 * What COMMIT says (of BEGIN: the call that waits), and what is seen afterwards: '0' success, 'E' EIO, 'B' BUSY or had after all,
 * '-' nobody asks; then page 2; then how the next transaction begins: 'r' refused once, 'e' perhaps. "" where there is no such state.
 */
static const char *const outcomes[STATES][WHATS] = {
	/*		   role  gone  restarts here  killed stop  another */
	[IDLE] =	 {"-a", "-a", "-a",	"-a",  "-a",   "-a",  "-x"},
	[BEGIN] =	 {"Ba", "Ba", "Ba",	"Ba",  "-a",   "Ba",  "Bx"},
	[HELD] =	 {"Ea", "Ea", "Ea",	"Ea",  "-a",   "Ea",  "Ex"},
	[FRAMES] =	 {"Ea", "Ea", "Ea",	"Ea",  "-a",   "Ea",  "Ex"},
	[SENT] =	 {"0b", "0be", "0be",	"0b",  "-b",   "0b",  ""},
	[UNREPLICATED] = {"0b", "0br", "0br",	"0b",  "-b",   "Eb",  ""},
	[LINGERING] =	 {"-b", "-br", "-br",	"-b",  "-b",   "-b",  ""},
};

/* LiteFS here is the one: what is held are its locks, which a lost connection does not touch. */
static const char *outcome_of(enum up up, enum state state, enum what what)
{
	if (up == SELF && what == PRIMARY_RESTARTS && state >= HELD)
		return state == LINGERING ? "-b" : "0b";
	if (up == SELF && what == PRIMARY_GONE && state >= SENT)
		return state == LINGERING ? "-b" : "0b";
	return outcomes[state][what];
}

/* On this node the gateway's and the primary's LiteFS is the one here. */
static bool is_cell(enum up up, enum state state, enum what what)
{
	if (!outcomes[state][what][0])
		return false;
	if (up == SELF && (state == UNREPLICATED || what == FOREIGN_THERE))
		return false; /* what its LiteFS has it has here, and WRITE keeps the others out */
	return true;
}

static void bring_to(struct cell *c, enum state state, struct waiting *w)
{
	struct waiting other;

	if (state == IDLE)
		return;
	if (state == BEGIN) {
		fake_lock(c->r->primary, "app.db", true);
		if (c->up == SELF) /* a direct client */
			rig_lock_write(c->l, true);
		wal_read(c->l, 1);
		assert_int_equal(wal_lock(c->l, 1, LOCK_FILE_SHM, F_WRLCK, WAL_WRITE_BYTE, 1, w), DB_PARKED);
		return;
	}
	wal_begin(c->l, 1);
	note(c);
	if (state == FRAMES)
		assert_int_equal(wal_write(c->l, 1, 'b', true, &other), 0);
	if (state == SENT)
		c->r->answer_delay_ms = 300;
	if (state == UNREPLICATED)
		rig_hold(c->r, true);
	if (state == SENT || state == UNREPLICATED) {
		int64_t until = clock_now_ns() + LONG_NS;

		assert_int_equal(wal_write(c->l, 1, 'b', false, w), DB_PARKED);
		while (!atomic_load(&c->r->received) && clock_now_ns() < until)
			clock_sleep_ns(NS_PER_MS);
		assert_int_equal(atomic_load(&c->r->received), 1);
	}
	if (state == LINGERING) {
		assert_int_equal(wal_commit(c->l, 1, 'b'), 0);
		wal_end(c->l, 1);
	}
}

static void do_fault(struct cell *c, enum what what)
{
	switch (what) {
	case ROLE_CHANGES: /* to the one that it was */
		pthread_mutex_lock(&c->r->role.mutex);
		c->r->role.state.epoch++;
		pthread_mutex_unlock(&c->r->role.mutex);
		db_role_changed(c->l->db);
		break;
	case PRIMARY_GONE:
		fake_set_up(c->r->primary, false);
		break;
	case PRIMARY_RESTARTS:
		fake_set_up(c->r->primary, false);
		fake_set_up(c->r->primary, true);
		break;
	case LITEFS_GONE: { /* and a reader finds out */
		uint8_t byte;

		atomic_store(&litefs_gone, true);
		db_read(c->l->db, getpid(), &byte, 1, PAGE);
		break;
	}
	case CLIENT_KILLED:
		wal_die(c->l, 1);
		break;
	case STOPPED:
		db_stop(c->l->db);
		break;
	case FOREIGN_THERE: /* LiteFS does not look whether HALT is held */
		rig_foreign(c->l, 'x', true);
		break;
	case WHATS:
		abort();
	}
}

static void end_fault(struct cell *c, enum state state, enum what what)
{
	if (state == BEGIN) {
		fake_lock(c->r->primary, "app.db", false);
		if (c->up == SELF)
			rig_lock_write(c->l, false);
	}
	if (what == LITEFS_GONE)
		atomic_store(&litefs_gone, false);
	if (state == UNREPLICATED)
		rig_hold(c->r, false);
}

static void state_cell(enum up up, enum state state, enum what what)
{
	const char *expected = outcome_of(up, state, what);
	struct cell c = start(up);
	struct waiting w;
	int result = 0;
	bool has_commit = state == SENT || state == UNREPLICATED;

	if (state == LINGERING)
		c.r->settings.halt_linger_ms = c.r->settings.halt_max_hold_ms = 15000;
	note(&c);
	bring_to(&c, state, &w);
	do_fault(&c, what);
	if (what == PRIMARY_GONE && state == BEGIN)
		clock_sleep_ns(100 * NS_PER_MS);
	end_fault(&c, state, what);
	if (expected[0] != '-') {
		if (has_commit || state == BEGIN)
			result = await(&w);
		else
			result = wal_commit(c.l, 1, 'b');
		if (expected[0] == 'B')
			assert_true(result == 0 || result == -EAGAIN || (result == -EIO && what == STOPPED));
		else
			assert_int_equal(result, expected[0] == 'E' ? -EIO : 0);
	} else if (has_commit) {
		await(&w); /* of a client that is gone */
	}
	c.r->answer_delay_ms = 0;
	if (state <= FRAMES && what != FOREIGN_THERE && expected[0] != '0')
		assert_int_equal(fake_count(c.r->primary, FAKE_TX), c.sent);
	if (what == PRIMARY_GONE)
		fake_set_up(c.r->primary, true);
	if (what == STOPPED) {
		assert_int_equal(rig_stat(c.l, "unknown"), state == UNREPLICATED); /* whose verdict nobody waits for any more */
		assert_true(fake_halted_by(c.r->primary, "app.db") == 0);
		db_free(c.l->db);
		if (has_commit)
			rig_wait_applied(c.r, 1);
		assert_int_equal(db_open(&c.r->config, "app.db", false, c.r, &c.l->db), 0);
		wal_open(c.l, 2);
	} else if (what != CLIENT_KILLED) {
		wal_end(c.l, 1);
	}
	if (what == FOREIGN_THERE)
		rig_wait_applied(c.r, 1);
	must_go_on(&c, expected[1], expected[2] == 'r' ? REFUSED_ONCE : expected[2] == 'e' ? EITHER : GOOD);
	end(&c);
}

/* ---- one process for each ---- */

struct job {
	char name[100];
	enum up up;
	int row, state, what; /* row -1: state by what */
	pid_t pid;
	int status;
	char log[40];
};

static struct job jobs[400];
static int job_count, started, running;

static void run_job(void **state)
{
	const struct job *job = *state;

	if (job->row >= 0)
		commit_cell(job->up, &commits[job->row]);
	else
		state_cell(job->up, (enum state)job->state, (enum what)job->what);
}

static void start_jobs(void)
{
	while (started < job_count && running < AT_A_TIME) {
		struct job *job = &jobs[started++];
		int fd;

		strcpy(job->log, "/tmp/test-db-faults-XXXXXX");
		fd = mkstemp(job->log);
		fflush(NULL);
		job->pid = fork();
		if (fd < 0 || job->pid < 0)
			abort();
		if (job->pid == 0) {
			const struct CMUnitTest test = {job->name, run_job, NULL, NULL, job};

			dup2(fd, 1);
			dup2(fd, 2);
			alarm(120); /* nothing outlives the test */
			if (api_global_init())
				_exit(1);
			_exit(_cmocka_run_group_tests(job->name, &test, 1, NULL, NULL) != 0);
		}
		close(fd);
		running++;
	}
}

static void cell(void **state)
{
	struct job *job = *state;
	char line[500];
	FILE *log;

	while (job->status < 0) {
		int status;
		pid_t pid;

		start_jobs();
		pid = wait(&status);
		assert_true(pid > 0);
		for (int i = 0; i < started; i++)
			if (jobs[i].pid == pid) {
				jobs[i].status = status;
				running--;
			}
	}
	if (job->status) {
		log = fopen(job->log, "r");
		while (log && fgets(line, sizeof line, log))
			print_error("# %s", line);
		if (log)
			fclose(log);
	}
	unlink(job->log);
	assert_int_equal(job->status, 0);
}

/* ---- the matrix as ARCHITECTURE.md prints it ---- */

static const char *state_text(char seen)
{
	return seen == 'a' ? "old" : seen == 'b' ? "new" : "the other";
}

static void print_commit_row(const struct commit_row *row, char *ret, size_t size)
{
	const char *result = row->result == 0 ? "0" : row->result == -ENOSPC ? "ENOSPC" : row->result == -ENOMEM ? "ENOMEM" : "EIO";

	snprintf(ret, size, "| `%s` | %s | %s | %s | %s |\n", row->fault, result, row->sent ? "yes" : "no", state_text(row->sees),
		 row->counted ? row->counted : "");
}

static void print_state_row(enum state state, char *ret, size_t size)
{
	size_t n = (size_t)snprintf(ret, size, "| `%s` |", state_names[state]);

	for (int what = 0; what < WHATS; what++) {
		const char *o = outcomes[state][what];
		const char *said = o[0] == '0' ? "0, " : o[0] == 'E' ? "EIO, " : o[0] == 'B' ? "BUSY, " : "";

		n += (size_t)snprintf(ret + n, size - n, o[0] ? " %s%s%s |" : "%s%s%s |", said, o[0] ? state_text(o[1]) : "",
				      !o[0] ? " " : o[2] == 'r' ? " *" : o[2] == 'e' ? " (*)" : "");
	}
	snprintf(ret + n, size - n, "\n");
}

static void matrix__as_tested__is_what_architecture_says(void **state)
{
	const char *dir = getenv("srcdir");
	char path[400], line[600];
	char *text = calloc(1, 1 << 20);
	FILE *file;

	(void)state;
	snprintf(path, sizeof path, "%s/ARCHITECTURE.md", dir ? dir : ".");
	file = fopen(path, "r");
	assert_non_null(file);
	assert_true(fread(text, 1, (1 << 20) - 1, file) > 0);
	fclose(file);
	for (size_t row = 0; row < sizeof commits / sizeof commits[0]; row++) {
		print_commit_row(&commits[row], line, sizeof line);
		if (!strstr(text, line))
			fail_msg("not in ARCHITECTURE.md: %s", line);
	}
	for (int i = 0; i < STATES; i++) {
		print_state_row((enum state)i, line, sizeof line);
		if (!strstr(text, line))
			fail_msg("not in ARCHITECTURE.md: %s", line);
	}
	free(text);
}

int main(int argc, char **argv)
{
	static struct CMUnitTest tests[400];
	size_t n = 0;

	for (int up = 0; up < UPS; up++) {
		for (size_t row = 0; row < sizeof commits / sizeof commits[0]; row++) {
			struct job *job = &jobs[job_count++];

			*job = (struct job){.up = (enum up)up, .row = (int)row, .status = -1};
			snprintf(job->name, sizeof job->name, "commit__%s__%s", commits[row].fault, up_names[up]);
		}
		for (int state = 0; state < STATES; state++)
			for (int what = 0; what < WHATS; what++) {
				struct job *job = &jobs[job_count];

				if (!is_cell((enum up)up, (enum state)state, (enum what)what))
					continue;
				job_count++;
				*job = (struct job){.up = (enum up)up, .row = -1, .state = state, .what = what, .status = -1};
				snprintf(job->name, sizeof job->name, "%s__%s__%s", state_names[state], what_names[what], up_names[up]);
			}
	}
	if (argc == 2 && !strcmp(argv[1], "--matrix")) {
		char line[600];

		for (size_t row = 0; row < sizeof commits / sizeof commits[0]; row++) {
			print_commit_row(&commits[row], line, sizeof line);
			fputs(line, stdout);
		}
		for (int i = 0; i < STATES; i++) {
			print_state_row((enum state)i, line, sizeof line);
			fputs(line, stdout);
		}
		return 0;
	}
	if (argc == 2) { /* one cell, in this process */
		for (int i = 0; i < job_count; i++)
			if (!strcmp(jobs[i].name, argv[1])) {
				const struct CMUnitTest test = {jobs[i].name, run_job, NULL, NULL, &jobs[i]};

				return api_global_init() || _cmocka_run_group_tests(jobs[i].name, &test, 1, NULL, NULL);
			}
		return 2;
	}
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(matrix__as_tested__is_what_architecture_says);
	for (int i = 0; i < job_count; i++)
		tests[n++] = (struct CMUnitTest){jobs[i].name, cell, NULL, NULL, &jobs[i]};
	return _cmocka_run_group_tests("tests", tests, n, NULL, NULL);
}
