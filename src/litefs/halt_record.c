#include "litefs/halt_record.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"

#define SLOT_SIZE 1024
#define SLOT_COUNT 256
#define EXPIRED_S 60

struct halt_record {
	pthread_mutex_t mutex;
	int fd;
	bool used[SLOT_COUNT];
	bool complained;
};

/* What another user may have written would have us send requests to wherever it likes. */
static int check_ours(int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	return S_ISREG(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & 022) && st.st_nlink == 1 ? 0 : -EPERM;
}

int halt_record_open(const char *path, struct halt_record **ret)
{
	struct halt_record *rec = calloc(1, sizeof *rec);
	int err;

	if (!rec)
		return -ENOMEM;
	rec->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (rec->fd < 0) {
		err = -errno;
		free(rec);
		return err;
	}
	err = check_ours(rec->fd);
	if (err) {
		close(rec->fd);
		free(rec);
		return err;
	}
	pthread_mutex_init(&rec->mutex, NULL);
	*ret = rec;
	return 0;
}

void halt_record_close(struct halt_record *rec)
{
	if (!rec)
		return;
	close(rec->fd);
	pthread_mutex_destroy(&rec->mutex);
	free(rec);
}

int halt_record_free_stale(struct halt_record *rec,
			   int (*unhalt)(void *ctx, const char *url, const char *name, uint64_t id), void *ctx)
{
	struct stat st;
	bool expired;

	if (fstat(rec->fd, &st) < 0)
		return -errno;
	/* Every record is from before the last change of the file, and a HALT is gone after 35 s. */
	expired = time(NULL) - st.st_mtime > EXPIRED_S;
	for (int slot = 0; slot < SLOT_COUNT; slot++) {
		char text[SLOT_SIZE + 1] = "", name[256], url[512], end;
		uint64_t id;
		ssize_t n = pread(rec->fd, text, SLOT_SIZE, (off_t)slot * SLOT_SIZE);

		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		/* To the byte as it was written: half a name is another database. */
		if (sscanf(text, "%" SCNu64 "%*1[ ]%255[^ \n]%*1[ ]%511[^ \n]%c", &id, name, url, &end) != 4 || end != '\n')
			continue;
		if (expired || unhalt(ctx, url, name, id) == 0)
			halt_record_del(rec, slot);
		else
			rec->used[slot] = true; /* it expires there; the slot is found again at the next start */
	}
	return 0;
}

int halt_record_add(struct halt_record *rec, const char *url, const char *name, uint64_t id)
{
	char text[SLOT_SIZE] = "";
	int slot = 0, n;

	if (!rec || strchr(name, ' '))
		return -1;
	n = snprintf(text, sizeof text, "%" PRIu64 " %s %s\n", id, name, url);
	if (n < 0 || (size_t)n >= sizeof text)
		return -1;
	pthread_mutex_lock(&rec->mutex);
	while (slot < SLOT_COUNT && rec->used[slot])
		slot++;
	if (slot == SLOT_COUNT || pwrite(rec->fd, text, sizeof text, (off_t)slot * SLOT_SIZE) != (ssize_t)sizeof text) {
		if (!rec->complained)
			log_warn("halt_record", "error=\"%s\" do=\"check state_dir; after a crash a HALT may last 30 s\"",
				 slot == SLOT_COUNT ? "no free slot" : strerror(errno));
		rec->complained = true;
		slot = -1;
	} else {
		rec->used[slot] = true;
	}
	pthread_mutex_unlock(&rec->mutex);
	return slot;
}

void halt_record_del(struct halt_record *rec, int slot)
{
	const char zero[8] = "";

	if (!rec || slot < 0)
		return;
	pthread_mutex_lock(&rec->mutex);
	if (pwrite(rec->fd, zero, sizeof zero, (off_t)slot * SLOT_SIZE) == (ssize_t)sizeof zero)
		rec->used[slot] = false;
	pthread_mutex_unlock(&rec->mutex);
}
