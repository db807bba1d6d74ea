#!/bin/sh
# Two hosts, two agents and a hub on one machine: two network namespaces with a cable between them.
# As root, from the root of the source:  sh examples/two-hosts.sh
# It makes the namespaces phalanx-a and phalanx-b, and takes them away at the end.
set -eu

phalanx=${PHALANX:-target/release/phalanx}
[ -x "$phalanx" ] || { echo "build it first: cargo build --release" >&2; exit 1; }
phalanx=$(realpath "$phalanx")
folder=$(mktemp -d)
pids=

finish() {
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    for pid in $pids; do wait "$pid" 2>/dev/null || true; done
    ip netns del phalanx-a 2>/dev/null || true
    ip netns del phalanx-b 2>/dev/null || true
    rm -rf "$folder"
}
trap finish EXIT
trap 'exit 1' INT TERM

# Waits until a line of a log holds a text.
await() {
    for _ in $(seq 300); do
        if grep -q "$2" "$folder/$1.log" 2>/dev/null; then return; fi
        sleep 0.1
    done
    cat "$folder/$1.log" >&2
    exit 1
}

ip netns add phalanx-a
ip netns add phalanx-b
ip link add cable netns phalanx-a type veth peer name cable netns phalanx-b
ip -n phalanx-a address add 10.99.0.1/24 dev cable
ip -n phalanx-b address add 10.99.0.2/24 dev cable
for namespace in phalanx-a phalanx-b; do
    ip -n "$namespace" link set lo up
    ip -n "$namespace" link set cable up
done

echo "# a hub in phalanx-b"
"$phalanx" hub init --dir "$folder/hub" --name 10.99.0.2
ip netns exec phalanx-b "$phalanx" hub --dir "$folder/hub" --listen 127.0.0.1:7070 \
    2>"$folder/hub.log" &
pids="$pids $!"
await hub "hub: agents at"

for host in a b; do
    echo "# an agent in phalanx-$host"
    token=$("$phalanx" hub token --dir "$folder/hub" --host "$host" | grep -o 'phalanx-token-1[^ ]*')
    ip netns exec "phalanx-$host" "$phalanx" agent enroll --dir "$folder/$host" --token "$token"
    ip netns exec "phalanx-$host" "$phalanx" agent --dir "$folder/$host" -i cable \
        --listen 127.0.0.1:7170 2>"$folder/$host.log" &
    pids="$pids $!"
    await "$host" "watching;"
    await "$host" "the hub listens"
done

for _ in $(seq 100); do
    hops=$(ip netns exec phalanx-b curl -s http://127.0.0.1:7070/api/v1/hops)
    case $hops in *'"host":"b"'*) break ;; esac
    sleep 0.1
done

echo "# a capture on both, asked for at the hub; it ends by itself"
ip netns exec phalanx-b "$phalanx" capture --hops a,b --duration 8s -w "$folder/path.pcapng" \
    --report "$folder/report.txt" tcp port 8080 2>"$folder/capture.log" &
capture=$!
await capture "capture .* on a:cable"

echo "# a download from a to b"
mkdir "$folder/www"
head -c 1000000 /dev/zero >"$folder/www/file"
ip netns exec phalanx-b python3 -m http.server --directory "$folder/www" 8080 \
    >"$folder/http.log" 2>&1 &
pids="$pids $!"
for _ in $(seq 50); do
    if ip netns exec phalanx-a curl -sf -o /dev/null http://10.99.0.2:8080/file; then break; fi
    sleep 0.1
done

echo "# one conversation at two hops: what lies between, from one report"
wait "$capture" || { cat "$folder/capture.log" >&2; exit 1; }
cat "$folder/report.txt"

echo "# what the hub knows: the agents, and one conversation with two hops"
ip netns exec phalanx-b curl -s http://127.0.0.1:7070/api/v1/agents
echo
ip netns exec phalanx-b curl -s 'http://127.0.0.1:7070/api/v1/conversations?port=8080'
echo
