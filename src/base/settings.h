/*
 * settings: what the command line decided, as plain values (prog/options fills it).
 * Threads: constant once the first thread runs. Units in the names.
 */
#ifndef LITEFWD_BASE_SETTINGS_H
#define LITEFWD_BASE_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct gw_secret;

struct settings {
	/* positional */
	char *litefs_dir; /* absolute, resolved; NULL until options_resolve() where litefs.yml is to say it */
	char *mountpoint; /* absolute */
	char *source; /* what mount tables show: LITEFS_DIR as it was given, "none" too */
	/* program */
	bool foreground; /* -f */
	bool debug; /* -d: implies -f */
	bool show_help, show_version;
	bool as_mount; /* called as mount.litefwd, by mount(8) */
	bool fake; /* mount -f: do all but mount */
	bool no_exec; /* noexec, or a user's mount: no program is run from here */
	/* -o, DESIGN 10; owned strings, NULL: not given. Times in ms, sizes in bytes. */
	char *config; /* litefwd.conf, when one was read */
	char *litefs_url;
	char *litefs_config;
	bool no_expand_env; /* of litefs_config */
	char *primary_url;
	char *gateway; /* ADDR:PORT to answer other nodes' litefwd at; NULL: not */
	char *gateway_url; /* template: where the primary's litefwd answers; NULL: HALT alone */
	char *gateway_secret; /* file ... */
	const struct gw_secret *gw_secret; /* ... and what main read in it; NULL: none */
	char *metrics; /* ADDR:PORT for /metrics and /healthz; NULL: not */
	int64_t halt_timeout_ms;
	int64_t commit_timeout_ms;
	int64_t halt_linger_ms; /* keep HALT (or LiteFS' WRITE) this long after a commit */
	int64_t halt_max_hold_ms; /* give it back after this, whatever happens ... */
	int64_t halt_pause_ms; /* ... and leave it to others for this long */
	int64_t read_max_hold_ms; /* 0: off */
	int64_t wait_ms;
	char *state_dir;
	char *spool_dir;
	int64_t spool_threshold; /* bytes */
	bool hide_primary;
	bool allow_other;
	bool ro;
	uid_t uid; /* (uid_t)-1: as the process */
	gid_t gid;
	mode_t umask; /* 022 by default */
	/* resolved by options_resolve() from the above and litefs.yml */
	char *lease_hostname;
	char *lease_url;
	char *lease_consul_url; /* may hold a password */
	char *lease_consul_key; /* NULL: no Consul lease, or primary_url= is given */
};

#endif
