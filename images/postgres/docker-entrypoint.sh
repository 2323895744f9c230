#!/usr/bin/env bash
# The official image's rules: an empty $PGDATA becomes a cluster with POSTGRES_USER,
# POSTGRES_PASSWORD and POSTGRES_DB (or their *_FILE), then /docker-entrypoint-initdb.d runs.
set -Eeo pipefail

die() { echo "$*" >&2; exit 1; }

# file_env NAME [DEFAULT]: NAME from itself or from the file that NAME_FILE names, not both.
file_env() {
    local name=$1 file_name="${1}_FILE" default=${2:-} value
    if [[ -n ${!name:-} && -n ${!file_name:-} ]]; then
        die "error: both $name and $file_name are set (but are exclusive)"
    fi
    value=${!name:-$default}
    [[ -z ${!file_name:-} ]] || value=$(<"${!file_name}")
    export "$name"="$value"
    unset "$file_name"
}

ensure_directories() {
    mkdir -p "$PGDATA"
    chmod 00700 "$PGDATA" || :
    mkdir -p /var/run/postgresql || :
    chmod 03775 /var/run/postgresql 2>/dev/null || :
    if [[ -n ${POSTGRES_INITDB_WALDIR:-} ]]; then
        mkdir -p "$POSTGRES_INITDB_WALDIR"
        chmod 700 "$POSTGRES_INITDB_WALDIR"
    fi
    if [[ $(id -u) == 0 ]]; then
        find "$PGDATA" /var/run/postgresql ${POSTGRES_INITDB_WALDIR:+"$POSTGRES_INITDB_WALDIR"} \
            \! -user postgres -exec chown postgres '{}' +
    fi
}

# initdb wants to know its user by name: a container started with some other --user has none.
name_this_user() {
    getent passwd "$(id -u)" >/dev/null && return
    local lib
    lib=$(find /usr/lib -name libnss_wrapper.so -print -quit)
    [[ -n $lib ]] || return 0
    NSS_WRAPPER_PASSWD=$(mktemp) NSS_WRAPPER_GROUP=$(mktemp)
    export LD_PRELOAD=$lib NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
    printf 'postgres:x:%s:%s:PostgreSQL:%s:/bin/false\n' "$(id -u)" "$(id -g)" "$PGDATA" >"$NSS_WRAPPER_PASSWD"
    printf 'postgres:x:%s:\n' "$(id -g)" >"$NSS_WRAPPER_GROUP"
}

forget_wrapper() {
    [[ -z ${NSS_WRAPPER_PASSWD:-} ]] || rm -f "$NSS_WRAPPER_PASSWD" "$NSS_WRAPPER_GROUP"
    unset LD_PRELOAD NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
}

check_minimum_env() {
    if [[ -z $POSTGRES_PASSWORD && ${POSTGRES_HOST_AUTH_METHOD:-} != trust ]]; then
        die 'Error: Database is uninitialized and superuser password is not specified.
       You must specify POSTGRES_PASSWORD (or POSTGRES_PASSWORD_FILE) to a non-empty value.'
    fi
    [[ ${POSTGRES_HOST_AUTH_METHOD:-} != trust ]] ||
        echo 'WARNING: POSTGRES_HOST_AUTH_METHOD is "trust": anyone can connect without a password.' >&2
}

init_cluster() {
    name_this_user
    local arguments=()
    [[ -z ${POSTGRES_INITDB_WALDIR:-} ]] || arguments+=(--waldir "$POSTGRES_INITDB_WALDIR")
    # POSTGRES_INITDB_ARGS is a string of shell words, as in the official image.
    eval 'initdb --username="$POSTGRES_USER" --pwfile=<(printf "%s\n" "$POSTGRES_PASSWORD") "${arguments[@]}" '"${POSTGRES_INITDB_ARGS:-}"' "$@"'
    forget_wrapper
    local method=${POSTGRES_HOST_AUTH_METHOD:-}
    method=${method:-$(postgres -C password_encryption "$@")}
    printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"
}

# Only the socket listens while the scripts run: nobody connects to a half-made database.
temp_server_start() {
    PGUSER=${PGUSER:-$POSTGRES_USER} pg_ctl -D "$PGDATA" -w start \
        -o "-c listen_addresses='' -p ${PGPORT:-5432}"
}
temp_server_stop() { PGUSER=${PGUSER:-postgres} pg_ctl -D "$PGDATA" -m fast -w stop; }

run_sql() {
    PGHOST='' PGHOSTADDR='' psql -v ON_ERROR_STOP=1 --no-psqlrc --no-password \
        --username "$POSTGRES_USER" "$@"
}

create_database() {
    [[ $POSTGRES_DB == postgres ]] && return
    local exists
    exists=$(run_sql --dbname postgres --set db="$POSTGRES_DB" --tuples-only \
        <<<"SELECT 1 FROM pg_database WHERE datname = :'db';")
    [[ -n ${exists//[[:space:]]/} ]] ||
        run_sql --dbname postgres --set db="$POSTGRES_DB" <<<'CREATE DATABASE :"db";'
}

process_init_files() {
    local file
    for file; do
        case $file in
            *.sh)
                if [[ -x $file ]]; then echo "$0: running $file"; "$file"
                else echo "$0: sourcing $file"; . "$file"; fi ;;
            *.sql) echo "$0: running $file"; run_sql --dbname "$POSTGRES_DB" -f "$file" ;;
            *.sql.gz) echo "$0: running $file"; gunzip -c "$file" | run_sql --dbname "$POSTGRES_DB" ;;
            *.sql.xz) echo "$0: running $file"; xzcat "$file" | run_sql --dbname "$POSTGRES_DB" ;;
            *.sql.zst) echo "$0: running $file"; zstd -dc "$file" | run_sql --dbname "$POSTGRES_DB" ;;
            *) echo "$0: ignoring $file" ;;
        esac
    done
}

main() {
    [[ ${1:0:1} != - ]] || set -- postgres "$@"
    if [[ $1 == postgres && " $* " != *' --help '* && " $* " != *' --version '* ]]; then
        ensure_directories
        if [[ $(id -u) == 0 ]]; then
            exec setpriv --reuid=postgres --regid=postgres --init-groups "$BASH_SOURCE" "$@"
        fi
        if [[ ! -s $PGDATA/PG_VERSION ]]; then
            file_env POSTGRES_PASSWORD
            file_env POSTGRES_USER postgres
            file_env POSTGRES_DB "$POSTGRES_USER"
            file_env POSTGRES_INITDB_ARGS
            check_minimum_env
            init_cluster
            export PGPASSWORD=${PGPASSWORD-$POSTGRES_PASSWORD}
            temp_server_start
            create_database
            shopt -s nullglob
            process_init_files /docker-entrypoint-initdb.d/*
            temp_server_stop
            unset PGPASSWORD
            echo 'PostgreSQL init process complete; ready for start up.'
        else
            echo 'PostgreSQL Database directory appears to contain a database; Skipping initialization'
        fi
    fi
    exec "$@"
}

main "$@"
