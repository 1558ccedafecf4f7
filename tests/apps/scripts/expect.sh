# needs: expect
# expect's own ways: several programs at once, time-outs, interact with a program, a lost process.
cat >drive.exp <<'X'
set timeout 20
log_user 0
spawn -noecho cat; set first $spawn_id
spawn -noecho tr a-z A-Z; set second $spawn_id
send -i $first "to cat\r"; send -i $second "to tr\r\x04"
expect -i $second "TO TR" { puts "second answered" }
expect -i $first -re "to cat\r\nto cat" { puts "first answered" }
set timeout 1
expect -i $first "never" { puts "wrong" } timeout { puts "timed out" }
set timeout 20
exec kill -9 [exp_pid -i $first]
expect -i $first eof { puts "first ended" }
puts [lrange [wait -i $first] 2 end]
expect -i $second eof; puts [lindex [wait -i $second] 3]
spawn -noecho sh -c {stty -echo; printf "Password: "; read -r p; stty echo; echo; echo "secret of [printf %s "$p" | wc -c]"; }
expect "Password: "; send "hunter2\r"
expect eof; puts [string map {"\r" ""} $expect_out(buffer)]; wait
spawn -noecho sh -c {trap 'echo size $(stty size); exit 4' WINCH; echo ready; while :; do sleep 0.05; done}
expect ready; stty rows 30 columns 100 < $spawn_out(slave,name)
expect -re {size (\d+ \d+)} { puts $expect_out(1,string) }
expect eof; puts [lindex [wait] 3]
X
expect drive.exp; echo "status $?"
cat >pipe.exp <<'X'
log_user 0
for {set i 0} {$i < 20} {incr i} { spawn -noecho sh -c "echo run $i"; expect eof; puts -nonewline [lindex [wait] 3] }
puts ""
X
expect pipe.exp
