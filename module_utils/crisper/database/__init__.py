"""PostgreSQL and MariaDB: accounts, versions, migrations, upgrades."""
