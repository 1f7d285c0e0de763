/*
 * super_table: SQLite's super-journals, which name the journals of a transaction that spans several databases.
 *
 * They are small files of litefwd's own. Their unlink is the transaction's point of no return: SQLite ignores what the
 * unlinks of the databases' own journals answer after it, so all the databases are committed before it returns.
 *
 * Threads: any (its own mutex, never held across anything). Errors: -ENOENT, -ENOMEM, -EFBIG.
 */
#ifndef LITEFWD_DB_SUPER_TABLE_H
#define LITEFWD_DB_SUPER_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct super_table;

int super_table_new(struct super_table **ret);
void super_table_free(struct super_table *table);

int super_create(struct super_table *table, const char *name); /* as it is where it exists */
bool super_exists(struct super_table *table, const char *name);
int64_t super_size(struct super_table *table, const char *name);
int super_write(struct super_table *table, const char *name, const void *data, size_t len, off_t off);
ssize_t super_read(struct super_table *table, const char *name, void *buf, size_t len, off_t off);
int super_unlink(struct super_table *table, const char *name);

#endif
