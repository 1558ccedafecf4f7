# needs: rsync
# A daemon on loopback: a push, a change, a pull with deletion, attributes.
mkdir -p src/sub module; for i in $(seq 60); do seq $i 300 >src/sub/f$i; done; ln -s sub/f1 src/link; ln src/sub/f2 src/hard
chmod 640 src/sub/f3; touch -d '2020-01-02 03:04:05' src/sub/f4
printf 'pid file = %s/pid\nlog file = %s/log\nuse chroot = no\nport = 7873\naddress = 127.0.0.1\n[m]\npath = %s/module\nread only = no\n' \
    "$PWD" "$PWD" "$PWD" >conf
[ "$(id -u)" != 0 ] || printf 'uid = root\ngid = root\n' >>conf
rsync --daemon --config=conf || exit 1
until [ -s pid ] && rsync rsync://127.0.0.1:7873/ 2>/dev/null | grep -q '^m'; do sleep 0.05; done
rsync -aH --stats src/ rsync://127.0.0.1:7873/m/ | grep -E '^Number of (files|created|regular)'
(cd module && find . -printf '%P %m %s %y %n %l\n' | grep -v '^ ' | sed 's/ d$/ d/' | grep -v ' d ' | sort | sha256sum; stat -c '%y' sub/f4)
seq 5 >src/sub/f9; touch -d '2021-01-01' src/sub/f9; rm src/sub/f10
rsync -aH -i --delete src/ rsync://127.0.0.1:7873/m/ | grep -v '/$'
rsync -az rsync://127.0.0.1:7873/m/ back/ && diff -r src back && echo same
kill "$(cat pid)"; while [ -e pid ]; do sleep 0.05; done; echo stopped
