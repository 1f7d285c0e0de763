"""Settings of the tested Django project: what concerns the database is between the marks."""
import os

SECRET_KEY = "only for tests"
USE_TZ = True
INSTALLED_APPS = ["shop"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# begin databases
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["SHOP_DB"],
        "CONN_MAX_AGE": 60,
        "OPTIONS": {
            "timeout": 30,  # busy_timeout, seconds
            "transaction_mode": "IMMEDIATE",  # for atomic()
            "init_command": "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL",
        },
    },
}
# end databases
