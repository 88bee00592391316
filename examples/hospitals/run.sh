#!/usr/bin/env bash
# A server and four hospitals as processes of their own on this machine, from nothing: keys, server, four parties, the result.
#   SECUREFL_DATA=DIR examples/hospitals/run.sh [FOLDER]      FOLDER (default: a new one) holds keys, logs and the model afterwards
# Between machines each hospital makes its own keys (docs/deployment.md); here one command makes all.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$(mktemp -d)}
port=${PORT:-0}
hospitals=(cleveland hungarian switzerland va)
securefl=${SECUREFL:-securefl}
mkdir -p "$folder/logs"
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT

"$securefl" keys try "$folder/keys" "${hospitals[@]}"
"$securefl" serve --job "$here/job.toml" --keys "$folder/keys/server" --listen "127.0.0.1:$port" --out "$folder/result" \
  2>"$folder/logs/server.log" &
server=$!
until listening=$(grep -m1 '"event": *"listening"' "$folder/logs/server.log"); do
  kill -0 $server 2>/dev/null || { cat "$folder/logs/server.log" >&2; exit 1; }
  sleep 0.2
done
port=$(sed -E 's/.*"port": *([0-9]+).*/\1/' <<<"$listening")

parties=()
for name in "${hospitals[@]}"; do
  "$securefl" join --server "localhost:$port" --keys "$folder/keys/$name" --data heart --site "$name" \
    --job "$here/job.toml" --policy "$here/policy.toml" 2>"$folder/logs/$name.log" &
  parties+=($!)
done
code=0 finished=0
for process in "${parties[@]}"; do wait "$process" && finished=$((finished + 1)) || code=$?; done
if [ $finished = 0 ]; then kill $server 2>/dev/null || true; fi # it would wait for parties that do not come
wait $server || { ended=$?; [ $code != 0 ] || code=$ended; }
if [ $code != 0 ]; then tail -n 3 "$folder"/logs/*.log >&2; exit $code; fi

"$securefl" status --keys "$folder/keys/server"
echo "model and rounds: $folder/result; logs: $folder/logs"
