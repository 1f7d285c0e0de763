/*
 * differ's imagination: see differ.h. It knows only what the plain side has answered, so that a seed says everything.
 *
 * The schema is a pool of fixed names, each table of its own kind and all with the columns id, a, b, c. A statement may meet
 * a table that is not there: an error is an answer, too. Everything is plain SQL that the shell can repeat.
 */
#include "differ.h"

#include <sqlite3.h>

enum { TABLES = 6, INDEXES = 10, VIEWS = 3, TRIGGERS = 5, SAVEPOINTS = 3, IDS = 160 };

#define PICK(r, ...) pick(r, (const char *const[]){__VA_ARGS__}, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

static const char *pick(struct rng *r, const char *const *list, size_t count)
{
	return list[rng_below(r, (uint32_t)count)];
}

/* ---- values ---- */

static void value_text(struct gen *g, struct text *out)
{
	static const char *const words[] = {"alpha", "beta", "\u00fcber", "\u65e5\u672c\u8a9e", "O''Hara", "\U0001f600 smile", "", "null", "-0"};
	struct rng *r = &g->rng;
	uint32_t kind = rng_below(r, 100), n = rng_below(r, 400);
	uint32_t large = rng_below(r, (uint32_t)(g->page_size > 16384 ? 49152 : g->page_size * 3) / 4);
	const char *word = pick(r, words, 9), *other = pick(r, words, 9);

	if (g->sabotage)
		text_add(out, "'sabotage'");
	else if (kind < 70)
		text_add(out, "'%s %s %u'", word, other, n);
	else if (kind < 92)
		text_add(out, "replace(hex(zeroblob(%u)), '00', '%u,')", n, n % 97);
	else
		text_add(out, "replace(hex(zeroblob(%u)), '00', 'w%02u ')", large, n % 97);
}

static void value_blob(struct gen *g, struct text *out)
{
	struct rng *r = &g->rng;
	uint32_t large = (uint32_t)(g->page_size > 16384 ? 49152 : g->page_size * 3);

	switch (rng_below(r, 4)) {
	case 0:
		text_add(out, "zeroblob(%u)", rng_below(r, large));
		return;
	case 1:
		text_add(out, "CAST(replace(hex(zeroblob(%u)), '00', '%x') AS BLOB)", rng_below(r, large / 8), rng_below(r, 1 << 30));
		return;
	default:
		text_add(out, "x'");
		for (uint32_t n = rng_below(r, 40); n; n--)
			text_add(out, "%02x", rng_below(r, 256));
		text_add(out, "'");
	}
}

static void value(struct gen *g, struct text *out)
{
	struct rng *r = &g->rng;
	uint32_t kind = rng_below(r, 100);

	if (kind < 35)
		text_add(out, "%u", rng_below(r, 50));
	else if (kind < 42)
		text_add(out, "%lld", (long long)(rng_next(r) >> rng_below(r, 60)) * (rng_percent(r, 50) ? -1 : 1) / 2);
	else if (kind < 55)
		text_add(out, "%d.%ue%d", (int)rng_below(r, 100) - 50, rng_below(r, 100000), (int)rng_below(r, 40) - 20);
	else if (kind < 65)
		text_add(out, "NULL");
	else if (kind < 80)
		value_blob(g, out);
	else
		value_text(g, out);
}

static void row(struct gen *g, struct text *out)
{
	if (rng_percent(&g->rng, 10))
		text_add(out, "(NULL, ");
	else
		text_add(out, "(%u, ", rng_below(&g->rng, IDS));
	value(g, out);
	text_add(out, ", ");
	value_text(g, out);
	text_add(out, ", ");
	if (rng_percent(&g->rng, 70))
		text_add(out, "%u)", rng_below(&g->rng, IDS));
	else {
		value(g, out);
		text_add(out, ")");
	}
}

static void where(struct gen *g, struct text *out)
{
	struct rng *r = &g->rng;
	uint32_t id = rng_below(r, IDS);

	switch (rng_below(r, 8)) {
	case 0:
		text_add(out, " WHERE id BETWEEN %u AND %u", id, id + rng_below(r, 20));
		return;
	case 1:
		text_add(out, " WHERE a = %u", rng_below(r, 50));
		return;
	case 2:
		text_add(out, " WHERE id %% 13 = %u AND c IS NOT NULL", rng_below(r, 13));
		return;
	case 3:
		text_add(out, " WHERE b LIKE '%s%%'", PICK(r, "alpha", "w0", "b", "\u00fc"));
		return;
	default:
		text_add(out, " WHERE id = %u", id);
	}
}

static const char *conflict(struct rng *r)
{
	return PICK(r, "", "", "", "", "", " OR IGNORE", " OR REPLACE", " OR FAIL", " OR ABORT", " OR ROLLBACK");
}

/* ---- statements that write ---- */

static void insert(struct gen *g, struct text *out)
{
	struct rng *r = &g->rng;
	uint32_t t = rng_below(r, TABLES), from = rng_below(r, IDS), kind = rng_below(r, 100);
	uint32_t count = rng_percent(r, 85) ? 1 : 2 + rng_below(r, 4);

	if (kind < 12) {
		text_add(out, "INSERT OR %s INTO t%u(id, a, b, c) WITH RECURSIVE n(i) AS (SELECT %u UNION ALL SELECT i + 1 FROM n WHERE i < %u) "
			 "SELECT i, i * %u, ", PICK(r, "IGNORE", "REPLACE"), t, from, from + rng_below(r, 90), 1 + rng_below(r, 9));
		value_text(g, out);
		text_add(out, " || i, i %% %u FROM n", 1 + rng_below(r, 40));
		return;
	}
	if (kind < 20) {
		text_add(out, "INSERT%s INTO t%u(id, a, b, c) SELECT id + %u, a, b, c FROM t%u ORDER BY id LIMIT %u", conflict(r), t,
			 rng_below(r, 30), rng_below(r, TABLES), rng_below(r, 20));
		return;
	}
	text_add(out, "INSERT%s INTO t%u(id, a, b, c) VALUES ", kind < 60 ? conflict(r) : "", t);
	for (uint32_t i = 0; i < count; i++) {
		text_add(out, i ? ", " : "");
		row(g, out);
	}
	if (kind >= 85) {
		text_add(out, " ON CONFLICT(id) DO %s", PICK(r, "NOTHING", "UPDATE SET b = excluded.b || 'u', c = c + 1",
							     "UPDATE SET a = excluded.a WHERE c > 30", "UPDATE SET id = excluded.id + 7"));
	}
	if (rng_percent(r, 20))
		text_add(out, " RETURNING id, typeof(a), length(b)");
}

static void update(struct gen *g, struct text *out)
{
	struct rng *r = &g->rng;

	text_add(out, "UPDATE%s t%u SET ", conflict(r), rng_below(r, TABLES));
	switch (rng_below(r, 6)) {
	case 0:
		text_add(out, "a = ");
		value(g, out);
		break;
	case 1:
		text_add(out, "c = ");
		value(g, out);
		text_add(out, ", b = ");
		value_text(g, out);
		break;
	case 2:
		text_add(out, "c = c + 1");
		break;
	case 3:
		text_add(out, "id = id + %d", (int)rng_below(r, 9) - 4);
		break;
	default:
		text_add(out, "b = ");
		value_text(g, out);
	}
	where(g, out);
	if (rng_percent(r, 10))
		text_add(out, " RETURNING id, b");
}

static void delete(struct gen *g, struct text *out)
{
	struct rng *r = &g->rng;
	uint32_t kind = rng_below(r, 100);

	if (kind < 8) {
		text_add(out, "DELETE FROM log WHERE n %% 5 <> 0");
		return;
	}
	text_add(out, "DELETE FROM t%u", rng_below(r, TABLES));
	if (kind < 30)
		text_add(out, " WHERE id >= %u", IDS - 20);
	else if (kind < 35)
		text_add(out, " WHERE id %% 3 = %u", rng_below(r, 3));
	else if (kind >= 38) /* else all of them */
		where(g, out);
}

static void fts(struct gen *g, struct text *out)
{
	struct rng *r = &g->rng;

	switch (rng_below(r, 8)) {
	case 0:
		text_add(out, "DELETE FROM f0 WHERE rowid %% 7 = %u", rng_below(r, 7));
		return;
	case 1:
		text_add(out, "UPDATE f0 SET body = body || ' beta%u' WHERE rowid = %u", rng_below(r, 50), rng_below(r, 60));
		return;
	case 2:
		text_add(out, "INSERT INTO f0(f0%s) VALUES (%s)", PICK(r, "", "", ", rank"),
			 PICK(r, "'optimize'", "'integrity-check'", "'rebuild'", "'merge', 4", "'automerge', 2", "'delete-all'"));
		return;
	default:
		text_add(out, "INSERT INTO f0(rowid, body, tag) VALUES (%s, ", PICK(r, "NULL", "NULL", "7", "31"));
		value_text(g, out);
		text_add(out, ", ");
		value_text(g, out);
		text_add(out, ")");
	}
}

void gen_write(struct gen *g, struct text *out)
{
	uint32_t kind = rng_below(&g->rng, 100);

	if (kind < 48)
		insert(g, out);
	else if (kind < 74)
		update(g, out);
	else if (kind < 90)
		delete(g, out);
	else
		fts(g, out);
}

/* ---- the schema ---- */

static void create_table(struct gen *g, uint32_t t, struct text *out)
{
	static const char *const columns[TABLES] = {
		"(id INTEGER PRIMARY KEY, a, b TEXT, c)",
		"(id INTEGER PRIMARY KEY AUTOINCREMENT, a UNIQUE, b TEXT CHECK (length(b) <> 7), c DEFAULT 5)",
		"(id INT PRIMARY KEY, a NOT NULL, b TEXT COLLATE NOCASE, c) WITHOUT ROWID",
		"(id INTEGER PRIMARY KEY, a, b TEXT, c, g AS (coalesce(a, '') || substr(b, 1, 9)) STORED, v AS (length(b)), UNIQUE (b, id))",
		NULL,
		"(id INTEGER PRIMARY KEY, a ANY, b TEXT, c INT) STRICT",
	};
	struct rng *r = &g->rng;

	text_add(out, "CREATE TABLE t%u", t);
	if (columns[t])
		text_add(out, "%s", columns[t]);
	else
		text_add(out, "(id INTEGER PRIMARY KEY, a, b TEXT, c REFERENCES t0(id) ON DELETE %s ON UPDATE %s%s)",
			 PICK(r, "CASCADE", "SET NULL", "RESTRICT", "NO ACTION"), PICK(r, "CASCADE", "SET NULL", "NO ACTION"),
			 PICK(r, "", " DEFERRABLE INITIALLY DEFERRED"));
}

static void create_trigger(struct gen *g, struct text *out)
{
	struct rng *r = &g->rng;
	uint32_t t = rng_below(r, TABLES);
	const char *event = PICK(r, "INSERT", "DELETE", "UPDATE OF b");
	const char *ref = event[0] == 'D' ? "old" : "new";

	text_add(out, "CREATE TRIGGER tr%u %s %s ON t%u ", rng_below(r, TRIGGERS), PICK(r, "BEFORE", "AFTER", "AFTER"), event, t);
	if (rng_percent(r, 30))
		text_add(out, "WHEN %s.id %% 11 = 3 BEGIN SELECT RAISE(%s); END", ref,
			 PICK(r, "IGNORE", "ABORT, 'no'", "FAIL, 'stop'", "ROLLBACK, 'back'"));
	else if (rng_percent(r, 50))
		text_add(out, "BEGIN UPDATE t%u SET c = c + 1 WHERE id = %s.id + 1; END", rng_below(r, TABLES), ref);
	else
		text_add(out, "BEGIN INSERT INTO log(t, op, k, x) VALUES (%u, '%s', %s.id, substr(%s.b, 1, 300)); END", t, event, ref, ref);
}

static void create_view(struct gen *g, uint32_t v, struct text *out)
{
	struct rng *r = &g->rng;

	text_add(out, "CREATE VIEW v%u AS SELECT x.id, y.a, x.b, count(*) OVER (PARTITION BY y.c) AS c FROM t%u x LEFT JOIN t%u y ON x.c = y.id",
		 v, rng_below(r, TABLES), rng_below(r, TABLES));
}

static void schema_change(struct gen *g, struct text *out)
{
	struct rng *r = &g->rng;
	uint32_t t = rng_below(r, TABLES), kind = rng_below(r, 100);

	if (kind < 15)
		create_table(g, t, out);
	else if (kind < 18)
		text_add(out, "DROP TABLE t%u", t);
	else if (kind < 38)
		text_add(out, "CREATE %sINDEX i%u ON t%u(%s)%s", PICK(r, "", "", "", "UNIQUE "), rng_below(r, INDEXES), t,
			 PICK(r, "a", "b", "c, a", "b DESC", "length(b), id", "a, b, c"), PICK(r, "", "", " WHERE c > 20"));
	else if (kind < 48)
		text_add(out, "DROP INDEX i%u", rng_below(r, INDEXES));
	else if (kind < 56)
		text_add(out, "ALTER TABLE t%u ADD COLUMN x%u%s", t, rng_below(r, 3), PICK(r, "", " DEFAULT 'added'", " INT NOT NULL DEFAULT 3"));
	else if (kind < 60)
		text_add(out, "ALTER TABLE t%u RENAME COLUMN x%u TO x%u", t, rng_below(r, 3), rng_below(r, 3));
	else if (kind < 66)
		text_add(out, "ALTER TABLE t%u DROP COLUMN x%u", t, rng_below(r, 3));
	else if (kind < 70)
		text_add(out, "ALTER TABLE t%u RENAME TO t%u", t, rng_below(r, TABLES));
	else if (kind < 80)
		create_trigger(g, out);
	else if (kind < 88)
		text_add(out, "DROP TRIGGER tr%u", rng_below(r, TRIGGERS));
	else if (kind < 92)
		create_view(g, rng_below(r, VIEWS), out);
	else if (kind < 94)
		text_add(out, "DROP VIEW v%u", rng_below(r, VIEWS));
	else if (kind < 96)
		text_add(out, "%s", PICK(r, "CREATE VIRTUAL TABLE f0 USING fts5(body, tag, prefix = 2)", "DROP TABLE f0"));
	else if (kind < 98)
		text_add(out, "REINDEX %s", PICK(r, "t0", "t1", "t2", "t3", "i1"));
	else
		text_add(out, "ANALYZE");
}

static bool create_missing(struct gen *g, struct text *out)
{
	char kind = g->missing[0];
	uint32_t number = (uint32_t)(unsigned char)g->missing[1] - '0';

	g->missing[0] = '\0';
	if (kind == 't' && number < TABLES)
		create_table(g, number, out);
	else if (kind == 'v' && number < VIEWS)
		create_view(g, number, out);
	else if (kind == 'f')
		text_add(out, "CREATE VIRTUAL TABLE f0 USING fts5(body, tag, prefix = 2)");
	return out->len;
}

bool gen_schema(struct gen *g, int i, struct text *out)
{
	if (i < TABLES)
		create_table(g, (uint32_t)i, out);
	else if (i == TABLES)
		text_add(out, "CREATE TABLE log(n INTEGER PRIMARY KEY, t, op, k, x)");
	else if (i == TABLES + 1)
		text_add(out, "CREATE VIRTUAL TABLE f0 USING fts5(body, tag)");
	else
		return false;
	return true;
}

/* ---- statements that read ---- */

static void select_rows(struct gen *g, struct text *out)
{
	struct rng *r = &g->rng;
	uint32_t t = rng_below(r, TABLES), kind = rng_below(r, 100);

	if (kind < 30) {
		text_add(out, "SELECT * FROM t%u", t);
		where(g, out);
	} else if (kind < 45)
		text_add(out, "SELECT count(*), sum(id), min(a), max(b), total(length(b)), group_concat(DISTINCT typeof(a)) FROM t%u", t);
	else if (kind < 55)
		text_add(out, "SELECT x.id, x.b, y.a, y.c FROM t%u x JOIN t%u y ON x.c = y.id ORDER BY 1, 2, 3, 4 LIMIT 40", t, rng_below(r, TABLES));
	else if (kind < 65)
		text_add(out, "SELECT id, a, b, c FROM t%u ORDER BY %s LIMIT %u", t, PICK(r, "b, id", "a DESC, id", "c, id", "id"), 1 + rng_below(r, 30));
	else if (kind < 72)
		text_add(out, "SELECT c, count(*), max(length(b)) FROM t%u GROUP BY c ORDER BY c", t);
	else if (kind < 80)
		text_add(out, "SELECT id, a, b, c FROM v%u ORDER BY 1, 2, 3, 4 LIMIT 50", rng_below(r, VIEWS));
	else if (kind < 88)
		text_add(out, "SELECT rowid, snippet(f0, 0, '[', ']', '.', 4), rank FROM f0 WHERE f0 MATCH '%s' ORDER BY rowid",
			 PICK(r, "alpha", "beta OR w01", "alpha NOT beta", "al*", "tag : smile", "NEAR(alpha beta, 3)"));
	else if (kind < 93)
		text_add(out, "SELECT * FROM log ORDER BY n DESC LIMIT 10");
	else
		text_add(out, "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema ORDER BY 1, 2");
}

static void pragma(struct gen *g, struct text *out)
{
	struct rng *r = &g->rng;

	switch (rng_below(r, 16)) {
	case 0:
		text_add(out, "PRAGMA user_version = %d", (int)rng_next(r));
		return;
	case 1:
		text_add(out, "PRAGMA application_id = %d", (int)rng_next(r));
		return;
	case 2:
		text_add(out, "PRAGMA synchronous = %s", PICK(r, "OFF", "NORMAL", "FULL", "EXTRA"));
		return;
	case 3:
		text_add(out, "#checkpoint %s", PICK(r, "passive", "passive", "full", "restart", "truncate"));
		return;
	case 4:
		text_add(out, "PRAGMA foreign_keys = %s", PICK(r, "ON", "ON", "OFF"));
		return;
	case 5:
	case 6:
		text_add(out, "PRAGMA incremental_vacuum(%u)", rng_below(r, 12));
		return;
	case 7:
		text_add(out, "PRAGMA auto_vacuum = %s", PICK(r, "NONE", "FULL", "INCREMENTAL"));
		return;
	case 8:
		text_add(out, "PRAGMA cache_size = %s", PICK(r, "10", "1", "100", "-2000"));
		return;
	case 9:
		if (!g->wal) {
			text_add(out, "PRAGMA journal_mode = %s",
				 g->journal[0] != 'm' ? g->journal
				 : g->may_switch && rng_percent(r, 5) ? "wal" : PICK(r, "delete", "truncate", "persist"));
			return;
		} /* fall through */
	case 10:
		text_add(out, "VACUUM");
		return;
	default:
		text_add(out, "PRAGMA %s", PICK(r, "user_version", "application_id", "integrity_check", "quick_check", "foreign_key_check",
						"page_count", "freelist_count", "schema_version", "journal_mode", "auto_vacuum", "encoding",
						"table_xinfo(t3)", "index_list(t1)"));
	}
}

bool gen_setting(struct gen *g, int i, struct text *out)
{
	struct rng *r = &g->rng;

	switch (i) {
	case 0:
		text_add(out, g->wal ? "PRAGMA journal_mode" : "PRAGMA journal_mode = %s",
			 g->journal[0] == 'm' ? PICK(r, "delete", "truncate", "persist") : g->journal);
		return true;
	case 1:
		text_add(out, "PRAGMA cache_size = %s", PICK(r, "10", "10", "-2000"));
		return true;
	case 2:
		text_add(out, "PRAGMA foreign_keys = %s", PICK(r, "ON", "ON", "OFF"));
		return true;
	case 3:
		text_add(out, "PRAGMA synchronous = %s", PICK(r, "OFF", "NORMAL", "NORMAL", "FULL"));
		return true;
	case 4:
		text_add(out, "PRAGMA mmap_size = %s", PICK(r, "0", "0", "0", "1000000"));
		return true;
	default:
		return false;
	}
}

/* ---- what comes next ---- */

static void in_transaction(struct gen *g, struct text *out)
{
	struct rng *r = &g->rng;

	switch (rng_below(r, 10)) {
	case 0:
		text_add(out, "ROLLBACK");
		return;
	case 1:
		text_add(out, "SAVEPOINT s%u", rng_below(r, SAVEPOINTS));
		return;
	case 2:
		text_add(out, "ROLLBACK TO s%u", rng_below(r, SAVEPOINTS));
		return;
	case 3:
		text_add(out, "RELEASE s%u", rng_below(r, SAVEPOINTS));
		return;
	default:
		text_add(out, "COMMIT");
	}
}

void gen_command(struct gen *g, int slot, struct text *out)
{
	struct rng *r = &g->rng;
	struct gen_slot *s = &g->slot[slot];
	uint32_t kind = rng_below(r, 1000);
	bool hindered = false;

	for (int i = 0; i < g->slots; i++)
		hindered |= i != slot && g->slot[i].txn == SQLITE_TXN_WRITE;
	hindered = hindered && rng_percent(r, 70); /* it would mostly be busy */
	text_clear(out);
	if (s->cursor && kind < 200) {
		text_add(out, kind < 50 ? "#end" : "#next %u", 1 + rng_below(r, 20));
		return;
	}
	if (kind < 200 && s->in_txn) {
		in_transaction(g, out);
		return;
	}
	if (kind < 60 && !hindered) {
		text_add(out, "%s", PICK(r, "BEGIN", "BEGIN", "BEGIN IMMEDIATE", "BEGIN EXCLUSIVE", "SAVEPOINT s0"));
		return;
	}
	if (kind >= 997 && !s->in_txn && !s->cursor) {
		text_add(out, "#close"); /* the driver opens again */
		return;
	}
	if (kind >= 985) {
		text_add(out, "#cursor ");
		select_rows(g, out);
		return;
	}
	if (!hindered && rng_percent(r, 30) && create_missing(g, out))
		return;
	if (hindered || kind >= 720)
		select_rows(g, out);
	else if (kind < 560)
		gen_write(g, out);
	else if (kind < 650)
		schema_change(g, out);
	else
		pragma(g, out);
}
