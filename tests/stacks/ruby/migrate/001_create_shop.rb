class CreateShop < ActiveRecord::Migration[6.1]
  def change
    create_table :account do |t|
      t.string :name, null: false, index: { unique: true }
      t.integer :balance, null: false
    end
    create_table(:item) { |t| t.string :name, null: false }
    create_table(:counter) { |t| t.integer :n, null: false, default: 0 }
    create_table :visit do |t|
      t.string :worker, null: false
      t.integer :seq, null: false
      t.index %i[worker seq], unique: true
    end
    reversible { |direction| direction.up { execute "INSERT INTO counter(n) VALUES (0)" } }
  end
end
