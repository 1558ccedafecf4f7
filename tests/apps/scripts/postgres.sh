# needs: initdb pg_ctl psql pgbench
# user: 1000
# path: /usr/lib/postgresql/15/bin /usr/lib/postgresql/16/bin /usr/lib/postgresql/17/bin /usr/lib/postgresql/18/bin
# A database: initdb, four clients of pgbench, listen/notify, a crash of a backend and recovery, a fast shutdown.
initdb -D data -A trust -U me --no-sync -E UTF8 --locale=C >initdb.log 2>&1 || { cat initdb.log; exit 1; }
echo "initdb done"
pg_ctl -D data -w -l log -o "-p 7432 -k $PWD -c max_connections=20 -c shared_buffers=16MB" start >/dev/null || { cat log; exit 1; }
export PGHOST=127.0.0.1 PGPORT=7432 PGUSER=me PGDATABASE=postgres
psql -Atc 'select sum(n) from generate_series(1, 1000) n'
pgbench -i -q -s 1 >/dev/null 2>&1; psql -Atc 'select count(*) from pgbench_accounts'
pgbench -n -c 4 -j 2 -t 50 2>&1 | grep -E '^number of (transactions actually|failed)'
psql -h "$PWD" -Atc 'select count(*) from pgbench_history'
psql -Atc 'select sum(abalance) = (select sum(delta) from pgbench_history) from pgbench_accounts'
psql -Atc "listen news" -c "notify news, 'hello'" | sed 's/PID.*//'
psql -Atc "set max_parallel_workers_per_gather=2; set parallel_setup_cost=0; set parallel_tuple_cost=0; set min_parallel_table_scan_size=0; select count(*) from pgbench_accounts"
psql -Atc "begin; create table t(a int primary key, b text); insert into t select n, md5(n::text) from generate_series(1, 500) n; commit; select b from t where a = 77; vacuum analyze t"
psql -Atc 'select pg_cancel_backend(pg_backend_pid())' 2>&1 | head -1
psql -Atc 'select pg_sleep(30)' 2>&1 &
until psql -Atc "select pid from pg_stat_activity where query like '%sleep(30)%' and pid <> pg_backend_pid()" | grep -q .; do sleep 0.1; done
kill -9 "$(psql -Atc "select pid from pg_stat_activity where query like '%sleep(30)%' and pid <> pg_backend_pid()")"
wait $! ; echo "client $?"
until psql -Atc 'select 1' >/dev/null 2>&1; do sleep 0.1; done
psql -Atc 'select count(*) from t'
pg_ctl -D data -w -m fast stop | tail -1
grep -E 'PANIC|FATAL' log | sed 's/.*\(PANIC\|FATAL\)/\1/' | sort | uniq | grep -v 'in recovery mode\|starting up\|not yet accepting'
pg_controldata data | grep state
