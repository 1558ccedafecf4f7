# needs: screen
# The older multiplexer: a detached session, a command sent to it, a picture of it, two windows.
export SCREENDIR=$PWD/screens TERM=xterm; mkdir -m 700 "$SCREENDIR"
printf 'startup_message off\nshell /bin/bash\n' >rc
screen -c rc -dmS test sh
until screen -ls 2>/dev/null | grep -q Detached; do sleep 0.05; done
screen -S test -X stuff 'stty size >size; echo "$STY" | grep -c test >name^M'
until [ -s name ]; do sleep 0.05; done; cat size name
screen -S test -X screen sh -c 'echo second >second; sleep 100'
until [ -s second ]; do sleep 0.05; done; cat second
screen -S test -p 0 -X stuff 'clear; echo shown^M'
for _ in $(seq 100); do screen -S test -p 0 -X hardcopy "$PWD/copy"; sleep 0.05; grep -q '^shown' copy 2>/dev/null && break; done
grep '^shown' copy
screen -S test -X quit; while screen -ls 2>/dev/null | grep -q Detached; do sleep 0.05; done; echo end
