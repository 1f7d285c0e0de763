#include "db/super_table.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Paths of at most some tens of databases. */
#define SIZE_LIMIT (1 << 20)

struct super {
	char *name;
	char *bytes;
	size_t size;
	struct super *next;
};

struct super_table {
	pthread_mutex_t mutex;
	struct super *supers;
};

int super_table_new(struct super_table **ret)
{
	struct super_table *table = calloc(1, sizeof *table);

	if (!table)
		return -ENOMEM;
	pthread_mutex_init(&table->mutex, NULL);
	*ret = table;
	return 0;
}

static struct super **find_locked(struct super_table *table, const char *name)
{
	struct super **pp = &table->supers;

	while (*pp && strcmp((*pp)->name, name) != 0)
		pp = &(*pp)->next;
	return pp;
}

static void free_one(struct super **pp)
{
	struct super *s = *pp;

	*pp = s->next;
	free(s->name);
	free(s->bytes);
	free(s);
}

void super_table_free(struct super_table *table)
{
	if (!table)
		return;
	while (table->supers)
		free_one(&table->supers);
	pthread_mutex_destroy(&table->mutex);
	free(table);
}

int super_create(struct super_table *table, const char *name)
{
	struct super **pp;
	int err = 0;

	pthread_mutex_lock(&table->mutex);
	pp = find_locked(table, name);
	if (!*pp) {
		struct super *s = calloc(1, sizeof *s);

		if (s)
			s->name = strdup(name);
		if (s && s->name) {
			*pp = s;
		} else {
			free(s);
			err = -ENOMEM;
		}
	}
	pthread_mutex_unlock(&table->mutex);
	return err;
}

int64_t super_size(struct super_table *table, const char *name)
{
	struct super *s;
	int64_t size;

	pthread_mutex_lock(&table->mutex);
	s = *find_locked(table, name);
	size = s ? (int64_t)s->size : -ENOENT;
	pthread_mutex_unlock(&table->mutex);
	return size;
}

bool super_exists(struct super_table *table, const char *name)
{
	return super_size(table, name) >= 0;
}

int super_write(struct super_table *table, const char *name, const void *data, size_t len, off_t off)
{
	struct super *s;
	int err = 0;

	if (off < 0 || off > SIZE_LIMIT || len > SIZE_LIMIT - (size_t)off)
		return -EFBIG;
	pthread_mutex_lock(&table->mutex);
	s = *find_locked(table, name);
	if (!s) {
		err = -ENOENT;
	} else if ((size_t)off + len > s->size) {
		char *bytes = realloc(s->bytes, (size_t)off + len);

		if (bytes) {
			memset(bytes + s->size, 0, (size_t)off + len - s->size);
			s->bytes = bytes;
			s->size = (size_t)off + len;
		} else {
			err = -ENOMEM;
		}
	}
	if (!err)
		memcpy(s->bytes + off, data, len);
	pthread_mutex_unlock(&table->mutex);
	return err;
}

ssize_t super_read(struct super_table *table, const char *name, void *buf, size_t len, off_t off)
{
	struct super *s;
	ssize_t n = 0;

	pthread_mutex_lock(&table->mutex);
	s = *find_locked(table, name);
	if (!s) {
		n = -ENOENT;
	} else if (off >= 0 && (size_t)off < s->size) {
		n = (ssize_t)(s->size - (size_t)off < len ? s->size - (size_t)off : len);
		memcpy(buf, s->bytes + off, (size_t)n);
	}
	pthread_mutex_unlock(&table->mutex);
	return n;
}

int super_unlink(struct super_table *table, const char *name)
{
	struct super **pp;
	int err = -ENOENT;

	pthread_mutex_lock(&table->mutex);
	pp = find_locked(table, name);
	if (*pp) {
		free_one(pp);
		err = 0;
	}
	pthread_mutex_unlock(&table->mutex);
	return err;
}
