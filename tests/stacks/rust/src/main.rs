//! rusqlite with its bundled SQLite, in WAL mode.
//!
//!     litefwd-stack scenario DB            litefwd-stack work DB WORKER COUNT
use rusqlite::{ffi, params, Connection, ErrorCode, OptionalExtension, TransactionBehavior};
use std::error::Error;
use std::time::Duration;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

// begin open
fn open(path: &str, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    let mut db = Connection::open(path)?;
    db.busy_timeout(busy_timeout)?;
    db.pragma_update(None, "foreign_keys", true)?;
    // So that Connection::transaction() is BEGIN IMMEDIATE.
    db.set_transaction_behavior(TransactionBehavior::Immediate);
    Ok(db)
}
// end open

const MIGRATIONS: [&str; 2] = [
    "CREATE TABLE account(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, balance INTEGER NOT NULL CHECK (balance >= 0));
     CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT NOT NULL);
     CREATE TABLE counter(id INTEGER PRIMARY KEY, n INTEGER NOT NULL);
     CREATE TABLE visit(worker TEXT NOT NULL, seq INTEGER NOT NULL, UNIQUE (worker, seq));
     INSERT INTO counter(id, n) VALUES (1, 0);",
    "ALTER TABLE account ADD COLUMN note TEXT;
     CREATE INDEX item_name ON item(name);",
];

fn migrate(db: &mut Connection) -> Result<()> {
    let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    assert_eq!(mode, "wal");
    let done: usize = db.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))? as usize;
    for (number, script) in MIGRATIONS.iter().enumerate().skip(done) {
        let tx = db.transaction()?;
        tx.execute_batch(script)?;
        tx.pragma_update(None, "user_version", number as i64 + 1)?;
        tx.commit()?;
    }
    Ok(())
}

// begin transfer
fn transfer(db: &mut Connection, source: &str, target: &str, amount: i64) -> Result<()> {
    let tx = db.transaction()?; // rolled back when it is dropped
    tx.execute("UPDATE account SET balance = balance - ?1 WHERE name = ?2", params![amount, source])?;
    if tx.execute("UPDATE account SET balance = balance + ?1 WHERE name = ?2", params![amount, target])? != 1 {
        return Err(format!("no account {target}").into());
    }
    tx.commit()?;
    Ok(())
}
// end transfer

fn balances(db: &Connection) -> Result<Vec<(String, i64)>> {
    let mut query = db.prepare_cached("SELECT name, balance FROM account ORDER BY id")?;
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

// begin errors
/// Code and extended code of an error of SQLite's.
fn code(error: &(dyn Error + 'static)) -> Option<(ErrorCode, i32)> {
    match error.downcast_ref::<rusqlite::Error>()? {
        rusqlite::Error::SqliteFailure(error, _) => Some((error.code, error.extended_code)),
        _ => None,
    }
}
// end errors

fn scenario(path: &str) -> Result<()> {
    let mut db = open(path, Duration::from_secs(30))?;
    println!("version rusqlite {}", RUSQLITE);
    println!("sqlite {}", rusqlite::version());
    migrate(&mut db)?;
    migrate(&mut db)?;
    println!("migrations ok");

    for (name, balance) in [("alice", 100), ("bob", 50), ("carol", 10)] {
        db.prepare_cached("INSERT INTO account(name, balance) VALUES (?1, ?2)")?.execute(params![name, balance])?;
    }
    db.execute("UPDATE account SET balance = 60 WHERE name = 'bob'", [])?;
    let gone: Option<i64> = db
        .query_row("DELETE FROM account WHERE name = ?1 RETURNING balance", ["carol"], |row| row.get(0))
        .optional()?;
    assert_eq!(gone, Some(10));
    assert_eq!(balances(&db)?, [("alice".into(), 100), ("bob".into(), 60)]);
    println!("crud ok");

    transfer(&mut db, "alice", "bob", 30)?;
    assert_eq!(transfer(&mut db, "alice", "nobody", 30).unwrap_err().to_string(), "no account nobody");
    {
        let mut tx = db.transaction()?;
        let savepoint = tx.savepoint()?;
        savepoint.execute("UPDATE account SET balance = 0", [])?;
        drop(savepoint);
        tx.commit()?;
    }
    assert_eq!(balances(&db)?, [("alice".into(), 70), ("bob".into(), 90)]);
    println!("transaction ok");

    // begin bulk
    let tx = db.transaction()?;
    {
        let mut insert = tx.prepare("INSERT INTO item(name) VALUES (?1)")?;
        for i in 1..=3000 {
            insert.execute([format!("item-{i}")])?;
        }
    }
    tx.commit()?;
    // end bulk
    assert_eq!(db.query_row("SELECT count(*) FROM item", [], |row| row.get::<_, i64>(0))?, 3000);
    println!("bulk ok");

    let error = db.execute("INSERT INTO account(name, balance) VALUES ('alice', 1)", []).unwrap_err();
    assert_eq!(code(&error), Some((ErrorCode::ConstraintViolation, ffi::SQLITE_CONSTRAINT_UNIQUE)));
    let error = transfer(&mut db, "alice", "bob", 1000).unwrap_err();
    assert_eq!(code(&*error), Some((ErrorCode::ConstraintViolation, ffi::SQLITE_CONSTRAINT_CHECK)));
    println!("constraint ok");

    println!("hold");
    std::io::stdin().read_line(&mut String::new())?;
    // begin busy
    let mut hasty = open(path, Duration::from_millis(100))?;
    let error = hasty.transaction().unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy));
    // end busy
    hasty.close().map_err(|(_, error)| error)?;
    println!("busy ok");

    let mut reader = open(path, Duration::from_secs(30))?;
    let note = "SELECT note FROM account WHERE name = 'bob'";
    // begin read
    let tx = reader.transaction_with_behavior(TransactionBehavior::Deferred)?;
    // end read
    assert_eq!(tx.query_row(note, [], |row| row.get::<_, Option<String>>(0))?, None);
    db.execute("UPDATE account SET note = 'seen' WHERE name = 'bob'", [])?;
    assert_eq!(tx.query_row(note, [], |row| row.get::<_, Option<String>>(0))?, None, "the snapshot moved");
    tx.commit()?;
    assert_eq!(reader.query_row(note, [], |row| row.get::<_, Option<String>>(0))?, Some("seen".into()));
    println!("reader ok");
    Ok(())
}

// begin work
fn visit(db: &mut Connection, worker: &str, seq: i64) -> rusqlite::Result<()> {
    let tx = db.transaction()?;
    let n: i64 = tx.query_row("SELECT n FROM counter WHERE id = 1", [], |row| row.get(0))?;
    tx.execute("UPDATE counter SET n = ?1 WHERE id = 1", [n + 1])?;
    tx.execute("INSERT INTO visit(worker, seq) VALUES (?1, ?2)", params![worker, seq])?;
    tx.commit()
}
// end work

const RUSQLITE: &str = "0.43.0";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    if args[1] == "scenario" {
        return scenario(&args[2]);
    }
    let mut db = open(&args[2], Duration::from_secs(30))?;
    for seq in 1..=args[4].parse()? {
        visit(&mut db, &args[3], seq)?;
    }
    Ok(())
}
