"""Accounts, items, a counter and visits."""
from django.db import models


class Account(models.Model):
    name = models.CharField(max_length=100, unique=True)
    balance = models.IntegerField()
    note = models.TextField(null=True)

    class Meta:
        db_table = "account"
        constraints = [models.CheckConstraint(condition=models.Q(balance__gte=0), name="balance_not_negative")]


class Item(models.Model):
    name = models.CharField(max_length=100, db_index=True)

    class Meta:
        db_table = "item"


class Counter(models.Model):
    n = models.IntegerField(default=0)

    class Meta:
        db_table = "counter"


class Visit(models.Model):
    worker = models.CharField(max_length=20)
    seq = models.IntegerField()

    class Meta:
        db_table = "visit"
        constraints = [models.UniqueConstraint(fields=["worker", "seq"], name="visit_once")]
