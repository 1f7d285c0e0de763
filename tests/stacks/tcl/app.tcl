# Tcl's sqlite3 package, in WAL mode.
#
#   app.tcl scenario DB            app.tcl work DB WORKER COUNT
package require sqlite3
fconfigure stdout -buffering line

# begin connect
proc connect {name path {busy_ms 30000}} {
	sqlite3 $name $path
	$name timeout $busy_ms
}
# end connect

set migrations {
	{
		CREATE TABLE account(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, balance INTEGER NOT NULL CHECK (balance >= 0));
		CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT NOT NULL);
		CREATE TABLE counter(id INTEGER PRIMARY KEY, n INTEGER NOT NULL);
		CREATE TABLE visit(worker TEXT NOT NULL, seq INTEGER NOT NULL, UNIQUE (worker, seq));
		INSERT INTO counter(id, n) VALUES (1, 0);
	}
	{
		ALTER TABLE account ADD COLUMN note TEXT;
		CREATE INDEX item_name ON item(name);
	}
}

proc migrate {} {
	global migrations
	expect [db onecolumn {PRAGMA journal_mode = WAL}] wal
	set version [db onecolumn {PRAGMA user_version}]
	foreach script [lrange $migrations $version end] {
		incr version
		db transaction immediate {
			db eval $script
			db eval "PRAGMA user_version = $version"
		}
	}
}

# begin transfer
proc transfer {source target amount} {
	db transaction immediate {
		db eval {UPDATE account SET balance = balance - $amount WHERE name = $source}
		db eval {UPDATE account SET balance = balance + $amount WHERE name = $target}
		if {[db changes] != 1} {
			error "no account $target"
		}
	}
}
# end transfer

proc expect {found wanted} {
	if {$found ne $wanted} {
		error "$found, not $wanted"
	}
}

# Tcl's errors of SQLite are words; the code is [db errorcode].
proc fails {code words script} {
	if {![catch {uplevel $script} message]} {
		error "no error: $words"
	}
	expect $message $words
	if {$code} {
		expect [expr {[db errorcode] & 0xff}] $code
	}
}

proc scenario {path} {
	connect db $path
	puts "version Tcl [info patchlevel] sqlite3 [package present sqlite3]"
	puts "sqlite [db onecolumn {SELECT sqlite_version()}]"
	migrate
	migrate
	puts "migrations ok"

	foreach {name balance} {alice 100 bob 50 carol 10} {
		db eval {INSERT INTO account(name, balance) VALUES ($name, $balance)}
	}
	db eval {UPDATE account SET balance = 60 WHERE name = 'bob'}
	expect [db eval {DELETE FROM account WHERE name = 'carol' RETURNING balance}] 10
	expect [db eval {SELECT name, balance FROM account ORDER BY id}] {alice 100 bob 60}
	puts "crud ok"

	transfer alice bob 30
	fails 0 "no account nobody" {transfer alice nobody 30}
	expect [db eval {SELECT name, balance FROM account ORDER BY id}] {alice 70 bob 90}
	puts "transaction ok"

	# begin bulk
	db transaction immediate {
		for {set i 1} {$i <= 3000} {incr i} {
			set name item-$i
			db eval {INSERT INTO item(name) VALUES ($name)}
		}
	}
	# end bulk
	expect [db onecolumn {SELECT count(*) FROM item}] 3000
	puts "bulk ok"

	# begin constraint
	fails 19 "UNIQUE constraint failed: account.name" {db eval {INSERT INTO account(name, balance) VALUES ('alice', 1)}}
	# end constraint
	fails 0 "CHECK constraint failed: balance >= 0" {transfer alice bob 1000}
	puts "constraint ok"

	puts "hold"
	gets stdin
	# begin busy
	connect hasty $path 100
	if {![catch {hasty eval {BEGIN IMMEDIATE}} message]} {
		error "not busy"
	}
	expect $message "database is locked"
	expect [expr {[hasty errorcode] & 0xff}] 5
	# end busy
	hasty close
	puts "busy ok"

	connect reader $path
	reader transaction deferred {
		expect [reader onecolumn {SELECT note FROM account WHERE name = 'bob'}] ""
		db eval {UPDATE account SET note = 'seen' WHERE name = 'bob'}
		expect [reader onecolumn {SELECT note FROM account WHERE name = 'bob'}] ""
	}
	expect [reader onecolumn {SELECT note FROM account WHERE name = 'bob'}] seen
	reader close
	db close
	puts "reader ok"
}

proc work {path worker count} {
	connect db $path
	# begin work
	for {set seq 1} {$seq <= $count} {incr seq} {
		db transaction immediate {
			set n [db onecolumn {SELECT n FROM counter WHERE id = 1}]
			incr n
			db eval {UPDATE counter SET n = $n WHERE id = 1}
			db eval {INSERT INTO visit(worker, seq) VALUES ($worker, $seq)}
		}
	}
	# end work
	db close
}

{*}$argv
