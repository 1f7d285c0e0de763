# The operations of Ecto's repository, in WAL mode, as the SQL that its SQLite adapter sends: see repo.exs; ecto.exs is Ecto itself.
#
#   app.exs scenario DB            app.exs work DB WORKER COUNT
Code.require_file("repo.exs", __DIR__)

defmodule Shop do
  import Repo.Changeset

  @migrations [
    {20_240_101_000_000,
     [
       ~s[CREATE TABLE "account" ("id" INTEGER PRIMARY KEY AUTOINCREMENT, "name" TEXT NOT NULL, "balance" INTEGER NOT NULL CONSTRAINT account_balance CHECK (balance >= 0))],
       ~s[CREATE UNIQUE INDEX "account_name_index" ON "account" ("name")],
       ~s[CREATE TABLE "item" ("id" INTEGER PRIMARY KEY AUTOINCREMENT, "name" TEXT NOT NULL)],
       ~s[CREATE TABLE "counter" ("id" INTEGER PRIMARY KEY AUTOINCREMENT, "n" INTEGER NOT NULL)],
       ~s[CREATE TABLE "visit" ("id" INTEGER PRIMARY KEY AUTOINCREMENT, "worker" TEXT NOT NULL, "seq" INTEGER NOT NULL)],
       ~s[CREATE UNIQUE INDEX "visit_worker_seq_index" ON "visit" ("worker", "seq")],
       ~s[INSERT INTO "counter" ("n") VALUES (0)]
     ]},
    {20_240_102_000_000,
     [
       ~s[ALTER TABLE "account" ADD COLUMN "note" TEXT],
       ~s[CREATE INDEX "item_name_index" ON "item" ("name")]
     ]}
  ]

  # begin changeset
  def account(id \\ nil, changes) do
    change(:account, id, changes)
    |> unique_constraint(:name, "account_name_index")
    |> check_constraint(:balance, "account_balance")
  end
  # end changeset

  # begin transfer
  def transfer(db, source, target, amount) do
    Repo.multi(db,
      take: fn _ -> add(db, source, -amount) end,
      give: fn _ -> add(db, target, amount) end,
      left: fn _ -> {:ok, balances(db)} end
    )
  end
  # end transfer

  defp add(db, name, amount) do
    case Repo.all(db, :account, [:id, :balance], ~s[a0."name" = ?], [name]) do
      [[id, balance]] -> Repo.update(db, account(id, balance: balance + amount))
      [] -> {:error, :not_found}
    end
  end

  defp balances(db), do: Repo.all(db, :account, [:name, :balance])

  def scenario(path) do
    # begin connect
    {:ok, db} = Repo.start_link(path, 30_000)
    # end connect
    IO.puts("version Elixir #{System.version()}, Ecto's SQL")
    IO.puts("sqlite #{Repo.query!(db, "SELECT sqlite_version()")}")
    Repo.migrate(db, @migrations)
    Repo.migrate(db, @migrations)
    [["wal"]] = Repo.query!(db, "PRAGMA journal_mode")
    IO.puts("migrations ok")

    {:ok, %{id: 1}} = Repo.insert(db, account(name: "alice", balance: 100))
    {:ok, %{id: 2}} = Repo.insert(db, account(name: "bob", balance: 50))
    {:ok, %{id: 3}} = Repo.insert(db, account(name: "carol", balance: 10))
    {:ok, _} = Repo.insert(db, account(name: "dave", balance: 10))
    {1, nil} = Repo.update_all(db, :account, ~s["balance" = "balance" + ?], ~s[a0."name" = ?], [10, "bob"])
    Repo.delete(db, :account, 3)
    {1, nil} = Repo.delete_all(db, :account, ~s[a0."name" = ?], ["dave"])
    [["alice", 100], ["bob", 60]] = balances(db)
    IO.puts("crud ok")

    {:ok, %{left: [["alice", 70], ["bob", 90]]}} = transfer(db, "alice", "bob", 30)
    {:error, :give, :not_found, %{take: %{balance: 40}}} = transfer(db, "alice", "nobody", 30)

    # A transaction within one is a savepoint.
    {:ok, {:error, :changed_my_mind}} = Repo.transaction(db, fn ->
      Repo.transaction(db, fn ->
        {2, nil} = Repo.update_all(db, :account, ~s["balance" = ?], "1", [0])
        Repo.rollback(:changed_my_mind)
      end)
    end)

    [["alice", 70], ["bob", 90]] = balances(db)
    IO.puts("transaction ok")

    # begin bulk
    {:ok, _} = Repo.transaction(db, fn ->
      for chunk <- Enum.chunk_every(1..3000, 500), do: {500, nil} = Repo.insert_all(db, :item, Enum.map(chunk, &%{name: "item-#{&1}"}))
    end)
    # end bulk
    [[3000]] = Repo.query!(db, ~s[SELECT count(*) FROM "item" AS i0])
    IO.puts("bulk ok")

    # begin constraint
    {:error, %{valid?: false, errors: [name: "has already been taken"]}} = Repo.insert(db, account(name: "alice", balance: 1))
    {:error, :take, %{errors: [balance: "is invalid"]}, %{}} = transfer(db, "alice", "bob", 1000)
    # end constraint
    IO.puts("constraint ok")

    IO.puts("hold")
    IO.gets("")
    {:ok, hasty} = Repo.start_link(path, 100)
    # begin busy
    try do
      Repo.transaction(hasty, fn -> nil end)
      raise "not busy"
    rescue
      error in Repo.Error -> true = Repo.busy?(error)
    end
    # end busy
    Repo.stop(hasty)
    IO.puts("busy ok")

    {:ok, reader} = Repo.start_link(path, 30_000)
    note = fn -> Repo.all(reader, :account, [:note], ~s[a0."name" = ?], ["bob"]) end
    {:ok, [[nil]]} = Repo.transaction(reader, fn ->
      [[nil]] = note.()
      {:ok, _} = Repo.update(db, account(2, note: "seen"))
      note.()
    end, "")
    [["seen"]] = note.()
    Repo.stop(reader)
    Repo.stop(db)
    IO.puts("reader ok")
  end

  def work(path, worker, count) do
    {:ok, db} = Repo.start_link(path, 30_000)
    # begin work
    for seq <- 1..count do
      {:ok, _} = Repo.transaction(db, fn ->
        [[n]] = Repo.all(db, :counter, [:n], ~s[c0."id" = ?], [1])
        {:ok, _} = Repo.update(db, change(:counter, 1, n: n + 1))
        {:ok, _} = Repo.insert(db, change(:visit, worker: worker, seq: seq))
      end)
    end
    # end work
    Repo.stop(db)
  end
end

case System.argv() do
  ["scenario", path] -> Shop.scenario(path)
  ["work", path, worker, count] -> Shop.work(path, worker, String.to_integer(count))
end
