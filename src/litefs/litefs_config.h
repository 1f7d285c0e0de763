/*
 * litefs_config: what litefwd needs of LiteFS' own litefs.yml (libyaml).
 *
 * Reads fuse.dir, http.addr, data.dir, lease.type, lease.hostname,
 * lease.advertise-url, lease.candidate, lease.consul.url and lease.consul.key, with LiteFS' expansion of $VAR, ${VAR} and the
 * ${VAR == 'x'} expressions; ignores the rest. tests/cluster/test_litefs_config.py compares it with LiteFS' own reading, for
 * every file that LiteFS accepts, but for an anchor that is defined twice (libyaml refuses it); of those that LiteFS does not
 * accept, some are read here. Threads: any; reads a file.
 * Errors: negative errno of open/read; -EBADMSG with *ret_message (static or in
 * the object) naming line and what to do. Everything unchanged on error.
 */
#ifndef LITEFWD_LITEFS_LITEFS_CONFIG_H
#define LITEFWD_LITEFS_LITEFS_CONFIG_H

#include <stdbool.h>

struct litefs_config {
	/* LiteFS' defaults where the file does not say */
	char *fuse_dir;
	char *data_dir;
	char *local_url; /* "http://localhost:PORT" made of http.addr */
	bool lease_candidate; /* may become primary; with a static lease: is it */
	/* NULL where the file does not say */
	char *lease_type; /* "static", "consul" */
	char *lease_hostname;
	char *lease_advertise_url;
	char *lease_consul_url; /* may hold a password */
	char *lease_consul_key;
	char unset[64]; /* a variable that a line of the above names and the environment has not; "": none */
	char message[256]; /* of the last -EBADMSG */
};

/* expand_env: as LiteFS without -no-expand-env. */
int litefs_config_load(const char *path, bool expand_env, struct litefs_config *ret);
void litefs_config_fini(struct litefs_config *config); /* zeroed or loaded; twice is harmless */

#endif
