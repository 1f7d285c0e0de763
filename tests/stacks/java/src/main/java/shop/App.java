package shop;

import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.List;
import java.util.ArrayList;
import javax.sql.DataSource;
import org.sqlite.SQLiteConfig;
import org.sqlite.SQLiteDataSource;
import org.sqlite.SQLiteErrorCode;
import org.sqlite.SQLiteException;

/**
 * sqlite-jdbc under HikariCP, in WAL mode.
 *
 * <pre>scenario DB            work DB WORKER COUNT            pool DB</pre>
 */
public final class App {
    private static final String[] MIGRATIONS = {
        """
        CREATE TABLE account(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, balance INTEGER NOT NULL CHECK (balance >= 0));
        CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT NOT NULL);
        CREATE TABLE counter(id INTEGER PRIMARY KEY, n INTEGER NOT NULL);
        CREATE TABLE visit(worker TEXT NOT NULL, seq INTEGER NOT NULL, UNIQUE (worker, seq));
        INSERT INTO counter(id, n) VALUES (1, 0)""",
        """
        ALTER TABLE account ADD COLUMN note TEXT;
        CREATE INDEX item_name ON item(name)"""};

    // begin open
    /** Transactions (setAutoCommit(false)) begin by BEGIN IMMEDIATE. */
    static HikariDataSource open(String path, int busyMs, int poolSize) {
        SQLiteConfig sqlite = new SQLiteConfig();
        sqlite.setBusyTimeout(busyMs);
        sqlite.setJournalMode(SQLiteConfig.JournalMode.WAL);
        sqlite.setTransactionMode(SQLiteConfig.TransactionMode.IMMEDIATE);
        sqlite.enforceForeignKeys(true);
        SQLiteDataSource source = new SQLiteDataSource(sqlite);
        source.setUrl("jdbc:sqlite:" + path);

        HikariConfig pool = new HikariConfig();
        pool.setDataSource(source);
        pool.setMaximumPoolSize(poolSize);
        pool.setConnectionTimeout(60_000); // at least the busy_timeout
        pool.setConnectionTestQuery("SELECT 1 FROM sqlite_schema"); // reads the file, as isValid() and "SELECT 1" do not
        return new HikariDataSource(pool);
    }
    // end open

    // begin transaction
    interface Work {
        void run(Connection db) throws SQLException;
    }

    static void transaction(DataSource pool, Work work) throws SQLException {
        try (Connection db = pool.getConnection()) {
            db.setAutoCommit(false);
            try {
                work.run(db);
                db.commit();
            } catch (SQLException | RuntimeException error) {
                db.rollback();
                throw error;
            }
        }
    }
    // end transaction

    static void migrate(DataSource pool) throws SQLException {
        for (int version = (int) number(pool, "PRAGMA user_version"); version < MIGRATIONS.length; version++) {
            int next = version + 1;
            transaction(pool, db -> {
                for (String sql : MIGRATIONS[next - 1].split(";\n")) {
                    execute(db, sql);
                }
                execute(db, "PRAGMA user_version = " + next);
            });
        }
    }

    // begin transfer
    static void transfer(DataSource pool, String source, String target, int amount) throws SQLException {
        transaction(pool, db -> {
            try (PreparedStatement update = db.prepareStatement("UPDATE account SET balance = balance + ? WHERE name = ?")) {
                update.setInt(1, -amount);
                update.setString(2, source);
                update.executeUpdate();
                update.setInt(1, amount);
                update.setString(2, target);
                if (update.executeUpdate() != 1) {
                    throw new IllegalArgumentException(target);
                }
            }
        });
    }
    // end transfer

    static void scenario(String path) throws Exception {
        try (HikariDataSource pool = open(path, 30_000, 4)) {
            try (Connection db = pool.getConnection()) {
                System.out.println("version sqlite-jdbc " + db.getMetaData().getDriverVersion() + " Java " + Runtime.version().feature());
            }
            System.out.println("sqlite " + text(pool, "SELECT sqlite_version()"));
            migrate(pool);
            migrate(pool);
            expect(text(pool, "PRAGMA journal_mode"), "wal");
            System.out.println("migrations ok");

            transaction(pool, db -> {
                try (PreparedStatement insert = db.prepareStatement("INSERT INTO account(name, balance) VALUES (?, ?)")) {
                    for (Object[] row : new Object[][] {{"alice", 100}, {"bob", 50}, {"carol", 10}}) {
                        insert.setString(1, (String) row[0]);
                        insert.setInt(2, (Integer) row[1]);
                        insert.executeUpdate();
                    }
                }
            });
            try (Connection db = pool.getConnection()) {
                expect(execute(db, "UPDATE account SET balance = 60 WHERE name = 'bob'"), 1);
                expect(execute(db, "DELETE FROM account WHERE name = 'carol'"), 1);
            }
            expect(balances(pool), "alice 100 bob 60");
            System.out.println("crud ok");

            transfer(pool, "alice", "bob", 30);
            raises(IllegalArgumentException.class, () -> transfer(pool, "alice", "nobody", 30));
            expect(balances(pool), "alice 70 bob 90");
            System.out.println("transaction ok");

            // begin bulk
            transaction(pool, db -> {
                try (PreparedStatement insert = db.prepareStatement("INSERT INTO item(name) VALUES (?)")) {
                    for (int i = 1; i <= 3000; i++) {
                        insert.setString(1, "item-" + i);
                        insert.addBatch();
                    }
                    insert.executeBatch();
                }
            });
            // end bulk
            expect(number(pool, "SELECT count(*) FROM item"), 3000L);
            System.out.println("bulk ok");

            // begin constraint
            SQLiteException error = raises(SQLiteException.class, () ->
                transaction(pool, db -> execute(db, "INSERT INTO account(name, balance) VALUES ('alice', 1)")));
            expect(error.getResultCode(), SQLiteErrorCode.SQLITE_CONSTRAINT_UNIQUE);
            // end constraint
            error = raises(SQLiteException.class, () -> transfer(pool, "alice", "bob", 1000));
            expect(error.getResultCode(), SQLiteErrorCode.SQLITE_CONSTRAINT_CHECK);
            System.out.println("constraint ok");

            System.out.println("hold");
            readLine();
            // begin busy
            try (HikariDataSource hasty = open(path, 100, 1)) {
                error = raises(SQLiteException.class, () ->
                    transaction(hasty, db -> execute(db, "UPDATE account SET balance = 0")));
                expect(error.getResultCode(), SQLiteErrorCode.SQLITE_BUSY);
            }
            // end busy
            System.out.println("busy ok");

            String note = "SELECT note FROM account WHERE name = 'bob'";
            try (Connection reader = pool.getConnection()) {
                // begin read
                execute(reader, "BEGIN"); // setAutoCommit(false) would be BEGIN IMMEDIATE
                // end read
                expect(text(reader, note), null);
                try (Connection db = pool.getConnection()) {
                    execute(db, "UPDATE account SET note = 'seen' WHERE name = 'bob'");
                }
                expect(text(reader, note), null);
                execute(reader, "COMMIT");
                expect(text(reader, note), "seen");
            }
            System.out.println("reader ok");
        }
    }

    /** Two threads of one pool. */
    static void work(String path, String worker, int count) throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(2);
        try (HikariDataSource pool = open(path, 30_000, 2)) {
            List<Future<?>> results = new ArrayList<>();
            for (int seq = 1; seq <= count; seq++) {
                int number = seq;
                results.add(threads.submit(() -> {
                    visit(pool, worker, number);
                    return null;
                }));
            }
            for (Future<?> result : results) {
                result.get();
            }
        } finally {
            threads.shutdown();
        }
    }

    // begin work
    static void visit(DataSource pool, String worker, int seq) throws SQLException {
        transaction(pool, db -> {
            int n = Integer.parseInt(text(db, "SELECT n FROM counter WHERE id = 1"));
            execute(db, "UPDATE counter SET n = " + (n + 1) + " WHERE id = 1");
            try (PreparedStatement insert = db.prepareStatement("INSERT INTO visit(worker, seq) VALUES (?, ?)")) {
                insert.setString(1, worker);
                insert.setInt(2, seq);
                insert.executeUpdate();
            }
        });
    }
    // end work

    static int execute(Connection db, String sql) throws SQLException {
        try (Statement statement = db.createStatement()) {
            return statement.executeUpdate(sql);
        }
    }

    static String text(Connection db, String sql) throws SQLException {
        try (Statement statement = db.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            return rows.next() ? rows.getString(1) : null;
        }
    }

    static String text(DataSource pool, String sql) throws SQLException {
        try (Connection db = pool.getConnection()) {
            return text(db, sql);
        }
    }

    static long number(DataSource pool, String sql) throws SQLException {
        return Long.parseLong(text(pool, sql));
    }

    static String balances(DataSource pool) throws SQLException {
        return text(pool, "SELECT group_concat(name || ' ' || balance, ' ') FROM (SELECT * FROM account ORDER BY id)");
    }

    interface Throwing {
        void run() throws Exception;
    }

    static <T extends Exception> T raises(Class<T> type, Throwing what) throws Exception {
        try {
            what.run();
        } catch (Exception error) {
            if (type.isInstance(error)) {
                return type.cast(error);
            }
            throw error;
        }
        throw new AssertionError("no " + type);
    }

    static void expect(Object found, Object wanted) {
        if (found == null ? wanted != null : !found.equals(wanted)) {
            throw new AssertionError(found + ", not " + wanted);
        }
    }

    private static final BufferedReader INPUT = new BufferedReader(new InputStreamReader(System.in));

    static String readLine() throws Exception {
        return INPUT.readLine();
    }

    public static void main(String[] arguments) throws Exception {
        switch (arguments[0]) {
            case "scenario" -> scenario(arguments[1]);
            case "work" -> work(arguments[1], arguments[2], Integer.parseInt(arguments[3]));
            default -> throw new IllegalArgumentException(arguments[0]);
        }
    }
}
