# needs: chromium python3 curl
# user: 1000
# slow: on a busy machine the browser gives up its own zygote, natively too
# A browser with its own sandbox of namespaces and filters, a page from a server on loopback, and its debugging port.
trap 'kill $(jobs -p) 2>/dev/null' EXIT  # nothing may hold the ports after a failure
mkdir -p www; cd www
cat >index.html <<'H'
<html><head><title>loading</title></head><body><img src="dot.svg" onload="this.dataset.width = this.naturalWidth"><script>
(async () => {
    const data = await (await fetch('data.json')).json();
    const worker = new Worker('worker.js');
    worker.onmessage = event => { document.title = 'sum ' + event.data; };
    worker.postMessage(data);
})();
</script></body></html>
H
echo '[1, 2, 39]' >data.json
echo 'onmessage = event => postMessage(event.data.reduce((a, b) => a + b));' >worker.js
echo '<svg xmlns="http://www.w3.org/2000/svg" width="7" height="5"/>' >dot.svg
python3 -u -m http.server --bind 127.0.0.1 7875 >../requests 2>&1 & server=$!
until curl -s -o /dev/null http://127.0.0.1:7875/; do sleep 0.05; done
cd ..
options="--headless --disable-gpu --no-first-run --disable-dev-shm-usage"
timeout 90 chromium $options --user-data-dir=$PWD/first --virtual-time-budget=5000 --dump-dom http://127.0.0.1:7875/ 2>log |
    grep -o 'data-width="7"'  # the worker may answer too late for the time that the browser makes up
grep -oE '"GET /[a-z.]* HTTP/1.1" [0-9]+' requests | grep -v favicon | sort -u
start() { chromium $options --user-data-dir=$PWD/profile --remote-debugging-port=7222 http://127.0.0.1:7875/ 2>>log & browser=$!; }
start
until curl -s http://127.0.0.1:7222/json | grep -q '"title": "sum 42"'; do
    kill -0 $browser 2>/dev/null || start  # on a busy machine it gives up on its own zygote
    sleep 0.2
done
# How the page's process is confined: its filter, privileges and depth of pid namespaces.  Others may just be starting.
for folder in /proc/[0-9]*; do
    { tr '\0' ' ' <$folder/cmdline; } 2>/dev/null | grep -q -e "--type=renderer .*--user-data-dir=$PWD/profile" || continue
    echo "renderer $(grep -E '^(NoNewPrivs|Seccomp|CapEff):' $folder/status | tr -s '\t\n' '  ')" \
        "$(awk '$1 == "NStgid:" { print NF - 1 }' $folder/status)"
done 2>/dev/null | grep 'Seccomp: 2' | sort -u
kill $browser; wait $browser; echo "browser ended"  # of the signal, or in time to say that all is well
kill $server; wait $server; echo "server $?"
