'use strict'
// Drizzle over better-sqlite3, in WAL mode, with drizzle's migrator.
//
//   drizzle.js scenario DB            drizzle.js work DB WORKER COUNT
const assert = require('node:assert/strict')
const path = require('node:path')
const Database = require('better-sqlite3')
const { drizzle } = require('drizzle-orm/better-sqlite3')
const { migrate } = require('drizzle-orm/better-sqlite3/migrator')
const { check, index, integer, sqliteTable, text, unique } = require('drizzle-orm/sqlite-core')
const { count, eq, sql } = require('drizzle-orm')
const { main, raises, readLine, say } = require('./common')

const account = sqliteTable('account', {
  id: integer().primaryKey(),
  name: text().notNull().unique(),
  balance: integer().notNull(),
  note: text()
}, table => [check('balance_not_negative', sql`${table.balance} >= 0`)])
const item = sqliteTable('item', {
  id: integer().primaryKey(),
  name: text().notNull()
}, table => [index('item_name').on(table.name)])
const counter = sqliteTable('counter', { id: integer().primaryKey(), n: integer().notNull() })
const visit = sqliteTable('visit', { worker: text().notNull(), seq: integer().notNull() }, table => [unique().on(table.worker, table.seq)])

// begin open
function open (file, timeout = 30000) {
  const client = new Database(file, { timeout })
  client.pragma('journal_mode = WAL')
  return drizzle(client)
}
// end open

// begin transfer
function transfer (db, source, target, amount) {
  db.transaction(tx => {
    tx.update(account).set({ balance: sql`${account.balance} - ${amount}` }).where(eq(account.name, source)).run()
    const { changes } = tx.update(account).set({ balance: sql`${account.balance} + ${amount}` }).where(eq(account.name, target)).run()
    if (changes !== 1) throw new RangeError(target)
  }, { behavior: 'immediate' })
}
// end transfer

function balances (db) {
  return db.select({ name: account.name, balance: account.balance }).from(account).orderBy(account.id).values()
}

// Drizzle may wrap what better-sqlite3 throws.
function fails (code, fn) {
  raises(Database.SqliteError, code, () => {
    try {
      fn()
    } catch (error) {
      throw error.cause instanceof Database.SqliteError ? error.cause : error
    }
  })
}

function scenario (file) {
  const db = open(file)
  say('version Drizzle', require('./package.json').dependencies['drizzle-orm'])
  say('sqlite', db.get(sql`SELECT sqlite_version() AS v`).v)
  migrate(db, { migrationsFolder: path.join(__dirname, 'migrations') })
  migrate(db, { migrationsFolder: path.join(__dirname, 'migrations') })
  say('migrations ok')

  db.insert(account).values([{ name: 'alice', balance: 100 }, { name: 'bob', balance: 50 }, { name: 'carol', balance: 10 }]).run()
  db.insert(account).values({ name: 'bob', balance: 0 }).onConflictDoUpdate({ target: account.name, set: { balance: 60 } }).run()
  assert.deepEqual(db.delete(account).where(eq(account.name, 'carol')).returning({ balance: account.balance }).all(), [{ balance: 10 }])
  assert.deepEqual(balances(db), [['alice', 100], ['bob', 60]])
  say('crud ok')

  transfer(db, 'alice', 'bob', 30)
  raises(RangeError, null, () => transfer(db, 'alice', 'nobody', 30))
  assert.deepEqual(balances(db), [['alice', 70], ['bob', 90]])
  say('transaction ok')

  // begin bulk
  const names = Array.from({ length: 3000 }, (_, i) => ({ name: `item-${i + 1}` }))
  db.transaction(tx => {
    for (let i = 0; i < names.length; i += 500) tx.insert(item).values(names.slice(i, i + 500)).run()
  }, { behavior: 'immediate' })
  // end bulk
  assert.equal(db.select({ n: count() }).from(item).get().n, 3000)
  say('bulk ok')

  fails('SQLITE_CONSTRAINT_UNIQUE', () => db.insert(account).values({ name: 'alice', balance: 1 }).run())
  fails('SQLITE_CONSTRAINT_CHECK', () => transfer(db, 'alice', 'bob', 1000))
  say('constraint ok')

  say('hold')
  readLine()
  const hasty = open(file, 100)
  fails('SQLITE_BUSY', () => hasty.transaction(() => {}, { behavior: 'immediate' }))
  hasty.$client.close()
  say('busy ok')

  const reader = open(file)
  const note = tx => tx.select({ note: account.note }).from(account).where(eq(account.name, 'bob')).get().note
  reader.transaction(tx => {
    assert.equal(note(tx), null)
    db.update(account).set({ note: 'seen' }).where(eq(account.name, 'bob')).run()
    assert.equal(note(tx), null, 'the snapshot moved')
  })
  assert.equal(note(reader), 'seen')
  reader.$client.close()
  db.$client.close()
  say('reader ok')
}

function work (file, worker, times) {
  const db = open(file)
  // begin work
  for (let seq = 1; seq <= times; seq++) {
    db.transaction(tx => {
      const { n } = tx.select().from(counter).where(eq(counter.id, 1)).get()
      tx.update(counter).set({ n: n + 1 }).where(eq(counter.id, 1)).run()
      tx.insert(visit).values({ worker, seq }).run()
    }, { behavior: 'immediate' })
  }
  // end work
  db.$client.close()
}

main(scenario, work)
