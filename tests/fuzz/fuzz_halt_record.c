/* The file of HALT locks that a litefwd which was killed has left: any bytes. What is freed has the shape of a record. */
#include <errno.h>
#include <unistd.h>

#include "format/names.h"
#include "fuzz.h"
#include "litefs/halt_record.h"

static unsigned calls;

static int unhalt(void *ctx, const char *url, const char *name, uint64_t id)
{
	(void)ctx, (void)id;
	MUST(*url && *name && strlen(url) < 512 && strlen(name) < 256 && !strpbrk(name, " \n") && !strpbrk(url, " \n"));
	return calls++ & 1 ? -EIO : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char path[300];
	struct halt_record *rec;
	const char *dir = getenv("TMPDIR");
	int fd, slot;

	snprintf(path, sizeof path, "%s/fuzz_halt_record.XXXXXX", dir && strlen(dir) < 200 ? dir : "/tmp");
	fd = mkstemp(path);
	MUST(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	close(fd);
	calls = 0;
	MUST(halt_record_open(path, &rec) == 0);
	MUST(halt_record_free_stale(rec, unhalt, NULL) == 0);
	slot = halt_record_add(rec, "http://127.0.0.1:1", "a.db", 1);
	halt_record_del(rec, slot);
	halt_record_close(rec);
	unlink(path);
	return 0;
}
