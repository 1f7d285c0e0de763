// mattn/go-sqlite3 (cgo) under database/sql.
package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/mattn/go-sqlite3"

	"litefwd.test/stacks/shop"
)

// begin dsn
// Every transaction begins with BEGIN IMMEDIATE.
func dsn(path string, busy time.Duration) string {
	return fmt.Sprintf("file:%s?_busy_timeout=%d&_txlock=immediate&_journal_mode=WAL&_foreign_keys=on", path, busy.Milliseconds())
}

// end dsn

// begin errors
func code(err error) int {
	var sqliteErr sqlite3.Error
	if errors.As(err, &sqliteErr) {
		return int(sqliteErr.ExtendedCode)
	}
	return 0
}

// end errors

func main() {
	shop.Main(shop.Driver{
		Name: "sqlite3", Module: "github.com/mattn/go-sqlite3", DSN: dsn, Code: code,
		Busy: int(sqlite3.ErrBusy), Unique: int(sqlite3.ErrConstraintUnique), Check: int(sqlite3.ErrConstraintCheck),
	})
}
