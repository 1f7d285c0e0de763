/*
 * db: the whole life of a database with its n-th allocation failing, for each n: it is opened, read, written, written by another
 * node here (over a gateway), folded, asked for its status, dropped and stopped. No crash, no lock left, no false success; and
 * whatever has failed, the database is usable afterwards.
 *
 * What fails are allocations of litefwd's own code and libcurl's, in calls of db and in its workers; the rig's are spared, and
 * jansson's: 2.14 frees a pointer that is none when memory ends while it parses an object [ran].
 * Each run is a process. `make check` takes some of them, LITEFWD_SOAK=1 all.
 */
#include "wal_rig.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "db/db_internal.h"
#include "litefs/api.h"
#include "litefs/breaker.h"

#define AT_A_TIME 16
#define RUNS 30 /* per life, without LITEFWD_SOAK */

/* ---- the allocator ---- */

static _Thread_local bool ours;
static atomic_long countdown; /* the one that makes it 0 fails */
static void *_Atomic failed_at;

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
char *__real_strdup(const char *s);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*main)(void *), void *arg);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
char *__wrap_strdup(const char *s);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*main)(void *), void *arg);

static bool fails(void *caller)
{
	if (!ours || atomic_fetch_sub(&countdown, 1) != 1)
		return false;
	atomic_store(&failed_at, caller);
	return true;
}

void *__wrap_malloc(size_t size)
{
	return fails(__builtin_return_address(0)) ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return fails(__builtin_return_address(0)) ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t size)
{
	return fails(__builtin_return_address(0)) ? NULL : __real_realloc(p, size);
}

char *__wrap_strdup(const char *s)
{
	return fails(__builtin_return_address(0)) ? NULL : __real_strdup(s);
}

/* db's workers are ours; the fake's and the rig's threads are not. */
static void *guard_main(void *arg)
{
	ours = true;
	return db_guard_main(arg);
}

static void *upstream_main(void *arg)
{
	ours = true;
	return db_upstream_main(arg);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*main)(void *), void *arg)
{
	if (main == db_guard_main || main == db_upstream_main) {
		if (fails(__builtin_return_address(0)))
			return EAGAIN;
		main = main == db_guard_main ? guard_main : upstream_main;
	}
	return __real_pthread_create(thread, attr, main, arg);
}

/* A call of db's. */
#define CALL(expr)                                                                                                             \
	({                                                                                                                     \
		ours = true;                                                                                                   \
		__typeof__(expr) result_ = (expr);                                                                             \
		ours = false;                                                                                                  \
		result_;                                                                                                       \
	})

/* ---- a life ---- */

enum up { SELF, REMOTE, GATEWAY };

struct life {
	const char *name;
	enum up up;
	bool rollback;
};

static const struct life lives[] = {
	{"wal_self", SELF, false},	 {"wal_remote", REMOTE, false}, {"wal_gateway", GATEWAY, false},
	{"rollback_remote", REMOTE, true}, {"rollback_self", SELF, true},
};

static struct rig *start(const struct life *life)
{
	struct rig *r = rig_new(false);
	struct local *l = &r->a;

	r->wal = !life->rollback;
	r->settings.halt_linger_ms = 1;
	assert_int_equal(breakers_new(&r->config.breakers), 0);
	if (life->up == SELF)
		rig_make_primary(r);
	if (life->up == GATEWAY)
		r->settings.gateway_url = strdup("http://{hostname}:1");
	rig_make(r, l, "app.db");
	return r;
}

static bool litefs_has(struct rig *r, int fill)
{
	return rig_file(&r->a, 2) == fill && rig_is_exact(&r->a);
}

/* Whatever COMMIT said is so. Nothing can be undecided: everybody answers. */
static void check_said(struct rig *r, int err, int before, int after)
{
	if (err == 0 ? litefs_has(r, after) : litefs_has(r, before))
		return;
	print_error("COMMIT said %d, and LiteFS has %d (before %d, after %d), exact %d\n", err, rig_file(&r->a, 2), before, after,
		    rig_is_exact(&r->a));
	fail();
}

/* One try, as far as it goes. */
static int try_wal(struct rig *r, uint64_t id, uint8_t fill)
{
	struct local *l = &r->a;
	int before = rig_file(l, 2), err = CALL(wal_shm_lock(l, id, F_RDLCK, WAL_READ_BYTE(1)));
	struct waiting w;

	if (!err)
		err = CALL(wal_shm_lock(l, id, F_WRLCK, WAL_WRITE_BYTE));
	if (!err) {
		err = wal_write(l, id, fill, false, &w);
		err = settled(err, &w);
		check_said(r, err, before, fill);
	}
	ours = true;
	wal_end(l, id);
	ours = false;
	return err;
}

static int try_rollback(struct rig *r, uint64_t id, uint8_t fill)
{
	struct local *l = &r->a;
	struct waiting w;
	int before = rig_file(l, 2), err = CALL(client_try_shared(l, id));

	if (!err)
		err = CALL(settled(client_lock(l, id, F_WRLCK, SQLITE_RESERVED_BYTE, 1, &w), &w));
	if (!err)
		err = CALL(client_journal(l, id, NULL));
	if (!err)
		err = CALL(client_try_exclusive(l, id));
	if (!err)
		err = CALL(client_write(l, id, 2, fill));
	if (!err) {
		err = CALL(client_end(l, id, UNLINKED));
		check_said(r, err, before, fill);
	} else { /* as SQLite rolls back: there is no transaction any more */
		CALL(client_end(l, id, UNLINKED));
		assert_true(litefs_has(r, before));
	}
	ours = true;
	client_die(l, id); /* all of its locks */
	ours = false;
	db_handle_opened(l->db, (pid_t)(1000 + id));
	return err;
}

static int try_once(const struct life *life, struct rig *r, uint64_t id, uint8_t fill)
{
	return life->rollback ? try_rollback(r, id, fill) : try_wal(r, id, fill);
}

/* As a program with a busy_timeout, and after an error once more. */
static void write_until_ok(const struct life *life, struct rig *r, uint64_t id, uint8_t fill)
{
	int64_t until = clock_now_ns() + LONG_NS;
	int err, errors = 0;

	do {
		err = try_once(life, r, id, fill);
		errors += err && err != -EAGAIN;
		if (err)
			clock_sleep_ns(NS_PER_MS);
	} while (err && errors < 4 && clock_now_ns() < until);
	assert_int_equal(err, 0);
}

struct session_call {
	struct db_gw_call gw;
	atomic_bool done;
	int result;
};

static void on_session(struct db_call *call, int result)
{
	struct session_call *s = (struct session_call *)call;

	s->result = result;
	atomic_store(&s->done, true);
}

static int session_result(int result, struct session_call *s)
{
	int64_t until = clock_now_ns() + LONG_NS;

	while (result == DB_PARKED && !atomic_load(&s->done) && clock_now_ns() < until)
		clock_sleep_ns(NS_PER_MS / 2);
	assert_true(result != DB_PARKED || atomic_load(&s->done));
	return result == DB_PARKED ? s->result : result;
}

/* Another node writes here: page 2. */
static void try_session(struct rig *r, uint8_t fill)
{
	struct local *l = &r->a;
	struct session_call s = {.gw.call.done = on_session};
	int before = rig_file(l, 2), err;
	struct spool spool;

	err = session_result(CALL(db_gw_begin(l->db, 77, 5, clock_now_ns() + 5 * NS_PER_S, &s.gw)), &s);
	if (!err) {
		spool_init(&spool, "/tmp", 1 << 20);
		rig_make_ltx(l, fill, &spool);
		s = (struct session_call){.gw.call.done = on_session};
		err = session_result(CALL(db_gw_commit(l->db, 77, &spool, &s.gw)), &s);
		spool_fini(&spool);
		assert_false(s.gw.unknown);
		check_said(r, err, before, fill);
	}
	ours = true;
	db_gw_end(l->db, 77);
	ours = false;
}

/* In the end, with memory: everything works, and nothing is held. */
static void check_usable(const struct life *life, struct rig *r)
{
	struct local *l = &r->a;
	int64_t until = clock_now_ns() + LONG_NS;

	atomic_store(&countdown, 0);
	write_until_ok(life, r, 1, 'Y');
	write_until_ok(life, r, 2, 'Z');
	assert_true(litefs_has(r, 'Z'));
	if (!life->rollback)
		assert_int_equal(wal_latest(l, 2), 'Z');
	while (rig_stat(l, "guard_held") && clock_now_ns() < until)
		clock_sleep_ns(NS_PER_MS);
	assert_int_equal(rig_stat(l, "guard_held"), 0);
	assert_true(rig_wait_idle(l));
	assert_true(fake_halted_by(r->primary, "app.db") == 0);
	rig_lock_write(l, true); /* LiteFS' locks are free: a direct client has them */
	rig_lock_write(l, false);
}

static long live(const struct life *life, long n)
{
	struct rig *r = start(life);
	struct local *l = &r->a;
	struct breakers *breakers = r->config.breakers;
	int64_t until = clock_now_ns() + LONG_NS;
	int err;
	long total;
	json_t *status;

	atomic_store(&countdown, n);
	err = CALL(db_open(&r->config, "app.db", false, r, &l->db));
	if (err) {
		assert_true(err == -ENOMEM || err == -EAGAIN);
		assert_int_equal(db_open(&r->config, "app.db", false, r, &l->db), 0);
	}
	for (uint64_t id = 1; id <= 2; id++) {
		ours = true;
		db_handle_opened(l->db, (pid_t)(1000 + id));
		ours = false;
	}
	for (int i = 0; i < 3; i++)
		write_until_ok(life, r, 1 + (uint64_t)i % 2, (uint8_t)('b' + i));
	if (life->up == SELF && !life->rollback)
		try_session(r, 'm');
	rig_foreign(l, 'x', life->up != SELF);
	if (life->up == SELF)
		fake_set_pos(r->primary, "app.db", rig_pos(l)); /* there is nobody else */
	else
		rig_wait_applied(r, 4);
	write_until_ok(life, r, 2, 'n');
	if (!life->rollback)
		while (rig_stat(l, "wal_frames") > 1 && clock_now_ns() < until) /* folded */
			clock_sleep_ns(NS_PER_MS);
	status = CALL(db_status(l->db));
	json_decref(status);
	total = n - atomic_load(&countdown);
	check_usable(life, r);
	if (life->up == SELF) { /* dropped, and stopped, short of memory again */
		struct waiting w;

		atomic_store(&countdown, n > 0 ? n % 40 + 1 : 0);
		waiting_init(&w);
		for (uint64_t id = 1; id <= 2; id++)
			client_die(l, id);
		err = CALL(db_unlink(l->db, &w.call));
		if (err == DB_PARKED)
			await(&w);
	}
	ours = true;
	db_stop(l->db);
	ours = false;
	assert_true(fake_halted_by(r->primary, "app.db") == 0);
	err = (int)rig_stat(l, "unknown");
	assert_int_equal(err, 0);
	free(r->settings.gateway_url);
	rig_free(r);
	breakers_free(breakers);
	return total;
}

/* ---- runs ---- */

static long *shared_count; /* of allocations, by a run in which none fails */

struct run {
	const struct life *life;
	long n;
};

static void run_case(void **state)
{
	const struct run *run = *state;

	*shared_count = live(run->life, run->n);
}

static pid_t run(const struct life *life, long n, const char *log)
{
	struct run one = {life, n};
	const struct CMUnitTest test = {"run", run_case, NULL, NULL, &one};
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid < 0)
		abort();
	if (pid == 0) {
		int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0600);

		dup2(fd, 1);
		dup2(fd, 2);
		alarm(120);
		if (curl_global_init_mem(CURL_GLOBAL_ALL, __wrap_malloc, free, __wrap_realloc, __wrap_strdup, __wrap_calloc) || api_global_init())
			_exit(1);
		_exit(_cmocka_run_group_tests("run", &test, 1, NULL, NULL) != 0);
	}
	return pid;
}

static void log_of(long n, char ret[60])
{
	snprintf(ret, 60, "/tmp/test-db-memory-%d-%ld", (int)getpid(), n);
}

static void check_run(const struct life *life, long n, int status)
{
	char log[60], line[400];
	FILE *file;

	log_of(n, log);
	file = fopen(log, "r");
	unlink(log);
	if (status) {
		print_error("# %s, allocation %ld: status 0x%x\n", life->name, n, (unsigned)status);
		while (file && fgets(line, sizeof line, file))
			print_error("# %s", line);
	}
	if (file)
		fclose(file);
}

static void each_allocation_fails(void **state)
{
	const struct life *life = *state;
	long n = 1, step, total, pending[AT_A_TIME] = {0};
	pid_t pids[AT_A_TIME] = {0};
	int status, failures = 0, running = 0, runs = 0;
	char log[60];

	log_of(0, log);
	assert_true(waitpid(run(life, 0, log), &status, 0) > 0);
	check_run(life, 0, status);
	assert_int_equal(status, 0);
	total = *shared_count;
	assert_true(total > 20);
	step = getenv("LITEFWD_SOAK") ? 1 : total / RUNS + 1;
	n = 1 + getpid() % step; /* other ones each time */
	while (n <= total || running) {
		pid_t pid;

		for (int i = 0; i < AT_A_TIME && n <= total; i++)
			if (!pids[i]) {
				log_of(n, log);
				pending[i] = n;
				pids[i] = run(life, n, log);
				n += step;
				running++;
				runs++;
			}
		pid = wait(&status);
		assert_true(pid > 0);
		for (int i = 0; i < AT_A_TIME; i++)
			if (pids[i] == pid) {
				check_run(life, pending[i], status);
				failures += status != 0;
				pids[i] = 0;
				running--;
			}
	}
	print_message("# %s: %d of %ld allocations failed in turn\n", life->name, runs, total);
	assert_int_equal(failures, 0);
}

int main(int argc, char **argv)
{
	static struct CMUnitTest tests[sizeof lives / sizeof lives[0]];
	size_t count = sizeof lives / sizeof lives[0];

	shared_count = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared_count == MAP_FAILED)
		return 1;
	for (size_t i = 0; i < count; i++) {
		tests[i] = (struct CMUnitTest){lives[i].name, each_allocation_fails, NULL, NULL, (void *)&lives[i]};
		if (argc == 3 && !strcmp(argv[1], lives[i].name)) { /* one, in this process */
			if (curl_global_init_mem(CURL_GLOBAL_ALL, __wrap_malloc, free, __wrap_realloc, __wrap_strdup, __wrap_calloc) ||
			    api_global_init())
				return 1;
			printf("%ld\n", live(&lives[i], atol(argv[2])));
			printf("failed at %p\n", atomic_load(&failed_at));
			return 0;
		}
	}
	return _cmocka_run_group_tests("tests", tests, count, NULL, NULL);
}
