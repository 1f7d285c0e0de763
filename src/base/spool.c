#include "base/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

#define KEEP_CAP ((size_t)256 << 10)

void spool_init(struct spool *spool, const char *dir, size_t threshold)
{
	*spool = (struct spool){.dir = dir, .threshold = threshold, .fd = -1};
}

void spool_fini(struct spool *spool)
{
	if (spool->fd >= 0)
		close(spool->fd);
	free(spool->mem);
	spool_init(spool, spool->dir, spool->threshold);
}

void spool_reset(struct spool *spool)
{
	if (spool->fd >= 0 || spool->cap > KEEP_CAP)
		spool_fini(spool);
	spool->size = 0;
}

static int write_file(int fd, uint64_t off, const uint8_t *data, size_t len)
{
	while (len > 0) {
		ssize_t n = pwrite(fd, data, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		off += (uint64_t)n;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

static int open_unlinked(const char *dir)
{
	int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
		char path[4096];
		size_t n = strlen(dir);

		if (n + 32 > sizeof path)
			return -ENAMETOOLONG;
		memcpy(path, dir, n);
		strcpy(path + n, "/litefwd-spool-XXXXXX");
		fd = mkostemp(path, O_CLOEXEC);
		if (fd >= 0)
			unlink(path);
	}
	return fd < 0 ? -errno : fd;
}

static int spill(struct spool *spool)
{
	int fd = open_unlinked(spool->dir);
	int err;

	if (fd < 0) {
		log_error("spool_open", "dir=%s error=\"%s\" do=\"set spool_dir= to a writable directory\"", spool->dir,
			  strerror(-fd));
		return fd;
	}
	err = write_file(fd, 0, spool->mem, spool->size);
	if (err) {
		close(fd);
		return err;
	}
	free(spool->mem);
	spool->mem = NULL;
	spool->cap = 0;
	spool->fd = fd;
	return 0;
}

static int reserve(struct spool *spool, size_t want)
{
	size_t cap = spool->cap ? spool->cap : 4096;
	uint8_t *mem;

	if (want <= spool->cap)
		return 0;
	while (cap < want)
		cap *= 2;
	mem = realloc(spool->mem, cap);
	if (!mem)
		return -ENOMEM;
	spool->mem = mem;
	spool->cap = cap;
	return 0;
}

int spool_write(struct spool *spool, uint64_t off, const void *data, size_t len)
{
	uint64_t end = off + len;
	int err;

	if (spool->fd < 0 && end > spool->threshold) {
		err = spill(spool);
		if (err)
			return err;
	}
	if (spool->fd >= 0) {
		err = write_file(spool->fd, off, data, len);
		if (err)
			return err;
	} else {
		err = reserve(spool, end);
		if (err)
			return err;
		if (off > spool->size)
			memset(spool->mem + spool->size, 0, off - spool->size);
		if (len) /* else there may be no memory */
			memcpy(spool->mem + off, data, len);
	}
	if (end > spool->size)
		spool->size = end;
	return 0;
}

int spool_append(void *ctx, const void *data, size_t len)
{
	struct spool *spool = ctx;

	return spool_write(spool, spool->size, data, len);
}

int spool_truncate(struct spool *spool, uint64_t size)
{
	if (size >= spool->size)
		return 0;
	/* In the file, too: what is written beyond later must leave zeros before it. */
	if (spool->fd >= 0 && ftruncate(spool->fd, (off_t)size) < 0)
		return -errno;
	spool->size = size;
	return 0;
}

ptrdiff_t spool_read(const struct spool *spool, uint64_t off, void *buf, size_t len)
{
	size_t done = 0;

	if (off >= spool->size)
		return 0;
	if (len > spool->size - off)
		len = spool->size - off;
	if (spool->fd < 0) {
		memcpy(buf, spool->mem + off, len);
		return (ptrdiff_t)len;
	}
	while (done < len) {
		ssize_t n = pread(spool->fd, (uint8_t *)buf + done, len - done, (off_t)(off + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ptrdiff_t)done;
}

ptrdiff_t spool_reader_read(void *ctx, void *buf, size_t len)
{
	struct spool_reader *reader = ctx;
	ptrdiff_t n = spool_read(reader->spool, reader->offset, buf, len);

	if (n > 0)
		reader->offset += (uint64_t)n;
	return n;
}
