#!/bin/sh
# Serve with nginx, and keep unhealthy replicas out of the rotation.
#
#   upstreams.sh serve     start nginx and the watch; what the container runs
#   upstreams.sh watch     ask every replica for its health, once
#   upstreams.sh ready R   fail unless every container of release R answers as a healthy one does
#   upstreams.sh release   take all replicas of the release that serves, after a switch
#   upstreams.sh reload    test the configuration, load it, wait until no old worker takes requests
#
# nginx reads where a service is through symbolic links, on each request (nginx.conf, $upstream):
#
#   /tmp/upstreams/<service>/<slot>  ->  /etc/crisper/serving/<service>   every replica, by its name
#                                    or  /tmp/addresses/<address>:<port>  one healthy replica
#
# /etc/crisper/serving is the release that serves: whoever renames that link moves all requests at
# once. While all replicas are healthy every slot leads there; otherwise the slots are shared out
# among the healthy ones. If none is healthy, all are asked: the check may be what is broken.
set -u
SERVING=/etc/crisper/serving
CONF=/etc/crisper/nginx.conf
SLOTS=60      # as many replicas can share requests while one is out
INTERVAL=2    # seconds between two looks
TIMEOUT=4     # seconds that a replica has to answer
FAILURES=2    # in a row, until a replica is out; so a hanging one is out after 12 s
umask 022

# assign <service> <target …>: share the slots out among targets, in one rename. What there was
# stays when that fails, such as with /tmp full.
assign() {
    service=$1
    shift
    set=$(mktemp -d "/tmp/sets/$service.XXXXXX") || return
    number=0
    while [ $number -lt $SLOTS ]; do
        eval "target=\${$((number % $# + 1))}"
        ln -s "$target" "$set/$number" || { rm -r "$set"; return 1; }
        number=$((number + 1))
    done
    old=$(readlink "/tmp/upstreams/$service")
    # Of one that was killed here the link may be left.
    if ! { ln -sfn "$set" "/tmp/upstreams/.$service" &&
        mv -T "/tmp/upstreams/.$service" "/tmp/upstreams/$service"; }; then
        rm -r "$set"
        return 1
    fi
    [ -z "$old" ] || rm -r "$old"
}

# ask <address>: print the status with which it answers its health check; 000 for none.
ask() {
    curl --silent --output /dev/null --max-time "$TIMEOUT" --noproxy '*' --globoff \
        --header "Host: $host" --header "X-Forwarded-Proto: $scheme" \
        --write-out '%{http_code}' "http://$1:$port$path"
}

# expected <status>: whether it is one of a healthy container.
expected() {
    case ",$statuses," in *",$1,"*) ;; *) return 1 ;; esac
}

# check <address>: ask one replica and count its failures in a row, beginning with "out".
check() {
    file=$state/$1
    read -r failures _ 2>/dev/null <"$file" || failures=$FAILURES
    status=$(ask "$1")
    if expected "$status"; then failures=0; else failures=$((failures + 1)); fi
    echo "$failures $status" >"$file"
}

# find_service <folder> <service>: where it is and how it is asked; `addresses` are those of its replicas,
# sorted, and `count` how many. Built-ins where there are some: every stack does this all the time.
find_service() {
    upstream=$(cd -P "$1/$2" 2>/dev/null && pwd -P) || return
    upstream=${upstream##*/}
    name=${upstream%:*} port=${upstream##*:}
    read -r replicas host scheme statuses path <"$1/$2.probe" || return
    found=$(getent ahostsv4 "$name") || return
    addresses= count=0
    while read -r address _; do
        case " $addresses " in *" $address "*) continue ;; esac
        addresses="${addresses:+$addresses }$address" count=$((count + 1))
    done <<END
$found
END
    # shellcheck disable=SC2086 # addresses: one word each
    [ $count -lt 2 ] || addresses=$(printf '%s\n' $addresses | sort)
    [ -n "$addresses" ]
}

# look <service>: find its healthy replicas; assign the slots when they are others than before.
look() {
    service=$1
    find_service "$SERVING" "$service" || return
    wanted="$SERVING/$service" healthy=0 out=
    if [ "$replicas" -gt 1 ] || [ "$count" -gt 1 ]; then
        state=/tmp/watch/$name
        mkdir -p "$state"
        for address in $addresses; do check "$address" & done
        wait
        targets=
        for address in $addresses; do
            read -r failures status <"$state/$address"
            if [ "$failures" -ge "$FAILURES" ]; then
                out="$out $address:$port (its health check got $status)"
                continue
            fi
            healthy=$((healthy + 1))
            mkdir -p "/tmp/addresses/$address:$port"
            targets="$targets /tmp/addresses/$address:$port"
        done
        if [ "$healthy" -gt 0 ] && { [ "$healthy" -lt "$count" ] || [ "$count" -lt "$replicas" ]; }; then
            wanted=${targets# }
        fi
        for other in "/tmp/watch/$service"-*; do [ "$other" = "$state" ] || rm -rf "$other"; done
    fi
    take "$upstream" "$service" "$wanted" "$out"
}

# take <upstream> <service> <targets> <those left out>: unless another release serves by now.
take() {
    read -r before 2>/dev/null <"/tmp/watch/$2.targets" || before=
    [ "$3" != "$before" ] || return 0
    (
        flock 9
        [ "$(readlink -f "$SERVING/$2")" = "$(readlink -f "$SERVING")/$1" ] || exit 0
        [ "$3" != "$(cat "/tmp/watch/$2.targets" 2>/dev/null)" ] || exit 0
        # shellcheck disable=SC2086 # addresses: one word each
        assign "$2" $3 || exit
        echo "$3" >"/tmp/watch/$2.targets"
        case $3 in
            "$SERVING"/*) echo "$2: requests go to all replicas" >&2 ;;
            *) echo "$2: requests go to $(echo "$3" | sed 's,/tmp/addresses/,,g') only; left out:${4:- stopped replicas}" >&2 ;;
        esac
    ) 9>/tmp/watch/lock
}

watch() {
    for probe in "$SERVING"/*.probe; do
        [ -e "$probe" ] || continue
        service=${probe##*/}
        look "${service%.probe}"
    done
    : >/tmp/watch/alive
}

# ready <release>: health checks of the engine are seconds old; this is now, and from here.
ready() {
    folder=/etc/crisper/upstreams/$1
    for probe in "$folder"/*.probe; do
        service=${probe##*/} service=${service%.probe}
        find_service "$folder" "$service" || { echo "no container has the name $name" >&2; exit 1; }
        for address in $addresses; do
            tries=1
            until status=$(ask "$address"); expected "$status"; do
                if [ $tries -ge 3 ]; then
                    case $status in
                        000) echo "$service at $address:$port does not answer $path: it must listen" \
                            "on 0.0.0.0, not on 127.0.0.1 alone, and answer within $TIMEOUT s" ;;
                        *) echo "$service at $address answers $path with $status, not with $statuses" ;;
                    esac >&2
                    exit 1
                fi
                tries=$((tries + 1))
                sleep 1
            done
        done
    done
}

release() {
    # An nginx that a release of before this script has started shares nothing out.
    [ -d /tmp/upstreams ] || return 0
    (
        flock 9
        for link in /tmp/upstreams/*; do
            service=${link##*/}
            [ "$(cat "/tmp/watch/$service.targets" 2>/dev/null)" != "$SERVING/$service" ] || continue
            assign "$service" "$SERVING/$service" || exit
            echo "$SERVING/$service" >"/tmp/watch/$service.targets"
        done
    ) 9>/tmp/watch/lock
}

# workers: pids of the workers that take requests.
workers() {
    for folder in /proc/[0-9]*; do
        # A worker that is to end is named "… is shutting down".
        case $(tr '\0' ' ' 2>/dev/null <"$folder/cmdline") in
            "nginx: worker process"*shutting*) ;;
            "nginx: worker process"*) echo "${folder#/proc/}" ;;
        esac
    done
}

reload() {
    nginx -t -c "$CONF" || exit
    before=" $(workers | tr '\n' ' ') "
    kill -HUP "$(cat /tmp/nginx.pid)"
    tries=0
    while [ $tries -lt 100 ]; do
        now=$(workers)
        waiting=
        for pid in $now; do
            case $before in *" $pid "*) waiting=$pid ;; esac
        done
        [ -n "$now" ] && [ -z "$waiting" ] && return
        sleep 0.1
        tries=$((tries + 1))
    done
    echo "nginx did not replace its workers within 10 s" >&2
    exit 1
}

serve() {
    rm -rf /tmp/upstreams /tmp/sets /tmp/addresses /tmp/watch
    mkdir -p /tmp/upstreams /tmp/sets /tmp/addresses /tmp/watch
    for service in backend frontend; do
        assign "$service" "$SERVING/$service"
        echo "$SERVING/$service" >"/tmp/watch/$service.targets"
    done
    # A process for each look: it is the script of the release that serves.
    while :; do
        sh "$0" watch
        sleep "$INTERVAL"
    done &
    exec nginx -c "$CONF" -g 'daemon off;'
}

case ${1:-} in
    serve | watch | ready | release | reload) "$@" ;;
    *) echo "usage: upstreams.sh serve|watch|ready|release|reload" >&2; exit 2 ;;
esac
