/*
 * The gateway's protocol: a client takes any answer, and what it takes it would write, and read, the same way again. Positions of
 * queries likewise.
 */
#include <errno.h>

#include "fuzz.h"
#include "litefs/gw_proto.h"

static void texts(const char *text)
{
	char again[GW_POS_SIZE];
	struct pos pos;

	gw_code_by_name(text);
	if (gw_parse_pos(text, &pos) == 0) {
		gw_format_pos(pos, again);
		MUST(!strcasecmp(text, again));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_text(data, size), line[GW_LINE_MAX];
	struct gw_info info, info2;
	struct gw_grant grant, grant2;
	struct gw_result result, result2;
	struct gw_error error, error2;
	size_t bundle, len;

	if (gw_get_info(text, size, &info) == 0) {
		len = gw_put_info(&info, line);
		MUST(gw_get_info(line, len, &info2) == 0 && info.server == info2.server && info.is_primary == info2.is_primary &&
		     !strcmp(info.nonce, info2.nonce) && strlen(info.cluster) == strlen(info2.cluster));
	}
	if (gw_get_grant(text, size, &grant, &bundle) == 0) {
		size_t left = size - bundle;

		MUST(bundle && bundle <= size && grant.tx_count <= GW_TX_MAX && grant.lease_ms >= 1);
		for (unsigned i = 0; i < grant.tx_count; i++) {
			MUST(grant.tx_size[i] >= 1 && grant.tx_size[i] <= left);
			left -= (size_t)grant.tx_size[i];
		}
		MUST(left == 0);
		len = gw_put_grant(&grant, line);
		grant.tx_count = 0;
		len = gw_put_grant(&grant, line);
		MUST(gw_get_grant(line, len, &grant2, &bundle) == 0 && pos_equal(grant.pos, grant2.pos) &&
		     grant.lease_ms == grant2.lease_ms && grant.waiting == grant2.waiting && grant.server == grant2.server);
	}
	if (gw_get_result(text, size, &result) == 0) {
		len = gw_put_result(&result, line);
		MUST(gw_get_result(line, len, &result2) == 0 && result.unknown == result2.unknown &&
		     pos_equal(result.pos, result2.pos) && result.yield == result2.yield);
	}
	if (gw_get_error(text, size, &error) == 0) {
		len = gw_put_error(error.code, error.text, line);
		MUST(gw_get_error(line, len, &error2) == 0 && error.code == error2.code && error.code != GW_OK);
	}
	texts(text);
	free(text);
	return 0;
}
