// modernc.org/sqlite (SQLite translated to Go) under database/sql.
package main

import (
	"errors"
	"fmt"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"litefwd.test/stacks/shop"
)

// begin dsn
// Every transaction begins with BEGIN IMMEDIATE. The busy_timeout comes first: setting WAL may need it.
func dsn(path string, busy time.Duration) string {
	return fmt.Sprintf("file:%s?_txlock=immediate&_pragma=busy_timeout(%d)&_pragma=journal_mode(WAL)&_pragma=foreign_keys(1)",
		path, busy.Milliseconds())
}

// end dsn

// begin errors
func code(err error) int {
	var sqliteErr *sqlite.Error
	if errors.As(err, &sqliteErr) {
		return sqliteErr.Code()
	}
	return 0
}

// end errors

func main() {
	shop.Main(shop.Driver{
		Name: "sqlite", Module: "modernc.org/sqlite", DSN: dsn, Code: code,
		Busy: sqlite3.SQLITE_BUSY, Unique: sqlite3.SQLITE_CONSTRAINT_UNIQUE, Check: sqlite3.SQLITE_CONSTRAINT_CHECK,
	})
}
