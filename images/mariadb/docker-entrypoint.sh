#!/usr/bin/env bash
# The official image's rules: an empty data directory becomes a server with MARIADB_ROOT_PASSWORD,
# MARIADB_DATABASE, MARIADB_USER and MARIADB_PASSWORD (or MYSQL_*, or their *_FILE), then
# /docker-entrypoint-initdb.d runs.
set -Eeo pipefail

DATADIR=/var/lib/mysql
SOCKET=/run/mysqld/mysqld.sock

note() { printf '%s [Note] [Entrypoint]: %s\n' "$(date --iso-8601=seconds)" "$*"; }
die() { printf '%s [ERROR] [Entrypoint]: %s\n' "$(date --iso-8601=seconds)" "$*" >&2; exit 1; }

# setting NAME [DEFAULT]: MARIADB_NAME or MYSQL_NAME, each from itself or from its *_FILE.
setting() {
    local prefix name file
    for prefix in MARIADB MYSQL; do
        name=${prefix}_$1 file=${prefix}_${1}_FILE
        [[ -z ${!name:-} || -z ${!file:-} ]] || die "Both $name and $file are set (but are exclusive)"
        if [[ -n ${!file:-} ]]; then
            [[ -r ${!file} ]] || die "$file=${!file} cannot be read"
            printf %s "$(<"${!file}")"
            return
        fi
        if [[ -n ${!name:-} ]]; then
            printf %s "${!name}"
            return
        fi
    done
    printf %s "${2:-}"
}

# As an SQL string: backslashes and quotes escaped.
quoted() { local text=${1//\\/\\\\}; printf "'%s'" "${text//\'/\\\'}"; }
identifier() { printf '`%s`' "${1//\`/\`\`}"; }

run_sql() { mariadb --no-defaults --protocol=socket -uroot -hlocalhost --socket="$SOCKET" --comments "$@"; }

process_init_files() {
    local file
    for file; do
        case $file in
            *.sh) note "running $file"; if [[ -x $file ]]; then "$file"; else . "$file"; fi ;;
            *.sql) note "running $file"; run_sql --database="$DATABASE" <"$file" ;;
            *.sql.gz) note "running $file"; gunzip -c "$file" | run_sql --database="$DATABASE" ;;
            *.sql.xz) note "running $file"; xzcat "$file" | run_sql --database="$DATABASE" ;;
            *.sql.zst) note "running $file"; zstd -dc "$file" | run_sql --database="$DATABASE" ;;
            *) note "ignoring $file" ;;
        esac
    done
}

account_sql() {
    local root_host
    root_host=$(setting ROOT_HOST %)
    # The passwords: the binary log need not have them.
    printf 'SET @@SESSION.SQL_LOG_BIN=0; SET @@SESSION.SQL_MODE=REPLACE(@@SESSION.SQL_MODE, "NO_BACKSLASH_ESCAPES", "");\n'
    printf 'DROP USER IF EXISTS root@127.0.0.1, root@`::1`;\n'
    printf 'SET PASSWORD FOR root@localhost = PASSWORD(%s);\n' "$(quoted "$ROOT_PASSWORD")"
    if [[ $root_host != localhost ]]; then
        printf 'CREATE USER root@%s IDENTIFIED BY %s;\n' "$(quoted "$root_host")" "$(quoted "$ROOT_PASSWORD")"
        printf 'GRANT ALL ON *.* TO root@%s WITH GRANT OPTION;\n' "$(quoted "$root_host")"
    fi
    [[ -z $DATABASE ]] || printf 'CREATE DATABASE IF NOT EXISTS %s;\n' "$(identifier "$DATABASE")"
    if [[ -n $DB_USER ]]; then
        printf "CREATE USER %s@'%%' IDENTIFIED BY %s;\n" "$(quoted "$DB_USER")" "$(quoted "$PASSWORD")"
        # As officially: an underscore in a grant's database name is a wildcard.
        [[ -z $DATABASE ]] || printf "GRANT ALL ON %s.* TO %s@'%%';\n" \
            "$(identifier "${DATABASE//_/\\_}")" "$(quoted "$DB_USER")"
    fi
    # For healthcheck.sh: may connect and read the status, nothing else.
    local host
    for host in localhost 127.0.0.1 ::1; do
        printf "CREATE USER healthcheck@'%s' IDENTIFIED BY %s;\n" "$host" "$(quoted "$1")"
    done
}

initialise() {
    ROOT_PASSWORD=$(setting ROOT_PASSWORD) DATABASE=$(setting DATABASE)
    DB_USER=$(setting USER) PASSWORD=$(setting PASSWORD)
    if [[ -n $(setting RANDOM_ROOT_PASSWORD) ]]; then
        ROOT_PASSWORD=$(head -c 24 /dev/urandom | base64)
        note "GENERATED ROOT PASSWORD: $ROOT_PASSWORD"
    fi
    [[ -n $ROOT_PASSWORD || -n $(setting ALLOW_EMPTY_ROOT_PASSWORD) ]] || die \
        'Database is uninitialized and password option is not specified: set one of MARIADB_ROOT_PASSWORD, MARIADB_ROOT_PASSWORD_FILE, MARIADB_ALLOW_EMPTY_ROOT_PASSWORD and MARIADB_RANDOM_ROOT_PASSWORD'
    [[ $DB_USER != root ]] || die 'MARIADB_USER="root" is not possible: use MARIADB_ROOT_PASSWORD'
    [[ -z $DB_USER || -n $PASSWORD ]] || die "MARIADB_USER is $DB_USER but MARIADB_PASSWORD is empty: set it"

    note 'Initializing database files'
    mariadb-install-db --datadir="$DATADIR" --rpm --auth-root-authentication-method=normal --skip-name-resolve \
        --skip-test-db --default-time-zone=SYSTEM --enforce-storage-engine= --skip-log-bin \
        --expire-logs-days=0 --loose-innodb_buffer_pool_load_at_startup=0 >/dev/null
    note 'Starting temporary server'
    "$@" --skip-networking --socket="$SOCKET" --wsrep_on=OFF --skip-slave-start --loose-innodb_buffer_pool_dump_at_shutdown=0 &
    local server=$! try
    for try in {60..0}; do
        run_sql --database=mysql <<<'SELECT 1' &>/dev/null && break
        kill -0 "$server" 2>/dev/null || die 'The temporary server ended: see its messages above.'
        sleep 0.5
    done
    ((try > 0)) || die 'The temporary server did not start within 30 s.'
    mariadb-tzinfo-to-sql /usr/share/zoneinfo 2>/dev/null | run_sql --database=mysql || :
    local health
    health=$(head -c 24 /dev/urandom | base64)
    account_sql "$health" | run_sql --database=mysql --binary-mode
    (umask 0077; printf '[mariadb-client]\nport=3306\nsocket=%s\nuser=healthcheck\npassword=%s\n' \
        "$SOCKET" "$health" >"$DATADIR/.my-healthcheck.cnf")
    export MYSQL_PWD=$ROOT_PASSWORD
    shopt -s nullglob
    process_init_files /docker-entrypoint-initdb.d/*
    unset MYSQL_PWD
    note 'Stopping temporary server'
    kill "$server"
    wait "$server"
    note 'MariaDB init process done. Ready for start up.'
}

[[ ${1:0:1} != - ]] || set -- mariadbd "$@"
if [[ $1 == mariadbd && " $* " != *' --help '* && " $* " != *' --version '* ]]; then
    if [[ $(id -u) == 0 ]]; then
        find "$DATADIR" /run/mysqld \! -user mysql -exec chown mysql: '{}' +
        exec setpriv --reuid=mysql --regid=mysql --clear-groups "${BASH_SOURCE[0]}" "$@"
    fi
    if [[ ! -d $DATADIR/mysql ]]; then
        initialise "$@"
    fi
fi
exec "$@"
