/* node: one inode per name, for good. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>

#include "fs/node.h"

static int setup(void **state)
{
	return node_table_new((struct node_table **)state);
}

static int teardown(void **state)
{
	node_table_free(*state);
	return 0;
}

static void add__same_name__same_node(void **state)
{
	struct node *a, *b, *again;

	assert_null(node_by_name(*state, "x"));
	assert_int_equal(node_add(*state, FILE_NODE, "x", &a), 0);
	assert_int_equal(node_add(*state, FILE_NODE, "y", &b), 0);
	assert_int_equal(node_add(*state, FILE_NODE, "x", &again), 0);
	assert_ptr_equal(a, again);
	assert_true(a->ino != b->ino && a->ino > FUSE_ROOT_INO && b->ino > FUSE_ROOT_INO);
	assert_ptr_equal(node_by_name(*state, "y"), b);
	assert_ptr_equal(node_by_ino(*state, b->ino), b);
	assert_string_equal(b->name, "y");
	assert_null(a->database);
}

static void by_ino__unknown__null(void **state)
{
	struct node *a;

	assert_int_equal(node_add(*state, FILE_NODE, "x", &a), 0);
	assert_null(node_by_ino(*state, 0));
	assert_null(node_by_ino(*state, FUSE_ROOT_INO));
	assert_null(node_by_ino(*state, a->ino + 1));
	assert_null(node_by_ino(*state, UINT64_MAX));
	node_table_free(NULL);
}

static void add_database__three_nodes_in_a_row(void **state)
{
	struct fs_database d = {0};
	struct node *other;

	assert_int_equal(node_add(*state, FILE_NODE, "x", &other), 0);
	assert_int_equal(node_add_database(*state, &d, "app.db"), 0);
	assert_string_equal(node_by_ino(*state, d.ino)->name, "app.db");
	assert_string_equal(node_by_ino(*state, d.ino + 1)->name, "app.db-wal");
	assert_string_equal(node_by_ino(*state, d.ino + 2)->name, "app.db-shm");
	assert_int_equal(node_by_ino(*state, d.ino)->kind, FILE_DATABASE);
	assert_int_equal(node_by_ino(*state, d.ino + 1)->kind, FILE_WAL);
	assert_int_equal(node_by_ino(*state, d.ino + 2)->kind, FILE_SHM);
	for (int i = 0; i < 3; i++)
		assert_ptr_equal(node_by_ino(*state, d.ino + (unsigned)i)->database, &d);
	assert_ptr_equal(node_by_name(*state, "app.db-shm"), node_by_ino(*state, d.ino + 2));
}

static void add__many__all_found_and_stay_where_they_are(void **state)
{
	enum { N = 1000 };
	static struct node *nodes[N];
	char name[30];

	for (int i = 0; i < N; i++) {
		snprintf(name, sizeof name, "file-%d", i);
		assert_int_equal(node_add(*state, FILE_NODE, name, &nodes[i]), 0);
	}
	for (int i = 0; i < N; i++) {
		snprintf(name, sizeof name, "file-%d", i);
		assert_ptr_equal(node_by_name(*state, name), nodes[i]);
		assert_ptr_equal(node_by_ino(*state, nodes[i]->ino), nodes[i]);
	}
}

static void *add_same(void *table)
{
	for (int i = 0; i < 300; i++) {
		struct node *node, *same;
		char name[30];

		snprintf(name, sizeof name, "file-%d", i);
		if (node_add(table, FILE_NODE, name, &node) || node_by_name(table, name) != node)
			return table;
		same = node_by_ino(table, node->ino);
		if (same != node || strcmp(same->name, name) != 0)
			return table;
	}
	return NULL;
}

static void add__from_threads__one_node_per_name(void **state)
{
	pthread_t t[4];

	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&t[i], NULL, add_same, *state), 0);
	for (int i = 0; i < 4; i++) {
		void *bad;

		pthread_join(t[i], &bad);
		assert_null(bad);
	}
	assert_non_null(node_by_ino(*state, 2 + 299));
	assert_null(node_by_ino(*state, 2 + 300));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(add__same_name__same_node),
		TEST(by_ino__unknown__null),
		TEST(add_database__three_nodes_in_a_row),
		TEST(add__many__all_found_and_stay_where_they_are),
		TEST(add__from_threads__one_node_per_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
