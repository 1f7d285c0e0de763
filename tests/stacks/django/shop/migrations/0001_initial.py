from django.db import migrations, models


def one_counter(apps, _schema_editor):
    apps.get_model("shop", "Counter").objects.create(n=0)


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel("Account", [
            ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
            ("name", models.CharField(max_length=100, unique=True)),
            ("balance", models.IntegerField()),
        ], {"db_table": "account"}),
        migrations.CreateModel("Item", [
            ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
            ("name", models.CharField(max_length=100)),
        ], {"db_table": "item"}),
        migrations.CreateModel("Counter", [
            ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
            ("n", models.IntegerField(default=0)),
        ], {"db_table": "counter"}),
        migrations.CreateModel("Visit", [
            ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
            ("worker", models.CharField(max_length=20)),
            ("seq", models.IntegerField()),
        ], {"db_table": "visit"}),
        migrations.RunPython(one_counter, migrations.RunPython.noop),
    ]
