# ActiveRecord over ruby-sqlite3, with a rollback journal (ActiveRecord 6.1's default).
#
#   app.rb scenario DB            app.rb work DB WORKER COUNT
require "active_record"

$stdout.sync = true
command, path, worker, count = ARGV

# begin connect
# timeout: SQLite's busy_timeout, ms
ActiveRecord::Base.establish_connection(adapter: "sqlite3", database: path, timeout: 30_000, pool: 5)
# end connect

# begin immediate
# ActiveRecord 6.1 begins with a plain BEGIN. This makes it BEGIN IMMEDIATE: the transaction has the lock before it reads.
module Immediate
  def begin_db_transaction
    log("BEGIN IMMEDIATE", "TRANSACTION") { @connection.transaction(:immediate) }
  end
end
ActiveRecord::ConnectionAdapters::SQLite3Adapter.prepend(Immediate)
# end immediate

class Account < ActiveRecord::Base
  self.table_name = "account"
  validates :balance, numericality: true
end

class Item < ActiveRecord::Base
  self.table_name = "item"
end

class Counter < ActiveRecord::Base
  self.table_name = "counter"
end

class Visit < ActiveRecord::Base
  self.table_name = "visit"
end

# A second process' connection, in a pool of its own.
class Other < ActiveRecord::Base
  self.abstract_class = true
end

def expect(found, wanted)
  raise "#{found.inspect}, not #{wanted.inspect}" unless found == wanted
end

def raises(error, words = "")
  yield
rescue error => e
  raise "#{e.class}: #{e.message}" unless e.instance_of?(error) && e.message.include?(words)
else
  raise "no #{error}"
end

# begin transfer
def transfer(source, target, amount)
  Account.transaction do
    account = Account.find_by!(name: source)
    account.update!(balance: account.balance - amount)
    Account.find_by!(name: target).increment!(:balance, amount)
  end
end
# end transfer

def balances
  Account.order(:id).pluck(:name, :balance)
end

def migrate
  ActiveRecord::Migration.verbose = false
  migrations = File.join(__dir__, "migrate")
  ActiveRecord::MigrationContext.new(migrations, ActiveRecord::SchemaMigration).migrate
end

def scenario(path)
  puts "version ActiveRecord #{ActiveRecord.version} sqlite3 #{SQLite3::VERSION}"
  puts "sqlite #{SQLite3::SQLITE_VERSION}"
  migrate
  migrate
  puts "migrations ok"

  Account.create!([{ name: "alice", balance: 100 }, { name: "bob", balance: 50 }, { name: "carol", balance: 10 }])
  Account.upsert({ name: "bob", balance: 60 }, unique_by: :name)
  Account.find_by(name: "carol").destroy!
  expect balances, [["alice", 100], ["bob", 60]]
  puts "crud ok"

  transfer("alice", "bob", 30)
  raises(ActiveRecord::RecordNotFound) { transfer("alice", "nobody", 30) }
  Account.transaction do
    Account.update_all(balance: 0)
    raise ActiveRecord::Rollback
  end
  Account.transaction do # a savepoint that is taken back, in a transaction that is not
    Account.transaction(requires_new: true) do
      Account.create!(name: "dave", balance: 1)
      raise ActiveRecord::Rollback
    end
    expect Account.exists?(name: "dave"), false
  end
  expect balances, [["alice", 70], ["bob", 90]]
  puts "transaction ok"

  # begin bulk
  Item.transaction do
    (1..3000).each_slice(500) { |numbers| Item.insert_all!(numbers.map { |i| { name: "item-#{i}" } }) }
  end
  # end bulk
  expect Item.count, 3000
  puts "bulk ok"

  # begin constraint
  raises(ActiveRecord::RecordNotUnique, "UNIQUE constraint failed: account.name") { Account.create!(name: "alice", balance: 1) }
  # end constraint
  raises(ActiveRecord::StatementInvalid, "CHECK constraint failed: balance_not_negative") { transfer("alice", "bob", 1000) }
  puts "constraint ok"

  puts "hold"
  $stdin.gets
  Other.establish_connection(adapter: "sqlite3", database: path, timeout: 100)
  # begin busy
  raises(ActiveRecord::StatementInvalid, "SQLite3::BusyException: database is locked") { Other.transaction { Other.connection.execute("SELECT 1") } }
  # end busy
  puts "busy ok"

  Other.establish_connection(adapter: "sqlite3", database: path, timeout: 30_000)
  note = "SELECT note FROM account WHERE name = 'bob'"
  expect Other.connection.select_value(note), nil
  Account.find_by!(name: "bob").update!(note: "seen")
  expect Other.connection.select_value(note), "seen"
  expect Account.connection.select_value("PRAGMA journal_mode"), "delete"
  puts "reader ok"
end

# begin work
def visit(worker, seq)
  Counter.transaction do
    counter = Counter.first
    counter.update!(n: counter.n + 1)
    Visit.create!(worker: worker, seq: seq)
  end
end
# end work

# begin broken
# A connection is of no use any more when litefwd under it was restarted: the pool shall throw away what it has.
def replacing_broken(base)
  yield
rescue ActiveRecord::StatementInvalid => e
  base.connection_pool.disconnect! if [SQLite3::IOException, SQLite3::ProtocolException].include?(e.cause.class)
  raise
end
# end broken

# A pool of its own.
class Plain < ActiveRecord::Base
  self.abstract_class = true
end

def visit_by(base, worker, seq)
  base.transaction do
    n = base.connection.select_value("SELECT n FROM counter WHERE id = 1")
    base.connection.execute("UPDATE counter SET n = #{n + 1} WHERE id = 1")
    base.connection.execute("INSERT INTO visit(worker, seq) VALUES (#{base.connection.quote(worker)}, #{seq})")
  end
end

# The errors until a transaction got through, or so many of them.
def attempts(most)
  errors = []
  most.times do |seq|
    yield seq
    return errors << "ok"
  rescue ActiveRecord::StatementInvalid => e
    errors << e.cause.class
  end
  errors
end

# litefwd is restarted under two pools of connections, of which one replaces those that are broken.
def pool(path)
  Plain.establish_connection(adapter: "sqlite3", database: path, timeout: 30_000)
  Other.establish_connection(adapter: "sqlite3", database: path, timeout: 30_000)
  visit_by(Plain, "plain", 0)
  visit_by(Other, "replacing", 0)
  loop do
    puts "restart"
    restarted = $stdin.gets.to_s.strip
    break if restarted.empty?

    puts "seen plain #{attempts(2) { |seq| visit_by(Plain, "plain #{restarted}", seq) }.join(" ")}"
    puts "seen replacing #{attempts(4) { |seq| replacing_broken(Other) { visit_by(Other, "replacing #{restarted}", seq) } }.join(" ")}"
  end
end

if command == "scenario"
  scenario(path)
elsif command == "pool"
  pool(path)
else
  (1..count.to_i).each { |seq| visit(worker, seq) }
end
