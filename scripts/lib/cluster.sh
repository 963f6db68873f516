# Sourced by scripts/run: a small cluster in the foreground. Needs lib/common.sh.
# shellcheck shell=bash

# RINGQ_BIN is a folder of programs to use instead of building them; RINGQ_PORT_BASE moves all ports.
port_base=${RINGQ_PORT_BASE:-4150}
nsqd_tcp=("$port_base" "$((port_base + 2))")
nsqd_http=("$((port_base + 1))" "$((port_base + 3))")
lookupd_tcp=$((port_base + 10))
lookupd_http=$((port_base + 11))
cluster_pids=()

# start NAME COMMAND...: in the background, with its log in a file.
start() {
    local log=$cluster_data/$1.log
    "${@:2}" >"$log" 2>&1 &
    cluster_pids+=($!)
    say "$1: process $!, log in $log"
}

all_running() {
    local pid
    for pid in "${cluster_pids[@]}"; do
        kill -0 "$pid" 2>/dev/null || return 1
    done
}

# await NAME PORT: until its HTTP answers, or one of the programs has ended.
await() {
    local tries=0
    until curl -fs --max-time 1 "http://127.0.0.1:$2/ping" >/dev/null; do
        all_running || { stop_cluster; die "a program did not start: see its log"; }
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || { stop_cluster; die "$1 does not answer on port $2"; }
        sleep 0.1
    done
}

# Ends all programs, the last one first, and waits for each.
stop_cluster() {
    local index
    for ((index = ${#cluster_pids[@]} - 1; index >= 0; index--)); do
        kill -TERM "${cluster_pids[index]}" 2>/dev/null || true
        while kill -0 "${cluster_pids[index]}" 2>/dev/null; do
            # A signal to this script ends the wait early, not the program.
            wait "${cluster_pids[index]}" || true
        done
    done
    cluster_pids=()
}

print_cluster_help() {
    local folder=$1
    cat <<TEXT

  publish   curl -d 'hello world' 'http://127.0.0.1:${nsqd_http[0]}/pub?topic=test'
            seq 100000 | $folder/to_nsq -nsqd-tcp-address=127.0.0.1:${nsqd_tcp[1]} -topic=test
  read      $folder/nsq_tail -lookupd-http-address=127.0.0.1:$lookupd_http -topic=test
  keep      $folder/nsq_to_file -lookupd-http-address=127.0.0.1:$lookupd_http -topic=test -output-dir=$cluster_data/files
  watch     $folder/nsq_stat -lookupd-http-address=127.0.0.1:$lookupd_http -topic=test -channel=nsq_to_file
  look      curl 'http://127.0.0.1:$lookupd_http/lookup?topic=test'
  stop      Ctrl-C (everything accepted is kept)

TEXT
}

# An nsqlookupd and two nsqds on 127.0.0.1, until Ctrl-C or until one of them ends.
run_cluster() {
    local folder=$1 index status=0
    cluster_data=${RINGQ_CLUSTER_DATA:-data/cluster}
    mkdir -p "$cluster_data"
    trap 'trap "" INT TERM; echo; say "stopping"; stop_cluster; exit 0' INT TERM
    start nsqlookupd "$folder/nsqlookupd" --broadcast-address=127.0.0.1 \
        --tcp-address="127.0.0.1:$lookupd_tcp" --http-address="127.0.0.1:$lookupd_http"
    await nsqlookupd "$lookupd_http"
    for index in 0 1; do
        mkdir -p "$cluster_data/nsqd-$index"
        start "nsqd-$index" "$folder/nsqd" --data-path="$cluster_data/nsqd-$index" --broadcast-address=127.0.0.1 \
            --tcp-address="127.0.0.1:${nsqd_tcp[index]}" --http-address="127.0.0.1:${nsqd_http[index]}" \
            --lookupd-tcp-address="127.0.0.1:$lookupd_tcp"
    done
    for index in 0 1; do
        await "nsqd-$index" "${nsqd_http[index]}"
    done
    print_cluster_help "$folder"
    wait -n "${cluster_pids[@]}" || status=$?
    warn "one of the programs ended with status $status, stopping the others"
    stop_cluster
    exit 1
}
