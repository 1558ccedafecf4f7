# needs: socat
# Relays: TCP, UDP, unix sockets of every kind, a pseudo-terminal, a program, half-close.
wait_for() { until [ -e "$1" ]; do sleep 0.02; done; }
socat TCP-LISTEN:7101,reuseaddr,fork EXEC:'tr a-z A-Z' & a=$!
socat UNIX-LISTEN:s,fork TCP:127.0.0.1:7101 & b=$!
wait_for s
until echo x | socat - TCP:127.0.0.1:7101 2>/dev/null | grep -q X; do sleep 0.05; done
echo through both | socat - UNIX-CONNECT:s
for i in 1 2 3 4 5 6; do seq 20000 | socat -t 10 - UNIX-CONNECT:s | sha256sum & jobs="$jobs $!"; done; wait $jobs
socat UDP4-RECVFROM:7102,fork EXEC:cat & c=$!
until echo ping | socat -t 1 - UDP4:127.0.0.1:7102 2>/dev/null | grep ping; do sleep 0.05; done
socat -u UNIX-RECV:d OPEN:got,creat & d=$!
wait_for d; echo gram | socat - UNIX-SENDTO:d; until [ -s got ]; do sleep 0.02; done; cat got
socat ABSTRACT-LISTEN:name EXEC:'echo abstract' & e=$!
until socat - ABSTRACT-CONNECT:name 2>/dev/null; do sleep 0.05; done
socat TCP6-LISTEN:7103,reuseaddr EXEC:'echo six' & f=$!
until socat - 'TCP6:[::1]:7103' 2>/dev/null; do sleep 0.05; done
socat -t 5 - EXEC:'sh -c "tty; stty size"',pty,setsid,ctty </dev/null | sed 's/[0-9]/N/' | tr -d '\r'
socat PTY,link=line,raw,echo=0 EXEC:'cat' & g=$!
wait_for line; (exec 3<>line; echo over a line >&3; head -1 <&3)
kill $a $b $c $d 2>/dev/null; wait $a $b $c $d $e $f
kill $g 2>/dev/null; wait $g; echo end
