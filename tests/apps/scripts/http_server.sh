# needs: python3 curl
# curl against Python's web server: files, a listing, an upload refused, many at once.
mkdir -p www; for i in $(seq 40); do echo "file $i" >www/f$i; done; head -c 1000000 /dev/zero >www/zeros
/usr/bin/python3 -u -m http.server -d www -b 127.0.0.1 7081 >log 2>&1 & server=$!
until curl -s -o /dev/null http://127.0.0.1:7081/; do sleep 0.05; done
curl -s http://localhost:7081/f7
curl -s http://127.0.0.1:7081/ | grep -c href
curl -s http://127.0.0.1:7081/zeros | sha256sum
curl -s -o /dev/null -w '%{http_code}\n' -T log http://127.0.0.1:7081/up
curl -s -Z "http://127.0.0.1:7081/f[1-40]" | sort | sha256sum
curl -s -o /dev/null -w '%{http_code} %{exitcode}\n' http://127.0.0.1:7082/
kill $server; wait $server; echo "status $?"
