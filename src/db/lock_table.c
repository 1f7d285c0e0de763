#include "db/lock_table.h"

#include <assert.h>
#include <stdlib.h>

#include "format/sqlite_format.h"

void lock_table_init(struct lock_table *table)
{
	*table = (struct lock_table){0};
}

void lock_table_fini(struct lock_table *table)
{
	while (table->owners) {
		struct lock_owner *next = table->owners->next;

		free(table->owners);
		table->owners = next;
	}
}

static bool touches(int64_t start, int64_t end, int64_t first, int64_t n)
{
	return start < first + n && end >= first;
}

uint32_t lock_file_slots(enum lock_file file)
{
	return file == LOCK_FILE_DATABASE ? SLOTS_DATABASE : file == LOCK_FILE_SHM ? SLOTS_SHM : SLOT_BIT(SLOT_HALT);
}

uint32_t lock_slots(enum lock_file file, int64_t start, int64_t end)
{
	uint32_t slots = 0;

	if (file == LOCK_FILE_LOCK)
		return touches(start, end, LITEFS_HALT_BYTE, 1) ? SLOT_BIT(SLOT_HALT) : 0;
	if (file == LOCK_FILE_DATABASE) {
		if (touches(start, end, SQLITE_PENDING_BYTE, 1))
			slots |= SLOT_BIT(SLOT_PENDING);
		if (touches(start, end, SQLITE_RESERVED_BYTE, 1))
			slots |= SLOT_BIT(SLOT_RESERVED);
		if (touches(start, end, SQLITE_SHARED_FIRST, SQLITE_SHARED_SIZE))
			slots |= SLOT_BIT(SLOT_SHARED);
		return slots;
	}
	for (int slot = SLOT_WRITE; slot <= SLOT_DMS; slot++)
		if (touches(start, end, WAL_WRITE_BYTE + slot - SLOT_WRITE, 1))
			slots |= SLOT_BIT(slot);
	return slots;
}

struct lock_owner *lock_owner_find(const struct lock_table *table, uint64_t id)
{
	for (struct lock_owner *o = table->owners; o; o = o->next)
		if (o->id == id)
			return o;
	return NULL;
}

struct lock_owner *lock_owner_get(struct lock_table *table, uint64_t id, pid_t tgid)
{
	struct lock_owner *o = lock_owner_find(table, id);

	if (o)
		return o;
	o = calloc(1, sizeof *o);
	if (!o)
		return NULL;
	o->id = id;
	o->tgid = tgid;
	o->next = table->owners;
	table->owners = o;
	return o;
}

struct lock_owner *lock_conflict(const struct lock_table *table, const struct lock_owner *owner, uint32_t slots,
				 bool exclusive, enum lock_slot *ret_slot)
{
	for (int slot = 0; slot < SLOT_COUNT; slot++) {
		if (!(slots & SLOT_BIT(slot)))
			continue;
		if (table->exclusive[slot] && table->exclusive[slot] != owner) {
			*ret_slot = (enum lock_slot)slot;
			return table->exclusive[slot];
		}
		if (!exclusive || table->shared_count[slot] == 0)
			continue;
		for (struct lock_owner *o = table->owners; o; o = o->next)
			if (o != owner && (o->shared & SLOT_BIT(slot))) {
				*ret_slot = (enum lock_slot)slot;
				return o;
			}
	}
	return NULL;
}

static void slot_bytes(int slot, int64_t *ret_start, int64_t *ret_end)
{
	if (slot == SLOT_HALT)
		*ret_start = LITEFS_HALT_BYTE;
	else if (slot >= SLOT_WRITE)
		*ret_start = WAL_WRITE_BYTE + slot - SLOT_WRITE;
	else
		*ret_start = SQLITE_PENDING_BYTE + slot;
	*ret_end = *ret_start + (slot == SLOT_SHARED ? SQLITE_SHARED_SIZE : 1) - 1;
}

void lock_extent(const struct lock_owner *owner, enum lock_slot slot, int64_t *ret_start, int64_t *ret_end)
{
	uint32_t held = owner->exclusive & SLOT_BIT(slot) ? owner->exclusive : owner->shared;
	int first = slot, last = slot;
	int64_t ignored;

	for (int file = 0; file < LOCK_FILE_COUNT; file++)
		if (lock_file_slots((enum lock_file)file) & SLOT_BIT(slot))
			held &= lock_file_slots((enum lock_file)file);
	/* A file's slots are in the order of its bytes, without gaps. */
	while (first > 0 && (held & SLOT_BIT(first - 1)))
		first--;
	while (last + 1 < SLOT_COUNT && (held & SLOT_BIT(last + 1)))
		last++;
	slot_bytes(first, ret_start, &ignored);
	slot_bytes(last, &ignored, ret_end);
}

void lock_grant(struct lock_table *table, struct lock_owner *owner, uint32_t slots, bool exclusive)
{
	lock_release(table, owner, slots);
	for (int slot = 0; slot < SLOT_COUNT; slot++) {
		if (!(slots & SLOT_BIT(slot)))
			continue;
		assert(!table->exclusive[slot]);
		if (exclusive)
			table->exclusive[slot] = owner;
		else
			table->shared_count[slot]++;
	}
	if (exclusive)
		owner->exclusive |= slots;
	else
		owner->shared |= slots;
}

uint32_t lock_release(struct lock_table *table, struct lock_owner *owner, uint32_t slots)
{
	uint32_t shared = owner->shared & slots, exclusive = owner->exclusive & slots;

	for (int slot = 0; slot < SLOT_COUNT; slot++) {
		if (shared & SLOT_BIT(slot))
			table->shared_count[slot]--;
		if (exclusive & SLOT_BIT(slot))
			table->exclusive[slot] = NULL;
	}
	owner->shared &= ~slots;
	owner->exclusive &= ~slots;
	return shared | exclusive;
}

void lock_owner_forget(struct lock_table *table, struct lock_owner *owner)
{
	struct lock_owner **p = &table->owners;

	lock_release(table, owner, ~0u);
	while (*p != owner)
		p = &(*p)->next;
	*p = owner->next;
	free(owner);
}

unsigned lock_readers(const struct lock_table *table)
{
	unsigned n = 0;

	for (int slot = SLOT_READ0; slot <= SLOT_READ4; slot++)
		n += table->shared_count[slot];
	return n;
}
