'use strict'
// better-sqlite3, in WAL mode.
//
//   app.js scenario DB            app.js work DB WORKER COUNT
const assert = require('node:assert/strict')
const Database = require('better-sqlite3')
const { main, raises, readLine, say } = require('./common')

// begin open
// timeout is SQLite's busy_timeout in milliseconds.
function open (path, timeout = 30000) {
  const db = new Database(path, { timeout })
  db.pragma('foreign_keys = ON')
  return db
}
// end open

const migrations = [
  `CREATE TABLE account(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, balance INTEGER NOT NULL CHECK (balance >= 0));
   CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT NOT NULL);
   CREATE TABLE counter(id INTEGER PRIMARY KEY, n INTEGER NOT NULL);
   CREATE TABLE visit(worker TEXT NOT NULL, seq INTEGER NOT NULL, UNIQUE (worker, seq));
   INSERT INTO counter(id, n) VALUES (1, 0);`,
  `ALTER TABLE account ADD COLUMN note TEXT;
   CREATE INDEX item_name ON item(name);`
]

function migrate (db) {
  assert.equal(db.pragma('journal_mode = WAL', { simple: true }), 'wal')
  const version = db.pragma('user_version', { simple: true })
  migrations.slice(version).forEach((sql, i) => db.transaction(() => {
    db.exec(sql)
    db.pragma(`user_version = ${version + i + 1}`)
  }).immediate())
}

// begin transfer
function transfer (db, source, target, amount) {
  db.transaction(() => {
    db.prepare('UPDATE account SET balance = balance - ? WHERE name = ?').run(amount, source)
    const { changes } = db.prepare('UPDATE account SET balance = balance + ? WHERE name = ?').run(amount, target)
    if (changes !== 1) throw new RangeError(target)
  }).immediate()
}
// end transfer

function balances (db) {
  return db.prepare('SELECT name, balance FROM account ORDER BY id').raw().all()
}

function scenario (path) {
  const db = open(path)
  say('version better-sqlite3', require('better-sqlite3/package.json').version, 'Node', process.version)
  say('sqlite', db.prepare('SELECT sqlite_version()').pluck().get())
  migrate(db)
  migrate(db)
  say('migrations ok')

  const insert = db.prepare('INSERT INTO account(name, balance) VALUES (@name, @balance)')
  for (const [name, balance] of [['alice', 100], ['bob', 50], ['carol', 10]]) insert.run({ name, balance })
  db.prepare('UPDATE account SET balance = 60 WHERE name = ?').run('bob')
  assert.deepEqual(db.prepare('DELETE FROM account WHERE name = ? RETURNING balance').all('carol'), [{ balance: 10 }])
  assert.deepEqual(balances(db), [['alice', 100], ['bob', 60]])
  say('crud ok')

  transfer(db, 'alice', 'bob', 30)
  raises(RangeError, null, () => transfer(db, 'alice', 'nobody', 30))
  assert(!db.inTransaction)
  assert.deepEqual(balances(db), [['alice', 70], ['bob', 90]])
  say('transaction ok')

  // begin bulk
  const item = db.prepare('INSERT INTO item(name) VALUES (?)')
  db.transaction(names => names.forEach(name => item.run(name))).immediate(Array.from({ length: 3000 }, (_, i) => `item-${i + 1}`))
  // end bulk
  assert.equal(db.prepare('SELECT count(*) FROM item').pluck().get(), 3000)
  say('bulk ok')

  // begin constraint
  raises(Database.SqliteError, 'SQLITE_CONSTRAINT_UNIQUE', () => insert.run({ name: 'alice', balance: 1 }))
  // end constraint
  raises(Database.SqliteError, 'SQLITE_CONSTRAINT_CHECK', () => transfer(db, 'alice', 'bob', 1000))
  say('constraint ok')

  say('hold')
  readLine()
  // begin busy
  const hasty = open(path, 100)
  raises(Database.SqliteError, 'SQLITE_BUSY', () => hasty.transaction(() => {}).immediate())
  // end busy
  hasty.close()
  say('busy ok')

  const reader = open(path)
  const note = reader.prepare("SELECT note FROM account WHERE name = 'bob'").pluck()
  reader.exec('BEGIN')
  assert.equal(note.get(), null)
  db.prepare("UPDATE account SET note = 'seen' WHERE name = 'bob'").run()
  assert.equal(note.get(), null, 'the snapshot moved')
  reader.exec('COMMIT')
  assert.equal(note.get(), 'seen')
  reader.close()
  db.close()
  say('reader ok')
}

function work (path, worker, count) {
  const db = open(path)
  // begin work
  const visit = db.transaction(seq => {
    const n = db.prepare('SELECT n FROM counter WHERE id = 1').pluck().get()
    db.prepare('UPDATE counter SET n = ? WHERE id = 1').run(n + 1)
    db.prepare('INSERT INTO visit(worker, seq) VALUES (?, ?)').run(worker, seq)
  })
  for (let seq = 1; seq <= count; seq++) visit.immediate(seq)
  // end work
  db.close()
}

main(scenario, work)
