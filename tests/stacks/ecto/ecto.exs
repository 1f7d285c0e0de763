# Ecto with ecto_sqlite3, in WAL mode. It needs both, compiled, on ERL_LIBS: neither is in Debian.
#
#   ecto.exs scenario DB            ecto.exs work DB WORKER COUNT
{:ok, _} = Application.ensure_all_started(:ecto_sqlite3)
Logger.configure(level: :error)

# begin repo
defmodule Shop.Repo do
  use Ecto.Repo, otp_app: :shop, adapter: Ecto.Adapters.SQLite3

  def options(database, busy_timeout) do
    [database: database, busy_timeout: busy_timeout, journal_mode: :wal, default_transaction_mode: :immediate, pool_size: 1, log: false]
  end
end
# end repo

defmodule Shop.Account do
  use Ecto.Schema
  import Ecto.Changeset

  schema "account" do
    field :name, :string
    field :balance, :integer
    field :note, :string
  end

  # begin schema
  def changeset(account, changes) do
    account
    |> cast(changes, [:name, :balance, :note])
    |> validate_required([:name, :balance])
    |> unique_constraint(:name)
    |> check_constraint(:balance, name: :balance_not_negative)
  end
  # end schema
end

defmodule Shop.Item do
  use Ecto.Schema
  schema("item", do: field(:name, :string))
end

defmodule Shop.Counter do
  use Ecto.Schema
  schema("counter", do: field(:n, :integer))
end

defmodule Shop.Visit do
  use Ecto.Schema

  schema "visit" do
    field :worker, :string
    field :seq, :integer
  end
end

defmodule Shop.CreateShop do
  use Ecto.Migration

  def change do
    create table(:account) do
      add :name, :string, null: false
      add :balance, :integer, null: false, check: %{name: "balance_not_negative", expr: "balance >= 0"}
    end

    create unique_index(:account, [:name])
    create table(:item), do: add(:name, :string, null: false)
    create table(:counter), do: add(:n, :integer, null: false)

    create table(:visit) do
      add :worker, :string, null: false
      add :seq, :integer, null: false
    end

    create unique_index(:visit, [:worker, :seq])
    execute "INSERT INTO counter (n) VALUES (0)", "DELETE FROM counter"
  end
end

defmodule Shop.AddNotes do
  use Ecto.Migration

  def change do
    alter table(:account), do: add(:note, :text)
    create index(:item, [:name])
  end
end

defmodule Shop do
  import Ecto.Query
  alias Ecto.Multi
  alias Shop.{Account, Counter, Item, Repo, Visit}

  @migrations [{20_240_101_000_000, Shop.CreateShop}, {20_240_102_000_000, Shop.AddNotes}]

  # begin multi
  def transfer(source, target, amount) do
    Multi.new()
    |> Multi.run(:source, fn repo, _ -> {:ok, repo.get_by!(Account, name: source)} end)
    |> Multi.update(:take, fn %{source: account} -> Account.changeset(account, %{balance: account.balance - amount}) end)
    |> Multi.run(:target, fn repo, _ -> with nil <- repo.get_by(Account, name: target), do: {:error, :not_found}, else: (account -> {:ok, account}) end)
    |> Multi.update(:give, fn %{target: account} -> Account.changeset(account, %{balance: account.balance + amount}) end)
    |> Repo.transaction()
  end
  # end multi

  defp balances, do: Repo.all(from a in Account, order_by: a.id, select: {a.name, a.balance})

  # Runs the function with a repository of its own, as another process would.
  defp with_repo(path, busy_timeout, function) do
    {:ok, pid} = Repo.start_link([name: nil] ++ Repo.options(path, busy_timeout))
    before = Repo.put_dynamic_repo(pid)

    try do
      function.()
    after
      Repo.put_dynamic_repo(before)
      Supervisor.stop(pid)
    end
  end

  def scenario(path) do
    {:ok, main} = Repo.start_link(Repo.options(path, 30_000))
    IO.puts("version Ecto #{Application.spec(:ecto, :vsn)}, ecto_sqlite3 #{Application.spec(:ecto_sqlite3, :vsn)}")
    %{rows: [[version]]} = Repo.query!("SELECT sqlite_version()")
    IO.puts("sqlite #{version}")
    2 = length(Ecto.Migrator.run(Repo, @migrations, :up, all: true, log: false))
    [] = Ecto.Migrator.run(Repo, @migrations, :up, all: true, log: false)
    IO.puts("migrations ok")

    {:ok, _} = Repo.insert(Account.changeset(%Account{}, %{name: "alice", balance: 100}))
    {:ok, bob} = Repo.insert(Account.changeset(%Account{}, %{name: "bob", balance: 50}))
    {:ok, carol} = Repo.insert(Account.changeset(%Account{}, %{name: "carol", balance: 10}))
    {:ok, _} = Repo.insert(Account.changeset(%Account{}, %{name: "dave", balance: 10}))
    {1, nil} = Repo.update_all(from(a in Account, where: a.name == "bob"), inc: [balance: 10])
    {:ok, _} = Repo.delete(carol)
    {1, nil} = Repo.delete_all(from a in Account, where: a.name == "dave")
    [{"alice", 100}, {"bob", 60}] = balances()
    IO.puts("crud ok")

    {:ok, %{give: %{balance: 90}}} = transfer("alice", "bob", 30)
    {:error, :target, :not_found, %{take: %{balance: 40}}} = transfer("alice", "nobody", 30)

    # A transaction within one is a savepoint, or a part of it: rolled back, it takes the whole back.
    {:error, :rollback} = Repo.transaction(fn ->
      {:error, :changed_my_mind} = Repo.transaction(fn ->
        {2, nil} = Repo.update_all(Account, set: [balance: 0])
        Repo.rollback(:changed_my_mind)
      end)
    end)

    [{"alice", 70}, {"bob", 90}] = balances()
    IO.puts("transaction ok")

    {:ok, _} = Repo.transaction(fn ->
      for chunk <- Enum.chunk_every(1..3000, 500), do: {500, nil} = Repo.insert_all(Item, Enum.map(chunk, &%{name: "item-#{&1}"}))
    end)

    3000 = Repo.aggregate(Item, :count)
    IO.puts("bulk ok")

    {:error, %Ecto.Changeset{errors: [name: {"has already been taken", _}]}} = Repo.insert(Account.changeset(%Account{}, %{name: "alice", balance: 1}))
    {:error, :take, %Ecto.Changeset{errors: [balance: {"is invalid", _}]}, _} = transfer("alice", "bob", 1000)
    IO.puts("constraint ok")

    IO.puts("hold")
    IO.gets("")
    # begin busy_repo
    with_repo(path, 100, fn ->
      try do
        Repo.transaction(fn -> Repo.update_all(Account, set: [balance: 0]) end)
        raise "not busy"
      rescue
        error in [Exqlite.Error, DBConnection.ConnectionError] -> true = Exception.message(error) =~ ~r/database is locked|Database busy/
      end
    end)
    # end busy_repo
    IO.puts("busy ok")

    note = fn -> Repo.one!(from a in Account, where: a.name == "bob", select: a.note) end
    bob = Repo.reload!(bob)

    with_repo(path, 30_000, fn ->
      {:ok, nil} = Repo.transaction(fn ->
        nil = note.()
        Task.await(Task.async(fn ->
          Repo.put_dynamic_repo(main)
          {:ok, _} = Repo.update(Account.changeset(bob, %{note: "seen"}))
        end), :infinity)
        note.()
      end, mode: :deferred)

      "seen" = note.()
    end)

    Supervisor.stop(main)
    IO.puts("reader ok")
  end

  def work(path, worker, count) do
    {:ok, _} = Repo.start_link(Repo.options(path, 30_000))

    1..count
    |> Task.async_stream(fn seq ->
      {:ok, _} = Repo.transaction(fn ->
        counter = Repo.get!(Counter, 1)
        Repo.update!(Ecto.Changeset.change(counter, n: counter.n + 1))
        Repo.insert!(%Visit{worker: worker, seq: seq})
      end, timeout: :infinity)
    end, max_concurrency: 2, timeout: :infinity)
    |> Stream.run()
  end
end

case System.argv() do
  ["scenario", path] -> Shop.scenario(path)
  ["work", path, worker, count] -> Shop.work(path, worker, String.to_integer(count))
end
