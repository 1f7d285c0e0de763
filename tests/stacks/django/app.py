"""Django: migrations, ORM, atomic(), bulk_create, in WAL mode.

    app.py scenario DB            app.py work DB WORKER COUNT
"""
import os
import sqlite3
import sys
from contextlib import contextmanager

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
os.environ["SHOP_DB"] = sys.argv[2]

import django  # noqa: E402

django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import IntegrityError, OperationalError, connection, connections, transaction  # noqa: E402
from django.db.models import F  # noqa: E402
from shop.models import Account, Counter, Item, Visit  # noqa: E402


# begin transfer
@transaction.atomic
def transfer(source, target, amount):
    Account.objects.filter(name=source).update(balance=F("balance") - amount)
    account = Account.objects.get(name=target)
    account.balance += amount
    account.save()
# end transfer


@contextmanager
def raises(error, text=""):
    try:
        yield
    except error as caught:
        assert text in str(caught), caught
    else:
        raise AssertionError(f"no {error.__name__}")


def balances():
    return dict(Account.objects.values_list("name", "balance"))


def another_connection(timeout):
    """As a second worker process has it."""
    other = connections.create_connection("default")
    other.settings_dict = {**connection.settings_dict, "OPTIONS": {**connection.settings_dict["OPTIONS"], "timeout": timeout,
                                                                   "init_command": ""}}
    return other


def scenario():
    print("version Django", django.get_version())
    print("sqlite", sqlite3.sqlite_version)
    call_command("migrate", verbosity=0)
    call_command("migrate", verbosity=0)
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)
    print("migrations ok")

    Account.objects.bulk_create([Account(name="alice", balance=100), Account(name="bob", balance=50)])
    carol, created = Account.objects.get_or_create(name="carol", defaults={"balance": 10})
    assert created
    Account.objects.update_or_create(name="bob", defaults={"balance": 60})
    carol.delete()
    assert balances() == {"alice": 100, "bob": 60}
    print("crud ok")

    transfer("alice", "bob", 30)
    with raises(Account.DoesNotExist):
        transfer("alice", "nobody", 30)
    with transaction.atomic():  # a savepoint that is taken back, in a transaction that is not
        with raises(IntegrityError), transaction.atomic():
            Account.objects.create(name="dave", balance=1)
            Account.objects.create(name="alice", balance=1)
        assert not Account.objects.filter(name="dave").exists()
    assert balances() == {"alice": 70, "bob": 90}
    print("transaction ok")

    # begin bulk
    Item.objects.bulk_create([Item(name=f"item-{i}") for i in range(1, 3001)], batch_size=500)
    # end bulk
    assert Item.objects.count() == 3000
    print("bulk ok")

    # begin constraint
    with raises(IntegrityError, "UNIQUE constraint failed: account.name"):
        Account.objects.create(name="alice", balance=1)
    # end constraint
    with raises(IntegrityError, "CHECK constraint failed: balance_not_negative"):
        transfer("alice", "bob", 1000)
    print("constraint ok")

    print("hold")
    sys.stdin.readline()
    hasty = another_connection(0.1)
    with raises(OperationalError, "database is locked"), hasty.cursor() as cursor:
        cursor.execute("BEGIN IMMEDIATE")
    hasty.close()
    print("busy ok")

    reader = another_connection(30)
    with reader.cursor() as cursor:
        cursor.execute("BEGIN")
        note = "SELECT note FROM account WHERE name = %s"
        assert cursor.execute(note, ["bob"]).fetchone() == (None,)
        Account.objects.filter(name="bob").update(note="seen")
        assert cursor.execute(note, ["bob"]).fetchone() == (None,), "the snapshot moved"
        cursor.execute("COMMIT")
        assert cursor.execute(note, ["bob"]).fetchone() == ("seen",)
    reader.close()
    with connection.cursor() as cursor:
        assert cursor.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    print("reader ok")


# begin work
def visit(worker, seq):
    with transaction.atomic():
        counter = Counter.objects.get(pk=1)
        counter.n += 1
        counter.save()
        Visit.objects.create(worker=worker, seq=seq)
# end work


def main():
    sys.stdout.reconfigure(line_buffering=True)
    if sys.argv[1] == "scenario":
        scenario()
    else:
        for seq in range(1, int(sys.argv[4]) + 1):
            visit(sys.argv[3], seq)


main()
