/* LiteFS' JSON answers: /info, /halt, /debug/vars and times, the whole input as each of them. */
#include <errno.h>

#include "fuzz.h"
#include "litefs/api_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_text(data, size);
	struct api_info info = {.server_id = 7};
	struct api_debug_db vars;
	struct pos pos;
	uint64_t id;
	int64_t ms;
	int err = api_json_info(text, size, &info);

	MUST(err == 0 || err == -EPROTO);
	MUST(info.server_id == 7 && strnlen(info.primary_hostname, sizeof info.primary_hostname) < sizeof info.primary_hostname);
	err = api_json_halt(text, size, &id, &pos, &ms);
	MUST(err == 0 || err == -EPROTO);
	if (!err)
		MUST(id >= 1 && id <= INT64_MAX);
	err = api_json_vars(text, size, "app.db", &vars);
	MUST(err == 0 || err == -EPROTO || err == -ENOENT);
	err = api_json_time(text, &ms);
	MUST(err == 0 || err == -EPROTO);
	free(text);
	return 0;
}
