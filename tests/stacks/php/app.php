<?php
// PDO's sqlite driver, with a rollback journal (SQLite's default).
//
//   app.php scenario DB            app.php work DB WORKER COUNT
declare(strict_types=1);

// begin connect
function connect(string $path, int $timeout = 30): PDO
{
    return new PDO("sqlite:$path", null, null, [
        PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION,
        PDO::ATTR_TIMEOUT => $timeout, // busy_timeout, seconds
        PDO::ATTR_DEFAULT_FETCH_MODE => PDO::FETCH_ASSOC,
    ]);
}

// PDO::beginTransaction() is a plain BEGIN: a transaction that is going to write begins as BEGIN IMMEDIATE.
function transaction(PDO $db, callable $do): mixed
{
    $db->exec('BEGIN IMMEDIATE');
    try {
        $result = $do($db);
        $db->exec('COMMIT');
        return $result;
    } catch (Throwable $error) {
        $db->exec('ROLLBACK');
        throw $error;
    }
}
// end connect

const MIGRATIONS = [
    'CREATE TABLE account(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, balance INTEGER NOT NULL CHECK (balance >= 0));
    CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT NOT NULL);
    CREATE TABLE counter(id INTEGER PRIMARY KEY, n INTEGER NOT NULL);
    CREATE TABLE visit(worker TEXT NOT NULL, seq INTEGER NOT NULL, UNIQUE (worker, seq));
    INSERT INTO counter(id, n) VALUES (1, 0);',
    'ALTER TABLE account ADD COLUMN note TEXT;
    CREATE INDEX item_name ON item(name);',
];

function migrate(PDO $db): void
{
    $version = (int) $db->query('PRAGMA user_version')->fetchColumn();
    foreach (array_slice(MIGRATIONS, $version) as $i => $sql) {
        transaction($db, fn () => $db->exec($sql . 'PRAGMA user_version = ' . ($version + $i + 1)));
    }
}

// begin transfer
function transfer(PDO $db, string $source, string $target, int $amount): void
{
    transaction($db, function (PDO $db) use ($source, $target, $amount): void {
        $update = $db->prepare('UPDATE account SET balance = balance + :amount WHERE name = :name');
        $update->execute(['amount' => -$amount, 'name' => $source]);
        $update->execute(['amount' => $amount, 'name' => $target]);
        if ($update->rowCount() !== 1) {
            throw new DomainException($target);
        }
    });
}
// end transfer

function balances(PDO $db): array
{
    return $db->query('SELECT name, balance FROM account ORDER BY id')->fetchAll(PDO::FETCH_KEY_PAIR);
}

function expect(mixed $found, mixed $wanted): void
{
    if ($found !== $wanted) {
        throw new LogicException(json_encode([$found, $wanted]));
    }
}

// SQLSTATE is HY000 or 23000; SQLite's code is in errorInfo.
function raises(string $class, ?int $code, string $words, callable $do): void
{
    try {
        $do();
    } catch (Throwable $error) {
        expect(get_class($error), $class);
        if ($code !== null) {
            expect($error->errorInfo[1], $code);
        }
        expect(str_contains($error->getMessage(), $words), true);
        return;
    }
    throw new LogicException("no $class");
}

function scenario(string $path): void
{
    $db = connect($path);
    echo 'version PHP ', PHP_VERSION, " PDO\n";
    echo 'sqlite ', $db->getAttribute(PDO::ATTR_SERVER_VERSION), "\n";
    migrate($db);
    migrate($db);
    expect($db->query('PRAGMA journal_mode')->fetchColumn(), 'delete');
    echo "migrations ok\n";

    $insert = $db->prepare('INSERT INTO account(name, balance) VALUES (?, ?)');
    foreach (['alice' => 100, 'bob' => 50, 'carol' => 10] as $name => $balance) {
        $insert->execute([$name, $balance]);
    }
    $db->exec("UPDATE account SET balance = 60 WHERE name = 'bob'");
    expect($db->query("DELETE FROM account WHERE name = 'carol' RETURNING balance")->fetchAll(), [['balance' => 10]]);
    expect(balances($db), ['alice' => 100, 'bob' => 60]);
    echo "crud ok\n";

    transfer($db, 'alice', 'bob', 30);
    raises(DomainException::class, null, 'nobody', fn () => transfer($db, 'alice', 'nobody', 30));
    $db->beginTransaction(); // PDO's own is DEFERRED
    $db->exec('UPDATE account SET balance = 0');
    $db->rollBack();
    expect(balances($db), ['alice' => 70, 'bob' => 90]);
    echo "transaction ok\n";

    // begin bulk
    transaction($db, function (PDO $db): void {
        $item = $db->prepare('INSERT INTO item(name) VALUES (?)');
        for ($i = 1; $i <= 3000; $i++) {
            $item->execute(["item-$i"]);
        }
    });
    // end bulk
    expect($db->query('SELECT count(*) FROM item')->fetchColumn(), 3000);
    echo "bulk ok\n";

    // begin constraint
    raises(PDOException::class, 19, 'UNIQUE constraint failed: account.name', fn () => $insert->execute(['alice', 1]));
    // end constraint
    raises(PDOException::class, 19, 'CHECK constraint failed: balance >= 0', fn () => transfer($db, 'alice', 'bob', 1000));
    echo "constraint ok\n";

    echo "hold\n";
    fgets(STDIN);
    // begin busy
    $hasty = connect($path, 0);
    $hasty->exec('PRAGMA busy_timeout = 100'); // PDO's own has whole seconds
    raises(PDOException::class, 5, 'database is locked', fn () => transaction($hasty, fn () => null));
    // end busy
    $hasty = null;
    echo "busy ok\n";

    $reader = connect($path);
    $note = "SELECT note FROM account WHERE name = 'bob'";
    $reader->beginTransaction();
    expect($reader->query($note)->fetchColumn(), null);
    $reader->commit();
    $db->exec("UPDATE account SET note = 'seen' WHERE name = 'bob'");
    expect($reader->query($note)->fetchColumn(), 'seen');
    echo "reader ok\n";
}

// begin work
function visit(PDO $db, string $worker, int $seq): void
{
    transaction($db, function (PDO $db) use ($worker, $seq): void {
        $n = $db->query('SELECT n FROM counter WHERE id = 1')->fetchColumn();
        $db->prepare('UPDATE counter SET n = ? WHERE id = 1')->execute([$n + 1]);
        $db->prepare('INSERT INTO visit(worker, seq) VALUES (?, ?)')->execute([$worker, $seq]);
    });
}
// end work

if ($argv[1] === 'scenario') {
    scenario($argv[2]);
} else {
    $db = connect($argv[2]);
    for ($seq = 1; $seq <= (int) $argv[4]; $seq++) {
        visit($db, $argv[3], $seq);
    }
}
