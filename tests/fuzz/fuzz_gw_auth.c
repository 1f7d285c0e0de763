/*
 * Who may ask a gateway: a header of a request, another one of an answer. Byte 0: 1 the rest is the header; else one that is right is
 * made, and the rest spoils it: then it is refused, unless nothing was changed; and the same one is never taken twice.
 */
#include <errno.h>

#include "fuzz.h"
#include "litefs/gw_auth.h"

#define NONCE "0123456789abcdef0123456789abcdef"
#define TARGET "/halt?v=1&name=a&id=1"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct gw_secret secret = {.key = "sixteen bytes or more", .len = 21};
	struct fuzz_in in = {data, size};
	char right[GW_AUTH_VALUE_MAX], mac[GW_MAC_HEX], got[GW_MAC_HEX], answer[GW_AUTH_VALUE_MAX], body[65];
	struct gw_callers *callers;
	char *value;
	int err;

	MUST(gw_callers_new(&callers) == 0);
	gw_hash_once("", 0, body);
	MUST(gw_auth_request(&secret, "POST", TARGET, body, NONCE, 5, 1 + fuzz_take(&in, 1) % 3, right, mac) == 0);
	if (size && data[0] & 1) {
		value = fuzz_text(in.data, in.left);
	} else {
		value = strdup(right);
		MUST(value);
		while (in.left)
			value[fuzz_take(&in, 1) % strlen(right)] ^= (char)(fuzz_take(&in, 1) & 0x7f);
	}
	err = gw_auth_check_request(&secret, callers, "POST", TARGET, body, NONCE, value, got);
	MUST(err == 0 || err == -EACCES || err == -EBADMSG);
	MUST((err == 0) == !strcmp(value, right));
	if (err) {
		MUST(!got[0]);
		MUST(gw_auth_check_answer(&secret, mac, 200, body, value) != 0);
	} else {
		MUST(gw_auth_check_request(&secret, callers, "POST", TARGET, body, NONCE, value, got) == -EACCES && !got[0]);
		MUST(gw_auth_answer(&secret, mac, 200, body, answer) == 0);
		MUST(gw_auth_check_answer(&secret, mac, 200, body, answer) == 0);
		MUST(gw_auth_check_answer(&secret, mac, 409, body, answer) == -EACCES);
	}
	gw_callers_free(callers);
	free(value);
	return 0;
}
