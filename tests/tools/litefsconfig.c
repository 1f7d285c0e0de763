/* What litefwd makes of a litefs.yml, as JSON: one line for each file named. test_litefs_config.py compares it with LiteFS' reading. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "litefs/litefs_config.h"

/* Invalid UTF-8 is no JSON: Go writes U+FFFD there, and the test leaves such files out. */
static json_t *text(const char *s)
{
	json_t *string = json_string(s ? s : "");

	return string ? string : json_string("(not UTF-8)");
}

static json_t *reading(const char *path, bool expand_env)
{
	struct litefs_config c = {0};
	int err = litefs_config_load(path, expand_env, &c);
	json_t *object;

	if (err)
		return json_pack("{s:b, s:o}", "ok", 0, "error", text(c.message[0] ? c.message : strerror(-err)));
	object = json_pack("{s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:b, s:o, s:o}", "ok", 1, "fuse_dir", text(c.fuse_dir), "data_dir",
			   text(c.data_dir), "local_url", text(c.local_url), "lease_type", text(c.lease_type), "lease_hostname",
			   text(c.lease_hostname), "lease_advertise_url", text(c.lease_advertise_url), "lease_candidate",
			   c.lease_candidate, "lease_consul_url", text(c.lease_consul_url), "lease_consul_key",
			   text(c.lease_consul_key));
	litefs_config_fini(&c);
	return object;
}

int main(int argc, char **argv)
{
	bool expand_env = true;

	for (int i = 1; i < argc; i++) {
		json_t *object;

		if (!strcmp(argv[i], "-no-expand-env")) {
			expand_env = false;
			continue;
		}
		object = reading(argv[i], expand_env);
		if (!object || json_dumpf(object, stdout, JSON_COMPACT) < 0)
			return 1;
		putchar('\n');
		json_decref(object);
	}
	return 0;
}
