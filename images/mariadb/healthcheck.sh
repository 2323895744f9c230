#!/usr/bin/env bash
# The checks of the official image's healthcheck.sh that deployments use: --connect,
# --innodb_initialized, --no-connect, --defaults-file=, --datadir=.
set -eo pipefail

datadir=/var/lib/mysql
file=
checks=()
connect=yes
for argument; do
    case $argument in
        --connect) checks+=(connect) ;;
        --innodb_initialized) checks+=(innodb_initialized) ;;
        --no-connect) connect=no ;;
        --datadir=*) datadir=${argument#*=} ;;
        --defaults-file=*) file=${argument#*=} ;;
        *) echo "healthcheck.sh: unknown option $argument" >&2; exit 1 ;;
    esac
done
((${#checks[@]} > 0)) || { echo 'healthcheck.sh: no check given' >&2; exit 1; }
[[ $connect == yes ]] || { echo 'healthcheck.sh: --no-connect leaves nothing to check' >&2; exit 1; }
file=${file:-$datadir/.my-healthcheck.cnf}

ask() {
    mariadb ${file:+--defaults-file="$file"} --protocol "$1" -h localhost --skip-column-names \
        --skip-ssl --batch -e "$2"
}

# Only a server that is past its initialisation listens on TCP. "Access denied" is an answer too.
check_connect() {
    local said
    said=$(mariadb --defaults-file="$file" --protocol tcp -h 127.0.0.1 --skip-ssl --batch \
        -e 'select 1' 2>&1) || [[ $said == *'Access denied'* || $said == *'is not allowed to connect'* ]]
}

check_innodb_initialized() {
    [[ $(ask socket "select 1 from information_schema.ENGINES WHERE engine='innodb' AND support in ('YES', 'DEFAULT', 'ENABLED')") == 1 ]]
}

for check in "${checks[@]}"; do
    "check_$check" || { echo "healthcheck $check failed" >&2; exit 1; }
done
