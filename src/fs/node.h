/*
 * node: the names of the mount as inodes. A node is made when a name is first found, and
 * kept until unmount: there are as many as LiteFS has files.
 *
 * Threads: any (its own mutex). Errors: negative errno.
 */
#ifndef LITEFWD_FS_NODE_H
#define LITEFWD_FS_NODE_H

#include <stdbool.h>
#include <stdint.h>

#include "db/db.h"
#include "format/names.h"

#define FUSE_ROOT_INO 1

struct fs;

/* One database of the mount: its files' inodes follow each other. */
struct fs_database {
	struct fs *fs;
	struct db *db;
	uint64_t ino; /* database; +1 "-wal", +2 "-shm", +3 "-journal" */
	struct fs_database *next;
};

struct node {
	uint64_t ino;
	enum file_kind kind;
	char *name; /* as in the directory; owned */
	struct fs_database *database; /* FILE_DATABASE, FILE_WAL, FILE_SHM, FILE_JOURNAL, FILE_LOCK (set by its lookup); else NULL */
};

struct node_table;

int node_table_new(struct node_table **ret);
void node_table_free(struct node_table *table);

/* NULL: unknown. The node stays valid until node_table_free(). */
struct node *node_by_ino(struct node_table *table, uint64_t ino);
struct node *node_by_name(struct node_table *table, const char *name);

/* Found or made. */
int node_add(struct node_table *table, enum file_kind kind, const char *name, struct node **ret);

/* The four nodes of a database at once; takes nothing. */
int node_add_database(struct node_table *table, struct fs_database *database, const char *name);

#endif
