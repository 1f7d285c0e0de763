#!/usr/bin/perl
# DBI with DBD::SQLite, in WAL mode.
#
#   app.pl scenario DB            app.pl work DB WORKER COUNT
use strict;
use warnings;
use DBI;
use DBD::SQLite;
use DBD::SQLite::Constants qw(:extended_result_codes :result_codes);

$| = 1;

# begin connect
# begin_work and AutoCommit => 0 begin by BEGIN IMMEDIATE: sqlite_use_immediate_transaction is DBD::SQLite's default since 1.38_01.
sub connect_to {
	my ($path, $busy_ms) = @_;
	my $db = DBI->connect("dbi:SQLite:dbname=$path", '', '',
		{ RaiseError => 1, PrintError => 0, AutoCommit => 1, sqlite_use_immediate_transaction => 1, sqlite_extended_result_codes => 1 });
	$db->sqlite_busy_timeout($busy_ms);
	return $db;
}

sub transaction {
	my ($db, $do) = @_;
	$db->begin_work;
	if (!eval { $do->(); $db->commit; 1 }) {
		my $error = $@;
		my $code = $db->err;
		$db->rollback;
		die { code => $code, message => $error };
	}
}
# end connect

my @migrations = (
	'CREATE TABLE account(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, balance INTEGER NOT NULL CHECK (balance >= 0));
	CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT NOT NULL);
	CREATE TABLE counter(id INTEGER PRIMARY KEY, n INTEGER NOT NULL);
	CREATE TABLE visit(worker TEXT NOT NULL, seq INTEGER NOT NULL, UNIQUE (worker, seq));
	INSERT INTO counter(id, n) VALUES (1, 0)',
	'ALTER TABLE account ADD COLUMN note TEXT;
	CREATE INDEX item_name ON item(name)',
);

sub migrate {
	my ($db) = @_;
	expect($db->selectrow_array('PRAGMA journal_mode = WAL'), 'wal');
	my ($version) = $db->selectrow_array('PRAGMA user_version');
	for my $number ($version + 1 .. @migrations) {
		transaction($db, sub {
			$db->do($_) for split /;\n/, $migrations[$number - 1];
			$db->do("PRAGMA user_version = $number");
		});
	}
}

# begin transfer
sub transfer {
	my ($db, $source, $target, $amount) = @_;
	transaction($db, sub {
		my $update = $db->prepare_cached('UPDATE account SET balance = balance + ? WHERE name = ?');
		$update->execute(-$amount, $source);
		$update->execute($amount, $target) == 1 or die "no account $target\n";
	});
}
# end transfer

sub balances {
	my ($db) = @_;
	return join ' ', map { @$_ } @{ $db->selectall_arrayref('SELECT name, balance FROM account ORDER BY id') };
}

sub expect {
	my ($found, $wanted) = @_;
	$found = 'undef' unless defined $found;
	die "$found, not $wanted" unless $found eq $wanted;
}

# The transaction must fail with that code and those words.
sub fails {
	my ($code, $words, $do) = @_;
	die "no error: $words" if eval { $do->(); 1 };
	my $error = $@;
	die $error unless ref $error;
	expect($error->{code} // 0, $code);
	die $error->{message} unless $error->{message} =~ /\Q$words\E/;
}

sub scenario {
	my ($path) = @_;
	my $db = connect_to($path, 30_000);
	print "version DBD::SQLite $DBD::SQLite::VERSION DBI $DBI::VERSION\n";
	print "sqlite $db->{sqlite_version}\n";
	migrate($db);
	migrate($db);
	print "migrations ok\n";

	my $insert = $db->prepare('INSERT INTO account(name, balance) VALUES (?, ?)');
	$insert->execute(@$_) for ['alice', 100], ['bob', 50], ['carol', 10];
	$db->do('UPDATE account SET balance = 60 WHERE name = ?', undef, 'bob');
	expect($db->do('DELETE FROM account WHERE name = ?', undef, 'carol'), 1);
	expect(balances($db), 'alice 100 bob 60');
	print "crud ok\n";

	transfer($db, 'alice', 'bob', 30);
	fails(0, 'no account nobody', sub { transfer($db, 'alice', 'nobody', 30) });
	expect($db->{AutoCommit}, 1);
	expect(balances($db), 'alice 70 bob 90');
	print "transaction ok\n";

	# begin bulk
	transaction($db, sub {
		my $item = $db->prepare('INSERT INTO item(name) VALUES (?)');
		$item->execute_array({}, [map { "item-$_" } 1 .. 3000]);
	});
	# end bulk
	expect($db->selectrow_array('SELECT count(*) FROM item'), 3000);
	print "bulk ok\n";

	# begin constraint
	fails(SQLITE_CONSTRAINT_UNIQUE, 'UNIQUE constraint failed: account.name', sub { transaction($db, sub { $insert->execute('alice', 1) }) });
	# end constraint
	fails(SQLITE_CONSTRAINT_CHECK, 'CHECK constraint failed: balance >= 0', sub { transfer($db, 'alice', 'bob', 1000) });
	print "constraint ok\n";

	print "hold\n";
	readline STDIN;
	# begin busy
	my $hasty = connect_to($path, 100);
	$hasty->begin_work; # BEGIN IMMEDIATE is sent with the first statement
	die 'not busy' if eval { $hasty->do('UPDATE counter SET n = n'); 1 };
	expect($hasty->err & 0xff, SQLITE_BUSY);
	expect($hasty->errstr, 'database is locked');
	# end busy
	$hasty->disconnect;
	print "busy ok\n";

	my $reader = connect_to($path, 30_000);
	my $note = "SELECT coalesce(note, 'none') FROM account WHERE name = 'bob'";
	# begin read
	$reader->{sqlite_use_immediate_transaction} = 0;
	$reader->begin_work;
	# end read
	expect($reader->selectrow_array($note), 'none');
	$db->do("UPDATE account SET note = 'seen' WHERE name = 'bob'");
	expect($reader->selectrow_array($note), 'none');
	$reader->commit;
	expect($reader->selectrow_array($note), 'seen');
	$reader->disconnect;
	$db->disconnect;
	print "reader ok\n";
}

sub work {
	my ($path, $worker, $count) = @_;
	my $db = connect_to($path, 30_000);
	# begin work
	for my $seq (1 .. $count) {
		transaction($db, sub {
			my ($n) = $db->selectrow_array('SELECT n FROM counter WHERE id = 1');
			$db->do('UPDATE counter SET n = ? WHERE id = 1', undef, $n + 1);
			$db->do('INSERT INTO visit(worker, seq) VALUES (?, ?)', undef, $worker, $seq);
		});
	}
	# end work
	$db->disconnect;
}

my ($command, @arguments) = @ARGV;
my $ok = eval { $command eq 'scenario' ? scenario(@arguments) : work(@arguments); 1 };
die ref $@ ? $@->{message} : $@ unless $ok;
