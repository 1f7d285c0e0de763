BEGIN IMMEDIATE;
ALTER TABLE account ADD COLUMN note TEXT;
CREATE INDEX item_name ON item(name);
PRAGMA user_version = 2;
COMMIT;
