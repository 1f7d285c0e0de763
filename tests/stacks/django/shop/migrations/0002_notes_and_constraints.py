from django.db import migrations, models


class Migration(migrations.Migration):
    """AlterField and AddConstraint make SQLite's backend build the tables anew: the hard sort of migration."""
    dependencies = [("shop", "0001_initial")]
    operations = [
        migrations.AddField("account", "note", models.TextField(null=True)),
        migrations.AlterField("item", "name", models.CharField(max_length=100, db_index=True)),
        migrations.AddConstraint("account", models.CheckConstraint(condition=models.Q(balance__gte=0), name="balance_not_negative")),
        migrations.AddConstraint("visit", models.UniqueConstraint(fields=["worker", "seq"], name="visit_once")),
    ]
