# needs: expect
# bash on a terminal driven by expect: ^Z, fg, bg, jobs, disown, ^C, a background read and write, an orphan.
cat >drive.exp <<'X'
set timeout 30
log_user 0
proc want {pattern} { expect -re $pattern { puts "ok $pattern" } timeout { puts "MISSING $pattern"; exit 1 } eof { puts "EOF at $pattern"; exit 1 } }
# a message comes with the next prompt: ask for prompts until it is there
proc poll {pattern} {
    set timeout 1
    for {set i 0} {$i < 40} {incr i} { send "\r"; expect -re $pattern { puts "ok $pattern"; return } timeout {} }
    puts "MISSING $pattern"; exit 1
}
set env(PS1) "READY> "
spawn -noecho bash --norc --noediting
want "READY> "
send "sleep 100\r"; after 500; send "\x1a"; want {Stopped +sleep 100.*READY> }
send "bg\r"; want {\[1\]\+ sleep 100 &.*READY> }
send "jobs\r"; want {Running +sleep 100.*READY> }
send "fg\r"; want {sleep 100\r\n}
after 300; send "\x03"; want {READY> }
send "echo status \$?\r"; want {status 130\r\nREADY> }
send "cat &\r"; want {\[1\] \d+\r\n}
poll {Stopped +cat.*READY> }
send "fg\r"; want {cat\r\n}; send "typed\r"; want {typed\r\ntyped\r\n}; send "\x04"; want {READY> }
send "stty tostop; (echo written) &\r"; poll {Stopped.*READY> }
send "fg\r"; want {written\r\n.*READY> }
send "stty -tostop; sleep 200 & kept=\$!; sleep 300 & jobs -l | wc -l\r"; want {\n2\r\nREADY> }
send "disown %1; jobs | wc -l\r"; want {\n1\r\nREADY> }
send "kill %2; wait %2; echo done \$?\r"; want {done 143\r\n.*READY> }
send "vi_status() { (sleep 0.2; kill -STOP \$BASHPID; exit 5); }; vi_status\r"; want {Stopped.*READY> }
send "fg; echo then \$?\r"; want {then 5\r\nREADY> }
send "yes | head -n 100000 | sleep 100\r"; after 500; send "\x1a"; want {Stopped.*READY> }
send "kill -9 %+; wait; echo gone\r"; want {gone\r\n.*READY> }
send "set -m; sleep 0.3 & wait \$!; echo \$?\r"; want {\n0\r\n.*READY> }
send "sleep 500 | cat\r"; after 300; send "\x1c"; want {Quit.*READY> }
send "ps -o stat=,comm= --ppid \$\$ | grep -c sleep\r"; want {\n1\r\nREADY> }
send "kill \$kept; exit 3\r"; expect { -re {There are.*READY> } { send "exit 3\r"; exp_continue } eof {} }
puts "exit [lindex [wait] 3]"
X
expect drive.exp; echo "status $?"
