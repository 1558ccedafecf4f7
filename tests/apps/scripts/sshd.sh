# needs: sshd ssh scp ssh-keygen
# A session over loopback: commands, status, standard input, a terminal, scp, sftp, a forwarded port.
[ "$(id -u)" != 0 ] || mkdir -p /run/sshd
ssh-keygen -q -t ed25519 -N '' -f host; ssh-keygen -q -t ed25519 -N '' -f key
cp key.pub authorized; chmod 600 authorized
cat >config <<CONF
Port 7022
ListenAddress 127.0.0.1
HostKey $PWD/host
AuthorizedKeysFile $PWD/authorized
StrictModes no
PidFile $PWD/pid
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
Subsystem sftp internal-sftp
CONF
/usr/sbin/sshd -f config -E log || { cat log; exit 1; }
opt="-i key -o StrictHostKeyChecking=no -o UserKnownHostsFile=known -o LogLevel=ERROR -o BatchMode=yes"
until [ -s pid ]; do sleep 0.05; done
run() { ssh $opt -p 7022 127.0.0.1 "$@"; }
run 'echo out; echo err >&2; exit 7'; echo "status $?"
seq 50000 | run 'sha256sum'
run -tt 'tty; stty size; stty -a | grep -o "[-]*icanon"' </dev/null | tr -d '\r' | sed 's/[0-9]/N/'
head -c 2000000 /dev/zero >file
scp -q $opt -P 7022 file "127.0.0.1:$PWD/copy" && cmp file copy && echo same
scp -q -O $opt -P 7022 file "127.0.0.1:$PWD/copy2" && cmp file copy2 && echo same
echo "ls -1 copy" | sftp -q $opt -P 7022 "127.0.0.1:$PWD" 2>&1 | tail -1 | xargs basename
ssh $opt -p 7022 -N -L 7023:127.0.0.1:7022 127.0.0.1 &
forward=$!
until ssh-keyscan -p 7023 127.0.0.1 2>/dev/null | grep -q ssh-ed25519; do sleep 0.05; done
ssh $opt -p 7023 127.0.0.1 'echo through'
kill $forward; wait $forward; echo "forward $?"
kill "$(cat pid)"; while [ -e pid ]; do sleep 0.05; done
echo stopped
