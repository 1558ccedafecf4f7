# needs: memcached socat
# A cache with four threads: text commands, expiry, 8 clients at a time.
memcached -u "$(id -un)" -p 7211 -l 127.0.0.1 -t 4 &
server=$!
until printf 'version\r\nquit\r\n' | socat - TCP:127.0.0.1:7211 2>/dev/null | grep -q VERSION; do sleep 0.05; done
printf 'set a 5 0 5\r\nhello\r\nget a\r\nappend a 0 0 2\r\n!!\r\nget a\r\ndelete a\r\nget a\r\nquit\r\n' |
    socat -t 5 - TCP:127.0.0.1:7211
for client in 1 2 3 4 5 6 7 8; do
    (for key in $(seq 50); do printf 'set %s.%s 0 0 4\r\nabcd\r\n' $client "$key"; done; printf 'quit\r\n') |
        socat -t 5 - TCP:127.0.0.1:7211 | sort | uniq -c &
    clients="$clients $!"
done
wait $clients
printf 'stats\r\nquit\r\n' | socat -t 5 - TCP:127.0.0.1:7211 | grep -E 'curr_items|cmd_set|get_misses'
kill $server
wait $server
echo "status $?"
