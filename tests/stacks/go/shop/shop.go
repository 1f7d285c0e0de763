// Package shop is the application that both drivers run: what database/sql offers is the same for both.
//
//	scenario DB            work DB WORKER COUNT
package shop

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Driver is what differs. Code is the extended result code in an error of that driver, 0 in others.
type Driver struct {
	Name, Module        string
	DSN                 func(path string, busy time.Duration) string
	Code                func(error) int
	Busy, Unique, Check int
}

var migrations = []string{
	`CREATE TABLE account(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, balance INTEGER NOT NULL CHECK (balance >= 0));
	CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT NOT NULL);
	CREATE TABLE counter(id INTEGER PRIMARY KEY, n INTEGER NOT NULL);
	CREATE TABLE visit(worker TEXT NOT NULL, seq INTEGER NOT NULL, UNIQUE (worker, seq));
	INSERT INTO counter(id, n) VALUES (1, 0);`,
	`ALTER TABLE account ADD COLUMN note TEXT;
	CREATE INDEX item_name ON item(name);`,
}

// begin pool
// Open has a pool for writing, of one connection, and lets the other read: writers of one process then wait in Go and not in SQLite.
func (d Driver) Open(path string, busy time.Duration) (writer, reader *sql.DB) {
	writer, reader = d.open(path, busy), d.open(path, busy)
	writer.SetMaxOpenConns(1)
	reader.SetMaxOpenConns(4)
	return writer, reader
}

// end pool

func (d Driver) open(path string, busy time.Duration) *sql.DB {
	db, err := sql.Open(d.Name, d.DSN(path, busy))
	must(err)
	return db
}

// begin transfer
func inTransaction(db *sql.DB, do func(*sql.Tx) error) error {
	tx, err := db.BeginTx(context.Background(), nil)
	if err != nil {
		return err
	}
	if err := do(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

var errNobody = errors.New("no such account")

func transfer(db *sql.DB, source, target string, amount int) error {
	return inTransaction(db, func(tx *sql.Tx) error {
		if _, err := tx.Exec("UPDATE account SET balance = balance - ? WHERE name = ?", amount, source); err != nil {
			return err
		}
		result, err := tx.Exec("UPDATE account SET balance = balance + ? WHERE name = ?", amount, target)
		if err != nil {
			return err
		}
		if changed, err := result.RowsAffected(); err != nil || changed != 1 {
			return errors.Join(errNobody, err)
		}
		return nil
	})
}

// end transfer

func migrate(db *sql.DB) {
	var version int
	must(db.QueryRow("PRAGMA user_version").Scan(&version))
	for ; version < len(migrations); version++ {
		must(inTransaction(db, func(tx *sql.Tx) error {
			_, err := tx.Exec(migrations[version] + fmt.Sprintf("PRAGMA user_version = %d", version+1))
			return err
		}))
	}
}

func (d Driver) scenario(path string) {
	writer, reader := d.Open(path, 30*time.Second)
	fmt.Println("version", d.version())
	fmt.Println("sqlite", one[string](reader, "SELECT sqlite_version()"))
	migrate(writer)
	migrate(writer)
	expect(one[string](writer, "PRAGMA journal_mode"), "wal")
	fmt.Println("migrations ok")

	insert, err := writer.Prepare("INSERT INTO account(name, balance) VALUES (?, ?)")
	must(err)
	for name, balance := range map[string]int{"alice": 100, "bob": 50, "carol": 10} {
		_, err := insert.Exec(name, balance)
		must(err)
	}
	_, err = writer.Exec("UPDATE account SET balance = 60 WHERE name = ?", "bob")
	must(err)
	expect(one[int](writer, "DELETE FROM account WHERE name = ? RETURNING balance", "carol"), 10)
	expect(balances(reader), "alice 100 bob 60")
	fmt.Println("crud ok")

	must(transfer(writer, "alice", "bob", 30))
	if err := transfer(writer, "alice", "nobody", 30); !errors.Is(err, errNobody) {
		log.Panicf("%v", err)
	}
	expect(balances(reader), "alice 70 bob 90")
	fmt.Println("transaction ok")

	// begin bulk
	must(inTransaction(writer, func(tx *sql.Tx) error {
		insert, err := tx.Prepare("INSERT INTO item(name) VALUES (?)")
		if err != nil {
			return err
		}
		defer insert.Close()
		for i := 1; i <= 3000; i++ {
			if _, err := insert.Exec("item-" + strconv.Itoa(i)); err != nil {
				return err
			}
		}
		return nil
	}))
	// end bulk
	expect(one[int](reader, "SELECT count(*) FROM item"), 3000)
	fmt.Println("bulk ok")

	_, err = insert.Exec("alice", 1)
	expect(d.Code(err), d.Unique)
	expect(d.Code(transfer(writer, "alice", "bob", 1000)), d.Check)
	fmt.Println("constraint ok")

	fmt.Println("hold")
	_, err = bufio.NewReader(os.Stdin).ReadString('\n')
	must(err)
	// begin busy
	hasty := d.open(path, 100*time.Millisecond)
	_, err = hasty.Begin()
	expect(d.Code(err)&0xff, d.Busy)
	// end busy
	must(hasty.Close())
	fmt.Println("busy ok")

	// begin read
	// The DSN's _txlock is for all transactions, so one that only reads begins by hand, on a connection of its own.
	conn, err := reader.Conn(context.Background())
	must(err)
	_, err = conn.ExecContext(context.Background(), "BEGIN")
	must(err)
	// end read
	const note = "SELECT coalesce(note, '') FROM account WHERE name = 'bob'"
	var seen string
	must(conn.QueryRowContext(context.Background(), note).Scan(&seen))
	expect(seen, "")
	_, err = writer.Exec("UPDATE account SET note = 'seen' WHERE name = 'bob'")
	must(err)
	must(conn.QueryRowContext(context.Background(), note).Scan(&seen))
	expect(seen, "")
	_, err = conn.ExecContext(context.Background(), "COMMIT")
	must(err)
	must(conn.Close())
	expect(one[string](reader, note), "seen")
	must(insert.Close())
	must(writer.Close())
	must(reader.Close())
	fmt.Println("reader ok")
}

// Two goroutines share the count: they wait for each other in the pool.
func (d Driver) work(path, worker string, count int) {
	writer, reader := d.Open(path, 30*time.Second)
	sequence := make(chan int)
	var group sync.WaitGroup
	for range 2 {
		group.Add(1)
		go func() {
			defer group.Done()
			for seq := range sequence {
				must(visit(writer, worker, seq))
			}
		}()
	}
	for seq := 1; seq <= count; seq++ {
		sequence <- seq
	}
	close(sequence)
	group.Wait()
	must(writer.Close())
	must(reader.Close())
}

// begin work
func visit(db *sql.DB, worker string, seq int) error {
	return inTransaction(db, func(tx *sql.Tx) error {
		var n int
		if err := tx.QueryRow("SELECT n FROM counter WHERE id = 1").Scan(&n); err != nil {
			return err
		}
		if _, err := tx.Exec("UPDATE counter SET n = ? WHERE id = 1", n+1); err != nil {
			return err
		}
		_, err := tx.Exec("INSERT INTO visit(worker, seq) VALUES (?, ?)", worker, seq)
		return err
	})
}

// end work

func balances(db *sql.DB) string {
	rows, err := db.Query("SELECT name || ' ' || balance FROM account ORDER BY name")
	must(err)
	defer rows.Close()
	var found []string
	for rows.Next() {
		var text string
		must(rows.Scan(&text))
		found = append(found, text)
	}
	must(rows.Err())
	return strings.Join(found, " ")
}

func one[T any](db *sql.DB, query string, args ...any) (value T) {
	must(db.QueryRow(query, args...).Scan(&value))
	return value
}

func expect[T comparable](found, wanted T) {
	if found != wanted {
		log.Panicf("%v, not %v", found, wanted)
	}
}

func must(err error) {
	if err != nil {
		log.Panic(err)
	}
}

func (d Driver) version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			if module.Path == d.Module {
				return d.Module + " " + module.Version
			}
		}
	}
	return d.Module
}

// Main runs what the command line says.
func Main(d Driver) {
	if os.Args[1] == "scenario" {
		d.scenario(os.Args[2])
		return
	}
	count, err := strconv.Atoi(os.Args[4])
	must(err)
	d.work(os.Args[2], os.Args[3], count)
}
