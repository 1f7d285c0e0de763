# Not Ecto: neither it nor ecto_sqlite3 is in Debian or any registry that the tests may use. This module has the operations of Ecto's
# repository that the tests need, and sends the statements that ecto_sqlite3 and exqlite send for them (ecto.exs does the same by Ecto itself), through Debian's SQLite
# driver for Erlang: the pragmas of a new connection, BEGIN IMMEDIATE TRANSACTION, SAVEPOINT for one within, RETURNING for keys,
# quoted names, the table schema_migrations. Constraint errors become errors of a changeset by the names that ecto_sqlite3 guesses.
defmodule Repo.Error do
  defexception [:code, :message, :statement]
end

defmodule Repo.Changeset do
  # constraints: {:unique | :check, NAME} => {FIELD, MESSAGE}, as unique_constraint/3 and check_constraint/3 leave it.
  defstruct table: nil, id: nil, changes: %{}, constraints: %{}, errors: [], valid?: true

  def change(table, id \\ nil, changes), do: %__MODULE__{table: table, id: id, changes: Map.new(changes)}

  def unique_constraint(changeset, field, name), do: constraint(changeset, {:unique, name}, {field, "has already been taken"})
  def check_constraint(changeset, field, name), do: constraint(changeset, {:check, name}, {field, "is invalid"})

  defp constraint(changeset, key, value), do: %{changeset | constraints: Map.put(changeset.constraints, key, value)}
end

defmodule Repo do
  alias Repo.{Changeset, Error}

  @busy 5

  # The pragmas of a connection of exqlite's, with ecto_sqlite3's defaults; busy_timeout is ours to set.
  def start_link(database, busy_timeout) do
    {:ok, db} = :sqlite3.open(:anonymous, file: String.to_charlist(database))

    for pragma <- ["busy_timeout = #{busy_timeout}", "journal_mode = wal", "temp_store = 2", "synchronous = 1", "foreign_keys = 1",
                   "cache_size = -64000", "cache_spill = 1", "locking_mode = NORMAL", "wal_autocheckpoint = 1000"] do
      query!(db, "PRAGMA #{pragma}")
    end

    {:ok, db}
  end

  def stop(db), do: :sqlite3.close(db)

  def query!(db, sql, params \\ []) do
    case :sqlite3.sql_exec_timeout(db, sql, Enum.map(params, &(&1 || :null)), :infinity) do
      {:error, code, message} ->
        raise Error, code: code, message: to_string(message), statement: sql

      result when is_list(result) ->
        with {:error, code, message} <- List.last(result), do: raise(Error, code: code, message: to_string(message), statement: sql)
        Enum.map(result[:rows], fn row -> row |> Tuple.to_list() |> Enum.map(&if(&1 == :null, do: nil, else: &1)) end)

      _ok_or_rowid ->
        []
    end
  end

  def busy?(%Error{code: code}), do: rem(code, 256) == @busy

  # ---- one row

  def insert(db, %Changeset{} = changeset) do
    {names, values} = Enum.unzip(changeset.changes)

    checked(changeset, fn ->
      sql = ~s[INSERT INTO "#{changeset.table}" (#{quoted(names)}) VALUES #{places(1, length(names))} RETURNING "id"]
      [[id]] = query!(db, sql, values)
      Map.put(changeset.changes, :id, id)
    end)
  end

  def update(db, %Changeset{} = changeset) do
    {names, values} = Enum.unzip(changeset.changes)

    checked(changeset, fn ->
      query!(db, ~s[UPDATE "#{changeset.table}" SET #{Enum.map_join(names, ", ", &~s["#{&1}" = ?])} WHERE "id" = ?], values ++ [changeset.id])
      Map.put(changeset.changes, :id, changeset.id)
    end)
  end

  def delete(db, table, id), do: query!(db, ~s[DELETE FROM "#{table}" WHERE "id" = ?], [id])

  # ---- many

  def insert_all(db, table, [first | _] = rows) do
    names = Map.keys(first)
    values = Enum.flat_map(rows, fn row -> Enum.map(names, &row[&1]) end)
    query!(db, ~s[INSERT INTO "#{table}" (#{quoted(names)}) VALUES #{places(length(rows), length(names))}], values)
    {:sqlite3.changes(db), nil}
  end

  # set: "balance" = "balance" + ?; where: a0."name" = ?
  def update_all(db, table, set, where, params) do
    query!(db, ~s[UPDATE "#{table}" AS #{source(table)} SET #{set} WHERE (#{where})], params)
    {:sqlite3.changes(db), nil}
  end

  def delete_all(db, table, where, params) do
    query!(db, ~s[DELETE FROM "#{table}" AS #{source(table)} WHERE (#{where})], params)
    {:sqlite3.changes(db), nil}
  end

  def all(db, table, fields, where \\ "1", params \\ []) do
    s = source(table)
    query!(db, ~s[SELECT #{Enum.map_join(fields, ", ", &~s[#{s}."#{&1}"])} FROM "#{table}" AS #{s} WHERE (#{where}) ORDER BY #{s}."id"], params)
  end

  # ---- transactions: the function's value is {:ok, value}; rollback/1 makes it {:error, value}

  def transaction(db, function, mode \\ "IMMEDIATE ") do
    nested = Process.get({:transaction, db}, false)
    {first, last, back} =
      if nested,
        do: {"SAVEPOINT exqlite_savepoint", "RELEASE SAVEPOINT exqlite_savepoint", ["ROLLBACK TO SAVEPOINT exqlite_savepoint", "RELEASE SAVEPOINT exqlite_savepoint"]},
        else: {"BEGIN #{mode}TRANSACTION", "COMMIT", ["ROLLBACK TRANSACTION"]}

    query!(db, first)
    Process.put({:transaction, db}, true)

    try do
      value = function.()
      query!(db, last)
      {:ok, value}
    rescue
      error ->
        Enum.each(back, &query!(db, &1))
        reraise error, __STACKTRACE__
    catch
      {:rollback, value} ->
        Enum.each(back, &query!(db, &1))
        {:error, value}
    after
      Process.put({:transaction, db}, nested)
    end
  end

  def rollback(value), do: throw({:rollback, value})

  # Ecto.Multi: named steps in one transaction; each gets what those before it gave, and says {:ok, value} or {:error, value}.
  def multi(db, steps) do
    result = transaction(db, fn ->
      Enum.reduce(steps, %{}, fn {name, step}, so_far ->
        case step.(so_far) do
          {:ok, value} -> Map.put(so_far, name, value)
          {:error, value} -> rollback({name, value, so_far})
        end
      end)
    end)

    with {:error, {name, value, so_far}} <- result, do: {:error, name, value, so_far}
  end

  # ---- migrations

  def migrate(db, migrations) do
    query!(db, ~s[CREATE TABLE IF NOT EXISTS "schema_migrations" ("version" INTEGER PRIMARY KEY, "inserted_at" TEXT)])
    done = query!(db, ~s[SELECT s0."version" FROM "schema_migrations" AS s0]) |> List.flatten()

    for {version, statements} <- migrations, version not in done do
      {:ok, _} = transaction(db, fn ->
        Enum.each(statements, &query!(db, &1))
        now = DateTime.utc_now() |> DateTime.truncate(:second) |> DateTime.to_iso8601()
        query!(db, ~s[INSERT INTO "schema_migrations" ("version","inserted_at") VALUES (?1,?2)], [version, now])
      end)
    end
  end

  # ---- what is left of an error

  defp checked(changeset, function) do
    {:ok, function.()}
  rescue
    error in Error ->
      case Map.fetch(changeset.constraints, constraint(error.message)) do
        {:ok, {field, message}} -> {:error, %{changeset | errors: [{field, message}], valid?: false}}
        :error -> reraise error, __STACKTRACE__
      end
  end

  # SQLite names the columns, not the index: its name is guessed, TABLE_COLUMN_..._index.
  defp constraint("UNIQUE constraint failed: " <> columns) do
    [first | others] = String.split(columns, ", ")
    {:unique, Enum.join([String.replace(first, ".", "_")] ++ Enum.map(others, &(&1 |> String.split(".") |> List.last())) ++ ["index"], "_")}
  end

  defp constraint("CHECK constraint failed: " <> name), do: {:check, name}
  defp constraint(_), do: nil

  # (?1,?2),(?3,?4)
  defp places(rows, columns) do
    1..(rows * columns) |> Enum.chunk_every(columns) |> Enum.map_join(",", fn row -> "(" <> Enum.map_join(row, ",", &"?#{&1}") <> ")" end)
  end

  defp quoted(names), do: Enum.map_join(names, ",", &~s["#{&1}"])
  defp source(table), do: String.first(to_string(table)) <> "0"
end
