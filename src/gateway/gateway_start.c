/* The gateway on db itself: apart from gateway.c, so that a test of the gateway need not link db. */
#include "gateway/gateway_internal.h"

int gateway_start(const struct gateway_config *config, struct gateway **ret)
{
	static const struct gateway_db_ops ops = {
		.begin = db_gw_begin,
		.commit = db_gw_commit,
		.end = db_gw_end,
		.shorten = db_gw_shorten,
		.extend = db_gw_extend,
		.ltx_open = db_ltx_open,
	};

	return gateway_start_with(config, &ops, &gateway_limits_default, ret);
}
