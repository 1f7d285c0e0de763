ALTER TABLE `account` ADD `note` text;
--> statement-breakpoint
CREATE INDEX `item_name` ON `item` (`name`);
