/*
 * litefs_config: what litefwd needs of LiteFS' own litefs.yml (libyaml).
 *
 * Reads fuse.dir, http.addr, data.dir, lease.type, lease.hostname,
 * lease.advertise-url, lease.consul.url and lease.consul.key, with LiteFS' expansion of $VAR, ${VAR} and the
 * ${VAR == 'x'} expressions; ignores the rest. Threads: any; reads a file.
 * Errors: negative errno of open/read; -EBADMSG with *ret_message (static or in
 * the object) naming line and what to do. Everything unchanged on error.
 */
#ifndef LITEFWD_LITEFS_LITEFS_CONFIG_H
#define LITEFWD_LITEFS_LITEFS_CONFIG_H

struct litefs_config {
	char *fuse_dir; /* NULL where the file does not say */
	char *data_dir;
	char *local_url; /* "http://localhost:PORT" made of http.addr; LiteFS' default port 20202 when absent */
	char *lease_type; /* "static", "consul" */
	char *lease_hostname;
	char *lease_advertise_url;
	char *lease_consul_url; /* may hold a password */
	char *lease_consul_key;
	char message[256]; /* of the last -EBADMSG */
};

int litefs_config_load(const char *path, struct litefs_config *ret);
void litefs_config_fini(struct litefs_config *config); /* zeroed or loaded; twice is harmless */

#endif
