/* What a service manager wants to know: whether the threads that serve the mount answer, and one line for people. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "fs/fs_internal.h"

/* How long a call of the loop may take to be noticed, on top of the loop's own time. */
#define LOOK_NS (5 * NS_PER_MS)

void fs_beat(struct fs *fs)
{
	unsigned asked = atomic_load_explicit(&fs->beats_asked, memory_order_relaxed);

	if (asked != atomic_load_explicit(&fs->beats, memory_order_relaxed))
		atomic_store(&fs->beats, asked);
}

static bool loop_answers(struct fs *fs, int64_t until_ns)
{
	unsigned asked = atomic_fetch_add(&fs->beats_asked, 1) + 1;
	uint64_t one = 1;

	if (write(fs->stop_fd, &one, sizeof one) < 0 && errno != EAGAIN)
		return false;
	while (atomic_load(&fs->beats) != asked && !atomic_load(&fs->stopping)) {
		if (clock_now_ns() >= until_ns)
			return false;
		clock_sleep_ns(LOOK_NS);
	}
	return true;
}

bool fs_alive(struct fs *fs, int64_t until_ns, char *why, size_t size)
{
	bool alive = true;

	if (!loop_answers(fs, until_ns)) {
		snprintf(why, size, "the FUSE loop");
		return false;
	}
	/* It is held while a database is opened, which may wait for LiteFS: that is no reason to end litefwd. */
	if (pthread_mutex_trylock(&fs->mutex) != 0)
		return true;
	for (struct fs_database *d = fs->databases; d && alive; d = d->next) {
		pthread_mutex_unlock(&fs->mutex);
		alive = db_alive(d->db, until_ns);
		if (!alive)
			snprintf(why, size, "a worker of %.64s", db_name(d->db));
		pthread_mutex_lock(&fs->mutex);
	}
	pthread_mutex_unlock(&fs->mutex);
	return alive;
}

void fs_status_line(struct fs *fs, char *line, size_t size)
{
	struct role_state *role = calloc(1, sizeof *role);
	char hostname[64];

	line[0] = 0;
	if (!role)
		return;
	role_get(fs->role, role);
	log_clean(hostname, sizeof hostname, role->primary_hostname);
	if (!role->local_alive)
		snprintf(line, size, "LiteFS does not answer: reads go on, writes are BUSY");
	else if (role->kind == ROLE_PRIMARY)
		snprintf(line, size, "primary");
	else if (role->kind == ROLE_REPLICA && role->primary_hostname[0])
		snprintf(line, size, "replica, the primary is %s%s", hostname,
			 role->primary_url[0] || role->gateway_url[0] ? "" : ", at no known URL: writes are BUSY");
	else
		snprintf(line, size, "no primary: reads go on, writes are BUSY");
	free(role);
}
