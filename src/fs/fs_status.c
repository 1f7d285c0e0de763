/*
 * Status: the node's and every database's state and counters as JSON, for the virtual file ".litefwd", for /metrics and /healthz.
 *
 * From memory alone: it takes fs' databases without fs->mutex (which is held across LiteFS) and each database's own mutex, so that it answers
 * when LiteFS does not, which is when it is wanted.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "fs/fs_internal.h"
#include "status/health.h"

static void add_node(json_t *root, struct fs *fs, const struct role_state *role)
{
	static const char *const kinds[] = {"unknown", "primary", "replica"};
	const struct settings *s = fs->settings;

	json_object_set_new(root, "version", json_string(PACKAGE_VERSION));
	json_object_set_new(root, "pid", json_integer(getpid()));
	json_object_set_new(root, "started_at", json_integer((json_int_t)fs->started.tv_sec));
	json_object_set_new(root, "uptime_s", json_integer((clock_now_ns() - fs->started_ns) / NS_PER_S));
	json_object_set_new(root, "litefs_dir", json_string(s->litefs_dir));
	json_object_set_new(root, "mountpoint", json_string(s->mountpoint));
	json_object_set_new(root, "litefs_url", json_string(s->litefs_url));
	json_object_set_new(root, "node_id", json_sprintf("%016llx", (unsigned long long)fs->node_id));
	json_object_set_new(root, "role", json_string(kinds[role->kind]));
	json_object_set_new(root, "litefs_alive", json_boolean(role->local_alive));
	json_object_set_new(root, "cluster_id", json_string(role->cluster_id));
	json_object_set_new(root, "primary_hostname", json_string(role->primary_hostname));
	json_object_set_new(root, "primary_url", json_string(role->primary_url));
	json_object_set_new(root, "primary_gateway_url", json_string(role->gateway_url));
	json_object_set_new(root, "read_only", json_boolean(s->ro));
}

/* Where it is sent, for people: the same as the node's, by the kind of its upstream. */
static void add_url(json_t *db, const struct fs *fs, const struct role_state *role)
{
	const char *kind = json_string_value(json_object_get(db, "upstream_kind")), *url = NULL;

	if (kind && !strcmp(kind, "gateway"))
		url = role->gateway_url;
	else if (kind && !strcmp(kind, "halt"))
		url = role->primary_url;
	else if (kind)
		url = fs->settings->litefs_url;
	json_object_set_new(db, "upstream_url", url && *url ? json_string(url) : json_null());
}

json_t *fs_status_json(struct fs *fs, bool durations)
{
	struct role_state *role = calloc(1, sizeof *role);
	json_t *root = json_object(), *databases = json_object();
	const struct fs_companion *companion = fs->companion;

	if (!role || !root || !databases) {
		free(role);
		json_decref(root);
		json_decref(databases);
		return NULL;
	}
	role_get(fs->role, role);
	add_node(root, fs, role);
	for (struct fs_database *d = NULL; (d = fs_database_next(fs, d)) != NULL;) {
		json_t *db = db_status(d->db);

		add_url(db, fs, role);
		json_object_set_new(databases, db_name(d->db), db);
	}
	json_object_set_new(root, "databases", databases);
	json_object_set_new(root, "servers", breakers_status(fs->breakers));
	if (companion && companion->status)
		json_object_set_new(root, "gateway", companion->status(companion->ctx));
	if (durations)
		json_object_set_new(root, "durations", db_metrics_json(&fs->metrics));
	json_object_set_new(root, "health", health_judge(root));
	free(role);
	return root;
}

char *fs_status_text(struct fs *fs, size_t *ret_len)
{
	json_t *root = fs_status_json(fs, false);
	char *text = root ? json_dumps(root, JSON_INDENT(2) | JSON_SORT_KEYS) : NULL;

	json_decref(root);
	if (text) {
		*ret_len = strlen(text);
		text[(*ret_len)++] = '\n'; /* in place of the terminator: the length says where it ends */
	}
	return text;
}
