#include "fs/node.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct node_table {
	pthread_mutex_t mutex;
	struct node **nodes; /* nodes[i] has ino i + 2 */
	size_t count, cap;
};

int node_table_new(struct node_table **ret)
{
	struct node_table *table = calloc(1, sizeof *table);

	if (!table)
		return -ENOMEM;
	pthread_mutex_init(&table->mutex, NULL);
	*ret = table;
	return 0;
}

void node_table_free(struct node_table *table)
{
	if (!table)
		return;
	for (size_t i = 0; i < table->count; i++) {
		free(table->nodes[i]->name);
		free(table->nodes[i]);
	}
	free(table->nodes);
	pthread_mutex_destroy(&table->mutex);
	free(table);
}

struct node *node_by_ino(struct node_table *table, uint64_t ino)
{
	struct node *node = NULL;

	pthread_mutex_lock(&table->mutex);
	if (ino >= 2 && ino - 2 < table->count)
		node = table->nodes[ino - 2];
	pthread_mutex_unlock(&table->mutex);
	return node;
}

static struct node *find_locked(struct node_table *table, const char *name)
{
	for (size_t i = 0; i < table->count; i++)
		if (!strcmp(table->nodes[i]->name, name))
			return table->nodes[i];
	return NULL;
}

struct node *node_by_name(struct node_table *table, const char *name)
{
	struct node *node;

	pthread_mutex_lock(&table->mutex);
	node = find_locked(table, name);
	pthread_mutex_unlock(&table->mutex);
	return node;
}

static int add_locked(struct node_table *table, enum file_kind kind, const char *name, struct fs_database *database,
		      struct node **ret)
{
	struct node *node = find_locked(table, name);

	if (node) {
		*ret = node;
		return 0;
	}
	if (table->count == table->cap) {
		size_t cap = table->cap ? table->cap * 2 : 64;
		struct node **nodes = realloc(table->nodes, sizeof *nodes * cap);

		if (!nodes)
			return -ENOMEM;
		table->nodes = nodes;
		table->cap = cap;
	}
	node = calloc(1, sizeof *node);
	if (!node || !(node->name = strdup(name))) {
		free(node);
		return -ENOMEM;
	}
	node->kind = kind;
	node->database = database;
	node->ino = table->count + 2;
	table->nodes[table->count++] = node;
	*ret = node;
	return 0;
}

int node_add(struct node_table *table, enum file_kind kind, const char *name, struct node **ret)
{
	int err;

	pthread_mutex_lock(&table->mutex);
	err = add_locked(table, kind, name, NULL, ret);
	pthread_mutex_unlock(&table->mutex);
	return err;
}

int node_add_database(struct node_table *table, struct fs_database *database, const char *name)
{
	char wal[300], shm[300], journal[300];
	struct node *node;
	int err;

	snprintf(wal, sizeof wal, "%s-wal", name);
	snprintf(shm, sizeof shm, "%s-shm", name);
	snprintf(journal, sizeof journal, "%s-journal", name);
	pthread_mutex_lock(&table->mutex);
	database->ino = table->count + 2; /* known before the database's workers can notify */
	err = add_locked(table, FILE_DATABASE, name, database, &node);
	if (!err)
		err = add_locked(table, FILE_WAL, wal, database, &node);
	if (!err)
		err = add_locked(table, FILE_SHM, shm, database, &node);
	if (!err)
		err = add_locked(table, FILE_JOURNAL, journal, database, &node);
	pthread_mutex_unlock(&table->mutex);
	return err;
}
