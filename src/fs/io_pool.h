/*
 * io_pool: a few threads for what may block on LiteFS, so that the FUSE thread never does.
 *
 * Threads: io_pool_submit from any, never blocks. Ownership: a task belongs to the pool until
 * its run is called, which may free it. Errors: negative errno of io_pool_new.
 */
#ifndef LITEFWD_FS_IO_POOL_H
#define LITEFWD_FS_IO_POOL_H

struct io_task {
	void (*run)(struct io_task *task);
	struct io_task *next; /* the pool's */
};

struct io_pool;

int io_pool_new(unsigned threads, struct io_pool **ret);
/* Runs what was submitted, then joins. NULL is harmless. */
void io_pool_free(struct io_pool *pool);
void io_pool_submit(struct io_pool *pool, struct io_task *task);

#endif
