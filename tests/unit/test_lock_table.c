/* lock_table: POSIX record locks on SQLite's bytes, against a model that keeps one state per byte and owner. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <stdbool.h>

#include "db/lock_table.h"
#include "format/sqlite_format.h"

#define ALL (SLOTS_DATABASE | SLOTS_SHM)

static void slots__each_byte__its_slot(void **state)
{
	(void)state;
	assert_int_equal(lock_slots(LOCK_FILE_DATABASE, 0x40000000, 0x40000000), SLOT_BIT(SLOT_PENDING));
	assert_int_equal(lock_slots(LOCK_FILE_DATABASE, 0x40000001, 0x40000001), SLOT_BIT(SLOT_RESERVED));
	assert_int_equal(lock_slots(LOCK_FILE_DATABASE, 0x40000002, 0x40000002 + 509), SLOT_BIT(SLOT_SHARED));
	assert_int_equal(lock_slots(LOCK_FILE_DATABASE, 0x40000002 + 509, 0x40000002 + 509), SLOT_BIT(SLOT_SHARED));
	assert_int_equal(lock_slots(LOCK_FILE_DATABASE, 0x40000002 + 510, 0x40000002 + 600), 0);
	assert_int_equal(lock_slots(LOCK_FILE_DATABASE, 0, 0x3fffffff), 0);
	assert_int_equal(lock_slots(LOCK_FILE_SHM, 0, 119), 0);
	for (int i = 0; i < 9; i++)
		assert_int_equal(lock_slots(LOCK_FILE_SHM, 120 + i, 120 + i), SLOT_BIT(SLOT_WRITE + i));
	assert_int_equal(lock_slots(LOCK_FILE_SHM, 129, INT64_MAX), 0);
}

static void slots__ranges__all_that_they_touch(void **state)
{
	(void)state;
	assert_int_equal(lock_slots(LOCK_FILE_DATABASE, 0, INT64_MAX), SLOTS_DATABASE);
	assert_int_equal(lock_slots(LOCK_FILE_SHM, 0, INT64_MAX), SLOTS_SHM);
	assert_int_equal(lock_slots(LOCK_FILE_DATABASE, 0x40000000, 0x40000001), SLOT_BIT(SLOT_PENDING) | SLOT_BIT(SLOT_RESERVED));
	assert_int_equal(lock_slots(LOCK_FILE_DATABASE, 0x3fffffff, 0x40000000), SLOT_BIT(SLOT_PENDING));
	assert_int_equal(lock_slots(LOCK_FILE_SHM, 123, 127), SLOTS_READ);
	/* WRITE, CKPT and RECOVER together: what recovery takes. */
	assert_int_equal(lock_slots(LOCK_FILE_SHM, 120, 122),
			 SLOT_BIT(SLOT_WRITE) | SLOT_BIT(SLOT_CKPT) | SLOT_BIT(SLOT_RECOVER));
	assert_int_equal(SLOTS_DATABASE & SLOTS_SHM, 0);
	assert_int_equal(ALL | lock_file_slots(LOCK_FILE_LOCK), (1 << SLOT_COUNT) - 1);
	/* An application's HALT is one byte of NAME-lock. */
	assert_int_equal(lock_slots(LOCK_FILE_LOCK, 72, 72), SLOT_BIT(SLOT_HALT));
	assert_int_equal(lock_slots(LOCK_FILE_LOCK, 0, INT64_MAX), SLOT_BIT(SLOT_HALT));
	assert_int_equal(lock_slots(LOCK_FILE_LOCK, 0, 71), 0);
	assert_int_equal(lock_slots(LOCK_FILE_LOCK, 73, 200), 0);
}

static void extent__what_is_held_alike__one_range(void **state)
{
	struct lock_table t;
	struct lock_owner *a;
	int64_t start, end;

	(void)state;
	lock_table_init(&t);
	a = lock_owner_get(&t, 1, 100);
	lock_grant(&t, a, SLOTS_DATABASE | SLOTS_READ, true);
	lock_extent(a, SLOT_RESERVED, &start, &end);
	assert_int_equal(start, 0x40000000);
	assert_int_equal(end, 0x40000002 + 509); /* and not the shm's, whose slots come next */
	lock_extent(a, SLOT_READ0, &start, &end);
	assert_int_equal(start, 123);
	assert_int_equal(end, 127);
	lock_grant(&t, a, SLOT_BIT(SLOT_READ1), false);
	lock_extent(a, SLOT_READ0, &start, &end);
	assert_int_equal(start, 123);
	assert_int_equal(end, 123);
	lock_extent(a, SLOT_READ1, &start, &end);
	assert_int_equal(start, 124);
	assert_int_equal(end, 124);
	lock_extent(a, SLOT_READ4, &start, &end);
	assert_int_equal(start, 125);
	assert_int_equal(end, 127);
	lock_table_fini(&t);
}

static void owner_get__twice__the_same(void **state)
{
	struct lock_table t;
	struct lock_owner *a, *b;

	(void)state;
	lock_table_init(&t);
	assert_null(lock_owner_find(&t, 1));
	a = lock_owner_get(&t, 1, 100);
	b = lock_owner_get(&t, 2, 200);
	assert_ptr_not_equal(a, b);
	assert_ptr_equal(lock_owner_get(&t, 1, 300), a);
	assert_int_equal(a->tgid, 100); /* noted when it was made */
	assert_int_equal(b->tgid, 200);
	assert_ptr_equal(lock_owner_find(&t, 2), b);
	lock_grant(&t, a, SLOT_BIT(SLOT_WRITE), true);
	lock_grant(&t, a, SLOT_BIT(SLOT_READ1), false);
	lock_owner_forget(&t, a);
	assert_null(lock_owner_find(&t, 1));
	assert_ptr_equal(lock_owner_find(&t, 2), b);
	assert_int_equal(lock_readers(&t), 0);
	{
		enum lock_slot slot;

		assert_null(lock_conflict(&t, b, ALL, true, &slot));
	}
	lock_table_fini(&t);
}

static void grant__upgrade_and_downgrade__replaces(void **state)
{
	struct lock_table t;
	struct lock_owner *a, *b;
	enum lock_slot slot = SLOT_COUNT;

	(void)state;
	lock_table_init(&t);
	a = lock_owner_get(&t, 1, 1);
	b = lock_owner_get(&t, 2, 2);
	lock_grant(&t, a, SLOT_BIT(SLOT_SHARED), false);
	assert_null(lock_conflict(&t, b, SLOT_BIT(SLOT_SHARED), false, &slot));
	assert_ptr_equal(lock_conflict(&t, b, SLOT_BIT(SLOT_SHARED), true, &slot), a);
	assert_int_equal(slot, SLOT_SHARED);
	assert_null(lock_conflict(&t, a, SLOT_BIT(SLOT_SHARED), true, &slot)); /* nobody is in one's own way */
	lock_grant(&t, a, SLOT_BIT(SLOT_SHARED), true);
	assert_int_equal(a->shared, 0);
	assert_int_equal(a->exclusive, SLOT_BIT(SLOT_SHARED));
	assert_ptr_equal(lock_conflict(&t, b, SLOT_BIT(SLOT_SHARED), false, &slot), a);
	assert_null(lock_conflict(&t, a, SLOT_BIT(SLOT_SHARED), false, &slot));
	lock_grant(&t, a, SLOT_BIT(SLOT_SHARED), false);
	assert_int_equal(a->exclusive, 0);
	assert_null(lock_conflict(&t, b, SLOT_BIT(SLOT_SHARED), false, &slot));
	lock_grant(&t, b, SLOT_BIT(SLOT_SHARED), false);
	/* Two share: neither may upgrade. */
	assert_ptr_equal(lock_conflict(&t, a, SLOT_BIT(SLOT_SHARED), true, &slot), b);
	assert_ptr_equal(lock_conflict(&t, b, SLOT_BIT(SLOT_SHARED), true, &slot), a);
	/* Granted twice is held once. */
	lock_grant(&t, b, SLOT_BIT(SLOT_SHARED), false);
	assert_int_equal(lock_release(&t, b, SLOT_BIT(SLOT_SHARED)), SLOT_BIT(SLOT_SHARED));
	assert_int_equal(lock_release(&t, b, SLOT_BIT(SLOT_SHARED)), 0);
	assert_null(lock_conflict(&t, a, SLOT_BIT(SLOT_SHARED), true, &slot));
	lock_table_fini(&t);
}

static void release__whole_file__what_was_held_there_only(void **state)
{
	struct lock_table t;
	struct lock_owner *a;

	(void)state;
	lock_table_init(&t);
	a = lock_owner_get(&t, 1, 1);
	lock_grant(&t, a, SLOT_BIT(SLOT_SHARED), false);
	lock_grant(&t, a, SLOT_BIT(SLOT_DMS) | SLOT_BIT(SLOT_READ2), false);
	lock_grant(&t, a, SLOT_BIT(SLOT_WRITE), true);
	assert_int_equal(lock_release(&t, a, lock_slots(LOCK_FILE_SHM, 0, INT64_MAX)),
			 SLOT_BIT(SLOT_DMS) | SLOT_BIT(SLOT_READ2) | SLOT_BIT(SLOT_WRITE));
	assert_int_equal(a->shared, SLOT_BIT(SLOT_SHARED));
	assert_int_equal(a->exclusive, 0);
	assert_int_equal(lock_release(&t, a, lock_slots(LOCK_FILE_DATABASE, 0, INT64_MAX)), SLOT_BIT(SLOT_SHARED));
	assert_ptr_equal(lock_owner_find(&t, 1), a); /* stays until forgotten */
	lock_table_fini(&t);
}

static void readers__shared_read_locks_alone_count(void **state)
{
	struct lock_table t;

	(void)state;
	lock_table_init(&t);
	assert_int_equal(lock_readers(&t), 0);
	lock_grant(&t, lock_owner_get(&t, 1, 1), SLOT_BIT(SLOT_READ0), false);
	lock_grant(&t, lock_owner_get(&t, 2, 2), SLOT_BIT(SLOT_READ4), false);
	lock_grant(&t, lock_owner_get(&t, 3, 3), SLOT_BIT(SLOT_READ1), true);
	lock_grant(&t, lock_owner_get(&t, 4, 4), SLOT_BIT(SLOT_DMS) | SLOT_BIT(SLOT_SHARED), false);
	assert_int_equal(lock_readers(&t), 2);
	lock_owner_forget(&t, lock_owner_find(&t, 1));
	assert_int_equal(lock_readers(&t), 1);
	lock_table_fini(&t);
}

/* Thousands of requests; after each the table says of every owner and slot what the model says. */
static void random__as_the_model(void **state)
{
	enum { OWNERS = 5 };
	unsigned char held[OWNERS][SLOT_COUNT] = {{0}}; /* 0, 1 shared, 2 exclusive */
	struct lock_table t;
	unsigned seed = 3, refused = 0, granted = 0, released = 0;

	(void)state;
	lock_table_init(&t);
	for (int i = 0; i < 20000; i++) {
		int who = rand_r(&seed) % OWNERS, what = rand_r(&seed) % 3;
		uint32_t slots = (uint32_t)rand_r(&seed) & ALL;
		struct lock_owner *o = lock_owner_get(&t, (uint64_t)who + 10, who);
		enum lock_slot slot = SLOT_COUNT;

		slots = i % 3 ? SLOT_BIT((unsigned)rand_r(&seed) % SLOT_COUNT) : slots & (slots >> 1);
		if (what == 0) {
			uint32_t want = 0;

			for (int s = 0; s < SLOT_COUNT; s++)
				if ((slots & SLOT_BIT(s)) && held[who][s]) {
					want |= SLOT_BIT(s);
					held[who][s] = 0;
				}
			assert_int_equal(lock_release(&t, o, slots), want);
			released += want != 0;
			if (i % 5 == 0 && !o->shared && !o->exclusive)
				lock_owner_forget(&t, o);
		} else {
			bool excl = what == 2, conflict = false;
			struct lock_owner *in_way;

			for (int s = 0; s < SLOT_COUNT; s++)
				for (int other = 0; other < OWNERS; other++)
					if ((slots & SLOT_BIT(s)) && other != who && held[other][s] > (excl ? 0 : 1))
						conflict = true;
			in_way = lock_conflict(&t, o, slots, excl, &slot);
			assert_int_equal(in_way != NULL, conflict);
			if (in_way) {
				int other = (int)in_way->id - 10;

				assert_true(other != who && (slots & SLOT_BIT(slot)));
				assert_true(held[other][slot] > (excl ? 0 : 1));
				refused++;
			} else {
				lock_grant(&t, o, slots, excl);
				for (int s = 0; s < SLOT_COUNT; s++)
					if (slots & SLOT_BIT(s))
						held[who][s] = excl ? 2 : 1;
				granted++;
			}
		}
		for (int k = 0; k < OWNERS; k++) {
			struct lock_owner *x = lock_owner_find(&t, (uint64_t)k + 10);

			for (int s = 0; s < SLOT_COUNT; s++) {
				assert_int_equal(x && (x->shared & SLOT_BIT(s)), held[k][s] == 1);
				assert_int_equal(x && (x->exclusive & SLOT_BIT(s)), held[k][s] == 2);
			}
		}
	}
	assert_true(refused > 1000 && granted > 1000 && released > 1000);
	lock_table_fini(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(slots__each_byte__its_slot),
		cmocka_unit_test(slots__ranges__all_that_they_touch),
		cmocka_unit_test(extent__what_is_held_alike__one_range),
		cmocka_unit_test(owner_get__twice__the_same),
		cmocka_unit_test(grant__upgrade_and_downgrade__replaces),
		cmocka_unit_test(release__whole_file__what_was_held_there_only),
		cmocka_unit_test(readers__shared_read_locks_alone_count),
		cmocka_unit_test(random__as_the_model),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
