# needs: tmux
# A terminal multiplexer: windows, panes, keys, resizing, a program that draws, detaching, and an end with the last window.
export TERM=screen
shell='exec env "PS1=READY> " bash --norc'
t() { tmux -S socket -f /dev/null "$@"; }
pane() { t capture-pane -p -t "$1"; }
until_shows() { for _ in $(seq 600); do pane "$1" | grep -q -- "$2" && return; sleep 0.05; done; echo "no $2 in:"; pane "$1"; }
t new-session -d -s s -x 80 -y 24 "$shell"
until_shows s 'READY>'
t send-keys -t s 'stty size; tput cols; tty | grep -c pts' Enter; until_shows s '^24 80'; until_shows s '^1$'
t split-window -h -t s "$shell"; until_shows s.1 'READY>'; t send-keys -t s.1 'stty size; echo x >&2' Enter; until_shows s.1 '^24 39'
t resize-pane -t s.1 -x 20; t send-keys -t s.1 'clear; until stty size | grep "24 20"; do sleep 0.1; done' Enter; until_shows s.1 '^24 20'
t list-panes -t s -F '#{pane_width}x#{pane_height} #{pane_current_command}'
t new-window -t s: 'vi -u NONE text'; until_shows s:1 '~'
t send-keys -t s:1 i 'typed in vi' Escape ':wq' Enter
until [ -s text ]; do sleep 0.05; done; cat text
until [ "$(t list-windows -t s | wc -l)" = 1 ]; do sleep 0.05; done
t send-keys -t s.0 'clear; sleep 100' Enter; sleep 0.3; t send-keys -t s.0 C-z; until_shows s.0 'Stopped'
t send-keys -t s.0 'kill %1; clear; seq 1 500' Enter; until_shows s.0 '^500'; t capture-pane -p -S - -t s.0 | grep -c '^[0-9]*$'
script -qec 'tmux -S socket attach -t s' attached </dev/null >/dev/null & client=$!
until [ "$(t list-clients | wc -l)" = 1 ]; do sleep 0.05; done
t detach-client -s s; wait $client; echo "client $?"
t send-keys -t s.1 'exit' Enter; until [ "$(t list-panes -t s | wc -l)" = 1 ]; do sleep 0.05; done
t pipe-pane -t s.0 'cat >piped'; t send-keys -t s.0 'echo to the pipe' Enter; until [ "$(grep -c 'to the pipe' piped 2>/dev/null)" = 2 ]; do sleep 0.05; done
t kill-server; while t ls >/dev/null 2>&1; do sleep 0.05; done; echo end
