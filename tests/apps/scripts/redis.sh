# needs: redis-server redis-cli redis-benchmark
# A key-value server: commands, a pipeline, persistence across a restart, transactions, scripts, publish and subscribe.
set -u
port=7379
start() {
    redis-server --port $port --save '' --appendonly yes --daemonize yes --dir "$PWD" --logfile "$PWD/log" >/dev/null
    until redis-cli -p $port ping 2>/dev/null | grep -q PONG; do sleep 0.05; done
}
cli() { redis-cli -p $port "$@"; }
start
cli set greeting hello
cli get greeting
seq 500 | sed 's/.*/SET key:& value:&/' | cli | sort | uniq -c
cli get key:321
printf 'MULTI\nINCR n\nINCRBY n 41\nEXEC\n' | cli
cli eval 'return redis.call("get", KEYS[1])' 1 n
cli lpush list a b c
cli lrange list 0 -1
cli subscribe news >seen &
until [ "$(cli pubsub numsub news | tail -1)" = 1 ]; do sleep 0.05; done
cli publish news extra
cli client kill type pubsub
wait $! 2>/dev/null
cat seen
cli save
cli bgsave
cli shutdown nosave 2>/dev/null
start
cli dbsize
cli get n
cli config set unixsocket '' 2>&1 | head -c 3
echo
redis-benchmark -p $port -n 2000 -c 20 -q -t set,get,lpush -P 4 2>/dev/null | tr '\r' '\n' | grep -c 'requests per second'
cli shutdown 2>/dev/null
while cli ping >/dev/null 2>&1; do sleep 0.05; done
ls appendonlydir | wc -l
