/*
 * Lock ranges and the lock table: what a range touches, compared with each lock's own bytes, and grants and releases beside a table
 * of who holds what.
 */
#include <stdbool.h>

#include "db/lock_table.h"
#include "format/sqlite_format.h"
#include "fuzz.h"

#define OWNERS 6

static struct { enum lock_file file; int64_t first, last; } bytes_of[SLOT_COUNT];

static void set(int slot, enum lock_file file, int64_t first, int64_t n)
{
	bytes_of[slot].file = file;
	bytes_of[slot].first = first;
	bytes_of[slot].last = first + n - 1;
}

static void set_all(void)
{
	set(SLOT_PENDING, LOCK_FILE_DATABASE, 0x40000000, 1);
	set(SLOT_RESERVED, LOCK_FILE_DATABASE, 0x40000001, 1);
	set(SLOT_SHARED, LOCK_FILE_DATABASE, 0x40000002, 510);
	for (int slot = SLOT_WRITE; slot <= SLOT_DMS; slot++)
		set(slot, LOCK_FILE_SHM, 120 + slot - SLOT_WRITE, 1);
	set(SLOT_HALT, LOCK_FILE_LOCK, 72, 1);
}

static uint32_t expected(enum lock_file file, int64_t start, int64_t end)
{
	uint32_t slots = 0;

	for (int slot = 0; slot < SLOT_COUNT; slot++)
		if (bytes_of[slot].file == file && start <= bytes_of[slot].last && end >= bytes_of[slot].first)
			slots |= SLOT_BIT(slot);
	return slots;
}

struct model {
	uint32_t shared[OWNERS], exclusive[OWNERS];
};

static bool free_for(const struct model *m, unsigned who, uint32_t slots, bool exclusive)
{
	for (unsigned i = 0; i < OWNERS; i++)
		if (i != who && (slots & (m->exclusive[i] | (exclusive ? m->shared[i] : 0))))
			return false;
	return true;
}

static void check(const struct lock_table *table, const struct model *m)
{
	unsigned readers = 0;

	for (unsigned i = 0; i < OWNERS; i++) {
		const struct lock_owner *o = lock_owner_find(table, i + 1);

		MUST(o ? o->shared == m->shared[i] && o->exclusive == m->exclusive[i] : !m->shared[i] && !m->exclusive[i]);
		for (int slot = SLOT_READ0; slot <= SLOT_READ4; slot++)
			readers += !!(m->shared[i] & SLOT_BIT(slot));
		for (int slot = 0; o && slot < SLOT_COUNT; slot++) {
			int64_t start, end;

			if (!((o->shared | o->exclusive) & SLOT_BIT(slot)))
				continue;
			lock_extent(o, (enum lock_slot)slot, &start, &end);
			MUST(start <= bytes_of[slot].first && end >= bytes_of[slot].last);
			MUST(!(expected(bytes_of[slot].file, start, end) &
			       ~(o->exclusive & SLOT_BIT(slot) ? o->exclusive : o->shared)));
		}
	}
	MUST(lock_readers(table) == readers);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_in in = {data, size};
	struct lock_table table;
	struct model m = {0};

	set_all();
	lock_table_init(&table);
	while (in.left) {
		unsigned op = (unsigned)fuzz_take(&in, 1), who = (op >> 4) % OWNERS;
		enum lock_file file = (enum lock_file)((op & 3) % LOCK_FILE_COUNT);
		int64_t start = (int64_t)fuzz_take(&in, op & 4 ? 8 : 1) & INT64_MAX, end;
		uint32_t slots;
		struct lock_owner *o;
		enum lock_slot slot;

		if (!(op & 4) && file == LOCK_FILE_DATABASE)
			start += SQLITE_PENDING_BYTE - 2;
		end = (int64_t)fuzz_take(&in, 1) % 16;
		end = op & 8 || end > INT64_MAX - start ? INT64_MAX : start + end;
		slots = lock_slots(file, start, end);
		MUST(slots == expected(file, start, end) && !(slots & ~lock_file_slots(file)));
		o = lock_owner_get(&table, who + 1, 1);
		MUST(o);
		switch (fuzz_take(&in, 1) % 4) {
		case 0:
		case 1: {
			bool exclusive = in.left & 1;
			struct lock_owner *other = lock_conflict(&table, o, slots, exclusive, &slot);

			MUST(!other == free_for(&m, who, slots, exclusive));
			if (other) {
				MUST(other != o && (slots & SLOT_BIT(slot)));
				break;
			}
			lock_grant(&table, o, slots, exclusive);
			m.shared[who] = (m.shared[who] & ~slots) | (exclusive ? 0 : slots);
			m.exclusive[who] = (m.exclusive[who] & ~slots) | (exclusive ? slots : 0);
			break;
		}
		case 2:
			MUST(lock_release(&table, o, slots) == ((m.shared[who] | m.exclusive[who]) & slots));
			m.shared[who] &= ~slots;
			m.exclusive[who] &= ~slots;
			break;
		default:
			lock_owner_forget(&table, o);
			m.shared[who] = m.exclusive[who] = 0;
		}
		check(&table, &m);
	}
	lock_table_fini(&table);
	return 0;
}
