# needs: nginx curl
# A web server with two workers: static files, ranges, keep-alive, a unix socket behind a proxy, reload, log.
mkdir -p www logs
head -c 3000000 /dev/zero | tr '\0' x >www/big
echo hello >www/index.html
cat >nginx.conf <<CONF
user $(id -un) $(id -gn);
worker_processes 2;
pid $PWD/pid;
error_log $PWD/logs/error.log notice;
events { worker_connections 128; }
http {
    access_log $PWD/logs/access.log;
    client_body_temp_path $PWD/body; proxy_temp_path $PWD/proxy; fastcgi_temp_path $PWD/fastcgi;
    uwsgi_temp_path $PWD/uwsgi; scgi_temp_path $PWD/scgi;
    sendfile on; tcp_nopush on; gzip on; gzip_min_length 1; gzip_types text/plain;
    server { listen 127.0.0.1:7080; listen [::1]:7080; root $PWD/www; location /app { proxy_pass http://unix:$PWD/app:/; } }
    server { listen unix:$PWD/app; location / { return 200 "from the application\n"; } }
}
CONF
chmod -R a+rX . ; chmod a+x .
nginx -p "$PWD" -c "$PWD/nginx.conf" -e "$PWD/logs/error.log" || exit 1
until curl -s -o index http://127.0.0.1:7080/; do sleep 0.05; done
cat index
curl -s 'http://[::1]:7080/big' | sha256sum
curl -s -r 10-19 http://127.0.0.1:7080/big; echo
curl -s --compressed http://127.0.0.1:7080/big | wc -c
curl -s http://127.0.0.1:7080/app
curl -s -o /dev/null -w '%{http_code} %{content_type}\n' http://127.0.0.1:7080/missing
curl -s -o /dev/null -o /dev/null -o /dev/null -w '%{num_connects}\n' http://127.0.0.1:7080/ http://127.0.0.1:7080/ \
    http://127.0.0.1:7080/
curl -s -Z --parallel-max 8 "http://127.0.0.1:7080/big?[1-16]" | wc -c
nginx -p "$PWD" -c "$PWD/nginx.conf" -e "$PWD/logs/error.log" -s reload
sleep 0.3
curl -s http://127.0.0.1:7080/
if command -v ab >/dev/null; then
    ab -q -k -n 1000 -c 8 http://127.0.0.1:7080/ 2>&1 | grep -E '^(Complete|Failed|Keep-Alive) requests'
fi
if command -v wrk >/dev/null; then
    wrk -t2 -c8 -d1s http://127.0.0.1:7080/ | grep -cE 'Socket errors|Non-2xx'
fi
nginx -p "$PWD" -c "$PWD/nginx.conf" -e "$PWD/logs/error.log" -s quit
while [ -e pid ]; do sleep 0.05; done
grep -cE '\[(alert|emerg|crit|error)\]' logs/error.log
grep -E '\[(alert|emerg|crit)\]' logs/error.log
true
