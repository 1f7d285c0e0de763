/*
 * The primary's litefwd, which answers for its LiteFS (gw_proto.h).
 */
#include "litefs/upstream.h"

#include <errno.h>

int upstream_gateway_new(const struct upstream_config *config, struct upstream **ret)
{
	(void)config;
	(void)ret;
	return -ENOTSUP;
}
