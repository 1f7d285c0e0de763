/*
 * stress: an application that writes and reads a WAL database from several threads and
 * notices by itself whatever a serializable database must not do.
 *
 * The database (made by the test):
 *   CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);   ids 1..n, sum constant
 *   CREATE TABLE log(client INT, thread INT, seq INT, part INT, parts INT, src INT, dst INT, amount INT, pad BLOB);
 *
 * A writing transaction reads two balances, writes both back as absolute values (so that a lost
 * update breaks the sum) and adds its rows to log, part 0 carrying the transfer, so that
 * every balance can be recomputed from log alone. log has no unique index on purpose: a
 * transaction that is executed twice must be seen, not refused.
 * A reading transaction takes sum and log's row count twice; both must agree, the sum must be
 * --sum, and the count must never fall from one transaction of a thread to its next.
 *
 * --ack FILE gets a line per decided transaction, by one write(2) each:
 *   "A client thread seq parts"   COMMIT returned success: must be there exactly once
 *   "N client thread seq parts"   COMMIT or an earlier statement failed with BUSY or a like error: must not be there
 *   "U client thread seq parts"   COMMIT returned an I/O error: at most once
 * A killed client leaves one transaction per thread without a line: at most once.
 *
 * On stdout at the end, also after SIGTERM: one JSON object with counts, errors and latencies.
 * Exit: 0 unless a violation was seen (1) or the usage was wrong (2). BUSY and errors are
 * counted, not judged: the test judges.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_ERRORS = 24, MAX_THREADS = 64, MAX_SAMPLES = 1 << 20 };

static struct {
	const char *db;
	const char *ack;
	int threads;
	double seconds;
	int pause_ms;
	int every_ms; /* 0, or each thread's transactions begin so far apart, however long one takes */
	int write_percent;
	int deferred_percent;
	uint64_t seed;
	int id;
	int busy_timeout_ms;
	int accounts;
	int64_t sum; /* -1: take what the first read says */
	int max_parts;
	int pad;
	int stall_us; /* between the two reads of a reading transaction */
	int hold_ms; /* readers keep their transaction this long, reading again and again */
	bool single_shot_opens;
	int ack_fd;
} opt = {
	.threads = 1,
	.seconds = 5,
	.write_percent = 40,
	.seed = 1,
	.busy_timeout_ms = 20000,
	.accounts = 100,
	.sum = -1,
	.max_parts = 4,
	.pad = 40,
	.stall_us = 200,
	.ack_fd = -1,
};

static atomic_bool stop;

struct samples {
	uint32_t *us;
	size_t count, cap;
	uint64_t seen;
	uint32_t max_us;
};

struct error_seen {
	int extended;
	char where[16];
	char text[160];
	uint64_t count;
};

struct worker {
	pthread_t thread;
	int number;
	uint64_t rng;
	sqlite3 *db;
	sqlite3_stmt *begin, *begin_immediate, *commit, *rollback, *sum, *count, *get, *put, *add;
	int64_t seq;
	int64_t last_count;
	int64_t sum_wanted;
	uint64_t commits, reads, busy, busy_deferred, busy_snapshot, retried_ok, errors, violations, opens;
	bool deferred; /* in a writing transaction that began with a read */
	bool was_snapshot_busy;
	struct samples write_us, read_us;
	struct error_seen seen[MAX_ERRORS];
	size_t seen_count;
	char violation[200];
};

static void on_signal(int signo)
{
	(void)signo;
	atomic_store(&stop, true);
}

static int64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static void sleep_us(int64_t us)
{
	struct timespec ts = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};

	if (us > 0)
		nanosleep(&ts, NULL);
}

/* xorshift64*: reproducible per seed, client and thread. */
static uint32_t rnd(struct worker *w, uint32_t below)
{
	w->rng ^= w->rng >> 12;
	w->rng ^= w->rng << 25;
	w->rng ^= w->rng >> 27;
	return (uint32_t)((w->rng * UINT64_C(2685821657736338717)) >> 33) % below;
}

static void sample(struct worker *w, struct samples *s, int64_t us)
{
	uint32_t value = us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;

	if (value > s->max_us)
		s->max_us = value;
	s->seen++;
	if (s->count == MAX_SAMPLES) { /* a reservoir from here on */
		uint32_t at = rnd(w, (uint32_t)(s->seen > UINT32_MAX / 2 ? UINT32_MAX / 2 : s->seen));

		if (at < s->count)
			s->us[at] = value;
		return;
	}
	if (s->count == s->cap) {
		size_t cap = s->cap ? s->cap * 2 : 1024;
		uint32_t *grown = realloc(s->us, cap * sizeof(*grown));

		if (!grown)
			abort();
		s->us = grown;
		s->cap = cap;
	}
	s->us[s->count++] = value;
}

static void violated(struct worker *w, const char *text)
{
	if (!w->violations++)
		snprintf(w->violation, sizeof(w->violation), "%s", text);
	fprintf(stderr, "stress: client %d thread %d: VIOLATION: %s\n", opt.id, w->number, text);
}

static bool is_busy(int rc)
{
	return (rc & 0xff) == SQLITE_BUSY;
}

/* Books a failed step; returns its extended code. */
static int failed(struct worker *w, const char *where)
{
	int extended = sqlite3_extended_errcode(w->db);
	const char *text = sqlite3_errmsg(w->db);
	size_t i;

	if (is_busy(extended)) {
		if (extended == SQLITE_BUSY_SNAPSHOT)
			w->busy_snapshot++;
		else if (w->deferred) /* an upgrade: SQLite does not wait there, whatever the busy_timeout */
			w->busy_deferred++;
		else
			w->busy++;
		return extended;
	}
	w->errors++;
	for (i = 0; i < w->seen_count; i++)
		if (w->seen[i].extended == extended && !strcmp(w->seen[i].where, where))
			break;
	if (i == w->seen_count) {
		if (w->seen_count == MAX_ERRORS)
			return extended;
		w->seen_count++;
		w->seen[i].extended = extended;
		snprintf(w->seen[i].where, sizeof(w->seen[i].where), "%s", where);
		snprintf(w->seen[i].text, sizeof(w->seen[i].text), "%s", text);
	}
	w->seen[i].count++;
	if (w->seen[i].count <= 3)
		fprintf(stderr, "stress: client %d thread %d: %s: %d %s\n", opt.id, w->number, where, extended, text);
	return extended;
}

static void db_close(struct worker *w)
{
	sqlite3_stmt **all[] = {&w->begin, &w->begin_immediate, &w->commit, &w->rollback, &w->sum,
				&w->count, &w->get, &w->put, &w->add};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		sqlite3_finalize(*all[i]);
		*all[i] = NULL;
	}
	sqlite3_close(w->db);
	w->db = NULL;
}

static int db_open(struct worker *w)
{
	static const char *const sql[] = {
		"BEGIN",
		"BEGIN IMMEDIATE",
		"COMMIT",
		"ROLLBACK",
		"SELECT sum(balance) FROM accounts",
		"SELECT count(*) FROM log",
		"SELECT balance FROM accounts WHERE id = ?",
		"UPDATE accounts SET balance = ? WHERE id = ?",
		"INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?, zeroblob(?))",
	};
	sqlite3_stmt **all[] = {&w->begin, &w->begin_immediate, &w->commit, &w->rollback, &w->sum,
				&w->count, &w->get, &w->put, &w->add};

	w->opens++;
	if (sqlite3_open_v2(opt.db, &w->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
		goto fail;
	sqlite3_extended_result_codes(w->db, 1);
	sqlite3_busy_timeout(w->db, opt.busy_timeout_ms);
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		if (sqlite3_prepare_v2(w->db, sql[i], -1, all[i], NULL) != SQLITE_OK)
			goto fail;
	return SQLITE_OK;
fail:
	if (w->db)
		failed(w, "open");
	else
		w->errors++;
	db_close(w);
	return SQLITE_ERROR;
}

static int run(sqlite3_stmt *stmt)
{
	int rc = sqlite3_step(stmt);

	sqlite3_reset(stmt);
	return rc == SQLITE_DONE || rc == SQLITE_ROW ? SQLITE_OK : rc;
}

static int one_int(sqlite3_stmt *stmt, int64_t *ret)
{
	int rc = sqlite3_step(stmt);

	if (rc == SQLITE_ROW)
		*ret = sqlite3_column_int64(stmt, 0);
	sqlite3_reset(stmt);
	return rc == SQLITE_ROW ? SQLITE_OK : rc == SQLITE_DONE ? SQLITE_EMPTY : rc;
}

static void roll_back(struct worker *w)
{
	if (!sqlite3_get_autocommit(w->db) && run(w->rollback) != SQLITE_OK)
		failed(w, "rollback");
}

static void acknowledge(struct worker *w, char verdict, int parts)
{
	char line[96];
	int len = snprintf(line, sizeof(line), "%c %d %d %lld %d\n", verdict, opt.id, w->number, (long long)w->seq, parts);

	if (opt.ack_fd >= 0 && write(opt.ack_fd, line, (size_t)len) != len) {
		perror("stress: --ack");
		exit(2);
	}
}

static int add_log(struct worker *w, int parts, int src, int dst, int amount)
{
	for (int part = 0; part < parts; part++) {
		sqlite3_bind_int(w->add, 1, opt.id);
		sqlite3_bind_int(w->add, 2, w->number);
		sqlite3_bind_int64(w->add, 3, w->seq);
		sqlite3_bind_int(w->add, 4, part);
		sqlite3_bind_int(w->add, 5, parts);
		sqlite3_bind_int(w->add, 6, src);
		sqlite3_bind_int(w->add, 7, dst);
		sqlite3_bind_int(w->add, 8, part ? 0 : amount);
		sqlite3_bind_int(w->add, 9, opt.pad);
		if (run(w->add) != SQLITE_OK)
			return SQLITE_ERROR;
	}
	return SQLITE_OK;
}

static int set_balance(struct worker *w, int account, int64_t balance)
{
	sqlite3_bind_int64(w->put, 1, balance);
	sqlite3_bind_int(w->put, 2, account);
	return run(w->put);
}

static int get_balance(struct worker *w, int account, int64_t *ret)
{
	sqlite3_bind_int(w->get, 1, account);
	return one_int(w->get, ret);
}

static void write_transaction(struct worker *w)
{
	int src = (int)rnd(w, (uint32_t)opt.accounts) + 1;
	int dst = (src + (int)rnd(w, (uint32_t)opt.accounts - 1)) % opt.accounts + 1;
	int amount = (int)rnd(w, 100) + 1;
	int parts = opt.max_parts > 1 && rnd(w, 4) == 0 ? (int)rnd(w, (uint32_t)opt.max_parts) + 1 : 1;
	int64_t from = 0, to = 0, begin_us = now_us();
	const char *where = "begin";
	int extended;

	w->seq++;
	w->deferred = (int)rnd(w, 100) < opt.deferred_percent;
	if (run(w->deferred ? w->begin : w->begin_immediate) != SQLITE_OK)
		goto fail;
	where = "read";
	if (get_balance(w, src, &from) != SQLITE_OK || get_balance(w, dst, &to) != SQLITE_OK)
		goto fail;
	where = "update";
	if (set_balance(w, src, from - amount) != SQLITE_OK || set_balance(w, dst, to + amount) != SQLITE_OK)
		goto fail;
	where = "insert";
	if (add_log(w, parts, src, dst, amount) != SQLITE_OK)
		goto fail;
	where = "commit";
	if (run(w->commit) != SQLITE_OK)
		goto fail;
	acknowledge(w, 'A', parts);
	w->commits++;
	if (w->was_snapshot_busy)
		w->retried_ok++;
	w->was_snapshot_busy = false;
	w->deferred = false;
	sample(w, &w->write_us, now_us() - begin_us);
	return;
fail:
	extended = failed(w, where);
	if (extended == SQLITE_BUSY_SNAPSHOT)
		w->was_snapshot_busy = true;
	w->deferred = false;
	roll_back(w);
	acknowledge(w, !strcmp(where, "commit") && !is_busy(extended) ? 'U' : 'N', parts);
}

static int look(struct worker *w, int64_t *ret_sum, int64_t *ret_count)
{
	int rc = one_int(w->sum, ret_sum);

	return rc == SQLITE_OK ? one_int(w->count, ret_count) : rc;
}

static void read_transaction(struct worker *w)
{
	int64_t sum1, sum2, count1, count2, begin_us = now_us(), until_us = begin_us + (int64_t)opt.hold_ms * 1000;
	char text[160];

	if (run(w->begin) != SQLITE_OK || look(w, &sum1, &count1) != SQLITE_OK)
		goto fail;
	if (w->sum_wanted < 0)
		w->sum_wanted = sum1;
	do {
		sleep_us(opt.hold_ms ? (int64_t)opt.pause_ms * 1000 + 1000 : rnd(w, (uint32_t)opt.stall_us + 1));
		if (look(w, &sum2, &count2) != SQLITE_OK)
			goto fail;
		if (sum1 != sum2 || count1 != count2) {
			snprintf(text, sizeof(text), "snapshot moved: sum %lld then %lld, rows %lld then %lld", (long long)sum1,
				 (long long)sum2, (long long)count1, (long long)count2);
			violated(w, text);
		}
	} while (now_us() < until_us && !atomic_load(&stop));
	if (sum1 != w->sum_wanted) {
		snprintf(text, sizeof(text), "sum is %lld and not %lld", (long long)sum1, (long long)w->sum_wanted);
		violated(w, text);
	}
	if (count1 < w->last_count) {
		snprintf(text, sizeof(text), "went back: %lld rows after %lld", (long long)count1, (long long)w->last_count);
		violated(w, text);
	}
	w->last_count = count1;
	if (run(w->commit) != SQLITE_OK)
		goto fail;
	w->reads++;
	sample(w, &w->read_us, now_us() - begin_us);
	return;
fail:
	failed(w, "reader");
	roll_back(w);
}

static void *work(void *arg)
{
	struct worker *w = arg;
	int64_t next_us = now_us(), until_us = next_us + (int64_t)(opt.seconds * 1e6);

	while (!atomic_load(&stop) && now_us() < until_us) {
		if (!w->db && db_open(w) != SQLITE_OK) {
			sleep_us(20000);
			continue;
		}
		if ((int)rnd(w, 100) < opt.write_percent)
			write_transaction(w);
		else
			read_transaction(w);
		if (opt.single_shot_opens)
			db_close(w);
		sleep_us((int64_t)opt.pause_ms * 1000);
		if (opt.every_ms) {
			int64_t each_us = (int64_t)opt.every_ms * 1000;

			/* what was missed is made up for: two loads of the same schedule do the same number */
			next_us += each_us;
			sleep_us(next_us - now_us());
		}
	}
	db_close(w);
	return NULL;
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void print_latency(const char *name, struct worker *workers, size_t offset)
{
	struct samples all = {0};

	for (int i = 0; i < opt.threads; i++) {
		struct samples *s = (struct samples *)((char *)&workers[i] + offset);

		if (s->count) {
			uint32_t *grown = realloc(all.us, (all.count + s->count) * sizeof(*grown));

			if (!grown)
				abort();
			all.us = grown;
			memcpy(all.us + all.count, s->us, s->count * sizeof(*grown));
			all.count += s->count;
		}
		if (s->max_us > all.max_us)
			all.max_us = s->max_us;
	}
	if (all.count)
		qsort(all.us, all.count, sizeof(*all.us), by_value);
	printf("\"%s\": {\"p50\": %u, \"p99\": %u, \"max\": %u}", name, all.count ? all.us[all.count / 2] : 0,
	       all.count ? all.us[all.count - 1 - all.count / 100] : 0, all.max_us);
	free(all.us);
}

static void print_string(const char *text)
{
	putchar('"');
	for (; *text; text++)
		if (*text == '"' || *text == '\\')
			printf("\\%c", *text);
		else if ((unsigned char)*text < ' ')
			putchar(' ');
		else
			putchar(*text);
	putchar('"');
}

static uint64_t report(struct worker *workers)
{
	static const struct {
		const char *name;
		size_t offset;
	} counts[] = {
#define COUNT(field) {#field, offsetof(struct worker, field)}
		COUNT(commits), COUNT(reads), COUNT(busy), COUNT(busy_deferred), COUNT(busy_snapshot),
		COUNT(retried_ok), COUNT(errors), COUNT(violations), COUNT(opens),
#undef COUNT
	};
	uint64_t violations = 0;
	const char *comma = "";

	printf("{\"id\": %d", opt.id);
	for (size_t c = 0; c < sizeof(counts) / sizeof(*counts); c++) {
		uint64_t total = 0;

		for (int i = 0; i < opt.threads; i++)
			total += *(uint64_t *)((char *)&workers[i] + counts[c].offset);
		printf(", \"%s\": %llu", counts[c].name, (unsigned long long)total);
	}
	printf(", \"commits_per_thread\": [");
	for (int i = 0; i < opt.threads; i++)
		printf("%s%llu", i ? ", " : "", (unsigned long long)workers[i].commits);
	printf("], \"reads_per_thread\": [");
	for (int i = 0; i < opt.threads; i++)
		printf("%s%llu", i ? ", " : "", (unsigned long long)workers[i].reads);
	printf("], ");
	print_latency("write_us", workers, offsetof(struct worker, write_us));
	printf(", ");
	print_latency("read_us", workers, offsetof(struct worker, read_us));
	printf(", \"error_list\": [");
	for (int i = 0; i < opt.threads; i++) {
		violations += workers[i].violations;
		for (size_t e = 0; e < workers[i].seen_count; e++) {
			struct error_seen *seen = &workers[i].seen[e];

			printf("%s{\"where\": \"%s\", \"code\": %d, \"count\": %llu, \"text\": ", comma, seen->where, seen->extended,
			       (unsigned long long)seen->count);
			print_string(seen->text);
			printf("}");
			comma = ", ";
		}
	}
	printf("], \"violation_list\": [");
	comma = "";
	for (int i = 0; i < opt.threads; i++)
		if (workers[i].violations) {
			printf("%s", comma);
			print_string(workers[i].violation);
			comma = ", ";
		}
	printf("]}\n");
	return violations;
}

static int usage(void)
{
	fprintf(stderr,
		"usage: stress --db PATH [--id N] [--threads N] [--seconds S] [--pause-ms N] [--every-ms N] [--mode mixed|read|write]\n"
		"  [--write-percent N] [--deferred-percent N] [--seed N] [--busy-timeout-ms N] [--accounts N] [--sum N]\n"
		"  [--max-parts N] [--pad BYTES] [--stall-us N] [--hold-ms N] [--ack FILE] [--single-shot-opens]\n");
	return 2;
}

static int parse(int argc, char **argv)
{
	static const struct option options[] = {
		{"db", required_argument, NULL, 'd'},
		{"id", required_argument, NULL, 'i'},
		{"threads", required_argument, NULL, 't'},
		{"seconds", required_argument, NULL, 's'},
		{"pause-ms", required_argument, NULL, 'p'},
		{"every-ms", required_argument, NULL, 'e'},
		{"mode", required_argument, NULL, 'm'},
		{"write-percent", required_argument, NULL, 'w'},
		{"deferred-percent", required_argument, NULL, 'D'},
		{"seed", required_argument, NULL, 'S'},
		{"busy-timeout-ms", required_argument, NULL, 'b'},
		{"accounts", required_argument, NULL, 'a'},
		{"sum", required_argument, NULL, 'u'},
		{"max-parts", required_argument, NULL, 'r'},
		{"pad", required_argument, NULL, 'P'},
		{"stall-us", required_argument, NULL, 'l'},
		{"hold-ms", required_argument, NULL, 'h'},
		{"ack", required_argument, NULL, 'k'},
		{"single-shot-opens", no_argument, NULL, '1'},
		{NULL, 0, NULL, 0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'd': opt.db = optarg; break;
		case 'i': opt.id = atoi(optarg); break;
		case 't': opt.threads = atoi(optarg); break;
		case 's': opt.seconds = atof(optarg); break;
		case 'p': opt.pause_ms = atoi(optarg); break;
		case 'e': opt.every_ms = atoi(optarg); break;
		case 'w': opt.write_percent = atoi(optarg); break;
		case 'D': opt.deferred_percent = atoi(optarg); break;
		case 'S': opt.seed = strtoull(optarg, NULL, 10); break;
		case 'b': opt.busy_timeout_ms = atoi(optarg); break;
		case 'a': opt.accounts = atoi(optarg); break;
		case 'u': opt.sum = atoll(optarg); break;
		case 'r': opt.max_parts = atoi(optarg); break;
		case 'P': opt.pad = atoi(optarg); break;
		case 'l': opt.stall_us = atoi(optarg); break;
		case 'h': opt.hold_ms = atoi(optarg); break;
		case 'k': opt.ack = optarg; break;
		case '1': opt.single_shot_opens = true; break;
		case 'm':
			if (!strcmp(optarg, "read"))
				opt.write_percent = 0;
			else if (!strcmp(optarg, "write"))
				opt.write_percent = 100;
			else if (strcmp(optarg, "mixed"))
				return -EINVAL;
			break;
		default: return -EINVAL;
		}
	}
	if (!opt.db || optind != argc || opt.threads < 1 || opt.threads > MAX_THREADS || opt.accounts < 2)
		return -EINVAL;
	return 0;
}

/* Which of its checks has found a database malformed. */
static void on_log(void *arg, int code, const char *text)
{
	(void)arg;
	if ((code & 0xff) == SQLITE_CORRUPT || (code & 0xff) == SQLITE_NOTADB)
		fprintf(stderr, "stress: client %d: SQLite says (%d) %s\n", opt.id, code, text);
}

int main(int argc, char **argv)
{
	static struct worker workers[MAX_THREADS];
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

	if (parse(argc, argv))
		return usage();
	sqlite3_config(SQLITE_CONFIG_LOG, on_log, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	if (opt.ack) {
		opt.ack_fd = open(opt.ack, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
		if (opt.ack_fd < 0) {
			perror(opt.ack);
			return 2;
		}
	}
	for (int i = 0; i < opt.threads; i++) {
		workers[i].number = i;
		workers[i].sum_wanted = opt.sum;
		workers[i].rng = (opt.seed + 1) * UINT64_C(0x9e3779b97f4a7c15) + (uint64_t)opt.id * 1000003 + (uint64_t)i * 7919 + 1;
		for (int k = 0; k < 8; k++)
			rnd(&workers[i], 2);
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i])) {
			fprintf(stderr, "stress: no thread\n");
			return 2;
		}
	}
	for (int i = 0; i < opt.threads; i++)
		pthread_join(workers[i].thread, NULL);

	uint64_t violations = report(workers);

	for (int i = 0; i < opt.threads; i++) {
		free(workers[i].write_us.us);
		free(workers[i].read_us.us);
	}
	return violations ? 1 : 0;
}
