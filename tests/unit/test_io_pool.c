/* io_pool: everything submitted runs, once, in order of arrival, and not in the caller's thread. */
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

#include "fs/io_pool.h"

struct job {
	struct io_task task;
	atomic_int *ran;
	int number;
	int *order; /* order[n]: the n-th that ran */
	pthread_t submitter;
	atomic_bool *wrong_thread;
};

static void run_job(struct io_task *task)
{
	struct job *job = (struct job *)task;
	int n = atomic_fetch_add(job->ran, 1);

	if (job->order)
		job->order[n] = job->number;
	if (pthread_equal(pthread_self(), job->submitter))
		atomic_store(job->wrong_thread, true);
	free(job); /* it is its own from here */
}

static void submit(struct io_pool *pool, int number, atomic_int *ran, int *order, atomic_bool *wrong_thread)
{
	struct job *job = malloc(sizeof *job);

	*job = (struct job){{run_job, NULL}, ran, number, order, pthread_self(), wrong_thread};
	io_pool_submit(pool, &job->task);
}

static void submit__one_thread__all_run_in_order(void **state)
{
	enum { N = 1000 };
	static int order[N];
	atomic_bool wrong = false;
	struct io_pool *pool;
	atomic_int ran = 0;

	(void)state;
	assert_int_equal(io_pool_new(1, &pool), 0);
	for (int i = 0; i < N; i++)
		submit(pool, i, &ran, order, &wrong);
	io_pool_free(pool); /* what was submitted runs first */
	assert_int_equal(ran, N);
	for (int i = 0; i < N; i++)
		assert_int_equal(order[i], i);
	assert_false(wrong);
}

struct meeting {
	struct io_task task;
	pthread_barrier_t *barrier;
};

static void meet(struct io_task *task)
{
	pthread_barrier_wait(((struct meeting *)task)->barrier);
}

/* Each of four waits for the three others: with fewer threads at work this would never end. */
static void submit__as_many_as_threads__run_at_once(void **state)
{
	struct meeting m[4];
	pthread_barrier_t barrier;
	struct io_pool *pool;

	(void)state;
	pthread_barrier_init(&barrier, NULL, 5);
	assert_int_equal(io_pool_new(4, &pool), 0);
	for (int round = 0; round < 50; round++) {
		for (int i = 0; i < 4; i++) {
			m[i] = (struct meeting){{meet, NULL}, &barrier};
			io_pool_submit(pool, &m[i].task);
		}
		pthread_barrier_wait(&barrier);
	}
	io_pool_free(pool);
	pthread_barrier_destroy(&barrier);
}

struct submitter {
	struct io_pool *pool;
	atomic_int *ran;
	atomic_bool *wrong;
};

static void *submit_many(void *arg)
{
	struct submitter *s = arg;

	for (int i = 0; i < 2000; i++)
		submit(s->pool, i, s->ran, NULL, s->wrong);
	return NULL;
}

static void submit__from_threads__each_runs_once(void **state)
{
	atomic_bool wrong = false;
	atomic_int ran = 0;
	struct submitter s = {.ran = &ran, .wrong = &wrong};
	pthread_t t[3];

	(void)state;
	assert_int_equal(io_pool_new(3, &s.pool), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&t[i], NULL, submit_many, &s), 0);
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	io_pool_free(s.pool);
	assert_int_equal(ran, 6000);
	assert_false(wrong);
}

struct chain {
	struct io_task task;
	struct io_pool *pool;
	int left;
	atomic_int *ran;
};

static void run_chain(struct io_task *task)
{
	struct chain *c = (struct chain *)task;

	atomic_fetch_add(c->ran, 1);
	if (--c->left)
		io_pool_submit(c->pool, task);
}

static void submit__by_a_task__runs_before_the_pool_ends(void **state)
{
	atomic_int ran = 0;
	struct chain c = {.task = {run_chain, NULL}, .left = 100, .ran = &ran};

	(void)state;
	assert_int_equal(io_pool_new(2, &c.pool), 0);
	io_pool_submit(c.pool, &c.task);
	io_pool_free(c.pool);
	assert_int_equal(ran, 100);
}

static void free__idle_or_null__returns(void **state)
{
	struct io_pool *pool;

	(void)state;
	assert_int_equal(io_pool_new(4, &pool), 0);
	io_pool_free(pool);
	io_pool_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(submit__one_thread__all_run_in_order),
		cmocka_unit_test(submit__as_many_as_threads__run_at_once),
		cmocka_unit_test(submit__from_threads__each_runs_once),
		cmocka_unit_test(submit__by_a_task__runs_before_the_pool_ends),
		cmocka_unit_test(free__idle_or_null__returns),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
