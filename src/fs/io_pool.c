#include "fs/io_pool.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

struct io_pool {
	pthread_mutex_t mutex;
	pthread_cond_t work;
	struct io_task *first, **tail;
	bool stop;
	unsigned count;
	pthread_t threads[];
};

static void *worker(void *arg)
{
	struct io_pool *pool = arg;

	pthread_mutex_lock(&pool->mutex);
	for (;;) {
		struct io_task *task = pool->first;

		if (!task) {
			if (pool->stop)
				break;
			pthread_cond_wait(&pool->work, &pool->mutex);
			continue;
		}
		pool->first = task->next;
		if (!pool->first)
			pool->tail = &pool->first;
		pthread_mutex_unlock(&pool->mutex);
		task->run(task);
		pthread_mutex_lock(&pool->mutex);
	}
	pthread_mutex_unlock(&pool->mutex);
	return NULL;
}

int io_pool_new(unsigned threads, struct io_pool **ret)
{
	struct io_pool *pool = calloc(1, sizeof *pool + sizeof pool->threads[0] * threads);

	if (!pool)
		return -ENOMEM;
	pthread_mutex_init(&pool->mutex, NULL);
	pthread_cond_init(&pool->work, NULL);
	pool->tail = &pool->first;
	for (; pool->count < threads; pool->count++) {
		int err = -pthread_create(&pool->threads[pool->count], NULL, worker, pool);

		if (err) {
			io_pool_free(pool);
			return err;
		}
	}
	*ret = pool;
	return 0;
}

void io_pool_free(struct io_pool *pool)
{
	if (!pool)
		return;
	pthread_mutex_lock(&pool->mutex);
	pool->stop = true;
	pthread_cond_broadcast(&pool->work);
	pthread_mutex_unlock(&pool->mutex);
	for (unsigned i = 0; i < pool->count; i++)
		pthread_join(pool->threads[i], NULL);
	pthread_mutex_destroy(&pool->mutex);
	pthread_cond_destroy(&pool->work);
	free(pool);
}

void io_pool_submit(struct io_pool *pool, struct io_task *task)
{
	task->next = NULL;
	pthread_mutex_lock(&pool->mutex);
	*pool->tail = task;
	pool->tail = &task->next;
	pthread_cond_signal(&pool->work);
	pthread_mutex_unlock(&pool->mutex);
}
