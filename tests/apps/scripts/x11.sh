# needs: Xvfb xdotool xprop xwd xdpyinfo xclock xev
# An X server and its clients over a unix socket and shared memory: windows, a picture of the screen, typed keys.
Xvfb :77 -screen 0 640x480x24 -nolisten tcp -noreset >server.log 2>&1 & server=$!
export DISPLAY=:77
until xdpyinfo >/dev/null 2>&1; do kill -0 $server || { cat server.log; exit 1; }; sleep 0.1; done
xdpyinfo | grep -E 'dimensions|number of screens|MIT-SHM|depth of root'
xprop -root -f GREETING 8s -set GREETING hello; xprop -root GREETING
xev -geometry 200x100+50+50 >events 2>&1 & client=$!
window=$(xdotool search --sync --onlyvisible --name 'Event Tester' | head -1)
xdotool getwindowgeometry "$window" | grep -o 'Geometry: .*'
xdotool windowfocus --sync "$window" mousemove --window "$window" 20 20 key a click 1
until grep -q 'ButtonRelease' events; do sleep 0.05; done
grep -E -o '^(KeyPress|KeyRelease|ButtonPress|ButtonRelease|MapNotify) event' events
grep -c 'keysym 0x61, a' events
xwd -root -silent | wc -c
xwd -name 'Event Tester' -silent | wc -c
kill $client; wait $client; xdotool search --name 'Event Tester' | wc -l
kill $server; wait $server; echo "server $?"
ls /tmp/.X11-unix/X77 2>&1 | grep -c 'No such'
