#include "base/random.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

static void fill(void *p, size_t n)
{
	while (getrandom(p, n, 0) != (ssize_t)n)
		if (errno != EINTR)
			abort(); /* ids that repeat lose transactions: better none */
}

uint64_t random_u64(void)
{
	uint64_t v;

	fill(&v, sizeof v);
	return v;
}

uint32_t random_u32(void)
{
	return (uint32_t)random_u64();
}
