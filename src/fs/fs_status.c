/* The virtual file ".litefwd": role and every database's state, as JSON. */
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "fs/fs_internal.h"

char *fs_status_text(struct fs *fs, size_t *ret_len)
{
	static const char *const kinds[] = {"unknown", "primary", "replica"};
	struct role_state *role = calloc(1, sizeof *role);
	json_t *root = json_object(), *databases = json_object();
	char *text = NULL;

	if (role && root && databases) {
		role_get(fs->role, role);
		json_object_set_new(root, "litefs_dir", json_string(fs->settings->litefs_dir));
		json_object_set_new(root, "role", json_string(kinds[role->kind]));
		json_object_set_new(root, "litefs_alive", json_boolean(role->local_alive));
		json_object_set_new(root, "primary_hostname", json_string(role->primary_hostname));
		json_object_set_new(root, "primary_url", json_string(role->primary_url));
		pthread_mutex_lock(&fs->mutex);
		for (struct fs_database *d = fs->databases; d; d = d->next)
			json_object_set_new(databases, db_name(d->db), db_status(d->db));
		pthread_mutex_unlock(&fs->mutex);
		json_object_set(root, "databases", databases);
		json_object_set_new(root, "servers", breakers_status(fs->breakers));
		if (fs->companion)
			json_object_set_new(root, "gateway", fs->companion->status(fs->companion->ctx));
		text = json_dumps(root, JSON_INDENT(2) | JSON_SORT_KEYS);
	}
	json_decref(root);
	json_decref(databases);
	free(role);
	if (text) {
		*ret_len = strlen(text);
		text[(*ret_len)++] = '\n'; /* in place of the terminator: the length says where it ends */
	}
	return text;
}
