/* litefs.yml: any file. What a value holds can be read again, and an error says something. */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "litefs/litefs_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct litefs_config config = {0};
	char path[64];
	int fd = memfd_create("litefs.yml", MFD_CLOEXEC), err;

	MUST(fd >= 0 && pwrite(fd, data, size, 0) == (ssize_t)size);
	/* What expansions find: a value with what YAML makes much of. */
	setenv("FUZZ", "a: [b, \"c\"]\n#'", 1);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	err = litefs_config_load(path, true, &config);
	MUST(err == 0 || err == -EBADMSG);
	if (err)
		MUST(config.message[0] && strnlen(config.message, sizeof config.message) < sizeof config.message && !config.fuse_dir);
	else
		MUST(config.local_url && !strncmp(config.local_url, "http://", 7));
	litefs_config_fini(&config);
	close(fd);
	return 0;
}
