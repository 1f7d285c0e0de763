CREATE TABLE `account` (
	`id` integer PRIMARY KEY NOT NULL,
	`name` text NOT NULL,
	`balance` integer NOT NULL,
	CONSTRAINT "balance_not_negative" CHECK("account"."balance" >= 0)
);
--> statement-breakpoint
CREATE UNIQUE INDEX `account_name_unique` ON `account` (`name`);
--> statement-breakpoint
CREATE TABLE `item` (`id` integer PRIMARY KEY NOT NULL, `name` text NOT NULL);
--> statement-breakpoint
CREATE TABLE `counter` (`id` integer PRIMARY KEY NOT NULL, `n` integer NOT NULL);
--> statement-breakpoint
CREATE TABLE `visit` (`worker` text NOT NULL, `seq` integer NOT NULL);
--> statement-breakpoint
CREATE UNIQUE INDEX `visit_worker_seq_unique` ON `visit` (`worker`, `seq`);
--> statement-breakpoint
INSERT INTO `counter` (`id`, `n`) VALUES (1, 0);
