# needs: expect vim nano less htop top script
# Full-screen programs on a terminal: keys arrive, files are written, the screen is given back.
export TERM=xterm LINES=24 COLUMNS=80
seq 300 >numbers
cat >drive.exp <<'X'
set timeout 30
log_user 0
set stty_init "rows 24 columns 80"
proc want {pattern} { expect -re $pattern { puts "ok $pattern" } timeout { puts "MISSING $pattern"; exit 1 } eof { puts "EOF at $pattern"; exit 1 } }
proc end {} { expect eof; puts "exit [lindex [wait] 3]" }
spawn -noecho vim -u NONE -N a.txt; want {a.txt.*\[New}
send "ihello vim\x1b"; send ":%s/hello/goodbye/\r"; send "yyp:r !seq 3\r"; want {3}
send ":wq\r"; end
spawn -noecho nano -I b.txt; want {New File|GNU nano}; send "typed in nano\x0f"; want {Write to File|Name to Write}; send "\r"; want {Wrote 1 line}; send "\x18"; end
spawn -noecho less -X numbers; want {22\r\n}; send "G"; want {300}; send "?^150\r"; want {150}; send "!echo from a shell\r"; want {from a shell}; send "\r"; send "q"; end
spawn -noecho less +F growing; want {one}; exec sh -c "echo two >>growing"; want {two}; send "\x03"; after 200; send "q"; end
spawn -noecho htop -d 5; want {Tasks}; want {PID}; send "q"; end
spawn -noecho top -d 0.3; want {load average}; want {%Cpu}; want {load average}; send "q"; end
spawn -noecho watch -n 0.2 date +%s; want {Every 0.2s}; want {\d\d\d}; send "\x03"; end
spawn -noecho script -q -c "sh -c 'tty; stty size; read x; echo got \$x'" typescript; want {24 80}; send "input\r"; want {got input}; end
spawn -noecho more numbers; want {--More--}; send " "; want {--More--}; send "q"; end
spawn -noecho python3 -q; want {>>> }; send "1+1\r"; want {2\r\n}; send "import os; os.getppid() > 0\r"; want {True\r\n}; want {>>> }; after 300; send "\x04"; end
X
echo one >growing
expect drive.exp; echo "status $?"
cat a.txt b.txt; sed 1d typescript | grep -c 'got input'
