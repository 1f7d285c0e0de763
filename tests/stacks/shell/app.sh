#!/bin/bash
# The sqlite3 shell, with a rollback journal (SQLite's default).
#
#   app.sh scenario DB            app.sh work DB WORKER COUNT
set -eu -o pipefail
here=$(dirname "$0")
command=$1
db=$2

die() { echo "app.sh: $*" >&2; exit 1; }
expect() { [ "$2" = "$3" ] || die "$1: $2, not $3"; }

# begin sql
sql() { sqlite3 -batch -bail -cmd '.timeout 30000' "$db" "$@"; }
# end sql

# What must fail, with the name that the shell gives the error.
fails() { # WORDS SQL
	if message=$(sql "$2" 2>&1); then die "accepted: $2"; fi
	case $message in *"$1"*) ;; *) die "$2: $message" ;; esac
}

scenario() {
	echo "version sqlite3 $(sqlite3 --version | cut -d ' ' -f 1)"
	echo "sqlite $(sql 'SELECT sqlite_version()')"

	for migration in "$here"/migrations/*.sql; do
		sql <"$migration"
	done
	expect user_version "$(sql 'PRAGMA user_version')" 2
	expect journal_mode "$(sql 'PRAGMA journal_mode')" delete
	echo "migrations ok"

	sql "INSERT INTO account(name, balance) VALUES ('alice', 100), ('bob', 50), ('carol', 10)"
	expect update "$(sql "UPDATE account SET balance = 60 WHERE name = 'bob' RETURNING balance")" 60
	sql "DELETE FROM account WHERE name = 'carol'"
	expect accounts "$(sql 'SELECT name, balance FROM account ORDER BY id' | tr '\n' ' ')" "alice|100 bob|60 "
	echo "crud ok"

	# begin transaction
	sql "BEGIN IMMEDIATE;
		UPDATE account SET balance = balance - 30 WHERE name = 'alice';
		UPDATE account SET balance = balance + 30 WHERE name = 'bob';
		COMMIT"
	# end transaction
	sql "BEGIN IMMEDIATE; UPDATE account SET balance = 0; ROLLBACK"
	# An error with -bail ends the shell, and with it the transaction.
	fails "UNIQUE constraint failed" "BEGIN IMMEDIATE; UPDATE account SET balance = 0; INSERT INTO account(name, balance) VALUES ('bob', 1); COMMIT"
	expect accounts "$(sql 'SELECT name, balance FROM account ORDER BY id' | tr '\n' ' ')" "alice|70 bob|90 "
	echo "transaction ok"

	{ echo name; seq -f 'item-%.0f' 1 3000; } | sqlite3 -batch -bail -cmd '.timeout 30000' "$db" '.import /dev/stdin item_import' \
		'INSERT INTO item(name) SELECT name FROM item_import' 'DROP TABLE item_import'
	expect items "$(sql 'SELECT count(*) FROM item')" 3000
	# Prepared, with parameters
	count=$(sql <<-'END'
		.parameter init
		.parameter set :name 'item-1'
		SELECT count(*) FROM item WHERE name = :name;
	END
	)
	expect parameters "$count" 1
	echo "bulk ok"

	fails "UNIQUE constraint failed: account.name (19)" "INSERT INTO account(name, balance) VALUES ('alice', 1)"
	fails "CHECK constraint failed: balance >= 0 (19)" "UPDATE account SET balance = -1 WHERE name = 'bob'"
	echo "constraint ok"

	echo "hold"
	read -r _
	# begin busy
	if message=$(sqlite3 -batch -bail -cmd '.timeout 100' "$db" 'BEGIN IMMEDIATE' 2>&1); then die "not busy"; fi
	case $message in *"database is locked (5)"*) ;; *) die "busy: $message" ;; esac
	# end busy
	echo "busy ok"

	coproc reader { sqlite3 -batch -bail -cmd '.timeout 30000' "$db"; }
	echo "BEGIN; SELECT note IS NULL FROM account WHERE name = 'bob';" >&"${reader[1]}"
	read -r seen <&"${reader[0]}"
	expect "before" "$seen" 1
	echo "COMMIT; SELECT 'over';" >&"${reader[1]}"
	read -r seen <&"${reader[0]}"
	sql "UPDATE account SET note = 'seen' WHERE name = 'bob'"
	echo "SELECT note FROM account WHERE name = 'bob';" >&"${reader[1]}"
	read -r seen <&"${reader[0]}"
	expect "after" "$seen" seen
	echo ".quit" >&"${reader[1]}"
	wait
	echo "reader ok"
}

work() { # WORKER COUNT
	for i in $(seq 1 "$2"); do
		sql "BEGIN IMMEDIATE; UPDATE counter SET n = n + 1 WHERE id = 1; INSERT INTO visit(worker, seq) VALUES ('$1', $i); COMMIT"
	done
}

case $command in
scenario) scenario ;;
work) work "$3" "$4" ;;
*) die "scenario or work" ;;
esac
