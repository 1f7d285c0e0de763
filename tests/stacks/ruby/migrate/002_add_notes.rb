# A check constraint makes ActiveRecord build the table anew.
class AddNotes < ActiveRecord::Migration[6.1]
  def change
    add_column :account, :note, :text
    add_check_constraint :account, "balance >= 0", name: "balance_not_negative"
    add_index :item, :name
  end
end
